"""Evaluators beside the reading give what one process gives, and none outlives its run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import partial
from multiprocessing import Pipe
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import running
from ranks import jobs
from slurm import until
from test_processes import METRICS, PRUNED, command, own, same_numbers

from lrd_harness.cli import main
from lrd_harness.errors import UserError
from lrd_harness.processes import ALONE
from lrd_harness.progress import Display
from lrd_harness.runner.evaluators import Evaluators, count
from lrd_harness.runner.profile import Profile
from lrd_harness.runner.units import Ledger, Unit

__all__ = ["own"]  # a fixture
ODD = """
import os, pathlib, signal, time
from lrd_harness import Request, Score, Task, hookimpl
HERE = pathlib.Path({folder!r})
TEXTS = ["the old red dog " + "and cat " * n for n in range(9)]
def evaluate(view):
    vectors = view.encode(TEXTS, TASK)
    if view.name.startswith("local"):
        (HERE / f"{{os.getpid()}}.pid").touch()
        if (HERE / "slow").exists():
            time.sleep(60)
        if (HERE / "deadly").exists():
            os.kill(os.getpid(), signal.SIGKILL)
    next = view.encode([f"the next text depends on {{abs(vectors).sum():.4f}}"], TASK)
    return Score(float(abs(next).mean() % 1), "odd")
TASK = Task("odd", lambda: [Request(text) for text in TEXTS], evaluate, type="Odd")
@hookimpl
def lrd_tasks():
    return [TASK]
"""


@pytest.mark.parametrize(
    ("wanted", "device", "local", "world", "found"),
    [
        (None, "cpu", "0", "1", 0),
        (None, "cuda:0", "0", "1", 16),
        (None, "cuda:0", "0", "4", 7),
        (None, "cuda:1", "1", "8", 3),
        (None, "mps", "0", "32", 1),
        (0, "cuda", "0", "1", 0),
        (3, "cpu", "0", "2", 2),
        (3, "cpu", "1", "2", 1),
        (1, "cpu", "3", "4", 1),
    ],
)
def test_shares(
    wanted: Any, device: str, local: str, world: str, found: int, monkeypatch: running.Patch
) -> None:
    monkeypatch.setattr("lrd_harness.runner.evaluators.cores", lambda: 32)
    monkeypatch.setenv("LOCAL_RANK", local)
    monkeypatch.setenv("WORLD_SIZE", "16")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", world)
    assert count(wanted, ["cpu", device]) == found


class Lasting:
    """In place of a process."""

    exitcode = -9

    def join(self, seconds: float = 0) -> None:
        """Nothing to wait for."""


def test_a_reader_waits_for_nothing_until_it_has_to(tmp_path: Path) -> None:
    """Units of a second model are handed over while those of the first are not begun."""
    unit = partial(Unit, identity={})
    first = [unit("a", task, layer=layer) for layer in (0, 1) for task in ("t", "u")]
    first += [unit("a", "u", metric="nrs")]
    second = [unit("b", "u", layer=0), unit("b", "t", metric="nrs")]
    ours, theirs = Pipe()
    team, ledger, profile = Evaluators(1), Ledger(tmp_path), Profile()
    done = list[Unit]()
    spent = {"metrics": {"wall": 1.0, "cpu": 1.0}}
    with team.serving(ledger, Display(quiet=True), tmp_path, profile):
        team.hand(first)
        team.hand(second)
        Thread(target=team._employ, args=(0, Lasting(), ours)).start()
        for number in range(7):
            done.append(theirs.recv())
            theirs.send({"unit": str(number), "kind": "error" if number == 3 else "score"})
            theirs.send((number != 4, spent))
        assert team.wait("", lambda unit: unit.model == "b") == []
        assert team.finish(ALONE) == {"a"}
        team.hand(second)
        theirs.recv()
        theirs.close()
        with pytest.raises(UserError, match=r"1 of 1 ended \(SIGKILL, b, t, nrs\); the same"):
            team.wait("")
        with pytest.raises(UserError, match="fewer --evaluators"):
            team.hand(second)
    shown = [f"{u.model} {u.task} {u.metric or u.layer}" for u in done]
    assert shown == ["a u nrs", "a u 0", "a u 1", "a t 0", "a t 1", "b t nrs", "b u 0"]
    assert (ledger.failed, ledger.undone("2"), ledger.undone("3")) == ({"3"}, False, True)
    assert profile.seconds()["metrics"]["wall"] == 1
    ledger.close()


@pytest.mark.slow
def test_evaluators_give_the_tables_of_none(own: Path, tmp_path: Path) -> None:
    """All kinds of metrics and tasks, and pruning, in two processes that have an evaluator each."""
    outs = [tmp_path / name for name in ("none", "each")]
    metrics = ("--plugins", f"{METRICS[1]},mutual_knn", *METRICS[2:], *PRUNED)
    ((alone,), (first, second)) = jobs(
        {"command": command(own, outs[0], *metrics, "--evaluators", "0"), "world": 1},
        {"command": command(own, outs[1], *metrics, "--evaluators", "2"), "world": 2},
        cache=tmp_path / "cache",
    )
    assert [code for code, *_ in (alone, first, second)] == [0] * 3, (alone, first, second)
    same_numbers(outs[1], outs[0])
    assert first[1].replace("/each", "/none") == alone[1]
    units = [r["unit"] for r in running.records(outs[1], "score", "metric", "error")]
    assert len(units) == len(set(units))
    assert [len(list((out / "journal").glob("*"))) for out in outs] == [1, 4]
    runs = [json.loads((out / "run.json").read_text()) for out in outs]
    assert [run["profile"][0]["processes"] for run in runs] == [1, 4]


def evaluating(folder: Path) -> bool:
    """Whether a process that has evaluated is still there."""
    return any(Path(f"/proc/{file.stem}").exists() for file in folder.glob("*.pid"))


@pytest.mark.slow
def test_none_is_left(
    own: Path, tmp_path: Path, monkeypatch: running.Patch, capsys: running.Shown
) -> None:
    """Ctrl-C and kill -9 end evaluators too; one that dies ends the run; then the run goes on.

    What they cannot do, as the store lacks a text, is done in the end.
    """
    monkeypatch.setenv("LRD_HARNESS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "odd.py").write_text(ODD.format(folder=str(tmp_path)))
    more = ("--plugins", "nrs", "--load", str(tmp_path / "odd.py"), "--evaluators")
    asked, plain = (
        command(own, tmp_path / n, *more, n, tasks=("odd",), models=["bert"]) for n in "10"
    )
    (tmp_path / "slow").touch()
    for number in (signal.SIGINT, signal.SIGKILL):
        call = [sys.executable, "-m", "lrd_harness", *asked]
        run = subprocess.Popen(call, stderr=subprocess.PIPE, text=True, start_new_session=True)
        until(partial(evaluating, tmp_path), 240)
        to = run.pid if number == signal.SIGKILL else -run.pid  # a terminal tells all of them
        os.kill(to, number)
        _, said = run.communicate(timeout=30)
        stopped = "\nInterrupted. The same command with" if number == signal.SIGINT else ""
        assert said.startswith(stopped), said
        assert said.count("\n") == 2 * bool(stopped), said
        until(lambda: not evaluating(tmp_path), 10)
        assert (run.returncode, number) in ((130, signal.SIGINT), (-9, signal.SIGKILL))
    (tmp_path / "slow").rename(tmp_path / "deadly")
    assert main(asked) == 2
    died = "evaluator 1 of 1 ended (SIGKILL, local/bert, odd, layer 0); the same command goes on"
    assert died in running.one_line(capsys)
    (tmp_path / "deadly").unlink()
    assert [main(asked), main(plain)] == [0, 0]
    same_numbers(tmp_path / "1", tmp_path / "0")
    for out in (tmp_path / "1", tmp_path / "0"):  # nine of the task, and one at each of five layers
        counts = running.counters(out)
        assert counts["asked"] == counts["texts"] <= 9 + 5
    shown = capsys.readouterr()
    assert "error" not in shown.err
    units = [r["unit"] for r in running.records(tmp_path / "1", "score", "metric", "error")]
    assert len(units) == len(set(units)) == 5
