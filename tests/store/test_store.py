"""States come back as they were written, from whole files of their own model, and nothing else."""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import shutil
import stat
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save

from lrd_harness.cli import main
from lrd_harness.contracts import Text
from lrd_harness.errors import StatesLost, StorageFull, told_to
from lrd_harness.store import store as module
from lrd_harness.store.store import Store, text_key

IDENTITY = {"model": "org/one", "revision": "abcdef", "pooling": "mean"}
OTHERS = [{**IDENTITY, "model": "org/two"}, {**IDENTITY, "removed": "3"}, {"model": "org/one"}]
# all that a Python string can hold, halves of surrogate pairs among it
strings = st.text(st.characters(exclude_categories=()), max_size=6)
texts = st.builds(Text, strings, strings)
PLANES = [("raw", 0), ("raw", 1), ("final", 1), ("raw", 10)]
A, B, C = (Text(c) for c in "abc")
Patch = pytest.MonkeyPatch


@pytest.fixture(autouse=True)
def anew() -> None:
    """Nothing was said yet."""
    module._reported.clear()


def states(count: int, seed: int = 0) -> dict[tuple[str, int], np.ndarray]:
    """Random planes, of another width at each layer."""
    draw = np.random.default_rng(seed)
    return {p: draw.normal(size=(count, 3 + p[1])).astype(np.float32) for p in PLANES}


def filled(root: Path, some: list[Text], seed: int = 0, identity: Any = IDENTITY) -> Path:
    """A new file of the store of an identity."""
    store = Store(root, identity)
    before = set(store.folder.glob("*.safetensors"))
    store.write(some, states(len(some), seed), [True] + [False] * (len(some) - 1))
    (path,) = set(store.folder.glob("*.safetensors")) - before
    return path


def check(store: Store, some: list[Text], of: dict[tuple[str, int], np.ndarray]) -> None:
    """That all planes of these texts are the first rows of these."""
    for plane in PLANES:
        np.testing.assert_array_equal(store.read(some, plane), of[plane][: len(some)])


@settings(max_examples=10, deadline=None)
@given(st.lists(st.lists(texts, min_size=1, max_size=4, unique=True), max_size=4), st.data())
def test_round_trip(written: list[list[Text]], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        store = Store(root, IDENTITY)
        expected: dict[Text, dict[tuple[str, int], np.ndarray]] = {}
        for seed, some in enumerate(written):
            planes = states(len(some), seed)
            store.write(some, planes)
            rows = [{plane: block[i] for plane, block in planes.items()} for i in range(len(some))]
            expected |= dict(zip(some, rows, strict=True))
        order = data.draw(st.lists(st.sampled_from(list(expected)))) if expected else []
        for reader in (store, Store(root, IDENTITY)):
            assert (reader.discarded, reader.missing([*expected, *expected])) == ([], [])
            for plane in PLANES:
                block = reader.read(order, plane)
                assert (block.dtype, len(block)) == (np.float32, len(order))
                for row, text in zip(block, order, strict=True):
                    np.testing.assert_array_equal(row, expected[text][plane])


@settings(max_examples=100, deadline=None)
@given(texts, texts)
def test_keys_are_of_prompt_and_text(a: Text, b: Text) -> None:
    assert (text_key(a) == text_key(b)) == (a == b)
    split = [Text("abc"[i:], "abc"[:i]) for i in range(4)]
    split += [Text("2\0ab", ""), Text("b", "2\0a"), Text("\0abc"), Text("abc", "0\0")]
    assert len({text_key(t) for t in split}) == len(split)


def test_missing_ones_are_named_once_in_order_and_truncated_ones_remembered(tmp_path: Path) -> None:
    store, other = Store(tmp_path, IDENTITY), Store(tmp_path, IDENTITY)
    store.write([A, B, C], states(3), [True, False, True])
    assert other.missing([A]) == [A]
    other.refresh()
    for reader in (store, other, Store(tmp_path, IDENTITY)):
        assert reader.missing([Text(c) for c in "dbedca"]) == [Text("d"), Text("e")]
        assert reader.truncated([A, B, C, A, B, C]) == 2
        assert reader.truncated([B, Text("nowhere")]) == 0
        for some, plane in (([B, Text("d")], ("raw", 0)), ([B], ("raw", 7))):
            with pytest.raises(KeyError):
                reader.read(some, plane)
        assert reader.read([], ("raw", 0)).shape[0] == 0
        check(reader, [A, B, C], states(3))


@pytest.mark.parametrize("other", OTHERS)
def test_a_copied_file_is_left_alone_and_its_texts_are_read(other: Any, tmp_path: Path) -> None:
    theirs, lines = filled(tmp_path, [A, B], 2, other), list[str]()
    mine = Store(tmp_path, IDENTITY)
    copied = Path(shutil.copy2(theirs, mine.folder))
    with told_to(lines.append):
        for store in (mine, Store(tmp_path, dict(reversed(IDENTITY.items())))):
            store.refresh()
            assert (store.missing([A]), store.discarded) == ([A], [])
    (line,) = lines
    assert f"with states of {other['model']}, which belong into {theirs.parent.name}" in line
    mine.write([A], states(1))
    for store in (mine, Store(tmp_path, IDENTITY)):
        check(store, [A], states(1))
    assert copied.exists()
    assert Store(tmp_path, other).missing([A, B]) == []


def test_a_folder_under_the_name_of_another(tmp_path: Path) -> None:
    """As in a cache that was restored by hand; identity.json comes back as it must be."""
    theirs, mine = filled(tmp_path, [A], 0, OTHERS[0]), Store(tmp_path, IDENTITY)
    file = mine.folder / "identity.json"
    before = file.read_bytes()
    for damage in (b"", b"{", b"\xff"):
        file.write_bytes(damage)
        Store(tmp_path, IDENTITY)
        assert file.read_bytes() == before
    shutil.rmtree(mine.folder)
    theirs.parent.rename(mine.folder)
    assert Store(tmp_path, IDENTITY).missing([A]) == [A]
    assert file.read_bytes() == before


def described_before(path: Path, identity: bool) -> Path:
    """The same file, as versions before described it, with or without an identity."""
    with safe_open(path, framework="numpy") as file:
        about = json.loads(file.metadata()["lrd-harness"])
    old = {n: json.dumps(about[n]) for n in ("texts", "truncated")}
    content = save(load_file(path), old | ({"identity": about["identity"]} if identity else {}))
    path.unlink()
    old_path = path.with_name(hashlib.sha256(content).hexdigest()[:32] + ".safetensors")
    old_path.write_bytes(content)
    return old_path


def test_files_of_earlier_versions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Patch
) -> None:
    """Ordinary safetensors files; those that do not say whose they are count as missing."""
    monkeypatch.setenv("LRD_HARNESS_CACHE", str(tmp_path))
    root, lines = tmp_path / "states", list[str]()
    path = filled(root, [A, B])
    for (kind, layer), block in states(2).items():
        np.testing.assert_array_equal(load_file(path)[f"{kind}.{layer}"], block)
    old = described_before(path, identity=False)
    with told_to(lines.append):
        again = Store(root, IDENTITY)
    assert (again.missing([A]), again.discarded, old.exists()) == ([A], [], True)
    assert "1 file in the store not read, with states that do not say whose they are" in lines[0]
    mine = described_before(filled(root, [A, B]), identity=True)
    again = Store(root, IDENTITY)
    assert (again.missing([A, B]), again.truncated([A, B])) == ([], 1)
    check(again, [A, B], states(2))

    theirs = filled(root, [A, B], 2, OTHERS[0])
    copied = Path(shutil.copy2(theirs, mine.parent))
    capsys.readouterr()
    assert main(["cache", "verify"]) == 1
    shown = capsys.readouterr().out
    where = f"states of org/two, which belong into {theirs.parent.name} (org/one@abcdef)"
    assert f"{copied.relative_to(tmp_path)}: {where}\n" in shown
    assert f"{old.name}: states that do not say whose they are" in shown
    assert "4 files of states" in shown
    assert main(["cache", "info"]) == 0
    shown = capsys.readouterr().out
    assert [line.split()[1] for line in shown.splitlines() if "org/" in line] == ["2", "2"]
    assert main(["cache", "verify", "--repair"]) == 0
    assert [p.exists() for p in (copied, old, mine, theirs)] == [False, False, True, True]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda content: content[:-1],
    "flipped": lambda content: content[:-3] + bytes([content[-3] ^ 1]) + content[-2:],
    "empty": lambda content: b"",
    "foreign": lambda content: b"something else entirely",
    "renamed": lambda content: content,
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_files_are_discarded_and_said_so(kind: str, tmp_path: Path) -> None:
    bad, good = filled(tmp_path, [A]), filled(tmp_path, [B, C], 1)
    if kind == "renamed":
        bad = bad.rename(bad.with_name("0" * 32 + ".safetensors"))
    bad.write_bytes(DAMAGE[kind](bad.read_bytes()))
    lines = list[str]()
    with told_to(lines.append):
        again = Store(tmp_path, IDENTITY)
        assert again.missing([A, B, C]) == [A]
    assert lines == [f"org/one: a damaged file of the store was discarded: {bad.name}"]
    assert (again.discarded, [*again.folder.glob("*.safetensors")]) == ([bad.name], [good])
    check(again, [B, C], states(2, seed=1))
    again.write([A], states(1))
    assert Store(tmp_path, IDENTITY).discarded == []


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_a_file_changed_anywhere_is_no_reason_to_fail(data: st.DataObject) -> None:
    """Whatever a file is, it is read as it was written or not at all."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        path = filled(root, [A, B])
        content = bytearray(path.read_bytes())
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content[: data.draw(st.sampled_from([None, at, -at or None]))])
        again = Store(root, IDENTITY)
        assert again.missing([A, B]) == [A, B]
        assert not (again.discarded and path.exists())
        again.write([A, B], states(2))
        check(again, [A, B], states(2))


def test_a_file_under_the_name_of_another_or_of_something_else(tmp_path: Path) -> None:
    """Its texts are in two places; whichever is asked, nothing wrong is read."""
    bad, good = filled(tmp_path, [A], 1), filled(tmp_path, [B, C])
    bad.write_bytes(good.read_bytes())
    again = Store(tmp_path, IDENTITY)
    absent = again.missing([B, C, A])
    assert absent in ([A], [B, C, A])
    assert again.discarded == [bad.name] * (len(absent) > 1)
    content = b"\0" * 100  # the checksum is right, the content is not ours
    name = hashlib.sha256(content).hexdigest()[:32] + ".safetensors"
    (again.folder / name).write_bytes(content)
    again = Store(tmp_path, IDENTITY)
    assert name in again.discarded
    assert again.missing([B, C, A]) == [A]
    check(again, [B, C], states(2))


@pytest.mark.parametrize("kind", ["raw.0 F8_E4M3 1", "raw.0 BF16 2", "states F32 4", "raw. F32 4"])
def test_a_plane_that_the_store_would_not_write_is_no_damage(kind: str, tmp_path: Path) -> None:
    name, dtype, size = kind.split()
    plane = {"dtype": dtype, "shape": [1, 8], "data_offsets": [0, 8 * int(size)]}
    for identity in (IDENTITY, OTHERS[0]):
        about = {"identity": module.described(identity), "texts": [text_key(A)], "truncated": []}
        head = json.dumps({"__metadata__": {module.ABOUT: json.dumps(about)}, name: plane}).encode()
        content = len(head).to_bytes(8, "little") + head + bytes(8 * int(size))
        (Store(tmp_path, IDENTITY).folder / f"{len(head)}.safetensors").write_bytes(content)
        assert Store(tmp_path, IDENTITY).discarded == []


def test_a_header_that_was_read_of_another_file_is_not_gone_by(tmp_path: Path) -> None:
    """The name and the content are right, and rows and texts were noted of what was there."""
    path = filled(tmp_path, [A, B])
    sound = path.read_bytes()
    path.write_bytes(sound.replace(*(text_key(t).encode() for t in (A, C))))
    early = Store(tmp_path, IDENTITY)
    path.write_bytes(sound)
    assert early.missing([C, B]) == [C, B]
    early.refresh()
    assert early.missing([A, B, C]) == [C]
    check(early, [A, B], states(2))


def test_a_file_is_verified_once_and_only_if_it_is_asked_for(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    first, _ = filled(tmp_path, [A]), filled(tmp_path, [B], 1)
    intact, verified = module.intact, list[Path]()
    monkeypatch.setattr(module, "intact", lambda path: verified.append(path) or intact(path))  # type: ignore[func-returns-value]
    store = Store(tmp_path, IDENTITY)
    assert verified == []
    for _ in range(3):
        assert store.missing([A, C]) == [C]
        store.read([A], ("raw", 0))
    assert verified == [first]


def test_a_file_that_is_damaged_or_goes_under_a_running_process(tmp_path: Path) -> None:
    bad, first = filled(tmp_path, [A, B]), filled(tmp_path, [C], 1)
    store = Store(tmp_path, IDENTITY)
    bad.write_bytes(DAMAGE["flipped"](bad.read_bytes()))
    with pytest.raises(StatesLost, match="were in the store and are damaged or gone"):
        store.read([B], ("raw", 0))
    assert (store.discarded, store.truncated([A])) == ([bad.name], 0)
    assert store.missing([A, B]) == [A, B]
    store.write([A, B], states(2), [True, False])
    check(store, [A, B], states(2))
    first.unlink()
    for some in ([A, C], [C]):
        with pytest.raises(StatesLost, match="the same command reads the texts again"):
            store.read(some, ("raw", 1))
    with pytest.raises(KeyError):
        store.read([Text("never there")], ("raw", 1))
    bad.unlink()
    assert store.missing([A, B, C]) == [A, B, C]  # seen without a read
    shutil.rmtree(store.folder)
    store.write([A, B], states(2))
    check(store, [A, B], states(2))
    assert (store.folder / "identity.json").is_file()
    assert store.discarded == [bad.name]


def test_a_file_that_is_cut_as_it_is_read(tmp_path: Path, monkeypatch: Patch) -> None:
    path = filled(tmp_path, [A, B])
    store = Store(tmp_path, IDENTITY)
    assert store.missing([A]) == []
    path.write_bytes(path.read_bytes()[:-100])
    monkeypatch.setattr(Store, "_sound", lambda *_: True)  # as it was just now
    with pytest.raises(StatesLost):
        store.read([A, B], ("raw", 10))


def test_one_that_is_damaged_and_cannot_be_removed(tmp_path: Path, monkeypatch: Patch) -> None:
    """As on a file system that is read-only now: it is not read from, nor found again."""
    bad = filled(tmp_path, [A])
    store = Store(tmp_path, IDENTITY)
    bad.write_bytes(bad.read_bytes()[:-1])

    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        for _ in range(2):
            assert store.missing([A]) == [A]
            store.refresh()
    assert store.discarded == [bad.name]
    store.write([A], states(1), [True])  # the same content, and so in its place
    assert store.missing([A]) == []


def test_what_cannot_be_opened_now_is_not_thrown_away(tmp_path: Path, monkeypatch: Patch) -> None:
    filled(tmp_path, [A])
    opening = Path.open

    def refuse(self: Path, *args: Any, **keywords: Any) -> object:
        if self.suffix == ".safetensors":
            raise OSError("stale handle")
        return opening(self, *args, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        blind = Store(tmp_path, IDENTITY)
        assert blind.missing([A]) == [A]
    blind.refresh()
    assert blind.missing([A]) == []


def test_a_full_disk_leaves_nothing_that_counts(tmp_path: Path, monkeypatch: Patch) -> None:
    path = filled(tmp_path, [A])
    again = Store(tmp_path, IDENTITY)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("lrd_harness.store.store.os.fsync", full)
    with pytest.raises(StorageFull, match="no space left on the disk or in the quota of"):
        again.write([B], states(1))
    assert again.missing([A, B]) == [B]
    assert sorted(p.name for p in again.folder.iterdir()) == sorted([path.name, "identity.json"])


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_views_of_arrays_are_written_whole_by_the_umask(umask: int, tmp_path: Path) -> None:
    """Not contiguous, as a slice of a batch may be."""
    store, block = Store(tmp_path, IDENTITY), np.arange(24, dtype=np.float32).reshape(4, 6)
    before = os.umask(umask)
    try:
        store.write([A, B], {("raw", 0): block[::2, ::-1]})
    finally:
        os.umask(before)
    np.testing.assert_array_equal(store.read([B], ("raw", 0))[0], block[2, ::-1])
    (path,) = store.folder.glob("*.safetensors")
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_reading_takes_memory_for_the_rows_alone(tmp_path: Path) -> None:
    """Of a large file a few rows at one plane; of writing, the names of texts and no copy."""
    store, count = Store(tmp_path, IDENTITY), 2000
    some = [Text(str(i)) for i in range(count)]
    block = np.zeros((count, 1000), np.float32)
    store.write(some, {("raw", layer): block + layer for layer in range(4)})  # 32 MB
    again = Store(tmp_path, IDENTITY)
    again.missing(some)
    tracemalloc.start()
    rows = again.read([some[1700], some[1999]], ("raw", 3))
    again.write([Text(f"{i} b") for i in range(count)], {("raw", 0): block, ("raw", 1): block})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert rows.tolist() == [[3.0] * 1000] * 2
    assert peak < block.nbytes / 4


def _writing(root: Path, number: int, rounds: int) -> None:
    """A process that writes what it finds missing, and reads all of it back."""
    for i in range(rounds):
        some = [Text(str(row)) for row in range(4 * (i + 1))]
        store = Store(root, IDENTITY)
        missing = store.missing(some)
        if missing:
            # another second column in each process, as rounding may be another
            block = np.array([[int(text.text), number] for text in missing], np.float32)
            store.write(missing, {("raw", 0): block})
        store.refresh()
        assert store.read(some, ("raw", 0))[:, 0].tolist() == list(range(len(some)))
        assert store.discarded == []


def test_processes_that_write_the_same_texts_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    several = [context.Process(target=_writing, args=(tmp_path, i, 10)) for i in range(3)]
    for process in several:
        process.start()
    for process in several:
        process.join(60)
    assert [process.exitcode for process in several] == [0, 0, 0]
    rows = Store(tmp_path, IDENTITY).read([Text(str(i)) for i in range(40)], ("raw", 0))
    assert rows[:, 0].tolist() == list(range(40))
    assert set(rows[:, 1]) <= {0.0, 1.0, 2.0}


def test_planes_that_do_not_fit_their_texts_are_not_written(tmp_path: Path) -> None:
    store = Store(tmp_path, IDENTITY)
    with pytest.raises(ValueError, match="a row for each text"):
        store.write([A, B], states(3))
    assert [path.name for path in store.folder.iterdir()] == ["identity.json"]
