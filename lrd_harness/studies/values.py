"""Metrics on one model's own texts: on all of them, on random halves, and kept in files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from math import isfinite
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np

from lrd_harness.capture.embeddings import Embeddings
from lrd_harness.capture.halves import Rows, half, in_memory, statistic
from lrd_harness.capture.layers import StoredStates, planes
from lrd_harness.capture.samples import Questions, Sampling
from lrd_harness.contracts import Metric, Model, Task
from lrd_harness.errors import DRAWS, UnitError, UserError, check_whole
from lrd_harness.measuring import MIN_TEXTS, PlannedMetric
from lrd_harness.models.wheels import shown_by
from lrd_harness.planning.models import PlannedModel
from lrd_harness.progress import Display
from lrd_harness.report import Report, Table
from lrd_harness.scores import Scores, split_scores
from lrd_harness.store import location
from lrd_harness.store.documents import json_value, read_file
from lrd_harness.store.files import full, write_text
from lrd_harness.store.tables import written

MOST_ROWS = 40  # layers that a table shows at most
MANY = 200  # texts from which on intervals of all metrics hold, see `interval`
MOST_DRAWS = 100  # half-samples that are drawn without being asked for
LEAST = 2 * MIN_TEXTS  # texts of which a half is still a sample
Z = 1.96  # standard deviations on either side of an interval of 95 %
MADE_BY = "made_by"  # says in a JSON file of a command: "lrd-harness NAME"
DIRECTIONS = (
    "One row per layer, 0 being what enters the first block; a step between layers has the number "
    "of the first. ↓, ↑: the least, the greatest value chooses a layer."
)
T = TypeVar("T")


def fault(error: Exception, metric: str | None = None) -> str:
    """An error in one line, its kind first where that says something.

    metric: the one that it is shown behind, whose name then need not begin it again.
    Raises StorageFull where a full disk is behind it, which is no fault of a model or a metric.
    """
    if no_space := full(error):
        raise no_space from error
    text = next(iter(str(error).splitlines()), "")
    if metric is not None:
        text = text.removeprefix(f"{metric}: ").removeprefix(f"{metric} ")
    plain = isinstance(error, UserError) and text
    return text if plain else ": ".join(filter(None, [type(error).__name__, text]))


@dataclass(frozen=True)
class LayerScore:
    """A per-layer score of a metric. best: which of its values chooses a layer, if it does."""

    metric: str
    name: str
    best: Literal["max", "min"] | None
    values: Mapping[int, float | None]  # by layer

    @property
    def title(self) -> str:
        """How it is called above its table, with the direction of the better value."""
        name = self.metric if self.name == self.metric else f"{self.metric}.{self.name}"
        return name + {"min": " ↓", "max": " ↑", None: ""}[self.best]


def layer_score(metric: Metric, scores: Scores) -> LayerScore:
    """The score by which the metric chooses a layer, else its first per-layer score.

    Raises UnitError for a metric that gave none.
    """
    profiles, choice = split_scores(scores).profiles, metric.layer_choice
    name = choice.score if choice else next(iter(profiles), None)
    if name is None:
        raise UnitError(f"{metric.name} has no score for single layers")
    if name not in profiles:
        raise UnitError(f"{metric.name} gave no score {name}, which chooses a layer")
    profile = profiles[name]
    values = dict(zip(profile["layers"], profile["values"], strict=True))
    return LayerScore(metric.name, name, choice.best if choice else None, values)


def spaced(layers: Sequence[int]) -> list[int]:
    """All layers, or of many, evenly spaced ones with the first and the last."""
    if len(layers) <= MOST_ROWS:
        return list(layers)
    step = (len(layers) - 1) / (MOST_ROWS - 1)
    return [layers[round(i * step)] for i in range(MOST_ROWS)]


def captioned(tables: Sequence[Table], caption: Sequence[str]) -> list[Table]:
    """The tables, what is to be said of all of them below the last one."""
    return [*tables[:-1], *(replace(table, caption=tuple(caption)) for table in tables[-1:])]


def check_draws(draws: int) -> None:
    """Raise UserError for a number of draws that no interval can be made of."""
    check_whole(draws, "--draws", 0, DRAWS)
    if draws == 1:
        raise UserError("1 draws: intervals need at least 2 (0: no intervals)")


def halves(n: int, draws: int, seed: int = 0, unit: str = "texts") -> list[Rows]:
    """`draws` halves of n texts: ascending numbers (n // 2,). Half i depends on (seed, i) only.

    Raises UserError for fewer than 16, called by `unit`, and for 1 draw, which has no spread.
    """
    check_draws(draws)
    if draws and n < LEAST:
        least = f"at least {LEAST} {unit}, got {n}"
        raise UserError(f"intervals need {least}: give more, or --draws 0")
    return [half(n, draw, seed) for draw in range(draws)]


def interval(value: float, drawn: Sequence[float | None], n: int) -> tuple[float, float] | None:
    """The 95 % interval about a statistic of n texts, `drawn` being its values on halves.

    By the delete-half jackknife (Shao and Wu 1989): the variance of these values about their own
    mean, times h / (n - h) for halves of h texts, is that of the statistic. Copies of a text, which
    drawing with replacement makes, would break neighbours and singular values. It is exact for
    means over texts; on Gaussian states of width 64, intervals of effective_rank and nrs were 0.5
    and 1.7 times as wide as they should be at 50 texts, those of all metrics within 25 % at 200.
    NaN or None stands for a half on which it has none; None where fewer than half of them have one.
    """
    values = np.asarray(drawn, dtype=np.float64)
    known = values[np.isfinite(values)]
    if len(known) < max(2, len(values) / 2):
        return None
    half = n // 2
    reach = Z * float(known.std()) * float(np.sqrt(half / (n - half)))
    return value - reach, value + reach


@dataclass(frozen=True)
class Design:
    """What is measured: metrics, on which texts, on how many half-samples.

    sampling: norm and device, and texts that get views; batch_tokens: padding included.
    draws: None for as many as there is time for, at most MOST_DRAWS.
    """

    task: Task
    items: Sequence[PlannedMetric]
    questions: Questions
    sampling: Sampling
    draws: int | None
    seed: int
    batch_tokens: int

    @property
    def unit(self) -> str:
        """What the texts are: "texts" or "images"."""
        return f"{self.task.modality}s"

    @cached_property
    def texts(self) -> int:
        """How many texts there are."""
        return len(self.questions.sample(self.task))

    @cached_property
    def halves(self) -> list[Rows]:
        """The half-samples, the same for all models. Raises UserError as `halves` does."""
        draws = MOST_DRAWS if self.draws is None else self.draws
        return halves(self.texts, draws, self.seed, self.unit)

    def check(self, what: str) -> None:
        """Raise UserError for too few texts to do it or to draw halves of, before models are read.

        what: is done with at least 8 texts, as "a comparison needs".
        """
        if self.texts < MIN_TEXTS:
            raise UserError(f"{what} at least {MIN_TEXTS} {self.unit}, got {self.texts}")
        _ = self.halves

    @cached_property
    def held(self) -> Callable[[StoredStates], list[np.ndarray]]:
        """Reads the states of all layers into memory, as each half is measured on some of them.

        Those of one model stay there, the pooled ones and those of views.
        """
        return lru_cache(maxsize=2)(in_memory)

    @property
    def facts(self) -> dict[str, Any]:
        """What a file says of it."""
        return {
            "task": self.task.name,
            "texts": self.texts,
            "draws": self.draws,
            "seed": self.seed,
            "norm": self.sampling.norm,
            "metrics": [
                {"name": i.metric.name, "version": i.metric.version, "parameters": i.written}
                | ({"norm": i.metric.norm} if i.metric.norm else {})
                for i in self.items
            ],
        }


@dataclass(frozen=True)
class Measurement(Generic[T]):
    """What was taken of a metric's scores: on all n texts, and on each half (None: no value)."""

    whole: T
    n: int
    halves: Sequence[T | None]


def on_halves(
    statistic: Callable[[Rows | None], tuple[Scores, int]],
    take: Callable[[Scores], T],
    drawn: Sequence[Rows],
    advance: Callable[[int, int | None], None] = lambda done, total: None,
) -> Measurement[T]:
    """What `take` makes of the scores of all texts, whose fault is raised, and of each half."""
    scores, n = statistic(None)
    whole = take(scores)
    parts: list[T | None] = []
    for done, rows in enumerate(drawn):
        advance(done, len(drawn))
        try:
            parts.append(take(statistic(rows)[0]))
        except Exception as error:  # as too few texts with enough tokens in this half
            fault(error)  # but a full disk ends it
            parts.append(None)
    advance(len(drawn), len(drawn))
    return Measurement(whole, n, parts)


def opened(planned: PlannedModel, display: Display) -> Model:
    """The model, opened. Raises UserError where it cannot be."""
    with display.stage(f"{planned.name}: opening") as advance, shown_by(lambda _: advance):
        return planned.open()


class Sample:
    """The texts of a design, read once by an opened model; without metrics, not read.

    name: the model's, for progress.
    """

    def __init__(self, name: str, model: Model, design: Design, display: Display) -> None:
        self.name, self._design, self._display = name, design, display
        self._reading = Embeddings(model, design.questions, design.batch_tokens, design.sampling)
        self.texts, task = self._reading.sample(design.task), design.task
        if design.items:
            with display.stage(f"{name}: reading all layers", design.unit) as advance:
                self._reading.capture({task: self.texts}, advance, {task: design.items})
        chosen = planes(model, design.sampling.norm)
        self.states = StoredStates(self._reading.store, self.texts, chosen)

    def measure(self, item: PlannedMetric) -> tuple[Scores, int]:
        """A metric's scores on all texts, and the number of texts they are of."""
        with self._display.stage(f"{self.name}: {item.metric.name}"):
            labels = partial(self._design.questions.labels, self._design.task)
            return self._reading.samples.measure(item, self.texts, labels)

    def measured(
        self, take: Callable[[Metric, Scores], T]
    ) -> tuple[dict[str, Measurement[T]], dict[str, str]]:
        """By metric what was measured, and by metric what went wrong, which costs its values."""
        measurements, faults = {}, {}
        for item in self._design.items:
            name, taken = item.metric.name, partial(take, item.metric)
            try:
                with self._display.stage(f"{self.name}: {name}, half-samples", "draws") as advance:
                    statistic = self.statistic(item)
                    measurements[name] = on_halves(statistic, taken, self._design.halves, advance)
            except Exception as error:
                faults[name] = fault(error)
        return measurements, faults

    def statistic(self, item: PlannedMetric) -> Callable[[Rows | None], tuple[Scores, int]]:
        """A metric as a function of which texts it is measured on; None: all.

        It needs the states alone: the model may go.
        """
        labels = partial(self._design.questions.labels, self._design.task)
        how = self._design.held, self.states
        return statistic(self._reading.samples, item, self.texts, labels, *how)


def check_free(folder: Path, name: str, columns: Sequence[str]) -> None:
    """Raise UserError where NAME.csv and NAME.json cannot be written, or are somebody else's.

    Files of the same command are written over.
    """
    if not folder.is_dir() and (folder.exists() or folder.is_symlink()):
        raise UserError(f"{folder} is a file, not a folder")
    for path in (folder / f"{name}.csv", folder / f"{name}.json"):
        if (path.exists() or path.is_symlink()) and not _is_ours(path, name, columns):
            raise UserError(f"{path} is there already and was not made by lrd-harness {name}")


def _is_ours(path: Path, name: str, columns: Sequence[str]) -> bool:
    try:
        if path.suffix == ".csv":
            with path.open(encoding="utf-8") as file:
                return file.readline().rstrip("\n") == ",".join(columns)
        document = json_value(read_file(path))
    except (OSError, UserError, ValueError):
        return False
    return isinstance(document, dict) and document.get(MADE_BY) == f"lrd-harness {name}"


def write(folder: Path, name: str, report: Report) -> None:
    """NAME.csv, the report's table of that name; NAME.json, its facts with the rows as `values`.

    Paths in the `errors` of the facts are cut to names. Raises UserError where the folder cannot
    be written to.
    """
    table = report.table(name)
    names = [column.name for column in table.columns]
    errors = [_portable(error) for error in report.facts.get("errors", ())]
    values = [{column: row.get(column) for column in names} for row in table.rows]
    whole = {MADE_BY: f"lrd-harness {name}", **report.facts, "errors": errors, "values": values}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / f"{name}.csv", written(names, ([*row.values()] for row in values)))
        text = json.dumps(_finite(whole), indent=1, ensure_ascii=False, default=str)
        write_text(folder / f"{name}.json", text + "\n")
    except OSError as error:
        raise UserError(f"{folder} cannot be written to ({error.strerror})") from None


def _finite(value: Any) -> Any:
    """What JSON can hold: of numbers that are not finite, as perplexities may be, their names."""
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not isfinite(value) else value


def _portable(error: Any) -> Any:
    """An error, a text or fields of one, without folders."""
    if isinstance(error, Mapping):
        return {name: _portable(value) for name, value in error.items()}
    return location.text(error) if isinstance(error, str) else error
