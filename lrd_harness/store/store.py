"""Pooled states on disk: what was forwarded once is never forwarded again.

A folder per model identity; in it safetensors files, each with all planes of some texts. A file's
name is the checksum of its content, its header says whose states it holds, and of which texts.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from lrd_harness.contracts import Text
from lrd_harness.errors import StatesLost, not_in_range, plain, say
from lrd_harness.store import files
from lrd_harness.store.files import space, write_text

Plane = tuple[str, int]  # "raw" or "final", or another kind, and the layer
Stamp = tuple[int, int, int]
Save = Callable[[dict[str, Any], Path, dict[str, str]], None]
ABOUT = "lrd-harness"  # one entry, as safetensors keeps no order of several
NAME = re.compile(r"[0-9a-f]{32}\.safetensors")
KNOWN = 2**17  # texts of which the key is kept
TRIES = 5  # to open a folder that another process is removing
POOLED = ("raw", "final")  # kinds of planes that are kept in the type of a store's identity
# numbers of these types lie in a file as these
TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
TINY = 1e-15  # the length of a state whose squares float32 can still add up
FRESH = 600.0  # seconds after which the time of a file that is in use is set anew
_LOST = "states were in the store and are damaged or gone; the same command reads the texts again"
_reported: set[tuple[str, str]] = set()  # of which model was said which states are left alone


def text_key(text: Text) -> str:
    """The key of a text under its prompt; the two cannot run into each other."""
    return _key(text.prompt, str(text.text))  # of an image nothing is kept but its name


@functools.lru_cache(KNOWN)
def _key(prompt: str, text: str) -> str:
    """Known for a while: every layer and every metric asks for the same texts once more."""
    described = f"{len(prompt)}\0{prompt}{text}"
    # half of a surrogate pair is no character, but texts from JSON may hold one
    return hashlib.sha256(described.encode(errors="surrogatepass")).hexdigest()[:32]


def described(identity: Mapping[str, str]) -> str:
    """An identity as identity.json has it."""
    return json.dumps(dict(sorted(identity.items())), indent=1)


def folder_name(description: str) -> str:
    """The name of the folder of the store that is so described."""
    return hashlib.sha256(description.encode()).hexdigest()[:24]


def whose(description: str | None) -> str:
    """In words, whose states a file holds that is in the folder of another store."""
    if description is None:
        return "that do not say whose they are, as of an earlier version"
    try:
        model = str(json.loads(description)["model"])
    except (ValueError, TypeError, KeyError, RecursionError):
        model = "another model"
    return plain(f"of {model:.100}, which belong into {folder_name(description)}")


@dataclass(frozen=True)
class Extent:
    """Where a plane lies in its file: from which byte on, the numbers of a row, and their type.

    bfloat16, which numpy has not, as uint16.
    """

    start: int
    width: int
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class Header:
    """What a file holds: whose states, the keys of its texts by row, of truncated ones, its planes.

    identity: as `described`; None in files of versions that did not say it.
    """

    identity: str | None
    keys: list[str]
    cut: list[str]
    blocks: dict[Plane, Extent]


def header(path: Path) -> Header | None:
    """What a file says of itself; None for one that cannot be of the store. Raises OSError."""
    try:
        with path.open("rb") as file, safe_open(path, framework="numpy"):  # which checks it
            start = 8 + int.from_bytes(file.read(8), "little")
            planes = json.loads(file.read(start - 8))
        metadata = planes.pop("__metadata__", None) or {}
        if ABOUT in metadata:
            about = json.loads(metadata[ABOUT])
        else:  # as versions before wrote it
            lists = {name: json.loads(metadata[name]) for name in ("texts", "truncated")}
            about = {"identity": metadata.get("identity"), **lists}
        identity, keys, cut = about["identity"], about["texts"], about["truncated"]
        blocks: dict[Plane, Extent] = {}
        for name, plane in planes.items():
            (kind, _, layer), (count, width) = name.rpartition("."), plane["shape"]
            if count != len(keys):
                return None
            with contextlib.suppress(ValueError, KeyError):  # what the store does not write
                dtype = np.dtype(TYPES[plane["dtype"]])
                blocks[kind, int(layer)] = Extent(start + plane["data_offsets"][0], width, dtype)
        if not all(isinstance(key, str) for part in (keys, cut) for key in part):
            return None
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return Header(identity, keys, cut, blocks)


def intact(path: Path) -> bool:
    """Whether a file's content is what its name says. Raises OSError."""
    return files.checksum(path)[:32] == path.stem


def _stamp(path: Path) -> Stamp:
    """What changes when another file is put in this one's place. Raises OSError."""
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size


def narrowed(block: np.ndarray, name: str, layer: int) -> Any:
    """States (n, d) float32 as a tensor of a narrower type, rounded to nearest, ties to even.

    Raises NotInRange where a state, as it will be read, is off by more than the type's `eps` times
    its length: its numbers are too large for the type, or nearly all of them too small.
    """
    import torch

    dtype, length = getattr(torch, name), torch.linalg.vector_norm
    states, limits = torch.from_numpy(block), torch.finfo(dtype)
    kept = states.to(dtype)
    size, off = length(states, dim=1), length(kept.float() - states, dim=1)
    odd = ~((off <= limits.eps * size) & (size > TINY) & size.isfinite())
    whole = states[odd].double()
    off, size = length(kept[odd].double() - whole, dim=1), length(whole, dim=1)
    for state in whole[off > limits.eps * size][:1]:
        raise not_in_range(layer, name, float(state.abs().max()), limits.max)
    return kept


def widened(rows: np.ndarray) -> np.ndarray:
    """Rows as they lie in a file, those of a narrower type as float32."""
    if rows.dtype.itemsize > 2:
        return rows
    import torch

    tensor = torch.from_numpy(rows)
    return (tensor if rows.dtype == np.float16 else tensor.view(torch.bfloat16)).float().numpy()


def _write(
    folder: Path, metadata: dict[str, str], planes: Mapping[Plane, Any], save: Save
) -> tuple[Path, Header]:
    """Make a file of these planes; it appears whole, under its name.

    save: what writes them. Raises OSError, and ValueError for planes of another number of rows than
    there are texts.
    """
    named = {f"{kind}.{n}": block for (kind, n), block in planes.items()}
    with files.folder(folder) as work:
        path = work / "planes"
        try:
            save(named, path, metadata)
        except SafetensorError as error:  # what it says of the system is the OSError that it was
            number = re.search(r"\(os error (\d+)\)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
        files.usual_modes(work)
        with path.open("rb") as written:
            os.fsync(written.fileno())
        content = header(path)
        if content is None:
            raise ValueError("planes that do not have a row for each text")
        return path.replace(folder / f"{files.checksum(path)[:32]}.safetensors"), content


class Store:
    """The states of one model; those of another, as in a cache put together of several, are left.

    A file is verified before it is first read from, and gets the time of its use, by which
    inventory.py tells what runs need.
    root: the folder of all stores; identity: everything that changes a state apart from the text,
    among it `store_dtype` where pooled states are kept in another type than float32.
    discarded: the names of damaged files that were met so far; their texts are missing again.
    Raises StorageFull, OSError where it cannot be made.
    """

    def __init__(self, root: Path, identity: Mapping[str, str]) -> None:
        self.identity = dict(identity)
        self._described = described(identity)
        self._whose = f"{identity['model']}: " if "model" in identity else ""
        self._root = root
        self.folder = root / folder_name(self._described)
        self.discarded: list[str] = []
        self._headers: dict[Path, Header] = {}
        self._where: dict[str, tuple[Path, int]] = {}  # of each text its file and row
        self._verified: dict[Path, tuple[Stamp, float]] = {}  # and when it was last used
        self._bad: set[Path] = set()  # files that are there and not looked at again
        self._cut: set[str] = set()
        self._lost: set[str] = set()  # texts whose file went while this store was open
        self._settle()
        files.remove_leftovers(self.folder)
        self.refresh()

    def _settle(self) -> None:
        """Have the folder and what says whose it is; another process may be removing both."""
        path = self.folder / "identity.json"
        for attempt in range(TRIES):
            try:
                with space(self._root):
                    self.folder.mkdir(parents=True, exist_ok=True)
                    if not (path.is_file() and path.read_bytes() == self._described.encode()):
                        write_text(path, self._described)
                return
            except FileNotFoundError:
                if attempt == TRIES - 1:
                    raise

    def refresh(self) -> None:
        """Take note of files that other processes have written; of each, the header is read."""
        others: Counter[str] = Counter()  # files by whose they are
        for path in sorted(self.folder.glob("*.safetensors")):
            if path in self._headers or path in self._bad:
                continue
            try:
                stamp, content = _stamp(path), header(path)
            except OSError:  # out of reach now, which is no reason to lose it
                continue
            if content is None:
                self._discard(path, stamp)
            elif content.identity != self._described:
                self._bad.add(path)
                others[whose(content.identity)] += 1
            else:
                self._note(path, content)
        for other, n in others.items():
            if (self._whose, other) not in _reported:
                _reported.add((self._whose, other))
                what = f"{n} file{'s' * (n > 1)} in the store not read, with states {other}"
                say(f"{self._whose}{what}: see `lrd-harness cache verify`")

    def _note(self, path: Path, content: Header) -> None:
        self._headers[path] = content
        self._where.update((key, (path, row)) for row, key in enumerate(content.keys))
        self._cut.update(content.cut)

    def _sound(self, path: Path) -> bool:
        """Whether a file can be read from; its checksum is verified once. If not, it is forgotten.

        A damaged one is discarded; one that is out of reach may be found again by `refresh`. One
        that another file has been put in place of is verified again.
        """
        before, used = self._verified.get(path, (None, 0.0))
        now = time.monotonic()
        try:
            stamp = _stamp(path)
            if stamp != before or now - used > FRESH:
                used = now
                with contextlib.suppress(OSError):  # of a cache for reading only
                    os.utime(path)
            if stamp != before and not intact(path):
                self._discard(path, stamp)
                return False
            if stamp != before and header(path) != self._headers[path]:
                self._forget(path)  # it was another file when it was noted
                return False
        except OSError:
            self._forget(path)
            return False
        self._verified[path] = stamp, used
        return True

    def _discard(self, path: Path, stamp: Stamp) -> None:
        """Remove a damaged file, unless another process has put a good one there just now."""
        self.discarded.append(path.name)
        self._forget(path)
        try:
            if _stamp(path) == stamp:
                path.unlink()
        except FileNotFoundError:
            pass
        except OSError:  # it stays, and is not looked at again
            self._bad.add(path)
        say(f"{self._whose}a damaged file of the store was discarded: {path.name}")

    def _forget(self, path: Path) -> None:
        self._verified.pop(path, None)
        content = self._headers.pop(path, None)
        for key in content.keys if content else ():
            if self._where.get(key, (None, 0))[0] == path:
                del self._where[key]
                self._cut.discard(key)
                self._lost.add(key)

    def missing(self, texts: Sequence[Text]) -> list[Text]:
        """Those of the texts that have no states yet, each once, in order.

        The files of the others are verified, so that those of a damaged one are named too, and
        those of one that was removed.
        """
        keys = {t: text_key(t) for t in texts}
        for path in {self._where[key][0] for key in keys.values() if key in self._where}:
            self._sound(path)
        return [t for t, key in keys.items() if key not in self._where]

    def write(
        self,
        texts: Sequence[Text],
        planes: Mapping[Plane, np.ndarray],
        truncated: Sequence[bool] | None = None,
    ) -> None:
        """Keep the states of these texts: each plane (len(texts), d_l), of states float32.

        truncated: of each text, whether the model saw only its beginning.
        Raises StorageFull, OSError, and NotInRange for states that the store's type cannot hold.
        """
        kept, save = self._kept(planes)
        keys = [text_key(t) for t in texts]
        cut = [key for key, was in zip(keys, truncated or (), strict=False) if was]
        about = {"identity": self._described, "texts": keys, "truncated": cut}
        self._settle()
        with space(self.folder):
            path, content = _write(self.folder, {ABOUT: json.dumps(about)}, kept, save)
        self._bad.discard(path)
        with contextlib.suppress(OSError):
            self._verified[path] = _stamp(path), time.monotonic()
        self._note(path, content)

    def _kept(self, planes: Mapping[Plane, np.ndarray]) -> tuple[dict[Plane, Any], Save]:
        """Planes as they are to lie in a file, and what writes them. Raises NotInRange."""
        name = self.identity.get("store_dtype")
        arrays = {plane: np.ascontiguousarray(block) for plane, block in planes.items()}
        if name is None:
            return arrays, save_file
        import torch
        from safetensors import torch as tensors  # as numpy has no bfloat16

        return {
            (kind, n): narrowed(block, name, n) if kind in POOLED else torch.tensor(block)
            for (kind, n), block in arrays.items()
        }, tensors.save_file

    def truncated(self, texts: Sequence[Text]) -> int:
        """How many of the distinct texts the model saw only the beginning of."""
        return sum(text_key(t) in self._cut for t in set(texts))

    def read(self, texts: Sequence[Text], plane: Plane) -> np.ndarray:
        """The states of these texts at one plane: (len(texts), d_l) in their order, as written.

        Of a store of a narrower type float32, as they were rounded.

        Raises KeyError for a text or plane that is not stored; StatesLost where a file turns out
        to be damaged, or was removed.
        """
        places: dict[Path, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
        for number, key in enumerate(map(text_key, texts)):
            if key in self._lost and key not in self._where:
                raise StatesLost(_LOST)
            path, row = self._where[key]
            numbers, rows = places[path]
            numbers.append(number)
            rows.append(row)
        states = np.empty((0, 0), np.float32)
        for path, (numbers, rows) in places.items():
            block = self._rows(path, plane, rows)
            if len(states) == 0:
                states = np.empty((len(texts), block.shape[1]), block.dtype)
            states[numbers] = block
        return states

    def _rows(self, path: Path, plane: Plane, rows: Sequence[int]) -> np.ndarray:
        """Some rows of a file's plane; what lies before and behind them is not read."""
        if not self._sound(path):
            raise StatesLost(_LOST)
        block = self._headers[path].blocks[plane]
        first, count = min(rows), max(rows) - min(rows) + 1
        at = block.start + first * block.width * block.dtype.itemsize
        try:
            numbers = np.fromfile(path, block.dtype, count * block.width, offset=at)
            return widened(numbers.reshape(count, block.width)[np.subtract(rows, first)])
        except (OSError, ValueError):  # removed or cut at this moment
            self._forget(path)
            raise StatesLost(_LOST) from None
