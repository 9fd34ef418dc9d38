"""What is to be said to the user from deep inside, where no display is at hand."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar

from lrd_harness.errors import short

_told: ContextVar[Callable[[str], None] | None] = ContextVar("told", default=None)


def bounded(text: str) -> str:
    """Text of which each line is short enough for a terminal, whatever names stand in it."""
    return "\n".join(map(short, text.split("\n")))


def tell(text: str) -> None:
    """Tell the user at once, on standard error."""
    print(bounded(text), file=sys.stderr, flush=True)


@contextlib.contextmanager
def told_to(show: Callable[[str], None]) -> Iterator[None]:
    """Within the block, `say` calls show(line)."""
    token = _told.set(show)
    try:
        yield
    finally:
        _told.reset(token)


def say(line: str) -> None:
    """Tell the user, where somebody listens."""
    show = _told.get()
    if show is not None:
        show(line)
