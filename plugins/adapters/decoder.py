"""Adapter: causal language models; pooling last (default), mean, or mean-no-sink."""

from __future__ import annotations

from lrd_harness.contracts import Adapter, Checkpoint, Model, ModelOptions
from lrd_harness.hookspecs import hookimpl

from ._plain import check_plain, open_plain


def claims(checkpoint: Checkpoint) -> bool:
    """Causal language models: by model type, or by architecture where that is unknown.

    Families that also have masked language models (BERT, RoBERTa) are encoders, unless the
    checkpoint says that it attends to the left only.
    """
    from transformers.models.auto import modeling_auto as auto

    config = checkpoint.config
    kind, listed = str(config.get("model_type")), config.get("architectures")
    architectures = map(str, listed if isinstance(listed, list) else ())
    causal = any("CausalLM" in name or "LMHead" in name for name in architectures)
    causal |= kind in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    encoder = kind in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES and not config.get("is_decoder")
    return bool(causal and not encoder and not config.get("is_encoder_decoder"))


def open_model(checkpoint: Checkpoint, options: ModelOptions) -> Model:
    """Open the decoder, with its head only where likelihood tasks want it."""
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
            likelihoods=True,
            check=check_plain,
        )
    ]
