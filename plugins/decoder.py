"""Adapter: decoders as embedders; pooling last (default), mean, or mean-no-sink."""

from __future__ import annotations

from lrd_harness.contracts import Adapter, Checkpoint, Model, ModelOptions
from lrd_harness.hookspecs import hookimpl

from ._plain import open_plain


def claims(checkpoint: Checkpoint) -> bool:
    """Causal language models: by architecture, else by model type."""
    architectures = checkpoint.config.get("architectures") or []
    if any("CausalLM" in name or "LMHead" in name for name in architectures):
        return bool(checkpoint.config.get("model_type") != "bert")
    from transformers.models.auto import modeling_auto as auto

    kind = checkpoint.config.get("model_type")
    causal = kind in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return causal and kind not in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES


def open_model(checkpoint: Checkpoint, options: ModelOptions) -> Model:
    """Open the decoder without its head."""
    return open_plain(checkpoint, options, adapter="decoder", default_pooling="last")


@hookimpl
def lrd_adapters() -> list[Adapter]:
    """The adapter for decoders."""
    return [
        Adapter(
            "decoder",
            claims,
            open_model,
            priority=10,
            description="causal language models; last-token pooling, or mean, or mean-no-sink",
        )
    ]
