"""What kind a model is, by what was recorded of it: encoder, decoder embedder, base model."""

from __future__ import annotations

from typing import Literal

from lrd_harness.rows import ModelRow
from lrd_harness.sides import Kind

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
