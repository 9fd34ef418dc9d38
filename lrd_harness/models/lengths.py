"""How many tokens of a text a model takes: tried, and found in the tables that it looks up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lrd_harness.errors import UserError
from lrd_harness.models.backbone import Backbone, Operations, text_config

# What a trial may cost on a CPU: operations of a pass, and bytes of one block's attention scores.
OPERATIONS = 2e11
SCORES = 2**30
# Of the passes whose lookups are noted: few, so that small tables bear them; of two lengths, since
# what grows with the text (the tokens of an expert) is no table.
TOKENS = (7, 5)

_ATEN = torch.ops.aten
UNLIMITED = 8192  # tokens of a text, where a model says nothing
# Under which names configurations say how long texts may be.
LENGTHS = "max_position_embeddings n_positions max_seq_len max_seq_length".split()
LENGTHS += "max_sequence_length seq_length n_ctx".split()


def stated_lengths(config: Any, of_tokenizer: float | None) -> dict[str, int]:
    """The most tokens of a text that tokenizer and configuration speak of, by who does."""
    stated = {f"{name} of config.json": getattr(config, name, None) for name in LENGTHS}
    limits = {"its tokenizer": of_tokenizer} | {k: v for k, v in stated.items() if type(v) is int}
    sound = {name: int(value) for name, value in limits.items() if value and 0 < value < 10**6}
    return sound or {"a usual limit, as nothing states one": UNLIMITED}


def length_limit(backbone: Backbone, probe: Mapping[str, Tensor], most: int) -> int:
    """How many tokens a text may have, up to `most`, at least 1: as many as the blocks bear.

    probe: features of a short text, (1, T), as the backbone takes them.
    A trial whose cost is out of proportion goes through the first block alone, or stops at a
    shorter text; beyond that the tables that were seen to be looked up are believed.

    Raises UserError where not a single token is borne.
    """
    tables = position_tables(backbone, probe)
    listed = min([most, *tables])
    # an index outside a table is an error on the CPU, and the end of the process on a GPU
    start = most if probe["input_ids"].device.type == "cpu" else listed
    tried = _affordable(backbone, probe, start)
    if _bears(backbone, probe, tried):
        return start if tried == start else max(tried, listed)
    below, above = 0, tried
    # numbers of a configuration may be limits, and are tried like any other
    settings = getattr(text_config(backbone.module), "__dict__", {})
    declared = [value for value in settings.values() if type(value) is int and value > 0]
    for length in sorted({n for n in (*tables, *declared) if n < tried}, reverse=True):
        if _bears(backbone, probe, length):
            below = length
            if not _bears(backbone, probe, length + 1):
                return length
            break
        above = length
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (middle, above) if _bears(backbone, probe, middle) else (below, middle)
    if not below:
        name = type(backbone.module).__name__
        raise UserError(f"{name} cannot be run on texts of any length up to {tried} tokens")
    return below


def _bears(backbone: Backbone, probe: Mapping[str, Tensor], length: int) -> bool:
    """Whether a text of so many tokens goes through, or would but for the memory."""
    whole = _operations(backbone, length) * backbone.calls <= _budget(probe)
    return backbone.bears(stretched(probe, length), None if whole else 1)


def _affordable(backbone: Backbone, probe: Mapping[str, Tensor], length: int) -> int:
    """The length, or the longest half, quarter ... of it that one block can be tried on."""
    config: Any = getattr(backbone.module, "config", None)
    eager = getattr(config, "_attn_implementation", "eager") in (None, "eager")
    heads = getattr(text_config(backbone.module), "num_attention_heads", 1) if eager else 1
    heads = heads if isinstance(heads, int) and heads > 0 else 1
    while length > 1 and (
        _operations(backbone, length) > _budget(probe) or 4 * heads * length**2 > SCORES
    ):
        length //= 2
    return length


def _budget(probe: Mapping[str, Tensor]) -> float:
    return OPERATIONS if probe["input_ids"].device.type == "cpu" else 25 * OPERATIONS


def _operations(backbone: Backbone, length: int) -> float:
    """Roughly those of one block."""
    weights = list(backbone.blocks[0].parameters())
    width = max((p.shape[-1] for p in weights), default=1)
    return 2.0 * length * sum(p.numel() for p in weights) + 4.0 * length**2 * width


def _rows_behind(operation: Any, args: Any, tokens: int) -> int | None:
    """How many rows a table has from the first of the T that an operation looks up there.

    None where it looks up none, or not rows n, n + 1, ... along one axis, the same in all others.
    """
    if operation is _ATEN.embedding.default:
        axis, rows = 0, args[1]
    elif operation in (_ATEN.index_select.default, _ATEN.gather.default):
        axis, rows = args[1:3]
    elif operation is _ATEN.index.Tensor and sum(index is not None for index in args[1]) == 1:
        axis, rows = next((i, index) for i, index in enumerate(args[1]) if index is not None)
    else:
        return None
    if rows.dtype.is_floating_point or rows.dtype == torch.bool:
        return None
    for tokens_at in [d for d, size in enumerate(rows.shape) if size == tokens]:
        run = rows.movedim(tokens_at, -1).reshape(-1, tokens)
        first = int(run[0, 0])
        expected = torch.arange(first, first + tokens, device=rows.device)
        if first >= 0 and bool((run == expected).all()):
            return int(args[0].shape[axis]) - first
    return None


def position_tables(backbone: Backbone, probe: Mapping[str, Tensor]) -> list[int]:
    """How many tokens the tables of positions have rows for, as far as a short pass shows them."""
    return sorted(set.intersection(*(_tables(backbone, probe, tokens) for tokens in TOKENS)))


def _tables(backbone: Backbone, probe: Mapping[str, Tensor], tokens: int) -> set[int]:
    """The lengths of the tables that a pass over one token, so many times, looks up in order."""
    lengths: set[int] = set()
    middle = probe["input_ids"].shape[1] // 2
    repeated = stretched(probe, tokens)
    repeated["input_ids"] = probe["input_ids"][:, middle : middle + 1].repeat(1, tokens)

    def note(operation: Any, args: Any) -> None:
        rows = _rows_behind(operation, args, tokens)
        if rows is not None:
            lengths.add(rows)

    with Operations(note):
        backbone.bears(repeated, None)
    return lengths


def stretched(probe: Mapping[str, Tensor], length: int) -> dict[str, Tensor]:
    """The probe (1, T) at another length: cut, or its middle token repeated."""
    size = probe["input_ids"].shape[1]
    rows = list(range(min(size, length)))
    middle = size // 2
    rows[middle:middle] = [middle] * (length - len(rows))
    return {name: values[:, rows] for name, values in probe.items()}
