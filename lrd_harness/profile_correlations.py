"""Which sources run alike over the layers of one model: Spearman's rho between aligned profiles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations_with_replacement

import numpy as np
from scipy import stats

from lrd_harness.choice_correlations import LEAST
from lrd_harness.profile_curves import over_models
from lrd_harness.profile_rows import Grouping, Place, ProfileCorrelation, members
from lrd_harness.rows import Key

Values = Mapping[int, float]  # layer -> value


def correlate(
    sources: Mapping[str, Mapping[Place, Values]], groups: Mapping[Grouping, Mapping[Place, str]]
) -> tuple[ProfileCorrelation, ...]:
    """Every pair of sources in every group in which some model has both; see ProfileCorrelation.

    Layers are aligned by their numbers: a step's value stands with the state that it leaves.
    """
    places = list(dict.fromkeys(place for own in sources.values() for place in own))
    first, second = np.triu_indices(len(sources), 1)
    rho = _all(list(sources.values()), places)[:, first, second]  # (places, pairs)
    names = list(sources)
    pairs = [(names[a], names[b]) for a, b in zip(first, second, strict=True)]
    found: list[ProfileCorrelation] = []
    for grouping, group, own in members(places, groups):
        found += _rows(grouping, group, pairs, [places[i][0] for i in own], rho[own])
    return tuple(found)


def _all(sources: Sequence[Mapping[Place, Values]], places: Sequence[Place]) -> np.ndarray:
    """Rho of all sources of each place: (places, s, s); those of the same layers in one batch."""
    found = np.full((len(places), len(sources), len(sources)), np.nan)
    alike: dict[tuple[tuple[int, ...], ...], list[int]] = {}
    for i, place in enumerate(places):
        layers = tuple(tuple(sorted(own.get(place, ()))) for own in sources)
        alike.setdefault(layers, []).append(i)
    for layers, own in alike.items():
        held = [s for s, there in enumerate(layers) if there]
        columns = sorted({layer for there in layers for layer in there})
        table = [
            [[sources[s][places[i]].get(layer, np.nan) for layer in columns] for s in held]
            for i in own
        ]
        found[np.ix_(own, held, held)] = rhos(np.array(table, dtype=np.float64))
    return found


def rhos(table: np.ndarray) -> np.ndarray:
    """Spearman's rho between all sources of each batch: (m, s, s) of values (m, s, layers).

    NaN: no value; each batch has its values in the same places. Over the layers that both sources
    have; NaN where these are fewer than 4, or one source is constant over them. Sources that are
    there on the same layers are ranked at once.
    """
    found = np.full((*table.shape[:2], table.shape[1]), np.nan)
    masks, of = np.unique(~np.isnan(table[0]), axis=0, return_inverse=True)
    of = of.reshape(-1)
    for a, b in combinations_with_replacement(range(len(masks)), 2):
        common = masks[a] & masks[b]
        if common.sum() < LEAST:
            continue
        i, j = np.flatnonzero(of == a), np.flatnonzero(of == b)
        x, y = (_unit(table[:, side][:, :, common]) for side in (i, j))
        found[:, i[:, None], j] = x @ y.swapaxes(1, 2)
        found[:, j[:, None], i] = y @ x.swapaxes(1, 2)
    return np.asarray(np.clip(found, -1, 1))


def _unit(values: np.ndarray) -> np.ndarray:
    """Average ranks along the last axis, centred and of length 1; NaN where it is constant."""
    ranks = stats.rankdata(values, axis=-1) - (values.shape[-1] + 1) / 2
    length = np.linalg.norm(ranks, axis=-1, keepdims=True)
    return np.asarray(ranks / np.where(length > 0, length, np.nan))


def _rows(
    grouping: Grouping,
    group: str,
    pairs: Sequence[tuple[str, str]],
    keys: Sequence[Key],
    rho: np.ndarray,
) -> Iterator[ProfileCorrelation]:
    """Of one group: rho (places, pairs), keys the places' models."""
    numbers: dict[Key, int] = {}
    of = np.array([numbers.setdefault(key, len(numbers)) for key in keys])
    models = over_models(np.logical_or, ~np.isnan(rho), of).sum(axis=0)
    counts = np.sum(~np.isnan(rho), axis=0)
    ordered = np.sort(rho, axis=0)  # NaN last
    low, middle, high = (_quantile(ordered, counts, share) for share in (0.25, 0.5, 0.75))
    for p in np.flatnonzero(counts).tolist():
        yield ProfileCorrelation(
            grouping,
            group,
            *pairs[p],
            rho=float(middle[p]),
            low=float(low[p]),
            high=float(high[p]),
            pairs=int(counts[p]),
            models=int(models[p]),
        )


def _quantile(ordered: np.ndarray, counts: np.ndarray, share: float) -> np.ndarray:
    """Of the first `counts` of each column, ascending, as `numpy.quantile` has it by default."""
    place = np.maximum(counts - 1, 0) * share
    below = np.floor(place).astype(np.int64)
    above = np.minimum(below + 1, np.maximum(counts - 1, 0))
    columns = np.arange(ordered.shape[1])
    first, second = ordered[below, columns], ordered[above, columns]
    return np.asarray(first + (second - first) * (place - below))
