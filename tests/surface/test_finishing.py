"""What becomes of a token metric's texts and of views: checks, means, summaries, tables."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from lrd_harness import measure
from lrd_harness.contracts import Choice, Metric
from lrd_harness.errors import DegenerateState, NotEnoughTexts, NotFinite, UnitError
from lrd_harness.measuring import finish
from lrd_harness.scores import Scores, summaries

nan = math.nan


def kinds(states: Any) -> dict[str, Any]:
    whole = isinstance(states, torch.Tensor)
    return {"whole": whole, "ndim": states.ndim if whole else 0, "seen": len(states)}


TOKENS = Metric("tokens", kinds, needs="tokens")
MEAN = Metric("mean", lambda states: {}, needs="tokens")
X = np.random.RandomState(0).randn(4, 5, 6)


def test_a_token_metric_gets_one_tensor_of_float64_where_widths_are_equal() -> None:
    tensors = [torch.tensor(state) for state in X]
    for states in (X, list(X), torch.tensor(X), tensors, X.astype("float32"), X * 1e307):
        assert measure(TOKENS, states) == {"whole": True, "ndim": 3, "seen": 4}
    assert measure(TOKENS, [*X[:3], X[3][:, :2]]) == {"whole": False, "ndim": 0, "seen": 4}

    def check(states: Any) -> dict[str, Any]:
        assert states.dtype == torch.float64
        return {"sum": states.sum()}

    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        x = torch.tensor(X).to(dtype)
        assert measure(Metric("m", check, needs="tokens"), x)["sum"] == float(x.double().sum())


def test_faults_of_a_text_are_named() -> None:
    for bad in (nan, math.inf, -math.inf):
        x = X.copy()
        x[2, 1, 3] = bad
        for states in (x, list(x), torch.tensor(x)):
            with pytest.raises(NotFinite, match="tokens: NaN or infinity in layer 2"):
                measure(TOKENS, states)
    for states, said in (
        ([*X[:3], X[3][:4]], "layer 3 has 4 rows, others have 5"),
        (X[0], "layer 0 has shape"),
        (X[None], "layer 0 has shape"),
        ([], "tokens got no states"),
    ):
        with pytest.raises(UnitError, match=said):
            measure(TOKENS, states)


def test_views_are_treated_as_pooled_states() -> None:
    seen = []

    def shapes(states: Any) -> dict[str, Any]:
        seen.append([tuple(s.shape) for s in states])
        return {"a": [float(s.sum()) for s in states]}

    metric = Metric("views", shapes, needs="views")
    x = np.random.RandomState(0).randn(4, 9, 3, 5)
    x[0] = x[0, :1, :1]
    scores = measure(metric, x)
    assert scores.start == 1
    assert seen == [[(9, 3, 5)] * 3]
    assert scores["max_a"] == max(scores["a"])
    alike = x.copy()
    alike[2] = x[2, :, :1]  # a text's views alike, as of words that no change touches
    assert measure(metric, alike).start == 1
    x[2] = x[2, :1] + np.arange(3)[:, None]  # other views, the same of every text
    with pytest.raises(DegenerateState, match="layer 2"):
        measure(metric, x)
    with pytest.raises(UnitError, match="layer 1 has 9 x 2 rows, others have 9 x 3"):
        measure(metric, [x[1], x[3][:, :2], x[3]])


def texts(*values: dict[str, Any]) -> list[Scores]:
    return [Scores(scores, 3) for scores in values]


def test_the_mean_over_texts_leaves_out_what_has_no_value() -> None:
    values = texts(
        {"a": [1.0, nan, nan], "b": 2.0, "t": [[1.0, 2.0]] * 3},
        {"a": [3.0, 5.0, nan], "b": nan, "t": [[3.0, nan]] * 3},
        {"a": [8.0, 6.0, nan], "b": 4.0, "t": [[5.0, 6.0]] * 3},
    )
    whole: dict[str, Any] = dict(finish(MEAN, values))
    assert whole["a"] == pytest.approx([4, 5.5, nan], nan_ok=True)
    assert (whole["b"], whole["t"], whole["mean_a"]) == (3, [[3, 4]] * 3, 4.75)
    assert "mean_t" not in whole


def test_a_metric_may_finish_for_itself() -> None:
    def mine(texts: Any) -> dict[str, Any]:
        return {"n": len(texts), "a": np.array([1.0, 3.0]), "t": [torch.ones(2)] * 2}

    whole = finish(Metric("mine", kinds, needs="tokens", finish=mine), texts({"a": 1.0}) * 3)
    assert (whole["n"], whole["a"], whole["mean_a"], whole["t"]) == (3, [1, 3], 2, [[1, 1]] * 2)


def test_faults_of_finishing_are_named() -> None:
    ranked = Metric("ranked", kinds, needs="tokens", selection=Choice("mean_a"))
    assert finish(ranked, texts({"a": [1.0, 3.0]}))["mean_a"] == 2
    with pytest.raises(NotEnoughTexts, match="mean has a value for none of the texts"):
        finish(MEAN, [])
    for metric, values, said in (
        (MEAN, ({"a": 1.0}, {"b": 1.0}), "mean gave other scores for one text"),
        (MEAN, ({"a": [1.0]}, {"a": [1.0, 2.0]}), r"mean\.a has more values for one text"),
        (ranked, ({"b": 1.0},), "ranked gave no score mean_a"),
    ):
        with pytest.raises(UnitError, match=said):
            finish(metric, texts(*values))


def test_summaries_leave_out_layers_without_a_value() -> None:
    means = summaries([nan, 1.0, 4.0, nan, 2.0], "x")
    assert means["mean_x"] == pytest.approx(7 / 3)
    assert (means["min_x"], means["max_x"], means["early_x"], means["late_x"]) == (1, 4, 1, 2)
    assert means["slope_x"] == pytest.approx(np.polyfit([0, 1 / 3, 1], [1, 4, 2], 1)[0])
    assert summaries([nan, 5.0], "x")["mean_x"] == 5
    assert "slope_x" not in summaries([nan, 5.0], "x")
    assert summaries([nan, nan], "x") == {}
