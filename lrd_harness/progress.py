"""Progress on standard error: bars on a terminal; elsewhere a line a stage, and one a minute."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

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


MINUTE = 60.0  # seconds between two signs of life of a long stage


def duration(seconds: float) -> str:
    """Seconds for reading.

    >>> duration(4.25), duration(59.7), duration(90), duration(7290)
    ('4 s', '1 min', '1 min 30 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    large, small, units = (*divmod(whole, 60), ("min", "s"))
    if whole >= 3600:
        large, small, units = (*divmod(whole // 60, 60), ("h", "min"))
    return f"{large} {units[0]}" + (f" {small} {units[1]}" if small else "")


@dataclass(eq=False)
class Stage:
    """A stage of the work; begun: by the clock. seen: the latest (done, total), if it counts."""

    text: str
    unit: str
    begun: float
    seen: tuple[int, int | None] | None = None

    def amount(self, done: int) -> str:
        """How much is done, in words."""
        return f"{done / 1e6:.1f} MB" if self.unit == "bytes" else f"{done:,} {self.unit}"

    def sign(self, now: float) -> str:
        """What is done of how much, for how long, and how long it will take at that speed."""
        spent, (done, total) = now - self.begun, self.seen or (0, None)
        parts = [f"{duration(spent)} so far"]
        if self.seen is not None:
            reached = self.amount(done) if self.unit == "bytes" or not total else f"{done:,}"
            parts.insert(0, f"{reached} of {self.amount(total)}" if total else reached)
        if total and 0 < done < total:
            parts.append(f"about {duration(spent / done * (total - done))} to go")
        return f"{self.text}: {', '.join(parts)}"

    def end(self, now: float) -> str:
        """What was done, and how long it took; "" for nothing to speak of."""
        spent = now - self.begun
        if self.seen is None:
            return f"{self.text} ({spent:.1f} s)" if spent >= 1 else ""
        done, total = self.seen
        return f"{self.text}: {self.amount(done)} ({spent:.1f} s)" if total != 0 else ""


class Display:
    """Shows the stages of a run on standard error, so that tables alone go to standard output."""

    def __init__(self, console: Console | None = None, quiet: bool = False) -> None:
        self.console = console or Console(stderr=True, quiet=quiet, highlight=False)
        self._stages: list[Stage] = []  # the innermost last

    def line(self, text: str) -> None:
        """Say something, above the bars."""
        self.console.print(bounded(text), markup=False, soft_wrap=True)

    @contextmanager
    def stage(self, text: str, unit: str = "bytes") -> Iterator[Advance]:
        """A stage of the work. Call the yielded function with (done, total or None).

        unit: "bytes", or what is counted ("texts"). A stage in which nothing was to do is silent;
        a long one gives a sign of life each minute where there is no terminal.
        """
        stage, within = Stage(plain(text), unit, time.monotonic()), bool(self._stages)
        shown = Progress(*_columns(unit), console=self.console, transient=True)
        self._stages.append(stage)
        try:
            with shown if self.console.is_terminal else self._signs(stage) as bars:
                bar = bars.add_task(stage.text, total=None) if bars else None

                def advance(done: int, total: int | None) -> None:
                    if bars or total != 0:
                        stage.seen = done, total
                    if bars and bar is not None:
                        bars.update(bar, completed=done, total=total)

                yield advance
        finally:
            self._stages.remove(stage)
        said = stage.end(time.monotonic())
        if said and not (within and stage.seen is None):  # the one around it says how long it took
            self.line(said)

    @contextmanager
    def _signs(self, stage: Stage) -> Iterator[None]:
        """While the block runs, a line a minute of the stage, unless there is another within it."""
        if self.console.quiet:
            yield
            return
        ended = threading.Event()

        def speak() -> None:
            while not ended.wait(MINUTE):
                if self._stages[-1:] == [stage]:
                    self.line(stage.sign(time.monotonic()))

        thread = threading.Thread(target=speak, name=f"progress of {stage.text}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


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
