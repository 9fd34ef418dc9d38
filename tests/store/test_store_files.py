"""The files of a store: their form, what memory they take, what happens when they go or change."""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file
from test_store import IDENTITY, folder, shards, states

from lrd_harness.contracts import Text
from lrd_harness.errors import StatesLost, told_to
from lrd_harness.store.store import Store, text_key


def test_a_shard_is_an_ordinary_safetensors_file(tmp_path: Path) -> None:
    """The library reads what is written, and what it writes itself is read."""
    store = Store(tmp_path, IDENTITY)
    some, planes = [Text("a"), Text("b")], states(2)
    mixed = {**planes, ("row", 0): np.arange(6.0).reshape(2, 3)}
    store.write(some, mixed, [False, True])
    (path,) = shards(store)
    found = load_file(path)
    assert set(found) == {f"{kind}.{layer}" for kind, layer in mixed}
    for (kind, layer), block in mixed.items():
        np.testing.assert_array_equal(found[f"{kind}.{layer}"], block)
    with safe_open(path, framework="numpy") as file:
        about = json.loads(file.metadata()["lrd-harness"])
    old = {k: v if isinstance(v, str) else json.dumps(v) for k, v in about.items()}
    content = safetensors.numpy.save(found, old)  # as versions before described it
    path.unlink()
    name = hashlib.sha256(content).hexdigest()[:32] + ".safetensors"
    (store.folder / name).write_bytes(content)
    again = Store(tmp_path, IDENTITY)
    assert again.missing(some) == []
    assert again.truncated(some) == 1
    np.testing.assert_array_equal(again.read(some[::-1], ("row", 0)), mixed["row", 0][::-1])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_header_changed_anywhere_is_no_reason_to_fail(data: st.DataObject) -> None:
    """Whatever a file is, it is read as it was written or not at all."""
    with folder() as root:
        store = Store(root, IDENTITY)
        some, planes = [Text("a"), Text("b")], states(2)
        store.write(some, planes)
        (path,) = shards(store)
        content = bytearray(path.read_bytes())
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content[: data.draw(st.sampled_from([None, at, -at or None]))])
        again = Store(root, IDENTITY)
        assert again.missing(some) == some
        assert not again.discarded or shards(again) == []
        again.write(some, planes)
        np.testing.assert_array_equal(again.read(some, ("raw", 1)), planes["raw", 1])


def test_reading_takes_memory_for_the_rows_alone(tmp_path: Path) -> None:
    """Of a large shard a few rows at one plane; of many shards one after the other."""
    store, count = Store(tmp_path, IDENTITY), 2000
    some = [Text(str(i)) for i in range(count)]
    block = np.zeros((count, 1000), np.float32)
    store.write(some, {("raw", layer): block + layer for layer in range(4)})  # 32 MB
    again = Store(tmp_path, IDENTITY)
    again.missing(some)
    tracemalloc.start()
    rows = again.read([some[1700], some[1999]], ("raw", 3))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert rows.tolist() == [[3.0] * 1000] * 2
    assert peak < block.nbytes / 4
    tracemalloc.start()
    again.write([Text(f"{i} b") for i in range(count)], {("raw", 0): block, ("raw", 1): block})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < block.nbytes / 4  # the names of texts, and no copy of a plane


def test_a_shard_that_goes_under_a_running_process(tmp_path: Path) -> None:
    store = Store(tmp_path, IDENTITY)
    some, planes = [Text("a"), Text("b")], states(2)
    store.write(some, planes, [True, False])
    store.write([Text("c")], states(1, seed=1))
    first = store._where[text_key(some[0])][0]
    first.unlink()
    with pytest.raises(StatesLost, match="the same command reads the texts again"):
        store.read([Text("c"), *some], ("raw", 1))
    with pytest.raises(StatesLost):
        store.read(some, ("raw", 1))
    with pytest.raises(KeyError):
        store.read([Text("never there")], ("raw", 1))
    assert store.missing([*some, Text("c")]) == some
    store.write(some, planes, [True, False])
    first.unlink()
    assert store.missing([*some, Text("c")]) == some  # seen without a read
    shutil.rmtree(store.folder)
    assert store.missing([Text("c")]) == [Text("c")]
    store.write(some, planes)
    np.testing.assert_array_equal(store.read(some, ("raw", 1)), planes["raw", 1])
    assert (store.folder / "identity.json").is_file()
    assert store.discarded == []


def test_a_damaged_shard_is_named_to_the_user(tmp_path: Path) -> None:
    Store(tmp_path, IDENTITY).write([Text("a")], states(1))
    store, lines = Store(tmp_path, IDENTITY), list[str]()
    (bad,) = shards(store)
    bad.write_bytes(bad.read_bytes()[:-1])
    with told_to(lines.append):
        assert store.missing([Text("a")]) == [Text("a")]
    assert lines == [f"m: a damaged file of the store was discarded: {bad.name}"]


def test_one_that_is_damaged_and_cannot_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a file system that is read-only now: it is not read from, nor found again."""
    Store(tmp_path, IDENTITY).write([Text("a")], states(1))
    store = Store(tmp_path, IDENTITY)
    (bad,) = shards(store)
    bad.write_bytes(bad.read_bytes()[:-1])

    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        for _ in range(2):
            assert store.missing([Text("a")]) == [Text("a")]
            store.refresh()
    assert store.discarded == [bad.name]
    store.write([Text("a")], states(1))  # the same content, and so in its place
    assert store.missing([Text("a")]) == []


def test_identity_json_is_mended(tmp_path: Path) -> None:
    file = Store(tmp_path, IDENTITY).folder / "identity.json"
    before = file.read_bytes()
    for damage in (b"", b"{", b"\xff"):
        file.write_bytes(damage)
        Store(tmp_path, IDENTITY)
        assert file.read_bytes() == before


def _writing(root: Path, number: int, rounds: int) -> None:
    """A process that writes what it finds missing, and reads all of it back."""
    some = [Text(str(i)) for i in range(40)]
    planes = {("raw", 0): np.arange(40, dtype=np.float32).reshape(40, 1)}
    for i in range(rounds):
        store = Store(root, IDENTITY)
        missing = store.missing(some[: 4 * (i + 1)])
        rows = [int(text.text) for text in missing]
        if missing:
            # another second column in each process, as rounding may be another
            block = np.hstack([planes["raw", 0][rows], np.full((len(rows), 1), number)])
            store.write(missing, {("raw", 0): block.astype(np.float32)})
        store.refresh()
        found = store.read(some[: 4 * (i + 1)], ("raw", 0))
        assert found[:, 0].tolist() == list(range(4 * (i + 1)))
        assert store.discarded == []


def test_processes_that_write_the_same_texts_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    several = [context.Process(target=_writing, args=(tmp_path, i, 10)) for i in range(3)]
    for process in several:
        process.start()
    for process in several:
        process.join(60)
    assert [process.exitcode for process in several] == [0, 0, 0]
    store = Store(tmp_path, IDENTITY)
    some = [Text(str(i)) for i in range(40)]
    assert store.missing(some) == []
    found = store.read(some, ("raw", 0))
    assert found[:, 0].tolist() == list(range(40))
    assert set(found[:, 1]) <= {0.0, 1.0, 2.0}
    assert list(store.folder.glob("*.part")) == []
