"""How the listing commands print: readable at 80 columns, names whole."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def show(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table on standard output; names are shown as they are, markup is not interpreted.

    A column in which nothing stands is left out.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    cells = [list(row) for row in rows]
    used = [i for i in range(len(columns)) if not i or any(row[i] for row in cells)]
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for number in used:
        table.add_column(columns[number], overflow="fold", no_wrap=not number)
    for row in cells:
        table.add_row(*(Text(row[number]) for number in used))
    Console(highlight=False).print(table)


def names(title: str, items: Iterable[str]) -> None:
    """Print names in as many columns as there is room for, read from top to bottom."""
    from rich.columns import Columns
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    console.print(Text(f"{title}\n", "italic"))
    console.print(Columns([Text(item) for item in items], padding=(0, 3), column_first=True))
    console.print()
