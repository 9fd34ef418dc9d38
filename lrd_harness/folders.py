"""A form of the leaderboard that is a folder: names made safe, whole files, nobody's replaced.

The folder keeps a list of what was written there (`.lrd-harness.json`: path -> sha256), so that a
file that somebody else made, or changed since, is told from one of ours.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from lrd_harness.errors import UserError
from lrd_harness.files import write_bytes

LIST = ".lrd-harness.json"
LONGEST = 100  # bytes of a safe name
MOST = 230  # bytes of a part of a path; a file system takes 255, some for what is being written
UNSAFE = re.compile(r"[^\w.+=@-]+")
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # of Windows


def safe_name(name: str) -> str:
    """A name of anything as that of a file or folder; distinct names stay distinct.

    intfloat/e5-small-v2 becomes intfloat__e5-small-v2, as in mteb's folders. A name that loses
    more than a slash, is too long or could be taken for another one gets a part of its hash.
    """
    found = UNSAFE.sub("_", name.replace("/", "__"))
    found = found.encode()[:LONGEST].decode(errors="ignore").strip(".").lstrip("-")
    alike = name.count("/") <= 1 and "__" not in name and found.replace("__", "/") == name
    if alike and found and not RESERVED.fullmatch(found):
        return found
    digest = hashlib.sha256(name.encode("utf-8", "backslashreplace")).hexdigest()[:8]
    return f"{found}-{digest}" if found else digest


def write_folder(folder: Path, form: str, files: Iterable[tuple[str, bytes]]) -> list[str]:
    """Write a form's files, each at once; returns their paths.

    Files of an earlier call that are as they were left are written over. Raises UserError for a
    path that is not plainly inside the folder or is there twice, for a file that somebody else
    made or changed, and where the folder cannot be written to; nothing is written then.
    """
    made: dict[str, bytes] = {}
    for path, contents in files:
        if not inside(path) or path in made:
            twice = "twice" if path in made else "which is no path inside the folder"
            raise UserError(f"reporter {form} gives the file {path!r}, {twice}")
        made[path] = contents
    try:
        held = _check_free(folder, form, made)
        marks = {path: [*held.get(path, ()), _mark(contents)] for path, contents in made.items()}
        folder.mkdir(parents=True, exist_ok=True)
        _keep(folder, {**held, **marks})  # first: killed in between, all files still count as ours
        for path, contents in made.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            write_bytes(folder / path, contents)
        _keep(folder, {**held, **{path: mark[-1:] for path, mark in marks.items()}})
    except OSError as error:
        raise UserError(f"{folder} cannot be written to ({error.strerror})") from None
    return list(made)


def inside(path: str) -> bool:
    """Whether a path of a file is relative, and of ordinary parts on any system."""
    parts = path.split("/")
    plain = path.isprintable() and not set(path) & set('\\:*?"<>|') and path != LIST
    return plain and all(
        part not in ("", ".", "..") and len(part.encode()) <= MOST for part in parts
    )


def _check_free(folder: Path, form: str, made: Mapping[str, bytes]) -> dict[str, list[str]]:
    """What is there of ours, path -> marks. Raises UserError where a stranger's is in the way."""
    if not folder.is_dir():
        if folder.exists() or folder.is_symlink():
            raise UserError(f"{folder} is a file, and the form {form} is a folder")
        return {}
    held = _kept(folder)
    for name, contents in made.items():
        path = folder / name
        above = [folder / part for part in PurePosixPath(name).parents if part.name]
        odd = [one for one in above if one.is_symlink() or (one.exists() and not one.is_dir())]
        if odd or path.is_symlink() or path.is_dir():
            raise UserError(f"{(odd or [path])[0]} is in the way, and was not made by lrd-harness")
        if path.exists() and _mark(path.read_bytes()) not in {*held.get(name, ()), _mark(contents)}:
            raise UserError(
                f"{path} is there already, and was not made by lrd-harness or changed since: "
                "move it away, or give another --output"
            )
    return held


def _mark(contents: bytes) -> str:
    return hashlib.sha256(contents).hexdigest()


def _kept(folder: Path) -> dict[str, list[str]]:
    """The list of the folder; empty where it has none that can be read."""
    try:
        found = json.loads((folder / LIST).read_text(encoding="utf-8"))
        return {str(path): [str(mark) for mark in marks] for path, marks in found["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _keep(folder: Path, marks: Mapping[str, Iterable[str]]) -> None:
    document = {"made_by": "lrd-harness leaderboard", "files": {k: [*v] for k, v in marks.items()}}
    write_bytes(folder / LIST, (json.dumps(document, indent=1) + "\n").encode())
