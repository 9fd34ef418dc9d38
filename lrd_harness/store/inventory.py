"""What lies in the cache folder, by what it is; and removing what is ours, whole or not at all.

    packages/NAME-VERSION, .sha256    unpacked packages, and the checksums of their wheels
    converted/NAME-HASH               checkpoints made of GGUF files
    states/HASH                       the stores, see eviction.py
    budgets/HASH.json                 batch sizes that were found
    scripts/vl-convert-VERSION.js     what draws the figures of the page

What has a name of temporary.py is being made, or was when its process was killed: that goes with
the next command. Everything else is foreign: it is named, left alone, and a link is not followed.
The cache folder itself is given without links in its path.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lrd_harness.store import eviction, leases, location, segment
from lrd_harness.store import files as temporary
from lrd_harness.store.documents import json_value
from lrd_harness.store.store import folder_name, whose

STATES = "states"
DOWNLOADS = {"packages": re.compile(r"[^.].*"), "converted": re.compile(r".+-[0-9a-f]{12}")}
BUDGETS = "budgets"
SCRIPTS = "scripts"
RECORD = re.compile(r"[a-z0-9][a-z0-9-]*-\d[\w.!+-]*\.sha256")
PLACES = (STATES, BUDGETS, SCRIPTS, *DOWNLOADS)


@dataclass(frozen=True)
class Download:
    """A package or a converted checkpoint: bytes, and when it was made, seconds since the epoch.

    made: 0 for a time in the future.
    """

    path: Path
    size: int
    made: float


@dataclass(frozen=True)
class Held:
    """A store and whose it is; identity: None where identity.json is gone or damaged."""

    folder: eviction.Folder
    identity: Mapping[str, str] | None

    @property
    def model(self) -> str:
        """The model's name and revision."""
        if self.identity is None:
            return "(of an unknown model)"
        revision = self.identity.get("revision", "")
        return self.identity.get("model", "?") + (f"@{revision[:12]}" if revision else "")

    def of(self, name: str) -> bool:
        """Whether it is this model's, NAME or NAME@REVISION (which may be cut short)."""
        if self.identity is None:
            return False
        model, revision = self.identity.get("model", ""), self.identity.get("revision", "")
        asked, _, beginning = name.rpartition("@")
        return model == name or (model == asked and revision.startswith(beginning))


def stores(cache: Path) -> list[Held]:
    """All stores, by folder."""
    if (cache / STATES).is_symlink():
        return []
    return [Held(folder, _identity(folder.path)) for folder in eviction.folders(cache / STATES)]


def _identity(folder: Path) -> Mapping[str, str] | None:
    try:
        text = (folder / "identity.json").read_bytes().decode()
        found = json_value(text)
    except (OSError, ValueError):
        return None
    # its hash names the folder, so what was changed in it is noticed
    return found if folder_name(text) == folder.name and isinstance(found, dict) else None


def texts(held: Sequence[Held]) -> int:
    """How many distinct texts and requests these stores have something of."""
    keys: set[str] = set()
    for one in held:
        for shard in one.folder.shards:
            with contextlib.suppress(OSError):
                found = segment.header(shard.path)
                if found and found.identity and folder_name(found.identity) == one.folder.path.name:
                    keys.update(found.keys)
    return len(keys)


def downloads(cache: Path, kind: str) -> list[Download]:
    """The packages, or the converted checkpoints, by name."""
    return [
        Download(path, tree_size(path), leases.past(path.stat().st_mtime, path.parent))
        for path in _inside(cache / kind)
        if _is_download(kind, path)
    ]


def _is_download(kind: str, path: Path) -> bool:
    if path.is_symlink() or not path.is_dir() or not DOWNLOADS[kind].fullmatch(path.name):
        return False
    return kind != "packages" or path.with_name(f"{path.name}.sha256").is_file()


def budgets(cache: Path) -> list[Path]:
    """The files of batch sizes that were found."""
    return [
        path
        for path in _inside(cache / BUDGETS)
        if re.fullmatch(r"[0-9a-f]{24}\.json", path.name) and path.is_file()
    ]


def scripts(cache: Path) -> list[Path]:
    """The files that draw the figures of the page."""
    return [
        path
        for path in _inside(cache / SCRIPTS)
        if re.fullmatch(r"vl-convert-[\w.+-]+\.js", path.name) and path.is_file()
    ]


def records_alone(cache: Path) -> list[Path]:
    """Checksums of packages that are not there."""
    return [
        path
        for path in _inside(cache / "packages")
        if RECORD.fullmatch(path.name)
        and path.is_file()
        and not os.path.lexists(path.with_name(path.name.removesuffix(".sha256")))
    ]


def sweep(cache: Path, older: float = temporary.AGE) -> None:
    """Remove what killed processes have left anywhere; older: as in temporary.sweep."""
    places = [cache / name for name in (BUDGETS, SCRIPTS, *DOWNLOADS)]
    held = [] if (cache / STATES).is_symlink() else list(eviction.folders(cache / STATES))
    for place in (cache, *(p for p in places if not p.is_symlink()), *(one.path for one in held)):
        temporary.sweep(place, older=older)


def remove_home(cache: Path) -> None:
    """Remove what libraries keep here where the user's home cannot be written (homes.py)."""
    if not (cache / location.FOLDER).is_symlink():
        temporary.remove(cache / location.FOLDER)


def remove_folders(cache: Path) -> None:
    """Remove the folders of all kinds in which nothing is left."""
    for name in PLACES:
        with contextlib.suppress(OSError):  # not empty, a link, or not there
            (cache / name).rmdir()


def strangers(cache: Path) -> list[Path]:
    """What is not ours, apart from what lies within stores (eviction.Folder.foreign)."""
    found = [
        path
        for path in _inside(cache)
        if path.is_symlink()
        or not (path.name in (*PLACES, location.FOLDER) or temporary.known(path.name))
    ]
    if not (cache / STATES).is_symlink():
        found += eviction.strangers(cache / STATES)
    for kind in DOWNLOADS:
        ours = {one.path for one in downloads(cache, kind)}
        records = {path.with_name(f"{path.name}.sha256") for path in ours}
        found += [path for path in _inside(cache / kind) if path not in ours | records]
    kept = {*budgets(cache), *scripts(cache), *records_alone(cache)}
    found = [path for path in found if path not in kept and not temporary.known(path.name)]
    rest = [*_inside(cache / BUDGETS), *_inside(cache / SCRIPTS)]
    return [*found, *(p for p in rest if p not in kept and not temporary.known(p.name))]


def tree_size(folder: Path) -> int:
    """Bytes of all files below; links are not followed."""
    size = 0
    for inner, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):
                size += os.lstat(os.path.join(inner, name)).st_size
    return size


def in_use(cache: Path) -> bool:
    """Whether any process has a store of this cache open."""
    now = leases.clock(cache)
    return any(leases.since(one.folder.path, now) is not None for one in stores(cache))


def remove_download(one: Download) -> None:
    """Remove a package or a converted checkpoint; if killed midway, it is gone all the same.

    Raises OSError.
    """
    with temporary.path(one.path.parent) as aside:
        one.path.rename(aside)
        one.path.with_name(f"{one.path.name}.sha256").unlink(missing_ok=True)


def remove_states(
    held: Held, before: float | None = None
) -> tuple[list[eviction.File], list[eviction.File]]:
    """Remove what a store holds; the files that are gone, and those that stay as they are in use.

    before: only what was not used since then (seconds since the epoch). A store that is empty and
    not in use goes with its folder.
    """
    folder = held.folder
    now = leases.clock(folder.path)
    since = leases.since(folder.path, now)
    gone: list[eviction.File] = []
    stay: list[eviction.File] = []
    left = [file for file in eviction.leftovers(folder, now) if eviction.remove(file, None)]
    gone += left
    for file in folder.shards:
        if before is None or file.used < before:
            (gone if eviction.remove(file, since) else stay).append(file)
    if since is None and len(gone) == len(folder.shards) + len(folder.begun):
        leases.sweep(folder.path, now)
        # foreign files keep the folder, or the lease of a process that came just now, which puts
        # identity.json back when it writes
        with contextlib.suppress(OSError):
            (folder.path / "identity.json").unlink(missing_ok=True)
            folder.path.rmdir()
    return gone, stay


def damaged(held: Held) -> Iterator[tuple[Path, str]]:
    """The files of a store that it would not read from, and what is wrong with each."""
    if held.identity is None and held.folder.shards:
        yield (
            held.folder.path / "identity.json",
            "missing or changed; it comes back when its model is read again",
        )
    for file in held.folder.shards:
        try:
            header = segment.header(file.path)
            if header is None:
                yield file.path, "no header of a store's file"
            elif header.identity is None or folder_name(header.identity) != file.path.parent.name:
                yield file.path, f"states {whose(header.identity)}"
            elif not segment.intact(file.path):
                yield file.path, "its content is not what its name says"
        except FileNotFoundError:  # removed by another process meanwhile
            continue
        except OSError as error:
            yield file.path, f"cannot be read ({error.strerror})"


def _inside(folder: Path) -> list[Path]:
    """What lies in a folder; nothing where it is a link or not there."""
    try:
        return [] if folder.is_symlink() else sorted(folder.iterdir())
    except OSError:
        return []
