"""When a model was released: what "released later" predicts, which needs no metric at all.

Dates are ISO 8601, as exact as they are known: 2024-02-08, 2024-02 or 2024.

What kind a model is, by what was recorded of it: encoder, decoder embedder, base model.
"""

from __future__ import annotations

import calendar
import re
from datetime import date
from typing import Literal

from lrd_harness.results.rows import ModelRow
from lrd_harness.results.tasks import Kind

ModelKind = Literal["encoder", "decoder embedder", "base model"]

# Beginnings of transformers' model types, and of the families of published panels.
_ENCODERS = (
    "albert bert big_bird camembert deberta distilbert electra ernie esm eurobert gte jina_bert "
    "lilt longformer luke megatron-bert minilm modernbert mpnet mt5 neobert new nomic_bert "
    "nystromformer roberta roformer splinter squeezebert t5 umt5 xlm xlnet xmod"
).split()
_DECODERS = (
    "bloom cohere deepseek falcon gemma glm gpt granite internlm llama mamba minicpm mistral "
    "mixtral nemotron olmo opt phi pythia qwen rwkv smollm stablelm starcoder yi"
).split()


def model_kind(model: ModelRow, board: Kind = "embedding") -> ModelKind | None:
    """The kind of a model on a board; None where nothing recorded tells it.

    On a board of likelihood tasks all are base models: their head is what is scored. On a board of
    embedding tasks a causal language model as it is (adapter "decoder") is a base model as well. Of
    others a decoder is one that pools the last token, or whose family is one of decoders, however
    it attends now.
    """
    if board == "base" or model.adapter == "decoder":
        return "base model"
    if model.adapter == "encoder":
        return "encoder"
    family = (model.family or "").lower().replace("xlm-", "").replace("xlm_", "")
    if model.pooling in ("last", "lasttoken") or family.startswith(tuple(_DECODERS)):
        return "decoder embedder"
    return "encoder" if family.startswith(tuple(_ENCODERS)) else None


FORM = "YYYY-MM-DD, YYYY-MM or YYYY"
_DATE = re.compile(r"(\d{4})(?:-(\d{2})(?:-(\d{2}))?)?", re.ASCII)


def middle(released: str) -> float:
    """The middle of the day, month or year, in days since year 1.

    The middle, as it is the least wrong where dates of unlike exactness are put in order.
    Raises ValueError for what is no such date.
    """
    found = _DATE.fullmatch(released)
    year, month, day = (
        (int(part) if part else None for part in found.groups()) if found else [0] * 3
    )
    try:
        first = date(year or 0, 1 if month is None else month, 1 if day is None else day)
    except ValueError:
        raise ValueError(f"'{released}' is no date: {FORM}") from None
    if day is not None:
        days = 1
    elif month is not None:
        days = calendar.monthrange(first.year, month)[1]
    else:
        days = 365 + calendar.isleap(first.year)
    return first.toordinal() + days / 2


def known(model: str) -> str | None:
    """The release date that mteb's registry, which is part of its package, has for a model.

    model: the name in results; a revision or a reading of its own (`NAME@REVISION`, `NAME [cls]`)
    was released with NAME. None for a model that mteb does not know.
    """
    import mteb

    try:
        meta = mteb.get_model_meta(hub_name(model), fetch_from_hf=False)
        released = str(meta.release_date)
        middle(released)
    except (KeyError, ValueError):
        return None
    return released


def hub_name(model: str) -> str:
    """The name without revision and reading: `NAME@REVISION [cls]` is NAME."""
    return model.partition(" [")[0].partition("@")[0]
