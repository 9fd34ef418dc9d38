"""The folder `tidy`: every value recorded and every statistic, one a row, as CSV and Parquet.

values.csv, values.parquet: see `_tidy_values.COLUMNS`. statistics.csv, statistics.parquet: see
`_tidy_statistics.COLUMNS`. scores.csv, metrics.csv, models.csv: whole models in the forms that
`lrd-harness leaderboard --actual scores.csv --values metrics.csv --models-info models.csv` reads.
Both files of a table are the same, a missing value being an empty cell and a null.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lrd_harness.store import files

from ._sheets import boards
from ._tidy_interchange import interchange
from ._tidy_statistics import COLUMNS as STATISTICS
from ._tidy_statistics import statistic_rows
from ._tidy_values import COLUMNS as VALUES
from ._tidy_values import value_rows

if TYPE_CHECKING:
    from lrd_harness.board.leaderboard import Leaderboard


def tidy(board: Leaderboard) -> Iterator[tuple[str, bytes]]:
    """The files of the folder."""
    for name, columns, rows in (
        ("values", VALUES, [row for part, _ in boards(board) for row in value_rows(part.results)]),
        ("statistics", STATISTICS, list(statistic_rows(board))),
    ):
        cleaned = [[_clean(row.get(column)) for column in columns] for row in rows]
        yield f"{name}.csv", files.written(list(columns), cleaned).encode()
        yield f"{name}.parquet", as_parquet(columns, cleaned)
    for name, (header, lines) in interchange(board).items():
        cells = [[_clean(cell) for cell in line] for line in lines]
        yield f"{name}.csv", files.written(header, cells).encode()


def as_parquet(columns: Mapping[str, type], rows: Sequence[Sequence[Any]]) -> bytes:
    """The same as Parquet; columns: name -> str, int or float."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {str: pa.string(), int: pa.int64(), float: pa.float64()}
    arrays = [
        pa.array([row[place] for row in rows], type=kinds[kind])
        for place, kind in enumerate(columns.values())
    ]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(arrays, names=list(columns)), sink)
    return bytes(sink.getvalue())


def _clean(cell: Any) -> Any:
    """An empty text is none; half of a pair of UTF-16, which no file takes, is shown as escape."""
    if isinstance(cell, str):
        return cell.encode("utf-8", "backslashreplace").decode() or None
    return cell
