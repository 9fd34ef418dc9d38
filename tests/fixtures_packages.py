"""Fixtures of registry packages: small wheels made here, and a cache of the real ones."""

from __future__ import annotations

import base64
import hashlib
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

MakeWheel = Callable[..., Path]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("LRD_HARNESS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


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
def package_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder for the real packages: the user's own if one is set, so they come once.

    Only what is checked by sha256 is kept in it.
    """
    named = os.environ.get("LRD_HARNESS_CACHE")
    folder = Path(named) if named else tmp_path_factory.mktemp("packages")
    before = os.environ.get("LRD_HARNESS_CACHE")
    os.environ["LRD_HARNESS_CACHE"] = str(folder)
    yield folder
    if before is None:
        os.environ.pop("LRD_HARNESS_CACHE", None)
    else:
        os.environ["LRD_HARNESS_CACHE"] = before


@pytest.fixture
def real_packages(package_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of real packages, in force for one test."""
    monkeypatch.setenv("LRD_HARNESS_CACHE", str(package_cache))
    return package_cache
