"""States come back as they were written, and nothing else ever does."""

from __future__ import annotations

import errno
import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrd_harness.contracts import Text
from lrd_harness.errors import StatesLost, StorageFull
from lrd_harness.store import store as module
from lrd_harness.store.store import Store, text_key

IDENTITY = {"model": "m", "pooling": "mean"}
# all that a Python string can hold, halves of surrogate pairs among it
strings = st.text(st.characters(exclude_categories=()), max_size=6)
texts = st.builds(Text, strings, strings)
PLANES = [("raw", 0), ("raw", 1), ("final", 1), ("raw", 10)]


def states(count: int, seed: int = 0) -> dict[tuple[str, int], np.ndarray]:
    """Random planes, of another width at each layer."""
    draw = np.random.default_rng(seed)
    return {p: draw.normal(size=(count, 3 + p[1])).astype(np.float32) for p in PLANES}


@contextmanager
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp())
    try:
        yield made
    finally:
        shutil.rmtree(made)


def shards(store: Store) -> list[Path]:
    return sorted(store.folder.glob("*.safetensors"))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(texts, min_size=1, max_size=4, unique=True), max_size=4), st.data())
def test_round_trip(written: list[list[Text]], data: st.DataObject) -> None:
    with folder() as root:
        store = Store(root, IDENTITY)
        expected: dict[Text, dict[tuple[str, int], np.ndarray]] = {}
        for seed, some in enumerate(written):
            fresh = store.missing(some)
            assert fresh == [t for t in some if t not in expected]
            if fresh:
                planes = states(len(fresh), seed)
                store.write(fresh, planes)
                for row, text in enumerate(fresh):
                    expected[text] = {p: block[row] for p, block in planes.items()}
        asked = data.draw(st.lists(st.sampled_from(list(expected)), max_size=9)) if expected else []
        for reader in (store, Store(root, IDENTITY)):
            assert reader.discarded == []
            assert reader.missing([*expected, *expected]) == []
            for plane in PLANES:
                found = reader.read(asked, plane)
                assert found.dtype == np.float32
                assert len(found) == len(asked)
                for row, text in zip(found, asked, strict=True):
                    np.testing.assert_array_equal(row, expected[text][plane])


@settings(max_examples=200, deadline=None)
@given(texts, texts)
def test_keys_are_of_prompt_and_text(a: Text, b: Text) -> None:
    assert (text_key(a) == text_key(b)) == (a == b)


def test_prompt_and_text_do_not_run_into_each_other() -> None:
    split = [Text("abc"[i:], "abc"[:i]) for i in range(4)]
    split += [Text("2\0ab", ""), Text("b", "2\0a"), Text("\0abc"), Text("abc", "0\0")]
    assert len({text_key(t) for t in split}) == len(split)


def test_missing_ones_are_named_once_and_in_order(tmp_path: Path) -> None:
    store = Store(tmp_path, IDENTITY)
    store.write([Text("b")], states(1))
    asked = [Text(c) for c in "dbadca"]
    assert store.missing(asked) == [Text("d"), Text("a"), Text("c")]
    with pytest.raises(KeyError):
        store.read([Text("b"), Text("a")], ("raw", 0))
    assert store.read([], ("raw", 0)).shape[0] == 0


def test_truncated_ones_are_remembered(tmp_path: Path) -> None:
    store = Store(tmp_path, IDENTITY)
    some = [Text(c) for c in "abc"]
    store.write(some, states(3), [True, False, True])
    again = Store(tmp_path, IDENTITY)
    for reader in (store, again):
        assert reader.truncated([*some, *some]) == 2
        assert reader.truncated([Text("b"), Text("nowhere")]) == 0


def test_two_at_once(tmp_path: Path) -> None:
    one, two = Store(tmp_path, IDENTITY), Store(tmp_path, IDENTITY)
    one.write([Text("a"), Text("b")], states(2))
    assert two.missing([Text("a")]) == [Text("a")]
    two.refresh()
    assert two.missing([Text("a")]) == []
    np.testing.assert_array_equal(two.read([Text("b")], ("raw", 1))[0], states(2)["raw", 1][1])
    two.write([Text("b"), Text("c")], states(2))  # both forwarded it: either will do
    one.refresh()
    assert one.missing([Text(c) for c in "abc"]) == []


def test_another_identity_is_another_folder(tmp_path: Path) -> None:
    one = Store(tmp_path, IDENTITY)
    one.write([Text("a")], states(1))
    for other in ({**IDENTITY, "pooling": "cls"}, {"model": "m"}, {**IDENTITY, "dtype": "x"}):
        assert Store(tmp_path, other).missing([Text("a")]) == [Text("a")]
    turned = dict(reversed(IDENTITY.items()))
    assert Store(tmp_path, turned).missing([Text("a")]) == []
    assert '"pooling": "mean"' in (one.folder / "identity.json").read_text()


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "foreign", "renamed"])
def test_damaged_shards_are_discarded_and_said_so(damage: str, tmp_path: Path) -> None:
    store = Store(tmp_path, IDENTITY)
    store.write([Text("a")], states(1))
    store.write([Text("b"), Text("c")], states(2, seed=1))
    bad = next(p for p in shards(store) if p == store._where[text_key(Text("a"))][0])
    good = next(p for p in shards(store) if p != bad)
    content = bad.read_bytes()
    if damage == "cut":
        bad.write_bytes(content[:-1])
    elif damage == "flipped":
        bad.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    elif damage == "empty":
        bad.write_bytes(b"")
    elif damage == "foreign":
        bad.write_bytes(b"something else entirely")
    else:
        bad = bad.rename(bad.with_name("0" * 32 + ".safetensors"))
    again = Store(tmp_path, IDENTITY)
    absent = again.missing([Text(c) for c in "abc"])
    assert again.discarded == [bad.name]
    assert shards(again) == [good]
    assert absent == [Text("a")]
    np.testing.assert_array_equal(
        again.read([Text("c")], ("final", 1))[0], states(2, seed=1)["final", 1][1]
    )
    again.write([Text("a")], states(1))
    assert Store(tmp_path, IDENTITY).discarded == []


def test_a_shard_under_the_name_of_another(tmp_path: Path) -> None:
    """Its texts are in two places; whichever is asked, nothing wrong is read."""
    store = Store(tmp_path, IDENTITY)
    some, planes = [Text("b"), Text("c")], states(2)
    store.write([Text("a")], states(1, seed=1))
    (bad,) = shards(store)
    store.write(some, planes)
    (good,) = set(shards(store)) - {bad}
    bad.write_bytes(good.read_bytes())
    again = Store(tmp_path, IDENTITY)
    absent = again.missing([*some, Text("a")])
    assert absent in ([Text("a")], [*some, Text("a")])
    assert again.discarded == [bad.name] * (len(absent) > 1)
    again = Store(tmp_path, IDENTITY)
    assert again.missing([*some, Text("a")]) == [Text("a")]
    np.testing.assert_array_equal(again.read(some, ("raw", 1)), planes["raw", 1])


def test_a_shard_is_verified_once_and_only_if_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = Store(tmp_path, IDENTITY)
    written.write([Text("a")], states(1))
    written.write([Text("b")], states(1, seed=1))
    real, verified = module.intact, list[Path]()

    def intact(path: Path) -> bool:
        verified.append(path)
        return real(path)

    monkeypatch.setattr(module, "intact", intact)
    assert written.missing([Text("a")]) == []
    store = Store(tmp_path, IDENTITY)
    assert verified == []
    for _ in range(3):
        assert store.missing([Text("a"), Text("c")]) == [Text("c")]
        store.read([Text("a")], ("raw", 0))
    assert verified == [written._where[text_key(Text("a"))][0]]


def test_a_damaged_shard_is_not_read_from(tmp_path: Path) -> None:
    Store(tmp_path, IDENTITY).write([Text("a"), Text("b")], states(2), [True, False])
    store = Store(tmp_path, IDENTITY)
    (bad,) = shards(store)
    content = bad.read_bytes()
    bad.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(StatesLost, match="were in the store and are damaged or gone"):
        store.read([Text("b")], ("raw", 0))
    assert store.discarded == [bad.name]
    assert store.missing([Text("a"), Text("b")]) == [Text("a"), Text("b")]
    assert store.truncated([Text("a")]) == 0
    store.write([Text("a"), Text("b")], states(2))
    np.testing.assert_array_equal(store.read([Text("b")], ("raw", 0))[0], states(2)["raw", 0][1])


def test_whole_by_its_name_but_no_shard(tmp_path: Path) -> None:
    """The checksum is right, the content is not ours."""
    store = Store(tmp_path, IDENTITY)
    content = b"\0" * 100
    name = hashlib.sha256(content).hexdigest()[:32] + ".safetensors"
    (store.folder / name).write_bytes(content)
    assert Store(tmp_path, IDENTITY).discarded == [name]


def test_what_cannot_be_opened_now_is_not_thrown_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path, IDENTITY)
    store.write([Text("a")], states(1))
    real = Path.open

    def refuse(self: Path, *args: Any, **keywords: Any) -> object:
        if self.suffix == ".safetensors":
            raise OSError("stale handle")
        return real(self, *args, **keywords)

    monkeypatch.setattr(Path, "open", refuse)
    blind = Store(tmp_path, IDENTITY)
    assert blind.missing([Text("a")]) == [Text("a")]
    monkeypatch.undo()
    blind.refresh()
    assert blind.missing([Text("a")]) == []


def test_a_killed_writer_leaves_nothing_that_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path, IDENTITY)
    store.write([Text("a")], states(1))
    (store.folder / "tmpabc.part").write_bytes(shards(store)[0].read_bytes()[:50])
    again = Store(tmp_path, IDENTITY)
    assert again.discarded == []
    assert again.missing([Text("a"), Text("b")]) == [Text("b")]

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("lrd_harness.store.store.os.fsync", full)
    with pytest.raises(StorageFull, match="no space left on the disk or in the quota of"):
        again.write([Text("b")], states(1))
    assert again.missing([Text("b")]) == [Text("b")]
    assert len(list(again.folder.glob("*.part"))) == 1  # the killed one's, none of our own


def test_views_of_other_arrays_are_written_whole(tmp_path: Path) -> None:
    """Not contiguous, as a slice of a batch may be."""
    store = Store(tmp_path, IDENTITY)
    block = np.arange(24, dtype=np.float32).reshape(4, 6)
    store.write([Text("a"), Text("b")], {("raw", 0): block[::2, ::-1]})
    np.testing.assert_array_equal(store.read([Text("b")], ("raw", 0))[0], block[2, ::-1])
