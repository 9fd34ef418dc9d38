"""Size, date and kind as controls: numbers against plain formulas, verdicts on planted panels."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from selection_panels import Values, by, grid, panel

from lrd_harness.board import interchange, statistics
from lrd_harness.board import panel as panels
from lrd_harness.board.agreement import build_selection
from lrd_harness.board.leaderboard import report
from lrd_harness.board.size_controls import by_kind, median_rho, partial_p, partial_rho
from lrd_harness.board.verdicts import agreement_cautions
from lrd_harness.errors import UserError
from lrd_harness.results.rows import Results

SIDES = st.lists(st.tuples(*[st.integers(0, 9)] * 4), min_size=6, max_size=14)


def residuals(x: Any, y: Any, *controls: Any) -> list[np.ndarray]:
    """What a least-squares fit to the controls' ranks leaves of the ranks of x and of y."""
    u, v, *ranks = (scipy_stats.rankdata(side) for side in (x, y, *controls))
    fit = np.column_stack([np.ones(len(u)), *ranks])
    return [side - fit @ np.linalg.lstsq(fit, side, rcond=None)[0] for side in (u, v)]


@settings(max_examples=60, deadline=None)
@given(SIDES)
def test_partial_rho_of_two_controls_is_that_of_residuals_and_of_the_recursion(cases: Any) -> None:
    x, y, a, b = np.array(cases, dtype=float).T
    rho = partial_rho(x, y, a, b)
    left = residuals(x, y, a, b)
    if max(np.ptp(a), np.ptp(b)) == 0 or min(np.abs(side).max() for side in left) < 1e-8:
        assert rho is None
        return
    assert rho == pytest.approx(np.corrcoef(*left)[0, 1], abs=1e-7)
    assert partial_rho(x, y, b, a) == pytest.approx(rho, abs=1e-12)
    if None in (of := [partial_rho(*s) for s in ((x, y, a), (x, b, a), (y, b, a))]):
        return
    xy, xb, yb = (float(r or 0) for r in of)  # the textbook's recursion, one control at a time
    if max(abs(xb), abs(yb)) < 1 - 1e-9:
        expected = (xy - xb * yb) / np.sqrt((1 - xb**2) * (1 - yb**2))
        assert rho == pytest.approx(expected, abs=1e-7)


def test_a_control_that_repeats_another_adds_nothing_and_four_cases_are_too_few() -> None:
    x, y, a = [3.0, 1, 2, 5, 4, 6], [2.0, 1, 3, 4, 6, 5], [1.0, 3, 2, 6, 4, 5]
    assert partial_rho(x, y, a, [2 * v for v in a]) == partial_rho(x, y, a)
    assert partial_p(x, y, a, [-v for v in a]) == pytest.approx(partial_p(x, y, a))
    assert partial_rho(x, y, a, [1.0] * 6) == partial_rho(x, y, a)
    assert partial_p(x, y, [1.0] * 6, a) == pytest.approx(partial_p(x, y, a))
    assert partial_rho(x, y, [1.0] * 6) is None
    assert partial_rho(x[:4], y[:4], a[:4], [1.0, 2, 4, 3]) is None


def test_p_given_two_controls_is_the_share_of_all_orders() -> None:
    draw = np.random.default_rng(3)
    for x, y, a, b in draw.integers(0, 5, (4, 4, 6)).astype(float):
        observed = partial_rho(x, y, a, b)
        drawn = [residuals(order, y, a, b) for order in permutations(x)]
        rhos = [abs(np.corrcoef(u, v)[0, 1]) for u, v in drawn if np.abs(u).max() > 1e-8]
        if observed is not None:
            share = np.mean([rho >= abs(observed) - 1e-7 for rho in rhos])
            assert partial_p(x, y, a, b) == pytest.approx(share, abs=1e-12)


@pytest.mark.parametrize("n", [6, 12])
def test_given_two_controls_p_is_below_a_at_most_a_of_the_time_under_the_null(n: int) -> None:
    draw = np.random.default_rng(n)
    ps = []
    for seed in range(300):
        a, b, x = draw.normal(size=(3, n))
        ps.append(partial_p(x, a + b + draw.normal(size=n), a, b, draws=99, seed=seed))
    for alpha in (0.05, 0.1, 0.25):
        share = np.mean([p <= alpha for p in ps if p is not None])
        assert share <= alpha + 3 * np.sqrt(alpha * (1 - alpha) / len(ps))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 50)), min_size=3, max_size=12))
def test_gaps_in_order_by_counting_each_pair(cases: list[tuple[int, int]]) -> None:
    x, y = ([float(case[i]) for case in cases] for i in range(2))
    gaps = statistics.gaps_in_order(x, y)
    pairs = [(x[i] - x[j], y[i] - y[j]) for i, j in combinations(range(len(x)), 2)]
    if not any(a for a, _ in pairs) or not any(b for _, b in pairs):
        assert gaps is None is statistics.pearson(x, y)
        return
    agree = sum(abs(b) * np.sign(a) * np.sign(b) for a, b in pairs)
    assert gaps == pytest.approx(agree / sum(abs(b) for _, b in pairs), abs=1e-9)
    assert statistics.pearson(x, y) == pytest.approx(scipy_stats.pearsonr(x, y)[0], abs=1e-9)


def test_near_ties_count_little_among_gaps() -> None:
    scores = [0.1, 0.1001, 0.1002, 0.1003, 0.9]
    reversed_below = [4.0, 3, 2, 1, 5]
    assert statistics.spearman(reversed_below, scores) == pytest.approx(0)
    assert (statistics.gaps_in_order(reversed_below, scores) or 0) > 0.99


def test_median_rho_with_holes_and_its_p_by_all_orders() -> None:
    draw = np.random.default_rng(0)
    values, scores = draw.integers(0, 6, (2, 4, 6)).astype(float)
    values[0, 1] = scores[1, 2] = scores[3, :3] = np.nan  # of the last task 3 are there

    def median(values: np.ndarray) -> float:
        rhos = [statistics.spearman(v, s) for v, s in zip(values[:3], scores[:3], strict=True)]
        enough = (~np.isnan(values[:3] + scores[:3])).sum(axis=1) >= 4
        kept = [r for r, e in zip(rhos, enough, strict=True) if e and r is not None]
        return abs(np.median(kept)) if kept else np.nan

    found = median_rho(values, scores, p=True)
    assert abs(found.rho or 0) == pytest.approx(median(values))
    assert (found.n, found.tasks) == (5, 3)
    drawn = [median(values[:, list(order)]) for order in permutations(range(6))]
    assert found.p == pytest.approx(np.mean(np.array(drawn) >= median(values) - 1e-9))


def test_p_of_a_median_is_honest_under_the_null_where_tasks_share_their_models() -> None:
    draw = np.random.default_rng(1)
    ps = []
    for _ in range(150):
        skill = draw.normal(size=9)  # all tasks order the models nearly alike
        scores = skill + 0.1 * draw.normal(size=(12, 9))
        ps.append(median_rho(np.tile(draw.normal(size=9), (12, 1)), scores, p=True).p or 0.0)
    assert np.mean(np.array(ps) <= 0.05) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / len(ps))
    assert median_rho(np.tile(skill, (12, 1)), scores, p=True).p == pytest.approx(1 / 2000)


# ------------------------------------------------------------------ planted panels


def planted(models: int, score: Any, metrics: dict[str, Any], **more: Any) -> Results:
    """Even models encoders, odd ones decoders; metrics: name -> value of a model on a task."""
    values: dict[Any, Values] = {
        (name, "s", "max"): grid(models, 6, of) for name, of in metrics.items()
    }
    results = panel(models, grid(models, 6, score), values)
    dates = more.get("released", lambda i: None)
    rows = tuple(
        replace(
            row,
            family=more.get("families", ("bert", "mistral"))[i % 2],
            released=dates(i),
            parameters=more.get("parameters", lambda i, m=row: m.parameters)(i),
        )
        for i, row in enumerate(results.models)
    )
    return replace(results, models=rows)


def test_what_works_only_between_kinds_is_called_so_and_what_works_within_is_not() -> None:
    noise = np.random.default_rng(0).normal(size=(24, 6, 2))
    skill = np.random.default_rng(1).permutation(24)

    def score(i: int, t: int) -> float:
        return 0.3 + 0.3 * (i % 2) + 0.005 * skill[i] + 0.003 * noise[i, t, 0]

    metrics = {"between": lambda i, t: i % 2 + 0.1 * noise[i, t, 1], "within": score}
    results = planted(24, score, metrics)
    board = report(results)
    rows = by(board, "kinds")
    between, within = rows["between.s"], rows["within.s"]
    assert between["rho.all models"] > 0.7
    assert max(between["rho.encoders"], between["rho.decoders"]) < 0.45
    assert min(between["p.encoders"], between["p.decoders"]) > 0.05
    assert min(within["rho.encoders"], within["rho.decoders"]) == pytest.approx(1)
    assert within["p.encoders"] == pytest.approx(1 / 2000)
    assert (within["models.encoders"], within["n.decoders"], within["tasks.encoders"]) == (
        12,
        12,
        6,
    )
    even = [i for i in range(24) if i % 2 == 0]
    sizes = [results.models[i].parameters for i in even]
    rhos = [scipy_stats.spearmanr(sizes, [score(i, t) for i in even])[0] for t in range(6)]
    assert rows["log parameters"]["rho.encoders"] == pytest.approx(np.median(rhos))
    said = [note for note in board.notes if "tells kinds apart" in note]
    assert len(said) == 1
    assert said[0].startswith("between.s ")
    assert not [line for line in board.answer if "tells kinds apart" in line]  # the best is another
    alone = report(planted(24, score, {"between": metrics["between"]}))
    assert [line for line in alone.answer if line.startswith("between.s mostly tells kinds")]


def test_models_of_one_kind_or_of_none_need_no_table() -> None:
    one = planted(12, lambda i, t: i, {"own": lambda i, t: i}, families=("bert", "roberta"))
    assert report(one).get("kinds") is None
    unknown = planted(24, lambda i, t: i, {}, families=("bert", "mistral"))
    models = (*(replace(m, family="odd") for m in unknown.models[:3]), *unknown.models[3:])
    table = report(replace(unknown, models=models)).table("kinds")
    assert "Of 3 models the kind is not known" in table.caption[-1]


def verdicts(results: Results) -> dict[str, Any]:
    found = agreement_cautions(build_selection(panels.build_panel(results)))
    return {caution.numbers.get("name", caution.code): caution for caution in found}


def dated(i: int) -> str:
    return f"20{10 + (5 * i) % 12}-01-{1 + i:02}"


def of_date(i: int, t: int = 0) -> float:
    return float((5 * i) % 12) + i / 100


def test_where_dates_explain_all_a_metric_of_dates_is_not_better() -> None:
    noise = 0.5 * np.random.default_rng(0).normal(size=(24, 6, 3))

    def score(i: int, t: int) -> float:
        return 0.3 + 0.02 * of_date(i) + 0.02 * noise[i, t, 0]

    metrics = {"late": of_date, "real": lambda i, t: score(i, t) + 0.001 * noise[i, t, 1]}
    blind = verdicts(planted(24, score, metrics))
    assert (blind["late.s"].code, blind["real.s"].code) == ("better", "better")
    assert blind["late.s"].numbers["bar"] == "size"
    results = planted(24, score, metrics, released=dated)
    seen = verdicts(results)
    assert (seen["late.s"].code, seen["real.s"].code) == ("not_better", "better")
    assert seen["late.s"].numbers["bar"] == "size and date"
    assert "given size and date together rho +" in seen["real.s"].numbers["given"]
    rows = by(report(results), "agreement")
    assert rows["late.s"]["partial.size and date"] is None  # nothing of it is left
    assert rows["real.s"]["partial.size and date"] > 0.9
    ranks = [scipy_stats.rankdata(s) for s in zip(*_both(results), strict=True)]
    together = np.mean(ranks, axis=0)
    rhos = [scipy_stats.spearmanr(together, [score(i, t) for i in range(24)])[0] for t in range(6)]
    assert rows["size and date"]["rho"] == pytest.approx(np.median(rhos))


def _both(results: Results) -> list[tuple[int, str]]:
    return [(m.parameters or 0, "".join(m.released or "")) for m in results.models]


@pytest.mark.parametrize("seed", [0, 1])
def test_a_metric_that_is_size_and_date_is_ahead_of_each_and_explained_by_both(seed: int) -> None:
    """Weighted otherwise than alike, so that neither alone, nor their mean rank, goes as far."""
    draw = np.random.default_rng(seed)
    size, day = draw.permutation(80), draw.permutation(80)
    own, noise = 10 * draw.normal(size=80), 20 * draw.normal(size=(80, 6))
    both = 2.2 * day + size
    results = planted(
        80, lambda i, t: 0.3 + 0.001 * (both[i] + noise[i, t]),
        {"both": lambda i, t: both[i] + own[i]},
        released=lambda i: f"20{10 + day[i] // 12}-{1 + day[i] % 12:02}",
        parameters=lambda i: 10**6 * (1 + int(size[i])),
    )  # fmt: skip
    found = verdicts(results)["both.s"]
    assert (found.code, found.numbers["lead"] > 0) == ("explained", True)
    assert "p < .05 on 0 of 6 tasks" in found.numbers["given"]
    said = [line for line in report(results).answer if "both" in line]
    assert "but these together explain it" in said[0]


def test_dates_that_few_models_have_count_for_these_and_are_counted() -> None:
    score = {"own": lambda i, t: i}
    some = planted(20, lambda i, t: i + t, score, released=lambda i: dated(i) if i < 8 else None)
    found = verdicts(some)["own.s"]
    assert found.numbers["bar"] == "size"  # 8 models with dates bear no verdict
    assert "The release date is known of 8 of 20 models" in " ".join(report(some).notes)
    row = by(report(some), "agreement")["size and date"]
    assert row["n"] == 8
    for day in (lambda i: dated(i) if i < 3 else None, lambda i: "2024"):  # too few, all alike
        board = report(planted(20, lambda i, t: i + t, score, released=day))
        assert "size and date" not in by(board, "agreement")
        assert not [c.name for c in board.table("agreement").columns if _shown_given(c)]


def _shown_given(column: Any) -> bool:
    return column.name == "partial.size and date" and column.shown


def test_the_curve_without_the_largest() -> None:
    sizes = [1, 2, 2, 4, 5, 6, 7, 100, 200, 200]
    draw = np.random.default_rng(4).normal(size=(10, 6))

    def score(i: int, t: int) -> float:
        return float(draw[i, t] + 10 * (i > 6))

    results = planted(10, score, {}, parameters=lambda i: 10**6 * sizes[i])
    table = report(results).table("without_largest")
    assert table.column("left_out") == [0, 2, 3, 4, 5]  # those of one size go together
    assert table.column("models") == [10, 8, 7, 6, 5]
    assert table.column("millions") == [200, 100, 7, 6, 5]
    for n, rho in zip(table.column("models"), table.column("rho.log parameters"), strict=True):
        rhos = [
            scipy_stats.spearmanr(sizes[:n], [score(i, t) for i in range(n)])[0] for t in range(6)
        ]
        assert rho == pytest.approx(np.median(rhos))
    unknown = planted(10, score, {}, parameters=lambda i: 10**6 * sizes[i] if i else None)
    assert "1 model of unknown size" in report(unknown).table("without_largest").caption[-1]
    assert by_kind(panels.build_panel(replace(results, scores=())), "embedding") == []


def test_a_file_says_the_kind_of_models_whose_family_does_not(tmp_path: Path) -> None:
    scores, models = tmp_path / "S.csv", tmp_path / "M.csv"
    kinds = ["encoder", "Encoder", "decoder", "base model", "", "decoder embedder"] * 2
    lines = [f"m{i},{0.5 + i / 50},{0.4 + i / 60}" for i in range(12)]
    scores.write_text("model,A,B\n" + "\n".join(lines) + "\n")
    rows = [f"m{i},{10 + i},{kind}" for i, kind in enumerate(kinds)]
    models.write_text("model,parameters_millions,kind\n" + "\n".join(rows) + "\n")
    row = by(report(interchange.read(scores, None, models)), "kinds")["log parameters"]
    assert (row["models.encoders"], row["models.decoders"], row["models.all models"]) == (4, 6, 12)
    models.write_text("model,kind\nm0,encoder\nm1,thing\n")
    with pytest.raises(UserError, match=r"M\.csv.*line 3.*'thing' is none of encoder, decoder"):
        interchange.read(scores, None, models)
