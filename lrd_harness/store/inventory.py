"""What lies in the cache folder, by what it is; and removing what is ours, whole or not at all.

States that were used within the last hour stay, and so does work (files.py) until the next command;
what is foreign is named and left alone. The cache folder is given without links in its path.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lrd_harness.errors import say
from lrd_harness.store import files, location, store
from lrd_harness.store.documents import json_value
from lrd_harness.store.store import folder_name, whose

STATES = "states"  # HASH: the stores, see store.py
# NAME-VERSION, unpacked packages, beside which .sha256 is that of the wheel; NAME-HASH, from GGUF
DOWNLOADS = {"packages": re.compile(r"[^.].*"), "converted": re.compile(r".+-[0-9a-f]{12}")}
# batch sizes and frames that were found, what drew the figures of the page in versions before
SMALL = dict.fromkeys(("budgets", "frames"), r"[0-9a-f]{24}\.json")
SMALL["scripts"] = r"vl-convert-[\w.+-]+\.js"
PLACES = (STATES, *SMALL, *DOWNLOADS)
RECORD = re.compile(r"[a-z0-9][a-z0-9-]*-\d[\w.!+-]*\.sha256")
# identity.json, and what versions before noted that a process uses the folder by
OURS = re.compile(r"identity\.json|[0-9a-f]{12}\.\d+\.\d+\.[0-9a-f]{8}\.lease")
STORE = re.compile(r"[0-9a-f]{24}")
IN_USE = 3600.0  # seconds since the last use of what no room is made of


@dataclass(frozen=True)
class Item:
    """A file of states, a package or a converted checkpoint.

    used: when it was last used or made, seconds since the epoch; 0 for a time in the future.
    """

    path: Path
    size: int
    used: float


@dataclass
class Stored:
    """A store as it lies on disk, and whose it is.

    identity: None where identity.json is gone or damaged; states: its files; begun: what is being
    written, or was when its process was killed; foreign: what no store writes, links among it.
    """

    path: Path
    identity: Mapping[str, str] | None
    states: list[Item] = field(default_factory=list)
    begun: list[Item] = field(default_factory=list)
    foreign: list[Path] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes of all that is ours."""
        return sum(item.size for item in (*self.states, *self.begun))

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
        alone, _, beginning = name.rpartition("@")
        return model == name or (model == alone and revision.startswith(beginning))


def stores(cache: Path) -> list[Stored]:
    """All stores, by folder."""
    return [_stored(path) for path in _folders(cache)]


def _folders(cache: Path) -> list[Path]:
    return [
        path
        for path in _inside(cache / STATES)
        if STORE.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
    ]


def _stored(folder: Path) -> Stored:
    stored = Stored(folder, _identity(folder))
    for path in _inside(folder):
        states = store.NAME.fullmatch(path.name)
        if not path.is_symlink() and (files.known(path.name) or (states and path.is_file())):
            with contextlib.suppress(OSError):  # it was removed just now
                (stored.states if states else stored.begun).append(_item(path))
        elif path.is_symlink() or not OURS.fullmatch(path.name):
            stored.foreign.append(path)
    return stored


def _identity(folder: Path) -> Mapping[str, str] | None:
    try:
        text = (folder / "identity.json").read_bytes().decode()
        identity = json_value(text)
    except (OSError, ValueError):
        return None
    # its hash names the folder, so what was changed in it is noticed
    return identity if folder_name(text) == folder.name and isinstance(identity, dict) else None


def _item(path: Path) -> Item:
    """A file or folder with all below it, where links are not followed. Raises OSError."""
    changed = path.lstat().st_mtime
    if changed > time.time() + files.SKEW and changed > files.clock(path.parent) + files.SKEW:
        changed = 0.0
    inside = [Path(inner, name) for inner, _, names in os.walk(path) for name in names]
    size = 0
    for file in inside or [path]:
        with contextlib.suppress(OSError):
            size += file.lstat().st_size if file.is_symlink() or file.is_file() else 0
    return Item(path, size, changed)


def texts(stored: Iterable[Stored]) -> int:
    """How many distinct texts and requests these stores have something of."""
    keys: set[str] = set()
    for part in stored:
        if "measured" in (part.identity or {}):  # numbers that were made of texts, not states
            continue
        for item in part.states:
            with contextlib.suppress(OSError):
                header = store.header(item.path)
                if header and header.identity and folder_name(header.identity) == part.path.name:
                    keys.update(header.keys)
    return len(keys)


def downloads(cache: Path, kind: str) -> list[Item]:
    """The packages, or the converted checkpoints, by name."""
    return [
        _item(path)
        for path in _inside(cache / kind)
        if not path.is_symlink()
        and path.is_dir()
        and DOWNLOADS[kind].fullmatch(path.name)
        and (kind != "packages" or path.with_name(f"{path.name}.sha256").is_file())
    ]


def small_files(cache: Path) -> list[Path]:
    """The files of batch sizes and frames, and those that draw the figures of the page."""
    return [
        path
        for kind, pattern in SMALL.items()
        for path in _inside(cache / kind)
        if re.fullmatch(pattern, path.name) and path.is_file()
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


def strangers(cache: Path) -> list[Path]:
    """What is not ours, in the whole cache."""
    stored, places = stores(cache), [cache / name for name in PLACES]
    ours = {part.path for part in stored} | {*small_files(cache), *records_alone(cache)}
    ours |= {path for path in (*places, cache / location.FOLDER) if not path.is_symlink()}
    for item in (item for kind in DOWNLOADS for item in downloads(cache, kind)):
        ours |= {item.path, item.path.with_name(f"{item.path.name}.sha256")}
    rest = [path for place in (cache, *places) for path in _inside(place) if path not in ours]
    foreign = [path for path in rest if path.is_symlink() or not files.known(path.name)]
    return [*foreign, *(path for part in stored for path in part.foreign)]


def damaged(stored: Stored) -> Iterator[tuple[Path, str]]:
    """The files of a store that it would not read from, and what is wrong with each."""
    if stored.identity is None and stored.states:
        yield (
            stored.path / "identity.json",
            "missing or changed; it comes back when its model is read again",
        )
    for item in stored.states:
        try:
            header = store.header(item.path)
            if header is None:
                yield item.path, "no header of a store's file"
            elif header.identity is None or folder_name(header.identity) != stored.path.name:
                yield item.path, f"states {whose(header.identity)}"
            elif not store.intact(item.path):
                yield item.path, "its content is not what its name says"
        except FileNotFoundError:  # removed by another process meanwhile
            continue
        except OSError as error:
            yield item.path, f"cannot be read ({error.strerror})"


def make_room(cache: Path) -> None:
    """Keep states within the limit: the least recently used go first, never what is in use.

    Raises UserError for a limit that is no size.
    """
    limit = location.limit()
    if limit is None:
        return
    stored = stores(cache)
    beyond = sum(part.size for part in stored) - limit
    states = (item for part in stored for item in part.states)
    for item in sorted(states, key=lambda item: (item.used, item.path)):
        if beyond > 0 and not in_use(item) and _removed(item):
            beyond -= item.size
    if beyond > 0:
        say(
            f"the store is {location.shown(beyond)} above its limit of {location.shown(limit)} "
            f"({location.LIMIT}): all that is left in it is in use"
        )


def in_use(item: Item) -> bool:
    """Whether a run may be using it."""
    return files.clock(item.path.parent) - item.used < IN_USE


def remove_states(stored: Stored, before: float) -> tuple[list[Item], list[Item]]:
    """Remove what of a store was last used before a time; what is gone, and what stays.

    A store in which nothing is left goes with its folder.
    """
    now = files.clock(stored.path)
    gone = [item for item in stored.begun if files.dead(item.path, now) and _removed(item)]
    stay: list[Item] = []
    for item in stored.states:
        (gone if item.used <= before and _removed(item) else stay).append(item)
    if len(gone) == len(stored.states) + len(stored.begun):
        with contextlib.suppress(OSError):  # foreign files keep the folder
            for path in stored.path.iterdir():
                if OURS.fullmatch(path.name):
                    path.unlink(missing_ok=True)
            stored.path.rmdir()
    return gone, stay


def _removed(item: Item) -> bool:
    """Remove it, unless it was used since it was looked at; whether it is gone."""
    try:
        if item.used and item.path.lstat().st_mtime != item.used:
            return False
        if item.path.is_dir():
            files.remove(item.path)
        else:
            item.path.unlink()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return not item.path.exists()


def remove_download(item: Item) -> None:
    """Remove a package or a converted checkpoint; if killed midway, it is gone all the same.

    Raises OSError.
    """
    with files.path(item.path.parent) as aside:
        item.path.rename(aside)
        item.path.with_name(f"{item.path.name}.sha256").unlink(missing_ok=True)


def remove_rest(cache: Path, everything: bool) -> None:
    """Remove checksums of packages that are gone; everything: and what else is ours."""
    for path in (*records_alone(cache), *(small_files(cache) if everything else ())):
        path.unlink(missing_ok=True)
    if everything:
        home = cache / location.FOLDER  # of libraries, where the user's own cannot be written
        if not home.is_symlink():
            files.remove(home)
        for name in PLACES:
            with contextlib.suppress(OSError):  # not empty, a link, or not there
                (cache / name).rmdir()


def remove_leftovers(cache: Path, older: float = files.AGE) -> None:
    """Remove what killed processes have left anywhere; older: as in files.remove_leftovers."""
    places = [path for path in (cache / n for n in (*SMALL, *DOWNLOADS)) if not path.is_symlink()]
    for place in (cache, *places, *_folders(cache)):
        files.remove_leftovers(place, older=older)


def _inside(folder: Path) -> list[Path]:
    """What lies in a folder; nothing where it is a link or not there."""
    try:
        return [] if folder.is_symlink() else sorted(folder.iterdir())
    except OSError:
        return []
