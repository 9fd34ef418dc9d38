"""`lrd-harness leaderboard`: a finished run once more, in any form; or numbers from CSV files."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrd_harness import manager
from lrd_harness.cli.arguments import add_literal_names, path
from lrd_harness.errors import UserError, tell, unknown
from lrd_harness.report import Report
from lrd_harness.store.files import write_text
from lrd_harness.store.folders import write_folder

if TYPE_CHECKING:
    from lrd_harness.board.external import Say, Scores
    from lrd_harness.contracts import Reporter
    from lrd_harness.results.rows import Results

EPILOGS = {
    "leaderboard": """\
forms (--format), by default as --output ends, else table:
  table        for a terminal
  md           Markdown                                     .md
  csv          one row per model                            .csv
  json         everything, for programs                     .json
  latex        booktabs tables, to be \\input                .tex
  html         a page that needs no network                 .html
  layers       scores and metric profiles by layer          -layers.csv
  pruning      scores of pruned models                      -pruning.csv
  checkpoints  metrics over training steps                  -checkpoints.csv
and folders, written to --output DIR:
  figures      the figures of the page as SVG and PNG
  tidy         every value, one per row, as CSV and Parquet
  cards        a Hugging Face model card for each model

CSV files, for published or exported numbers, without a run:
  --actual       scores, wide (last layer)       model,STSBenchmark,SciFact
                                                 ours,82.0,64.5
                 or long, layer by layer         model,layer,task,score
                                                 ours,3,STSBenchmark,79
  --values       metric values                   model,layer,task,name,value
                                                 ours,3,SciFact,dime.dime,1
                                                 ours,model,SciFact,frenet.d0L,1
  --models-info  their models, if known:
                 model,parameters_millions,width,blocks,family,released
                 (released: YYYY-MM-DD, YYYY-MM or YYYY)

Layers are the numbers of states, 0 (the embeddings) to the number of blocks, or
"model" for the model as a whole. A task of which a score is above 1 is read as
percent, the others as they are; what may be either is refused by name, as are
ranks and sizes. A cell may be empty. What layer a metric would have chosen, and
what that gains, is shown where both files go layer by layer and have tasks in
common.

examples:
  lrd-harness leaderboard OUT --format md --output board.md
  lrd-harness leaderboard OUT --layers intfloat/e5-small-v2
  lrd-harness leaderboard --actual S.csv --values V.csv --models-info M.csv
  lrd-harness leaderboard --actual S.csv --models-info M.csv
      how well size alone orders the models: what a metric has to beat
  lrd-harness leaderboard OUT --actual S.csv
      the metrics of a run beside other scores of its models
  lrd-harness leaderboard OUT --actual published
      beside the public mteb results, from mteb's own cache (MTEB_CACHE)"""
}
RUN, PUBLISHED = "run", "published"  # words for --actual; a file of such a name needs ./
NOTHING = {  # why a form may be empty
    "layers": "there are scores of last layers only, and no profiles of metrics",
    "pruning": "nothing was pruned (run --prune)",
    "checkpoints": "no two models are checkpoints of one training run",
}


def leaderboard_arguments(sub: Any) -> None:
    sub.add_argument("out", type=path, nargs="?", metavar="OUT", help="the output folder of a run")
    sub.add_argument(
        "--actual",
        metavar="run|published|S.csv",
        help="scores: of the run OUT (default), of the public mteb results, or of a file",
    )
    sub.add_argument("--values", type=path, metavar="V.csv", help="metric values, without a run")
    sub.add_argument("--models-info", type=path, metavar="M.csv", help="sizes of their models")
    sub.add_argument("--layers", metavar="MODEL", help="print one model layer by layer instead")
    sub.add_argument(
        "--table", metavar="NAME", help="print one table alone, as ranking, in any text form"
    )
    sub.add_argument("--format", metavar="FORM", help="one of the forms below")
    sub.add_argument(
        "--output", type=path, metavar="FILE", help="write to a file instead, or to a folder DIR"
    )
    add_literal_names(sub)


def leaderboard(arguments: argparse.Namespace) -> int:
    """Print the leaderboard of a run, also of one that is still running; or of
    scores and metric values from CSV files.
    """
    _check(arguments)
    notes: list[str] = []  # said once nothing can fail any more
    reporter, output = _reporter(arguments), arguments.output
    report = _report(arguments, notes.append)
    text = "" if reporter.write is None else reporter.write(report)
    empty = f"nothing to show in the form {reporter.name}: "
    if reporter.files is not None:
        paths = write_folder(output, reporter.name, reporter.files(report), notes.append)
        some = ", ".join(paths[:4]) + (f" and {len(paths) - 4} more" if len(paths) > 4 else "")
        notes.append(f"written to {output}: {some}" if paths else f"{empty}no file was written")
    elif not text:
        notes.append(empty + NOTHING.get(reporter.name, "nothing of that kind was recorded"))
    if reporter.files is None and output is not None:
        try:
            write_text(output, text)
        except OSError as error:
            raise UserError(f"{output} cannot be written ({error.strerror})") from None
    for note in notes:
        tell(note)
    if output is None:
        print(text, end="")
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """Raise UserError for arguments that do not go together."""
    out, values = arguments.out, arguments.values
    if out is None and values is None and None in (arguments.actual, arguments.models_info):
        hint = f"{arguments.actual} has scores only: " if arguments.actual else ""
        either = "--models-info M.csv" if arguments.actual else "--actual S.csv --models-info M.csv"
        raise UserError(f"{hint}give the OUT folder of a run, or --values V.csv, or {either}")
    if out is None and arguments.actual == RUN:
        raise UserError(f"--actual {RUN} is for the OUT folder of a run (a file: ./{RUN})")
    if out is None and values is None and arguments.actual == PUBLISHED:
        raise UserError(f"--actual {PUBLISHED} looks up the models and tasks of OUT or of --values")
    if out is not None and values is not None:
        raise UserError(f"metric values come from {out} or from --values {values}: give one")
    if out is not None and arguments.models_info is not None:
        raise UserError("--models-info goes with CSV files: a run knows its models")
    if arguments.layers is not None and arguments.table is not None:
        raise UserError("--layers is a table of its own: leave --table out")


def _results(arguments: argparse.Namespace, say: Say) -> tuple[Results, str]:
    """The run, or the files, with the scores that were asked for; where these are from, or ""."""
    from lrd_harness.board import interchange, published
    from lrd_harness.runner import folder

    values, models = arguments.values, arguments.models_info
    public = arguments.actual == PUBLISHED
    actual: Path | Scores | None = Path(arguments.actual) if arguments.actual else None
    if arguments.out is None:
        actual = published.of_values(values, models, say) if public else actual
        return interchange.read(actual, values, models, say), ""
    results = folder.shown(arguments.out)
    if actual is None or arguments.actual == RUN:
        return results, ""
    actual = published.of_run(results, say) if public else actual
    return interchange.with_scores(results, actual, say)


def _reporter(arguments: argparse.Namespace) -> Reporter:
    """The form that was named, or that the output's name ends like.

    Raises UserError for a name that there is not, for an ending that no form has (".txt" and none
    are the table's), and for a folder without --output.
    """
    plugins, name = manager.load(), arguments.format
    if name is None:
        file = Path(arguments.output.name.lower() if arguments.output is not None else "")
        fits = [r for r in plugins.all("reporter") if r.suffix and file.name.endswith(r.suffix)]
        if not fits and file.suffix not in ("", ".txt"):
            known = ", ".join(sorted({r.suffix for r in plugins.all("reporter")} - {""}))
            raise UserError(f"{arguments.output}: no form ends so ({known}): name one by --format")
        name = max(fits, key=lambda r: len(r.suffix)).name if fits else "table"
    reporter: Reporter = plugins.get("reporter", name)
    plugins.tell()
    if reporter.files is not None and arguments.output is None:
        raise UserError(f"--format {name} writes a folder: give --output DIR")
    return reporter


def _report(arguments: argparse.Namespace, say: Say) -> Report:
    """The leaderboard, one table of it, or one model layer by layer."""
    from lrd_harness.board.layers import layer_table
    from lrd_harness.board.leaderboard import report

    results, source = _results(arguments, say)
    if arguments.layers is not None:
        if source:
            say(source)
        # MODEL, MODEL@REVISION, or pypi:PACKAGE==VERSION as a run is asked for it
        model, revision = arguments.layers, None
        names = {row.model for row in results.models}
        for mark in ("@", "=="):
            if model not in names and model.rpartition(mark)[0] in names:
                model, _, revision = model.rpartition(mark)
        table = layer_table(results, model, revision)
        return Report(table.title, (table,))
    found = report(results)
    if source:
        found = replace(found, notes=(*found.notes, source))
    if arguments.table is None:
        return found
    known = [table.name for table in found.tables]
    if arguments.table not in known:
        raise unknown("table", arguments.table, known, f"There are {', '.join(known)}.")
    return replace(found.only([arguments.table]), notes=(), errors=())
