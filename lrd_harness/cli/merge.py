"""`lrd-harness merge`: several runs in, one run and its leaderboard out."""

from __future__ import annotations

import argparse
from typing import Any

from lrd_harness.cli.arguments import add_literal_names, path
from lrd_harness.errors import tell

EPILOG = """\
The runs must have the same settings, data, metrics and pruning. Where several
hold the same result, the newest counts. OUT is new or an earlier merge: merging
again adds what is new. `lrd-harness run --output OUT` goes on with it.

examples:
  lrd-harness run --suite mteb-32 --shard 1/8 --output part-1
  lrd-harness merge part-* --output whole
exit codes: 0 done; 1 done, but some units failed; 2 bad input."""


def add(commands: Any) -> None:
    """Declare the arguments."""
    sub = commands.add_parser(
        "merge",
        help="join slices of a run, or runs of several machines",
        description="Join runs into one folder, and print its leaderboard: the slices of\n"
        "`run --shard`, or the same suite on several machines.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sub.add_argument("outs", type=path, nargs="+", metavar="OUT", help="the folders of the runs")
    sub.add_argument("--output", type=path, metavar="OUT", required=True, help="the joint folder")
    add_literal_names(sub)
    sub.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Join, write the views and print the leaderboard. Returns the exit code."""
    from lrd_harness import manager
    from lrd_harness.results import journal
    from lrd_harness.runner import folder as output
    from lrd_harness.runner.merge import merge

    out = arguments.output
    for remark in merge(arguments.outs, out):
        tell(remark)
    plugins = manager.load()
    plugins.tell()
    board, faults = output.write_views(out, plugins)
    print(plugins.get("reporter", "table").write(board), end="")
    for fault in faults:
        tell(f"error: {fault}")
    tell(f"\nAll of it is in {out}.")
    return 1 if faults or journal.read_run(out)["errors"] else 0
