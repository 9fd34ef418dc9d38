"""`lrd-harness select` on small models: values, files, faults, and bad input."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import running
import tiny

from lrd_harness import measure
from lrd_harness.cli import main
from lrd_harness.contracts import Choice, Metric, Text
from lrd_harness.halves import halves

TEXTS = tiny.sentences(24)
pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two Berts of other weights, one that is broken, and texts."""
    made = tmp_path_factory.mktemp("select")
    tiny.save("Bert", made / "one")
    tiny.save("Bert", made / "two", seed=1, num_hidden_layers=2)
    running.save_nan(made / "nan")
    tiny.write_rows(made / "texts.jsonl", [{"text": t} for t in TEXTS])
    return made


def select(folder: Path, *arguments: object, models: str = "one two") -> int:
    named = [str(folder / name) for name in models.split()]
    on = ["--texts", str(folder / "texts.jsonl"), "--pooling", "mean", "--quiet"]
    return main(["select", "--models", *named, *on, *map(str, arguments)])


def states(folder: Path, name: str) -> list[np.ndarray]:
    """Pooled states 0..L, (n, d), of texts that are run one by one."""
    model = tiny.open_model(folder / name, pooling="mean")
    found = [model.states(model.tokenize([Text(t)])) for t in TEXTS]
    return [np.array([f["raw", i][0].numpy() for f in found]) for i in range(model.info.blocks + 1)]


def test_values_are_those_of_measure(folder: Path, tmp_path: Path, capsys: Any) -> None:
    more = ("--plugins", "nrs", "--draws", 6, "--seed", 3, "--output", tmp_path)
    assert select(folder, *more) == 0
    printed = capsys.readouterr().out
    with (tmp_path / "select.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["rank"] for row in rows] == ["1", "2"]
    for row in rows:
        pooled = states(folder, row["model"].removeprefix("local/").partition(" ")[0])
        value = measure("nrs", pooled)["mean_jaccard"]
        assert float(row["value"]) == pytest.approx(value, rel=1e-3)
        drawn = [measure("nrs", [s[h] for s in pooled])["mean_jaccard"] for h in halves(24, 6, 3)]
        reach = 1.96 * np.std(np.array(drawn, dtype=float))
        assert float(row["high"]) - float(row["value"]) == pytest.approx(reach, rel=1e-2)
        assert float(row["halved"]) == pytest.approx(
            np.mean(np.array(drawn, dtype=float)), rel=1e-3
        )
        assert f"{float(row['value']):#.4g}" in printed
        assert (row["n"], row["draws"], row["width"], row["bytes"]) == ("24", "6", "32", "128")
        assert float(row["seconds_1000"]) > 0
    document = json.loads((tmp_path / "select.json").read_text())
    assert document["made_by"] == "lrd-harness select"
    assert len(document["models"]) == 2
    assert all(line[:40] in " ".join(printed.split()) for line in document["remarks"])
    assert max(map(len, printed.splitlines())) <= 80


def test_by_default_all_metrics_that_rank_models(
    folder: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = [
        Metric("mine", lambda s: {"x": float(s[-1].norm())}, selection=Choice("x", "min")),
        Metric("other", lambda s: {"x": 1.0}),
    ]
    running.with_plugin(monkeypatch, lrd_metrics=lambda: known)
    assert select(folder, "--draws", 0) == 0
    printed = capsys.readouterr().out
    for title in ("frenet.d0L ↑", "nrs.mean_jaccard ↑", "gfmi.mean_auc ↑", "mine.x ↓"):
        assert title in printed.splitlines()
    assert "other" not in printed.split("Ranks")[0]
    assert "of the halves of the texts, these" not in printed


def test_a_fault_of_a_model_or_metric_costs_only_its_values(
    folder: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(states: Any) -> Any:
        raise RuntimeError("never")

    made = [Metric("never", never, selection=Choice("x"))]
    running.with_plugin(monkeypatch, lrd_metrics=lambda: made)
    more = ("--plugins", "nrs,never", "--draws", 2, "--output", tmp_path)
    assert select(folder, *more, models="one nan two") == 1
    said = capsys.readouterr()
    errors = said.err.splitlines()
    assert len(errors) == 4
    assert sum("never: RuntimeError: never" in line for line in errors) == 2
    assert sum("local/nan" in line and "NotFinite" in line for line in errors) == 2
    with (tmp_path / "select.csv").open() as file:
        assert {row["metric"] for row in csv.DictReader(file)} == {"nrs"}
    assert "nrs puts local/" in " ".join(said.out.split())


def test_a_model_that_cannot_be_read_costs_only_its_own_values(
    folder: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lrd_harness import choose_model

    class Reading(choose_model.Embeddings):
        def __init__(self, model: Any, *others: Any) -> None:
            if model.info.blocks == 2:
                raise OSError("weights gone")
            super().__init__(model, *others)

    monkeypatch.setattr(choose_model, "Embeddings", Reading)
    assert select(folder, "--plugins", "nrs", "--draws", 0) == 1
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert said.err.startswith("error: local/two")
    assert said.err.endswith(": OSError: weights gone\n")
    assert "local/one" in said.out
    assert "local/two" not in said.out


@pytest.mark.parametrize(
    ("models", "more", "said"),
    [
        ("one", (), "there is nothing to choose: name at least 2 models"),
        ("one two one", (), "is named twice"),
        ("one two", ("--plugins", "curvature"), "curvature ranks no models"),
        ("one two", ("--plugins", "frennet"), "Did you mean frenet?"),
        ("one two", ("--max-texts", 12), "intervals need at least 16 texts, got 12"),
        ("one two", ("--draws", 1), "1 draws: intervals need at least 2"),
        ("one nowhere", (), "nowhere"),
    ],
)
def test_bad_input_is_one_line(
    models: str, more: tuple[object, ...], said: str, folder: Path, capsys: Any
) -> None:
    assert select(folder, *more, models=models) == 2
    assert said in running.one_line(capsys)


def test_too_few_texts(folder: Path, capsys: Any) -> None:
    tiny.write_rows(folder / "few.jsonl", [{"text": t} for t in TEXTS[:5]])
    assert select(folder, "--texts", folder / "few.jsonl", "--draws", 0) == 2
    assert "to rank models takes at least 8 texts, got 5" in running.one_line(capsys)


def test_a_strangers_file_is_left_alone(folder: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "select.csv").write_text("mine\n")
    assert select(folder, "--output", tmp_path) == 2
    assert "was not made by lrd-harness select" in running.one_line(capsys)
    assert (tmp_path / "select.csv").read_text() == "mine\n"
