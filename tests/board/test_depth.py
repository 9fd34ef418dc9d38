"""Profiles over depth: curves, peaks and correlations against plain numpy and scipy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from curve_rows import measured, plain_lines, profile, random_results, scored
from scipy import stats

from lrd_harness.board.depth import Profiles, build_profiles, profile_tables
from lrd_harness.board.layers import Row
from lrd_harness.board.leaderboard import report
from lrd_harness.contracts import LIKELIHOOD
from lrd_harness.results.kinds import model_kind
from lrd_harness.results.rows import Kind, ModelRow, Results


def profiles_of(results: Results, kind: Kind = "embedding") -> Profiles:
    profiles = build_profiles(results, kind)
    assert profiles is not None
    return profiles


def row(profiles: Profiles, source: str, group: str = "all") -> Row:
    (of_group,) = [r for r in profiles.rows if (r["source"], r["group"]) == (source, group)]
    return of_group


def peak(row: Row, end: str) -> tuple[float, float, float]:
    return row[end], row[f"{end}_low"], row[f"{end}_high"]


ALL = ("t1", "t2", "t3")
GROUPS = {  # group -> models, tasks
    "all": ("abcd", ALL),
    "bert": ("ab", ALL),
    "base model": ("c", ALL),
    "decoder embedder": ("d", ALL),
    "STS": ("abcd", ("t1", "t2")),
    "Clustering": ("acd", ("t3",)),
}


def on_grid(values: np.ndarray, depths: np.ndarray) -> np.ndarray:
    there, grid = ~np.isnan(values), np.linspace(0, 1, 101)
    curve = np.interp(grid, depths[there], values[there])
    outside = (grid < depths[there][0] - 1e-9) | (grid > depths[there][-1] + 1e-9)
    return np.where(outside, np.nan, curve)


@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:Degrees of freedom")
@pytest.mark.parametrize("source", ["score", "m.m", "m.w", "s.step"])
@pytest.mark.parametrize("group", GROUPS)
def test_means_are_over_models_of_means_over_their_tasks(source: str, group: str) -> None:
    means = row(profiles_of(random_results()), source, group)
    lines = plain_lines(random_results(), source)
    models, tasks = GROUPS[group]
    curves, peaks, all_peaks = [], [], []
    for model in models:
        of_model = [lines[model, task] for task in tasks if (model, task) in lines]
        if of_model:
            curves.append(np.nanmean([on_grid(v, d) for _, v, d in of_model], axis=0))
            ends = [(d[np.nanargmax(v)], d[np.nanargmin(v)]) for _, v, d in of_model]
            peaks.append(np.mean(ends, axis=0))
            all_peaks += ends
    mean, spread = np.nanmean(curves, axis=0), np.nanstd(curves, axis=0, ddof=1)
    np.testing.assert_allclose(np.array(means["means"], dtype=float), mean, rtol=1e-12)
    np.testing.assert_allclose(np.array(means["spread"], dtype=float), spread, atol=1e-12)
    assert means["counts"] == np.sum(~np.isnan(curves), axis=0).tolist()
    assert (means["models"], means["pairs"]) == (len(curves), len(all_peaks))
    for side, end in enumerate(("highest", "lowest")):
        of_side = [ends[side] for ends in all_peaks]
        expected = np.mean([p[side] for p in peaks]), min(of_side), max(of_side)
        assert peak(means, end) == pytest.approx(expected)


def test_a_correlation_is_the_median_of_scipys_over_the_layers_that_both_have() -> None:
    results = random_results(1)
    lines = {source: plain_lines(results, source) for source in ("score", "m.m", "m.w", "s.step")}
    rows = [c for c in profiles_of(results).correlations if c["grouping"] == "all"]
    assert len(rows) == 6  # every pair of four sources, once
    for correlation in rows:
        first, second = (lines[correlation[side]] for side in ("first", "second"))
        rho = {}
        for place in first.keys() & second.keys():
            x, y = (dict(zip(*line[place][:2], strict=True)) for line in (first, second))
            both = [k for k in x.keys() & y.keys() if not np.isnan([x[k], y[k]]).any()]
            pairs = np.array([(x[k], y[k]) for k in both]).reshape(-1, 2)
            if len(both) >= 4 and np.all(np.ptp(pairs, axis=0) > 0):
                rho[place] = stats.spearmanr(*pairs.T).statistic
        quartiles = np.quantile(list(rho.values()), [0.5, 0.25, 0.75])
        assert [correlation[n] for n in ("rho", "low", "high")] == pytest.approx(quartiles)
        counts = len(rho), len({model for model, _ in rho})
        assert (correlation["pairs"], correlation["models"]) == counts


def test_nothing_is_put_in_beyond_the_layers_that_were_scored() -> None:
    results = Results(
        models=(ModelRow(model="a"), ModelRow(model="b")),
        scores=(
            *scored("a", "t1", [None, None, 0.5, None, 0.7]),
            *scored("b", "t1", [0.1, 0.1, 0.1, 0.1, 0.1]),
        ),
    )
    both = row(profiles_of(results), "score")
    assert both["counts"] == [1] * 50 + [2] * 51
    assert both["means"][49] == 0.1
    assert both["means"][75] == pytest.approx((0.6 + 0.1) / 2)  # over the hole at layer 3
    assert both["spread"][0] is None
    alone = row(profiles_of(replace(results, scores=results.scores[:2])), "score")
    assert (alone["means"][0], alone["counts"][0], alone["means"][50]) == (None, 0, 0.5)
    assert peak(alone, "highest") == (1, 1, 1)


def test_a_profile_above_degenerate_states_runs_from_0_to_1() -> None:
    metric = measured("m", "a", "t1", {"m": profile([3.0, 1.0, 2.0], start=2)})
    results = Results(models=(ModelRow(model="a"),), metrics=(metric,))
    line = row(profiles_of(results), "m.m")
    assert (line["means"][0], line["means"][50], line["means"][75]) == (3, 1, 1.5)
    assert (line["highest"], line["lowest"], line["best"]) == (0, 0.5, None)


def test_what_has_fewer_than_two_values_is_left_out_by_name() -> None:
    short = {"step": profile([1.0]), "w": profile([1.0, 2.0]), "none": profile([None, 2.0])}
    rows = (measured("m", "a", "t1", short), measured("m", "a", "t2", short))
    profiles = profiles_of(Results(models=(ModelRow(model="a"),), metrics=rows))
    assert {r["source"] for r in profiles.rows} == {"m.w"}
    (caution, *_) = profiles.cautions
    assert caution.code == "profiles_short"
    assert caution.numbers == {"sources": "m.step, m.none", "pairs": 2, "models": "a"}
    assert not any(r["main"] for r in profiles.rows)  # the profile that stands for m is not there


def test_what_belongs_to_no_group_is_said() -> None:
    run = Results(models=(ModelRow(model="a"),), scores=tuple(scored("a", "x", [0.1, 0.2])))
    profiles = profiles_of(run)
    assert [c.numbers for c in profiles.cautions] == [
        {"grouping": "kind", "of": "a"},
        {"grouping": "family", "of": "a"},
        {"grouping": "task type", "of": "x"},
    ]
    assert [r["grouping"] for r in profiles.rows] == ["all"]
    peaks = profile_tables(profiles)[0]
    assert all(str(caution) in peaks.caption for caution in profiles.cautions)


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


@pytest.mark.slow
def test_likelihood_tasks_have_profiles_of_their_own() -> None:
    run = random_results()
    lm = scored("c", "lm", [0.2, 0.3, 0.4, 0.5, 0.6, 0.5, 0.5], task_type=LIKELIHOOD)
    board = report(replace(run, scores=(*run.scores, *lm)))
    assert row(profiles_of(run), "score") in board.table("profiles").rows
    base, of_kind = board.table("base.profiles").rows[:2]
    assert (base["models"], base["tasks"], base["highest"]) == (1, 1, 4 / 6)
    assert of_kind == {**base, "grouping": "kind", "group": "base model"}


def test_what_people_see_of_peaks_and_of_what_runs_alike() -> None:
    profiles = profiles_of(random_results())
    peaks, alike, *hidden = profile_tables(profiles)
    score = row(profiles, "score")
    first = peaks.rows[0]
    low, high = score["highest_low"], score["highest_high"]
    assert (first["group"], first["models"]) == ("all", 4)
    assert first["score.highest"] == f"{score['highest']:.2f} ({low:.2f}-{high:.2f})"
    assert {"kind: encoder", "family: bert", "task type: STS"} <= set(peaks.column("group"))
    names = [column.name for column in peaks.columns[3:]]  # of a metric that picks by argmin both
    assert names == ["score.highest", "m.m.lowest", "m.m.highest", "s.step.highest"]
    assert [r["source"] for r in profiles.rows if r["ranks"] and r["group"] == "all"] == ["s.step"]
    assert alike.column("pair") == ["score ~ m.m", "score ~ s.step"]
    every = {(r["group"], r["first"], r["second"]): r for r in profiles.correlations}
    assert alike.rows[0]["rho"] == every["all", "score", "m.m"]["rho"]
    encoder = every["encoder", "score", "m.m"]
    assert alike.rows[0]["rho.encoder"] == f"{encoder['rho']:+z.2f} ({encoder['pairs']})"
    assert [table.rows for table in hidden] == [profiles.rows, profiles.correlations]
    assert not any(table.shown for table in hidden)
