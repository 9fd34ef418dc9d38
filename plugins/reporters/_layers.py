"""Choosing a layer without labels, in every form: sheets for people, CSV, JSON's part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lrd_harness.store import files

from ._cells import NONE, Column, Sheet, number, plain

if TYPE_CHECKING:
    from lrd_harness.board.layer_choice import Gain, LayerChoice, LayerCorrelation
    from lrd_harness.board.leaderboard import Leaderboard
    from lrd_harness.results.database import Key


Lines = dict[tuple[Any, ...], dict[str, Any]]  # by model, revision, task, layer
ARG = {"max": "argmax", "min": "argmin"}
SIGNED = "+z.2f"  # z: what rounds to nothing is +0.00, not -0.00
CONTROLS = "– controls –"


def choice_sheets(board: Leaderboard) -> list[Sheet]:
    """What choosing a layer gains, and how metrics go with scores over layers."""
    if board.choice is None:
        return []
    of = "Base models: " if board.kind == "base" else ""
    found = []
    if any(gain.n for gain in board.choice.gains):
        title = f"{of}choosing a layer without labels"
        found.append(_gains(title[0].upper() + title[1:], board.choice.gains))
    if any(row.n for row in board.choice.correlations):
        title = f"{of}metrics and scores over layers"
        found.append(_correlations(title[0].upper() + title[1:], board.choice.correlations))
    return found


def choice_document(choice: LayerChoice | None) -> dict[str, Any] | None:
    """The key "layer_choice" of the JSON form: the fields of the rows of choice.py."""
    return asdict(choice) if choice else None


def layers_csv(board: Leaderboard) -> str:
    """One line a model, task and layer; "" where there is no profile and only last layers' scores.

    model, revision, task, layer, depth (layer / blocks), score (the task's main score at that
    layer), METRIC.SCORE (a column a profile; a step's value is in the line of the earlier state),
    picked.METRIC (1 at the layer that the metric chooses in its own direction, among those with a
    score). Tasks of both kinds, one below the other. Empty: none.
    """
    lines: Lines = {}
    columns: dict[str, None] = {}
    picked: dict[str, None] = {}
    sides = [side for side in (board, board.base) if side]
    for side in sides:
        for place, name, value in _values(side):
            lines.setdefault(place, {})[name] = value
            columns[name] = None
        for pick in side.choice.picks if side.choice else ():
            name = f"picked.{pick.metric}"
            lines[pick.model, pick.revision, pick.task, pick.layer][name] = 1
            picked[name] = None
    columns.pop("score", None)
    if not columns and not any(side.choice for side in sides):
        return ""
    head = ("model", "revision", "task", "layer", "depth", "score")
    blocks = {key[:2]: count for side in sides for key, count in _blocks(side).items()}
    tasks = list(dict.fromkeys(place[:3] for place in lines))
    order = {task: i for i, task in enumerate(tasks)}
    rows = []
    for place in sorted(lines, key=lambda place: (order[place[:3]], place[3])):
        count = blocks.get(place[:2])
        depth = place[3] / count if count else None
        rows.append({**dict(zip(head, (*place, depth), strict=False)), **lines[place]})
    return files.written_rows([*head, *columns, *picked], rows)


def _values(board: Leaderboard) -> Iterator[tuple[tuple[Any, ...], str, float]]:
    """Scores and values of the whole models: place, column, number; newer ones behind older."""
    for score in board.results.scores:
        if score.variant == "full":
            yield (*score.key[:2], score.task, score.layer), "score", score.score
    for metric in board.results.metrics:
        for name, profile in metric.profiles.items() if metric.variant == "full" else ():
            for layer, value in zip(profile.layers, profile.values, strict=True):
                if value is not None:
                    place = (*metric.key[:2], metric.task, layer)
                    yield place, f"{metric.metric}.{name}", value


def _blocks(board: Leaderboard) -> dict[Key, int]:
    """L of each model, as its scores have it, else as the model has it."""
    own = {row.info.key: row.info.blocks for row in board.rows if row.info.blocks}
    scored = {row.key: row.layers for row in board.results.scores if row.variant == "full"}
    return own | scored


def _gains(title: str, held: Sequence[Gain]) -> Sheet:
    """Metrics two lines each, then the controls, set off."""
    metrics = [gain for gain in held if gain.kind == "metric"]
    rows: list[Gain | None] = [*metrics]
    rows += [None] if metrics else []
    rows += [gain for gain in held if gain.kind == "control"]

    def column(*heading: str, form: str, field: str, scale: float = 1) -> Column:
        values = ["" if row is None else _scaled(getattr(row, field), scale, form) for row in rows]
        return Column(heading, tuple(values))

    columns = (
        Column(("rule",), tuple(_rule(row) for row in rows), "left", key=True),
        Column(("picks",), tuple(_direction(row) for row in rows), "left"),
        column("mean", "depth", form=".2f", field="depth"),
        column("gain ↑", "(points)", form=SIGNED, field="gain", scale=100),
        column("gained ↑", "(% of n)", form=".0f", field="gained", scale=100),
        column("n", "(pairs)", form="d", field="n"),
    )
    return Sheet(title, columns, tuple(_legend(metrics)))


def _legend(metrics: Sequence[Gain]) -> list[str]:
    lines = [
        "gain: score of the chosen layer less that of the last one, in points (hundredths of the "
        "score; ↑ higher is better, 0 as good as the last layer), mean over n pairs of model and "
        "task; gained: the share of pairs with a gain above 0; depth: chosen layer / blocks.",
    ]
    if metrics:
        lines.append(
            "A metric picks, without labels, the layer where it is highest (argmax) or lowest "
            "(argmin). The first of the two directions is the paper's; reverse: the other one, "
            "shown because signs flip between models. Any scored layer may be picked here, layer 0 "
            "included; the command lrd-harness layer chooses among layers 1 to L."
        )
    if any(not gain.published for gain in metrics):
        lines.append(
            "*: no direction is published for this metric; it is judged by the first, and not "
            "counted in the verdict."
        )
    lines.append(
        "Controls use no metric. first layer: the lowest that was scored; random layer: what a "
        "layer drawn at random is expected to gain; depth d: the scored layer nearest to d x "
        "blocks; honest choice: per model the layer best on a random half of its tasks, scored on "
        "the other half (500 splits); oracle: the best layer of each pair by its own score, the "
        "most that any choice can gain."
    )
    if metrics:
        lines.append(
            "A metric is of use where it beats the fixed depths, the random layer and the honest "
            "choice. Controls are over all pairs, a metric over the n pairs that have it."
        )
    return lines


def _correlations(title: str, rows: Sequence[LayerCorrelation]) -> Sheet:
    columns = (
        Column(("metric",), tuple(_named(row.name, row.score) for row in rows), "left", key=True),
        Column(("Spearman's", "rho (mean)"), tuple(number(r.spearman, SIGNED) for r in rows)),
        Column(("|rho|", "(mean)"), tuple(number(row.absolute, ".2f") for row in rows)),
        Column(("rho > 0", "(% of n)"), tuple(_scaled(r.positive, 100, ".0f") for r in rows)),
        Column(("distance", "correlation"), tuple(number(r.distance, SIGNED) for r in rows)),
        Column(("n", "(pairs)"), tuple(str(row.n) for row in rows)),
    )
    legend = (
        "Over the layers of one model on one task, a metric's value against the score; means over "
        "the n pairs of model and task with at least 4 layers. A metric that picks by argmin needs "
        "a negative rho. distance correlation: bias-corrected, of squares; about 0 where "
        "independent, 1 at most; it also sees what is not monotone.",
        "depth alone: the layer's number in place of a metric. random walks: 1,000 pairs of "
        "independent random walks of the same lengths. Neighbouring layers are alike, so that any "
        "two curves over them correlate: a metric says something where its |rho| and its distance "
        "correlation exceed both lines.",
    )
    return Sheet(title, columns, legend)


def _rule(gain: Gain | None) -> str:
    return CONTROLS if gain is None else _named(gain.rule, gain.score)


def _direction(gain: Gain | None) -> str:
    if gain is None:
        return ""
    if gain.best is None:
        return NONE
    mark = "" if gain.published else "*"
    return f"{ARG[gain.best]}{mark}" + ("" if gain.first else ", reverse")


def _named(metric: str, score: str | None) -> str:
    """The metric, with its profile where that is called otherwise."""
    return plain(metric if score in (None, metric) else f"{metric}.{score}")


def _scaled(value: float | None, scale: float, form: str) -> str:
    return number(None if value is None else scale * value, form)
