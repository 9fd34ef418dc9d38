"""Everything recorded, one value per row, for programs: what data frames are made of."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from lrd_harness import manager
from lrd_harness.board.layers import last_layers
from lrd_harness.report import Column, Table, inputs
from lrd_harness.results.rows import ErrorRow, Key, Kind, Results, Row

# model .. max_length are of the model, of a pruned one the whole model's.
# kind: "score" (a task's main score), "subscore", "metric" (a value of a model), "profile" (a value
# of a layer, `of` "blocks" where that is of the block that writes it), "table" (one of several
# values of a layer, `place` its number from 0), the same behind "control " of metrics that use
# labels, "pair" (a value of a model beside `other`, by panel metrics), "capture"
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
    *("seconds", "version", "parameters_of_metric", "text", "of", "other"),
)
ERRORS = "model revision variant task layer metric rule error".split()
COUNTERS = "texts forwarded tokens truncated empty duplicates seconds".split()
SIZES = "parameters parameters_full latency latency_full".split()
Line = dict[str, Any]
Value = tuple[Key, str, Line]  # model, kind, the other cells


def values_table(sides: Mapping[Kind, Results]) -> Table:
    """Scores, metrics, what belongs to models, and why values are missing."""
    columns = tuple(Column(name, key=name in ("model", "task", "name")) for name in COLUMNS)
    rows = [line for kind, results in sides.items() for line in _lines(results, kind)]
    return Table("values", "Every value", columns, rows, shown=False)


def errors_table(errors: Sequence[ErrorRow]) -> Table:
    """What failed, and where."""
    rows = [_some(error, *ERRORS) for error in errors]
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
    plugins = manager.load()
    known = plugins.all("metric") + plugins.all("panel metric")
    return {(m.name, m.selection.score): m.unit for m in known if m.selection is not None}


def _lines(results: Results, board: Kind) -> Iterator[Line]:
    models, last = {row.key: row for row in results.models}, last_layers(results)
    of_models = _of_models(results, inputs(board))
    walks = (_of_scores(results), _of_metrics(results), of_models, _missing(results))
    for key, kind, cells in chain(*walks):
        line = {**key._asdict(), "kind": kind} | cells
        if row := models.get(key) or models.get(key._replace(variant="full")):
            line |= _some(row, *OF_MODEL)
        if (layer := cells.get("layer")) is not None and last.get(key):
            line["depth"] = layer / last[key]
        yield line


def _some(row: Row, *names: str) -> Line:
    return {name: getattr(row, name) for name in names}


def _of_scores(results: Results) -> Iterator[Value]:
    unit = None if any(row.score > 1 for row in results.scores) else "0-1"
    for row in results.scores:
        place = {**_some(row, "task", "task_type", "layer"), "source": "task"}
        main = {"name": row.score_name, "value": row.score, "unit": unit, "best": "max"}
        yield row.key, "score", place | main | _some(row, "stderr", "chance", "seconds")
        for name, value in row.scores.items():
            yield row.key, "subscore", {**place, "name": name, "value": value}


def _of_metrics(results: Results) -> Iterator[Value]:
    """Missing values of a profile are left out."""
    known = units()
    for row in results.metrics:
        common = _some(row, "task", "task_type", "n", "seconds", "version")
        parameters = json.dumps(row.parameters, sort_keys=True, default=str)
        common |= {"source": row.metric, "parameters_of_metric": parameters}
        of = "control " * row.control
        for name, value in row.values.items():
            of_score = {
                "unit": known.get((row.metric, name), ""),
                "best": _best(row.selection, name),
            }
            yield row.key, f"{of}metric", {**common, "name": name, "value": value, **of_score}
        for name, profile in row.profiles.items():
            of_profile = {**common, "name": name, "best": _best(row.layer_choice, name)}
            of_profile["of"] = profile.of or None
            for layer, of_layer in zip(profile.layers, profile.values, strict=True):
                if of_layer is not None:
                    yield row.key, f"{of}profile", {**of_profile, "layer": layer, "value": of_layer}
        for name, table in row.tables.items():
            for layer, numbers in zip(table.layers, table.rows, strict=True):
                for place, number in enumerate(numbers):
                    cells = {"name": name, "layer": layer, "place": place, "value": number}
                    yield row.key, f"{of}table", common | cells
        for name, others in (row.pairs or {}).items():
            for other, value in others.items():
                yield row.key, "pair", {**common, "name": name, "value": value, "other": other}


def _best(choice: tuple[str, str] | None, name: str) -> str | None:
    return choice[1] if choice is not None and choice[0] == name else None


def _of_models(results: Results, unit_of_passes: str) -> Iterator[Value]:
    """Counters of the forward passes, sizes and times of pruned models, and what was removed."""
    calls: Counter[Key] = Counter()
    for row in results.captures:
        for name in COUNTERS:
            unit = name if name in ("tokens", "seconds") else unit_of_passes
            cells = {"name": name, "value": float(getattr(row, name)), "unit": unit}
            yield row.key, "capture", {**cells, "place": calls[row.key]}
        calls[row.key] += 1
    for variant in results.variants:
        for name, value in _some(variant, *SIZES).items():
            unit = "seconds" if name.startswith("latency") else "parameters"
            if value is not None:
                yield variant.key, "variant", {"name": name, "value": float(value), "unit": unit}
    for choice in results.prunings:
        name = "budget" if choice.seed is None else f"budget, seed {choice.seed}"
        cells = {"source": choice.rule, "name": name, "value": choice.budget, "unit": "0-1"}
        cells |= {**_some(choice, "n", "version"), "text": " ".join(map(str, choice.removed))}
        yield choice.key, "pruning", cells


def _missing(results: Results) -> Iterator[Value]:
    for gap in results.undefined:
        yield gap.key, "undefined", {**_some(gap, "task", "layer"), "text": gap.error}
    for error in results.errors:
        place = {**_some(error, "task", "layer"), "source": error.metric or error.rule}
        yield error.key, "error", {**place, "text": error.error}
