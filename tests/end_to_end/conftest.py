"""Models, data and runs that the end-to-end tests share; made once, not to be changed."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from . import made
from .commands import done

METRICS = (  # of the recorded run; later ones have expected values in their own tests
    *("frenet", "nrs", "gfmi", "prompt_entropy", "dataset_entropy", "effective_rank", "curvature"),
    *("infonce", "lidar", "dime", "block_influence", "cosine", "subspace_distance"),
)
TASKS = ("STSBenchmark", "SciFact", "SciDocsRR")
PRUNE = ("--prune", "frenet,nrs,gfmi,block_influence,random,last", "--budgets", "0.3")


class Place(NamedTuple):
    """A folder with models and data, and a cache of its own."""

    folder: Path
    cache: Path

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def texts(self) -> Path:
        return self.folder / "texts.jsonl"

    def models(self, *names: str) -> list[Path]:
        return [self.folder / name for name in names]


class Made(NamedTuple):
    """A run: its folder, the cache that it alone has filled, the command, and what it printed."""

    out: Path
    cache: Path
    command: list[object]
    printed: str


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Five models of three architectures, local data, and texts."""
    folder = tmp_path_factory.mktemp("end-to-end")
    made.bert(folder / "bert-one", 1)
    made.bert(folder / "bert-two", 2, 5, 24)
    made.gpt2(folder / "gpt", 3, 6)
    made.llama(folder / "llama", 4, 5, 40)
    made.sentence_bert(folder / "sentence", 5, 4, 16)
    made.questions(made.task_data(folder / "data"))
    made.write_texts(folder / "texts.jsonl", 60, 9)
    return Place(folder, folder / "cache")


@pytest.fixture(scope="session")
def whole(place: Place) -> Made:
    """A run as of the quickstart: five models of a suite, four tasks, thirteen metrics, pruning.

    Decoders are pooled by means, so that no text has the state of another one before the first
    block, where the order of equal scores would hang on rounding.
    """
    suite, out = place.folder / "suite.yaml", place.folder / "out"
    plain = "".join(f"- {path}\n" for path in place.models("bert-one", "bert-two", "sentence"))
    pooled = "".join(
        f"- {{model: {place.folder / name}, pooling: {pooling}}}\n"
        for name, pooling in {"gpt": "mean-no-sink", "llama": "mean"}.items()
    )
    tasks = "".join(f"- {task}\n" for task in (*TASKS, f"texts:{place.texts}"))
    metrics = "plugins:\n- nrs: {k: 10}\n"
    metrics += "".join(f"- {name}\n" for name in METRICS if name != "nrs")
    suite.write_text(
        f"models:\n{plain}{pooled}tasks:\n{tasks}{metrics}settings: {{view_texts: 10}}\n"
    )
    command: list[object] = ["run", "--suite", suite, "--task-data", place.data]
    command += [*PRUNE, "--random-seeds", 2, "--prune-tasks", "STSBenchmark"]
    command += ["--output", out, "--quiet"]
    cache = place.folder / "cache-of-the-run"
    return Made(out, cache, command, done(cache, *command))
