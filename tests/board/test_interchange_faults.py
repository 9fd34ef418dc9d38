"""What is wrong with a CSV file, in one clear line; and scores of a file beside a run's metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lrd_harness import UserError
from lrd_harness.board import interchange
from lrd_harness.board.leaderboard import report
from lrd_harness.results.rows import (
    ErrorRow,
    Key,
    MetricRow,
    ModelRow,
    PruningRow,
    Results,
    ScoreRow,
    UndefinedRow,
    VariantRow,
)

WIDE = "model,X,Y\na,0.5,0.25\nb,0.75,\n"
LONG = "model,layer,task,score\na,0,X,0.1\na,1,X,0.3\na,2,X,0.2\n"
VALUES = (
    "model,layer,task,name,value\n"
    "a,0,X,frenet.speed,1.5\na,1,X,frenet.speed,0.5\na,model,X,frenet.d0L,0.9\na,2,X,dime,1\n"
)


def file(folder: Path, text: str | bytes, name: str = "S.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


SCORE_FAULTS = [
    ("", "S.csv is empty"),
    ("\ufeff\n \n# only this\n", "S.csv is empty"),
    ("model,X\n", "S.csv has no rows under its header"),
    (b"model,X\n\xe9,1\n", "S.csv is not UTF-8 text"),
    ("model,X".encode("utf-16"), "S.csv is not UTF-8 text"),
    (
        "name,X\na,1\n",
        "S.csv lacks the column model: scores are wide (model, a column per task)",
    ),
    ("model,layer,task\na,1,X\n", "S.csv lacks the column score: scores are wide"),
    ("model,score\na,0.1\n", "S.csv lacks the column task"),
    ("model\na\n", "S.csv has no score: scores are wide"),
    ("model,X\na,\n", "S.csv has no score"),
    ("model,X,X\na,1,2\n", "S.csv has the column X twice"),
    ("model,X\na,0.1\nb,abc\n", "S.csv line 3: 'abc' in column X is no number"),
    ("model;X\na;0,1\n", "S.csv line 2: '0,1' in column X is no number"),
    ("model,X\na,inf\n", "S.csv line 2: 'inf' in column X is no number"),
    ("model,X\na,1_0\n", "S.csv line 2: '1_0' in column X is no number"),
    ("model,X\n,0.1\n", "S.csv line 2: no model"),
    ("model,X\na,0.1,0.2\n", "S.csv line 2: 3 cells, but 2 columns have a name"),
    ("model,X\na,0.1\n\na,0.2\n", "S.csv line 4: the score of a on X is there already, in line 2"),
    ("model,task,score\na,X,1\na,X,1\n", "line 3: the score of a on X is there already, in line 2"),
    (" # x", "S.csv is empty"),
    (",,\n , \n", "S.csv is empty"),
    (LONG + f"a,{'9' * 5000},X,0.3\n", f"line 5: layer '{'9' * 40}' is neither a whole number"),
    (LONG + "a,1234567890,X,0.3\n", "line 5: layer '1234567890' is neither a whole number"),
    (f"model,X\n{'a' * 131073},0.1\n", "S.csv line 2: no CSV (field larger than field limit"),
    (f"model,{'X' * 131073}\na,0.1\n", "S.csv line 1: no CSV (field larger than field limit"),
    (f"model,X\na,{'x' * 5000}\n", f"line 2: '{'x' * 40}' in column X is no number"),
    (LONG + "a,1,X,0.3\n", "line 5: the score of a on X, layer 1, is there already, in line 3"),
    (LONG + "a,model,X,0.3\n", "line 5: the score of a on X, layer 2, is there already, in line 4"),
    (LONG + "a,1.5,X,0.3\n", "line 5: layer '1.5' is neither a whole number from 0 on nor 'model'"),
    (LONG + "a,-1,X,0.3\n", "line 5: layer '-1' is neither"),
    (LONG + "a,last,X,0.3\n", "line 5: layer 'last' is neither"),
    (LONG + "a,1,,0.3\n", "S.csv line 5: no task"),
    (LONG + "a,999999999,X,0.3\n", "S.csv line 5: layer 999999999: at most 10,000 are possible"),
    ("model,X\na,0,5\n", "3 cells, but 2 columns have a name (a cell that holds the separator"),
    ('model,X\na,"1,234"\n', "'1,234' in column X is no number: write decimals with a point"),
    ('model,X\n"a,0.1\n', "S.csv line 2: no CSV"),
]


@pytest.mark.parametrize(("text", "message"), SCORE_FAULTS)
def test_faults_of_scores_are_one_clear_line(
    tmp_path: Path, text: str | bytes, message: str
) -> None:
    with pytest.raises(UserError) as fault:
        interchange.read(file(tmp_path, text))
    assert message in str(fault.value)
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LONG, "V.csv lacks the columns name, value: values have the columns model, layer"),
        (VALUES + "a,1,X,frenet.speed,2\n", "line 6: frenet.speed of a on X, layer 1, is there al"),
        (VALUES + "a,model,X,frenet.d0L,2\n", "frenet.d0L of a on X, the model, is there already"),
        (VALUES + "a,1,X,frenet.,2\n", "V.csv line 6: 'frenet.' is no name of a value"),
        (VALUES + "a,1,X,.speed,2\n", "V.csv line 6: '.speed' is no name of a value"),
        (VALUES + "a,1,X,,2\n", "V.csv line 6: no name"),
        (VALUES + "a,1,X,frenet.curvature,high\n", "line 6: 'high' in column value is no number"),
        (VALUES + "a,1x,X,frenet.curvature,1\n", "V.csv line 6: layer '1x' is neither"),
        ("model,layer,task,name,value\na,1,X,dime,\n", "V.csv has no value"),
    ],
)
def test_faults_of_values(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as fault:
        interchange.read(file(tmp_path, LONG), file(tmp_path, text, "V.csv"))
    assert message in str(fault.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,blocks\na,2\n", "M.csv lacks the column model: models have the columns"),
        ("model,blocks\na,2\na,3\n", "M.csv line 3: a is there already, in line 2"),
        ("model,blocks\na,2.5\n", "M.csv line 2: '2.5' in column blocks is no whole number above"),
        ("model,width\na,0\n", "M.csv line 2: '0' in column width is no whole number above 0"),
        ("model,parameters_millions\na,7B\n", "line 2: '7B' in column parameters_millions is no n"),
        ("model,parameters_millions\na,1e305\n", "line 2: '1e305' million parameters are too many"),
        ("model,parameters_millions\na,-5\n", "line 2: '-5' million parameters are not one param"),
        (
            "model,parameters_millions\na,0\n",
            "line 2: '0' million parameters are not one parameter",
        ),
        ("model,parameters_millions\na,1e13\n", "too many: at most 9.22e+12 are possible"),
        ("model,width\na,-64\n", "M.csv line 2: '-64' in column width is no whole number above 0"),
        (
            "model,width\na,1e300\n",
            "'1e300' in column width is too large: at most 1,000,000,000",
        ),
        ("model,blocks\na,1e9\n", "'1e9' in column blocks is too large: at most 10,000 is"),
        ("model,blocks\na,-inf\n", "line 2: '-inf' in column blocks is no number"),
        ("model,blocks\nA,2\n", "M.csv has none of the models: it has A, not a"),
        ("model,blocks\na,1\n", "S.csv line 4: layer 2 of a, whose last layer is 1"),
    ],
)
def test_faults_of_models(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as fault:
        interchange.read(file(tmp_path, LONG), None, file(tmp_path, text, "M.csv"))
    assert message in str(fault.value)


def test_notes_are_said_only_where_nothing_is_wrong(tmp_path: Path) -> None:
    """Each of these has something to say before it fails."""
    notes: list[str] = []
    percent = file(tmp_path, "model,layer,X\na,2,82.5\nb,2,10\n")
    values = file(tmp_path, VALUES + "a,2,X,dime,1\n", "V.csv")
    models = file(tmp_path, "model,blocks\na,1\n", "M.csv")
    for values_file, models_file in ((values, None), (None, models), (tmp_path / "none.csv", None)):
        with pytest.raises(UserError):
            interchange.read(percent, values_file, models_file, notes.append)
    with pytest.raises(UserError, match="layer 2 of a, whose last layer is 1"):
        interchange.with_scores(a_run(), percent, notes.append)
    assert notes == []
    interchange.read(percent, say=notes.append)
    assert notes == [f"{percent}: scores are above 1: read as percent"]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such file: .*none\.csv"):
        interchange.read(tmp_path / "none.csv")
    with pytest.raises(UserError, match=r"cannot be read \(Is a directory\)"):
        interchange.read(tmp_path)


def test_files_without_a_model_in_common(tmp_path: Path) -> None:
    values = file(tmp_path, VALUES.replace("a,", "org/a,"), "V.csv")
    with pytest.raises(UserError) as fault:
        interchange.read(file(tmp_path, WIDE), values)
    assert "no model is in both" in str(fault.value)
    assert "S.csv (a, b)" in str(fault.value)
    assert "V.csv (org/a)" in str(fault.value)


def a_run() -> Results:
    """Two models with scores of X and Y at two layers, and a pruned one."""

    def scores(model: str, **fields: Any) -> list[ScoreRow]:
        return [
            ScoreRow(model=model, task=t, task_type="STS", layer=at, layers=1, score=0.5, **fields)
            for t in "XY"
            for at in (0, 1)
        ]

    pruned: dict[str, Any] = {"revision": "1" * 40, "variant": "p"}
    return Results(
        models=(
            ModelRow(model="a", revision="1" * 40, blocks=1, width=8),
            ModelRow(model="b", blocks=1),
            ModelRow(model="a", **pruned),
        ),
        scores=(*scores("a", revision="1" * 40), *scores("b"), *scores("a", **pruned)),
        metrics=(MetricRow(model="b", task="X", metric="dime", n=9),),
        errors=(ErrorRow(model="b", error="of b"),),
        undefined=(UndefinedRow(model="b", task="X", layer=0, error="same"),),
        prunings=(PruningRow(model="a", rule="r", budget=0.1, removed=(1,), blocks=1),),
        variants=(VariantRow(model="a", removed=(1,), **pruned),),
    )


@pytest.mark.parametrize("name", ["a", "a@" + "1" * 12, "a@" + "1" * 40])
def test_scores_of_a_file_in_place_of_a_runs(tmp_path: Path, name: str) -> None:
    notes: list[str] = []
    path = file(tmp_path, f"model,X,Z\n{name},0.7,0.9\nother,0.1,0.2\n")
    found, source = interchange.with_scores(a_run(), path, notes.append)
    published = {(r.model, r.task): r for r in found.scores if r.task in "XZ"}
    assert published.keys() == {("a", "X"), ("a", "Z")}
    assert published["a", "X"] == ScoreRow(
        model="a", revision="1" * 40, task="X", task_type="STS", layer=1, layers=1, score=0.7
    )
    own = [r for r in found.scores if r.task == "Y"]
    assert [(r.model, r.layer, r.score) for r in own] == [
        (model, layer, 0.5) for model in "ab" for layer in (0, 1)
    ]
    assert [m.variant for m in found.models] == ["full", "full"]
    assert found.metrics == a_run().metrics
    assert found.errors == a_run().errors
    assert (found.prunings, found.variants, found.undefined) == ((), (), ())
    assert notes == [
        f"the run's pruned models are left out: {path} has no scores of them",
        f"{path}: 1 model left out that the run lacks: other",
        f"{path}: 1 task added that the run lacks: Z",
        f"{path}: 1 model without a score on some task, so no rank: b",
    ]
    assert source == "Scores of X, Z: from S.csv, not from the run."
    assert report(found).table("models").column("width")[0] == 8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model,X\nc,1\n", "S.csv has no model of the run: it has c, the run a, b"),
        ("model,layer,X\na,2,1\n", "S.csv line 2: layer 2 of a, whose last layer is 1"),
        (f"model,X\na,1\na@{'1' * 12},1\n", f"line 3: a@{'1' * 12} is there already under another"),
    ],
)
def test_scores_that_do_not_fit_a_run(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as fault:
        interchange.with_scores(a_run(), file(tmp_path, text))
    assert message in str(fault.value)


def test_a_name_of_several_revisions(tmp_path: Path) -> None:
    models = tuple(ModelRow(model="a", revision=f"step{i}", blocks=1) for i in (1, 2))
    run = Results(models=models)
    with pytest.raises(UserError, match=r"a is several models of the run: a@step1, a@step2"):
        interchange.with_scores(run, file(tmp_path, "model,X\na,0.1\n"))
    found, _ = interchange.with_scores(run, file(tmp_path, "model,X\na@step2,0.1\n"))
    assert [(r.revision, r.layer) for r in found.scores] == [("step2", 1)]


def test_a_model_without_likelihood_scores_loses_no_rank() -> None:
    """Of two kinds of tasks each has its own board: what an encoder lacks there is no loss."""

    def score(model: str, task: str, kind: str = "STS") -> ScoreRow:
        return ScoreRow(model=model, task=task, task_type=kind, layer=2, layers=2, score=0.5)

    likely = "LogLikelihood"
    own = [score("lm", "A"), score("lm", "M", likely), score("e", "A"), score("f", "B")]
    held = Results(scores=(*own, score("e", "B"), score("lm", "B")))
    assert interchange._lacking(held, own[:3], likelihood=True) == set()
    assert interchange._lacking(held, own[:3], likelihood=False) == {Key("f", "", "full")}
    assert interchange._lacking(held, own, likelihood=False) == {
        Key(m, "", "full") for m in ("lm", "e", "f")
    }
    assert interchange._lacking(held, own[:1], likelihood=True) == set()
