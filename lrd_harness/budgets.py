"""Which blocks a pruning rule may remove, and how many (LRD, arXiv 2605.12714).

Blocks are numbered 1..L everywhere. A budget is a share of the candidates, not of all blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import ceil
from operator import index
from typing import Any

from lrd_harness.errors import UnitError, UserError

BUDGETS = (0.10, 0.15, 0.20)
MOST_PROTECTED = 3  # blocks at either end, of a model deep enough
ROUNDING = 1e-9  # 0.55 x 20 is 11.000000000000002 in floats, and 11 blocks are meant


def runs(blocks: Iterable[int]) -> list[tuple[int, int]]:
    """Runs of consecutive numbers, first and last of each: (1, 2, 5) -> [(1, 2), (5, 5)]."""
    found: list[tuple[int, int]] = []
    for number in sorted(blocks):
        if found and found[-1][1] == number - 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


def written(blocks: Iterable[int]) -> str:
    """Block numbers as a user types them: (7, 12, 13, 14) -> "7,12-14"."""
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs(blocks))


def candidates(L: int, protect: int | None = None) -> list[int]:
    """The blocks that may go: all of 1..L but the first and the last `protect`, ascending.

    protect: how many blocks stay at either end, by default min(3, L // 4).
    Raises UserError for fewer than 2 blocks, a negative number, and where no block is left.
    """
    if L < 2:
        raise UserError(f"pruning needs a model of at least 2 blocks, this one has {L}")
    p = min(MOST_PROTECTED, L // 4) if protect is None else protect
    if p < 0:
        raise UserError(f"the number of protected blocks must be at least 0, not {p}")
    if 2 * p >= L:
        raise UserError(f"protecting {p} blocks at either end leaves none of {L} to remove")
    return list(range(p + 1, L - p + 1))


def count(budget: float, candidates: Sequence[int]) -> int:
    """How many of the candidates go at a budget: max(1, ceil(budget x candidates)).

    Raises UserError for a budget that is no share between 0 and 1 (both excluded), and for one
    that would remove all candidates.
    """
    if not 0 < budget < 1:  # asked in the positive, so that NaN fails as well
        percent = f"; {budget:g} % is {budget / 100:g}" if 1 < budget < 100 else ""
        raise UserError(f"a budget is a share between 0 and 1, not {budget:g}{percent}")
    total = len(candidates)
    m = max(1, ceil(budget * total - ROUNDING))
    if m >= total:
        raise UserError(f"a budget of {budget:g} removes all candidate blocks ({total} of {total})")
    return m


def name_of(removed: Sequence[int]) -> str:
    """A variant's name in the results."""
    return f"without {written(removed)}"


def checked(rule: str, answer: Any, allowed: Sequence[int], m: int) -> tuple[int, ...]:
    """A rule's answer, ascending. Raises UnitError unless it is m of the candidates."""
    try:
        removed = tuple(sorted(index(block) for block in answer))
    except TypeError:  # what is no list, or holds what is no whole number
        raise UnitError(f"the rule {rule} gave no list of block numbers") from None
    if len(set(removed)) != m or not set(removed) <= set(allowed):
        raise UnitError(f"the rule {rule} gave blocks {removed}, not {m} of the candidates")
    return removed
