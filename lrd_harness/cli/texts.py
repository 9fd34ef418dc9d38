"""Studies on one's own inputs: `select`, `compare`, `probe`, `layer`, `prune`, `states`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

from lrd_harness import errors, manager
from lrd_harness.cli.arguments import COMMAND_LINE, names, parameters_of, show, typed_settings
from lrd_harness.errors import UserError, tell
from lrd_harness.progress import Display
from lrd_harness.report import Report
from lrd_harness.studies.study import Study


def _study(arguments: argparse.Namespace, metrics: Sequence[str]) -> Study:
    """What was typed, resolved. metrics: the names that were."""
    return Study(
        arguments.command,
        manager.load(),
        texts=arguments.texts,
        images=getattr(arguments, "images", None),
        task=arguments.task,
        metrics=names(metrics),
        parameters=parameters_of(getattr(arguments, "set", ())),
        settings=typed_settings(arguments),
        output=arguments.output,
        draws=getattr(arguments, "draws", None),
        seed=getattr(arguments, "seed", None),
        display=Display(quiet=arguments.quiet),
        where=COMMAND_LINE,
    )


def _finish(study: Study, report: Report) -> int:
    """Print the report and its errors, write NAME.csv and NAME.json. Returns the exit code."""
    if report.shown or report.answer or report.notes:
        show(replace(report, errors=()), study.plugins)
    for fault in report.errors:
        tell(f"error: {fault}")
    study.write(report)
    if study.output is not None:
        name = study.kind
        study.display.line(f"\nAll of it is in {study.output}: {name}.csv, {name}.json")
    return 1 if report.errors else 0


def select_command(arguments: argparse.Namespace) -> int:
    """Rank models on the texts. Returns the exit code."""
    study = _study(arguments, arguments.plugins)
    return _finish(study, study.select(arguments.models))


def compare_command(arguments: argparse.Namespace) -> int:
    """Compare two models layer by layer. Returns the exit code."""
    study = _study(arguments, arguments.plugins)
    return _finish(study, study.compare(arguments.a, arguments.b))


def probe_command(arguments: argparse.Namespace) -> int:
    """Measure a model on texts that are changed step by step. Returns the exit code."""
    steps = _steps(arguments)
    study = _study(arguments, arguments.plugins)
    return _finish(study, study.probe(arguments.model, arguments.kind, steps))


def _steps(arguments: argparse.Namespace) -> list[float] | None:
    """The shares or lengths that were typed. Raises UserError for those of the other kind."""
    long = arguments.kind == "length"
    if (arguments.shares if long else arguments.lengths) is not None:
        option, other = ("--shares", "repetition or random") if long else ("--lengths", "length")
        raise UserError(f"{option} needs --kind {other}")
    if long:
        return _numbers(arguments.lengths, "--lengths", "8,16,64", errors.TOKENS)
    return _numbers(arguments.shares, "--shares", "0,0.5,1", errors.COUNT)


def _numbers(typed: str | None, option: str, example: str, most: int) -> list[float] | None:
    """Numbers as 0,0.5,1, ascending and each once; None for none. Raises UserError for others."""
    if typed is None:
        return None
    try:
        numbers = sorted({float(part) for part in typed.split(",")})
    except ValueError:
        numbers = []
    if not numbers or not all(abs(number) < float("inf") for number in numbers):
        raise UserError(f"{option} {typed:.60}: not numbers such as {example}")
    if len(numbers) > errors.STEPS:
        count = f"{len(numbers):,} numbers"
        raise UserError(f"{option}: {count}; at most {errors.STEPS:,} are possible")
    if numbers[-1] > most:
        raise UserError(f"{option} {numbers[-1]:g}: at most {most:,} is possible")
    return [int(number) if number.is_integer() else number for number in numbers]


def layer_command(arguments: argparse.Namespace) -> int:
    """Take a layer, save the model cut there. Returns the exit code."""
    study = _study(arguments, arguments.plugins)
    return _finish(study, study.layer(arguments.model, names(arguments.by), arguments.save))


def prune_command(arguments: argparse.Namespace) -> int:
    """Take blocks out of a model and save what is left. Returns the exit code."""
    study = _study(arguments, ())
    report = study.prune(
        arguments.model,
        rule=arguments.rule,
        budget=arguments.budget,
        blocks=arguments.blocks,
        protect=arguments.protect,
        text_samples=arguments.text_samples,
        save_to=arguments.save,
        mergekit=arguments.save_mergekit,
        scores=arguments.scores,
    )
    return _finish(study, report)


def states_command(arguments: argparse.Namespace) -> int:
    """Write pooled states of the texts to a file. Returns the exit code."""
    file, arguments.output = arguments.output, None  # a file, where other studies have a folder
    study = _study(arguments, ())
    return _finish(study, study.states(arguments.model, file))
