"""The output folder: whose run it is, run.json, and the views that are made of its journals."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lrd_harness.errors import UserError
from lrd_harness.files import write_text
from lrd_harness.manager import Plugins
from lrd_harness.plan import Plan
from lrd_harness.suite import Settings

LIBRARIES = (
    "torch transformers sentence-transformers mteb lm-eval datasets numpy scipy scikit-learn"
)


def choose(out: Path | None, suite: str, settings: Settings) -> Path:
    """The folder of a run: the given one, or runs/SUITE-DATE, numbered if that is another run's.

    Raises UserError for a given folder that holds a run with other settings, or no run at all.
    """
    if out is not None:
        _accept(out, settings)
        return out
    base = Path("runs") / f"{suite}-{datetime.now():%Y-%m-%d}"
    for number in range(1, 1000):
        folder = base if number == 1 else base.with_name(f"{base.name}-{number}")
        try:
            _accept(folder, settings)
        except UserError:
            continue
        return folder
    raise UserError(f"{base} and 998 more folders are taken: give --output")


def _accept(out: Path, settings: Settings) -> None:
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: give another --output")
    if not out.is_dir() or not any(out.iterdir()):
        return
    held = read_run(out).get("settings", {})
    mine = json.loads(json.dumps(settings.results()))
    for name, value in mine.items():
        if held.get(name) != value:
            raise UserError(
                f"{out} holds a run with {name} {held.get(name)}, not {value}: "
                "give another --output"
            )


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
    total: dict[str, float] = {}
    for counted in counters.values():
        for name, value in counted.items():
            total[name] = total.get(name, 0) + value
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


def write_views(out: Path, plugins: Plugins) -> Any:
    """results.sqlite and leaderboard.* from the journals; returns the leaderboard."""
    from lrd_harness import leaderboard, results

    results.build_database(out)
    board = leaderboard.build(results.load(out))
    for reporter in plugins.all("reporter"):
        if reporter.suffix:
            write_text(out / f"leaderboard{reporter.suffix}", reporter.write(board))
    return board


def now() -> str:
    """The time, as run.json has it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
