"""Stores of variants: what they hold is what a physically pruned model gives, and run only once."""

from __future__ import annotations

import copy
import importlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import running
import tiny
import torch
from running import Patch
from test_likelihoods import ENDS, QUESTIONS

from lrd_harness.capture import batches as capturing
from lrd_harness.capture.embeddings import Embeddings
from lrd_harness.capture.likelihoods import Likelihoods
from lrd_harness.capture.pruned import Variants, capture_embeddings, stores
from lrd_harness.capture.samples import Questions
from lrd_harness.capture.walk import Removed
from lrd_harness.contracts import Continuation, Task, Text
from lrd_harness.models.cut import remove
from lrd_harness.models.text_model import TextModel
from lrd_harness.store.store import Store

lm: Any = importlib.import_module("lrd_harness.tasks.likelihood.requests")
VARIANTS: list[Removed] = [(), (2,), (2, 3), (2, 4), (5,)]
TEXTS = [Text(t, "query: " if i % 3 else "") for i, t in enumerate(tiny.sentences(40))]
REQUESTS = [*QUESTIONS[:12], *ENDS, Continuation("", " the cat")]
TASK = Task("Mine", texts=list, evaluate=None, tokenize=lm.tokenize)


@pytest.fixture(autouse=True)
def _own(own_cache: Path) -> None:
    """Stores go to a folder of the test's own."""


def made(tmp_path: Path, family: str = "Bert", **options: Any) -> Any:
    """An opened model of five blocks."""
    counts = {"GPT2": "n_layer", "T5": "num_layers"}
    folder = tmp_path / family
    if not folder.exists():
        changes = dict.fromkeys({"num_hidden_layers", counts.get(family, "num_hidden_layers")}, 5)
        tiny.save(family, folder, causal=bool(options.get("head")), uneven=True, **changes)
    return tiny.open_model(folder, **options)


def pruned(model: Any, removed: Removed) -> Any:
    """The same model opened anew around a module from which blocks were taken out."""
    parts = copy.copy(model.parts)
    parts.whole, parts.module = copy.deepcopy((parts.whole, parts.module))
    if removed:
        remove(parts.whole or parts.module, blocks_of(parts.module, model), removed)
    return TextModel(model.checkpoint, model.options, parts)


def blocks_of(module: Any, model: Any) -> Any:
    """The list in a copy that is where the blocks are in the original."""
    path = next(name for name, m in model.parts.module.named_modules() if m is model.blocks)
    return module.get_submodule(path)


class Counted:
    """How often each of a model's blocks was run."""

    def __init__(self, model: Any) -> None:
        self.calls: Counter[int] = Counter()
        for number, block in enumerate(model.blocks, 1):
            block.register_forward_hook(lambda *_, number=number: self.calls.update([number]))


CASES = [
    ("Bert", {}),
    ("Bert", {"pooling": "cls"}),
    ("MPNet", {}),
    ("T5", {}),
    ("Llama", {"pooling": "last"}),
    ("Llama", {"pooling": "mean-no-sink", "padding": "left"}),
    ("Mamba", {"pooling": "mean"}),
    ("GPT2", {"pooling": "last", "padding": "left"}),
    ("ConvBert", {}),  # sees its padding, so texts of a batch are of equal length
]


@pytest.mark.parametrize(("family", "options"), CASES)
def test_a_view_has_the_embeddings_of_the_pruned_model(
    family: str, options: dict[str, Any], tmp_path: Path
) -> None:
    model = made(tmp_path, family, **options)
    assert (model.padding == "none") == (family == "ConvBert")
    variants = Variants(Embeddings(model, Questions(100), 300), VARIANTS)
    told: list[tuple[int, int]] = []
    counts = variants.capture({TASK: [*TEXTS, *TEXTS[:5]]}, lambda *done: told.append(done))
    assert (counts.asked, counts.texts, counts.forwarded) == (45, 40, 40)
    assert (told[0], told[-1]) == ((0, 40), (40, 40))
    assert counts.tokens == sum(len(e["input_ids"]) for e in model.tokenize(TEXTS))
    plain = [text.prompt + text.text for text in TEXTS]
    capture_embeddings(model, [Text(t) for t in plain], variants.stores, batch_tokens=300)
    for removed in VARIANTS:
        own = pruned(model, removed)
        assert own.info.blocks == 5 - len(removed)
        plane = ("final" if own.has_final_norm else "raw", own.info.blocks)
        expected = own.embed(own.states(own.tokenize([Text(t) for t in plain]))[plane]).numpy()
        view = variants.view(removed, "m", "r", [{"removed": "x"}])
        found = view.encode(plain, TASK)  # type: ignore[union-attr]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_only_what_a_store_lacks_is_run(tmp_path: Path) -> None:
    model = made(tmp_path)
    counted = Counted(model)
    first = capture_embeddings(
        model, TEXTS[:30], stores(model.identity, VARIANTS[:2]), batch_tokens=10_000
    )
    assert first.forwarded == 30
    assert counted.calls.total() == 5 + 3 + 1  # full, from block 3 on, check
    counted.calls.clear()
    every = stores(model.identity, VARIANTS)
    more = capture_embeddings(model, TEXTS, every, batch_tokens=10_000)
    # 30 texts through the full pass, and (2, 3): 4, 5; (2, 4): 3, 5; (5,): none; ten through all:
    # (2,) shares block 3 with (2, 4) and then goes through 4 and 5
    assert counted.calls.total() == (5 + 2 + 2) + (5 + 2 + 2 + 2) + 1
    assert more.forwarded == 40
    counted.calls.clear()
    again = capture_embeddings(
        model, TEXTS[::-1], stores(model.identity, VARIANTS), batch_tokens=10_000
    )
    assert (again.forwarded, again.tokens) == (0, 0)
    assert not counted.calls
    assert len({store.folder for store in every.values()}) == len(VARIANTS)


def test_empty_and_long_texts_are_counted(tmp_path: Path) -> None:
    model = made(tmp_path, max_length=20)
    odd = [Text("a"), Text(""), Text("x " * 50)]
    opened = stores(model.identity, [(2,), (3,)])
    for _ in range(2):
        counts = capture_embeddings(model, odd, opened, batch_tokens=100)
        assert (counts.empty, counts.truncated, counts.texts) == (1, 1, 3)
    assert capture_embeddings(model, odd, {}, batch_tokens=100).forwarded == 0


@pytest.mark.parametrize("write", [1, 5, 7, 12])
def test_after_an_interruption_only_the_rest(
    write: int, tmp_path: Path, monkeypatch: Patch
) -> None:
    """At any write of a shard of a variant: what is there is not run again."""
    monkeypatch.setattr(capturing, "SEGMENT_TEXTS", 16)  # three shards of five variants
    model = made(tmp_path)
    with running.interrupted(Store, "write", write), pytest.raises(KeyboardInterrupt):
        capture_embeddings(model, TEXTS, stores(model.identity, VARIANTS), batch_tokens=10_000)
    whole, part = divmod(write - 1, len(VARIANTS))
    opened = stores(model.identity, VARIANTS)
    lacking = sorted(len(store.missing(TEXTS)) for store in opened.values())
    assert lacking == sorted(max(0, 40 - 16 * (whole + (i < part))) for i in range(len(VARIANTS)))
    counts = capture_embeddings(model, TEXTS, opened, batch_tokens=10_000)
    assert counts.forwarded == max(lacking)
    monkeypatch.setenv("LRD_HARNESS_CACHE", str(tmp_path / "other"))
    straight = stores(model.identity, VARIANTS)
    capture_embeddings(model, TEXTS, straight, batch_tokens=10_000)
    for removed in VARIANTS:
        one, other = (s[removed].read(TEXTS, ("raw", 5)) for s in (opened, straight))
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "options"), [("Llama", {}), ("GPT2", {"padding": "left"}), ("Mamba", {})]
)
def test_likelihoods_are_those_of_the_pruned_model(
    family: str, options: dict[str, Any], tmp_path: Path
) -> None:
    model = made(tmp_path, family, head=True, **options)
    variants = Variants(Likelihoods(model, Questions(100), 200), VARIANTS)
    counts = variants.capture({TASK: REQUESTS}, lambda done, total: None)
    assert (counts.asked, counts.texts) == (len(REQUESTS), len(REQUESTS))
    assert counts.forwarded < len(REQUESTS)  # the choices of a question share a pass
    tokens = lm.tokenize(model, REQUESTS).pairs
    for removed in VARIANTS:
        whole = pruned(model, removed).whole
        found = variants.view(removed, "m", "r", [{}]).loglikelihoods(REQUESTS)  # type: ignore[union-attr]
        for (value, greedy), (context, end) in zip(found, tokens, strict=True):
            with torch.inference_mode():
                logits = whole(torch.tensor([[*context, *end]])).logits[0].log_softmax(-1)
            spots = range(len(context) - 1, len(context) + len(end) - 1)
            expected = sum(float(logits[s, t]) for s, t in zip(spots, end, strict=True))
            assert value == pytest.approx(expected, abs=1e-4, rel=1e-5)
            likeliest = [int(logits[s].argmax()) for s in spots]
            assert greedy == (likeliest == list(end))


def test_a_view_fetches_what_is_missing_of_its_own(tmp_path: Path) -> None:
    model = made(tmp_path)
    variants = Variants(Embeddings(model, Questions(100), 300), VARIANTS)
    late = [Text("late")]
    view: Any = variants.view((2, 3), "m", "r", [{}])
    assert view.encode(["late"], TASK).shape == (1, 32)
    lacking = [removed for removed, store in variants.stores.items() if store.missing(late)]
    assert lacking == [(), (2,), (2, 4), (5,)]
