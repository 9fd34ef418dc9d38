"""The output folder: whose run it is, run.json, and the views that are made of its journals."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lrd_harness.capture import Captured
from lrd_harness.errors import UserError
from lrd_harness.files import write_text
from lrd_harness.finding import content_hash
from lrd_harness.manager import Plugins
from lrd_harness.plan import Plan

LIBRARIES = (
    "torch transformers sentence-transformers mteb lm-eval datasets numpy scipy scikit-learn"
)


def choose(out: Path | None, plan: Plan) -> Path:
    """The folder of a run: the given one, or runs/SUITE-DATE, numbered if that is another run's.

    A folder without a number of its own is taken up again if it holds nothing that this run does
    not ask for. Raises UserError for a given folder that holds a run with other settings or other
    data, or no run at all.
    """
    if out is not None:
        fault = _unlike(out, plan)
        if fault:
            raise UserError(f"{fault}: give another --output")
        return out
    base = Path("runs") / f"{plan.suite.name}-{datetime.now():%Y-%m-%d}"
    for number in range(1, 1000):
        folder = base if number == 1 else base.with_name(f"{base.name}-{number}")
        if not _unlike(folder, plan) and not _beyond(folder, plan):
            return folder
    raise UserError(f"{base} and 998 more folders are taken: give --output")


def make(out: Path) -> None:
    """Make the folder. Raises UserError if that cannot be done or nothing can be written there."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out} cannot be made ({error.strerror})") from None
    if not os.access(out, os.W_OK):
        raise UserError(f"{out} cannot be written to")


def _unlike(out: Path, plan: Plan) -> str:
    """Why this run cannot go on in that folder; "" if it can."""
    if out.exists() and not out.is_dir():
        return f"{out} is a file"
    # a killed run may leave an unfinished run.json, and nothing else
    # a run that was killed at its very beginning leaves an unfinished run.json, and nothing else
    if not out.is_dir() or all(p.name.startswith(".run.json.") for p in out.iterdir()):
        return ""
    if not (out / "run.json").exists():
        return f"{out} is not empty and no run: it has no run.json"
    held = read_run(out)
    settings = held.get("settings", {})
    mine = json.loads(json.dumps(plan.settings.results()))
    for name, value in mine.items():
        if settings.get(name) != value:
            return f"{out} holds a run with {name} {settings.get(name)}, not {value}"
    data = held.get("data", {})
    for task, fingerprint in fingerprints(plan).items():
        if data.get(task, fingerprint) != fingerprint:
            return f"{out} holds results of {task} on data that have changed since"
    return ""


def _beyond(out: Path, plan: Plan) -> bool:
    """Whether the run in that folder has models or tasks that this one has not."""
    if not (out / "run.json").exists():
        return False
    held = read_run(out)
    asked = {"models": {m.name for m in plan.models}, "tasks": {t.name for t in plan.tasks}}
    return any(
        entry.get("name") not in names
        for kind, names in asked.items()
        for entry in held.get(kind, [])
    )


def fingerprints(plan: Plan) -> dict[str, str]:
    """A hash of the local data of every task that has some: by task_data, or named by its file."""
    found = {}
    for typed, task in zip(plan.suite.tasks, plan.tasks, strict=True):
        file = Path(typed.partition(":")[2]).expanduser()
        folder = Path(plan.settings.task_data or ".").expanduser() / task.name
        if file.name and file.is_file():
            found[task.name] = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
        elif plan.settings.task_data and folder.is_dir():
            found[task.name] = content_hash(folder)[:16]
    return found


def read_run(out: Path) -> dict[str, Any]:
    """What run.json says. Raises UserError if the folder is no run."""
    path = out / "run.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{out} is no run: it has no run.json") from None
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error})") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} is not a run's")
    return found


def write_run(
    out: Path, plan: Plan, counters: Mapping[str, Mapping[str, float]], **state: Any
) -> None:
    """run.json: the resolved plan, versions, seeds, environment and the counters of this call.

    counters: by model, the fields of capture.Captured; `counters.total` is their sum.
    """
    total: dict[str, float] = dict.fromkeys(Captured().record(), 0)
    for counted in counters.values():
        for name, value in counted.items():
            total[name] += value
    held = read_run(out).get("data", {}) if (out / "run.json").exists() else {}
    write_text(
        out / "run.json",
        json.dumps(
            {
                "schema": 1,
                "suite": plan.suite.name,
                "command": ["lrd-harness", *sys.argv[1:]],
                **state,
                "settings": plan.settings.results(),
                "layers": plan.settings.layers,
                "models": [_model(m) for m in plan.models],
                "tasks": [{"name": t.name, "type": t.type} for t in plan.tasks],
                "data": {**held, **fingerprints(plan)},
                "metrics": [
                    {
                        "name": item.metric.name,
                        "version": item.metric.version,
                        "parameters": dict(item.parameters),
                    }
                    for item in plan.metrics
                ],
                "counters": {"total": total, "models": counters},
                "seeds": {"texts": 42, "mteb": 42},
                "versions": versions(),
                "environment": environment(),
            },
            indent=1,
        ),
    )


def _model(planned: Any) -> dict[str, Any]:
    return {
        "name": planned.name,
        "path": planned.checkpoint.path,
        "revision": planned.checkpoint.revision,
        "adapter": planned.adapter.name,
        "options": dataclasses.asdict(planned.options),
    }


def versions() -> dict[str, str]:
    """The versions of the harness and of the libraries that results depend on."""
    names = ["lrd-harness", *LIBRARIES.split()]
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"python": platform.python_version(), **found}


def environment() -> dict[str, Any]:
    """The machine, as far as it can change speed or rounding."""
    import torch

    accelerator = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return {
        "platform": platform.platform(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": accelerator,
    }


def write_views(out: Path, plugins: Plugins) -> tuple[Any, list[str]]:
    """results.sqlite and leaderboard.* from the journals.

    Returns the leaderboard, and what reporters could not be written and why.
    """
    from lrd_harness import leaderboard, results

    results.build_database(out)
    board = leaderboard.build(results.load(out))
    faults = []
    for reporter in plugins.all("reporter"):
        try:
            if reporter.suffix:
                write_text(out / f"leaderboard{reporter.suffix}", reporter.write(board))
        except Exception as error:  # a stranger's reporter must not cost the others
            faults.append(f"reporter {reporter.name}: {type(error).__name__}: {error}")
    return board, faults


def now() -> str:
    """The time, as run.json has it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
