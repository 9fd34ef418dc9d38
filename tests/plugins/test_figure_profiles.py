"""Figures of mean curves over depth: their bands, the sizes of groups, groupings that coincide."""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import Any

import pytest
from page_rows import NAMES, board, results

from lrd_harness.board.leaderboard import build

profiles: Any = importlib.import_module("lrd_harness.plugins.reporters._figures_profiles")

HELD = board()


def test_profiles_are_every_fourth_point_of_the_mean_curves() -> None:
    assert HELD.profiles is not None
    (source,) = (
        row
        for row in HELD.profiles.rows
        if (row.grouping, row.group, row.source) == ("family", "bert", "score")
    )
    own = [
        r for r in profiles.by_family(HELD).rows if (r["group"], r["name"]) == ("bert", "score ↑")
    ]
    assert [row["depth"] for row in own] == pytest.approx([i / 25 for i in range(26)])
    assert [row["mean"] for row in own] == list(source.means[::4])


def test_a_group_of_one_model_has_no_band() -> None:
    made = profiles.by_family(build(results(NAMES[:4])))
    single = [row for row in made.rows if row["models"] == 1]
    assert single
    assert all(row["low"] is None and row["high"] is None for row in single)
    assert all(row["low"] < row["high"] for row in made.rows if row["models"] > 1)
    assert "none where a group has one model" in made.caption


def test_families_that_are_the_kinds_over_again_are_not_drawn_twice() -> None:
    held = build(results())
    assert held.profiles is not None
    rows = [row for row in held.profiles.rows if row.grouping == "kind"]
    twice = [replace(row, grouping="family", group=f"of {row.group}") for row in rows]
    same = replace(held, profiles=replace(held.profiles, rows=(*rows, *twice)))
    assert profiles.by_kind(same) is not None
    assert profiles.by_family(same) is None
    assert profiles.by_family(held) is not None


def test_groups_that_differ_in_size_from_panel_to_panel_have_up_to_so_many_models() -> None:
    assert HELD.profiles is not None
    rows = [row for row in HELD.profiles.rows if (row.grouping, row.group) == ("family", "bert")]
    assert profiles._sizes(rows, ["bert"]) == "bert 3 models"
    fewer = replace(rows[0], models=1)
    assert profiles._sizes([fewer, *rows[1:]], ["bert"]) == "bert up to 3 models"
