"""Many architectures, each against transformers itself: states, norm, pooling, padding, pruning.

What a model without some blocks gives is compared with one that is built without them: from a
configuration of as many blocks, of the kinds that are left, and filled with their weights.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import tiny
import torch
import transformers
from torch import Tensor

from lrd_harness.capture.walk import Walk
from lrd_harness.contracts import Text
from lrd_harness.errors import UserError
from lrd_harness.models.backbone import Backbone
from lrd_harness.models.cut import remove
from lrd_harness.models.text_model import by_mask

L = 4
TEXTS = [Text("the cat sat"), Text("x"), Text("a dog ran to find some old red ball")]
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16, "num_experts": 4}
GROUPED = {"num_key_value_heads": 2}
MAMBA2 = {"mamba_d_state": 4, "mamba_d_head": 8, "mamba_n_heads": 8, **GROUPED}
LINEAR = ["linear_attention", "full_attention", "linear_attention", "full_attention"]
MIXED = ["mamba", "attention", "mamba", "attention"]
SHARED = {"layers_block_type": ["hybrid"] * 2 + ["linear_attention"] * 2, "num_key_value_heads": 4}
BART = {
    "d_model": 32,
    "decoder_layers": 1,
    "max_position_embeddings": 64,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
}
T5 = {"num_decoder_layers": 1, "d_ff": 64}
WINDOW = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
# Lists of L entries are of the blocks, one each.
ENCODERS: dict[str, dict[str, Any]] = {
    "Albert": {},
    "Bart": BART,
    "Bert": {},
    "BigBird": {},
    "Camembert": {},
    "ConvBert": {},
    "Data2VecText": {},
    "Deberta": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "DebertaV2": {"relative_attention": True, "pos_att_type": ["c2p"]},
    "DistilBert": {},
    "Electra": {"embedding_size": 16},
    "Ernie": {},
    "EuroBert": GROUPED,
    "FNet": {"num_attention_heads": None},
    "IBert": {},
    "Longformer": {"attention_window": 8},
    "LongT5": T5,
    "M2M100": BART,
    "MBart": BART,
    "MPNet": {},
    "MegatronBert": {},
    "MobileBert": {"intra_bottleneck_size": 32, "true_hidden_size": 32, "embedding_size": 32},
    "ModernBert": {"layer_types": WINDOW, "local_attention": 4},
    "NomicBert": {},
    "Nystromformer": {"segment_means_seq_len": 8, "num_landmarks": 8},
    "Pegasus": BART,
    "RemBert": {"input_embedding_size": 16},
    "RoFormer": {},
    "Roberta": {},
    "RobertaPreLayerNorm": {},
    "T5": T5,
    "UMT5": T5,
    "XLMRoberta": {},
    "XLMRobertaXL": {},
}
DECODERS: dict[str, dict[str, Any]] = {
    "BioGpt": {},
    "Bloom": {},
    "CTRL": {},
    "CodeGen": {"rotary_dim": 4},
    "Cohere": GROUPED,
    "DeepseekV3": {
        **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "v_head_dim"), 8),
        **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "num_key_value_heads"), 4),
        **dict.fromkeys(("n_routed_experts", "moe_intermediate_size"), 4),
        **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace"), 1),
        "num_experts_per_tok": 2,
    },
    "Falcon": {},
    "GPT2": {},
    "GPTJ": {"rotary_dim": 4},
    "GPTNeo": {},
    "GPTNeoX": {},
    "Gemma": {"head_dim": 8, **GROUPED},
    "Gemma2": {"layer_types": WINDOW, "sliding_window": 4},
    "Gemma3Text": {"layer_types": WINDOW, "sliding_window": 4},
    "Granite": {"residual_multiplier": 0.5},
    "Llama": {},
    "Mistral": {"sliding_window": 4},
    "Mpt": {},
    "OPT": {},
    "Olmo2": GROUPED,
    "Phi": {},
    "Phi3": GROUPED,
    "Qwen2": {},
    "Qwen3": {},
    "Qwen3Moe": {**EXPERTS, "head_dim": 8, **GROUPED},
    "SmolLM3": {"no_rope_layers": [1, 0, 1, 1], **GROUPED},
    "StableLm": GROUPED,
    "XGLM": {"attention_heads": 4},
}
RECURRENT: dict[str, dict[str, Any]] = {
    "Bamba": {"attn_layer_indices": [1], **MAMBA2},
    "FalconH1": {"mamba_d_ssm": 64, **MAMBA2},
    "FalconMamba": {"state_size": 4},
    "GraniteMoeHybrid": {"layer_types": MIXED, "num_local_experts": 4, **MAMBA2},
    "Jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2, **GROUPED},
    "Lfm2": {"layer_types": ["conv", "full_attention", "conv", "full_attention"], **GROUPED},
    "Mamba": {},
    "Mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1, "state_size": 4},
    "NemotronH": {
        "layers_block_type": ["mamba", "attention", "mamba", "moe"],
        "mamba_num_heads": 8,
        "mamba_head_dim": 8,
        "ssm_state_size": 4,
        "n_groups": 1,
        "n_routed_experts": 4,
        **EXPERTS,
        **GROUPED,
    },
    "Qwen3Next": {
        "layer_types": LINEAR,
        "head_dim": 8,
        **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads"), 2),
        **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 8),
        "shared_expert_intermediate_size": 16,
        **EXPERTS,
        **GROUPED,
    },
    "RecurrentGemma": {"lru_width": 32, "head_dim": 8, "attention_window_size": 4},
    "Rwkv": {"attention_hidden_size": 32},
    "Zamba": {"mamba_dt_rank": 4, "attention_head_dim": 16, **SHARED},
    "Zamba2": {"n_mamba_heads": 8, **SHARED},
    "xLSTM": {"qk_dim_factor": 1.0, "num_heads": 4},
}
FAMILIES = {**ENCODERS, **DECODERS, **RECURRENT}
SHIFTED = {"Mamba", "Mamba2", "FalconMamba", "Rwkv"}  # their hidden_states begin with state 1
KEPT = {  # families of which no block can be taken out, or not this one, and why
    "Albert": "shares weights between its blocks",
    "Jamba": "the kinds of its blocks (layers_block_type) follow from their place",
    "RecurrentGemma": "the kinds of its blocks (layers_block_type) follow from their place",
    "Zamba": "shares weights between its blocks",
    "Zamba2": "shares weights between its blocks",
}
QUICK = ("Bert", "T5", "Longformer", "Llama", "GPT2", "Mamba", "Mamba2", "Jamba", "Rwkv", "Zamba")


def settings(family: str, blocks: Sequence[int]) -> dict[str, Any]:
    """The settings of a configuration of these blocks."""
    named = getattr(transformers, f"{family}Config").attribute_map.get("num_hidden_layers")
    counts: dict[str, Any] = dict.fromkeys(filter(None, ("num_hidden_layers", named)), len(blocks))
    if family == "GPTNeo":
        counts["attention_types"] = [[["global"], len(blocks)]]
    if family == "Bamba":
        counts["attn_layer_indices"] = [n for n, block in enumerate(blocks) if block == 2]
    lists = {
        name: [value[number - 1] for number in blocks]
        for name, value in FAMILIES[family].items()
        if isinstance(value, list) and len(value) == L
    }
    return {**FAMILIES[family], **counts, **lists}


def body(model: Any) -> Any:
    return model.get_encoder() if model.config.is_encoder_decoder else model


@cache
def saved(family: str) -> Path:
    """A random model; norms have weights of their own, so that one too many or few would show."""
    torch.manual_seed(0)
    config = tiny.config(family, **settings(family, range(1, L + 1)))
    model = transformers.AutoModel.from_config(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name.lower() or "ln_" in name:
                weight.add_(torch.rand_like(weight) / 2)
            elif weight.dim() == 2 and "A_log" not in name and family != "Rwkv":
                weight.normal_(0, 0.15)
    folder = Path(mkdtemp()) / family
    model.save_pretrained(folder)
    tiny.tokenizer(encoder=family in ENCODERS).save_pretrained(folder)
    return folder


def rebuilt(family: str, blocks: Sequence[int]) -> Any:
    """transformers' model built anew of these blocks alone, with their weights."""
    whole = transformers.AutoModel.from_pretrained(saved(family))
    model = transformers.AutoModel.from_config(tiny.config(family, **settings(family, blocks)))
    numbers = {str(old - 1): str(new) for new, old in enumerate(blocks)}
    weights = {}
    for name, weight in body(whole).state_dict().items():
        head, number, tail = re.match(r"(.*?\.)(\d+)(\..*)|", name).groups()
        if number is None:
            weights[name] = weight
        elif number in numbers:
            weights[f"{head}{numbers[number]}{tail}"] = weight
    body(model).load_state_dict(weights)
    return body(model).eval()


def run(model: Any, encoded: Any) -> Any:
    """What transformers gives for one text, with its hidden states."""
    ids = torch.tensor([encoded["input_ids"]])
    features: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if getattr(model.config, "use_cache", False):  # which some cannot make without attention
        features["use_cache"] = False
    with torch.inference_mode():
        return model(**features, output_hidden_states=True)


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5 * float(b.abs().max()))


def names(families: Iterable[str]) -> list[Any]:
    return tiny.rest_slow(families, *QUICK)


@pytest.mark.parametrize("family", names(FAMILIES))
def test_states(family: str) -> None:
    """L + 1 states of each text, alone and beside others, the last one normed once; poolings."""
    model = tiny.open_model(saved(family), pooling="mean")
    theirs = body(transformers.AutoModel.from_pretrained(saved(family))).eval()
    texts = model.tokenize(TEXTS)
    together = model.states(texts)
    normed = ("final" if model.has_final_norm else "raw"), L
    assert model.info.blocks == L
    assert len(model.blocks) == (1 if family == "Albert" else L)
    for row, encoded in enumerate(texts):
        alone, output = model.states([encoded]), run(theirs, encoded)
        for plane, states in alone.items():
            close(together[plane][row], states[0])
        hidden = list(output.hidden_states)
        assert len(hidden) == L + 1
        if family in SHIFTED:
            ids = torch.tensor([encoded["input_ids"]])
            hidden = [theirs.get_input_embeddings()(ids).detach(), *hidden[:-1]]
        for layer, state in enumerate(hidden[:-1]):
            close(alone["raw", layer][0], state[0].mean(0))
        last = output.last_hidden_state[0]
        close(alone[normed][0], last.mean(0))
        if model.has_final_norm:  # and not as it is written
            assert not torch.allclose(alone["raw", L][0], last.mean(0), rtol=1e-2, atol=1e-3)
        for pooling, expected in (("last", last[-1]), ("cls", last[0])):
            model.parts.pooling, model.parts.pool = pooling, by_mask(pooling)
            close(model.states(texts)[normed][row], expected)
            model.parts.pooling, model.parts.pool = "mean", by_mask("mean")


@pytest.mark.parametrize("family", names(FAMILIES))
def test_truncated_and_pruned(family: str) -> None:
    """The final norm on state 2 is the model of the first two blocks, and blocks are taken out."""
    model = tiny.open_model(saved(family), pooling="mean")
    texts = model.tokenize(TEXTS)
    normed = "final" if model.has_final_norm else "raw"
    short = model.states(texts)[normed, 2]
    for row, encoded in enumerate(texts):
        close(short[row], run(rebuilt(family, (1, 2)), encoded).last_hidden_state[0].mean(0))
    module, encoded = model.parts.module, texts[-1]
    features = model.inputs(model.features([encoded]))
    if reason := KEPT.get(family):
        with pytest.raises(UserError, match=re.escape(reason)):
            remove(module, model.blocks, (2,))
        return
    gone = (2,), (2, 4)
    states: dict[Any, Tensor] = {}
    Walk(model.backbone).run(features, gone, lambda out, state: states.update({out: state.clone()}))
    for out in gone:
        expected = run(rebuilt(family, [n for n in range(1, L + 1) if n not in out]), encoded)
        expected = expected.last_hidden_state
        with torch.inference_mode():
            state = states[out] if model.final_norm is None else model.final_norm(states[out])
        close(state[:, : expected.shape[1]], expected)
        cut = copy.deepcopy(module)
        places = [n for n, part in module.named_modules() if part is model.blocks]
        remove(cut, cut.get_submodule(places[0]), out)
        close(run(cut, encoded).last_hidden_state, expected)


def test_blocks_of_a_model_of_images_and_texts_keep_no_cache() -> None:
    """Their texts are read, and a block that is run again must not meet what it wrote before."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "mlp_dim": 32}
    vision = {**sizes, "output_channels": 16, "image_size": 32, "patch_size": 16}
    text = tiny.config("Qwen2", num_hidden_layers=L)
    config = transformers.GotOcr2Config(text_config=text, vision_config=vision)
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(config).eval()
    ids = torch.randint(7, len(tiny.VOCAB), (2, 9))
    features = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    backbone, states = Backbone(model, features), []
    Walk(backbone).run(features, [(2,)], lambda _, state: states.append(state.clone()))
    shorter = transformers.Qwen2Model(tiny.config("Qwen2", num_hidden_layers=L - 1)).eval()
    remove(model, backbone.blocks, (2,))
    shorter.load_state_dict(model.language_model.state_dict())
    with torch.inference_mode():
        expected = shorter(**features).last_hidden_state
        close(backbone.final_norm(states[0]), expected)  # type: ignore[misc]
        close(model(**features).last_hidden_state, expected)


@pytest.mark.slow
@pytest.mark.parametrize("fixture", ["minilm_folder", "smollm2_folder"])
def test_real_models(fixture: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(fixture)
    model = tiny.open_model(folder, "encoder", pooling="mean")
    theirs = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    encoded = model.tokenize(TEXTS)[2]
    alone, output = model.states([encoded]), run(theirs, encoded)
    assert len(output.hidden_states) == model.info.blocks + 1
    for layer, state in enumerate(output.hidden_states[:-1]):
        close(alone["raw", layer][0], state[0].mean(0))
    normed = ("final" if model.has_final_norm else "raw"), model.info.blocks
    close(alone[normed][0], output.last_hidden_state[0].mean(0))
