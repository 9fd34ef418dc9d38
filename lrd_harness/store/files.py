"""Files that are whole or not there, what killed processes leave of them, and CSV as it is written.

A file or folder is made under a name that says which process of which machine is at it, beside what
it is to become, and is then renamed. So whoever uses a place next can tell what a living process is
working on, which stays, from what is left of one that was killed, which goes. Of a process of
another machine it is told by time.

Names cannot become formulas where a spreadsheet opens a CSV file: a text that begins with = + - @,
a tab or a line end gets an apostrophe before it, which spreadsheets take for "this is text"; one
that has apostrophes before such a sign gets one more, so that what is read back is what was
written. Numbers are written as they are.
"""

from __future__ import annotations

import contextlib
import csv
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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from lrd_harness.errors import PluginFault, StorageFull

NAME = re.compile(r"\.work-([0-9a-f]{12})\.(\d+)\.(\d+)\.[0-9a-f]{8}")
AGE = 86_400  # seconds after which another machine's work is taken for a killed process's
ANY = -float("inf")  # as an age: whatever is so named
SKEW = 60.0  # seconds by which clocks of machines may differ


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
    made = place / name()
    try:
        yield made
    finally:
        remove(made)


@contextmanager
def file(place: Path) -> Iterator[BinaryIO]:
    """A new file in a folder, with the mode of any new file; gone at the end unless kept (`keep`).

    Raises OSError.
    """
    with path(place) as made, made.open("xb") as stream:
        yield stream


def keep(stream: BinaryIO, to: Path, mode: int | None = None) -> None:
    """Give a file of `file` its own name, when its content is on disk. Raises OSError."""
    made = Path(stream.name)
    stream.flush()
    os.fsync(stream.fileno())
    stream.close()
    if mode is not None:
        made.chmod(mode)
    made.replace(to)


@contextmanager
def folder(place: Path) -> Iterator[Path]:
    """A new folder in a folder, removed with its content at the end. Raises OSError."""
    with path(place) as made:
        made.mkdir(mode=0o700)
        yield made


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder as `folder`, where this system keeps what is temporary. Raises OSError."""
    place = Path(tempfile.gettempdir())
    sweep(place)
    with folder(place) as made:
        yield made


def sweep(place: Path, *, older: float = AGE, deep: bool = False) -> None:
    """Remove what killed processes have left in a folder; deep: and in the folders below it.

    older: seconds for which work of another machine counts as in use. Links are not followed.
    """
    begun: list[Path] = []
    for inner, folders, files in os.walk(place):
        begun += [Path(inner, named) for named in (*folders, *files) if known(named)]
        folders[:] = [one for one in folders if deep and not known(one)]
    if begun:
        now = clock(place)
        for made in begun:
            if dead(made, now, older):
                remove(made)


def dead(made: Path, now: float, older: float = AGE) -> bool:
    """Whether nobody is at it any more. A time in the future is none at which it was in use.

    now: the time as the file system has it, see `clock`; older: as in `sweep`.
    """
    match = NAME.fullmatch(made.name)
    if match and match[1] == _machine():
        return not _alive(int(match[2]), int(match[3]))
    try:
        changed = made.lstat().st_mtime
    except OSError:  # it has its own name now
        return True
    return not -SKEW <= now - changed <= older


def remove(made: Path) -> None:
    """Remove it, if it is there, as far as that can be done; a link is not followed."""
    if made.is_dir() and not made.is_symlink():
        shutil.rmtree(made, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            made.unlink()


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
        told = Path(f"/proc/{number}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return told[0], int(told[19])
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


def write_text(path: Path, text: str) -> None:
    """Replace a file by a text at once, as `write_bytes` does."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, contents: bytes, tidy: bool = True) -> None:
    """Replace a file at once: a reader or a killed process never leaves half of it.

    tidy: whether to remove what killed processes have left in its folder.
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
            sweep(target.parent)
        with file(target.parent) as opened:
            opened.write(contents)
            keep(opened, target, there and stat.S_IMODE(there.st_mode))


def _is_device(path: Path) -> bool:
    """Whether it is there for a file that is open already, as /dev/stdout and /proc/self/fd/1."""
    return Path(os.path.abspath(path)).parts[1:2] in (("dev",), ("proc",))


def usual_modes(folder: Path) -> None:
    """Give all files below a folder the mode of a new file: libraries make some for one user."""
    with file(folder) as opened:
        usual = stat.S_IMODE(os.fstat(opened.fileno()).st_mode)
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


_FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")  # the wide signs count, too
_END = "\r\n"
_literal: ContextVar[bool] = ContextVar("literal", default=False)


@contextmanager
def literal_names(wanted: bool = True) -> Iterator[None]:
    """Within the block, names are written as they are."""
    token = _literal.set(wanted)
    try:
        yield
    finally:
        _literal.reset(token)


def written(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table as CSV: commas, numbers in full, None an empty cell, lines ended by \\n."""
    lines = _Lines()
    writer = csv.writer(lines, lineterminator=_END)
    writer.writerow([_guarded(cell) for cell in header])
    writer.writerows([_guarded(cell) for cell in row] for row in rows)
    return "".join(lines)


class _Lines(list[str]):
    """Rows as csv gives them, but ended by \\n: csv quotes only such line ends as end its rows."""

    def write(self, row: str) -> None:
        self.append(f"{row.removesuffix(_END)}\n")


def written_rows(header: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows by column name as CSV; a column that a row lacks is empty."""
    return written(header, ([row.get(name) for name in header] for row in rows))


def unguarded(cell: str) -> str:
    """A cell as it was before it was written."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def _guarded(cell: Any) -> Any:
    if not isinstance(cell, str) or _literal.get() or not _FORMULA.match(cell):
        return cell
    return cell if cell == "-" or _is_number(cell) else f"'{cell}"


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return cell == cell.strip()
