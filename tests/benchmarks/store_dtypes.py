"""States kept in float16 and bfloat16 against float32: scores, metrics, bytes and CPU seconds.

    python tests/benchmarks/store_dtypes.py
    python tests/benchmarks/store_dtypes.py --task-data DIR --tasks STSBenchmark --texts 1000

The texts are read once into a store of float32, and each store is then filled from that, read
plane by plane, measured and evaluated. A row is a list of a metric along the layers, the number by
which it ranks models, or the main score of a task: the largest value, and how far float16 and
bfloat16 are off at most, of metrics as a share of that value, of tasks in points of the score (0 to
1), with the place in the list. Of a task at most --texts texts are measured.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from _setting import arguments, open_model

from lrd_harness import manager
from lrd_harness.capture.embeddings import Embeddings
from lrd_harness.capture.samples import Questions, Sampling
from lrd_harness.capture.token_budget import BATCH_TOKENS
from lrd_harness.contracts import Task
from lrd_harness.errors import NotInRange
from lrd_harness.measuring import PER_TEXT, copies
from lrd_harness.planning.parameters import resolve_metrics
from lrd_harness.planning.resolve import resolve_tasks
from lrd_harness.planning.settings import Settings
from lrd_harness.planning.suite import Suite

DTYPES = ("float32", "float16", "bfloat16")
PART = 1024  # texts of a file


def cpu(work: Callable[[], Any]) -> tuple[float, Any]:
    """The CPU seconds of a call, and what it gives."""
    begun = time.process_time()
    result = work()
    return time.process_time() - begun, result


def fill(whole: Embeddings, narrow: Embeddings, task: Task) -> None:
    """Write a task's states from one store into another. Raises NotInRange."""
    texts = list(dict.fromkeys(whole.ask(task, True, True)))
    kinds = ("raw", "final") if whole.model.has_final_norm else ("raw",)
    planes = [(kind, layer) for layer in range(whole.model.info.blocks + 1) for kind in kinds]
    for start in range(0, len(texts), PART):
        part = texts[start : start + PART]
        narrow.store.write(part, {plane: whole.store.read(part, plane) for plane in planes})


def scan(reader: Embeddings, task: Task) -> None:
    """Read every layer of a task's texts."""
    texts, names = reader.ask(task, True, True), {"name": "a", "revision": "b", "experiments": [{}]}
    for layer in range(reader.model.info.blocks + 1):
        reader.view(layer, **names).encode([text.text for text in texts], task)


def values(reader: Embeddings, task: Task, layers: list[int]) -> Iterator[tuple[str, Any]]:
    """The metrics' scores and profiles on a task, and the task's main scores by layer."""
    texts = reader.sample(task)
    for item in resolve_metrics(Suite("all"), manager.load()):
        if item.metric.needs not in PER_TEXT and not copies(item.metric):
            scores, _ = reader.samples.measure(item, texts)
            chosen = item.metric.selection.score if item.metric.selection else ""
            shown = [k for k, v in scores.items() if isinstance(v, list) or k == chosen]
            yield from ((f"{item.metric.name}.{k}", np.ravel(scores[k])) for k in shown)
    assert task.evaluate is not None
    names = {"name": "a", "revision": "b", "experiments": [{}]}
    views = (reader.view(layer, **names) for layer in layers)
    yield task.name, np.array([task.evaluate(view).main for view in views])


def rows(found: Mapping[str, Mapping[str, Any]], task: str) -> Iterator[str]:
    """What is printed, from the values by type and name."""
    for name, exact in found["float32"].items():
        most = np.nanmax(np.abs(exact))
        row = f"  {name:34} {most:12.5g}"
        for dtype in DTYPES[1:]:
            if name in found.get(dtype, {}):
                off = np.nan_to_num(np.abs(found[dtype][name] - exact))
                share = off.max() / (1 if name == task or most == 0 else most)
                row += f" {share:10.1e} @{off.argmax():<3}"
        yield row


def main() -> None:
    """Print the rows of each model and task."""
    parser = arguments(__doc__)
    parser.add_argument("--tasks", nargs="+", default=["LeeDocumentSTS"])
    parser.add_argument("--task-data")
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--every", type=int, default=1, help="evaluate each so many layers")
    options = parser.parse_args()
    settings = Settings(task_data=options.task_data)
    tasks = resolve_tasks(Suite("x", (), tuple(options.tasks), settings=settings), manager.load())
    for name in options.models:
        model = open_model(name, options.max_length)
        layers = list(range(model.info.blocks, -1, -options.every))[::-1]
        for task in tasks:
            found: dict[str, dict[str, Any]] = {}
            with tempfile.TemporaryDirectory() as folder:
                how = Questions(options.texts), BATCH_TOKENS["cpu"]
                whole = Embeddings(model, *how, root=Path(folder, "read"))
                whole.capture({task: whole.ask(task, True, True)}, lambda *_: None)
                print(f"{name}, {task.name}: {whole.captured.texts} texts", flush=True)
                for dtype in DTYPES:
                    root = Path(folder, "kept")
                    reader = Embeddings(model, *how, Sampling(store_dtype=dtype), root=root)
                    try:
                        writing, _ = cpu(lambda: fill(whole, reader, task))  # noqa: B023
                    except NotInRange as error:
                        print(f"  {dtype}: {error}")
                        continue
                    reading = min(cpu(lambda: scan(reader, task))[0] for _ in range(3))  # noqa: B023
                    files = reader.store.folder.glob("*.safetensors")
                    size = sum(path.stat().st_size for path in files) / 2**20
                    figures = f"{size:.1f} MiB, written {writing:.2f} s, read {reading:.2f} s"
                    print(f"  {dtype}: {figures}", flush=True)
                    found[dtype] = dict(values(reader, task, layers))
            print("\n".join(rows(found, task.name)), flush=True)


if __name__ == "__main__":
    main()
