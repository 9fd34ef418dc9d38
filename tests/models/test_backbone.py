"""States read block by block equal those that transformers itself gives.

Reading a model leaves it as it was, and no text's states depend on those read before it.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
import transformers
from torch import Tensor, nn

from lrd_harness.contracts import Text
from lrd_harness.errors import UserError
from lrd_harness.models.backbone import Backbone, body, follows_length

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


@pytest.mark.parametrize("family", tiny.rest_slow(FAMILIES, "Bert", "T5", "Llama", "Albert"))
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


def test_work_between_blocks_belongs_to_the_state() -> None:
    """DeBERTa-v2 has a convolution behind its first block."""
    conv = {"conv_kernel_size": 3, "conv_act": "gelu", "norm_rel_ebd": "layer_norm"}
    module: Any = module_of("DebertaV2", relative_attention=True, pos_att_type=["c2p"], **conv)
    states, last = states_of(Backbone(module, probe()), probe(2))
    with torch.inference_mode():
        own = module(**probe(2), output_hidden_states=True).hidden_states
    for state, expected in zip([*states[:-1], last], own, strict=True):
        torch.testing.assert_close(state, expected, rtol=0, atol=1e-6)


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


def test_bodies() -> None:
    """Below the head of a language model or a classifier, and the encoder of an encoder-decoder."""
    for kind, part in (("MaskedLM", "bert"), ("SequenceClassification", "bert")):
        made = getattr(transformers, f"BertFor{kind}")(tiny.config("Bert"))
        assert body(made) is getattr(made, part)
    bert = transformers.BertModel(tiny.config("Bert"))
    assert body(bert) is bert
    bart = transformers.BartForConditionalGeneration(tiny.config("Bart"))
    assert body(bart) is bart.model.encoder


SHORT, LONG = Text("the cat sat"), Text(" ".join(tiny.sentences(12)))


def big_bird(**changes: Any) -> Any:
    return transformers.BigBirdConfig(
        **tiny.SMALL,
        attention_type="block_sparse",
        block_size=16,
        num_random_blocks=1,
        max_position_embeddings=512,
        **changes,
    )


def check_as_stock(folder: Path, texts: list[Text]) -> None:
    """States of texts, read in this order, are those of a fresh model for each."""
    model = tiny.open_model(folder, pooling="mean")
    assert model.padding == "none"  # or they would depend on the longest of their batch
    encoded = model.tokenize(texts)
    found = [model.states([one]) for one in encoded]
    together = model.states(encoded)
    for i, one in enumerate(encoded):
        stock = transformers.AutoModel.from_pretrained(folder).eval()
        ids = torch.tensor([one["input_ids"]])
        with torch.inference_mode():
            own = stock(
                input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True
            )
        for layer, state in enumerate(own.hidden_states[:-1]):
            torch.testing.assert_close(found[i]["raw", layer][0], state[0].mean(0))
            torch.testing.assert_close(together["raw", layer][i], found[i]["raw", layer][0])


def test_big_bird_stays_sparse(tmp_path: Path) -> None:
    """It turns to full attention for good by a short text, as every probe is."""
    folder = tiny.save_config(big_bird(), tmp_path / "m", encoder=True, max_length=256)
    model = tiny.open_model(folder)
    assert model.backbone.module.attention_type == "block_sparse"
    check_as_stock(folder, [SHORT, LONG, SHORT, LONG])


def test_blocks_that_are_filled_up_hold_no_tokens(tmp_path: Path) -> None:
    """In sparse attention BigBird reads whole blocks of 16 tokens, and pads the last one itself."""
    folder = tiny.save_config(big_bird(), tmp_path / "m", encoder=True, max_length=256)
    texts = [Text("a" * n) for n in (125, 126, 127, 140)]
    check_as_stock(folder, texts)


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_rotary_frequencies_that_follow_the_longest_text(kind: str, tmp_path: Path) -> None:
    rope: dict[str, Any] = {"rope_type": kind, "rope_theta": 1e4, "factor": 4.0}
    if kind == "longrope":
        rope |= {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
        rope |= {"original_max_position_embeddings": 32}
    most = 32 if kind == "dynamic" else 256
    changes = {"max_position_embeddings": most, "rope_parameters": rope, "num_key_value_heads": 2}
    made = transformers.LlamaConfig(**tiny.SMALL, **changes)
    folder = tiny.save_config(made, tmp_path / "m", max_length=256)
    assert follows_length(transformers.AutoModel.from_pretrained(folder))
    model = tiny.open_model(folder, max_length=256, pooling="mean")
    assert model.padding == "none"
    texts = [LONG, SHORT, LONG]
    together = model.states(model.tokenize(texts))
    for i, text in enumerate(texts):
        alone = tiny.open_model(folder, max_length=256, pooling="mean")
        expected = alone.states(alone.tokenize([text]))
        for plane, state in expected.items():
            torch.testing.assert_close(together[plane][i], state[0])


def test_weights_are_prepared_once(tmp_path: Path) -> None:
    """RWKV halves those of later blocks before its first pass, and must not do so again."""
    made = transformers.RwkvConfig(
        vocab_size=len(tiny.VOCAB), hidden_size=32, num_hidden_layers=5, rescale_every=2
    )
    folder = tiny.save_config(made, tmp_path / "m", max_length=256)
    model = tiny.open_model(folder)
    ids = torch.tensor([model.tokenize([LONG])[0]["input_ids"]])
    for _ in range(2):
        last = model.backbone.run({"input_ids": ids}, lambda layer, state: None)
        with torch.inference_mode():
            own = transformers.AutoModel.from_pretrained(folder).eval()(input_ids=ids)
        torch.testing.assert_close(last, own.last_hidden_state)
