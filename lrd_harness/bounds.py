"""Numbers that multiply work or memory: whole, at least so much, and never absurdly large.

The bounds are far above what anyone needs. They are there so that a slip of the keyboard, or a
damaged file, ends in a line instead of a machine that computes for ever.
"""

from __future__ import annotations

import os
from typing import Any

from lrd_harness.errors import UserError

COUNT = 10**9  # texts, tokens, documents
DRAWS = 10_000  # repetitions: half-samples, random choices
STEPS = 1_000  # of a probe, of budgets
TOKENS = 10**6  # of one text
SLICES = 10**6
EXAMPLES = 1_000  # in a prompt
SEED = 2**32 - 1
BLOCKS = 10_000
WIDTH = 10**9
PARAMETERS = 2**63 - 1


def check_whole(value: Any, what: str, least: int, most: int) -> None:
    """Raise UserError unless it is a whole number within the bounds; `what` begins the message."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < least:
        mark = "," if what.endswith(" is") else ":"
        raise UserError(f"{what} {shown(value)}{mark} not a whole number of at least {least}")
    if value > most:
        raise UserError(f"{what} {shown(value)}: at most {most:,} is possible")


def processes() -> int:
    """How many a run may start on this machine: four a core, and 16 in any case."""
    return max(16, 4 * (os.cpu_count() or 1))


def shown(value: Any) -> str:
    """A value for a message; of whole numbers too long for one, about how large they are."""
    if isinstance(value, int) and abs(value) >= 10**30:
        return "beyond 10^30" if value > 0 else "below -10^30"
    return f"{value!s:.60}"
