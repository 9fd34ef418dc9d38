"""What is to be said to the user from deep inside, where no display is at hand."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

_told: ContextVar[Callable[[str], None] | None] = ContextVar("told", default=None)


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
