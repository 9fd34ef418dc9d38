"""Adapter: sentence-transformers models, their tokenisation, pooling and output honoured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lrd_harness.contracts import Adapter, Checkpoint, Model, ModelOptions, Text
from lrd_harness.errors import UserError
from lrd_harness.hookspecs import hookimpl

if TYPE_CHECKING:
    from torch import Tensor


def claims(checkpoint: Checkpoint) -> bool:
    """Folders that sentence-transformers has saved say so in modules.json."""
    return "modules.json" in checkpoint.files


def open_model(checkpoint: Checkpoint, options: ModelOptions) -> Model:
    """Open the model as sentence-transformers does; its last layer gives what its encode() gives.

    Raises UserError where its modules are not a transformer, a pooling and modules on the pooled.
    """
    import sentence_transformers as st

    from lrd_harness.prompts import prompt_rule
    from lrd_harness.text_model import Parts, TextModel, by_mask

    model = st.SentenceTransformer(
        checkpoint.path,
        revision=checkpoint.revision if checkpoint.hub else None,
        device=options.device,
        local_files_only=not checkpoint.hub,
        model_kwargs={
            "dtype": options.dtype,
            "use_safetensors": True,
            **({"attn_implementation": options.attention} if options.attention else {}),
        },
    )
    if options.max_length:
        model.max_seq_length = options.max_length
    modules = list(model)
    at = _pooling_index(modules, checkpoint.name)
    model = model.eval()

    def embed(pooled: Tensor) -> Tensor:
        features: Any = {"sentence_embedding": pooled.to(model.dtype)}
        for module in modules[at + 1 :]:
            features = module(features)
        output: Tensor = features["sentence_embedding"]
        return output[:, : model.truncate_dim] if model.truncate_dim else output

    return TextModel(
        checkpoint,
        options,
        Parts(
            adapter="sentence-transformers",
            module=_backbone(modules[0], checkpoint.name),
            tokenizer=model.tokenizer,
            encode=_encoder(model),
            pool=by_mask(options.pooling) if options.pooling else _pool(modules[1 : at + 1]),
            pooling=options.pooling or _pooling_name(modules[at]),
            max_length=int(model.max_seq_length or model.tokenizer.model_max_length),
            prompt=prompt_rule(
                checkpoint.name, model.prompts, model.default_prompt_name, options.prompts
            ),
            embed=embed,
            similarity=str(getattr(model, "similarity_fn_name", None) or "cosine"),
        ),
    )


def _backbone(first: Any, name: str) -> Any:
    module = getattr(first, "auto_model", None)
    if module is None:
        raise UserError(f"{name}: its first module is {type(first).__name__}, not a transformer")
    return module


def _pooling_index(modules: Sequence[Any], name: str) -> int:
    from sentence_transformers.sentence_transformer.modules import Pooling

    for index, module in enumerate(modules):
        if isinstance(module, Pooling):
            return index
    kinds = ", ".join(type(m).__name__ for m in modules)
    raise UserError(f"{name}: no pooling among its modules ({kinds}), so layers cannot be read")


def _pooling_name(pooling: Any) -> str:
    mode = pooling.pooling_mode
    name = {"lasttoken": "last"}
    modes = [mode] if isinstance(mode, str) else list(mode)
    return "+".join(name.get(m, m) for m in modes)


def _pool(modules: Sequence[Any]) -> Callable[[Tensor, Mapping[str, Any]], Tensor]:
    """The model's own way from token states to pooled ones."""

    def pool(state: Tensor, features: Mapping[str, Any]) -> Tensor:
        flowing: Any = {"token_embeddings": state, "attention_mask": features["attention_mask"]}
        if "prompt_length" in features:
            flowing["prompt_length"] = features["prompt_length"]
        for module in modules:
            flowing = module(flowing)
        pooled: Tensor = flowing["sentence_embedding"]
        return pooled

    return pool


def _encoder(model: Any) -> Callable[[Sequence[Text]], list[dict[str, Any]]]:
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
                if "prompt_length" in features:
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
