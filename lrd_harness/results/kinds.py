"""Kinds of tasks and of models, and dates of release.

Embedding tasks and likelihood tasks are kept apart: an embedding score asks of a layer's states how
alike texts are, a likelihood score asks the language-model head what comes next; means over both,
or ranks from both, would mean nothing.
"""

from __future__ import annotations

import calendar
import re
from dataclasses import dataclass, replace
from datetime import date
from typing import Literal

from lrd_harness.results.rows import MetricRow, ModelRow, Results, ScoreRow

Kind = Literal["embedding", "base"]
ModelKind = Literal["encoder", "decoder embedder", "base model"]


@dataclass(frozen=True)
class Sides:
    """Results by kind of task.

    kind: of the rows in `main`: "base" where there are likelihood tasks only.
    main: all that is not in `base`: also errors, captures, and rows of tasks of unknown type.
    base: the rows of likelihood tasks, and the models that have any; None where there are none, or
        where they are in `main`.
    """

    kind: Kind
    main: Results
    base: Results | None = None


def split(results: Results) -> Sides:
    """The two sides. Without both kinds of task the results are `main` as they are."""
    is_base = results.is_base
    rows: list[ScoreRow | MetricRow] = [*results.scores, *results.metrics]
    bases = {is_base(row) for row in rows if row.variant == "full"}
    if len(bases) < 2:
        return Sides("base" if True in bases else "embedding", results)

    def side(base: bool) -> Results:
        return replace(
            results,
            scores=tuple(row for row in results.scores if is_base(row) == base),
            metrics=tuple(row for row in results.metrics if is_base(row) == base),
            undefined=tuple(row for row in results.undefined if is_base(row) == base),
        )

    base = side(True)
    keys = {row.key for row in (*base.scores, *base.metrics, *base.undefined)}
    models = tuple(row for row in results.models if row.key in keys)
    others = Results(models, base.scores, base.metrics, undefined=base.undefined)
    return Sides("embedding", side(False), others)


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
    it attends now.
    """
    if board == "base" or model.adapter == "decoder":
        return "base model"
    if model.adapter == "encoder":
        return "encoder"
    family = (model.family or "").lower().replace("xlm-", "").replace("xlm_", "")
    if model.pooling in ("last", "lasttoken") or family.startswith(tuple(_DECODERS)):
        return "decoder embedder"
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
