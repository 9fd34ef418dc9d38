"""`lrd-harness leaderboard` of a run, of its layers, of CSV files, and of both together."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import choice_rows
import pytest
import running
import tiny

from lrd_harness.cli import main
from lrd_harness.results.rows import ModelRow, Results
from lrd_harness.runner import folder

Shown = pytest.CaptureFixture[str]
DATA = Path(__file__).parents[1] / "data"
SCORES, VALUES, MODELS = (str(DATA / f"layer_{n}.csv") for n in ("scores", "values", "models"))
FILES = ("--actual", SCORES, "--values", VALUES, "--models-info", MODELS)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a finished run of local/bert, with layers."""
    place = tmp_path_factory.mktemp("command")
    data, model = tiny.task_data(place / "data"), tiny.save("Bert", place / "bert")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LRD_HARNESS_CACHE", str(place / "cache"))
        assert running.run(place / "out", [model], data, tasks=["STSBenchmark"]) == 0
    return str(place / "out")


def shown(capsys: Shown, *typed: str) -> str:
    """What the command prints."""
    assert main(["leaderboard", *typed]) == 0
    return capsys.readouterr().out


@pytest.mark.slow
def test_a_run_in_every_form(
    out: str, capsys: Shown, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    forms = {}
    for form in ("table", "md", "csv", "json"):
        forms[form] = shown(capsys, out, "--format", form)
        file = tmp_path / f"board.{form}"
        assert shown(capsys, out, "--format", form, "--output", str(file)) == ""
        assert file.read_text() == forms[form]
        if form != "table":
            assert (Path(out) / f"leaderboard.{form}").read_text() == forms[form]
    assert shown(capsys, out) == forms["table"]
    assert max(map(len, forms["table"].splitlines())) <= 80
    assert "| local/bert |" in forms["md"].replace("  ", " ")
    assert [row["model"] for row in csv.DictReader(io.StringIO(forms["csv"]))] == ["local/bert"]
    assert len(json.loads(forms["json"])["tables"]["models"]["rows"]) == 1


def test_files_give_the_leaderboard_without_a_run(capsys: Shown) -> None:
    assert main(["leaderboard", *FILES, "--full"]) == 0
    printed = capsys.readouterr()
    assert printed.err == f"{SCORES}: scores are above 1: read as percent\n"
    assert max(map(len, printed.out.splitlines())) <= 80
    assert printed.out.startswith("Leaderboard: 2 models, 3 tasks")
    for line in ("Choosing a layer without labels", "Metrics and scores over layers"):
        assert line in printed.out.splitlines()
    values = shown(capsys, "--values", VALUES, "--full")
    assert "No task was scored at the last layer" in values
    assert "large" in values


@pytest.mark.parametrize("form", ["table", "md", "csv", "json", "latex", "html"])
def test_one_table_or_one_model_alone(capsys: Shown, form: str) -> None:
    whole = shown(capsys, *FILES, "--format", form, "--full")
    table = shown(capsys, *FILES, "--table", "layer_gain", "--format", form)
    assert "dime" in table
    assert "TaskA" not in table
    assert len(table) < len(whole) or form == "csv"
    assert "0.618" in shown(capsys, *FILES, "--model", "small", "--format", form)


def test_layers_of_a_model(out: str, capsys: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(capsys, out, "--model", "local/bert")
    assert text.startswith("Layers of local/bert")
    revision = json.loads((Path(out) / "run.json").read_text())["models"][0]["revision"]
    assert shown(capsys, out, "--model", f"local/bert@{revision}") == text
    of_files = shown(capsys, *FILES, "--model", "small")
    (line, *_) = [line.split() for line in of_files.splitlines() if line.split()[:1] == ["2"]]
    assert "0.6180" in line  # state 2 of TaskA: 61.8 percent
    # pypi:PACKAGE==VERSION is recorded as the package, its version being the revision
    model = {"model": "pypi:tiny", "revision": "0.1"}
    scores = tuple(choice_rows.scores("X", [0.25, 0.5], layers=1, **model))
    results = Results(models=(ModelRow(**model),), scores=scores)
    monkeypatch.setattr(folder, "shown", lambda out: results)
    for name in ("pypi:tiny", "pypi:tiny==0.1", "pypi:tiny@0.1"):
        assert "0.2500" in shown(capsys, "out", "--model", name)
    assert main(["leaderboard", "out", "--model", "pypi:tiny==0.2"]) == 2
    assert "unknown model 'pypi:tiny (revision 0.2)'" in running.one_line(capsys)


def test_scores_of_a_file_beside_a_run(out: str, capsys: Shown, tmp_path: Path) -> None:
    published = tmp_path / "S.csv"
    published.write_text("model,STSBenchmark,SciFact\nlocal/bert,82.5,64.1\nother,10,20\n")
    typed = ("leaderboard", out, "--actual", str(published))
    assert main([*typed, "--format", "json"]) == 0
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    source = "Scores of all tasks: from S.csv, not from the run."
    assert document["notes"][-1] == source
    assert f"{published}: 1 model left out that the run lacks: other" in printed.err
    assert f"{published}: 1 task added that the run lacks: SciFact" in printed.err
    for form in ("table", "md", "html"):
        assert source in " ".join(shown(capsys, *typed[1:], "--format", form).split())
    assert source not in " ".join(shown(capsys, out).split())
    assert main([*typed, "--model", "local/bert"]) == 0
    assert source in capsys.readouterr().err
    (model,) = document["tables"]["models"]["rows"]
    (of_run,) = json.loads(shown(capsys, out, "--format", "json"))["tables"]["models"]["rows"]
    assert model["score"] == pytest.approx((0.825 + 0.641) / 2)
    assert of_run["score"] != model["score"]
    assert model["frenet.d0L"] == of_run["frenet.d0L"]
    assert model["score.STSBenchmark"] == 0.825


OTHER = "model,X\nnobody,1\n"  # the file {other}
REFUSED = {
    "": "give the OUT folder of a run, or --values V.csv",
    f"--actual {SCORES}": "layer_scores.csv has scores only: give the OUT folder",
    f"--models-info {MODELS}": "give the OUT folder of a run",
    f"{{run}} --values {VALUES}": "metric values come from",
    f"{{run}} --models-info {MODELS}": "--models-info goes with CSV files",
    "{run} --model local/brt": "unknown model 'local/brt'. Did you mean local/bert?",
    "{run} --model local/bert@0": "unknown model 'local/bert (revision 0)'",
    "{run} --model local/bert --table models": "--model is a table of its own",
    "{run} --table rankin": "unknown table 'rankin'. Did you mean ranking",
    "{run} --actual {other}": "has no model of the run: it has nobody",
    f"--values {VALUES} --actual {{other}}": "no model is in both",
    f"--values {VALUES} --actual {SCORES} --model nobody": "unknown model 'nobody'",
    f"--values {VALUES} --actual {SCORES} --output {{folder}}": "cannot be written",
    "--values none.csv": "no such file",
    f"--values {SCORES}": "lacks the columns name, value: values have the columns model,",
    f"{' '.join(FILES)} --format cvs": "unknown reporter 'cvs'. Did you mean csv",
    f"{' '.join(FILES)} --output b.parquet": "b.parquet: no form ends so (",
    f"{' '.join(FILES)} --output b.pdf": ".html",
}


@pytest.mark.parametrize("typed", REFUSED)
def test_what_cannot_be_done_is_one_clear_line(
    typed: str, out: str, capsys: Shown, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Notes, as that scores are percent, come with a result only."""
    other = tmp_path / "other.csv"
    other.write_text(OTHER)
    monkeypatch.chdir(tmp_path)
    words = typed.format(run=out, other=other, folder=tmp_path).split()
    assert main(["leaderboard", *words]) == 2
    assert REFUSED[typed] in running.one_line(capsys)
    assert list(tmp_path.iterdir()) == [other]


@pytest.mark.parametrize("form", ["pruning", "checkpoints", "layers"])
def test_a_form_without_anything_to_show_says_so(form: str, capsys: Shown, tmp_path: Path) -> None:
    actual, values = tmp_path / "S.csv", tmp_path / "V.csv"
    actual.write_text("model,X\na,0.5\nb,0.25\n")
    values.write_text("model,layer,task,name,value\na,model,X,m.s,1\nb,model,X,m.s,2\n")
    files = ("--actual", str(actual), "--values", str(values))
    assert main(["leaderboard", *files, "--format", form]) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert printed.err.startswith(f"nothing to show in the form {form}: ")


SOME = "model,X,Y,Z\na,70,79.28,50\nb,80,40,\nc,60,30,40\n"


def test_the_answer_and_the_ranking_are_printed_and_all_with_full(
    capsys: Shown, tmp_path: Path
) -> None:
    file = tmp_path / "S.csv"
    file.write_text(SOME)
    brief, full = (shown(capsys, *FILES, *more) for more in ((), ("--full",)))
    answer, _, ranking = brief.partition("\n\n")
    assert len(answer.splitlines()) <= 10
    assert answer.splitlines()[1].startswith("• large is best of 2 models (0.5740")
    assert answer.endswith(" notes: the same with --full")
    assert ranking.split()[:2] == ["rank", "model"]
    assert "Notes" in full
    assert "Notes" not in brief
    assert full.startswith(answer.rpartition("\n")[0])
    sizes = tmp_path / "M.csv"
    sizes.write_text("model,parameters_millions\na,1\nb,2\nc,3\n")
    typed = ("--actual", str(file), "--models-info", str(sizes))
    rows = [shown(capsys, *typed, "--format", "csv", *more) for more in ((), ("--common",))]
    ranks = [{r["model"]: r["rank"] for r in csv.DictReader(io.StringIO(text))} for text in rows]
    assert ranks == [{"a": "1", "c": "2", "b": ""}, {"a": "1", "b": "2", "c": "3"}]
    assert "0.7928," in rows[0]  # not 0.7928000000000001
    assert "ranks would be: b none → 2." in " ".join(shown(capsys, *typed).split())
    file.write_text("model,X,Y\na,70,\nb,,40\n")
    assert main(["leaderboard", *typed, "--common"]) == 2
    assert "--common: No task was scored for all of the 2 models" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "heads"),
    [
        (("--table", "ranking", "--columns", "model,score"), "model,score"),
        (("--table", "scores", "--columns", "model, score.TaskA"), "model,score.TaskA"),
        (("--columns", "score.*B,model"), "score.TaskB,model"),
        (("--columns", "score.*"), "score.TaskA,score.TaskB,score.TaskC"),
        (("--format", "layers", "--columns", "layer,score"), "layer,score"),
        (("--model", "large", "--columns", "layer"), "layer"),
    ],
)
def test_columns_that_are_asked_for_are_shown_alone(
    typed: tuple[str, ...], heads: str, capsys: Shown
) -> None:
    assert shown(capsys, *FILES, "--format", "csv", *typed).splitlines()[0] == heads


def test_people_see_the_ranking_of_the_columns_that_are_asked_for(capsys: Shown) -> None:
    lines = shown(capsys, *FILES, "--columns", "model,best_score,stderr").splitlines()
    assert lines[2].split() == ["model", "score", "best", "↑"]
    assert lines[4].split() == ["large", "0.5827"]


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        (("--columns", "modle,score"), "unknown column 'modle'. Did you mean model?"),
        (("--table", "scores", "--columns", "model,x*"), "unknown column 'x*'. The table scores"),
        (("--columns", "score", "--format", "figures", "--output", "x"), "--columns is for tables"),
    ],
)
def test_columns_that_are_not_there(typed: tuple[str, ...], line: str, capsys: Shown) -> None:
    assert main(["leaderboard", *FILES, *typed]) == 2
    assert line in capsys.readouterr().err


@pytest.mark.slow
def test_a_report_says_how_its_numbers_were_made(out: str, capsys: Shown) -> None:
    facts = json.loads(shown(capsys, out, "--format", "json"))["facts"]["run"]
    recorded = json.loads((Path(out) / "run.json").read_text())
    assert facts["begun"] == recorded["begun"]
    assert facts["versions"] == recorded["versions"]
    assert facts["command"].split()[0] == "lrd-harness"
    of_files = json.loads(shown(capsys, *FILES, "--format", "json"))["facts"]["run"]
    assert of_files == {"files": "layer_scores.csv, layer_values.csv, layer_models.csv"}
