"""Who is using a folder of the store: an empty file a user, whose time is renewed while it lives.

The file's name says which process of which machine, and since when. A lease is dead when it was
not renewed for STALE seconds, or at once where its process was of this machine and is no more. What
was used since a live lease was taken is not removed. This needs no locks, so it holds on network
file systems; what it cannot see is a process that was stopped for longer than STALE.
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
_lock = threading.RLock()  # a store may be collected, and its lease released, at any moment
_thread: list[threading.Thread] = []


def take(folder: Path) -> Path | None:
    """Take a lease, to be given back by `release`; None where nothing can be written there.

    Raises FileNotFoundError if there is no such folder.
    """
    name = f"{_place()}.{os.getpid()}.{int(time.time())}.{secrets.token_hex(4)}.lease"
    try:
        (folder / name).touch(exist_ok=False)
    except FileNotFoundError:
        raise
    except OSError:  # a folder for reading only, which others cannot clear either
        return None
    with _lock:
        _renewed.add(folder / name)
        if not _thread or not _thread[0].is_alive():
            _thread[:] = [threading.Thread(target=_renew, name="leases", daemon=True)]
            _thread[0].start()
    return folder / name


def release(lease: Path | None) -> None:
    """Give a lease back. A child process that inherited it leaves it to its parent."""
    with _lock:
        own = lease in _renewed
        _renewed.discard(lease or Path())
    if own and lease is not None:
        with contextlib.suppress(OSError):
            lease.unlink()


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


def _dead(path: Path, match: re.Match[str], now: float) -> bool:
    try:
        renewed = path.stat().st_mtime
    except OSError:  # it was given back just now
        return True
    return now - renewed > STALE or (match[1] == _place() and not _alive(int(match[2])))


def _alive(number: int) -> bool:
    if sys.platform == "win32":  # no signal there asks without harm
        return True
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


@cache
def _place() -> str:
    """This machine, since it was started, and this process's view of process numbers."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def _renew() -> None:
    while True:
        time.sleep(BEAT)
        with _lock:
            leases = list(_renewed)
        for lease in leases:
            with contextlib.suppress(OSError):  # the folder is gone, and so is what was in use
                lease.touch()


def _forked() -> None:
    """A child process has its parent's leases, which the parent renews, and no thread."""
    global _lock
    _lock = threading.RLock()
    _renewed.clear()
    _thread.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
