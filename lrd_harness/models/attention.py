"""Attention maps of one text, block by block, from a pass of its own under eager attention."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lrd_harness.errors import UnitError, UserError
from lrd_harness.models.backbone import Backbone, output_of, rounding, text_config

MOST = 4 * 2**30  # bytes of the maps of one text
_SWITCH = "_attn_implementation_internal"  # without what transformers' own switch may refuse
# transformers puts hooks onto a model when it is first to show its maps, and then once more where
# it is a part of another: within a pass there are to be those of this pass alone
_INSTALLED, _HOOK = "_output_capturing_hooks_installed", "output_capturing_hook"


@contextmanager
def eager(module: nn.Module) -> Iterator[None]:
    """Within the block a transformers model attends in the way that shows its maps."""
    with ExitStack() as back:  # the last first
        for part in module.modules():
            own, hooks, config = vars(part), part._forward_hooks, getattr(part, "config", None)
            if getattr(config, _SWITCH, "eager") != "eager":
                back.callback(setattr, config, _SWITCH, getattr(config, _SWITCH))
                setattr(config, _SWITCH, "eager")
            if _INSTALLED in own:
                back.callback(own.update, {_INSTALLED: own.pop(_INSTALLED)})
            back.callback(own.pop, _INSTALLED, None)
            back.callback(hooks.update, dict(hooks))
            back.callback(hooks.clear)  # in place: whoever registered one holds on to it
            for key, hook in list(hooks.items()):
                if getattr(hook, "__name__", "") == _HOOK:
                    del hooks[key]
        yield


def check_eager(backbone: Backbone, inputs: Mapping[str, Tensor], dtype: str) -> None:
    """Raise UnitError where a model's output is another one under eager attention."""
    usual = backbone.run(inputs, lambda layer, state: None).float()
    with eager(backbone.module):
        apart = backbone.run(inputs, lambda layer, state: None).float() - usual
    if apart.norm() > rounding(dtype) * usual.norm():
        name = type(backbone.module).__name__
        raise UnitError(f"{name} has other states where its attention maps can be read")


def attention_maps(
    backbone: Backbone, inputs: Mapping[str, Tensor], present: Tensor
) -> list[Tensor]:
    """The maps of block 1..L for one text, (h, T, T) each; a row holds what a token attends to.

    inputs: of a batch of one; present: (T',), which of its tokens are the text's own.
    Raises UnitError for a model that shows no maps, UserError for a text of which they are too
    large.
    """
    module: Any = backbone.module
    name, tokens = type(module).__name__, int(present.sum())
    heads = getattr(text_config(module), "num_attention_heads", None)
    size = 4 * backbone.calls * (heads if isinstance(heads, int) else 1) * tokens**2
    if size > MOST:
        takes = f"attention maps of a text of {tokens:,} tokens take {size / 2**30:.0f} GiB"
        raise UserError(f"{takes}: --max-length makes texts shorter")
    with torch.inference_mode(), backbone.unchanged(), eager(module):
        try:
            output = output_of(module, inputs, output_attentions=True)
        except TypeError as error:  # a module that knows of none
            raise UnitError(f"{name} shows no attention maps: {error}") from None
    maps = [each for each in getattr(output, "attentions", None) or () if each is not None]
    if len(maps) != backbone.calls:
        raise UnitError(
            f"{name} shows {len(maps) or 'no'} attention maps of {backbone.calls} blocks"
        )
    kept = present.nonzero()[:, 0]
    for block, each in enumerate(maps, 1):
        if each.ndim != 4 or each.shape[2] != each.shape[3] or each.shape[2] < len(present):
            shape = tuple(each.shape)
            raise UnitError(f"{name}: the attention of block {block} is no map of tokens: {shape}")
    return [each[0][:, kept][:, :, kept] for each in maps]
