"""Join runs into one: slices of a run, or the same suite on several machines."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from lrd_harness.errors import UserError
from lrd_harness.planning import shards
from lrd_harness.planning.suite import Settings
from lrd_harness.results import database, journal
from lrd_harness.results.journal import read_run
from lrd_harness.runner.folder import begun, make, surroundings
from lrd_harness.store import files, location
from lrd_harness.store.files import space, write_text

NATIVE = ("mteb", "lm_eval")  # folders of the libraries' own results
OWN = ("command", "begun", "finished", "errors", "shards", "counters", "versions", "environment")


class Part(NamedTuple):
    """A run that is to be joined: its folder, and its run.json."""

    out: Path
    held: Mapping[str, Any]


def merge(folders: Sequence[Path], out: Path) -> list[str]:
    """Join the runs of these folders in `out`; returns what is to be said of them.

    Of a unit that several hold the newest record counts, as in one run. `out` is new, empty or an
    earlier merge, which is added to. Its views (results.sqlite, leaderboard.*) are not written yet.
    Raises UserError for a folder that is no run, for runs with other settings, data, metrics or
    pruning, and for an `out` that holds something else.
    """
    there = _earlier(out)
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"no such folder: {folder}")
    distinct = {folder.resolve(): folder for folder in reversed(folders)}
    if there:
        distinct.pop(out.resolve(), None)
    parts = [Part(folder, read_run(folder)) for folder in reversed(distinct.values())]
    if not parts:
        raise UserError(f"there is nothing to merge into {out} but itself")
    # slices in their order, others before them as they were given
    parts.sort(key=lambda part: int((part.held.get("shards") or ["0/0"])[0].partition("/")[0]))
    _check([*there, *parts])
    for part in parts:
        database.load(part.out)  # a damaged one is told of before anything is written
    make(out)
    with space(out):
        # at once, so that a merge that was stopped is known for one, and can be made again
        whole = _joined([*there, *parts], out)
        write_text(out / "run.json", json.dumps({**whole, "finished": None}, indent=1))
        for part in parts:
            _copy_journals(part.out, out)
            for name in NATIVE:
                _copy_tree(part.out / name, out / name)
        errors = len(database.load(out).errors)
        write_text(out / "run.json", json.dumps({**whole, "errors": errors}, indent=1))
    return _remarks([*there, *parts], out)


def _earlier(out: Path) -> list[Part]:
    """The merge that `out` holds, if there is one. Raises UserError for anything else in it."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file")
    if not begun(out):
        return []
    if not (out / "run.json").exists():
        raise UserError(f"{out} is not empty, and no merge of runs: give another --output")
    held = read_run(out)
    if "merged" not in held:
        raise UserError(f"{out} is a run, and no merge of runs: give another --output")
    return [Part(out, held)]


def _check(parts: Sequence[Part]) -> None:
    """Raise UserError, naming the difference, unless these can be parts of one run."""
    usual = json.loads(json.dumps(Settings().results()))
    said: dict[tuple[str, str], tuple[Any, Path]] = {}
    for out, held in parts:
        known = {**usual, **held.get("settings", {})}
        here = {("", name): value for name, value in known.items()}
        data = held.get("data", {})
        for entry in held.get("tasks", []):
            here["data of ", entry["name"]] = data.get(entry["name"], "of the task's own")
        for entry in held.get("models", []):
            if "content" in entry:  # of a package, whose version does not tell it
                here["content of ", entry["name"]] = entry["content"]
        for entry in held.get("metrics", []):
            here["metric ", entry["name"]] = {k: entry[k] for k in ("version", "parameters")}
        if held.get("pruning"):
            here["", "pruning"] = held["pruning"]
        for key, value in here.items():
            before, first = said.setdefault(key, (value, out))
            if before != value:
                raise UserError(
                    f"they are not of one run: {''.join(key)} is {_short(before)} there and "
                    f"{_short(value)} here ({first}, {out})"
                )


def _short(value: Any) -> str:
    shown = value if isinstance(value, str) else json.dumps(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def _joined(parts: Sequence[Part], whole: Path) -> dict[str, Any]:
    """run.json of the whole: lists joined, what differs kept by folder under `merged`."""
    every = [part.held for part in parts]
    newest = max(every, key=lambda held: str(held.get("begun")))
    order: dict[str, list[str]] = next((held["order"] for held in every if "order" in held), {})
    merged = _sources(parts, whole)
    finished = [source.get("finished") for source in merged.values()]
    shards = list(dict.fromkeys(s for held in every for s in held.get("shards", [])))
    layers = [held.get("layers") for held in every]
    return {
        **newest,
        "suite": every[0].get("suite"),
        "command": ["lrd-harness", *map(location.word, sys.argv[1:])],
        "begun": min(str(held.get("begun")) for held in every),
        "finished": None if None in finished else max(map(str, finished)),
        "layers": layers[0] if layers.count(layers[0]) == len(layers) else "several",
        "models": _entries(every, "models", order),
        "tasks": _entries(every, "tasks", order),
        "data": {k: v for held in every for k, v in held.get("data", {}).items()},
        "metrics": _entries(every, "metrics", order),
        "pruning": next((held["pruning"] for held in every if held.get("pruning")), None),
        "counters": _counters([source.get("counters", {}) for source in merged.values()]),
        **surroundings(),
        "merged": merged,
        **({"shards": shards, "order": order} if shards else {}),
    }


def _entries(
    every: Iterable[Mapping[str, Any]], kind: str, order: Mapping[str, list[str]]
) -> list[dict[str, Any]]:
    """The entries of a list of run.json, each once, in the order of the whole run if it is known.

    A model is told by name and revision, the others by name.
    """
    entries = chain.from_iterable(held.get(kind, []) for held in every)
    found = {(entry["name"], entry.get("revision")): entry for entry in entries}
    place = {name: i for i, name in enumerate(order.get(kind, []))}
    return sorted(found.values(), key=lambda entry: place.get(entry["name"], len(place)))


def _sources(parts: Sequence[Part], whole: Path) -> dict[str, dict[str, Any]]:
    """What each run said of itself, by folder, seen from the whole's; those of earlier merges too.

    A merge into which nothing was run since says nothing of its own.
    """
    found: dict[str, dict[str, Any]] = {}
    for out, held in parts:
        inner = {_seen(whole, out / path): own for path, own in held.get("merged", {}).items()}
        found.update(inner)
        counted = _counters([source.get("counters", {}) for source in inner.values()])
        if not inner or held.get("counters") != counted:
            own = {name: held[name] for name in OWN if name in held}
            found[_seen(whole, out)] = {"counters": {}, **own}
    return found


def _seen(whole: Path, folder: Path) -> str:
    """The way from one folder to another, which holds where both are moved together."""
    return Path(os.path.relpath(folder.resolve(), whole.resolve())).as_posix()


def _counters(every: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The sums of several runs' counters, and their `met`, joined."""
    total: Counter[str] = Counter()
    models: defaultdict[str, Counter[str]] = defaultdict(Counter)
    met: defaultdict[str, dict[str, Any]] = defaultdict(dict)
    for counters in every:
        total.update(counters.get("total", {}))
        for name, counted in counters.get("models", {}).items():
            models[name].update(counted)
        for name, tasks in counters.get("met", {}).items():
            met[name] |= tasks
    return {"total": dict(total), "models": {k: dict(v) for k, v in models.items()}, "met": met}


def _copy_journals(source: Path, out: Path) -> None:
    """Copy the journals of a run, or what its database holds where there are none."""
    folder = out / journal.FOLDER
    folder.mkdir(exist_ok=True)
    for path in journal.files(source):
        # the others' names are of one process; this one is in every folder that was restored
        own = path.name != "restored.jsonl"
        to = folder / (path.name if own else _restored(path.read_bytes()))
        if not to.exists() or to.stat().st_size < path.stat().st_size:  # a journal only grows
            _copy(path, to)
    if not journal.files(source) and (source / database.NAME).is_file():
        lines = [json.dumps(r, ensure_ascii=False) + "\n" for r in database.read(source)]
        write_text(folder / _restored("".join(lines).encode()), "".join(lines))


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


def _remarks(parts: Sequence[Part], whole: Path) -> list[str]:
    """What is missing, and what may matter: slices, runs that are not finished, versions."""
    merged = {str((whole / o).resolve()): own for o, own in _sources(parts, whole).items()}
    said = [
        f"{out} is not finished: when it is, merge again"
        for out, source in merged.items()
        if source.get("finished") is None
    ]
    absent = shards.lacking([s for source in merged.values() for s in source.get("shards", [])])
    if absent:
        said.append(f"not among them: slice{'s' * (len(absent) > 1)} {', '.join(absent)}")
    by_library: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for out, source in merged.items():
        for library, version in source.get("versions", {}).items():
            by_library[library].setdefault(version, out)
    for library, found in by_library.items():
        if len(found) > 1:
            places = ", ".join(f"{version} in {out}" for version, out in found.items())
            said.append(f"made with several versions of {library}: {places}")
    return said
