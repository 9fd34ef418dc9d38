"""`lrd-harness plan`: what a run will cost, before it starts."""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import TYPE_CHECKING, Any

from lrd_harness.cli.arguments import path
from lrd_harness.cli.run import hush, options
from lrd_harness.errors import UserError, tell

if TYPE_CHECKING:
    from lrd_harness.runner.cost import Estimate, Span

STARTING = 10.0  # seconds that it takes at most until a command begins
EPILOG = """\
The options are those of `run`. What OUT and the store hold already is not
counted; neither grows. Models and data are downloaded, as the
run needs them too. Times are for one process on this machine as it is now.
exit codes: 0 done; 1 done, but something could not be estimated; 2 bad input."""


def add(commands: Any) -> None:
    """Declare the arguments."""
    sub = commands.add_parser(
        "plan",
        help="estimate what a run will cost, before it starts",
        description="Tell what a run will cost, model by model: texts, forward passes, tokens,\n"
        "disk, and an estimate of time, from a short calibration.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sub.add_argument("named", nargs="?", metavar="SUITE", help="a suite, as --suite")
    options(sub)
    sub.add_argument("--json", type=path, metavar="FILE", help="write all numbers to a file")
    sub.add_argument("--quiet", action="store_true", help="no progress, only the tables")
    sub.add_argument("--verbose", action="store_true", help="let the libraries' messages through")
    sub.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Resolve as a run does, calibrate, and print. Returns the exit code."""
    begun = time.perf_counter() - _age()
    if not arguments.verbose:
        hush()
    if arguments.named is not None and arguments.suite is not None:
        raise UserError(f"give one suite: {arguments.named} or --suite {arguments.suite}")
    arguments.suite = arguments.suite or arguments.named
    from lrd_harness import manager
    from lrd_harness.cli.arguments import asked
    from lrd_harness.planning import shards as slices
    from lrd_harness.planning.resolve import make_plan
    from lrd_harness.progress import Display
    from lrd_harness.runner import folder as output
    from lrd_harness.runner.cost import Estimator
    from lrd_harness.store.files import write_text

    display = Display(quiet=arguments.quiet)
    shard = slices.parse(arguments.shard) if arguments.shard else None
    plugins = manager.load(tuple(map(manager.from_name, arguments.load)))
    plan = make_plan(asked(arguments), plugins, display.stage, prune=arguments.prune is not None)
    plan, suffix = (slices.cut(plan, shard), shard.suffix) if shard else (plan, "")
    out = output.choose(arguments.output, plan, suffix)
    plan = output.renamed(out, plan)
    found = Estimator(plan, out, display, time.perf_counter() - begun).estimate()
    _show(found)
    faults = [fault for model in found.models for fault in model.faults]
    for fault in faults:
        tell(f"not estimated: {fault}")
    if arguments.json is not None:
        try:
            write_text(arguments.json, json.dumps(found.record(), indent=1))
        except OSError as error:
            raise UserError(f"{arguments.json} cannot be written ({error.strerror})") from None
    return 1 if faults else 0


def _age() -> float:
    """Seconds since this process began, which a run takes too; less where it is a program's."""
    import psutil

    age = time.time() - float(psutil.Process(os.getpid()).create_time())
    return min(max(0.0, age), STARTING)


def _show(found: Estimate) -> None:
    """Print the tables: what there is to do by model, and where the time goes."""
    from lrd_harness.runner.cost import STAGES, total

    models = found.models
    rows = [
        [m.name, *_counts(m.texts, m.stored, m.passes, m.tokens), _size(m.disk), spoken(m.span)]
        for m in models
    ]
    sums = [sum(getattr(m, k) for m in models) for k in ("texts", "stored", "passes", "tokens")]
    disk = _size(sum(m.disk for m in models))
    rows.append(["all", *_counts(*sums), disk, spoken(total(m.span for m in models))])
    _table(("model", "texts", "in store", "passes", "tokens", "disk", "time"), rows)
    stages = [("to begin, and to collect texts", found.common)]
    stages += [(stage, total(m.spans[stage] for m in models)) for stage in STAGES]
    _table(("stage", "time"), [[s, spoken(t)] for s, t in stages if t.high > 0.5])
    print(f"The run will take about {spoken(found.span)}.")
    if found.span.high and any(m.spans["pruning"].high for m in models):
        print("Pruning is a rough guess: which rules choose the same blocks is not known yet.")


def _counts(*numbers: int) -> list[str]:
    return [f"{n:,}" if n < 100_000 else f"{n / 1e6:,.1f} M" for n in numbers]


def _size(size: int) -> str:
    for unit, many in (("GB", 1e9), ("MB", 1e6)):
        if size >= many:
            return f"{size / many:.{1 if size < 10 * many else 0}f} {unit}"
    return f"{size / 1e3:.0f} kB" if size else "0"


def spoken(span: Span) -> str:
    """A span of time as one says it: 3-6 min."""
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    unit, seconds = next((u for u in units if span.high >= 2 * u[1]), units[-1])
    low, high = span.low / seconds, span.high / seconds
    if high < 1:
        return "< 1 s"
    said = [f"{v:.1f}" if v < 3 and seconds > 1 else f"{v:.0f}" for v in (low, high)]
    said = [text.removesuffix(".0") for text in said]
    return f"{'-'.join(dict.fromkeys(said))} {unit}"


def _table(columns: tuple[str, ...], rows: list[list[str]]) -> None:
    """Print a table whose first column may be folded, and whose others are numbers."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        style: dict[str, Any] = {"justify": "right", "no_wrap": True} if number else {}
        table.add_column(column, overflow="fold", **style)
    for row in rows:
        table.add_row(*map(Text, row))
    Console(highlight=False).print(table)
