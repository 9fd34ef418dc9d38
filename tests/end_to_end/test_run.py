"""A run as of the quickstart: scores, values, statistics, choices of blocks, and files of OUT."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from . import reading
from .commands import done, lrd
from .conftest import Made, Place
from .frozen import expect

REPORTS = (".csv", ".html", ".json", ".md", ".tex", "-layers.csv", "-pruning.csv")
CLOCKED = ("latency_saved",)


@pytest.fixture(scope="module")
def tidy(place: Place, whole: Made) -> Path:
    """The run as the folder `tidy`."""
    folder = place.folder / "tidy"
    done(whole.cache, "leaderboard", whole.out, "--format", "tidy", "--output", folder)
    return folder


def test_every_value(tidy: Path) -> None:
    expect("run-values", reading.series(tidy))


def test_every_statistic(tidy: Path) -> None:
    expect("run-statistics", reading.statistics(tidy))


def test_models_and_parameters_of_metrics(tidy: Path) -> None:
    found = {"models": reading.models(tidy), "metrics": reading.parameters(tidy)}
    expect("run-models", found)


@pytest.mark.parametrize("name", ["values", "statistics"])
def test_parquet_is_the_csv(name: str, tidy: Path) -> None:
    header, *rows = reading.as_csv(tidy, name)
    names, *held = reading.as_parquet(tidy, name)
    assert names == header
    assert len(held) == len(rows)
    for row, cells in zip(rows, held, strict=True):
        assert [reading.cell(text) for text in row] == [
            reading.cell("" if one is None else str(one)) for one in cells
        ]


def test_csv_reports(whole: Made) -> None:
    for name in ("", "-layers", "-pruning"):
        rows = reading.table(whole.out / f"leaderboard{name}.csv")
        expect(f"run-csv{name}", reading.columns(rows, *CLOCKED))


def test_what_the_json_form_alone_has(whole: Made) -> None:
    (board,) = reading.boards((whole.out / "leaderboard.json").read_text())
    parts = {
        "ranking": reading.ranking(board),
        "picks": reading.picks(board),
        "combined": reading.combined(board),
        "families": reading.families(board),
        "claims": reading.claims(board),
        "curves": reading.curves(board),
        "alike": reading.alike(board),
        "pruning": reading.pruning(board),
    }
    expect("run-board", parts)


def test_blocks_that_rules_choose(whole: Made) -> None:
    expect("run-pruning", reading.blocks_removed(whole.out))


def test_what_was_asked_and_read(whole: Made) -> None:
    found = reading.run(whole.out)
    found |= {"counters": reading.counters(whole.out), "met": reading.met(whole.out)}
    found |= {"kinds": reading.kinds(whole.out), "database": reading.database(whole.out)}
    found |= {"mteb": reading.native(whole.out, "mteb")}
    expect("run-record", found)


def test_files_of_out(whole: Made) -> None:
    names = {path.name for path in whole.out.iterdir()}
    reports = {f"leaderboard{ending}" for ending in REPORTS}
    assert names == {"run.json", "journal", "results.sqlite", "mteb", *reports}
    assert all((whole.out / name).stat().st_size for name in reports)
    held = json.loads((whole.out / "run.json").read_text())
    assert held["schema"] == 1
    assert held["finished"] >= held["begun"]
    assert {"python", "torch", "transformers", "mteb"} <= held["versions"].keys()


def test_the_database_has_what_the_journal_has(whole: Made) -> None:
    what = "SELECT model, variant, task, layer, score FROM scores"
    names = ("model", "variant", "task", "layer", "score")
    expected = reading.fields(reading.journal(whole.out, "score"), *names)
    assert reading.sorted_rows(reading.rows(whole.out, what)) == reading.sorted_rows(expected)


def test_printed_are_ranks_and_scores(whole: Made) -> None:
    """No wording: that every model, task and score of the last layer is there."""
    for row in reading.table(whole.out / "leaderboard.csv"):
        assert row["model"] in whole.printed
        assert f"{row['score']:.4f}" in whole.printed
        assert f"{row['score.STSBenchmark']:.4f}" in whole.printed


@pytest.mark.parametrize("form", ["csv", "json", "md", "latex", "layers", "pruning", "table"])
def test_leaderboard_prints_what_the_run_wrote(form: str, whole: Made) -> None:
    endings = {"latex": ".tex", "layers": "-layers.csv", "pruning": "-pruning.csv"}
    printed = done(whole.cache, "leaderboard", whole.out, "--format", form)
    if form == "table":
        assert printed.strip() in whole.printed
        return
    name = f"leaderboard{endings.get(form, f'.{form}')}"
    assert printed.rstrip("\n") == (whole.out / name).read_text().rstrip("\n")


def test_again_nothing_is_read(whole: Made, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole.out, out)
    command = [out if word == whole.out else word for word in whole.command]
    said = lrd(whole.cache, *command)
    assert said.code == 0
    assert said.out == whole.printed
    assert reading.counters(out)["forwarded"] == 0
    assert reading.recorded(out) == reading.recorded(whole.out)
    assert (out / "leaderboard.csv").read_text() == (whole.out / "leaderboard.csv").read_text()


def test_with_an_empty_folder_states_come_of_the_cache(
    place: Place, whole: Made, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = ["run", "--models", place.folder / "bert-one", "--tasks", "STSBenchmark"]
    command += ["--task-data", place.data, "--plugins", "frenet,nrs", "--set", "nrs.k=10"]
    assert lrd(whole.cache, *command, "--output", out, "--quiet").code == 0
    assert reading.counters(out)["forwarded"] == 0
    before, now = reading.recorded(whole.out), reading.recorded(out)
    assert now
    for unit, numbers in now.items():
        assert numbers == before[unit], unit


def test_units_that_fail_cost_exit_code_1_and_are_tried_again(place: Place, tmp_path: Path) -> None:
    """Metrics need 8 texts, the score does not."""
    rows = (place.data / "STSBenchmark" / "test.jsonl").read_text().splitlines(keepends=True)
    data, out = tmp_path / "data", tmp_path / "out"
    (data / "STSBenchmark").mkdir(parents=True)
    (data / "STSBenchmark" / "test.jsonl").write_text("".join(rows[:3]))
    command = ["run", "--models", place.folder / "bert-one", "--tasks", "STSBenchmark"]
    command += ["--task-data", data, "--plugins", "frenet,nrs", "--output", out, "--quiet"]
    for _ in range(2):
        said = lrd(place.cache, *command)
        assert said.code == 1
        failed = reading.rows(out, "SELECT task, metric FROM errors ORDER BY metric")
        assert failed == [["STSBenchmark", "frenet"], ["STSBenchmark", "nrs"]]
        assert len(reading.journal(out, "score")) == 5
        assert "frenet" in said.out
        assert json.loads((out / "run.json").read_text())["errors"] == 2
