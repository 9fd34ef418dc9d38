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
    return [one.path for one in inventory.stores(cache) if one.of(model)]


def left(cache: Path) -> set[str]:
    """The files that are still there."""
    return {path.relative_to(cache).as_posix() for path in cache.rglob("*") if path.is_file()}


def age(folder: Path, days: float) -> None:
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (time.time() - days * DAY,) * 2)


def run(*arguments: str) -> int:
    return main(["cache", *arguments])


def test_info(cache: Path, capsys: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LRD_HARNESS_CACHE_LIMIT", "2GB")
    assert run("info") == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert all(len(line) <= 80 for line in shown.out.splitlines())
    lines = [line.split() for line in shown.out.splitlines() if line.strip()]
    assert lines[0] == [str(cache)]
    assert "packages 1 250 kB -".split() in lines
    assert "converted 1 2 B -".split() in lines
    assert "states 4 161 kB of 2.0 GB".split() in lines
    one, two = (
        next(line for line in lines if line[0] == f"org/{n}@abcdef") for n in ("one", "two")
    )
    assert lines.index(one) < lines.index(two)
    assert one[1:4] == ["3", "121", "kB"]
    assert one[4] == time.strftime("%Y-%m-%d", time.localtime(time.time() - DAY))
    assert two[1] == "1"


def test_an_empty_cache(tmp_path: Path, capsys: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LRD_HARNESS_CACHE", str(tmp_path / "none"))
    for arguments in (["info"], ["verify"], ["clear", "--all"]):
        assert run(*arguments) == 0
    shown = capsys.readouterr().out
    assert "0 files of states, 0 B: none damaged" in shown
    assert "There is nothing to remove." in shown


def test_verify_names_what_is_damaged(cache: Path, capsys: Shown) -> None:
    assert run("verify") == 0
    assert capsys.readouterr().out == "4 files of states, 161 kB: none damaged\n"
    files = sorted(cache.glob("states/*/*.safetensors"))
    files[0].write_bytes(files[0].read_bytes()[:-1])
    content = files[1].read_bytes()
    files[1].write_bytes(content[:-1] + b"\1")
    files[2].write_bytes(b"something else")
    before = left(cache)
    assert run("verify") == 1
    shown = capsys.readouterr().out
    assert shown.count("\n") == 4
    for file, reason in zip(
        files[:3], ("no header", "its content is not what its name says", "no header"), strict=True
    ):
        (line,) = (line for line in shown.splitlines() if file.name in line)
        assert reason in line
        assert "(org/" in line
    assert "4 files of states" in shown
    assert ": 3 damaged\n" in shown
    assert left(cache) == before
    assert run("verify", "--repair") == 0
    assert capsys.readouterr().out.count("; removed") == 3
    assert {cache / name for name in before - left(cache)} == set(files[:3])
    assert run("verify") == 0


def test_verify_names_a_changed_identity(cache: Path, capsys: Shown) -> None:
    (folder, _) = stores(cache, "org/one")
    (folder / "identity.json").write_text('{"model": "another"}')
    assert run("verify") == 1
    shown = capsys.readouterr().out
    assert "identity.json: missing or changed" in shown
    assert "(of an unknown model)" in shown


def test_clear_asks(cache: Path, capsys: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    before = left(cache)
    assert run("clear") == 2
    asked = one_line(capsys)
    assert asked == f"this would remove 161 kB of states from {cache}: give --yes"
    for answer, removed in (("", False), ("n\n", False), ("perhaps\n", False), ("y\n", True)):
        terminal = io.StringIO(answer)
        monkeypatch.setattr(terminal, "isatty", lambda: True)
        monkeypatch.setattr("sys.stdin", terminal)
        assert run("clear") == 0
        shown = capsys.readouterr().out
        assert shown.startswith(f"Remove 161 kB of states from {cache}? [y/N] ")
        assert ("Removed 161 kB of states." in shown) == removed
        assert (left(cache) == before) != removed
    assert not list((cache / "states").iterdir())
    assert {name for name in before if not name.startswith("states/")} == left(cache)


def test_clear_one_model(cache: Path, capsys: Shown) -> None:
    kept = {f"states/{path.name}" for path in stores(cache, "org/two")}
    for name in ("org/three", "one", "org/one@b", "org/on"):
        assert run("clear", "--model", name, "--yes") == 2
        assert one_line(capsys).startswith(f"no states of a model {name}: see")
    assert run("clear", "--model", "org/one@abc", "--yes") == 0
    assert capsys.readouterr().out == "Removed 121 kB of states.\n"
    assert {f"states/{path.name}" for path in (cache / "states").iterdir()} == kept
    for part in ("--packages", "--all"):
        assert run("clear", "--model", "org/two", part, "--yes") == 2
        assert "--model goes with states" in one_line(capsys)


def test_clear_what_is_old(cache: Path, capsys: Shown) -> None:
    old, young = stores(cache, "org/one")
    age(old, 10)
    age(cache / "packages" / "made-up-1.0", 10)
    for text in ("10", "d", "ten days", "5m", "-1d"):
        assert run("clear", f"--older-than={text}", "--yes") == 2
        assert f"--older-than {text}: not an age such as 30d" in one_line(capsys)
    before = left(cache)
    assert run("clear", "--all", "--older-than", "2w", "--yes") == 0
    assert left(cache) == before
    assert run("clear", "--states", "--older-than", "1.3w", "--yes") == 0
    assert not old.exists()
    assert young.exists()
    assert "packages/made-up-1.0/data.bin" in left(cache)
    assert run("clear", "--all", "--older-than", "239h", "--yes") == 0
    assert young.exists()
    assert list((cache / "packages").iterdir()) == []
    assert list((cache / "budgets").iterdir())


def test_clear_keeps_what_was_used_within_the_hour(cache: Path, capsys: Shown) -> None:
    using = Store(cache / "states", {"model": "org/two", "revision": "abcdef"})
    assert using.missing([Text("0"), Text("1")]) == [Text("1")]
    assert run("clear", "--states", "--yes") == 0
    shown = capsys.readouterr().out
    assert "Removed 141 kB of states.\n" in shown
    assert "kB used within the last hour: --older-than 0h takes them too." in shown
    assert run("clear", "--packages", "--yes") == 0
    shown = capsys.readouterr().out
    assert "Kept packages and converted models: a run of the last hour may be using" in shown
    assert {path.name for path in (cache / "states").iterdir()} == {using.folder.name}
    assert using.read([Text("0")], ("raw", 0)).tolist() == [[0.0] * 5000]
    assert "packages/made-up-1.0/data.bin" in left(cache)
    assert run("clear", "--all", "--yes") == 0  # what is named goes
    assert "Removed 250 kB of packages and converted models.\n" in capsys.readouterr().out
    assert left(cache) == set()


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
    for arguments in (["info"], ["verify"], ["clear", "--all", "--yes"], ["info"]):
        assert run(*arguments) == 0
        shown = capsys.readouterr()
        assert "MB" not in shown.out
        for name in links:
            assert f"{name}: a link, not followed, left alone\n" in shown.err
        for name in foreign:
            place = name.removesuffix("/file")
            assert f"{place}: not the harness's, left alone\n" in shown.err
    assert len(list(outside.iterdir())) == 1
    assert foreign <= left(cache)
    assert all((cache / name).is_symlink() for name in links)
    assert not list(cache.glob("states/*/*.json"))


@pytest.mark.parametrize("name", ["", "states", "packages", "converted", "budgets"])
def test_a_part_that_is_a_link(name: str, cache: Path, tmp_path: Path, capsys: Shown) -> None:
    """Nothing of a part on another disk is removed; the cache itself may be a link."""
    (cache / name).rename(tmp_path / "elsewhere")
    (cache / name).symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    there = left(tmp_path / "elsewhere")
    assert run("clear", "--all", "--yes") == 0
    said = f"{name}: a link, not followed, left alone\n" if name else ""
    assert said in capsys.readouterr().err
    assert left(tmp_path / "elsewhere") == (there if name else set())
