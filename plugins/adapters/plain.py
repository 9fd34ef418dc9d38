"""Adapters for plain transformers checkpoints: encoders (T5 encoders, too), and causal models.

Encoders are pooled by mean unless they say cls; causal models by the last token, or as chosen.
"""

from __future__ import annotations

from typing import Any

from lrd_harness.contracts import Adapter, Checkpoint, Model, ModelOptions
from lrd_harness.errors import UserError
from lrd_harness.hookspecs import hookimpl
from lrd_harness.models.find import FILE, as_saved, read_json
from lrd_harness.models.loading import computing, listed_classes, load, refuse_missing
from lrd_harness.models.own_code import auto_classes
from lrd_harness.models.purposes import refuse_senses
from lrd_harness.models.recognition import LIST, SETTINGS, check_readable, foreign, refuse_kind

_CROSS = ("sentence_transformers", "sbert_ce_default_activation_function")
POOLING = "1_Pooling/config.json"
# sentence-transformers' names of poolings, old and new, and ours
POOLINGS = {
    **dict.fromkeys(("", "mean", "mean_tokens"), "mean"),
    **dict.fromkeys(("cls", "cls_token"), "cls"),
    "lasttoken": "last",
}


def _is_decoder(checkpoint: Checkpoint) -> bool:
    """Causal language models: by model type, or by architecture where that is unknown.

    Families that also have masked language models (BERT, RoBERTa) are encoders, unless the
    checkpoint says that it attends to the left only.
    """
    from transformers.models.auto import modeling_auto as auto

    config = checkpoint.config
    kind, names = str(config.get("model_type")), checkpoint.architectures
    causal = any("CausalLM" in name or "LMHead" in name for name in names)
    causal |= kind in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    encoder = kind in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES and not config.get("is_decoder")
    decoder = causal and not encoder and not config.get("is_encoder_decoder")
    return bool(decoder) and not foreign(checkpoint)


def open_decoder(checkpoint: Checkpoint, options: ModelOptions) -> Model:
    """Open a causal model, with its head only where likelihood tasks want it."""
    from lrd_harness.models.bidirectional import says_bidirectional

    usual = "mean" if says_bidirectional(checkpoint.config) else "last"
    return open_plain(checkpoint, options, adapter="decoder", default_pooling=usual)


def open_encoder(checkpoint: Checkpoint, options: ModelOptions) -> Model:
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
    if names in POOLINGS:
        return POOLINGS[names]
    raise UserError(
        f"{checkpoint.name}: its {POOLING} pools by {names[:80]}, which is "
        "not done without modules.json: choose a --pooling"
    )


def open_plain(
    checkpoint: Checkpoint, options: ModelOptions, *, adapter: str, default_pooling: str
) -> Model:
    """A checkpoint opened by transformers, pooled by one of our poolings.

    Where the options want a language-model head it has one, if the weights do. Raises UserError.
    """
    from lrd_harness.models.backbone import text_config
    from lrd_harness.models.lengths import stated_lengths
    from lrd_harness.models.text_model import Parts, TextModel

    options = as_saved(checkpoint, options)
    saved = as_saved(checkpoint, ModelOptions())
    says = POOLING if adapter == "encoder" and POOLING in checkpoint.files else ""
    module, tokenizer, whole = load_plain(checkpoint, options)
    lengths = stated_lengths(text_config(module), tokenizer.model_max_length)
    return TextModel(
        checkpoint,
        options,
        Parts(
            adapter=adapter,
            module=module,
            tokenizer=tokenizer,
            pooling=default_pooling,
            whole=whole,
            pooling_from=FILE if saved.pooling else says,
            lengths=lengths | ({FILE: saved.max_length} if saved.max_length else {}),
        ),
    )


def load_plain(checkpoint: Checkpoint, options: ModelOptions) -> tuple[Any, Any, Any]:
    """The backbone, its tokenizer, and the model with its head, None where there is none."""
    from transformers import AutoModel, AutoModelForCausalLM

    from lrd_harness.models.backbone import body, has_head

    kind: Any = AutoModelForCausalLM if options.head else _encoder_class(checkpoint) or AutoModel
    if own := auto_classes(checkpoint):  # of any other class transformers would take its own
        wanted = [AutoModelForCausalLM] if options.head else []
        kind = next((auto for auto in (*wanted, AutoModel) if auto in own), own[0])
    loaded, tokenizer, missing = load(kind, checkpoint, **computing(checkpoint, options))
    coded = loaded.config.is_encoder_decoder or kind is not AutoModel
    module = body(loaded) if coded or has_head(loaded) else loaded
    # of an encoder-decoder only the encoder is read
    used = {id(p) for p in module.parameters()}
    unread = {name for name, p in loaded.named_parameters() if id(p) not in used}
    refuse_missing(checkpoint.name, set(missing) - unread)
    headed = options.head and kind is AutoModelForCausalLM
    return module, tokenizer, loaded if headed and not missing else None


def _encoder_class(checkpoint: Checkpoint) -> Any:
    """The class of an encoder-decoder's encoder alone, to which AutoModel would give a decoder."""
    family = checkpoint.config.get("model_type")
    kinds = (k for k in listed_classes(checkpoint) if k.__name__.endswith("EncoderModel"))
    return next((k for k in kinds if k.config_class.model_type == family), None)


def check_plain(checkpoint: Checkpoint) -> None:
    """Raise UserError for what is no model of texts, or embeds none, and see check_readable.

    A model with a head for classes is read: its hidden states are what its head sees. A folder with
    modules.json is read for its transformer, where the user wants that.
    """
    config, name = checkpoint.config, checkpoint.name
    if LIST not in checkpoint.files and SETTINGS in checkpoint.files:
        refuse_kind(name, read_json(checkpoint, SETTINGS))
    if "HF_ColBERT" in checkpoint.architectures:
        raise UserError(
            f"{name} is a ColBERT model: it makes a vector of each token, none of texts"
        )
    for key in _CROSS:
        if config.get(key):
            raise UserError(
                f"{name} is a CrossEncoder of sentence-transformers, which scores pairs of texts "
                f"and makes no embedding of one (to read it all the same, take {key} out of a "
                "copy's config.json)"
            )
    refuse_senses(checkpoint)
    check_readable(checkpoint)


@hookimpl
def lrd_adapters() -> list[Adapter]:
    """Encoders, which any transformers checkpoint is taken for at last, and decoders."""
    return [
        Adapter(
            "encoder",
            lambda c: isinstance(c.config.get("model_type"), str) and not foreign(c),
            open_encoder,
            description="encoders as plain transformers checkpoints; mean or cls pooling",
            check=check_plain,
        ),
        Adapter(
            "decoder",
            _is_decoder,
            open_decoder,
            priority=10,
            description="causal language models; last-token pooling, or mean, or mean-no-sink",
            likelihoods=True,
            check=check_plain,
        ),
    ]
