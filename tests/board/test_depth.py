"""Profiles over depth: curves, peaks and correlations against plain numpy and scipy."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from curve_rows import measured, plain_lines, profile, random_results, scored
from scipy import stats

from lrd_harness.board.depth import Profiles, build_profiles, profile_tables
from lrd_harness.board.layers import Row
from lrd_harness.board.leaderboard import report
from lrd_harness.contracts import LIKELIHOOD
from lrd_harness.results.kinds import Kind, model_kind
from lrd_harness.results.rows import ModelRow, Results


def made(results: Results, kind: Kind = "embedding") -> Profiles:
    found = build_profiles(results, kind)
    assert found is not None
    return found


def row(profiles: Profiles, source: str, group: str = "all") -> Row:
    (found,) = [r for r in profiles.rows if (r["source"], r["group"]) == (source, group)]
    return found


def peak(found: Row, end: str) -> tuple[float, float, float]:
    return found[end], found[f"{end}_low"], found[f"{end}_high"]


@pytest.mark.parametrize("source", ["score", "m.m", "m.w", "s.step"])
@pytest.mark.parametrize(
    ("group", "models", "tasks"),
    [
        ("all", "abcd", ("t1", "t2", "t3")),
        ("bert", "ab", ("t1", "t2", "t3")),
        ("encoder", "ab", ("t1", "t2", "t3")),
        ("base model", "c", ("t1", "t2", "t3")),
        ("decoder embedder", "d", ("t1", "t2", "t3")),
        ("STS", "abcd", ("t1", "t2")),
        ("Clustering", "acd", ("t3",)),
    ],
)
def test_means_are_over_models_of_means_over_their_tasks(
    source: str, group: str, models: str, tasks: tuple[str, ...]
) -> None:
    results = random_results()
    found = row(made(results), source, group)
    lines = plain_lines(results, source)
    curves, peaks, all_peaks = [], [], []
    for model in models:
        own = [lines[model, task] for task in tasks if (model, task) in lines]
        if not own:
            continue
        at = []
        for _, values, depths in own:
            there = ~np.isnan(values)
            grid = np.linspace(0, 1, 101)
            curve = np.interp(grid, depths[there], values[there])
            curve[(grid < depths[there][0] - 1e-9) | (grid > depths[there][-1] + 1e-9)] = np.nan
            at.append(curve)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a depth that no task has
            curves.append(np.nanmean(at, axis=0))
        ends = [(d[np.nanargmax(v)], d[np.nanargmin(v)]) for _, v, d in own]
        peaks.append(np.mean(ends, axis=0))
        all_peaks += ends
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mean, spread = np.nanmean(curves, axis=0), np.nanstd(curves, axis=0, ddof=1)
    np.testing.assert_allclose(np.array(found["means"], dtype=float), mean, rtol=1e-12)
    np.testing.assert_allclose(np.array(found["spread"], dtype=float), spread, atol=1e-12)
    assert found["counts"] == np.sum(~np.isnan(curves), axis=0).tolist()
    assert (found["models"], found["pairs"]) == (len(curves), len(all_peaks))
    for side, end in enumerate(("highest", "lowest")):
        of_side = [ends[side] for ends in all_peaks]
        expected = np.mean([p[side] for p in peaks]), min(of_side), max(of_side)
        assert peak(found, end) == pytest.approx(expected)


def test_a_correlation_is_the_median_of_scipys_over_the_layers_that_both_have() -> None:
    results = random_results(1)
    found = made(results).correlations
    sources = ["score", "m.m", "m.w", "s.step"]
    lines = {source: plain_lines(results, source) for source in sources}
    compared = 0
    for held in [c for c in found if c["grouping"] == "all"]:
        values = {}
        for place in lines[held["first"]].keys() & lines[held["second"]].keys():
            sides = [
                dict(zip(*lines[s][place][:2], strict=True))
                for s in (held["first"], held["second"])
            ]
            both = [
                (sides[0][k], sides[1][k])
                for k in sides[0].keys() & sides[1].keys()
                if not np.isnan([sides[0][k], sides[1][k]]).any()
            ]
            x, y = np.array(both).T if both else (np.empty(0), np.empty(0))
            if len(both) >= 4 and np.ptp(x) > 0 and np.ptp(y) > 0:
                values[place] = stats.spearmanr(x, y).statistic
        assert held["rho"] == pytest.approx(np.median(list(values.values())))
        quartiles = np.quantile(list(values.values()), [0.25, 0.75])
        assert (held["low"], held["high"]) == pytest.approx(tuple(quartiles))
        assert (held["pairs"], held["models"]) == (len(values), len({m for m, _ in values}))
        compared += 1
    assert compared == 6  # every pair of four sources, once


def test_nothing_is_put_in_beyond_the_layers_that_were_scored() -> None:
    results = Results(
        models=(ModelRow(model="a"), ModelRow(model="b")),
        scores=(
            *scored("a", "t1", [None, None, 0.5, None, 0.7]),
            *scored("b", "t1", [0.1, 0.1, 0.1, 0.1, 0.1]),
        ),
    )
    found = row(made(results), "score")
    assert found["counts"] == [1] * 50 + [2] * 51
    assert found["means"][49] == 0.1
    assert found["means"][75] == pytest.approx((0.6 + 0.1) / 2)  # over the hole at layer 3
    assert found["spread"][0] is None
    alone = row(made(replace(results, scores=results.scores[:2])), "score")
    assert (alone["means"][0], alone["counts"][0], alone["means"][50]) == (None, 0, 0.5)
    assert peak(alone, "highest") == (1, 1, 1)


def test_a_profile_above_degenerate_states_runs_from_0_to_1() -> None:
    own = {"m": profile([3.0, 1.0, 2.0], start=2)}
    results = Results(models=(ModelRow(model="a"),), metrics=(measured("m", "a", "t1", own),))
    found = row(made(results), "m.m")
    assert (found["means"][0], found["means"][50], found["means"][75]) == (3, 1, 1.5)
    assert (found["highest"], found["lowest"], found["best"]) == (0, 0.5, None)


def test_what_has_fewer_than_two_values_is_left_out_by_name() -> None:
    one = {"step": profile([1.0]), "w": profile([1.0, 2.0]), "none": profile([None, 2.0])}
    rows = (measured("m", "a", "t1", one), measured("m", "a", "t2", one))
    found = made(Results(models=(ModelRow(model="a"),), metrics=rows))
    assert {r["source"] for r in found.rows} == {"m.w"}
    (caution, *_) = found.cautions
    assert caution.code == "profiles_short"
    assert caution.numbers == {"sources": "m.step, m.none", "pairs": 2, "models": "a"}
    assert not any(r["main"] for r in found.rows)  # the profile that stands for m is not there


def test_what_belongs_to_no_group_is_said() -> None:
    held = Results(models=(ModelRow(model="a"),), scores=tuple(scored("a", "x", [0.1, 0.2])))
    found = made(held)
    assert [c.numbers for c in found.cautions] == [
        {"grouping": "kind", "of": "a"},
        {"grouping": "family", "of": "a"},
        {"grouping": "task type", "of": "x"},
    ]
    assert [r["grouping"] for r in found.rows] == ["all"]
    peaks = profile_tables(found)[0]
    assert all(str(caution) in peaks.caption for caution in found.cautions)


@pytest.mark.parametrize(
    ("adapter", "family", "pooling", "kind"),
    [
        ("encoder", "bert", "mean", "encoder"),
        ("encoder", "unheard-of", "mean", "encoder"),
        ("decoder", "llama", "last", "base model"),
        ("sentence-transformers", "mpnet", "mean", "encoder"),
        ("sentence-transformers", "xlm-roberta", "cls", "encoder"),
        ("sentence-transformers", "gemma3_text", "mean", "decoder embedder"),
        ("sentence-transformers", "unheard-of", "last", "decoder embedder"),
        ("sentence-transformers", "unheard-of", "mean", None),
        (None, "mistral", None, "decoder embedder"),
        (None, "nomic_bert", None, "encoder"),
        (None, None, None, None),
    ],
)
def test_the_kind_of_a_model(
    adapter: str | None, family: str | None, pooling: str | None, kind: str | None
) -> None:
    model = ModelRow(model="a", adapter=adapter, family=family, pooling=pooling)
    assert model_kind(model) == kind
    assert model_kind(model, "base") == "base model"


def test_likelihood_tasks_have_profiles_of_their_own() -> None:
    held = random_results()
    lm = scored("c", "lm", [0.2, 0.3, 0.4, 0.5, 0.6, 0.5, 0.5], task_type=LIKELIHOOD)
    board = report(replace(held, scores=(*held.scores, *lm)))
    assert row(made(held), "score") in board.table("profiles").rows
    base, of_kind = board.table("base.profiles").rows[:2]
    assert (base["models"], base["tasks"], base["highest"]) == (1, 1, 4 / 6)
    assert of_kind == {**base, "grouping": "kind", "group": "base model"}


def test_what_people_see_of_peaks_and_of_what_runs_alike() -> None:
    found = made(random_results())
    peaks, alike, *hidden = profile_tables(found)
    score = row(found, "score")
    first = peaks.rows[0]
    low, high = score["highest_low"], score["highest_high"]
    assert (first["group"], first["models"]) == ("all", 4)
    assert first["score.highest"] == f"{score['highest']:.2f} ({low:.2f}-{high:.2f})"
    assert {"kind: encoder", "family: bert", "task type: STS"} <= set(peaks.column("group"))
    names = [column.name for column in peaks.columns[3:]]  # of a metric that picks by argmin both
    assert names == ["score.highest", "m.m.lowest", "m.m.highest", "s.step.highest"]
    assert [r["source"] for r in found.rows if r["ranks"] and r["group"] == "all"] == ["s.step"]
    assert alike.column("pair") == ["score ~ m.m", "score ~ s.step"]
    every = {(r["group"], r["first"], r["second"]): r for r in found.correlations}
    assert alike.rows[0]["rho"] == every["all", "score", "m.m"]["rho"]
    encoder = every["encoder", "score", "m.m"]
    assert alike.rows[0]["rho.encoder"] == f"{encoder['rho']:+z.2f} ({encoder['pairs']})"
    assert [table.rows for table in hidden] == [found.rows, found.correlations]
    assert not any(table.shown for table in hidden)
