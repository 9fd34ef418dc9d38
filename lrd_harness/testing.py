"""The conformance kit: what a metric plugin must pass, in one call.

from lrd_harness.testing import check_metric
check_metric(lrd_metrics()[0])
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from lrd_harness.contracts import Metric
from lrd_harness.errors import UnitError
from lrd_harness.measuring import Scores, measure, profile_layers

Arrays = Sequence[np.ndarray]
LAWS = ("rotation", "scaling", "permutation")


def random_states(n: int = 48, layers: int = 5, width: int = 12, seed: int = 0) -> list[np.ndarray]:
    """`layers` states (n, width) float64 that drift from layer to layer, as a model's do."""
    steps = np.random.default_rng(seed).normal(size=(layers, n, width))
    return list(steps.cumsum(0))


def check_metric(metric: Metric, /, **parameters: object) -> Scores:
    """Raise AssertionError, with the reason, where a pooled metric breaks its contract.

    Checked on random states: it can be called on arrays, twice alike, without changing them;
    every score is a finite float or a list of them that belongs to states, steps or inner states;
    its selection and layer-choice scores are there; and the laws that it declares hold.
    Returns the scores.
    """
    assert metric.needs == "pooled", f"{metric.name}: the kit knows pooled metrics only"
    unknown = metric.invariances - set(LAWS)
    assert not unknown, f"{metric.name} declares unknown laws: {sorted(unknown)}"
    states = random_states()
    before = [state.copy() for state in states]
    try:
        scores = measure(metric, states, **parameters)
    except UnitError as error:
        raise AssertionError(str(error)) from error
    _check_shapes(metric, scores, len(states))
    unchanged = all(np.array_equal(a, b) for a, b in zip(before, states, strict=True))
    assert unchanged, f"{metric.name} changes the states that it is given"
    _check_equal(metric, "a second call", scores, measure(metric, states, **parameters))
    for law in sorted(metric.invariances):
        changed = _CHANGES[law](states)
        _check_equal(metric, f"a {law}", scores, measure(metric, changed, **parameters))
    return scores


def _check_shapes(metric: Metric, scores: Mapping[str, float | list[float]], states: int) -> None:
    start = scores["start"]
    assert isinstance(start, (int, float))
    for name, value in scores.items():
        if isinstance(value, list):
            profile_layers(states - int(start), len(value), int(start))
        numbers = value if isinstance(value, list) else [value]
        assert all(map(math.isfinite, numbers)), f"{metric.name}.{name} is not finite: {value}"
    if metric.layer_choice is not None:
        found = scores.get(metric.layer_choice.score)
        assert isinstance(found, list), (
            f"{metric.name} chooses layers by {metric.layer_choice.score}, which is no list"
        )


def _check_equal(metric: Metric, what: str, expected: Scores, found: Scores) -> None:
    assert expected.keys() == found.keys(), f"{metric.name}: {what} changes which scores there are"
    for name, value in expected.items():
        close = np.allclose(value, found[name], rtol=1e-6, atol=1e-9)
        assert close, f"{metric.name}.{name}: {what} changes {value} to {found[name]}"


def _rotated(states: Arrays) -> list[np.ndarray]:
    width = states[0].shape[1]
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(width, width)))
    return [state @ turn for state in states]


def _permuted(states: Arrays) -> list[np.ndarray]:
    order = np.random.default_rng(2).permutation(len(states[0]))
    return [state[order] for state in states]


_CHANGES: dict[str, Callable[[Arrays], list[np.ndarray]]] = {
    "rotation": _rotated,
    "scaling": lambda states: [state * 3.7 for state in states],
    "permutation": _permuted,
}
