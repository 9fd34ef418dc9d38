"""One file of the store: a safetensors file whose planes are contiguous blocks, read by mapping.

The header says whose states they are and names the texts, row by row; the file's name is the
checksum of its content. A file is written a plane at a time and read a plane at a time, so that
neither needs memory for a second.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from lrd_harness.store import files
from lrd_harness.store.files import space

Plane = tuple[str, int]
NAME = re.compile(r"[0-9a-f]{32}\.safetensors")
MOST = 100_000_000  # bytes of a header, as safetensors has it
DTYPES = {
    np.dtype(kind).newbyteorder("<"): name
    for kind, name in (
        *(("f2", "F16"), ("f4", "F32"), ("f8", "F64"), ("?", "BOOL"), ("u1", "U8")),
        *(("i1", "I8"), ("i2", "I16"), ("i4", "I32"), ("i8", "I64")),
    )
}
NAMED = {name: dtype for dtype, name in DTYPES.items()}


@dataclass(frozen=True)
class Block:
    """Where a plane lies in its file: (n, d) numbers from the byte `start` on."""

    dtype: np.dtype[Any]
    shape: tuple[int, int]
    start: int


@dataclass(frozen=True)
class Header:
    """What a file holds: whose states, the keys of its texts by row, of truncated ones, its planes.

    identity: as the store describes it; None in files of versions that did not say it.
    """

    identity: str | None
    keys: list[str]
    cut: list[str]
    blocks: Mapping[Plane, Block]


def write(
    folder: Path,
    identity: str,
    keys: Sequence[str],
    cut: Sequence[str],
    planes: Mapping[Plane, np.ndarray],
) -> tuple[Path, Header]:
    """Make a file of these planes, (len(keys), d_l) each; it appears whole, under its name.

    The checksum is that of the content as it was meant. Raises StorageFull, other OSError.
    """
    # the widest numbers first: then each block begins at a multiple of their size
    ordered = dict(sorted(planes.items(), key=lambda item: -item[1].dtype.itemsize))
    start, blocks = _head(identity, keys, cut, ordered)
    with space(folder), files.file(folder) as file:
        digest = hashlib.sha256(start)
        file.write(start)
        for plane, array in ordered.items():
            block = np.ascontiguousarray(array, blocks[plane].dtype).reshape(-1)
            digest.update(block.view(np.uint8).data)
            file.write(block.view(np.uint8).data)
        path = folder / f"{digest.hexdigest()[:32]}.safetensors"
        files.keep(file, path)
    return path, Header(identity, list(keys), list(cut), blocks)


def size(
    identity: str, keys: Sequence[str], cut: Sequence[str], planes: Mapping[Plane, np.ndarray]
) -> int:
    """How many bytes `write` would write."""
    return len(_head(identity, keys, cut, planes)[0]) + sum(
        array.nbytes for array in planes.values()
    )


def _head(
    identity: str, keys: Sequence[str], cut: Sequence[str], planes: Mapping[Plane, np.ndarray]
) -> tuple[bytes, dict[Plane, Block]]:
    """The beginning of a file, up to its first plane, and where the planes will lie."""
    described: dict[str, Any] = {
        "__metadata__": {
            "identity": identity,
            "texts": json.dumps(list(keys)),
            "truncated": json.dumps(list(cut)),
        }
    }
    places: dict[Plane, tuple[np.dtype[Any], tuple[int, int], int]] = {}
    at = 0
    for (kind, layer), array in planes.items():
        n, width = array.shape
        dtype = array.dtype.newbyteorder("<")
        described[f"{kind}.{layer}"] = {
            "dtype": DTYPES[dtype],
            "shape": [n, width],
            "data_offsets": [at, at + array.nbytes],
        }
        places[kind, layer] = dtype, (n, width), at
        at += array.nbytes
    text = json.dumps(described).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    return head, {
        plane: Block(dtype, shape, len(head) + start)
        for plane, (dtype, shape, start) in places.items()
    }


def header(path: Path) -> Header | None:
    """What a file says of itself; None for one that cannot be of the store. Raises OSError."""
    with path.open("rb") as file:
        whole = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if length > min(whole - 8, MOST):
            return None
        text = file.read(length)
    try:
        return _parsed(json.loads(text), 8 + length, whole)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _parsed(described: Any, start: int, whole: int) -> Header:
    """A header whose parts fit each other and the size of the file. Raises ValueError and more."""
    metadata = described.pop("__metadata__")
    keys, cut = (json.loads(metadata[name]) for name in ("texts", "truncated"))
    identity = metadata.get("identity")
    if not all(isinstance(one, list) and all(map(_is_text, one)) for one in (keys, cut)):
        raise ValueError("keys are texts")
    blocks: dict[Plane, Block] = {}
    at = start
    for name, entry in sorted(described.items(), key=lambda item: item[1]["data_offsets"]):
        kind, _, layer = name.rpartition(".")
        dtype, (n, width), offsets = NAMED[entry["dtype"]], entry["shape"], entry["data_offsets"]
        if type(width) is not int or width < 0 or n != len(keys) or offsets[0] != at - start:
            raise ValueError("a plane that does not fit")
        blocks[kind, int(layer)] = Block(dtype, (len(keys), width), at)
        at += len(keys) * width * dtype.itemsize
        if offsets[1] != at - start:
            raise ValueError("a plane of another size")
    if at != whole:
        raise ValueError("a file of another size")
    return Header(identity if _is_text(identity) else None, keys, cut, blocks)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def stamp(path: Path) -> tuple[int, int, int]:
    """What changes when another file is put in this one's place. Raises OSError."""
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size


def intact(path: Path) -> bool:
    """Whether a file's content is what its name says. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32] == path.stem


def mapped(path: Path, block: Block) -> np.ndarray:
    """A plane, (n, d), of which only what is looked at is read. Raises OSError, ValueError."""
    if not prod(block.shape):
        return np.empty(block.shape, block.dtype)
    return np.asarray(np.memmap(path, block.dtype, "r", block.start, block.shape))
