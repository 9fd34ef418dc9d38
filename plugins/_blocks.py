"""What pruning rules share: z-scores of block values, and a ranking that is sure of its ties."""

from __future__ import annotations

from math import fsum, isnan, sqrt
from typing import TYPE_CHECKING

from lrd_harness.errors import UnitError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from lrd_harness.evidence import BlockValues, Evidence

DIGITS = 12  # decimals of a score; what differs by less is rounding, and so a tie
FLAT = 1e-12  # a spread as small as this, relative to the values, is rounding


def z_scores(values: BlockValues) -> list[float]:
    """(x - mean) / population standard deviation over the blocks, 0 for all if that is 0.

    A block without a value is neutral, 0; it counts neither in the mean nor in the deviation.
    """
    known = [value for value in values if value is not None]
    if not known:
        return [0.0] * len(values)
    mean = fsum(known) / len(known)
    deviation = sqrt(fsum((value - mean) ** 2 for value in known) / len(known))
    if deviation <= FLAT * max(map(abs, known)):
        return [0.0] * len(values)
    return [0.0 if value is None else (value - mean) / deviation for value in values]


def weighted(evidence: Evidence, signs: Mapping[str, int]) -> list[float]:
    """The sum of the signed z-scores of some profiles: a score a block, block 1 first."""
    columns = [
        [sign * z for z in z_scores(profile(evidence, name))] for name, sign in signs.items()
    ]
    return [fsum(scores) for scores in zip(*columns, strict=True)]


def profile(evidence: Evidence, name: str) -> BlockValues:
    """The values of all blocks. Raises UnitError where they are missing, as if a metric failed."""
    try:
        values = evidence.profiles[name]
    except KeyError:
        raise UnitError(f"the rule needs the profile {name}, which there is not") from None
    if len(values) != evidence.blocks:
        raise UnitError(f"{name} has {len(values)} values for {evidence.blocks} blocks")
    return values


def highest(scores: Iterable[tuple[float, int]], m: int = 1) -> list[int]:
    """The m blocks of (score, block) with the highest scores, ascending; ties to the deeper one.

    NaN ranks below everything.
    """
    ranked = sorted(((_rounded(score), block) for score, block in scores), reverse=True)
    return sorted(block for _, block in ranked[:m])


def runs(candidates: Sequence[int], m: int) -> list[tuple[int, int]]:
    """First and last block of every run of m candidates that follow one another in the model."""
    ends = zip(candidates, candidates[m - 1 :], strict=False)
    return [(first, last) for first, last in ends if last - first == m - 1]


def _rounded(score: float) -> float:
    return float("-inf") if isnan(score) else round(score, DIGITS)
