"""How a checkpoint is loaded by transformers, and which of its weights are not there.

A folder that the harness has saved says in FILE how it was read, beside what transformers and
sentence-transformers write, so that it is opened as it was when it was measured.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from lrd_harness.contracts import Checkpoint, ModelOptions
from lrd_harness.errors import UserError
from lrd_harness.models.find import read_json
from lrd_harness.models.recognition import LIST

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
    try:
        content = read_json(checkpoint, FILE)
    except UserError:
        raise UserError(f"{checkpoint.name}: its {FILE} cannot be read") from None
    settings = {key: content[key] for key in KINDS if content.get(key) is not None}
    wrong = [key for key, value in settings.items() if type(value) is not KINDS[key]]
    if not wrong and settings.get("max_length", 1) < 1:
        wrong = ["max_length"]
    if not wrong and not all(isinstance(p, str) for p in settings.get("prompts", {}).values()):
        wrong = ["prompts"]
    if wrong:
        raise UserError(f"{checkpoint.name}: its {FILE} has no sound {wrong[0]}")
    return settings


def of_modules(checkpoint: Checkpoint) -> bool:
    """Whether sentence-transformers' modules are to be read, and not the checkpoint below them."""
    return LIST in checkpoint.files and not saved(checkpoint).get("plain", False)


def as_saved(checkpoint: Checkpoint, options: ModelOptions) -> ModelOptions:
    """The options of a plain checkpoint; those that are not chosen are as it was read before."""
    before = saved(checkpoint)
    return replace(
        options,
        pooling=options.pooling or before.get("pooling"),
        max_length=options.max_length or before.get("max_length"),
        attention=options.attention or before.get("attention"),
        prompts=before.get("prompts") if options.prompts is None else options.prompts,
    )


def known_as(checkpoint: Checkpoint) -> str:
    """The name by which mteb knows the model's prompts, if it knows them."""
    return str(saved(checkpoint).get("instructions", checkpoint.name))


def source(checkpoint: Checkpoint) -> dict[str, Any]:
    """What the libraries' loaders are told of where a checkpoint lies; its own code is not run."""
    return {
        "revision": checkpoint.revision if checkpoint.hub else None,
        "local_files_only": not checkpoint.hub,
        "trust_remote_code": False,
    }


def computing(options: ModelOptions) -> dict[str, Any]:
    """What transformers' loaders are told of precision, attention and devices."""
    chosen = {"attn_implementation": options.attention, "device_map": options.device_map}
    return {"dtype": options.dtype} | {k: v for k, v in chosen.items() if v is not None}


def load(
    kind: Any, path: str, where: Mapping[str, Any], **arguments: Any
) -> tuple[Any, Any, list[str]]:
    """A model of a class, its tokenizer, and the weights that the checkpoint has not got.

    Poolers without weights are left out of the model, and are not among those.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path, **where)
    model, loading = kind.from_pretrained(
        path, use_safetensors=True, output_loading_info=True, **arguments, **where
    )
    return model, tokenizer, _missing(model, loading)


def _missing(model: Any, loading: Mapping[str, Any]) -> list[str]:
    missing = {*loading["missing_keys"], *(key for key, *_ in loading["mismatched_keys"])}
    from lrd_harness.models.pooling import leave_out

    leave_out(model, missing)
    return sorted(key for key in missing if "pooler" not in key)


def refuse_missing(name: str, missing: Collection[str]) -> None:
    """Raise UserError for weights that are not there, so that they would be random."""
    if missing:
        raise UserError(f"{name}: its weights lack {len(missing)} tensors, as {min(missing)}")


def check_whole(checkpoint: Checkpoint, module: Any, subfolder: str = "") -> None:
    """Raise UserError if a model that was loaded from this checkpoint was not filled by it.

    For loaders that do not say: the names are compared on the meta device, no weight is read. A
    random pooler is left out of the module.
    """
    if getattr(module, "hf_quantizer", None):
        return  # weights that are packed under other names
    _, loading = type(module).from_pretrained(
        checkpoint.path,
        config=module.config,
        subfolder=subfolder,
        use_safetensors=True,
        output_loading_info=True,
        device_map="meta",
        **source(checkpoint),
    )
    refuse_missing(checkpoint.name, _missing(module, loading))
