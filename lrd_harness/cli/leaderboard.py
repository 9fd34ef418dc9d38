"""`lrd-harness leaderboard`: a finished run once more, in any form; or numbers from CSV files."""

from __future__ import annotations

import argparse
import fnmatch
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import get_terminal_size

from lrd_harness import manager
from lrd_harness.board import answers, interchange, leaderboard, published
from lrd_harness.board.external import Scores
from lrd_harness.board.layers import layer_table
from lrd_harness.contracts import Reporter
from lrd_harness.errors import UserError, tell, unknown
from lrd_harness.report import Report, Table
from lrd_harness.results.rows import Results
from lrd_harness.runner import folder
from lrd_harness.store.files import write_text
from lrd_harness.store.folders import write_folder

Say = Callable[[str], None]
RUN, PUBLISHED = "run", "published"  # words for --actual; a file of such a name needs ./
OF_FORM = {"csv": "models"}  # form -> its table, where that has another name
NOTHING = {  # why a form may be empty
    "layers": "there are scores of last layers only, and no profiles of metrics",
    "pruning": "nothing was pruned (run --prune)",
    "checkpoints": "no two models are checkpoints of one training run",
}


def leaderboard_command(arguments: argparse.Namespace) -> int:
    """Print or write what was asked for. Returns the exit code."""
    _check(arguments)
    notes: list[str] = []  # said once nothing can fail any more
    reporter, output = find_reporter(arguments), arguments.output
    report = _report(arguments, reporter, notes.append)
    part = arguments.table is not None or arguments.model is not None
    if reporter.name == "table" and not (arguments.full or part):
        report = answers.brief(report, "the same with --full", get_terminal_size().columns)
    deliver(report, reporter, output, notes)
    return 0


def deliver(report: Report, reporter: Reporter, output: Path | None, notes: list[str]) -> None:
    """Print a report, or write it where it is to go; then say the notes."""
    text = "" if reporter.write is None else reporter.write(report)
    empty = f"nothing to show in the form {reporter.name}: "
    if reporter.files is not None and output is not None:
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


def _check(arguments: argparse.Namespace) -> None:
    """Raise UserError for arguments that do not go together."""
    out, values, actual = arguments.out, arguments.values, arguments.actual
    if out is None and values is None:
        if None in (actual, arguments.models_info):
            hint = f"{actual} has scores only: " if actual else ""
            either = "--models-info M.csv" if actual else "--actual S.csv --models-info M.csv"
            raise UserError(f"{hint}give the OUT folder of a run, or --values V.csv, or {either}")
        if actual == PUBLISHED:
            raise UserError(
                f"--actual {PUBLISHED} looks up the models and tasks of OUT or of --values"
            )
    if out is None and actual == RUN:
        raise UserError(f"--actual {RUN} is for the OUT folder of a run (a file: ./{RUN})")
    if out is not None and values is not None:
        raise UserError(f"metric values come from {out} or from --values {values}: give one")
    if out is not None and arguments.models_info is not None:
        raise UserError("--models-info goes with CSV files: a run knows its models")
    if arguments.model is not None and arguments.table is not None:
        raise UserError("--model is a table of its own: leave --table out")
    if arguments.model is not None and arguments.common:
        raise UserError("--common is for the ranking: leave --model out")


def find_reporter(arguments: argparse.Namespace) -> Reporter:
    """The form that was named, or that the output's name ends like.

    Raises UserError for a name that there is not, for an ending that no form has (".txt" and none
    are the table's), and for a folder without --output.
    """
    plugins, name, output = manager.load(), arguments.format, arguments.output
    if name is None:
        file = Path(output.name.lower() if output is not None else "")
        known = {r.suffix: r.name for r in plugins.all("reporter") if r.suffix}
        fits = [suffix for suffix in known if file.name.endswith(suffix)]
        if not fits and file.suffix not in ("", ".txt"):
            endings = ", ".join(sorted(known))
            raise UserError(f"{output}: no form ends so ({endings}): name one by --format")
        name = known[max(fits, key=len)] if fits else "table"
    reporter: Reporter = plugins.get("reporter", name)
    plugins.tell()
    if reporter.files is not None and output is None:
        raise UserError(f"--format {name} writes a folder: give --output DIR")
    if reporter.files is not None and getattr(arguments, "columns", None) is not None:
        raise UserError(f"--columns is for tables: --format {name} has none to choose from")
    return reporter


def _report(arguments: argparse.Namespace, reporter: Reporter, say: Say) -> Report:
    """The leaderboard, one table of it, or one model layer by layer.

    Columns named without their table are of the one that the form is of, or of the ranking.
    """
    results, source = _results(arguments, say)
    if arguments.model is not None:
        if source:
            say(source)
        # MODEL, MODEL@REVISION, or pypi:PACKAGE==VERSION as a run is asked for it
        model, revision = arguments.model, None
        names = {row.model for row in results.models}
        for mark in ("@", "=="):
            if model not in names and model.rpartition(mark)[0] in names:
                model, _, revision = model.rpartition(mark)
        table = layer_table(results, model, revision)
        return Report(table.title, (_chosen(table, arguments.columns),))
    board = _recorded(leaderboard.report(results, arguments.common), arguments)
    if source:
        answer = (*board.answer[:1], source, *board.answer[1:])
        board = replace(board, answer=answer, notes=(*board.notes, source))
    name, known = arguments.table, [table.name for table in board.tables]
    if name is None and arguments.columns is None:
        return board
    if name is None:
        form = OF_FORM.get(reporter.name, reporter.name)
        name = form if form in known else "ranking"
    if name not in known:
        raise unknown("table", name, known, f"There are {', '.join(known)}.")
    table = _chosen(board.only([name]).tables[0], arguments.columns)
    return replace(board, tables=(table,), answer=(), notes=(), errors=())


def _chosen(table: Table, words: str | None) -> Table:
    """A table with the columns of these names alone, in this order; "*" stands for any letters.

    Raises UserError for a name that none of its columns has.
    """
    if words is None:
        return table
    known = {column.name: column for column in table.columns}
    names: dict[str, None] = {}
    for word in map(str.strip, words.split(",")):
        found = [word] if word in known else fnmatch.filter(known, word)
        if not found:
            raise unknown("column", word, known, f"The table {table.name} has {', '.join(known)}.")
        names |= dict.fromkeys(found)
    columns = (replace(known[name], shown=True, rest=0) for name in names)
    # a standard error that has a column of its own is not set behind "±" too
    columns = (replace(c, error="" if c.error in names else c.error) for c in columns)
    return replace(table, columns=tuple(columns))


def _recorded(board: Report, arguments: argparse.Namespace) -> Report:
    """The report with what is known of how its numbers were made."""
    if arguments.out is not None:
        return folder.with_record(board, arguments.out)
    files = [Path(p).name for p in (arguments.actual, arguments.values, arguments.models_info) if p]
    return replace(board, facts={**board.facts, "run": {"files": ", ".join(files)}})


def _results(arguments: argparse.Namespace, say: Say) -> tuple[Results, str]:
    """The run, or the files, with the scores that were asked for; where these are from, or ""."""
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
