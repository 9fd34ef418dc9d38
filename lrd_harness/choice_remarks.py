"""What must be said of choosing layers without labels, in plain sentences."""

from __future__ import annotations

from collections.abc import Sequence

from scipy.stats import t

from lrd_harness.choice import LayerChoice
from lrd_harness.choice_controls import HONEST, LAST, Gain

FEW_PAIRS, FEW_RUNS = 30, 5  # below either, what is seen is an illustration
ALPHA = 0.05  # two-sided, for all metrics together
_EQUAL = 1e-9  # gains that differ by less are the same


def of_choice(choice: LayerChoice | None) -> tuple[str, ...]:
    """Whether some metric's choice gained more than what needs no metric; () without a metric.

    Each metric is compared in its published direction, over the cells that it has. One without
    takes no part: its direction was not stated before, and one that rises to the last layer by its
    very definition would pick that one always.
    """
    if choice is None:
        return ()
    own = [g for g in choice.gains if g.kind == "metric" and g.first and g.published and g.n]
    if not own:
        return ()
    ahead = [g for g in own if _lead(g) > _EQUAL]
    said = _won(max(ahead, key=_lead), own, _honest(choice)) if ahead else _lost(own)
    return (said + _caution(ahead or own),)


def points(gain: float) -> str:
    """A gain in points, hundredths of the score, with its sign: "+1.2 points"."""
    return f"{100 * gain:+z.1f} points"


def _lead(gain: Gain) -> float:
    return (gain.gain or 0.0) - (gain.rival_gain or 0.0)


def _honest(choice: LayerChoice) -> Gain | None:
    return next((g for g in choice.gains if g.rule == HONEST and g.gain is not None), None)


def _lost(own: Sequence[Gain]) -> str:
    rivals = {(gain.rival, gain.rival_gain) for gain in own}
    if len(rivals) > 1:  # metrics that were measured on other pairs have another rival
        return (
            "No metric's layer gained more than the best of the last, first, random and "
            "fixed-depth layers did on the same model-task pairs"
        )
    ((name, gain),) = rivals
    if name == LAST:
        return "No metric's layer gained anything over the last layer"
    return f"No metric's layer gained more than {name} ({points(gain or 0.0)})"


def _won(best: Gain, own: Sequence[Gain], honest: Gain | None) -> str:
    rival = "the last layer itself"
    if best.rival != LAST:
        rival = f"{best.rival}, {points(best.rival_gain or 0.0)}"
    said = (
        f"{best.rule}'s layer gained {points(best.gain or 0.0)} over the last layer, more than "
        f"every choice that needs no metric (best: {rival})"
    )
    if honest and (honest.gain or 0.0) >= (best.gain or 0.0) - _EQUAL:
        said += (
            f", but not more than the honest choice, which needs the scores of other tasks "
            f"({points(honest.gain or 0.0)})"
        )
    if len(own) > 1:
        said += f"; it is the best of {len(own)} metrics, picked by this very table"
    if _by_luck(best, len(own)):
        said += "; luck alone may give such a lead"
    return said


def _by_luck(best: Gain, metrics: int) -> bool:
    """Whether the lead is within what the best of so many metrics has by chance (t, Bonferroni)."""
    if best.lead_stderr is None:
        return False
    return bool(_lead(best) <= best.lead_stderr * t.ppf(1 - ALPHA / 2 / metrics, best.runs - 1))


def _caution(own: Sequence[Gain]) -> str:
    """How much it rests on."""
    n, models = max(gain.n for gain in own), max(gain.models for gain in own)
    runs = max(gain.runs for gain in own)
    of = f"n = {n} model-task pair{'s' if n != 1 else ''} of {models} model"
    of += "s" if models != 1 else ""
    if runs < models:  # checkpoints are no models of their own
        of += f" from {runs} training run{'s' if runs != 1 else ''}"
    if n < FEW_PAIRS or runs < FEW_RUNS:
        return f"; {of}: illustration, not evidence."
    return f"; {of}."
