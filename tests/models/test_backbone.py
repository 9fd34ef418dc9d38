"""What is read by layer, and what cannot be; test_matrix.py compares the states of many families.

Reading a model leaves it as it was, and no text's states depend on those read before it.
"""

from __future__ import annotations

from collections.abc import Callable
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

SHORT, LONG = Text("the cat sat"), Text(" ".join(tiny.sentences(12)))


def module_of(family: str, **changes: Any) -> Any:
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


def check_as_stock(model: Any, load: Callable[[], Any], texts: list[Text]) -> None:
    """Mean states of texts, alone in this order and together, are those of a new model for each."""
    encoded = model.tokenize(texts)
    alone = [model.states([features]) for features in encoded]
    together = model.states(encoded)
    for row, features in enumerate(encoded):
        ids = torch.tensor([features["input_ids"]])
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        with torch.inference_mode():
            expected = load().eval()(**inputs, output_hidden_states=True).hidden_states
        assert len(expected) == model.info.blocks + 1
        for layer, state in enumerate(expected[:-1]):
            torch.testing.assert_close(alone[row]["raw", layer][0], state[0].mean(0))
            torch.testing.assert_close(together["raw", layer][row], alone[row]["raw", layer][0])


def test_work_between_blocks_belongs_to_the_state() -> None:
    """DeBERTa-v2 has a convolution behind its first block."""
    conv = {"conv_kernel_size": 3, "conv_act": "gelu", "norm_rel_ebd": "layer_norm"}
    module = module_of("DebertaV2", relative_attention=True, pos_att_type=["c2p"], **conv)
    states, last = states_of(Backbone(module, probe()), probe(2))
    with torch.inference_mode():
        expected = module(**probe(2), output_hidden_states=True).hidden_states
    torch.testing.assert_close((*states[:-1], last), expected, rtol=0, atol=1e-6)


class Plain(nn.Module):
    """A model that is written by hand.

    end: what it does behind its blocks; offers: its own list of hidden states, made of the states.
    """

    def __init__(self, end: Any = None, blocks: int = 3, offers: Any = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(len(tiny.VOCAB), 8)
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(blocks))
        self.norm, self.pooler = nn.LayerNorm(8), nn.Linear(8, 8)
        self.end, self.offers = end, offers

    def forward(self, input_ids: Tensor, **_: Any) -> Any:
        states = [self.embed(input_ids)]
        for block in self.blocks:
            states.append(block(states[-1]))
        last = self.end(self, states[-1]) if self.end else states[-1]
        offered = tuple(self.offers(states)) if self.offers else None
        return SimpleNamespace(last_hidden_state=last, hidden_states=offered)


class Split(nn.Module):
    """A block that writes two streams of states, or none of a token."""

    def forward(self, state: Tensor) -> Tensor:
        return torch.stack([state, state], 2)


def streams(module: Any, state: Tensor) -> Tensor:
    return sum(split(state) for split in module.blocks).sum(2)


class Image(nn.Module):
    def forward(self, pixel_values: Tensor) -> Tensor:
        return pixel_values


def split() -> nn.Module:
    """A model whose blocks hand on two streams of states, as hyper-connections do."""
    module = Plain(streams, blocks=0)
    module.blocks = nn.ModuleList(Split() for _ in range(2))
    module.forward = lambda input_ids, **_: SimpleNamespace(  # type: ignore[method-assign]
        last_hidden_state=streams(module, module.embed(input_ids))
    )
    return module


@pytest.mark.parametrize(
    ("module", "complaint"),
    [
        (Plain(lambda _, state: 3 * state), "does not follow from its last block"),
        (Plain(lambda _, state: state.mean(1)), "no state for each token"),
        (Plain(blocks=0), r"no blocks .* \(1, 9, d\), to each other; it has no list of modules"),
        (split(), r"no blocks .*; its blocks \(2 Split\) give \(1, 9, 2, 8\)"),
        (Plain(offers=lambda states: states * 2), "gives 8 hidden states and its blocks make 4"),
        (Image(), "cannot be run on tokens"),
    ],
)
def test_what_cannot_be_read_by_layer(module: nn.Module, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        Backbone(module, probe())
    assert hooks_of(module) == 0


@pytest.mark.parametrize("shift", [False, True])
def test_states_are_compared_with_those_that_the_model_offers(shift: bool) -> None:
    """shift: as in Mamba, states 1 to L, and the last once more."""

    def offers(states: list[Tensor], wrong: int | None = None) -> list[Tensor]:
        offered = [*states[1:], states[-1]] if shift else states
        return [state + (layer == wrong) for layer, state in enumerate(offered)]

    assert Backbone(Plain(offers=offers), probe()).calls == 3
    for wrong in range(4):
        module = Plain(offers=lambda states, wrong=wrong: offers(states, wrong))
        with pytest.raises(UserError, match=r"Plain: state \d .* not hidden_states"):
            Backbone(module, probe())


def test_what_reads_the_output_is_no_norm() -> None:
    """A pooler behind the output takes the normed state, whose norm must not be missed for it."""

    def end(module: Any, state: Tensor) -> Tensor:
        last: Tensor = module.norm(state)
        module.pooler(last)
        return last

    module = Plain(end)
    assert Backbone(module, probe()).final_norm is module.norm


@pytest.mark.parametrize(
    ("family", "size"), [("XLNet", "d_head"), ("XLM", "gelu"), ("SqueezeBert", "embedding_size")]
)
def test_families_whose_blocks_hand_on_something_else(family: str, size: str) -> None:
    module = module_of(family, **{size: 8 if size == "d_head" else 32})
    with pytest.raises(UserError, match=r"to each other; its|output does not follow") as error:
        Backbone(module, probe())
    assert len(str(error.value)) < 250


@pytest.mark.parametrize("family", ["Llama", "T5", "Mamba"])
def test_a_norm_is_found_behind_states_that_are_no_numbers(family: str) -> None:
    module = module_of(family)
    expected = Backbone(module, probe()).final_norm
    with torch.no_grad():
        for weight in Backbone(module, probe()).blocks[2].parameters():
            weight.fill_(torch.nan)
    backbone = Backbone(module, probe())
    assert backbone.final_norm is not None
    states, _ = states_of(backbone, probe())
    with torch.inference_mode():
        torch.testing.assert_close(backbone.final_norm(states[1]), expected(states[1]))
    assert [bool(state.isfinite().all()) for state in states] == [True, True, True, False]


def test_no_hook_stays_when_a_pass_fails() -> None:
    module = module_of("Bert")
    backbone = Backbone(module, probe())
    handle = module.encoder.layer[1].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        backbone.run(probe(), lambda layer, state: None)
    handle.remove()
    with pytest.raises(KeyError):
        backbone.run(probe(), lambda layer, state: {}[layer])
    assert hooks_of(module) == 0


def test_bodies() -> None:
    """Below the head of a language model or a classifier, and the encoder of an encoder-decoder."""
    for kind in ("MaskedLM", "SequenceClassification"):
        whole = getattr(transformers, f"BertFor{kind}")(tiny.config("Bert"))
        assert body(whole) is whole.bert
    assert body(whole.bert) is whole.bert
    bart = transformers.BartForConditionalGeneration(tiny.config("Bart"))
    assert body(bart) is bart.model.encoder


@pytest.mark.parametrize(
    "texts",
    [
        [SHORT, LONG, SHORT, LONG],  # a short text turns it to full attention for good
        [Text("a" * n) for n in (125, 126, 127, 140)],  # it fills up its last block of 16 itself
    ],
)
def test_big_bird_stays_sparse(texts: list[Text], tmp_path: Path) -> None:
    sparse = {"attention_type": "block_sparse", "block_size": 16, "num_random_blocks": 1}
    config = transformers.BigBirdConfig(**tiny.SMALL, **sparse, max_position_embeddings=512)
    folder = tiny.save_config(config, tmp_path / "m", encoder=True, max_length=256)
    model = tiny.open_model(folder, pooling="mean")
    assert model.backbone.module.attention_type == "block_sparse"
    assert model.padding == "none"  # or states would depend on the longest text of their batch
    check_as_stock(model, lambda: transformers.AutoModel.from_pretrained(folder), texts)


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_rotary_frequencies_that_follow_the_longest_text(kind: str, tmp_path: Path) -> None:
    rope: dict[str, Any] = {"rope_type": kind, "rope_theta": 1e4, "factor": 4.0}
    if kind == "longrope":
        rope |= {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
        rope |= {"original_max_position_embeddings": 32}
    most = 32 if kind == "dynamic" else 256
    changes = {"max_position_embeddings": most, "rope_parameters": rope, "num_key_value_heads": 2}
    config = transformers.LlamaConfig(**tiny.SMALL, **changes)
    folder = tiny.save_config(config, tmp_path / "m", max_length=256)
    assert follows_length(transformers.AutoModel.from_pretrained(folder))
    model = tiny.open_model(folder, max_length=256, pooling="mean")
    assert model.padding == "none"
    texts = [LONG, SHORT, LONG]
    together = model.states(model.tokenize(texts))
    for row, text in enumerate(texts):
        alone = tiny.open_model(folder, max_length=256, pooling="mean")
        for plane, state in alone.states(alone.tokenize([text])).items():
            torch.testing.assert_close(together[plane][row], state[0])


def test_weights_are_prepared_once(tmp_path: Path) -> None:
    """RWKV halves those of later blocks before its first pass, and must not do so again."""
    sizes = {"vocab_size": len(tiny.VOCAB), "hidden_size": 32, "num_hidden_layers": 5}
    config = transformers.RwkvConfig(**sizes, rescale_every=2)
    folder = tiny.save_config(config, tmp_path / "m", max_length=256)
    model = tiny.open_model(folder)
    ids = torch.tensor([model.tokenize([LONG])[0]["input_ids"]])
    with torch.inference_mode():
        stock = transformers.AutoModel.from_pretrained(folder).eval()(input_ids=ids)
    for _ in range(2):
        last = model.backbone.run({"input_ids": ids}, lambda layer, state: None)
        torch.testing.assert_close(last, stock.last_hidden_state)
