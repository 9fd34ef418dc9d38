"""Adapter: sentence-transformers models, their tokenisation, pooling and output honoured."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrd_harness.contracts import Adapter, Checkpoint, ModelOptions, Text
from lrd_harness.devices import mapping
from lrd_harness.errors import UserError
from lrd_harness.hookspecs import hookimpl
from lrd_harness.protocols import Model

from ._plain import UNLIMITED, check_whole, length_limit

if TYPE_CHECKING:
    from torch import Tensor


def claims(checkpoint: Checkpoint) -> bool:
    """Folders that sentence-transformers has saved say so in modules.json."""
    return "modules.json" in checkpoint.files


def open_model(checkpoint: Checkpoint, options: ModelOptions) -> Model:
    """Open the model as sentence-transformers does; its last layer gives what its encode() gives.

    A model that mteb knows is opened as mteb opens it (length limit, end token, and so on).
    Raises UserError where its modules are not a transformer, a pooling and modules on the pooled,
    for an unknown pooling, and for weights that do not fill the model. No code that comes with a
    model is run.
    """
    from lrd_harness.prompts import prompt_rule
    from lrd_harness.text_model import Parts, TextModel, by_mask

    chosen = by_mask(options.pooling) if options.pooling else None
    model = _load(checkpoint, options)
    modules = list(model)
    backbone, pooling = _split(modules, checkpoint.name)
    check_whole(checkpoint, backbone, subfolder=_subfolder(checkpoint))
    wanted = options.max_length or int(min(model.max_seq_length or UNLIMITED, 10**6))
    model.max_seq_length = length_limit(backbone, wanted if wanted < 10**6 else UNLIMITED)

    return TextModel(
        checkpoint,
        options,
        Parts(
            adapter="sentence-transformers",
            module=backbone,
            tokenizer=model.tokenizer,
            encode=_encoder(model, with_prompt_length=not pooling.include_prompt),
            pool=chosen or _pool(pooling),
            pooling=options.pooling or _pooling_name(pooling),
            max_length=model.max_seq_length,
            prompt=prompt_rule(
                checkpoint.name, model.prompts, model.default_prompt_name, options.prompts
            ),
            embed=_output(model, modules[2:]),
            similarity=str(getattr(model, "similarity_fn_name", None) or "cosine"),
        ),
    )


def _load(checkpoint: Checkpoint, options: ModelOptions) -> Any:
    import sentence_transformers as st

    from lrd_harness.prompts import loader_arguments

    given = loader_arguments(checkpoint.name)
    tokenizing = {**given.get("tokenizer_kwargs", {}), **given.get("processor_kwargs", {})}
    if given.get("add_eos_token"):
        tokenizing["add_eos_token"] = True
    model = st.SentenceTransformer(
        checkpoint.path,
        revision=checkpoint.revision if checkpoint.hub else None,
        device=options.device if options.device_map is None else None,
        local_files_only=not checkpoint.hub,
        trust_remote_code=False,
        truncate_dim=given.get("embed_dim"),
        processor_kwargs=tokenizing,
        model_kwargs={
            "dtype": options.dtype,
            "use_safetensors": True,
            **({"attn_implementation": options.attention} if options.attention else {}),
            **mapping(options),
        },
    )
    if given.get("max_seq_length"):
        model.max_seq_length = given["max_seq_length"]
    if not given.get("include_prompt", True):
        model.set_pooling_include_prompt(include_prompt=False)
    return model.eval()


def _split(modules: Sequence[Any], name: str) -> tuple[Any, Any]:
    """The transformer and the pooling, which must come first."""
    from sentence_transformers.sentence_transformer.modules import Pooling

    kinds = ", ".join(type(m).__name__ for m in modules)
    backbone = getattr(modules[0], "auto_model", None) if modules else None
    if backbone is None:
        raise UserError(f"{name}: its first module is no transformer ({kinds})")
    if len(modules) < 2 or not isinstance(modules[1], Pooling):
        raise UserError(f"{name}: no pooling after the transformer ({kinds}): no layers to read")
    modules[0].unpad_inputs = False
    return backbone, modules[1]


def _subfolder(checkpoint: Checkpoint) -> str:
    """Where in the checkpoint the transformer lies: "" or, in old ones, "0_Transformer"."""
    from transformers.utils.hub import cached_file

    revision = checkpoint.revision if checkpoint.hub else None
    path = Path(str(cached_file(checkpoint.path, "modules.json", revision=revision)))
    return str(json.loads(path.read_text(encoding="utf-8"))[0]["path"])


def _output(model: Any, after: Sequence[Any]) -> Callable[[Tensor], Tensor]:
    """What comes after the pooling, and the cut to the model's output width."""

    def embed(pooled: Tensor) -> Tensor:
        features: Any = {"sentence_embedding": pooled.to(model.dtype)}
        for module in after:
            features = module(features)
        output: Tensor = features["sentence_embedding"]
        return output[:, : model.truncate_dim] if model.truncate_dim else output

    return embed


def _pooling_name(pooling: Any) -> str:
    mode = pooling.pooling_mode
    name = {"lasttoken": "last"}
    modes = [mode] if isinstance(mode, str) else list(mode)
    return "+".join(name.get(m, m) for m in modes)


def _pool(pooling: Any) -> Callable[[Tensor, Mapping[str, Any]], Tensor]:
    """The model's own way from token states to pooled ones, in float32 where those are in half."""
    import torch

    half = (torch.float16, torch.bfloat16)

    def run(state: Tensor, mask: Tensor, prompt_length: int) -> Tensor:
        features = {
            "token_embeddings": state.float() if state.dtype in half else state,
            "attention_mask": mask,
            "prompt_length": prompt_length,
        }
        pooled: Tensor = pooling(features)["sentence_embedding"]
        return pooled

    def pool(state: Tensor, features: Mapping[str, Any]) -> Tensor:
        mask = features["attention_mask"]
        lengths = features.get("prompt_length", [0])
        if len(set(lengths)) == 1:
            return run(state, mask, lengths[0])
        rows = [run(state[i : i + 1], mask[i : i + 1], n) for i, n in enumerate(lengths)]
        return torch.cat(rows)

    return pool


def _encoder(
    model: Any, *, with_prompt_length: bool
) -> Callable[[Sequence[Text]], list[dict[str, Any]]]:
    """sentence-transformers' own preprocessing, its padding taken off again."""

    def encode(texts: Sequence[Text]) -> list[dict[str, Any]]:
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
            claims,
            open_model,
            priority=20,
            description="models saved by sentence-transformers, all their modules honoured",
        )
    ]
