"""Every layer of a model on the quickstart's tasks: the harness against a loop over mteb.

    python tests/benchmarks/sweep.py

Today's way is `mteb.evaluate` once a layer, on an encoder that runs the full model and returns that
layer's pooled state: same tasks, length limit and batch size (the texts in a batch of 32 are sorted
by length, as sentence-transformers does). All its layers cost the same, so it is timed on a few and
multiplied. Ours is the whole sweep from an empty store, dry run and evaluators included.
"""

from __future__ import annotations

import importlib
import tempfile
import time
from pathlib import Path
from typing import Any

import mteb
import torch
from _setting import arguments, distinct_texts, folder, open_model, plan
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder

from lrd_harness.capture.embeddings import capture
from lrd_harness.capture.layers import LayerView
from lrd_harness.store.store import Store


class OneLayer(AbsEncoder):
    """What a user writes today: the full model, one layer of it returned."""

    def __init__(self, path: Path, layer: int, batch_size: int, max_length: int) -> None:
        from transformers import AutoModel, AutoTokenizer

        self.mteb_model_meta = ModelMeta.create_empty()
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.tokenizer.pad_token = self.tokenizer.pad_token or self.tokenizer.eos_token
        self.net = AutoModel.from_pretrained(path, dtype="float32").eval()
        self.layer, self.batch_size, self.max_length = layer, batch_size, max_length

    @torch.inference_mode()
    def encode(self, inputs: Any, **kwargs: Any) -> Any:
        """Mean-pooled states of the layer, (n, d)."""
        texts = [text for batch in inputs for text in batch["text"]]
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        rows: list[Any] = [None] * len(texts)
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            features = self.tokenizer(
                [texts[i] for i in batch],
                padding=True,
                truncation=True,
                max_length=self.max_length,
                return_tensors="pt",
            )
            state = self.net(**features, output_hidden_states=True).hidden_states[self.layer]
            mask = features["attention_mask"].unsqueeze(-1)
            pooled = (state * mask).sum(1) / mask.sum(1)
            for i, row in zip(batch, pooled, strict=True):
                rows[i] = row
        return torch.stack(rows).numpy()


def todays_way(name: str, layers: list[int], depth: int, batch_size: int, max_length: int) -> float:
    """Seconds for all layers, from those of a few."""
    offline = importlib.import_module("lrd_harness.tasks.offline.tasks")
    makes = {task.name: task.make for task in offline.OFFLINE}
    loaded = {task.name: makes[task.name]() for task in plan().tasks}
    for task in loaded.values():
        task.load_data()
    encoder = OneLayer(folder(name), layers[0], batch_size, max_length)
    begun = time.perf_counter()
    for layer in layers:
        encoder.layer = layer
        for task_name, held in loaded.items():
            task = makes[task_name]()
            task.dataset, task.data_loaded = held.dataset, True
            mteb.evaluate(
                encoder,
                task,
                cache=None,
                show_progress_bar=False,
                co2_tracker=False,
                encode_kwargs={"batch_size": batch_size},
            )
    return (time.perf_counter() - begun) / len(layers) * (depth + 1)


def our_way(name: str, batch_size: int, max_length: int) -> tuple[float, int]:
    """Seconds for all layers, and L."""
    tasks = plan().tasks
    begun = time.perf_counter()
    model = open_model(name, max_length)
    with tempfile.TemporaryDirectory() as empty:
        store = Store(Path(empty), model.identity)
        texts = distinct_texts(model, tasks)
        longest = max(len(e["input_ids"]) for e in model.tokenize(texts))
        # a batch of this many of the longest texts: never more tokens at once than today's way
        capture(model, texts, store, batch_tokens=min(1024, batch_size * longest))
        for layer in range(model.info.blocks + 1):
            view = LayerView(
                model, store, layer, name="x/y", revision="z", experiments=[{}], fetch=print
            )
            for task in tasks:
                assert task.evaluate is not None
                task.evaluate(view)
    return time.perf_counter() - begun, model.info.blocks


def main() -> None:
    """Print a row a model."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--timed-layers", type=int, default=1, help="of today's way")
    chosen = parser.parse_args()
    plan()  # downloads and imports are no part of either way
    print(f"{'model':8} {'layers':>6} {'today':>9} {'harness':>9} {'times faster':>13}")
    for name in chosen.models:
        ours, depth = our_way(name, chosen.batch_size, chosen.max_length)
        layers = [depth * i // max(1, chosen.timed_layers) for i in range(chosen.timed_layers)]
        today = todays_way(name, layers, depth, chosen.batch_size, chosen.max_length)
        print(f"{name:8} {depth + 1:6} {today:8.1f}s {ours:8.1f}s {today / ours:13.1f}", flush=True)


if __name__ == "__main__":
    main()
