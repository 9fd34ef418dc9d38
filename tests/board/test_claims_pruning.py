"""Pruning rules against random removal: the rank test and its verdicts, against enumeration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from pruning_rows import SWEEP, both_sides

from lrd_harness.board.claims import Claim, contest, pruning_claims
from lrd_harness.board.leaderboard import build
from lrd_harness.board.pruned import PrunedRow, PrunedTable, Run
from lrd_harness.results.database import Key

HEAVY, LIGHT = "gfmi beats random, 15 %", "frenet beats random only lightly"


def named(claims: Sequence[Claim], name: str) -> Claim:
    (found,) = [claim for claim in claims if claim.name == name]
    return found


def pruned(
    rule: str, changes: Sequence[float], model: str, blocks: int = 24, budget: float = 0.15,
    removed: int = 3,
) -> PrunedRow:  # fmt: skip
    """A rule, or random with a change a seed, on one task."""
    seeds = range(len(changes)) if rule == "random" else [None]
    runs = [
        Run(seed, f"{rule} {seed}", (1,), change, None, None)
        for seed, change in zip(seeds, changes, strict=True)
    ]
    empty: dict[str, Any] = dict.fromkeys(
        ("score", "stderr", "random", "difference", "verdict", "parameters_saved", "latency_saved")
    )
    return PrunedRow(
        model=model, revision="", label=model, kind="embedding", rule=rule, budget=budget,
        blocks=blocks, removed=removed, runs=tuple(runs), tasks=("t",), missing=(), full=0.5,
        change=float(np.median(changes)), by_task={}, **empty,
    )  # fmt: skip


def own(key: Key) -> Key:
    return key


def table(*rows: PrunedRow) -> PrunedTable:
    return PrunedTable(rows, (), (), ())


def sweep(
    rule: str, change: Callable[[int], float], models: int = 6, depths: int = 3, **at: Any
) -> list[PrunedRow]:
    """Models of several depths; random loses 10, 12 and 14 % of each."""
    rows = []
    for i in range(models):
        where = {"model": f"m{i}", "blocks": 12 * (1 + i % depths), **at}
        rows += [
            pruned("random", [-10.0, -12.0, -14.0], **where),
            pruned(rule, [change(i)], **where),
        ]
    return rows


def test_the_rank_among_random_seeds_is_counted_exactly() -> None:
    rows = [
        *(pruned("random", [-5.0, -1.0, -3.0], m, b) for m, b in (("a", 6), ("b", 6), ("c", 12))),
        pruned("gfmi", [-2.0], "a", 6),
        pruned("gfmi", [-3.0], "b", 6),  # with a -2.5: better than two seeds
        pruned("gfmi", [-3.0], "c", 12),  # better than one, level with another
    ]
    held = contest(rows, "gfmi", 0.15, own)
    assert held
    assert (held.change, held.random) == pytest.approx((-8 / 3, -3))
    assert (held.low, held.high, held.seeds, held.models, held.runs) == (-5, -1, 3, 3, 3)
    sums = [sum(draw) for draw in product(range(4), repeat=2)]
    assert held.p == pytest.approx(np.mean(np.array(sums) >= 2 + 1))
    assert held.least == pytest.approx(1 / 16)
    kin = contest(rows, "gfmi", 0.15, lambda key: Key("a", "", "full"))
    assert kin is not None
    assert kin.runs == 1


def test_a_rule_that_is_one_more_draw_beats_random_no_oftener_than_said() -> None:
    generator = np.random.default_rng(5)
    ps = []
    for _ in range(400):
        rows = []
        for blocks in (6, 12, 24):
            drawn = generator.integers(0, 6, size=4)  # with ties
            for i in range(2):  # models of one depth: the same draws, a level of their own
                changes = [float(v) - 10 * i for v in drawn]
                rows.append(pruned("random", changes[:3], f"{blocks} {i}", blocks))
                rows.append(pruned("gfmi", changes[3:], f"{blocks} {i}", blocks))
        held = contest(rows, "gfmi", 0.15, own)
        assert held
        ps.append(held.p)
    for alpha in (0.05, 0.2, 0.5):
        allowed = alpha + 3 * np.sqrt(alpha * (1 - alpha) / len(ps))
        assert np.mean(np.array(ps) <= alpha) <= allowed


def test_what_is_not_on_the_same_tasks_is_not_compared() -> None:
    row, drawn = pruned("gfmi", [-1.0], "a"), pruned("random", [-2.0, -3.0], "a")
    assert contest([row, drawn], "gfmi", 0.15, own)
    assert contest([row, replace(drawn, tasks=("t", "u"))], "gfmi", 0.15, own) is None
    assert contest([row], "gfmi", 0.15, own) is None
    assert contest([row, drawn], "gfmi", 0.20, own) is None
    other = [pruned("random", [-2.0], "b"), pruned("gfmi", [-1.0], "b")]
    both = contest([row, drawn, *other], "gfmi", 0.15, own)
    assert both
    assert both.seeds == 1  # that both models have


@pytest.mark.parametrize(
    ("rows", "verdict", "reason"),
    [
        (sweep("gfmi", lambda i: -5.0), "holds", "-5.0 % against random's -12.0 %"),
        (sweep("gfmi", lambda i: -11.0), "does not hold", "p ="),
        (sweep("gfmi", lambda i: -20.0), "does not hold", "p = 1"),
        (
            sweep("gfmi", lambda i: -5.0, models=4),
            "not enough data",
            "4 training runs, a verdict needs 5",
        ),
        (sweep("gfmi", lambda i: -5.0, depths=1), "not enough data", "3 random seeds cannot give"),
        ([], "not enough data", "no model was pruned by gfmi and at random at 15 %"),
    ],
)
def test_gfmi_against_random(rows: list[PrunedRow], verdict: str, reason: str) -> None:
    found = named(pruning_claims(table(*rows), "embedding", own), HEAVY)
    assert found.verdict == verdict
    assert reason in found.reason
    assert found.control_value == (pytest.approx(-12) if rows else None)
    assert named(pruning_claims(table(*rows), "base", own), HEAVY).value is None


def test_a_verdict_needs_training_runs_not_models() -> None:
    """Seven checkpoints of two runs."""
    rows = sweep("gfmi", lambda i: -5.0, models=7)
    kin = lambda key: Key(f"run {int(key.model[1:]) % 2}", "", "full")  # noqa: E731
    found = named(pruning_claims(table(*rows), "embedding", kin), HEAVY)
    assert (found.verdict, found.n) == ("not enough data", 7)
    assert found.reason.endswith("7 models); 2 training runs, a verdict needs 5")


def budgets(light: float, heavy: float, removed: int = 4, **more: Any) -> list[PrunedRow]:
    return [
        *sweep("frenet", lambda i: light, budget=0.10, removed=2, **more),
        *sweep("frenet", lambda i: heavy, budget=0.15, removed=removed, **more),
    ]


@pytest.mark.parametrize(
    ("rows", "verdict", "reason"),
    [
        (budgets(-5, -20), "holds", "15 %: -20.0 % against random's -12.0 %"),
        (budgets(-5, -5), "does not hold", "10 %: -5.0 %"),
        (budgets(-20, -20), "does not hold", "10 %: -20.0 %"),
        (budgets(-5, -20, removed=2), "not enough data", "no heavier budget that removes more"),
        (budgets(-5, -20)[:12], "not enough data", "no heavier budget that removes more"),
        (budgets(-5, -20, models=4), "not enough data", "a verdict needs 5"),
        ([], "not enough data", "no model was pruned by frenet"),
    ],
)
def test_frenet_against_random(rows: list[PrunedRow], verdict: str, reason: str) -> None:
    found = named(pruning_claims(table(*rows), "embedding", own), LIGHT)
    assert found.verdict == verdict
    assert reason in found.reason


def test_each_board_has_the_pruning_of_its_own_tasks() -> None:
    board = build(both_sides())
    assert board.base
    assert named(board.claims, LIGHT).value == pytest.approx(-25)
    assert named(board.base.claims, LIGHT).value is None  # random has no score there
    assert named(build(SWEEP).claims, LIGHT).reason.endswith("is there to compare")
