"""What a metric's lists belong to: declared, enforced, and where their values stand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lrd_harness import measure
from lrd_harness.contracts import Metric
from lrd_harness.errors import UnitError, UserError
from lrd_harness.manager import load
from lrd_harness.measuring import PER_TEXT, copies, finish
from lrd_harness.planning.parameters import random_labels, random_maps, random_sample
from lrd_harness.scores import Profile, Scores, split_scores

STATES = np.random.RandomState(0).randn(5, 20, 6)  # of 4 blocks
LATE = np.concatenate([np.ones((2, 20, 6)), STATES])  # of 6, whose first two states are alike


@pytest.mark.parametrize(
    ("of", "length", "states", "layers"),
    [
        ("states", 5, STATES, [0, 1, 2, 3, 4]),
        ("steps", 4, STATES, [0, 1, 2, 3]),
        ("inner states", 3, STATES, [1, 2, 3]),
        ("blocks", 4, STATES, [1, 2, 3, 4]),
        ("blocks", 4, LATE, [3, 4, 5, 6]),
        ("steps", 4, LATE, [2, 3, 4, 5]),
        ("inner states", 3, LATE, [3, 4, 5]),
        ("inner states", 0, STATES[:2], []),
    ],
)
def test_lists_belong_to_what_is_declared(of: Any, length: int, states: Any, layers: Any) -> None:
    given = {"x": [1.0] * length, "own": 2.0}
    for declared in (of, {"x": of, "own": "blocks"}, *([None] if of != "blocks" else [])):
        scores = measure(Metric("m", lambda states: given, of=declared), states)
        profile = scores["x"]
        assert isinstance(profile, Profile)
        assert (profile.of, profile.layers) == (of, layers)
        recorded = {"layers": layers, "values": [1.0] * length}
        told = {"of": "blocks"} if of == "blocks" else {}
        assert split_scores(scores).profiles == {"x": recorded | told}


@pytest.mark.parametrize(
    ("of", "length"),
    [("states", 4), ("steps", 5), ("inner states", 4), ("blocks", 5), ("blocks", 3), (None, 6)],
)
def test_a_list_of_another_length_is_the_metrics_named_fault(of: Any, length: int) -> None:
    given = {"x": [1.0] * length}
    says = rf"^m\.x: a list of {length} values"
    for needs in ("pooled", "tokens"):
        metric = Metric("m", lambda states: given, needs, of=of)
        with pytest.raises(UnitError, match=says):
            _ = measure(metric, STATES) if needs == "pooled" else finish(metric, [Scores(given, 5)])


def test_maps_are_of_blocks_and_converted_as_they_are_read() -> None:
    def first(maps: Any) -> dict[str, Any]:
        assert {m.dtype.itemsize for m in maps} == {8}
        return {"x": [float(m[:, :, 0].mean()) for m in maps], "heads": len(maps[0])}

    metric = Metric("m", first, "attention")
    maps = [m.astype(np.float32) for m in random_maps(6)]
    one = measure(metric, maps)
    whole = finish(metric, [one, measure(metric, random_maps(1))])
    profile: Any = whole["x"]
    assert (profile.of, profile.layers, whole["heads"]) == ("blocks", [1, 2, 3, 4], 3.0)
    np.testing.assert_allclose(whole["x"], [(m[:, :, 0].mean() + 1) / 2 for m in maps], rtol=1e-6)
    for bad, says in (
        ([*maps[:1], maps[1][:, :5]], r"block 2 has shape \(3, 5, 6\)"),
        ([*maps[:1], maps[1][:, :5, :5]], "block 2 has 5 x 5 rows, others have 6 x 6"),
        ([*maps[:1], maps[1] * np.nan], "NaN or infinity in block 2"),
        ([], "got no maps"),
    ):
        with pytest.raises(UnitError, match=says):
            measure(metric, bad)


def test_labels_become_classes_and_are_asked_for_in_words() -> None:
    def seen(states: Any, labels: Any, k: int = 1) -> dict[str, Any]:
        labels += 0  # a copy, which is the metric's own
        return {"classes": int(labels.max()) + 1, "second": labels.tolist()[1], "k": k}

    metric = Metric("m", seen, "labels")
    names = ["b", "a", "b", "c"] * 5
    for labels in (names, np.array(names), np.array([7, -1, 7, 0] * 5)):
        assert measure(metric, STATES, labels, k=3) == {"classes": 3, "second": 1, "k": 3}
    for labels, says in ((None, "m needs labels"), (names[1:], "m got 19 labels of 20 texts")):
        with pytest.raises(UserError, match=says):
            measure(metric, STATES, labels)
    with pytest.raises(UserError, match="nrs takes no labels"):
        measure("nrs", STATES, names)
    with pytest.raises(UserError, match=r"Did you mean k\? It has: k"):
        measure(metric, STATES, names, kk=3)


def test_all_shipped_metrics_say_what_their_lists_belong_to() -> None:
    for metric in load().all("metric"):
        times = 1 if copies(metric) or metric.needs == "labels" else 5
        values = measure(metric, random_sample(metric, times), random_labels(metric))
        scores = finish(metric, [values] * 8) if metric.needs in PER_TEXT else values
        of = metric.of
        assert of is not None
        for name, value in scores.items():
            if isinstance(value, list):
                assert value.of == (of if isinstance(of, str) else of[name])
