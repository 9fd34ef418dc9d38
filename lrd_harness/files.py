"""Files that are whole or not there, and what is said where no more can be written."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lrd_harness.errors import StorageFull

# a full disk, a quota that is used up, a limit on the size of a file
FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


def write_text(path: Path, text: str) -> None:
    """Replace a file by a text at once, as `write_bytes` does."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, contents: bytes) -> None:
    """Replace a file at once: a reader or a killed process never leaves half of it.

    The file keeps its mode; a new one has that of any new file. Of a link, what it points to is
    replaced. What is no file, as a pipe or /dev/stdout, is written into as it is.

    Raises StorageFull where there is no space for it.
    """
    with space(path.parent):
        try:
            there = path.stat()
        except FileNotFoundError:
            there = None
        if there is not None and (not stat.S_ISREG(there.st_mode) or _is_device(path)):
            with path.open("wb") as stream:
                stream.write(contents)
            return
        target = Path(os.path.realpath(path)) if path.is_symlink() else path
        handle, part = _begin(target)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(contents)
                file.flush()
                os.fsync(file.fileno())
            if there is not None:
                part.chmod(stat.S_IMODE(there.st_mode))
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)


def _is_device(path: Path) -> bool:
    """Whether it is there for a file that is open already, as /dev/stdout and /proc/self/fd/1."""
    return Path(os.path.abspath(path)).parts[1:2] in (("dev",), ("proc",))


def _begin(path: Path) -> tuple[int, Path]:
    """A new file beside this one, open, with the mode that the process gives new files."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    return os.open(part, flags, 0o666), part


@contextmanager
def space(folder: Path) -> Iterator[None]:
    """Within the block, an error that says that nothing more can be written becomes StorageFull."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise StorageFull(_advice(folder)) from error
        raise


def full(error: BaseException) -> StorageFull | None:
    """The full disk behind a fault, whatever it was raised as on its way; None for other faults."""
    seen: set[int] = set()
    behind: BaseException | None = error
    while behind is not None and id(behind) not in seen:
        seen.add(id(behind))
        if isinstance(behind, StorageFull):
            return behind
        if isinstance(behind, OSError) and behind.errno in FULL:
            return StorageFull(_advice(Path(behind.filename) if behind.filename else None))
        behind = behind.__cause__ or behind.__context__
    return None


def _advice(place: Path | None) -> str:
    return (
        f"no space left{f' on the disk or in the quota of {place}' if place else ''}: free some, "
        "or run `lrd-harness cache clear`; the same command then goes on where it stopped"
    )
