"""Who uses a store is known while it lives, and not for longer."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_eviction import LONG_AGO, of

from lrd_harness.store import leases
from lrd_harness.store.store import Store


def test_a_store_that_nobody_refers_to_is_not_in_use(tmp_path: Path) -> None:
    store = Store(tmp_path, of(1))
    place, now = store.folder, time.time()
    assert leases.since(place, now) is not None
    other = Store(tmp_path, of(1))
    del store
    assert leases.since(place, now) is not None
    other.close()
    assert leases.since(place, now) is None
    other.close()
    assert list(place.glob("*.lease")) == []


def test_who_is_gone_uses_nothing(tmp_path: Path) -> None:
    """A killed process of this machine at once, one of another when it is silent for long."""
    place = Store(tmp_path, of(1)).folder
    for name in place.glob("*.lease"):
        name.unlink()
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    here, now = leases.place(), leases.clock(place)
    dead = place / f"{here}.{done.pid}.{int(now)}.00000000.lease"
    living = place / f"{here}.{os.getpid()}.{int(now)}.00000000.lease"
    elsewhere = place / f"{'0' * 12}.{done.pid}.{int(now) - 5}.00000000.lease"
    for path, used in ((dead, False), (living, True), (elsewhere, True)):
        path.touch()
        assert (leases.since(place, now) is not None) == used
        path.unlink()
    elsewhere.touch()
    assert leases.since(place, now) == int(now) - 5 - leases.SKEW
    os.utime(elsewhere, (now, now - leases.STALE - 1))
    dead.touch()
    (place / "notes.lease").touch()
    assert leases.since(place, now) is None
    Store(tmp_path, of(1))  # sweeps
    assert list(place.glob("*.lease")) == [place / "notes.lease"]


def test_a_lease_is_renewed_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "BEAT", 0.02)
    monkeypatch.setattr(leases, "_thread", [])
    store = Store(tmp_path, of(1))
    (lease,) = store.folder.glob("*.lease")
    os.utime(lease, (LONG_AGO, LONG_AGO))
    deadline = time.monotonic() + 20
    while lease.stat().st_mtime == LONG_AGO and time.monotonic() < deadline:
        time.sleep(0.01)
    assert time.time() - lease.stat().st_mtime < 60
    lease.unlink()
    while not lease.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert lease.exists()
    store.close()
    time.sleep(0.1)
    assert not lease.exists()


def test_a_child_process_leaves_the_leases_of_its_parent(tmp_path: Path) -> None:
    store = Store(tmp_path, of(1))
    child = multiprocessing.get_context("fork").Process(target=store.close)
    child.start()
    child.join(30)
    assert child.exitcode == 0
    assert leases.since(store.folder, time.time()) is not None
