"""Files that are whole or not there, what killed processes leave of them, and disks that are full.

Work has a name that says which process of which machine is at it, and is then renamed; so what a
living process is at stays, and what is left of a killed one goes (of other machines: by its time).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import socket
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import cache
from pathlib import Path

from lrd_harness.errors import PluginFault, StorageFull, UserError

NAME = re.compile(r"\.work-([0-9a-f]{12})\.(\d+)\.(\d+)\.[0-9a-f]{8}")
AGE = 86_400  # seconds after which another machine's work is taken for a killed process's
ANY = -float("inf")  # as an age: whatever is so named
SKEW = 60.0  # seconds by which clocks of machines may differ

Watch = Callable[[], AbstractContextManager[None]]
writing: ContextVar[Watch] = ContextVar("writing", default=nullcontext)  # around what is written


def name() -> str:
    """A new name for something that this process is making."""
    number = os.getpid()
    return f".work-{_machine()}.{number}.{_about(number)[1]}.{secrets.token_hex(4)}"


def known(named: str) -> bool:
    """Whether it is the name of something that is being made, or was when its process ended."""
    return NAME.fullmatch(named) is not None


@contextmanager
def path(place: Path) -> Iterator[Path]:
    """A free path in a folder; what is there at the end of the block is removed."""
    work = place / name()
    try:
        yield work
    finally:
        remove(work)


@contextmanager
def folder(place: Path) -> Iterator[Path]:
    """A new folder in a folder, removed with its content at the end. Raises OSError."""
    with path(place) as work:
        work.mkdir(mode=0o700)
        yield work


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder as `folder`, where this system keeps what is temporary. Raises OSError."""
    place = Path(tempfile.gettempdir())
    remove_leftovers(place)
    with folder(place) as work:
        yield work


def remove_leftovers(place: Path, *, older: float = AGE, deep: bool = False) -> None:
    """Remove what killed processes have left in a folder; deep: and in the folders below it.

    older: seconds for which work of another machine counts as in use. Links are not followed.
    """
    begun: list[Path] = []
    for inner, folders, files in os.walk(place):
        begun += [Path(inner, named) for named in (*folders, *files) if known(named)]
        folders[:] = [named for named in folders if deep and not known(named)]
    now = clock(place) if begun else 0.0
    for work in begun:
        if dead(work, now, older):
            remove(work)


def make_folder(place: Path) -> None:
    """Make a folder for results, without what killed processes have left in it.

    Raises UserError if that cannot be done or nothing can be written there.
    """
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{place} cannot be made ({error.strerror})") from None
    if not os.access(place, os.W_OK):
        raise UserError(f"{place} cannot be written to")
    remove_leftovers(place, older=AGE, deep=True)


def dead(work: Path, now: float, older: float = AGE) -> bool:
    """Whether nobody is at it any more. A time in the future is none at which it was in use.

    now: the time as the file system has it, see `clock`; older: as in `remove_leftovers`.
    """
    match = NAME.fullmatch(work.name)
    if match and match[1] == _machine():
        return not _alive(int(match[2]), int(match[3]))
    try:
        changed = work.lstat().st_mtime
    except OSError:  # it has its own name now
        return True
    return not -SKEW <= now - changed <= older


def remove(work: Path) -> None:
    """Remove it, if it is there, as far as that can be done; a link is not followed."""
    if work.is_dir() and not work.is_symlink():
        shutil.rmtree(work, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            work.unlink()


def checksum(path: Path) -> str:
    """The sha256 of a file's content. Raises OSError."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def clock(folder: Path) -> float:
    """The time as the file system has it, which may be another machine's; else this one's."""
    with contextlib.suppress(OSError), tempfile.TemporaryFile(dir=folder) as probe:
        return os.fstat(probe.fileno()).st_mtime
    return time.time()


def _alive(number: int, begun: int) -> bool:
    """Whether the process of that number that started then is there, and not merely unreaped."""
    if sys.platform == "win32":  # no signal there asks without harm
        return True
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    state, ticks = _about(number)
    return state not in ("Z", "X") and begun in (0, ticks)


def _about(number: int) -> tuple[str, int]:
    """A process's state, and its start in ticks, as Linux tells them; "" and 0 elsewhere."""
    try:
        status = Path(f"/proc/{number}/stat").read_text(errors="replace")
        fields = status.rpartition(")")[2].split()
        return fields[0], int(fields[19])
    except (OSError, ValueError, IndexError):
        return "", 0


@cache
def _machine() -> str:
    """This machine, since it was started, and this process's view of process numbers."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


# a full disk, a quota that is used up, a limit on the size of a file
FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


def write_text(to: Path, text: str) -> None:
    """Replace a file by a text at once, as `write_bytes` does."""
    write_bytes(to, text.encode("utf-8"))


def write_bytes(to: Path, contents: bytes, tidy: bool = True) -> None:
    """Replace a file at once: a reader or a killed process never leaves half of it.

    tidy: whether to remove what killed processes have left in its folder.
    The file keeps its mode; a new one has that of any new file. Of a link, what it points to is
    replaced. What is no file, as a pipe or /dev/stdout, is written into as it is.

    Raises StorageFull where there is no space for it.
    """
    with space(to.parent):
        try:
            mode = to.stat().st_mode
        except FileNotFoundError:
            mode = None
        # below these two, what is open already, as /dev/stdout and /proc/self/fd/1
        opened = Path(os.path.abspath(to)).parts[1:2] in (("dev",), ("proc",))
        if mode is not None and (opened or not stat.S_ISREG(mode)):
            with to.open("wb") as stream:
                stream.write(contents)
            return
        target = Path(os.path.realpath(to)) if to.is_symlink() else to
        if tidy:
            remove_leftovers(target.parent)
        with path(target.parent) as work:
            with work.open("xb") as stream:
                stream.write(contents)
                stream.flush()
                os.fsync(stream.fileno())
            if mode is not None:
                work.chmod(stat.S_IMODE(mode))
            work.replace(target)


def usual_modes(folder: Path) -> None:
    """Give all files below a folder the mode of a new file: libraries make some for one user."""
    with path(folder) as probe:
        probe.touch()
        usual = stat.S_IMODE(probe.stat().st_mode)
        for inner, _, names in os.walk(folder):
            for name in names:
                Path(inner, name).chmod(usual)


@contextmanager
def space(folder: Path) -> Iterator[None]:
    """Within the block, an error that says that nothing more can be written becomes StorageFull."""
    try:
        with writing.get()():
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
