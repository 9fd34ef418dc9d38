"""Pooled states on disk: what was forwarded once is never forwarded again.

A folder per model identity; in it shards, each one safetensors file that holds all planes of some
texts. A plane is ("raw" or "final", layer); in a shard it is one contiguous (n, d) float32 block,
so reading a layer reads that layer only. A shard is written under another name and then renamed,
and its name carries the checksum of its content, which is verified before it is first read from.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from lrd_harness.contracts import Text
from lrd_harness.files import write_text

Plane = tuple[str, int]
STALE = 86_400  # seconds after which a half-written file is taken for a killed process's


def text_key(text: Text) -> str:
    """The key of a text under its prompt; the two cannot run into each other."""
    described = f"{len(text.prompt)}\0{text.prompt}{text.text}"
    # half of a surrogate pair is no character, but texts from JSON may hold one
    return hashlib.sha256(described.encode(errors="surrogatepass")).hexdigest()[:32]


class Store:
    """The states of one model.

    root: the folder of all stores; identity: everything that changes a state apart from the text.
    discarded: the names of damaged shards that were met so far; their texts are missing again.
    """

    def __init__(self, root: Path, identity: Mapping[str, str]) -> None:
        described = json.dumps(dict(sorted(identity.items())), indent=1)
        self.folder = root / hashlib.sha256(described.encode()).hexdigest()[:24]
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "identity.json").exists():
            write_text(self.folder / "identity.json", described)
        self.discarded: list[str] = []
        self._where: dict[str, tuple[Path, int]] = {}
        self._known: set[Path] = set()
        self._verified: set[Path] = set()
        self._cut: set[str] = set()
        self._sweep()
        self.refresh()

    def _sweep(self) -> None:
        """Remove what writers that were killed have left; others may be writing now."""
        for part in self.folder.glob("*.part"):
            with contextlib.suppress(OSError):
                if time.time() - part.stat().st_mtime > STALE:
                    part.unlink()

    def refresh(self) -> None:
        """Take note of shards that other processes have written; of each, the header is read."""
        for path in sorted(self.folder.glob("*.safetensors")):
            if path in self._known:
                continue
            try:
                header = _header(path)
            except OSError:  # out of reach now, which is no reason to lose it
                continue
            if header is None:
                self._discard(path)
            else:
                self._note(path, *header)

    def _sound(self, path: Path) -> bool:
        """Whether a shard can be read from; its checksum is verified once. If not, it is forgotten.

        A damaged one is discarded; one that is out of reach may be found again by `refresh`.
        """
        if path in self._verified:
            return True
        try:
            intact = _intact(path)
        except OSError:
            self._forget(path)
            return False
        if intact:
            self._verified.add(path)
        else:
            self._discard(path)
        return intact

    def _discard(self, path: Path) -> None:
        self.discarded.append(path.name)
        self._forget(path)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()

    def _forget(self, path: Path) -> None:
        self._known.discard(path)
        lost = [key for key, (where, _) in self._where.items() if where == path]
        for key in lost:
            del self._where[key]
        self._cut.difference_update(lost)

    def missing(self, texts: Sequence[Text]) -> list[Text]:
        """Those of the texts that have no states yet, each once, in order.

        The shards of the others are verified, so that those of a damaged one are named too.
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
        """
        keys = [text_key(t) for t in texts]
        tensors = {
            f"{kind}.{layer}": np.ascontiguousarray(a) for (kind, layer), a in planes.items()
        }
        handle, name = tempfile.mkstemp(dir=self.folder, suffix=".part")
        os.close(handle)
        part = Path(name)
        try:
            cut = [key for key, was in zip(keys, truncated or (), strict=False) if was]
            metadata = {"texts": json.dumps(keys), "truncated": json.dumps(cut)}
            save_file(tensors, part, metadata=metadata)
            with part.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                os.fsync(file.fileno())
            path = self.folder / f"{digest[:32]}.safetensors"
            part.chmod(0o644)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        self._verified.add(path)
        self._note(path, keys, cut)

    def _note(self, path: Path, keys: Sequence[str], cut: Sequence[str]) -> None:
        self._known.add(path)
        self._where.update((key, (path, row)) for row, key in enumerate(keys))
        self._cut.update(cut)

    def truncated(self, texts: Sequence[Text]) -> int:
        """How many of the distinct texts the model saw only the beginning of."""
        return sum(text_key(t) in self._cut for t in set(texts))

    def read(self, texts: Sequence[Text], plane: Plane) -> np.ndarray:
        """The states of these texts at one plane: (len(texts), d_l) in their order, as written.

        Raises KeyError for a text that is not stored, or whose shard turns out to be damaged.
        """
        places: dict[Path, tuple[list[int], list[int]]] = {}  # shard -> where to, where from
        for to, text in enumerate(texts):
            path, row = self._where[text_key(text)]
            here = places.setdefault(path, ([], []))
            here[0].append(to)
            here[1].append(row)
        rows: np.ndarray | None = None
        for path, (to_rows, from_rows) in places.items():
            if not self._sound(path):
                raise KeyError(f"{path.name} is damaged or out of reach")
            with safe_open(path, framework="numpy") as shard:
                block: Any = shard.get_tensor(f"{plane[0]}.{plane[1]}")
            if rows is None:
                rows = np.empty((len(texts), block.shape[1]), block.dtype)
            rows[to_rows] = block[from_rows]
        return rows if rows is not None else np.empty((0, 0), np.float32)


def _intact(path: Path) -> bool:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32] == path.stem


def _header(path: Path) -> tuple[list[str], list[str]] | None:
    """The keys of a shard's texts, row by row, and of those that were truncated."""
    try:
        with safe_open(path, framework="numpy") as shard:
            metadata = shard.metadata()
            return json.loads(metadata["texts"]), json.loads(metadata["truncated"])
    except (SafetensorError, KeyError, TypeError, ValueError):
        return None
