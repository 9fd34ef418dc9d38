"""Panel metrics on the board: beside the others where they rank, else scores and matrices apart."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lrd_harness.plugins.reporters._figures import figures
from scipy import stats
from selection_panels import by, panel

import lrd_harness
from lrd_harness.board import pairs
from lrd_harness.board.leaderboard import report
from lrd_harness.contracts import Summary
from lrd_harness.manager import load
from lrd_harness.results import database
from lrd_harness.results.database import build_database
from lrd_harness.results.journal import Journal
from lrd_harness.results.rows import MetricRow, Results

M, TASKS = 7, ("T0", "T1")
SCORES = {(m, t): 0.3 + 0.05 * ((3 * m + t) % M) for m in range(M) for t in range(2)}
SIZE = {("own", "v", "max"): {(m, t): float(m) for m in range(M) for t in range(2)}}
ALIKE = np.random.default_rng(0).uniform(size=(2, M, M))  # of task, model, other model
MODELS = [f"m{i}" for i in range(M)]
NAMES = [f"{name}@" for name in MODELS]


def of_panel(metric: str = "near", **more: Any) -> list[MetricRow]:
    """A panel metric's rows as a run records them: consensus, chance, and who is like whom."""
    return [
        MetricRow(
            model=f"m{m}", task=task, task_type="STS", metric=metric, n=50,
            parameters={"k": 10, "panel": NAMES},
            values={"consensus": float(np.delete(ALIKE[t, m], m).mean()), "chance": 0.2},
            pairs={"alike": {f"m{o}": float(ALIKE[t, m, o]) for o in range(M) if o != m}},
            **more,
        )
        for t, task in enumerate(TASKS)
        for m in range(M)
    ]  # fmt: skip


def results(*rows: MetricRow, models: Any = ()) -> Results:
    made = panel(M, SCORES, SIZE)
    return replace(made, metrics=(*made.metrics, *rows), models=(*made.models, *models))


MEANS = [np.mean([np.delete(ALIKE[t, m], m).mean() for t in range(2)]) for m in range(M)]
ACTUAL = [np.mean([SCORES[m, t] for t in range(2)]) for m in range(M)]
PLAIN = results(*of_panel())
PANEL_CAPTION = report(PLAIN).table("panel").caption


def test_scores_without_a_better_end_rank_no_models() -> None:
    board = report(PLAIN)
    rows = by(board, "panel", "model")
    assert [rows[m]["near.consensus"] for m in MODELS] == pytest.approx(MEANS)
    assert {row["near.chance"] for row in rows.values()} == {0.2}
    expected = stats.spearmanr(MEANS, ACTUAL)
    (rho, level) = board.table("panel_correlations").rows
    assert (rho["predictor"], rho["n"], rho["best"]) == ("near.consensus", M, "")
    assert rho["rho"] == pytest.approx(expected.statistic)
    assert level["rho"] is None  # chance is the same for all
    both = f"{rho['rho']:+.2f} with the highest first, {-rho['rho']:+.2f} with the lowest first"
    said = board.table("panel").caption
    assert both in said[1]
    assert len(said) == 2
    names = [table.name for table in board.tables]
    for name in ("correlations", "agreement", "families", "metrics"):
        if name in names:
            assert "near" not in json.dumps(list(board.table(name).rows))
    without = report(results())
    for table in without.tables:  # and change nothing else that ranks
        if table.name not in ("values", "redundancy", "confounds"):
            assert list(board.table(table.name).rows) == list(table.rows), table.name
    notes = [[n for n in of.notes if "after Holm" not in n] for of in (board, without)]
    assert notes[0] == notes[1]  # of confounds there are more to correct for
    assert board.answer == without.answer


def test_model_beside_model_in_the_order_of_the_ranking() -> None:
    board = report(PLAIN)
    matrix = board.table("pairs.near.alike")
    order = board.table("ranking").column("model")
    assert matrix.column("model") == order
    assert [c.name for c in matrix.columns[1:]] == [f"with.{name}" for name in order]
    for row in matrix.rows:
        for other in order:
            a, b = int(row["model"][1:]), int(other[1:])
            expected = None if a == b else pytest.approx(ALIKE[:, a, b].mean())
            assert row[f"with.{other}"] == expected


def test_the_order_with_each_model_and_family_left_out() -> None:
    """Each row anew: medians of what is left, task by task, and where that puts the models."""
    ways = {"sees": Summary("alike", "median"), "seen": Summary("alike", "mean", "column", "min")}
    made = results(*of_panel(summaries=ways))
    families = {"m1": "f", "m4": "f", "m6": "f", "m0": "g"}
    models = [replace(row, family=families.get(row.model)) for row in made.models]
    board = report(replace(made, models=tuple(models)))
    rows = {(r["predictor"], r["other"]): r for r in board.table("panel_without").rows}
    out: list[list[str]] = [[], *([m] for m in MODELS), ["m1", "m4", "m6"]]
    assert len(rows) == 2 * len(out)
    assert rows["near.sees", "none"]["moves"] == 0

    def scores(name: str, kept: list[int]) -> list[float]:
        middle, turned = (np.median, ALIKE) if name == "sees" else (np.mean, ALIKE.swapaxes(1, 2))
        others = {m: [o for o in kept if o != m] for m in kept}
        return [float(np.mean([middle(of[m, others[m]]) for of in turned])) for m in kept]

    places = {row["model"]: row for row in board.table("panel_places").rows[:M]}
    moved: dict[str, list[int]] = {m: [0] for m in MODELS}
    for without in out:
        kept = [m for m in range(M) if MODELS[m] not in without]
        for name, sign in (("sees", -1), ("seen", 1)):
            label = {0: "none", 1: "".join(without)}.get(len(without), "f (family)")
            row = rows[f"near.{name}", label]
            left = scores(name, kept)
            whole = [scores(name, list(range(M)))[m] for m in kept]
            assert row["n"] == len(kept)
            assert row["rho"] == pytest.approx(stats.spearmanr(left, whole).statistic)
            actual = stats.spearmanr(left, [ACTUAL[m] for m in kept]).statistic
            assert row["actual"] == pytest.approx(actual)
            by = [stats.rankdata(sign * np.array(of)).astype(int) for of in (left, whole)]
            moves = (by[0] - by[1]).tolist()
            assert row["moves"] == max(map(abs, moves))
            if row["moves"]:
                assert row["moved"].split(", ")[0] in [
                    MODELS[m] for m, by in zip(kept, moves, strict=True) if abs(by) == row["moves"]
                ]
            for m, by in zip(kept, moves if name == "sees" else [], strict=False):
                moved[MODELS[m]].append(by)
    for model, moves in moved.items():
        place = places[model]["place"]
        assert (places[model]["first"], places[model]["last"]) == (
            place + min(moves),
            place + max(moves),
        )
    assert {c.name: c.best for c in board.table("panel").columns}["near.consensus"] == ""


def test_too_few_to_leave_one_out() -> None:
    """Three models: of two that are left no order says anything."""
    few = {"m0", "m1", "m2"}
    ways = {"consensus": Summary("alike")}
    rows = [
        replace(r, pairs={"alike": {k: v for k, v in r.pairs["alike"].items() if k in few}})
        for r in of_panel(summaries=ways)
        if r.model in few and r.pairs
    ]
    board = report(results(*rows))
    assert board.get("panel_without") is None
    assert board.table("pairs.near.alike").rows


def test_a_map_of_each_matrix() -> None:
    """In the order of the ranking; said to be directed where it is."""
    even = [replace(r, pairs={"alike": dict.fromkeys(r.pairs["alike"], 0.5)}) for r in of_panel()
            if r.pairs]  # fmt: skip
    for rows, way in ((of_panel(), True), (even, False)):
        board = report(results(*rows))
        (figure,) = [f for f in figures(board) if f.name.startswith("pairs")]
        assert figure.title == "Model by model: near alike"
        assert ("From the model of a row" in figure.caption) == way
        assert len(figure.rows) == M * (M - 1)
        order = board.table("ranking").column("model")
        for row in figure.rows:
            assert (order[row["order"]], order[row["right"]]) == (row["model"], row["other model"])
            m, o = int(row["model"][1:]), int(row["other model"][1:])
            assert row["value"] == pytest.approx(ALIKE[:, m, o].mean() if way else 0.5)
        assert ("directed" in board.table("pairs.near.alike").caption[0]) == way


def test_what_is_experimental_is_said() -> None:
    said = report(results(*of_panel("info_gauss"))).table("panel").caption
    assert [line for line in said if line.startswith("info_gauss is experimental: on 8 real")]
    ways = {"consensus": Summary("alike", best="max")}
    board = report(results(*of_panel(summaries=ways)))
    (rho, _) = board.table("panel_correlations").rows
    assert (rho["predictor"], rho["best"]) == ("near.consensus", "max")
    (line,) = [line for line in board.table("panel").caption if line.startswith("near.consensus:")]
    assert f"mean score {rho['rho']:+.2f}, and higher is published as better" in line
    assert board.table("ranking").columns == report(PLAIN).table("ranking").columns  # ranks none
    assert not [line for line in PANEL_CAPTION if "experimental" in line]


def test_a_selection_ranks_models_beside_the_other_metrics() -> None:
    board = report(results(*of_panel(selection=("consensus", "min"))))
    places = stats.rankdata(
        np.mean([stats.rankdata([np.delete(a, m).mean() for m, a in enumerate(ALIKE[t])])
                 for t in range(2)], axis=0), method="min")  # fmt: skip
    ranking = by(board, "ranking", "model")
    assert [ranking[m]["predicted.near"] for m in MODELS] == places.tolist()
    for name in ("correlations", "agreement", "agreement_tasks", "rivals"):
        of_near = [row for row in board.table(name).rows if row["predictor"].startswith("near")]
        assert {row["kind"] for row in of_near} == {"metric"}, name
    assert "near" in board.table("metrics").column("metric")
    assert any("near" in note for note in board.notes)  # its verdict
    assert len(board.table("panel").caption) == 1  # an end is published
    assert "near.consensus" in [row["predictor"] for row in board.table("panel_correlations").rows]


def test_what_is_lacking_is_empty_and_revisions_are_told_apart() -> None:
    rows = [r for r in of_panel() if (r.model, r.task) != ("m3", "T1")]
    rows = [
        replace(r, pairs={"alike": {k: v for k, v in r.pairs["alike"].items() if k != "m3"}})
        if r.task == "T1" and r.pairs else r
        for r in rows
    ]  # fmt: skip
    older = replace(PLAIN.models[0], revision="older")
    board = report(results(*rows, models=[older]))
    matrix = by(board, "pairs.near.alike", "model")
    first, second = "m0@", "m0@older"
    assert {first, second} <= matrix.keys()
    assert by(board, "panel", "model")["m3"]["near.consensus"] is None
    for name, row in matrix.items():
        filled = {column for column, value in row.items() if column.startswith("with.") and value}
        others = {f"with.{o}" for o in (first, "m1", "m2", "m4", "m5", "m6") if o != name}
        assert filled == (set() if name in ("m3", second) else others), name


def test_every_form_has_them() -> None:
    board = report(PLAIN)
    value = f"{ALIKE[:, 1, 2].mean():.3f}"
    for form in ("table", "md", "latex", "html", "fragment"):
        text = load().get("reporter", form).write(board)
        assert value in text, form
        assert "consensus" in text, form
        assert "alike" in text, form
    tables = json.loads(load().get("reporter", "json").write(board))["tables"]
    assert tables["pairs.near.alike"]["rows"][0].keys() >= {f"with.{m}" for m in MODELS}
    tidy = dict(load().get("reporter", "tidy").files(board))
    lines = [*csv.DictReader(io.StringIO(tidy["values.csv"].decode()))]
    lines = [line for line in lines if line["kind"] == "pair"]
    pairs = {(r["model"], r["other"], r["task"]): float(r["value"]) for r in lines}
    assert len(pairs) == 2 * M * (M - 1)
    assert pairs["m1", "m2", "T1"] == pytest.approx(ALIKE[1, 1, 2])
    statistics = tidy["statistics.csv"].decode()
    assert "panel_correlations,near.consensus" in statistics
    assert "pairs." not in statistics


def test_they_are_read_back_from_a_journal_and_from_sqlite(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for i, row in enumerate([*PLAIN.models, *PLAIN.scores, *PLAIN.metrics]):
        kind = type(row).__name__.removesuffix("Row").lower()
        journal.append({"kind": kind, "unit": str(i), **asdict(row)})
    journal.close()
    build_database(tmp_path)
    loaded = database.load(tmp_path)
    assert list(report(loaded).table("pairs.near.alike").rows) == list(
        report(PLAIN).table("pairs.near.alike").rows
    )
    frame = lrd_harness.values(tmp_path)
    assert set(frame[frame.source == "near"].name) == {"consensus", "chance"}
    for file in (tmp_path / "journal").iterdir():
        file.unlink()
    assert database.load(tmp_path).metrics == loaded.metrics


def test_people_see_small_matrices_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "SHOWN", M - 1)
    board = report(PLAIN)
    assert not board.table("pairs.near.alike").shown
    assert board.table("panel").shown
