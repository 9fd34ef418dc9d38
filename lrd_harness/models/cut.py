"""Take blocks out of a transformers model: the modules, and all that counts or numbers them.

Blocks are numbered 1..L. Nothing goes by the name of a family: the list of blocks is found by
identity, its owners through the tree.
"""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from torch import nn
from transformers import PreTrainedConfig

from lrd_harness.errors import UserError
from lrd_harness.models import quantised
from lrd_harness.models.backbone import COUNTS

# Names under which modules keep their block's number; caches of keys and values go by it.
NUMBERS = ("layer_idx", "layer_id", "layer_index", "layer_number", "layer_num", "block_idx")
# Settings of models whose last blocks use the keys and values of others, or whose embedding has a
# part for each block (Gemma 3n and 4), or that add positions behind each block (YOLOS).
ENTWINED = ("num_kv_shared_layers", "hidden_size_per_layer_input", "use_mid_position_embeddings")
UNRELATED = ("architectures", "keys_to_ignore_at_inference", "_out_indices", "_out_features")
BIAS = "relative_attention_bias"  # T5: made in the first block for all


def parse_blocks(text: str, blocks: int) -> tuple[int, ...]:
    """The block numbers that a user types, in order: "7,12-14" of L blocks -> (7, 12, 13, 14).

    Raises UserError for what is not a number, a number outside 1..L, and a repeated one.
    """
    numbers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part, re.ASCII)
        if not match:
            raise UserError(f"'{part.strip()}' is no block number; blocks are given as 7,12-14")
        first, last = int(match[1]), int(match[2] or match[1])
        if first > last:
            raise UserError(f"blocks {first}-{last}: the first must not come after the last")
        # before a range of any length is written out
        _check_numbers(list(dict.fromkeys((first, last))), blocks)
        numbers += range(first, last + 1)
    _check_numbers(numbers, blocks)
    return tuple(sorted(numbers))


def kept_blocks(removed: Sequence[int], blocks: int) -> tuple[int, ...]:
    """The numbers of the blocks that stay of 1..L.

    Raises UserError where no block is removed, a block does not exist or is named twice, or no
    block is left.
    """
    if not removed:
        raise UserError("no block is to be removed")
    _check_numbers(removed, blocks)
    gone = set(removed)
    kept = tuple(number for number in range(1, blocks + 1) if number not in gone)
    if not kept:
        raise UserError(f"all {blocks} blocks are to be removed: none would be left")
    return kept


def _check_numbers(numbers: Sequence[int], blocks: int) -> None:
    for number in numbers:
        if not 1 <= number <= blocks:
            raise UserError(f"block {number} does not exist: the model has blocks 1 to {blocks}")
    for number, times in Counter(numbers).items():
        if times > 1:
            raise UserError(f"block {number} is given twice")


def remove(module: nn.Module, blocks: nn.ModuleList, removed: Sequence[int]) -> nn.ModuleList:
    """Take blocks out of a model, in place; returns the list of those that stay.

    module: a base model, one with a head, or a SentenceTransformer; blocks: its list of blocks, as
    Backbone finds it, anywhere inside; removed: block numbers, 1..L. The output state is that of
    the remaining blocks run one after another; a Backbone of the module has to be made anew.

    Raises UserError for what kept_blocks refuses, blocks that share weights (ALBERT) or keys and
    values, blocks whose kind follows from their place (Jamba) where what is left would have another
    order, and the decoder of an encoder-decoder model; the model is then as it was.
    """
    kept, configs, handed = _plan(module, blocks, removed)
    around = _around(module, blocks)
    remaining = nn.ModuleList(blocks[number - 1] for number in kept)
    remaining.train(blocks.training)
    for source, target in handed:
        for name, bias in {**_biases(source), f"has_{BIAS}": True}.items():
            setattr(target, name, bias)
    for parent in around:
        for name, child in parent._modules.items():
            if child is blocks:
                setattr(parent, name, remaining)
        _lower_counts(parent, len(blocks), len(kept))
    for config in configs:
        _fit(config, len(blocks), kept)
    for now, (number, block) in enumerate(zip(kept, remaining, strict=True)):
        for part in block.modules():
            for name in NUMBERS:
                value = vars(part).get(name)
                if type(value) is int and value in (number - 1, number):  # from 0, or from 1
                    setattr(part, name, value - (number - 1) + now)
    return remaining


def parameters(module: nn.Module, blocks: nn.ModuleList, removed: Sequence[int]) -> tuple[int, int]:
    """How many parameters the model has, and would have without these blocks; nothing is changed.

    Raises UserError as `remove` does.
    """
    _, _, handed = _plan(module, blocks, removed)
    before = quantised.parameters(module)
    gone = sum(quantised.parameters(blocks[number - 1]) for number in removed)
    saved = sum(quantised.parameters(m) for source, _ in handed for m in _biases(source).values())
    return before, before - gone + saved


def _plan(
    module: nn.Module, blocks: nn.ModuleList, removed: Sequence[int]
) -> tuple[tuple[int, ...], list[Any], list[tuple[nn.Module, nn.Module]]]:
    """The numbers kept, the configurations to change, and who hands a bias to whom; checked."""
    name = type(module).__name__
    around = _around(module, blocks)
    configs = _configs([*around, *blocks.modules()])
    _check_encoder(around, blocks, name)
    _check_apart(configs, blocks, name)
    kept = kept_blocks(removed, len(blocks))
    for config in configs:
        _check_kinds(config, len(blocks), kept, name)
    return kept, configs, _heirs(blocks[0], blocks[kept[0] - 1], name)


def _around(module: nn.Module, blocks: nn.ModuleList) -> list[nn.Module]:
    """The modules that the list lies in, from the outside in."""
    around = [m for m in module.modules() if m is not blocks and blocks in set(m.modules())]
    if not around:
        raise ValueError("these blocks are no part of this module")
    return around


def _configs(modules: Sequence[nn.Module]) -> list[Any]:
    """The configurations that these modules read; some copy theirs, most share one.

    That of a model of texts is a part of its model's, unless these are modules of images (CLIP).
    """
    every = (getattr(module, "config", None) for module in modules)
    configs = {id(config): config for config in every if isinstance(config, PreTrainedConfig)}
    for config in list(configs.values()):
        texts = getattr(config, "text_config", None)
        of_images = id(getattr(config, "vision_config", None)) in configs
        if isinstance(texts, PreTrainedConfig) and not of_images:
            configs[id(texts)] = texts
    return list(configs.values())


def _check_encoder(around: Sequence[nn.Module], blocks: nn.ModuleList, name: str) -> None:
    """Raise UserError for blocks outside the encoder of an encoder-decoder model."""
    for module in around:
        config = getattr(module, "config", None)
        if not getattr(config, "is_encoder_decoder", False):
            continue
        decoder = module._modules.get("decoder")
        alone = decoder is None and getattr(config, "is_decoder", False)
        if alone or (decoder is not None and any(m is blocks for m in decoder.modules())):
            raise UserError(
                f"{name} is an encoder-decoder model, of which only the encoder can be pruned"
            )


def _check_apart(configs: Sequence[Any], blocks: nn.ModuleList, name: str) -> None:
    """Raise UserError where blocks are not independent, so that none can go by itself."""
    counts = [getattr(config, key, None) for config in configs for key in _count_names(config)]
    weights = [id(p) for block in blocks for p in block.parameters()]  # each once per block
    if (configs and len(blocks) not in counts) or len(weights) > len(set(weights)):
        raise UserError(f"{name} shares weights between its blocks, so none of them can be removed")
    if any(getattr(config, key, 0) for config in configs for key in ENTWINED):
        raise UserError(f"{name}: its blocks read what belongs to a place, so none can be removed")


def _check_kinds(config: Any, blocks: int, kept: Sequence[int], name: str) -> None:
    """Raise UserError where a configuration works out the kinds of blocks, and would get others.

    Jamba attends in every eighth block, say: the list of kinds is a property, not a setting.
    """
    after = copy.deepcopy(config)
    _fit(after, blocks, kept)
    for key in ("layers_block_type", "layer_types", "layer_type_list"):
        value = getattr(config, key, None)
        if not isinstance(value, (list, tuple)) or len(value) != blocks:
            continue
        if list(getattr(after, key)) != [value[number - 1] for number in kept]:
            raise UserError(f"{name}: the kinds of its blocks ({key}) follow from their place")


def _heirs(first: nn.Module, new_first: nn.Module, name: str) -> list[tuple[nn.Module, nn.Module]]:
    """Who in the removed first block made the position bias of all blocks, and who is to now."""
    if first is new_first:
        return []
    targets, heirs = dict(new_first.named_modules()), []
    for path, source in first.named_modules():
        if getattr(source, f"has_{BIAS}", False) is not True:
            continue
        target = targets.get(path)
        if target is None or type(target) is not type(source):
            raise UserError(f"{name}: block 1 makes the position bias of all, so it has to stay")
        if not getattr(target, f"has_{BIAS}"):
            heirs.append((source, target))
    return heirs


def _biases(source: nn.Module) -> dict[str, nn.Module]:
    return {name: child for name, child in source.named_children() if name.endswith(BIAS)}


def _count_names(owner: Any) -> tuple[str, ...]:
    decoder = getattr(owner, "is_decoder", False) and not getattr(owner, "is_encoder_decoder", True)
    return ("decoder_layers", *COUNTS) if decoder else COUNTS  # BART's decoder on its own


def _lower_counts(owner: Any, blocks: int, left: int) -> None:
    """Set the number of blocks in a configuration or a module, under whatever names it has it."""
    for name in _count_names(owner):
        value = getattr(owner, name, None)
        if type(value) is int and value == blocks:
            with suppress(NotImplementedError):  # ProphetNet has it made of another
                setattr(owner, name, left)


def _fit(config: Any, blocks: int, kept: Sequence[int]) -> None:
    """Let a configuration say what is left, in lists of one entry per block, or of blocks, too."""
    now = {number - 1: index for index, number in enumerate(kept)}
    for name, value in list(vars(config).items()):
        # lists of tokens and names, heights and widths may have as many entries as there are blocks
        unrelated = name in UNRELATED or "token" in name or name.startswith(("image_", "patch_"))
        if unrelated or not isinstance(value, list | tuple) or not value:
            continue
        if len(value) == blocks:
            setattr(config, name, type(value)(value[number - 1] for number in kept))
        elif (
            "layer" in name
            and all(type(v) is int for v in value)
            and sorted({*value} & {*range(blocks)}) == list(value)
        ):  # numbers of blocks, from 0
            setattr(config, name, type(value)(now[v] for v in value if v in now))
    if getattr(config, "attention_types", None) and hasattr(config, "attention_layers"):
        # GPT-Neo writes the same list as runs, and reads only these
        config.attention_types = [[[kind], 1] for kind in config.attention_layers]
    dense = getattr(config, "first_k_dense_replace", None)  # DeepSeek: the first k have no experts
    if type(dense) is int:
        config.first_k_dense_replace = sum(number <= dense for number in kept)
    states = getattr(config, "stage_names", None)  # which a model gives that is used in another
    if isinstance(states, list) and len(states) == blocks + 1:
        left = {0: 0, **{number: state for state, number in enumerate(kept, 1)}}
        given = [left[i] for i in (i % len(states) for i in config.out_indices) if i in left]
        config.stage_names = states[: len(kept) + 1]
        config.out_indices = given or [len(kept)]
    _lower_counts(config, blocks, len(kept))
