"""The wheel: everything under one name, and it works where there is no checkout."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest
from wheels_built import ROOT, core, environment, pip, run


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return core(tmp_path_factory.mktemp("wheel"))


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
            if path.suffix in (".py", ".txt", ".yaml", ".css", ".js", ".jinja"):
                assert f"{prefix}{path.relative_to(ROOT).as_posix()}" in names


@pytest.mark.slow
def test_the_installed_wheel_works_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    """A second environment that shares this one's libraries, but not this checkout."""
    programs = environment(tmp_path / "venv")
    pip(programs, "install", "--no-deps", wheel)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    command = programs / "lrd-harness"
    assert "mteb-32" in run(command, "suites", cwd=elsewhere)
    where = (
        "import lrd_harness, lrd_harness.cli as c; print(lrd_harness.__file__,"
        " *lrd_harness.__path__, flush=True); c.main(['plugins'])"
    )
    printed = run(programs / "python", "-c", where, cwd=elsewhere)
    assert "frenet" in printed
    assert str(ROOT) not in printed
    # in the checkout's folder python -m finds the checkout first, plugins and all
    printed = run(programs / "python", "-m", "lrd_harness", "plugins", cwd=ROOT)
    assert "frenet" in printed


def test_nothing_bare_is_importable(tmp_path: Path) -> None:
    code = "import importlib.util as u; print(u.find_spec('plugins'), u.find_spec('tasks'))"
    assert run(sys.executable, "-c", code, cwd=tmp_path).split() == ["None", "None"]
