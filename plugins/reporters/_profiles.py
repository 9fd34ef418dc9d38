"""Scores and metrics over depth, group by group: sheets for people, JSON's part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ._cells import NONE, Column, Sheet, number, plain

if TYPE_CHECKING:
    from lrd_harness.board.depth import Peak, ProfileRow, Profiles
    from lrd_harness.board.leaderboard import Leaderboard


SIGNED = "+z.2f"
Group = tuple[str, str]  # its grouping and its name
Rows = dict[tuple[Group, str], "ProfileRow"]
_GROUPS = 12  # families, and task types, that a sheet has; JSON has all


def profile_sheets(board: Leaderboard) -> list[Sheet]:
    """Peak depths by group, and what runs alike over layers; the curves themselves are in JSON."""
    profiles = board.profiles
    if profiles is None:
        return []
    of = "Base models: where" if board.kind == "base" else "Where"
    found = [_peaks(f"{of} over depth scores and metrics are highest", profiles)]
    alike = _alike("Base models: w" if board.kind == "base" else "W", profiles)
    return [*found, *alike]


def profile_document(profiles: Profiles | None) -> dict[str, Any] | None:
    """The key "profiles" of the JSON form: the fields of profile_rows.py; a peak as a mapping."""
    if profiles is None:
        return None
    document = asdict(profiles)
    for line, row in zip(document["rows"], profiles.rows, strict=True):
        line |= {"highest": row.highest._asdict(), "lowest": row.lowest._asdict()}
    return document


def _peaks(title: str, profiles: Profiles) -> Sheet:
    """A line a group; of each metric the profile that stands for it."""
    rows: Rows = {((row.grouping, row.group), row.source): row for row in profiles.rows}
    groups = _shown(profiles)
    columns = [
        Column(("group",), tuple(map(_named, groups)), "left", key=True),
        Column(("n", "(models)"), tuple(_most(rows, group, "models") for group in groups)),
        Column(("n", "(tasks)"), tuple(_most(rows, group, "tasks") for group in groups)),
    ]
    for source in profiles.main:
        held = [rows.get((group, source)) for group in groups]
        best = next((row.best for row in held if row), None)
        ends = ["highest", "lowest"] if best == "max" or best is None else ["lowest", "highest"]
        for end in ends[: 1 if best != "min" else 2]:
            cells = tuple(_depths(getattr(row, end) if row else None) for row in held)
            heading = (*_source(source), f"{end} at")
            columns.append(Column(heading, cells, rest=int(end != ends[0])))
    return Sheet(title, tuple(columns), tuple(_legend(profiles)))


def _shown(profiles: Profiles) -> list[Group]:
    """The groups of the sheet: all, then by kind, family and task type."""
    groups: list[Group] = list(dict.fromkeys((row.grouping, row.group) for row in profiles.rows))
    found: list[Group] = []
    for grouping in dict.fromkeys(grouping for grouping, _ in groups):
        own = [group for group in groups if group[0] == grouping]
        if grouping == "all" or len(own) > 1:  # a single one says what all does
            found += own[:_GROUPS]
    return found


def _most(rows: Rows, group: Group, field: str) -> str:
    held = {getattr(row, field) for (own, _), row in rows.items() if own == group}
    return str(max(held))


def _named(group: Group) -> str:
    return "all" if group[0] == "all" else plain(f"{group[0]}: {group[1]}")


def _source(source: str) -> tuple[str, ...]:
    """In one or two lines: the metric, and the profile where that is called otherwise."""
    metric, _, name = source.partition(".")
    return (plain(metric),) if name in ("", metric) else (plain(metric), plain(name))


def _depths(peak: Peak | None) -> str:
    if peak is None:
        return NONE
    return f"{peak.mean:.2f} ({peak.low:.2f}-{peak.high:.2f})"


def _legend(profiles: Profiles) -> list[str]:
    lines = [
        "Depth (0 the first layer of the profile, 1 the last) at which the curve over one model's "
        "layers on one task is highest or lowest, the earlier of ties: the mean over models of "
        "each one's mean over its tasks, so that every model counts once; in parentheses the range "
        "over all models and tasks. Neither direction is better. n: the most models and tasks that "
        "a column has.",
    ]
    if any(row.best == "min" for row in profiles.rows):
        lines.append(
            "A metric that chooses the layer where it is lowest has that end first, then the other."
        )
    if "gfmi.auc" in profiles.main:
        lines.append(
            "gfmi.auc is highest at the last layer by its definition: there it compares that layer "
            "with itself."
        )
    lines.append(
        f"Of families and of task types the first {_GROUPS} are shown, and none where there is one "
        "only. All, with their mean curves at 101 depths, are in the json format, key profiles."
    )
    return lines + [plain(note) for note in profiles.notes]


def _alike(start: str, profiles: Profiles) -> list[Sheet]:
    """Of the score with every main profile, and of the profiles of metrics that rank models."""
    every = {(r.grouping, r.group, r.first, r.second): r for r in profiles.correlations}
    main, selection = profiles.main, profiles.selection
    pairs = [
        (a, b) for _, group, a, b in every if group == "all" and _wanted(a, b, main, selection)
    ]
    pairs = list(dict.fromkeys(pairs))
    if not pairs:
        return []
    kinds = list(dict.fromkeys(r.group for r in profiles.correlations if r.grouping == "kind"))
    whole = [every["all", "all", *pair] for pair in pairs]
    columns = [
        Column(
            ("over layers",),
            tuple(" ~ ".join(".".join(_source(one)) for one in pair) for pair in pairs),
            "left",
            True,
        ),
        Column(("Spearman's", "rho (median)"), tuple(number(row.rho, SIGNED) for row in whole)),
        Column(
            ("middle half", "of the pairs"),
            tuple(f"{row.low:{SIGNED}} to {row.high:{SIGNED}}" for row in whole),
        ),
        Column(("n", "(pairs)"), tuple(str(row.pairs) for row in whole)),
        Column(("n", "(models)"), tuple(str(row.models) for row in whole)),
    ]
    for kind in kinds if len(kinds) > 1 else ():
        held = [every.get(("kind", kind, *pair)) for pair in pairs]
        cells = tuple(NONE if row is None else f"{row.rho:{SIGNED}} ({row.pairs})" for row in held)
        columns.append(Column(("rho (n)", plain(kind)), cells, rest=1))
    return [Sheet(f"{start}hat runs alike over layers", tuple(columns), (_ALIKE,))]


_ALIKE = (
    "Spearman's rho of two curves over the layers of one model on one task (+1 the same order, 0 "
    "none, -1 the reverse; neither is better): the median, and the quartiles, over the n pairs of "
    "model and task with at least 4 layers of both. Neighbouring layers are alike, so that two "
    "curves that have nothing to do with each other are mostly far from 0 as well, to either side "
    "(independent random walks: mean |rho| about 0.4): only a rho that keeps its sign says "
    "something. By family and task type, and for every profile: in the json format."
)


def _wanted(a: str, b: str, main: Sequence[str], selection: Sequence[str]) -> bool:
    return (a == main[0] == "score" and b in main) or (a in selection and b in selection)
