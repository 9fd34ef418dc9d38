"""Adapter: plain encoders (BERT and its kin, T5 encoders), mean of the tokens by default."""

from __future__ import annotations

from lrd_harness.contracts import Adapter, Checkpoint, Model, ModelOptions
from lrd_harness.hookspecs import hookimpl

from ._plain import open_plain


def claims(checkpoint: Checkpoint) -> bool:
    """Any transformers checkpoint; it is asked last."""
    return "model_type" in checkpoint.config


def open_model(checkpoint: Checkpoint, options: ModelOptions) -> Model:
    """Open with AutoModel; of an encoder-decoder, the encoder."""
    return open_plain(checkpoint, options, adapter="encoder", default_pooling="mean")


@hookimpl
def lrd_adapters() -> list[Adapter]:
    """The adapter for plain encoders."""
    return [
        Adapter(
            "encoder",
            claims,
            open_model,
            description="encoders as plain transformers checkpoints; mean pooling",
        )
    ]
