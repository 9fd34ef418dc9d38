"""A form of the leaderboard that is a folder: names made safe, whole files, nobody's replaced.

The folder keeps a list of what was written there (`.lrd-harness.json`: path -> form and sha256), by
which a file that somebody else made, or changed since, is told from one of ours.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from lrd_harness.errors import UserError
from lrd_harness.store.documents import json_value, read_file
from lrd_harness.store.files import remove_leftovers, write_bytes

LIST = ".lrd-harness.json"
LONGEST = 100  # bytes of a safe name
MOST = 230  # bytes of a part of a path; a file system takes 255, some for what is being written
UNSAFE = re.compile(r"[^\w.+=@-]+")
HASHED = re.compile(r"(.*-)?[0-9a-f]{8}", re.IGNORECASE)  # what a part of a hash could end
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # of Windows


class Listed(NamedTuple):
    """A file of ours: the form that it belongs to, and the sha256 that it may have.

    There are several where a call was killed.
    """

    form: str
    sums: tuple[str, ...]


def safe_name(name: str) -> str:
    """A name of anything as that of a file or folder; distinct names stay distinct.

    intfloat/e5-small-v2 becomes intfloat__e5-small-v2, as in mteb's folders. A name that loses
    more than a slash, is too long or could be taken for another one gets a part of its hash. Names
    that differ in case alone are one on some systems: of several names, see safe_names.
    """
    stem = _stem(name)
    alike = name.count("/") <= 1 and "__" not in name and stem.replace("__", "/") == name
    taken = RESERVED.fullmatch(stem) or HASHED.fullmatch(stem)
    return stem if alike and stem and not taken else _hashed(name)


def fitting(name: str) -> str:
    """The name itself where it can be that of a file, with room for an ending; else a safe one."""
    return name if len(name.encode()) <= MOST - 30 else safe_name(name)


def safe_names(names: Iterable[str]) -> dict[str, str]:
    """The safe name of each, distinct also where upper and lower case, or accents, are one."""
    safe = {name: safe_name(name) for name in names}
    counts = Counter(map(folded, safe.values()))
    return {n: part if counts[folded(part)] == 1 else _hashed(n) for n, part in safe.items()}


def _stem(name: str) -> str:
    plain = UNSAFE.sub("_", name.replace("/", "__"))
    return plain.encode()[:LONGEST].decode(errors="ignore").strip(".").lstrip("-")


def _hashed(name: str) -> str:
    stem = _stem(name)
    digest = hashlib.sha256(name.encode("utf-8", "backslashreplace")).hexdigest()[:8]
    return f"{stem}-{digest}" if stem else digest


def folded(path: str) -> str:
    """The same for all that a file system may take for one name."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", path).casefold())


def write_folder(
    folder: Path,
    form: str,
    files: Iterable[tuple[str, bytes]],
    say: Callable[[str], None] = lambda note: None,
) -> list[str]:
    """Write a form's files, each at once; returns their paths.

    Files of an earlier call that are as they were left are written over; those of the same form
    that this call does not write are removed, so that a folder never holds parts of two calls. One
    that was changed since stays, and `say` is told of it. Without any file nothing is touched.

    Raises UserError for a path that is not plainly inside the folder or is there twice (upper and
    lower case being one), for a file that somebody else made or changed, and where the folder
    cannot be written to; nothing is written then.
    """
    contents = _distinct(form, files)
    if not contents:
        return []
    try:
        listed = _check_free(folder, form, contents)
        folder.mkdir(parents=True, exist_ok=True)
        for place in {(folder / path).parent for path in (LIST, *listed, *contents)}:
            remove_leftovers(place)
        new = {path: Listed(form, (_sum(content),)) for path, content in contents.items()}
        # first: killed in between, all files still count as ours
        both = {path: Listed(form, (*_sums(listed, path), *new[path].sums)) for path in new}
        _keep(folder, listed | both)
        earlier = [path for path in listed if listed[path].form == form and path not in contents]
        for path in earlier:
            if _cleared(folder, path, listed[path].sums):
                del listed[path]
            else:
                say(f"{folder / path} is left of an earlier call, as it was changed since")
        for path, content in contents.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            write_bytes(folder / path, content, tidy=False)
        _keep(folder, listed | new)
    except OSError as error:
        raise UserError(f"{folder} cannot be written to ({error.strerror})") from None
    return list(contents)


def _distinct(form: str, files: Iterable[tuple[str, bytes]]) -> dict[str, bytes]:
    """The files by path. Raises UserError for a path outside the folder, and one that is twice."""
    contents: dict[str, bytes] = {}
    alike: dict[str, str] = {}
    for path, content in files:
        if not inside(path):
            raise UserError(f"reporter {form} gives the file {path!r}, no path inside the folder")
        if path in contents:
            raise UserError(f"reporter {form} gives the file {path!r} twice")
        before = alike.setdefault(folded(path), path)
        if before != path:
            raise UserError(
                f"reporter {form} gives the files {before!r} and {path!r}, which are one where "
                "upper and lower case are: see folders.safe_names"
            )
        contents[path] = content
    return contents


def inside(path: str) -> bool:
    """Whether a path of a file is relative, and of ordinary parts on any system."""
    parts = path.split("/")
    plain = path.isprintable() and not set(path) & set('\\:*?"<>|') and path != LIST
    return plain and all(
        part not in ("", ".", "..") and len(part.encode()) <= MOST for part in parts
    )


def _check_free(folder: Path, form: str, contents: Mapping[str, bytes]) -> dict[str, Listed]:
    """What is there of ours, by path. Raises UserError where a stranger's is in the way."""
    if not folder.is_dir():
        if folder.exists() or folder.is_symlink():
            raise UserError(f"{folder} is a file, and the form {form} is a folder")
        return {}
    listed = _kept(folder)
    for name, content in contents.items():
        path, odd = folder / name, _in_the_way(folder, name)
        if odd is not None:
            raise UserError(f"{odd} is in the way, and was not made by lrd-harness")
        ours = {*_sums(listed, name), _sum(content)}
        if path.exists() and _sum(path.read_bytes()) not in ours:
            raise UserError(
                f"{path} is there already, and was not made by lrd-harness or changed since: "
                "move it away, or give another --output"
            )
    return listed


def _in_the_way(folder: Path, name: str) -> Path | None:
    """A link, or a folder for a file or the other way round, on the way to a file."""
    path = folder / name
    for part in PurePosixPath(name).parents:
        above = folder / part
        if part.name and (above.is_symlink() or (above.exists() and not above.is_dir())):
            return above
    return path if path.is_symlink() or (path.exists() and not path.is_file()) else None


def _cleared(folder: Path, name: str, sums: Sequence[str]) -> bool:
    """Remove a file of ours, and the folders that it was all of; False where it is another now."""
    path = folder / name
    if _in_the_way(folder, name) is not None:
        return False
    if path.exists():
        if _sum(path.read_bytes()) not in sums:
            return False
        path.unlink()
    for above in PurePosixPath(name).parents:
        if not above.name or any((folder / above).glob("*")) or not (folder / above).is_dir():
            break
        (folder / above).rmdir()
    return True


def _sum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _sums(listed: Mapping[str, Listed], path: str) -> tuple[str, ...]:
    return listed[path].sums if path in listed else ()


def _kept(folder: Path) -> dict[str, Listed]:
    """The list of the folder; empty where it has none that can be read."""
    try:
        files = json_value(read_file(folder / LIST))["files"]
        return {
            path: Listed(str(entry["form"]), tuple(map(str, entry["sha256"])))
            for path, entry in files.items()
            if inside(path)
        }
    except (UserError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _keep(folder: Path, listed: Mapping[str, Listed]) -> None:
    files = {path: {"form": entry.form, "sha256": entry.sums} for path, entry in listed.items()}
    document = {"made_by": "lrd-harness leaderboard", "files": files}
    write_bytes(folder / LIST, (json.dumps(document, indent=1) + "\n").encode())
