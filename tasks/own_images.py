"""Own unlabelled images: `images:DIR`, for metrics without scores.

All images in a folder and the folders below it, in the order of their paths. What is hidden is left
out, and so are files of other kinds, which are named.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from lrd_harness.contracts import Request, Task, TaskFamily, TaskOptions
from lrd_harness.errors import UserError, named, plain, say
from lrd_harness.hookspecs import hookimpl
from lrd_harness.images import DRAWINGS, Image, pillow

from .own_texts import LONGEST

SHOWN = 3  # files that a message names
OTHERS = {"BUFR", "GRIB", "HDF5", "MPEG", *DRAWINGS}  # what PIL knows by name and cannot read


def open_folder(name: str, options: TaskOptions) -> Task:
    """The images of a folder.

    Raises UserError for a folder that is not there or has no images, and for a damaged one.
    """
    if not name.strip():
        raise UserError("images: names no folder")
    path = named(name)

    @functools.cache
    def images() -> Sequence[Request]:
        return [Request(image) for image in read_images(path)]

    def check() -> None:
        images()

    def fingerprint() -> str:
        keys = "\n".join(request.text for request in images())
        return hashlib.sha256(keys.encode()).hexdigest()[:16]

    shown = plain(path.name if path.is_absolute() and path.name else path)
    return Task(
        name=f"images:{shown[-LONGEST:]}",
        place=f"images:{path}",
        texts=images,
        evaluate=None,
        type="Images",
        modality="image",
        description=f"images in {path.name}, without labels",
        check=check,
        fingerprint=fingerprint,
    )


def read_images(folder: Path) -> list[Image]:
    """The images of a folder. Raises UserError as `image_files` does, and names what is damaged."""
    images: list[Image] = []
    faults: dict[Path, UserError] = {}
    for file in image_files(folder):
        try:
            images.append(Image.of(file, str(file)))
        except UserError as error:
            faults[file] = error
    if faults:
        first, *rest = faults
        more = f"; further ones: {_listed(folder, rest)}" if rest else ""
        raise UserError(f"{faults[first]}{more}")
    return images


def image_files(folder: Path) -> list[Path]:
    """The images in a folder and below it, by their endings, in order; says what else there is.

    Links are followed, each folder is entered once. Raises UserError for what is no folder or
    cannot be read, and where there are no images.
    """
    if folder.is_file():
        raise UserError(f"{folder} is a file, not a folder of images")
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    endings, entered = _endings(), set[str]()
    images: list[Path] = []
    others: list[Path] = []
    for place, folders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        if (real := os.path.realpath(place)) in entered:
            folders.clear()
            continue
        entered.add(real)
        for file in (Path(place, name) for name in files if name[0] != "."):
            known = file.suffix.lower() in endings and not file.is_fifo()
            (images if known else others).append(file)
    if others:
        left_out = "files left out, as pillow reads no images from them"
        say(f"{folder}: {left_out}: {_listed(folder, sorted(others))}")
    if not images:
        raise UserError(f"{folder}: no images")
    return sorted(images)


def _endings() -> set[str]:
    """The endings of images that PIL can read."""
    pil = pillow()
    known = pil.registered_extensions()
    return {ending for ending, form in known.items() if form in pil.OPEN and form not in OTHERS}


def _refuse(error: OSError) -> NoReturn:
    raise UserError(f"{error.filename}: cannot be read ({error.strerror})")


def _listed(folder: Path, files: Sequence[Path]) -> str:
    """How many files, and the first of them by name."""
    names = [str(file.relative_to(folder)) for file in files[:SHOWN]]
    more = ", ..." if len(files) > SHOWN else ""
    return f"{len(files):,} ({', '.join(names)}{more})"


@hookimpl
def lrd_tasks() -> list[TaskFamily]:
    """Images in a folder."""
    return [TaskFamily("images", names=dict, open=open_folder)]
