"""Comparing two models of equal depth: differences with intervals, and the command."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import running
import tiny

from lrd_harness import measure
from lrd_harness.capture import samples
from lrd_harness.cli import main
from lrd_harness.contracts import Metric, Text
from lrd_harness.errors import UnitError
from lrd_harness.scores import Profile, Scores
from lrd_harness.studies.compare import differences
from lrd_harness.studies.values import LayerScore, Measurement, layer_score, on_halves

TEXTS = tiny.sentences(40)


def test_only_layers_that_both_models_have() -> None:
    def side(values: dict[int, float | None]) -> Measurement[LayerScore]:
        score = LayerScore("mine", "s", None, values)
        return Measurement(score, 20, [score, score, None])

    one, two = side({0: None, 1: 1.0, 2: 2.0}), side({1: 1.5, 2: 2.0, 3: 4.0})
    rows = differences(one, two, 4, 20)
    columns = ("layer", "depth", "difference", "low", "high", "apart", "draws")
    assert [tuple(row[name] for name in columns) for row in rows] == [
        (1, 0.25, 0.5, 0.5, 0.5, True, 2),
        (2, 0.5, 0, 0, 0, False, 2),
    ]


def test_faults_on_halves_are_no_values_and_a_fault_on_all_is_raised() -> None:
    def statistic(rows: Sequence[int] | None) -> Any:
        if rows is not None and rows[0] > 0:
            raise UnitError("not here")
        return Scores({"s": Profile("states", 0, [1.0, 2.0])}, 2), 9

    def take(scores: Scores) -> LayerScore:
        return layer_score(Metric("mine", dict), scores)

    rows = [np.array([0]), np.array([1]), np.array([0])]
    first, lost, last = on_halves(statistic, take, rows).halves
    assert (first, lost, last) == (take(statistic(None)[0]), None, first)
    with pytest.raises(UnitError, match="has no score for single layers"):
        on_halves(lambda rows: (Scores({"s": 1.0}, 2), 9), take, [])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two Llamas of other weights, two that differ from them in depth, a Bert with NaN; texts."""
    made = tmp_path_factory.mktemp("compare")
    tiny.save("Llama", made / "base", causal=True)
    tiny.save("Llama", made / "tuned", causal=True, seed=1)
    tiny.save("Llama", made / "deep", causal=True, num_hidden_layers=4)
    tiny.save("Bert", made / "bert")
    running.save_nan(made / "nan")
    tiny.write_rows(made / "texts.jsonl", [{"text": t} for t in TEXTS])
    return made


@pytest.fixture(autouse=True)
def apart(own_cache: Path) -> None:
    """No test finds what another has read."""


def command(folder: Path, a: str, b: str, *more: object, texts: str = "texts.jsonl") -> int:
    models = [str(folder / name) for name in (a, b)]
    on = ["--texts", str(folder / texts), "--pooling", "mean", "--quiet"]
    return main(["compare", *models, *on, *map(str, more)])


def table(out: Path) -> list[dict[str, Any]]:
    with (out / "compare.csv").open() as file:
        return list(csv.DictReader(file))


def states(folder: Path, name: str, texts: list[str]) -> list[np.ndarray]:
    """Pooled states 0..L, (n, d), of texts that are run one by one."""
    model = tiny.open_model(folder / name, pooling="mean")
    found = [model.states(model.tokenize([Text(t)])) for t in texts]
    kinds = ["raw"] * model.info.blocks + ["final"]
    return [np.array([f[k, i][0].numpy() for f in found]) for i, k in enumerate(kinds)]


@pytest.mark.slow
def test_values_are_those_of_measure(folder: Path, tmp_path: Path, capsys: Any) -> None:
    plugins = "effective_rank,nrs,dime"
    assert command(folder, "base", "tuned", "--plugins", plugins, "--output", tmp_path) == 0
    printed = capsys.readouterr().out
    rows = table(tmp_path)
    views = [view for text in TEXTS for view in samples.views(text, 2)]
    for column, name in (("a", "base"), ("b", "tuned")):
        pooled = states(folder, name, TEXTS)
        viewed = [state.reshape(len(TEXTS), 2, -1) for state in states(folder, name, views)]
        for metric, score, arrays in (
            ("effective_rank", "effective_rank", pooled),
            ("nrs", "jaccard", pooled),
            ("dime", "dime", viewed),
        ):
            expected = measure(metric, arrays)[score]
            found = [float(row[column]) for row in rows if row["metric"] == metric]
            np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-4)
    for row in rows:
        low, high, difference = (float(row[name]) for name in ("low", "high", "difference"))
        assert difference == float(row["b"]) - float(row["a"])
        assert low < difference < high
        assert (row["apart"] == "True") == (low > 0 or high < 0)
        assert (row["n_a"], row["n_b"], row["draws"]) == ("40", "40", "100")
        assert f"{difference:+#.3g}" in printed
    marked = sum(row["apart"] == "True" for row in rows)
    assert sum(line.endswith(" *") for line in printed.splitlines()) == marked
    record = json.loads((tmp_path / "compare.json").read_text())
    assert record["blocks"] == 3
    assert len(record["values"]) == len(rows)
    assert (record["pooling_a"], record["texts"], record["draws"]) == ("mean", 40, 100)


def turns(folder: Path, name: str) -> np.ndarray:
    """The mean angle between steps in layer 2 of every text, of its definition."""
    model = tiny.open_model(folder / name, pooling="mean")
    found: list[float] = []

    def see(layer: int, state: Any) -> None:
        if layer == 2:
            steps = np.diff(state[0].double().numpy(), axis=0)
            steps /= np.linalg.norm(steps, axis=1, keepdims=True)
            found.append(np.arccos((steps[1:] * steps[:-1]).sum(1).clip(-1, 1)).mean())

    for text in TEXTS:
        model.watch(model.tokenize([Text(text)]), see)
    return np.array(found)


@pytest.mark.slow
def test_a_token_metric_has_the_interval_of_a_paired_mean(folder: Path, tmp_path: Path) -> None:
    more = ("--plugins", "curvature", "--draws", 1500, "--output", tmp_path)
    assert command(folder, "base", "tuned", *more) == 0
    row = next(row for row in table(tmp_path) if row["layer"] == "2")
    x = turns(folder, "tuned") - turns(folder, "base")
    assert float(row["difference"]) == pytest.approx(x.mean(), rel=1e-4)
    reach = (float(row["high"]) - float(row["low"])) / 2
    assert reach == pytest.approx(1.96 * x.std(ddof=1) / np.sqrt(len(x)), rel=0.07)


def test_a_model_does_not_differ_from_itself(folder: Path, tmp_path: Path, capsys: Any) -> None:
    assert command(folder, "base", "base", "--draws", 5, "--output", tmp_path) == 0
    rows = table(tmp_path)
    assert {"frenet", "nrs", "gfmi", "prompt_entropy", "curvature"} <= {r["metric"] for r in rows}
    assert {row[name] for row in rows for name in ("difference", "low", "high")} == {"0.0"}
    assert not any(line.endswith("*") for line in capsys.readouterr().out.splitlines())


def test_without_draws_there_are_no_intervals(folder: Path, tmp_path: Path, capsys: Any) -> None:
    more = ("--plugins", "curvature", "--draws", 0, "--output", tmp_path)
    assert command(folder, "base", "tuned", *more) == 0
    assert {(row["low"], row["high"], row["apart"]) for row in table(tmp_path)} == {
        ("", "", "False")
    }
    assert "95 %" not in capsys.readouterr().out


def test_a_metrics_fault_is_told_and_the_code_is_1(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def whole(states: Any) -> Any:
        if len(states[0]) < 40:
            raise RuntimeError("a half")
        return {"whole": [1.0 for _ in states]}

    def never(states: Any) -> Any:
        raise RuntimeError("never")

    made = [Metric("whole", whole), Metric("never", never)]
    running.with_plugin(monkeypatch, lrd_metrics=lambda: made)
    more = ("--plugins", "whole,never", "--draws", 4, "--output", tmp_path)
    assert command(folder, "base", "tuned", *more) == 1
    captured = capsys.readouterr()
    assert captured.err == "error: A, never: RuntimeError: never\n"
    assert "whole" in captured.out
    assert "No interval" in captured.out
    assert {(row["low"], row["draws"]) for row in table(tmp_path)} == {("", "0")}


def test_a_fault_of_one_model_only(folder: Path, capsys: Any) -> None:
    assert command(folder, "bert", "nan", "--plugins", "effective_rank,curvature") == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert [line.split(": ")[:3] for line in lines] == [
        ["error", "B, effective_rank", "NotFinite"],
        ["error", "B, curvature", "NotFinite"],
    ]


def test_a_depth_that_shows_only_when_opened(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr("lrd_harness.planning.resolve.depth_of", lambda config: None)
    assert command(folder, "base", "deep", "--plugins", "curvature") == 2
    assert "the models must be equally deep" in running.one_line(capsys)
