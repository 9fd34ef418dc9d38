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
from lrd_harness.capture.samples import Sampling
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


@pytest.fixture
def bert() -> Any:
    return model_of("Bert")


def ids_of(encoded: list[Any]) -> list[list[int]]:
    return [list(features["input_ids"]) for features in encoded]


@settings(max_examples=20, deadline=None)
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
        masked[share] = ids_of(tokens.replaced(share, lambda draw, ids: [mark] * len(ids)))
        for old, new in zip(before, masked[share], strict=True):
            ordinary = [i for i, token in enumerate(old) if token not in SPECIAL]
            changed = [i for i, token in enumerate(new) if token == mark]
            assert len(changed) == round(share * len(ordinary))
            assert set(changed) <= set(ordinary)
            assert all(new[i] == old[i] for i in range(len(old)) if i not in changed)
    fewer, more = masked[min(shares)], masked[max(shares)]
    for few, many in zip(fewer, more, strict=True):
        assert all(many[i] == mark for i, token in enumerate(few) if token == mark)


def test_repeated_and_random_tokens(bert: Any) -> None:
    """One token of the text, or ordinary ones of the vocabulary; both at the same places."""
    tokens = Tokens(bert, TEXTS, seed=3)
    before, half, whole = (ids_of(tokens.repeated(share)) for share in (0, 0.5, 1))
    assert before == ids_of(bert.tokenize(TEXTS))
    for old, some, every in zip(before, half, whole, strict=True):
        assert {every[0], every[-1]} == {2, 3}  # [CLS] and [SEP] stay
        (token,) = set(every[1:-1])
        assert token in old[1:-1]
        assert all(new in (token, here) for new, here in zip(some[1:-1], old[1:-1], strict=True))
    drawn, partly = (ids_of(tokens.randomised(share)) for share in (1, 0.5))
    flat = {token for ids in drawn for token in ids[1:-1]}
    assert not flat & SPECIAL
    assert len(flat) > 60  # of 82 in the vocabulary, in some hundred draws
    assert probe.vocabulary(bert) == sorted(set(range(len(tiny.VOCAB))) - SPECIAL)
    for old, some, every, repeated, all_one in zip(before, partly, drawn, half, whole, strict=True):
        changed = [i for i in range(len(old)) if some[i] != old[i]]
        assert all(some[i] == every[i] and repeated[i] == all_one[i] for i in changed)


def test_what_is_drawn_depends_on_seed_and_number_only(bert: Any) -> None:
    first, second = (Tokens(bert, [Text(t), TEXTS[1]], seed=5) for t in ("a b", "wide sky"))
    assert ids_of(first.randomised(0.7))[1] == ids_of(second.randomised(0.7))[1]
    assert ids_of(first.randomised(0.7)) != ids_of(Tokens(bert, TEXTS[:2], 6).randomised(0.7))
    (old,) = ids_of(bert.tokenize([TEXTS[0]]))
    draw = np.random.default_rng([5, 0])
    order, m = draw.permutation(len(old) - 2), round(0.4 * (len(old) - 2))
    token = old[1 + int(draw.integers(len(old) - 2))]
    expected = [token if i - 1 in order[:m] else old[i] for i in range(len(old))]
    assert ids_of(Tokens(bert, TEXTS[:1], 5).repeated(0.4)) == [expected]


def test_chains_have_exactly_the_length_and_begin_with_their_text(bert: Any) -> None:
    tokens = Tokens(bert, [*TEXTS[:5], Text("")])  # the empty one has nothing to chain
    assert len(tokens) == 5
    words = [ids[1:-1] for ids in ids_of(tokens.repeated(0))]
    flat = [token for ids in words for token in ids]
    assert (tokens.total, tokens.room) == (len(flat), 126)
    for length in (1, 7, 60, tokens.room):
        for number, ids in enumerate(ids_of(tokens.chained(length))):
            turned = [token for text in words[number:] + words[:number] for token in text]
            expected = (turned * (1 + length // len(flat)))[:length]
            assert ids == [2, *expected, 3]
    with pytest.raises(UserError, match="length 127: the model takes 128 tokens, of which up to 2"):
        tokens.chained(127)
    with pytest.raises(UserError, match="no text has a token that could be changed"):
        Tokens(bert, [Text(""), Text(" ")])


def test_chains_take_unknown_words_of_a_text_as_they_are(
    bert: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks = ("[CLS]", "[SEP]", "[UNK]", *"abcdef")
    cls, sep, unk, a, b, c, d, e, f = map(bert.tokenizer.convert_tokens_to_ids, marks)
    texts = [Text("日 日 a b c 日 d 日"), Text("e f"), Text("日")]  # the last has no word
    tokens = Tokens(bert, texts)
    body, following = [unk, unk, a, b, c, unk, d, unk], [e, f]
    assert ids_of(tokens.repeated(0)) == [[cls, *body, sep], [cls, *following, sep]]
    assert (tokens.total, tokens.room) == (10, 126)
    for length in (1, 4, 8, 9):
        first, second = ids_of(tokens.chained(length))
        assert first == [cls, *(body + following)[:length], sep]
        assert second == [cls, *(following + body)[:length], sep]
    (changed, _) = ids_of(tokens.randomised(1))
    assert [i for i, token in enumerate(changed) if token == unk] == [1, 2, 6, 8]
    # where it also frames texts, it frames them
    monkeypatch.setattr(type(bert.tokenizer), "unk_token_id", sep, raising=False)
    (ids,) = ids_of(Tokens(bert, [Text("a b c")]).chained(5))
    assert (len(ids), ids.count(sep)) == (7, 1)


def test_chains_keep_the_types_of_their_tokens(bert: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenize = bert.tokenize

    def typed(texts: Any) -> Any:  # as XLNet, whose special tokens have a type of their own
        sizes = ((features, len(features["input_ids"])) for features in tokenize(texts))
        return [{**f, "token_type_ids": [2, *[1] * (size - 2), 3]} for f, size in sizes]

    monkeypatch.setattr(bert, "tokenize", typed)
    for length in (1, 50):
        types = [f["token_type_ids"] for f in Tokens(bert, TEXTS).chained(length)]
        assert types == [[2, *[1] * length, 3]] * len(TEXTS)


def test_prompts_stay(tmp_path: Path) -> None:
    model = tiny.open_model(tiny.save_st(tmp_path / "st", include_prompt=False))
    (plain,) = (ids[:-1] for ids in ids_of(model.tokenize([Text("", "query: ")])))
    tokens = Tokens(model, [Text(text.text, "query: ") for text in TEXTS])
    for changed in (tokens.randomised(1), tokens.repeated(1), tokens.chained(9)):
        assert all(ids[: len(plain)] == plain for ids in ids_of(changed))
        assert all(features["prompt_length"] >= len(plain) for features in changed)
    assert all(len(ids) == len(plain) + 9 + 1 for ids in ids_of(tokens.chained(9)))
    assert ids_of(tokens.randomised(1)) != ids_of(tokens.randomised(0))


def planned(*names: str) -> list[PlannedMetric]:
    return [PlannedMetric(manager.load().get("metric", name), {}) for name in names]


def value_of(result: probe.ProbeResult, step: float, metric: str, layer: int) -> float | None:
    return result.curves[metric][step].values[layer]


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
    result = probe.probe(model, TEXTS, items, kind, [step], 1, Sampling("raw"), 64)
    assert not result.faults
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
            assert value_of(result, step, name, layer) == pytest.approx(value, rel=1e-4), name


def test_a_layer_without_a_value_has_none() -> None:
    """Without positions of their own, equal tokens have one state before the first block."""
    result = probe.probe(model_of("Llama"), TEXTS, planned("curvature"), "repetition", [0, 1])
    assert value_of(result, 0, "curvature", 0) is not None
    assert value_of(result, 1, "curvature", 0) is None
    first = {"step": 1, "layer": 0, "metric": "curvature", "score": "curvature"}
    assert {**first, "value": None, "depth": 0, "n": 24} in result.values


def test_faults_cost_a_metrics_values_or_those_of_a_step(
    bert: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bad(states: Any) -> Any:
        raise RuntimeError("no such thing\nat all")

    broken = [PlannedMetric(Metric("bad", bad, needs=needs), {}) for needs in ("pooled", "tokens")]
    items = [*broken, *planned("dataset_entropy")]
    result = probe.probe(bert, TEXTS, items, "random", [0.1, 0.2])
    assert result.faults == [
        {"step": step, "metric": "bad", "error": "RuntimeError: no such thing"}
        for step in (0.1, 0.1, 0.2, 0.2)
    ]
    assert set(result.curves) == {"dataset_entropy"}
    batches, states = [], bert.states

    def first_fails(batch: Any, *more: Any) -> Any:
        batches.append(batch)
        if len(batches) == 1:
            raise RuntimeError("out of it")
        return states(batch, *more)

    monkeypatch.setattr(bert, "states", first_fails)
    result = probe.probe(bert, TEXTS, planned("dataset_entropy"), "random", [0, 1])
    assert result.faults == [{"step": 0, "metric": None, "error": "RuntimeError: out of it"}]
    assert list(result.curves["dataset_entropy"]) == [1]


def test_progress_steps_by_default_and_remarks(bert: Any) -> None:
    steps: list[tuple[int, int]] = []
    texts, items = [*TEXTS[:9], Text("")], planned("curvature")
    result = probe.probe(bert, texts, items, "length", progress=lambda *at: steps.append(at))
    assert list(result.steps) == [8, 16, 32, 64]  # 128 and two special tokens are too many
    assert steps[-1] == (36, 36)
    assert steps == sorted(steps)
    assert result.n == 9
    assert result.remarks == ["1 of 10 texts have no token that could be changed"]
    short = [Text(f"a {letter}") for letter in "bcdefghij"]
    again = probe.probe(bert, short, items, "length", [18, 19])
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
def test_steps_that_cannot_be(kind: str, steps: list[float], said: str, bert: Any) -> None:
    with pytest.raises(UserError) as error:
        probe.probe(bert, TEXTS, planned("curvature"), kind, steps)
    assert said in str(error.value)
