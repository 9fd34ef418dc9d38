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
from lrd_harness.cli.select import _show
from lrd_harness.contracts import Choice, Metric, Text
from lrd_harness.studies.select import Candidate, Chosen, Cost, Place
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
    for title in ("frenet.d0L ↑ (radians)", "nrs.mean_jaccard ↑ (0-1)", "mine.x ↓"):
        assert f"{title}, 24 texts" in printed.splitlines()
    assert "gfmi.mean_auc ↑ (nats x %), 24 texts" in printed.splitlines()
    assert "other.x" not in printed
    for absent in ("from", "first again", "In parentheses", "(1-"):
        assert absent not in printed.partition("What 1,000")[0]
    assert "half-sample" not in printed.replace("No half-samples were drawn (--draws 0)", "")
    assert "nothing is known of how other texts would rank" in " ".join(printed.split())


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
    from lrd_harness.studies import select as choose_model

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
    assert "has a score by nrs: nothing is ranked by it." in " ".join(said.out.split())
    assert "Ranks on" not in said.out
    assert "first" not in said.out


@pytest.mark.parametrize(
    ("models", "more", "said"),
    [
        ("one", (), "there is nothing to choose: name at least 2 models"),
        ("one two one", (), "is named twice"),
        ("one two", ("--plugins", "curvature"), "curvature ranks no models"),
        ("one two", ("--plugins", "frennet"), "Did you mean frenet?"),
        ("one two", ("--max-texts", 12), "at least 16 texts, got 12: give more, or --draws 0"),
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


def test_compared_models_of_the_same_name_are_told_apart(
    folder: Path, tmp_path: Path, capsys: Any
) -> None:
    models = [str(tmp_path / parent / "final") for parent in ("exp1", "exp2")]
    for model in models:
        shutil.copytree(folder / "one", model)
    on = ["--texts", str(folder / "texts.jsonl"), "--plugins", "nrs", "--draws", "0", "--quiet"]
    assert main(["compare", *models, *on]) == 0
    out = capsys.readouterr().out
    assert "A: local/exp1/final" in out
    assert "B: local/exp2/final" in out


def test_all_failed(folder: Path, tmp_path: Path, capsys: Any) -> None:
    shutil.copytree(folder / "nan", tmp_path / "other")
    models = [str(folder / "nan"), str(tmp_path / "other")]
    on = ["--texts", str(folder / "texts.jsonl"), "--plugins", "nrs", "--draws", "2", "--quiet"]
    assert main(["select", "--models", *models, *on, "--output", str(tmp_path / "out")]) == 1
    said = capsys.readouterr()
    assert "* No model could be ranked." in said.out.splitlines()
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
    assert "nrs puts local/" in " ".join(said.out.split())
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


def test_an_output_under_a_file_fails_before_anything_is_measured(
    folder: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lrd_harness.studies.select.choose", None)  # it is not got to
    (tmp_path / "afile").write_text("")
    assert select(folder, "--output", tmp_path / "afile" / "x") == 2
    assert "afile/x cannot be made" in running.one_line(capsys)


LONG = "org/" + "y" * 296


def place(model: str, value: float, rank: int) -> Place:
    spans: dict[str, Any] = {"low": 0.0, "high": 1.0, "rank_low": 1, "rank_high": 2, "first": 0.5}
    counts: dict[str, Any] = {"halved": 0.1, "overtakes": False, "n": 20, "draws": 4}
    return Place("m", "s", "", "max", model, value, rank=rank, **spans, **counts)


def test_what_is_printed_of_odd_models(capsys: Any) -> None:
    """Hostile and long names, small models, and scores that differ in the seventh digit."""
    evil = "local/\x1b[31mred\u202e\n"
    costs = Cost(23_456, 2, 8, 5000.0, 0.19), Cost(999, 2, 8, 5000.0, 1234.5)
    names = (evil, LONG)
    models = tuple(Candidate(n, "1", "mean", c) for n, c in zip(names, costs, strict=True))
    places = place(evil, 0.12345678, 1), place(LONG, 0.12345670, 2)
    _show(Chosen(models, {"m": places}, 20, 4), "cpu")
    out = capsys.readouterr().out
    assert all(line.isprintable() for line in out.splitlines())
    assert max(map(len, out.splitlines())) <= 80
    assert "\\x1b[31mred\\u202e\\n" in out
    for shown in ("23.5 k", "(999)", "0.190", "1,234", "0.1234568", "0.1234567"):
        assert shown in out, shown
    assert "m.s ↑, 20 texts" in out.splitlines()
