"""CSV files as results: every form, real-world quirks, and one clear line for what is wrong."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from lrd_harness import UserError
from lrd_harness.board import interchange
from lrd_harness.results.rows import ModelRow, Results
from lrd_harness.store import tables

DATA = Path(__file__).parents[1] / "data"
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


def numbers(results: Results) -> dict[tuple[str, str, int, int], float]:
    """(model, task, layer, L) -> score."""
    return {(r.model, r.task, r.layer, r.layers): r.score for r in results.scores}


def test_wide_scores_are_the_last_layers(tmp_path: Path) -> None:
    found = interchange.read(file(tmp_path, WIDE))
    assert numbers(found) == {
        ("a", "X", 0, 0): 0.5,
        ("a", "Y", 0, 0): 0.25,
        ("b", "X", 0, 0): 0.75,
    }
    assert [row.model for row in found.models] == ["a", "b"]
    assert all(row.last for row in found.scores)


def test_the_models_file_says_how_deep_a_model_is(tmp_path: Path) -> None:
    models = "model,hub_id,parameters_millions,width,blocks,family\nb,B,22.7,384,6,bert\n"
    models += "c,C,1,2,3,gpt\na,A,,,12,\n"
    found = interchange.read(file(tmp_path, WIDE), None, file(tmp_path, models, "M.csv"))
    assert {(row.model, row.layer, row.layers) for row in found.scores} == {
        ("a", 12, 12),
        ("b", 6, 6),
    }
    assert found.models == (
        ModelRow(model="a", blocks=12),
        ModelRow(model="b", parameters=22_700_000, blocks=6, width=384, family="bert"),
    )


@pytest.mark.parametrize("last", ["2", "2.0", "model", "Model", ""])
def test_long_scores_by_layer(tmp_path: Path, last: str) -> None:
    text = LONG.replace("a,2,X", f"a,{last},X") + "b,2,X,0.4\n"
    values = VALUES + "b,2,X,dime,1\n"  # L of a is 2 by its values too
    found = interchange.read(file(tmp_path, text), file(tmp_path, values, "V.csv"))
    assert numbers(found) == {
        ("a", "X", 0, 2): 0.1,
        ("a", "X", 1, 2): 0.3,
        ("a", "X", 2, 2): 0.2,
        ("b", "X", 2, 2): 0.4,
    }


def test_values_become_metrics(tmp_path: Path) -> None:
    values = VALUES + "a,1,X,made_up.thing,7\na,model,Y,frenet.rank,3\n"
    found = interchange.read(None, file(tmp_path, values, "V.csv"))
    by_name = {(row.task, row.metric): row for row in found.metrics}
    frenet, dime = by_name["X", "frenet"], by_name["X", "dime"]
    assert frenet.values == {"d0L": 0.9}
    assert frenet.profiles == {"speed": ((0, 1), (1.5, 0.5))}
    assert (frenet.start, frenet.n, frenet.version) == (0, 0, "1")
    assert frenet.selection == ("d0L", "max")
    assert dime.profiles == {"dime": ((2,), (1.0,))}
    assert (dime.start, dime.values, dime.selection) == (2, {}, None)
    assert dime.layer_choice == ("dime", "min")
    assert by_name["Y", "frenet"].selection is None  # its d0L is not there
    made_up = by_name["X", "made_up"]
    assert (made_up.selection, made_up.layer_choice) == (None, None)
    assert found.models == (ModelRow(model="a", blocks=2),)


def test_remarks_name_types_and_scores(tmp_path: Path) -> None:
    text = "model,n_tasks,X,Y\n#type,,STS,LogLikelihood\n#main_score,,spearman,acc\n#any,,v1,v2\n"
    values = "model,layer,task,name,value\na,0,X,dime.dime,1\na,0,Z,dime.dime,1\n"
    found = interchange.read(
        file(tmp_path, text + "a,2,0.5,0.25\n"), file(tmp_path, values, "V.csv")
    )
    assert {(r.task, r.task_type, r.score_name) for r in found.scores} == {
        ("X", "STS", "spearman"),
        ("Y", "LogLikelihood", "acc"),
    }
    assert {(r.task, r.task_type) for r in found.metrics} == {("X", "STS"), ("Z", "")}


@pytest.mark.parametrize(
    "written",
    [
        WIDE.encode("utf-8-sig"),
        WIDE.replace("\n", "\r\n").encode(),
        WIDE.replace("\n", "\r").encode(),
        WIDE.replace(",", ";").encode(),
        WIDE.replace(",", "\t").encode(),
        WIDE.replace(",", " , ").encode(),
        WIDE.replace("model", "Model").encode(),
        b'"model","X","Y"\n"a","0.5","0.25"\n"b","0.75","NA"\n',
        b"\n# made by hand\nmodel,X,Y\n\n,,\na,0.5,0.25\nb,0.75,-\n",
        b"model,X,Y,\na,5e-1,.25,\nb,0.75,nan,\n",
        b"model,X,Y\na,0.5,0.25\nb,0.75\n",
    ],
)
def test_files_as_people_make_them(tmp_path: Path, written: bytes) -> None:
    found = interchange.read(file(tmp_path, written))
    assert sorted(numbers(found).values()) == [0.25, 0.5, 0.75]
    assert {row.task for row in found.scores} == {"X", "Y"}


def test_what_the_reader_is_told(tmp_path: Path) -> None:
    notes: list[str] = []
    values = file(tmp_path, VALUES.replace(",X,", ",Z,"), "V.csv")
    found = interchange.read(file(tmp_path, WIDE), values, say=notes.append)
    assert {row.model for row in found.models} == {row.model for row in found.scores} == {"a"}
    assert "S.csv: 1 model left out, without a value in" in notes[0]
    assert notes[0].endswith(": b")
    assert notes[1].startswith("no task is in both")
    assert notes[2] == "blocks are not given: the highest layer of a value is the last: a"


def test_values_and_scores_that_end_at_other_layers_are_told(tmp_path: Path) -> None:
    head, value = "model,layer,task,score\n", "model,layer,task,name,value\n"
    ends = {"a": (6, 99), "b": (6, 99), "c": (6, 5), "d": (6, 6), "e": (6, 9), "f": (None, 3)}
    scores = "".join(f"{m},0,X,.1\n{m},{s},X,.2\n" for m, (s, _) in ends.items() if s)
    scores += "f,model,X,.2\n"
    values = "".join(f"{m},0,X,dime,1\n{m},{v},X,dime,2\n" for m, (_, v) in ends.items())
    files = file(tmp_path, head + scores), file(tmp_path, value + values, "V.csv")
    models = file(tmp_path, "model,blocks\ne,9\n", "M.csv")
    notes: list[str] = []
    found = interchange.read(*files, models, notes.append)
    assert notes == [
        "blocks are not given: the highest layer of a value is the last: f",
        "a, b: values reach layer 99, scores layer 6: 99 is taken as the last",
        "c: values reach layer 5, scores layer 6: 6 is taken as the last",
    ]
    assert [row.blocks for row in found.models] == [99, 99, 6, 6, 9, 3]


@pytest.mark.parametrize(
    "written",
    [
        WIDE.replace(",", ";"),
        "sep=;\n" + WIDE.replace(",", ";"),
        "\ufeffSEP=;\r\n" + WIDE.replace(",", ";").replace("\n", "\r\n"),
        '"sep=|"\n' + WIDE.replace(",", "|"),
        "sep=\t\n" + WIDE.replace(",", "\t"),
        "sep=,\n" + WIDE,
        WIDE.replace(",", "\t").replace("X", "X;Z;W;V"),
        WIDE.replace(",", ";").replace("X", "X,Z,W"),
    ],
)
def test_separators(tmp_path: Path, written: str) -> None:
    found = interchange.read(file(tmp_path, written))
    assert sorted(numbers(found).values()) == [0.25, 0.5, 0.75]
    assert {row.model for row in found.models} == {"a", "b"}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_in_quoted_cells(tmp_path: Path, end: str) -> None:
    text = f'model,"X{end}Y"{end}"a{end}b",0.5{end}c,0.25{end}'
    found = interchange.read(file(tmp_path, text))
    assert [(r.model, r.task, r.score) for r in found.scores] == [
        (f"a{end}b", f"X{end}Y", 0.5),
        ("c", f"X{end}Y", 0.25),
    ]
    for written, line in ((text, 5), (f"sep=,{end}{text}", 6)):
        with pytest.raises(UserError, match=f"line {line}: 'x' in column"):
            interchange.read(file(tmp_path, written.replace("c,0.25", "c,x")))


def test_names_that_look_like_formulas_come_back(tmp_path: Path) -> None:
    names = ["=1+1", "+a", "-b", "@c", "'=d", "''=e", "'f", "-", "-5", "\uff1dg"]
    lines = [[name, 0.5 - i / 100] for i, name in enumerate(names)]
    text = tables.written(["model", "=T", "-0.5x"], [[*line, -0.25] for line in lines])
    cells = [cell for row in csv.reader(io.StringIO(text)) for cell in row]
    assert not [c for c in cells if c[:1] in "=+-@\uff1d" and c not in ("-", "-5", "-0.25")]
    found = interchange.read(file(tmp_path, text))
    assert [row.model for row in found.models] == names
    assert {row.task for row in found.scores} == {"=T", "-0.5x"}
    with tables.literal_names():
        assert tables.written(["=a"], [["=b"], [-1]]) == "=a\n=b\n-1\n"
    assert tables.written(["\ta"], [["\rb"]]) == "'\ta\n\"'\rb\"\n"
