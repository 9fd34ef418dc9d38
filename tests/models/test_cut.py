"""A pruned model is its remaining blocks run one after another, with a cache and without."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import tiny
import torch
import transformers
from torch import Tensor, nn

from lrd_harness.errors import UserError
from lrd_harness.models.backbone import Backbone, hooked
from lrd_harness.models.cut import kept_blocks, parameters, parse_blocks, remove

BLOCKS = 5
MIXED = ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]
MIXED.append("full_attention")
CHANGES: dict[str, dict[str, Any]] = {
    # windows narrower than the text, so that a block that took another's kind would show
    "Gemma3Text": {"layer_types": MIXED, "sliding_window": 4},
    "Gemma2": {"sliding_window": 4},
    "ModernBert": {"local_attention": 4},
    "Qwen2": {"use_sliding_window": True, "max_window_layers": 2, "sliding_window": 4},
    "DeepseekV3": {
        **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "v_head_dim"), 8),
        **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "num_key_value_heads"), 4),
        **dict.fromkeys(("n_routed_experts", "moe_intermediate_size"), 4),
        **dict.fromkeys(("num_experts_per_tok", "first_k_dense_replace"), 2),
        **dict.fromkeys(("n_group", "topk_group"), 1),
    },
    "GPTNeo": {"attention_types": [[["global", "local"], 2], [["local"], 1]], "window_size": 4},
}
ENCODERS = ("Bert", "MPNet", "T5", "ModernBert", "Bart", "DistilBert")
DECODERS = (*tiny.DECODERS, "GPTNeo", "Bloom")
REMOVED = [(1,), (5,), (2, 3), (1, 4)]


def changes(family: str) -> dict[str, Any]:
    """The settings of a configuration with five blocks; some families count under another name."""
    counts: dict[str, str] = getattr(transformers, f"{family}Config").attribute_map
    names = {"num_hidden_layers", counts.get("num_hidden_layers", "num_hidden_layers")}
    return {**dict.fromkeys(names, BLOCKS), **CHANGES.get(family, {})}


def model_of(family: str, causal: bool = False) -> Any:
    """A random model of five blocks, its weights large enough for blocks to differ."""
    torch.manual_seed(0)
    auto: Any = transformers.AutoModelForCausalLM if causal else transformers.AutoModel
    model = auto.from_config(tiny.config(family, **changes(family))).eval()
    tiny.enlarge(model, family)
    return model


def probe() -> dict[str, Tensor]:
    torch.manual_seed(1)
    ids = torch.randint(7, len(tiny.VOCAB), (2, 9))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def within(model: Any) -> Any:
    """The part with the blocks in it, as the harness runs it."""
    return model.get_encoder() if model.config.is_encoder_decoder else model.base_model


def by_hand(module: nn.Module, kept: tuple[int, ...]) -> Tensor:
    """The output state of these blocks, each run with the arguments that it has in a full pass."""
    backbone = Backbone(module, probe())
    calls: list[tuple[Any, dict[str, Any]]] = []
    states: list[Tensor] = []
    with hooked(backbone.blocks, lambda *_: None, lambda _, *call: calls.append(call)):
        backbone.run(probe(), lambda layer, state: states.append(state))
    state = states[0]
    with torch.inference_mode():
        for number in kept:
            args, kwargs = calls[number - 1]
            if args:
                args = (state, *args[1:])
            else:
                kwargs = {**kwargs, "hidden_states": state}
            output = backbone.blocks[number - 1](*args, **kwargs)
            state = output[0] if isinstance(output, tuple) else output
        return state if backbone.final_norm is None else backbone.final_norm(state)


def state_of(module: nn.Module) -> Tensor:
    return Backbone(module, probe()).run(probe(), lambda layer, state: None)


@pytest.mark.parametrize(
    "family", tiny.rest_slow([*ENCODERS, *DECODERS], "Bert", "T5", "Llama", "GPT2")
)
def test_the_state_is_that_of_the_remaining_blocks(family: str) -> None:
    """Also how many parameters are left is what was said before."""
    full = model_of(family)
    whole_state = state_of(within(full))
    for removed in REMOVED:
        kept = kept_blocks(removed, BLOCKS)
        expected = by_hand(within(full), kept)
        model = copy.deepcopy(full)
        module = within(model)
        blocks = Backbone(module, probe()).blocks
        counts = parameters(model, blocks, removed)
        assert counts[0] == sum(p.numel() for p in model.parameters())
        left = remove(module, blocks, removed)
        assert counts[1] == sum(p.numel() for p in model.parameters()) < counts[0]
        backbone = Backbone(module, probe())
        assert backbone.blocks is left
        assert backbone.calls == len(left) == len(kept)
        state = backbone.run(probe(), lambda layer, state: None)
        torch.testing.assert_close(state, expected, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(state, whole_state, atol=1e-2)
        assert module.config.num_hidden_layers == len(kept)
    torch.testing.assert_close(state_of(within(full)), whole_state)  # the copies were copies


@pytest.mark.parametrize("family", tiny.rest_slow(DECODERS, "Llama", "GPT2"))
@pytest.mark.parametrize("removed", [(1,), (2, 5)])
def test_generation_with_a_cache_is_generation_without(
    family: str, removed: tuple[int, ...]
) -> None:
    model = model_of(family, causal=True)
    remove(model, Backbone(model.base_model, probe()).blocks, removed)
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    options |= {"output_logits": True, "return_dict_in_generate": True}
    cached, without = (
        model.generate(**probe(), use_cache=cache, **options) for cache in (True, False)
    )
    assert torch.equal(cached.sequences, without.sequences)
    assert cached.sequences.shape == (2, 15)
    torch.testing.assert_close(cached.logits, without.logits, rtol=1e-3, atol=1e-3)


def test_what_counts_and_numbers_blocks_follows() -> None:
    gemma = model_of("Gemma3Text", causal=True)
    remove(gemma, gemma.model.layers, (1, 3))
    assert gemma.config.layer_types == [MIXED[1], MIXED[3], MIXED[4]]
    assert [block.self_attn.layer_idx for block in gemma.model.layers] == [0, 1, 2]
    neo = model_of("GPTNeo")
    remove(neo, neo.h, (1, 3))
    assert neo.config.attention_layers == ["local", "local", "local"]
    assert neo.config.attention_types == [[["local"], 1]] * 3
    mamba = model_of("Mamba")
    remove(mamba, mamba.layers, (2,))
    numbers = [(block.layer_idx, block.mixer.layer_idx) for block in mamba.layers]
    assert numbers == [(0, 0), (1, 1), (2, 2), (3, 3)]
    llama = model_of("Llama")
    lists = {
        "eos_token_id": ([1, 2, 3, 4, 5], [1, 2, 3, 4, 5]),  # one each, but of tokens
        "rope_of_layers": ((0, 1, 0, 1, 1), (0, 1, 1)),
        "moe_layers": ([1, 3, 4], [1, 2]),  # numbers of blocks, from 0
        "sizes": ([7, 8, 9], [7, 8, 9]),
    }
    for name, (before, _) in lists.items():
        setattr(llama.config, name, before)
    remove(llama, llama.layers, (2, 3))
    for name, (_, after) in lists.items():
        assert getattr(llama.config, name) == after


def test_configurations_around_and_models_without_any() -> None:
    model = nn.Module()
    model.language_model = model_of("Llama")
    text = model.language_model.config
    model.config = transformers.PreTrainedConfig()
    model.config.text_config = copy.deepcopy(text)
    remove(model, model.language_model.layers, (5,))
    assert text.num_hidden_layers == model.config.text_config.num_hidden_layers == 4
    plain = nn.Sequential(nn.ModuleList(nn.Linear(2, 2) for _ in range(3)))
    blocks: Any = plain[0]
    last = blocks[2]
    assert list(remove(plain, blocks, (1, 2))) == list(plain[0]) == [last]
    with pytest.raises(ValueError, match="no part of this module"):
        remove(plain, blocks, (1,))


def test_an_encoder_decoder_keeps_its_decoder() -> None:
    for family in ("T5", "Bart"):
        model = model_of(family)
        expected = by_hand(model.get_encoder(), (2, 3, 5))
        remove(model, Backbone(model.get_encoder(), probe()).blocks, (1, 4))
        torch.testing.assert_close(state_of(model.get_encoder()), expected, rtol=1e-5, atol=1e-5)
        config = model.config
        assert config.num_hidden_layers == 3
        decoder = config.num_decoder_layers if family == "T5" else config.decoder_layers
        again = transformers.AutoModel.from_config(config)
        assert {k: v.shape for k, v in again.state_dict().items()} == {
            k: v.shape for k, v in model.state_dict().items()
        }
        blocks = model.decoder.block if family == "T5" else model.decoder.layers
        assert decoder == len(blocks)
        with pytest.raises(UserError, match="of which only the encoder can be pruned"):
            remove(model, blocks, (1,))
    alone = model_of("T5").decoder
    with pytest.raises(UserError, match="of which only the encoder can be pruned"):
        remove(alone, alone.block, (1,))


def test_the_position_bias_goes_to_the_new_first_block_or_keeps_its_own() -> None:
    encoder = model_of("T5").get_encoder()
    bias = encoder.block[0].layer[0].SelfAttention.relative_attention_bias
    remove(encoder, encoder.block, (1, 2))
    first, second = (encoder.block[i].layer[0].SelfAttention for i in (0, 1))
    assert first.relative_attention_bias is bias
    assert (first.has_relative_attention_bias, second.has_relative_attention_bias) == (True, False)
    encoder = model_of("T5").get_encoder()
    encoder.block[1].layer[0].SelfAttention = nn.Identity()
    with pytest.raises(UserError, match="so it has to stay"):
        remove(encoder, encoder.block, (1,))
    assert len(encoder.block) == BLOCKS


def test_a_configuration_that_makes_its_count_of_another() -> None:
    names = ("hidden_size", "vocab_size", "pad_token_id", "bos_token_id", "eos_token_id")
    counts = {"num_encoder_layers": BLOCKS, "num_decoder_layers": 2}
    heads = {"num_encoder_attention_heads": 4, "num_decoder_attention_heads": 4}
    config = transformers.ProphetNetConfig(**{n: tiny.SMALL[n] for n in names}, **counts, **heads)
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(config).eval()
    expected = by_hand(model.get_encoder(), (1, 3, 5))
    remove(model, Backbone(model.get_encoder(), probe()).blocks, (2, 4))
    assert (model.config.num_encoder_layers, model.config.num_decoder_layers) == (3, 2)
    torch.testing.assert_close(state_of(model.get_encoder()), expected, rtol=1e-5, atol=1e-5)


def test_blocks_that_share_weights_stay() -> None:
    albert = transformers.AutoModel.from_config(tiny.config("Albert", num_hidden_layers=5)).eval()
    tied, entwined = model_of("Llama"), model_of("Llama")
    tied.layers[3].mlp.up_proj.weight = tied.layers[1].mlp.up_proj.weight
    entwined.config.num_kv_shared_layers = 2
    for model, blocks, complaint in (
        (albert, Backbone(albert, probe()).blocks, "shares weights between its blocks"),
        (tied, tied.layers, "shares weights between its blocks"),
        (entwined, entwined.layers, "read what belongs to a place"),
    ):
        for removed in (3, 1):
            with pytest.raises(UserError, match=complaint):
                remove(model, blocks, (removed,))


def test_kinds_of_blocks_that_follow_from_their_place() -> None:
    changes = {"num_hidden_layers": 6, "lru_width": 32, "block_types": ["recurrent", "attention"]}
    model: Any = transformers.AutoModelForCausalLM.from_config(
        tiny.config("RecurrentGemma", head_dim=8, num_key_value_heads=2, **changes)
    ).eval()
    with pytest.raises(UserError, match=r"the kinds of its blocks .* follow from their place"):
        remove(model, model.model.layers, (3,))
    assert model.config.num_hidden_layers == 6
    expected = by_hand(model.model, (1, 2, 5, 6))
    remove(model, model.model.layers, (3, 4))  # what is left alternates as before
    torch.testing.assert_close(state_of(model.model), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        ("7,12-14", (7, 12, 13, 14)),
        (" 9 , 2 - 4 ", (2, 3, 4, 9)),
        ("5-5", (5,)),
        ("3,", "'' is no block number"),
        ("a", "'a' is no block number; blocks are given as 7,12-14"),
        ("2.5", "'2.5' is no block number"),
        ("-3", "'-3' is no block number"),
        ("2-3-4", "'2-3-4' is no block number"),
        ("٣", "is no block number"),
        ("0-3", "block 0 does not exist: the model has blocks 1 to 14"),
        ("15", "block 15 does not exist"),
        ("3-99999999999", "block 99999999999 does not exist"),
        ("5-3", "blocks 5-3: the first must not come after the last"),
        ("2-4,3", "block 3 is given twice"),
    ],
)
def test_blocks_as_users_type_them(text: str, blocks: tuple[int, ...] | str) -> None:
    """The blocks, or what is said of a list that names none."""
    if not isinstance(blocks, str):
        assert parse_blocks(text, 14) == blocks
        return
    with pytest.raises(UserError) as caught:
        parse_blocks(text, 14)
    assert blocks in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("removed", "complaint"),
    [
        ((), "no block is to be removed"),
        ((0,), "block 0 does not exist: the model has blocks 1 to 5"),
        ((2, 6), "block 6 does not exist: the model has blocks 1 to 5"),
        ((-1,), "block -1 does not exist"),
        ((2, 2), "block 2 is given twice"),
        ((1, 2, 3, 4, 5), "none would be left"),
    ],
)
def test_blocks_that_cannot_be_removed(removed: tuple[int, ...], complaint: str) -> None:
    model = model_of("Bert")
    before = state_of(model)
    with pytest.raises(UserError, match=complaint) as caught:
        remove(model, model.encoder.layer, removed)
    assert "\n" not in str(caught.value)
    assert model.config.num_hidden_layers == BLOCKS
    assert torch.equal(state_of(model), before)
