"""Files that are whole or not there, and what is said where no more can be written."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lrd_harness import temporary
from lrd_harness.errors import PluginFault, StorageFull, UserError

# a full disk, a quota that is used up, a limit on the size of a file
FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


def named(name: str) -> Path:
    """The path of a name, its ~ expanded. Raises UserError for a name that no path can have."""
    check_typed([name])
    try:
        return Path(name).expanduser()
    except RuntimeError:
        raise UserError(f"{name}: there is no user of that name, or none with a home") from None


def there(name: str) -> bool:
    """Whether something of that name is there, which a name that is too long for one never is."""
    try:
        return named(name).exists()
    except OSError:
        return False


def check_typed(words: Iterable[str]) -> None:
    """Raise UserError for a word that cannot be a path nor be written down."""
    for word in words:
        if "\0" in word:
            raise UserError(f"{word!r} holds a NUL character, which no name can")
        try:
            word.encode()
        except UnicodeEncodeError:
            raise UserError(f"{word!r} is not UTF-8 text") from None


def write_text(path: Path, text: str) -> None:
    """Replace a file by a text at once, as `write_bytes` does."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, contents: bytes, tidy: bool = True) -> None:
    """Replace a file at once: a reader or a killed process never leaves half of it.

    tidy: whether to remove what killed processes have left in its folder (temporary.py).
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
        if tidy:
            temporary.sweep(target.parent)
        with temporary.file(target.parent) as file:
            file.write(contents)
            temporary.keep(file, target, there and stat.S_IMODE(there.st_mode))


def _is_device(path: Path) -> bool:
    """Whether it is there for a file that is open already, as /dev/stdout and /proc/self/fd/1."""
    return Path(os.path.abspath(path)).parts[1:2] in (("dev",), ("proc",))


def usual_modes(folder: Path) -> None:
    """Give all files below a folder the mode of a new file: libraries make some for one user."""
    with temporary.file(folder) as file:
        usual = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        for inner, _, names in os.walk(folder):
            for name in names:
                os.chmod(os.path.join(inner, name), usual)


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
        if isinstance(behind, PluginFault):  # of a disk of its own, or a made up one
            return None
        if isinstance(behind, OSError) and behind.errno in FULL:
            return StorageFull(_advice(Path(behind.filename) if behind.filename else None))
        behind = behind.__cause__ or behind.__context__
    return None


def _advice(place: Path | None) -> str:
    return (
        f"no space left{f' on the disk or in the quota of {place}' if place else ''}: free some, "
        "or run `lrd-harness cache clear`; the same command then goes on where it stopped"
    )
