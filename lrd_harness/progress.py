"""Progress on the terminal: bars where there is one, a line a stage where there is none."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from lrd_harness.errors import bounded, plain

Advance = Callable[[int, "int | None"], None]


class Display:
    """Shows the stages of a run on standard error, so that tables alone go to standard output."""

    def __init__(self, console: Console | None = None, quiet: bool = False) -> None:
        self.console = console or Console(stderr=True, quiet=quiet, highlight=False)

    def line(self, text: str) -> None:
        """Say something, above the bars."""
        self.console.print(bounded(text), markup=False, soft_wrap=True)

    @contextmanager
    def stage(self, text: str, unit: str = "bytes") -> Iterator[Advance]:
        """A stage of the work. Call the yielded function with (done, total or None).

        unit: "bytes", or what is counted ("texts"). A stage in which nothing was to do is silent.
        """
        text, begun = plain(text), time.monotonic()
        seen: list[tuple[int, int | None]] = []
        if not self.console.is_terminal:
            yield lambda done, total: seen.append((done, total)) if total != 0 else None
            self._summary(text, unit, seen[-1] if seen else None, time.monotonic() - begun)
            return
        with Progress(*_columns(unit), console=self.console, transient=True) as bars:
            bar = bars.add_task(text, total=None)

            def advance(done: int, total: int | None) -> None:
                seen[:] = [(done, total)]
                bars.update(bar, completed=done, total=total)

            yield advance
        self._summary(text, unit, seen[-1] if seen else None, time.monotonic() - begun)

    def _summary(
        self, text: str, unit: str, last: tuple[int, int | None] | None, seconds: float
    ) -> None:
        if seconds < 1 if last is None else last[1] == 0:
            return
        amount = ""
        if last is not None:
            amount = f": {last[0] / 1e6:.1f} MB" if unit == "bytes" else f": {last[0]:,} {unit}"
        self.line(f"{text}{amount} ({seconds:.1f} s)")


def _columns(unit: str) -> list[ProgressColumn]:
    count: ProgressColumn = DownloadColumn() if unit == "bytes" else MofNCompleteColumn()
    return [
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        count,
        TextColumn("" if unit == "bytes" else unit, markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    ]
