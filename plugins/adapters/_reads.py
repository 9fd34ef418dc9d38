"""What the adapters for transformers checkpoints refuse, by what config.json says it is."""

from __future__ import annotations

from typing import Any

from lrd_harness.contracts import Checkpoint
from lrd_harness.errors import UserError
from lrd_harness.models.find import read_json
from lrd_harness.models.recognition import LIST, SETTINGS, refuse_kind

_CROSS = ("sentence_transformers", "sbert_ce_default_activation_function")


def check_plain(checkpoint: Checkpoint) -> None:
    """Raise UserError for what is no model of texts, or embeds none, and see check_quantised.

    A model with a head for classes is read: its hidden states are what its head sees. A folder with
    modules.json is read for its transformer, where the user wants that.
    """
    config, name = checkpoint.config, checkpoint.name
    if LIST not in checkpoint.files and SETTINGS in checkpoint.files:
        refuse_kind(name, read_json(checkpoint, SETTINGS))
    architectures = config.get("architectures")
    if isinstance(architectures, list) and "HF_ColBERT" in architectures:
        raise UserError(
            f"{name} is a ColBERT model: it makes a vector of each token, none of texts"
        )
    if any(config.get(key) for key in _CROSS):
        raise UserError(
            f"{name} is a CrossEncoder of sentence-transformers, which scores pairs of texts and "
            f"makes no embedding of one (to read it all the same, take {_named(config)} out of a "
            "copy's config.json)"
        )
    _check_senses(checkpoint)
    check_quantised(checkpoint)


def check_quantised(checkpoint: Checkpoint) -> None:
    """Raise UserError for weights quantised in a way that transformers cannot undo on this machine.

    It skips one that it does not know, and reads packed numbers as weights.
    """
    said = checkpoint.config.get("quantization_config")
    if said is None:
        return
    from transformers.quantizers.auto import AutoHfQuantizer

    method = str(said.get("quant_method") if isinstance(said, dict) else said)
    try:
        AutoHfQuantizer.from_config(said, pre_quantized=True).validate_environment(
            device_map=None, dtype=None, weights_only=True
        )
    except Exception as error:  # a package that lacks, a device that lacks, a method not known
        reason = " ".join((str(error) or type(error).__name__).split()).split(". ")[0][:120]
        raise UserError(
            f"{checkpoint.name}: its weights are quantised ({method[:40]}) and cannot be read "
            f"here: {reason}"
        ) from error


def _named(config: Any) -> str:
    return next(key for key in _CROSS if config.get(key))


def _check_senses(checkpoint: Checkpoint) -> None:
    """Raise UserError for a model of images or sound alone, and for two towers side by side."""
    import transformers
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES as TOWERS,
    )

    name = _class(checkpoint)
    taken = getattr(getattr(transformers, name, None), "input_modalities", "text")
    senses = [taken] if isinstance(taken, str) else list(taken)
    if "text" not in senses:
        raise UserError(f"{checkpoint.name} reads no text: {name} takes {' and '.join(senses)}")
    if checkpoint.config.get("model_type") in TOWERS:
        raise UserError(
            f"{checkpoint.name} compares images with texts ({name}), each in a tower of its own, "
            "and is not read"
        )


def _class(checkpoint: Checkpoint) -> str:
    """The name of the class that AutoModel opens this type with; "" where there is none."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    kind = checkpoint.config.get("model_type")
    found = MODEL_MAPPING_NAMES.get(kind, "") if isinstance(kind, str) else ""
    return found if isinstance(found, str) else found[0]
