"""A pruning sweep as rows, with scores that are easily reckoned by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lrd_harness.blocks import written
from lrd_harness.board.layers import Row
from lrd_harness.board.pruned import PrunedRow, build_pruned, pruning_cautions, summary
from lrd_harness.contracts import LIKELIHOOD
from lrd_harness.results.rows import ModelRow, PruningRow, Results, ScoreRow, VariantRow

BLOCKS = 10
TASKS = {"t1": 0.8, "t2": 0.4}  # the whole model's scores, mean .6
# What is left of them without a block: mean .3 (-50 %), .45 (-25), .57 (-5), .48 (-20), .6 (0)
LEFT = {
    4: {"t1": 0.4, "t2": 0.2},
    5: {"t1": 0.6, "t2": 0.3},
    6: {"t1": 0.8, "t2": 0.34},
    7: {"t1": 0.6, "t2": 0.36},
    8: {"t1": 0.8, "t2": 0.4},
}


def named(removed: Sequence[int]) -> str:
    return f"without {written(removed)}"


def whole(model: str = "a", tasks: Mapping[str, float] = TASKS, **more: Any) -> list[ScoreRow]:
    """Scores of the whole model, at a middle layer too."""
    return [
        ScoreRow(model=model, task=task, layer=layer, layers=BLOCKS, score=score, **more)
        for task, value in tasks.items()
        for layer, score in ((5, 0.99), (BLOCKS, value))
    ]


def pruned(
    removed: Sequence[int], tasks: Mapping[str, float], model: str = "a", **more: Any
) -> list[ScoreRow]:
    left = BLOCKS - len(removed)
    at: dict[str, Any] = {"model": model, "variant": named(removed), "layer": left, "layers": left}
    return [ScoreRow(**at, task=task, score=score, **more) for task, score in tasks.items()]


def choice(rule: str, *removed: int, budget: float = 0.1, **more: Any) -> PruningRow:
    """A choice among blocks 3 to 8."""
    fields: dict[str, Any] = {"model": "a", "candidates": tuple(range(3, 9)), "n": 20} | more
    return PruningRow(
        variant=named(removed), rule=rule, budget=budget, removed=removed, blocks=BLOCKS, **fields
    )


def drawn(*blocks: int, **more: Any) -> list[PruningRow]:
    """Random removal of one block, by seed 0, 1, ..."""
    return [choice("random", block, seed=seed, **more) for seed, block in enumerate(blocks)]


SWEEP = Results(
    models=(ModelRow(model="a", blocks=BLOCKS),),
    scores=(*whole(), *(row for block, tasks in LEFT.items() for row in pruned([block], tasks))),
    prunings=(choice("frenet", 5), *drawn(4, 6, 7), choice("nrs", 6), choice("gfmi", 8)),
    variants=tuple(
        VariantRow(
            model="a",
            variant=named([block]),
            removed=(block,),
            parameters=900,
            parameters_full=1000,
            latency=0.8 + block / 100,
            latency_full=1.0,
        )
        for block in LEFT
        if block != 8
    ),
)


def row(results: Results, rule: str, budget: float = 0.1, kind: str = "embedding") -> PrunedRow:
    (match,) = [
        r
        for r in build_pruned(results)
        if [r.line[n] for n in ("rule", "budget", "kind")] == [rule, budget, kind]
    ]
    return match


def line(results: Results, rule: str, budget: float = 0.1, kind: str = "embedding") -> Row:
    """Of the table "pruning"."""
    return row(results, rule, budget, kind).line


def summed(results: Results, rule: str, budget: float = 0.1, kind: str = "embedding") -> Row:
    """Of the table "pruning_summary"."""
    (match,) = [
        r
        for r in summary(build_pruned(results))
        if (r["rule"], r["budget"], r["kind"]) == (rule, budget, kind)
    ]
    return match


def told(results: Results) -> dict[str, list[dict[str, Any]]]:
    """Cautions: code -> the numbers of each."""
    cautions: dict[str, list[dict[str, Any]]] = {}
    for caution in pruning_cautions(results, build_pruned(results)):
        assert str(caution)
        cautions.setdefault(caution.code, []).append(dict(caution.numbers))
    return cautions


def without(results: Results, variant: str, *tasks: str) -> Results:
    """Without the scores of a variant on these tasks."""
    kept = (s for s in results.scores if s.variant != variant or s.task not in tasks)
    return replace(results, scores=tuple(kept))


def both_sides(stderr: float = 0.02, full: float = 0.5) -> Results:
    more: dict[str, Any] = {"task_type": LIKELIHOOD, "chance": 0.25}
    scores = whole(tasks={"mmlu": full}, stderr=stderr, **more)
    scores += pruned([5], {"mmlu": 0.4}, stderr=0.03, **more)
    return replace(SWEEP, scores=(*SWEEP.scores, *scores))
