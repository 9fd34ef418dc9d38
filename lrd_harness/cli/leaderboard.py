"""`lrd-harness leaderboard`: a finished run once more, in any form; or numbers from CSV files."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrd_harness.errors import UserError

if TYPE_CHECKING:
    from lrd_harness.csv_forms import Say
    from lrd_harness.rows import Results

EPILOG = """\
CSV files, for published or exported numbers, without a run:
  --actual       scores, wide (last layer)       model,STSBenchmark,SciFact
                                                 ours,82.0,64.5
                 or long, layer by layer         model,layer,task,score
                                                 ours,3,STSBenchmark,79
  --values       metric values                   model,layer,task,name,value
                                                 ours,3,SciFact,dime.dime,1
                                                 ours,model,SciFact,frenet.d0L,1
  --models-info  their models, if known:
                 model,parameters_millions,width,blocks,family

Layers are the numbers of states, 0 (the embeddings) to the number of blocks, or
"model" for the model as a whole. Scores above 1 are read as percent. A cell may
be empty. What layer a metric would have chosen, and what that gains, is shown
where both files go layer by layer and have tasks in common.

examples:
  lrd-harness leaderboard OUT --format md --output board.md
  lrd-harness leaderboard OUT --layers intfloat/e5-small-v2
  lrd-harness leaderboard --actual S.csv --values V.csv --models-info M.csv
  lrd-harness leaderboard --actual S.csv --models-info M.csv
      how well size alone orders the models: what a metric has to beat
  lrd-harness leaderboard OUT --actual S.csv
      the metrics of a run beside published scores of its models"""


NOTHING = {  # why a form may be empty
    "layers": "there are scores of last layers only, and no profiles of metrics",
    "pruning": "nothing was pruned (run --prune)",
    "checkpoints": "no two models are checkpoints of one training run",
}


def add(commands: Any) -> None:
    """Declare the arguments."""
    sub = commands.add_parser(
        "leaderboard",
        help="print the leaderboard of a run, or of CSV files",
        description="Print the leaderboard of a run, also of one that is still running; or of\n"
        "scores and metric values from CSV files.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sub.add_argument("out", type=Path, nargs="?", metavar="OUT", help="the output folder of a run")
    sub.add_argument("--actual", type=Path, metavar="S.csv", help="scores, in place of a run's")
    sub.add_argument("--values", type=Path, metavar="V.csv", help="metric values, without a run")
    sub.add_argument("--models-info", type=Path, metavar="M.csv", help="sizes of their models")
    sub.add_argument(
        "--layers", metavar="MODEL", help="print one model layer by layer instead, as a table"
    )
    sub.add_argument(
        "--format",
        metavar="FORM",
        help="table (default), md, csv, json, layers, pruning, checkpoints",
    )
    sub.add_argument("--output", type=Path, metavar="FILE", help="write to a file instead")
    sub.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Read journals or files, and print. Returns the exit code."""
    from lrd_harness.files import write_text

    _check(arguments)
    notes: list[str] = []  # said once nothing can fail any more
    make = _layers if arguments.layers is not None else _board
    text = make(arguments, notes.append)
    if arguments.output is not None:
        try:
            write_text(arguments.output, text)
        except OSError as error:
            raise UserError(f"{arguments.output} cannot be written ({error.strerror})") from None
    for note in notes:
        print(note, file=sys.stderr)
    if arguments.output is None:
        print(text, end="")
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """Raise UserError for arguments that do not go together."""
    out, values = arguments.out, arguments.values
    if out is None and values is None and None in (arguments.actual, arguments.models_info):
        hint = f"{arguments.actual} has scores only: " if arguments.actual else ""
        either = "--values V.csv" + (" or --models-info M.csv" if arguments.actual else "")
        raise UserError(f"{hint}give the OUT folder of a run, or {either}")
    if out is not None and values is not None:
        raise UserError(f"metric values come from {out} or from --values {values}: give one")
    if out is not None and arguments.models_info is not None:
        raise UserError("--models-info goes with CSV files: a run knows its models")
    if arguments.layers is not None and arguments.format not in (None, "table"):
        raise UserError(f"--layers is a table only, and has no --format {arguments.format}")


def _results(arguments: argparse.Namespace, say: Say) -> Results:
    from lrd_harness import interchange, output

    if arguments.out is None:
        return interchange.read(arguments.actual, arguments.values, arguments.models_info, say)
    found = output.shown(arguments.out)
    return interchange.with_scores(found, arguments.actual, say) if arguments.actual else found


def _board(arguments: argparse.Namespace, say: Say) -> str:
    from lrd_harness import leaderboard, manager

    reporter = manager.load().get("reporter", arguments.format or "table")
    text: str = reporter.write(leaderboard.build(_results(arguments, say)))
    if not text:
        why = NOTHING.get(reporter.name, "nothing of that kind was recorded")
        say(f"nothing to show in the form {reporter.name}: {why}")
    return text


def _layers(arguments: argparse.Namespace, say: Say) -> str:
    """One model, as MODEL, MODEL@REVISION, or pypi:PACKAGE==VERSION as a run is asked for it."""
    from lrd_harness.layers import layer_table

    results = _results(arguments, say)
    model, revision = arguments.layers, None
    names = {row.model for row in results.models}
    for mark in ("@", "=="):
        if model not in names and model.rpartition(mark)[0] in names:
            model, _, revision = model.rpartition(mark)
    reporters: Any = importlib.import_module("lrd_harness.plugins.reporters")  # as plugins are
    text: str = reporters.layers(layer_table(results, model, revision))
    return text
