"""Checkpoints of one run in every form: sheets for people, CSV, and what JSON has of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lrd_harness.store import files

from ._cells import NONE, Column, Sheet, number, plain
from ._ranking import ARROW, unit_of

if TYPE_CHECKING:
    from lrd_harness.board.families import Family, Member
    from lrd_harness.board.leaderboard import Leaderboard
    from lrd_harness.board.training import Curve, Selected, Trajectory
    from lrd_harness.results.database import Results


MARKS = "▁▂▃▄▅▆▇█"
GAP = "·"  # a layer without a value; a blank would be lost in Markdown
LONGEST = 40  # marks of a row
FRACTIONS = {"0": 0.0, "1/4": 0.25, "1/2": 0.5, "3/4": 0.75, "1": 1.0}
FIELDS = ("family", "step", "model", "revision", "task", "layer", "depth", "name", "value")


def checkpoint_sheets(board: Leaderboard, most: int | None = None) -> list[Sheet]:
    """For each family a table of its checkpoints, then score and metrics by step and depth.

    most: how many metrics are shown by depth; None: all.
    """
    from lrd_harness.board.training import trajectories  # not above: of no use to a listing

    held = trajectories(board.results)
    found = []
    for one in held:
        named = f": {plain(one.family.stem)}" if len(held) > 1 else ""
        found.append(_summary(one, board.kind == "base"))
        shown = [curve for curve in one.curves if _drawn(curve)]
        drawn = [*([one.scores] if _drawn(one.scores) else []), *shown[:most]]
        found += [_by_depth(one, curve, named, first=curve is drawn[0]) for curve in drawn]
        if most is not None and len(shown) > most:
            names = plain(", ".join(curve.name for curve in shown[most:]))
            line = f"More by step and depth in the forms md, json and checkpoints (a CSV): {names}."
            last = found[-1]
            found[-1] = Sheet(last.title, last.columns, (*last.legend, line))
    return found


def checkpoints_csv(board: Leaderboard) -> str:
    """One line a checkpoint, task, layer and number; "" where there is no family.

    family, step (empty where the name has none), model, revision, task, layer, depth (layer / L),
    name ("score", or METRIC.SCORE of every profile), value. Layers without a value have no line.
    """
    from lrd_harness.board.families import families

    held = families(board.results)
    sides = [board.results, *([board.base.results] if board.base else [])]
    lines = [line for family in held for side in sides for line in _lines(family, side)]
    if not lines:
        return ""
    return files.written(FIELDS, lines)


def checkpoints_document(board: Leaderboard) -> list[dict[str, Any]]:
    """The key "checkpoints" of the JSON form: a family and kind of task each, [] without any.

    kind, stem, unit ("step", "epoch", "tokens", ""), tasks (in the mean scores), members: [{label,
    step, model, revision, variant, depth, score, best_layer, best_score, values: {METRIC: mean
    selection score}, layers: {METRIC: chosen layer}}], curves: [{name, metric, choose ("max",
    "min", null), tasks, profiles: [{layers, values}], one a member}].
    """
    from lrd_harness.board.training import trajectories

    boards = [board, *([board.base] if board.base else [])]
    return [
        {
            "kind": part.kind,
            "stem": one.family.stem,
            "unit": one.family.unit,
            "tasks": one.scores.tasks,
            "members": [_member(one, i) for i in range(len(one.family.members))],
            "curves": [
                asdict(curve) | {"profiles": [own._asdict() for own in curve.profiles]}
                for curve in (one.scores, *one.curves)
            ],
        }
        for part in boards
        for one in trajectories(part.results)
    ]


def spark(values: Sequence[float | None], low: float, high: float) -> str:
    """A mark a value from low to high, in the middle where these are level; thinned to LONGEST."""
    if len(values) > LONGEST:
        step = (len(values) - 1) / (LONGEST - 1)
        values = [values[round(i * step)] for i in range(LONGEST)]
    top = len(MARKS) - 1
    places = (
        None if v is None else (v - low) / (high - low) * top if high > low else top / 2 - 0.1
        for v in values
    )
    return "".join(GAP if place is None else MARKS[round(place)] for place in places)


def nearest(values: Mapping[int, float], depth: int, fraction: float) -> int | None:
    """The layer with a value nearest to a fraction of the depth, the lower one of two.

    None where it is further away than one layer and an eighth of the depth.
    """
    layer = min(values, key=lambda layer: (abs(layer - fraction * depth), layer), default=None)
    if layer is None or abs(layer - fraction * depth) > max(1, depth / 8):
        return None
    return layer


def _member(one: Trajectory, i: int) -> dict[str, Any]:
    member, best = one.family.members[i], one.best()[i]
    return {
        "label": member.label,
        "step": member.step,
        **member.key._asdict(),
        "depth": one.depths[i],
        "score": one.last[i],
        "best_layer": best[0] if best else None,
        "best_score": best[1] if best else None,
        "values": {selected.metric: selected.values[i] for selected in one.selected},
        "layers": {curve.metric: curve.chosen()[i] for curve in one.curves if curve.choose},
    }


def _lines(family: Family, results: Results) -> Iterator[tuple[Any, ...]]:
    """The numbers of a family on one side, as the CSV has them; the newer of a unit counts."""
    from lrd_harness.board.training import depth

    for member in family.members:
        scores = [row for row in results.scores if row.key == member.key]
        metrics = [row for row in results.metrics if row.key == member.key]
        numbers = {(row.task, row.layer, "score"): row.score for row in scores}
        for metric in {(row.task, row.metric): row for row in metrics}.values():
            for score, profile in metric.profiles.items():
                for layer, value in zip(profile.layers, profile.values, strict=True):
                    if value is not None:
                        numbers[metric.task, layer, f"{metric.metric}.{score}"] = value
        blocks = next((row.blocks for row in results.models if row.key == member.key), None)
        end = depth(blocks, scores)
        model = (family.stem, member.step, member.key.model, member.key.revision)
        for (task, layer, name), value in numbers.items():
            yield (*model, task, layer, layer / end if end else None, name, value)


def _key(one: Trajectory) -> Column:
    """The column of the steps."""
    unit = one.family.unit
    cells = tuple(plain(_step(member)) for member in one.family.members)
    return Column(("training", unit) if unit else ("revision",), cells, key=True)


def _step(member: Member) -> str:
    return member.label if member.step is None else str(member.step)


def _summary(one: Trajectory, base: bool) -> Sheet:
    best = one.best()
    picks = [pair[0] if pair else None for pair in best]
    columns = [
        _key(one),
        Column(("score ↑", "last"), tuple(map(number, one.last))),
        Column(("best", "layer"), _layers(picks, one.depths)),
        Column(("score ↑", "best"), tuple(number(pair[1] if pair else None) for pair in best)),
    ]
    chosen = {curve.metric: curve for curve in one.curves if curve.choose}
    selected = {held.metric: held for held in one.selected}
    for metric in dict.fromkeys([*selected, *chosen]):
        if metric in selected:
            columns.append(_selected(selected[metric]))
        if metric in chosen:
            curve = chosen[metric]
            score = curve.name.removeprefix(f"{metric}.")
            heading = ("layer by", plain(metric), f"{curve.choose}. {plain(score)}")
            columns.append(Column(heading, _layers(curve.chosen(), one.depths), tied=True))
    filled = [c for c in columns if c.key or any(cell != NONE for cell in c.cells)]
    kind = "Base models: checkpoints" if base else "Checkpoints"
    return Sheet(f"{kind} of {plain(one.family.stem)}", tuple(filled), tuple(_legend(one)))


def _selected(held: Selected) -> Column:
    unit = plain(unit_of(held.metric, held.score))
    heading = (plain(held.metric), f"{plain(held.score)} {ARROW[held.best]}")
    cells = tuple(number(value, "#.4g") for value in held.values)
    return Column((*heading, f"({unit})") if unit else heading, cells)


def _layers(picks: Iterable[int | None], depths: Iterable[int | None]) -> tuple[str, ...]:
    pairs = zip(picks, depths, strict=True)
    return tuple(
        NONE if pick is None else f"{pick}/{depth}" if depth else str(pick) for pick, depth in pairs
    )


def _legend(one: Trajectory) -> list[str]:
    unit = one.family.unit
    order = f"in order of the training {unit}" if unit else "in order of appearance"
    lines = [f"Checkpoints of one model {order}."]
    if any(member.step is None for member in one.family.members) and unit:
        lines[0] += f" Those whose name has no {unit} are last."
    if one.scores.tasks:
        lines.append(
            "score ↑: mean main score over the tasks that all of them have "
            f"({len(one.scores.tasks)}), of the last layer and of the layer that is best in the "
            "mean (an oracle)."
        )
    if one.selected or one.curves:
        lines.append(
            "Metrics: the mean over tasks of the selection score (↑ higher, ↓ lower ranks first), "
            "and the layer where the mean profile is highest (max.) or lowest (min.), chosen "
            "without labels."
        )
    return lines


def _drawn(curve: Curve) -> bool:
    """Whether any member has more than one layer."""
    return any(len(profile.layers) > 1 for profile in curve.profiles)


def _by_depth(one: Trajectory, curve: Curve, named: str, first: bool) -> Sheet:
    """A line a checkpoint: values at five depths, and marks for all layers.

    first: whether the legend says what is the same for all of a family's curves.
    """
    pairs = (zip(own.layers, own.values, strict=True) for own in curve.profiles)
    held = [{layer: v for layer, v in own if v is not None} for own in pairs]
    every = [value for own in held for value in own.values()]
    low, high = min(every), max(every)
    known = [depth for depth in one.depths if depth is not None]
    last = max([*known, *(layer for own in held for layer in own)])
    marks = tuple(spark([own.get(n) for n in range(last + 1)], low, high) for own in held)
    ends = [last if depth is None else depth for depth in one.depths]
    form = "#.4g" if curve.metric else ".4f"
    columns = [
        _key(one),
        *(_at_depth(held, ends, name, form) for name in FRACTIONS),
        Column((f"layers 0-{last}",), marks, "left"),
    ]
    unit = f"training {one.family.unit}" if one.family.unit else "revision"
    thin = f", thinned to {LONGEST}" if last >= LONGEST else ""
    legend = [
        "Values at the layer nearest to that share of the depth that has one. Marks: one a "
        f"layer{thin}, low to high; {GAP}: no value.",
        f"{MARKS[0]} = {low:#.4g} to {MARKS[-1]} = {high:#.4g} in all lines; mean over the tasks "
        f"that all checkpoints have ({len(curve.tasks)}).",
    ]
    title = f"{plain(curve.name)} by {unit} and depth{named}"
    return Sheet(title, tuple(columns), tuple(legend if first else legend[1:]))


def _at_depth(
    held: Sequence[Mapping[int, float]], ends: Sequence[int], name: str, form: str
) -> Column:
    """Each checkpoint's value at a share of its depth; the layer in the heading if it is one."""
    pairs = zip(held, ends, strict=True)
    layers = [nearest(own, end, FRACTIONS[name]) for own, end in pairs]
    used = {layer for layer in layers if layer is not None}
    heading = [f"depth {name}", *([f"layer {min(used)}"] if len(used) == 1 else [])]
    found = zip(held, layers, strict=True)
    cells = (number(None if n is None else own[n], form) for own, n in found)
    return Column(tuple(heading), tuple(cells))
