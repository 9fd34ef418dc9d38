"""`lrd-harness leaderboard` on CSV files, on a run's layers, and on both together."""

from __future__ import annotations

import json
from pathlib import Path

import choice_rows
import pytest
import running
import tiny

from lrd_harness.cli import main

Shown = pytest.CaptureFixture[str]
DATA = Path(__file__).parents[1] / "data"
SCORES, VALUES, MODELS = (str(DATA / f"layer_{n}.csv") for n in ("scores", "values", "models"))
FILES = ["--actual", SCORES, "--values", VALUES, "--models-info", MODELS]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of local/bert, with layers."""
    folder = tmp_path_factory.mktemp("command")
    data = tiny.task_data(folder / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LRD_HARNESS_CACHE", str(folder / "cache"))
        models = [tiny.save("Bert", folder / "bert")]
        assert running.run(folder / "out", models, data, tasks=["STSBenchmark"]) == 0
    return folder / "out"


def shown(capsys: Shown, *arguments: str) -> str:
    """What the command prints."""
    assert main(["leaderboard", *arguments]) == 0
    return capsys.readouterr().out


def refused(capsys: Shown, *arguments: str) -> str:
    """The one line that a command ends with which cannot be done."""
    assert main(["leaderboard", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    return said.err


def test_files_give_the_leaderboard_without_a_run(capsys: Shown) -> None:
    assert main(["leaderboard", *FILES]) == 0
    said = capsys.readouterr()
    assert said.err == f"{SCORES}: scores are above 1: read as percent\n"
    assert max(map(len, said.out.splitlines())) <= 80
    assert said.out.startswith("Leaderboard: 2 models, 3 tasks")
    for line in ("Choosing a layer without labels", "Metrics and scores over layers"):
        assert line in said.out.splitlines()


@pytest.mark.parametrize("form", ["table", "md", "csv", "json", "latex", "html"])
def test_one_table_alone(capsys: Shown, form: str) -> None:
    whole = shown(capsys, *FILES, "--format", form)
    text = shown(capsys, *FILES, "--table", "layer_gain", "--format", form)
    assert "dime" in text
    assert "TaskA" not in text
    assert len(text) < len(whole) or form == "csv"
    of_model = shown(capsys, *FILES, "--layers", "small", "--format", form)
    assert "0.618" in of_model


def test_values_alone(capsys: Shown) -> None:
    text = shown(capsys, "--values", VALUES)
    assert "No task was scored at the last layer" in text
    assert "large" in text


def test_layers_of_a_model(out: Path, capsys: Shown) -> None:
    text = shown(capsys, str(out), "--layers", "local/bert")
    assert text.startswith("Layers of local/bert")
    revision = json.loads((out / "run.json").read_text())["models"][0]["revision"]
    assert shown(capsys, str(out), "--layers", f"local/bert@{revision}") == text
    assert shown(capsys, str(out), "--layers", "local/bert", "--format", "table") == text
    of_files = shown(capsys, *FILES, "--layers", "small")
    assert of_files.startswith("Layers of small")
    # state 2 of TaskA: 61.8 percent
    (line, *_) = [line for line in of_files.splitlines() if line.split()[:1] == ["2"]]
    assert "0.6180" in line.split()


def test_scores_of_a_file_beside_a_run(out: Path, capsys: Shown, tmp_path: Path) -> None:
    published = tmp_path / "S.csv"
    published.write_text("model,STSBenchmark,SciFact\nlocal/bert,82.5,64.1\nother,10,20\n")
    assert main(["leaderboard", str(out), "--actual", str(published), "--format", "json"]) == 0
    said = capsys.readouterr()
    document = json.loads(said.out)
    source = "Scores of all tasks: from S.csv, not from the run."
    assert document["notes"][-1] == source
    assert f"{published}: 1 model left out that the run lacks: other" in said.err
    assert f"{published}: 1 task added that the run lacks: SciFact" in said.err
    for form in ("table", "md", "html"):
        board = shown(capsys, str(out), "--actual", str(published), "--format", form)
        assert source in " ".join(board.split())
    assert source not in " ".join(shown(capsys, str(out)).split())
    layers = ["--actual", str(published), "--layers", "local/bert"]
    assert main(["leaderboard", str(out), *layers]) == 0
    assert source in capsys.readouterr().err
    (model,) = document["tables"]["models"]["rows"]
    own = json.loads(shown(capsys, str(out), "--format", "json"))["tables"]["models"]["rows"][0]
    assert model["score"] == pytest.approx((0.825 + 0.641) / 2)
    assert own["score"] != model["score"]
    assert model["frenet.d0L"] == own["frenet.d0L"]
    assert model["score.STSBenchmark"] == 0.825


def test_what_cannot_be_done_is_one_clear_line(out: Path, capsys: Shown, tmp_path: Path) -> None:
    run = str(out)
    other = tmp_path / "other.csv"
    other.write_text("model,X\nnobody,1\n")
    for arguments, message in (
        ([], "give the OUT folder of a run, or --values V.csv"),
        (["--actual", SCORES], "layer_scores.csv has scores only: give the OUT folder"),
        (["--models-info", MODELS], "give the OUT folder of a run"),
        ([run, "--values", VALUES], "metric values come from"),
        ([run, "--models-info", MODELS], "--models-info goes with CSV files"),
        ([run, "--layers", "local/brt"], "unknown model 'local/brt'. Did you mean local/bert?"),
        ([run, "--layers", "local/bert@0"], "unknown model 'local/bert (revision 0)'"),
        ([run, "--layers", "local/bert", "--table", "models"], "--layers is a table of its own"),
        ([run, "--table", "rankin"], "unknown table 'rankin'. Did you mean ranking"),
        ([run, "--actual", str(other)], "has no model of the run: it has nobody"),
        (["--values", VALUES, "--actual", str(other)], "no model is in both"),
        (["--values", str(tmp_path / "none.csv")], "no such file"),
        (["--values", SCORES], "lacks the columns name, value: values have the columns model,"),
        ([*FILES, "--format", "cvs"], "unknown reporter 'cvs'. Did you mean csv"),
    ):
        assert message in refused(capsys, *arguments), arguments


def test_notes_come_with_a_result_only(capsys: Shown, tmp_path: Path) -> None:
    scores = tmp_path / "S.csv"
    scores.write_text("model,X\nlarge,82\nsmall,64\n")
    files = ["--actual", str(scores), "--values", VALUES]
    for wrong in (["--layers", "nobody"], ["--output", str(tmp_path)]):
        assert main(["leaderboard", *files, *wrong]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert main(["leaderboard", *files]) == 0
    assert "scores are above 1: read as percent" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["pruning", "checkpoints", "layers"])
def test_a_form_without_anything_to_show_says_so(form: str, capsys: Shown, tmp_path: Path) -> None:
    actual, values = tmp_path / "S.csv", tmp_path / "V.csv"
    actual.write_text("model,X\na,0.5\nb,0.25\n")
    values.write_text("model,layer,task,name,value\na,model,X,m.s,1\nb,model,X,m.s,2\n")
    files = ["--actual", str(actual), "--values", str(values)]
    assert main(["leaderboard", *files, "--format", form]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert said.err.startswith(f"nothing to show in the form {form}: ")


def test_layers_of_a_package_by_the_name_of_a_run(
    capsys: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`pypi:PACKAGE==VERSION` is recorded as the package, its version being the revision."""
    from lrd_harness.results.rows import ModelRow, Results
    from lrd_harness.runner import folder as output

    made = {"model": "pypi:tiny", "revision": "0.1"}
    rows = choice_rows.scores("X", [0.25, 0.5], layers=1, **made)
    held = Results(models=(ModelRow(**made),), scores=tuple(rows))
    monkeypatch.setattr(output, "shown", lambda out: held)
    for name in ("pypi:tiny", "pypi:tiny==0.1", "pypi:tiny@0.1"):
        assert "0.2500" in shown(capsys, "out", "--layers", name)
    said = refused(capsys, "out", "--layers", "pypi:tiny==0.2")
    assert "unknown model 'pypi:tiny (revision 0.2)'" in said


@pytest.mark.parametrize("name", ["b.parquet", "b.pdf"])
def test_an_ending_that_no_form_has(capsys: Shown, tmp_path: Path, name: str) -> None:
    said = refused(capsys, *FILES, "--output", str(tmp_path / name))
    assert f"{name}: no form ends so (" in said
    assert ".html" in said
    assert not list(tmp_path.iterdir())
