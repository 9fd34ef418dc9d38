"""What a folder held when it was made: size, time and sha256 of each file, in a file of its own.

So a folder of many gigabytes is verified at each use: a file of the size and time that it had is
taken for what it was, and of another one the checksum is compared.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from lrd_harness.errors import StorageFull
from lrd_harness.store import files
from lrd_harness.store.files import write_text

NAME = ".lrd-harness-files.json"


class Entry(NamedTuple):
    """A file: bytes, time of its last change in nanoseconds, sha256."""

    size: int
    time: int
    sha256: str


Entries = Mapping[str, Entry]  # by path within the folder


def measured(folder: Path) -> dict[str, Entry]:
    """The files of a folder as they are now, all of them read. Raises OSError."""
    return {name: _entry(folder / name, status) for name, status in _files(folder)}


def read(folder: Path) -> Entries | None:
    """What the folder held when it was made; None where that is not recorded, or not readably."""
    try:
        listed = json.loads((folder / NAME).read_text(encoding="utf-8"))["files"]
        return {str(name): Entry(int(n), int(time), str(sum_)) for name, (n, time, sum_) in listed}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def write(folder: Path, before: Entries | None = None) -> None:
    """Record what a folder holds. Raises OSError, StorageFull.

    before: of an earlier folder; a file that is the same again gets the time that it had there.
    """
    entries = measured(folder)
    for name, entry in entries.items():
        earlier = (before or {}).get(name)
        if earlier is not None and earlier.sha256 == entry.sha256:
            os.utime(folder / name, ns=(earlier.time, earlier.time))
            entries[name] = entry._replace(time=(folder / name).stat().st_mtime_ns)
    _keep(folder, entries)


def sums(entries: Entries | None) -> dict[str, str]:
    """The checksums alone, by path."""
    return {name: entry.sha256 for name, entry in (entries or {}).items()}


def changed(folder: Path) -> str:
    """The first file that is not as it was recorded, or is new, or gone; "" where there is none.

    Where nothing is recorded, that is what is said to be gone.
    """
    recorded = read(folder)
    if recorded is None:
        return NAME
    there = dict(_files(folder))
    if different := recorded.keys() ^ there.keys():
        return min(different)
    now = dict(recorded)
    for name, status in there.items():
        entry = recorded[name]
        if status.st_size != entry.size:
            return name
        if status.st_mtime_ns != entry.time:
            try:
                now[name] = _entry(folder / name, status)
            except OSError:
                return name
            if now[name].sha256 != entry.sha256:
                return name
    if now != recorded:  # copied, say: the next time its files need not be read
        with contextlib.suppress(OSError, StorageFull):
            _keep(folder, now)
    return ""


def put(work: Path, to: Path, aside: Path) -> None:
    """Give a new folder its name, in place of one that is not the same; that one goes to `aside`.

    Another process may be first with the same. Raises OSError.
    """
    if to.is_dir() and (changed(to) or sums(read(to)) != sums(read(work))):
        to.rename(aside)
    try:
        work.rename(to)
    except OSError:
        if not to.is_dir():
            raise


def _keep(folder: Path, entries: Entries) -> None:
    write_text(folder / NAME, json.dumps({"files": sorted(entries.items())}, indent=0))


def _files(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    for inner, _, names in os.walk(folder):
        for path in (Path(inner, name) for name in names if not files.known(name)):
            if path != folder / NAME:
                with contextlib.suppress(OSError):  # a link to nothing is no file
                    yield path.relative_to(folder).as_posix(), path.stat()


def _entry(path: Path, status: os.stat_result) -> Entry:
    return Entry(status.st_size, status.st_mtime_ns, files.checksum(path))
