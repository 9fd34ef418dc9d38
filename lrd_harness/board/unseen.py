"""All metrics and the size in one predictor, judged on families of models that it has not seen.

Ridge regression of the mean score on the model-level scores of all metrics (selection scores, those
judged beside them) and on size (log parameters, log width, depth). It is the mean score that is
predicted, as its order is the leaderboard's, and an error in scores can be read. Features are means
over tasks of raw scores, not of ranks: these would carry models that are left out into training.
One family at a time is left out; standardisation and alpha come from the other families alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import sqrt
from typing import Any

import numpy as np

from lrd_harness.board import statistics
from lrd_harness.board.cautions import Caution, count
from lrd_harness.board.layers import hidden
from lrd_harness.board.panel import DIGITS, Panel, sizes
from lrd_harness.report import Column, Table, listing

LEAST_MODELS, LEAST_FAMILIES = 10, 3
LEAST_DRAWN = 5  # families that an interval is drawn of
TELLING = 8  # that its verdict rests on: of fewer it is too narrow
DRAWS = 999
COMBINED, SIZE, GUESS = "combined", "size alone", "mean of the others"
# Of standardised features, so alpha is of the size of n: from nearly all shrinkage to hardly any
ALPHAS = np.logspace(3, -1, 9)  # the strongest first: of several that are as good, it is taken
INNER = 10  # inner folds at most; up to so many families, each is one
_SAME = 1e-9  # rhos that differ by less are the same


@dataclass(frozen=True)
class Combined:
    """The combined predictor beside size alone and the mean of the other families.

    lacking: why there is not enough data, "" where there is; then rows hold something.
    models: with everything, as places in the panel; family_of: the family of each.
    models_left_out: with a mean score, but no family or not all features; features_left_out: what
    fewer than half of the models with a mean score have.
    rows: one per predictor, the cells of table "combined"; errors are fractions, as scores are.
    predicted: predictor -> of each model without its family; alphas: family -> of the first's.
    """

    lacking: str
    models: Sequence[int]
    family_of: Sequence[str]
    models_left_out: int
    features_left_out: Sequence[str]
    features: Sequence[str] = ()
    rows: Sequence[Mapping[str, Any]] = ()
    actual: np.ndarray = field(default_factory=lambda: np.empty(0))
    predicted: Mapping[str, np.ndarray] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)

    @cached_property
    def families(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.family_of))

    @property
    def facts(self) -> dict[str, Any]:
        """What programs may want beside the tables."""
        return {
            "lacking": self.lacking,
            "families": len(self.families),
            "models_left_out": self.models_left_out,
            "features_left_out": list(self.features_left_out),
            "n": len(self.models),
        }


def build_combined(panel: Panel) -> Combined | None:
    """None where no model has a mean score over all tasks."""
    scored = np.flatnonzero(~np.isnan(panel.actual))
    if not len(scored):
        return None
    metrics = {p.score: p.complete_means for p in panel.predictors if p.kind == "metric"}
    columns = {name: numbers[scored] for name, numbers in (metrics | sizes(panel.models)).items()}
    kept = [n for n, column in columns.items() if 2 * (~np.isnan(column)).sum() >= len(scored)]
    x = np.array([columns[name] for name in kept]).reshape(len(kept), len(scored)).T
    families = [panel.models[i].family or "" for i in scored]
    whole = ~np.isnan(x).any(axis=1) & (np.array(families) != "")
    combined = Combined(
        "",
        scored[whole].tolist(),
        [family for family, there in zip(families, whole, strict=True) if there],
        models_left_out=int((~whole).sum()),
        features_left_out=[name for name in columns if name not in kept],
        features=kept,
    )
    x, y = x[whole], panel.actual[combined.models]
    if lacking := _lacking(combined, y):
        return replace(combined, lacking=lacking, features=())
    size = [name for name in kept if name not in metrics]
    return _judge(combined, {COMBINED: kept if len(kept) > len(size) else [], SIZE: size}, x, y)


def _lacking(combined: Combined, y: np.ndarray) -> str:
    families = len(combined.families)
    if len(y) < LEAST_MODELS or families < LEAST_FAMILIES:
        return (
            f"{count(len(y), 'model')} of {families} {'family' if families == 1 else 'families'} "
            f"with all scores, metrics and sizes; it needs {LEAST_MODELS} of {LEAST_FAMILIES}"
        )
    if not combined.features:
        return "neither metrics nor sizes are known"
    return "" if np.ptp(y) > 0 else "all mean scores are the same"


def _judge(
    combined: Combined, features: Mapping[str, Sequence[str]], x: np.ndarray, y: np.ndarray
) -> Combined:
    """What is predicted of each model without its family; in drawn orders up to 500 models.

    features: predictor -> the last so many columns of x (n, p).
    """
    groups = np.array([combined.families.index(name) for name in combined.family_of])
    targets, counts = y[:, None], None
    if len(y) <= statistics.LARGE:
        orders = np.random.default_rng(42).permuted(np.tile(y, (DRAWS, 1)), axis=1)
        targets = np.concatenate([targets, orders.T], axis=1)
        if len(combined.families) >= LEAST_DRAWN:
            counts = statistics.resamples(len(combined.families))[:, groups]  # whole families
    predicted, alphas = {}, []
    for name, names in features.items():
        if names:
            ridge, means, chosen = held_out(x[:, x.shape[1] - len(names) :], targets, groups)
            predicted[name] = np.round(ridge, DIGITS)
            alphas.append(chosen[:, 0].tolist())
    predicted[GUESS] = means
    return replace(
        combined,
        rows=[_row(name, features.get(name, ()), predicted, targets, counts) for name in predicted],
        actual=y,
        predicted={name: values[:, 0] for name, values in predicted.items()},
        alphas=dict(zip(combined.families, alphas[0], strict=True)),
    )


def held_out(
    x: np.ndarray, y: np.ndarray, groups: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predictions for each group by a ridge that was fitted without it.

    x: features (n, p), finite; y: targets (n, k), each with an alpha of its own; groups: (n,) whole
    numbers 0..g-1, g >= 3. Gives predictions (n, k), the means of the other groups (n, k), and
    alphas (g, k): of `ALPHAS`, that with the least squared error over grouped folds of the others.
    """
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    predicted, means, alphas = np.empty_like(y), np.empty_like(y), []
    for group in range(groups.max() + 1):
        out = groups == group
        others = x[~out], y[~out]
        alphas.append(ALPHAS[np.argmin(_errors(*others, groups[~out]), axis=0)])
        ridge = make_pipeline(StandardScaler(), Ridge(alphas[-1], solver="svd")).fit(*others)
        predicted[out] = ridge.predict(x[out]).reshape(-1, y.shape[1])
        means[out] = others[1].mean(axis=0)
    return predicted, means, np.array(alphas)


def _errors(x: np.ndarray, y: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Squared error of each alpha and target over folds of whole groups: (alphas, k).

    One decomposition per fold for all alphas and targets: with scikit-learn's search it is one per
    alpha, and a permutation test has a thousand targets.
    """
    from sklearn.model_selection import PredefinedSplit
    from sklearn.preprocessing import StandardScaler

    sizes = np.bincount(groups)
    order = sorted(np.flatnonzero(sizes).tolist(), key=lambda group: -sizes[group])
    dealt = {group: i % INNER for i, group in enumerate(order)}
    errors = np.zeros((len(ALPHAS), y.shape[1]))
    for fit, out in PredefinedSplit([dealt[group] for group in groups]).split():
        scaler = StandardScaler().fit(x[fit])
        u, s, vt = np.linalg.svd(scaler.transform(x[fit]), full_matrices=False)
        turned, left = u.T @ y[fit], y[out] - y[fit].mean(axis=0)
        projected = scaler.transform(x[out]) @ vt.T
        for error, alpha in zip(errors, ALPHAS, strict=True):
            error += np.sum(np.square((projected * s / (s**2 + alpha)) @ turned - left), axis=0)
    return errors


def _row(
    name: str,
    features: Sequence[str],
    predictions: Mapping[str, np.ndarray],
    y: np.ndarray,
    counts: np.ndarray | None,
) -> dict[str, Any]:
    """One predictor's cells. predictions, y: (n, 1 + draws), the first of the scores as they are.

    p, chance: one-sided, and the mean rho, of all of it repeated with the scores in random order.
    lead: the error of this one less that of the combined one.
    """
    predicted, actual = predictions[name][:, 0], y[:, 0]
    squares = np.square(predicted - actual)
    rmse = sqrt(np.mean(squares))
    row: dict[str, Any] = {"predictor": name, "features": list(features), "n": len(actual)}
    row |= dict.fromkeys("p chance lead low high lead_low lead_high".split()) | {"rmse": rmse}
    row["rho"] = rho = None if name == GUESS else statistics.spearman(predicted, actual)
    if rho is not None and counts is not None:
        drawn = statistics.Resampled(actual, counts).rho(predicted)
        row["low"], row["high"] = statistics.interval(drawn)
    if rho is not None and y.shape[1] > 1:
        by_chance = statistics.spearman_rows(predictions[name][:, 1:].T, y[:, 1:].T)
        there = by_chance[~np.isnan(by_chance)]  # undefined: nothing predicted, so no rho as large
        row["p"] = (int(np.sum(there >= rho - _SAME)) + 1) / (len(by_chance) + 1)
        row["chance"] = float(np.mean(there)) if len(there) else None
    if COMBINED in predictions and name != COMBINED:
        best = np.square(predictions[COMBINED][:, 0] - actual)
        row["lead"] = rmse - sqrt(np.mean(best))
        if counts is not None:
            weights = counts / counts.sum(axis=1, keepdims=True)
            drawn = np.sqrt(weights @ squares) - np.sqrt(weights @ best)
            row["lead_low"], row["lead_high"] = statistics.interval(drawn)
    row["interval"] = statistics.span(row["low"], row["high"])
    row["lead_interval"] = statistics.span(row["lead_low"], row["lead_high"], "+z.3f")
    return row


def combined_tables(combined: Combined | None, panel: Panel, what: str = "models") -> list[Table]:
    """The predictors, what they predict of each model, and the strengths of the ridge."""
    if combined is None or combined.lacking:
        return []
    columns = (
        Column("predictor", key=True),
        Column("rho", "rho", "-1 to +1", "max", "+z.2f"),
        Column("interval", "95 % over families"),
        Column("p", "p (one-sided)", form=".2g"),
        Column("rmse", "error", "of the score", "min", ".3f"),
        Column("chance", "rho by chance", form="+z.2f", rest=1),
        Column("lead", "error less the combined's", form="+z.3f", rest=1),
        Column("lead_interval", "95 % over families", rest=1, tied=True),
        Column("features", form="list", shown=False),
        *hidden("low", "high", "lead_low", "lead_high", "n"),
    )
    caption = (
        f"Ridge regression of the mean score on {', '.join(combined.features)}. n = "
        f"{len(combined.models)} models of {len(combined.families)} families; each family is "
        "predicted from the others alone, which also give the means, the deviations and the "
        "strength of the ridge.",
        "rho: Spearman's, of these predictions with the mean scores; 95 %: bootstrap of whole "
        f"families (from {LEAST_DRAWN} on; of fewer than {TELLING} it is too narrow for a "
        "verdict). p: all of it repeated with the scores in random order, whose mean rho is the "
        "one by chance: below 0, as what is left out is missing in what predicts it. p takes "
        "models as independent, and is too small where those of a family are alike. error: root "
        "mean squared.",
    )
    title = f"Combined predictor, on families of {what} that it has not seen"
    models = [
        panel.named(i)
        | {"family": combined.family_of[at], "actual": float(combined.actual[at])}
        | {f"predicted.{name}": float(v[at]) for name, v in combined.predicted.items()}
        for at, i in enumerate(combined.models)
    ]
    alphas = [{"family": family, "alpha": alpha} for family, alpha in combined.alphas.items()]
    return [
        Table("combined", title, columns, combined.rows, caption),
        listing("combined_models", "Scores predicted without the own family", models, "model"),
        listing("combined_strengths", "Strength of the ridge, by family", alphas, "family"),
    ]


def combined_cautions(combined: Combined | None) -> Iterator[Caution]:
    """One sentence on it, and one on what was left out."""
    if combined is None:
        return
    if combined.lacking:
        yield Caution("combined_lacks", {"lacking": combined.lacking})
        return
    rows = {row["predictor"]: row for row in combined.rows}
    size = _judged(rows[SIZE]) if SIZE in rows else ""
    families = f"{len(combined.models)} models of {len(combined.families)} families"
    numbers = {"on": f"on {families}, each predicted without its own"}
    numbers["guess"] = f"error {rows[GUESS]['rmse']:.3f}"
    if COMBINED in rows:
        numbers["and_size"] = " and size" if size else " (no size is known)"
        numbers["size"] = f"; size alone: {size}" if size else ""
        numbers["verdict"] = _verdict(combined, rows[COMBINED])
        yield Caution("combined", numbers | {"combined": _judged(rows[COMBINED])})
    else:
        yield Caution("combined_size", numbers | {"size": size})
    parts = []
    if left_out := combined.models_left_out:
        parts.append(
            f"{count(left_out, 'model')} whose family, or one of the scores it is made of, "
            f"{'are' if left_out > 1 else 'is'} not known"
        )
    if combined.features_left_out:
        parts.append(f"{', '.join(combined.features_left_out)}, which most models lack")
    if parts:
        yield Caution("combined_left_out", {"parts": "; ".join(parts)})


def _judged(row: Mapping[str, Any]) -> str:
    rho = "no rho" if row["rho"] is None else f"rho {row['rho']:+z.2f}"
    p = "" if row["p"] is None else f" (p = {row['p']:.2g})"
    return f"{rho}{p}, error {row['rmse']:.3f}"


def _verdict(combined: Combined, whole: Mapping[str, Any]) -> str:
    """whole: the row of combining, which has to beat the best of the others."""
    rival = min((row for row in combined.rows if row is not whole), key=lambda row: row["rmse"])
    name = f"the {GUESS}" if rival["predictor"] == GUESS else rival["predictor"]
    lead, low = rival["lead"], rival["lead_low"]
    if lead is None or lead <= 0:
        return f"combining is no better than {name}"
    spread = "no interval can be drawn" if low is None else f"95 %: {rival['lead_interval']}"
    by = f"{name}, by {lead:.3f} ({spread})"
    if low is None or low <= 0:
        doubt = "other families might undo that"
    elif len(combined.families) < TELLING:
        doubt = f"a verdict needs {TELLING} families"
    elif whole["p"] is None or whole["p"] >= statistics.ALPHA:
        doubt = "its order of the models may be chance"
    else:
        return f"combining is better than {by}"
    return f"combining is ahead of {by}, but {doubt}"
