"""Shared fixtures: downloads stay in the user's cache, all else goes to a folder of the test."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path[:0] = [str(folder) for folder in Path(__file__).parent.iterdir() if folder.is_dir()]
import hub_server  # noqa: E402

pytest_plugins = ["fixtures_packages", "browsing"]
# No test asks the hub: nothing answers at this address but where a test has a hub of its own there
# (fixture `hub`), and nothing of the user's cache is read.
HUB = hub_server.reserved()
os.environ["HF_ENDPOINT"] = "http://{}:{}".format(*HUB.getsockname())
for name in ("HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_TOKEN"):
    os.environ.pop(name, None)
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="lrd-harness-hub-")
atexit.register(shutil.rmtree, os.environ["HF_HOME"], ignore_errors=True)
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as where the tests run in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

# Files that take a minute or more: begun first, so that none is left alone at the end. It needs
# --no-loadscope-reorder where files are dealt to several processes.
LONG = (
    "test_processes",
    "test_docs",
    "test_launched",
    "test_against_lm_eval",
    "test_slurm",
    "test_killed_commands",
    "test_launchers",
    "test_killed",
    "test_evaluators",
    "test_against_mteb",
    "test_distributions",
    "test_plugin_faults",
    "test_kit",
    "test_fuzz",
    "test_gpu_check",
    "test_pretended_gpu",
    "test_surroundings",
    "test_browser",
    "test_run_faults",
    "test_planted",
    "test_walk",
    "test_offline_tasks",
)


# Rooms whose tests run the real thing, in seconds each.
SLOW = ("against", "browser", "end_to_end", "hard")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, the others in their order; whole rooms are slow."""
    for item in items:
        if item.path.parent.name in SLOW:
            item.add_marker(pytest.mark.slow)
    places = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONG)))


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of the test's own, but for what was downloaded or made before."""
    from lrd_harness.store.location import cache_dir

    shared = cache_dir()
    cache = tmp_path / "cache"
    cache.mkdir()
    for name in ("packages", "converted"):
        (shared / name).mkdir(parents=True, exist_ok=True)
        (cache / name).symlink_to(shared / name, target_is_directory=True)
    monkeypatch.setenv("LRD_HARNESS_CACHE", str(cache))
    return cache


@pytest.fixture(autouse=True)
def _modules_are_no_garbage() -> None:
    """What libraries hold is left out where runs collect garbage before each model: a third of the
    time of a small run."""
    if len(sys.modules) > _frozen[0] + 500:
        gc.collect()
        gc.freeze()
        _frozen[0] = len(sys.modules)


_frozen = [0]  # how many modules there were


@pytest.fixture(autouse=True)
def _hub_is_asked_anew() -> None:
    """Whatever a test before has met."""
    if "lrd_harness.models.hub" in sys.modules:
        sys.modules["lrd_harness.models.hub"]._silent.clear()


@pytest.fixture
def hub() -> Iterator[hub_server.Hub]:
    """A hub that answers, until its `stop` is called, where all libraries ask; an empty cache."""
    for name in ("hub", "datasets"):
        shutil.rmtree(Path(os.environ["HF_HOME"], name), ignore_errors=True)
    with hub_server.serving(HUB.getsockname()[1]) as serving:
        yield serving


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small models and local data for runs, not to be changed."""
    import running
    import tiny

    folder = tmp_path_factory.mktemp("place")
    tiny.save("Bert", folder / "bert", max_position_embeddings=64)
    tiny.save("GPT2", folder / "gpt", causal=True)
    running.save_nan(folder / "nan")
    tiny.task_data(folder / "data")
    return folder
