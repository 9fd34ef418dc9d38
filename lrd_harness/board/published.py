"""The public mteb results as actual scores, read by mteb's own loader from its results cache.

The cache is where mteb has it: the folder of the environment variable MTEB_CACHE, else
~/.cache/mteb; `mteb.ResultCache().download_from_remote()` fills it. Nothing is downloaded here.
A score counts where it is of the subsets and splits that the task is scored on here (registry.py);
of several revisions mteb's own rule chooses, unless the model's name says which.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from math import isnan
from pathlib import Path
from typing import Any, NamedTuple

from lrd_harness.board.cautions import count
from lrd_harness.board.external import Cell, Say, Scores, read_values, some
from lrd_harness.errors import UserError
from lrd_harness.models import registry
from lrd_harness.models.wrappers import hub_name
from lrd_harness.results.rows import Results
from lrd_harness.store.tables import Line, read_sheet

SOURCE = Path("published mteb results")  # what messages call them, as they call a file
FETCH = 'python -c "import mteb; mteb.ResultCache().download_from_remote()"'


class HubModel(NamedTuple):
    """A model to look up. name: as it is to be called; hub: on the hub; revision: "" for any."""

    name: str
    hub: str
    revision: str


def of_run(results: Results, say: Say = lambda note: None) -> Scores:
    """The published scores of the run's whole models on its tasks, models as MODEL@REVISION.

    A model pooled in another way (`NAME [cls]`) has none: what is published is of the usual one.
    Raises UserError where there are none, and where the cache cannot be read.
    """
    keys = [row.key for row in results.models if row.variant == "full"]
    looked_up = [
        HubModel(f"{key.model}@{key.revision}", hub_name(key.model), key.model.partition("@")[2])
        for key in keys
        if not key.model.endswith("]")
    ]
    tasks = {row.task for row in results.scores} | {row.task for row in results.metrics}
    if pooled := {key.model for key in keys if key.model.endswith("]")}:
        say(f"{SOURCE}: none of models that are pooled in another way: {some(sorted(pooled))}")
    return read(looked_up, sorted(tasks), say, "the run's scores are kept there")


def of_values(values: Path, models: Path | None, say: Say = lambda note: None) -> Scores:
    """The published scores of the models and tasks of a file of metric values.

    models: a file on these models; its column hub_id, where there is one, says what they are
    called on the hub. Raises UserError as `of_run` does, and for files that cannot be read.
    """
    cells = read_values(values)
    lines = read_sheet(models).lines if models else ()
    hub = {line.text("model"): line.text("hub_id") for line in lines}
    names = dict.fromkeys(cell.model for cell in cells)
    shown = {name: hub.get(name) or name for name in names}
    looked_up = [HubModel(name, hub_name(at), at.partition("@")[2]) for name, at in shown.items()]
    return read(looked_up, list(dict.fromkeys(cell.task for cell in cells)), say, "no scores there")


def read(models: Sequence[HubModel], tasks: Sequence[str], say: Say, rest: str) -> Scores:
    """The published scores, 0..1, of these models on those of the tasks that are mteb's.

    Models and tasks without any are said; rest: what becomes of these tasks. Raises UserError where
    there is none at all.
    """
    known = {}
    try:
        for name in tasks:
            with suppress(KeyError):
                known[name] = registry.task(name)
    except OSError as error:  # mteb makes its cache folder as soon as it is imported
        raise UserError(f"mteb's results cache (MTEB_CACHE) cannot be made: {error}") from None
    if not known:
        raise UserError(f"{SOURCE} are of mteb's tasks, and of these none is: {some(tasks)}")
    with _quiet():
        results, folder = _load(models, known)
        cells = [
            Cell(Line(SOURCE, 0, (), {}), model.name, None, task, score)
            for model in models
            for task, score in _scores(results, model).items()
        ]
    if not cells:
        raise UserError(
            f"no published score of {some(model.hub for model in models)} on {some(known)} in "
            f"{folder}: fetch mteb's results with {FETCH}, or set MTEB_CACHE to where they are"
        )
    scored = {cell.model for cell in cells}
    if lacking := [model.hub for model in models if model.name not in scored]:
        say(f"{SOURCE}: none of {count(len(lacking), 'model')}: {some(lacking)}")
    unscored = [task for task in tasks if task not in {cell.task for cell in cells}]
    if unscored:
        say(f"{SOURCE}: none on {some(unscored)}: {rest}")
    types = {name: registry.task_type(task.metadata) for name, task in known.items()}
    names = {name: str(task.metadata.main_score) for name, task in known.items()}
    return Scores(SOURCE, tuple(cells), types, names)


def _load(models: Sequence[HubModel], tasks: Mapping[str, Any]) -> tuple[Any, Path]:
    """mteb's results of these models on these tasks, those without a score left out; the cache."""
    import mteb

    folder = Path("mteb's results cache")
    try:
        cache = mteb.ResultCache()
        folder = cache.cache_path
        results = cache.load_results(
            models=[model.hub for model in models],
            tasks=list(tasks.values()),
            validate_and_filter=True,
            only_main_score=True,
            load_experiments="no_experiments",
        )
    except (OSError, ValueError, KeyError) as error:  # ValueError: also no JSON, or of another form
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{folder}: {SOURCE} cannot be read ({reason})") from None
    for model in results.model_results:
        model.task_results = [t for t in model.task_results if not isnan(t.get_score())]
    return results, folder


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what mteb says of results that lack a split or a subset: such are not counted."""
    log = logging.getLogger("mteb")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _scores(results: Any, model: HubModel) -> dict[str, float]:
    """Task -> main score, of the revision that mteb chooses or that the model's name says."""
    revisions = [
        of_revision
        for of_revision in results.model_results
        if of_revision.model_name == model.hub
        and str(of_revision.model_revision).startswith(model.revision)
    ]
    if not revisions:
        return {}
    joined = results.model_copy(update={"model_results": revisions}).join_revisions()
    return {
        of_task.task_name: float(of_task.get_score())  # the mean over subsets and splits
        for of_model in joined.model_results
        for of_task in of_model.task_results
    }
