"""Runs on a GPU that is pretended: nothing is mixed that lies on two devices, and values are right.

What only a real one can show is in tests/gpu/check.py.
"""

from __future__ import annotations

import importlib
from contextlib import nullcontext
from pathlib import Path

import pytest
import running
import stock
import torch
from pretended import OnGPU, a_gpu
from test_killed import flat

from lrd_harness import manager, measuring
from lrd_harness.contracts import Metric

METRICS: list[Metric] = list(manager.load().all("metric"))


def of_all_kinds(metric: Metric) -> list[torch.Tensor]:
    """States or maps of attention as a metric takes them, of 24 texts or tokens; pooled of 208."""
    draw = torch.Generator().manual_seed(0)
    if metric.needs == "attention":
        return [torch.rand(4, 24, 24, generator=draw).softmax(-1) for _ in range(4)]
    copies = measuring.copies(metric)
    n = 208 if metric.needs == "pooled" else 24
    return list(torch.randn(5, n, *((copies,) if copies else ()), 24, generator=draw).cumsum(0))


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_metric(metric: Metric, monkeypatch: pytest.MonkeyPatch) -> None:
    states = of_all_kinds(metric)
    labels = [[i % 3 for i in range(24)]] if metric.needs == "labels" else []
    expected = measuring.measure(metric, states, *labels)
    with a_gpu(monkeypatch):
        there = [state.to("cuda:0") for state in states]
        assert all(isinstance(state, OnGPU) for state in there)
        found = measuring.measure(metric, there, *labels)
    assert flat(dict(found)) == pytest.approx(flat(dict(expected)), rel=1e-9, abs=1e-12)


@pytest.mark.slow
def test_a_run(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two kinds of task, metrics of all kinds, rules that ask the model, what is left of it."""
    importlib.import_module("sentence_transformers")  # which decorates by what is replaced here
    stock.own_alone(monkeypatch)
    own = stock.place(tmp_path_factory.getbasetemp())
    tasks = ("STSBenchmark", f"lm-eval:{stock.ENDINGS}")
    few = [m for m in METRICS if m.needs not in ("labels", "halves") and m.texts <= 8]
    more = ("--plugins", ",".join(metric.name for metric in few))
    more += ("--prune", "block_influence,angular,greedy", "--budgets", "0.4", "--view-texts", "16")
    more += ("--include-path", str(own / "own"))
    models = [own / "bert", own / "gpt"]
    outs = [tmp_path / device for device in ("cuda", "cpu")]
    for out, where in zip(outs, (a_gpu(monkeypatch), nullcontext()), strict=True):
        monkeypatch.setenv("LRD_HARNESS_CACHE", f"{out}-cache")
        with where:
            given = (*more, "--device", out.name)
            assert running.run(out, models, own / "data", *given, tasks=tasks) == 0
    found, expected = map(running.numbers, outs)
    assert found.keys() == expected.keys()
    assert len(found) > 40
    for unit, numbers in expected.items():
        assert flat(found[unit]) == pytest.approx(flat(numbers), rel=1e-4, abs=1e-5), unit
