"""`lrd-harness select` on small models: values, files, faults, and bad input."""

from __future__ import annotations

import csv
import errno
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import running
import tiny

from lrd_harness import measure
from lrd_harness.cli import main
from lrd_harness.contracts import Choice, Metric, Text
from lrd_harness.studies.values import halves

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
        assert row["unit"] == "0-1"
        assert float(row["seconds_1000"]) > 0
    document = json.loads((tmp_path / "select.json").read_text())
    assert document["made_by"] == "lrd-harness select"
    assert len(document["models"]) == 2
    assert all(line in " ".join(printed.split()) for line in document["remarks"])
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
    for title in ("frenet.d0L", "nrs.mean_jaccard", "gfmi.mean_auc", "mine.x"):
        assert f"{title}, 24 texts" in printed.splitlines()
    assert "other.x" not in printed
    for absent in ("from  ", "first ", "(1-"):
        assert absent not in printed.partition("What 1,000")[0]
    assert "No half-samples were drawn" in printed


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
    assert "Ranks on 24 texts" in said.out


def test_a_model_that_cannot_be_read_costs_only_its_own_values(
    folder: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lrd_harness.studies import values

    class Reading(values.Embeddings):
        def __init__(self, model: Any, *others: Any) -> None:
            if model.info.blocks == 2:
                raise OSError("weights gone")
            super().__init__(model, *others)

    monkeypatch.setattr(values, "Embeddings", Reading)
    assert select(folder, "--plugins", "nrs", "--draws", 0) == 1
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert said.err.startswith("error: local/two")
    assert said.err.endswith(": OSError: weights gone\n")
    assert "local/one" in said.out
    assert "local/two" not in said.out
    assert "Only one model has a score by nrs" in said.out
    assert "Ranks on" not in said.out


def test_models_of_the_same_name_are_told_apart(folder: Path, tmp_path: Path, capsys: Any) -> None:
    for parent, kept in (("exp1", "one"), ("exp2", "two")):
        shutil.copytree(folder / kept, tmp_path / parent / "final")
    models = [str(tmp_path / parent / "final") for parent in ("exp1", "exp2")]
    on = ["--texts", str(folder / "texts.jsonl"), "--pooling", "mean", "--quiet"]
    more = ["--plugins", "nrs", "--draws", "2", "--output", str(tmp_path / "out")]
    assert main(["select", "--models", *models, *on, *more]) == 0
    with (tmp_path / "out" / "select.csv").open() as file:
        rows = {row["model"]: row for row in csv.DictReader(file)}
    assert len(rows) == 2
    assert len({row["value"] for row in rows.values()}) == 2
    for parent, blocks in (("exp1", "3"), ("exp2", "2")):
        (row,) = (row for name, row in rows.items() if f"{parent}/final" in name)
        assert row["blocks"] == blocks
    assert len({row["revision"] for row in rows.values()}) == 2
    assert capsys.readouterr().out.count("local/exp1/final") >= 3


def test_all_failed(folder: Path, tmp_path: Path, capsys: Any) -> None:
    shutil.copytree(folder / "nan", tmp_path / "other")
    models = [str(folder / "nan"), str(tmp_path / "other")]
    on = ["--texts", str(folder / "texts.jsonl"), "--plugins", "nrs", "--draws", "2", "--quiet"]
    assert main(["select", "--models", *models, *on, "--output", str(tmp_path / "out")]) == 1
    said = capsys.readouterr()
    assert "• No model could be ranked." in said.out.splitlines()
    assert said.err.count("error: ") == 2
    document = json.loads((tmp_path / "out" / "select.json").read_text())
    assert (document["values"], document["remarks"]) == ([], ["No model could be ranked."])


def test_a_fault_in_timing_costs_no_ranks(
    folder: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(model: Any, *others: Any) -> Any:
        raise RuntimeError("no clock")

    monkeypatch.setattr("lrd_harness.studies.select.cost", fails)
    assert select(folder, "--plugins", "nrs", "--draws", 2, "--output", tmp_path) == 1
    said = capsys.readouterr()
    assert said.err.count("what it costs: RuntimeError: no clock") == 2
    with (tmp_path / "select.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["rank"], row["width"], row["seconds_1000"]) for row in rows] == [
        ("1", "32", ""),
        ("2", "32", ""),
    ]


@pytest.mark.parametrize("where", ["studies.select.cost", "measuring.measure"])
def test_a_full_disk_is_no_models_fault(
    where: str, folder: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: Any, **named: Any) -> Any:
        raise RuntimeError("odd") from OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(f"lrd_harness.{where}", full)
    assert select(folder, "--plugins", "nrs", "--draws", 0) == 2
    assert "no space left" in running.one_line(capsys)
