"""What metrics follow and which say the same, on planted data and against scipy; chance levels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from choice_rows import BLOCKS
from scipy import stats
from selection_panels import WIDTHS, panel

from lrd_harness.board.cautions import Caution
from lrd_harness.board.confounds import (
    FOLLOWS,
    build_confounds,
    confound_cautions,
    confound_tables,
    measured,
)
from lrd_harness.board.depth import build_profiles
from lrd_harness.board.leaderboard import report
from lrd_harness.results.rows import MetricRow, ModelRow, Profile, Results, TextsRow

M, T = 12, 8
PLACES = [(m, t) for m in range(M) for t in range(T)]
LENGTHS = (30.0, 900.0, 120.0, 60.0, 15.0, 500.0, 240.0, 2000.0)


def noise(seed: int) -> dict[tuple[int, int], float]:
    return dict(zip(PLACES, np.random.default_rng(seed).random(len(PLACES)).tolist(), strict=True))


def width(model: int) -> int:
    return WIDTHS[model * len(WIDTHS) // M]


def with_texts(results: Results, lengths: Any = LENGTHS) -> Results:
    """Tasks of these lengths, and of as many texts as the task's number says."""
    odd = {"asked": 9, "duplicates": 0, "empty": 0, "truncated": 0}
    texts = [
        TextsRow(model=f"m{m}", task=f"T{t}", length=length, **odd)
        for m in range(M)
        for t, length in enumerate(lengths)
    ]
    numbers = (replace(row, n=20 + 7 * ((3 * int(row.task[1:])) % T)) for row in results.metrics)
    return replace(results, texts=tuple(texts), metrics=tuple(numbers))


def planted(**metrics: dict[tuple[int, int], float]) -> Results:
    of = {(name, "v", "max"): values for name, values in metrics.items()}
    return with_texts(panel(M, noise(99), of))


WIDE = {(m, t): -3.0 * width(m) + 1e4 * t + 100 * v for (m, t), v in noise(1).items()}
LONG = {(m, t): (1 + m) * (np.log(LENGTHS[t]) + 0.1 * v) for (m, t), v in noise(2).items()}
RESULTS = planted(wide=WIDE, long=LONG, noise=noise(3))


def test_what_follows_is_found_and_noise_is_not() -> None:
    """Whatever the scale of a model or of a task, which ranks within it take out."""
    found = {row["metric"]: row for row in build_confounds(RESULTS, None).found}
    assert found.keys() == {"wide", "long"}
    assert (found["wide"]["what"], found["wide"]["over"], found["wide"]["n"]) == (
        "width",
        "models",
        M,
    )
    assert found["wide"]["rho"] < -0.9
    assert (found["long"]["what"], found["long"]["over"]) == ("length of texts", "tasks")
    assert (found["long"]["rho"], found["long"]["n"]) == (pytest.approx(1), T)


def test_numbers_are_scipys() -> None:
    rows = {(r["metric"], r["what"]): r for r in build_confounds(RESULTS, None).rows}
    about = {
        "width": [width(m) for m in range(M)],
        "blocks": [4 + (3 * m) % 5 for m in range(M)],
    }
    numbers = {
        "number of texts": [20 + 7 * ((3 * t) % T) for t in range(T)],
        "length of texts": LENGTHS,
    }
    for name, values in (("wide", WIDE), ("long", LONG), ("noise", noise(3))):
        grid = np.array([[values[m, t] for m in range(M)] for t in range(T)])
        by_model = stats.rankdata(grid, axis=1).mean(axis=0)
        by_task = stats.rankdata(grid, axis=0).mean(axis=1)
        for side, of in ((by_model, about), (by_task, numbers)):
            for what, other in of.items():
                expected = stats.spearmanr(side, other)
                assert rows[name, what]["rho"] == pytest.approx(expected.statistic)
                assert rows[name, what]["p"] == pytest.approx(expected.pvalue, abs=0.05)
                assert rows[name, what]["holm"] >= rows[name, what]["p"]
    assert len(rows) == 12
    follows = [row["follows"] for row in build_confounds(RESULTS, None).rows]
    assert follows == sorted(follows, reverse=True)  # first


def test_one_caution_names_what_follows_a_thing_each_metric_once_with_its_numbers() -> None:
    deep = {(m, t): width(m) + 0.1 * (4 + (3 * m) % 5) for m, t in PLACES}
    (said,) = confound_cautions(build_confounds(planted(wide=WIDE, deep=deep), None))
    assert (said.numbers["over"], said.numbers["what"]) == ("models", "width")
    for score in ("wide.v", "deep.v"):
        assert said.numbers["scores"].count(f"{score} (rho ") == 1
    notes = report(RESULTS).notes
    for caution in confound_cautions(build_confounds(RESULTS, None)):
        assert str(caution) in notes
    assert not any("they follow" in note for note in report(planted(noise=noise(3))).notes)


def test_in_the_null_at_most_one_board_in_twenty_says_anything() -> None:
    """By p after Holm alone; what is said must be strong as well."""
    rng, alarms, draws = np.random.default_rng(0), 0, 150
    for _ in range(draws):
        values = dict(zip(PLACES, rng.random(len(PLACES)).tolist(), strict=True))
        results = with_texts(panel(M, {}, {("own", "v", "max"): values}), rng.permutation(LENGTHS))
        rows = build_confounds(results, None).rows
        alarms += any(row["holm"] < 0.05 for row in rows)
        assert all(abs(row["rho"]) >= FOLLOWS for row in rows if row["follows"])
    assert alarms <= stats.binom.ppf(0.999, draws, 0.05)


def test_few_cases_say_nothing() -> None:
    few = [replace(row, released=None) for row in RESULTS.models[:4]]
    names = {row.model for row in few}
    rows = tuple(row for row in RESULTS.metrics if row.model in names)
    of_four = build_confounds(replace(RESULTS, models=tuple(few), metrics=rows), None)
    assert {row["over"] for row in of_four.rows} == {"tasks"}
    assert build_confounds(replace(RESULTS, metrics=(), texts=()), None).rows == []
    unknown = build_confounds(replace(RESULTS, texts=()), None)
    assert "length of texts" not in {row["what"] for row in unknown.rows}


def test_checkpoints_of_one_run_count_once() -> None:
    """Twelve steps of two runs, of two widths: no evidence, however many."""
    models = [
        ModelRow(model=f"runs/{'ab'[m % 2]}@step{1000 * m}", width=64 * (1 + m % 2), blocks=6)
        for m in range(M)
    ]
    names = {f"m{m}": row.model for m, row in enumerate(models)}
    wide = {(m, t): m % 2 + 0.1 * v for (m, t), v in noise(5).items()}
    rows = [replace(row, model=names[row.model]) for row in planted(wide=wide).metrics]
    found = build_confounds(Results(models=tuple(models), metrics=tuple(rows)), None)
    assert "width" not in {row["what"] for row in found.rows}


def test_top_share_and_sinks_are_followed_but_not_by_themselves() -> None:
    share = {(m, t): float((5 * m) % M) for m, t in PLACES}
    like = {place: value**3 + 0.01 * noise(6)[place] for place, value in share.items()}
    found = build_confounds(planted(top_share=share, like=like, noise=noise(3)), None)
    assert [(r["metric"], r["what"]) for r in found.found] == [("like", "top_share")]
    assert {r["metric"] for r in found.rows if r["what"] == "top_share"} == {"like", "noise"}


def test_controls_are_left_out_and_pruned_models_too() -> None:
    rows = [replace(r, control=r.metric == "wide") for r in RESULTS.metrics]
    rows += [replace(r, variant="pruned-1", metric="cut") for r in RESULTS.metrics]
    found = measured(replace(RESULTS, metrics=tuple(rows)))
    assert {m.metric for m in found} == {"long", "noise"}


def curve(metric: str, model: str, values: Any, **more: Any) -> MetricRow:
    numbers = tuple(float(v) for v in values)
    profile = Profile(tuple(range(len(numbers))), numbers)
    more = {"n": 9, "profiles": {"p": profile}, "values": {"k": 3.0}} | more
    return MetricRow(model=model, task="T0", metric=metric, **more)


def over_layers() -> Results:
    """x and its square run alike; y is on its own, z runs against x in half of the models."""
    rng = np.random.default_rng(7)
    rows = []
    for m in range(6):
        x = rng.random(BLOCKS + 5)
        z = x if m % 2 else -x
        curves = {"x": x, "square": x**2 + 9 * m, "y": rng.random(len(x)), "z": z}
        rows += [curve(name, f"m{m}", values) for name, values in curves.items()]
    models = tuple(ModelRow(model=f"m{m}", blocks=BLOCKS + 4) for m in range(6))
    return Results(models=models, metrics=tuple(rows))


def redundancy(results: Results) -> Any:
    table, _ = confound_tables(build_confounds(results, build_profiles(results)))
    return {row["metric"]: row for row in table.rows}, table


def test_over_layers_and_over_models() -> None:
    results = over_layers()
    rows, _ = redundancy(results)
    assert rows["x"]["kin"] == "square" or abs(rows["x"]["layers"]) < 1
    grid = {m.metric: m.values for m in measured(results)}
    assert {m.score for m in measured(results)} == {
        f"{n}.mean_p" for n in ("x", "square", "y", "z")
    }
    for name, row in rows.items():
        pair = grid[name].to_numpy()[0], grid[row["kin"]].to_numpy()[0]
        assert row["models"] == pytest.approx(stats.spearmanr(*pair).statistic)
        of = {r.model: r.profiles["p"].values for r in results.metrics if r.metric == name}
        other = {r.model: r.profiles["p"].values for r in results.metrics if r.metric == row["kin"]}
        each = [stats.spearmanr(of[m], other[m]).statistic for m in of]
        assert row["layers"] == pytest.approx(np.mean(each))
        assert (row["pairs"], row["tasks"]) == (6, 1)


def test_what_says_the_same_is_named_first() -> None:
    alike = {(m, t): np.exp(v) for (m, t), v in noise(3).items()}
    reverse = {(m, t): -v for (m, t), v in noise(3).items()}
    rows, table = redundancy(planted(a=noise(3), b=alike, c=noise(8), d=reverse))
    assert {name: row["same"] for name, row in rows.items()} == {
        "a": "b, d",
        "b": "a, d",
        "c": None,
        "d": "a, b",
    }
    assert (rows["a"]["models"], rows["d"]["models"]) == (pytest.approx(1), pytest.approx(-1))
    assert (rows["a"]["layers"], rows["a"]["tasks"]) == (None, T)
    assert table.caption[0] == str(Caution("redundant", {"sets": "a = b = d"}))
    _, apart = redundancy(planted(a=noise(3), c=noise(8)))
    assert apart.caption[0] == str(Caution("not_redundant"))
    assert redundancy(planted(a=noise(3)))[0] == {}


def test_what_is_alike_in_a_chain_is_not_all_the_same() -> None:
    rng = np.random.default_rng(5)
    a, step = rng.random((2, M, T))
    values = {"a": a, "b": a + 0.3 * step, "c": a + 0.6 * step}
    results = planted(
        **{name: {(m, t): of[m, t] for m, t in PLACES} for name, of in values.items()}
    )
    grid = {m.metric: m.values.to_numpy() for m in measured(results)}
    alike = {
        pair: np.mean(
            [
                stats.spearmanr(x, y).statistic
                for x, y in zip(*map(grid.__getitem__, pair), strict=True)
            ]
        )
        for pair in ("ab", "bc", "ac")
    }
    assert alike["ac"] < 0.9 < min(alike["ab"], alike["bc"])
    rows, _ = redundancy(results)
    assert sorted(row["same"] or "" for row in rows.values()) in (["", "a", "b"], ["", "b", "c"])


def test_one_score_that_two_metrics_give_is_no_finding() -> None:
    """By one name and of the same values; a like score by another name is one."""
    results = over_layers()
    twice = [replace(r, metric="more") for r in results.metrics if r.metric == "x"]
    other = [
        replace(r, metric="other", profiles={"q": r.profiles["p"]})
        for r in results.metrics
        if r.metric == "y"
    ]
    rows, _ = redundancy(replace(results, metrics=(*results.metrics, *twice, *other)))
    assert rows.keys() == {"x", "square", "y", "z", "other"}
    assert (rows["x"]["same"], rows["y"]["same"]) == (None, "other")


def test_of_a_metric_that_ranks_nothing_the_first_number_that_differs_counts() -> None:
    """Not the level of chance, which is the same for all models."""
    rows = [
        replace(r, selection=None, values={"chance": 0.1, "k": 9.0, **r.values})
        for r in planted(a=noise(3)).metrics
    ]
    (found,) = measured(replace(RESULTS, metrics=tuple(rows)))
    assert found.score == "a.v"
