"""States are read by the model whose they are, whatever folder their file was copied to."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save

from lrd_harness.cli import main
from lrd_harness.contracts import Text
from lrd_harness.errors import told_to
from lrd_harness.store import store as store_module
from lrd_harness.store.store import Store

PLANE = ("raw", 0)
ONE = {"model": "org/one", "revision": "abcdef", "pooling": "mean"}
OTHERS = [
    {**ONE, "model": "org/two"},
    {**ONE, "revision": "fedcba"},
    {**ONE, "pooling": "cls"},
    {**ONE, "removed": "3"},
]


@pytest.fixture(autouse=True)
def anew() -> None:
    """Nothing was said yet."""
    store_module._told.clear()


def filled(root: Path, identity: dict[str, str], value: float) -> Store:
    store = Store(root, identity)
    store.write([Text("a"), Text("b")], {PLANE: np.full((2, 3), value, np.float32)})
    return store


def shards(store: Store) -> list[Path]:
    return sorted(store.folder.glob("*.safetensors"))


@pytest.mark.parametrize("other", OTHERS)
def test_a_copied_file_is_left_alone_and_its_texts_are_read(
    other: dict[str, str], tmp_path: Path
) -> None:
    theirs, lines = filled(tmp_path, other, 2.0), list[str]()
    mine = Store(tmp_path, ONE)
    (copied,) = (Path(shutil.copy2(path, mine.folder)) for path in shards(theirs))
    with told_to(lines.append):
        for store in (mine, Store(tmp_path, ONE)):
            store.refresh()
            assert store.missing([Text("a")]) == [Text("a")]
            assert store.discarded == []
    (line,) = lines
    assert f"with states of {other['model']}, which belong into {theirs.folder.name}" in line
    mine.write([Text("a")], {PLANE: np.ones((1, 3), np.float32)})
    for store in (mine, Store(tmp_path, ONE)):
        assert store.read([Text("a")], PLANE).tolist() == [[1.0] * 3]
    assert copied.exists()
    again = Store(tmp_path, other)
    assert again.read([Text("b")], PLANE).tolist() == [[2.0] * 3]


def test_a_folder_under_the_name_of_another(tmp_path: Path) -> None:
    """As in a cache that was restored by hand; identity.json comes back as it must be."""
    theirs, mine = filled(tmp_path, OTHERS[0], 2.0), Store(tmp_path, ONE)
    shutil.rmtree(mine.folder)
    theirs.folder.rename(mine.folder)
    assert Store(tmp_path, ONE).missing([Text("a")]) == [Text("a")]


def without_identity(path: Path) -> Path:
    """The same file, as versions wrote it that noted no identity."""
    with safe_open(path, framework="numpy") as file:
        about = json.loads(file.metadata()["lrd-harness"])
    content = save(load_file(path), {n: json.dumps(about[n]) for n in ("texts", "truncated")})
    path.unlink()
    old = path.with_name(hashlib.sha256(content).hexdigest()[:32] + ".safetensors")
    old.write_bytes(content)
    return old


def test_files_of_earlier_versions_count_as_missing(tmp_path: Path) -> None:
    store, lines = filled(tmp_path, ONE, 1.0), list[str]()
    (path,) = shards(store)
    old = without_identity(path)
    with told_to(lines.append):
        again = Store(tmp_path, ONE)
    assert again.missing([Text("a")]) == [Text("a")]
    assert again.discarded == []
    assert old.exists()
    (line,) = lines
    assert "1 file in the store not read, with states that do not say whose they are" in line


def test_verify_names_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LRD_HARNESS_CACHE", str(tmp_path))
    root = tmp_path / "states"
    mine, theirs = filled(root, ONE, 1.0), filled(root, OTHERS[0], 2.0)
    copied = Path(shutil.copy2(shards(theirs)[0], mine.folder))
    old = without_identity(shards(theirs)[0])
    assert main(["cache", "verify"]) == 1
    shown = capsys.readouterr().out
    where = f"states of org/two, which belong into {theirs.folder.name} (org/one@abcdef)"
    assert f"{copied.relative_to(tmp_path)}: {where}\n" in shown
    assert f"{old.name}: states that do not say whose they are" in shown
    assert "3 files of states" in shown
    assert main(["cache", "info"]) == 0
    shown = capsys.readouterr().out
    assert [line.split()[1] for line in shown.splitlines() if "org/" in line] == ["2", "0"]
    assert main(["cache", "verify", "--repair"]) == 0
    assert not copied.exists()
    assert not old.exists()
    assert Store(root, ONE).missing([Text("a")]) == []


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_files_follow_the_umask(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        (path,) = shards(filled(tmp_path, ONE, 1.0))
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
