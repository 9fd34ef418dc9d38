"""The folders: tidy tables and model cards say what the report says, whatever the names."""

from __future__ import annotations

import csv
import importlib
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from report_rows import BASE_TASKS, BLOCKS, HOSTILE, NAMES, TASKS, report, table

from lrd_harness.errors import plain
from lrd_harness.report import Report, Row
from lrd_harness.store.folders import safe_name, write_folder
from lrd_harness.store.tables import unguarded

data: Any = importlib.import_module("lrd_harness.plugins.reporters._data")
markdown: Any = importlib.import_module("lrd_harness.plugins.reporters._markdown")

BOARD = report()


def changed(board: Report, name: str, rows: list[Row]) -> Report:
    """A report with other rows in one of its tables."""
    kept = (replace(t, rows=rows) if t.name == name else t for t in board.tables)
    return replace(board, tables=tuple(kept))


def both(board: Report, name: str) -> list[dict[str, Any]]:
    """The rows of a table of the folder, which must be the same in both of its files."""
    files = dict(data.tidy(board))
    rows: list[dict[str, Any]] = pq.read_table(io.BytesIO(files[f"{name}.parquet"])).to_pylist()
    reader = csv.DictReader(io.StringIO(files[f"{name}.csv"].decode(), newline=""))
    for row, other in zip(reader, rows, strict=True):
        for key, cell in other.items():
            assert unguarded(row[key]) == ("" if cell is None else str(cell))
    return rows


@pytest.mark.parametrize(
    "names", [NAMES, (*HOSTILE[:-2], "half \ud83d of a pair")], ids=["", "odd"]
)
def test_every_value_is_a_row_and_both_files_agree(names: tuple[str, ...]) -> None:
    board = report(names)
    rows = both(board, "values")
    columns = ("kind", "value", "layer")
    assert [[row[name] for name in columns] for row in rows] == [
        [row[name] for name in columns] for row in board.table("values").rows
    ]
    written = {name.encode("utf-8", "backslashreplace").decode() for name in names}
    assert {row["model"] for row in rows} == written


def test_statistics_are_every_number_of_the_tables_of_statistics() -> None:
    rows = both(BOARD, "statistics")
    assert {row["board"] for row in rows} == {"embedding", "base"}
    assert {row["about"] for row in rows} == {"mean", "tasks", "task", "claim"}
    embedding = [row for row in rows if row["board"] == "embedding"]
    words = {"mean": "correlations", "tasks": "agreement", "task": "agreement_tasks"}
    keys = ("predictor", "kind", "best", "task", "n")
    for about, name in words.items():
        for statistic in ("rho", "p", "low", "significant"):
            values = {
                tuple(row[key] for key in keys): row["value"]
                for row in embedding
                if (row["about"], row["statistic"]) == (about, statistic)
            }
            assert values == {
                tuple(row.get(key) for key in keys): row[statistic]
                for row in BOARD.table(name).rows
                if row.get(statistic) is not None
            }
    statistics = {row["statistic"] for row in embedding}
    assert not {"n", "size", "models_low", "interval"} & statistics
    (claim,) = (row for row in embedding if row["about"] == "claim")
    assert (claim["predictor"], claim["kind"], claim["other"]) == ("it holds", "holds", "depth")
    alone = both(replace(report(base=False), facts={"kind": "base"}), "statistics")
    assert {row["board"] for row in alone} == {"base"}


def test_the_interchange_files_have_scores_metrics_and_sizes() -> None:
    rows = data.interchange(BOARD)
    scores = {tuple(row[:3]): row[3:] for row in rows["scores"]}
    assert scores[NAMES[0], 2, "Bank"] == (0.52, "Classification", "accuracy")
    assert len(scores) == len(NAMES) * len(TASKS) * (BLOCKS + 1) + 2 * (BLOCKS + 1)
    values = {tuple(row[:4]): row[4] for row in rows["metrics"]}
    assert values[NAMES[1], "model", "Sts", "frenet.d0L"] == 1.125
    assert values[NAMES[1], 0, "Sts", "frenet.speed"] == 0.25
    assert {name for *_, name in values} == {"frenet.d0L", "frenet.speed"}
    assert rows["models"][0] == (NAMES[0], 8.0, 64, BLOCKS, "bert", None)


def test_the_last_value_of_a_metric_counts_and_pruned_models_are_left_out() -> None:
    rows = list(BOARD.table("values").rows)
    (old,) = (r for r in rows if (r["model"], r["task"], r["name"]) == (NAMES[0], "Sts", "d0L"))
    board = changed(BOARD, "values", [*rows, {**old, "value": 9.0}, {**old, "variant": "cut"}])
    values = {tuple(row[:4]): row[4] for row in data.interchange(board)["metrics"]}
    assert values[NAMES[0], "model", "Sts", "frenet.d0L"] == 9.0
    assert len(values) == len(data.interchange(BOARD)["metrics"])
    # scores beyond 1 would be read as percent, and have no file
    beyond = dict(data.tidy(changed(BOARD, "values", [{**rows[0], "value": 1.5}, *rows[1:]])))
    assert "scores.csv" in dict(data.tidy(BOARD))
    assert not {"scores.csv"} & beyond.keys()
    assert "metrics.csv" in beyond


@given(st.lists(st.text(max_size=8) | st.sampled_from([*HOSTILE, "", "#a", " a"]), unique=True))
@settings(max_examples=50, deadline=None)
def test_names_of_the_interchange_files_are_read_back_as_they_are(names: list[str]) -> None:
    new_names = data.distinct(dict(enumerate(names)))
    assert len(set(new_names.values())) == len(names)
    for new in new_names.values():
        assert new == new.strip()
        assert new.isprintable()
        assert new[:1] not in ("", "#")
    usual = {i for i, name in enumerate(names) if name and data.readable(name) == name}
    assert all(new_names[i] == names[i] for i in usual)


def test_cards_read_back_with_the_scores(tmp_path: Path) -> None:
    names = ("a/one", "b", *HOSTILE)
    board = report(names)
    assert len(write_folder(tmp_path, "cards", markdown.cards(board))) == len(names)
    for i, row in enumerate(board.table("models").rows):
        card = ModelCard.load(tmp_path / safe_name(row["model"]) / "README.md")
        results = {r.dataset_name: r for r in card.data.eval_results}
        tasks = [*TASKS, *(BASE_TASKS if i >= len(names) - 2 else ())]
        scores = {task: row[f"score.{task}"] for task in tasks}
        assert {name: r.metric_value for name, r in results.items()} == scores
        assert results["Sts"].task_type == "STS"
        assert {r.metric_type for r in results.values()} == {"accuracy"}
        assert "an oracle" in card.text
        assert "without labels" in card.text
        assert f"| revision | {row['revision']} |" in card.text
        assert card.data.tags == ["lrd-harness"]
        assert card.data.model_name == plain(row["model"])
    base = ModelCard.load(tmp_path / safe_name(HOSTILE[-1]) / "README.md")
    assert base.data.eval_results[-1].task_type == "text-generation"
    assert "| MMLU (accuracy) |" in base.text
    assert "± 0.0100 | 0.2500 |" in base.text


def test_cards_count_the_models_that_a_metric_ranks() -> None:
    ranks = {"a": (1, 1), "b": (1, 1), "c": (None, 3), "d": (2, None)}
    rows = [
        {**row, "rank": ranks[row["model"]][0], "predicted.frenet": ranks[row["model"]][1]}
        | ({"score.Sts": None, "score.Bank": None, "score.Trec": None} if i == 2 else {})
        for i, row in enumerate(report(tuple(ranks)).table("models").rows)
    ]
    board = changed(report(tuple(ranks), base=False), "models", rows)
    cards = {path.split("/")[0]: text.decode() for path, text in markdown.cards(board)}
    assert sorted(cards) == ["a", "b", "d"]  # c has no score
    metric, actual = "| frenet (d0L) |", "| actual rank (mean score of the last layer) |"
    assert f"{metric} 1= | 3 |\n" in cards["a"]
    assert f"{actual} 1= | 3 |\n" in cards["b"]
    assert metric not in cards["d"]


def test_a_report_without_models_has_no_cards_and_no_interchange_files() -> None:
    board = Report("", (table("agreement", [{"predictor": "p", "rho": 0.5}], shown=True),))
    assert list(markdown.cards(board)) == []
    assert [path for path, _ in data.tidy(board)] == ["statistics.csv", "statistics.parquet"]
