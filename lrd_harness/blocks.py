"""Blocks: which a pruning rule may remove and how many, and what it may ask of a model.

Blocks are numbered 1..L everywhere; block l makes the transition from state l-1 to state l. A list
of block values has length L, and None where a block has no value. A budget is a share of the
candidates, not of all blocks (arXiv 2605.12714).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from itertools import groupby
from math import ceil, fsum
from operator import index
from typing import Any, Literal, get_args

from lrd_harness.contracts import BlockValues, Evidence
from lrd_harness.errors import UnitError, UserError
from lrd_harness.scores import Profile

BUDGETS = (0.10, 0.15, 0.20)
MOST_PROTECTED = 3  # blocks at either end, of a model deep enough
ROUNDING = 1e-9  # 0.55 x 20 is 11.000000000000002 in floats, and 11 blocks are meant


def runs(blocks: Iterable[int]) -> list[tuple[int, int]]:
    """Runs of consecutive numbers, first and last of each.

    >>> runs([1, 2, 5])
    [(1, 2), (5, 5)]
    """
    consecutive = groupby(enumerate(sorted(blocks)), key=lambda place: place[1] - place[0])
    groups = [[number for _, number in group] for _, group in consecutive]
    return [(group[0], group[-1]) for group in groups]


def written(blocks: Iterable[int]) -> str:
    """Block numbers as a user types them.

    >>> written([7, 12, 13, 14])
    '7,12-14'
    """
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs(blocks))


def candidates(L: int, protect: int | None = None) -> list[int]:
    """The blocks that may go: all of 1..L but the first and the last `protect`, ascending.

    protect: how many blocks stay at either end, by default min(3, L // 4).
    Raises UserError for fewer than 2 blocks, a negative number, and where no block is left.

    >>> candidates(12), candidates(4)
    ([4, 5, 6, 7, 8, 9], [2, 3])
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

    >>> count(0.1, candidates(30)), count(0.2, candidates(30))
    (3, 5)
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
    """A variant's name in the results.

    >>> name_of([3, 7, 8])
    'without 3,7-8'
    """
    return f"without {written(removed)}"


def checked(rule: str, answer: Any, allowed: Sequence[int], m: int) -> tuple[int, ...]:
    """A rule's answer, ascending. Raises UnitError unless it is m of the candidates.

    >>> checked("last", [5, 4], allowed=[2, 3, 4, 5], m=2)
    (4, 5)
    """
    try:
        removed = tuple(sorted(index(block) for block in answer))
    except TypeError:  # what is no list, or holds what is no whole number
        raise UnitError(f"the rule {rule} gave no list of block numbers") from None
    if len(set(removed)) != m or not set(removed) <= set(allowed):
        raise UnitError(f"the rule {rule} gave blocks {removed}, not {m} of the candidates")
    return removed


Indexing = Literal["block", "paper"]

# The places, relative to block l, whose mean is the block's value, of a profile over the states,
# over the steps (each named by its earlier state) and over the inner states.
_PLACES: dict[Indexing, tuple[tuple[int, ...], ...]] = {
    "block": ((0,), (-1,), (-1, 0)),
    "paper": ((0,), (-1, 0), (0,)),
}


class Later:
    """Evidence that is made when a rule first asks for any of it; `random` and `last` never do."""

    def __init__(self, make: Callable[[], Evidence]) -> None:
        self._evidence = cache(make)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._evidence(), name)


def block_profiles(
    metric: str,
    profiles: Mapping[str, Mapping[str, Any]],
    L: int,
    start: int = 0,
    indexing: str = "block",
) -> dict[str, list[float | None]]:
    """A metric's recorded profiles as values of blocks, named METRIC.SCORE.

    profiles: by score {"layers": state numbers, "values": ...}, as `split_scores` gives and
    the journal holds them. start: the first state that was measured, the record's own `start`;
    with it the length of a profile says whether it is of states, steps or inner states; one of
    "blocks" says so itself ("of"), and is taken as it is.
    indexing="block": of a profile over steps the step from state l-1 to l, over
    inner states the mean of those at l-1 and l, over states that at l.
    indexing="paper": the value at state l is taken for block l's, a step's being the mean of the
    steps into and out of the state. Means are over what there is; None where there is nothing.
    Raises UserError for another indexing, UnitError or ValueError for a profile that does not fit.

    >>> speed = {"layers": [0, 1, 2], "values": [0.5, 0.25, 0.125]}
    >>> block_profiles("frenet", {"speed": speed}, L=3)
    {'frenet.speed': [0.5, 0.25, 0.125]}
    """
    if indexing not in get_args(Indexing):
        raise UserError(f"indexing must be 'block' or 'paper', not '{indexing}'")
    of_blocks: dict[str, list[float | None]] = {}
    for score, profile in profiles.items():
        layers, values = profile["layers"], profile["values"]
        of, measured = profile.get("of"), L + 1 - start
        if list(layers) != Profile.fitted(values, measured, start, of).layers:
            raise ValueError(f"{metric}.{score} is not a profile of {L} blocks from {start} on")
        at = {n: v for n, v in zip(layers, values, strict=True) if v is not None}
        fewer = 0 if of == "blocks" else measured - len(values)  # block l writes state l
        places = _PLACES["paper" if indexing == "paper" else "block"][fewer]
        of_blocks[f"{metric}.{score}"] = [
            _mean(at[block + place] for place in places if block + place in at)
            for block in range(1, L + 1)
        ]
    return of_blocks


def averaged(tasks: Sequence[Mapping[str, BlockValues]]) -> dict[str, list[float | None]]:
    """The mean over tasks of every block value, over those tasks that have one.

    A profile that some tasks lack, as where their metric failed, is averaged over the others.

    >>> averaged([{"nrs.jaccard": [None, 0.5]}, {"nrs.jaccard": [None, 1.0]}])
    {'nrs.jaccard': [None, 0.75]}
    """
    names = dict.fromkeys(name for profiles in tasks for name in profiles)
    return {
        name: [
            _mean(value for value in values if value is not None)
            for values in zip(*(p[name] for p in tasks if name in p), strict=True)
        ]
        for name in names
    }


def _mean(values: Iterable[float]) -> float | None:
    numbers = list(values)
    return fsum(numbers) / len(numbers) if numbers else None
