"""Shared fixtures: downloads stay in the user's cache, all else goes to a folder of the test."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
pytest_plugins = ["fixtures_packages"]
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of the test's own, but for the packages that were downloaded before."""
    from lrd_harness.cache import cache_dir

    shared = cache_dir()
    cache = tmp_path / "cache"
    cache.mkdir()
    for name in ("packages", "converted"):
        (shared / name).mkdir(parents=True, exist_ok=True)
        (cache / name).symlink_to(shared / name, target_is_directory=True)
    monkeypatch.setenv("LRD_HARNESS_CACHE", str(cache))
    return cache
