"""The output folder: whose run it is, run.json, and the views that are made of its journals."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
import shlex
import socket
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from lrd_harness.board import leaderboard
from lrd_harness.capture.embeddings import Captured
from lrd_harness.contracts import Reporter, Task
from lrd_harness.errors import Elsewhere, StorageFull, UserError, described, plain
from lrd_harness.manager import Plugins
from lrd_harness.measuring import PlannedMetric, PlannedPanel
from lrd_harness.models.peft_adapters import recorded, uppermost
from lrd_harness.planning import shards
from lrd_harness.planning.models import PlannedModel, set_apart
from lrd_harness.planning.resolve import Plan
from lrd_harness.planning.settings import Settings
from lrd_harness.processes import Ranks, together
from lrd_harness.report import Report
from lrd_harness.results import database, journal
from lrd_harness.results.journal import read_run, recorded_run
from lrd_harness.results.rows import MetricRow, Results
from lrd_harness.runner.units import trace
from lrd_harness.store import files, location
from lrd_harness.store.files import write_text

LIBRARIES = (
    "torch transformers sentence-transformers mteb lm-eval datasets numpy scipy scikit-learn"
)


def choose(out: Path | None, plan: Plan, suffix: str = "") -> Path:
    """The folder of a run: the given one, or runs/SUITE-DATE, numbered if that is another run's.

    suffix: of a slice, to be put behind the date.

    A folder without a number of its own is taken up again if it holds nothing that this run does
    not ask for. Raises UserError for a given folder that holds a run with other settings or other
    data, or no run at all.
    """
    if out is not None:
        if fault := _unlike(out, plan):
            raise UserError(f"{fault}: give another --output")
        return out
    base = Path("runs") / f"{plan.suite.name}-{datetime.now():%Y-%m-%d}{suffix}"
    for number in range(1, 1000):
        folder = base if number == 1 else base.with_name(f"{base.name}-{number}")
        if not _unlike(folder, plan, alone=True):
            return folder
    raise UserError(f"{base} and 998 more folders are taken: give --output")


def renamed(out: Path, plan: Plan) -> Plan:
    """The plan with the names that the run in this folder has given to the same models and tasks.

    A folder's name depends on which others it must be told apart from, and these may change: one
    whose name there is another folder's gets a longer one. Files of own texts had their paths as
    names.
    """
    run = recorded_run(out)
    if not run:
        return plan
    entries = run.get("models", [])
    names = {_identity(entry): entry["name"] for entry in entries}
    # a model that was trained further, or moved, keeps its name
    taken: dict[str, set[str]] = {}
    for entry in entries:
        taken.setdefault(entry["name"], set()).update((entry["revision"], _place(entry)))
    # runs of earlier versions took a link for its target
    linked = {_identity(entry): entry["name"] for entry in entries if not entry.get("place")}

    def name(model: PlannedModel) -> str:
        last = uppermost(model.checkpoint)
        mine, path = _model(model), Path(last.path)
        target = mine | {"place": location.mark(path.resolve())}
        if known := names.get(_identity(mine)) or linked.get(_identity(target)):
            return str(known)
        parts = len(path.parts) if last.name.startswith("local/") else 0
        longer = [set_apart(model, n).name for n in range(2, parts)]
        here = {mine["revision"], mine["place"]}
        free = (n for n in (model.name, *longer) if n not in taken or taken[n] & here)
        return next(free, model.name)

    places = {
        entry.get("place") or location.mark(entry["name"]): entry["name"]
        for entry in run.get("tasks", [])
    }
    tasks = {t.name: places.get(location.mark(t.place), t.name) for t in plan.tasks if t.place}
    return replace(
        plan,
        models=tuple(shards.with_names(replace(m, name=name(m)), tasks) for m in plan.models),
        tasks=tuple(replace(task, name=tasks.get(task.name, task.name)) for task in plan.tasks),
    )


def _identity(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """What a model of run.json is, apart from its name."""
    return _place(entry), entry["revision"], entry["label"]


def _place(entry: Mapping[str, Any]) -> str:
    """The mark of where a model lies; runs of earlier versions have the path itself."""
    return str(entry.get("place") or location.mark(entry["path"]))


def prepare(out: Path | None, plan: Plan, suffix: str = "") -> Path:
    """Choose the folder, and make it. Raises UserError as `choose` and `make` do."""
    folder = choose(out, plan, suffix)
    make(folder)
    return folder


def make(out: Path) -> None:
    """Make the folder, without what killed processes have left in it.

    Raises UserError if that cannot be done or nothing can be written there.
    """
    files.make_folder(out)
    for path in out.iterdir():
        written = path.name in ("run.json", database.NAME) or path.name.startswith("leaderboard.")
        if written and not path.is_file():
            raise UserError(f"{path} is no file, and one of that name is written: move it away")


def check_shared(ranks: Ranks, folders: Sequence[Path]) -> None:
    """Raise UserError unless all processes see the same folders, as those of several nodes must.

    The main process leaves a mark in each, and the others look for it.
    """
    if ranks.world == 1:
        return
    mark = ranks.first(files.name())
    for folder in folders:
        file = folder / mark
        together(ranks, partial(_touch, file) if ranks.main else lambda: None)
        blind = "" if file.exists() else socket.gethostname()
        hosts = sorted(set(filter(None, ranks.gather(blind))))
        if ranks.main:
            file.unlink(missing_ok=True)
        if hosts and ranks.main:
            raise UserError(
                f"{folder} is not the same folder on {', '.join(hosts)}: the processes of a run "
                "need one OUT and one cache folder (LRD_HARNESS_CACHE) that all of them share"
            )
        if hosts:
            raise Elsewhere("the main process has said why")


def _touch(file: Path) -> None:
    try:
        file.touch()
    except OSError as error:
        raise UserError(f"{file.parent} cannot be written to ({error.strerror})") from None


def begun(out: Path) -> bool:
    """Whether anything is in the folder but slices, and what a process killed early has left."""
    names = {path.name for path in out.iterdir()} if out.is_dir() else set()
    return not all(map(files.known, names - {shards.FOLDER}))


def _unlike(out: Path, plan: Plan, alone: bool = False) -> str:
    """Why this run cannot go on in that folder; "" if it can.

    alone: nor may it where the folder has models or tasks that this run has not.
    """
    if out.exists() and not out.is_dir():
        return f"{out} is a file"
    if not begun(out):
        return ""
    if not (out / "run.json").exists():
        return f"{out} is not empty and no run: it has no run.json"
    run, plan = read_run(out), renamed(out, plan)
    settings = run.get("settings", {})
    mine, usual = (json.loads(json.dumps(s.results())) for s in (plan.settings, Settings()))
    for name, value in mine.items():
        before = settings.get(name, usual.get(name))  # in a folder from before it could be set
        if before != value:
            return f"{out} holds a run with {name} {before}, not {value}"
    entries = {(e.get("name"), e.get("revision")): e for e in run.get("models", [])}
    for model in plan.models:
        found = model.checkpoint
        if (entry := entries.get((model.name, found.revision))) is None:
            continue
        content = entry.get("content")  # not in older folders
        if content and content != found.content:
            return f"{out} holds results of {model.name} with other content of the same version"
        if entry.get("code", {}) != dict(found.code):
            return f"{out} holds results of {model.name} with other code of its own"
        adapter = _adapter(model)  # may be another one with other plugins or versions
        if (before := entry.get("adapter", adapter)) != adapter:
            return f"{out} holds results of {model.name} as read by {before}, not {adapter}"
    data, now_there = run.get("data", {}), fingerprints(plan)
    models = {e.get("name") for e in run.get("models", [])}
    tasks = {e.get("name"): e.get("version", "1") for e in run.get("tasks", [])}
    for task in plan.tasks:
        if task.name in tasks and data.get(task.name) != now_there.get(task.name):
            return f"{out} holds results of {task.name} on data that have changed since"
        if (before := tasks.get(task.name, task.version)) != task.version:
            versions = f"in its version {before}, not {task.version}"
            return f"{out} holds results of {task.name} {versions}"
    more = models - {m.name for m in plan.models} or tasks.keys() - {t.name for t in plan.tasks}
    return f"{out} holds more than this run" if alone and more else ""


def fingerprints(plan: Plan) -> dict[str, str]:
    """A hash of the local data of every task that has some."""
    return {task.name: task.fingerprint() for task in plan.tasks if task.fingerprint is not None}


def write_run(
    out: Path,
    plan: Plan,
    counters: Mapping[str, Mapping[str, float]],
    met: Mapping[str, Mapping[str, Any]],
    panels: Mapping[str, Mapping[str, Sequence[str]]],
    **state: Any,
) -> None:
    """run.json: the resolved plan, versions, seeds, environment and counters.

    Models, tasks and metrics of earlier calls into the same folder stay listed.

    counters: of this call by model, the fields of embeddings.Captured; `counters.total` sums them.
    met: of all calls by model and task, how many texts the task asks for, and how many of these are
    duplicates, empty, or longer than the model takes.
    panels: by panel metric and task, the models that were compared last.
    """
    run = recorded_run(out)
    total = {name: sum(c[name] for c in counters.values()) for name in Captured().record()}
    pruning = run.get("pruning")
    if plan.pruning is not None:
        pruning = {
            **plan.pruning.settings.written,
            "rules": [rule.name for rule in plan.pruning.rules],
            "tasks": [task.name for task in plan.pruning.tasks],
        }

    def joined(kind: str, entries: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Entries of earlier calls and of this one; the newer one of a name counts.

        Of a model each revision stays, as its results do.
        """
        every = [*run.get(kind, []), *entries]
        return list({(e["name"], e.get("revision")): e for e in every}.values())

    before = run.get("panels", {})
    whole = {
        "schema": 1,
        "suite": plan.suite.name,
        "command": ["lrd-harness", *map(location.word, sys.argv[1:])],
        **state,
        "settings": plan.settings.results(),
        "layers": plan.settings.layers,
        "models": joined("models", map(_model, plan.models)),
        "tasks": joined("tasks", map(_task, plan.tasks)),
        "data": {**run.get("data", {}), **fingerprints(plan)},
        "metrics": joined("metrics", map(_metric, plan.measures)),
        "plugins": joined("plugins", plan.plugins),
        "panels": {n: {**before.get(n, {}), **panels.get(n, {})} for n in before | panels},
        "pruning": pruning,
        "counters": {"total": total, "models": counters, "met": met},
        "seeds": {"texts": 42, "mteb": 42},
        **surroundings(),
    }
    write_text(out / "run.json", json.dumps(whole, indent=1, default=str))


def _model(planned: PlannedModel) -> dict[str, Any]:
    """A model as run.json has it."""
    checkpoint = planned.checkpoint
    path, content, code = checkpoint.path, checkpoint.content, dict(checkpoint.code)
    return {
        "name": planned.name,
        "path": path if planned.checkpoint.hub else location.place(path),
        "place": location.mark(uppermost(checkpoint).path),
        "revision": checkpoint.revision,
        **({"content": content} if content else {}),
        **({"peft": recorded(checkpoint)} if checkpoint.peft else {}),
        **({"code": code} if code else {}),
        "label": planned.label,
        "adapter": _adapter(planned),
        "options": dataclasses.asdict(planned.options),
    }


def _adapter(planned: PlannedModel) -> str:
    """The adapter as run.json has it: its name, and its version where it is not the first."""
    name, version = planned.adapter.name, planned.adapter.version
    return name if version == "1" else f"{name} {version}"


def _task(task: Task) -> dict[str, str]:
    place = {"place": location.mark(task.place)} if task.place else {}
    version = {} if task.version == "1" else {"version": task.version}
    return {"name": task.name, "type": task.type, **place, **version}


def _metric(item: PlannedMetric | PlannedPanel) -> dict[str, Any]:
    metric = item.metric
    return {"name": metric.name, "version": metric.version, "parameters": item.written}


def surroundings() -> dict[str, dict[str, Any]]:
    """Versions that results depend on; the machine, as far as it can change speed or rounding."""
    import torch

    versions = {"python": platform.python_version()}
    for name in ("lrd-harness", *LIBRARIES.split()):
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    environment = {
        "platform": platform.platform(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
    }
    return {"versions": versions, "environment": environment}


def write_views(out: Path, plugins: Plugins) -> tuple[Report, list[str]]:
    """results.sqlite and leaderboard.* from the journals.

    Returns the leaderboard's report, and which reporters failed and why, as is then in it, too.
    """
    database.build_database(out)
    board = with_record(leaderboard.report(shown(out)), out)
    if faults := _write(board, out, plugins.all("reporter")):
        sound = [form for form in plugins.all("reporter") if form.name not in faults]
        board = replace(board, errors=(*board.errors, *map(location.text, faults.values())))
        faults |= _write(board, out, sound)
        database.build_database(out)
    return board, list(faults.values())


def _write(board: Report, out: Path, forms: Iterable[Reporter]) -> dict[str, str]:
    """Write a report in some forms. By name why one failed, of which the journal has more."""
    faults = {}
    for form in forms:
        if form.write is None or not form.suffix:
            continue
        path = out / f"leaderboard{form.suffix}"
        try:
            if text := form.write(board):
                write_text(path, text)
            else:  # nothing to show, as of a run that prunes nothing: no empty file
                path.unlink(missing_ok=True)
        except StorageFull:
            raise
        except Exception as error:  # a stranger's reporter must not cost the others
            faults[form.name] = fault = plain(f"reporter {form.name}: {described(error)}")
            record = {"kind": "reporter", "unit": f"reporter|{form.name}"}
            record |= {"error": location.text(fault), "traceback": trace(error)}
            database.restore(out)
            with closing(journal.Journal(out)) as kept:
                kept.append(record)
    return faults


def with_record(board: Report, out: Path) -> Report:
    """The report with the run's command, times and versions among its facts."""
    run = recorded_run(out)
    known = {key: run[key] for key in ("begun", "finished", "versions") if run.get(key)}
    command = {"command": shlex.join(run["command"])} if run.get("command") else {}
    return replace(board, facts={**board.facts, "run": command | known})


def shown(out: Path) -> Results:
    """The results of a run; of a metric measured in several ways, the way last asked for alone.

    Where there is a value of that way, errors of the others are left out too. Of a panel metric on
    a task there are the values of one panel, the last.
    """
    run = recorded_run(out)
    done = database.load(out)
    results = database.ordered(done, run)
    for place in (out, out / journal.FOLDER):
        files.remove_leftovers(place, older=files.AGE)
    last = {entry["name"]: entry for entry in run.get("metrics", [])}
    panels: dict[str, dict[str, Any]] = run.get("panels", {})  # by metric and task

    def is_last(row: MetricRow) -> bool:
        entry = last.get(row.metric)
        return (
            entry is not None
            and row.version == entry["version"]
            and entry["parameters"].items() <= row.parameters.items()
            and (
                row.metric not in panels
                or panels[row.metric].get(row.task) == row.parameters.get("panel")
            )
        )

    compared = sorted((row for row in done.metrics if row.metric in panels), key=is_last)
    panel = {(row.task, row.metric): row for row in compared}  # the last one's, else the latest

    def of_one_panel(row: MetricRow) -> bool:
        way = panel.get((row.task, row.metric), row)
        return (way.version, way.parameters) == (row.version, row.parameters)

    rows = [row for row in results.metrics if of_one_panel(row)]
    places = {(row.key, row.task, row.metric) for row in rows if is_last(row)}
    metrics = [r for r in rows if (r.key, r.task, r.metric) not in places or is_last(r)]
    errors = [e for e in results.errors if (e.key, e.task, e.metric) not in places]
    return replace(results, metrics=tuple(metrics), errors=tuple(errors))


def now() -> str:
    """The time, as run.json has it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
