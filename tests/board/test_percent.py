"""Scores as shares or percentages, decided a task at a time; what is neither is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from lrd_harness import UserError
from lrd_harness.board import interchange


def read(folder: Path, text: str, notes: list[str] | None = None) -> dict[tuple[str, str], float]:
    path = folder / "S.csv"
    path.write_text(text)
    said: list[str] = [] if notes is None else notes
    return {(r.model, r.task): r.score for r in interchange.read(path, say=said.append).scores}


def columns(*named: tuple[str, list[float | None]]) -> str:
    """A wide table of these columns, of models m0, m1 ..."""
    rows = zip(*(values for _, values in named), strict=True)
    body = [
        f"m{i}," + ",".join("" if v is None else f"{v}" for v in row) for i, row in enumerate(rows)
    ]
    return "\n".join([",".join(["model", *(name for name, _ in named)]), *body])


def refused(folder: Path, text: str) -> str:
    with pytest.raises(UserError) as fault:
        read(folder, text)
    assert len(str(fault.value).splitlines()) == 1
    return str(fault.value)


def test_one_column_in_percent_leaves_the_others(tmp_path: Path) -> None:
    notes: list[str] = []
    text = columns(("T1", [50.0, 40.0]), ("T2", [0.6, -0.1]), ("T3", [1.0, 0.0]))
    found = read(tmp_path, text, notes)
    assert found == pytest.approx(
        dict(
            zip(
                [(m, t) for m in ("m0", "m1") for t in ("T1", "T2", "T3")],
                [0.5, 0.6, 1.0, 0.4, -0.1, 0.0],
                strict=True,
            )
        )
    )
    file = tmp_path / "S.csv"
    assert notes == [f"{file}: scores of T1 are above 1: read as percent; of T2, T3 as they are"]


def test_the_long_form_is_decided_by_task(tmp_path: Path) -> None:
    text = "model,layer,task,score\na,0,X,12\na,1,X,34\na,0,Y,0.2\na,1,Y,0.9\n"
    path = tmp_path / "S.csv"
    path.write_text(text)
    assert [r.score for r in interchange.read(path).scores] == pytest.approx([0.12, 0.34, 0.2, 0.9])
    path.write_text(text.replace("a,1,X,34", "a,1,X,0.34"))
    with pytest.raises(UserError, match=r"X has 0.34 \(line 3\) and 12 \(line 2\): from 0 to 1 or"):
        interchange.read(path)


@pytest.mark.parametrize("odd", [0.5, 1.0, 0.8, -0.3])
@pytest.mark.parametrize("others", [[55.0, 60.0], [55.0, 60.0, 12.0, 71.5], [20.0]])
def test_a_mixed_column_is_refused_by_name(tmp_path: Path, odd: float, others: list[float]) -> None:
    beside = [70.0] * (len(others) + 1)
    for text in (
        columns(("T1", [odd, *others])),
        columns(("T1", [odd, *others]), ("T2", beside)),
        columns(("T1", [*others, odd]), ("T2", [b / 100 for b in beside])),
    ):
        said = refused(tmp_path, text)
        assert f"T1 has {odd:g} (line " in said
        assert "from 0 to 1 or in percent? write all of them from 0 to 1" in said


def test_small_percentages_that_others_lead_down_to(tmp_path: Path) -> None:
    values = [0.4, 0.8, 1.9, 4.0, 9.5, 17.0, 30.0, 44.0, 51.0, 62.5, 0.0]
    found = read(tmp_path, columns(("T1", values)))
    assert list(found.values()) == pytest.approx([v / 100 for v in values])


def test_a_model_in_shares_among_percentages_is_refused(tmp_path: Path) -> None:
    """Also where a weak model leads down to it in each column."""
    tasks = [("T1", [0.82, 82, 81, 79, 70, 3.1]), ("T2", [0.64, 64, 60, 55, 50, 2.2])]
    refused(tmp_path, columns(*tasks))


def test_a_name_that_says_percent_is_believed(tmp_path: Path) -> None:
    found = read(tmp_path, columns(("T1 (%)", [0.5, 0.9, 0.7]), ("T2", [0.5, 0.9, 0.7])))
    assert found["m0", "T1 (%)"] == pytest.approx(0.005)
    assert found["m0", "T2"] == 0.5


def test_a_mean_of_other_tasks_is_no_task(tmp_path: Path) -> None:
    values = [0.5, 0.9, 0.7]
    assert read(tmp_path, columns(("Average", values)))["m0", "Average"] == 0.5
    for name in ("Mean (Task)", "Avg.", "average"):
        with pytest.raises(UserError, match="means of the others"):
            read(tmp_path, columns((name, values), ("T2", values)))


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("Rank", [1.0, 2.0, 3.0], "'Rank': its values are ranks"),
        ("Any", [3.0, 1.0, 2.0], "'Any': its values are ranks"),
        ("Any", [2.0, 1.0, 2.0, 4.0], "'Any': its values are ranks"),
        ("Any", [2.5, 1.0, 2.5, 4.0], "'Any': its values are ranks"),
        ("Any", [0.0, 1.0, 2.0], "'Any': its values are ranks"),
        ("Rank (Borda)", [17.0, 4.0, 61.0], "'Rank (Borda)': its name says"),
        ("Any", [2.0, 4.0, 3.0], "'Any': its values are ranks"),
        ("rank_borda", [17.0, 4.0, 61.0], "'rank_borda': its name says"),
        ("STS Rank", [17.0, 4.0, 61.0], "'STS Rank': its name says"),
        ("num_layers", [6.0, 12.0, 24.0], "'num_layers': its name says"),
        ("Embed Dim", [64.0, 32.0, 96.0], "'Embed Dim': its name says"),
        ("Time (s)", [6.0, 12.5, 24.0], "'Time (s)': its name says"),
        ("blocks", [6.0, 12.0, 24.0], "'blocks': its name says"),
        ("Number of Parameters (B)", [7.0, 0.3, 8.0], "'Number of Parameters (B)': its name says"),
        ("Elo", [1012.0, 987.5, 44.0], "line 2: 1012 in Elo is no score"),
        ("year", [2023.0, 2024.0, 2024.0], "2023 in year is no score"),
        ("Loss", [-150.0, 2.0, 3.5], "line 2: -150 in Loss is no score"),
        ("Loss", [1.2, 0.9, 0.7], "Loss has 0.9 (line 3) and 1.2 (line 2)"),
    ],
)
def test_what_is_no_score_is_refused_by_name(
    tmp_path: Path, name: str, values: list[float], message: str
) -> None:
    assert message in refused(
        tmp_path, columns(("T1", [0.5, 0.6, 0.7, 0.8][: len(values)]), (name, values))
    )


def test_whole_percentages_are_no_ranks(tmp_path: Path) -> None:
    assert read(tmp_path, columns(("T", [100.0, 82.0, 64.0])))["m1", "T"] == pytest.approx(0.82)
    assert read(tmp_path, columns(("T", [0.0, 1.0, 1.0])))["m1", "T"] == 1.0


def test_absurdly_many_columns_end_in_a_line(tmp_path: Path) -> None:
    many = [f"T{i}" for i in range(100_000)]
    said = refused(tmp_path, f"model,{','.join(many)}\na{',0.5' * len(many)}\n")
    assert "line 1: 100,001 columns; at most 20,000 are read" in said
    rows = "".join(f"a,T{i},0.5\n" for i in range(20_001))
    assert "20,001 tasks; at most 20,000 are read" in refused(tmp_path, "model,task,score\n" + rows)
