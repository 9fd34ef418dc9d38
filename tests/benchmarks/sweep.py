"""Every layer of a model on the quickstart's tasks: the harness against a loop over mteb.

    python tests/benchmarks/sweep.py

Today's way is `mteb.evaluate` once a layer, on an encoder that runs the full model and returns that
layer's pooled state: same tasks, length limit and batch size (the texts in a batch of 32 are sorted
by length, as sentence-transformers does). All its layers cost the same, so it is timed on a few and
multiplied. Ours is the whole sweep from an empty store, dry run and evaluators included.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import mteb
import torch
from _setting import arguments, distinct_texts, empty_store, folder, open_model, tasks, timed
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder

from lrd_harness.capture.embeddings import capture
from lrd_harness.capture.layers import LayerView


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
            cut = {"padding": True, "truncation": True, "max_length": self.max_length}
            features = self.tokenizer([texts[i] for i in batch], return_tensors="pt", **cut)
            state = self.net(**features, output_hidden_states=True).hidden_states[self.layer]
            mask = features["attention_mask"].unsqueeze(-1)
            pooled = (state * mask).sum(1) / mask.sum(1)
            for i, row in zip(batch, pooled, strict=True):
                rows[i] = row
        return torch.stack(rows).numpy()


def todays_way(name: str, layers: list[int], batch_size: int, max_length: int) -> float:
    """Seconds a layer."""
    offline = importlib.import_module("lrd_harness.tasks.offline.tasks")
    makers = {task.name: task.make for task in offline.OFFLINE}
    loaded = {task.name: makers[task.name]() for task in tasks()}
    for task in loaded.values():
        task.load_data()
    encoder = OneLayer(folder(name), layers[0], batch_size, max_length)

    def evaluate() -> None:
        for encoder.layer in layers:
            for task_name, data in loaded.items():
                task = makers[task_name]()
                task.dataset, task.data_loaded = data.dataset, True
                quiet = {"cache": None, "show_progress_bar": False, "co2_tracker": False}
                mteb.evaluate(encoder, task, encode_kwargs={"batch_size": batch_size}, **quiet)

    return timed(evaluate)[0] / len(layers)


def our_way(name: str, batch_size: int, max_length: int) -> int:
    """The scores of all layers; L."""
    model = open_model(name, max_length)
    with empty_store(model) as store:
        texts = distinct_texts(model, tasks())
        longest = max(len(encoded["input_ids"]) for encoded in model.tokenize(texts))
        # a batch of this many of the longest texts: never more tokens at once than today's way
        capture(model, texts, store, batch_tokens=min(1024, batch_size * longest))
        for layer in range(model.info.blocks + 1):
            names = {"name": "x/y", "revision": "z", "experiments": [{}], "fetch": print}
            for task in tasks():
                assert task.evaluate is not None
                task.evaluate(LayerView(model, store, layer, **names))
    return model.info.blocks


def main() -> None:
    """Print a row a model."""
    parser = arguments(__doc__)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--timed-layers", type=int, default=1, help="of today's way")
    options = parser.parse_args()
    tasks()  # downloads and imports are no part of either way
    size, length, count = options.batch_size, options.max_length, max(1, options.timed_layers)
    print(f"{'model':8} {'layers':>6} {'today':>9} {'harness':>9} {'times faster':>13}")
    for name in options.models:
        ours, depth = timed(our_way, name, size, length)
        layers = [depth * i // count for i in range(count)]
        today = todays_way(name, layers, size, length) * (depth + 1)
        print(f"{name:8} {depth + 1:6} {today:8.1f}s {ours:8.1f}s {today / ours:13.1f}", flush=True)


if __name__ == "__main__":
    main()
