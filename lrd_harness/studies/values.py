"""A command's values in files of one's choice: NAME.csv, one value a row, and NAME.json.

The one score a layer by which a metric is shown, and what is said of it.

Intervals over texts from half-samples: how far would a difference be off on other texts?

The delete-half jackknife (Shao and Wu 1989): a statistic is computed again on half of the texts,
drawn without replacement, many times; the variance of these values about their own mean, times
h / (n - h) for halves of h of n texts (1 for even n), is that of the statistic on all texts.
Drawing with replacement would put copies of a text beside it, which neighbours and singular values
do not survive. For means over texts it is exact. Of what is made of all texts together it is an
approximation: on Gaussian states of width 64, intervals of effective_rank and nrs were 0.5 and 1.7
times as wide as they should be at 50 texts, and those of all metrics within 25 % at 200.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lrd_harness.contracts import Metric
from lrd_harness.errors import UnitError, UserError
from lrd_harness.measuring import MIN_TEXTS, Scores, Split, split_scores
from lrd_harness.store import files, location
from lrd_harness.store.documents import json_value, read_file
from lrd_harness.store.files import full, write_text

MOST_ROWS = 40  # layers that a printed table shows at most


@dataclass(frozen=True)
class LayerScore:
    """A per-layer score of a metric. best: which of its values chooses a layer, if it does."""

    name: str
    best: Literal["max", "min"] | None
    values: Mapping[int, float | None]  # by layer


def layer_score(metric: Metric, split: Split) -> LayerScore:
    """The score by which the metric chooses a layer, else its first per-layer score.

    Raises UnitError for a metric that gave none.
    """
    choice = metric.layer_choice
    if choice is not None and choice.score not in split.profiles:
        raise UnitError(f"{metric.name} gave no score {choice.score}, which chooses a layer")
    name = choice.score if choice else next(iter(split.profiles), None)
    if name is None:
        raise UnitError(f"{metric.name} has no score for single layers")
    return LayerScore(name, choice.best if choice else None, by_layer(split, name))


def by_layer(split: Split, name: str) -> dict[int, float | None]:
    """The values of a per-layer score; none of a score that is not there."""
    found = split.profiles.get(name, {"layers": [], "values": []})
    return dict(zip(found["layers"], found["values"], strict=True))


def split_of(scores: Scores, blocks: int) -> Split:
    """Scores of a model of so many blocks as values of the model and of layers."""
    return split_scores(scores, blocks + 1)


ARROWS = {"min": " ↓", "max": " ↑"}
DIRECTIONS = (
    "A line a layer, 0 being what enters the first block; a step between layers has\n"
    "the number of the first. ↓, ↑: the least, the greatest value chooses a layer.\n"
    "Units are the metric's own (README)."
)


def title(metric: str, score: LayerScore) -> str:
    """How a score is called above its table, with the direction of the better value."""
    name = metric if score.name == metric else f"{metric}.{score.name}"
    return name + (ARROWS[score.best] if score.best else "")


def shown(layers: Sequence[int]) -> list[int]:
    """All layers, or of many, evenly spaced ones with the first and the last."""
    if len(layers) <= MOST_ROWS:
        return list(layers)
    step = (len(layers) - 1) / (MOST_ROWS - 1)
    return [layers[round(i * step)] for i in range(MOST_ROWS)]


def fault(error: Exception, metric: str | None = None) -> str:
    """An error in one line, its kind first where that says something.

    metric: the one that it is shown behind, whose name then need not begin it again.
    Raises StorageFull where a full disk is behind it, which is no fault of a model or a metric.
    """
    no_space = full(error)
    if no_space is not None:
        raise no_space from error
    text = next(iter(str(error).splitlines()), "")
    if metric is not None:
        text = text.removeprefix(f"{metric}: ").removeprefix(f"{metric} ")
    kind = type(error).__name__
    if isinstance(error, UserError) and text:
        return text
    return f"{kind}: {text}" if text else kind


Z = 1.96  # standard deviations on either side of an interval of 95 %
LEAST = 2 * MIN_TEXTS  # texts of which a half is still a sample


def halves(n: int, draws: int, seed: int = 0) -> list[np.ndarray]:
    """`draws` halves of n texts: ascending numbers (n // 2,). Half i depends on (seed, i) only.

    Raises UserError for fewer than 16 texts, and for 1 draw, which has no spread.
    """
    if draws < 0 or draws == 1:
        raise UserError(f"{draws} draws: intervals need at least 2 (0: no intervals)")
    if draws and n < LEAST:
        raise UserError(f"intervals need at least {LEAST} texts, got {n}: give more, or --draws 0")
    orders = (np.random.default_rng([seed, i]).permutation(n) for i in range(draws))
    return [np.sort(order[: n // 2]) for order in orders]


def interval(value: float, drawn: Sequence[float], n: int) -> tuple[float, float] | None:
    """The 95 % interval about a statistic of n texts, `drawn` being its values on halves.

    NaN stands for a half on which it has none; None where fewer than half of them have one.
    """
    values = np.asarray(drawn, dtype=np.float64)
    known = values[np.isfinite(values)]
    if len(known) < max(2, len(values) / 2):
        return None
    half = n // 2
    reach = Z * float(known.std()) * float(np.sqrt(half / (n - half)))
    return value - reach, value + reach


MADE_BY = "made_by"


def made_by(name: str) -> str:
    """What a JSON file of a command says of its origin."""
    return f"lrd-harness {name}"


def check_free(folder: Path, name: str, columns: Sequence[str]) -> None:
    """Raise UserError where the files cannot be written, or would replace somebody else's.

    Files of the same command are written over.
    """
    if not folder.is_dir():
        if folder.exists() or folder.is_symlink():
            raise UserError(f"{folder} is a file, not a folder")
        return
    ours = {".csv": _is_csv, ".json": _is_json}
    for suffix, is_ours in ours.items():
        path = folder / f"{name}{suffix}"
        if (path.exists() or path.is_symlink()) and not is_ours(path, name, columns):
            raise UserError(f"{path} is there already and was not made by lrd-harness {name}")


def _is_csv(path: Path, name: str, columns: Sequence[str]) -> bool:
    try:
        with path.open(encoding="utf-8") as file:
            return file.readline().rstrip("\n") == ",".join(columns)
    except (OSError, UnicodeDecodeError):
        return False


def _is_json(path: Path, name: str, columns: Sequence[str]) -> bool:
    try:
        found = json_value(read_file(path))
    except (UserError, ValueError):
        return False
    return isinstance(found, dict) and found.get(MADE_BY) == made_by(name)


def write(
    folder: Path,
    name: str,
    columns: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    record: Mapping[str, Any],
) -> None:
    """Write both files; the JSON holds `record` and the rows as `values`.

    Paths in its `errors` are cut to names.

    None is an empty cell. Raises UserError where the folder cannot be written to.
    """
    errors = [_portable(error) for error in record.get("errors", ())]
    record = {**record, "errors": errors} if errors else record
    whole = {MADE_BY: made_by(name), **record, "values": list(rows)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / f"{name}.csv", files.written_rows(columns, rows))
        described = json.dumps(whole, indent=1, ensure_ascii=False, allow_nan=False, default=str)
        write_text(folder / f"{name}.json", described + "\n")
    except OSError as error:
        raise UserError(f"{folder} cannot be written to ({error.strerror})") from None


def _portable(error: Any) -> Any:
    """An error, a text or fields of one, without folders."""
    if isinstance(error, Mapping):
        return {name: _portable(value) for name, value in error.items()}
    return location.text(error) if isinstance(error, str) else error
