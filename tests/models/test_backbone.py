"""States read block by block equal those that transformers itself gives."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
import transformers
from torch import Tensor, nn

from lrd_harness.errors import UserError
from lrd_harness.models.backbone import Backbone

FAMILIES = [*tiny.ENCODERS, *tiny.DECODERS, *tiny.WIDER]
# where the last thing a model does is a norm (or, in T5, a norm and dropout)
NORMED = {"ModernBert", "T5", *tiny.DECODERS, "Falcon", "Bloom", "Phi", "Mpt", "Rwkv"}
SPLIT = {"Mamba", "Rwkv"}  # their list of hidden states follows other conventions


def module_of(family: str, **changes: Any) -> nn.Module:
    torch.manual_seed(0)
    module = transformers.AutoModel.from_config(tiny.config(family, **changes)).eval()
    if module.config.is_encoder_decoder:
        module = module.get_encoder()
    with torch.no_grad():  # norms that do something, so that one too many would show
        for name, parameter in module.named_parameters():
            if "norm" in name.lower() or "ln_" in name:
                parameter.add_(torch.rand_like(parameter))
    return module


def probe(batch: int = 1) -> dict[str, Tensor]:
    torch.manual_seed(1)
    ids = torch.randint(7, len(tiny.VOCAB), (batch, 9))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def hooks_of(module: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


def states_of(backbone: Backbone, features: dict[str, Tensor]) -> tuple[list[Tensor], Tensor]:
    seen: dict[int, Tensor] = {}
    last = backbone.run(features, lambda layer, state: seen.update({layer: state.clone()}))
    assert list(seen) == list(range(backbone.calls + 1))
    return list(seen.values()), last


@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_those_of_transformers(family: str) -> None:
    module = module_of(family)
    backbone = Backbone(module, probe())
    features = probe(3)
    states, last = states_of(backbone, features)
    assert hooks_of(module) == 0
    with torch.inference_mode():  # transformers hooks its own blocks for this, and leaves them so
        own = module(**features, output_hidden_states=True)
    assert backbone.calls == 3
    assert len(backbone.blocks) == (1 if family == "Albert" else 3)
    assert torch.equal(last, own.last_hidden_state)
    if family not in SPLIT:
        for state, expected in zip(states[:-1], own.hidden_states[:-1], strict=True):
            torch.testing.assert_close(state, expected, rtol=0, atol=1e-6)

    assert (backbone.final_norm is not None) == (family in NORMED)
    with torch.inference_mode():
        normed = states[-1] if backbone.final_norm is None else backbone.final_norm(states[-1])
    torch.testing.assert_close(normed, own.last_hidden_state)
    if backbone.final_norm is not None:  # the state as written is another, so once and not twice
        assert not torch.allclose(states[-1], own.last_hidden_state, atol=1e-2)
        with torch.inference_mode():
            twice = backbone.final_norm(normed)
        assert not torch.allclose(twice, own.last_hidden_state, atol=1e-2)


@pytest.mark.parametrize("family", sorted(SPLIT))
def test_states_block_by_block(family: str) -> None:
    module: Any = module_of(family)
    backbone = Backbone(module, probe())
    states, _ = states_of(backbone, probe())
    for index, block in enumerate(backbone.blocks):
        with torch.inference_mode():
            given = block(states[index])
        given = given[0] if isinstance(given, tuple) else given
        torch.testing.assert_close(states[index + 1], given)
    with torch.inference_mode():
        embedded = module.get_input_embeddings()(probe()["input_ids"])
    torch.testing.assert_close(states[0], embedded)


def test_the_depth_counts_calls_not_modules() -> None:
    backbone = Backbone(module_of("Albert", num_hidden_layers=5), probe())
    assert backbone.calls == 5
    assert len(backbone.blocks) == 1


@pytest.mark.parametrize("layers", [1, 2, 7])
def test_any_depth(layers: int) -> None:
    for family in ("Bert", "T5", "Llama"):
        module = module_of(family, num_hidden_layers=layers)
        assert Backbone(module, probe()).calls == layers


class Plain(nn.Module):
    """A model that is written by hand; subclasses say what comes after its blocks."""

    def __init__(self, blocks: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(len(tiny.VOCAB), 8)
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(blocks))
        self.norm = nn.LayerNorm(8)
        self.out = nn.Linear(8, 4)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Any:
        state = self.embed(input_ids)
        for block in self.blocks:
            state = block(state)
        return SimpleNamespace(last_hidden_state=self.end(state))

    def end(self, state: Tensor) -> Tensor:
        return self.out(self.norm(state))


class Tripled(Plain):
    def end(self, state: Tensor) -> Tensor:
        return 3 * state


class Pooled(Plain):
    def end(self, state: Tensor) -> Tensor:
        return state.mean(1)


class Image(nn.Module):
    def forward(self, pixel_values: Tensor) -> Tensor:
        return pixel_values


def test_a_model_without_a_config() -> None:
    model = Plain()
    backbone = Backbone(model, probe())
    assert backbone.calls == 2
    states, last = states_of(backbone, probe())
    assert backbone.final_norm is not None
    with torch.inference_mode():
        torch.testing.assert_close(backbone.final_norm(states[-1]), last)


@pytest.mark.parametrize(
    ("made", "complaint"),
    [
        (Tripled, "does not follow from its last block"),
        (Pooled, "no state for each token"),
        (Image, "cannot be run on tokens"),
        (lambda: Plain(blocks=0), "no blocks"),
    ],
)
def test_what_cannot_be_read_by_layer(made: Any, complaint: str) -> None:
    module = made()
    with pytest.raises(UserError, match=complaint):
        Backbone(module, probe())
    assert hooks_of(module) == 0


def test_no_hook_stays_when_a_pass_fails() -> None:
    module: Any = module_of("Bert")
    backbone = Backbone(module, probe())
    handle = module.encoder.layer[1].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        backbone.run(probe(), lambda layer, state: None)
    handle.remove()

    def refuse(layer: int, state: Tensor) -> None:
        raise KeyError(layer)

    with pytest.raises(KeyError):
        backbone.run(probe(), refuse)
    assert hooks_of(module) == 0


def test_nothing_of_a_pass_is_kept_for_gradients() -> None:
    module = module_of("Llama").train()
    backbone = Backbone(module, probe())
    assert not module.training
    _, last = states_of(backbone, probe())
    assert last.is_inference()
    assert all(p.grad is None for p in module.parameters())


def test_work_between_blocks_belongs_to_the_state() -> None:
    """DeBERTa-v2 has a convolution behind its first block, which the model cut there has, too."""
    conv = {"conv_kernel_size": 3, "conv_act": "gelu", "norm_rel_ebd": "layer_norm"}
    module: Any = module_of("DebertaV2", relative_attention=True, pos_att_type=["c2p"], **conv)
    states, last = states_of(Backbone(module, probe()), probe(2))
    with torch.inference_mode():
        own = module(**probe(2), output_hidden_states=True).hidden_states
    for state, expected in zip([*states[:-1], last], own, strict=True):
        torch.testing.assert_close(state, expected, rtol=0, atol=1e-6)
    cut = transformers.AutoModel.from_config(
        tiny.config(
            "DebertaV2",
            relative_attention=True,
            pos_att_type=["c2p"],
            num_hidden_layers=1,
            **conv,
        )
    ).eval()
    cut.load_state_dict(module.state_dict(), strict=False)
    with torch.inference_mode():
        torch.testing.assert_close(states[1], cut(**probe(2))[0], rtol=0, atol=1e-6)


class Telling(Plain):
    """Offers hidden states, of which one is not what a block reads."""

    def __init__(self, wrong: int | None, shift: bool = False) -> None:
        super().__init__(blocks=3)
        self.wrong, self.shift = wrong, shift

    def forward(self, input_ids: Tensor, output_hidden_states: bool = False, **_: Any) -> Any:
        state = self.embed(input_ids)
        held = [state]
        for block in self.blocks:
            state = block(state)
            held.append(state)
        if self.shift:  # as in Mamba: states 1 to L, and the last once more
            held = [*held[1:], state]
        if self.wrong is not None:
            held[self.wrong] = held[self.wrong] + 1
        kept = tuple(held) if output_hidden_states else None
        return SimpleNamespace(last_hidden_state=state, hidden_states=kept)


@pytest.mark.parametrize("shift", [False, True])
def test_states_are_compared_with_those_that_the_model_offers(shift: bool) -> None:
    assert Backbone(Telling(None, shift), probe()).calls == 3
    for wrong in range(4):
        with pytest.raises(UserError, match=r"Telling: state \d .* not hidden_states"):
            Backbone(Telling(wrong, shift), probe())


def test_what_reads_the_output_is_no_norm() -> None:
    """A pooler behind the output takes the normed state, whose norm must not be missed for it."""

    class PooledBehind(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.pooler = nn.Linear(8, 8)

        def forward(self, input_ids: Tensor, **_: Any) -> Any:
            state = self.embed(input_ids)
            for block in self.blocks:
                state = block(state)
            last = self.norm(state)
            self.pooler(last)
            return SimpleNamespace(last_hidden_state=last)

    module = PooledBehind()
    assert Backbone(module, probe()).final_norm is module.norm
