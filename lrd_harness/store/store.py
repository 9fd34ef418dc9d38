"""Pooled states on disk: what was forwarded once is never forwarded again.

A folder per model identity; in it shards, each one safetensors file that holds all planes of some
texts. A plane is ("raw" or "final", layer); in a shard it is one contiguous (n, d) float32 block
that is mapped, so reading a layer reads that layer only. A shard is written under another name and
then renamed, and its name carries the checksum of its content, which is verified before it is first
read from. Its header says whose states it holds: one of another model, as in a cache that was put
together of several, is left alone, and its texts are read. Where a limit is set, shards that no
process uses make room for new ones (eviction.py).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import weakref
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lrd_harness.contracts import Text
from lrd_harness.errors import StatesLost, plain, say
from lrd_harness.store import eviction, files, leases, location, segment
from lrd_harness.store.files import space, write_text
from lrd_harness.store.segment import Block, Plane

__all__ = ["Plane", "Store", "described", "folder_name", "text_key", "whose"]

TRIES = 5  # to open a folder that another process is removing

_LOST = "states were in the store and are damaged or gone; the same command reads the texts again"
_said: set[Path] = set()  # folders of stores whose limit was said to be exceeded
_told: set[tuple[str, str]] = set()  # of which model was said which states are left alone


def text_key(text: Text) -> str:
    """The key of a text under its prompt; the two cannot run into each other."""
    described = f"{len(text.prompt)}\0{text.prompt}{text.text}"
    # half of a surrogate pair is no character, but texts from JSON may hold one
    return hashlib.sha256(described.encode(errors="surrogatepass")).hexdigest()[:32]


def described(identity: Mapping[str, str]) -> str:
    """An identity as identity.json has it."""
    return json.dumps(dict(sorted(identity.items())), indent=1)


def folder_name(description: str) -> str:
    """The name of the folder of the store that is so described."""
    return hashlib.sha256(description.encode()).hexdigest()[:24]


def whose(description: str | None) -> str:
    """In words, whose states a shard holds that is in the folder of another store."""
    if description is None:
        return "that do not say whose they are, as of an earlier version"
    try:
        model = str(json.loads(description)["model"])
    except (ValueError, TypeError, KeyError, RecursionError):
        model = "another model"
    return plain(f"of {model:.100}, which belong into {folder_name(description)}")


class Store:
    """The states of one model.

    root: the folder of all stores; identity: everything that changes a state apart from the text.
    discarded: the names of damaged shards that were met so far; their texts are missing again.
    While a store is open (until `close`, or until it is no longer referred to), no process evicts
    what was used through it.
    Raises UserError for a limit that is no size; StorageFull, OSError where it cannot be made.
    """

    def __init__(self, root: Path, identity: Mapping[str, str]) -> None:
        self._described = described(identity)
        self._whose = f"{identity['model']}: " if "model" in identity else ""
        self._root, self._limit = root, location.limit()
        self.folder = root / folder_name(self._described)
        self.discarded: list[str] = []
        self._where: dict[str, tuple[Path, int]] = {}
        self._known: dict[Path, Mapping[Plane, Block]] = {}
        self._verified: dict[Path, tuple[int, ...]] = {}
        self._bad: set[Path] = set()  # shards that are there and not looked at again
        self._cut: set[str] = set()
        self._lost: set[str] = set()  # texts whose shard went while this store was open
        self._lease: Path | None = None
        self._settle()
        self._sweep()
        self.refresh()

    def close(self) -> None:
        """Let others evict what is here. What is read afterwards may be gone, and is then missed.

        A store may be closed twice.
        """
        leases.release(self._lease)

    def _settle(self) -> None:
        """Have the folder and what says whose it is; another process may be removing both."""
        for last in (*[False] * (TRIES - 1), True):
            try:
                with space(self._root):
                    self.folder.mkdir(parents=True, exist_ok=True)
                    if self._lease is None:
                        self._lease = leases.take(self.folder)
                        weakref.finalize(self, leases.release, self._lease)
                    self._name()
                return
            except FileNotFoundError:
                if last:
                    raise

    def _name(self) -> None:
        """Have identity.json, whole."""
        path = self.folder / "identity.json"
        with contextlib.suppress(FileNotFoundError, ValueError):  # ValueError: not even a text
            if path.read_bytes().decode() == self._described:
                return
        write_text(path, self._described)

    def _sweep(self) -> None:
        """Remove what processes that were killed have left."""
        leases.sweep(self.folder, leases.clock(self.folder))
        files.sweep(self.folder, older=files.AGE)

    def refresh(self) -> None:
        """Take note of shards that other processes have written; of each, the header is read."""
        others: Counter[str] = Counter()  # shards by whose they are
        for path in sorted(self.folder.glob("*.safetensors")):
            if path in self._known or path in self._bad:
                continue
            try:
                stamp, header = segment.stamp(path), segment.header(path)
            except OSError:  # out of reach now, which is no reason to lose it
                continue
            if header is None:
                self._discard(path, stamp)
            elif header.identity != self._described:
                self._bad.add(path)
                others[whose(header.identity)] += 1
            else:
                self._note(path, header)
        for other, n in others.items():
            if (self._whose, other) not in _told:
                _told.add((self._whose, other))
                what = f"{n} file{'s' * (n > 1)} in the store not read, with states {other}"
                say(f"{self._whose}{what}: see `lrd-harness cache verify`")

    def _sound(self, path: Path) -> bool:
        """Whether a shard can be read from; its checksum is verified once. If not, it is forgotten.

        A damaged one is discarded; one that is out of reach may be found again by `refresh`. One
        that another file has been put in place of is verified again.
        """
        try:
            stamp = segment.stamp(path)
            if self._verified.get(path) == stamp:
                return True
            eviction.use(path)  # first: from now on it is known to be in use
            intact = segment.intact(path)
        except OSError:
            self._forget(path)
            return False
        if intact:
            self._verified[path] = stamp
        else:
            self._discard(path, stamp)
        return intact

    def _discard(self, path: Path, stamp: tuple[int, ...]) -> None:
        """Remove a damaged shard, unless another process has put a good one there just now."""
        self.discarded.append(path.name)
        self._forget(path)
        try:
            if segment.stamp(path) == stamp:
                path.unlink()
        except FileNotFoundError:
            pass
        except OSError:  # it stays, and is not looked at again
            self._bad.add(path)
        say(f"{self._whose}a damaged file of the store was discarded: {path.name}")

    def _forget(self, path: Path) -> None:
        self._known.pop(path, None)
        self._verified.pop(path, None)
        lost = [key for key, (where, _) in self._where.items() if where == path]
        for key in lost:
            del self._where[key]
        self._cut.difference_update(lost)
        self._lost.update(lost)

    def missing(self, texts: Sequence[Text]) -> list[Text]:
        """Those of the texts that have no states yet, each once, in order.

        The shards of the others are verified, so that those of a damaged one are named too, and
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

        truncated: of each text, whether the model saw only its beginning. Where a limit is set,
        what was not used for longest makes room. Raises StorageFull, OSError.
        """
        keys = [text_key(t) for t in texts]
        cut = [key for key, was in zip(keys, truncated or (), strict=False) if was]
        self._settle()
        if self._limit is not None:
            self._make_room(segment.size(self._described, keys, cut, planes), self._limit)
        path, header = segment.write(self.folder, self._described, keys, cut, planes)
        self._bad.discard(path)
        with contextlib.suppress(OSError):
            self._verified[path] = segment.stamp(path)
        self._note(path, header)

    def _make_room(self, size: int, limit: int) -> None:
        beyond = eviction.make_room(self._root, size, limit)
        if beyond and self._root not in _said:
            _said.add(self._root)
            say(
                f"the store is {location.shown(beyond)} above its limit of {location.shown(limit)} "
                f"({location.LIMIT}): all that is left in it is in use"
            )

    def _note(self, path: Path, header: segment.Header) -> None:
        self._known[path] = header.blocks
        self._where.update((key, (path, row)) for row, key in enumerate(header.keys))
        self._cut.update(header.cut)

    def truncated(self, texts: Sequence[Text]) -> int:
        """How many of the distinct texts the model saw only the beginning of."""
        return sum(text_key(t) in self._cut for t in set(texts))

    def read(self, texts: Sequence[Text], plane: Plane) -> np.ndarray:
        """The states of these texts at one plane: (len(texts), d_l) in their order, as written.

        Of the files, only the rows asked for are read, one file after the other.
        Raises KeyError for a text or plane that is not stored; StatesLost where a shard turns out
        to be damaged, or was removed.
        """
        places: dict[Path, tuple[list[int], list[int]]] = {}  # shard -> where to, where from
        for to, text in enumerate(texts):
            key = text_key(text)
            if key in self._lost and key not in self._where:
                raise StatesLost(_LOST)
            path, row = self._where[key]
            here = places.setdefault(path, ([], []))
            here[0].append(to)
            here[1].append(row)
        rows: np.ndarray | None = None
        for path, (to_rows, from_rows) in places.items():
            block = self._block(path, plane)
            if rows is None:
                rows = np.empty((len(texts), block.shape[1]), block.dtype)
            rows[to_rows] = block[from_rows]
        return rows if rows is not None else np.empty((0, 0), np.float32)

    def _block(self, path: Path, plane: Plane) -> np.ndarray:
        """A shard's plane, mapped. Raises StatesLost."""
        block = self._known[path]
        if not self._sound(path):
            raise StatesLost(_LOST)
        try:
            return segment.mapped(path, block[plane])
        except (OSError, ValueError):  # cut or removed at this moment
            self._forget(path)
            raise StatesLost(_LOST) from None
