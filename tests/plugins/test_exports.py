"""Tidy tables and model cards say what the leaderboard says, whatever the names."""

from __future__ import annotations

import csv
import importlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from export_rows import HOSTILE, results, whole
from huggingface_hub import ModelCard
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from lrd_harness import manager
from lrd_harness.board import interchange
from lrd_harness.board.leaderboard import Leaderboard, build
from lrd_harness.results.database import Results
from lrd_harness.store.files import unguarded
from lrd_harness.store.folders import safe_name, write_folder

tidy: Any = importlib.import_module("lrd_harness.plugins.reporters._tidy")
tidy_values: Any = importlib.import_module("lrd_harness.plugins.reporters._tidy_values")
tidy_statistics: Any = importlib.import_module("lrd_harness.plugins.reporters._tidy_statistics")
cards: Any = importlib.import_module("lrd_harness.plugins.reporters._cards")


def both(files: dict[str, bytes], name: str, columns: dict[str, type]) -> list[dict[str, Any]]:
    """The rows of a table, which must be the same in both of its files."""
    table = pq.read_table(io.BytesIO(files[f"{name}.parquet"])).to_pylist()
    text = io.StringIO(files[f"{name}.csv"].decode(), newline="")
    reader = csv.DictReader(text)
    assert reader.fieldnames == list(columns)
    typed = [
        {key: kind(unguarded(row[key])) if row[key] else None for key, kind in columns.items()}
        for row in reader
    ]
    assert typed == table
    return table


def test_every_value_is_a_row_and_both_files_agree() -> None:
    held = whole()
    held = replace(held, captures=(*held.captures, replace(held.captures[0], empty=5)))
    rows = both(dict(tidy.tidy(build(held))), "values", tidy_values.COLUMNS)
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_kind.setdefault(row["kind"], []).append(row)
    scores = {(r["model"], r["task"], r["layer"]): r for r in by_kind["score"]}
    assert len(by_kind["score"]) == len(held.scores) == len(scores)
    for score in held.scores:
        row = scores[score.model, score.task, score.layer]
        assert (row["value"], row["name"], row["best"]) == (score.score, "acc_norm", "max")
        assert (row["stderr"], row["chance"]) == (score.stderr, score.chance)
        assert row["depth"] == score.layer / 2
        assert row["task_type"] == score.task_type
    assert len(by_kind["subscore"]) == len(held.scores)
    assert len(by_kind["metric"]) == sum(len(m.values) for m in held.metrics)
    filled = [v for m in held.metrics for p in m.profiles.values() for v in p.values]
    assert len(by_kind["profile"]) == sum(v is not None for v in filled)
    assert {r["best"] for r in by_kind["metric"] if r["name"] == "d0L"} == {"max"}
    assert {r["best"] for r in by_kind["profile"] if r["name"] == "dime"} == {"min"}
    assert {r["parameters_of_metric"] for r in by_kind["metric"]} == {'{"k": 3}'}
    assert len(by_kind["table"]) == 4 * len([m for m in held.metrics if m.tables])
    assert {(r["layer"], r["place"], r["value"]) for r in by_kind["table"]} == {
        *((0, 0, 1.0), (0, 1, 2.0), (2, 0, 3.0), (2, 1, 4.5))
    }
    counted = {(r["place"], r["name"]): (r["value"], r["unit"]) for r in by_kind["capture"]}
    assert len(counted) == len(by_kind["capture"]) == 14
    assert counted[0, "tokens"] == (70, "tokens")
    assert counted[1, "empty"] == (5, "texts")
    assert {r["unit"] for r in by_kind["score"]} == {"0-1"}
    units = {(r["name"], r["unit"]) for r in by_kind["metric"]}
    assert units == {("d0L", "radians"), ("rank", None)}
    assert {r["unit"] for r in by_kind["subscore"] + by_kind["profile"]} == {None}
    assert {r["name"]: r["value"] for r in by_kind["variant"]}["latency"] == 0.5
    (pruning,), (error,), (undefined,) = (by_kind[k] for k in ("pruning", "error", "undefined"))
    assert (pruning["source"], pruning["value"], pruning["text"]) == ("random", 0.5, "2")
    assert (error["text"], error["source"], error["value"]) == ("NotFinite: state 3", "nrs", None)
    assert (undefined["layer"], undefined["text"]) == (0, "all the same")
    assert {r["parameters"] for r in rows if r["model"] == "c"} == {3 * 1_234_567}


def test_statistics_are_those_of_the_json_form() -> None:
    board = build(results())
    rows = both(dict(tidy.tidy(board)), "statistics", tidy_statistics.COLUMNS)
    document = json.loads(manager.load().get("reporter", "json").write(board))
    for kind, part in (("embedding", document), ("base", document["base"])):
        own = [r for r in rows if r["board"] == kind]
        means = {
            (r["predictor"], r["kind"]): (r["value"], r["n"])
            for r in own
            if (r["about"], r["statistic"]) == ("mean", "rho")
        }
        assert means == {
            (one["name"], one["kind"]): (one["rho"], one["n"])
            for one in part["correlations"]
            if one["rho"] is not None
        }
        for one in part["selection"]:
            named = [r for r in own if r["predictor"] == one["name"]]
            over = {r["statistic"]: r["value"] for r in named if r["about"] == "tasks"}
            assert over["significant"] == one["significant"]
            assert over.get("regret") == one["regret"]
            for task in one["tasks"]:
                on = {
                    r["statistic"]: r["value"]
                    for r in named
                    if r["about"] == "task" and r["task"] == task["task"]
                }
                assert on.get("rho") == task["rho"]
                assert on.get("partial.log parameters") == task["partial"].get("log parameters")
            others = {r["other"] for r in named if r["about"] == "rival"}
            assert others == {rival["name"] for rival in one["rivals"]}
    told = {(r["board"], r["predictor"], r["kind"], r["n"]) for r in rows if r["about"] == "claim"}
    assert told == {
        (kind, c["name"], c["verdict"], c["n"])
        for kind, part in (("embedding", document), ("base", document["base"]))
        for c in part["claims"]
        if any(c[name] is not None for name in ("value", "low", "p", "control_value"))
    }
    kin = {(r["board"], r["predictor"], r["value"]) for r in rows if r["about"] == "kin"}
    for one in document["families"]["rows"]:
        assert one["share"] is None or ("embedding", one["name"], one["share"]) in kin
    gains = [r for r in rows if (r["about"], r["statistic"]) == ("layer_gain", "gain")]
    listed = [g for p in (document, document["base"]) for g in p["layer_choice"]["gains"]]
    assert [r["value"] for r in gains] == [g["gain"] for g in listed if g["gain"] is not None]


def read_again(board: Leaderboard, folder: Path) -> Leaderboard:
    """The leaderboard of the tidy form's interchange files."""
    write_folder(folder, "tidy", tidy.tidy(board))
    names = ("scores", "metrics", "models")
    return build(interchange.read(*(folder / f"{name}.csv" for name in names)))


def test_the_interchange_files_give_the_same_tables_whatever_the_names(tmp_path: Path) -> None:
    names = (*HOSTILE, "", "half \ud83d", "lead (2)", "b", "b", "b@rev23")
    held = results(names)
    kinds = dict(zip(HOSTILE, HOSTILE[::-1], strict=True))
    tasks = {"One": " lead", "Two, too": "lead", "Base": ""}
    held = replace(
        held,
        models=tuple(replace(m, family=kinds.get(m.model, "")) for m in held.models),
        scores=tuple(replace(s, task=tasks[s.task], score_name="#acc\n") for s in held.scores),
        metrics=tuple(replace(m, task=tasks[m.task]) for m in held.metrics),
    )
    board = build(held)
    again = read_again(board, tmp_path)
    for one, two in ((board, again), (board.base, again.base)):
        assert one is not None
        assert two is not None
        assert len({row.label for row in two.rows}) == len(names)
        seen = [(r.rank, r.score, r.best_layer, r.predicted, r.values) for r in one.rows]
        assert seen == [(r.rank, r.score, r.best_layer, r.predicted, r.values) for r in two.rows]
        assert len({row.info.family for row in two.rows}) == len(HOSTILE) + 1
        assert len(two.tasks) == len(one.tasks)
    labels = {row.label for row in again.rows}
    assert {"org/model_50%", "[red]*star*", "lead", "nan", "unnamed", "\\#type"} <= labels


@given(seed=st.integers(0, 10**6), count=st.integers(2, 6))
@settings(max_examples=4, deadline=None, phases=[Phase.explicit, Phase.generate])
def test_the_interchange_files_give_the_same_tables(
    seed: int, count: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    board = build(results(("a/one", "b", "b", "d", "e", "f, g")[:count], seed))
    again = read_again(board, tmp_path_factory.mktemp("tidy"))
    for one, two in ((board, again), (board.base, again.base)):
        assert one is not None
        assert two is not None
        rows = {row.label: row for row in two.rows}
        for row in one.rows:
            other = rows[row.label]
            assert (other.rank, other.predicted, other.values) == (
                row.rank,
                row.predicted,
                row.values,
            )
            assert (other.score, other.best_layer, other.best_score) == (
                row.score,
                row.best_layer,
                row.best_score,
            )
            for name in ("parameters", "width", "blocks", "family"):
                assert getattr(other.info, name) == getattr(row.info, name)
        assert [(t.name, t.type, t.score_name) for t in two.tasks] == [
            (t.name, t.type, t.score_name) for t in one.tasks
        ]
        assert two.correlations == one.correlations
        assert two.selection == one.selection
        assert two.choice is not None
        assert one.choice is not None
        assert two.choice.gains == one.choice.gains


def test_scores_beyond_1_would_be_read_as_percent_and_have_no_file() -> None:
    held = results()
    held = replace(held, scores=(replace(held.scores[0], score=1.5), *held.scores[1:]))
    assert "scores.csv" not in dict(tidy.tidy(build(held)))
    assert sorted(dict(tidy.tidy(build(Results())))) == [
        *("statistics.csv", "statistics.parquet", "values.csv", "values.parquet")
    ]


def test_tidy_takes_hostile_names() -> None:
    names = (*HOSTILE, "half \ud83d of a pair")
    rows = both(dict(tidy.tidy(build(results(names)))), "values", tidy_values.COLUMNS)
    assert {r["model"] for r in rows} == {*HOSTILE, "half \\ud83d of a pair"}


def test_cards_read_back_with_the_scores(tmp_path: Path) -> None:
    names = ("a/one", "b", "b", *HOSTILE)
    board = build(results(names))
    paths = write_folder(tmp_path, "cards", cards.cards(board))
    assert len(paths) == len(names)
    assert "a__one/README.md" in paths
    assert board.base is not None
    base = {row.info.key: row for row in board.base.rows}
    for row in board.rows:
        card = ModelCard.load(tmp_path / safe_name(row.label) / "README.md")
        found = {r.dataset_name: r for r in card.data.eval_results}
        expected = {**row.scores, **base[row.info.key].scores}
        assert {name: r.metric_value for name, r in found.items()} == {
            name: score.last for name, score in expected.items()
        }
        assert (found["One"].task_type, found["Base"].task_type) == ("STS", "text-generation")
        assert {r.metric_type for r in found.values()} == {"acc_norm"}
        assert "an oracle" in card.text
        assert "without labels" in card.text
        assert card.data.tags == ["lrd-harness"]
        assert card.data.model_name.isprintable()
    two = [row for row in board.rows if row.info.model == "b"]
    texts = [(tmp_path / safe_name(row.label) / "README.md").read_text() for row in two]
    assert all(f"revision: {row.info.revision}" in t for row, t in zip(two, texts, strict=True))


def test_cards_count_the_models_that_a_metric_ranks() -> None:
    held = results(("a", "b", "c", "d"))
    values = {"a": 1.0, "b": 2.0, "c": 2.0}
    ranked = (
        replace(row, values={"d0L": values[row.model]})
        for row in held.metrics
        if row.metric == "frenet" and row.model in values
    )
    scores = (replace(row, score=0.5) for row in held.scores if row.model != "c")
    found = dict(cards.cards(build(replace(held, metrics=tuple(ranked), scores=tuple(scores)))))
    texts = {path.split("/")[0]: text.decode() for path, text in found.items()}
    assert sorted(texts) == ["a", "b", "d"]
    metric, actual = "* frenet (d0L): ", "* actual rank (mean score of the last layer): "
    assert texts["a"].count(f"{metric}3 of 3\n") == 2
    assert texts["b"].count(f"{metric}1= of 3\n") == 2
    assert texts["a"].count(f"{actual}1= of 3\n") == 2
    assert "Predicted ranks\n" not in texts["d"]


def test_units_are_those_of_the_metrics() -> None:
    ranking: Any = importlib.import_module("lrd_harness.plugins.reporters._ranking")
    known = {m.name: m for m in manager.load().all("metric")}
    expected = {"frenet": "radians", "nrs": "0-1", "gfmi": "nats x %"}
    assert {name: known[name].unit for name in expected} == expected
    for name, unit in expected.items():
        assert ranking.unit_of(name, known[name].selection.score) == unit
        assert ranking.unit_of(name, "other") == ""
    assert ranking.unit_of("unknown", "d0L") == ""


def test_a_model_without_scores_has_no_card() -> None:
    held = results()
    assert list(cards.cards(build(replace(held, scores=())))) == []
