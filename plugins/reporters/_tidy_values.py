"""Every value of the results as a row of its own, for data frames."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ._ranking import unit_of

if TYPE_CHECKING:
    from lrd_harness.results.database import Key, MetricRow, ModelRow, Results, ScoreRow


# Name -> type. model .. max_length are of the model, of a pruned one the whole model's.
# kind: "score" (a task's main score), "subscore" (its further ones), "metric" (a value of a model),
# "profile" (a value of a layer), "table" (one of several values of a layer, `place` its number
# from 0), "capture" (counters of the forward passes of one call, `place` which of the calls that
# the model took part in, from 0), "variant" (what is left of a pruned model),
# "pruning" (a rule's choice: value is the budget, text the blocks that go), "undefined" and "error"
# (why there is no value: text).
# source: the task's evaluator ("task"), the metric or the rule; name: the score's or value's.
# layer: of L + 1 states, as they are counted in the tables; depth: layer / L. n: texts it was
# measured on; none for scores, as results do not record how many a task has. unit: of scores
# ("0-1"; none where any lies above 1), of a metric's selection score where the metric says it, of
# budgets, counters, sizes and times; of other values of metrics, profiles and tables none is known.
# best: which is better, "max" or "min". stderr, chance: of a score.
COLUMNS: Mapping[str, type] = {
    **dict.fromkeys(("model", "revision", "variant", "family"), str),
    **dict.fromkeys(("parameters", "blocks", "width"), int),
    **dict.fromkeys(("pooling", "adapter", "released"), str),
    "max_length": int,
    **dict.fromkeys(("task", "task_type", "kind", "source", "name"), str),
    "layer": int,
    "depth": float,
    "place": int,
    "value": float,
    "n": int,
    "unit": str,
    "best": str,
    "stderr": float,
    "chance": float,
    "seconds": float,
    "version": str,
    "parameters_of_metric": str,
    "text": str,
}
OF_MODEL = (
    "family",
    "parameters",
    "blocks",
    "width",
    "pooling",
    "adapter",
    "released",
    "max_length",
)
Line = dict[str, Any]


def value_rows(results: Results) -> Iterator[Line]:
    """All of them: scores, metrics, then what belongs to models, and why values are missing."""
    models = {row.key: row for row in results.models}
    blocks = {key: row.blocks for key, row in models.items()}
    blocks |= {row.key: row.layers for row in results.scores}  # a pruned model has fewer
    for line in _lines(results):
        key = line.pop("key")
        layer, last = line.get("layer"), blocks.get(key)
        if layer is not None and last:
            line["depth"] = layer / last
        row = models.get(key) or models.get(key._replace(variant="full"))
        yield {**_of_model(key, row), **line}


def _of_model(key: Key, row: ModelRow | None) -> Line:
    return {**key._asdict(), **({name: getattr(row, name) for name in OF_MODEL} if row else {})}


def _lines(results: Results) -> Iterator[Line]:
    unit = None if any(score.score > 1 for score in results.scores) else "0-1"
    for score in results.scores:
        yield from _score(score, unit)
    for metric in results.metrics:
        yield from _metric(metric)
    yield from _of_models(results)
    for pruning in results.prunings:
        yield {
            "key": pruning.key,
            "kind": "pruning",
            "source": pruning.rule,
            "name": "budget" if pruning.seed is None else f"budget, seed {pruning.seed}",
            "value": pruning.budget,
            "unit": "0-1",
            "n": pruning.n,
            "version": pruning.version,
            "text": " ".join(map(str, pruning.removed)),
        }
    for undefined in results.undefined:
        where = {"task": undefined.task, "layer": undefined.layer, "text": undefined.error}
        yield {"key": undefined.key, "kind": "undefined", **where}
    for error in results.errors:
        where = {"task": error.task, "layer": error.layer, "source": error.metric or error.rule}
        yield {"key": error.key, "kind": "error", **where, "text": error.error}


def _score(row: ScoreRow, unit: str | None) -> Iterator[Line]:
    place = {"task": row.task, "task_type": row.task_type, "layer": row.layer, "source": "task"}
    yield {
        **place,
        "key": row.key,
        "kind": "score",
        "name": row.score_name,
        "value": row.score,
        "unit": unit,
        "best": "max",
        "stderr": row.stderr,
        "chance": row.chance,
        "seconds": row.seconds,
    }
    for name, value in row.scores.items():
        yield {**place, "key": row.key, "kind": "subscore", "name": name, "value": value}


def _metric(row: MetricRow) -> Iterator[Line]:
    """Missing values of a profile are left out."""
    common = {
        "key": row.key,
        "task": row.task,
        "task_type": row.task_type,
        "source": row.metric,
        "n": row.n,
        "seconds": row.seconds,
        "version": row.version,
        "parameters_of_metric": json.dumps(row.parameters, sort_keys=True, default=str),
    }
    for name, value in row.values.items():
        best, unit = _best(row.selection, name), unit_of(row.metric, name)
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


def _of_models(results: Results) -> Iterator[Line]:
    """Counters of the forward passes, and sizes and times of pruned models."""
    counters = ("texts", "forwarded", "tokens", "truncated", "empty", "duplicates", "seconds")
    calls: Counter[Key] = Counter()
    for capture in results.captures:
        for name in counters:
            unit = name if name in ("tokens", "seconds") else "texts"
            line = _of(capture.key, "capture", name, getattr(capture, name), unit)
            yield {**line, "place": calls[capture.key]}
        calls[capture.key] += 1
    sizes = ("parameters", "parameters_full", "latency", "latency_full")
    for variant in results.variants:
        for name in sizes:
            unit = "seconds" if name.startswith("latency") else "parameters"
            value = getattr(variant, name)
            if value is not None:
                yield _of(variant.key, "variant", name, value, unit)


def _of(key: Key, kind: str, name: str, value: float, unit: str) -> Line:
    return {"key": key, "kind": kind, "name": name, "value": float(value), "unit": unit}
