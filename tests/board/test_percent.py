"""Scores as shares or percentages, decided a task at a time; what is neither is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from lrd_harness import UserError
from lrd_harness.board import interchange

Column = tuple[str, list[float]]


def read(folder: Path, text: str, notes: list[str] | None = None) -> dict[str, list[float]]:
    """Task -> its scores."""
    path = folder / "S.csv"
    path.write_text(text)
    scores: dict[str, list[float]] = {}
    for row in interchange.read(path, say=([] if notes is None else notes).append).scores:
        scores.setdefault(row.task, []).append(row.score)
    return scores


def columns(*named: Column) -> str:
    """A wide table of these columns, of models m0, m1 ..."""
    rows = zip(*(values for _, values in named), strict=True)
    body = [f"m{i}," + ",".join(map(str, row)) for i, row in enumerate(rows)]
    return "\n".join([",".join(["model", *(name for name, _ in named)]), *body])


def refused(folder: Path, text: str) -> str:
    with pytest.raises(UserError) as fault:
        read(folder, text)
    assert len(str(fault.value).splitlines()) == 1
    return str(fault.value)


SMALL = [0.4, 0.8, 1.9, 4.0, 9.5, 17.0, 30.0, 44.0, 51.0, 62.5, 0.0]


@pytest.mark.parametrize(
    ("named", "percent"),
    [
        ([("T1", [50.0, 40.0]), ("T2", [0.6, -0.1]), ("T3", [1.0, 0.0])], {"T1"}),
        ([("T1", SMALL)], {"T1"}),  # small ones, that others lead down to
        ([("T1 (%)", [0.5, 0.9, 0.7]), ("T2", [0.5, 0.9, 0.7])], {"T1 (%)"}),
        ([("Average", [0.5, 0.9, 0.7])], set()),  # of nothing else
        ([("T", [100.0, 82.0, 64.0])], {"T"}),  # no ranks
        ([("T", [0.0, 1.0, 1.0])], set()),
    ],
)
def test_which_tasks_are_in_percent(tmp_path: Path, named: list[Column], percent: set[str]) -> None:
    for name, scores in read(tmp_path, columns(*named)).items():
        values = dict(named)[name]
        assert scores == pytest.approx([v / 100 if name in percent else v for v in values])


def test_what_was_read_as_percent_is_told(tmp_path: Path) -> None:
    notes: list[str] = []
    read(tmp_path, columns(("T1", [50.0, 40.0]), ("T2", [0.6, -0.1]), ("T3", [1.0, 0.0])), notes)
    file = tmp_path / "S.csv"
    assert notes == [f"{file}: scores of T1 are above 1: read as percent; of T2, T3 as they are"]


def test_the_long_form_is_decided_by_task(tmp_path: Path) -> None:
    text = "model,layer,task,score\na,0,X,12\na,1,X,34\na,0,Y,0.2\na,1,Y,0.9\n"
    assert read(tmp_path, text) == {"X": pytest.approx([0.12, 0.34]), "Y": [0.2, 0.9]}
    mixed = refused(tmp_path, text.replace("a,1,X,34", "a,1,X,0.34"))
    assert "X has 0.34 (line 3) and 12 (line 2): from 0 to 1 or" in mixed


@pytest.mark.parametrize("odd", [0.5, 1.0, -0.3])
@pytest.mark.parametrize("others", [[55.0, 60.0, 12.0, 71.5], [20.0]])
def test_a_mixed_column_is_refused_by_name(tmp_path: Path, odd: float, others: list[float]) -> None:
    beside = [70.0] * (len(others) + 1)
    for text in (
        columns(("T1", [odd, *others])),
        columns(("T1", [odd, *others]), ("T2", beside)),
        columns(("T1", [*others, odd]), ("T2", [b / 100 for b in beside])),
    ):
        message = refused(tmp_path, text)
        assert f"T1 has {odd:g} (line " in message
        assert "from 0 to 1 or in percent? write all of them from 0 to 1" in message
    # a model in shares, also where a weak one leads down to it in each column
    tasks = [("T1", [0.82, 82, 81, 79, 70, 3.1]), ("T2", [0.64, 64, 60, 55, 50, 2.2])]
    refused(tmp_path, columns(*tasks))


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("Rank", [1.0, 2.0, 3.0], "'Rank': its values are ranks"),
        ("Any", [2.0, 1.0, 2.0, 4.0], "'Any': its values are ranks"),
        ("Any", [2.5, 1.0, 2.5, 4.0], "'Any': its values are ranks"),
        ("Any", [0.0, 1.0, 2.0], "'Any': its values are ranks"),
        ("Any", [2.0, 4.0, 3.0], "'Any': its values are ranks"),
        ("Rank (Borda)", [17.0, 4.0, 61.0], "'Rank (Borda)': its name says"),
        ("STS Rank", [17.0, 4.0, 61.0], "'STS Rank': its name says"),
        ("num_layers", [6.0, 12.0, 24.0], "'num_layers': its name says"),
        ("Time (s)", [6.0, 12.5, 24.0], "'Time (s)': its name says"),
        ("Number of Parameters (B)", [7.0, 0.3, 8.0], "'Number of Parameters (B)': its name says"),
        ("Mean (Task)", [0.5, 0.9, 0.7], "'Mean (Task)': its name says that they are means"),
        ("Avg.", [0.5, 0.9, 0.7], "'Avg.': its name says that they are means of the others"),
        ("Elo", [1012.0, 987.5, 44.0], "line 2: 1012 in Elo is no score"),
        ("Loss", [-150.0, 2.0, 3.5], "line 2: -150 in Loss is no score"),
        ("Loss", [1.2, 0.9, 0.7], "Loss has 0.9 (line 3) and 1.2 (line 2)"),
    ],
)
def test_what_is_no_score_is_refused_by_name(
    tmp_path: Path, name: str, values: list[float], message: str
) -> None:
    beside = [0.5, 0.6, 0.7, 0.8][: len(values)]
    assert message in refused(tmp_path, columns(("T1", beside), (name, values)))


@pytest.mark.slow
def test_absurdly_many_columns_end_in_a_line(tmp_path: Path) -> None:
    many = [f"T{i}" for i in range(20_001)]
    wide = refused(tmp_path, f"model,{','.join(many)}\na{',0.5' * len(many)}\n")
    assert "line 1: 20,002 columns; at most 20,000 are read" in wide
    rows = "".join(f"a,{task},0.5\n" for task in many)
    assert "20,001 tasks; at most 20,000 are read" in refused(tmp_path, "model,task,score\n" + rows)
