"""`lrd-harness leaderboard`: a finished run once more, in any form."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    """Declare the arguments."""
    sub = commands.add_parser(
        "leaderboard",
        help="print the leaderboard of a run",
        description="Print the leaderboard of a run, also of one that is still running.",
    )
    sub.add_argument("out", type=Path, metavar="OUT", help="the output folder of a run")
    sub.add_argument(
        "--format", default="table", metavar="FORM", help="table (default), md, csv, json, pruning"
    )
    sub.add_argument("--output", type=Path, metavar="FILE", help="write to a file instead")
    sub.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Read the journals and print. Returns the exit code."""
    from lrd_harness import leaderboard, manager, output
    from lrd_harness.errors import UserError
    from lrd_harness.files import write_text

    reporter = manager.load().get("reporter", arguments.format)
    text = reporter.write(leaderboard.build(output.shown(arguments.out)))
    if arguments.output is not None:
        try:
            write_text(arguments.output, text)
        except OSError as error:
            raise UserError(f"{arguments.output} cannot be written ({error.strerror})") from None
    else:
        print(text, end="")
    return 0
