"""A limit on the states: what was not used for longest makes room, and nothing that is in use."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from lrd_harness.cli import main
from lrd_harness.contracts import Text
from lrd_harness.errors import StatesLost, UserError, told_to
from lrd_harness.store import inventory, location
from lrd_harness.store.store import Store

PLANE = ("raw", 0)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LRD_HARNESS_CACHE", str(tmp_path))
    return tmp_path


def limited(monkeypatch: pytest.MonkeyPatch, size: object) -> None:
    monkeypatch.setenv(location.LIMIT, str(size))


def put(cache: Path, model: str, hours: float) -> Path:
    """A file of about 20 kB of states, which was last used so many hours ago."""
    store = Store(cache / "states", {"model": model})
    store.write([Text(f"{hours}")], {PLANE: np.full((1, 5000), hours, np.float32)})
    path = store._where[next(iter(reversed(store._where)))][0]
    os.utime(path, (time.time() - hours * 3600,) * 2)
    return path


@pytest.mark.parametrize(
    ("text", "size"),
    [
        *(("", None), ("0", None), ("0GB", None), ("123", 123), ("200GB", 200 * 10**9)),
        *(("1.5 tb", 1_500_000_000_000), ("2GiB", 2**31), ("7k", 7000), ("512MiB", 2**29)),
    ],
)
def test_a_limit_is_a_size(text: str, size: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    limited(monkeypatch, text)
    assert location.limit() == size


@pytest.mark.parametrize("text", ["much", "-1", "5 apples", "3I", "GB", "1e9", "nan", "inf"])
def test_what_is_no_size_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    limited(monkeypatch, text)
    with pytest.raises(UserError, match=f"LRD_HARNESS_CACHE_LIMIT is '{text}', not a size"):
        location.limit()


def test_sizes_are_shown_in_decimal_units() -> None:
    sizes = (0, 999, 1000, 99_449, 99_950, 1_234_567_890, 10**15)
    shown = "0 B, 999 B, 1.0 kB, 99.4 kB, 100 kB, 1.2 GB, 1000.0 TB"
    assert ", ".join(map(location.shown, sizes)) == shown


def test_the_least_recently_used_goes_first_and_what_is_in_use_stays(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A time in the future is none at which it was used."""
    ages = {"a": 3.0, "b": 90.0, "c": 30.0, "d": -1e5, "e": 0.5, "f": 0.0}
    files = {name: put(cache, f"m{ord(name) % 3}", hours) for name, hours in ages.items()}
    size = files["a"].stat().st_size
    lines: list[str] = []
    for limit, left in ((6, "abcdef"), (5, "abcef"), (3, "aef"), (1, "ef")):
        limited(monkeypatch, limit * size + 100 + 500)
        with told_to(lines.append):
            inventory.make_room(cache)
        assert {name for name, path in files.items() if path.exists()} == set(left)
    (line,) = lines
    assert "(LRD_HARNESS_CACHE_LIMIT): all that is left in it is in use" in line


def test_what_is_read_is_in_use_and_what_went_is_missing(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, other = put(cache, "m", 9.0), put(cache, "m", 10.0)
    store = Store(cache / "states", {"model": "m"})
    assert store.read([Text("9.0")], PLANE)[0, 0] == 9.0
    limited(monkeypatch, 1)
    inventory.make_room(cache)
    assert (read.exists(), other.exists()) == (True, False)
    with pytest.raises(StatesLost):
        store.read([Text("10.0")], PLANE)
    assert store.missing([Text("9.0"), Text("10.0")]) == [Text("10.0")]


def test_what_is_foreign_is_left_alone_and_links_are_not_followed(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = cache / "outside"
    outside.mkdir()
    mine = put(cache, "m", 9.0)
    linked = outside / mine.name
    mine.replace(linked)
    mine.symlink_to(linked)
    (cache / "states" / ("1" * 24)).symlink_to(outside, target_is_directory=True)
    (strange := mine.with_name("notes.txt")).write_bytes(b"x" * 9000)
    old = put(cache, "n", 9.0)
    limited(monkeypatch, 1)
    inventory.make_room(cache)
    assert not old.exists()
    assert linked.exists()
    assert mine.is_symlink()
    assert strange.exists()


def test_times_in_the_future_are_older_than_any_age(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    future, now = put(cache, "m", -1e5), put(cache, "m", 0.0)
    assert main(["cache", "clear", "--older-than", "30d", "--yes"]) == 0
    assert (future.exists(), now.exists()) == (False, True)
    os.utime(now, (4e9, 4e9))
    assert main(["cache", "info"]) == 0
    assert "unknown" in capsys.readouterr().out
