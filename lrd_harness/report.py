"""What is told of results: a Report of Tables, which every form renders without knowing them.

A statistic is a function that gives a Table. It then stands in the terminal, Markdown, CSV, JSON,
LaTeX, the tidy export and the page; tests and downloads find it by its name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from lrd_harness.errors import unknown

if TYPE_CHECKING:
    import pandas as pd

Cell = str | int | float | bool | None
Row = Mapping[str, Any]  # column name -> Cell; a list of numbers where a column says `form="list"`
# Kinds of tasks that have a board of their own -> how it calls its models. Where it stands beside
# another, names of its tables begin with the kind ("base.ranking"), its sentences with the words.
BOARDS: Mapping[str, str] = {"base": "Base models", "image": "Image models"}

_OF_TEXTS = (  # but in names of files and tasks
    r"(?P<option>--texts FILE)|(?<![\w./:`-])(?P<a>a )?text(?P<s>s?)(?![\w/-]|:\S|\.\w)"
)


@dataclass(frozen=True)
class Column:
    """A column of a table.

    name: the key of its cells in the rows, and its name for programs: "score", "rho".
    label: its heading for people; the name where it is empty. Headings get the unit and an arrow.
    unit: "radians", "0 to 1", "models"; "" for none.
    best: which of its values is the better one; "" where neither is.
    form: how people see its numbers, a format specification (".4f", "+.2f", ".2g", "%"); "place"
        for ranks, which get "=" where several share one; "" as they are. Programs get full numbers.
    error: the column that holds the standard error of this one, shown behind "±".
    key: it names the row: text on the left, repeated where a table is split to fit a width.
    rest: where a table is too wide, columns of a higher one go behind the others.
    tied: where a table is split, it stays with the column before it.
    shown: whether people see it; programs see all columns.
    """

    name: str
    label: str = ""
    unit: str = ""
    best: Literal["max", "min", ""] = ""
    form: str = ""
    error: str = ""
    key: bool = False
    rest: int = 0
    tied: bool = False
    shown: bool = True

    @property
    def heading(self) -> str:
        """Label and arrow: "mean score ↑"."""
        arrow = {"max": " ↑", "min": " ↓", "": ""}[self.best]
        return f"{self.label or self.name}{arrow}"


@dataclass(frozen=True)
class Table:
    """Rows under named columns.

    name: how it is found, unique in its report: "ranking", "agreement", "image.ranking".
    title: what it is, for people; columns: what its rows have, in the order shown.
    rows: one mapping per row, from column name to cell; None where there is no value.
    caption: sentences on how to read it: what its columns mean, units, what is uncertain.
    shown: whether people see it; programs see all tables.

    Examples
    --------
    >>> columns = (Column("model", key=True), Column("score", best="max", form=".2f"))
    >>> table = Table("scores", "Scores", columns, [{"model": "a", "score": 0.5}])
    >>> table.column("score"), columns[1].heading
    ([0.5], 'score ↑')
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: Sequence[Row]
    caption: tuple[str, ...] = ()
    shown: bool = True

    def column(self, name: str) -> list[Any]:
        """The cells of one column, one per row. Raises KeyError for an unknown column."""
        if name not in {column.name for column in self.columns}:
            raise KeyError(name)
        return [row.get(name) for row in self.rows]

    @property
    def frame(self) -> pd.DataFrame:
        """All rows and all columns, those too that people do not see, with full numbers."""
        import pandas as pd

        return pd.DataFrame({c.name: self.column(c.name) for c in self.columns})


def worded(sentence: str, modality: str, *names: str) -> str:
    """What is said of texts, said of the inputs of a modality; these names in it stay as they are.

    >>> worded("my/texts: a text's 10 nearest texts, by --texts FILE", "image")
    "my/texts: an image's 10 nearest images, by --images DIR"
    """
    if modality == "text":
        return sentence
    kept = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True) if name)

    def say(match: re.Match[str]) -> str:
        if match["kept"] or match["option"]:
            return match["kept"] or "--images DIR"
        return f"{'an ' * bool(match['a'])}image{match['s']}"

    return re.sub(rf"(?<!\w)(?P<kept>{kept or '(?!)'})(?!\w)|{_OF_TEXTS}", say, sentence)


def placed(name: str) -> tuple[str, str]:
    """Of which board a table is, "" for the main one, and its name there.

    >>> placed("image.ranking"), placed("pruning.1")
    (('image', 'ranking'), ('', 'pruning.1'))
    """
    board, _, rest = name.partition(".")
    return (board, rest) if board in BOARDS else ("", name)


def inputs(board: str) -> str:
    """What the tasks of a kind are made of.

    >>> inputs("image"), inputs("base")
    ('images', 'texts')
    """
    return "images" if board == "image" else "texts"


def listing(name: str, title: str, rows: Sequence[Row], *keys: str) -> Table:
    """A table for programs, which people do not see: a column for each name in the first row.

    >>> [column.name for column in listing("sizes", "Sizes", [{"model": "a", "n": 3}]).columns]
    ['model', 'n']
    """
    columns = tuple(Column(column, key=column in keys) for column in (rows[0] if rows else ()))
    return Table(name, title, columns, rows, shown=False)


@dataclass(frozen=True)
class Report:
    """A titled sequence of tables, and what must be said beside them.

    title: of the whole; tables: in the order in which people read them.
    answer: what the reader came for, in a few plain sentences, the first one first: what is best,
        whether it can be told from the next, and what to distrust. Forms show it at the top.
    notes: cautions in plain sentences, the weightiest first.
    errors: what failed, one sentence each.
    facts: what programs may want beside the tables: versions, the kind of board, settings.

    Examples
    --------
    >>> report = Report("Sizes", (listing("sizes", "Sizes", [{"model": "a", "n": 3}]),))
    >>> report.table("sizes").rows, report.get("scores")
    ([{'model': 'a', 'n': 3}], None)
    >>> report.shown, [table.name for table in report.only(["sizes"]).shown]
    ((), ['sizes'])
    """

    title: str
    tables: tuple[Table, ...] = ()
    answer: tuple[str, ...] = field(default=(), kw_only=True)
    notes: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shown(self) -> tuple[Table, ...]:
        """The tables that people see: those that are shown and have rows."""
        return tuple(table for table in self.tables if table.shown and table.rows)

    def table(self, name: str) -> Table:
        """The table of that name. Raises KeyError where there is none."""
        table = self.get(name)
        if table is None:
            raise KeyError(name)
        return table

    def get(self, name: str) -> Table | None:
        """The table of that name, or None."""
        return next((table for table in self.tables if table.name == name), None)

    def frame(self, name: str) -> pd.DataFrame:
        """The table of that name as a data frame. Raises UserError where there is none."""
        table = self.get(name)
        if table is None:
            known = [table.name for table in self.tables]
            raise unknown("table", name, known, f"It has: {', '.join(known)}.")
        return table.frame

    def of(self, modality: str, *names: str) -> Report:
        """The same report, worded for inputs of a modality; these names stay as they are."""
        if modality == "text":
            return self

        def say(sentence: str) -> str:
            return worded(sentence, modality, *names)

        def table(of: Table) -> Table:
            columns = (replace(c, label=say(c.label or c.name)) for c in of.columns)
            rows = [{**r, **{k: say(r[k]) for k in ("label", "stage") if k in r}} for r in of.rows]
            caption = tuple(map(say, of.caption))
            return Table(of.name, say(of.title), tuple(columns), rows, caption, of.shown)

        said: Any = {n: tuple(map(say, getattr(self, n))) for n in ("answer", "notes", "errors")}
        return replace(self, title=say(self.title), tables=tuple(map(table, self.tables)), **said)

    def only(self, names: Sequence[str]) -> Report:
        """The same report with these tables alone, in this order. Raises KeyError.

        Of a table that is for programs, people see all columns.
        """

        def seen(table: Table) -> Table:
            columns = table.columns
            if not any(column.shown for column in columns):
                columns = tuple(
                    replace(c, shown=True, key=c.key or not n) for n, c in enumerate(columns)
                )
            return replace(table, columns=columns, shown=True)

        return replace(self, tables=tuple(seen(self.table(name)) for name in names))
