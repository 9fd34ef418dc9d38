"""What the adapters for plain transformers checkpoints share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lrd_harness.contracts import Checkpoint, Model, ModelOptions, Text
from lrd_harness.errors import UserError
from lrd_harness.models.text_model import mapping

UNLIMITED = 8192  # tokens of a text, where a model says nothing
# Under which names configurations say how long texts may be.
LENGTHS = (
    "max_position_embeddings n_positions max_seq_len max_seq_length max_sequence_length seq_length "
    "n_ctx"
).split()


def open_plain(
    checkpoint: Checkpoint, options: ModelOptions, *, adapter: str, default_pooling: str
) -> Model:
    """A checkpoint opened by transformers, pooled by one of our poolings.

    Where the options want a language-model head it has one, if the weights do.
    Raises UserError for an unknown pooling and for weights that do not fill the model.
    """
    from lrd_harness.models.prompts import prompt_rule
    from lrd_harness.models.save import as_saved, known_as
    from lrd_harness.models.text_model import Parts, TextModel, by_mask

    options = as_saved(checkpoint, options)
    pooling = options.pooling or default_pooling
    pool = by_mask(pooling)
    module, tokenizer, whole = _load(checkpoint, options)
    return TextModel(
        checkpoint,
        options,
        Parts(
            adapter=adapter,
            module=module,
            tokenizer=tokenizer,
            encode=_encoder(tokenizer),
            pool=pool,
            pooling=pooling,
            max_length=options.max_length or usual_length(module, tokenizer.model_max_length),
            prompt=prompt_rule(known_as(checkpoint), chosen=options.prompts),
            whole=whole,
        ),
    )


def _load(checkpoint: Checkpoint, options: ModelOptions) -> tuple[Any, Any, Any]:
    """The backbone, its tokenizer, and the model with its head, None where there is none."""
    from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

    from lrd_harness.models.backbone import body, has_head
    from lrd_harness.models.pooling import leave_out

    where = {
        "revision": checkpoint.revision if checkpoint.hub else None,
        "local_files_only": not checkpoint.hub,
        "trust_remote_code": False,
    }
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.path, **where)
    kind: Any = AutoModelForCausalLM if options.head else _encoder_class(checkpoint) or AutoModel
    loaded, loading = kind.from_pretrained(
        checkpoint.path,
        dtype=options.dtype,
        use_safetensors=True,
        output_loading_info=True,
        **({"attn_implementation": options.attention} if options.attention else {}),
        **mapping(options),
        **where,
    )
    leave_out(loaded, _holes(loading))
    if options.head:
        module = body(loaded)
        _refuse_holes(checkpoint, loaded, module, loading)
        return module, tokenizer, None if _holes(loading) else loaded
    coded = loaded.config.is_encoder_decoder or kind is not AutoModel
    module = body(loaded) if coded or has_head(loaded) else loaded
    _refuse_holes(checkpoint, loaded, module, loading)
    return module, tokenizer, None


def _encoder_class(checkpoint: Checkpoint) -> Any:
    """The class of a checkpoint that is the encoder of an encoder-decoder alone, as T5EncoderModel.

    AutoModel would give it a decoder, whose weights there are none of.
    """
    import transformers

    named = checkpoint.config.get("architectures")
    for name in named if isinstance(named, list) else ():
        found = getattr(transformers, name, None) if str(name).endswith("EncoderModel") else None
        if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
            kind = getattr(found.config_class, "model_type", None)
            return found if kind == checkpoint.config.get("model_type") else None
    return None


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

    For loaders that do not say: the names are compared on the meta device, no weight is read. A
    random pooler is left out of the module.
    """
    from lrd_harness.models.pooling import leave_out

    if getattr(module, "hf_quantizer", None):
        return  # weights that are packed under other names
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
    leave_out(module, _holes(loading))


def usual_length(module: Any, said: float | None) -> int:
    """The most tokens of a text that the tokenizer (`said`) and config.json speak of, the less.

    Whether the model bears so many, and whether it bears more, is tried when it is opened.
    """
    config: Any = getattr(module, "config", None)
    text = config.get_text_config() if config is not None else None
    limits: list[float] = [said] if said else []
    for name in LENGTHS:
        value = getattr(text, name, None)
        if type(value) is int and value > 0:
            limits.append(value)
    least = min(limits, default=float("inf"))
    return int(least) if 0 < least < 10**6 else UNLIMITED


def _encoder(tokenizer: Any) -> Callable[[Sequence[Text], int], list[dict[str, Any]]]:
    def encode(texts: Sequence[Text], max_length: int) -> list[dict[str, Any]]:
        features = tokenizer(
            [t.prompt + t.text for t in texts], truncation=True, max_length=max_length
        )
        names = [n for n in ("input_ids", "token_type_ids") if n in features]
        return [{n: features[n][i] for n in names} for i in range(len(texts))]

    return encode
