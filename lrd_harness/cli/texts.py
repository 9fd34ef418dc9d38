"""`lrd-harness select`, `compare`, `probe`, `layer`, `prune`: studies on one's own texts."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lrd_harness import errors
from lrd_harness.blocks import written
from lrd_harness.capture.samples import Questions, Sampling
from lrd_harness.cli.arguments import (
    COMMAND_LINE,
    load,
    names,
    parameters_of,
    settings_given,
    show,
)
from lrd_harness.cli.options import TASK, TEXTS
from lrd_harness.contracts import Task
from lrd_harness.errors import UserError, tell
from lrd_harness.manager import Plugins
from lrd_harness.measuring import PlannedMetric
from lrd_harness.models import save
from lrd_harness.models.cut import parse_blocks
from lrd_harness.models.save import Pruned
from lrd_harness.planning import resolve, suite
from lrd_harness.planning.parameters import resolve_metrics
from lrd_harness.planning.resolve import PlannedModel
from lrd_harness.planning.suite import ModelEntry, Settings, Suite
from lrd_harness.progress import Display
from lrd_harness.report import Report
from lrd_harness.runner import folder
from lrd_harness.runner.loop import BATCH_TOKENS
from lrd_harness.store.files import write_text
from lrd_harness.studies import compare, probe, prune, select, values
from lrd_harness.studies.prune import Shrinking, Wish
from lrd_harness.studies.values import Design


@dataclass(frozen=True)
class Study:
    """What was typed, by name resolved and checked."""

    arguments: argparse.Namespace
    task: Task
    items: list[PlannedMetric]
    settings: Settings
    plugins: Plugins
    display: Display

    def models(self, *typed: str) -> list[PlannedModel]:
        """Models by the names that were typed. Raises UserError for one that is not found."""
        known = self.arguments, self.settings, self.plugins, self.display
        return [_model(name, *known) for name in typed]

    def design(self, model: PlannedModel) -> Design:
        """What is measured, on the model's device."""
        most = self.settings.max_texts
        return Design(
            task=self.task,
            items=self.items,
            questions=Questions(most),
            sampling=Sampling(self.settings.norm, most, model.options.device),
            draws=getattr(self.arguments, "draws", 0),
            seed=self.arguments.seed,
            batch_tokens=_batch_tokens(model),
        )

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
) -> Study:
    """Resolve all but the models.

    named: the metrics that were named; usual: those where none are, None for all that need no
    views; "all" are these too. Raises UserError for names that there are not, texts out of reach
    and settings of a wrong kind.
    """
    display = Display(quiet=arguments.quiet)
    if arguments.texts and arguments.task:
        raise UserError("give either --texts or --task")
    _check_column(arguments)
    errors.check_whole(getattr(arguments, "seed", 0), "--seed", 0, errors.SEED)
    errors.check_whole(max(0, getattr(arguments, "draws", 0)), "--draws", 0, errors.DRAWS)
    plugins = load(arguments)
    metrics: list[str] | None = names(named)
    if not metrics and usual is not None:
        metrics = [name for name in usual if name in plugins.names("metric")]
    elif metrics in ([], ["all"]):
        metrics = None
    typed = {"max_texts": TEXTS[arguments.command], **settings_given(arguments)}
    chosen = Suite(
        "texts",
        tasks=(f"texts:{arguments.texts}" if arguments.texts else arguments.task or TASK,),
        plugins=None if metrics is None else tuple(metrics),
        parameters=parameters_of(arguments.set),
        settings=suite.settings(typed, COMMAND_LINE),
    )
    resolve.check_settings(chosen.settings)
    items = resolve_metrics(chosen, plugins)
    if not items:
        raise UserError("no metrics: name some with --plugins")
    tasks = resolve.resolve_tasks(chosen, plugins)
    if len(tasks) != 1:
        some = ", ".join(task.name for task in tasks[:3])
        raise UserError(f"--task stands for {len(tasks)} tasks ({some} ...): name one of them")
    task = resolve.checked_task(tasks[0], display.stage)
    plugins.tell()
    return Study(arguments, task, items, chosen.settings, plugins, display)


def _check_column(arguments: argparse.Namespace) -> None:
    if arguments.text_column is not None and not arguments.texts:
        raise UserError("--text-column needs --texts")


def _model(
    name: str,
    arguments: argparse.Namespace,
    settings: Settings,
    plugins: Plugins,
    display: Display,
) -> PlannedModel:
    entry = ModelEntry(name, pooling=arguments.pooling, max_length=arguments.max_length)
    return resolve.resolve_model(entry, settings, plugins, display.stage)


def _batch_tokens(model: PlannedModel) -> int:
    """Tokens per batch on the model's device, as in a run."""
    return BATCH_TOKENS.get(model.options.device.split(":")[0], 4096)


def select_command(arguments: argparse.Namespace) -> int:
    """Rank models on the texts. Returns the exit code."""
    usual = [m.name for m in load(arguments).all("metric") if m.selection is not None]
    study = _study(arguments, arguments.plugins, usual)
    models = resolve.distinct(study.models(*arguments.models))
    select.check(models, study.items)
    study.check_output("select", select.COLUMNS)
    report = select.select(models, study.design(models[0]), study.display)
    return study.finish(report, "select")


def compare_command(arguments: argparse.Namespace) -> int:
    """Compare two models layer by layer. Returns the exit code."""
    study = _study(arguments, arguments.plugins)
    a, b = study.models(arguments.a, arguments.b)
    if a.checkpoint.path != b.checkpoint.path:  # one model may be compared as two adapters read it
        a, b = resolve.distinct([a, b])
    study.check_output("compare", compare.COLUMNS)
    return study.finish(compare.compare(a, b, study.design(a), study.display), "compare")


def probe_command(arguments: argparse.Namespace) -> int:
    """Measure a model on texts that are changed step by step. Returns the exit code."""
    kind = arguments.kind
    probe.check(kind, [])
    steps = _steps(arguments)
    study = _study(arguments, arguments.plugins, probe.USUAL)
    probe.check(kind, study.items)
    (model,) = study.models(arguments.model)
    study.check_output("probe", probe.COLUMNS)
    report = probe.study(model, study.design(model), kind, steps, study.display)
    return study.finish(report, "probe")


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
    study = _study(arguments, metrics)
    settings, questions = study.settings, Questions(study.settings.max_texts)
    prune.check_choosing(study.items, questions, study.task)
    (model,) = study.models(arguments.model)
    opened = Shrinking(model, study.display, _batch_tokens(model))
    sampling = Sampling(settings.norm, settings.view_texts, model.options.device)
    report = prune.choose_layer(opened, study.task, study.items, questions, sampling)
    code = study.finish(report, "layer")
    choice = next(iter(report.table("choices").rows), None)
    if choice is None:
        raise UserError(f"no metric has chosen a layer{', so nothing was saved' if output else ''}")
    if output is None:
        return code
    number, metric, blocks = choice["layer"], choice["metric"], opened.blocks
    source = Path(arguments.texts).name if arguments.texts else study.task.name
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
    _check_column(arguments)
    errors.check_whole(arguments.seed or 0, "--seed", 0, errors.SEED)
    if output is not None:
        save.check_free(output)
    if file is not None:
        _check_new(file, output)
    display = Display(quiet=arguments.quiet)
    model, wish = _wish(arguments, display)
    if arguments.scores is not None and (arguments.scores / "run.json").exists():
        model = prune.as_scored(model, arguments.scores)
    opened = Shrinking(model, display, _batch_tokens(model))
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


def _wish(arguments: argparse.Namespace, display: Display) -> tuple[PlannedModel, Wish | None]:
    """The model, and what is wished for if a rule is to choose."""
    plugins = load(arguments)
    typed = {**settings_given(arguments), "pooling": None}  # which the model's entry has
    typed.pop("layers", None)  # of this command: blocks
    settings = suite.settings(typed, COMMAND_LINE)
    resolve.check_settings(settings)
    wish = None
    if arguments.rule is not None:
        rule = plugins.get("pruning rule", arguments.rule)
        limits = {"protect": arguments.protect, "budgets": arguments.budget}
        tasks = (f"texts:{arguments.texts}",) if arguments.texts else ()
        chosen = Suite("prune", tasks=tasks, plugins=rule.metrics, settings=settings)
        task = next(iter(resolve.resolve_tasks(chosen, plugins)), None)
        if task is not None and task.check is not None:
            task.check()
        metrics = resolve_metrics(chosen, plugins)
        pruning = suite.pruning(limits, COMMAND_LINE)
        wish = Wish(rule, arguments.budget, metrics, task, arguments.seed or 0, pruning)
    plugins.tell()
    return _model(arguments.model, arguments, settings, plugins, display), wish
