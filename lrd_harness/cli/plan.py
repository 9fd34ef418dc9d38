"""`lrd-harness plan`: what a run will cost, before it starts."""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import Any

from lrd_harness.cli.arguments import path
from lrd_harness.cli.run import hush, options, planned
from lrd_harness.errors import UserError, tell

STARTING = 10.0  # seconds that it takes at most until a command begins
EPILOG = """\
The options are those of `run`. What OUT and the store hold already is not
counted; neither grows. Models and data are downloaded, as the
run needs them too. Times are for one process on this machine as it is now.
exit codes: 0 done; 1 done, but something could not be estimated; 2 bad input."""


def add(commands: Any) -> None:
    """Declare the command."""
    sub = commands.add_parser(
        "plan",
        help="estimate what a run will cost, before it starts",
        description="Tell what a run will cost, model by model: texts, forward passes, tokens,\n"
        "disk, and an estimate of time, from a short calibration.",
        epilog=EPILOG,
        declare=_arguments,
    )
    sub.set_defaults(run=run)


def _arguments(sub: Any) -> None:
    sub.add_argument("named", nargs="?", metavar="SUITE", help="a suite, as --suite")
    options(sub)
    sub.add_argument("--json", type=path, metavar="FILE", help="write all numbers to a file")
    sub.add_argument("--quiet", action="store_true", help="no progress, only the tables")
    sub.add_argument("--verbose", action="store_true", help="let the libraries' messages through")


def run(arguments: argparse.Namespace) -> int:
    """Resolve as a run does, calibrate, and print. Returns the exit code."""
    begun = time.perf_counter() - _age()
    if not arguments.verbose:
        hush()
    if arguments.named is not None and arguments.suite is not None:
        raise UserError(f"give one suite: {arguments.named} or --suite {arguments.suite}")
    arguments.suite = arguments.suite or arguments.named
    from lrd_harness.planning import shards
    from lrd_harness.progress import Display
    from lrd_harness.runner import folder as output
    from lrd_harness.runner.cost import Estimator
    from lrd_harness.store.files import write_text

    display = Display(quiet=arguments.quiet)
    shard = shards.parse(arguments.shard) if arguments.shard else None
    plan, plugins = planned(arguments, display)
    plan, suffix = (shards.cut(plan, shard), shard.suffix) if shard else (plan, "")
    out = output.choose(arguments.output, plan, suffix)
    plan = output.renamed(out, plan)
    found = Estimator(plan, out, display, time.perf_counter() - begun).estimate()
    print(plugins.get("reporter", "table").write(found.report()), end="")
    for fault in found.faults:
        tell(f"not estimated: {fault}")
    if arguments.json is not None:
        try:
            write_text(arguments.json, json.dumps(found.record(), indent=1))
        except OSError as error:
            raise UserError(f"{arguments.json} cannot be written ({error.strerror})") from None
    return 1 if found.faults else 0


def _age() -> float:
    """Seconds since this process began, which a run takes too; less where it is a program's."""
    import psutil

    age = time.time() - float(psutil.Process(os.getpid()).create_time())
    return min(max(0.0, age), STARTING)
