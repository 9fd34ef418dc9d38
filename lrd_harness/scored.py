"""A model as a run has read it: what is saved beside its scores is what they were measured of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lrd_harness.errors import UserError
from lrd_harness.output import read_run
from lrd_harness.plan import PlannedModel

# options that change a state, and what kinds they are of in run.json
READING: dict[str, type] = {
    "pooling": str,
    "max_length": int,
    "dtype": str,
    "attention": str,
    "padding": str,
    "prompts": dict,
}


def as_scored(planned: PlannedModel, run: Path) -> PlannedModel:
    """The model under the name and with the options that it has in a run; both as run.json says.

    Options that were chosen for it pick one of several readings. Raises UserError where the run has
    not read the model, not so, or in several ways.
    """
    read = [entry for entry in _entries(run) if _is(entry, planned)]
    if not read:
        raise UserError(f"{run} holds no scores of {planned.name} at this revision")
    fit = [entry for entry in read if not _other(entry, planned)]
    if not fit:
        raise UserError(
            f"{run} holds {planned.name} read with {_other(read[0], planned)}: "
            "its scores are not those of the model that is saved"
        )
    named = [entry for entry in fit if entry["name"] == planned.name]
    if len(fit) > 1 and len(named) != 1:
        names = ", ".join(str(entry["name"]) for entry in fit)
        raise UserError(f"{run} holds several readings of {planned.name}: {names}; choose one")
    (entry, *_) = named or fit
    held = {name: entry["options"].get(name) for name in READING}
    options = replace(planned.options, **{n: v for n, v in held.items() if v is not None})
    return replace(planned, name=entry["name"], options=options)


def _entries(run: Path) -> list[Mapping[str, Any]]:
    """The models of run.json. Raises UserError for entries that are none."""
    found = read_run(run).get("models")
    if not isinstance(found, list) or not all(map(_sound, found)):
        raise UserError(f"{run / 'run.json'}: its models are not those of a run")
    return found


def _sound(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("options"), dict):
        return False
    held = {name: entry["options"].get(name) for name in READING}
    return all(
        value is None or isinstance(value, READING[name]) for name, value in held.items()
    ) and all(isinstance(entry.get(n), str) for n in ("name", "path", "revision", "adapter"))


def _is(entry: Mapping[str, Any], planned: PlannedModel) -> bool:
    """Whether that is the model; where it lies may be written in several ways."""
    found = planned.checkpoint
    names = {Path(found.path).name, Path(found.path).resolve().name}
    return bool(entry["revision"] == found.revision and Path(entry["path"]).name in names)


def _other(entry: Mapping[str, Any], planned: PlannedModel) -> str:
    """What the run has read otherwise than was chosen; "" if nothing."""
    if entry["adapter"] != planned.adapter.name:
        return f"the adapter {entry['adapter']}, not {planned.adapter.name}"
    for name in ("pooling", "max_length"):
        held, chosen = entry["options"].get(name), getattr(planned.options, name)
        if chosen is not None and held != chosen:
            return f"{name} {held or 'by default'}, not {chosen}"
    return ""
