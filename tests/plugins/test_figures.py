"""The figures: their data are the report's, and each becomes an SVG and a PNG."""

from __future__ import annotations

import importlib
import re
import struct
from dataclasses import replace
from statistics import fmean
from typing import Any
from xml.etree import ElementTree

import pytest
from report_rows import BINS, BLOCKS, HOSTILE, NAMES, TASKS, report, table

from lrd_harness import errors
from lrd_harness.errors import plain
from lrd_harness.report import Report

figures: Any = importlib.import_module("lrd_harness.plugins.reporters._figures")
charts: Any = importlib.import_module("lrd_harness.plugins.reporters._charts")
maps: Any = importlib.import_module("lrd_harness.plugins.reporters._maps")
Side = charts.Side

SVG = "{http://www.w3.org/2000/svg}"
TAGS = "svg g path text rect line defs clipPath title tspan linearGradient stop".split()
KINDS = [
    *("predictors", "ranks", "curves", "profiles-kind", "profiles-family", "profiles-task-type"),
    *("distances", "entropies"),
]
REPORT = report()
DRAWN = {figure.name: figure for figure in figures.figures(REPORT)}


def without(report: Report, *names: str) -> Report:
    return replace(report, tables=tuple(t for t in report.tables if t.name not in names))


def test_a_full_report_has_every_figure_and_says_what_of() -> None:
    base = [f"base-{name}" for name in KINDS if name != "ranks"]  # of two models
    assert list(DRAWN) == [*KINDS, *base, "pruning"]
    for name, figure in DRAWN.items():
        assert figure.title.startswith("Base models: ") == name.startswith("base-")
        assert figure.alt.endswith(".")
        assert "n = " in figure.caption or "model" in figure.caption
        assert figure.rows


def test_predictors_are_those_of_the_tasks_else_of_the_means() -> None:
    """Over models where there are such intervals, else over tasks."""
    agreement = REPORT.table("agreement")
    rows = {row["predictor"]: row for row in DRAWN["predictors"].rows}
    for row in agreement.rows:
        point = rows[row["predictor"]]
        assert (point["rho"], point["low"], point["high"]) == (row["rho"], row["low"], row["high"])
        assert point["interval over"] == "tasks"
    assert "log parameters (+0.50)" in DRAWN["predictors"].caption
    plainly = figures.predictors(Side(without(REPORT, "agreement")))
    assert [row["rho"] for row in plainly.rows] == REPORT.table("correlations").column("rho")
    assert "rho of the mean scores" in plainly.caption
    over = [{**row, "models_low": -0.5, "models_high": 1.0} for row in agreement.rows]
    figure = figures.predictors(Side(replace(REPORT, tables=(replace(agreement, rows=over),))))
    assert {(row["low"], row["high"]) for row in figure.rows} == {(-0.5, 1.0)}
    assert "over models" in figure.caption


@pytest.mark.parametrize("prefix", ["", "base."])
def test_ranks_are_those_of_the_table_and_of_the_sizes(
    prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "LEAST", 2)
    rows = figures.ranks(Side(REPORT, prefix)).rows
    models = [r for r in REPORT.table("models").rows if r[f"{prefix}rank"] is not None]
    places = {(r["predictor"], r["model"]): (r["actual rank"], r["predicted rank"]) for r in rows}
    for row in models:
        expected = (row[f"{prefix}rank"], row[f"{prefix}predicted.frenet"])
        assert places["frenet", row["model"]] == expected
        larger = sum(other["parameters"] > row["parameters"] for other in models)
        assert places["log parameters", row["model"]][1] == 1 + larger
    assert len(rows) == 4 * len(models)


def test_what_says_nothing_of_so_few_is_left_out() -> None:
    """A perfect order of four is likely by chance; a group of one model has its curve already."""
    for n in (2, 4, 5):
        few = report(NAMES[:n], base=False)
        rho = [{**row, "n": n} for row in REPORT.table("agreement").rows]
        tables = [replace(t, rows=rho) if t.name == "agreement" else t for t in few.tables]
        drawn = {figure.name for figure in figures.figures(replace(few, tables=tuple(tables)))}
        assert (drawn & {"predictors", "ranks"} != set()) == (n >= 5)
        assert "curves" in drawn
    single = [{**row, "models": 1} for row in REPORT.table("profiles").rows]
    alone = Side(Report("", (table("profiles", single),)))
    assert figures.groups(alone, "kind") is figures.groups(alone, "family") is None
    assert figures.groups(alone, "task type") is not None


def test_bands_and_lines_of_groups_can_be_told_apart() -> None:
    """Bands of few groups alone; the ninth line has the first one's colour and another dash."""
    rows = [{**row, "group": f"{row['group']} {i}"} for i in (1, 2) for row in _kinds()]
    few, many = (Side(Report("", (table("profiles", r),))) for r in (_kinds(), rows))
    drawn = [figures.groups(side, "kind") for side in (few, many)]
    assert [len(figure.chart["spec"]["layer"]) for figure in drawn] == [2, 1]
    assert ["the band is" in figure.caption for figure in drawn] == [True, False]
    lines = [{"line": f"l{i}"} for i in range(20)]
    scales = [f(lines, "line").to_dict()["scale"] for f in (charts.colour, charts.dash)]
    pairs = zip(*(map(str, scale["range"]) for scale in scales), strict=True)
    assert len(set(pairs)) == 20


def _kinds() -> list[Any]:
    return [row for row in REPORT.table("profiles").rows if row["grouping"] == "kind"]


@pytest.mark.slow
@pytest.mark.parametrize("width", [figures.NARROW, figures.WIDE])
def test_figures_of_a_page_fit_it_and_their_marks_name_their_rows(width: int) -> None:
    names = []
    for name in ("predictors", "ranks", "curves", "distances"):
        svg = figures.inline(DRAWN[name], width)
        tree = ElementTree.fromstring(svg)
        assert figures.inline(DRAWN[name], width) == svg
        assert float(tree.attrib["width"]) <= 1.1 * width
        marks = [int(e.attrib["data-row"]) for e in tree.iter() if "data-row" in e.attrib]
        assert len(set(marks)) == len(marks) > 2
        assert len(marks) == len(DRAWN[name].rows) or name == "curves"  # a line has many
        assert not re.search(r' (?:aria-\w+|role|on\w+|href|src)="', svg)
        idents = [e.attrib["id"] for e in tree.iter() if "id" in e.attrib]
        assert set(re.findall(r"url\(#([^)]+)\)", svg)) <= set(idents)
        names += idents
    assert len(set(names)) == len(names)


def test_of_many_models_the_first_are_drawn_and_ranks_are_among_all() -> None:
    many = tuple(f"m{i:03}" for i in range(figures.POINTS + 100))
    large = report(many, base=False, parts=("models", "model_info", "ranking"))
    figure = figures.ranks(Side(large))
    assert len({row["model"] for row in figure.rows}) == figures.POINTS
    places = {r["model"]: r["predicted rank"] for r in figure.rows if r["predictor"] == "frenet"}
    assert all(place == len(many) - many.index(name) for name, place in places.items())
    assert "ranks are among all 500" in figure.caption
    figure = figures.curves(Side(report(many[:35])))
    assert {row["model"] for row in figure.rows} == set(many[:30])  # those that score highest
    assert "Only the first 30 models of 35 are drawn" in figure.caption


def test_curves_are_the_means_over_tasks_of_main_profiles() -> None:
    rows = DRAWN["curves"].rows
    assert {row["name"] for row in rows} == {"score ↑", "frenet.speed", "entropy"}
    layers = REPORT.table("layers").rows
    for row in rows:
        if row["name"] == "frenet.speed":
            values = [
                r["frenet.speed"]
                for r in layers
                if (r["model"], r["layer"]) == (row["model"], row["layer"]) and r["task"] in TASKS
            ]
            assert row["value"] == pytest.approx(fmean(values))
            assert row["depth"] == row["layer"] / BLOCKS
    assert {row["layer"] for row in rows if row["name"] == "frenet.speed"} == set(range(BLOCKS))
    assert {row["model"] for row in DRAWN["base-curves"].rows} == set(NAMES[-2:])


def test_mean_curves_have_a_line_per_group_and_its_spread() -> None:
    profiles = REPORT.table("profiles").rows
    rows = DRAWN["profiles-kind"].rows
    for row in rows:
        (source,) = (
            p
            for p in profiles
            if (p["grouping"], p["group"]) == ("kind", row["group"])
            and p["main"]
            and charts.source_name(p["source"]) == row["name"]
        )
        i = round(100 * row["depth"])
        assert row["mean"] == source["means"][i]
        assert (row["low"] is None) == (source["spread"][i] is None)
    assert len({row["depth"] for row in rows}) == 26
    caption = DRAWN["profiles-kind"].caption
    assert "encoder up to 4 models, decoder up to 4 models" in caption
    # of families that are the kinds over again there is no figure of their own
    kinds = [p for p in profiles if p["grouping"] == "kind"]
    again = [{**p, "grouping": "family", "group": f"f {p['group']}"} for p in kinds]
    same = Side(Report("", (table("profiles", [*kinds, *again]),)))
    assert figures.groups(same, "kind") is not None
    assert figures.groups(same, "family") is None


def test_maps_hold_the_mean_distances_and_all_texts_of_each_layer() -> None:
    values = REPORT.table("values").rows

    def cells(name: str, layer: int, place: int) -> list[float]:
        return [
            r["value"]
            for r in values
            if (r["model"], r["name"], r["task"] in TASKS) == (NAMES[0], name, True)
            and (r["layer"], r["place"]) == (layer, place)
        ]

    first = [row for row in DRAWN["distances"].rows if row["model"] == NAMES[0]]
    assert len(first) == (BLOCKS + 1) ** 2
    for row in first[::4]:
        values_of_tasks = cells("distance", row["layer"], row["other layer"])
        assert row["distance"] == pytest.approx(fmean(values_of_tasks))
    entropies = DRAWN["entropies"].rows
    shares = [r["share"] for r in entropies if (r["model"], r["layer"]) == (NAMES[0], 2)]
    counts = [sum(cells("histogram", 2, place)) for place in range(BINS)]
    pairs = [a + b for a, b in zip(counts[::2], counts[1::2], strict=True)]
    assert shares == pytest.approx([100 * count / sum(counts) for count in pairs])
    assert len({row["model"] for row in entropies}) == maps.MAPS
    assert "the first of 8" in DRAWN["entropies"].caption


def test_pruning_curves_are_the_changes_of_the_table() -> None:
    rows = {(r["panel"], r["rule"], r["budget"]): r for r in DRAWN["pruning"].rows}
    for row in REPORT.table("pruning").rows:
        point = rows[row["model"], row["rule"], 100 * row["budget"]]
        assert (point["change"], point["random low"]) == (row["change"], row["random_low"])
    assert len(rows) == len(REPORT.table("pruning").rows)
    assert "5 seeds" in DRAWN["pruning"].caption


@pytest.mark.slow
def test_each_figure_is_written_as_svg_and_png() -> None:
    files = dict(figures.figure_files(without(REPORT, "base.ranking")))
    assert list(files) == [f"{n}.{form}" for n in [*KINDS, "pruning"] for form in ("svg", "png")]
    for name in (*KINDS, "pruning"):
        tree = ElementTree.fromstring(files[f"{name}.svg"])
        text = " ".join("".join(e.itertext()) for e in tree.iter(f"{SVG}text"))
        assert DRAWN[name].title in text
        assert len(list(tree.iter(f"{SVG}path"))) > 5
        png = files[f"{name}.png"]
        assert png[:8] == b"\x89PNG\r\n\x1a\n"
        width, height = struct.unpack(">II", png[16:24])
        assert width == pytest.approx(2 * float(tree.attrib["width"]), abs=2)
        assert height > 100


@pytest.mark.slow
def test_hostile_names_are_text_in_the_files() -> None:
    odd = without(report(HOSTILE), "base.ranking")
    drawn = {figure.name: figure for figure in figures.figures(odd)}
    files = dict(figures.figure_files(odd))
    assert len(files) == 2 * len(drawn) > 16  # none failed
    for name, figure in drawn.items():
        tree = ElementTree.fromstring(files[f"{name}.svg"])
        titles = [e for e in tree.iter() if "role-title-text" in e.attrib.get("class", "")]
        texts = ["".join(e.itertext()) for e in titles]
        if figure.facet:
            panels = dict.fromkeys(row[figure.chart["facet"]["field"]] for row in figure.rows)
            plainly = [panel for panel in panels if panel.isidentifier() and len(panel) < 30]
            # every panel is there, in the order in which the rows name them
            assert [text for text in texts if text in plainly] == plainly
        assert {e.tag.removeprefix(SVG) for e in tree.iter()} <= set(TAGS)
    assert {row["model"] for row in drawn["ranks"].rows} == {plain(name) for name in HOSTILE}


def test_a_figure_that_fails_costs_itself_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = replace(DRAWN["predictors"], chart={"mark": "none such"})
    monkeypatch.setattr(figures, "figures", lambda _: [broken, DRAWN["pruning"]])
    lines: list[str] = []
    with errors.told_to(lines.append):
        assert [name for name, _ in figures.figure_files(REPORT)] == ["pruning.svg", "pruning.png"]
    (line,) = lines
    assert line.startswith("The figure 'predictors' could not be drawn: ")


def luminance(colour: str) -> float:
    """The relative luminance of #rrggbb (WCAG 2)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("ground", ["#ffffff", "#14181c"])
def test_every_colour_stands_out_on_a_light_and_on_a_dark_page(ground: str) -> None:
    for colour in (*charts.COLOURS, charts.GREY):
        low, high = sorted((luminance(colour), luminance(ground)))
        assert (high + 0.05) / (low + 0.05) >= 3
