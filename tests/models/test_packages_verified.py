"""What was unpacked or converted is what it was, whenever it is used, or comes again."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
from fixtures_packages import MakeWheel

from lrd_harness.contracts import ModelOptions
from lrd_harness.errors import UserError
from lrd_harness.models import gguf
from lrd_harness.models import wheels as packages
from lrd_harness.models.find import content_hash, find
from lrd_harness.runner import folder as output
from lrd_harness.store import manifest

ROWS = "demo_pkg/data/rows.txt"
DATA = {ROWS: b"one\ntwo\n", "demo_pkg/more.txt": b"three\n"}
DEMO = "demo-pkg==1.0"


def longer(folder: Path) -> None:
    (folder / ROWS).write_bytes(b"one\ntwo\nthree\n")


def other(folder: Path) -> None:
    (folder / ROWS).write_bytes(b"one\nTWO\n")


def gone(folder: Path) -> None:
    (folder / ROWS).unlink()


def more(folder: Path) -> None:
    (folder / "demo_pkg" / "config.json").write_text("{}")


def list_damaged(folder: Path) -> None:
    (folder / manifest.NAME).write_text('{"files": [')


CHANGES = [longer, other, gone, more, list_damaged]


@pytest.fixture
def offline(index: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Takes every package from the index, of which pip is spared here."""

    def download(name: str, work: Path, report: object) -> Path:
        wheels = list(index.iterdir())
        if not wheels:
            raise UserError(f"pypi:{name}: the package index is out of reach")
        return Path(shutil.copy(wheels[0], work))

    def empty() -> None:
        for file in index.iterdir():
            file.unlink()

    monkeypatch.setattr(packages, "_download", download)
    return empty


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_package_comes_again(
    change: Callable[[Path], None], make_wheel: MakeWheel, offline: Callable[[], None]
) -> None:
    make_wheel(DATA)
    folder = packages.fetch(DEMO)
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*.txt")}
    change(folder)
    assert packages.fetch(DEMO) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.txt")} == times
    assert (folder / ROWS).read_bytes() == DATA[ROWS]
    assert not (folder / "demo_pkg" / "config.json").exists()
    assert sorted(p.name for p in folder.parent.iterdir()) == [folder.name, f"{folder.name}.sha256"]
    change(folder)
    offline()
    with pytest.raises(UserError, match=r"is not as it was unpacked") as caught:
        packages.fetch(DEMO)
    assert "\n" not in str(caught.value)


def test_of_files_that_are_as_they_were_none_is_read(
    make_wheel: MakeWheel, offline: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_wheel(DATA)
    folder = packages.fetch(DEMO)
    offline()
    read: list[str] = []
    real = manifest._entry
    monkeypatch.setattr(
        manifest, "_entry", lambda path, found: read.append(path.name) or real(path, found)
    )
    assert packages.fetch(DEMO) == folder
    assert read == []
    os.utime(folder / ROWS, (1, 1))  # as in a copy of the cache
    assert packages.fetch(DEMO) == folder
    assert packages.fetch(DEMO) == folder
    assert read == ["rows.txt"], "once"


@pytest.mark.parametrize("record", ["", "0" * 63, "not a checksum\n", "\0" * 64, "é", None])
def test_a_damaged_record_does_not_switch_the_check_off(
    record: str | None, make_wheel: MakeWheel, cache: Path, offline: Callable[[], None]
) -> None:
    wheel = make_wheel(DATA)
    right = hashlib.sha256(wheel.read_bytes()).hexdigest()
    folder = packages.fetch(DEMO)
    kept = cache / "packages" / "demo-pkg-1.0.sha256"

    def damage() -> None:
        kept.unlink(missing_ok=True)
        if record is not None:
            kept.write_text(record, encoding="utf-8")

    damage()
    assert packages.fetch(DEMO) == folder
    assert kept.read_text().strip() == right, "index and folder agree"
    damage()
    make_wheel({ROWS: b"others\n"})
    with pytest.raises(UserError, match=r"nothing tells which is right"):
        packages.fetch(DEMO)
    assert (folder / ROWS).read_bytes() == DATA[ROWS]
    offline()
    with pytest.raises(UserError, match=r"demo-pkg-1.0.sha256 is missing or damaged"):
        packages.fetch(DEMO)
    shutil.rmtree(folder)
    if record is not None:
        with pytest.raises(UserError, match=r"sha256 is damaged, so that nothing tells"):
            packages.fetch(DEMO)


@pytest.mark.parametrize("sound", [True, False])
def test_a_package_of_an_earlier_version_is_held_to_the_list_of_its_wheel(
    sound: bool, make_wheel: MakeWheel, offline: Callable[[], None]
) -> None:
    """Nothing of its files was recorded, but the wheel has a list of its own."""
    make_wheel(DATA)
    folder = packages.fetch(DEMO)
    (folder / manifest.NAME).unlink()
    checksum = "NpXJWYTxxO_dBDGgOBPCvBzhcRZ4y7sLQH31wZmIt_o"  # of something else
    if sound:
        checksum = packages.base64.urlsafe_b64encode(hashlib.sha256(DATA[ROWS]).digest()).decode()
        checksum = checksum.rstrip("=")
    (listed,) = folder.glob("*.dist-info/RECORD")
    listed.write_text(f"{ROWS},sha256={checksum},8\ndemo_pkg/code.py,sha256=x,1\n\n")
    offline()
    if sound:
        assert packages.fetch(DEMO) == folder
        other(folder)
    with pytest.raises(UserError, match=r"rows.txt is not as it was unpacked"):
        packages.fetch(DEMO)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, bytes]]:
    """Two models as the files of a package, which differ in their weights alone."""
    folder = tmp_path_factory.mktemp("models")
    made = [tiny.save("Bert", folder / f"bert-{seed}", seed=seed) for seed in (0, 1)]
    return [
        {f"demo_pkg/model/{path.name}": path.read_bytes() for path in one.iterdir()} for one in made
    ]


def test_the_identity_of_a_package_is_its_content(
    weights: list[dict[str, bytes]],
    make_wheel: MakeWheel,
    offline: Callable[[], None],
    cache: Path,
) -> None:
    """What a user sees as its revision stays its version."""
    encoder = importlib.import_module("lrd_harness.plugins.adapters.encoder").lrd_adapters()[0]
    seen = []
    for files in weights:
        shutil.rmtree(cache, ignore_errors=True)
        sum_ = hashlib.sha256(make_wheel(files).read_bytes()).hexdigest()
        found = find(f"pypi:{DEMO}")
        assert (found.name, found.revision, found.content) == ("pypi:demo-pkg", "1.0", sum_)
        seen.append(encoder.open(found, ModelOptions()).identity)
    first, second = seen
    differ = {key for key in first if first[key] != second[key]}
    assert differ == {"content"}


def test_a_run_does_not_go_on_with_another_content(
    weights: list[dict[str, bytes]],
    make_wheel: MakeWheel,
    offline: Callable[[], None],
    cache: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from lrd_harness.cli import main

    data, out = tiny.task_data(tmp_path / "data"), tmp_path / "out"
    command = [
        *("run", "--models", f"pypi:{DEMO}", "--tasks", "STSBenchmark", "--task-data", str(data)),
        *("--plugins", "nrs", "--output", str(out), "--quiet"),
    ]
    make_wheel(weights[0])
    assert main(command) == 0
    held = output.read_run(out)
    (entry,) = held["models"]
    # as an earlier version recorded it: the run goes on
    (out / "run.json").write_text(
        json.dumps({**held, "models": [{k: v for k, v in entry.items() if k != "content"}]})
    )
    records = list((out / "journal").iterdir())
    assert main(command) == 0
    assert list((out / "journal").iterdir()) == records, "nothing was measured again"
    assert output.read_run(out)["models"][0]["content"] == entry["content"]
    shutil.rmtree(cache)
    make_wheel(weights[1])
    capsys.readouterr()
    assert main(command) == 2
    said = capsys.readouterr().err
    assert "holds results of pypi:demo-pkg" in said
    assert "other content of the same version" in said
    shutil.copytree(out, tmp_path / "other")
    text = (out / "run.json").read_text().replace(entry["content"], "0" * 64)
    (tmp_path / "other" / "run.json").write_text(text)
    whole = str(tmp_path / "whole")
    assert main(["merge", str(out), str(tmp_path / "other"), "--output", whole]) == 2
    assert "are not of one run: content of pypi:demo-pkg" in capsys.readouterr().err


@pytest.fixture
def converting(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Conversions that were made; they write three files instead of reading a GGUF file."""
    made: list[Path] = []

    def convert(file: Path, to: Path) -> None:
        made.append(to)
        to.mkdir()
        (to / "config.json").write_text("{}")
        (to / "model.safetensors").write_bytes(file.read_bytes() * 1_000_000)
        (to / "model.safetensors").chmod(0o600)

    monkeypatch.setattr(gguf, "_convert", convert)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    return made


def test_a_converted_model_is_verified(converting: list[Path], tmp_path: Path) -> None:
    """One that is made again is the same, its revision too, which depends on times."""
    file, to = tmp_path / "tiny.gguf", tmp_path / "converted" / "tiny-0"
    file.write_bytes(b"weights")
    assert gguf.convert(file, to) == gguf.convert(file, to) == to
    assert len(converting) == 1
    revision = content_hash(to)
    assert len({path.stat().st_mode for path in to.iterdir()}) == 1, "as the umask has it"
    for number, damage in enumerate(
        (
            lambda: (to / "model.safetensors").write_bytes(b"weighty" * 1_000_000),
            lambda: (to / "config.json").unlink(),
            lambda: (to / "tokenizer.json").write_text("{}"),
            lambda: (to / manifest.NAME).unlink(),
            lambda: (to / manifest.NAME).write_text(""),
        )
    ):
        damage()
        assert gguf.convert(file, to) == to
        assert len(converting) == number + 2
        assert content_hash(to) == revision
    assert sorted(p.name for p in to.parent.iterdir()) == [to.name]
    os.utime(to / "config.json", (1, 1))
    gguf.convert(file, to)
    assert len(converting) == 6
