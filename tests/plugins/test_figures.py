"""The figures: their data are the board's, and each becomes an SVG and a PNG."""

from __future__ import annotations

import importlib
import struct
import subprocess
import sys
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from page_rows import BINS, BLOCKS, HOSTILE, NAMES, TASKS, board, results
from scipy.stats import rankdata

from lrd_harness import errors, manager
from lrd_harness.board.leaderboard import build
from lrd_harness.results.database import MetricRow, ModelRow, Results, ScoreRow

figures: Any = importlib.import_module("lrd_harness.plugins.reporters._figures")
profiles: Any = importlib.import_module("lrd_harness.plugins.reporters._figures_profiles")
ranking: Any = importlib.import_module("lrd_harness.plugins.reporters._figures_ranking")
cells: Any = importlib.import_module("lrd_harness.plugins.reporters._cells")
page: Any = importlib.import_module("lrd_harness.plugins.reporters.page")

SVG = "{http://www.w3.org/2000/svg}"
HELD = board()
BEST = HELD.rows[0].label  # maps are drawn of the first models
MADE = {figure.name: figure for figure in figures.figures(HELD)}


def test_a_full_board_has_every_figure() -> None:
    assert list(MADE) == [
        "predictors",
        "ranks",
        "curves",
        "profiles-kind",
        "profiles-family",
        "profiles-task-type",
        "distances",
        "entropies",
        "pruning",
        "base-ranks",
        "base-curves",
        "base-profiles-family",
        "base-distances",
        "base-entropies",
    ]
    for figure in MADE.values():
        assert figure.rows
        assert "n = " in figure.caption or figure.name == "predictors"
        assert figure.alt.endswith(".")
        assert figure.chart["description"] == figure.alt
        assert figure.chart["data"] == {"name": "rows"}


def test_there_is_no_figure_without_data() -> None:
    assert figures.figures(build(Results())) == []
    only = tuple(row for row in results().scores if row.layer == BLOCKS and row.task == "Sts")
    held = build(Results(models=results().models, scores=only))
    assert [figure.name for figure in figures.figures(held)] == ["predictors", "ranks"]


def test_predictors_are_the_selection_rows_and_the_rule_is_the_best_size() -> None:
    assert HELD.selection is not None
    wanted = {row.name: row for row in HELD.selection.rows if row.rho is not None}
    drawn = {row["predictor"]: row for row in MADE["predictors"].rows}
    assert drawn.keys() == wanted.keys()
    for name, row in drawn.items():
        assert row["rho"] == wanted[name].rho
        assert (row["low"], row["high"]) == (wanted[name].models_low, wanted[name].models_high)
        assert row["low"] <= row["rho"] <= row["high"]
    best = max(
        drawn[name]["rho"] for name in ("log parameters", "log width", "depth") if name in drawn
    )
    rules = [layer["encoding"]["x"] for layer in MADE["predictors"].chart["layer"]]
    assert rules[0] == {"datum": best}
    assert f"({best:+.2f}): a metric has to lie to the right" in MADE["predictors"].caption


def test_with_few_models_the_figure_says_that_they_prove_nothing() -> None:
    made = ranking.predictors(build(results(NAMES[:4])))
    assert all(row["low"] is None for row in made.rows)
    assert "prove nothing" in made.caption


def test_ranks_are_those_of_the_scores_and_of_the_sizes() -> None:
    means = {
        name: np.mean(
            [
                r.score
                for r in results().scores
                if (r.model, r.layer) == (name, BLOCKS) and r.task in TASKS
            ]
        )
        for name in NAMES
    }
    actual = dict(zip(means, rankdata([-m for m in means.values()]), strict=True))
    rows = MADE["ranks"].rows
    assert {row["predictor"] for row in rows} == {"frenet", "log parameters", "log width"}
    for row in rows:
        assert row["actual rank"] == actual[row["model"]]
        if row["predictor"] == "log width":
            assert row["predicted rank"] == len(NAMES) - NAMES.index(row["model"])
    assert len(rows) == 3 * len(NAMES)


def test_curves_are_means_over_tasks_at_depths_from_0_to_1() -> None:
    rows = MADE["curves"].rows
    for name in ("owner/model-a", "owner/model-h"):
        for layer in range(BLOCKS + 1):
            wanted = np.mean(
                [
                    r.score
                    for r in results().scores
                    if (r.model, r.layer) == (name, layer) and r.task in TASKS
                ]
            )
            (row,) = (
                r for r in rows if (r["model"], r["layer"], r["name"]) == (name, layer, "score ↑")
            )
            assert row["value"] == pytest.approx(wanted)
            assert row["depth"] == layer / BLOCKS
    # of a metric with several profiles the one that chooses a layer stands for it
    assert {row["name"] for row in rows} == {"score ↑", "frenet.speed", "prompt_entropy"}


def test_of_many_models_the_first_are_drawn_and_the_caption_says_so() -> None:
    many = [f"m{i:02}" for i in range(35)]
    scores = tuple(
        ScoreRow(model=name, task="t", layer=layer, layers=1, score=i / 100 + layer / 10)
        for i, name in enumerate(many)
        for layer in (0, 1)
    )
    held = build(
        Results(models=tuple(ModelRow(model=name, blocks=1) for name in many), scores=scores)
    )
    (made,) = (f for f in figures.figures(held) if f.name == "curves")
    assert {row["model"] for row in made.rows} == set(many[5:])  # those that score highest
    assert "Only the first 30 models of 35 are drawn" in made.caption


def test_maps_hold_the_mean_distances_and_all_texts_of_each_layer() -> None:
    tables = [
        np.array(m.tables["distance"].rows)
        for m in results().metrics
        if (m.metric, m.model) == ("subspace_distance", BEST) and m.task in TASKS
    ]
    wanted = np.mean(tables, axis=0)
    own = [row for row in MADE["distances"].rows if row["model"] == BEST]
    assert len(own) == (BLOCKS + 1) ** 2
    for row in own:
        assert row["distance"] == pytest.approx(wanted[row["layer"], row["other layer"]])
    shares = [r["share"] for r in MADE["entropies"].rows if (r["model"], r["layer"]) == (BEST, 2)]
    assert len(shares) == BINS // 2
    assert sum(shares) == pytest.approx(100)
    counts = sum(
        np.array(m.tables["histogram"].rows)[2]
        for m in results().metrics
        if (m.metric, m.model) == ("prompt_entropy", BEST) and m.task in TASKS
    )
    assert shares == pytest.approx(
        (100 * counts.reshape(-1, 2).sum(axis=1) / counts.sum()).tolist()
    )


def test_pruning_curves_are_the_changes_of_the_table() -> None:
    assert HELD.pruned is not None
    wanted = {(row.rule, row.budget): row for row in HELD.pruned.rows}
    for row in MADE["pruning"].rows:
        source = wanted[row["rule"], row["budget"] / 100]
        assert row["change"] == source.change
        assert source.random is not None
        assert (row["random low"], row["random high"]) == (source.random.low, source.random.high)
    assert len(MADE["pruning"].rows) == len(wanted)


def test_each_figure_is_written_as_svg_and_png() -> None:
    files = dict(figures.figure_files(HELD))
    assert list(files) == [f"{name}.{form}" for name in MADE for form in ("svg", "png")]
    for name, figure in MADE.items():
        tree = ElementTree.fromstring(files[f"{name}.svg"])
        assert tree.tag == f"{SVG}svg"
        text = " ".join("".join(e.itertext()) for e in tree.iter(f"{SVG}text"))
        assert figure.title in text
        assert len(list(tree.iter(f"{SVG}path"))) > 5
        png = files[f"{name}.png"]
        assert png[:8] == b"\x89PNG\r\n\x1a\n"
        width, height = struct.unpack(">II", png[16:24])
        assert width == pytest.approx(2 * float(tree.attrib["width"]), abs=2)
        assert height > 100


def test_hostile_names_are_text_in_the_files() -> None:
    held = board(HOSTILE)
    made = {figure.name: figure for figure in figures.figures(held)}
    files = dict(figures.figure_files(held))
    assert len(files) == 2 * len(made) > 20  # none failed
    for name, figure in made.items():
        tree = ElementTree.fromstring(files[f"{name}.svg"])
        titles = [e for e in tree.iter() if "role-title-text" in e.attrib.get("class", "")]
        texts = ["".join(e.itertext()) for e in titles]
        if figure.facet:
            field = figure.chart["facet"]["field"]
            panels = dict.fromkeys(row[field] for row in figure.rows)
            plainly = [panel for panel in panels if panel.isidentifier() and len(panel) < 30]
            # every panel is there, in the order in which the rows name them
            assert [text for text in texts if text in plainly] == plainly
        assert {e.tag for e in tree.iter()} <= {
            f"{SVG}{t}"
            for t in (
                "svg",
                "g",
                "path",
                "text",
                "rect",
                "line",
                "defs",
                "clipPath",
                "title",
                "tspan",
                "linearGradient",
                "stop",
            )
        }
    models = {row["model"] for row in ranking.ranks(held).rows}
    assert models == {cells.plain(name) for name in HOSTILE}


def test_a_figure_that_fails_costs_itself_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = replace(MADE["predictors"], chart={"mark": "none such"})
    monkeypatch.setattr(figures, "figures", lambda _: [broken, MADE["pruning"]])
    said: list[str] = []
    with errors.told_to(said.append):
        assert [name for name, _ in figures.figure_files(HELD)] == ["pruning.svg", "pruning.png"]
    assert len(said) == 1
    assert said[0].startswith("The figure 'predictors' could not be drawn: ")


def test_beyond_the_drawn_models_ranks_are_still_among_all() -> None:
    """Sizes and a metric that is the size are the same predictor."""
    many = ranking.POINTS + 100
    names = [f"m{i:03}" for i in range(many)]
    scores = np.random.default_rng(0).permutation(many) / many
    held: dict[str, Any] = {"task": "Sts", "task_type": "STS"}
    found = Results(
        tuple(ModelRow(model=m, parameters=i + 1) for i, m in enumerate(names)),
        tuple(
            ScoreRow(**held, model=m, layer=1, layers=1, score=float(s))
            for m, s in zip(names, scores, strict=True)
        ),
        tuple(
            MetricRow(
                **held, model=m, metric="size", n=2, selection=("d", "max"), values={"d": float(i)}
            )
            for i, m in enumerate(names)
        ),
    )
    made = ranking.ranks(build(found))
    ranks = {
        name: {r["model"]: r["predicted rank"] for r in made.rows if r["predictor"] == name}
        for name in ("size", "log parameters")
    }
    assert len(ranks["size"]) == ranking.POINTS
    assert ranks["size"] == ranks["log parameters"]
    assert all(place == many - names.index(name) for name, place in ranks["size"].items())
    assert "ranks are among all 500" in made.caption


def luminance(colour: str) -> float:
    """The relative luminance of #rrggbb (WCAG 2)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("ground", ["#ffffff", "#14181c"])
def test_every_colour_stands_out_on_a_light_and_on_a_dark_page(ground: str) -> None:
    for colour in (*figures.COLOURS, figures.GREY):
        low, high = sorted((luminance(colour), luminance(ground)))
        assert (high + 0.05) / (low + 0.05) >= 3


def test_the_forms_are_registered_and_listing_them_is_light() -> None:
    plugins = manager.load()
    assert plugins.get("reporter", "html").suffix == ".html"
    assert plugins.get("reporter", "figures").files.__wrapped__ is page.figure_files
    code = (
        "import sys, lrd_harness.plugins.reporters.page as p; p.lrd_reporters();"
        "print([m for m in ('altair', 'vl_convert', 'numpy', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
