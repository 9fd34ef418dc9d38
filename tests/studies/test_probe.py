"""Probes: texts changed token by token in exact, nested shares, and what is measured on them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from lrd_harness import manager
from lrd_harness.contracts import Metric, Text
from lrd_harness.errors import UserError
from lrd_harness.measuring import PlannedMetric
from lrd_harness.studies import probe
from lrd_harness.studies.probe import Tokens

TEXTS = [Text(t) for t in tiny.sentences(24)]
WORDS = st.lists(st.sampled_from(tiny.WORDS), min_size=1, max_size=8).map(" ".join)
SPECIAL = {i for i, token in enumerate(tiny.VOCAB) if token in tiny.SPECIAL}


@cache
def model_of(family: str) -> Any:
    folder = tiny.save(family, Path(mkdtemp()) / family, causal=family == "Llama")
    return tiny.open_model(folder)


def ids_of(encoded: list[Any]) -> list[list[int]]:
    return [list(features["input_ids"]) for features in encoded]


@settings(max_examples=40, deadline=None)
@given(
    texts=st.lists(WORDS, min_size=1, max_size=4, unique=True),
    shares=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    seed=st.integers(0, 2**32),
)
def test_exact_shares_of_ordinary_tokens_nested(
    texts: list[str], shares: tuple[float, float], seed: int
) -> None:
    model = model_of("Bert")
    tokens = Tokens(model, [Text(t) for t in texts], seed)
    before = ids_of(model.tokenize([Text(t) for t in texts]))
    mark = 10**6  # no token is like it, so that every replaced place can be seen
    masked = {}
    for share in shares:
        masked[share] = ids_of(tokens._replaced(share, lambda draw, ids: [mark] * len(ids)))
        for old, new in zip(before, masked[share], strict=True):
            ordinary = [i for i, token in enumerate(old) if token not in SPECIAL]
            changed = [i for i, token in enumerate(new) if token == mark]
            assert len(changed) == round(share * len(ordinary))
            assert set(changed) <= set(ordinary)
            assert all(new[i] == old[i] for i in range(len(old)) if i not in changed)
    fewer, more = masked[min(shares)], masked[max(shares)]
    for few, many in zip(fewer, more, strict=True):
        assert all(many[i] == mark for i, token in enumerate(few) if token == mark)


def test_repetition_is_of_one_token_of_the_text() -> None:
    model = model_of("Bert")
    tokens = Tokens(model, TEXTS, seed=3)
    before, half, whole = (ids_of(tokens.repeated(share)) for share in (0, 0.5, 1))
    assert before == ids_of(model.tokenize(TEXTS))
    for old, some, every in zip(before, half, whole, strict=True):
        assert {every[0], every[-1]} == {2, 3}  # [CLS] and [SEP] stay
        (one,) = set(every[1:-1])
        assert one in old[1:-1]
        assert all(new in (one, here) for new, here in zip(some[1:-1], old[1:-1], strict=True))


def test_random_tokens_are_ordinary_ones_at_the_same_places() -> None:
    model = model_of("Bert")
    tokens = Tokens(model, TEXTS, seed=3)
    drawn = ids_of(tokens.randomised(1))
    flat = {token for ids in drawn for token in ids[1:-1]}
    assert not flat & SPECIAL
    assert len(flat) > 60  # of 82 in the vocabulary, in some hundred draws
    assert probe.vocabulary(model) == sorted(set(range(len(tiny.VOCAB))) - SPECIAL)
    for old, half, whole in zip(
        ids_of(tokens.randomised(0)), ids_of(tokens.randomised(0.5)), drawn, strict=True
    ):
        assert all(some in (a, b) for a, some, b in zip(old, half, whole, strict=True))


def test_what_is_drawn_depends_on_seed_and_number_only() -> None:
    model = model_of("Bert")
    one, other = (Tokens(model, [Text(t), TEXTS[1]], seed=5) for t in ("a b", "wide sky"))
    assert ids_of(one.randomised(0.7))[1] == ids_of(other.randomised(0.7))[1]
    assert ids_of(one.randomised(0.7)) != ids_of(Tokens(model, [*TEXTS[:2]], 6).randomised(0.7))
    (old,), m = ids_of(model.tokenize([TEXTS[0]])), 4
    draw = np.random.default_rng([5, 0])
    order, m = draw.permutation(len(old) - 2), round(0.4 * (len(old) - 2))
    token = old[1 + int(draw.integers(len(old) - 2))]
    expected = [token if i - 1 in order[:m] else old[i] for i in range(len(old))]
    assert ids_of(Tokens(model, TEXTS[:1], 5).repeated(0.4)) == [expected]


def test_chains_have_exactly_the_length_and_begin_with_their_text() -> None:
    model = model_of("Bert")
    texts = [*TEXTS[:5], Text("")]  # the empty one has nothing to chain
    tokens = Tokens(model, texts)
    assert len(tokens) == 5
    words = [ids[1:-1] for ids in ids_of(tokens.repeated(0))]
    flat = [token for ids in words for token in ids]
    assert tokens.total == len(flat)
    for length in (1, 7, 60, tokens.room):
        chained = tokens.chained(length)
        for number, features in enumerate(chained):
            turned = [token for ids in words[number:] + words[:number] for token in ids]
            expected = (turned * (1 + length // len(flat)))[:length]
            assert list(features["input_ids"]) == [2, *expected, 3]
    assert tokens.room == 126
    with pytest.raises(UserError, match="length 127: the model takes 128 tokens, of which up to 2"):
        tokens.chained(127)


def test_chains_take_unknown_words_of_a_text_as_they_are() -> None:
    model = model_of("Bert")
    marks = ("[CLS]", "[SEP]", "[UNK]", *"abcdef")
    cls, sep, unk, a, b, c, d, e, f = map(model.tokenizer.convert_tokens_to_ids, marks)
    texts = [Text("日 日 a b c 日 d 日"), Text("e f"), Text("日")]  # the last has no word
    tokens = Tokens(model, texts)
    body, next_one = [unk, unk, a, b, c, unk, d, unk], [e, f]
    assert ids_of(tokens.repeated(0)) == [[cls, *body, sep], [cls, *next_one, sep]]
    assert (tokens.total, tokens.room) == (10, 126)
    for length in (1, 4, 8, 9):
        first, second = ids_of(tokens.chained(length))
        assert first == [cls, *(body + next_one)[:length], sep]
        assert second == [cls, *(next_one + body)[:length], sep]
    (changed, _) = ids_of(tokens.randomised(1))
    assert [i for i, token in enumerate(changed) if token == unk] == [1, 2, 6, 8]


def test_an_unknown_token_that_also_frames_texts_frames_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = model_of("Bert")
    sep = model.tokenizer.sep_token_id
    monkeypatch.setattr(type(model.tokenizer), "unk_token_id", sep, raising=False)
    ids = ids_of(Tokens(model, [Text("a b c")]).chained(5))[0]
    assert len(ids) == 7
    assert ids.count(sep) == 1


def test_chains_keep_the_types_of_their_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("Bert")
    real = model.tokenize

    def typed(texts: Any) -> Any:  # as XLNet, whose special tokens have a type of their own
        sizes = ((f, len(f["input_ids"])) for f in real(texts))
        return [{**f, "token_type_ids": [2, *[1] * (size - 2), 3]} for f, size in sizes]

    monkeypatch.setattr(model, "tokenize", typed)
    for length in (1, 50):
        types = [f["token_type_ids"] for f in Tokens(model, TEXTS).chained(length)]
        assert types == [[2, *[1] * length, 3]] * len(TEXTS)


def test_prompts_stay(tmp_path: Path) -> None:
    model = tiny.open_model(tiny.save_st(tmp_path / "st", include_prompt=False))
    texts = [Text(text.text, "query: ") for text in TEXTS]
    plain = ids_of(model.tokenize([Text("", "query: ")]))[0][:-1]
    tokens = Tokens(model, texts)
    for changed in (tokens.randomised(1), tokens.repeated(1), tokens.chained(9)):
        assert all(ids[: len(plain)] == plain for ids in ids_of(changed))
        assert all(features["prompt_length"] >= len(plain) for features in changed)
    assert all(len(ids) == len(plain) + 9 + 1 for ids in ids_of(tokens.chained(9)))
    assert ids_of(tokens.randomised(1)) != ids_of(tokens.randomised(0))


def test_nothing_to_change() -> None:
    with pytest.raises(UserError, match="no text has a token that could be changed"):
        Tokens(model_of("Bert"), [Text(""), Text(" ")])


def planned(*names: str) -> list[PlannedMetric]:
    return [PlannedMetric(manager.load().get("metric", name), {}) for name in names]


def value_of(found: probe.ProbeResult, step: float, metric: str, layer: int) -> float | None:
    return found.curves[metric][step].values[layer]


def entropy(x: np.ndarray) -> float:
    """Von Neumann entropy of centred unit rows, of its definition."""
    x = x - x.mean(0)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    share = np.linalg.svd(x, compute_uv=False) ** 2 / len(x)
    share = share[share > 1e-15]
    return float(-(share * np.log(share)).sum())


@pytest.mark.parametrize(("kind", "step"), [("repetition", 0.5), ("random", 0.5), ("length", 9)])
def test_values_are_those_of_single_texts(kind: str, step: float) -> None:
    """Against numpy on texts that are run one by one; batched they are padded."""
    model = model_of("Llama")
    items = planned("prompt_entropy", "dataset_entropy", "effective_rank")
    found = probe.probe(model, TEXTS, items, kind, [step], 1, "raw", 64)
    assert not found.faults
    pooled: list[list[np.ndarray]] = [[] for _ in range(4)]
    single: list[list[float]] = [[] for _ in range(4)]
    for features in probe.KINDS[kind](Tokens(model, TEXTS, 1), step):

        def see(layer: int, state: Any) -> None:
            tokens = state[0].double().numpy()
            pooled[layer].append(tokens[-1])
            single[layer].append(entropy(tokens))

        model.watch([features], see)
    for layer in range(1, 4):
        states = np.array(pooled[layer])
        sizes = np.linalg.svd(states, compute_uv=False)
        sizes /= sizes.sum()
        rank = np.exp(-(sizes * np.log(sizes)).sum())
        expected = {
            "prompt_entropy": np.mean(single[layer]),
            "dataset_entropy": entropy(states),
            "effective_rank": rank,
        }
        for name, value in expected.items():
            assert value_of(found, step, name, layer) == pytest.approx(value, rel=1e-4), name


def test_a_layer_without_a_value_has_none() -> None:
    """Without positions of their own, equal tokens have one state before the first block."""
    found = probe.probe(model_of("Llama"), TEXTS, planned("curvature"), "repetition", [0, 1])
    assert value_of(found, 0, "curvature", 0) is not None
    assert value_of(found, 1, "curvature", 0) is None
    first = {"step": 1, "layer": 0, "metric": "curvature", "score": "curvature"}
    assert {**first, "value": None, "depth": 0, "n": 24} in found.values


def test_a_metrics_fault_costs_its_values_only() -> None:
    def bad(states: Any) -> Any:
        raise RuntimeError("no such thing\nat all")

    broken = [PlannedMetric(Metric("bad", bad, needs=needs), {}) for needs in ("pooled", "tokens")]
    items = [*broken, *planned("dataset_entropy")]
    found = probe.probe(model_of("Bert"), TEXTS, items, "random", [0.1, 0.2])
    assert found.faults == [
        {"step": step, "metric": "bad", "error": "RuntimeError: no such thing"}
        for step in (0.1, 0.1, 0.2, 0.2)
    ]
    assert set(found.curves) == {"dataset_entropy"}


def test_a_fault_of_the_model_costs_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = model_of("Bert"), []
    real = model.states

    def states(batch: Any, *more: Any) -> Any:
        seen.append(batch)
        if len(seen) == 1:
            raise MemoryError("out of it")
        return real(batch, *more)

    monkeypatch.setattr(model, "states", states)
    found = probe.probe(model, TEXTS, planned("dataset_entropy"), "random", [0, 1])
    assert found.faults == [{"step": 0, "metric": None, "error": "MemoryError: out of it"}]
    assert list(found.curves["dataset_entropy"]) == [1]


def test_progress_steps_by_default_and_remarks() -> None:
    model, seen = model_of("Bert"), []
    texts = [*TEXTS[:9], Text("")]
    found = probe.probe(
        model, texts, planned("curvature"), "length", progress=lambda *at: seen.append(at)
    )
    assert list(found.steps) == [8, 16, 32, 64]  # 128 and two special tokens are too many
    assert seen[-1] == (36, 36)
    assert seen == sorted(seen)
    assert found.n == 9
    assert found.remarks == ["1 of 10 texts have no token that could be changed"]
    short = [Text(f"a {letter}") for letter in "bcdefghij"]
    again = probe.probe(model, short, planned("curvature"), "length", [18, 19])
    assert again.remarks == ["the texts have 18 tokens in all, which longer chains repeat"]


@pytest.mark.parametrize(
    ("kind", "steps", "said"),
    [
        ("repetition", [0, 1.5], "share 1.5: not between 0 and 1"),
        ("length", [0.5], "length 0.5: not a whole number"),
        ("length", [0], "length 0: not a whole number"),
        ("length", [127], "the model takes 128 tokens"),
        ("lenght", [1], "Did you mean length?"),
    ],
)
def test_steps_that_cannot_be(kind: str, steps: list[float], said: str) -> None:
    with pytest.raises(UserError) as error:
        probe.probe(model_of("Bert"), TEXTS, planned("curvature"), kind, steps)
    assert said in str(error.value)
