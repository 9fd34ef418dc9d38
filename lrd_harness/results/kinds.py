"""Kinds of tasks and of models, and dates of release.

Embedding tasks, likelihood tasks and tasks on images are kept apart: an embedding score asks of a
layer's states how alike texts are, a likelihood score asks the language-model head what comes next,
and a model of images reads no text; means over several kinds, or ranks from them, say nothing.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Mapping
from datetime import date
from typing import Any, Literal, get_args

from lrd_harness.results.rows import Kind, MetricRow, ModelRow, Results, ScoreRow

ModelKind = Literal["encoder", "decoder embedder", "base model"]
KINDS: tuple[Kind, ...] = get_args(Kind)  # in the order of their boards
TASKS: Mapping[Kind, str] = {"embedding": "embedding", "base": "likelihood", "image": "image"}
_OF_TASKS = ("scores", "metrics", "undefined")
_OF_MODELS = tuple("errors captures prunings variants sweeps ablations orders redraws".split())


def split(results: Results) -> dict[Kind, Results]:
    """The results of each kind of task that there is, by kind; of one kind alone as they are.

    The first is the main one: it has all that is in no other, also models without any task and
    rows of tasks of unknown type. A model that has tasks on images alone is with these, with all
    that is known of it; all others are on the main side.
    """
    of_tasks: list[ScoreRow | MetricRow] = [*results.scores, *results.metrics]
    there = {results.kind(row) for row in of_tasks if row.variant == "full"} or {KINDS[0]}
    main, *others = (kind for kind in KINDS if kind in there)
    if not others:
        return {main: results}
    parts: dict[Kind, dict[str, list[Any]]] = {kind: {} for kind in (main, *others)}
    keys: dict[Kind, set[Any]] = {kind: set() for kind in parts}
    for name in _OF_TASKS:
        for row in getattr(results, name):
            kind = results.kind(row)
            kind = kind if kind in there else main
            parts[kind].setdefault(name, []).append(row)
            keys[kind].add(row.key[:2])
    for error in results.errors:
        if "image" in parts and results.kinds.get(error.task or "") == "image":
            keys["image"].add(error.key[:2])
    images = keys.get("image", set()).difference(*(keys[k] for k in parts if k != "image"))
    keys[main] |= {row.key[:2] for row in results.models} - images
    for name in _OF_MODELS:
        for row in getattr(results, name):
            kind = "image" if row.key[:2] in images else main
            parts[kind].setdefault(name, []).append(row)
    for kind, part in parts.items():
        part["models"] = [row for row in results.models if row.key[:2] in keys[kind]]
    return {
        kind: Results(texts=results.texts, **{name: tuple(rows) for name, rows in part.items()})
        for kind, part in parts.items()
    }


# Beginnings of transformers' model types, and of the families of published panels.
_ENCODERS = (
    "albert bert big_bird camembert deberta distilbert electra ernie esm eurobert gte jina_bert "
    "lilt longformer luke megatron-bert minilm modernbert mpnet mt5 neobert new nomic_bert "
    "nystromformer roberta roformer splinter squeezebert t5 umt5 xlm xlnet xmod"
).split()
_DECODERS = (
    "bloom cohere deepseek falcon gemma glm gpt granite internlm llama mamba minicpm mistral "
    "mixtral nemotron olmo opt phi pythia qwen rwkv smollm stablelm starcoder yi"
).split()


def model_kind(model: ModelRow, board: Kind = "embedding") -> ModelKind | None:
    """The kind of a model on a board; None where nothing recorded tells it.

    On a board of likelihood tasks all are base models: their head is what is scored. On a board of
    embedding tasks a causal language model as it is (adapter "decoder") is a base model as well. Of
    others a decoder is one that pools the last token, or whose family is one of decoders, however
    it attends now; of models of images one that pools the last patch, or an ImageGPT.
    """
    if board == "base" or model.adapter == "decoder":
        return "base model"
    if model.adapter == "encoder":
        return "encoder"
    if model.adapter == "decoder embedder":  # no adapter's name: a file says so
        return "decoder embedder"
    family = (model.family or "").lower().replace("xlm-", "").replace("xlm_", "")
    decoders = ("imagegpt",) if board == "image" else tuple(_DECODERS)
    if model.pooling in ("last", "lasttoken") or family.startswith(decoders):
        return "decoder embedder"
    if board == "image":
        return "encoder"
    return "encoder" if family.startswith(tuple(_ENCODERS)) else None


DECODERS: tuple[ModelKind, ...] = ("decoder embedder", "base model")


def rule_layer(kind: ModelKind | None, blocks: int) -> int:
    """The layer 0..blocks that the one-line rule takes, which no label and no metric is needed for.

    Of a decoder, whatever it is trained for, the one nearest to depth 0.8; of an encoder, and where
    the kind is not known, the last.

    Examples
    --------
    >>> [rule_layer(kind, 12) for kind in ("encoder", "decoder embedder", "base model", None)]
    [12, 10, 10, 12]
    """
    return round(0.8 * blocks) if kind in DECODERS else blocks


FORM = "YYYY-MM-DD, YYYY-MM or YYYY"
_DATE = re.compile(r"\d{4}(-\d{2}){0,2}", re.ASCII)


def middle(released: str) -> float:
    """The middle of the day, month or year, in days since year 1.

    The middle, as it is the least wrong where dates of unlike exactness are put in order.
    Raises ValueError for what is no such date.
    """
    try:
        if _DATE.fullmatch(released) is None:
            raise ValueError
        first = date.fromisoformat(f"{released}-01-01"[:10])
    except ValueError:
        raise ValueError(f"'{released}' is no date: {FORM}") from None
    month = calendar.monthrange(first.year, first.month)[1]
    days = {4: 365 + calendar.isleap(first.year), 7: month, 10: 1}[len(released)]
    return first.toordinal() + days / 2
