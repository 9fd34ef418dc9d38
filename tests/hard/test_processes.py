"""Several processes give what one gives: tables, values, errors; and go on where they stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import running
import stock
import tiny
from ranks import jobs
from test_killed import flat

from lrd_harness.processes import ALONE, Ranks, together
from lrd_harness.results.database import load

pytestmark = pytest.mark.slow

TASKS = ("STSBenchmark", "SciFact", f"lm-eval:{stock.ANATOMY}")
METRICS = ("--plugins", "frenet,nrs,prompt_entropy,dime", "--view-texts", "16")
PRUNED = ("--prune", "nrs,random", "--budgets", "0.5")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data and models of both kinds of task."""
    return stock.place(tmp_path_factory.getbasetemp())


def command(own: Path, out: Path, *more: str, tasks: Any = TASKS, models: Any = None) -> list[str]:
    chosen = [own / name for name in models or ("bert", "gpt")]
    given = ("--include-path", str(own / "own"), *(more or (*METRICS, *PRUNED)))
    return running.command(out, chosen, own / "data", *given, tasks=tasks)


def same_numbers(out: Path, expected: Path) -> None:
    found, wanted = running.numbers(out), running.numbers(expected)
    assert found.keys() == wanted.keys()
    for unit, numbers in wanted.items():
        assert flat(found[unit]) == pytest.approx(flat(numbers), rel=1e-4, abs=1e-5), unit
    a, b = (load(folder) for folder in (out, expected))
    assert {(r.rule, r.seed, r.removed) for r in a.prunings} == {
        (r.rule, r.seed, r.removed) for r in b.prunings
    }


def test_two_processes_give_the_tables_of_one(own: Path, tmp_path: Path) -> None:
    """Metrics, views, mteb, MMLU and pruning; then three processes, which find all of it done."""
    one, two = tmp_path / "one", tmp_path / "two"
    commands = [command(own, one), command(own, two)]
    ((single,), double, again) = jobs(
        {"command": commands[0], "world": 1, "env": [{"LRD_HARNESS_CACHE": str(tmp_path / "c1")}]},
        {"command": commands[1], "world": 2},
        {"command": commands[1], "world": 3},
        cache=tmp_path / "c2",
    )
    assert single[0] == 0, single[2]
    assert [code for code, _, _ in double] == [0, 0], double[0][2]
    same_numbers(two, one)
    assert len(double[0][1].split()) == len(single[1].split()) > 100
    assert double[1][1] == ""  # the other process is silent
    assert len(list((two / "journal").glob("*.jsonl"))) == 2  # and did a part of the work
    read = [sum(r["forwarded"] for r in running.records(f, "capture")) for f in (one, two)]
    assert read[0] == read[1] > 0
    units = [r["unit"] for r in running.records(two, "score", "metric", "pruning", "variant")]
    assert len(units) == len(set(units))
    assert [code for code, _, _ in again] == [0, 0, 0]
    assert again[0][1] == double[0][1]
    assert running.counters(two)["forwarded"] == 0


def test_fewer_texts_than_processes(own: Path, tmp_path: Path) -> None:
    few = tmp_path / "few.txt"
    few.write_text("one text\nanother one\n")
    out = tmp_path / "out"
    tasks = (f"texts:{few}", f"lm-eval:{stock.ANATOMY}")
    more = ("--limit", "1", "--plugins", "nrs")
    (found,) = jobs(
        {"command": command(own, out, *more, tasks=tasks, models=["gpt"]), "world": 3},
        cache=tmp_path / "cache",
    )
    assert [code for code, _, _ in found] == [1, 0, 0], found
    assert {r["error"] for r in running.records(out, "error")} == {
        "NotEnoughTexts: nrs needs at least 8 texts, got 2",
        "NotEnoughTexts: nrs needs at least 8 texts, got 1",
    }
    assert len(running.records(out, "score")) == 4
    assert json.loads((out / "run.json").read_text())["errors"] == 2


def test_a_run_goes_on_with_another_number_of_processes(own: Path, tmp_path: Path) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    tasks, metrics = TASKS[:2], ("--plugins", "nrs,curvature")
    steps = jobs(
        {"command": command(own, out, *metrics, tasks=tasks[:1], models=["bert"]), "world": 3},
        {"command": command(own, out, *metrics, tasks=tasks), "world": 1},
        {"command": command(own, whole, *metrics, tasks=tasks), "world": 2},
        cache=tmp_path / "cache",
    )
    assert [[code for code, _, _ in found] for found in steps] == [[0] * 3, [0], [0] * 2]
    same_numbers(out, whole)
    assert running.counters(whole)["forwarded"] == 0  # all states were there


@pytest.mark.parametrize("where", ["model", "task", "metric"])
def test_errors_are_those_of_one_process(where: str, own: Path, tmp_path: Path) -> None:
    if not (own / "nan").exists():
        running.save_nan(own / "nan")
    models = {"model": ["nan", "bert"], "task": ["bert"], "metric": ["bert"]}[where]
    file = tmp_path / "bad.py"
    file.write_text(
        "from lrd_harness import Metric, hookimpl\n"
        "def bad(states):\n    raise ZeroDivisionError('bad luck')\n"
        "@hookimpl\ndef lrd_metrics():\n    return [Metric('bad', bad)]\n"
    )
    more = ["--plugins", "nrs,bad" if where == "metric" else "nrs,prompt_entropy"]
    more += ["--load", str(file)] if where == "metric" else []
    if where == "task":
        data = tmp_path / "data"
        tiny.task_data(data)
        (data / "SciFact" / "qrels.jsonl").write_text('{"query-id": "q9"}\n')
        more += ["--task-data", str(data)]
    out, alone = tmp_path / "out", tmp_path / "alone"
    both = jobs(
        *(
            {
                "command": command(own, folder, *more, tasks=TASKS[:2], models=models),
                "world": world,
                "env": [{"LRD_HARNESS_CACHE": str(tmp_path / f"c{world}")}] * world,
            }
            for folder, world in ((alone, 1), (out, 2))
        ),
        cache=tmp_path / "cache",
    )
    (single,), double = both
    assert double[0][0] == single[0]
    if single[0] == 2:  # nothing was run
        assert double[0][2] == single[2]
        assert [double[1][0], *double[1][1:]] == [2, "", ""]
        return
    assert single[0] == 1
    failed = [{(r["unit"], r["error"]) for r in running.records(f, "error")} for f in (out, alone)]
    assert failed[0] == failed[1]
    same_numbers(out, alone)
    errors = [json.loads((f / "run.json").read_text())["errors"] for f in (out, alone)]
    assert errors[0] == errors[1] > 0


PLUGIN = """
import os, pathlib, signal
from lrd_harness import Metric, hookimpl
from lrd_harness.errors import StorageFull
from lrd_harness.results.journal import Journal
def full(journal, record):
    raise StorageFull("no space left")
def odd(states):
    flag = pathlib.Path({flag!r})
    if {when} and not flag.exists():
        {fault}
    return {{"odd": 1.0}}
@hookimpl
def lrd_metrics():
    return [Metric("odd", odd)]
"""


def faulty(own: Path, folder: Path, when: str, fault: str, *more: str) -> list[str]:
    """A run of four units of a metric that has a fault until there is a file `flag`."""
    file = folder / "odd.py"
    file.write_text(PLUGIN.format(flag=str(folder / "flag"), when=when, fault=fault))
    given = ("--plugins", "odd", "--load", str(file), "--layers", "last", *more)
    return command(own, folder / "out", *given, tasks=TASKS[:2])


def test_a_process_whose_disk_is_full(own: Path, tmp_path: Path) -> None:
    """The other, which waits for it, ends too; one line says why, and the same command goes on."""
    fault = "Journal.append = full"
    asked = faulty(own, tmp_path, "os.environ['RANK'] == '1'", fault)
    job = {"command": asked, "world": 2}
    (ended,) = jobs(job, cache=tmp_path / "cache")
    if [code for code, _, _ in ended] != [0, 0]:  # else the other was quicker and did all of it
        assert [code for code, _, _ in ended] == [2, 2]
        said = [line for _, _, err in ended for line in err.splitlines()]
        assert sum(line.startswith("lrd-harness: ") for line in said) == 1
        assert any("no space left" in line for line in said)
    (tmp_path / "flag").touch()
    (again,) = jobs(job, cache=tmp_path / "cache")
    assert [code for code, _, _ in again] == [0, 0], again[0][2]
    assert len(running.records(tmp_path / "out", "metric")) == 4


def test_bad_input_is_told_once(own: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    unknown = command(own, out, "--plugins", "frent")
    (found,) = jobs({"command": unknown, "world": 2}, cache=tmp_path / "cache")
    assert [code for code, _, _ in found] == [2, 2]
    said = "".join(err for _, _, err in found)
    assert said.count("unknown metric 'frent'") == said.count("\n") == 1
    assert not out.exists()


def test_folders_that_are_not_shared(own: Path, tmp_path: Path) -> None:
    caches = [{"LRD_HARNESS_CACHE": str(tmp_path / name)} for name in ("a", "b")]
    out = tmp_path / "out"
    asked = command(own, out, "--plugins", "nrs", tasks=TASKS[:2])
    job = {"command": asked, "world": 2, "env": caches}
    (found,) = jobs(job, cache=tmp_path / "cache")
    assert [code for code, _, _ in found] == [2, 2]
    said = "".join(err for _, _, err in found)
    assert said.count("\n") == 1
    assert f"{tmp_path / 'a'} is not the same folder on" in said
    assert not list(out.glob("journal/*"))


def test_alone_is_one_of_one() -> None:
    assert (ALONE.rank, ALONE.world, ALONE.main) == (0, 1, True)
    assert ALONE.gather(3) == [3]
    assert list(ALONE.deal("ab")) == [(0, "a"), (1, "b")]
    assert ALONE.share("cab", ord) == ["c", "a", "b"]
    assert ALONE.common(["a", "b"]) == {"a", "b"}
    assert together(Ranks(), lambda: 5) == 5
