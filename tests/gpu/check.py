"""What only a GPU can show: `python tests/gpu/check.py`; on a CPU what has sense there.

Needs torch, transformers, sentence-transformers (which brings scikit-learn), accelerate and
lrd_harness, and nothing from a network: models are made from configurations, their weights random.
Prints a row for each check, and writes all of them to $OUT/gpu.json where OUT is set. Exit code 1
where a figure is beyond its bound.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
import numpy as np
import torch

from lrd_harness.capture.embeddings import batches, capture
from lrd_harness.capture.token_budget import Budget, batch_size
from lrd_harness.contracts import Checkpoint, ModelOptions, Text
from lrd_harness.models.opened import exact, token_count
from lrd_harness.models.text_model import Parts, TextModel
from lrd_harness.store.store import Store

WORDS = "a man is playing the guitar on stage while people listen to his old songs at night".split()
SIZES = {  # width, blocks, heads: of the checks of values, and of speed on a CPU and on a GPU
    "small": (64, 3, 4),
    "cpu": (192, 3, 4),
    "gpu": (2048, 16, 16),
}
LIMITS = {"float32": 1e-4, "bfloat16": 0.05, "float16": 0.01}  # of a state's length
Planes = dict[Any, np.ndarray]


@dataclass
class Row:
    """A check; passed: None where it was left out, and why is in `figures`."""

    name: str
    figures: str
    passed: bool | None


def texts(n: int, longest: int = 60) -> list[Text]:
    """So many different texts of 3 to so many words."""
    draw = np.random.default_rng(0)
    lengths = draw.integers(3, longest, n)
    return [
        Text(f"{i} " + " ".join(draw.choice(WORDS, length))) for i, length in enumerate(lengths)
    ]


def tokenizer(encoder: bool) -> Any:
    """One of single characters."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    letters = dict.fromkeys("".join(WORDS) + "0123456789")
    known = {
        token: i
        for i, token in enumerate([*special, *WORDS, *letters, *map("##".__add__, letters)])
    }
    inner = Tokenizer(models.WordPiece(known, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    if encoder:
        inner.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]", model_max_length=512)


def module(family: str, size: str) -> Any:
    """A BERT, or a Llama, which has a final norm; always the same."""
    import transformers

    width, blocks, heads = SIZES[size]
    more = {"num_key_value_heads": heads // 2} if family == "Llama" else {}
    config = getattr(transformers, f"{family}Config")(
        hidden_size=width,
        num_hidden_layers=blocks,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        vocab_size=128,
        pad_token_id=0,
        **more,
    )
    torch.manual_seed(0)
    made = transformers.AutoModel.from_config(config)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return made


def opened(family: str, size: str, device: str, loaded: Any = None, **options: Any) -> TextModel:
    """The model as a run opens it."""
    chosen = ModelOptions(device=device, **options)
    loaded = module(family, size) if loaded is None else loaded
    if "device_map" not in options:
        loaded = loaded.to(getattr(torch, chosen.dtype))
    encoder = family == "Bert"
    parts = Parts(
        adapter="check",
        module=loaded,
        tokenizer=tokenizer(encoder),
        pooling="mean",
        prompt=lambda task, prompt_type: "",
    )
    return TextModel(
        Checkpoint(family, size, "0", loaded.config.to_dict(), frozenset()), chosen, parts
    )


def states(model: TextModel, some: Sequence[Text], tokens: int | Budget = 1024) -> Planes:
    """All pooled states, through a store as a run keeps them."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder), model.identity)
        capture(model, some, store, batch_tokens=tokens)
        kinds = ("raw", "final") if model.has_final_norm else ("raw",)
        planes = [(kind, layer) for kind in kinds for layer in range(model.info.blocks + 1)]
        return {plane: store.read(some, plane) for plane in planes}


def apart(found: Planes, expected: Planes) -> float:
    """The largest distance of two states of a text, as a share of their length."""
    assert found.keys() == expected.keys()
    norm = np.linalg.norm
    pairs = [(found[plane], wanted) for plane, wanted in expected.items()]
    return max(float((norm(a - b, axis=1) / norm(b, axis=1)).max()) for a, b in pairs)


class Passes:
    """The seconds of a device in passes of a model, without what lies between them."""

    def __init__(self, model: TextModel) -> None:
        self._gpu, self._marks = model.device, list[Any]()
        backbone = model.parts.module
        backbone.register_forward_pre_hook(lambda *_: self._mark())
        backbone.register_forward_hook(lambda *_: self._mark())

    def _mark(self) -> None:
        if self._gpu.type == "cuda":
            self._marks.append(
                torch.cuda.current_stream(self._gpu).record_event(
                    torch.cuda.Event(enable_timing=True)
                )
            )
        else:
            self._marks.append(time.perf_counter())

    @property
    def seconds(self) -> float:
        """Of all passes so far."""
        pairs = list(zip(self._marks[::2], self._marks[1::2], strict=True))
        if self._gpu.type != "cuda":
            return float(sum(end - begun for begun, end in pairs))
        torch.cuda.synchronize(self._gpu)
        return float(sum(begun.elapsed_time(end) for begun, end in pairs)) / 1000


@contextmanager
def timed(device: str) -> Iterator[Callable[[], float]]:
    """Seconds since the block began, all of a GPU's work done."""

    def now() -> float:
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        return time.perf_counter()

    begun = now()
    yield lambda: now() - begun


def fit(folder: str, identity: dict[str, str], some: list[Text], layer: int) -> float:
    """A classifier on a layer's states, as mteb's evaluators fit one."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    warnings.simplefilter("ignore", ConvergenceWarning)
    vectors = Store(Path(folder), identity).read(some, ("raw", layer))
    labels = np.arange(len(some)) % 8
    return float(LogisticRegression(max_iter=100).fit(vectors, labels).score(vectors, labels))


def states_of(device: str) -> Planes:
    """What another process reads on the same device."""
    exact()
    return states(opened("Llama", "small", device), texts(40))


class Checks:
    """All checks on a device."""

    def __init__(self, device: str) -> None:
        self.device, self.rows = device, list[Row]()
        self.gpu = device.startswith("cuda")
        self.size = "gpu" if self.gpu else "cpu"
        self.some = texts(60)

    def row(self, name: str, figures: str, passed: bool | None) -> None:
        """Note a check, and print it."""
        self.rows.append(Row(name, figures, passed))
        print(
            f"{ {True: 'ok', False: 'FAIL', None: 'left out'}[passed]:8} {name:34} {figures}",
            flush=True,
        )

    def values(self) -> None:
        """States on the device in batches, against float32 one by one on the CPU."""
        for family in ("Bert", "Llama"):
            expected = states(opened(family, "small", "cpu"), self.some, 1)
            for dtype, limit in LIMITS.items():
                model = opened(family, "small", self.device, dtype=dtype)
                off = apart(states(model, self.some), expected)
                self.row(
                    f"states {family} {dtype}", f"off by {off:.1e}, at most {limit}", off <= limit
                )
        again = [states(opened("Llama", "small", self.device), self.some) for _ in range(2)]
        self.row("the same again", "bit by bit", apart(*again) == 0)

    def products(self) -> None:
        """No TF32 in products and convolutions."""
        torch.set_float32_matmul_precision("high")
        exact()
        a = torch.randn(512, 512, generator=torch.Generator().manual_seed(0)).to(self.device)
        image = a.view(1, 1, 512, 512)
        for name, do in (
            ("products", lambda x: x @ x),
            ("convolutions", lambda x: torch.nn.functional.conv2d(x, x[..., :16, :16], stride=16)),
        ):
            x = a if name == "products" else image
            wanted = do(x.double())
            off = float((do(x).double() - wanted).norm() / wanted.norm())
            self.row(f"no TF32 in {name}", f"off by {off:.1e}, at most 2e-6", off <= 2e-6)

    def spread(self) -> None:
        """A model that accelerate spreads, a part of it offloaded, against the whole one."""
        from transformers import AutoModel

        whole = states(opened("Llama", "small", self.device), self.some)
        with tempfile.TemporaryDirectory() as folder:
            module("Llama", "small").save_pretrained(folder)
            for most in (None, {0: "300KB", "cpu": "1GB"} if self.gpu else {"cpu": "300KB"}):
                loaded = AutoModel.from_pretrained(
                    folder,
                    device_map="auto",
                    max_memory=most,
                    dtype="float32",
                    offload_folder=f"{folder}/off",
                )
                away = sum(p.is_meta for p in loaded.parameters())
                model = opened("Llama", "small", self.device, loaded, device_map="auto")
                off = apart(states(model, self.some), whole)
                name = "device_map auto" + (", little memory" if most else "")
                figures = f"{away} weights offloaded, off by {off:.1e}"
                self.row(name, figures, off <= 1e-5 and (away > 0) == bool(most))

    def memory(self) -> None:
        """Batches that do not fit are halved, and the states are the same."""
        if not self.gpu:
            self.row("out of memory", "needs a GPU", None)
            return
        model = opened("Llama", "gpu", self.device)
        some = texts(400, 400)
        expected = states(model, some, 2048)
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(self.device).total_memory
        most = torch.cuda.memory_allocated(self.device) + 2**30
        torch.cuda.set_per_process_memory_fraction(most / total, self.device)
        budget = Budget(2**20)
        try:
            found = states(model, some, budget)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, self.device)
        off = apart(found, expected)
        self.row(
            "out of memory",
            f"{2**20} tokens to {budget.tokens}, off by {off:.1e}",
            budget.tokens < 2**20 and off <= 1e-4,
        )

    def speed(self) -> None:
        """All states pooled and stored, against the same batches through transformers alone."""
        for dtype in ("float32", "bfloat16") if self.gpu else ("float32",):
            for family in ("Bert", "Llama"):
                model = opened(family, self.size, self.device, dtype=dtype)
                some = texts(4000 if self.gpu else 60, 100)
                tokens = batch_size(self.device)
                plain, ours = list[float](), list[float]()
                peaks = {}
                for _ in range(3 if self.gpu else 1):
                    for name, do, spent in (("plain", self.loop, plain), ("ours", states, ours)):
                        if self.gpu:
                            torch.cuda.reset_peak_memory_stats(self.device)
                        with timed(self.device) as since:
                            do(model, some, tokens)
                            spent.append(since())
                        if self.gpu:
                            peaks[name] = torch.cuda.max_memory_allocated(self.device) / 2**20
                ratio, least = min(plain) / min(ours), 0.9 if self.gpu else 0.5
                rate = sum(token_count(e) for e in model.tokenize(some)) / min(ours)
                said = f"{rate:,.0f} tokens/s, {ratio:.2f} of a plain loop's, at least {least}"
                self.row(f"speed {family} {dtype}", said, ratio >= least)
                if peaks:
                    said = f"{peaks['ours']:,.0f} MiB, a plain loop {peaks['plain']:,.0f}"
                    self.row(
                        f"memory {family} {dtype}", said, peaks["ours"] <= 1.1 * peaks["plain"]
                    )
                del model

    @staticmethod
    def loop(model: TextModel, some: Sequence[Text], tokens: int) -> None:
        """A plain loop, whose hidden states are made and left."""
        encoded = sorted(model.tokenize(some), key=token_count, reverse=True)
        for batch in batches([token_count(e) for e in encoded], tokens):
            features = model.features(encoded[batch.start : batch.stop])
            with torch.inference_mode():
                model.parts.module(
                    **model.inputs(features), output_hidden_states=True, use_cache=False
                )

    def sweep(self, pool: ProcessPoolExecutor) -> None:
        """How long the device waits where classifiers are fitted in between, and beside."""
        some, idle = texts(1500 if self.gpu else 60, 60), {}
        for way in ("in between", "beside"):
            jobs: list[Future[float]] = []
            models = [opened(family, self.size, self.device) for family in ("Bert", "Llama")]
            passes = [Passes(model) for model in models]
            with tempfile.TemporaryDirectory() as folder, timed(self.device) as since:
                for model in models:
                    identity = dict(model.identity)
                    capture(
                        model,
                        some,
                        Store(Path(folder), identity),
                        batch_tokens=batch_size(self.device),
                    )
                    read = since()
                    for layer in range(model.info.blocks + 1):
                        given = (folder, identity, some, layer)
                        if way == "beside":
                            jobs.append(pool.submit(fit, *given))
                        else:
                            fit(*given)
                wall = read if way == "beside" else since()
                scores = [job.result() for job in jobs]
            idle[way] = 1 - sum(p.seconds for p in passes) / wall
            assert all(0 <= score <= 1 for score in scores)
        shares = ", ".join(f"{share:.0%} {way}" for way, share in idle.items())
        self.row("idle while others fit", shares, idle["beside"] <= idle["in between"])

    def together(self, pool: ProcessPoolExecutor) -> None:
        """Others read on the same device at once."""
        mine = states_of(self.device)
        off = [apart(job.result(), mine) for job in [pool.submit(states_of, self.device)] * 2]
        self.row("several processes on the device", f"off by {max(off):.1e}", max(off) <= 1e-5)

    def execute(self) -> int:
        """All of them; the exit code."""
        name = torch.cuda.get_device_name(self.device) if self.gpu else "CPU"
        print(f"{name}, torch {torch.__version__}, {batch_size(self.device)} tokens a batch")
        exact()
        for check in (self.values, self.products, self.spread, self.memory, self.speed):
            check()
        with ProcessPoolExecutor(
            2 if self.gpu else 1, multiprocessing.get_context("spawn")
        ) as pool:
            self.together(pool)
            self.sweep(pool)
        if folder := os.environ.get("OUT"):
            rows = {
                "device": name,
                "torch": torch.__version__,
                "rows": [asdict(row) for row in self.rows],
            }
            Path(folder, "gpu.json").write_text(json.dumps(rows, indent=1))
        return int(any(row.passed is False for row in self.rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    sys.exit(Checks(parser.parse_args().device).execute())
