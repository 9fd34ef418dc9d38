"""Runs of which all comes from a hub: models by revision, data of mteb and of lm-eval, offline."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import mteb
import pytest
import running
import stock
import tiny
import tiny_images
import yaml
from hub_server import Fault, Hub
from mteb.results import TaskResult
from running import Shown, one_line

from lrd_harness.cli import main

pytestmark = [pytest.mark.usefixtures("own_cache"), pytest.mark.slow]
Patch = pytest.MonkeyPatch
STS, OWN = "STSBenchmark", "lm-eval:colours"
COLOURS = {
    "task": "colours",
    "output_type": "multiple_choice",
    "dataset_path": "org/colours",
    "test_split": "test",
    "doc_to_text": "the {{thing}} is",
    "doc_to_choice": ["red", "blue"],
    "doc_to_target": "{{answer}}",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}


@pytest.fixture
def place(hub: Hub, tmp_path: Path, monkeypatch: Patch) -> Path:
    """The hub's content as folders, and tasks for lm-eval."""
    stock.own_alone(monkeypatch)
    tiny.save("GPT2", tmp_path / "gpt", causal=True, n_layer=2)
    tiny.save("GPT2", tmp_path / "old", causal=True, n_layer=2, seed=1)
    tiny.task_data(tmp_path / "data")
    rows = [{"thing": word, "answer": i % 2} for i, word in enumerate(tiny.WORDS[:9])]
    tiny.write_rows(tmp_path / "colours" / "test.jsonl", rows)
    (tmp_path / "own").mkdir()
    local = {"data_files": {"test": str(tmp_path / "colours" / "test.jsonl")}}
    for task in (
        COLOURS,
        {**COLOURS, "task": "here", "dataset_path": "json", "dataset_kwargs": local},
    ):
        (tmp_path / "own" / f"{task['task']}.yaml").write_text(yaml.safe_dump(task))
    hub.repository("org/gpt").push(tmp_path / "old", "step1")
    hub.repository("org/gpt").push(tmp_path / "gpt")
    of_mteb = mteb.get_task(STS).metadata.dataset
    hub.repository(of_mteb["path"], "datasets").push(
        {"test.jsonl": (tmp_path / "data" / STS / "test.jsonl").read_bytes()},
        sha=of_mteb["revision"],
    )
    hub.repository("org/colours", "datasets").push(tmp_path / "colours")
    return tmp_path


def run(place: Path, out: str, models: list[str], *tasks: str, data: bool = False) -> int:
    typed = ["run", "--models", *models, "--tasks", *tasks, "--plugins", "nrs", "--quiet"]
    typed += ["--output", str(place / out), "--include-path", str(place / "own")]
    return main([*typed, "--task-data", str(place / "data")] if data else typed)


def scores(out: Path) -> dict[tuple[str, str, Any], float]:
    return {
        (r["revision"][:12], r["task"].removeprefix("lm-eval:"), r["layer"]): r["score"]
        for r in running.records(out, "score")
    }


def test_a_run_of_which_all_comes_from_the_hub(
    hub: Hub, place: Path, capsys: Shown, monkeypatch: Patch
) -> None:
    """The same scores as from folders; then again without the hub, at once, from what is kept."""
    assert run(place, "out", ["org/gpt@{step1,main}"], STS, OWN) == 0
    folders = [str(place / "old"), str(place / "gpt")]
    assert run(place, "local", folders, STS, "lm-eval:here", data=True) == 0
    found, local = (list(scores(place / out).values()) for out in ("out", "local"))
    assert found == local
    assert len(set(found)) > 6
    recorded = json.loads((place / "out" / "run.json").read_text())["models"]
    commits = [hub.repository("org/gpt").names[name] for name in ("step1", "main")]
    assert [(m["name"], m["revision"]) for m in recorded] == [
        ("org/gpt@step1", commits[0]),
        ("org/gpt@main", commits[1]),
    ]
    assert hub.count("GET /cdn/") == 2
    hub.stop()
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    capsys.readouterr()
    assert run(place, "again", ["org/gpt@{step1,main}"], STS, OWN) == 0
    assert scores(place / "again") == scores(place / "out")
    assert not waited  # as the libraries would by themselves, 23 s for each data set
    said = capsys.readouterr().err
    assert said.count("the hub is out of reach: what its cache has is read") == 1


def test_images_of_the_hub_and_of_a_folder(hub: Hub, tmp_path: Path, monkeypatch: Patch) -> None:
    """mteb's CIFAR10 in small, as Parquet with images, and the same images as files."""
    import datasets

    stock.own_alone(monkeypatch)
    tiny_images.save("Dinov2Model", tmp_path / "dino")
    (tmp_path / "own").mkdir()
    pictures, about = tiny_images.pictures(40), mteb.get_task("CIFAR10").metadata.dataset
    files = {}
    for split, mine in (("train", pictures[:20]), ("test", pictures[20:])):
        labels = [i % 2 for i in range(len(mine))]
        rows = datasets.Dataset.from_dict({"img": mine, "label": labels})
        rows.cast_column("img", datasets.Image()).to_parquet(parquet := tmp_path / split)
        files[f"plain_text/{split}-00000-of-00001.parquet"] = parquet.read_bytes()
        for i, (picture, label) in enumerate(zip(mine, labels, strict=True)):
            folder = tmp_path / "data" / "CIFAR10" / split / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            picture.save(folder / f"{i:02}.png")
    hub.repository(about["path"], "datasets").push(files, sha=about["revision"])
    assert run(tmp_path, "out", [str(tmp_path / "dino")], "CIFAR10") == 0
    assert run(tmp_path, "local", [str(tmp_path / "dino")], "CIFAR10", data=True) == 0
    assert scores(tmp_path / "out") == scores(tmp_path / "local")


DATA = {
    "none": (
        lambda hub: hub.repositories.pop(("datasets", "org/colours")),
        "has no data set of that",
    ),
    "gated": (
        lambda hub: setattr(hub.repository("org/colours", "datasets"), "gated", True),
        "org/colours is gated: accept its terms at {hub}/datasets/org/colours, and log in",
    ),
    "busy": (
        lambda hub: hub.faults.append(Fault("datasets/org/colours", 503)),
        "the hub is busy (503 Service Unavailable)",
    ),
    "away": (lambda hub: hub.stop(), "the hub is out of reach"),
}


@pytest.mark.parametrize("kind", DATA)
def test_data_that_are_not_to_be_had(
    kind: str, hub: Hub, place: Path, capsys: Shown, monkeypatch: Patch
) -> None:
    """One line before a model is opened, and without the libraries' own long patience."""
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    change, line = DATA[kind]
    change(hub)
    assert run(place, "out", [str(place / "gpt")], OWN) == 2
    said = one_line(capsys)
    assert said.startswith("lm-eval:colours: its data (org/colours) are not on this machine, and ")
    assert line.format(hub=hub.address) in said
    assert sum(waited) <= 5
    assert not (place / "out").exists()


def test_another_revision_of_data_is_not_taken_for_theirs(
    hub: Hub, place: Path, capsys: Shown
) -> None:
    """As datasets would by itself, which takes the latest that it has."""
    assert run(place, "out", [str(place / "gpt")], STS) == 0
    hub.stop()
    assert run(place, "again", [str(place / "gpt")], STS) == 0
    pinned = mteb.get_task(STS).metadata.dataset["revision"]
    (kept,) = Path(os.environ["HF_HOME"], "datasets").glob(f"mteb___*/*/*/{pinned}")
    kept.rename(kept.with_name("f" * 40))
    capsys.readouterr()
    assert run(place, "other", [str(place / "gpt")], STS) == 2
    assert "out of reach; its cache has another revision of them. --task" in one_line(capsys)


def test_a_revision_that_moved_is_another_model(hub: Hub, place: Path, capsys: Shown) -> None:
    """Beside what was recorded of the one before; nothing of it is taken for the new one's."""
    assert run(place, "out", ["org/gpt"], STS, data=True) == 0
    before = hub.repository("org/gpt").names["main"]
    after = hub.repository("org/gpt").push(place / "old")
    assert run(place, "out", ["org/gpt"], STS, data=True) == 0
    assert run(place, "fresh", [str(place / "old")], STS, data=True) == 0
    found = scores(place / "out")
    assert {commit for commit, *_ in found} == {before[:12], after[:12]}
    mine = [score for (commit, *_), score in found.items() if commit == after[:12]]
    assert mine == list(scores(place / "fresh").values())
    main(["leaderboard", str(place / "out"), "--format", "csv"])
    assert {before[:12], after[:12]} <= {*re.findall(r"org/gpt@(\w{12})", capsys.readouterr().out)}


def test_published_scores_of_a_model_of_the_hub(
    hub: Hub, place: Path, capsys: Shown, monkeypatch: Patch
) -> None:
    """They are found by id and commit in mteb's cache, and the hub is not asked for them."""
    monkeypatch.setenv("MTEB_CACHE", str(place / "mteb"))
    name = "intfloat/e5-small-v2"
    commit = hub.repository(name).push(tiny.save("Bert", place / "bert", num_hidden_layers=2))
    assert run(place, "out", [name], STS, data=True) == 0
    result = TaskResult.from_task_results(
        mteb.get_task(STS), {"test": {"default": {"main_score": 0.625}}}, evaluation_time=1.0
    )
    meta = mteb.get_model_meta(name).model_copy(update={"revision": commit})
    mteb.ResultCache().save_to_cache(result, meta)
    capsys.readouterr()
    asked = len(hub.asked)
    out = str(place / "out")
    assert main(["leaderboard", out, "--actual", "published", "--format", "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["tables"]["models"]["rows"]
    assert 0.625 in row.values()
    assert len(hub.asked) == asked
