"""Adapter: plain encoders (BERT and the like, T5 encoders); pooled by mean unless they say cls."""

from __future__ import annotations

from lrd_harness.contracts import Adapter, Checkpoint, Model, ModelOptions
from lrd_harness.errors import UserError
from lrd_harness.hookspecs import hookimpl
from lrd_harness.models.find import read_json

from ._plain import check_plain, open_plain

POOLING = "1_Pooling/config.json"
# sentence-transformers' names of poolings, old and new, and ours
OURS = {
    **dict.fromkeys(("", "mean", "mean_tokens"), "mean"),
    **dict.fromkeys(("cls", "cls_token"), "cls"),
    "lasttoken": "last",
}


def claims(checkpoint: Checkpoint) -> bool:
    """Any transformers checkpoint; it is asked last."""
    return isinstance(checkpoint.config.get("model_type"), str)


def open_model(checkpoint: Checkpoint, options: ModelOptions) -> Model:
    """Open with AutoModel; of an encoder-decoder, the encoder."""
    usual = "mean" if options.pooling else _usual(checkpoint)
    return open_plain(checkpoint, options, adapter="encoder", default_pooling=usual)


def _usual(checkpoint: Checkpoint) -> str:
    """The pooling that comes with a model whose modules.json was left out.

    Raises UserError for one that is none of ours.
    """
    if POOLING not in checkpoint.files:
        return "mean"
    settings = read_json(checkpoint, POOLING)
    modes = settings.get("pooling_mode")
    if modes is None:  # as earlier versions of sentence-transformers wrote it
        flags = (key for key, value in settings.items() if value is True)
        modes = [f.removeprefix("pooling_mode_") for f in flags if f.startswith("pooling_mode_")]
    names = "+".join(map(str, [modes] if isinstance(modes, str) else modes))
    if names in OURS:
        return OURS[names]
    raise UserError(
        f"{checkpoint.name}: its {POOLING} pools by {names[:80]}, which is "
        "not done without modules.json: choose a --pooling"
    )


@hookimpl
def lrd_adapters() -> list[Adapter]:
    """The adapter for plain encoders."""
    return [
        Adapter(
            "encoder",
            claims,
            open_model,
            description="encoders as plain transformers checkpoints; mean or cls pooling",
            check=check_plain,
        )
    ]
