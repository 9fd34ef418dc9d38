"""The wheel: everything under one name, and it works where there is no checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*command: str | Path, cwd: Path) -> str:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = [str(part) for part in command]
    done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel built from a copy of the checkout, so that no build folder is left in it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("lrd_harness", "plugins", "tasks"):
        cached = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=cached)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    pip = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet")
    run(*pip, "--wheel-dir", folder, source, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


def test_the_package_holds_every_source_file_and_nothing_lies_outside(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.split("/")[0] for name in names}
    assert tops == {"lrd_harness", f"lrd_harness-{wheel.name.split('-')[1]}.dist-info"}
    assert "lrd_harness/py.typed" in names
    for top, prefix in (
        ("lrd_harness", ""),
        ("plugins", "lrd_harness/"),
        ("tasks", "lrd_harness/"),
    ):
        for path in (ROOT / top).rglob("*"):
            if path.suffix in (".py", ".yaml", ".css", ".js", ".jinja"):
                assert f"{prefix}{path.relative_to(ROOT).as_posix()}" in names


@pytest.mark.slow
def test_the_installed_wheel_works_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    """A second environment that shares this one's libraries, but not this checkout."""
    home = tmp_path / "venv"
    venv.create(home, with_pip=False, symlinks=True)
    site = next((home / "lib").glob("python*/site-packages"))
    # the libraries come last, and the finder of an editable install beside them is not wanted
    shared = sysconfig.get_paths()["purelib"]
    (site / "shared.pth").write_text(f"import sys; sys.path.append({shared!r})\n")
    pip = (sys.executable, "-m", "pip", "--python", home / "bin" / "python", "install", "--no-deps")
    run(*pip, "--quiet", wheel, cwd=tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    command = home / "bin" / "lrd-harness"
    assert "mteb-32" in run(command, "suites", cwd=elsewhere)
    where = (
        "import lrd_harness, lrd_harness.cli as c; print(lrd_harness.__file__,"
        " *lrd_harness.__path__, flush=True); c.main(['plugins'])"
    )
    printed = run(home / "bin" / "python", "-c", where, cwd=elsewhere)
    assert "frenet" in printed
    assert str(ROOT) not in printed
    # in the checkout's folder python -m finds the checkout first, plugins and all
    printed = run(home / "bin" / "python", "-m", "lrd_harness", "plugins", cwd=ROOT)
    assert "frenet" in printed


def test_nothing_bare_is_importable(tmp_path: Path) -> None:
    code = "import importlib.util as u; print(u.find_spec('plugins'), u.find_spec('tasks'))"
    assert run(sys.executable, "-c", code, cwd=tmp_path).split() == ["None", "None"]
