"""Stores of variants: what they hold is what a physically pruned model gives, and run only once."""

from __future__ import annotations

import copy
import importlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import running
import tiny
import torch
from running import Patch
from test_likelihoods import ENDS, QUESTIONS

from lrd_harness.capture import embeddings as capturing
from lrd_harness.capture.embeddings import Captured, Embeddings
from lrd_harness.capture.evidence import perplexities
from lrd_harness.capture.likelihoods import Likelihoods
from lrd_harness.capture.pruned import Variants
from lrd_harness.capture.samples import Questions
from lrd_harness.capture.walk import Removed
from lrd_harness.contracts import Continuation, Task, Text
from lrd_harness.errors import UnitError
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
    ("T5", {"pooling": "cls"}),
    ("Llama", {"pooling": "mean-no-sink", "padding": "left"}),
    ("Mamba", {"pooling": "mean"}),
    ("GPT2", {"pooling": "last", "padding": "left"}),
    ("ConvBert", {}),  # sees its padding, so texts of a batch are of equal length
]


def variants_of(model: Any, removed: Sequence[Removed] = VARIANTS, tokens: int = 300) -> Variants:
    return Variants(Embeddings(model, Questions(100), tokens), removed)


def capture(variants: Variants, texts: Sequence[Text]) -> Captured:
    return variants.capture({TASK: texts}, lambda done, total: None)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "options"), CASES)
def test_a_view_has_the_embeddings_of_the_pruned_model(
    family: str, options: dict[str, Any], tmp_path: Path
) -> None:
    model = made(tmp_path, family, **options)
    assert (model.padding == "none") == (family == "ConvBert")
    variants, progress = variants_of(model), list[tuple[int, int]]()
    counts = variants.capture(
        {TASK: [*TEXTS, *TEXTS[:5]]}, lambda *numbers: progress.append(numbers)
    )
    assert (counts.asked, counts.texts, counts.forwarded) == (45, 40, 40)
    assert (progress[0], progress[-1]) == ((0, 40), (40, 40))
    assert counts.tokens == sum(len(e["input_ids"]) for e in model.tokenize(TEXTS))
    plain = [text.prompt + text.text for text in TEXTS[:9]]
    for removed in VARIANTS:
        physical = pruned(model, removed)
        assert physical.info.blocks == 5 - len(removed)
        plane = ("final" if physical.has_final_norm else "raw", physical.info.blocks)
        states = physical.states(physical.tokenize([Text(t) for t in plain]))
        expected = physical.embed(states[plane]).numpy()
        view: Any = variants.view(removed, "m", "r", [{"removed": "x"}])
        atol = 1e-5 * np.abs(expected).max()
        np.testing.assert_allclose(view.encode(plain, TASK), expected, rtol=1e-4, atol=atol)


def test_only_what_a_store_lacks_is_run(tmp_path: Path) -> None:
    model = made(tmp_path)
    counted = Counted(model)
    assert capture(variants_of(model, VARIANTS[:2], 10_000), TEXTS[:30]).forwarded == 30
    assert counted.calls.total() == 5 + 3 + 1  # full, from block 3 on, check
    counted.calls.clear()
    every = variants_of(model, VARIANTS, 10_000)
    # 30 texts through the full pass, and (2, 3): 4, 5; (2, 4): 3, 5; (5,): none; ten through all:
    # (2,) shares block 3 with (2, 4) and then goes through 4 and 5
    assert capture(every, TEXTS).forwarded == 40
    assert counted.calls.total() == (5 + 2 + 2) + (5 + 2 + 2 + 2) + 1
    counted.calls.clear()
    again = capture(variants_of(model), TEXTS[::-1])
    assert (again.forwarded, again.tokens, counted.calls.total()) == (0, 0, 0)
    assert len({store.folder for store in every.stores.values()}) == len(VARIANTS)
    late: Any = every.view((2, 3), "m", "r", [{}])  # a view fetches what is missing of its own
    assert late.encode(["late"], TASK).shape == (1, 32)
    lacking = [removed for removed, s in every.stores.items() if s.missing([Text("late")])]
    assert lacking == [(), (2,), (2, 4), (5,)]


def test_empty_and_long_texts_are_counted(tmp_path: Path) -> None:
    variants = variants_of(made(tmp_path, max_length=20), [(2,), (3,)])
    for _ in range(2):
        counts = capture(variants, [Text("a"), Text(""), Text("x " * 50)])
        assert (counts.empty, counts.truncated, counts.texts) == (1, 1, 3)


@pytest.mark.parametrize("write", [1, 7, 12])
def test_after_an_interruption_only_the_rest(
    write: int, tmp_path: Path, monkeypatch: Patch
) -> None:
    """At any write of a segment of a variant: what is there is not run again."""
    monkeypatch.setattr(capturing, "SEGMENT_TEXTS", 16)  # three segments of five variants
    model = made(tmp_path)
    with running.interrupted(Store, "write", write), pytest.raises(KeyboardInterrupt):
        capture(variants_of(model, tokens=10_000), TEXTS)
    whole, part = divmod(write - 1, len(VARIANTS))
    variants = variants_of(model, tokens=10_000)
    lacking = sorted(len(store.missing(TEXTS)) for store in variants.stores.values())
    assert lacking == sorted(max(0, 40 - 16 * (whole + (i < part))) for i in range(len(VARIANTS)))
    assert capture(variants, TEXTS).forwarded == max(lacking)
    monkeypatch.setenv("LRD_HARNESS_CACHE", str(tmp_path / "other"))
    straight = variants_of(model, tokens=10_000)
    capture(straight, TEXTS)
    for removed in VARIANTS:
        states = [v.stores[removed].read(TEXTS, ("raw", 5)) for v in (variants, straight)]
        np.testing.assert_allclose(*states, atol=1e-5)


@pytest.mark.parametrize(("family", "options"), [("Llama", {}), ("GPT2", {"padding": "left"})])
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


@pytest.mark.parametrize("family", ["GPT2", "Llama"])
def test_perplexities_are_those_that_transformers_has(
    family: str, tmp_path: Path, monkeypatch: Patch
) -> None:
    """Of each variant as a model of its own: exp of the mean loss over all predicted tokens."""
    model = made(tmp_path, family, head=True)
    texts = [*TEXTS, Text("")]  # of the last one, no token is predicted
    found = perplexities(model, texts, VARIANTS, 60)
    assert list(found) == VARIANTS
    ids = [torch.tensor([e["input_ids"]]) for e in model.tokenize(texts)]
    for removed in VARIANTS:
        whole, losses = pruned(model, removed).whole, []
        for tokens in ids:
            if tokens.shape[1] > 1:
                with torch.inference_mode():
                    loss = whole(input_ids=tokens, labels=tokens).loss
                losses += [float(loss)] * (tokens.shape[1] - 1)
        assert found[removed] == pytest.approx(np.exp(np.mean(losses)), rel=1e-4)
    monkeypatch.setattr("lrd_harness.capture.evidence.PERPLEXITY_TEXTS", 5)
    assert perplexities(model, texts, [()], 60) != {(): found[()]}
    assert perplexities(made(tmp_path), texts, VARIANTS, 60) == {}
    with pytest.raises(UnitError, match="no text has a second token"):
        perplexities(model, [Text("")], VARIANTS, 60)
