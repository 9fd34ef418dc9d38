"""Requests in, log-likelihoods of every layer out: one forward a context, whatever the batch."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import running
import tiny
import torch
from running import Patch

from lrd_harness.capture import embeddings as capturing
from lrd_harness.capture import likelihoods
from lrd_harness.capture.layers import LikelihoodLayer, StoredLikelihoods
from lrd_harness.contracts import Continuation, Text, TokenPairs
from lrd_harness.errors import NotFinite
from lrd_harness.store.store import Store

lm: Any = importlib.import_module("lrd_harness.tasks.likelihood.requests")
PROMPTS = [f"{text} answer:" for text in tiny.sentences(9, 2)]
QUESTIONS = [Continuation(prompt, f" {letter}") for prompt in PROMPTS for letter in "abcd"]
ENDS = [Continuation(p, f" {end}") for p in PROMPTS[:5] for end in tiny.sentences(3, 8, most=4)]
ALONE = [Continuation("", " the cat"), Continuation("", " x")]
MIXED = [*QUESTIONS[:12], *ENDS, *ALONE]


def read(
    model: Any,
    requests: Sequence[Continuation],
    folder: Path,
    batch_tokens: int = 512,
    **given: Any,
) -> tuple[Store, capturing.Captured]:
    """Requests captured into the store in a folder; all of their contexts, where not said."""
    store = Store(folder, model.identity)
    contexts = given.pop("contexts", list(dict.fromkeys(r.context for r in requests)))
    counted = likelihoods.capture(
        model, requests, contexts, lm.tokenize, store, batch_tokens=batch_tokens
    )
    return store, counted


def values(store: Store, requests: Sequence[Continuation], layers: int = 4) -> np.ndarray:
    """(layers, n, 2): log-likelihood, and 1 where the continuation is the greedy one."""
    views = [
        LikelihoodLayer(StoredLikelihoods(store), layer, "m", "r", [{}]) for layer in range(layers)
    ]
    return np.array([view.loglikelihoods(requests) for view in views])


def made(tmp_path: Path, family: str = "Llama", **options: Any) -> Any:
    folder = tmp_path / family
    if not folder.exists():
        tiny.save(family, folder, causal=True)
    return tiny.open_model(folder, head=True, **options)


def test_the_choices_of_a_question_share_a_forward(tmp_path: Path) -> None:
    model = made(tmp_path)
    model.length_limit(2048)  # is tried once, by passes of its own
    rows: list[list[int]] = [[] for _ in model.blocks]
    for block, seen in zip(model.blocks, rows, strict=True):
        block.register_forward_hook(lambda _, args, out, seen=seen: seen.append(len(args[0])))
    _, counted = read(model, QUESTIONS, tmp_path / "store")
    assert [sum(seen) for seen in rows] == [len(PROMPTS)] * 3
    assert counted.forwarded == len(PROMPTS)
    assert counted.asked == counted.texts == len(QUESTIONS)
    assert counted.tokens == sum(len(e["input_ids"]) for e in model.tokenize(map_texts(PROMPTS)))
    before = [len(seen) for seen in rows]
    _, again = read(model, QUESTIONS[::-1], tmp_path / "store")
    assert again.forwarded == again.tokens == 0
    assert [len(seen) for seen in rows] == before


def map_texts(texts: Sequence[str]) -> list[Text]:
    return [Text(text) for text in texts]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["Llama", "GPT2", "OPT", "Bloom", "Mamba", "Rwkv"])
def test_batch_order_and_padding_change_no_score(family: str, tmp_path: Path) -> None:
    model = made(tmp_path, family)
    expected = values(read(model, MIXED, tmp_path / "alone", batch_tokens=1)[0], MIXED)
    assert np.ptp(expected[3, :, 0]) > 1
    unpadded = made(tmp_path, family)
    unpadded.padding = "none"  # as of models that see their padding
    readings = {
        "large": (model, MIXED, 4096),
        "some": (model, MIXED, 64),
        "order": (model, MIXED[::-1], 100),
        "left": (made(tmp_path, family, padding="left"), MIXED, 512),
        "none": (unpadded, MIXED, 512),
    }
    # what keeps a state from left to right is padded on the right all the same
    sound = "right" if family == "Rwkv" else "left"
    assert readings["left"][0].padding == sound
    for name, (opened, asked, budget) in readings.items():
        store, _ = read(opened, asked, tmp_path / name, batch_tokens=budget)
        np.testing.assert_allclose(values(store, MIXED), expected, atol=1e-5, err_msg=name)


def test_greedy_continuations(tmp_path: Path) -> None:
    """Of three tokens, all greedy, the first only, and the last only."""
    model = made(tmp_path, "GPT2")
    ids = model.tokenizer(PROMPTS[0], return_tensors="pt").input_ids
    long = model.whole.generate(ids, max_new_tokens=3, do_sample=False, eos_token_id=None)
    best = model.tokenizer.convert_ids_to_tokens(long[0, -3:].tolist())
    other = next(t for t in tiny.LETTERS if t != best[0] and t != best[1] and t != best[2])
    turned = tiny.VOCAB.index(other)
    ends = [(0, 1, 2), (0, 1, None), (None, 1, 2)]
    cont = [[turned if i is None else int(long[0, i - 3]) for i in end] for end in ends]
    pairs = [(ids[0].tolist(), end) for end in cont]
    asked = [Continuation(PROMPTS[0], str(i)) for i in range(3)]
    store = Store(tmp_path / "store", model.identity)
    likelihoods.capture(model, asked, [], lambda *_: TokenPairs(pairs, 100), store, batch_tokens=64)
    assert values(store, asked)[3, :, 1].tolist() == [1, 0, 0]
    with torch.inference_mode():
        logs = model.whole(long).logits[0].log_softmax(-1)
    expected = sum(float(logs[len(ids[0]) - 1 + i, cont[0][i]]) for i in range(3))
    assert values(store, asked)[3, 0, 0] == pytest.approx(expected, abs=1e-4)


def test_equal_tokens_and_no_context(tmp_path: Path) -> None:
    """Texts that are the same to the model share a forward, and are answered each."""
    model = made(tmp_path)
    twice = [Continuation("the cat sat", " a"), Continuation("the  cat sat", " a"), *ALONE]
    store, counted = read(model, [*twice, *twice], tmp_path / "store")
    assert counted.asked == 8
    assert counted.texts == 4
    assert counted.forwarded == 3  # the cat sat; <s> the ca; <s>
    assert counted.empty == 1
    found = values(store, twice)
    assert (found[:, 0] == found[:, 1]).all()
    with torch.inference_mode():
        logits = model.whole(torch.tensor([[5]])).logits[0, 0].log_softmax(-1)
    assert found[3, 3, 0] == pytest.approx(float(logits[tiny.VOCAB.index("x")]), abs=1e-5)


@pytest.mark.parametrize("pooling", ["last", "mean", "mean-no-sink", "cls"])
@pytest.mark.parametrize("padding", ["right", "left"])
def test_pooled_states_are_those_of_the_prompt(pooling: str, padding: str, tmp_path: Path) -> None:
    model = made(tmp_path, padding=padding, pooling=pooling)
    asked = [*ENDS, *QUESTIONS, ENDS[0]]
    store, _ = read(model, asked, tmp_path / "store", contexts=PROMPTS)
    expected = model.states(model.tokenize(map_texts(PROMPTS)))
    assert len(expected) == 2 * 4
    for plane, states in expected.items():
        np.testing.assert_allclose(store.read(map_texts(PROMPTS), plane), states, atol=1e-5)


def test_a_context_can_be_asked_for_later(tmp_path: Path) -> None:
    """The log-likelihoods are there; the contexts alone are read, and the scores stay."""
    model = made(tmp_path)
    store, _ = read(model, QUESTIONS, tmp_path / "store", contexts=PROMPTS[:2])
    before = values(store, QUESTIONS)
    store, counted = read(model, QUESTIONS, tmp_path / "store", contexts=PROMPTS[:5])
    assert counted.forwarded == 3
    np.testing.assert_allclose(values(store, QUESTIONS), before, atol=1e-5)
    assert not store.missing(map_texts(PROMPTS[:5]))


@pytest.mark.parametrize("write", [1, 2, 5])
def test_killed_in_the_middle(write: int, tmp_path: Path, monkeypatch: Patch) -> None:
    """At any write of a shard: the same numbers, and only what was missing is forwarded."""
    monkeypatch.setattr(capturing, "SEGMENT_TOKENS", 130)
    model = made(tmp_path)
    whole, counted = read(model, MIXED, tmp_path / "whole")
    with running.interrupted(Store, "write", write), pytest.raises(KeyboardInterrupt):
        read(model, MIXED, tmp_path / "store")
    keys = [likelihoods.key(r) for r in MIXED]
    there = len(keys) > len(Store(tmp_path / "store", model.identity).missing(keys))
    store, rest = read(model, MIXED, tmp_path / "store")
    assert there == (write > 1)
    assert rest.forwarded < counted.forwarded or not there
    np.testing.assert_allclose(values(store, MIXED), values(whole, MIXED), atol=1e-5)
    contexts = map_texts([r.context for r in MIXED])
    for plane in [("raw", 0), ("raw", 3), ("final", 1)]:
        np.testing.assert_allclose(
            store.read(contexts, plane), whole.read(contexts, plane), atol=1e-5
        )
    assert not read(model, MIXED, tmp_path / "store")[1].forwarded


def test_nan_is_a_fault_of_the_layer(tmp_path: Path) -> None:
    model = made(tmp_path)
    with torch.no_grad():
        model.blocks[1].mlp.down_proj.weight.fill_(float("nan"))
    store, _ = read(model, QUESTIONS, tmp_path / "store", contexts=[])
    assert np.isfinite(values(store, QUESTIONS, layers=2)).all()
    with pytest.raises(NotFinite, match="layer 2"):
        LikelihoodLayer(StoredLikelihoods(store), 2, "m", "r", [{}]).loglikelihoods(QUESTIONS)
