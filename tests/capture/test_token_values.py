"""Token metrics watch the one forward pass: against transformers' own states, text by text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import transformers
from test_capture import Counter, model, texts_of  # noqa: F401

from lrd_harness.capture.embeddings import capture
from lrd_harness.capture.token_budget import Budget
from lrd_harness.capture.token_metrics import TokenValues, Watched
from lrd_harness.contracts import Metric, Text
from lrd_harness.errors import NotEnoughTexts, NotEnoughTokens, NotFinite
from lrd_harness.measuring import PlannedMetric
from lrd_harness.store.store import Store


def spread(states: Any, power: float = 1.0) -> dict[str, Any]:
    """A token metric that sees order, padding and norm: mean distance of a token from the next."""
    if len(states[0]) < 4:
        raise NotEnoughTokens("4 tokens")
    steps = [(state[1:] - state[:-1]).norm(dim=1) ** power for state in states]
    return {"spread": [float(s.mean()) for s in steps], "tokens": len(states[0])}


SPREAD = Metric("spread", spread, needs="tokens")


def item(metric: Metric = SPREAD, **parameters: Any) -> PlannedMetric:
    return PlannedMetric(metric, {"power": 1.0, **parameters} if metric is SPREAD else parameters)


def watched(
    opened: Any, texts: list[Text], folder: Path, *items: PlannedMetric, norm: Any = "hf"
) -> Watched:
    """Token metrics of an opened model, kept under `folder`."""
    states = opened.info.blocks + 1
    tokens = [TokenValues(i, folder, opened.identity, norm, states) for i in items]
    return Watched(opened, tokens, texts)


def measured(opened: Any, texts: list[Text], folder: Path, metric: Any) -> TokenValues:
    """The values of a metric of one's own on texts that were read for it."""
    seen = watched(opened, texts, folder, item(Metric("own", metric, needs="tokens")))
    read(opened, texts, folder, seen)
    return seen.tokens[0]


def read(opened: Any, texts: list[Text], folder: Path, seen: Watched, budget: int = 300) -> Any:
    store = Store(folder, opened.identity)
    return capture(opened, texts, store, batch_tokens=budget, watched=seen)


@pytest.mark.parametrize("family", ["Bert", "GPT2", "Bart", "ConvBert"])
@pytest.mark.parametrize("padding", ["right", "left"])
def test_values_are_those_of_transformers_states(family: str, padding: str, tmp_path: Path) -> None:
    """Whatever the batch and its padding; Bart and ConvBert take one side, or none at all."""
    causal = family in tiny.DECODERS
    folder = tiny.save(family, tmp_path / "m", uneven=True)
    opened = tiny.open_model(folder, padding=padding)
    texts = [Text(t) for t in tiny.sentences(12)] + [Text("a b c d e")]
    seen = watched(opened, texts, tmp_path, item(), item(power=2.0))
    read(opened, texts, tmp_path, seen)
    plain = transformers.AutoModel.from_pretrained(folder).eval()
    plain = plain.encoder if family == "Bart" else plain
    for values, power in zip(seen.tokens, (1.0, 2.0), strict=True):
        scores, n = values.finished(texts)
        expected = []
        for features in opened.tokenize(texts):
            ids = torch.tensor([features["input_ids"]])
            with torch.no_grad():
                states = plain(input_ids=ids, output_hidden_states=True).hidden_states
            expected.append(spread([s[0].double() for s in states], power)["spread"])
        assert n == len(texts)
        np.testing.assert_allclose(scores["spread"], np.mean(expected, 0), rtol=2e-4)
    assert causal == (opened.parts.adapter == "decoder")


@pytest.mark.parametrize("norm", ["raw", "hf", "final"])
def test_the_final_norm_is_applied_as_asked(norm: Any, tmp_path: Path) -> None:
    opened = tiny.open_model(tiny.save("Llama", tmp_path / "m", uneven=True))
    texts = [Text(t) for t in tiny.sentences(9)]
    seen = watched(opened, texts, tmp_path, item(), norm=norm)
    read(opened, texts, tmp_path, seen)
    scores, _ = seen.tokens[0].finished(texts)
    normed = {"raw": [], "hf": [3], "final": [0, 1, 2, 3]}[norm]
    expected = []
    for features in opened.tokenize(texts):
        states: dict[int, torch.Tensor] = {}
        opened.watch([features], lambda layer, s, states=states: states.update({layer: s.clone()}))
        here = [opened.normed(s[0]) if layer in normed else s[0] for layer, s in states.items()]
        expected.append(spread([s.detach().double() for s in here])["spread"])
    np.testing.assert_allclose(scores["spread"], np.mean(expected, 0), rtol=1e-5)


def test_one_pass_serves_states_and_tokens(model: Any, tmp_path: Path) -> None:  # noqa: F811
    texts = texts_of(20)
    counter = Counter(model)
    done = read(model, texts, tmp_path, watched(model, texts[:12], tmp_path, item()))
    assert done.forwarded == counter.rows == 20
    again = read(model, texts, tmp_path, watched(model, texts[:12], tmp_path, item()))
    assert again.forwarded == 0
    assert counter.rows == 20
    further = read(model, texts, tmp_path, watched(model, texts[:15], tmp_path, item()))
    assert further.forwarded == 3  # their states are there, their values are not
    other = read(model, texts, tmp_path, watched(model, texts[:2], tmp_path, item(power=3.0)))
    assert other.forwarded == 2  # other parameters are other values
    store = Store(tmp_path, model.identity)
    assert not store.missing(texts)


def test_short_texts_are_left_out_and_counted(model: Any, tmp_path: Path) -> None:  # noqa: F811
    long = [Text(t) for t in tiny.sentences(9)]
    texts = [*long, Text(""), Text("a")]  # with [CLS] and [SEP] 2 and 3 tokens
    seen = watched(model, texts, tmp_path, item())
    read(model, texts, tmp_path, seen)
    scores, n = seen.tokens[0].finished(texts)
    alone, _ = seen.tokens[0].finished(long)
    assert n == 9
    assert scores["left_out"] == 2
    assert scores["spread"] == alone["spread"]
    assert "left_out" not in alone
    with pytest.raises(NotEnoughTexts, match="at least 8 texts with enough tokens, got 7 of 9"):
        seen.tokens[0].finished(texts[2:])


def test_a_layer_without_a_value_in_some_texts(model: Any, tmp_path: Path) -> None:  # noqa: F811
    def odd(states: Any) -> dict[str, Any]:
        values = [float(s.norm()) for s in states]
        even = len(states[0]) % 2 == 0
        return {"odd": [np.nan, values[1] if even else np.nan, *values[2:]]}

    texts = texts_of(30)
    found = measured(model, texts, tmp_path, odd)
    scores, n = found.finished(texts)
    lengths = [len(e["input_ids"]) for e in model.tokenize(texts)]
    even = [t for t, length in zip(texts, lengths, strict=True) if length % 2 == 0]
    assert 8 <= len(even) < 30
    of_even, _ = found.finished(even)
    assert n == 30
    assert np.isnan(scores["odd"][0])
    assert scores["odd"][1] == pytest.approx(of_even["odd"][1])
    assert scores["odd"][2] != pytest.approx(of_even["odd"][2])


def test_nan_in_a_state_is_a_named_error(tmp_path: Path) -> None:
    import running

    opened = tiny.open_model(running.save_nan(tmp_path / "nan"))
    texts = [Text(t) for t in tiny.sentences(10)] + [Text("s s s s")]
    seen = watched(opened, texts, tmp_path, item())
    read(opened, texts, tmp_path, seen)
    sound = [t for t in texts if "s" not in t.text.split()]
    with pytest.raises(NotFinite):
        seen.tokens[0].finished(texts)
    assert len(sound) < len(texts)


def test_a_metric_that_fails_costs_its_own_values_only(model: Any, tmp_path: Path) -> None:  # noqa: F811
    calls = 0

    def bad(states: Any) -> dict[str, Any]:
        nonlocal calls
        calls += 1
        if len(states[0]) == 8:  # of the texts, not of the sample that says which scores there are
            raise ZeroDivisionError("eight")
        return {"bad": [1.0] * len(states)}

    texts = [Text(t) for t in [*tiny.sentences(12), "abcdef"]]  # [CLS] a b c d e f [SEP]
    seen = watched(model, texts, tmp_path, item(Metric("bad", bad, needs="tokens")), item())
    done = read(model, texts, tmp_path, seen)
    assert done.forwarded == len(texts)
    with pytest.raises(ZeroDivisionError, match="eight"):
        seen.tokens[0].finished(texts)
    assert seen.tokens[1].finished(texts)[1] == len(texts)
    before = calls
    seen.tokens[0].row(torch.randn(4, 12, 8))
    assert calls == before  # it is not called again


@pytest.mark.slow
def test_memory_that_a_metric_lacks_is_no_fault_of_it(model: Any, tmp_path: Path) -> None:  # noqa: F811
    """The pass is tried again with smaller batches, which leave it more."""
    largest = 0

    def hungry(states: Any) -> dict[str, Any]:
        if largest > 100:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return {"hungry": [1.0] * len(states)}

    def count(block: Any, args: Any, output: Any) -> None:
        nonlocal largest
        found = output[0] if isinstance(output, tuple) else output
        largest = found.shape[0] * found.shape[1]

    hook = model.blocks[0].register_forward_hook(count)
    texts = texts_of(30)
    seen = watched(model, texts, tmp_path, item(Metric("hungry", hungry, needs="tokens")))
    budget = Budget(400)
    capture(model, texts, Store(tmp_path, model.identity), batch_tokens=budget, watched=seen)
    hook.remove()
    assert budget.tokens == 100
    assert seen.tokens[0].fault is None
    assert seen.tokens[0].finished(texts)[1] == len(texts)


def test_scores_that_change_with_the_text_are_a_fault(model: Any, tmp_path: Path) -> None:  # noqa: F811
    texts = texts_of(12)
    uneven = measured(model, texts, tmp_path, lambda s: {"x": [0.0] * len(s[0])})
    with pytest.raises(TypeError, match="on one text"):
        uneven.finished(texts)
