"""Slices: every pair of model and task in exactly one, evenly, and a slice runs its own alone."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import running
from hypothesis import given
from hypothesis import strategies as st
from plans import pairs, panel, plan
from running import one_line

from lrd_harness.cli import main
from lrd_harness.errors import UserError
from lrd_harness.planning import shards
from lrd_harness.planning.settings import Settings
from lrd_harness.planning.shards import Seconds, Shard


@given(st.integers(1, 7), st.integers(1, 7), st.integers(1, 60), st.integers(0, 7))
def test_every_pair_is_in_one_slice(models: int, tasks: int, of: int, encoders: int) -> None:
    whole = plan(models, tasks, encoders=encoders)
    cuts = [shards.cut(whole, Shard(i, of)) for i in range(1, of + 1)]
    assert [pair for cut in cuts for pair in pairs(cut)] == pairs(whole)
    assert {m.name for cut in cuts for m in cut.models} == {m.name for m in whole.models}
    if not encoders:
        sizes = {len(pairs(cut)) for cut in cuts}
        assert max(sizes) - min(sizes) <= 1
    # cut where they lie side by side: a cut opens one model twice at most
    assert sum(len(cut.models) for cut in cuts) <= models + of - 1


@given(st.integers(1, 9), st.integers(1, 4), st.data())
def test_with_pruning_slices_are_of_whole_models(models: int, tasks: int, data: Any) -> None:
    whole = plan(models, tasks, prune=True)
    of = data.draw(st.integers(1, models))
    cuts = [shards.cut(whole, Shard(i, of)) for i in range(1, of + 1)]
    assert [m.name for cut in cuts for m in cut.models] == [m.name for m in whole.models]
    assert all(len(pairs(cut)) == tasks * len(cut.models) for cut in cuts)


def test_more_slices_than_models_with_pruning() -> None:
    with pytest.raises(UserError, match="whole models, of which there are 2"):
        shards.cut(plan(2, 3, prune=True), Shard(1, 3))
    with pytest.raises(UserError, match="whole models, of which there are 2"):
        shards.kept(None, plan(2, 3, prune=True), 3)


@pytest.mark.parametrize("text", ["", "3", "0/2", "3/2", "1/0", "-1/2", "1/2/3", "a/b", "1.5/2"])
def test_what_is_no_slice(text: str) -> None:
    with pytest.raises(UserError, match="not I/N"):
        shards.parse(text)


def test_names() -> None:
    shard = shards.parse("3/31")
    assert shard == (3, 31)
    assert (str(shard), shard.suffix) == ("3/31", "-shard-3-of-31")


@pytest.mark.parametrize(
    ("there", "lacking"),
    [(["2/3"], ["1/3", "3/3"]), (["1/2", "2/2"], []), (["1/2", "1/3"], []), ([], [])],
)
def test_slices_that_are_lacking(there: list[str], lacking: list[str]) -> None:
    assert shards.lacking(there) == lacking


def test_a_sliced_model_keeps_its_tasks_under_another_name() -> None:
    (model,) = shards.cut(plan(1, 4), Shard(2, 2)).models
    renamed = replace(model, name="other")
    assert [t.name for t in plan(1, 4).tasks if renamed.takes(t)] == ["t2", "t3"]


@pytest.mark.usefixtures("own_cache")
@pytest.mark.slow
def test_a_slice_runs_its_own_pairs(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Two models on two tasks in three slices of equal cost, merged where their cut is kept."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lrd_harness.runner.calibration.LONG", 0.0)  # seconds that trials take
    out, models = tmp_path / "out", [place / "bert", place / "gpt"]
    command = running.command(Path("X"), models, place / "data")
    at = command.index("--output")
    command[at : at + 2] = []
    into, cut = ("--output", str(out)), out / "shards" / "cut.json"
    assert main(["plan", *command[1:], *into, "--shards", "3"]) == 0
    slices = json.loads(cut.read_text())["slices"]
    printed = capsys.readouterr().out
    assert all(f" {i}/3 " in printed for i in (1, 2, 3))
    assert "with these options, --shard I/3" in printed
    assert main(["plan", *command[1:], "--shards", "3"]) == 0
    assert "The cut is not kept: give --output" in capsys.readouterr().out
    every: list[tuple[str, str]] = []
    for number, part in enumerate(slices, 1):
        assert main([*command, "--shard", f"{number}/3", *into]) == 0
        folder = out / "shards" / f"{number}-of-3"
        run = json.loads((folder / "run.json").read_text())
        assert run["shards"] == [f"{number}/3"]
        scored, measured = (
            {(row["model"], row["task"]) for row in running.records(folder, kind)}
            for kind in ("score", "metric")
        )
        asked = {(name, task) for name, tasks in part["pairs"].items() for task in tasks}
        assert scored == measured == asked
        every += scored
    assert len(every) == len(set(every)) == 4
    capsys.readouterr()
    assert main(["plan", *command[1:], *into, "--shards", "2"]) == 2
    assert one_line(capsys).startswith(f"{cut} is for 3 slices, not 2: give another --output")
    assert main(["merge", *map(str, out.glob("shards/*-of-3")), *into]) == 0
    assert sorted(json.loads((out / "run.json").read_text())["shards"]) == ["1/3", "2/3", "3/3"]
    assert "not among them" not in capsys.readouterr().err
    whole = out / "shards" / "1-of-3"  # which slices would do again
    assert main(["plan", *command[1:], "--output", str(whole), "--shards", "3"]) == 2
    assert "is a run, and no merge of runs" in one_line(capsys)
    assert not (whole / "shards").exists()
    assert main([*command, "--shard", "1/5"]) == 0
    empty = "Slice 1/5 is empty: there are fewer pairs of model and task.\n"
    assert capsys.readouterr().out == empty
    (folder,) = tmp_path.glob("runs/custom-*-shard-1-of-5")
    assert main([*command, "--shard", "6/5"]) == 2
    assert one_line(capsys) == "--shard 6/5: not I/N with I from 1 to N, as 3/31"


def costs(opening: list[float], tasks: list[list[float]]) -> dict[str, Seconds]:
    """Of models m0, m1, ... with tasks t0, t1, ..."""
    return {
        f"m{i}": Seconds(first, {f"t{j}": seconds for j, seconds in enumerate(row)})
        for i, (first, row) in enumerate(zip(opening, tasks, strict=True))
    }


def slowest(seconds: dict[str, Seconds], slices: list[list[tuple[str, str]]]) -> float:
    """The slowest of some slices, each model opened once in it."""
    return max(
        sum(seconds[name].opening for name in {name for name, _ in part})
        + sum(seconds[name].tasks[task] for name, task in part)
        for part in slices
    )


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 30), st.booleans(), st.integers())
def test_at_equal_cost_every_pair_is_in_one_slice_and_none_is_slower(
    models: int, tasks: int, of: int, prune: bool, seed: int
) -> None:
    of, draw = min(of, models) if prune else of, random.Random(seed)
    rows = [draw.choices([0.0, 0.001, 1.0, 7.5, 1e4], k=tasks + 1) for _ in range(models)]
    seconds = costs([row.pop() for row in rows], rows)
    whole = plan(models, tasks, prune)
    cut = shards.by_cost(whole, of, seconds)
    parts = [pairs(shards.cut(whole, Shard(i, of), cut)) for i in range(1, of + 1)]
    assert sorted(chain(*parts)) == sorted(pairs(whole))
    counted = [pairs(shards.cut(whole, Shard(i, of))) for i in range(1, of + 1)]
    assert slowest(seconds, parts) <= slowest(seconds, counted) * (1 + 1e-9)
    assert slowest(seconds, parts) == pytest.approx(max(part.seconds for part in cut.slices))
    if prune:
        assert sum(len({name for name, _ in part}) for part in parts) == models


def plainly(
    pairs: shards.Pairs, of: int, costs: Mapping[str, Seconds], most: float, whole: bool
) -> list[shards.Pairs] | None:
    """`shards._filled`, which leaves out what is sure to be in vain, with all of it tried."""
    rest, slices = dict(pairs), [shards.Pairs() for _ in range(of)]
    for part in slices:
        gap, left = most, ""
        for name in list(rest):
            seconds, room, taken = costs[name].tasks, gap - costs[name].opening, list[str]()
            if seconds[rest[name][-1]] > room:
                continue
            for task in rest[name]:  # from the largest on
                if seconds[task] <= room:
                    taken.append(task)
                    room -= seconds[task]
            all_of_it = len(taken) == len(rest[name])
            if all_of_it or not (whole or left):
                part[name], gap = tuple(taken), room
                rest[name] = tuple(task for task in rest[name] if task not in taken)
                left = left if all_of_it else name
        rest = {name: rest[name] for name in [left, *rest] if rest.get(name)}
        if not rest:
            return slices
    return None


@given(st.integers(1, 12), st.integers(1, 9), st.integers(1, 30), st.booleans(), st.integers())
def test_a_cut_is_that_of_trying_everything(
    models: int, tasks: int, of: int, prune: bool, seed: int
) -> None:
    of, draw = min(of, models) if prune else of, random.Random(seed)
    sizes = [300 ** draw.random() for _ in range(models)]
    odd = draw.choice([[], [0.0, 0.1, 7.5]])
    rows = [
        [draw.choice([size, size * draw.random(), *odd]) for _ in range(tasks + 1)]
        for size in sizes
    ]
    seconds, whole = costs([row.pop() for row in rows], rows), plan(models, tasks, prune)
    cut = shards.by_cost(whole, of, seconds)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "_filled", plainly)
        assert shards.by_cost(whole, of, seconds) == cut


@given(st.integers(2, 12), st.integers(1, 8), st.integers(1, 16), st.integers())
def test_slices_of_equal_cost_are_alike_where_no_pair_is_large(
    models: int, tasks: int, of: int, seed: int
) -> None:
    """Of models that differ by a factor of 300, where a slice has the time of 20 large pairs."""
    draw = random.Random(seed)
    sizes = [300 ** draw.random() for _ in range(models)]
    rows = [[size * draw.uniform(0.2, 1) for _ in range(tasks)] for size in sizes]
    seconds = costs([size / 10 for size in sizes], rows)
    of = max(1, min(of, int(sum(map(sum, rows)) / max(map(max, rows)) / 20)))
    cut = shards.by_cost(plan(models, tasks), of, seconds)
    assert max(part.seconds for part in cut.slices) <= 1.15 * sum(map(sum, rows)) / of + max(sizes)
    assert cut.ratio <= 1.15
    assert sum(len(part.pairs) for part in cut.slices) <= models + of


@pytest.mark.parametrize("of", [8, 16, 31, 64])
def test_slices_of_a_panel_are_alike(of: int) -> None:
    """31 models from 22 M to 8 B parameters, 30 tasks; one pair is 1.37 of 64 slices' mean."""
    costs = panel()
    cut = shards.by_cost(plan(31, 30), of, costs)
    largest = max(each.of([task]) for each in costs.values() for task in each.tasks)
    assert cut.ratio <= max(1.15, 1.01 * largest * of / sum(part.seconds for part in cut.slices))
    assert (cut.ratio <= 1.15) == (of < 64)
    assert sum(len(part.pairs) for part in cut.slices) <= 31 + of


def test_a_cut_is_kept_and_no_other_run_goes_by_it(tmp_path: Path) -> None:
    whole = plan(3, 4)
    seconds = costs([1.0] * 3, [[100.0, 1.0, 1.0, 1.0]] * 3)
    assert shards.kept(tmp_path, whole, 3) is None

    def beaten() -> dict[str, Seconds]:
        shards.settled(tmp_path, whole, 3, lambda: seconds)  # by another command
        return costs([9.0] * 3, [[1.0] * 4] * 3)

    cut = shards.settled(tmp_path, whole, 3, beaten)
    assert cut == shards.by_cost(whole, 3, seconds)
    assert shards.kept(tmp_path, whole, 3) == cut
    with pytest.raises(UserError, match="is for 3 slices, not 2"):
        shards.settled(tmp_path, whole, 2, lambda: seconds)
    parts = [shards.part(whole, Shard(i, 3), tmp_path) for i in (1, 2, 3)]
    assert [place for _, place, _ in parts] == [tmp_path / f"shards/{i}-of-3" for i in (1, 2, 3)]
    assert sorted(chain(*(pairs(part) for part, _, _ in parts))) == sorted(pairs(whole))
    assert all(len([t for _, t in pairs(part) if t == "t0"]) == 1 for part, _, _ in parts)
    assert shards.part(whole, Shard(1, 3), tmp_path / "other")[1] == tmp_path / "other"
    others = {
        "is for 3 slices, not 4": (whole, 4),
        "is for other models": (plan(2, 4), 3),
        "is for other tasks": (plan(3, 5), 3),
        "is for other settings": (replace(whole, settings=Settings(max_length=5)), 3),
    }
    for message, (other, of) in others.items():
        with pytest.raises(UserError, match=message):
            shards.part(other, Shard(1, of), tmp_path)
    file = tmp_path / "shards" / "cut.json"
    text = file.read_text()
    for damaged in (
        "{",
        "[]",
        text.replace('"run": {', '"run": {"settings": 1}, "ru": {'),
        text.replace('"t3": 1', '"t9": 1', 1),
    ):
        file.write_text(damaged)
        with pytest.raises(UserError, match=r"cannot be read|has not every pair"):
            shards.part(whole, Shard(1, 3), tmp_path)


def test_a_cut_model_is_not_pruned(tmp_path: Path) -> None:
    seconds = costs([0.0, 0.0], [[2.0, 2.0], [0.1, 0.1]])
    shards.settled(tmp_path, plan(2, 2), 2, lambda: seconds)
    with pytest.raises(UserError, match="slices with --prune are of whole ones"):
        shards.kept(tmp_path, plan(2, 2, prune=True), 2)
