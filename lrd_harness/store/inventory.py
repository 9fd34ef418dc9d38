"""What lies in the cache folder, by what it is; and removing what is ours, whole or not at all.

    packages/NAME-VERSION, .sha256    unpacked packages, and the checksums of their wheels
    converted/NAME-HASH               checkpoints made of GGUF files
    states/HASH                       the stores, see store.py
    budgets/HASH.json                 batch sizes that were found
    scripts/vl-convert-VERSION.js     what draws the figures of the page

States that were written or read from within the last hour are in use, and stay. What has a name of
files.py is being made, or was when its process was killed: that goes with the next command.
Everything else is foreign: it is named, left alone, and a link is not followed. The cache folder
itself is given without links in its path.
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

STATES = "states"
DOWNLOADS = {"packages": re.compile(r"[^.].*"), "converted": re.compile(r".+-[0-9a-f]{12}")}
BUDGETS, SCRIPTS = "budgets", "scripts"
SMALL = {BUDGETS: r"[0-9a-f]{24}\.json", SCRIPTS: r"vl-convert-[\w.+-]+\.js"}
RECORD = re.compile(r"[a-z0-9][a-z0-9-]*-\d[\w.!+-]*\.sha256")
# identity.json, and what versions before noted that a process uses the folder by
OURS = re.compile(r"identity\.json|[0-9a-f]{12}\.\d+\.\d+\.[0-9a-f]{8}\.lease")
STORE = re.compile(r"[0-9a-f]{24}")
PLACES = (STATES, *SMALL, *DOWNLOADS)
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
        asked, _, beginning = name.rpartition("@")
        return model == name or (model == asked and revision.startswith(beginning))


def stores(cache: Path) -> list[Stored]:
    """All stores, by folder."""
    return [_stored(path) for path in _inside(cache / STATES) if _is_store(path)]


def _is_store(path: Path) -> bool:
    return bool(STORE.fullmatch(path.name)) and path.is_dir() and not path.is_symlink()


def _stored(path: Path) -> Stored:
    found = Stored(path, _identity(path))
    for one in _inside(path):
        states = store.NAME.fullmatch(one.name)
        if not one.is_symlink() and (files.known(one.name) or (states and one.is_file())):
            with contextlib.suppress(OSError):  # it was removed just now
                (found.states if states else found.begun).append(_item(one))
        elif one.is_symlink() or not OURS.fullmatch(one.name):
            found.foreign.append(one)
    return found


def _identity(folder: Path) -> Mapping[str, str] | None:
    try:
        text = (folder / "identity.json").read_bytes().decode()
        found = json_value(text)
    except (OSError, ValueError):
        return None
    # its hash names the folder, so what was changed in it is noticed
    return found if folder_name(text) == folder.name and isinstance(found, dict) else None


def _item(path: Path) -> Item:
    """A file or folder. Raises OSError."""
    changed = path.lstat().st_mtime
    if changed > time.time() + files.SKEW and changed > files.clock(path.parent) + files.SKEW:
        changed = 0.0
    return Item(path, tree_size(path), changed)


def tree_size(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; links are not followed."""
    inside = [Path(inner, name) for inner, _, names in os.walk(path) for name in names]
    size = 0
    for file in inside or [path]:
        with contextlib.suppress(OSError):
            size += file.lstat().st_size if file.is_symlink() or file.is_file() else 0
    return size


def texts(stored: Iterable[Stored]) -> int:
    """How many distinct texts and requests these stores have something of."""
    keys: set[str] = set()
    for one in stored:
        for item in one.states:
            with contextlib.suppress(OSError):
                found = store.header(item.path)
                if found and found.identity and folder_name(found.identity) == one.path.name:
                    keys.update(found.keys)
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


def small_files(cache: Path, kind: str) -> list[Path]:
    """The files of batch sizes (BUDGETS), or SCRIPTS."""
    return [p for p in _inside(cache / kind) if re.fullmatch(SMALL[kind], p.name) and p.is_file()]


def scripts(cache: Path) -> list[Path]:
    """The files that draw the figures of the page."""
    return small_files(cache, SCRIPTS)


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
    stored = stores(cache)
    kept = {one.path for one in stored} | {*records_alone(cache)}
    for kind in SMALL:
        kept |= {*small_files(cache, kind)}
    for kind in DOWNLOADS:
        ours = {one.path for one in downloads(cache, kind)}
        kept |= ours | {path.with_name(f"{path.name}.sha256") for path in ours}
    top = [cache / name for name in (*PLACES, location.FOLDER)]
    kept |= {path for path in top if not path.is_symlink()}
    found = [
        path for place in (cache, *(cache / name for name in PLACES)) for path in _inside(place)
    ]
    found = [p for p in found if p not in kept and not (files.known(p.name) and not p.is_symlink())]
    return [*found, *(path for one in stored for path in one.foreign)]


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
    found = stores(cache)
    beyond = sum(one.size for one in found) - limit
    for item in sorted((i for one in found for i in one.states), key=lambda i: (i.used, i.path)):
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
    gone = [one for one in stored.begun if files.dead(one.path, now) and _removed(one)]
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
    rest = records_alone(cache)
    if everything:
        rest += [path for kind in SMALL for path in small_files(cache, kind)]
    for path in rest:
        path.unlink(missing_ok=True)
    if everything:
        home = cache / location.FOLDER  # of libraries, where the user's own cannot be written
        if not home.is_symlink():
            files.remove(home)
        for name in PLACES:
            with contextlib.suppress(OSError):  # not empty, a link, or not there
                (cache / name).rmdir()


def sweep(cache: Path, older: float = files.AGE) -> None:
    """Remove what killed processes have left anywhere; older: as in files.sweep."""
    places = [cache / name for name in (*SMALL, *DOWNLOADS)]
    stored = [path for path in _inside(cache / STATES) if _is_store(path)]
    for place in (cache, *(path for path in places if not path.is_symlink()), *stored):
        files.sweep(place, older=older)


def _inside(folder: Path) -> list[Path]:
    """What lies in a folder; nothing where it is a link or not there."""
    try:
        return [] if folder.is_symlink() else sorted(folder.iterdir())
    except OSError:
        return []
