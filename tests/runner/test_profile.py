"""The profile of a run: whose seconds are whose, and what run.json keeps of them."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import pytest
import running
from running import Patch, Shown

from lrd_harness.cli import main
from lrd_harness.processes import Ranks
from lrd_harness.results.journal import read_run
from lrd_harness.runner import profile
from lrd_harness.runner.profile import Profile
from lrd_harness.store import files

RUN = {"opening", "collecting texts", "reading", "metrics", "tasks × layers", "writing", "other"}


def test_seconds_are_of_the_innermost_stage(monkeypatch: Patch, tmp_path: Path) -> None:
    now = [0.0]
    monkeypatch.setattr(profile, "_now", lambda: (now[0], now[0] / 2))
    spent, ranks = Profile(), Ranks()
    now[0] += 1
    with spent.stage("metrics"), spent.watching(ranks):
        now[0] += 2
        with suppress(OSError), spent.stage("reading"), files.space(tmp_path):
            now[0] += 4
            raise OSError
        with ranks.waiting():
            now[0] += 8
        now[0] += 16
    with ranks.waiting(), files.space(tmp_path):  # nobody watches any more
        now[0] += 32
    other = {"reading": {"wall": 100.0, "cpu": 3.0}, "pruning": {"wall": 0.4, "cpu": 0.0}}
    spent.add(other, 1)
    wall = {"other": 33, "metrics": 18, "reading": 100, "writing": 4, "waiting": 8, "pruning": 0.4}
    record = spent.record("now")
    assert {name: stage["wall"] for name, stage in record["stages"].items()} == wall
    assert record["stages"]["reading"]["cpu"] == 3
    assert (record["begun"], record["processes"]) == ("now", 2)
    assert spent.line() == (
        "Time, 2 processes added up: 2 min 43 s, CPU 34 s: reading 1 min 40 s (61%), "
        "other 33 s (20%), metrics 18 s (11%), waiting 8 s (5%), writing 4 s (2%)"
    )
    assert Profile().line() == ""


@pytest.mark.slow
def test_a_run_keeps_the_profile_of_each_call(
    place: Path, tmp_path: Path, monkeypatch: Patch, capsys: Shown, own_cache: Path
) -> None:
    monkeypatch.setattr(profile, "LEAST", 0.0)
    out, more = tmp_path / "out", ("--plugins", "nrs", "--prune", "random", "--budgets", "0.5")
    asked = running.command(out, [place / "bert"], place / "data", *more, tasks=["STSBenchmark"])
    asked.remove("--quiet")
    begun = time.perf_counter()
    assert main(asked) == 0
    took = time.perf_counter() - begun
    assert capsys.readouterr().err.count("\nTime: ") == 1
    (call,) = read_run(out)["profile"]
    assert set(call["stages"]) == RUN | {"pruning"}
    assert 0 < sum(stage["wall"] for stage in call["stages"].values()) < took
    assert call["stages"]["reading"]["cpu"] > 0
    assert main([*asked, "--quiet"]) == 0
    assert "Time: " not in capsys.readouterr().err
    first, second = read_run(out)["profile"]
    assert first == call
    # nothing was left to do
    assert {"opening", "reading", "tasks × layers", "pruning"}.isdisjoint(second["stages"])
