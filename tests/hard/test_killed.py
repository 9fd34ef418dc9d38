"""kill -9 at any moment, and again: the run completes with the same numbers, nothing done twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import killing
import pytest
import running
import tiny

from lrd_harness.store import files

pytestmark = pytest.mark.slow


ATTEMPTS = {1: 4, 2: 4}  # processes -> how often they are killed


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models, data, and a folder of runs for each number of processes."""
    folder = tmp_path_factory.mktemp("place")
    tiny.save("Bert", folder / "bert")
    tiny.save("GPT2", folder / "gpt", causal=True)
    tiny.task_data(folder / "data")
    return folder


@pytest.fixture(scope="module")
def ended(place: Path) -> dict[int, list[int]]:
    """The codes of the attempts, by number of processes."""
    jobs: list[dict[str, Any]] = []
    for world, attempts in ATTEMPTS.items():
        folder = place / str(world)
        folder.mkdir()
        command = running.command(folder / "out", [place / "bert", place / "gpt"], place / "data")
        places = {name: str(folder / name) for name in ("cache", "log")}
        jobs.append({"command": command, "seed": 3, "kills": attempts, "world": world, **places})
    done = subprocess.run(
        [sys.executable, str(Path(killing.__file__)), json.dumps(jobs)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(zip(ATTEMPTS, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("world", ATTEMPTS)
def test_a_run_that_is_killed_again_and_again(
    world: int, ended: dict[int, list[int]], place: Path
) -> None:
    """Half of the times while it writes a record; the store is damaged now and then."""
    codes, attempts, folder = ended[world], ATTEMPTS[world], place / str(world)
    out, whole_run = folder / "out", place / "1" / "out-warm"
    kills = codes.count(-signal.SIGKILL)
    assert set(codes) <= {0, -signal.SIGKILL}
    assert codes[-1] == 0
    assert kills >= attempts // 4

    whole, mended = running.numbers(whole_run), running.numbers(out)
    assert len(whole) == 2 * 2 * (4 + 2)
    assert mended.keys() == whole.keys()
    for unit, expected in whole.items():
        assert flat(mended[unit]) == pytest.approx(flat(expected), rel=1e-4, abs=1e-5), unit

    units = [r["unit"] for r in running.records(out, "score", "metric")]
    assert len(units) == len(set(units))
    begun = len((folder / "log").read_text().splitlines())
    assert len(units) <= begun <= len(units) + kills * world  # repeated: what was in flight

    board, same = ((f / "leaderboard.csv").read_text() for f in (out, whole_run))
    assert board.splitlines()[0] == same.splitlines()[0]
    assert json.loads((out / "run.json").read_text())["finished"]
    places = (out, folder / "cache")
    assert [p for place in places for p in place.rglob("*") if files.known(p.name)] == []


def flat(record: Any) -> dict[str, float]:
    """All numbers of a record by their path."""
    found: dict[str, float] = {}

    def walk(path: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{path}.{key}", inner)
        elif isinstance(value, list):
            for key, inner in enumerate(value):
                walk(f"{path}.{key}", inner)
        elif not isinstance(value, str):  # what a profile is of
            found[path] = float(value)

    walk("", record)
    return found
