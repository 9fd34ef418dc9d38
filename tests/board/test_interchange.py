"""CSV files as results: every form, real-world quirks, and one clear line for what is wrong."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lrd_harness import UserError
from lrd_harness.board import interchange
from lrd_harness.board.leaderboard import report
from lrd_harness.results.rows import (
    ErrorRow,
    MetricRow,
    ModelRow,
    PruningRow,
    Results,
    ScoreRow,
    UndefinedRow,
    VariantRow,
)
from lrd_harness.store import tables

WIDE = "model,X,Y\na,0.5,0.25\nb,0.75,\n"
LONG = "model,layer,task,score\na,0,X,0.1\na,1,X,0.3\na,2,X,0.2\n"
HEAD = "model,layer,task,name,value\n"
VALUES = (
    f"{HEAD}a,0,X,frenet.speed,1.5\na,1,X,frenet.speed,0.5\n"
    "a,model,X,frenet.d0L,0.9\na,2,X,dime,1\n"
)
File = Callable[..., Path]


@pytest.fixture
def file(tmp_path: Path) -> File:
    def write(text: str | bytes, name: str = "S.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def numbers(results: Results) -> dict[tuple[str, str, int, int], float]:
    """(model, task, layer, L) -> score."""
    return {(r.model, r.task, r.layer, r.layers): r.score for r in results.scores}


def fault(*files: Path | None) -> str:
    with pytest.raises(UserError) as raised:
        interchange.read(*files)
    return str(raised.value)


def test_the_models_file_says_how_deep_a_model_is(file: File) -> None:
    wide = interchange.read(file(WIDE))  # without one, the score is of layer 0 of 0
    assert numbers(wide) == {("a", "X", 0, 0): 0.5, ("a", "Y", 0, 0): 0.25, ("b", "X", 0, 0): 0.75}
    models = "model,hub_id,parameters_millions,width,blocks,family\nb,B,22.7,384,6,bert\n"
    models += "c,C,1,2,3,gpt\na,A,,,12,\n"
    deep = interchange.read(file(WIDE), None, file(models, "M.csv"))
    assert {(row.model, row.layer, row.layers) for row in deep.scores} == {
        ("a", 12, 12),
        ("b", 6, 6),
    }
    assert deep.models == (
        ModelRow(model="a", blocks=12),
        ModelRow(model="b", parameters=22_700_000, blocks=6, width=384, family="bert"),
    )


@pytest.mark.parametrize("last", ["2", "2.0", "model", "Model", ""])
def test_long_scores_by_layer(file: File, last: str) -> None:
    text = LONG.replace("a,2,X", f"a,{last},X") + "b,2,X,0.4\n"
    values = file(VALUES + "b,2,X,dime,1\n", "V.csv")  # L of a is 2 by its values too
    assert numbers(interchange.read(file(text), values)) == {
        ("a", "X", 0, 2): 0.1,
        ("a", "X", 1, 2): 0.3,
        ("a", "X", 2, 2): 0.2,
        ("b", "X", 2, 2): 0.4,
    }


def test_values_become_metrics(file: File) -> None:
    text = VALUES + "a,1,X,made_up.thing,7\na,model,Y,frenet.rank,3\n"
    results = interchange.read(None, file(text, "V.csv"))
    by_name = {(row.task, row.metric): row for row in results.metrics}
    frenet, dime, made_up = (by_name["X", name] for name in ("frenet", "dime", "made_up"))
    assert frenet.values == {"d0L": 0.9}
    assert frenet.profiles == {"speed": ((0, 1), (1.5, 0.5), "")}
    assert (frenet.start, frenet.n, frenet.selection) == (0, 0, ("d0L", "max"))
    assert dime.profiles == {"dime": ((2,), (1.0,), "")}
    assert (dime.start, dime.values, dime.layer_choice) == (2, {}, ("dime", "min"))
    assert by_name["Y", "frenet"].selection is None  # its d0L is not there
    assert (made_up.selection, made_up.layer_choice) == (None, None)
    assert results.models == (ModelRow(model="a", blocks=2),)


def test_remarks_name_types_and_scores(file: File) -> None:
    text = "model,n_tasks,X,Y\n#type,,STS,LogLikelihood\n#main_score,,spearman,acc\n#any,,v1,v2\n"
    values = file(f"{HEAD}a,0,X,dime.dime,1\na,0,Z,dime.dime,1\n", "V.csv")
    results = interchange.read(file(text + "a,2,0.5,0.25\n"), values)
    assert {(r.task, r.task_type, r.score_name) for r in results.scores} == {
        ("X", "STS", "spearman"),
        ("Y", "LogLikelihood", "acc"),
    }
    assert {(r.task, r.task_type) for r in results.metrics} == {("X", "STS"), ("Z", "")}


SEMICOLONS = WIDE.replace(",", ";")


@pytest.mark.parametrize(
    "text",
    [
        WIDE.encode("utf-8-sig"),
        WIDE.replace("\n", "\r\n"),
        WIDE.replace(",", "\t"),
        WIDE.replace(",", " , "),
        WIDE.replace("model", "Model"),
        '"model","X","Y"\n"a","0.5","0.25"\n"b","0.75","NA"\n',
        "\n# made by hand\nmodel,X,Y\n\n,,\na,0.5,0.25\nb,0.75,-\n",
        "model,X,Y,\na,5e-1,.25,\nb,0.75,nan,\n",
        SEMICOLONS,
        "sep=;\n" + SEMICOLONS,
        "\ufeffSEP=;\r\n" + SEMICOLONS.replace("\n", "\r\n"),
        '"sep=|"\n' + WIDE.replace(",", "|"),
        WIDE.replace(",", "\t").replace("X", "X;Z;W;V"),
        SEMICOLONS.replace("X", "X,Z,W"),
    ],
)
def test_files_as_people_make_them(file: File, text: str | bytes) -> None:
    scores = interchange.read(file(text)).scores
    assert sorted(row.score for row in scores) == [0.25, 0.5, 0.75]
    assert {(row.model, row.task[0]) for row in scores} == {("a", "X"), ("a", "Y"), ("b", "X")}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_in_quoted_cells(file: File, end: str) -> None:
    text = f'model,"X{end}Y"{end}"a{end}b",0.5{end}c,0.25{end}'
    scores = interchange.read(file(text)).scores
    assert [(r.model, r.task, r.score) for r in scores] == [
        (f"a{end}b", f"X{end}Y", 0.5),
        ("c", f"X{end}Y", 0.25),
    ]
    for quoted, line in ((text, 5), (f"sep=,{end}{text}", 6)):
        assert f"line {line}: 'x' in column" in fault(file(quoted.replace("c,0.25", "c,x")))


def test_names_that_look_like_formulas_come_back(file: File) -> None:
    names = ["=1+1", "+a", "-b", "@c", "'=d", "''=e", "'f", "-", "-5", "\uff1dg"]
    lines = [[name, 0.5 - i / 100, -0.25] for i, name in enumerate(names)]
    text = tables.written(["model", "=T", "-0.5x"], lines)
    cells = [cell for row in csv.reader(io.StringIO(text)) for cell in row]
    assert not [c for c in cells if c[:1] in "=+-@\uff1d" and c not in ("-", "-5", "-0.25")]
    results = interchange.read(file(text))
    assert [row.model for row in results.models] == names
    assert {row.task for row in results.scores} == {"=T", "-0.5x"}
    with tables.literal_names():
        assert tables.written(["=a"], [["=b"], [-1]]) == "=a\n=b\n-1\n"
    assert tables.written(["\ta"], [["\rb"]]) == "'\ta\n\"'\rb\"\n"


def test_models_and_tasks_of_one_file_only_are_told(file: File) -> None:
    notes: list[str] = []
    values = file(VALUES.replace(",X,", ",Z,"), "V.csv")
    results = interchange.read(file(WIDE), values, say=notes.append)
    assert {row.model for row in results.models} == {row.model for row in results.scores} == {"a"}
    assert "S.csv: 1 model left out, without a value in" in notes[0]
    assert notes[0].endswith(": b")
    assert notes[1].startswith("no task is in both")
    assert notes[2] == "blocks are not given: the highest layer of a value is the last: a"


def test_values_and_scores_that_end_at_other_layers_are_told(file: File) -> None:
    ends = {"a": (6, 99), "b": (6, 99), "c": (6, 5), "d": (6, 6), "e": (6, 9), "f": (None, 3)}
    scores = "".join(f"{m},0,X,.1\n{m},{s},X,.2\n" for m, (s, _) in ends.items() if s)
    values = "".join(f"{m},0,X,dime,1\n{m},{v},X,dime,2\n" for m, (_, v) in ends.items())
    notes: list[str] = []
    results = interchange.read(
        file(f"model,layer,task,score\n{scores}f,model,X,.2\n"),
        file(HEAD + values, "V.csv"),
        file("model,blocks\ne,9\n", "M.csv"),
        notes.append,
    )
    assert notes == [
        "blocks are not given: the highest layer of a value is the last: f",
        "a, b: values reach layer 99, scores layer 6: 99 is taken as the last",
        "c: values reach layer 5, scores layer 6: 6 is taken as the last",
    ]
    assert [row.blocks for row in results.models] == [99, 99, 6, 6, 9, 3]


def test_notes_are_said_only_where_nothing_is_wrong(file: File, tmp_path: Path) -> None:
    """Each of these has something to say before it fails."""
    notes: list[str] = []
    percent = file("model,layer,X\na,2,82.5\nb,2,10\n")
    values = file(VALUES + "a,2,X,dime,1\n", "V.csv")
    models = file("model,blocks\na,1\n", "M.csv")
    for more in ((values, None), (None, models), (tmp_path / "none.csv", None)):
        with pytest.raises(UserError):
            interchange.read(percent, *more, notes.append)
    with pytest.raises(UserError, match="layer 2 of a, whose last layer is 1"):
        interchange.with_scores(a_run(), percent, notes.append)
    assert notes == []
    interchange.read(percent, say=notes.append)
    assert notes == [f"{percent}: scores are above 1: read as percent"]


LAYER = "is neither a whole number from 0 on nor 'model'"
FAULTS = [  # in the scores, the values, the models
    ("S", "\ufeff\n \n# only this\n", "S.csv is empty"),
    ("S", "model,X\n", "S.csv has no rows under its header"),
    ("S", "model,X".encode("utf-16"), "S.csv is not UTF-8 text"),
    ("S", "name,X\na,1\n", "lacks the column model: scores are wide (model, a column per task)"),
    ("S", "model,layer,task\na,1,X\n", "S.csv lacks the column score: scores are wide"),
    ("S", "model,score\na,0.1\n", "S.csv lacks the column task"),
    ("S", "model\na\n", "S.csv has no score: scores are wide"),
    ("S", "model,X\na,\n", "S.csv has no score"),
    ("S", "model,X,X\na,1,2\n", "S.csv has the column X twice"),
    ("S", "model;X\na;0,1\n", "S.csv line 2: '0,1' in column X is no number"),
    ("S", "model,X\na,1\nb,inf\n", "S.csv line 3: 'inf' in column X is no number"),
    ("S", "model,X\na,1_0\n", "S.csv line 2: '1_0' in column X is no number"),
    ("S", f"model,X\na,{'x' * 5000}\n", f"line 2: '{'x' * 40}' in column X is no number"),
    ("S", 'model,X\na,"1,234"\n', "column X is no number: write decimals with a point"),
    ("S", "model,X\n,0.1\n", "S.csv line 2: no model"),
    ("S", "model,X\na,0.1,0.2\n", "line 2: 3 cells, but 2 columns have a name (a cell that holds"),
    ("S", "model,X\na,0.1\n\na,0.2\n", "line 4: the score of a on X is there already, in line 2"),
    ("S", f"model,X\n{'a' * 131073},0.1\n", "line 2: no CSV (field larger than field limit"),
    ("S", 'model,X\n"a,0.1\n', "S.csv line 2: no CSV"),
    ("S", f"{LONG}a,1,X,0.3\n", "the score of a on X, layer 1, is there already, in line 3"),
    ("S", f"{LONG}a,model,X,0.3\n", "the score of a on X, layer 2, is there already, in line 4"),
    ("S", f"{LONG}a,1.5,X,0.3\n", f"line 5: layer '1.5' {LAYER}"),
    ("S", f"{LONG}a,-1,X,0.3\n", f"line 5: layer '-1' {LAYER}"),
    ("S", f"{LONG}a,{'9' * 5000},X,0.3\n", f"line 5: layer '{'9' * 40}' {LAYER}"),
    ("S", f"{LONG}a,1,,0.3\n", "S.csv line 5: no task"),
    ("S", f"{LONG}a,99999,X,0.3\n", "S.csv line 5: layer 99999: at most 10,000 are possible"),
    ("V", LONG, "V.csv lacks the columns name, value: values have the columns model, layer"),
    ("V", f"{VALUES}a,1,X,frenet.speed,2\n", "line 6: frenet.speed of a on X, layer 1, is there"),
    ("V", f"{VALUES}a,model,X,frenet.d0L,2\n", "frenet.d0L of a on X, the model, is there already"),
    ("V", f"{VALUES}a,1,X,frenet.,2\n", "V.csv line 6: 'frenet.' is no name of a value"),
    ("V", f"{VALUES}a,1,X,.speed,2\n", "V.csv line 6: '.speed' is no name of a value"),
    ("V", f"{VALUES}a,1,X,,2\n", "V.csv line 6: no name"),
    ("V", f"{HEAD}a,1,X,dime,\n", "V.csv has no value"),
    ("V", VALUES.replace("a,", "org/a,"), "V.csv (org/a): the names must be the same"),
    ("M", "name,blocks\na,2\n", "M.csv lacks the column model: models have the columns"),
    ("M", "model,blocks\na,2\na,3\n", "M.csv line 3: a is there already, in line 2"),
    ("M", "model,blocks\na,2.5\n", "line 2: '2.5' in column blocks is no whole number above 0"),
    ("M", "model,width\na,0\n", "M.csv line 2: '0' in column width is no whole number above 0"),
    ("M", "model,parameters_millions\na,-5\n", "'-5' million parameters are not one parameter"),
    ("M", "model,parameters_millions\na,1e13\n", "too many: at most 9.22e+12 are possible"),
    ("M", "model,blocks\na,1e9\n", "'1e9' in column blocks is too large: at most 10,000 is"),
    ("M", "model,blocks\nA,2\n", "M.csv has none of the models: it has A, not a"),
    ("M", "model,blocks\na,1\n", "S.csv line 4: layer 2 of a, whose last layer is 1"),
]


@pytest.mark.parametrize(("kind", "text", "message"), FAULTS)
def test_a_fault_is_one_clear_line(file: File, kind: str, text: str | bytes, message: str) -> None:
    texts = {"S": LONG, kind: text}
    files = {name: file(texts[name], f"{name}.csv") for name in texts}
    line = fault(files["S"], files.get("V"), files.get("M"))
    assert message in line
    assert "\n" not in line


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "no such file: " in fault(tmp_path / "none.csv")
    assert "cannot be read (Is a directory)" in fault(tmp_path)


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
def test_scores_of_a_file_in_place_of_a_runs(file: File, name: str) -> None:
    notes: list[str] = []
    path = file(f"model,X,Z\n{name},0.7,0.9\nother,0.1,0.2\n")
    results, source = interchange.with_scores(a_run(), path, notes.append)
    published = {(r.model, r.task): r for r in results.scores if r.task in "XZ"}
    assert published.keys() == {("a", "X"), ("a", "Z")}
    assert published["a", "X"] == ScoreRow(
        model="a", revision="1" * 40, task="X", task_type="STS", layer=1, layers=1, score=0.7
    )
    of_run = [(r.model, r.layer, r.score) for r in results.scores if r.task == "Y"]
    assert of_run == [(model, layer, 0.5) for model in "ab" for layer in (0, 1)]
    assert [m.variant for m in results.models] == ["full", "full"]
    assert (results.metrics, results.errors) == (a_run().metrics, a_run().errors)
    assert (results.prunings, results.variants, results.undefined) == ((), (), ())
    assert notes == [
        f"the run's pruned models are left out: {path} has no scores of them",
        f"{path}: 1 model left out that the run lacks: other",
        f"{path}: 1 task added that the run lacks: Z",
        f"{path}: 1 model without a score on some task, so no rank: b",
    ]
    assert source == "Scores of X, Z: from S.csv, not from the run."
    assert report(results).table("models").column("width")[0] == 8


REVISIONS = Results(
    models=tuple(ModelRow(model="a", revision=f"step{i}", blocks=1) for i in (1, 2))
)


@pytest.mark.parametrize(
    ("run", "text", "message"),
    [
        (a_run(), "model,X\nc,1\n", "S.csv has no model of the run: it has c, the run a, b"),
        (a_run(), "model,layer,X\na,2,1\n", "S.csv line 2: layer 2 of a, whose last layer is 1"),
        (a_run(), f"model,X\na,1\na@{'1' * 12},1\n", "is there already under another name"),
        (REVISIONS, "model,X\na,0.1\n", "a is several models of the run: a@step1, a@step2"),
    ],
)
def test_scores_that_do_not_fit_a_run(file: File, run: Results, text: str, message: str) -> None:
    with pytest.raises(UserError) as raised:
        interchange.with_scores(run, file(text))
    assert message in str(raised.value)
    of_one, _ = interchange.with_scores(REVISIONS, file("model,X\na@step2,0.1\n"))
    assert [(r.revision, r.layer) for r in of_one.scores] == [("step2", 1)]


def test_a_model_without_likelihood_scores_loses_no_rank(file: File) -> None:
    """Of two kinds of tasks each has its own board: what an encoder lacks there is no loss."""
    run = a_run()
    likely = ScoreRow(model="b", task="M", task_type="LogLikelihood", layer=1, layers=1, score=0.5)
    notes: list[str] = []
    path = file("model,M\nb,0.7\n")
    interchange.with_scores(replace(run, scores=(*run.scores, likely)), path, notes.append)
    assert not any("no rank" in note for note in notes)
    also = replace(likely, model="a", revision="1" * 40)
    interchange.with_scores(replace(run, scores=(*run.scores, likely, also)), path, notes.append)
    assert notes[-1] == f"{path}: 1 model without a score on some task, so no rank: a"
