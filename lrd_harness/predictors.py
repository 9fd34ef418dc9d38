"""How well each predictor orders the models: the metrics, and what needs no metric."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from typing import Literal

from lrd_harness import releases, stats
from lrd_harness.contracts import Choice
from lrd_harness.panel import MeanRanks, Panel, mean_ranks
from lrd_harness.results import Key

LOG_PARAMETERS, FRENET_RANK, RELEASED = "log parameters", "frenet.rank", "released later"
DATED = 4  # models whose release date is known, for it to be a baseline


@dataclass(frozen=True)
class Correlation:
    """Spearman's rho of a predictor's order with the mean score, + = agrees, over n models.

    rho and its permutation p-value (two-sided) are None for n < 3 or where all are level.
    """

    name: str
    kind: Literal["metric", "baseline"]
    rho: float | None
    p: float | None
    n: int


def correlations(
    panel: Panel, actual: Mapping[Key, float | None], order: Mapping[str, MeanRanks]
) -> tuple[Correlation, ...]:
    """Each predictor's agreement with the mean score: the metrics, then what needs no metric.

    `frenet.rank` is ranked within tasks as a metric's score is, higher = better.
    """
    frenet = mean_ranks(panel.frenet_rank, panel.models, Choice("rank", "max"))
    baselines = {**sizes(panel), FRENET_RANK: negated(frenet), **dates(panel)}
    return (
        *(_correlation(name, "metric", negated(ranks), actual) for name, ranks in order.items()),
        *(_correlation(name, "baseline", values, actual) for name, values in baselines.items()),
    )


def sizes(panel: Panel) -> dict[str, dict[Key, float | None]]:
    """What a model's size predicts: log parameters, log width, depth (blocks); None: not known."""
    models = panel.models.items()
    return {
        LOG_PARAMETERS: {key: log(m.parameters) if m.parameters else None for key, m in models},
        "log width": {key: log(m.width) if m.width else None for key, m in models},
        "depth": {key: float(m.blocks) if m.blocks else None for key, m in models},
    }


def dates(panel: Panel) -> dict[str, dict[Key, float | None]]:
    """What a model's release date predicts, the later the better; {} where 4 are not known."""
    known = {key: m.released for key, m in panel.models.items() if m.released}
    if len(known) < DATED:
        return {}
    days = {key: releases.middle(released) for key, released in known.items()}
    return {RELEASED: {key: days.get(key) for key in panel.models}}


def negated(ranks: MeanRanks) -> MeanRanks:
    """Rank 1 is the best, a score of 1 the worst: turned so that + means that they agree."""
    return {key: None if rank is None else -rank for key, rank in ranks.items()}


def _correlation(
    name: str,
    kind: Literal["metric", "baseline"],
    predicted: Mapping[Key, float | None],
    actual: Mapping[Key, float | None],
) -> Correlation:
    x, y = [predicted[key] for key in actual], list(actual.values())
    n = len(stats.paired(x, y)[0])
    return Correlation(name, kind, stats.spearman(x, y), stats.permutation_p(x, y), n)
