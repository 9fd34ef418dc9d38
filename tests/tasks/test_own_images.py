"""Images of one's own: which files of a folder are read, in what order, and what others say."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lrd_harness.contracts import TaskOptions
from lrd_harness.errors import UserError, told_to

own_images: Any = importlib.import_module("lrd_harness.tasks.own_images")


def draw(path: Path, seed: int) -> np.ndarray:
    """Some pixels (6, 5, 3), written to a file, its folder made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def opened(folder: Path | str) -> Any:
    task = own_images.open_folder(str(folder), TaskOptions())
    task.check()
    return task


def test_all_images_below_a_folder_in_the_order_of_their_paths(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    names = ["10.png", "B.PNG", "a/z.bmp", "a.b/c.tiff", "b/c/d.webp.png", "é 模.png"]
    pixels = {name: draw(folder / name, i) for i, name in enumerate(names)}
    for name in (".hidden.png", ".git/x.png", "a/.thumbs/y.png", "a/._z.png"):
        draw(folder / name, 0)
    for name in ("labels.csv", "a/Thumbs.db", "clip.mpg", "b.eps", "drawing.svg"):
        (folder / name).write_text("no image")
    said: list[str] = []
    with told_to(said.append):
        task = opened(folder)
    others = "5 (a/Thumbs.db, b.eps, clip.mpg, ...)"
    assert said == [f"{folder}: files left out, as pillow reads no images from them: {others}"]
    assert (task.name, task.type, task.evaluate) == ("images:photos", "Images", None)
    read: list[Any] = [request.text for request in task.texts()]
    assert [image.name for image in read] == [str(p) for p in sorted(folder / n for n in names)]
    for image in read:
        name = Path(image.name).relative_to(folder).as_posix()
        np.testing.assert_array_equal(np.asarray(image.open()), pixels[name])


def test_links_are_followed_and_no_folder_is_entered_twice(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    draw(folder / "a" / "x.png", 0)
    draw(tmp_path / "elsewhere" / "y.png", 1)
    for name, target in (("b", tmp_path / "elsewhere"), ("a/up", folder), ("c", folder / "a")):
        (folder / name).symlink_to(target, target_is_directory=True)
    (tmp_path / "link").symlink_to(folder)
    os.mkfifo(folder / "pipe.png")  # which would be waited for
    said: list[str] = []
    with told_to(said.append):
        files = own_images.image_files(tmp_path / "link")
    assert [file.relative_to(tmp_path / "link").as_posix() for file in files] == [
        "a/x.png",
        "b/y.png",
    ]
    assert [line.partition(" from them: ")[2] for line in said] == ["1 (pipe.png)"]


def test_what_a_task_is_called_and_known_by(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    first = tmp_path / "one" / "photos"
    draw(first / "a.png", 0)
    draw(first / "b.png", 1)
    names = {name: opened(name).name for name in ("one/photos", "one/photos/", ".", str(first))}
    assert list(names.values()) == ["images:one/photos"] * 2 + ["images:.", "images:photos"]
    before = opened("one").fingerprint()
    (first / "b.png").rename(first / "c.png")
    assert opened("one").fingerprint() == before  # the same images in the same order
    draw(first / "c.png", 2)
    assert opened("one").fingerprint() != before


def broken(*names: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        draw(folder / "a.png", 0)
        for name in names:
            (folder / name).write_bytes((folder / "a.png").read_bytes()[:50])

    return make


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda folder: None, "photos: no such folder"),
    "file": (lambda folder: folder.touch(), "photos is a file, not a folder of images"),
    "empty": (lambda folder: folder.mkdir(), "photos: no images"),
    "hidden": (lambda folder: draw(folder / ".a.png", 0), "photos: no images"),
    "broken": (broken("b.png"), "photos/b.png: no image that can be read"),
    "several": (broken(*"b.png c.png d.png e.png f.png".split()), "4 (c.png, d.png, e.png, ...)"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_one_line(fault: str, tmp_path: Path) -> None:
    make, message = FAULTS[fault]
    make(tmp_path / "photos")
    with pytest.raises(UserError) as error:
        opened(tmp_path / "photos")
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_no_name_and_no_permission(tmp_path: Path, monkeypatch: Any) -> None:
    with pytest.raises(UserError, match="names no folder"):
        opened(" ")
    (tmp_path / "a").mkdir()
    listed = os.scandir

    def refuse(place: str) -> Any:
        if str(place).endswith("/a"):
            raise PermissionError(13, "Permission denied", place)
        return listed(place)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"/a: cannot be read \(Permission denied\)"):
        opened(tmp_path)
