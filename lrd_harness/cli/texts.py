"""`lrd-harness select`, `compare`, `probe`, `layer`, `prune`: studies on one's own texts."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lrd_harness import errors
from lrd_harness.blocks import written
from lrd_harness.capture.samples import Questions, Sampling
from lrd_harness.cli.arguments import COMMAND_LINE, load, names, parameters_of, show, typed_settings
from lrd_harness.cli.options import TASK, TEXTS
from lrd_harness.errors import UserError, tell
from lrd_harness.models import save
from lrd_harness.models.cut import parse_blocks
from lrd_harness.models.save import Pruned
from lrd_harness.planning import resolve, suite
from lrd_harness.planning.parameters import resolve_metrics
from lrd_harness.planning.resolve import PlannedModel
from lrd_harness.planning.suite import ModelEntry, Suite
from lrd_harness.progress import Display
from lrd_harness.report import Report
from lrd_harness.runner import folder
from lrd_harness.runner.loop import BATCH_TOKENS
from lrd_harness.store.files import write_text
from lrd_harness.studies import compare, probe, prune, select, values
from lrd_harness.studies.prune import Shrinking, Wish
from lrd_harness.studies.values import Design


class Study:
    """What was typed, resolved and checked; usual: settings where none were typed.

    Raises UserError for settings of a wrong kind, and for options that do not go together.
    """

    def __init__(self, arguments: argparse.Namespace, **usual: Any) -> None:
        self.arguments, self.display = arguments, Display(quiet=arguments.quiet)
        self.draws, self.seed = getattr(arguments, "draws", 0), getattr(arguments, "seed", 0) or 0
        if arguments.text_column is not None and not arguments.texts:
            raise UserError("--text-column needs --texts")
        errors.check_whole(self.seed, "--seed", 0, errors.SEED)
        errors.check_whole(max(0, self.draws), "--draws", 0, errors.DRAWS)
        self.plugins = load(arguments)
        typed = {**usual, **typed_settings(arguments)}
        typed.pop("layers", None)  # of `prune`, where these are blocks
        self.settings = suite.settings(typed, COMMAND_LINE)
        resolve.check_settings(self.settings)

    def models(self, *typed: str) -> list[PlannedModel]:
        """Models by the names that were typed. Raises UserError for one that is not found."""
        how = {"pooling": self.arguments.pooling, "max_length": self.arguments.max_length}
        known = self.settings, self.plugins, self.display.stage
        return [resolve.resolve_model(ModelEntry(name, **how), *known) for name in typed]

    def design(
        self, task: str, metrics: tuple[str, ...] | None, parameters: Sequence[str] = ()
    ) -> Design:
        """What is measured: metrics, None for all that need no views, on the texts of a task.

        Raises UserError for names that there are not, and for texts out of reach.
        """
        settings = self.settings
        chosen = Suite("texts", (), (task,), metrics, parameters_of(parameters), settings)
        items = resolve_metrics(chosen, self.plugins)
        tasks = resolve.resolve_tasks(chosen, self.plugins)
        if len(tasks) != 1:
            some = ", ".join(task.name for task in tasks[:3])
            raise UserError(f"--task stands for {len(tasks)} tasks ({some} ...): name one of them")
        checked = resolve.checked_task(tasks[0], self.display.stage)
        # where that is no option, all texts get views
        views = settings.view_texts if hasattr(self.arguments, "view_texts") else settings.max_texts
        device = resolve.device(settings)
        how = Questions(settings.max_texts), Sampling(settings.norm, views, device)
        batch_tokens = BATCH_TOKENS.get(device.split(":")[0], 4096)  # as in a run
        return Design(checked, items, *how, self.draws, self.seed, batch_tokens)

    def check_output(self, name: str, columns: Sequence[str]) -> None:
        """Make the folder of --output. Raises UserError where NAME.csv cannot be written there."""
        if self.arguments.output is not None:
            values.check_free(self.arguments.output, name, columns)
            folder.make(self.arguments.output)

    def finish(self, report: Report, name: str) -> int:
        """Print the report and its errors, write NAME.csv and NAME.json. Returns the exit code."""
        if report.shown or report.notes:
            show(replace(report, errors=()), self.plugins)
        for fault in report.errors:
            tell(f"error: {fault}")
        output = getattr(self.arguments, "output", None)
        if output is not None:
            values.write(output, name, report)
            self.display.line(f"\nAll of it is in {output}: {name}.csv, {name}.json")
        return 1 if report.errors else 0


def _study(
    arguments: argparse.Namespace, named: Sequence[str], usual: Sequence[str] | None = None
) -> tuple[Study, Design]:
    """Resolve all but the models.

    named: the metrics that were named; usual: those where none are, None for all that need no
    views; "all" are these too.
    """
    if arguments.texts and arguments.task:
        raise UserError("give either --texts or --task")
    study = Study(arguments, max_texts=TEXTS[arguments.command])
    metrics: tuple[str, ...] | None = tuple(names(named))
    if not metrics and usual is not None:
        metrics = tuple(name for name in usual if name in study.plugins.names("metric"))
    elif metrics in ((), ("all",)):
        metrics = None
    task = f"texts:{arguments.texts}" if arguments.texts else arguments.task or TASK
    design = study.design(task, metrics, arguments.set)
    if not design.items:
        raise UserError("no metrics: name some with --plugins")
    study.plugins.tell()
    return study, design


def select_command(arguments: argparse.Namespace) -> int:
    """Rank models on the texts. Returns the exit code."""
    usual = [m.name for m in load(arguments).all("metric") if m.selection is not None]
    study, design = _study(arguments, arguments.plugins, usual)
    models = resolve.distinct(study.models(*arguments.models))
    select.check(models, design.items)
    study.check_output("select", select.COLUMNS)
    return study.finish(select.select(models, design, study.display), "select")


def compare_command(arguments: argparse.Namespace) -> int:
    """Compare two models layer by layer. Returns the exit code."""
    study, design = _study(arguments, arguments.plugins)
    a, b = study.models(arguments.a, arguments.b)
    if a.checkpoint.path != b.checkpoint.path:  # one model may be compared as two adapters read it
        a, b = resolve.distinct([a, b])
    study.check_output("compare", compare.COLUMNS)
    return study.finish(compare.compare(a, b, design, study.display), "compare")


def probe_command(arguments: argparse.Namespace) -> int:
    """Measure a model on texts that are changed step by step. Returns the exit code."""
    kind = arguments.kind
    probe.check(kind, [])
    steps = _steps(arguments)
    study, design = _study(arguments, arguments.plugins, probe.USUAL)
    probe.check(kind, design.items)
    (model,) = study.models(arguments.model)
    study.check_output("probe", probe.COLUMNS)
    return study.finish(probe.study(model, design, kind, steps, study.display), "probe")


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
    metrics = names(arguments.by)
    if "all" in metrics:
        metrics = [metric.name for metric in load(arguments).all("metric") if metric.layer_choice]
    study, design = _study(arguments, metrics)
    prune.check_choosing(design)
    (model,) = study.models(arguments.model)
    opened = Shrinking(model, study.display)
    report = prune.choose_layer(opened, design)
    code = study.finish(report, "layer")
    choice = next(iter(report.table("choices").rows), None)
    if choice is None:
        raise UserError(f"no metric has chosen a layer{', so nothing was saved' if output else ''}")
    if output is None:
        return code
    number, metric, blocks = choice["layer"], choice["metric"], opened.blocks
    source = Path(arguments.texts).name if arguments.texts else design.task.name
    pruned = opened.report(range(number + 1, blocks + 1), None, None, None)
    notes = _save(opened, replace(pruned, metric=metric, texts=source), output)
    before, after = (count / 1e6 for count in pruned.parameters)
    what = f"blocks 1-{number} of {blocks}, {before:,.1f} to {after:,.1f} million parameters"
    whole = f"the whole model, since {metric} chooses its last layer"
    print(f"Saved to {output}: {what if number < blocks else whole}.")
    for note in notes:
        print(f"Note: {note}.")
    return code


def _save(opened: Shrinking, pruned: Pruned, output: Path) -> list[str]:
    """Save the model without the blocks that are removed; what is to be noted of it."""
    notes: list[str] = []
    measured, card = opened.measured(pruned.removed), save.card(pruned)
    with opened.display.stage("saving"):
        save.save(opened.planned.checkpoint, pruned.removed, output, card, measured, notes.append)
    return notes


def prune_command(arguments: argparse.Namespace) -> int:
    """Take blocks out of a model and save what is left. Returns the exit code."""
    by_rule, output, file = arguments.rule is not None, arguments.save, arguments.save_mergekit
    if by_rule == (arguments.layers is not None):
        raise UserError("give either --rule with --budget, or --layers")
    if by_rule and arguments.budget is None:
        raise UserError("--rule needs a --budget, as 0.15")
    for name in ("budget", "texts", "text_column", "seed", "protect"):
        if not by_rule and getattr(arguments, name) is not None:
            raise UserError(f"--{name.replace('_', '-')} needs --rule")
    if output is not None:
        save.check_free(output)
    if file is not None:
        _check_new(file, output)
    study = Study(arguments)
    wish = _wish(study) if by_rule else None
    study.plugins.tell()
    (model,) = study.models(arguments.model)
    if arguments.scores is not None and (arguments.scores / "run.json").exists():
        model = prune.as_scored(model, arguments.scores)
    opened = Shrinking(model, study.display)
    removed = opened.choose(wish) if wish else parse_blocks(arguments.layers, opened.blocks)
    source = Path(arguments.texts).name if arguments.texts else None
    pruned = opened.report(removed, wish, source, arguments.scores)
    before, after = pruned.parameters
    how = f"{wish.rule.name} at {wish.budget:g}: " if wish else ""
    print(
        f"{how}blocks {written(removed)} of 1-{opened.blocks} removed, "
        f"{before / 1e6:,.1f} to {after / 1e6:,.1f} million parameters ({after / before - 1:+.1%})"
    )
    if output is not None:
        notes = _save(opened, pruned, output)
        print(f"saved to {output}", *(f"note: {note}" for note in notes), sep="\n")
    if file is not None:
        checkpoint = model.checkpoint
        origin = f"{checkpoint.path}@{checkpoint.revision}" if checkpoint.hub else checkpoint.path
        config = checkpoint.config
        dtype = config.get("dtype") or config.get("torch_dtype") or "float32"
        write_text(file, save.mergekit(origin, opened.blocks, removed, str(dtype)))
        print(f"mergekit configuration in {file}")
    return 0


def _check_new(file: Path, output: Path | None) -> None:
    """Raise UserError unless the file can be written beside what else is."""
    if file.exists():
        raise UserError(f"{file} is there already")
    if not os.access(file.absolute().parent, os.W_OK):
        raise UserError(f"{file}: its folder is not there, or cannot be written to")
    if output is not None and output.absolute() in (file.absolute(), *file.absolute().parents):
        raise UserError(f"{file} and --save {output} are in each other's way")


def _wish(study: Study) -> Wish:
    """Which blocks the rule that was typed is to choose."""
    arguments = study.arguments
    rule = study.plugins.get("pruning rule", arguments.rule)
    limits = {"protect": arguments.protect, "budgets": arguments.budget}
    pruning = suite.pruning(limits, COMMAND_LINE)
    task = f"texts:{arguments.texts}"
    design = study.design(task, rule.metrics) if arguments.texts else None
    return Wish(rule, arguments.budget, design, study.seed, pruning)
