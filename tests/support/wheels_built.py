"""Wheels built of this checkout and of small packages, and environments to install them into."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*command: str | Path, cwd: Path, code: int = 0, **env: str) -> str:
    """Standard output of a program, which sees nothing of this checkout."""
    outer = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = [str(part) for part in command]
    done = subprocess.run(
        words, cwd=cwd, env={**outer, **env}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == code, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def built(source: Path, folder: Path) -> Path:
    """The wheel of a package, of a copy in which the build may leave what it likes."""
    folder.mkdir()
    copy = folder / "source"
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
    pip = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet")
    run(*pip, "--wheel-dir", folder, copy, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


def core(folder: Path) -> Path:
    """The wheel of lrd-harness."""
    source = folder / "checkout"
    source.mkdir(parents=True)
    for name in ("lrd_harness", "plugins", "tasks"):
        cached = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=cached)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    return built(source, folder / "wheel")


def environment(home: Path) -> Path:
    """Make one that shares this one's libraries, but not this checkout; its folder of programs."""
    venv.create(home, with_pip=False, symlinks=True)
    site = next((home / "lib").glob("python*/site-packages"))
    # the libraries come last, and the finder of an editable install beside them is not wanted
    shared = sysconfig.get_paths()["purelib"]
    (site / "shared.pth").write_text(f"import sys; sys.path.append({shared!r})\n")
    return home / "bin"


def pip(programs: Path, *arguments: str | Path) -> None:
    """Have pip install or uninstall there."""
    command = (sys.executable, "-m", "pip", "--python", programs / "python", *arguments)
    run(*command, "--quiet", cwd=programs)
