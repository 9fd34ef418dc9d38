"""Each distinct text is forwarded once; batches and shards hold what they should."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import running
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from running import Patch

from lrd_harness.capture import embeddings as module
from lrd_harness.capture.embeddings import batches, capture, forward, segments
from lrd_harness.capture.layers import LayerView, StoredStates, planes
from lrd_harness.contracts import Task, Text
from lrd_harness.errors import NotFinite
from lrd_harness.store.store import Store

lengths = st.lists(st.integers(1, 60), max_size=40)


def whole(ranges: Sequence[range], count: int) -> None:
    assert [i for r in ranges for i in r] == list(range(count))
    assert all(len(r) for r in ranges)


@given(lengths, st.integers(1, 200), st.booleans())
def test_batches_keep_the_budget(sizes: list[int], budget: int, alike: bool) -> None:
    sizes = sorted(sizes, reverse=True)
    found = list(batches(sizes, budget, alike))
    whole(found, len(sizes))
    for batch in found:
        padded = len(batch) * max(sizes[i] for i in batch)
        assert padded <= budget or len(batch) == 1
        assert not alike or len({sizes[i] for i in batch}) == 1
    for one, two in pairwise(found):  # no room was left for the next text
        unlike = alike and sizes[two.start] != sizes[one.start]
        assert unlike or (len(one) + 1) * sizes[one.start] > budget
        assert two.start == one.stop


@given(lengths, st.integers(1, 100), st.integers(1, 9))
def test_shards_are_small(sizes: list[int], tokens: int, most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SEGMENT_TOKENS", tokens)
        patch.setattr(module, "SEGMENT_TEXTS", most)
        found = list(segments(sizes))
    whole(found, len(sizes))
    for shard in found:
        assert len(shard) <= most
        assert sum(sizes[i] for i in shard) <= tokens or len(shard) == 1


class Counter:
    """The rows that go through a model's first block."""

    def __init__(self, model: Any) -> None:
        self.rows = self.passes = 0
        model.blocks[0].register_forward_hook(self)

    def __call__(self, block: Any, args: Any, output: Any) -> None:
        self.rows += len(output[0] if isinstance(output, tuple) else output)
        self.passes += 1


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("model") / "m"
    return tiny.open_model(tiny.save("Bert", folder), max_length=40)


def texts_of(count: int) -> list[Text]:
    made = tiny.sentences(count)
    return [Text(t, "query: " if i % 3 else "") for i, t in enumerate(made)]


def test_each_distinct_text_once(model: Any, tmp_path: Path) -> None:
    store, counter = Store(tmp_path, model.identity), Counter(model)
    texts = texts_of(60)
    odd = [Text(""), Text("  "), Text("a \ud800"), Text("x" * 500), Text("", "query: ")]
    asked = [*texts, *texts[:20], *odd, *odd, Text(texts[0].text, "another: ")]
    told: list[tuple[int, int]] = []
    counts = capture(
        model, asked, store, batch_tokens=200, progress=lambda *done: told.append(done)
    )
    assert counter.rows == counts.forwarded == counts.texts == 66
    assert counts.record()["duplicates"] == counts.asked - 66 == 25
    assert counts.empty == 3
    full = [len(model.tokenizer(t.prompt + t.text.replace("\ud800", "\ufffd"))["input_ids"])
            for t in dict.fromkeys(asked)]  # fmt: skip
    assert counts.truncated == sum(n > 40 for n in full) > 1
    assert counts.tokens == sum(min(n, 40) for n in full)
    assert told[0] == (0, 66)
    assert told[-1] == (66, 66)
    assert [done for done, _ in told] == sorted({done for done, _ in told})

    again = capture(model, asked, store, batch_tokens=200)
    assert counter.rows == 66
    assert (again.forwarded, again.tokens) == (0, 0)
    assert (again.texts, again.truncated, again.empty) == (66, counts.truncated, 3)
    more = capture(model, [*asked, Text("new")], Store(tmp_path, model.identity), batch_tokens=200)
    assert (counter.rows, more.forwarded) == (67, 1)


def test_what_is_kept_are_the_texts_own_states(model: Any, tmp_path: Path) -> None:
    store = Store(tmp_path, model.identity)
    texts = texts_of(40)
    capture(model, texts, store, batch_tokens=300)
    for text in texts[::7]:
        for plane, state in model.states(model.tokenize([text])).items():
            np.testing.assert_allclose(store.read([text], plane)[0], state[0].numpy(), atol=1e-4)


@pytest.mark.parametrize("whole_shards", [0, 3])
def test_after_an_interruption_only_the_rest(
    whole_shards: int, model: Any, tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(module, "SEGMENT_TEXTS", 8)
    texts = texts_of(40)  # five shards, each one batch
    counter, stopped = Counter(model), running.interrupted(model, "states", whole_shards + 1)
    with stopped, pytest.raises(KeyboardInterrupt):
        capture(model, texts, Store(tmp_path, model.identity), batch_tokens=10_000)
    assert counter.rows == 8 * whole_shards
    counts = capture(model, texts, Store(tmp_path, model.identity), batch_tokens=10_000)
    assert counts.forwarded == 40 - 8 * whole_shards
    assert counter.rows == 40
    straight = Store(tmp_path / "other", model.identity)
    capture(model, texts, straight, batch_tokens=10_000)
    store = Store(tmp_path, model.identity)
    for plane in (("raw", 0), ("raw", 3)):
        np.testing.assert_array_equal(store.read(texts, plane), straight.read(texts, plane))


def test_states_of_a_gpu_are_read_once_all_are_here(monkeypatch: Patch) -> None:
    """The copies of all batches are under way together; a thread beside waits for them alone."""
    under_way: list[torch.Tensor] = []

    class OnGpu:
        """A state on a GPU, whose copy has arrived when the device has come so far."""

        is_cuda, device = True, "cuda:1"

        def __init__(self, rows: int) -> None:
            self.rows = rows

        def to(self, device: str, non_blocking: bool) -> torch.Tensor:
            assert (device, non_blocking) == ("cpu", True)
            copy = torch.full((self.rows, 2), torch.nan)
            under_way.append(copy)
            return copy

    class Stream:
        """Of the copies that are under way when it is asked."""

        def __init__(self, device: Any) -> None:
            assert device == "cuda:1"
            self.copies = list(under_way)

        def record_event(self) -> Stream:
            return self

        def synchronize(self) -> None:
            assert threading.current_thread() is not threading.main_thread()
            for copy in self.copies:
                copy.fill_(1.0)

    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    texts, kept = [Text("a" * n) for n in range(1, 7)], list[Any]()
    fake: Any = SimpleNamespace(
        tokenize=lambda part: [{"input_ids": [0] * len(t.text)} for t in part],
        truncated=lambda part, encoded: [False] * len(part),
        info=SimpleNamespace(blocks=2, width=2),
        has_final_norm=False,
        device=torch.device("cuda:1"),
    )
    forward(
        fake,
        texts,
        lambda batch: {"state": OnGpu(len(batch))},  # type: ignore[dict-item]
        lambda here, found, cut: kept.append(found["state"]),
        batch_tokens=8,
        progress=lambda done, total: None,
    )
    assert len(under_way) > 2
    np.testing.assert_array_equal(np.concatenate(kept), np.ones((6, 2)))


def test_planes_of_a_norm() -> None:
    normed: Any = SimpleNamespace(info=SimpleNamespace(blocks=2), has_final_norm=True)
    bare: Any = SimpleNamespace(info=SimpleNamespace(blocks=2), has_final_norm=False)
    kinds = {norm: [k for k, _ in planes(normed, norm)] for norm in ("raw", "final", "hf")}
    assert kinds == {"raw": ["raw"] * 3, "final": ["final"] * 3, "hf": ["raw", "raw", "final"]}
    assert [layer for _, layer in planes(normed, "hf")] == [0, 1, 2]
    assert all(planes(bare, norm) == planes(bare, "raw") for norm in ("final", "hf"))


def view_of(model: Any, store: Store, layer: int, late: list[Any] | None = None) -> LayerView:
    def fetch(texts: Sequence[Text]) -> None:
        late.append(list(texts)) if late is not None else None
        capture(model, texts, store, batch_tokens=300)

    return LayerView(model, store, layer, name="m", revision="0", experiments=[{}], fetch=fetch)


TASK = Task("Mine", texts=list, evaluate=None)


def test_a_view_reads_and_fetches_what_is_missing(model: Any, tmp_path: Path) -> None:
    store, late = Store(tmp_path, model.identity), list[Any]()
    view = view_of(model, store, 2, late)
    found = view.encode(["a", "b", "a"], TASK)
    assert late == [[Text("a"), Text("b"), Text("a")]]
    direct = model.states(model.tokenize([Text("a"), Text("b")]))["raw", 2].numpy()
    np.testing.assert_allclose(found, direct[[0, 1, 0]], atol=1e-5)
    view.encode(["b"], TASK)
    assert len(late) == 1
    states = StoredStates(store, [Text("b"), Text("a")], planes(model, "hf"))
    assert len(states) == 4
    for device in ("cpu", "mps", "mps:0"):  # Apple's GPU has no float64
        state = StoredStates(store, [Text("a")], planes(model, "hf"), device)[1]
        assert (state.device.type, state.dtype) == ("cpu", torch.float64)
    np.testing.assert_allclose(states[2], direct[[1, 0]], atol=1e-5)


def test_a_view_notes_whether_all_states_are_the_same(tmp_path: Path) -> None:
    model = tiny.open_model(tiny.save("Bert", tmp_path / "cls"), pooling="cls")
    store = Store(tmp_path, model.identity)
    below, above = view_of(model, store, 0), view_of(model, store, 3)
    for texts in (["one", "two"], ["three"]):
        below.encode(texts, TASK)
        above.encode(texts, TASK)
    assert below.constant
    assert not above.constant
    single = view_of(model, store, 3)
    for text in ("one", "two"):  # one at a time, as some evaluators ask
        single.encode([text], TASK)
    assert not single.constant


def test_a_view_names_what_is_not_finite(model: Any, tmp_path: Path) -> None:
    store = Store(tmp_path, model.identity)
    bad = np.full((1, 32), np.nan, np.float32)
    store.write([Text("bad")], {("raw", layer): bad for layer in range(4)})
    with pytest.raises(NotFinite, match="layer 2"):
        view_of(model, store, 2).encode(["good", "bad"], TASK)
