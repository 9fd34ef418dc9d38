"""The pruning rules: which of the candidate blocks go.

The higher a block's score, the earlier it is removed, ties to the deeper block. Every rule returns
m of the ascending candidates, ascending.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import fsum, inf, isnan, sqrt
from typing import TYPE_CHECKING

from lrd_harness.contracts import Pruner
from lrd_harness.errors import UnitError
from lrd_harness.hookspecs import hookimpl

if TYPE_CHECKING:
    from lrd_harness.contracts import BlockValues, Evidence


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
    rounded = ((-inf if isnan(score) else round(score, DIGITS), block) for score, block in scores)
    return sorted(block for _, block in sorted(rounded, reverse=True)[:m])


# Whether a high z-score of a profile speaks for (+1) or against (-1) removing the block.
FRENET = {"frenet.speed": -1, "frenet.curvature": -1}
NRS = {"nrs.jaccard": +1}
GFMI = {"gfmi.auc": +1}
COMPOSITE = FRENET | NRS | GFMI


@hookimpl
def lrd_pruners() -> list[Pruner]:
    """Register the rules."""
    return [
        _by_profiles("frenet", FRENET, "removes blocks that move the texts' subspace least"),
        _by_profiles("nrs", NRS, "removes blocks that keep each text's nearest neighbours"),
        _by_profiles("gfmi", GFMI, "removes blocks whose output is most like the last state"),
        _by_profiles("composite", COMPOSITE, "the sum of frenet, nrs and gfmi"),
        Pruner("random", random, seeded=True, description="removes blocks at random, by seed"),
        Pruner("last", last, description="removes the deepest blocks that may go"),
        Pruner(
            "block_influence",
            block_influence,
            description="removes blocks that change the tokens' direction least (ShortGPT)",
        ),
        Pruner(
            "angular",
            angular,
            nested=False,
            description="removes the run of blocks that turns the last token least",
        ),
        Pruner(
            "greedy",
            greedy,
            description="removes, again and again, the block that the output misses least",
        ),
        Pruner(
            "ablation",
            ablation,
            default=False,
            description="removes the blocks that the output misses least, each taken out alone",
        ),
    ]


def _by_profiles(name: str, signs: Mapping[str, int], description: str) -> Pruner:
    """A rule that removes the blocks with the highest sum of signed z-scores (arXiv 2605.12714).

    z-scores are over all L blocks; a block that a profile has no value for is neutral in it.
    """

    def choose(evidence: Evidence, candidates: Sequence[int], m: int, seed: int) -> Sequence[int]:
        scores = weighted(evidence, signs)
        return highest(((scores[block - 1], block) for block in candidates), m)

    metrics = tuple(dict.fromkeys(column.partition(".")[0] for column in signs))
    return Pruner(name, choose, metrics=metrics, description=description)


def random(evidence: Evidence, candidates: Sequence[int], m: int, seed: int) -> list[int]:
    """The first m of a permutation of the candidates by `numpy.random.default_rng(seed)`."""
    import numpy as np

    order = np.random.default_rng(seed).permutation(np.asarray(candidates, dtype=np.int64))
    return sorted(order[:m].tolist())


def last(evidence: Evidence, candidates: Sequence[int], m: int, seed: int) -> list[int]:
    """The m deepest candidates."""
    return sorted(candidates)[-m:]


def block_influence(evidence: Evidence, candidates: Sequence[int], m: int, seed: int) -> list[int]:
    """The candidates of least block influence (ShortGPT, arXiv 2403.03853)."""
    return least(profile(evidence, "block_influence"), candidates, m)


def ablation(evidence: Evidence, candidates: Sequence[int], m: int, seed: int) -> list[int]:
    """The candidates that the output misses least, each taken out alone."""
    return least(profile(evidence, "ablation"), candidates, m)


def least(values: BlockValues, candidates: Sequence[int], m: int) -> list[int]:
    """The m candidates of the least values of all blocks, ascending; ties to the deeper one.

    A block without a value is kept as long as there are others.
    """
    known = ((value, block) for block in candidates if (value := values[block - 1]) is not None)
    chosen = highest(((-value, block) for value, block in known), m)
    unknown = [block for block in candidates if values[block - 1] is None]
    return sorted(chosen + unknown[len(unknown) - (m - len(chosen)) :])


def angular(evidence: Evidence, candidates: Sequence[int], m: int, seed: int) -> list[int]:
    """The run of m adjacent candidates with the least angle across it (arXiv 2403.17887).

    Of equal angles the deeper run. Raises UnitError where no m candidates are adjacent.
    """
    ends = zip(candidates, candidates[m - 1 :], strict=False)
    adjacent = [(first, last) for first, last in ends if last - first == m - 1]
    if not adjacent:
        raise UnitError(f"no {m} of the candidate blocks follow one another")
    first = highest((-evidence.angle(first, last), first) for first, last in adjacent)[0]
    return list(range(first, first + m))


def greedy(evidence: Evidence, candidates: Sequence[int], m: int, seed: int) -> list[int]:
    """m times, the candidate whose removal leaves the agreement with the full model highest.

    Asks for the agreements of a step together, with the blocks in ascending order, and for those
    of a smaller m first: evidence that remembers them makes larger budgets cheap.
    """
    removed: list[int] = []
    for _ in range(m):
        left = [block for block in candidates if block not in removed]
        alike = evidence.agreements([sorted([*removed, block]) for block in left])
        removed += highest(zip(alike, left, strict=True))
    return sorted(removed)
