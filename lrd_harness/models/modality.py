"""Whether a model reads texts or images, told by its configuration before anything is loaded."""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

TOKENIZER = re.compile(
    r"tokenizer.*|special_tokens_map\.json|vocab.*|merges.*|bpe\..*|.*\.(model|spm|vocab|tiktoken)"
)
PROCESSORS = ("preprocessor_config.json", "processor_config.json")  # of images and sound


def has_tokenizer(files: Collection[str]) -> bool:
    """Whether a file of a tokenizer is among these, in whatever folder."""
    return any(TOKENIZER.fullmatch(file.rpartition("/")[2]) for file in files)


def senses_of(config: Mapping[str, Any]) -> tuple[str, Collection[str]]:
    """transformers' class of a model, "" without one, and what it takes: text, image, audio ..."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    names = MODEL_MAPPING_NAMES.get(str(config.get("model_type")), "")
    name = names if isinstance(names, str) else names[0]
    listed = _saved_as(config)
    if not name or listed.endswith("VisionModelWithProjection"):  # for which there is no Auto class
        name = listed
    modalities: Any = "text"
    with suppress(ImportError):  # a class whose package is not installed
        modalities = getattr(getattr(transformers, name, None), "input_modalities", "text")
    return name, [modalities] if isinstance(modalities, str) else list(modalities)


def _saved_as(config: Mapping[str, Any]) -> str:
    """The class of which the checkpoint was saved, "" where it does not say."""
    classes = config.get("architectures")
    return str(classes[0]) if isinstance(classes, list) and classes else ""


def two_towers(config: Mapping[str, Any]) -> bool:
    """Whether it compares images with texts, each in a tower of its own."""
    from transformers.models.auto import modeling_auto as auto

    kind = str(config.get("model_type"))
    return kind in auto.MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES


def vision_class(config: Mapping[str, Any]) -> Any:
    """The class that a model of images is opened with; of two towers that of images.

    With its projection, where the checkpoint has one. None where there is no such class, and for a
    tower whose weights lie elsewhere in a checkpoint of both (BLIP-2, ALIGN).
    """
    import transformers

    name, _ = senses_of(config)
    kind: Any = getattr(transformers, name, None)
    if not two_towers(config):
        return kind
    read: Any = getattr(kind, "get_image_features", None)
    projects = read and "visual_projection" in inspect.unwrap(read).__code__.co_names
    tower = name.removesuffix("Model") + "VisionModel"
    kind = getattr(transformers, tower + "WithProjection" * bool(projects), None)
    if read is None or getattr(kind, "base_model_prefix", "") != "vision_model":
        return None
    if _saved_as(config).endswith("ForImageClassification"):  # its head is in place of a projection
        kind = getattr(transformers, tower)
    return kind


def reads_images(config: Mapping[str, Any], files: Collection[str]) -> bool:
    """Whether it is a model of images alone, or has a tower of them that can be read.

    Of code of its own it is told by its files: an image processor, and no tokenizer.
    """
    name, senses = senses_of(config)
    if not name or ("auto_map" in config and "image" not in senses):
        prepared = not {*PROCESSORS}.isdisjoint(files) and not has_tokenizer(files)
        return "auto_map" in config and prepared
    if two_towers(config):
        return vision_class(config) is not None
    return "image" in senses and "text" not in senses
