"""Sizes that a config.json states, against the weights beside it: an absurd one ends in a line.

transformers builds as many blocks as the configuration says before it looks at the weights, and
tables as long as it says without looking at any; 10^9 of them would be built for ever. The headers
of the weights tell how many there can be. Only what is far beyond them is refused here: small
differences are told of by transformers, or are right, as of blocks that share their weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lrd_harness import bounds
from lrd_harness.errors import UserError

COUNT = re.compile(r"(num|n)_(\w+_)?(layers?|blocks)|(num_)?(encoder|decoder)_layers|depth")
PARTS = re.compile(r"(num|n)_(\w+_)?(experts|groups|heads)")  # of a block, which may have none
SIZE = re.compile(
    r"(\w+_)?vocab_size|(\w+_)?hidden_size|\w*intermediate_size|d_model|d_ff|d_kv|"
    r"n_embd|n_inner|dim|hidden_dim|(\w+_)?ffn_dim|embedding_size|head_dim"
)
POSITIONS = re.compile(r"(\w+_)?max_position_embeddings|n_positions|n_ctx|max_seq_len|seq_length")
KINDS = (COUNT, PARTS, SIZE, POSITIONS)
FEW, SMALL = 64, 10**6  # counts and sizes that are not looked at further
MOST_SIZE, MOST_POSITIONS, MOST_PARTS = 10**8, 5 * 10**7, 2**16


class Weights(NamedTuple):
    """What the headers say: the longest list of modules, and the longest side of a tensor."""

    modules: int
    side: int


def check_sizes(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise UserError where config.json states sizes far beyond the weights in the folder.

    Only headers are read, and only where something is large. A folder without weights is held to
    the bounds alone.
    """
    found: Weights | None = None
    for key, value in _numbers(config):
        where = f"{folder / 'config.json'}: {key} is {bounds.shown(value)}"
        if POSITIONS.fullmatch(key) or PARTS.fullmatch(key):
            most = MOST_POSITIONS if POSITIONS.fullmatch(key) else MOST_PARTS
            if not value <= most:
                raise UserError(f"{where}: at most {most:,} is possible")
            continue
        count = COUNT.fullmatch(key) is not None
        if value <= (FEW if count else SMALL):
            continue
        most = bounds.BLOCKS if count else MOST_SIZE
        if not value <= most:  # NaN, too
            raise UserError(f"{where}: at most {most:,} is possible")
        found = found or _weights(sorted(folder.glob("*.safetensors")))
        if count and found.modules and value > 4 * found.modules + FEW:
            raise UserError(f"{where}, but the weights beside it have {found.modules} blocks")
        if not count and found.side and value > 16 * found.side:
            raise UserError(f"{where}, but no weight beside it has more than {found.side:,} rows")


def _numbers(config: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers under a name that says a count or a size, those of nested configurations too."""
    left: list[Mapping[str, Any]] = [config]
    while left:
        for key, value in left.pop().items():
            if isinstance(value, dict):
                left.append(value)
            elif _is_number(value) and any(k.fullmatch(key) for k in KINDS):
                yield key, value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _weights(files: Sequence[Path]) -> Weights:
    from safetensors import safe_open

    modules, side = 0, 0
    for path in files:
        with safe_open(path, framework="numpy") as weights:
            for name in weights.keys():  # noqa: SIM118 - it is no mapping
                numbers = [part for part in name.split(".") if re.fullmatch("[0-9]{1,9}", part)]
                modules = max([modules, *(int(number) + 1 for number in numbers)])
                side = max([side, *weights.get_slice(name).get_shape()])
    return Weights(modules, side)
