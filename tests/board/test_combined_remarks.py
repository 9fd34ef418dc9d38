"""What is said and shown of the combined predictor, also where there is only noise."""

from __future__ import annotations

import importlib
import json
from typing import Any

import numpy as np
import pytest
from combined_rows import judged, made, signal

from lrd_harness.board import unseen
from lrd_harness.board.agreement import Selection
from lrd_harness.board.leaderboard import Leaderboard, build
from lrd_harness.board.unseen import COMBINED, GUESS, SIZE, Combined, Judged, of_combined


def sentence(board: Leaderboard) -> str:
    (note, *_) = of_combined(board.combined, board.selection)
    return note


def test_sentences() -> None:
    good = sentence(build(signal(families=8)))
    assert good.startswith(
        "Combined predictor, ridge on all metrics and size, on 24 models of 8 families, each "
        "predicted without its own: rho +"
    )
    assert "combining is better than the mean of the others, by " in good  # size is worse
    few = sentence(build(signal(families=7)))
    assert "better than" not in few
    assert few.endswith("but a verdict needs 8 families.")
    generator = np.random.default_rng(3)
    scores = [0.5 + 0.01 * ((7 * i) % 11) for i in range(24)]  # goes with the parameters
    noise = {f"x{k}": generator.normal(size=24).tolist() for k in range(8)}
    bad = sentence(build(made([*"abcdef"] * 4, scores, noise)))
    assert bad.endswith("combining is no better than size alone.")
    alone = sentence(build(made([*"abcdef"] * 4, scores, {})))
    assert "no metric to combine; ridge on size alone" in alone
    bare = sentence(build(made([*"abcdef"] * 4, scores, {"x": scores}, sizes=False)))
    assert "all metrics (no size is known)" in bare
    assert "ahead of the mean of the others" in bare


def row(name: str, rmse: float, p: float | None = None) -> Judged:
    lead = rmse - 0.1
    whole = name == COMBINED
    span = (None, None, None) if whole else (lead, lead - 0.01, lead + 0.01)
    rho = None if name == GUESS else 0.5
    return Judged(name, (), rho, None, None, p, None, rmse, *span)


@pytest.mark.parametrize(
    ("size", "guess", "p", "families", "verdict"),
    [
        (0.2, 0.3, 0.01, 8, "combining is better than size alone, by 10.00 points"),
        (0.3, 0.2, 0.01, 8, "combining is better than the mean of the others, by 10.00 points"),
        (0.3, 0.09, 0.01, 8, "combining is no better than the mean of the others."),
        (0.09, 0.3, 0.01, 8, "combining is no better than size alone."),
        (0.2, 0.3, 0.05, 8, "+9.00 to +11.00), but its order of the models may be chance."),
        (0.2, 0.3, None, 8, "but its order of the models may be chance."),
        (0.2, 0.105, 0.01, 8, "0.50 points (95 %: -0.50 to +1.50), but other families might undo"),
        (0.2, 0.3, 0.01, 7, "combining is ahead of size alone, by 10.00 points"),
    ],
)
def test_combining_must_beat_the_best_of_the_others(
    size: float, guess: float, p: float | None, families: int, verdict: str
) -> None:
    rows = row(COMBINED, 0.1, p), row(SIZE, size, 0.5), row(GUESS, guess)
    (said,) = of_combined(Combined("", families, 0, (), rows, n=24), Selection((), 24, 24))
    assert verdict in said
    assert ("is better" in said) is ("is better" in verdict)


@pytest.mark.parametrize("kin", [False, True])
def test_noise_is_seldom_better(kin: bool) -> None:
    """Metrics that say nothing of the scores; kin: models of a family are alike in both."""
    better, panels, of = 0, 60, np.arange(24) % 8
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unseen, "DRAWS", 99)
        for seed in range(panels):
            generator = np.random.default_rng(seed)
            x = generator.normal(size=(4, 24)) + 2 * kin * generator.normal(size=(4, 8))[:, of]
            values = {f"x{k}": x[k].tolist() for k in range(3)}
            scores = (0.5 + x[3] / 20).tolist()
            found = judged(made([f"f{i}" for i in of], scores, values, sizes=False))
            better += "is better" in of_combined(found, Selection((), 24, 24))[0]
    assert better <= panels * (0.05 + 3 * np.sqrt(0.05 * 0.95 / panels))


def test_sheet_and_json() -> None:
    reporters: Any = importlib.import_module("lrd_harness.plugins.reporters.forms")
    board = build(signal())
    lines = reporters.table(board).splitlines()
    assert max(map(len, lines)) <= 80
    start = lines.index("Combined predictor, on families of models that it has not seen")
    (line,) = [line for line in lines[start + 4 : start + 8] if line.startswith("combined")]
    assert board.combined is not None
    row = board.combined.rows[0]
    cells = line.split()
    assert cells[1] == f"{row.rho:+.2f}"
    assert cells[-2:] == ["0.001", f"{100 * row.rmse:.1f}"]
    document = json.loads(reporters.as_json(board))["combined"]
    assert (document["n"], document["families"], len(document["models"])) == (24, 6, 24)
    assert set(document["alphas"]) == {f"f{i}" for i in range(6)}
    assert document["models"][0]["predicted"].keys() == {COMBINED, SIZE, GUESS}
    few = build(made([*"abc"], [0.1, 0.2, 0.3], {}))
    assert "Combined" not in reporters.table(few)
