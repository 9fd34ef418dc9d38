"""What lies in the folder of all stores, and room for more: the least recently used goes first.

A file was used when it was written, and when a process first read from it, which renews its time.
What was used since a process that still lives opened its folder stays (leases.py). So after a write
the files are within the limit, or all that is left is in use. Processes that write at once do not
wait for each other: each may exceed the limit by the file that the others are writing.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lrd_harness.store import files as temporary
from lrd_harness.store import leases, segment

FOLDER = re.compile(r"[0-9a-f]{24}")
OURS = ("identity.json",)
PATIENCE = 20.0  # between two looks at all files pass so many times the seconds that one takes


@dataclass(frozen=True)
class File:
    """A file of a store: its size in bytes, and when it was last used, seconds since the epoch.

    used: 0 where the file says a time in the future, which is none at which it was used; said: what
    the file says.
    """

    path: Path
    size: int
    used: float
    said: float


@dataclass
class Folder:
    """One store as it lies on disk.

    shards: files with states; begun: files that are being written, or were when their process was
    killed; foreign: what no store writes, links among it, which are never followed.
    """

    path: Path
    shards: list[File] = field(default_factory=list)
    begun: list[File] = field(default_factory=list)
    foreign: list[Path] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes of all that is ours."""
        return sum(file.size for file in (*self.shards, *self.begun))


@dataclass
class _Seen:
    """What this process knows of a folder of stores: bytes in it, when that was counted, and how
    long that took, both in seconds; over: whether nothing more could be removed then."""

    total: int = 0
    at: float = -float("inf")
    cost: float = 0.0
    over: bool = False


_seen: dict[Path, _Seen] = {}


def folders(root: Path) -> Iterator[Folder]:
    """The stores below a folder, by name; other things in it are left out."""
    for entry in _entries(root):
        if FOLDER.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
            yield look(Path(entry.path))


def strangers(root: Path) -> list[Path]:
    """What lies in the folder of all stores and is none."""
    return [
        Path(entry.path)
        for entry in _entries(root)
        if not (FOLDER.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False))
    ]


def look(path: Path) -> Folder:
    """What lies in the folder of one store."""
    found = Folder(path)
    for entry in _entries(path):
        plain = entry.is_file(follow_symlinks=False)
        shard = segment.NAME.fullmatch(entry.name)
        if plain and (shard or temporary.known(entry.name)):
            with contextlib.suppress(OSError):  # it was removed just now
                about = entry.stat(follow_symlinks=False)
                used = leases.past(about.st_mtime, path)
                file = File(Path(entry.path), about.st_size, used, about.st_mtime)
                (found.shards if shard else found.begun).append(file)
        elif not plain or not (entry.name in OURS or leases.NAME.fullmatch(entry.name)):
            found.foreign.append(Path(entry.path))
    return found


def leftovers(store: Folder, now: float) -> list[File]:
    """What writers that were killed have left; others may be writing now."""
    return [file for file in store.begun if temporary.dead(file.path, now)]


def use(path: Path) -> None:
    """Note that a file was used now, as far as it may be changed."""
    with contextlib.suppress(OSError):
        os.utime(path)


def make_room(root: Path, size: int, limit: int) -> int:
    """Remove files until `size` more bytes fit; returns by how many the limit will be exceeded."""
    known = _seen.setdefault(root, _Seen())
    over = known.total + size > limit
    if time.monotonic() - known.at > PATIENCE * known.cost or (over and not known.over):
        begun = time.monotonic()
        known.total = _evict(root, size, limit)
        known.at = time.monotonic()
        known.cost = known.at - begun
        known.over = known.total + size > limit
    known.total += size
    return max(0, known.total - limit)


def _evict(root: Path, size: int, limit: int) -> int:
    """Remove what was not used for longest, as far as is needed and allowed; the bytes left."""
    stores = list(folders(root))
    total = sum(store.size for store in stores)
    if total + size <= limit:
        return total
    now = leases.clock(root)
    total -= sum(file.size for s in stores for file in leftovers(s, now) if remove(file, None))
    kept = {store.path: leases.since(store.path, now) for store in stores}
    files = [file for store in stores for file in store.shards]
    for file in sorted(files, key=lambda file: (file.used, file.path)):
        if total + size <= limit:
            break
        if remove(file, kept[file.path.parent]):
            total -= file.size
    return total


def remove(file: File, since: float | None) -> bool:
    """Remove a file that was not used since then, nor since it was looked at; whether it is gone.

    since: when the first who uses its folder came, None where nobody does.
    """
    if since is not None and file.said >= since:
        return False
    try:
        if file.path.stat().st_mtime != file.said:
            return False
        file.path.unlink()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError:  # not there, or removed just now
        return []
