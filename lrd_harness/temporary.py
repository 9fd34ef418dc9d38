"""What is written before it has its own name, and what killed processes left of it.

A file or folder is made under a name that says which process of which machine is at it, beside what
it is to become, and is then renamed. So whoever uses a place next can tell what a living process is
working on, which stays, from what is left of one that was killed, which goes. Of a process of
another machine it is told by time: what is in use is written to or renewed (leases.py).
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from lrd_harness import leases

NAME = re.compile(r"\.work-([0-9a-f]{12})\.(\d+)\.(\d+)\.[0-9a-f]{8}")
# as versions before named them, which tells nothing of who is at it
OLD = re.compile(
    r"tmp\w+\.part|\.(work|merge)-\w+|\.shared-.+|\.results\.sqlite-[0-9a-f]{8}"
    r"|\.(run\.json|identity\.json|leaderboard\.[\w.]+|restored[\w-]*\.jsonl)\.[0-9a-f]{16}"
)
AGE = 86_400  # seconds after which what is so named is taken for a killed process's
ANY = -float("inf")  # as an age: whatever is so named


def name() -> str:
    """A new name for something that this process is making."""
    number = os.getpid()
    return f".work-{leases.place()}.{number}.{leases.started(number)}.{secrets.token_hex(4)}"


def known(named: str) -> bool:
    """Whether it is the name of something that is being made, or was when its process ended."""
    return bool(NAME.fullmatch(named) or OLD.fullmatch(named))


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
    """A new folder in a folder, renewed while the block runs; removed at its end with its content.

    Raises OSError.
    """
    with path(place) as made:
        made.mkdir(mode=0o700)
        leases.hold(made.absolute())
        try:
            yield made
        finally:
            leases.drop(made.absolute())


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder as `folder`, where this system keeps what is temporary. Raises OSError."""
    place = Path(tempfile.gettempdir())
    sweep(place)
    with folder(place) as made:
        yield made


def sweep(place: Path, *, older: float | None = None, deep: bool = False) -> None:
    """Remove what killed processes have left in a folder; deep: and in the folders below it.

    older: of a folder in which the harness alone writes, seconds after which what earlier versions
    left goes too.
    """
    begun = list(_begun(place, older is not None, deep))
    if begun:
        now = leases.clock(place)
        for made in begun:
            if dead(made, now, AGE if older is None else older):
                remove(made)


def _begun(place: Path, old: bool, deep: bool) -> Iterator[Path]:
    """What is being made in a folder, or below; links are not followed, nor is work looked into."""
    for inner, folders, files in os.walk(place):
        for one in (*folders, *files):
            if NAME.fullmatch(one) or (old and OLD.fullmatch(one)):
                yield Path(inner, one)
        folders[:] = [one for one in folders if deep and not known(one)]


def dead(made: Path, now: float, older: float = AGE) -> bool:
    """Whether nobody is at it any more. A time in the future is none at which it was in use.

    now: the time as the file system has it, see leases.clock; older: seconds for which something
    counts as in use whose name does not say who is at it.
    """
    match = NAME.fullmatch(made.name)
    if match and match[1] == leases.place():
        return not leases.alive(int(match[2]), int(match[3]))
    try:
        changed = made.lstat().st_mtime
    except OSError:  # it has its own name now
        return True
    return not -leases.SKEW <= now - changed <= (leases.STALE if match else older)


def remove(made: Path) -> None:
    """Remove it, if it is there, as far as that can be done; a link is not followed."""
    if made.is_dir() and not made.is_symlink():
        shutil.rmtree(made, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            made.unlink()
