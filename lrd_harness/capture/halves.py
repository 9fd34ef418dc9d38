"""Halves of the texts: metrics on some of the texts that were read, and what rules choose there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch

from lrd_harness import measuring
from lrd_harness.blocks import checked
from lrd_harness.capture.layers import StoredStates
from lrd_harness.capture.samples import Samples
from lrd_harness.contracts import Evidence, Pruner, Text
from lrd_harness.measuring import PER_TEXT, PlannedMetric
from lrd_harness.scores import Scores

Rows = np.ndarray  # ascending numbers of texts


def half(n: int, draw: int, seed: int = 0) -> Rows:
    """A half of n texts: ascending numbers (n // 2,), by seed and number of the draw."""
    return np.sort(np.random.default_rng([seed, draw]).permutation(n)[: n // 2])


def statistic(
    samples: Samples,
    item: PlannedMetric,
    texts: Sequence[Text],
    labels: Callable[[], Sequence[Any]],
    held: Callable[[StoredStates], list[np.ndarray]],
    pooled: StoredStates | None = None,
) -> Callable[[Rows | None], tuple[Scores, int]]:
    """A metric as a function of which texts it is measured on; None: all.

    It needs the states alone: the model may go. held: reads states into memory (`in_memory`);
    pooled: those of pooled metrics, which are held once for all that see the same.
    """
    if item.metric.needs in PER_TEXT:
        tokens = samples.tokens(item)
        return lambda rows: tokens.finished(texts if rows is None else [texts[i] for i in rows])
    reading = samples.reading(item, texts, labels)
    stored = reading.states
    if pooled is not None and item.metric.needs == "pooled" and pooled.chosen == stored.chosen:
        stored = pooled

    def measure(rows: Rows | None) -> tuple[Scores, int]:
        there = rows is None or np.isin(reading.rows, rows)
        chosen = np.flatnonzero(np.broadcast_to(there, len(reading.rows)))
        of = None if reading.labels is None else [reading.labels[i] for i in chosen.tolist()]
        some = _Some(held(stored), chosen, samples.sampling.device)
        return measuring.measure(item.metric, some, of, **item.parameters), len(chosen)

    return measure


def in_memory(stored: StoredStates) -> list[np.ndarray]:
    """By layer, float32: (n, d_l), of views (n, q, d_l)."""
    layers = map(stored.rows, range(len(stored)))
    count = stored.views
    return [rows.reshape(-1, count, rows.shape[1]) if count else rows for rows in layers]


class _Some:
    """Some rows of the states of all layers, copied when a layer is read."""

    def __init__(self, states: Sequence[np.ndarray], rows: Rows, device: str) -> None:
        self._states, self._rows, self._device = states, rows, device

    def __len__(self) -> int:
        return len(self._states)

    def __getitem__(self, layer: int) -> torch.Tensor:
        return torch.from_numpy(self._states[layer][self._rows]).to(self._device)


def choices(
    rule: Pruner, parts: Iterable[Evidence], allowed: Sequence[int], m: int
) -> list[tuple[int, ...]]:
    """What a rule chooses on each part of the texts where it can.

    Raises what it raises if it can on none.
    """
    chosen, fault = list[tuple[int, ...]](), None
    for part in parts:
        try:
            answer = rule.choose(part, list(allowed), m, 0)
            chosen.append(checked(rule.name, answer, allowed, m))
        except Exception as error:  # as too few texts for a metric
            fault = error
    if fault is not None and not chosen:
        raise fault
    return chosen
