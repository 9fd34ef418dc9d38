"""What the adapters for plain transformers checkpoints share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lrd_harness.contracts import Checkpoint, ModelOptions, Text
from lrd_harness.devices import mapping
from lrd_harness.errors import UserError
from lrd_harness.protocols import Model

UNLIMITED = 8192  # tokens of a text, where a model says nothing


def open_plain(
    checkpoint: Checkpoint, options: ModelOptions, *, adapter: str, default_pooling: str
) -> Model:
    """A checkpoint opened by transformers, pooled by one of our poolings.

    Where the options want a language-model head it has one, if the weights do.
    Raises UserError for an unknown pooling and for weights that do not fill the model.
    """
    from lrd_harness.prompts import prompt_rule
    from lrd_harness.text_model import Parts, TextModel, by_mask

    pooling = options.pooling or default_pooling
    pool = by_mask(pooling)
    module, tokenizer, whole = _load(checkpoint, options)
    max_length = length_limit(module, options.max_length or _usual_length(module, tokenizer))
    return TextModel(
        checkpoint,
        options,
        Parts(
            adapter=adapter,
            module=module,
            tokenizer=tokenizer,
            encode=_encoder(tokenizer, max_length),
            pool=pool,
            pooling=pooling,
            max_length=max_length,
            prompt=prompt_rule(checkpoint.name, chosen=options.prompts),
            whole=whole,
        ),
    )


def _load(checkpoint: Checkpoint, options: ModelOptions) -> tuple[Any, Any, Any]:
    """The backbone, its tokenizer, and the model with its head, None where there is none."""
    from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

    where = {
        "revision": checkpoint.revision if checkpoint.hub else None,
        "local_files_only": not checkpoint.hub,
        "trust_remote_code": False,
    }
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.path, **where)
    kind: Any = AutoModelForCausalLM if options.head else AutoModel
    loaded, loading = kind.from_pretrained(
        checkpoint.path,
        dtype=options.dtype,
        use_safetensors=True,
        output_loading_info=True,
        **({"attn_implementation": options.attention} if options.attention else {}),
        **mapping(options),
        **where,
    )
    if options.head:
        _refuse_holes(checkpoint, loaded, loaded.base_model, loading)
        whole = None if _holes(loading) else loaded
        return loaded.base_model, tokenizer, whole
    module = loaded.get_encoder() if loaded.config.is_encoder_decoder else loaded
    _refuse_holes(checkpoint, loaded, module, loading)
    return module, tokenizer, None


def _refuse_holes(checkpoint: Checkpoint, whole: Any, used: Any, loading: Any) -> None:
    """Raise UserError for weights that the part in use has not got, so that they are random.

    A pooler is never read, and of an encoder-decoder only the encoder is.
    """
    read = {id(p) for p in used.parameters()}
    unread = {name for name, p in whole.named_parameters() if id(p) not in read}
    holes = [key for key in _holes(loading) if "pooler" not in key and key not in unread]
    if holes:
        raise UserError(f"{checkpoint.name}: its weights lack {len(holes)} tensors, as {holes[0]}")


def _holes(loading: Any) -> list[str]:
    """The names of the weights that a checkpoint has not got, or not in the right shape."""
    return sorted(set(loading["missing_keys"]) | {key for key, *_ in loading["mismatched_keys"]})


def check_whole(checkpoint: Checkpoint, module: Any, subfolder: str = "") -> None:
    """Raise UserError if a model that was loaded from this checkpoint was not filled by it.

    For loaders that do not say: the names are compared on the meta device, no weight is read.
    """
    if "adapter_config.json" in checkpoint.files or getattr(module, "hf_quantizer", None):
        return  # weights from several places, or packed under other names
    shell, loading = type(module).from_pretrained(
        checkpoint.path,
        config=module.config,
        subfolder=subfolder,
        revision=checkpoint.revision if checkpoint.hub else None,
        local_files_only=not checkpoint.hub,
        use_safetensors=True,
        output_loading_info=True,
        device_map="meta",
    )
    _refuse_holes(checkpoint, shell, shell, loading)


def length_limit(module: Any, wanted: int) -> int:
    """The most tokens a text may have: as many as wanted, if there are positions for them.

    Only position tables are a limit; where positions are computed, more than config.json says work.
    """
    limits = [wanted]
    for name, table in module.named_modules():
        position = "position" in name or name.endswith("wpe")
        if position and "rel" not in name and getattr(table, "num_embeddings", 0):
            padding = -1 if table.padding_idx is None else table.padding_idx
            limits.append(table.num_embeddings - padding - 1 - getattr(table, "offset", 0))
    return int(min(limits))


def _usual_length(module: Any, tokenizer: Any) -> int:
    """What the tokenizer and config.json say, whichever is less."""
    config = module.config.get_text_config()
    limits = [tokenizer.model_max_length]
    for name in ("max_position_embeddings", "n_positions"):
        positions = getattr(config, name, None) or 0
        limits += [positions] * (positions > 0)
    return int(min(limits)) if min(limits) < 10**6 else UNLIMITED


def _encoder(tokenizer: Any, max_length: int) -> Callable[[Sequence[Text]], list[dict[str, Any]]]:
    def encode(texts: Sequence[Text]) -> list[dict[str, Any]]:
        features = tokenizer(
            [t.prompt + t.text for t in texts], truncation=True, max_length=max_length
        )
        names = [n for n in ("input_ids", "token_type_ids") if n in features]
        return [{n: features[n][i] for n in names} for i in range(len(texts))]

    return encode
