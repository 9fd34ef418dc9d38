"""Probes: what is measured on changed texts, and the command."""

from __future__ import annotations

import csv
import json
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
import running
import tiny

from lrd_harness import manager
from lrd_harness.cli import main
from lrd_harness.contracts import Metric, Text
from lrd_harness.errors import UserError
from lrd_harness.measuring import PlannedMetric
from lrd_harness.studies import probe, values
from lrd_harness.studies.probe import Tokens

TEXTS = [Text(t) for t in tiny.sentences(24)]


@cache
def model_of(family: str) -> Any:
    folder = tiny.save(family, Path(mkdtemp()) / family, causal=family == "Llama")
    return tiny.open_model(folder)


def planned(*names: str) -> list[PlannedMetric]:
    return [PlannedMetric(manager.load().get("metric", name), {}) for name in names]


def value_of(found: probe.ProbeResult, step: float, metric: str, layer: int) -> float | None:
    return found.curves[metric][step].values[layer]


def entropy(x: np.ndarray) -> float:
    """Von Neumann entropy of centred unit rows, of its definition."""
    x = x - x.mean(0)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    share = np.linalg.svd(x, compute_uv=False) ** 2 / len(x)
    share = share[share > 1e-15]
    return float(-(share * np.log(share)).sum())


@pytest.mark.parametrize(("kind", "step"), [("repetition", 0.5), ("random", 0.5), ("length", 9)])
def test_values_are_those_of_single_texts(kind: str, step: float) -> None:
    """Against numpy on texts that are run one by one; batched they are padded."""
    model = model_of("Llama")
    items = planned("prompt_entropy", "dataset_entropy", "effective_rank")
    found = probe.probe(model, TEXTS, items, kind, [step], 1, "raw", 64)
    assert not found.faults
    pooled: list[list[np.ndarray]] = [[] for _ in range(4)]
    single: list[list[float]] = [[] for _ in range(4)]
    for features in probe.KINDS[kind](Tokens(model, TEXTS, 1), step):

        def see(layer: int, state: Any) -> None:
            tokens = state[0].double().numpy()
            pooled[layer].append(tokens[-1])
            single[layer].append(entropy(tokens))

        model.watch([features], see)
    for layer in range(1, 4):
        states = np.array(pooled[layer])
        sizes = np.linalg.svd(states, compute_uv=False)
        sizes /= sizes.sum()
        rank = np.exp(-(sizes * np.log(sizes)).sum())
        expected = {
            "prompt_entropy": np.mean(single[layer]),
            "dataset_entropy": entropy(states),
            "effective_rank": rank,
        }
        for name, value in expected.items():
            assert value_of(found, step, name, layer) == pytest.approx(value, rel=1e-4), name


def test_a_layer_without_a_value_has_none() -> None:
    """Without positions of their own, equal tokens have one state before the first block."""
    found = probe.probe(model_of("Llama"), TEXTS, planned("curvature"), "repetition", [0, 1])
    assert value_of(found, 0, "curvature", 0) is not None
    assert value_of(found, 1, "curvature", 0) is None
    first = {"step": 1, "layer": 0, "metric": "curvature", "score": "curvature"}
    assert {**first, "value": None, "depth": 0, "n": 24} in found.values


def test_a_metrics_fault_costs_its_values_only() -> None:
    def bad(states: Any) -> Any:
        raise RuntimeError("no such thing\nat all")

    broken = [PlannedMetric(Metric("bad", bad, needs=needs), {}) for needs in ("pooled", "tokens")]
    items = [*broken, *planned("dataset_entropy")]
    found = probe.probe(model_of("Bert"), TEXTS, items, "random", [0.1, 0.2])
    assert found.faults == [
        {"step": step, "metric": "bad", "error": "RuntimeError: no such thing"}
        for step in (0.1, 0.1, 0.2, 0.2)
    ]
    assert set(found.curves) == {"dataset_entropy"}


def test_a_fault_of_the_model_costs_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = model_of("Bert"), []
    real = model.states

    def states(batch: Any, *more: Any) -> Any:
        seen.append(batch)
        if len(seen) == 1:
            raise MemoryError("out of it")
        return real(batch, *more)

    monkeypatch.setattr(model, "states", states)
    found = probe.probe(model, TEXTS, planned("dataset_entropy"), "random", [0, 1])
    assert found.faults == [{"step": 0, "metric": None, "error": "MemoryError: out of it"}]
    assert list(found.curves["dataset_entropy"]) == [1]


def test_progress_steps_by_default_and_remarks() -> None:
    model, seen = model_of("Bert"), []
    texts = [*TEXTS[:9], Text("")]
    found = probe.probe(
        model, texts, planned("curvature"), "length", progress=lambda *at: seen.append(at)
    )
    assert list(found.steps) == [8, 16, 32, 64]  # 128 and two special tokens are too many
    assert seen[-1] == (36, 36)
    assert seen == sorted(seen)
    assert found.n == 9
    assert found.remarks == ["1 of 10 texts have no token that could be changed"]
    short = [Text(f"a {letter}") for letter in "bcdefghij"]
    again = probe.probe(model, short, planned("curvature"), "length", [18, 19])
    assert again.remarks == ["the texts have 18 tokens in all, which longer chains repeat"]


@pytest.mark.parametrize(
    ("kind", "steps", "said"),
    [
        ("repetition", [0, 1.5], "share 1.5: not between 0 and 1"),
        ("length", [0.5], "length 0.5: not a whole number"),
        ("length", [0], "length 0: not a whole number"),
        ("length", [127], "the model takes 128 tokens"),
        ("lenght", [1], "Did you mean length?"),
    ],
)
def test_steps_that_cannot_be(kind: str, steps: list[float], said: str) -> None:
    with pytest.raises(UserError) as error:
        probe.probe(model_of("Bert"), TEXTS, planned("curvature"), kind, steps)
    assert said in str(error.value)


def test_of_many_layers_some_are_shown() -> None:
    assert values.spaced(range(40)) == list(range(40))
    some = values.spaced(range(1, 98))
    assert (some[0], some[-1], len(some)) == (1, 97, 40)
    assert set(np.diff(some)) == {2, 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Bert, a Llama and texts."""
    made = tmp_path_factory.mktemp("probe")
    tiny.save("Bert", made / "bert")
    tiny.save("Llama", made / "llama", causal=True)
    tiny.write_rows(made / "texts.jsonl", [{"text": t.text} for t in TEXTS])
    return made


def command(folder: Path, *more: object, model: str = "bert", texts: bool = True) -> int:
    on = ("--texts", str(folder / "texts.jsonl")) if texts else ()
    return main(["probe", str(folder / model), "--quiet", *on, *map(str, more)])


def test_the_command_prints_and_writes(folder: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    assert command(folder, "--kind", "random", "--shares", "0.5,0", "--output", out) == 0
    printed = capsys.readouterr().out
    for metric in ("prompt_entropy ↓", "dataset_entropy ↓", "curvature ↓", "effective_rank ↑"):
        assert f"{metric} by share random" in printed
    with (out / "probe.csv").open() as file:
        rows = list(csv.DictReader(file))
    record = json.loads((out / "probe.json").read_text())
    assert len(rows) == len(record["values"])
    assert record["steps"] == [0, 0.5]
    assert record["errors"] == []
    assert {row["layer"] for row in rows} == {"model", "0", "1", "2", "3"}
    row = next(
        r
        for r in rows
        if (r["step"], r["metric"], r["score"], r["layer"])
        == ("0.5", "effective_rank", "effective_rank", "2")
    )
    assert float(row["depth"]) == pytest.approx(2 / 3)
    assert f"{float(row['value']):#.4g}" in printed
    direct = probe.probe(
        tiny.open_model(folder / "bert"), TEXTS, planned("effective_rank"), "random", [0.5]
    )
    expected = value_of(direct, 0.5, "effective_rank", 2)
    assert float(row["value"]) == pytest.approx(expected, rel=1e-5)


def test_the_offline_texts_are_the_default(folder: Path, capsys: Any) -> None:
    more = ("--kind", "repetition", "--shares", "0,1", "--plugins", "effective_rank")
    assert command(folder, *more, texts=False) == 0
    assert "on 50 texts" in capsys.readouterr().out


def test_a_fault_is_told_and_the_code_is_1(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def bad(states: Any) -> Any:
        raise RuntimeError("not today")

    running.with_plugin(monkeypatch, lrd_metrics=lambda: [Metric("bad", bad)])
    more = ("--kind", "random", "--shares", "0.5", "--plugins", "bad,effective_rank")
    assert command(folder, *more, "--output", tmp_path) == 1
    captured = capsys.readouterr()
    assert captured.err == "error: share random 0.5, bad: RuntimeError: not today\n"
    assert "effective_rank ↑ by share random" in captured.out
    errors = json.loads((tmp_path / "probe.json").read_text())["errors"]
    assert errors == [{"step": 0.5, "metric": "bad", "error": "RuntimeError: not today"}]
