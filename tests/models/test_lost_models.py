"""Checkpoints that say less of themselves than others, or have their parts elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers

from lrd_harness.contracts import Text
from lrd_harness.models.backbone import body
from lrd_harness.models.text_model import NO_HEAD

TEXTS = [Text("the cat sat on a mat"), Text("fox")]
ENCODERS = ("T5", "UMT5", "MT5", "LongT5")


def t5(kind: str) -> Any:
    sizes = {"d_model": 32, "num_layers": 3, "num_heads": 4, "d_ff": 64, "d_kv": 8}
    more = {"vocab_size": len(tiny.VOCAB), "decoder_start_token_id": 0}
    return getattr(transformers, f"{kind}Config")(**sizes, **more)


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("whole", [False, True], ids=["encoder", "whole"])
def test_an_encoder_without_its_decoder(kind: str, whole: bool, tmp_path: Path) -> None:
    """T5EncoderModel says in config.json that it is no encoder-decoder."""
    torch.manual_seed(0)
    name = f"{kind}{'' if whole else 'Encoder'}Model"
    getattr(transformers, name)(t5(kind)).save_pretrained(tmp_path / "m")
    tiny.tokenizer().save_pretrained(tmp_path / "m")
    model = tiny.open_model(tmp_path / "m", "encoder")
    stock: Any = getattr(transformers, f"{kind}EncoderModel").from_pretrained(tmp_path / "m")
    for text in TEXTS:
        (encoded,) = model.tokenize([text])
        found = model.states([encoded])
        with torch.inference_mode():
            own = stock.eval()(
                input_ids=torch.tensor([encoded["input_ids"]]), output_hidden_states=True
            )
        for layer, state in enumerate(own.hidden_states[:-1]):
            torch.testing.assert_close(found["raw", layer][0], state[0].mean(0))
        torch.testing.assert_close(found["final", 3][0], own.last_hidden_state[0].mean(0))
    assert model.info.parameters == sum(p.numel() for p in stock.encoder.parameters())


@pytest.mark.parametrize("head", [False, True])
def test_llama_4_is_its_own_base(head: bool, tmp_path: Path) -> None:
    """`base_model` of its language model is that itself; logits are the model's own."""
    torch.manual_seed(0)
    sizes = tiny.SMALL | {"num_hidden_layers": 4, "num_key_value_heads": 2, "head_dim": 8}
    experts = {"num_local_experts": 2, "intermediate_size_mlp": 64, "attention_chunk_size": 8}
    made = transformers.Llama4TextConfig(**sizes, **experts)
    whole = transformers.AutoModelForCausalLM.from_config(made).eval()
    whole.save_pretrained(tmp_path / "m")
    tiny.tokenizer(encoder=False).save_pretrained(tmp_path / "m")
    assert body(whole) is whole.model
    model = tiny.open_model(tmp_path / "m", head=head)
    assert model.info.blocks == 4
    if not head:
        assert model.headless == NO_HEAD
        return
    ids = torch.tensor([model.tokenize(TEXTS[:1])[0]["input_ids"]])
    last = model.backbone.run({"input_ids": ids}, lambda layer, state: None)
    with torch.inference_mode():
        own = whole(input_ids=ids).logits[0]
    torch.testing.assert_close(model.head.logits(last[0]), own, rtol=1e-4, atol=1e-4)


def test_bodies() -> None:
    """Below the head of a language model or a classifier, and the encoder of an encoder-decoder."""
    for kind, part in (("MaskedLM", "bert"), ("SequenceClassification", "bert")):
        made = getattr(transformers, f"BertFor{kind}")(tiny.config("Bert"))
        assert body(made) is getattr(made, part)
    bert = transformers.BertModel(tiny.config("Bert"))
    assert body(bert) is bert
    bart = transformers.BartForConditionalGeneration(tiny.config("Bart"))
    assert body(bart) is bart.model.encoder
