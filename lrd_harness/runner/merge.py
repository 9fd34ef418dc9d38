"""Join runs into one: slices of a run, or the same suite on several machines."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lrd_harness.errors import UserError
from lrd_harness.planning import shards
from lrd_harness.planning.settings import Settings
from lrd_harness.results import database, journal
from lrd_harness.results.journal import read_run
from lrd_harness.runner.folder import begun, make, surroundings
from lrd_harness.store import files, location
from lrd_harness.store.files import space, write_text

NATIVE = ("mteb", "lm_eval")  # folders of the libraries' own results
OWN = ("command", "begun", "finished", "errors", "shards", "counters", "versions", "environment")


Run = Mapping[str, Any]  # run.json, or what of it is a run's own


def merge(folders: Sequence[Path], out: Path) -> list[str]:
    """Join the runs of these folders in `out`; returns what is to be said of them.

    Of a unit that several hold the newest record counts, as in one run. `out` is new, empty or an
    earlier merge, which is added to. Its views (results.sqlite, leaderboard.*) are not written yet.
    Raises UserError for a folder that is no run, for runs with other settings, data, metrics or
    pruning, and for an `out` that holds something else.
    """
    there = earlier(out)
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"no such folder: {folder}")
    distinct = {folder.resolve(): folder for folder in reversed(folders)}
    if there:
        distinct.pop(out.resolve(), None)
    parts = {folder: read_run(folder) for folder in reversed(distinct.values())}
    if not parts:
        raise UserError(f"there is nothing to merge into {out} but itself")
    # slices in their order, others before them as they were given
    runs = there | dict(sorted(parts.items(), key=lambda part: _number(part[1])))
    _check(runs)
    for folder in parts:
        database.load(folder)  # a damaged one is told of before anything is written
    make(out)
    sources = _sources(runs, out)
    with space(out):
        # at once, so that a merge that was stopped is known for one, and can be made again
        whole = _joined(list(runs.values()), sources)
        write_text(out / "run.json", json.dumps({**whole, "finished": None}, indent=1))
        for folder in parts:
            _copy_journals(folder, out)
            for name in NATIVE:
                _copy_tree(folder / name, out / name)
        errors = len(database.load(out).errors)
        write_text(out / "run.json", json.dumps({**whole, "errors": errors}, indent=1))
    return _remarks({str((out / place).resolve()): run for place, run in sources.items()})


def _number(run: Run) -> int:
    """The number of a slice, of the first where it is of several; 0 of a whole run."""
    return int(run["shards"][0].partition("/")[0]) if run.get("shards") else 0


def earlier(out: Path) -> dict[Path, Run]:
    """The merge that `out` holds, if there is one. Raises UserError for anything else in it."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file")
    if not begun(out):
        return {}
    if not (out / "run.json").exists():
        raise UserError(f"{out} is not empty, and no merge of runs: give another --output")
    run = read_run(out)
    if "merged" not in run:
        raise UserError(f"{out} is a run, and no merge of runs: give another --output")
    return {out: run}


def _check(runs: Mapping[Path, Run]) -> None:
    """Raise UserError, naming the difference, unless these can be parts of one run."""
    usual = json.loads(json.dumps(Settings().results()))
    firsts: dict[tuple[str, str], tuple[Any, Path]] = {}
    for out, run in runs.items():
        values = {("", k): v for k, v in {**usual, **run.get("settings", {})}.items()}
        data = run.get("data", {})
        for entry in run.get("tasks", []):
            values["data of ", entry["name"]] = data.get(entry["name"], "of the task's own")
            values["version of ", entry["name"]] = entry.get("version", "1")
        for entry in run.get("models", []):
            if "content" in entry:  # of a package, whose version does not tell it
                values["content of ", entry["name"]] = entry["content"]
            at, code = entry.get("revision"), entry.get("code", {})  # of another repository, maybe
            values[f"code at {at} of ", entry["name"]] = code
            if "adapter" in entry:
                values[f"adapter at {at} of ", entry["name"]] = entry["adapter"]
        for entry in run.get("metrics", []):
            values["metric ", entry["name"]] = {k: entry[k] for k in ("version", "parameters")}
        if run.get("pruning"):
            values["", "pruning"] = run["pruning"]
        for key, value in values.items():
            before, first = firsts.setdefault(key, (value, out))
            if before != value:
                raise UserError(
                    f"they are not of one run: {''.join(key)} is {_short(before)} there and "
                    f"{_short(value)} here ({first}, {out})"
                )


def _short(value: Any) -> str:
    shown = value if isinstance(value, str) else json.dumps(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def _joined(runs: Sequence[Run], sources: Mapping[str, Run]) -> dict[str, Any]:
    """run.json of the whole: lists joined, what differs kept by folder under `merged`."""
    newest = max(runs, key=lambda run: str(run.get("begun")))
    order: dict[str, list[str]] = next((run["order"] for run in runs if "order" in run), {})
    finished = [source.get("finished") for source in sources.values()]
    slices = list(dict.fromkeys(s for run in runs for s in run.get("shards", [])))
    layers = [run.get("layers") for run in runs]
    return {
        **newest,
        "suite": runs[0].get("suite"),
        "command": ["lrd-harness", *map(location.word, sys.argv[1:])],
        "begun": min(str(run.get("begun")) for run in runs),
        "finished": None if None in finished else max(map(str, finished)),
        "layers": layers[0] if layers.count(layers[0]) == len(layers) else "several",
        "models": _entries(runs, "models", order),
        "tasks": _entries(runs, "tasks", order),
        "data": {k: v for run in runs for k, v in run.get("data", {}).items()},
        "metrics": _entries(runs, "metrics", order),
        "plugins": _entries(runs, "plugins", {}),
        "panels": {name: v for run in runs for name, v in run.get("panels", {}).items()},
        "pruning": next((run["pruning"] for run in runs if run.get("pruning")), None),
        "counters": _counters(sources.values()),
        "profile": _calls(sources.values()),
        **surroundings(),
        "merged": sources,
        **({"shards": slices, "order": order} if slices else {}),
    }


def _entries(
    runs: Sequence[Run], kind: str, order: Mapping[str, list[str]]
) -> list[dict[str, Any]]:
    """The entries of a list of run.json, each once, in the order of the whole run if it is known.

    A model is told by name and revision, the others by name.
    """
    entries = {(e["name"], e.get("revision")): e for run in runs for e in run.get(kind, [])}
    places = {name: i for i, name in enumerate(order.get(kind, []))}
    return sorted(entries.values(), key=lambda entry: places.get(entry["name"], len(places)))


def _sources(runs: Mapping[Path, Run], whole: Path) -> dict[str, Run]:
    """What each run said of itself, by folder, seen from the whole's; those of earlier merges too.

    A merge into which nothing was run since says nothing of its own.
    """
    sources: dict[str, Run] = {}
    for out, run in runs.items():
        inner = {
            _seen(whole, out / place): source for place, source in run.get("merged", {}).items()
        }
        sources.update(inner)
        if not inner or run.get("counters") != _counters(inner.values()):
            facts = {name: run[name] for name in OWN if name in run}
            since = run.get("profile", [])[len(_calls(inner.values())) :]
            sources[_seen(whole, out)] = {"counters": {}, **facts, "profile": since}
    return sources


def _seen(whole: Path, folder: Path) -> str:
    """The way from one folder to another, which holds where both are moved together."""
    return Path(os.path.relpath(folder.resolve(), whole.resolve())).as_posix()


def _counters(sources: Iterable[Run]) -> dict[str, Any]:
    """The sums of several runs' counters, and their `met`, joined."""
    total: Counter[str] = Counter()
    models: defaultdict[str, Counter[str]] = defaultdict(Counter)
    met: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    for counters in (source.get("counters", {}) for source in sources):
        total.update(counters.get("total", {}))
        for name, counted in counters.get("models", {}).items():
            models[name].update(counted)
        for name, tasks in counters.get("met", {}).items():
            met[name] |= tasks
    return {"total": total, "models": models, "met": met}


def _calls(sources: Iterable[Run]) -> list[dict[str, Any]]:
    """The profiles of all calls of several runs, in the order of their time."""
    every = (call for source in sources for call in source.get("profile", []))
    return sorted(every, key=lambda call: str(call["begun"]))


def _copy_journals(source: Path, out: Path) -> None:
    """Copy the journals of a run, or what its database holds where there are none."""
    folder = out / journal.FOLDER
    folder.mkdir(exist_ok=True)
    for path in journal.files(source):
        # the others' names are of one process; this one is in every folder that was restored
        unique = path.name != "restored.jsonl"
        to = folder / (path.name if unique else _restored(path.read_bytes()))
        if not to.exists() or to.stat().st_size < path.stat().st_size:  # a journal only grows
            _copy(path, to)
    if not journal.files(source) and (source / database.NAME).is_file():
        content = journal.text(database.read(source))
        write_text(folder / _restored(content.encode()), content)


def _restored(content: bytes) -> str:
    return f"restored-{hashlib.sha256(content).hexdigest()[:12]}.jsonl"


def _copy_tree(source: Path, target: Path) -> None:
    """Copy the files of a folder that the target lacks, or has older, each whole or not at all."""
    for path in sorted(source.rglob("*")):
        to = target / path.relative_to(source)
        if path.is_symlink() or not path.is_file() or files.known(path.name):
            continue
        if to.exists() and to.stat().st_mtime_ns >= path.stat().st_mtime_ns:
            continue
        to.parent.mkdir(parents=True, exist_ok=True)
        _copy(path, to)


def _copy(path: Path, to: Path) -> None:
    """Copy a file, with its time, in one step for whoever reads it."""
    with files.path(to.parent) as part:
        shutil.copy2(path, part)
        part.replace(to)


def _remarks(sources: Mapping[str, Run]) -> list[str]:
    """What is missing, and what may matter: slices, runs that are not finished, versions.

    sources: what each run said of itself, by folder.
    """
    remarks = [
        f"{out} is not finished: when it is, merge again"
        for out, source in sources.items()
        if source.get("finished") is None
    ]
    absent = shards.lacking([s for source in sources.values() for s in source.get("shards", [])])
    if absent:
        remarks.append(f"not among them: slice{'s' * (len(absent) > 1)} {', '.join(absent)}")
    by_library: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for out, source in sources.items():
        for library, version in source.get("versions", {}).items():
            by_library[library].setdefault(version, out)
    for library, versions in by_library.items():
        if len(versions) > 1:
            places = ", ".join(f"{version} in {out}" for version, out in versions.items())
            remarks.append(f"made with several versions of {library}: {places}")
    return remarks
