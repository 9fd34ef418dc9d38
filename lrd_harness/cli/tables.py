"""How commands print tables: readable at 80 columns, names whole where there is room."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lrd_harness.errors import plain

NAME = 20  # characters a line that a name gets at least
WORD = 12  # that a cell of words gets at least
GAP = 3  # between columns


def show(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], whole: bool = False
) -> None:
    """Print a table on standard output; names are shown as they are, markup is not interpreted.

    A column in which nothing stands is left out. The first one holds names, which are broken into
    lines where the others would have no room beside them. whole: these are not broken; those that
    find no room go on in a table of their own.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    cells = [[plain(cell) for cell in row] for row in rows]
    used = [i for i in range(len(columns)) if not i or any(row[i] for row in cells)]
    needs = {i: _need([columns[i], *(row[i] for row in cells)], whole or not i) for i in used}
    for part in _parts(needs, console.width) if whole else [used]:
        left = console.width - sum(needs[i] + GAP for i in part[1:])
        name = min(needs[0], max(NAME, left - GAP))
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for i in part:
            table.add_column(columns[i], overflow="fold", width=None if i else name)
        for row in cells:
            table.add_row(*(Text(row[i]) for i in part))
        console.print(table)


def _need(cells: Sequence[str], whole: bool) -> int:
    """How wide a column is at least."""
    from rich.cells import cell_len

    if whole:
        return max(map(cell_len, cells))
    return min(WORD, max((cell_len(word) for cell in cells for word in cell.split()), default=0))


def _parts(needs: dict[int, int], room: int) -> list[list[int]]:
    """Columns in as few tables as there is room for, the first one in each."""
    parts, taken = [[0]], 0
    for i in list(needs)[1:]:
        if len(parts[-1]) > 1 and taken + needs[i] + GAP > room - GAP - min(NAME, needs[0]):
            parts.append([0])
            taken = 0
        parts[-1].append(i)
        taken += needs[i] + GAP
    return parts


def names(title: str, items: Iterable[str]) -> None:
    """Print names in as many columns as there is room for, read from top to bottom."""
    from rich.columns import Columns
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    console.print(Text(f"{plain(title)}\n", "italic"))
    console.print(Columns([Text(plain(item)) for item in items], padding=(0, 3), column_first=True))
    console.print()
