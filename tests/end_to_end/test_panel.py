"""A panel of 25 models and 30 tasks from CSV files: every statistic of the leaderboard."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from . import panel, reading
from .commands import done
from .frozen import EXACT, expect


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("panel-cache")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> panel.Panel:
    return panel.write(tmp_path_factory.mktemp("panel"))


@pytest.fixture(scope="module")
def asked(files: panel.Panel) -> list[object]:
    """The command that reads all of them."""
    given = ("--actual", files.scores, "--values", files.values, "--models-info", files.models)
    return ["leaderboard", *given]


@pytest.fixture(scope="module")
def tidy(cache: Path, asked: list[object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("panel-tidy") / "tidy"
    done(cache, *asked, "--format", "tidy", "--output", folder)
    return folder


@pytest.fixture(scope="module")
def board(cache: Path, asked: list[object]) -> dict[str, object]:
    (found,) = reading.boards(done(cache, *asked, "--format", "json"))
    return found


def test_every_statistic(tidy: Path) -> None:
    expect("panel-statistics", reading.statistics(tidy), EXACT)


def test_the_ranking(cache: Path, asked: list[object], board: dict[str, object]) -> None:
    rows = reading.table(done(cache, *asked, "--format", "csv"))
    expect("panel-csv", reading.columns(rows), EXACT)
    expect("panel-ranking", reading.ranking(board), EXACT)


def test_combined_predictor_and_families(board: dict[str, object]) -> None:
    found = {"combined": reading.combined(board), "families": reading.families(board)}
    assert found["combined"]["rows"]
    expect("panel-combined", found, EXACT)


def test_claims(board: dict[str, object]) -> None:
    found = reading.claims(board)
    assert {one["verdict"] for one in found.values()} >= {"holds", "not enough data"}
    expect("panel-claims", found, EXACT)


def test_profiles_over_depth(board: dict[str, object]) -> None:
    found = {"curves": reading.curves(board), "alike": reading.alike(board)}
    expect("panel-profiles", found, EXACT)


def test_layers(cache: Path, asked: list[object]) -> None:
    rows = reading.table(done(cache, *asked, "--format", "layers"))
    assert len(rows) == panel.MODELS * panel.TASKS * (panel.BLOCKS + 1)
    mine = [row for row in rows if row["model"] in (panel.model(3), panel.model(11))]
    expect("panel-layers", reading.columns(mine), EXACT)


def test_one_model_layer_by_layer(cache: Path, asked: list[object], files: panel.Panel) -> None:
    printed = done(cache, *asked, "--model", panel.model(3))
    scores = [row for row in reading.table(files.scores) if row["model"] == panel.model(3)]
    for layer in range(panel.BLOCKS + 1):
        mean = sum(r["score"] for r in scores if r["layer"] == layer) / panel.TASKS
        assert f"{mean:.4f}" in printed


def test_values_are_those_of_the_files(tidy: Path, files: panel.Panel) -> None:
    names = ("model", "layer", "task", "score")
    held = reading.fields(reading.table(tidy / "scores.csv"), *names)
    given = reading.fields(reading.table(files.scores), *names)
    assert reading.sorted_rows(held) == reading.sorted_rows(given)
    names = ("model", "layer", "task", "name", "value")
    found = {tuple(row) for row in reading.fields(reading.table(tidy / "metrics.csv"), *names)}
    assert found >= {tuple(row) for row in reading.fields(reading.table(files.values), *names)}


def test_what_tidy_wrote_reads_back(cache: Path, tidy: Path, tmp_path: Path) -> None:
    given = ("--actual", tidy / "scores.csv", "--values", tidy / "metrics.csv")
    more = (
        "--models-info",
        tidy / "models.csv",
        "--format",
        "tidy",
        "--output",
        tmp_path / "again",
    )
    done(cache, "leaderboard", *given, *more)
    for name in ("values.csv", "statistics.csv", "scores.csv", "metrics.csv", "models.csv"):
        assert (tmp_path / "again" / name).read_text() == (tidy / name).read_text()


def test_sizes_alone(cache: Path, files: panel.Panel, tmp_path: Path) -> None:
    """Wide scores in percent, one of them missing, and what a metric has to beat."""
    given = ("leaderboard", "--actual", files.wide, "--models-info", files.models)
    done(cache, *given, "--format", "tidy", "--output", tmp_path / "tidy")
    expect("panel-sizes-statistics", reading.statistics(tmp_path / "tidy"), EXACT)
    rows = reading.table(done(cache, *given, "--format", "csv"))
    expect("panel-sizes-csv", reading.columns(rows), EXACT)


@pytest.mark.parametrize(("form", "ending"), [("md", "md"), ("latex", "tex"), ("html", "html")])
def test_other_forms_have_every_model(
    form: str, ending: str, cache: Path, asked: list[object], tmp_path: Path
) -> None:
    path = tmp_path / f"board.{ending}"
    assert done(cache, *asked, "--output", path) in ("", f"written to {path}\n")
    text = path.read_text()
    for i in range(panel.MODELS):
        assert panel.model(i) in text
    printed = done(cache, *asked, "--format", form)
    assert printed.rstrip("\n") == text.rstrip("\n")


def test_the_json_form_tells_what_it_is(cache: Path, asked: list[object], tmp_path: Path) -> None:
    path = tmp_path / "board.json"
    done(cache, *asked, "--output", path)
    held = json.loads(path.read_text())
    assert held["schema"] == "lrd-harness/leaderboard"
    assert isinstance(held["version"], int)


def test_cards_and_figures(cache: Path, asked: list[object], tmp_path: Path) -> None:
    done(cache, *asked, "--format", "cards", "--output", tmp_path / "cards")
    cards = sorted(path.parent.name for path in (tmp_path / "cards").rglob("README.md"))
    assert cards == [panel.model(i).replace("/", "__") for i in range(panel.MODELS)]
