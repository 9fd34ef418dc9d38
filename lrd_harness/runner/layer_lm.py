"""A model up to one of its layers as lm-eval's own kind of model: `--model lrd`.

It is lm-eval's `hf` on the model without the blocks behind that layer, so that every option of `hf`
and every kind of task is there, generation included.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from torch import Tensor
from transformers import AutoModelForCausalLM

from lrd_harness import manager
from lrd_harness.errors import UserError, layer_number
from lrd_harness.models import own_code
from lrd_harness.models.backbone import Backbone, body, hidden_of
from lrd_harness.models.cut import remove
from lrd_harness.models.loading import (
    absent,
    complete,
    load_tokenizer,
    on_meta,
    origin,
    quiet,
    refuse_missing,
)
from lrd_harness.models.peft_adapters import parts
from lrd_harness.models.text_model import NO_HEAD
from lrd_harness.planning.models import PlannedModel, device, resolve_model
from lrd_harness.planning.settings import Settings
from lrd_harness.planning.suite import ModelEntry
from lrd_harness.progress import Display

_TEXT = "The quick brown fox jumps over the lazy dog."


class LayerLM(HFLM):  # type: ignore[misc]  # lm-eval has no types
    """lm-eval's `hf` on a model that ends at a layer, its final norm and head kept.

    pretrained : a folder, `pypi:PACKAGE==VERSION` or a hub id, as for `lrd-harness run`.
    layer : the state that the head reads, 0 (the embeddings) to L; by default L, the whole model.
    revision : of a hub id, as `@REVISION` behind it.
    trust_remote_code : whether code of the model's own may run, of a hub id at a commit alone.
    options : those of `hf`. By default the device is an accelerator where there is one.

    Raises UserError, before weights are loaded, for a model without a language-model head and for a
    layer that it does not have; and where the blocks behind the layer cannot be taken out.
    """

    def __init__(
        self,
        pretrained: str = "",
        layer: int | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        **options: Any,
    ) -> None:
        name = f"{pretrained}@{revision}" if revision else pretrained
        planned = _planned(name, parts(name) if trust_remote_code else [])
        if layer is not None:
            layer_number(layer, planned.name, planned.depth)
        checkpoint = planned.checkpoint
        own, where = own_code.auto_classes(checkpoint), origin(checkpoint)
        if own and AutoModelForCausalLM not in own:  # transformers would take a class of its own
            raise UserError(f"{planned.name}: {NO_HEAD}")
        options.setdefault("device", device(Settings()))
        with own_code.running(checkpoint):
            with quiet():
                _, loading = on_meta(checkpoint, AutoModelForCausalLM)
            refuse_missing(planned.name, absent(loading))
            options |= {"trust_remote_code": where["trust_remote_code"]}
            options |= {"revision": where["revision"]} if checkpoint.hub else {}
            if checkpoint.peft:
                options.setdefault("tokenizer", load_tokenizer(checkpoint))
            super().__init__(pretrained=checkpoint.path, **options)
            complete(self.model, checkpoint)
        if layer is not None:
            ids = torch.tensor([self.tok_encode(_TEXT)], device=self.device)
            blocks = Backbone(
                body(self.model), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            ).blocks
            _truncate(self.model, blocks, layer_number(layer, planned.name, len(blocks)))


def _planned(name: str, trusted: Sequence[str]) -> PlannedModel:
    """The model of that name, read by an adapter that knows heads. Raises UserError."""
    if not name:
        raise UserError("lrd: say which model, as in --model_args pretrained=NAME,layer=8")
    stage = Display(quiet=True).stage
    settings = Settings(trust_remote_code=tuple(trusted))
    planned = resolve_model(ModelEntry(name), settings, manager.load(), stage)
    if not planned.likelihoods:
        why = planned.headless if planned.adapter.likelihoods else NO_HEAD
        raise UserError(f"{planned.name}: {why}")
    return planned


def _truncate(model: Any, blocks: Any, layer: int) -> None:
    """Take out the blocks behind a layer, in place."""
    if layer:
        if layer < len(blocks):
            remove(model, blocks, range(layer + 1, len(blocks) + 1))
        return
    # no model is without a block, and the first one keeps count of the tokens when text is made
    if len(blocks) > 1:
        blocks = remove(model, blocks, range(2, len(blocks) + 1))
    taken: list[Tensor] = []

    def enter(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        taken.append((args[0] if args else kwargs["hidden_states"]).clone())

    def leave(_: Any, args: Any, output: Any) -> Any:
        state = taken.pop().to(hidden_of(output).device)
        return (state, *output[1:]) if isinstance(output, tuple) else state

    blocks[0].register_forward_pre_hook(enter, with_kwargs=True)
    blocks[0].register_forward_hook(leave)
