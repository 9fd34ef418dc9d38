"""`lrd-harness cache`: what it shows, what it finds damaged, what it removes and what it leaves."""

from __future__ import annotations

import io
import os
import time
from pathlib import Path

import numpy as np
import pytest
from running import one_line

from lrd_harness.cli import main
from lrd_harness.contracts import Text
from lrd_harness.store import inventory
from lrd_harness.store.store import Store

Shown = pytest.CaptureFixture[str]
DAY = 86_400


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two models with states, a package, a converted model, a batch size, and foreign things."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("LRD_HARNESS_CACHE", str(folder))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stdin", io.StringIO())
    for name, count in (("org/one", 3), ("org/two", 1)):  # 20 kB a text
        for extra in ({}, {"metric": "curvature"}):
            store = Store(folder / "states", {"model": name, "revision": "abcdef", **extra})
            some = [Text(str(i)) for i in range(count)]
            store.write(some, {("raw", 0): np.full((count, 5000), len(extra), np.float32)})
    package = folder / "packages" / "made-up-1.0"
    package.mkdir(parents=True)
    (package / "data.bin").write_bytes(b"x" * 250_000)
    package.with_name("made-up-1.0.sha256").write_text("0")
    converted = folder / "converted" / f"tiny-{'0' * 12}"
    converted.mkdir(parents=True)
    (converted / "config.json").write_text("{}")
    age(folder / "states", 1)
    (folder / "budgets").mkdir()
    (folder / "budgets" / f"{'0' * 24}.json").write_text('{"tokens": 8}')
    return folder


def stores(cache: Path, model: str) -> list[Path]:
    return [store.path for store in inventory.stores(cache) if store.of(model)]


def files(cache: Path) -> set[str]:
    """The files that are there."""
    return {path.relative_to(cache).as_posix() for path in cache.rglob("*") if path.is_file()}


def age(folder: Path, days: float) -> None:
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (time.time() - days * DAY,) * 2)


def run(capsys: Shown, *typed: str, code: int = 0) -> str:
    """What the command prints."""
    assert main(["cache", *typed]) == code
    return capsys.readouterr().out


def refused(capsys: Shown, *typed: str) -> str:
    assert main(["cache", "clear", *typed]) == 2
    return one_line(capsys)


def test_info(cache: Path, capsys: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LRD_HARNESS_CACHE_LIMIT", "2GB")
    lines = run(capsys, "info").splitlines()
    assert all(len(line) <= 80 for line in lines)
    rows = [line.split() for line in lines if line.strip()]
    assert rows[0] == [str(cache)]
    for row in ("packages 1 250 kB -", "converted 1 2 B -", "states 4 161 kB of 2.0 GB"):
        assert row.split() in rows
    larger, smaller = [row for row in rows if row[0] in ("org/one@abcdef", "org/two@abcdef")]
    assert larger[:4] == ["org/one@abcdef", "3", "121", "kB"]
    assert larger[4] == time.strftime("%Y-%m-%d", time.localtime(time.time() - DAY))
    assert smaller[1] == "1"


def test_an_empty_cache(tmp_path: Path, capsys: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LRD_HARNESS_CACHE", str(tmp_path / "none"))
    assert str(tmp_path / "none") in run(capsys, "info")
    assert run(capsys, "verify") == "0 files of states, 0 B: none damaged\n"
    assert "There is nothing to remove." in run(capsys, "clear", "--all")


def test_verify_names_what_is_damaged(cache: Path, capsys: Shown) -> None:
    assert run(capsys, "verify") == "4 files of states, 161 kB: none damaged\n"
    damaged = sorted(cache.glob("states/*/*.safetensors"))[:3]
    damaged[0].write_bytes(damaged[0].read_bytes()[:-1])
    damaged[1].write_bytes(damaged[1].read_bytes()[:-1] + b"\1")
    damaged[2].write_bytes(b"something else")
    before = files(cache)
    *lines, total = run(capsys, "verify", code=1).splitlines()
    reasons = ("no header", "its content is not what its name says", "no header")
    for file, reason in zip(damaged, reasons, strict=True):
        (line,) = (line for line in lines if file.name in line)
        assert reason in line
        assert "(org/" in line
    assert total.startswith("4 files of states")
    assert total.endswith(": 3 damaged")
    assert files(cache) == before
    assert run(capsys, "verify", "--repair").count("; removed") == 3
    assert {cache / name for name in before - files(cache)} == set(damaged)


def test_verify_names_a_changed_identity(cache: Path, capsys: Shown) -> None:
    (folder, _) = stores(cache, "org/one")
    (folder / "identity.json").write_text('{"model": "another"}')
    printed = run(capsys, "verify", code=1)
    assert "identity.json: missing or changed" in printed
    assert "(of an unknown model)" in printed


def test_clear_asks(cache: Path, capsys: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files(cache)
    assert refused(capsys) == f"this would remove 161 kB of states from {cache}: give --yes"
    for answer, removed in (("", False), ("n\n", False), ("perhaps\n", False), ("y\n", True)):
        terminal = io.StringIO(answer)
        monkeypatch.setattr(terminal, "isatty", lambda: True)
        monkeypatch.setattr("sys.stdin", terminal)
        printed = run(capsys, "clear")
        assert printed.startswith(f"Remove 161 kB of states from {cache}? [y/N] ")
        assert ("Removed 161 kB of states." in printed) == removed
        assert (files(cache) == before) != removed
    assert not list((cache / "states").iterdir())
    assert {name for name in before if not name.startswith("states/")} == files(cache)


def test_clear_one_model(cache: Path, capsys: Shown) -> None:
    kept = stores(cache, "org/two")
    for name in ("org/three", "one", "org/one@b", "org/on"):
        said = refused(capsys, "--model", name, "--yes")
        assert said.startswith(f"no states of a model {name}: see")
    for part in ("--packages", "--all"):
        said = refused(capsys, "--model", "org/two", part, "--yes")
        assert "--model goes with states" in said
    typed = ("clear", "--model", "org/one@abc", "--yes")
    assert run(capsys, *typed) == "Removed 121 kB of states.\n"
    assert sorted((cache / "states").iterdir()) == sorted(kept)


def test_clear_what_is_old(cache: Path, capsys: Shown) -> None:
    old, young = stores(cache, "org/one")
    age(old, 10)
    age(cache / "packages" / "made-up-1.0", 10)
    for text in ("10", "d", "ten days", "5m", "-1d"):
        said = refused(capsys, f"--older-than={text}", "--yes")
        assert f"--older-than {text}: not an age such as 30d" in said
    before = files(cache)
    run(capsys, "clear", "--all", "--older-than", "2w", "--yes")
    assert files(cache) == before
    run(capsys, "clear", "--states", "--older-than", "1.3w", "--yes")
    assert (old.exists(), young.exists()) == (False, True)
    assert "packages/made-up-1.0/data.bin" in files(cache)
    run(capsys, "clear", "--all", "--older-than", "239h", "--yes")
    assert young.exists()
    assert list((cache / "packages").iterdir()) == []
    assert list((cache / "budgets").iterdir())


def test_clear_keeps_what_was_used_within_the_hour(cache: Path, capsys: Shown) -> None:
    using = Store(cache / "states", {"model": "org/two", "revision": "abcdef"})
    assert using.missing([Text("0"), Text("1")]) == [Text("1")]
    printed = run(capsys, "clear", "--states", "--yes")
    assert "Removed 141 kB of states.\n" in printed
    assert "kB used within the last hour: --older-than 0h takes them too." in printed
    printed = run(capsys, "clear", "--packages", "--yes")
    assert "Kept packages and converted models: a run of the last hour may be using" in printed
    assert {path.name for path in (cache / "states").iterdir()} == {using.folder.name}
    assert using.read([Text("0")], ("raw", 0)).tolist() == [[0.0] * 5000]
    assert "packages/made-up-1.0/data.bin" in files(cache)
    printed = run(capsys, "clear", "--all", "--yes")  # what is named goes
    assert "Removed 250 kB of packages and converted models.\n" in printed
    assert files(cache) == set()


def test_what_is_foreign_is_named_and_left_alone(
    cache: Path, tmp_path: Path, capsys: Shown
) -> None:
    """A link is not followed, neither to be measured nor to be removed."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / ("0" * 32 + ".safetensors")).write_bytes(b"x" * 9_000_000)
    (store, _) = stores(cache, "org/one")
    foreign = {
        *("notes.txt", "states/notes.txt", "packages/mine/file", "converted/notes/file"),
        *("budgets/notes.txt", f"states/{store.name}/notes.txt"),
    }
    for name in foreign:
        (cache / name).parent.mkdir(exist_ok=True)
        (cache / name).write_text("mine")
    links = {
        *("linked", f"states/{'1' * 24}", "packages/linked-1.0", f"converted/x-{'1' * 12}"),
        f"states/{store.name}/{'1' * 32}.safetensors",
    }
    for name in links:
        file = name.endswith(".safetensors")
        target = next(outside.iterdir()) if file else outside
        (cache / name).symlink_to(target, target_is_directory=not file)
    (cache / "packages" / "linked-1.0.sha256").write_text("0")
    for typed in ("info", "verify", "clear --all --yes", "info"):
        assert main(["cache", *typed.split()]) == 0
        printed = capsys.readouterr()
        assert "MB" not in printed.out
        for name in links:
            assert f"{name}: a link, not followed, left alone\n" in printed.err
        for name in foreign:
            place = name.removesuffix("/file")
            assert f"{place}: not the harness's, left alone\n" in printed.err
    assert len(list(outside.iterdir())) == 1
    assert foreign <= files(cache)
    assert all((cache / name).is_symlink() for name in links)
    assert not list(cache.glob("states/*/*.json"))


@pytest.mark.parametrize("name", ["", "states", "packages", "converted", "budgets"])
def test_a_part_that_is_a_link(name: str, cache: Path, tmp_path: Path, capsys: Shown) -> None:
    """Nothing of a part on another disk is removed; the cache itself may be a link."""
    (cache / name).rename(tmp_path / "elsewhere")
    (cache / name).symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    before = files(tmp_path / "elsewhere")
    assert main(["cache", "clear", "--all", "--yes"]) == 0
    said = f"{name}: a link, not followed, left alone\n" if name else ""
    assert said in capsys.readouterr().err
    assert files(tmp_path / "elsewhere") == (before if name else set())
