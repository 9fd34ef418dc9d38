"""Everything recorded, one value per row, for programs: what data frames are made of."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lrd_harness import manager
from lrd_harness.report import Column, Table
from lrd_harness.results.rows import ErrorRow, Key, MetricRow, Results, ScoreRow

# model .. max_length are of the model, of a pruned one the whole model's.
# kind: "score" (a task's main score), "subscore", "metric" (a value of a model), "profile" (a value
# of a layer), "table" (one of several values of a layer, `place` its number from 0), "capture"
# (counters of the forward passes of one call, `place` which of the model's calls), "variant" (what
# is left of a pruned model), "pruning" (a rule's choice: value is the budget, text the blocks that
# go), "undefined" and "error" (why there is no value: text).
# source: the task's evaluator ("task"), the metric or the rule. depth: layer / L. n: texts it was
# measured on. unit: "" or none where none is known. best: which is better, "max" or "min".
OF_MODEL = "family parameters blocks width pooling adapter released max_length".split()
COLUMNS = (
    *("model", "revision", "variant"),
    *OF_MODEL,
    *"task task_type kind source name layer depth place value n unit best stderr chance".split(),
    *("seconds", "version", "parameters_of_metric", "text"),
)
ERRORS = "model revision variant task layer metric rule error".split()
COUNTERS = "texts forwarded tokens truncated empty duplicates seconds".split()
SIZES = "parameters parameters_full latency latency_full".split()
Line = dict[str, Any]


def values_table(sides: Sequence[Results]) -> Table:
    """Scores, metrics, what belongs to models, and why values are missing."""
    columns = tuple(Column(name, key=name in ("model", "task", "name")) for name in COLUMNS)
    rows = [line for results in sides for line in _lines(results)]
    return Table("values", "Every value", columns, rows, shown=False)


def errors_table(errors: Sequence[ErrorRow]) -> Table:
    """What failed, and where."""
    rows = [{name: getattr(error, name) for name in ERRORS} for error in errors]
    return Table("errors", "Errors", tuple(map(Column, ERRORS)), rows, shown=False)


def error_line(error: ErrorRow) -> str:
    """Where an error happened and what it was, in one line."""
    place = [error.model]
    place += [error.variant] if error.variant != "full" else []
    place += [f"rule {error.rule}"] if error.rule else []
    place += [error.task] if error.task else []
    place += [f"layer {error.layer}"] if error.layer is not None else []
    place += [error.metric] if error.metric else []
    return f"{' · '.join(place)}: {error.error}"


@functools.cache
def units() -> dict[tuple[str, str], str]:
    """The units of the selection scores of the metrics that are here."""
    known = manager.load(kinds=["metric"]).all("metric")
    return {(m.name, m.selection.score): m.unit for m in known if m.selection is not None}


def _lines(results: Results) -> Iterator[Line]:
    models = {row.key: row for row in results.models}
    blocks: dict[Key, int | None] = {key: row.blocks for key, row in models.items()}
    blocks |= {row.key: row.layers for row in results.scores}  # a pruned model has fewer
    for key, line in _of_results(results):
        layer, last = line.get("layer"), blocks.get(key)
        if layer is not None and last:
            line["depth"] = layer / last
        row = models.get(key) or models.get(key._replace(variant="full"))
        of_model = {name: getattr(row, name) for name in OF_MODEL} if row else {}
        yield {**key._asdict(), **of_model, **line}


def _of_results(results: Results) -> Iterator[tuple[Key, Line]]:
    unit = None if any(score.score > 1 for score in results.scores) else "0-1"
    for score in results.scores:
        yield from ((score.key, line) for line in _score(score, unit))
    known = units()
    for metric in results.metrics:
        yield from ((metric.key, line) for line in _metric(metric, known))
    yield from _of_models(results)
    for row in results.prunings:
        name = "budget" if row.seed is None else f"budget, seed {row.seed}"
        line = {"kind": "pruning", "source": row.rule, "name": name, "value": row.budget}
        text = " ".join(map(str, row.removed))
        more = {"unit": "0-1", "n": row.n, "version": row.version, "text": text}
        yield row.key, {**line, **more}
    for gap in results.undefined:
        where = {"task": gap.task, "layer": gap.layer, "text": gap.error}
        yield gap.key, {"kind": "undefined", **where}
    for error in results.errors:
        where = {"task": error.task, "layer": error.layer, "source": error.metric or error.rule}
        yield error.key, {"kind": "error", **where, "text": error.error}


def _score(row: ScoreRow, unit: str | None) -> Iterator[Line]:
    place = {"task": row.task, "task_type": row.task_type, "layer": row.layer, "source": "task"}
    main = {"name": row.score_name, "value": row.score, "unit": unit, "best": "max"}
    more = {"stderr": row.stderr, "chance": row.chance, "seconds": row.seconds}
    yield {**place, "kind": "score", **main, **more}
    for name, value in row.scores.items():
        yield {**place, "kind": "subscore", "name": name, "value": value}


def _metric(row: MetricRow, known: Mapping[tuple[str, str], str]) -> Iterator[Line]:
    """Missing values of a profile are left out."""
    common = {name: getattr(row, name) for name in ("task", "task_type", "n", "seconds", "version")}
    parameters = json.dumps(row.parameters, sort_keys=True, default=str)
    common |= {"source": row.metric, "parameters_of_metric": parameters}
    for name, value in row.values.items():
        best, unit = _best(row.selection, name), known.get((row.metric, name), "")
        whole = {"name": name, "value": value, "unit": unit, "best": best}
        yield {**common, "kind": "metric", **whole}
    for name, profile in row.profiles.items():
        one = {**common, "kind": "profile", "name": name, "best": _best(row.layer_choice, name)}
        for layer, found in zip(profile.layers, profile.values, strict=True):
            if found is not None:
                yield {**one, "layer": layer, "value": found}
    for name, table in row.tables.items():
        for layer, numbers in zip(table.layers, table.rows, strict=True):
            for place, number in enumerate(numbers):
                one = {"name": name, "layer": layer, "place": place, "value": number}
                yield {**common, "kind": "table", **one}


def _best(choice: tuple[str, str] | None, name: str) -> str | None:
    return choice[1] if choice is not None and choice[0] == name else None


def _of_models(results: Results) -> Iterator[tuple[Key, Line]]:
    """Counters of the forward passes, and sizes and times of pruned models."""
    calls: Counter[Key] = Counter()
    for capture in results.captures:
        for name in COUNTERS:
            unit = name if name in ("tokens", "seconds") else "texts"
            line = _of("capture", name, getattr(capture, name), unit)
            yield capture.key, {**line, "place": calls[capture.key]}
        calls[capture.key] += 1
    for variant in results.variants:
        for name in SIZES:
            unit = "seconds" if name.startswith("latency") else "parameters"
            value = getattr(variant, name)
            if value is not None:
                yield variant.key, _of("variant", name, value, unit)


def _of(kind: str, name: str, value: float, unit: str) -> Line:
    return {"kind": kind, "name": name, "value": float(value), "unit": unit}
