"""Damaged inputs of every kind, drawn by hypothesis: an exit code of 0, 1 or 2, and one clear line.

20 inputs a kind; LRD_FUZZ=1000 asks for as many, drawn anew each time.
"""

from __future__ import annotations

import copy
import importlib
import itertools
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fuzzing
import pytest
import running
import tiny
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lrd_harness.errors import UserError

pytestmark = pytest.mark.slow

ASKED = os.environ.get("LRD_FUZZ")
INPUTS = settings(
    max_examples=int(ASKED or 20),
    derandomize=ASKED is None,
    database=None,
    deadline=None,
    print_blob=ASKED is not None,
    report_multiple_bugs=ASKED is not None,
    suppress_health_check=list(HealthCheck),
)
ROWS = [{"q": "the cat", "a": ["cat", "dog"], "gold": i % 2} for i in range(4)]


class Place:
    """A folder with sound inputs, of which each example damages a copy."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, itertools.count()
        self.model = tiny.save("Bert", folder / "bert", max_position_embeddings=64)
        self.st = tiny.save_st(folder / "st", dense=16)
        self.causal = tiny.save("GPT2", folder / "gpt", causal=True)
        self.data = tiny.task_data(folder / "data")
        self.texts = folder / "texts.txt"
        self.texts.write_text("\n".join(tiny.sentences(12)), encoding="utf-8")
        self.out = folder / "run"
        asked = ["--layers", "last", "--prune", "random", "--random-seeds", "1", "--budgets", "0.5"]
        tasks = ["STSBenchmark"]
        assert running.run(self.out, [self.model], self.data, *asked, tasks=tasks) == 0

    def new(self, name: str) -> Path:
        """A path for an example's own use, of which there is nothing yet."""
        return self.folder / "examples" / f"{name}{next(self.count):06}"

    def copy(self, of: Path) -> Path:
        """A copy that may be damaged."""
        made = self.new(of.name)
        shutil.copytree(of, made)
        return made


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The inputs, in a folder that is the current one, with a cache of its own and no network."""
    patch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "here").mkdir()
    patch.setenv("LRD_HARNESS_CACHE", str(folder / "cache"))
    patch.setattr("lrd_harness.models.wheels.fetch", _no_package)
    patch.setattr("lrd_harness.processes.spawn", lambda *given: 0)
    patch.setattr("lrd_harness.tasks.likelihood.loading.index", _own_tasks)
    patch.setattr("lrd_harness.tasks.likelihood.lm_eval_tasks.index", _own_tasks)
    made = Place(folder)
    patch.chdir(folder / "here")
    yield made
    patch.undo()


def _no_package(requirement: str, **_: Any) -> Path:
    raise UserError(f"pypi:{requirement}: no package is fetched here")


def _own_tasks(include: Path | None) -> Any:
    """lm-eval's index of a folder alone: that of its own tasks takes several seconds to make."""
    from lm_eval.tasks import TaskManager

    if include:
        importlib.import_module("lrd_harness.tasks.likelihood.loading").files(include)
    return TaskManager(include_defaults=False, include_path=str(include) if include else None)


def check(*commands: list[str], stays: Path | None = None, made: Path | None = None) -> None:
    """Run each command and compare with the contract.

    stays: a folder in which exit code 2 leaves everything as it is; made: what may be there in the
    end whole or not at all.
    """
    for arguments in commands:
        before = fuzzing.tree_of(stays) if stays is not None else {}
        found = fuzzing.outcome(arguments)
        wrong = fuzzing.faults(found)
        if stays is not None and found.code == 2:
            after = fuzzing.tree_of(stays)
            changed = {k for k in {*before, *after} if before.get(k) != after.get(k)}
            if changed:
                wrong.append(f"refused, but changed: {sorted(changed)[:5]}")
        if made is not None:
            if found.code == 2 and made.exists():
                wrong.append(f"refused, but made {made.name}")
            left = [p.name for p in made.parent.glob(f".{made.name}*")]
            if left:
                wrong.append(f"left {left}")
        fuzzing.judge(arguments, wrong)


def suite(place: Place) -> dict[str, Any]:
    return {
        "name": "mine",
        "description": "a suite",
        "models": [str(place.model), {"model": str(place.st), "pooling": "mean", "max_length": 9}],
        "tasks": ["STSBenchmark"],
        "plugins": ["frenet", {"nrs": {"k": 3}}],
        "settings": {
            "task_data": str(place.data),
            "layers": "last",
            "max_texts": 30,
            "norm": "raw",
        },
        "pruning": {"rules": ["random"], "budgets": [0.5], "random_seeds": 1, "protect": 0},
    }


@INPUTS
@given(data=st.data())
def test_suites(place: Place, data: st.DataObject) -> None:
    file = place.new("suite").with_suffix(".yaml")
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(data.draw(fuzzing.yaml_document(suite(place))))
    check(["plan", "--suite", str(file), "--prune", "--quiet"])


SCORES = "model,STSBenchmark,SciFact\na,0.5,0.25\nb,0.75,0.5\nc,0.25,0.375\nd,0.5,0.125\n"
LONG = "model,layer,task,score\n" + "".join(
    f"{m},{i},T,0.{i}{m}\n" for m in (1, 2) for i in range(3)
)
METRICS = "model,layer,task,name,value\na,0,SciFact,dime.dime,1\na,1,SciFact,dime.dime,2\n"
METRICS += "".join(f"{m},model,SciFact,frenet.d0L,{i}.5\n" for i, m in enumerate("abcd"))
INFO = "model,parameters_millions,width,blocks,family,released\na,109,768,12,bert,2019-01\n"
INFO += "b,33,384,12,bert,2020\nc,22,384,6,bert,\nd,110,768,12,mpnet,2021-02-03\n"


@INPUTS
@given(data=st.data())
def test_csv_files(place: Place, data: st.DataObject) -> None:
    folder = place.new("csv")
    folder.mkdir(parents=True)
    scores = data.draw(st.sampled_from((SCORES, LONG)))
    texts = {"actual": scores, "values": METRICS, "models-info": INFO}
    broken = data.draw(st.sampled_from(list(texts)))
    arguments = []
    for name, text in texts.items():
        content = data.draw(fuzzing.torn(text.encode())) if name == broken else text.encode()
        (folder / f"{name}.csv").write_bytes(content)
        arguments += [f"--{name}", str(folder / f"{name}.csv")]
    form = data.draw(st.sampled_from(("table", "csv", "html", "json")))
    made = folder / "board"
    check(["leaderboard", *arguments, "--format", form, "--output", str(made)], made=made)


ROW_FILES = [
    *(("SciFact", name) for name in ("corpus", "queries", "qrels")),
    *(("STSBenchmark", "test"), ("SciDocsRR", "top_ranked"), ("Banking77Classification", "train")),
    ("TwentyNewsgroupsClustering", "test"),
]


@INPUTS
@given(data=st.data())
def test_task_rows(place: Place, data: st.DataObject) -> None:
    task, name = data.draw(st.sampled_from(ROW_FILES))
    folder = place.new("rows")
    shutil.copytree(place.data / task, folder / task)
    file = folder / task / f"{name}.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_bytes(data.draw(fuzzing.document(rows, fuzzing.as_lines)))
    made = folder / "out"
    given = ["--models", str(place.model), "--tasks", task, "--task-data", str(folder)]
    more = ["--plugins", "nrs", "--layers", "last", "--output", str(made), "--quiet"]
    check(["run", *given, *more], made=made)


def _damage(data: st.DataObject, path: Path) -> None:
    """Damage one file, by its kind; or put something in its place that is no file."""
    how = data.draw(st.sampled_from(("inside", "inside", "inside", "inside", "gone", "folder")))
    if how != "inside":
        path.unlink()
        if how == "folder":
            path.mkdir()
        return
    content = path.read_bytes()
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in content.splitlines()]
        path.write_bytes(data.draw(fuzzing.document(rows, fuzzing.as_lines)))
    elif path.suffix == ".json" and len(content) < 100_000:
        path.write_bytes(data.draw(fuzzing.document(json.loads(content))))
    elif path.suffix == ".safetensors":
        size = int.from_bytes(content[:8], "little")
        header = data.draw(fuzzing.document(json.loads(content[8 : 8 + size])))
        known = data.draw(st.booleans())  # whether its length is told as it is
        path.write_bytes(
            (len(header) if known else size).to_bytes(8, "little") + header + content[8 + size :]
        )
    else:
        path.write_bytes(data.draw(fuzzing.torn(content)))


@INPUTS
@given(data=st.data())
def test_model_folders(place: Place, data: st.DataObject) -> None:
    folder = place.copy(data.draw(st.sampled_from((place.model, place.st, place.causal))))
    files = [p for p in sorted(folder.rglob("*")) if p.suffix in (".json", ".safetensors")]
    _damage(data, data.draw(st.sampled_from(files)))
    made = place.new("made")
    texts, quiet = ["--texts", str(place.texts)], "--quiet"
    commands = {
        "layer": ["layer", str(folder), *texts, "--by", "dime", "--save", str(made), quiet],
        "prune": ["prune", str(folder), "--blocks", "1", "--save", str(made), quiet],
        "probe": ["probe", str(folder), "--kind", "repetition", "--max-texts", "8", quiet],
        "compare": ["compare", str(place.model), str(folder), *texts, quiet],
        "run": [
            *("run", "--models", str(folder), "--tasks", "STSBenchmark", "--plugins", "nrs", quiet),
            *("--task-data", str(place.data), "--layers", "last", "--output", str(made)),
        ],
    }
    name = data.draw(st.sampled_from(list(commands)))
    check(commands[name], stays=folder, made=made)


@INPUTS
@given(data=st.data())
def test_run_folders(place: Place, data: st.DataObject) -> None:
    out = place.copy(place.out)
    name = data.draw(st.sampled_from(("run.json", "journal", "journal", "results.sqlite")))
    if name == "results.sqlite":
        shutil.rmtree(out / "journal")
    path = next((out / name).glob("*.jsonl")) if name == "journal" else out / name
    _damage(data, path)
    made = place.new("merged")
    form = data.draw(st.sampled_from(("table", "json", "html")))
    again = ["--layers", "last", "--output", str(out), "--quiet"]
    commands = {
        "leaderboard": ["leaderboard", str(out), "--format", form],
        "merge": ["merge", str(out), "--output", str(made)],
        "run": running.command(
            out, [place.model], place.data, "--plugins", "nrs", *again, tasks=["STSBenchmark"]
        ),
        "prune": [
            *("prune", str(place.model), "--blocks", "1", "--scores", str(out)),
            *("--save", str(made)),
        ],
    }
    name = data.draw(st.sampled_from(list(commands)))
    check(commands[name], stays=out, made=made)


TASK = {
    "task": "fuzzed",
    "output_type": "multiple_choice",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "ROWS"}},
    "test_split": "test",
    "doc_to_text": "{{q}}",
    "doc_to_choice": "{{a}}",
    "doc_to_target": "{{gold}}",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}


@INPUTS
@given(data=st.data())
def test_lm_eval_tasks(place: Place, data: st.DataObject) -> None:
    folder = place.new("tasks")
    folder.mkdir(parents=True)
    rows = folder / "rows.jsonl"
    task = copy.deepcopy(TASK)
    task["dataset_kwargs"]["data_files"]["test"] = str(rows)  # type: ignore[index]
    of_rows = data.draw(st.booleans())
    rows.write_bytes(
        data.draw(fuzzing.document(ROWS, fuzzing.as_lines)) if of_rows else fuzzing.as_lines(ROWS)
    )
    whole = yaml.safe_dump(task).encode()
    (folder / "fuzzed.yaml").write_bytes(
        whole if of_rows else data.draw(fuzzing.yaml_document(task))
    )
    made = folder / "out"
    given = ["--models", str(place.causal), "--tasks", "lm-eval:fuzzed", "--include-path"]
    more = ["--plugins", "nrs", "--layers", "last", "--output", str(made), "--quiet"]
    check(["run", *given, str(folder), *more], made=made)


COMMANDS = {
    "run": "--suite --models --tasks --plugins --load --set --layers --task-data --num-fewshot "
    "--limit --max-questions --include-path --output --shard --pooling --norm --max-texts "
    "--view-texts --max-length --dtype --attention --padding --device --device-map --batch-tokens "
    "--prune --budgets --random-seeds --protect --prune-tasks --processes",
    "select": "--models --texts --output --max-texts --seed --pooling --plugins",
    "prune": "--rule --budget --texts --blocks --protect --seed --load --save --save-mergekit "
    "--scores --pooling --max-length --device",
    "layer": "--texts --task --by --save --max-texts --set --pooling --norm --max-length",
    "states": "--texts --task --layers --output --max-texts --norm --pooling --max-length",
    "probe": "--kind --lengths --shares --seed --output --pooling --max-texts",
    "compare": "--texts --task --plugins --output --seed --max-texts",
    "leaderboard": "--actual --values --models-info --model --format --output",
    "merge": "--output",
    "cache": "--older-than --model",
    **dict.fromkeys(("suites", "tasks", "models", "plugins"), ""),
}


@INPUTS
@given(data=st.data())
def test_command_lines(place: Place, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["plan", *COMMANDS]))
    words = [str(place.model), str(place.texts), str(place.out), str(place.data), "STSBenchmark"]
    words += ["frenet", "0.5", "1", "all", "dime", "SciFact", "info", "clear", "verify"]
    odd = ["-1", "1e9", "0", "nan", "1/0", "0/0", "x/x", "", " ", "~nouser/x", "a\x00b", "x" * 300]
    odd += ["\udcff", "é" * 200, "/dev/null/x", "..", "a\nb", "nrs.k=!!int a", "nrs.k=2024-13-45"]
    odd += ["nrs.k=[" * 900, "--x", "{a,b}", "{" * 30, "texts:", "lm-eval:", "lm-eval:x", "mteb:"]
    odd += ["decoder:", "a@b@c", "pypi:", "pypi:x==1", ":", "texts:~nouser/x", "texts:a\x00b"]
    odd += ["x.py", "out.md", "out.csv", "sub/out", "*", "1,2-9", "9" * 5000, "cpu", "cuda:99"]
    odd += ["\U0001f600"]
    value = st.sampled_from(words) | st.sampled_from(odd)
    options = st.sampled_from(COMMANDS["run" if name == "plan" else name].split() or ["--quiet"])
    most = st.integers(0, 2)
    arguments = [name, *(data.draw(value) for _ in range(data.draw(most)))]
    usual = data.draw(st.booleans())
    if name in ("run", "plan") and usual:
        arguments += ["--models", words[0], "--tasks", "STSBenchmark", "--task-data", words[3]]
        arguments += ["--layers", "last", "--plugins", "nrs", "--quiet"]
    for _ in range(data.draw(st.integers(0, 3))):
        arguments += [data.draw(options), *(data.draw(value) for _ in range(data.draw(most)))]
    check(arguments, stays=place.out)
