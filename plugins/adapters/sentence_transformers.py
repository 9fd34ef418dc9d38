"""Adapter: sentence-transformers models, their tokenisation, pooling and output honoured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from lrd_harness.contracts import Adapter, Checkpoint, Model, ModelOptions, PromptType, Text
from lrd_harness.errors import UserError
from lrd_harness.hookspecs import hookimpl
from lrd_harness.models.find import known_as, of_modules, read_json
from lrd_harness.models.loading import check_whole, computing, origin
from lrd_harness.models.recognition import LIST, Module, Source, modules_of, refuse_unread

from .plain import UNLIMITED, check_quantised

if TYPE_CHECKING:
    from torch import Tensor

    from lrd_harness.models.text_model import TextModel


STATES = {"method": "forward", "method_output_name": "last_hidden_state"}


def check(checkpoint: Checkpoint) -> None:
    """Raise UserError unless it is a transformer, a pooling, and modules on the pooled vector."""
    source = Source(checkpoint.name, checkpoint.files, partial(read_json, checkpoint))
    refuse_unread(source, _modules(checkpoint))
    check_quantised(checkpoint)


def _modules(checkpoint: Checkpoint) -> list[Module]:
    return modules_of(read_json(checkpoint, LIST, list), f"{checkpoint.name}: {LIST}")


def open_model(checkpoint: Checkpoint, options: ModelOptions) -> Model:
    """Open the model as sentence-transformers does; its last layer gives what its encode() gives.

    A model that mteb knows is opened as mteb opens it (length limit, end token, and so on).
    """
    from lrd_harness.models.registry import prompt_rule
    from lrd_harness.models.sentence_modules import pooled_by
    from lrd_harness.models.text_model import Parts, TextModel, by_mask

    chosen = by_mask(options.pooling) if options.pooling else None
    check(checkpoint)
    model = _load(checkpoint, options)
    backbone, pooling = _backbone(model[0], checkpoint.name), model[1]
    spelled, after = pooled_by(list(model))
    if spelled and chosen is None:
        chosen = by_mask(spelled)
    check_whole(checkpoint, backbone, subfolder=_modules(checkpoint)[0].path)
    length = model.max_seq_length
    usual = int(length) if length and length < 10**6 else UNLIMITED
    opened = TextModel(
        checkpoint,
        options,
        Parts(
            adapter="sentence-transformers",
            module=backbone,
            tokenizer=model.tokenizer,
            encode=_encoder(model, with_prompt_length=not pooling.include_prompt),
            pool=chosen or _pool(pooling),
            pooling=options.pooling or spelled or _pooling_name(pooling),
            max_length=options.max_length or usual,
            prompt=prompt_rule(
                known_as(checkpoint), model.prompts, model.default_prompt_name, options.prompts
            ),
            embed=_output(model, after),
            similarity=str(getattr(model, "similarity_fn_name", None) or "cosine"),
        ),
    )
    if options.pooling:
        _check_width(opened, after)
    return opened


def _check_width(model: TextModel, after: Sequence[Any]) -> None:
    """Raise UserError where the module behind the pooling takes vectors of another width."""
    width = model.info.width
    takes = getattr(after[0], "in_features", width) if after else width
    if takes != width:
        raise UserError(
            f"{model.checkpoint.name}: pooled by {model.info.pooling} its vectors have {width} "
            f"dimensions, and its module {type(after[0]).__name__} takes {takes}"
        )


def _load(checkpoint: Checkpoint, options: ModelOptions) -> Any:
    import sentence_transformers as st

    from lrd_harness.models.registry import loader_arguments, tokenizer_arguments

    loading = loader_arguments(checkpoint.name)
    model = st.SentenceTransformer(
        checkpoint.path,
        device=options.device if options.device_map is None else None,
        truncate_dim=loading.get("embed_dim"),
        processor_kwargs=tokenizer_arguments(checkpoint.name),
        model_kwargs={"use_safetensors": True, **computing(options)},
        **origin(checkpoint),
    )
    if loading.get("max_seq_length"):
        model.max_seq_length = loading["max_seq_length"]
    if not loading.get("include_prompt", True):
        model.set_pooling_include_prompt(include_prompt=False)
    return model.eval()


def _backbone(transformer: Any, name: str) -> Any:
    """The transformers model whose last state is pooled, the same for queries and documents."""
    for modality in ("text", "message"):
        read = transformer.modality_config.get(modality, STATES)
        if {key: read.get(key) for key in STATES} != STATES:
            raise UserError(f"{name} pools something else than its last state ({read})")
    sided = getattr(transformer, "_chat_template_declares_task", bool)  # not in all versions
    if "message" in transformer.modality_config and sided():
        raise UserError(
            f"{name}: its chat template writes queries and documents in different ways, which is "
            "not done here"
        )
    transformer.unpad_inputs = False
    return transformer.auto_model


def _output(model: Any, after: Sequence[Any]) -> Callable[[Tensor, PromptType | None], Tensor]:
    """What comes after the pooling, and the cut to the model's output width.

    A router sends queries and documents, or either kind of text, through modules of their own.
    """
    from sentence_transformers.base.modules import Router

    modality = model.preprocess(["a"])["modality"]

    def embed(pooled: Tensor, prompt_type: PromptType | None = None) -> Tensor:
        features: Any = {"sentence_embedding": pooled.to(model.dtype), "modality": modality}
        for module in after:
            routed = {"task": prompt_type} if isinstance(module, Router) else {}
            features = module(features, **routed)
        output: Tensor = features["sentence_embedding"]
        return output[:, : model.truncate_dim] if model.truncate_dim else output

    return embed


def _pooling_name(pooling: Any) -> str:
    mode = pooling.pooling_mode
    modes = [mode] if isinstance(mode, str) else list(mode)
    return "+".join("last" if m == "lasttoken" else m for m in modes)


def _pool(pooling: Any) -> Callable[[Tensor, Mapping[str, Any]], Tensor]:
    """The model's own way from token states to pooled ones, in float32 where those are in half."""
    import torch

    half = (torch.float16, torch.bfloat16)

    def pool(state: Tensor, features: Mapping[str, Any]) -> Tensor:
        mask, lengths = features["attention_mask"], features.get("prompt_length", [0])
        state = state.float() if state.dtype in half else state
        alike = len(set(lengths)) == 1
        rows = [slice(None)] if alike else [slice(i, i + 1) for i in range(len(lengths))]
        parts = [
            {"token_embeddings": state[row], "attention_mask": mask[row], "prompt_length": length}
            for row, length in zip(rows, lengths, strict=False)
        ]
        return torch.cat([pooling(part)["sentence_embedding"] for part in parts])

    return pool


def _encoder(
    model: Any, *, with_prompt_length: bool
) -> Callable[[Sequence[Text], int], list[dict[str, Any]]]:
    """sentence-transformers' own preprocessing, its padding taken off again."""

    def encode(texts: Sequence[Text], max_length: int) -> list[dict[str, Any]]:
        model.max_seq_length = max_length
        encoded: list[dict[str, Any]] = [{} for _ in texts]
        for prompt in dict.fromkeys(t.prompt for t in texts):
            chosen = [i for i, t in enumerate(texts) if t.prompt == prompt]
            features = model.preprocess([texts[i].text for i in chosen], prompt=prompt or None)
            keep = features["attention_mask"].bool()
            for row, i in enumerate(chosen):
                for name in ("input_ids", "token_type_ids"):
                    if name in features:
                        encoded[i][name] = features[name][row][keep[row]].tolist()
                if with_prompt_length and "prompt_length" in features:
                    encoded[i]["prompt_length"] = features["prompt_length"]
        return encoded

    return encode


@hookimpl
def lrd_adapters() -> list[Adapter]:
    """The adapter for sentence-transformers models."""
    return [
        Adapter(
            "sentence-transformers",
            of_modules,
            open_model,
            priority=20,
            description="models saved by sentence-transformers, all their modules honoured",
            check=check,
        )
    ]
