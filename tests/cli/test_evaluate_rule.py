"""`lrd-harness evaluate-rule`: suites, words of the command line, files, forms, and bad input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import running
import tiny

from lrd_harness.cli import main

Shown = pytest.CaptureFixture[str]
DATA = Path(__file__).parents[1] / "data"
MINE = "primary: mine\ncontrol: log width\nsmallest: 0.02\nsecondary: [depth]\nresamples: 500\n"
FORMS = {"md": "# Trial", "csv": "rule", "json": "{", "latex": "\\begin", "html": "<!DOCTYPE html"}


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """16 models of 8 families, scores on 5 tasks that go with the values of a metric "mine"."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(4)
    skill = generator.standard_normal(16)
    scores, values, models = ["model," + ",".join("ABCDE")], ["model,layer,task,name,value"], []
    for i in range(16):
        cells = 0.5 + 0.05 * skill[i] + 0.02 * generator.standard_normal(5)
        scores.append(f"m{i}," + ",".join(f"{cell:.4f}" for cell in cells))
        values += [f"m{i},model,{t},mine.mine,{skill[i]:.4f}" for t in "ABCDE"]
        models.append(f"m{i},{10 + (7 * i) % 16},{128 + 8 * ((5 * i) % 16)},{4 + i % 5},f{i % 8}")
    head = "model,parameters_millions,width,blocks,family"
    for name, lines in {"s": scores, "v": values, "m": [head, *models]}.items():
        Path(f"{name}.csv").write_text("\n".join(lines) + "\n")


CSV = "models --actual s.csv --models-info m.csv".split()


def shown(capsys: Shown, *typed: str) -> str:
    """What the command prints."""
    assert main(["evaluate-rule", *typed]) == 0
    return capsys.readouterr().out


def test_a_suite_or_the_command_line_states_the_primary(files: None, capsys: Shown) -> None:
    Path("mine.yaml").write_text(MINE)
    text = shown(capsys, *CSV, "--values", "v.csv", "--suite", "mine.yaml", "--format", "json")
    rows = json.loads(text)["tables"]["rules"]["rows"]
    assert [row["rule"] for row in rows] == ["mine", "best rule", "depth"]
    assert (rows[0]["verdict"], rows[0]["role"], rows[0]["families"]) == ("better", "primary", 8)
    text = " ".join(shown(capsys, *CSV, "--values", "v.csv", "--suite", "mine.yaml").split())
    assert "Better: mine beats log width" in text
    assert "as stated in mine.yaml (SHA-256 " in text
    typed = (*CSV, "--values", "v.csv", "--rule", "depth", "--control", "log width")
    text = " ".join(shown(capsys, *typed).split())
    assert "The primary rule is named on the command line (the shipped suite models" in text
    assert "in place of size" in text


def test_sizes_alone_in_every_form(files: None, capsys: Shown) -> None:
    for form, begins in FORMS.items():
        text = shown(capsys, *CSV, "--format", form)
        assert begins in text[:600], form
        assert form == "html" or "nan" not in text.lower()
        assert shown(capsys, *CSV, "--format", form, "--output", f"trial.{form}") == ""
        assert Path(f"trial.{form}").read_text() == text
    assert main(["evaluate-rule", *CSV, "--format", "tidy", "--output", "folder"]) == 0
    assert any(Path("folder").iterdir())


def test_a_run_and_several_together(tmp_path: Path, own_cache: Path, capsys: Shown) -> None:
    data = tiny.task_data(tmp_path / "data")
    outs = []
    for name in ("Bert", "GPT2"):
        model = tiny.save(name, tmp_path / name.lower())
        outs.append(str(tmp_path / f"out-{name}"))
        metrics = ("--plugins", "frenet,dataset_entropy")
        assert running.run(Path(outs[-1]), [model], data, *metrics) == 0
    capsys.readouterr()
    text = shown(capsys, "layers", *outs, "--rule", "dataset_entropy", "--format", "json")
    rows = {row["rule"]: row for row in json.loads(text)["tables"]["rules"]["rows"]}
    assert {"dataset_entropy", "frenet", "best rule"} <= set(rows)
    assert rows["dataset_entropy"]["models"] == 2
    assert rows["dataset_entropy"]["verdict"] == "too few"
    text = " ".join(shown(capsys, "layers", outs[0], "--rule", "depth 0.5").split())
    assert "Too few to tell whether depth 0.5 is better than depth 0.8 if decoder" in text


SUITES = {
    "primary: [a\n": "not YAML",
    "primary: a\n": "no 'control'",
    "- a\n": "not a mapping",
    MINE + "alpha: 2\n": "alpha is 2, not a number between 0 and 1",
    MINE.replace("500", "1"): "resamples is 1, not a whole number of at least 100",
    MINE + "seed: x\n": "seed is",
    MINE + "held_out: task\n": "held_out",
    MINE + "primry: a\n": "unknown key in bad.yaml 'primry'. Did you mean primary?",
    MINE.replace("[depth]", "3"): "secondary is 3, neither all nor a list of rules",
    MINE.replace("0.02", "yes"): "smallest is",
    MINE: "unknown rule 'mine'",  # there are no values
}


@pytest.mark.parametrize("text", SUITES)
def test_bad_suites(text: str, files: None, capsys: Shown) -> None:
    Path("bad.yaml").write_text(text)
    typed = ["evaluate-rule", *CSV, "--suite", "bad.yaml", "--output", "trial.md"]
    assert main(typed) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert SUITES[text] in error
    assert not Path("trial.md").exists()


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("layers", "give the OUT folders of runs"),
        ("layers out --actual s.csv", "give the OUT folders"),
        ("models --models-info m.csv", "there are no scores"),
        ("layers no-such-out", "no-such-out"),
        ("models --actual s.csv --suite none.yaml", "none.yaml"),
        ("models --actual s.csv", "no model's size is known"),
        ("layers --actual s.csv --models-info m.csv", "nothing to choose from"),
        ("models --actual s.csv --models-info m.csv --rule widht", "unknown rule 'widht'"),
        ("models --actual s.csv --models-info m.csv --control x", "unknown control 'x'"),
    ],
)
def test_bad_input_is_one_line(typed: str, said: str, files: None, capsys: Shown) -> None:
    assert main(["evaluate-rule", *typed.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
