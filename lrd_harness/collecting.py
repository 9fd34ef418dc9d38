"""A pause for Python's garbage collector, for work that makes millions of rows and no garbage."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """While this lasts, cycles of objects are not looked for; also a decorator of a function.

    Each search goes through every row that there is, again and again as more are made: a third of
    the time that a board of a million scores takes. What has no cycles is freed as ever.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
