"""Lists of what there is, and what is kept in the cache folder."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .commands import done, lrd
from .conftest import METRICS, Made, Place

RULES = ("composite", "angular", "greedy", "random", "last")
ADAPTERS = ("sentence-transformers", "encoder", "decoder")
FORMS = (
    *("table", "md", "csv", "json", "latex", "html", "layers", "pruning", "checkpoints"),
    *("figures", "tidy", "cards"),
)
TASKS = ("LeeDocumentSTS", "ChatterbotReranking", "MMLU", "TrecQuestionClassification")
SUITES = ("quickstart", "lrd-30", "mteb-32", "mmlu", "lrd-mmlu")
COMMANDS = (
    *("run", "plan", "merge", "select", "prune", "layer", "probe", "compare", "leaderboard"),
    *("plugins", "suites", "tasks", "models", "cache"),
)
PLUGIN = '''
from lrd_harness import Choice, Metric, hookimpl


def measure(states, power=1.0):
    """Mean distance of the texts from their centre, in each layer."""
    return {"spread": [float(((h - h.mean(0)).norm(dim=1) ** power).mean()) for h in states]}


@hookimpl
def lrd_metrics():
    return [Metric("spread", measure, selection=Choice("mean_spread", "max"))]
'''


def words(printed: str) -> set[str]:
    return set(printed.split())


def test_plugins(tmp_path: Path) -> None:
    assert words(done(tmp_path, "plugins")) >= {*METRICS, *RULES, *ADAPTERS, *FORMS}


def test_tasks(tmp_path: Path) -> None:
    assert words(done(tmp_path, "tasks")) >= set(TASKS)
    assert words(done(tmp_path, "tasks", "sts")) >= {"STSBenchmark", "LeeDocumentSTS"}


def test_suites(tmp_path: Path) -> None:
    assert words(done(tmp_path, "suites")) >= set(SUITES)
    shown = words(done(tmp_path, "suites", "mteb-32"))
    assert shown >= {"STSBenchmark", "Banking77Classification", "SciDocsRR"}


def test_models(tmp_path: Path) -> None:
    found = words(done(tmp_path, "models"))
    assert found >= {"intfloat/e5-base-v2", "BAAI/bge-base-en-v1.5"}


def test_help_names_every_command_and_form(tmp_path: Path) -> None:
    assert words(done(tmp_path, "--help")) >= set(COMMANDS)
    assert words(done(tmp_path, "leaderboard", "--help")) >= set(FORMS)
    for name in COMMANDS:
        assert done(tmp_path, name, "--help").startswith(f"usage: lrd-harness {name}")


def test_the_module_is_the_command() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "lrd_harness", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.startswith("lrd-harness ")


def test_a_metric_of_ones_own(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "spread.py"
    file.write_text(PLUGIN)
    assert "spread" in words(done(tmp_path, "plugins", "--load", file))
    asked = ("--load", file, "--plugins", "spread", "--set", "spread.power=2")
    more = ("--tasks", "STSBenchmark", "--task-data", place.data, "--output", tmp_path / "out")
    printed = done(place.cache, "run", "--models", place.folder / "bert-one", *more, *asked)
    assert "mean_spread" in printed


def test_cache_tells_what_it_keeps(whole: Made) -> None:
    printed = done(whole.cache, "cache", "info")
    assert str(whole.cache) in printed.replace("\n", "")
    for name in ("local/bert-one", "local/gpt", "local/llama", "local/sentence"):
        assert name in printed
    assert lrd(whole.cache, "cache", "verify").code == 0


@pytest.fixture
def cache(whole: Made, tmp_path: Path) -> Path:
    """A copy of the cache of the run."""
    shutil.copytree(whole.cache / "states", tmp_path / "cache" / "states")
    return tmp_path / "cache"


def test_cache_names_a_damaged_file_and_repairs(cache: Path) -> None:
    file = min(cache.rglob("*.safetensors"))
    held = bytearray(file.read_bytes())
    held[-1] ^= 1
    file.write_bytes(held)
    said = lrd(cache, "cache", "verify")
    assert said.code == 1
    assert file.name in (said.out + said.err).replace("\n", "")
    lrd(cache, "cache", "verify", "--repair")
    assert not file.exists()
    assert lrd(cache, "cache", "verify").code == 0


def test_cache_is_cleared(cache: Path) -> None:
    done(cache, "cache", "clear", "--model", "local/gpt", "--yes")
    left = done(cache, "cache", "info")
    assert "local/gpt" not in left
    assert "local/bert-one" in left
    done(cache, "cache", "clear", "--all", "--yes")
    assert not list(cache.rglob("*.safetensors"))
