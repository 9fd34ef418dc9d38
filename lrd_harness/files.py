"""Files that are whole or not there, and what is said where no more can be written."""

from __future__ import annotations

import errno
import os
import tempfile
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

    Raises StorageFull where there is no space for it.
    """
    with space(path.parent):
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        part = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(contents)
                file.flush()
                os.fsync(file.fileno())
            part.chmod(0o644)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


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
