"""Adapter: plain encoders (BERT and its kin, T5 encoders); pooled by mean unless they say cls."""

from __future__ import annotations

import json
from pathlib import Path

from lrd_harness.contracts import Adapter, Checkpoint, ModelOptions
from lrd_harness.hookspecs import hookimpl
from lrd_harness.protocols import Model

from ._plain import open_plain

POOLING = "1_Pooling/config.json"


def claims(checkpoint: Checkpoint) -> bool:
    """Any transformers checkpoint; it is asked last."""
    return "model_type" in checkpoint.config


def open_model(checkpoint: Checkpoint, options: ModelOptions) -> Model:
    """Open with AutoModel; of an encoder-decoder, the encoder."""
    return open_plain(checkpoint, options, adapter="encoder", default_pooling=_usual(checkpoint))


def _usual(checkpoint: Checkpoint) -> str:
    """The pooling that comes with a model whose modules.json was left out."""
    if POOLING not in checkpoint.files:
        return "mean"
    from transformers.utils.hub import cached_file

    revision = checkpoint.revision if checkpoint.hub else None
    path = Path(str(cached_file(checkpoint.path, POOLING, revision=revision)))
    said = json.loads(path.read_text(encoding="utf-8"))
    cls = said.get("pooling_mode") == "cls" or said.get("pooling_mode_cls_token") is True
    return "cls" if cls else "mean"


@hookimpl
def lrd_adapters() -> list[Adapter]:
    """The adapter for plain encoders."""
    return [
        Adapter(
            "encoder",
            claims,
            open_model,
            description="encoders as plain transformers checkpoints; mean or cls pooling",
        )
    ]
