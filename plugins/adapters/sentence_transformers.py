"""Adapter: sentence-transformers models, their tokenisation, pooling and output honoured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from lrd_harness.contracts import Adapter, Checkpoint, Model, ModelOptions, PromptType, Task, Text
from lrd_harness.errors import UserError
from lrd_harness.hookspecs import hookimpl
from lrd_harness.models.find import known_as, listed_as, of_modules, read_json
from lrd_harness.models.loading import check_whole, computing, load_modules
from lrd_harness.models.recognition import (
    LIST,
    Module,
    Source,
    check_readable,
    modules_of,
    refuse_unread,
)

if TYPE_CHECKING:
    from torch import Tensor

    from lrd_harness.models.text_model import TextModel

Wrapped = Callable[["Tensor", Task | None, PromptType | None], "Tensor"]  # wrappers.Wrapper.output

STATES = {"method": "forward", "method_output_name": "last_hidden_state"}


def check(checkpoint: Checkpoint) -> None:
    """Raise UserError unless it is a transformer, a pooling, and modules on the pooled vector."""
    source = Source(checkpoint.name, checkpoint.files, partial(read_json, checkpoint))
    refuse_unread(source, _modules(checkpoint), own_code=bool(checkpoint.code))
    check_readable(checkpoint)


def _modules(checkpoint: Checkpoint) -> list[Module]:
    return modules_of(read_json(checkpoint, LIST, list), f"{checkpoint.name}: {LIST}")


def open_model(checkpoint: Checkpoint, options: ModelOptions) -> Model:
    """Open the model as sentence-transformers does; its last layer gives what its encode() gives.

    A model that mteb knows is opened as mteb opens it (length limit, end token, and so on).
    """
    from lrd_harness.models.lengths import UNLIMITED
    from lrd_harness.models.registry import prompt_rule
    from lrd_harness.models.sentence_modules import pooled_by
    from lrd_harness.models.text_model import Parts, TextModel, by_mask
    from lrd_harness.models.wrappers import Wrapper

    check(checkpoint)
    model = _load(checkpoint, options)
    backbone, pooling = _backbone(model[0], checkpoint.name), model[1]
    spelled, after = pooled_by(list(model))
    check_whole(checkpoint, backbone, subfolder=_modules(checkpoint)[0].path)
    length = model.max_seq_length
    usual = int(length) if length and length < 10**6 else UNLIMITED
    known, prompts = known_as(checkpoint), (model.prompts, model.default_prompt_name)
    wrapped = Wrapper(known, *prompts).output
    opened = TextModel(
        checkpoint,
        options,
        Parts(
            adapter="sentence-transformers",
            module=backbone,
            tokenizer=model.tokenizer,
            encode=_encoder(model, with_prompt_length=not getattr(pooling, "include_prompt", True)),
            pool=by_mask(spelled) if spelled else _pool(pooling),
            pooling=spelled or _pooling_name(pooling),
            max_length=usual,
            prompt=prompt_rule(known, *prompts, options.prompts, routes=_takes_task(model)),
            embed=_output(model, after, wrapped),
            similarity=str(getattr(model, "similarity_fn_name", None) or "cosine"),
            pooling_from=f"{_modules(checkpoint)[1].path}/config.json",
            lengths=_lengths(checkpoint, backbone, length),
        ),
    )
    if options.pooling and options.weights:
        _check_width(opened, after)
    elif checkpoint.code:
        _check_output(opened, model, wrapped)
    return opened


def _check_output(opened: TextModel, model: Any, wrapped: Wrapped) -> None:
    """Raise UserError unless the last layer gives what encode() does, whatever its code does."""
    from lrd_harness.models.backbone import rounding
    from lrd_harness.models.sentence_modules import TEXTS

    last = ("final" if opened.has_final_norm else "raw", opened.info.blocks)
    for text in TEXTS:
        ours = opened.embed(opened.states(opened.tokenize([Text(text)]))[last])
        theirs = model.encode([text], prompt="", convert_to_tensor=True, show_progress_bar=False)
        theirs = wrapped(theirs, None, None).float().cpu()
        if not (ours - theirs).norm() <= rounding(opened.options.dtype) * theirs.norm():
            raise UserError(
                f"{opened.checkpoint.name}: its own code makes another vector of a text than its "
                "modules do one after the other, so that layers cannot be read as it reads them"
            )


def _check_width(model: TextModel, after: Sequence[Any]) -> None:
    """Raise UserError where the module behind the pooling takes vectors of another width."""
    width = model.info.width
    takes = getattr(after[0], "in_features", width) if after else width
    if takes != width:
        raise UserError(
            f"{model.checkpoint.name}: pooled by {model.info.pooling} its vectors have {width} "
            f"dimensions, and its module {type(after[0]).__name__} takes {takes}"
        )


def _lengths(checkpoint: Checkpoint, backbone: Any, length: float | None) -> dict[str, int]:
    """What says of how many tokens a text may be; mteb first, then the library's own file."""
    from lrd_harness.models.backbone import text_config
    from lrd_harness.models.lengths import stated_lengths
    from lrd_harness.models.registry import loader_arguments

    file = f"{_modules(checkpoint)[0].path}/sentence_bert_config.json".lstrip("/")
    settings = read_json(checkpoint, file) if file in checkpoint.files else {}
    stated = {"mteb": loader_arguments(listed_as(checkpoint)).get("max_seq_length")}
    stated[file] = settings.get("max_seq_length")
    lengths = {name: n for name, n in stated.items() if type(n) is int and n == length}
    return {**lengths, **stated_lengths(text_config(backbone), None if lengths else length)}


def _load(checkpoint: Checkpoint, options: ModelOptions) -> Any:
    from lrd_harness.models.registry import loader_arguments, tokenizer_arguments

    loading = loader_arguments(listed_as(checkpoint))
    how = computing(checkpoint, options)
    model = load_modules(
        checkpoint,
        device=None if "device_map" in how else options.device,
        truncate_dim=loading.get("embed_dim"),
        processor_kwargs=tokenizer_arguments(listed_as(checkpoint)),
        config_kwargs=dict(loading.get("config_kwargs", {})),
        model_kwargs={"use_safetensors": True, **how},
    )
    if loading.get("max_seq_length"):
        model.max_seq_length = loading["max_seq_length"]
    if not loading.get("include_prompt", True):
        model.set_pooling_include_prompt(include_prompt=False)
    return model


def _backbone(transformer: Any, name: str) -> Any:
    """The transformers model whose last state is pooled, the same for queries and documents."""
    modalities = getattr(transformer, "modality_config", {})
    for modality in ("text", "message"):
        read = modalities.get(modality, STATES)
        if {key: read.get(key) for key in STATES} != STATES:
            raise UserError(f"{name} pools something else than its last state ({read})")
    sided = getattr(transformer, "_chat_template_declares_task", bool)  # not in all versions
    if "message" in modalities and sided():
        raise UserError(
            f"{name}: its chat template writes queries and documents in different ways, which is "
            "not done here"
        )
    if not hasattr(transformer, "auto_model"):
        raise UserError(f"{name}: its own {type(transformer).__name__} shows no model (auto_model)")
    transformer.unpad_inputs = False
    return transformer.auto_model


def _output(
    model: Any, after: Sequence[Any], wrapped: Wrapped
) -> Callable[[Tensor, PromptType | None, Task | None], Tensor]:
    """What comes after the pooling: modules, the cut to the output width, and mteb's wrapper.

    A router sends queries and documents, or either kind of text, through modules of their own.
    """
    from sentence_transformers.base.modules import Router

    modality = model.preprocess(["a"]).get("modality", "text")

    def embed(
        pooled: Tensor, prompt_type: PromptType | None = None, task: Task | None = None
    ) -> Tensor:
        features: Any = {"sentence_embedding": pooled.to(model.dtype), "modality": modality}
        for module in after:
            routed = {"task": prompt_type} if isinstance(module, Router) else {}
            features = module(features, **routed)
        output: Tensor = features["sentence_embedding"]
        output = output[:, : model.truncate_dim] if model.truncate_dim else output
        return wrapped(output, task, prompt_type)

    return embed


def _pooling_name(pooling: Any) -> str:
    mode = getattr(pooling, "pooling_mode", type(pooling).__name__)
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
    from lrd_harness.models.wrappers import route

    def encode(texts: Sequence[Text], max_length: int) -> list[dict[str, Any]]:
        model.max_seq_length = max_length
        encoded: list[dict[str, Any]] = [{} for _ in texts]
        for prompt in dict.fromkeys(t.prompt for t in texts):
            chosen = [i for i, t in enumerate(texts) if t.prompt == prompt]
            text, adapter = route(prompt)
            features = model.preprocess([texts[i].text for i in chosen], prompt=text or None)
            told = _told(model[0], features, adapter) if adapter else {}
            keep = features["attention_mask"].bool()
            for row, i in enumerate(chosen):
                for name in ("input_ids", "token_type_ids"):
                    if name in features:
                        encoded[i][name] = features[name][row][keep[row]].tolist()
                if with_prompt_length and "prompt_length" in features:
                    encoded[i]["prompt_length"] = features["prompt_length"]
                if told:
                    encoded[i]["told"] = {name: rows[row] for name, rows in told.items()}
        return encoded

    return encode


def _takes_task(model: Any) -> bool:
    """Whether the first module takes the name of a task, for which it has an adapter of weights."""
    listed = (model.module_kwargs or {}).get("0", ())
    return "task" in {*listed, *getattr(model[0], "forward_kwargs", ())}


def _told(module: Any, features: Mapping[str, Any], task: str) -> dict[str, list[Any]]:
    """What the first module tells its transformers model of a task: of each text a number by name.

    Raises UserError where it tells something else, which would then be missing.
    """
    import torch

    class Seen(Exception):
        """The pass is over: what it would begin with has been seen."""

    told: dict[str, Any] = {}

    def see(*_: Any, **arguments: Any) -> None:
        told.update({name: value for name, value in arguments.items() if name not in features})
        raise Seen

    with patch.object(module.auto_model, "forward", see), suppress(Seen):
        module(dict(features), task=task)
    n = len(features["input_ids"])
    rows = {k: v for k, v in told.items() if isinstance(v, torch.Tensor)}
    if not rows or any(value.shape != (n,) for value in rows.values()):
        raise UserError(
            f"{type(module).__name__} reads the task {task} in a way that is not followed here"
        )
    return {name: value.tolist() for name, value in rows.items()}


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
