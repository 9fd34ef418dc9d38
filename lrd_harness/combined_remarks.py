"""What is to be said of the combined predictor, in plain sentences."""

from __future__ import annotations

from lrd_harness.claim_rows import ALPHA
from lrd_harness.combined import COMBINED, GUESS, LEAST_TOLD, SIZE, Combined, Judged
from lrd_harness.selection import Selection

LEAD = "Combined predictor"


def of_combined(combined: Combined | None, selection: Selection | None) -> tuple[str, ...]:
    """One sentence on it, and one on what was left out; () where no rho could tell anything."""
    if combined is None or selection is None or not selection.telling:
        return ()
    if combined.lacking:
        return (f"{LEAD}: not enough data: {combined.lacking}.",)
    rows = {row.name: row for row in combined.rows}
    size, whole = rows.get(SIZE), rows.get(COMBINED)
    on = f"on {combined.n} models of {combined.families} families, each predicted without its own"
    guess = combined.rows[-1]
    if whole is None and size is not None:  # the features are size alone
        said = f"no metric to combine; ridge on size alone, {on}: {_judged(size)}"
    elif whole is not None:
        beside = f"; size alone: {_judged(size)}" if size else ""
        both = "all metrics and size" if size else "all metrics (no size is known)"
        said = f"ridge on {both}, {on}: {_judged(whole)}{beside}"
    mean = f"; the mean of the other families: {_points(guess.rmse)}"
    verdict = f": {_verdict(combined, whole)}" if whole is not None else ""
    return (f"{LEAD}, {said}{mean}{verdict}.", *_left_out(combined))


def _judged(row: Judged) -> str:
    rho = "no rho" if row.rho is None else f"rho {row.rho:+z.2f}"
    if row.p is not None:
        rho += f" (p = {row.p:.2g})"
    return f"{rho}, error {_points(row.rmse)}"


def _verdict(combined: Combined, whole: Judged) -> str:
    """whole: the row of combining, which has to beat the best of the others."""
    rival = min((row for row in combined.rows if row is not whole), key=lambda row: row.rmse)
    name = f"the {GUESS}" if rival.name == GUESS else rival.name
    if rival.lead is None or rival.lead <= 0:
        return f"combining is no better than {name}"
    spread = "no interval can be drawn"
    if rival.lead_low is not None and rival.lead_high is not None:
        spread = f"95 %: {100 * rival.lead_low:+z.2f} to {100 * rival.lead_high:+z.2f}"
    by = f"by {100 * rival.lead:.2f} points ({spread})"
    ahead = f"combining is ahead of {name}, {by}, but"
    if rival.lead_low is None or rival.lead_low <= 0:
        return f"{ahead} other families might undo that"
    if combined.families < LEAST_TOLD:
        return f"{ahead} a verdict needs {LEAST_TOLD} families"
    if whole.p is None or whole.p >= ALPHA:  # where an interval is drawn, p is as well
        return f"{ahead} its order of the models may be chance"
    return f"combining is better than {name}, {by}"


def _left_out(combined: Combined) -> tuple[str, ...]:
    parts = []
    if combined.models_left_out:
        count = combined.models_left_out
        parts.append(
            f"{count} model{'s' * (count > 1)} whose family, or one of the scores it is made of, "
            f"{'are' if count > 1 else 'is'} not known"
        )
    if combined.features_left_out:
        parts.append(f"{', '.join(combined.features_left_out)}, which most models lack")
    return (f"{LEAD}: left out: {'; '.join(parts)}.",) if parts else ()


def _points(rmse: float) -> str:
    return f"{100 * rmse:.1f} points"
