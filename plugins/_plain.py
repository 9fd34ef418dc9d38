"""What the adapters for plain transformers checkpoints share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lrd_harness.contracts import Checkpoint, Model, ModelOptions, Text
from lrd_harness.errors import UserError


def open_plain(
    checkpoint: Checkpoint, options: ModelOptions, *, adapter: str, default_pooling: str
) -> Model:
    """A checkpoint opened with AutoModel, pooled by one of our poolings.

    Raises UserError for an unknown pooling and for weights that do not fill the model.
    """
    from lrd_harness.pooling import POOLINGS
    from lrd_harness.prompts import prompt_rule
    from lrd_harness.text_model import Parts, TextModel, by_mask

    pooling = options.pooling or default_pooling
    if pooling not in POOLINGS:
        raise UserError(f"unknown pooling '{pooling}'. Choose from {', '.join(POOLINGS)}.")
    module, tokenizer = _load(checkpoint, options)
    max_length = options.max_length or _max_length(module, tokenizer)
    return TextModel(
        checkpoint,
        options,
        Parts(
            adapter=adapter,
            module=module,
            tokenizer=tokenizer,
            encode=_encoder(tokenizer, max_length),
            pool=by_mask(pooling),
            pooling=pooling,
            max_length=max_length,
            prompt=prompt_rule(checkpoint.name, chosen=options.prompts),
        ),
    )


def _load(checkpoint: Checkpoint, options: ModelOptions) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    where = {
        "revision": checkpoint.revision if checkpoint.hub else None,
        "local_files_only": not checkpoint.hub,
    }
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.path, **where)
    module, loading = AutoModel.from_pretrained(
        checkpoint.path,
        dtype=options.dtype,
        use_safetensors=True,
        output_loading_info=True,
        **({"attn_implementation": options.attention} if options.attention else {}),
        **where,
    )
    # a pooler is never read, so its absence is no fault; any other hole would be random weights
    holes = [key for key in loading["missing_keys"] if "pooler" not in key]
    if holes:
        raise UserError(f"{checkpoint.name}: its weights lack {len(holes)} tensors, as {holes[0]}")
    if getattr(module.config, "is_encoder_decoder", False):
        module = module.get_encoder()
    return module, tokenizer


def _max_length(module: Any, tokenizer: Any) -> int:
    """The shorter of what the tokenizer and the position embeddings allow."""
    config = module.config.get_text_config()
    limits = [tokenizer.model_max_length]
    positions = getattr(config, "max_position_embeddings", None) or getattr(
        config, "n_positions", None
    )
    if positions:
        offset = getattr(getattr(module, "embeddings", None), "padding_idx", None)
        limits.append(positions if offset is None else positions - offset - 1)
    limit = min(limits)
    return int(limit) if limit < 10**6 else 8192


def _encoder(tokenizer: Any, max_length: int) -> Callable[[Sequence[Text]], list[dict[str, Any]]]:
    def encode(texts: Sequence[Text]) -> list[dict[str, Any]]:
        features = tokenizer(
            [t.prompt + t.text for t in texts], truncation=True, max_length=max_length
        )
        names = [n for n in ("input_ids", "token_type_ids") if n in features]
        return [{n: features[n][i] for n in names} for i in range(len(texts))]

    return encode
