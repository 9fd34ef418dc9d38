"""`lrd-harness select`, `compare`, `probe`, `layer`, `prune`: studies on one's own texts."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lrd_harness import errors
from lrd_harness.cli.arguments import COMMAND_LINE, load, names, parameters_of, show, typed_settings
from lrd_harness.errors import UserError, tell
from lrd_harness.models import save
from lrd_harness.planning import suite
from lrd_harness.progress import Display
from lrd_harness.report import Report
from lrd_harness.store.files import write_text
from lrd_harness.studies import fidelity, prune
from lrd_harness.studies.prune import Shrinking, Wish
from lrd_harness.studies.study import Study
from lrd_harness.studies.values import Design


def _study(arguments: argparse.Namespace, metrics: Sequence[str]) -> Study:
    """What was typed, resolved. metrics: the names that were."""
    return Study(
        arguments.command,
        load(arguments),
        texts=arguments.texts,
        task=arguments.task,
        metrics=names(metrics),
        parameters=parameters_of(arguments.set),
        settings=typed_settings(arguments),
        output=arguments.output,
        draws=getattr(arguments, "draws", None),
        seed=getattr(arguments, "seed", 0) or 0,
        display=Display(quiet=arguments.quiet),
        where=COMMAND_LINE,
    )


def _finish(study: Study, report: Report) -> int:
    """Print the report and its errors, write NAME.csv and NAME.json. Returns the exit code."""
    if report.shown or report.notes:
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
    """Choose a layer on the texts, save the model cut there. Returns the exit code."""
    output = arguments.save
    if output is not None:
        save.check_free(output)
    metrics = names([*arguments.by, *arguments.plugins])
    study = _study(arguments, metrics)
    if "all" in metrics:
        metrics = [metric.name for metric in study.plugins.all("metric") if metric.layer_choice]
    items = study.needed(metrics)
    prune.check_choosing(items)
    study.check_output(prune.COLUMNS)
    (model,) = study.models(arguments.model)
    design = study.design(items)
    study.plugins.tell()
    prune.check_texts(design)
    opened = Shrinking(fidelity.with_head(model) if output else model, study.display)
    report = prune.choose_layer(opened, design)
    code = _finish(study, report)
    choice = next(iter(report.table("choices").rows), None)
    if choice is None:
        raise UserError(f"no metric has chosen a layer{', so nothing was saved' if output else ''}")
    if output is None:
        return code
    number, metric, blocks = choice["layer"], choice["metric"], opened.blocks
    source = Path(arguments.texts).name if arguments.texts else design.task.name
    pruned = opened.report(range(number + 1, blocks + 1), None, None, None)
    shrunk = opened.shrink(replace(pruned, metric=metric, texts=source), design, output)
    before, after = (count / 1e6 for count in pruned.parameters)
    what = f"blocks 1-{number} of {blocks}, {before:,.1f} to {after:,.1f} million parameters"
    whole = f"the whole model, since {metric} chooses its last layer"
    print(f"Saved to {output}: {what if number < blocks else whole}.")
    if shrunk.fidelity:
        found = shrunk.fidelity
        show(Report("", (found.table("fidelity"),), answer=(found.answer,)), study.plugins)
    for note in shrunk.notes:
        print(f"Note: {note}.")
    return code


def prune_command(arguments: argparse.Namespace) -> int:
    """Take blocks out of a model and save what is left. Returns the exit code."""
    by_rule, output, file = arguments.rule is not None, arguments.save, arguments.save_mergekit
    if by_rule == (arguments.blocks is not None):
        raise UserError("give either --rule with --budget, or --blocks")
    if by_rule and arguments.budget is None:
        raise UserError("--rule needs a --budget, as 0.15")
    for name in ("budget", "seed", "protect"):
        if not by_rule and getattr(arguments, name) is not None:
            raise UserError(f"--{name} needs --rule")
    if output is not None:
        save.check_free(output)
    if file is not None:
        _check_new(file, output)
    study = _study(arguments, ())
    study.check_output([column.name for column in fidelity.COLUMNS])
    which = _wish(study, arguments) if by_rule else arguments.blocks
    design, missing = _compared(study, which)
    study.plugins.tell()
    (model,) = study.models(arguments.model)
    source = Path(arguments.texts).name if arguments.texts else None
    more = {"output": output, "texts": source, "run": arguments.scores}
    report = prune.prune(model, which, design, study.display, **more)
    print(report.title)
    _finish(study, replace(report, title="", notes=()))
    if output is not None:
        print(f"saved to {output}")
    for note in (*missing, *report.notes):
        print(f"note: {note}")
    if file is not None:
        checkpoint, removed = model.checkpoint, report.facts["removed"]
        origin = f"{checkpoint.path}@{checkpoint.revision}" if checkpoint.hub else checkpoint.path
        config = checkpoint.config
        dtype = config.get("dtype") or config.get("torch_dtype") or "float32"
        write_text(file, save.mergekit(origin, report.facts["blocks"], removed, str(dtype)))
        print(f"mergekit configuration in {file}")
    return 0


def _compared(study: Study, which: Wish | str) -> tuple[Design | None, list[str]]:
    """The texts on which a pruned model is compared with the whole one; a note without any.

    Raises UserError for texts that were named and are out of reach.
    """
    if isinstance(which, Wish) and which.design is not None:
        return which.design, []
    try:
        return study.design(()), []
    except UserError as error:
        if study.named:
            raise
        return None, [f"it is not compared with the original, for want of texts: {error}"]


def _check_new(file: Path, output: Path | None) -> None:
    """Raise UserError unless the file can be written beside what else is."""
    if file.exists():
        raise UserError(f"{file} is there already")
    if not os.access(file.absolute().parent, os.W_OK):
        raise UserError(f"{file}: its folder is not there, or cannot be written to")
    if output is not None and output.absolute() in (file.absolute(), *file.absolute().parents):
        raise UserError(f"{file} and --save {output} are in each other's way")


def _wish(study: Study, arguments: argparse.Namespace) -> Wish:
    """Which blocks the rule that was typed is to choose."""
    rule = study.plugins.get("pruning rule", arguments.rule)
    limits = {"protect": arguments.protect, "budgets": arguments.budget}
    pruning = suite.pruning(limits, COMMAND_LINE)
    design = study.design(study.needed(rule.metrics)) if study.named else None
    return Wish(rule, arguments.budget, design, study.seed, pruning)
