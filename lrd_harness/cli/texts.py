"""What commands that measure texts without a run have in common: arguments, names, files."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from lrd_harness.cli.arguments import add_literal_names, path
from lrd_harness.errors import UserError

if TYPE_CHECKING:
    from lrd_harness.contracts import Task
    from lrd_harness.manager import Plugins
    from lrd_harness.measuring import PlannedMetric
    from lrd_harness.planning.resolve import PlannedModel
    from lrd_harness.planning.suite import Settings


TASK = "LeeDocumentSTS"  # texts that need no hub


class Resolved(NamedTuple):
    """What was asked for, by name resolved and checked."""

    task: Task
    items: list[PlannedMetric]
    settings: Settings
    plugins: Plugins

    def model(self, name: str, arguments: argparse.Namespace, display: Any) -> PlannedModel:
        """A model by the name that was typed. Raises UserError for one that is not found."""
        from lrd_harness.planning.resolve import resolve_model
        from lrd_harness.planning.suite import ModelEntry

        entry = ModelEntry(name, pooling=arguments.pooling, max_length=arguments.max_length)
        return resolve_model(entry, self.settings, self.plugins, display.stage)

    def models(
        self, names: Sequence[str], arguments: argparse.Namespace, display: Any
    ) -> list[PlannedModel]:
        """Several, told apart by their names. Raises UserError for one that is there twice, too."""
        from lrd_harness.planning.resolve import told_apart

        return told_apart([self.model(name, arguments, display) for name in names])


def add(sub: Any, metrics: str, texts: int) -> None:
    """Declare the arguments; metrics: what the default ones are; texts: how many are read."""
    what = add_texts(sub, texts)
    what.add_argument("--plugins", nargs="+", metavar="METRIC", help=f"metrics ({metrics})")
    sub.add_argument("--output", type=path, metavar="DIR", help="also write .csv and .json there")
    add_literal_names(sub)
    sub.add_argument("--seed", type=int, default=0, metavar="N", help="of what is drawn (0)")


def add_texts(sub: Any, texts: int) -> Any:
    """Declare the texts and how models are read; returns the group, for metrics."""
    what = sub.add_argument_group("what is measured, and on what")
    add_file(what, "your texts")
    what.add_argument(
        "--task", metavar="TASK", help=f"the texts of a task ({TASK}, 50 news documents)"
    )
    what.add_argument("--max-texts", type=int, metavar="N", help=f"texts read at most ({texts})")
    what.add_argument(
        "--set", nargs="+", default=[], metavar="METRIC.NAME=VALUE", help="a metric's parameter"
    )
    what.add_argument(
        "--load", nargs="+", default=[], metavar="FILE.py", help="metrics of your own"
    )
    how = sub.add_argument_group("how models are read")
    how.add_argument("--pooling", metavar="NAME", help="cls, mean, last, or mean-no-sink")
    how.add_argument("--norm", metavar="NAME", help="states: hf (default), raw, or final")
    how.add_argument("--max-length", type=int, metavar="N", help="tokens a text is cut to")
    how.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps")
    sub.add_argument("--quiet", action="store_true", help="no progress")
    return what


def add_file(group: Any, what: str) -> None:
    """Declare the file of texts, and the column that these are in."""
    group.add_argument("--texts", metavar="FILE", help=f"{what}: .jsonl, .csv, .parquet; or lines")
    group.add_argument(
        "--text-column", metavar="NAME", help="the column of a table with the texts (text)"
    )


def check_column(arguments: argparse.Namespace) -> None:
    """Raise UserError for a column without a file."""
    if arguments.text_column is not None and not arguments.texts:
        raise UserError("--text-column is of no use without --texts")


def resolve(
    arguments: argparse.Namespace,
    command: str,
    texts: int,
    usual: Sequence[str] | None,
    display: Any,
) -> Resolved:
    """Resolve all but the models. usual: the metrics where none are named, of those that there are.

    Where usual is None these are all that need no views, for which "all" stands, too.
    Raises UserError for names that there are not, texts out of reach and settings of a wrong kind.
    """
    from lrd_harness import errors as bounds
    from lrd_harness import manager
    from lrd_harness.cli.arguments import parameters_of
    from lrd_harness.planning import suite
    from lrd_harness.planning.parameters import resolve_metrics
    from lrd_harness.planning.resolve import check_settings, resolve_tasks

    if arguments.texts and arguments.task:
        raise UserError("give either --texts or --task")
    check_column(arguments)
    bounds.check_whole(getattr(arguments, "seed", 0), "--seed", 0, bounds.SEED)
    bounds.check_whole(max(0, getattr(arguments, "draws", 0)), "--draws", 0, bounds.DRAWS)
    plugins = manager.load(tuple(map(manager.from_name, arguments.load)))
    given: dict[str, Any] = {"max_texts": texts}
    for name in ("norm", "max_texts", "view_texts", "max_length", "device", "text_column"):
        if getattr(arguments, name, None) is not None:
            given[name] = getattr(arguments, name)
    made = suite.Suite(
        command,
        tasks=(f"texts:{arguments.texts}" if arguments.texts else arguments.task or TASK,),
        plugins=_metrics(getattr(arguments, "plugins", None), usual, plugins),
        parameters=parameters_of(arguments.set),
        settings=suite.settings(given, "command line"),
    )
    check_settings(made)
    items = resolve_metrics(made, plugins)
    if not items:
        raise UserError("no metrics: name some with --plugins")
    task = _texts(resolve_tasks(made, plugins), display)
    plugins.tell()
    return Resolved(task, items, made.settings, plugins)


def _metrics(
    given: list[str] | None, usual: Sequence[str] | None, plugins: Plugins
) -> tuple[str, ...] | None:
    from lrd_harness.cli.arguments import names

    if given and names(given) != ["all"]:
        return tuple(names(given))
    if given or usual is None:
        return None
    known = plugins.names("metric")
    return tuple(name for name in usual if name in known)


def _texts(tasks: Sequence[Task], display: Any) -> Task:
    """The one task, its data within reach."""
    from lrd_harness.models.wheels import shown_by

    if len(tasks) != 1:
        named = ", ".join(task.name for task in tasks[:3])
        raise UserError(f"--task stands for {len(tasks)} tasks ({named} ...): name one of them")
    (task,) = tasks
    if task.check is not None:
        with display.stage(f"data of {task.name}") as progress, shown_by(lambda _: progress):
            task.check()
    return task


def numbers(typed: str | None, option: str, example: str, most: int) -> list[float] | None:
    """Numbers as 0,0.5,1, ascending and each once; None for none. Raises UserError for others."""
    from lrd_harness import errors as bounds

    if typed is None:
        return None
    try:
        found = sorted({float(part) for part in typed.split(",")})
    except ValueError:
        found = []
    if not found or not all(abs(one) < float("inf") for one in found):
        raise UserError(f"{option} {typed:.60}: not numbers such as {example}")
    if len(found) > bounds.STEPS:
        raise UserError(f"{option}: {len(found):,} numbers; at most {bounds.STEPS:,} are possible")
    if found[-1] > most:
        raise UserError(f"{option} {found[-1]:g}: at most {most:,} is possible")
    return [int(one) if one == int(one) else one for one in found]


def batch_tokens(planned: PlannedModel) -> int:
    """Tokens a batch on the model's device, as in a run."""
    from lrd_harness.runner.loop import BATCH_TOKENS

    return BATCH_TOKENS.get(planned.options.device.split(":")[0], 4096)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table under a title, which may be longer than the table is wide."""
    from lrd_harness.cli.tables import show

    print(wrapped(title))
    show("", columns, rows, whole=True)


def wrapped(text: str, indent: str = "") -> str:
    """Text in lines of at most 80 characters, names in it made printable."""
    from lrd_harness.errors import plain

    return textwrap.fill(plain(text), 80, break_on_hyphens=False, subsequent_indent=indent)


def cell(value: float | None, form: str = "#.4g") -> str:
    """A number in that format, or the mark for none."""
    return "-" if value is None else f"{value:{form}}"


def described(items: Sequence[PlannedMetric]) -> list[dict[str, Any]]:
    """The metrics as a file names them."""
    return [
        {"name": i.metric.name, "version": i.metric.version, "parameters": i.written} for i in items
    ]
