"""Packages of third parties, built as wheels, installed beside the core's, and used together."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
import tiny
from wheels_built import ROOT, built, core, environment, pip, run

PACKAGES = ROOT / "tests" / "distributions"
NAMES = ("lrd-crowding", "lrd-mixer", "lrd-village")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the core and all packages, also the one that cannot be imported."""
    folder = tmp_path_factory.mktemp("distributions")
    wheels = [built(source, folder / source.name) for source in sorted(PACKAGES.glob("lrd-*"))]
    for wheel in wheels:
        tops = {name.split("/")[0].split("-")[0] for name in zipfile.ZipFile(wheel).namelist()}
        assert {top.removesuffix(".py") for top in tops} == {wheel.name.split("-")[0]}
    made = environment(folder / "venv")
    pip(made, "install", "--no-deps", core(folder / "core"), *wheels)
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, programs: Path) -> Path:
    """A folder with two mixers and a BERT."""
    folder = tmp_path_factory.mktemp("used")
    code = "from lrd_mixer.model import save; save('mixer'); save('wide', width=40, blocks=5)"
    run(programs / "python", "-c", code, cwd=folder)
    tiny.save("Bert", folder / "bert")
    return folder


def harness(programs: Path, folder: Path, *arguments: str, code: int = 0) -> str:
    cache = str(folder / "cache")
    command = (programs / "lrd-harness", *arguments)
    return run(*command, cwd=folder, code=code, LRD_HARNESS_CACHE=cache, HF_HUB_OFFLINE="1")


def test_all_of_them_appear_in_one_leaderboard(programs: Path, folder: Path) -> None:
    models = ("--models", "mixer", "wide", "bert")
    work = ("--tasks", "Village", "--plugins", "crowding,likeness,frenet", "--prune", "crowded")
    harness(programs, folder, "run", *models, *work, "--output", "out", "--quiet")
    board = json.loads(harness(programs, folder, "leaderboard", "out", "--format", "json"))
    ranking = {row["model"]: row for row in board["tables"]["ranking"]["rows"]}
    assert set(ranking) == {"local/mixer", "local/wide", "local/bert"}
    for row in ranking.values():
        assert 0 < row["score"] <= 1
        assert {"crowding.mean_length", "likeness.likeness"} <= row.keys()
    assert (folder / "out" / "leaderboard.best").read_text().startswith("Best: ")
    journal = "\n".join(p.read_text() for p in (folder / "out" / "journal").glob("*.jsonl"))
    records = [json.loads(line) for line in journal.splitlines()]
    assert not [record for record in records if record["kind"] == "error"]
    layers = {(r["model"], r["layer"]) for r in records if r["kind"] == "score"}
    assert {layer for model, layer in layers if model == "local/wide"} == set(range(6))
    assert any(
        r["variant"] != "full" and r["model"] == "local/mixer" for r in records if "variant" in r
    )


def test_they_are_listed_shown_and_helped_with(programs: Path, folder: Path) -> None:
    listed = harness(programs, folder, "plugins")
    for name in ("crowding", "likeness", "crowded", "mixer", "Village", "best", "village-news"):
        assert f"\n{name} " in listed
    assert "another planet" in listed.replace("\n", " ")
    shown = harness(programs, folder, "plugins", "show", "crowding")
    assert "lrd-crowding 1.0" in shown
    assert "centred" in shown
    assert "village-news" in harness(programs, folder, "--help")
    assert harness(programs, folder, "village-news", "--subject", "fire") == "4 news\n"
    harness(programs, folder, "village-news", "--subject", "gold", code=2)


def test_they_keep_their_contracts(programs: Path, folder: Path) -> None:
    """As the kit has it, by name of distribution."""
    harness(programs, folder, "plugins", "check", *NAMES, "--model", "mixer")


def test_what_the_core_does_not_know_is_the_packages_to_read(programs: Path, folder: Path) -> None:
    told = harness(programs, folder, "models", "mixer")
    assert "4 blocks of width 24" in told
    assert "at most 200 tokens" in told.replace("\n  ", " ")
    harness(programs, folder, "models", "encoder:mixer", code=2)


def test_without_them_the_core_is_as_before(programs: Path, folder: Path) -> None:
    pip(programs, "uninstall", "--yes", *NAMES, "lrd-broken")
    listed = harness(programs, folder, "plugins")
    assert "crowding" not in listed
    assert "planet" not in listed
    harness(programs, folder, "village-news", code=2)
    harness(programs, folder, "models", "mixer", code=2)
