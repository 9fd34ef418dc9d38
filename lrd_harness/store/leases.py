"""Who is using a folder of the store: an empty file a user, whose time is renewed while it lives.

The file's name says which process of which machine, and since when. A lease is dead when it was
not renewed for STALE seconds, or at once where its process was of this machine and is no more; a
time in the future counts for nothing. What was used since a live lease was taken is not removed.
This needs no locks, so it holds on network file systems; what it cannot see is a process that was
stopped for longer than STALE. Folders in which a process works (temporary.py) are renewed likewise.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import socket
import sys
import tempfile
import threading
import time
from functools import cache
from pathlib import Path

BEAT = 60.0  # seconds between renewals
STALE = 600.0
SKEW = 60.0  # seconds by which clocks of machines may differ
NAME = re.compile(r"([0-9a-f]{12})\.(\d+)\.(\d+)\.[0-9a-f]{8}\.lease")

_renewed: set[Path] = set()  # the leases of this process
_held: set[Path] = set()  # the folders in which it works
_lock = threading.RLock()  # a store may be collected, and its lease released, at any moment
_thread: list[threading.Thread] = []


def take(folder: Path) -> Path | None:
    """Take a lease, to be given back by `release`; None where nothing can be written there.

    Raises FileNotFoundError if there is no such folder.
    """
    name = f"{place()}.{os.getpid()}.{int(time.time())}.{secrets.token_hex(4)}.lease"
    try:
        (folder / name).touch(exist_ok=False)
    except FileNotFoundError:
        raise
    except OSError:  # a folder for reading only, which others cannot clear either
        return None
    _keep_up(_renewed, folder / name)
    return folder / name


def release(lease: Path | None) -> None:
    """Give a lease back. A child process that inherited it leaves it to its parent."""
    with _lock:
        own = lease in _renewed
        _renewed.discard(lease or Path())
    if own and lease is not None:
        with contextlib.suppress(OSError):
            lease.unlink()


def hold(folder: Path) -> None:
    """Renew the time of a folder from now on, until `drop`; it is not made where it is gone."""
    _keep_up(_held, folder)


def drop(folder: Path) -> None:
    """Renew it no more."""
    with _lock:
        _held.discard(folder)


def since(folder: Path, now: float) -> float | None:
    """The time since which files of a folder may be in use; None where nobody uses it.

    now: the time as the file system has it, see `clock`.
    """
    begun = [
        int(match[3])
        for path in folder.glob("*.lease")
        if (match := NAME.fullmatch(path.name)) and not _dead(path, match, now)
    ]
    return min(begun) - SKEW if begun else None


def sweep(folder: Path, now: float) -> None:
    """Remove the leases of processes that are no more."""
    for path in folder.glob("*.lease"):
        match = NAME.fullmatch(path.name)
        if match and _dead(path, match, now):
            with contextlib.suppress(OSError):
                path.unlink()


def clock(folder: Path) -> float:
    """The time as the file system has it, which may be another machine's; else this one's."""
    with contextlib.suppress(OSError), tempfile.TemporaryFile(dir=folder) as file:
        return os.fstat(file.fileno()).st_mtime
    return time.time()


def past(changed: float, folder: Path) -> float:
    """When something in a folder was changed; 0 for a time in the future, which is none."""
    future = changed > time.time() + SKEW and changed > clock(folder) + SKEW
    return 0.0 if future else changed


def _dead(path: Path, match: re.Match[str], now: float) -> bool:
    try:
        renewed = path.stat().st_mtime
    except OSError:  # it was given back just now
        return True
    if match[1] == place():
        return now - renewed > STALE or not alive(int(match[2]))
    return not -SKEW <= now - renewed <= STALE


def alive(number: int, begun: int = 0) -> bool:
    """Whether there is a process of that number here; begun: and it is the one that `started` so.

    One that has ended and that nobody has asked for its exit code is none.
    """
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


def started(number: int) -> int:
    """When a process was started, in ticks since the machine was; 0 where the system won't tell."""
    return _about(number)[1]


def _about(number: int) -> tuple[str, int]:
    """State and start of a process, as Linux tells them; "" and 0 elsewhere."""
    try:
        told = Path(f"/proc/{number}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return told[0], int(told[19])
    except (OSError, ValueError, IndexError):
        return "", 0


@cache
def place() -> str:
    """This machine, since it was started, and this process's view of process numbers."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def _keep_up(renewed: set[Path], path: Path) -> None:
    with _lock:
        renewed.add(path)
        if not _thread or not _thread[0].is_alive():
            _thread[:] = [threading.Thread(target=_renew, name="leases", daemon=True)]
            _thread[0].start()


def _renew() -> None:
    while True:
        time.sleep(BEAT)
        with _lock:
            leases, folders = list(_renewed), list(_held)
        for lease in leases:
            with contextlib.suppress(OSError):  # the folder is gone, and so is what was in use
                lease.touch()
        for folder in folders:
            with contextlib.suppress(OSError):
                os.utime(folder)


def _forked() -> None:
    """A child process has its parent's leases, which the parent renews, and no thread."""
    global _lock
    _lock = threading.RLock()
    _renewed.clear()
    _held.clear()
    _thread.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
