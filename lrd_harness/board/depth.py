"""How scores and metrics run over depth: mean curves, peak depths, what goes together.

Depth is the place of a layer between the first and the last one of its curve, 0..1: for scores
layer / L, for a metric's profile index / (length - 1), so that one of steps (speed, jaccard) or one
that begins above degenerate states runs from 0 to 1 too. In between it is interpolated linearly,
over a missing value as well; nothing is put in beyond the first or last value that is there.

In means over a group every model counts once: they are over models of each one's mean over tasks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations, combinations_with_replacement
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from lrd_harness.board.cautions import Caution, names
from lrd_harness.board.layer_choice import LEAST
from lrd_harness.board.layers import SCORE, Row, curves, hidden, present, roles
from lrd_harness.board.statistics import span
from lrd_harness.report import Column, Table
from lrd_harness.results.kinds import model_kind
from lrd_harness.results.rows import Key, Kind, MetricRow, ModelRow, Results, ScoreRow

GRID = np.arange(101) / 100  # k / 100 as layer / L is rounded: equal depths are equal
GROUPINGS = ("all", "kind", "family", "task type")
ENDS = ("highest", "lowest")
_PAIRS = "grouping group first second rho low high pairs models".split()
_GROUPS = 12  # families, and task types, that people are shown; programs get all


class Profiles(NamedTuple):
    """rows, correlations: of the tables of these names; cautions: what is left out and why."""

    rows: list[Row]
    correlations: list[Row]
    cautions: list[Caution]


def build_profiles(results: Results, kind: Kind = "embedding") -> Profiles | None:
    """Of the whole models (variant "full") of one side's results.

    None where no model has two values over layers on any task.
    """
    lines, cautions = curves(results), []
    few = lines.groupby(["source", "place"]).value.transform("count") < 2
    short: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for source, of_source in lines[few & (lines.source != SCORE)].groupby("source", sort=False):
        short[tuple(of_source.place.unique())].append(source)
    places = lines.drop_duplicates("place").set_index("place")
    lines = lines[~few].dropna(subset="value")
    if lines.empty:
        return None
    for absent, sources in short.items():
        models = names(list(places.model[list(absent)].unique()))
        of = {"sources": names(sources), "pairs": len(absent), "models": models}
        cautions.append(Caution("profiles_short", of))
    groups = _groups(results, kind, places.loc[lines.place.unique()])
    for grouping in GROUPINGS[1:]:
        by = "task" if grouping == "task type" else "model"
        if unknown := sorted(set(groups[groups[grouping] == ""][by])):
            cautions.append(
                Caution("profiles_unknown", {"grouping": grouping, "of": names(unknown)})
            )
    standing = {role.source: role for role in roles(results.metrics).values()}
    rows = []
    for source, of_source in lines.groupby("source", sort=False):
        role = standing.get(source)
        common: Row = {"best": role.best if role and role.published else None}
        common |= {"main": role is not None, "ranks": role is not None and role.ranks}
        if source == SCORE:
            common |= {"best": "max", "main": True}
        rows += [row | common for row in _means(source, of_source, groups)]
    return Profiles(rows, correlate(lines, groups), cautions)


def _groups(results: Results, kind: Kind, places: pd.DataFrame) -> pd.DataFrame:
    """The places (model, revision, task), each with its group in each grouping, "" if none."""
    models = {row.key: row for row in results.models}
    rows_of_tasks: list[MetricRow | ScoreRow] = [*results.metrics, *results.scores]
    types = {row.task: row.task_type for row in rows_of_tasks if row.task_type}
    rows = []
    for key in (Key(*of, "full") for of in zip(places.model, places.revision, strict=True)):
        model = models.get(key) or ModelRow(model=key.model)
        rows.append((key, "all", model_kind(model, kind) or "", model.family or ""))
    groups = pd.DataFrame(rows, places.index, ["key", *GROUPINGS[:-1]])
    groups["task type"] = [types.get(task, "") for task in places.task]
    return groups.assign(model=places.model, task=places.task)


def _by_group(groups: pd.DataFrame) -> Iterable[tuple[str, str, pd.DataFrame]]:
    """The rows of every group, by grouping, in order of appearance."""
    for grouping in GROUPINGS:
        for group, rows in groups[groups[grouping] != ""].groupby(grouping, sort=False):
            yield grouping, str(group), rows


def _means(source: str, lines: pd.DataFrame, groups: pd.DataFrame) -> Iterable[Row]:
    """One row per group that has the source."""
    by_place = lines.groupby("place")
    on_grid = (np.interp(GRID, of.along, of.value, np.nan, np.nan) for _, of in by_place)
    grid = pd.DataFrame(list(on_grid), list(by_place.groups))  # NaN beyond first and last value
    peaks = pd.DataFrame(index=grid.index)
    for end in ENDS:  # the lower layer of ties
        ordered = lines.sort_values("value", kind="stable", ascending=end == "lowest")
        peaks[end] = ordered.drop_duplicates("place").set_index("place").along
    for grouping, group, part in _by_group(groups[groups.index.isin(grid.index)]):
        models = pd.factorize(part["key"])[0]
        by_model = grid.loc[part.index].groupby(models).mean()
        ends = peaks.loc[part.index]
        middle = ends.groupby(models).mean().mean()
        row: Row = {"grouping": grouping, "group": group, "source": source}
        row |= {"means": present(by_model.mean()), "spread": present(by_model.std())}
        row |= {"counts": by_model.count().tolist()}
        for end in ENDS:
            row |= {end: float(middle[end]), f"{end}_low": float(ends[end].min())}
            row |= {f"{end}_high": float(ends[end].max())}
        yield row | {"models": len(by_model), "tasks": part["task"].nunique(), "pairs": len(part)}


def correlate(lines: pd.DataFrame, groups: pd.DataFrame) -> list[Row]:
    """Every pair of sources in every group in which some model has both.

    Spearman's rho over the layers of one model on one task that both have, 4 at least and neither
    constant: its median, quartiles and mean over `pairs` models x tasks. Layers are aligned by
    their numbers: a step's value stands with the state that it leaves, a block's with that it
    writes.
    """
    of, sources = pd.factorize(lines.source)
    table = np.full((len(groups), len(sources), lines.layer.max() + 1), np.nan)
    table[groups.index.get_indexer(lines.place), of, lines.layer] = lines.value
    rho = by_pair(table, sources).set_index(groups.index)
    pairs, rows = rho.columns, []
    for grouping, group, part in _by_group(groups):
        of_group = rho.loc[part.index]
        low, middle, high = of_group.quantile([0.25, 0.5, 0.75]).to_numpy()
        counts, means = of_group.count(), of_group.mean().to_numpy()
        models = of_group.notna().groupby(pd.factorize(part["key"])[0]).any().sum()
        for p in np.flatnonzero(counts):
            row: Row = {"grouping": grouping, "group": group}
            row |= {"first": pairs[p][0], "second": pairs[p][1], "mean": float(means[p])}
            row |= {"rho": float(middle[p]), "low": float(low[p]), "high": float(high[p])}
            rows.append(row | {"pairs": int(counts.iloc[p]), "models": int(models.iloc[p])})
    return rows


def by_pair(table: np.ndarray, sources: Sequence[str], least: int = LEAST) -> pd.DataFrame:
    """Spearman's rho of each two sources in each place: a row for each of these, NaN for none.

    table: values (places, sources, layers), or of whatever stands for layers; NaN: no value.
    Columns: the pairs of names; least: see `rhos`.
    """
    alike: dict[bytes, list[int]] = defaultdict(list)  # that have the same layers, reckoned at once
    for i, mask in enumerate(~np.isnan(table)):
        alike[mask.tobytes()].append(i)
    pairs = [*combinations(range(len(sources)), 2)]
    first, second = np.array(pairs, dtype=int).reshape(-1, 2).T
    found = np.empty((len(table), len(pairs)))
    for same in alike.values():
        found[same] = rhos(table[same], least)[:, first, second]
    return pd.DataFrame(found, columns=[*combinations(sources, 2)])


def rhos(table: np.ndarray, least: int = LEAST) -> np.ndarray:
    """Spearman's rho between all sources of each batch: (m, s, s) of values (m, s, layers).

    NaN: no value; each batch has its values in the same places. Over the layers that both sources
    have; NaN where these are fewer than `least` (4), or one source is constant over them. Sources
    that are there on the same layers are ranked at once.

    Examples
    --------
    >>> rhos(np.array([[[1.0, 2.0, 3.0, 4.0], [0.0, 5.0, 7.0, 6.0]]])).round(2).tolist()
    [[[1.0, 0.8], [0.8, 1.0]]]
    """
    rho = np.full((*table.shape[:2], table.shape[1]), np.nan)
    masks, of = np.unique(~np.isnan(table[0]), axis=0, return_inverse=True)
    of = of.reshape(-1)
    for a, b in combinations_with_replacement(range(len(masks)), 2):
        common = masks[a] & masks[b]
        if common.sum() >= least:
            i, j = np.flatnonzero(of == a), np.flatnonzero(of == b)
            x, y = (_unit(table[:, side][:, :, common]) for side in (i, j))
            rho[:, i[:, None], j] = x @ y.swapaxes(1, 2)
            rho[:, j[:, None], i] = y @ x.swapaxes(1, 2)
    return np.asarray(np.clip(rho, -1, 1))


def _unit(values: np.ndarray) -> np.ndarray:
    """Average ranks along the last axis, centred and of length 1; NaN where it is constant."""
    ranks = stats.rankdata(values, axis=-1) - (values.shape[-1] + 1) / 2
    length = np.linalg.norm(ranks, axis=-1, keepdims=True)
    return np.asarray(ranks / np.where(length > 0, length, np.nan))


_DEPTH = (
    "Depth (0 the first layer of the curve, 1 the last) at which the curve over one model's layers "
    "on one task is highest or lowest, the earlier of ties: the mean over models of each one's "
    "mean over its tasks; in parentheses the range over all models and tasks. Neither direction "
    "is better. models, tasks: the most that a column has.",
    f"Of families and of task types the first {_GROUPS} are shown, and none where there is one "
    "only; all, with their mean curves at 101 depths, are in the table profiles of the json form.",
)
_LAST = "gfmi.auc is highest at the last layer by definition: it compares that layer with itself."
_ALIKE = (
    "Spearman's rho of two curves over the layers of one model on one task (+1 the same order, 0 "
    "none, -1 the reverse; neither is better): the median, and the quartiles, over the pairs of "
    "model and task with at least 4 layers of both. Neighbouring layers are alike, so that two "
    "unrelated curves are mostly far from 0 as well, to either side (independent random walks: "
    "mean |rho| about 0.4): only a rho that keeps its sign says something.",
)


def profile_tables(profiles: Profiles | None) -> list[Table]:
    """Peak depths by group and what runs alike, for people; all curves and correlations."""
    if profiles is None:
        return []
    cells = ("grouping", "group", "source", "best", "main", "ranks")
    lists = (Column(n, form="list", shown=False) for n in ("means", "spread", "counts"))
    peaks = (f"{end}{part}" for end in ENDS for part in ("", "_low", "_high"))
    curves = (*hidden(*cells), *lists, *hidden(*peaks, "models", "tasks", "pairs"))
    pairs, rows = hidden(*_PAIRS), profiles.correlations
    return [
        _peaks(profiles),
        *_agreement(profiles),
        Table("profiles", "Mean curves", curves, profiles.rows, shown=False),
        Table("profile_correlations", "Correlations over layers", pairs, rows, shown=False),
    ]


def _peaks(profiles: Profiles) -> Table:
    """One row per group; of each metric the profile that stands for it."""
    groups: dict[str, dict[str, Row]] = {grouping: {} for grouping in GROUPINGS}
    columns: dict[str, Column] = {}
    for row in profiles.rows:
        label = {"group": f"{row['grouping']}: {row['group']}", "models": 0, "tasks": 0}
        group = groups[row["grouping"]].setdefault(row["group"], label)
        group |= {n: max(group[n], row[n]) for n in ("models", "tasks")}
        ends = ENDS[::-1] if row["best"] == "min" else ENDS[:1]
        for end in ends if row["main"] else ():
            column, heading = f"{row['source']}.{end}", f"{row['source']} {end} at"
            columns[column] = Column(column, heading, unit="depth", rest=int(end != ends[0]))
            low, high = row[f"{end}_low"], row[f"{end}_high"]
            group[column] = f"{row[end]:.2f} ({low:.2f}-{high:.2f})"
    shown = [{**groups["all"].get("all", {}), "group": "all"}]
    for grouping in GROUPINGS[1:]:
        several = list(groups[grouping].values())
        shown += several[:_GROUPS] if len(several) > 1 else []  # a single one says what all does
    last = [_LAST] if "gfmi.auc.highest" in columns else []
    captions = (*_DEPTH, *last, *map(str, profiles.cautions))
    first = (Column("group", key=True), Column("models"), Column("tasks"))
    title = "Where over depth scores and metrics are highest"
    return Table("profile_peaks", title, (*first, *columns.values()), shown, captions)


def _agreement(profiles: Profiles) -> Iterable[Table]:
    """Of the score with every main source, and of the sources of metrics that rank models."""
    main = {row["source"] for row in profiles.rows if row["main"]}
    ranks = {row["source"] for row in profiles.rows if row["ranks"]}
    by_kind: dict[tuple[str, str], Row] = defaultdict(dict)
    kinds = dict.fromkeys(r["group"] for r in profiles.correlations if r["grouping"] == "kind")
    for row in profiles.correlations:
        if row["grouping"] == "kind" and len(kinds) > 1:
            text = f"{row['rho']:+z.2f} ({row['pairs']})"
            by_kind[row["first"], row["second"]][f"rho.{row['group']}"] = text
    rows = []
    for row in profiles.correlations:
        a, b = row["first"], row["second"]
        if row["grouping"] == "all" and ((a == SCORE and b in main) or {a, b} <= ranks):
            cells = {n: row[n] for n in ("rho", "low", "high", "pairs", "models")}
            cells["quartiles"] = span(row["low"], row["high"])
            rows.append(cells | {"pair": f"{a} ~ {b}"} | by_kind[a, b])
    columns = (
        Column("pair", "over layers", key=True),
        Column("rho", "Spearman's rho", unit="median", form="+z.2f"),
        Column("quartiles"),
        *hidden("low", "high"),
        Column("pairs"),
        Column("models"),
        *(
            Column(f"rho.{kind}", kind, unit="rho (pairs)", rest=1)
            for kind in (kinds if len(kinds) > 1 else ())
        ),
    )
    if rows:
        yield Table("profile_agreement", "What runs alike over layers", columns, rows, _ALIKE)
