"""States are removed: by a limit, those not used for longest; and under a run that needs them."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import running
import tiny

from lrd_harness.cli import main
from lrd_harness.contracts import Request, Score, Task, Text
from lrd_harness.errors import StatesLost, UserError, told_to
from lrd_harness.store import inventory, location
from lrd_harness.store.store import Store

PLANE = ("raw", 0)
Patch = pytest.MonkeyPatch


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: Patch) -> Path:
    monkeypatch.setenv("LRD_HARNESS_CACHE", str(tmp_path))
    return tmp_path


def put(cache: Path, model: str, hours: float) -> Path:
    """A file of about 20 kB of states, which was last used so many hours ago."""
    store = Store(cache / "states", {"model": model})
    before = set(store.folder.iterdir())
    store.write([Text(f"{hours}")], {PLANE: np.full((1, 5000), hours, np.float32)})
    (path,) = set(store.folder.iterdir()) - before
    os.utime(path, (time.time() - hours * 3600,) * 2)
    return path


@pytest.mark.parametrize(
    ("text", "size"),
    [
        *(("", None), ("0", None), ("0GB", None), ("123", 123), ("200GB", 200 * 10**9)),
        *(("1.5 tb", 1_500_000_000_000), ("2GiB", 2**31), ("7k", 7000), ("512MiB", 2**29)),
        ("200Gi", 200 * 2**30),
        *((text, "fault") for text in ("much", "-1", "5 apples", "3I", "GB", "1e9", "nan", "inf")),
        *((text, "fault") for text in ("1,000GB", "1,5GB", "1.5.2GB", "200GB/2", "8gbit", ".5GB")),
        ("5PB", "fault"),
    ],
)
def test_a_limit_is_a_size(text: str, size: int | str | None, monkeypatch: Patch) -> None:
    monkeypatch.setenv(location.LIMIT, text)
    if size == "fault":
        with pytest.raises(UserError, match=f"LRD_HARNESS_CACHE_LIMIT is '{text}', not a size"):
            location.limit()
    else:
        assert location.limit() == size


def test_sizes_are_shown_in_decimal_units() -> None:
    sizes = (0, 999, 1000, 99_449, 99_950, 1_234_567_890, 10**15)
    shown = "0 B, 999 B, 1.0 kB, 99.4 kB, 100 kB, 1.2 GB, 1000.0 TB"
    assert ", ".join(map(location.shown, sizes)) == shown


def test_the_least_recently_used_goes_first_and_what_is_in_use_stays(
    cache: Path, monkeypatch: Patch
) -> None:
    """A time in the future is none at which it was used; what is read is in use."""
    ages = {"a": 3.0, "b": 90.0, "c": 30.0, "d": -1e5, "e": 0.5, "f": 0.0}
    files = {name: put(cache, f"m{ord(name) % 3}", hours) for name, hours in ages.items()}
    size = files["a"].stat().st_size
    lines: list[str] = []
    for limit, left in ((6, "abcdef"), (5, "abcef"), (3, "aef"), (1, "ef")):
        monkeypatch.setenv(location.LIMIT, str(limit * size + 100 + 500))
        with told_to(lines.append):
            inventory.make_room(cache)
        assert {name for name, path in files.items() if path.exists()} == set(left)
    (line,) = lines
    assert "(LRD_HARNESS_CACHE_LIMIT): all that is left in it is in use" in line

    read, other = put(cache, "m", 9.0), put(cache, "m", 10.0)
    store = Store(cache / "states", {"model": "m"})
    assert store.read([Text("9.0")], PLANE)[0, 0] == 9.0
    monkeypatch.setenv(location.LIMIT, "1")
    inventory.make_room(cache)
    assert (read.exists(), other.exists()) == (True, False)
    with pytest.raises(StatesLost):
        store.read([Text("10.0")], PLANE)
    assert store.missing([Text("9.0"), Text("10.0")]) == [Text("10.0")]


def test_what_is_foreign_is_left_alone_and_links_are_not_followed(
    cache: Path, monkeypatch: Patch
) -> None:
    outside = cache / "outside"
    outside.mkdir()
    mine, old = put(cache, "m", 9.0), put(cache, "n", 9.0)
    linked = mine.replace(outside / mine.name)
    mine.symlink_to(linked)
    (folder := cache / "states" / ("1" * 24)).symlink_to(outside, target_is_directory=True)
    (strange := mine.with_name("notes.txt")).write_bytes(b"x" * 9000)
    monkeypatch.setenv(location.LIMIT, "1")
    inventory.make_room(cache)
    assert (old.exists(), linked.exists(), mine.is_symlink(), strange.exists()) == (
        *(False, True, True, True),
    )
    assert {outside, folder, mine, strange} == set(inventory.strangers(cache))


def test_times_in_the_future_are_older_than_any_age(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    future, now = put(cache, "m", -1e5), put(cache, "m", 0.0)
    assert main(["cache", "clear", "--older-than", "30d", "--yes"]) == 0
    assert (future.exists(), now.exists()) == (False, True)
    os.utime(now, (4e9, 4e9))
    assert main(["cache", "info"]) == 0
    assert "unknown" in capsys.readouterr().out


@pytest.mark.slow
def test_states_that_are_removed_under_a_run(
    place: Path, tmp_path: Path, own_cache: Path, monkeypatch: Patch
) -> None:
    """What encodes reads them again; a metric after that fails cleanly, and not the next time."""
    sentences, cache, names = tiny.sentences(30), tmp_path / "nowhere", ["Removing", "STSBenchmark"]

    def evaluate(view: Any) -> Score:
        if getattr(view, "layer", None) == 1:
            shutil.rmtree(cache / "states", ignore_errors=True)
        return Score(float(abs(view.encode(sentences, task)).mean()), "mean")

    task = Task("Removing", lambda: [Request(text) for text in sentences], evaluate)
    running.with_plugin(monkeypatch, lrd_tasks=lambda: [task])
    models, data, out = [place / "bert"], place / "data", tmp_path / "out"
    assert running.run(tmp_path / "whole", models, data, tasks=names) == 0
    shutil.rmtree(own_cache / "states")
    cache = own_cache
    assert running.run(out, models, data, tasks=names) == 1
    failed = running.records(out, "error")
    assert {(r["task"], r["metric"]) for r in failed} == {(names[1], m) for m in ("frenet", "nrs")}
    assert all(r["error"].startswith("StatesLost: ") for r in failed)
    assert running.run(out, models, data, tasks=names) == 0
    again, whole = (
        {
            (r["unit"], name): value
            for r in running.records(folder, "score", "metric")
            for name, value in {"score": r.get("score"), **(r.get("values") or {})}.items()
        }
        for folder in (out, tmp_path / "whole")
    )
    assert again == pytest.approx(whole, abs=1e-5)
