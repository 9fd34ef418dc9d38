"""Whether a predictor orders the models of one family, those of their configurations ("bert").

A predictor that only tells families from one another (decoders of seven billion parameters from
small encoders) has a high rho over all models and none within a family. Of two models of one family
whose mean scores differ, a predictor is right where it puts the better one first; level predictions
count as half, as in Harrell's (1982) concordance index. 0.5 is chance.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from lrd_harness.board import statistics
from lrd_harness.board.panel import Panel
from lrd_harness.report import Column, Table, listing

LEAST = 4  # members of a family that have both, for a rho within it
LEAST_PAIRS = 5  # pairs of one family: below, a share of them says nothing
SHOWN = 6  # families whose rho is shown, the largest
DRAWS = 1_999
MOST_PAIRS = 5_000  # above so many pairs no p-value: the orders drawn would not fit
SIZES = ("log parameters", "log width", "depth")


class Pairs(NamedTuple):
    """surplus: pairs that a predictor has right less those it has wrong; n: of unlike scores."""

    surplus: int
    n: int

    @property
    def share(self) -> float | None:
        """Pairs in the right order, level predictions counted as half; None without a pair."""
        return (self.n + self.surplus) / (2 * self.n) if self.n else None


@dataclass(frozen=True)
class _Groups:
    """scores: of the models with family and score; members: family -> places of its models."""

    scores: np.ndarray
    members: Mapping[str, np.ndarray]
    drawn: dict[bytes, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    def within(self, values: np.ndarray) -> Pairs:
        """The pairs of all families together."""
        found = [concordance(values[at], self.scores[at]) for at in self.members.values()]
        return Pairs(sum(pairs.surplus for pairs in found), sum(pairs.n for pairs in found))


def concordance(x: np.ndarray, y: np.ndarray) -> Pairs:
    """All pairs of (n,) predictions with unlike scores y (n,): right less wrong, and how many."""
    x, y = statistics.complete(x, y)
    a, b = (np.sign(side[:, None] - side[None, :]) for side in (x, y))
    return Pairs(int(np.sum(a * b)) // 2, int(np.sum(b != 0)) // 2)


def family_tables(
    panel: Panel, labels: Sequence[str], what: str = "models"
) -> tuple[list[Table], int]:
    """How predictors order each family, beside each baseline, and the ranks within families.

    Also how many models are in no family of two. [] where no family has two models with a score.
    """
    scored = np.flatnonzero(~np.isnan(panel.actual)).tolist()
    keep = [i for i in scored if panel.models[i].family]
    of = np.array([panel.models[i].family for i in keep])
    places = {name: np.flatnonzero(of == name) for name in dict.fromkeys(of.tolist())}
    large = sorted(places.items(), key=lambda item: -len(item[1]))
    groups = _Groups(panel.actual[keep], {name: at for name, at in large if len(at) > 1})
    left_out = len(panel.models) - sum(map(len, groups.members.values()))
    if not groups.members:
        return [], left_out
    values = {one.name: one.order[keep] for one in panel.predictors}
    kinds = {one.name: one.kind for one in panel.predictors}
    baselines = {name: v for name, v in values.items() if kinds[name] == "baseline"}
    rows, rivals = [], []
    for name, of_models in values.items():
        beside = list(_beside(of_models, baselines, groups)) if kinds[name] == "metric" else []
        row = {"predictor": name, "kind": kinds[name], **_within(of_models, groups)}
        sizes = [rival for rival in beside if rival["other"] in SIZES]
        best = max(sizes, key=lambda rival: rival["share"], default=None)
        row["best_size"] = best and f"{best['share']:.2f} {best['other']}"
        rivals += [{"predictor": name, **rival} for rival in beside]
        if row["pairs"] or kinds[name] == "metric":
            rows.append(row)
    models = [
        {"model": labels[i], "name": panel.models[i].model, "revision": panel.models[i].revision}
        for i in keep
    ]
    shown = max((row["pairs"] for row in rows), default=0) >= LEAST_PAIRS
    tables = [
        _agreements(rows, groups, left_out, what),
        _ranks({row["predictor"]: row["kind"] for row in rows}, values, groups, models, what),
    ]
    title = "Each metric beside each baseline, within families"
    return [
        *(replace(table, shown=shown) for table in tables),
        listing("family_rivals", title, rivals, "predictor", "other"),
    ], left_out


def _within(values: np.ndarray, groups: _Groups) -> dict[str, Any]:
    """One predictor: shares of pairs within and between families, rho by family."""
    within, whole = groups.within(values), concordance(values, groups.scores)
    between = Pairs(whole.surplus - within.surplus, whole.n - within.n)
    rhos = {}
    for name, at in groups.members.items():
        x, y = statistics.complete(values[at], groups.scores[at])
        if len(x) >= LEAST:
            rhos[name] = statistics.spearman(x, y)
    return {
        "share": within.share,
        "p": _p(values, within, groups),
        "pairs": within.n,
        "between": between.share,
        "between_pairs": between.n,
        "rho": statistics.median(list(rhos.values())),
        **{f"by_family.{name}": rho for name, rho in rhos.items()},
    }


def _beside(
    values: np.ndarray, baselines: Mapping[str, np.ndarray], groups: _Groups
) -> Iterator[dict[str, Any]]:
    """A metric beside each baseline on the pairs that both have: their shares in order."""
    for name, baseline in baselines.items():
        both = ~np.isnan(values) & ~np.isnan(baseline)
        own, other = (groups.within(np.where(both, v, np.nan)) for v in (values, baseline))
        if own.share is not None and other.share is not None:
            yield {"other": name, "own": own.share, "share": other.share, "pairs": own.n}


def _p(values: np.ndarray, within: Pairs, groups: _Groups) -> float | None:
    """(count + 1) / (draws + 1) of drawn orders with as large a surplus, either way.

    Exact in that P(p <= a) <= a where, in every family, all orders of the scores are alike.
    """
    there = ~np.isnan(values)
    sizes = (int(there[at].sum()) for at in groups.members.values())
    if not within.n or sum(n * (n - 1) // 2 for n in sizes) > MOST_PAIRS:
        return None
    if there.tobytes() not in groups.drawn:
        groups.drawn[there.tobytes()] = _drawn(there, groups)
    pairs, signs = groups.drawn[there.tobytes()]
    own = np.sign(values[pairs[:, 0]] - values[pairs[:, 1]]).astype(np.float32)
    if not own.any():
        return None
    surplus = np.abs(signs @ own)  # whole numbers below 2^24: exact in float32
    return (int(np.sum(surplus >= abs(within.surplus))) + 1) / (DRAWS + 1)


def _drawn(there: np.ndarray, groups: _Groups) -> tuple[np.ndarray, np.ndarray]:
    """The pairs within families among `there` (P, 2), and the signs of their scores as drawn.

    Signs are (draws, P): the scores of every family's members in seeded random orders.
    """
    generator = np.random.default_rng(42)
    pairs, signs = [], []
    for at in groups.members.values():
        members = at[there[at]]
        if len(members) < 2:
            continue
        first, second = np.array(list(combinations(range(len(members)), 2))).T
        scores = np.tile(groups.scores[members], (DRAWS, 1))
        drawn = generator.permuted(scores, axis=1)
        pairs.append(np.stack([members[first], members[second]], axis=1))
        signs.append(np.sign(drawn[:, first] - drawn[:, second]).astype(np.float32))
    return np.concatenate(pairs), np.concatenate(signs, axis=1)


def _agreements(
    rows: Sequence[Mapping[str, Any]], groups: _Groups, left_out: int, what: str
) -> Table:
    found = {f"by_family.{name}": (name, len(at)) for name, at in groups.members.items()}
    found = {name: of for name, of in found.items() if any(name in row for row in rows)}
    columns = [
        Column("predictor", key=True),
        Column("kind", shown=False),
        Column("share", "pairs in order within a family", "0 to 1", "max", ".2f"),
        Column("p", "p (two-sided)", form=".2g"),
        Column("pairs", "n", "pairs"),
        Column("between", "pairs in order between families", "0 to 1", "max", ".2f"),
        Column("between_pairs", shown=False),
        Column("rho", "median rho", best="max", form="+z.2f"),
        Column("best_size", "best size on the same pairs"),
        *(
            Column(name, f"rho in {family}, n = {n}", form="+z.2f", rest=1, shown=i < SHOWN)
            for i, (name, (family, n)) in enumerate(found.items())
        ),
    ]
    pairs = sum(len(at) * (len(at) - 1) // 2 for at in groups.members.values())
    drawn = "p by orders drawn within the families"
    if pairs > MOST_PAIRS and any(row["p"] is None for row in rows):
        drawn = f"no p is drawn above {MOST_PAIRS:,} pairs"
    caption = [
        "A predictor that only tells families from one another is worth little: size does that. "
        "Pairs in order: of the pairs of models with unlike mean scores, the share that the "
        "predictor has in the right order (0.5 is chance, 1 all; level predictions count as half), "
        f"of one family and of two; {drawn}. rho: Spearman's within a family of at least "
        f"{LEAST} models, and the median over these families."
    ]
    if left_out:
        caption.append(
            f"{left_out} models are in no family of two: it is not known, they lack a task, or "
            "they are the only one."
        )
    title = f"How well each predictor orders the {what} within their families"
    return Table("families", title, tuple(columns), rows, tuple(caption))


def _ranks(
    kinds: Mapping[str, str],
    values: Mapping[str, np.ndarray],
    groups: _Groups,
    models: Sequence[Mapping[str, Any]],
    what: str,
) -> Table:
    """One row per model, the families one under another, each from its best model down."""
    rows = []
    for family, at in groups.members.items():
        ranks = {"rank": statistics.places(groups.scores[at])}
        ranks |= {f"predicted.{name}": statistics.places(values[name][at]) for name in kinds}
        for i in sorted(range(len(at)), key=lambda i: ranks["rank"][i] or 0):
            row = {"family": family, "score": float(groups.scores[at[i]])}
            own = {name: places[i] for name, places in ranks.items()}
            rows.append({**models[int(at[i])], **row, **own})
    by_metric = {name for name, kind in kinds.items() if kind == "metric"} or set(kinds)
    columns = (
        Column("model", key=True),
        Column("name", shown=False),
        Column("revision", shown=False),
        Column("family"),
        Column("score", "mean score", "0 to 1", "max", ".4f"),
        Column("rank", "actual rank"),
        *(Column(f"predicted.{n}", f"rank by {n}", shown=n in by_metric) for n in kinds),
    )
    caption = (
        "Ranks within the family, 1 = best: by mean score of the last layer, and as predicted; "
        "models that are level share the better one.",
    )
    return Table("family_ranks", f"Ranks of {what} within their families", columns, rows, caption)
