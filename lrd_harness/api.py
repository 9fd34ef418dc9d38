"""What notebooks and programs call: the commands as functions, their results as objects.

Names of options are those of the command line, with "_" for "-". Wrong input raises UserError, in
one line. Exported by `lrd_harness` itself: `lrd_harness.run`, `lrd_harness.open` and so on.
"""

from __future__ import annotations

import functools
import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from lrd_harness import errors, isolation, manager
from lrd_harness.board import answers, leaderboard
from lrd_harness.errors import UserError, told_to, unknown
from lrd_harness.manager import Plugins
from lrd_harness.models.loading import quiet as quiet_loading
from lrd_harness.planning.resolve import make_plan
from lrd_harness.planning.settings import Pruning, Settings, settings_of
from lrd_harness.planning.suite import build_suite
from lrd_harness.progress import Display
from lrd_harness.report import Report
from lrd_harness.runner import folder, loop
from lrd_harness.runner.profile import Profile
from lrd_harness.store import location
from lrd_harness.studies.states import Opened
from lrd_harness.studies.study import Study

if TYPE_CHECKING:
    import pandas as pd

Place = str | os.PathLike[str]
Names = str | Sequence[str]
Parameters = Mapping[str, Mapping[str, Any]]
P = ParamSpec("P")
T = TypeVar("T")
CALL = "call"  # where a setting stands, in messages
PRUNING = {"rules": "prune", "tasks": "prune_tasks"}  # field -> keyword; others have its name


class Shown(Report):
    """A report that shows its answer and its tables, as text and in cells of notebooks."""

    def __repr__(self) -> str:
        return self._as("table")

    def _repr_html_(self) -> str:
        return self._as("fragment")

    def _as(self, form: str) -> str:
        text: str = manager.load().get("reporter", form).write(self)
        return text


def shown(report: Report) -> Shown:
    """The same report, as one that shows itself."""
    return Shown(**vars(report))


class Picture(bytes):
    """A figure as SVG: bytes for a file, a picture in a notebook."""

    def __repr__(self) -> str:
        return f"<SVG of {len(self):,} bytes>"

    __str__ = __repr__

    def _repr_svg_(self) -> str:
        return self.decode()


class Results:
    """What a run recorded, also one of the command line: `Results("runs/mine")`.

    output: its folder. Its board, scores and values are read from there when they are asked for.
    Raises UserError where the folder is not a run's, or is damaged.
    """

    def __init__(self, output: Place) -> None:
        self.output = errors.named(_model(output))
        self._rows = folder.shown(self.output)

    def __repr__(self) -> str:
        return repr(shown(answers.brief(self._board, ".leaderboard() shows all")))

    def _repr_html_(self) -> str:
        return shown(answers.brief(self._board, ".leaderboard() shows all"))._repr_html_()

    def leaderboard(self) -> Shown:
        """The whole leaderboard, as `lrd-harness leaderboard OUT --full` prints it."""
        return self._board

    @cached_property
    def _board(self) -> Shown:
        return shown(leaderboard.report(self._rows))

    @property
    def values(self) -> pd.DataFrame:
        """Every number that was recorded, one per row: scores and values of metrics.

        As `lrd_harness.values` has them.
        """
        return self._rows.frame.copy()

    @property
    def scores(self) -> pd.DataFrame:
        """The main scores of the tasks, one per row.

        model, revision, variant, side, task, task_type, name (of the score), layer (0..L), layers
        (L), score, stderr, chance.
        """
        frame = self.values
        frame = frame[frame.kind == "score"].rename(columns={"value": "score"})
        return frame.drop(columns=["kind", "source", "n", "start"]).reset_index(drop=True)

    def figure(self, name: str) -> Picture:
        """A figure of the page by its name; `lrd-harness leaderboard --format figures` lists them.

        Raises UserError for one that there is not, or that this board has nothing for.
        """
        if name not in self._figures:
            there = ", ".join(self._figures) or "none"
            raise unknown("figure", name, self._figures, f"This board has: {there}.")
        return self._figures[name]

    @cached_property
    def _figures(self) -> dict[str, Picture]:
        files = manager.load().get("reporter", "figures").files(self._board)
        return {
            Path(path).stem: Picture(content) for path, content in files if path.endswith(".svg")
        }


@contextmanager
def _hushed() -> Iterator[None]:
    """Without the libraries' warnings and bars, which go on afterwards as they were."""
    import datasets  # which mteb brings in any case

    levels = {name: logging.getLogger(name).level for name in errors.LOUD}
    bars = datasets.is_progress_bar_enabled()
    if bars:
        datasets.disable_progress_bars()
    for name in levels:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with quiet_loading(), warnings.catch_warnings(action="ignore"):
            yield
    finally:
        if bars:
            datasets.enable_progress_bars()
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _called(function: Callable[P, T]) -> Callable[P, T]:
    """The function, whose libraries write where they may, and which tells what is to be known."""

    @functools.wraps(function)
    def call(*arguments: P.args, **keywords: P.kwargs) -> T:
        location.redirect()
        with told_to(errors.tell), _hushed(), isolation.limited():
            return function(*arguments, **keywords)

    return call


@_called
def run(
    models: Place | Sequence[Place | Mapping[str, Any]] = (),
    tasks: Names = (),
    metrics: Names = (),
    *,
    suite: str | None = None,
    texts: Place | None = None,
    images: Place | None = None,
    output: Place | None = None,
    parameters: Parameters | None = None,
    load: Names = (),
    quiet: bool = False,
    **settings: Any,
) -> Results:
    """Read every layer of the models, evaluate them on the tasks, compute the metrics.

    As `lrd-harness run`; the same call goes on with a run that was interrupted.

    Parameters
    ----------
    models, tasks, metrics : names, as --models, --tasks and --plugins take them; what is not given
        is the suite's. A model may be a mapping, as in a suite's YAML.
    suite : a suite's name or file; by default the quickstart, where models or tasks are not given.
    texts, images : a file of texts, a folder of images without labels, which becomes a task.
    output : the folder; by default runs/SUITE-DATE.
    parameters : of metrics, as {"nrs": {"k": 10}}.
    load : plugins of your own, files or modules.
    quiet : no progress on standard error.
    settings : any setting of `lrd-harness run`, as layers=[0, 6, 12], pooling="mean", limit=100;
        prune=True or a list of rules also scores pruned models.

    Raises UserError for wrong input; what fails in a run is among the board's errors.
    """
    where = _path(output)
    display, plugins = Display(quiet=quiet), _plugins(load)
    typed, pruned = _split(settings)
    places = {"texts": texts, "images": images}
    own = [f"{kind}:{_path(place)}" for kind, place in places.items() if place is not None]
    chosen = build_suite(
        suite if suite is None else _model(suite),
        [m if isinstance(m, Mapping) else _model(m) for m in _several(models)],
        [*_names(tasks), *own],
        _names(metrics, ","),
        _parameters(parameters),
        typed,
        pruned,
        CALL,
    )
    prune = "prune" in settings and settings["prune"] is not False
    prepared = loop.prepare(make_plan(chosen, plugins, display.stage, prune), where, display)
    options = {"suite": suite, "models": _several(models), "tasks": _names(tasks), **places}
    options |= {"plugins": _names(metrics, ","), "output": where, **settings}
    about = {**prepared.slices, "command": _command(options, _parameters(parameters))}
    profile = Profile()
    loop.execute(prepared.plan, prepared.out, display, slices=about, profile=profile)
    with profile.stage("writing"):
        _, faults = folder.write_views(prepared.out, plugins)
    profile.keep(prepared.out)
    for fault in faults:
        errors.tell(f"error: {fault}")
    return Results(prepared.out)


@_called
def open(model: Place, **options: Any) -> Opened:
    """Open a model: its `encode(texts)` gives the pooled states of all layers (L + 1, n, d).

    A model of images encodes paths and PIL images. options: load, quiet, and settings as norm,
    pooling, max_length, device, dtype. Raises UserError.
    """
    return _study("states", options).opened(_model(model))


@_called
def select(models: Sequence[Place], **options: Any) -> Shown:
    """Rank models for texts or images without labels, as `lrd-harness select`.

    options: texts (a list of strings, or a file), images (a list of paths or PIL images, or a
    folder) or task; metrics, parameters, draws, seed, output (a folder for select.csv and .json),
    load, quiet, and settings as max_texts, norm, pooling, device. Raises UserError.
    """
    names = [_model(model) for model in _several(models)]
    return _finished(_study("select", options), lambda study: study.select(names))


@_called
def layer(model: Place, by: Names = (), *, save: Place | None = None, **options: Any) -> Shown:
    """The layer that the one-line rule takes, or metrics choose, as `lrd-harness layer`.

    by: metrics, the first of which decides; save: a new folder for the model that ends there;
    options: as of `select`, without draws and seed. Raises UserError.
    """
    where, metrics, name = _path(save), _names(by, ","), _model(model)
    return _finished(_study("layer", options), lambda study: study.layer(name, metrics, where))


@_called
def compare(a: Place, b: Place, **options: Any) -> Shown:
    """Two models on the same texts or images, as `lrd-harness compare`; options: as of `select`."""
    names = _model(a), _model(b)
    return _finished(_study("compare", options), lambda study: study.compare(*names))


@_called
def prune(
    model: Place,
    rule: str | None = None,
    budget: float | None = None,
    *,
    blocks: str | Sequence[int] | None = None,
    protect: int | None = None,
    text_samples: int | None = None,
    save: Place | None = None,
    save_mergekit: Place | None = None,
    scores: Place | None = None,
    **options: Any,
) -> Shown:
    """Take blocks out of a model and compare what is left with it, as `lrd-harness prune`.

    Either a rule at a budget, or blocks, "7,12-14" or a list; text_samples: random halves of the
    texts on which the rule chooses again; save: a new folder for the smaller model; options: as of
    `select`, without draws. Raises UserError.
    """
    model = _model(model)
    if blocks is not None and not isinstance(blocks, str):
        blocks = ",".join(map(str, blocks)) if isinstance(blocks, Iterable) else str(blocks)
    files = {"save_to": save, "mergekit": save_mergekit, "scores": scores}
    places = {name: _path(file) for name, file in files.items()}
    how = {"rule": rule, "budget": budget, "blocks": blocks, "protect": protect}
    how["text_samples"] = text_samples
    return _finished(
        _study("prune", options),
        lambda study: study.prune(model, **how, **places),  # type: ignore[arg-type]
    )


OPTIONS = "texts images task metrics parameters output draws seed load quiet".split()
LACKS = {  # which of the options and settings a study has no use for
    "select": ("view_texts",),
    "compare": ("view_texts",),
    "layer": ("draws", "seed"),
    "prune": ("draws", "metrics", "view_texts"),
    "states": (
        *OPTIONS[:-2],
        *("max_texts", "view_texts", "text_column", "task_data", "plugin_timeout"),
    ),
}
READ = (  # settings of studies: how a model is read, and which texts
    "pooling norm max_length dtype attention attention_mask padding device device_map batch_tokens "
    "max_texts view_texts text_column task_data trust_remote_code plugin_timeout"
).split()


def _study(kind: str, options: Mapping[str, Any]) -> Study:
    """A study as it was asked for. Raises UserError for options that there are not."""
    known = [name for name in (*OPTIONS, *READ) if name not in LACKS.get(kind, ())]
    for name in options:
        if name not in known:
            raise unknown(f"option of {'open' if kind == 'states' else kind}", name, known)
    typed = {name: value for name, value in options.items() if name in READ}
    own = {name: value for name, value in options.items() if name not in READ}
    output = own.pop("output", None)
    for name in ("texts", "images"):
        if isinstance(own.get(name), os.PathLike):
            own[name] = os.fspath(own[name])
    plugins, quiet = _plugins(own.pop("load", ())), bool(own.pop("quiet", False))
    own["parameters"] = _parameters(own.get("parameters"))
    own["metrics"] = _names(own.get("metrics", ()), ",")
    return Study(
        kind,
        plugins,
        settings=typed,
        output=_path(output),
        display=Display(quiet=quiet),
        where=CALL,
        **own,
    )


def _finished(study: Study, does: Callable[[Study], Report]) -> Shown:
    """The report of a study, whose files are written where there is a folder for them."""
    report = does(study)
    study.write(report)
    return shown(report)


def _command(options: Mapping[str, Any], parameters: Parameters) -> list[str]:
    """What would be typed for the same run, as run.json has it."""
    words = ["lrd-harness", "run"]
    for name, value in options.items():
        values = [] if value is True else list(map(str, _several(value)))
        if value is not None and value is not False and (values or value is True):
            words += [f"--{name.replace('_', '-')}", *map(location.word, values)]
    sets = [f"{m}.{k}={v}" for m, values in parameters.items() for k, v in values.items()]
    return [*words, *(["--set", *sets] if sets else [])]


def _split(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Keywords of a run as settings and as what is said of pruning. Raises UserError."""
    fields = {PRUNING.get(name, name): name for name in settings_of(Pruning)}
    known = [*settings_of(Settings), *fields]
    others = "models tasks metrics suite texts images output parameters load".split()
    for name in settings:
        if name not in known:
            raise unknown("option of run", name, [*others, *known])
    typed = {name: value for name, value in settings.items() if name not in fields}
    pruned = {fields[name]: value for name, value in settings.items() if name in fields}
    if pruned and "prune" not in settings:
        raise UserError(f"{next(n for n in settings if n in fields)} needs prune")
    if isinstance(pruned.get("rules"), bool):
        del pruned["rules"]
    return typed, {n: _names(v, ",") if n in ("rules", "tasks") else v for n, v in pruned.items()}


def _several(given: Any) -> Sequence[Any]:
    """One, or a list of some."""
    return given if isinstance(given, Sequence) and not isinstance(given, str) else [given]


def _names(given: Names, between: str | None = None) -> list[str]:
    """Names, from one or several, with a sign between them. Raises UserError for what is none."""
    items = _several(given)
    if not all(isinstance(item, str) for item in items):
        raise UserError(f"{errors.shown(given)} is neither a name nor a list of names")
    return [name for item in items for name in (item.split(between) if between else [item]) if name]


def _model(given: Place) -> str:
    """A name, or the path of a folder. Raises UserError for what is neither."""
    if not isinstance(given, str | os.PathLike):
        raise UserError(f"{errors.shown(given)} is no name")
    return os.fspath(given)


def _parameters(given: Parameters | None) -> Parameters:
    """Raises UserError for what is no mapping of mappings."""
    of_metrics = given or {}
    if not isinstance(of_metrics, Mapping) or not all(
        isinstance(values, Mapping) for values in of_metrics.values()
    ):
        raise UserError('parameters are given by metric, as {"nrs": {"k": 10}}')
    return of_metrics


def _plugins(load: Names) -> Plugins:
    return manager.load_named(_names(load))


@overload
def _path(place: Place) -> Path: ...
@overload
def _path(place: Place | None) -> Path | None: ...
def _path(place: Place | None) -> Path | None:
    """Raises UserError for what is no path."""
    if place is None:
        return None
    if not isinstance(place, str | os.PathLike):
        raise UserError(f"{errors.shown(place)} is no path")
    return errors.named(os.fspath(place))
