"""Where a pruned model is saved: a new folder, whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest
import tiny
from test_checkpoint import CARD, original

from lrd_harness.errors import UserError
from lrd_harness.models import save as saving
from lrd_harness.models.find import find
from lrd_harness.models.save import save


def names(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))


def test_folders_that_are_taken(tmp_path: Path) -> None:
    checkpoint = original("Bert", tmp_path / "full")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes").write_text("mine")
    (tmp_path / "file").write_text("mine")
    before = names(tmp_path)
    with pytest.raises(UserError, match="taken is not empty"):
        save(checkpoint, (1,), tmp_path / "taken", CARD)
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError) as caught:
            save(checkpoint, (1,), folder, CARD)
        assert "\n" not in str(caught.value)
    assert names(tmp_path) == before
    (tmp_path / "empty").mkdir()
    save(checkpoint, (1,), tmp_path / "empty", CARD)
    assert (tmp_path / "empty" / "config.json").is_file()
    save(checkpoint, (1,), tmp_path / "new" / "below", CARD)
    assert (tmp_path / "new" / "below" / "config.json").is_file()
    plain = tmp_path / "plain"
    plain.mkdir()
    assert (tmp_path / "new" / "below").stat().st_mode == plain.stat().st_mode


def test_nothing_half_written_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = original("Bert", tmp_path / "full")
    before = names(tmp_path)
    for removed, complaint in (((9,), "block 9 does not exist"), ((1, 1), "block 1 is given twi")):
        with pytest.raises(UserError, match=complaint):
            save(checkpoint, removed, tmp_path / "new" / "pruned", CARD)
    assert names(tmp_path) == before

    def full_disk(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(saving, "_generation", full_disk)
        with pytest.raises(UserError, match=r"cannot be saved to .*No space left"):
            save(checkpoint, (1,), tmp_path / "new" / "pruned", CARD)
    assert names(tmp_path) == before

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(saving, "_compare", interrupted)
        with pytest.raises(KeyboardInterrupt):
            save(checkpoint, (1,), tmp_path / "new" / "pruned", CARD)
    assert names(tmp_path) == before


def test_a_folder_that_is_filled_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = original("Bert", tmp_path / "full")
    folder = tmp_path / "pruned"

    def fill(*_: Any) -> None:
        folder.mkdir()
        (folder / "notes").write_text("mine")

    monkeypatch.setattr(saving, "_compare", fill)
    with pytest.raises(UserError, match="is not empty"):
        save(checkpoint, (1,), folder, CARD)
    assert names(folder) == ["notes"]
    assert sorted(os.listdir(tmp_path)) == ["full", "pruned"]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_what_is_saved_follows_the_umask(umask: int, tmp_path: Path) -> None:
    """Weights too, which safetensors writes for one user alone."""
    tiny.save_st(tmp_path / "st", dense=8)
    before = os.umask(umask)
    try:
        folder = save(find(str(tmp_path / "st")), (1,), tmp_path / "pruned", CARD)
    finally:
        os.umask(before)
    for path in (folder, *folder.rglob("*")):
        usual = 0o777 if path.is_dir() else 0o666
        assert stat.S_IMODE(path.stat().st_mode) == usual & ~umask, path
