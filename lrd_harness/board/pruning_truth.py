"""Pruning rules against the truth about single blocks, and how firmly rules choose.

The truth is what a model's output loses without each block alone; blocks are numbered from 1.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
from scipy import stats

from lrd_harness.blocks import written
from lrd_harness.board.cautions import Caution
from lrd_harness.board.layers import Row, filled
from lrd_harness.board.panel import model_labels
from lrd_harness.board.statistics import mean_of_all, spearman
from lrd_harness.report import Column, Table
from lrd_harness.results.rows import AblationRow, Key, OrderRow, Results

LOSSES = {"kl": "KL of the next token, nats", "cosine_loss": "1 - cosine", "rsa_loss": "1 - rsa"}
_EFFECT = (
    "What the output loses without that block alone: of language models the KL divergence of the "
    "next token, of others 1 - the mean cosine of outputs; 1 - rsa of the similarities of texts "
    "stands beside it. Effects do not add up: blocks that stand in for each other are each cheap."
)
_TRUTH = (
    "rho: Spearman's, over the candidates, between the rule's order of removal and the effect of "
    "taking out each block alone: 1, the least needed go first; ablation is the truth itself. Of n "
    "candidates 95 % of random orders lie within about 2/√(n-1) of 0. random: the mean over seeds."
)
_SPREAD = (
    "Each rule chose again on random halves of the texts. overlap: the mean, over pairs of halves, "
    "of the blocks that both choose by those that either does (1: always the same); chance: that "
    "of random choices. most often: the choice made on most halves."
)


def truth_tables(results: Results) -> list[Table]:
    """How rules agree with the effects of single blocks, these effects, and spreads of choices.

    Tables "pruning_truth" (model, rule, rho, n, seeds), "pruning_effects" (model, block, candidate,
    losses), "pruning_spread" (see `spread_row`); those that have rows.
    """
    labels = model_labels(results.models)
    effects, truths = list[Row](), list[Row]()
    ablations = {row.key: row for row in _asked(results, results.ablations)}
    orders: defaultdict[Key, list[OrderRow]] = defaultdict(list)
    for order in _asked(results, results.orders):
        orders[order.key].append(order)
    for key, ablation in ablations.items():
        label, rules = labels.get(key, key.model), orders[key]
        allowed = set(rules[0].candidates) if rules else set()
        effects += _of_blocks(label, ablation, allowed)
        truths += [{"model": label, **row} for row in _of_rules(ablation, rules)]
    spreads = [
        {"model": labels.get(row.key, row.model), "rule": row.rule, "budget": row.budget}
        | spread_row(row.removed, row.candidates, row.draws)
        for row in _asked(results, results.redraws)
    ]
    rho = Column("rho", best="max", form="+z.2f")
    model, rule = Column("model", key=True), Column("rule", key=True)
    losses = (Column(name, label, form=".3g") for name, label in LOSSES.items())
    columns = (model, Column("block", key=True), Column("candidate"), *losses)
    title = "Pruning: rules against the effect of single blocks"
    of_models = (model, rule, rho, Column("n", "candidates"), Column("seeds"))
    tables = [
        Table("pruning_truth", title, of_models, truths, (_TRUTH,)),
        Table("pruning_effects", "Pruning: effect of single blocks", columns, effects, (_EFFECT,)),
        spread_table("pruning_spread", spreads, (model, rule, Column("budget", form=".1%"))),
    ]
    return [replace(t, columns=filled(t.columns, t.rows)) for t in tables if t.rows]


def truth_cautions(results: Results) -> Iterator[Caution]:
    """Where a rule has looked for what its outcome is measured by, on the same texts."""
    labels = model_labels(results.models)
    looked = {row.key[:2] for row in _asked(results, results.ablations)}
    read = [row for row in results.variants if row.perplexity is not None and not row.others]
    for place in dict.fromkeys(row.key[:2] for row in read if row.key[:2] in looked):
        key = Key(*place, "full")
        yield Caution("pruning_same_texts", {"model": labels.get(key, key.model)})


def _asked(results: Results, rows: Iterable[Any]) -> list[Any]:
    """Those that the newest sweep of their model has asked for."""
    beside = {row.key: set(row.beside) for row in results.sweeps}
    return [row for row in rows if row.unit in beside.get(row.key, ())]


def _of_blocks(label: str, ablation: AblationRow, allowed: set[int]) -> list[Row]:
    blocks = range(1, 1 + max(map(len, ablation.effects.values()), default=0))
    return [
        {"model": label, "block": block, "candidate": "yes" if block in allowed else "no"}
        | {name: values[block - 1] for name, values in ablation.effects.items()}
        for block in blocks
    ]


def _of_rules(ablation: AblationRow, orders: Sequence[OrderRow]) -> list[Row]:
    """By rule, over its seeds, how its order agrees with the effects."""
    effect: Sequence[float | None] = next(iter(ablation.effects.values()), ())
    rules: defaultdict[str, list[OrderRow]] = defaultdict(list)
    for order in orders:
        rules[order.rule].append(order)
    return [
        {
            "rule": rule,
            "rho": mean_of_all([agreement(effect, order) for order in seeds]),
            "n": sum(effect[block - 1] is not None for block in seeds[0].candidates),
            "seeds": None if seeds[0].seed is None else len(seeds),
        }
        for rule, seeds in rules.items()
    ]


def agreement(effect: Sequence[float | None], order: OrderRow) -> float | None:
    """Spearman's rho between an order of removal and the effects of all blocks, 1 first; -1..1.

    None where the rule has no order, of fewer than 3 candidates with an effect, or of equal ones.

    >>> order = OrderRow(model="a", rule="r", candidates=(2, 3, 4), chosen=(0, 2, 1))
    >>> agreement([9.0, 0.3, 0.1, 0.2, 9.0], order)
    1.0
    """
    effects = [effect[block - 1] for block in order.candidates]
    return spearman([-times for times in order.chosen], effects) if order.chosen else None


def spread_row(removed: Sequence[Sequence[int]], candidates: Sequence[int], draws: int) -> Row:
    """How alike choices on several draws of the texts are.

    draws: of how many draws; chosen: on how many there was a choice; overlap: the mean Jaccard
    index over pairs of choices, 0..1, None of a single one; chance: that expected of random ones;
    modal: the choice made most often, of equally frequent ones the deeper; share: its share;
    blocks: by how many draws chose each, the most first.

    Examples
    --------
    >>> row = spread_row([(2, 3), (3, 4), (2, 3)], candidates=(2, 3, 4), draws=3)
    >>> round(row["overlap"], 2), row["modal"], row["blocks"]
    (0.56, '2-3', '3 (3), 2 (2), 4 (1)')
    """
    sets = [frozenset(blocks) for blocks in removed]
    pairs = [len(a & b) / len(a | b) for a, b in combinations(sets, 2)]
    m, common = len(sets[0]), np.arange(len(sets[0]) + 1)
    chances = stats.hypergeom(max(len(candidates), m), m, m).pmf(common)
    choices = Counter(tuple(sorted(blocks)) for blocks in sets)
    modal, times = max(choices.items(), key=lambda item: (item[1], item[0]))
    counts = Counter(block for blocks in sets for block in blocks)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], -item[0]))
    return {
        "draws": draws,
        "chosen": len(sets),
        "overlap": float(np.mean(pairs)) if pairs else None,
        "chance": float((chances * common / (2 * m - common)).sum()),
        "modal": written(modal),
        "share": times / len(sets),
        "blocks": ", ".join(f"{block} ({count})" for block, count in ordered),
    }


def spread_table(name: str, rows: Sequence[Row], keys: tuple[Column, ...] = ()) -> Table:
    """Rows of `spread_row`, behind columns that say of what they are."""
    columns = (
        *keys,
        Column("draws", "halves"),
        Column("chosen", shown=False),
        Column("overlap", best="max", form=".2f"),
        Column("chance", form=".2f"),
        Column("modal", "most often"),
        Column("share", "on", form=".0%"),
        Column("blocks", "blocks (halves)", rest=1),
    )
    return Table(name, "Pruning: choices on halves of the texts", columns, rows, (_SPREAD,))
