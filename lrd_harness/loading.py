"""What a saved folder says of how it is read, so that it is opened as it was when it was measured.

sentence-transformers reads files of its own (see modules). Beside them a plain checkpoint has FILE,
by which the harness opens it as before, with its head.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from lrd_harness.contracts import Checkpoint, ModelOptions
from lrd_harness.errors import UserError

FILE = "lrd_harness.json"
# what FILE may say: instructions is the name under which mteb makes instructions for the model
KINDS: dict[str, type] = {
    "plain": bool,
    "instructions": str,
    "pooling": str,
    "max_length": int,
    "attention": str,
    "prompts": dict,
}


def saved(checkpoint: Checkpoint) -> dict[str, Any]:
    """What FILE says of how the checkpoint was read; {} without one.

    Raises UserError for a file that does not say it.
    """
    if FILE not in checkpoint.files:
        return {}
    from transformers.utils.hub import cached_file

    revision = checkpoint.revision if checkpoint.hub else None
    path = Path(str(cached_file(checkpoint.path, FILE, revision=revision)))
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        found = {key: said[key] for key in KINDS if said.get(key) is not None}
    except (OSError, ValueError, AttributeError, RecursionError):
        raise UserError(f"{checkpoint.name}: its {FILE} cannot be read") from None
    wrong = [key for key, value in found.items() if type(value) is not KINDS[key]]
    wrong += ["max_length"] * (not wrong and found.get("max_length", 1) < 1)
    prompts = found.get("prompts", {}) if not wrong else {}
    wrong += ["prompts"] * (not all(isinstance(prompt, str) for prompt in prompts.values()))
    if wrong:
        raise UserError(f"{checkpoint.name}: its {FILE} has no sound {wrong[0]}")
    return found


def of_modules(checkpoint: Checkpoint) -> bool:
    """Whether sentence-transformers' modules are to be read, and not the checkpoint below them."""
    return "modules.json" in checkpoint.files and not saved(checkpoint).get("plain", False)


def as_saved(checkpoint: Checkpoint, options: ModelOptions) -> ModelOptions:
    """The options of a plain checkpoint; those that are not chosen are as it was read before."""
    said = saved(checkpoint)
    return replace(
        options,
        pooling=options.pooling or said.get("pooling"),
        max_length=options.max_length or said.get("max_length"),
        attention=options.attention or said.get("attention"),
        prompts=said.get("prompts") if options.prompts is None else options.prompts,
    )


def known_as(checkpoint: Checkpoint) -> str:
    """The name by which mteb knows the model's prompts, if it knows them."""
    return str(saved(checkpoint).get("instructions", checkpoint.name))
