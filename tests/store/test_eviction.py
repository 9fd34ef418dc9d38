"""A limit on the store: what was not used for longest goes, and nothing that is in use."""

from __future__ import annotations

import multiprocessing
import os
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_store import IDENTITY, folder, shards

from lrd_harness.contracts import Text
from lrd_harness.errors import StatesLost, UserError, told_to
from lrd_harness.store import eviction, location
from lrd_harness.store import store as store_module
from lrd_harness.store.store import Store

PLANE = ("raw", 0)
LONG_AGO = time.time() - 10_000_000


@pytest.fixture(autouse=True)
def anew() -> None:
    """Nothing is known of what other tests have written."""
    eviction._seen.clear()
    store_module._said.clear()


def limited(monkeypatch: pytest.MonkeyPatch, size: object) -> None:
    monkeypatch.setenv("LRD_HARNESS_CACHE_LIMIT", str(size))


def put(store: Store, name: str, width: int = 500) -> Path:
    """A text with a state of 4 * width bytes; its shard."""
    store.write([Text(name)], {PLANE: np.full((1, width), len(name), np.float32)})
    return store._where[store_module.text_key(Text(name))][0]


def total(root: Path) -> int:
    return sum(path.stat().st_size for path in root.glob("*/*.safetensors"))


def of(number: int) -> dict[str, str]:
    return {**IDENTITY, "model": f"m{number}"}


@pytest.mark.parametrize(
    ("text", "size"),
    [
        *(("", None), ("0", None), ("0GB", None), ("123", 123), ("200GB", 200 * 10**9)),
        *(("1.5 tb", 1_500_000_000_000), ("2GiB", 2**31), ("7k", 7000), ("512MiB", 2**29)),
    ],
)
def test_a_limit_is_a_size(
    text: str, size: int | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    limited(monkeypatch, text)
    assert location.limit() == size
    monkeypatch.delenv("LRD_HARNESS_CACHE_LIMIT")
    assert location.limit() is None


@pytest.mark.parametrize("text", ["much", "-1", "5 apples", "3I", "GB", "1e9"])
def test_what_is_no_size_is_refused(
    text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    limited(monkeypatch, text)
    with pytest.raises(UserError, match=f"LRD_HARNESS_CACHE_LIMIT is '{text}', not a size"):
        Store(tmp_path, IDENTITY)


def test_sizes_are_shown_in_decimal_units() -> None:
    sizes = (0, 999, 1000, 99_449, 99_950, 1_234_567_890, 10**15)
    shown = "0 B, 999 B, 1.0 kB, 99.4 kB, 100 kB, 1.2 GB, 1000.0 TB"
    assert ", ".join(map(location.shown, sizes)) == shown


Steps = st.lists(
    st.tuples(st.integers(0, 2), st.integers(1, 400), st.booleans()), min_size=1, max_size=14
)


@settings(max_examples=60, deadline=None)
@given(Steps, st.integers(2_000, 9_000))
def test_the_least_recently_used_goes_first(steps: list[tuple[int, int, bool]], limit: int) -> None:
    """After each write, files are within the limit, and those that stay were used last.

    A model of it in a few lines: a list in order of use, cut from its beginning.
    """
    with folder() as root, pytest.MonkeyPatch.context() as patch:
        limited(patch, limit)
        eviction._seen.clear()
        order: list[Path] = []
        clock = LONG_AGO
        for number, (model, width, again) in enumerate(steps):
            store = Store(root, of(model))
            if again and store._where:  # the oldest of this model is used once more
                text = min(store._where, key=lambda key: store._where[key][0].stat().st_mtime)
                used = store._where[text][0]
                assert store._sound(used)
                order.append(order.pop(order.index(used)))
            else:
                sizes = {path: path.stat().st_size for path in order}
                order.append(put(store, "x" * (number + 1), width))
                new = order[-1].stat().st_size
                while order[:-1] and sum(sizes[p] for p in order[:-1]) + new > limit:
                    del order[0]
                assert total(root) <= max(limit, new)
            assert set(root.glob("*/*.safetensors")) == set(order)
            store.close()
            for path in order:  # as if days lay between any two steps
                clock += 86_400 / 1000
                os.utime(path, (clock, clock))


def test_nothing_goes_that_is_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, lines = Store(tmp_path, of(1)), list[str]()
    read, written, unread = put(one, "read"), put(one, "written"), put(one, "unread")
    for path in (read, unread):
        os.utime(path, (LONG_AGO, LONG_AGO))
    one.close()
    one = Store(tmp_path, of(1))
    one.read([Text("read")], PLANE)
    limited(monkeypatch, 5000)
    two = Store(tmp_path, of(2))
    with told_to(lines.append):
        first = put(two, "first")
        assert not unread.exists()  # of a model in use, but not used itself
        assert read.exists()
        assert written.exists()
        second = put(two, "second")
        put(two, "third")
    assert all(path.exists() for path in (read, written, first, second))
    assert one.read([Text("read")], PLANE)[0, 0] == 4.0
    assert len(lines) == 1
    assert "above its limit of 5.0 kB (LRD_HARNESS_CACHE_LIMIT): all that is left" in lines[0]
    one.close()
    for path in (read, written):
        os.utime(path, (LONG_AGO, LONG_AGO))
    eviction._seen.clear()  # as if a second had passed
    put(two, "fourth")
    assert not read.exists()
    assert not written.exists()
    assert first.exists()


def test_what_is_foreign_is_left_alone_and_links_are_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, outside = tmp_path / "states", tmp_path / "outside"
    outside.mkdir()
    limited(monkeypatch, 3000)
    one = Store(root, of(1))
    mine = put(one, "mine")
    one.close()
    linked = outside / ("0" * 32 + ".safetensors")
    mine.replace(linked)
    mine.symlink_to(linked)
    (root / ("1" * 24)).symlink_to(outside, target_is_directory=True)
    strange = one.folder / "notes.txt"
    strange.write_bytes(b"x" * 9000)
    for path in (linked, strange):
        os.utime(path, (LONG_AGO, LONG_AGO))
    two = Store(root, of(2))
    old = put(two, "old")
    two.close()
    os.utime(old, (LONG_AGO, LONG_AGO))
    put(Store(root, of(3)), "new")
    assert not old.exists()
    assert linked.exists()
    assert mine.is_symlink()
    assert strange.exists()


def test_half_written_files_count_and_old_ones_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited(monkeypatch, 5000)
    one = Store(tmp_path, of(1))
    one.close()
    for name, used in (("tmpold.part", LONG_AGO), ("tmpnew.part", time.time())):
        (one.folder / name).write_bytes(b"x" * 2000)
        os.utime(one.folder / name, (used, used))
    put(Store(tmp_path, of(2)), "new")
    assert {path.name for path in one.folder.glob("*.part")} == {"tmpnew.part"}


def _reading(root: Path, ready: Event, stop: Event) -> None:
    """A process that reads what it has found, again and again, and never anything wrong."""
    store = Store(root, of(1))
    some = [Text("x" * (i + 1)) for i in range(5)]
    assert store.missing(some) == []
    ready.set()
    while not stop.is_set():
        assert store.read(some, PLANE)[:, 0].tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_a_reader_while_another_process_evicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path, of(1))
    mine = [put(store, "x" * (i + 1)) for i in range(9)]
    store.close()
    for path in mine:
        os.utime(path, (LONG_AGO, LONG_AGO))
    context = multiprocessing.get_context("fork")
    ready, stop = context.Event(), context.Event()
    reader = context.Process(target=_reading, args=(tmp_path, ready, stop))
    reader.start()
    assert ready.wait(30)
    limited(monkeypatch, 12_000)
    other = Store(tmp_path, of(2))
    for i in range(30):
        put(other, "y" * (i + 1))
    stop.set()
    reader.join(30)
    assert reader.exitcode == 0
    assert [path.exists() for path in mine] == [True] * 5 + [False] * 4
    reader = context.Process(target=_reading, args=(tmp_path, ready, context.Event()))
    ready.clear()
    reader.start()
    assert ready.wait(30)
    reader.kill()
    reader.join(30)
    for path in mine[:5]:
        os.utime(path, (LONG_AGO, LONG_AGO))
    eviction._seen.clear()
    put(other, "z")
    assert not any(path.exists() for path in mine)  # a killed process uses nothing


def test_a_closed_store_misses_what_was_evicted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited(monkeypatch, 3000)
    one = Store(tmp_path, of(1))
    os.utime(put(one, "a"), (LONG_AGO, LONG_AGO))
    one.close()
    put(Store(tmp_path, of(2)), "b")
    assert shards(one) == []
    with pytest.raises(StatesLost):
        one.read([Text("a")], PLANE)
    assert one.missing([Text("a")]) == [Text("a")]
