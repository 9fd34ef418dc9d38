"""Whether a predictor orders the models of one family, those of their configurations ("bert").

A predictor that only tells families from one another (decoders of seven billion parameters from
small encoders) has a high rho over all models and none within a family. Of two models of one family
whose mean scores differ, a predictor is right where it puts the better one first; level predictions
count as half, as in Harrell's (1982) concordance index. 0.5 is chance.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from lrd_harness.board import statistics
from lrd_harness.board.layers import Row, hidden
from lrd_harness.board.panel import SIZES, Panel
from lrd_harness.report import Column, Table, listing

LEAST = 4  # members of a family that have both, for a rho within it
LEAST_PAIRS = 5  # pairs of one family: below, a share of them says nothing
SHOWN = 6  # families whose rho is shown, the largest
DRAWS = 1_999
MOST_PAIRS = 5_000  # above so many pairs no p-value: the orders drawn would not fit


class _Families:
    """The models of a panel that have a family and a score: names and scores, (n,).

    members: family -> places of its models, of two at least, the largest family first; values:
    predictor -> order, (n,); left_out: how many models of the panel are in no such family.
    """

    def __init__(self, panel: Panel) -> None:
        scored = np.flatnonzero(~np.isnan(panel.actual)).tolist()
        keep = [i for i in scored if panel.models[i].family]
        names = [str(panel.models[i].family) for i in keep]
        large = [name for name, n in Counter(names).most_common() if n > 1]
        self.members = {name: np.flatnonzero(np.array(names) == name) for name in large}
        self.left_out = len(panel.models) - sum(map(len, self.members.values()))
        self.scores = panel.actual[keep]
        self.values = {predictor.name: predictor.strength[keep] for predictor in panel.predictors}
        self.models = list(map(panel.named, keep))
        self.drawn: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}  # see `_drawn`

    def within(self, values: np.ndarray) -> tuple[int, int]:
        """`surplus` of the pairs of one family, all families together."""
        counts = [surplus(values[at], self.scores[at]) for at in self.members.values()]
        return sum(more for more, _ in counts), sum(n for _, n in counts)


def surplus(x: np.ndarray, y: np.ndarray) -> tuple[int, int]:
    """Of all pairs with unlike y (n,), those that x (n,) has right less those wrong; how many."""
    x, y = statistics.complete(x, y)
    a, b = (np.sign(side[:, None] - side) for side in (x, y))
    return int(np.sum(a * b)) // 2, int(np.sum(b != 0)) // 2


def share(more: int, n: int) -> float | None:
    """Pairs in the right order, level predictions counted as half; None without a pair."""
    return (n + more) / (2 * n) if n else None


def family_tables(panel: Panel, what: str = "models") -> tuple[list[Table], int]:
    """How predictors order each family, beside each baseline, and the ranks within families.

    Also how many models are in no family of two. [] where no family has two models with a score.
    """
    families = _Families(panel)
    if not families.members:
        return [], families.left_out
    # a metric may bear the name of a baseline, which then stands for both
    predictors = {predictor.name: predictor for predictor in panel.predictors}.values()
    baselines = [predictor.name for predictor in predictors if predictor.kind == "baseline"]
    rows: list[Row] = []
    rivals: list[Row] = []
    for predictor in predictors:
        name, metric = predictor.name, predictor.kind == "metric"
        beside = list(_beside(name, baselines, families)) if metric else []
        sizes = [rival for rival in beside if rival["other"] in SIZES]
        best = max(sizes, key=lambda rival: rival["share"], default=None)
        row = {"predictor": name, "kind": predictor.kind, **_within(name, families)}
        row["best_size"] = best and f"{best['share']:.2f} {best['other']}"
        rivals += beside
        if row["pairs"] or metric:
            rows.append(row)
    shown = max((row["pairs"] for row in rows), default=0) >= LEAST_PAIRS
    tables = _agreements(rows, families, what), _ranks(rows, families, what)
    title = "Each metric beside each baseline, within families"
    return [
        *(replace(table, shown=shown) for table in tables),
        listing("family_rivals", title, rivals, "predictor", "other"),
    ], families.left_out


def _within(predictor: str, families: _Families) -> Row:
    """Its shares of pairs within and between families, rho by family."""
    values, scores = families.values[predictor], families.scores
    (more, pairs), (more_of_all, all_pairs) = families.within(values), surplus(values, scores)
    rhos = {
        name: statistics.spearman(values[at], scores[at])
        for name, at in families.members.items()
        if (~np.isnan(values[at])).sum() >= LEAST
    }
    return {
        "share": share(more, pairs),
        "p": _p(values, more, families) if pairs else None,
        "pairs": pairs,
        "between": share(more_of_all - more, all_pairs - pairs),
        "between_pairs": all_pairs - pairs,
        "rho": statistics.median(list(rhos.values())),
        **{f"by_family.{name}": rho for name, rho in rhos.items()},
    }


def _beside(metric: str, baselines: Sequence[str], families: _Families) -> Iterator[Row]:
    """A metric beside each baseline on the pairs that both have: their shares in order."""
    for baseline in baselines:
        sides = np.array([families.values[metric], families.values[baseline]])
        sides[:, np.isnan(sides).any(axis=0)] = np.nan
        (more, pairs), (other, _) = map(families.within, sides)
        if pairs:
            shares = {"own": share(more, pairs), "share": share(other, pairs)}
            yield {"predictor": metric, "other": baseline, **shares, "pairs": pairs}


def _p(values: np.ndarray, more: int, families: _Families) -> float | None:
    """(count + 1) / (draws + 1) of drawn orders with as large a surplus, either way.

    Exact in that P(p <= a) <= a where, in every family, all orders of the scores are alike.
    """
    there = ~np.isnan(values)
    sizes = (int(there[at].sum()) for at in families.members.values())
    if sum(n * (n - 1) // 2 for n in sizes) > MOST_PAIRS:
        return None
    if there.tobytes() not in families.drawn:
        families.drawn[there.tobytes()] = _drawn(there, families)
    pairs, signs = families.drawn[there.tobytes()]
    predicted = np.sign(values[pairs[:, 0]] - values[pairs[:, 1]]).astype(np.float32)
    if not predicted.any():
        return None
    drawn = np.abs(signs @ predicted)  # whole numbers below 2^24: exact in float32
    return (int(np.sum(drawn >= abs(more))) + 1) / (DRAWS + 1)


def _drawn(there: np.ndarray, families: _Families) -> tuple[np.ndarray, np.ndarray]:
    """The pairs within families among `there` (P, 2), and the signs of their scores as drawn.

    Signs are (draws, P): the scores of every family's members in seeded random orders.
    """
    generator = np.random.default_rng(42)
    pairs, signs = [], []
    for at in families.members.values():
        members = at[there[at]]
        if len(members) > 1:
            first, second = np.triu_indices(len(members), 1)
            scores = np.tile(families.scores[members], (DRAWS, 1))
            drawn = generator.permuted(scores, axis=1)
            pairs.append(np.stack([members[first], members[second]], axis=1))
            signs.append(np.sign(drawn[:, first] - drawn[:, second]).astype(np.float32))
    return np.concatenate(pairs), np.concatenate(signs, axis=1)


def _agreements(rows: Sequence[Row], families: _Families, what: str) -> Table:
    sizes = [(f"by_family.{name}", name, len(at)) for name, at in families.members.items()]
    with_rho = [size for size in sizes if any(size[0] in row for row in rows)]
    columns = (
        Column("predictor", key=True),
        *hidden("kind"),
        Column("share", "pairs in order within a family", "0 to 1", "max", ".2f"),
        Column("p", "p (two-sided)", form=".2g"),
        Column("pairs", "n", "pairs"),
        Column("between", "pairs in order between families", "0 to 1", "max", ".2f"),
        *hidden("between_pairs"),
        Column("rho", "median rho", best="max", form="+z.2f"),
        Column("best_size", "best size on the same pairs"),
        *(
            Column(name, f"rho in {family}, n = {n}", form="+z.2f", rest=1, shown=i < SHOWN)
            for i, (name, family, n) in enumerate(with_rho)
        ),
    )
    pairs = sum(n * (n - 1) // 2 for *_, n in sizes)
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
    if families.left_out:
        caption.append(
            f"{families.left_out} models are in no family of two: it is not known, they lack a "
            "task, or they are the only one."
        )
    title = f"How well each predictor orders the {what} within their families"
    return Table("families", title, columns, rows, tuple(caption))


def _ranks(predicted: Sequence[Row], families: _Families, what: str) -> Table:
    """One row per model, the families one under another, each from its best model down."""
    names = [row["predictor"] for row in predicted]
    rows = []
    for family, at in families.members.items():
        ranks = {"rank": statistics.places(families.scores[at])}
        ranks |= {f"predicted.{n}": statistics.places(families.values[n][at]) for n in names}
        for i in sorted(range(len(at)), key=lambda i: ranks["rank"][i] or 0):
            row = {"family": family, "score": float(families.scores[at[i]])}
            row |= {name: places[i] for name, places in ranks.items()}
            rows.append({**families.models[int(at[i])], **row})
    metrics = {row["predictor"] for row in predicted if row["kind"] == "metric"} or {*names}
    columns = (
        Column("model", key=True),
        *hidden("name", "revision"),
        Column("family"),
        Column("score", "mean score", "0 to 1", "max", ".4f"),
        Column("rank", "actual rank"),
        *(Column(f"predicted.{n}", f"rank by {n}", shown=n in metrics) for n in names),
    )
    caption = (
        "Ranks within the family, 1 = best: by mean score of the last layer, and as predicted; "
        "models that are level share the better one.",
    )
    return Table("family_ranks", f"Ranks of {what} within their families", columns, rows, caption)
