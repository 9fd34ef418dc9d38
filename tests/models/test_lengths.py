"""How many tokens of a text a model takes: what its blocks bear, whatever its tables are called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers
from test_backbone import check_as_stock

from lrd_harness.contracts import Text
from lrd_harness.errors import UserError
from lrd_harness.models.lengths import position_tables

WORDS = [Text(" ".join(tiny.sentences(30)))]  # some hundreds of tokens
ROTARY = {**tiny.SMALL, "num_key_value_heads": 2, "max_position_embeddings": 1024}
VISION: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 32}
VISION |= {"num_attention_heads": 2, "image_size": 28, "patch_size": 14}
OLD: dict[str, Any] = {"vocab_size": len(tiny.VOCAB), "n_embd": 32, "n_layer": 2, "n_head": 4}
MPT: dict[str, Any] = {"vocab_size": len(tiny.VOCAB), "d_model": 32, "n_layers": 2, "n_heads": 4}


def llava() -> Any:
    text, vision = transformers.LlamaConfig(**ROTARY), transformers.CLIPVisionConfig(**VISION)
    return transformers.LlavaConfig(text_config=text, vision_config=vision, image_token_index=1)


def qwen_audio() -> Any:
    audio = {"encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 32}
    audio |= {"d_model": 16, "max_source_positions": 20, "num_mel_bins": 8}
    return transformers.Qwen2AudioConfig(
        text_config=ROTARY | {"model_type": "qwen2"},
        audio_config=audio | {"model_type": "qwen2_audio_encoder"},
    )


def mllama() -> Any:
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}
    ratios = [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]]
    tower = {"attention_heads": 2, "num_global_layers": 1, "vision_output_dim": 32}
    tower |= {"intermediate_layers_indices": [0], "supported_aspect_ratios": ratios}
    return transformers.MllamaConfig(
        text_config=ROTARY | rope | {"num_hidden_layers": 4, "cross_attention_layers": [1]},
        vision_config=VISION | tower | {"max_num_tiles": 4},
        image_token_index=1,
    )


@pytest.mark.parametrize("configure", [llava, qwen_audio, mllama])
def test_other_towers_are_no_limit(configure: Any, tmp_path: Path) -> None:
    """Tables of image patches, tiles and audio frames; states are those of transformers."""
    config = configure()
    images = type(config) in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    auto = transformers.AutoModelForImageTextToText if images else None
    folder = tiny.save_config(config, tmp_path / "m", auto=auto)
    model = tiny.open_model(folder, pooling="mean")
    assert model.info.max_length == len(model.tokenize(WORDS)[0]["input_ids"]) == 512
    check_as_stock(model, lambda: transformers.AutoModel.from_pretrained(folder), WORDS)


@pytest.mark.parametrize(
    ("config", "most"),
    [
        (transformers.CTRLConfig(**OLD, dff=64, n_positions=100), 100),
        (transformers.GPTJConfig(**OLD, n_positions=100, rotary_dim=4), 100),
        (transformers.CodeGenConfig(**OLD, n_positions=100, rotary_dim=4), 100),
        (transformers.MptConfig(**MPT, max_seq_len=100), 100),
        # RoBERTa's positions begin behind its padding token
        (transformers.RobertaConfig(**tiny.SMALL, max_position_embeddings=100), 99),
        (transformers.IBertConfig(**tiny.SMALL, max_position_embeddings=100), 99),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, int) else "",
)
@pytest.mark.parametrize("length", [None, 300])
def test_limits_that_the_blocks_have(
    config: Any, most: int, length: int | None, tmp_path: Path
) -> None:
    """In tables of any kind, under any name; the model itself takes no token more."""
    folder = tiny.save_config(config, tmp_path / "m", max_length=int(1e30))
    model = tiny.open_model(folder, max_length=length)
    assert model.info.max_length == most
    encoded = model.tokenize(WORDS)
    assert len(encoded[0]["input_ids"]) == most
    assert model.truncated(WORDS, encoded) == [True]
    assert all(state.isfinite().all() for state in model.states(encoded).values())
    ids = torch.full((1, most + 1), 10)
    with pytest.raises((IndexError, RuntimeError)), torch.inference_mode():
        model.backbone.module(input_ids=ids)


@pytest.mark.parametrize("adapter", ["encoder", "sentence-transformers"])
def test_no_room_for_a_text(adapter: str, tmp_path: Path) -> None:
    """[CLS] and [SEP] are added to every text, so that one token is too few."""
    folder = tmp_path / "m"
    tiny.save("Bert", folder) if adapter == "encoder" else tiny.save_st(folder)
    with pytest.raises(UserError, match="cannot be cut to 1 token, since its tokenizer adds 2"):
        tiny.open_model(folder, max_length=1)
    for most in (2, 3, 9):
        model = tiny.open_model(folder, max_length=most)
        assert model.info.max_length == most
        assert len(model.tokenize(WORDS)[0]["input_ids"]) == most
    llama = tiny.open_model(tiny.save("Llama", tmp_path / "llama"), max_length=1)
    assert [len(e["input_ids"]) for e in llama.tokenize([Text("abc"), Text("")])] == [1, 1]


def test_computed_positions_are_no_limit(tmp_path: Path) -> None:
    """As lm-eval may ask for more than a model says; a table of any name is one."""
    folder = tiny.save("Llama", tmp_path / "m", max_position_embeddings=40)
    assert tiny.open_model(folder).info.max_length == 40
    model = tiny.open_model(folder, max_length=100)
    assert (model.info.max_length, model.length_limit(2048)) == (100, 2048)
    config = transformers.CTRLConfig(**OLD, dff=64, n_positions=60)
    table = tiny.open_model(tiny.save_config(config, tmp_path / "ctrl", max_length=int(1e30)))
    assert (table.length_limit(2048), table.length_limit(50)) == (60, 50)


@pytest.mark.parametrize("kind", ["Mixtral", "NllbMoe", "Bert"])
def test_what_grows_with_the_text_is_no_table(kind: str, tmp_path: Path) -> None:
    """Experts look up the tokens that are theirs; on a GPU tables alone tell the limit."""
    more: dict[str, Any] = {"max_position_embeddings": 100}
    if kind == "Mixtral":
        more |= {"num_key_value_heads": 2, "num_local_experts": 2}
    if kind == "NllbMoe":
        more |= {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "num_experts": 2}
        more |= {"encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "encoder_sparse_step": 1}
        more |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    config = getattr(transformers, f"{kind}Config")(**tiny.SMALL | more)
    model = tiny.open_model(tiny.save_config(config, tmp_path / "m", max_length=1000))
    ids = torch.tensor([model.tokenize([Text("the cat sat on a mat")])[0]["input_ids"]])
    probe = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    tables = position_tables(model.backbone, probe)
    assert min(tables, default=10**6) >= 100
    assert (100 in tables) == (kind == "Bert")
