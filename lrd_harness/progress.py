"""Progress on the terminal: bars where there is one, one line per stage where there is none."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

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
        shown = Progress(*_columns(unit), console=self.console, transient=True)
        with shown if self.console.is_terminal else nullcontext() as bars:
            bar = bars.add_task(text, total=None) if bars else None

            def advance(done: int, total: int | None) -> None:
                if bars or total != 0:
                    seen[:] = [(done, total)]
                if bars and bar is not None:
                    bars.update(bar, completed=done, total=total)

            yield advance
        seconds = time.monotonic() - begun
        for done, total in seen:
            if total != 0:
                amount = f"{done / 1e6:.1f} MB" if unit == "bytes" else f"{done:,} {unit}"
                self.line(f"{text}: {amount} ({seconds:.1f} s)")
        if not seen and seconds >= 1:
            self.line(f"{text} ({seconds:.1f} s)")


def _columns(unit: str) -> list[ProgressColumn]:
    size = unit == "bytes"
    return [
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn() if size else MofNCompleteColumn(),
        TextColumn("" if size else unit, markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    ]
