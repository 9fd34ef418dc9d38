"""A saved model as sentence-transformers reads it: its modules say what was measured."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lrd_harness.contracts import ModelOptions, Text
from lrd_harness.models.backbone import rounding
from lrd_harness.models.find import FILE, Parent, Saved
from lrd_harness.models.readout import NoPooler
from lrd_harness.models.recognition import LENGTH, LIST, SETTINGS
from lrd_harness.models.registry import instructed, loader_arguments, saved_prompts
from lrd_harness.models.wrappers import Wrapper, loader_of

NO_SINK = "mean-no-sink"
MODES = {"mean": "mean", "cls": "cls", "last": "lasttoken"}  # our poolings, by its names
TRANSFORMER = "sentence_bert_config.json"  # how the transformer is loaded
# for encoder-decoder models of which sentence-transformers would take the decoder's output
ENCODER = {
    "modality_config": {
        "text": {"method": "forward", "method_output_name": "encoder_last_hidden_state"}
    },
    "module_output_name": "token_embeddings",
}
# of unequal length, so that it shows where padding changes something
TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "A fox.",
    "All of these words are here so that the other texts have to be padded up to their number.",
)


class Tower(NamedTuple):
    """Where blocks of images lie: in a module of this class, under this name."""

    kind: str
    blocks: str


@dataclass(frozen=True)
class Measured:
    """How a model was read, and what the model that is saved gives.

    name: by which mteb may know it; plain: whether the checkpoint below any modules was read;
    pooling, max_length: in use; options: as it was opened; poolers: modules that were left out as
    they have no weights; embed: texts -> (n, d) float32, each text alone; alone: whether padding,
    or longer texts of a batch, change the states of a text; own_code: whether code of its own runs;
    beside: what else is to be said in JSON files, by their names; tower: of a model of images.
    """

    name: str
    plain: bool
    pooling: str
    max_length: int
    options: ModelOptions
    poolers: Sequence[str]
    embed: Callable[[Sequence[Text]], np.ndarray]
    alone: bool = False
    own_code: bool = False
    beside: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    tower: Tower | None = None


def pooled_by(modules: Sequence[Any]) -> tuple[str | None, list[Any]]:
    """The pooling that is spelled out by several modules, if one is, and what comes behind it."""
    spelled = len(modules) > 3 and getattr(modules[2], "module_output_name", "") == LENGTH
    return (NO_SINK, list(modules[4:])) if spelled else (None, list(modules[2:]))


def pooling_modules(pooling: str, width: int) -> list[Any]:
    """One of our poolings of states of a width, as modules.

    There is no mean without position 0, but one without the prompt, here said to be a token long.
    """
    import torch
    from sentence_transformers.base.modules import Dense
    from sentence_transformers.sentence_transformer.modules import Pooling

    if pooling != NO_SINK:
        return [Pooling(width, MODES[pooling])]
    weight, bias = torch.zeros(1, width), torch.ones(1)
    length = Dense(width, 1, True, None, weight, bias, module_output_name=LENGTH)
    return [Pooling(width, "cls"), length, Pooling(width, "mean", include_prompt=False)]


def fit(model: Any, measured: Measured) -> None:
    """Let a SentenceTransformer be as it was measured, in place."""
    for name in measured.poolers:
        model[0].auto_model.set_submodule(name, NoPooler())
    loading = loader_arguments(measured.name)
    if not loading.get("include_prompt", True):
        model.set_pooling_include_prompt(include_prompt=False)
    if loading.get("embed_dim"):
        model.truncate_dim = loading["embed_dim"]
    if measured.options.pooling:
        first, pooling = model[0], model[1]
        behind = pooling_modules(measured.pooling, pooling.embedding_dimension)
        behind += pooled_by(list(model))[1]
        dtype = next(first.parameters()).dtype
        model._modules.clear()
        for number, module in enumerate([first, *(m.to(dtype) for m in behind)]):
            model.add_module(str(number), module)
        model.module_kwargs = None
    model.max_seq_length = measured.max_length
    model.prompts, model.default_prompt_name = saved_prompts(
        measured.name, model.prompts, model.default_prompt_name, measured.options.prompts
    )


def add(folder: Path, measured: Measured, tokenizer: Any, root: Any, parent: Parent) -> list[str]:
    """Let a saved checkpoint say how it was read; returns what else to know of it, in sentences.

    The folder is loaded as a user would load it, and what that gives compared with what was
    measured. tokenizer, root: the checkpoint's; parent: what it was made from, which is then read
    by the same options.
    """
    for name, content in measured.beside.items():
        file = folder / name
        there = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        _write_json(file, {**there, **content})
    if measured.plain and not measured.tower and measured.pooling not in (*MODES, NO_SINK):
        return [_other(root, measured)]  # of an adapter of one's own
    options = measured.options
    prompts, default = saved_prompts(measured.name, {}, None, options.prompts)
    lines: list[str] = []
    read = ("pooling", "max_length", "attention", "attention_mask", "prompts")
    saved = Saved(parent=parent.model_copy(update={n: getattr(options, n) for n in read}))
    if measured.tower:  # which sentence-transformers would pool otherwise
        saved.pooling, saved.attention = measured.pooling, options.attention
        _write_json(folder / FILE, saved.model_dump(exclude_unset=True))
        return []
    if measured.plain:
        saved.plain, saved.attention = True, options.attention
        saved.pooling, saved.max_length = measured.pooling, measured.max_length
        saved.prompts = prompts if any(prompts.values()) else None
        _write_modules(folder, measured)
        settings: dict[str, Any] = {"model_type": "SentenceTransformer", "prompts": prompts}
        settings |= {"default_prompt_name": default, "similarity_fn_name": "cosine"}
        _write_json(folder / SETTINGS, settings)
    if instructed(measured.name, options.prompts):
        saved.instructions = measured.name
        lines.append(
            "prompts depend on the task: give SentenceTransformer(DIR).encode those that mteb "
            f"makes for {measured.name}"
        )
    how = loader_of(measured.name)
    if how.changes and not measured.plain:
        saved.instructions = measured.name
        lines.append(
            "vectors of SentenceTransformer(DIR) are not the last step: mteb's "
            f"{how.wrapper.__name__} changes them, and so does the harness where it reads DIR"
        )
    _write_json(folder / FILE, saved.model_dump(exclude_unset=True))
    return lines + _fitted(folder, measured, tokenizer, root)


def section(measured: Measured, lines: Sequence[str]) -> str:
    """The part of a model card that says how the model is read."""
    options = measured.options
    prompts = saved_prompts(measured.name, {}, None, options.prompts)[0]
    listed = [
        f"pooling: `{measured.pooling}`",
        f"tokens of an image: {measured.max_length}"
        if measured.tower
        else f"tokens of a text: {measured.max_length} at most",
        f"computed in: {options.dtype}",
    ]
    if options.attention is not None:
        listed.append(f"attention: {options.attention}")
    if options.attention_mask is not None:
        listed.append(f"attention mask: {options.attention_mask}")
    if any(prompts.values()):
        listed.append(f"prompts: {json.dumps(prompts, ensure_ascii=False)}")
    body = "\n".join(f"- {line}" for line in (*listed, *lines))
    return f"\n## How it was measured\n\n{body}\n"


def _write_json(file: Path, contents: Any) -> None:
    file.write_text(json.dumps(contents, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_modules(folder: Path, measured: Measured) -> None:
    """What sentence-transformers writes when it saves a model, apart from the transformer."""
    from sentence_transformers.base.modules import Transformer

    width = measured.embed([Text(TEXTS[0])]).shape[1]
    listed = []
    for i, module in enumerate([None, *pooling_modules(measured.pooling, width)]):
        kind = Transformer if module is None else type(module)
        path = f"{i}_{kind.__name__}" if i else ""
        if module is not None:
            (folder / path).mkdir()
            module.save(str(folder / path))
        name = f"{kind.__module__}.{kind.__name__}"
        listed.append({"idx": i, "name": str(i), "path": path, "type": name})
    _write_json(folder / LIST, listed)


def _fitted(folder: Path, measured: Measured, tokenizer: Any, root: Any) -> list[str]:
    """Find the settings with which the folder gives what was measured; says where none does."""
    settings = _settings(folder, measured, tokenizer, root)
    forms = [settings, *([settings | ENCODER] if root.config.is_encoder_decoder else [])]
    sides = ("right", "left") if measured.plain else ("", "right", "left")
    for form in forms:
        together = [] if measured.alone else [(side, len(TEXTS)) for side in sides]
        for side, batch_size in (*together, (sides[0], 1)):
            _set(folder, form, side)
            if _gives(folder, measured, batch_size):
                remarks = []
                if batch_size == 1:
                    remarks.append(
                        "SentenceTransformer(DIR) gives what was measured with encode(..., "
                        "batch_size=1) alone, since padding changes the states of a "
                        f"{type(root).__name__}"
                    )
                if measured.pooling == NO_SINK and not tokenizer("")["input_ids"]:
                    remarks.append(
                        "SentenceTransformer(DIR) makes zeros of a text that is a single token"
                    )
                return remarks
    if measured.plain:  # what is not right had better not be there
        for name in (LIST, SETTINGS, TRANSFORMER):
            (folder / name).unlink()
        for part in folder.glob("[0-9]_*"):
            shutil.rmtree(part)
    else:
        _set(folder, settings, "")
    return [_other(root, measured)]


def _other(root: Any, measured: Measured) -> str:
    what = "encoder" if root.config.is_encoder_decoder else "model"
    return (
        "SentenceTransformer(DIR) does not give what was measured: pool the last states of "
        f"the {what} that transformers loads, by {measured.pooling}"
    )


def _settings(folder: Path, measured: Measured, tokenizer: Any, root: Any) -> dict[str, Any]:
    """How the transformer is loaded, where the checkpoint alone would say something else."""
    file, options = folder / TRANSFORMER, measured.options
    model = {"attn_implementation": options.attention} if options.attention else {}
    if str(root.dtype) != f"torch.{options.dtype}":
        model["dtype"] = options.dtype
    if not measured.plain:
        written: dict[str, Any] = {"max_seq_length": measured.max_length}
        if file.is_file():  # a transformer of the model's own code writes what it likes
            written = json.loads(file.read_text(encoding="utf-8"))
        return written | {"model_args": model}
    try:
        rows = len(root.get_input_embeddings().weight)
    except (AttributeError, NotImplementedError, TypeError):  # an embedding of another kind
        rows = len(tokenizer)
    ids = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id, 0)
    pad = next(i for i in ids if i is not None and i < rows)  # one that the model knows, masked
    tokens = {} if pad == ids[0] else {"pad_token": str(tokenizer.convert_ids_to_tokens(pad))}
    return {"max_seq_length": measured.max_length, "model_args": model, "tokenizer_args": tokens}


def _set(folder: Path, settings: Mapping[str, Any], side: str) -> None:
    """Write the settings; side: on which texts are padded, "" for the tokenizer's own."""
    tokens = settings.get("tokenizer_args", {}) | ({"padding_side": side} if side else {})
    content = {**settings, "tokenizer_args": tokens}
    _write_json(folder / TRANSFORMER, {key: value for key, value in content.items() if value != {}})


def _gives(folder: Path, measured: Measured, batch_size: int) -> bool:
    """Whether sentence-transformers makes of the folder what was measured, in such batches."""
    import torch
    from sentence_transformers import SentenceTransformer

    wrapper = Wrapper(measured.name)
    try:
        model: Any = SentenceTransformer(
            str(folder), device="cpu", local_files_only=True, trust_remote_code=measured.own_code
        )
        for prompt in {"", next(filter(None, model.prompts.values()), "")}:
            vectors = model.encode(
                list(TEXTS), prompt=prompt, batch_size=batch_size, show_progress_bar=False
            )
            if not measured.plain:
                vectors = wrapper.output(torch.from_numpy(vectors), None, None).numpy()
            expected = measured.embed([Text(text, prompt) for text in TEXTS])
            off = np.linalg.norm(vectors - expected, axis=1) / np.linalg.norm(expected, axis=1)
            if not (off <= rounding(measured.options.dtype)).all():
                return False
    except Exception:  # whatever the libraries raise: it cannot be read so
        return False
    return bool(model.max_seq_length == measured.max_length)
