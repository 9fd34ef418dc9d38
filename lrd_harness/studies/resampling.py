"""A metric's score on all texts and on halves of them, kept so that an interrupted study goes on.

What was measured lies in the store of states, beside the states that it was measured on: under all
that it depends on, so that it is used for nothing else, and it is looked after with them.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import sysconfig
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, resolve_name
from pathlib import Path
from typing import NamedTuple

import numpy as np

import lrd_harness
from lrd_harness.capture.halves import Rows
from lrd_harness.contracts import Metric, Text
from lrd_harness.measuring import PlannedMetric
from lrd_harness.scores import Scores
from lrd_harness.store import location
from lrd_harness.store.store import Plane, Store, text_key
from lrd_harness.studies.values import Design, Measurement, fault

LIBRARIES = {*map(sysconfig.get_path, ("stdlib", "purelib", "platlib"))}
MEASURED: Plane = ("measured", 0)  # (rows, numbers) float64
WHOLE = "all texts"  # the name of their row; halves go by their number and seed
PILOT, ENOUGH = 3, 1.0  # halves that say how long one takes, or as many as take so many seconds
FLUSH = 20.0  # seconds of measuring that are lost at most when a study is killed


class Kept:
    """Rows of numbers by name, in the cache.

    identity: of the model; about: all else that they depend on. Raises StorageFull, OSError.
    """

    def __init__(self, identity: Mapping[str, str], about: Mapping[str, str]) -> None:
        self._store = Store(location.cache_dir() / "states", {**identity, **about})

    def read(self, names: Iterable[str]) -> dict[str, tuple[float, ...]]:
        """Those of the rows that are there."""
        texts = {Text(name): name for name in names}
        there = list(texts.keys() - set(self._store.missing(list(texts))))
        rows = self._store.read(there, MEASURED).tolist()
        return {texts[text]: tuple(row) for text, row in zip(there, rows, strict=True)}

    def write(self, rows: Mapping[str, Sequence[float]]) -> None:
        """Keep these rows."""
        if rows:
            values = np.array(list(rows.values()), dtype=np.float64)
            self._store.write([Text(name) for name in rows], {MEASURED: values})


def digest(texts: Iterable[Text]) -> str:
    """A checksum of texts under their prompts, in their order."""
    return hashlib.sha256("".join(map(text_key, texts)).encode()).hexdigest()[:32]


def code(metric: Metric) -> str | None:
    """A checksum of what computes a metric: of its file, or of all files of its package, and of the
    modules that these import, but for this package's and installed ones, which have a version.

    None where it has no file of its own or depends on what was around it when it was made.
    """
    files: set[Path] = set()
    for function in filter(None, (metric.measure, metric.finish)):
        function = inspect.unwrap(function)
        if not inspect.isfunction(function) or function.__closure__:
            return None
        try:
            file = Path(inspect.getsourcefile(function) or "")
            package = (file.parent / "__init__.py").is_file()
            for part in sorted(file.parent.glob("*.py")) if package else [file]:
                _add(part, function.__module__.rpartition(".")[0], files)
        except (OSError, TypeError, SyntaxError):
            return None
    content = hashlib.sha256(lrd_harness.__version__.encode())
    for part in sorted(files):
        content.update(part.read_bytes())
    return content.hexdigest()[:32]


def _add(file: Path, package: str, files: set[Path]) -> None:
    """Add a file of a package, and those of the modules that it imports which have no version."""
    if file in files:
        return
    files.add(file)
    for node in ast.walk(ast.parse(file.read_bytes())):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            dot = "" if base.endswith(".") else "."
            modules = [base, *(f"{base}{dot}{alias.name}" for alias in node.names)]
        for module in modules:
            with suppress(ImportError, ValueError, AttributeError):  # what is no module
                name = resolve_name(module, package)
                top = name.partition(".")[0]
                if top == "lrd_harness" or _versioned(find_spec(top)):  # which imports nothing
                    continue
                if (spec := find_spec(name)) and str(spec.origin).endswith(".py"):
                    _add(Path(str(spec.origin)), spec.parent or "", files)


def _versioned(module: ModuleSpec | None) -> bool:
    """Whether it is Python's or of an installed package, and so is of a version; also if absent."""
    if module is None or module.origin in ("built-in", "frozen"):
        return True
    place = Path(module.origin or next(iter(module.submodule_search_locations or ()), ""))
    return any(map(place.is_relative_to, LIBRARIES))


def kept_scores(
    identity: Mapping[str, str], item: PlannedMetric, design: Design, texts: Sequence[Text]
) -> Kept | None:
    """Where the scores of a metric on these texts are kept; None where its code is not known."""
    metric, checksum = item.metric, code(item.metric)
    if checksum is None:
        return None
    about = {
        "measured": metric.name,
        "version": metric.version,
        "parameters": json.dumps(dict(item.parameters), sort_keys=True, default=repr),
        "score": str(metric.selection),
        "code": checksum,
        "texts": digest(texts),
        "norm": design.sampling.norm_of(metric),
        "views": str(design.sampling.view_texts),
        "device": design.sampling.device,
    }
    return Kept(identity, about)


class Value(NamedTuple):
    """A score, of how many texts it is, and the seconds that it took."""

    score: float
    n: float
    seconds: float


class Resampled:
    """A metric's score of one model, on all texts and on the halves of a design.

    statistic: scores, and of how many texts, by the rows that are measured (None: all); take: the
    score. What is measured is kept, if it can be; a fault on a half is not, and counts as no value.
    seconds: what a half takes, known after `pilot`; 0 where no half has a value.
    """

    seconds = 0.0

    def __init__(
        self,
        statistic: Callable[[Rows | None], tuple[Scores, int]],
        take: Callable[[Scores], float],
        design: Design,
        kept: Kept | None,
    ) -> None:
        self._statistic, self._take, self._kept = statistic, take, kept
        self._halves = {f"half {i} by {design.seed}": h for i, h in enumerate(design.halves)}
        rows = kept.read([WHOLE, *self._halves]) if kept else {}
        self._values = {name: Value(*row) for name, row in rows.items()}
        self._new: dict[str, Value] = {}
        self._lost: set[str] = set()

    def pilot(self) -> None:
        """Measure all texts, and a few halves. Raises whatever the metric raises on all texts."""
        spent: list[float] = []
        try:
            self._value(WHOLE, None)
            for name in list(self._halves)[:PILOT]:
                if sum(spent) < ENOUGH and (value := self._half(name)):
                    spent.append(value.seconds)
        finally:
            self._flush()
        self.seconds = min(spent, default=0.0)

    def measured(
        self, draws: int, advance: Callable[[int, int | None], None]
    ) -> Measurement[float]:
        """The score on all texts and on the first so many halves."""
        scores: list[float | None] = []
        try:
            for done, name in enumerate(list(self._halves)[:draws]):
                advance(done, draws)
                value = self._half(name)
                scores.append(value and value.score)
        finally:
            self._flush()
        advance(len(scores), draws)
        whole = self._value(WHOLE, None)
        return Measurement(whole.score, int(whole.n), scores)

    def _half(self, name: str) -> Value | None:
        if name in self._lost:
            return None
        try:
            return self._value(name, self._halves[name])
        except Exception as error:  # as too few texts with enough tokens in this half
            fault(error)  # but a full disk ends it
            self._lost.add(name)
            return None

    def _value(self, name: str, rows: Rows | None) -> Value:
        if name not in self._values:
            begun = time.perf_counter()
            scores, n = self._statistic(rows)
            value = Value(self._take(scores), n, time.perf_counter() - begun)
            self._values[name] = self._new[name] = value
            if sum(new.seconds for new in self._new.values()) > FLUSH:
                self._flush()
        return self._values[name]

    def _flush(self) -> None:
        if self._kept:
            self._kept.write(self._new)
        self._new = {}
