"""Which adapter opens which checkpoint, by what its config.json says."""

from __future__ import annotations

from typing import Any

import pytest
import tiny

from lrd_harness.contracts import Checkpoint


def described(files: tuple[str, ...] = (), **config: Any) -> Checkpoint:
    return Checkpoint("m", "/nowhere", "0", config, frozenset(files))


@pytest.mark.parametrize(
    ("checkpoint", "adapter"),
    [
        (described(("modules.json",), model_type="llama"), "sentence-transformers"),
        (described(model_type="bert", architectures=["BertModel"]), "encoder"),
        (described(model_type="bert", architectures=["BertLMHeadModel"]), "encoder"),
        (described(model_type="roberta", architectures=["RobertaForMaskedLM"]), "encoder"),
        (described(model_type="xlm", architectures=["XLMWithLMHeadModel"]), "encoder"),
        (
            described(model_type="bert", architectures=["BertLMHeadModel"], is_decoder=True),
            "decoder",
        ),
        (described(model_type="t5", is_encoder_decoder=True), "encoder"),
        (described(model_type="marian", is_encoder_decoder=True), "encoder"),
        (described(model_type="bart", is_encoder_decoder=True), "encoder"),
        (described(model_type="modernbert"), "encoder"),
        (described(model_type="llama", architectures=["LlamaForCausalLM"]), "decoder"),
        (described(model_type="qwen2", architectures=["Qwen2Model"]), "decoder"),
        (described(model_type="gpt2", architectures=["GPT2LMHeadModel"]), "decoder"),
        (described(model_type="mamba"), "decoder"),
        (described(model_type="brand_new", architectures=["BrandNewForCausalLM"]), "decoder"),
        # what no one should write there
        (described(model_type="bert", architectures=[None, 5]), "encoder"),
        (described(model_type="bert", architectures={"BertLMHeadModel": 1}), "encoder"),
        (described(model_type="llama", architectures=7), "decoder"),
        (described(model_type="llama", architectures="LlamaModel"), "decoder"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_which_adapter_opens_what(checkpoint: Checkpoint, adapter: str) -> None:
    assert tiny.adapter_of(checkpoint).name == adapter


@pytest.mark.parametrize("kind", [None, 5, ["bert"], {"bert": 1}])
def test_no_adapter_for_what_is_no_model(kind: Any) -> None:
    for checkpoint in (described(), described(model_type=kind)):
        with pytest.raises(StopIteration):
            tiny.adapter_of(checkpoint)
