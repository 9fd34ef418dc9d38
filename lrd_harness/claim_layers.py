"""Whether a middle layer beats the last, and what a layer that is chosen without labels gains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import fsum
from statistics import fmean
from typing import NamedTuple

from scipy.stats import t

from lrd_harness.choice import LayerChoice, cells_of
from lrd_harness.choice_controls import BLIND, Cell, Gain, stderr_over_runs
from lrd_harness.claim_rows import (
    ALPHA,
    FAILS,
    FEW_PAIRS,
    FEW_RUNS,
    HOLDS,
    LBL,
    OPEN,
    Claim,
    count,
)
from lrd_harness.layers import pick
from lrd_harness.results import Key, Results

GAIN = 3.0  # %: what the paper's layers are said to gain, about
_RANDOM = "random layer"
_MIDDLE = Claim(
    "middle layers beat the last",
    "The layer of the middle half (depth 0.25 to 0.75) that is best on a model's other tasks "
    "scores higher than its last layer.",
    LBL,
    "points",
    "pairs",
    OPEN,
    "",
)
_CHOSEN = Claim(
    "a label-free layer gains 3 %",
    "A layer that a metric chooses without labels gains about 3 % over the last layer's score "
    "(number: the metric that gains most, in its published direction).",
    LBL,
    "%",
    "pairs",
    OPEN,
    "",
)


class Mean(NamedTuple):
    """A mean over cells, its interval (None below 2 training runs), how many cells and runs."""

    value: float
    low: float | None
    high: float | None
    n: int
    runs: int


def layer_claims(choice: LayerChoice | None, results: Results) -> tuple[Claim, Claim]:
    """Both claims, on one side's results; choice: theirs."""
    if choice is None:
        reason = "only last layers were scored"
        return replace(_MIDDLE, reason=reason), replace(_CHOSEN, reason=reason)
    cells = [cell for cell in cells_of(results).values() if cell.whole]
    return _middle(cells), _chosen(choice, cells)


def middle_gains(cells: Sequence[Cell]) -> list[tuple[Cell, float, float]]:
    """Of one model's tasks, at least two: cell, honest gain, gain of the best middle layer.

    Honest: of the middle layers that all its tasks have, the one with the highest mean over the
    other tasks, ties to the lower. None of them: [].
    """
    held = set.intersection(*(set(cell.scores) for cell in cells))
    middle = [layer for layer in sorted(held) if _is_middle(layer, cells[0].layers)]
    if len(cells) < 2 or not middle:
        return []
    found = []
    for cell in cells:
        others = [other for other in cells if other is not cell]
        sums = {layer: round(fsum(o.scores[layer] for o in others), 12) for layer in middle}
        gains = {layer: cell.outcome(layer).gain for layer in middle}
        found.append((cell, gains[pick(sums)], max(gains.values())))
    return found


def _is_middle(layer: int, layers: int) -> bool:
    return layers <= 4 * layer <= 3 * layers


def _middle(cells: Sequence[Cell]) -> Claim:
    """Holds if the t interval over training runs of the honest gain is above 0."""
    by_model: dict[Key, list[Cell]] = {}
    for cell in cells:
        by_model.setdefault(cell.key, []).append(cell)
    found = [one for own in by_model.values() for one in middle_gains(own)]
    if not found:
        reason = "no model has two tasks with scores of the last layer and the same middle layer"
        return replace(_MIDDLE, reason=reason)
    held, honest, oracle = zip(*found, strict=True)
    blind = [BLIND[_RANDOM](cell).gain for cell in held]
    gain = mean(held, honest)
    lead = mean(held, [own - other for own, other in zip(honest, blind, strict=True)])
    best = fmean(oracle)
    said = (
        f"{_points(gain.value)}{_span(gain, 100)}, a random layer {_points(fmean(blind))}; the "
        f"best middle layer of each pair by its own score would show {_points(best)}: picking "
        f"after the fact adds {100 * (best - gain.value):.1f}"
    )
    missing = _few(gain)
    return replace(
        _MIDDLE,
        value=100 * gain.value,
        low=_scaled(gain.low, 100),
        high=_scaled(gain.high, 100),
        control=_RANDOM,
        control_value=100 * fmean(blind),
        ahead=None if missing else (lead.low or 0.0) > 0,
        n=gain.n,
        verdict=OPEN if missing else HOLDS if (gain.low or 0.0) > 0 else FAILS,
        reason=f"{said}; {missing}" if missing else said,
    )


def _chosen(choice: LayerChoice, cells: Sequence[Cell]) -> Claim:
    """Holds if the metric's interval is above 0 and does not end below 3 %.

    Over training runs, by Student's t, at 95 % for all metrics with a published direction together
    (Bonferroni): it is the best of them that is looked at.
    """
    own = [g for g in choice.gains if g.kind == "metric" and g.first and g.published and g.n]
    by_place = {(cell.key, cell.task): cell for cell in cells}
    ratios = {gain.rule: _ratio(choice, gain.rule, by_place, len(own)) for gain in own}
    held = [(ratio, gain) for gain in own if (ratio := ratios[gain.rule]) is not None]
    if not held:
        return replace(
            _CHOSEN, reason="no metric that chooses a layer was measured with its scores"
        )
    ratio, gain = max(held, key=lambda one: one[0].value)
    control = 100 * (gain.rival_gain or 0.0) / _last(choice, gain.rule, by_place)
    said = f"{gain.rule} gains {ratio.value:+z.1f} %{_span(ratio, 1, ' %')}"
    if len(own) > 1:
        said += f", the best of {len(own)} metrics"
    said += f"; {gain.rival}, the best that needs no metric, {control:+z.1f} %"
    missing = _few(ratio)
    holds = (ratio.low or 0.0) > 0 and (ratio.high or 0.0) >= GAIN
    if not missing and (ratio.low or 0.0) > 0 and not holds:
        said += f"; a gain, but less than {GAIN:g} %"
    return replace(
        _CHOSEN,
        value=ratio.value,
        low=ratio.low,
        high=ratio.high,
        control=gain.rival,
        control_value=control,
        ahead=None if missing else _leads(gain, len(own)),
        n=ratio.n,
        verdict=OPEN if missing else HOLDS if holds else FAILS,
        reason=f"{said}; {missing}" if missing else said,
    )


Places = Mapping[tuple[Key, str], Cell]


def _picked(choice: LayerChoice, metric: str, cells: Places) -> list[tuple[Cell, float]]:
    """The cells in which the metric picks a layer, and what that gains."""
    return [
        (cells[Key(p.model, p.revision, "full"), p.task], p.gain)
        for p in choice.picks
        if p.metric == metric and p.gain is not None
    ]


def _last(choice: LayerChoice, metric: str, cells: Places) -> float:
    """The mean score of the last layer in these cells."""
    return fmean([cell.scores[cell.layers] for cell, _ in _picked(choice, metric, cells)])


def _ratio(choice: LayerChoice, metric: str, cells: Places, metrics: int) -> Mean | None:
    """The gain in percent of the last layer's mean score; None where that is not above 0.

    Its standard error is that of a ratio of means: of the deviations gain - ratio x last score.
    """
    picked = _picked(choice, metric, cells)
    last = _last(choice, metric, cells) if picked else 0.0
    if last <= 0:
        return None
    held = [cell for cell, _ in picked]
    ratio = fmean([gain for _, gain in picked]) / last
    rest = [gain - ratio * cell.scores[cell.layers] for cell, gain in picked]
    off = mean(held, rest, metrics)  # of mean 0
    low, high = (None if end is None else 100 * (ratio + end / last) for end in (off.low, off.high))
    return Mean(100 * ratio, low, high, off.n, off.runs)


def _leads(gain: Gain, metrics: int) -> bool | None:
    """Whether a metric gains more than its rival does, for all metrics together."""
    if gain.lead_stderr is None:
        return None
    lead = (gain.gain or 0.0) - (gain.rival_gain or 0.0)
    return bool(lead > gain.lead_stderr * t.ppf(1 - ALPHA / 2 / metrics, gain.runs - 1))


def mean(cells: Sequence[Cell], values: Sequence[float], tests: int = 1) -> Mean:
    """Of a value a cell, with its 95 % t interval over training runs, `tests` of them together."""
    runs = len({cell.run for cell in cells})
    error, middle = stderr_over_runs(cells, values), fmean(values)
    if error is None:
        return Mean(middle, None, None, len(cells), runs)
    reach = error * float(t.ppf(1 - ALPHA / 2 / tests, runs - 1))
    return Mean(middle, middle - reach, middle + reach, len(cells), runs)


def _few(found: Mean) -> str:
    """What is missing for a verdict; "" if nothing is."""
    if found.n >= FEW_PAIRS and found.runs >= FEW_RUNS:
        return ""
    return (
        f"{count(found.n, 'model-task pair')} of {count(found.runs, 'training run')}, a verdict "
        f"needs {FEW_PAIRS} of {FEW_RUNS}"
    )


def _points(gain: float) -> str:
    return f"{100 * gain:+z.1f} points"


def _scaled(value: float | None, by: float) -> float | None:
    return None if value is None else by * value


def _span(found: Mean, by: float, unit: str = "") -> str:
    if found.low is None or found.high is None:
        return ""
    return f" (95 % {by * found.low:+z.1f} to {by * found.high:+z.1f}{unit})"
