"""Decoders that are read with a bidirectional mask, or a causal one, are really read so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import transformers
from odd_checkpoints import change
from sentence_transformers import SentenceTransformer

import lrd_harness
from lrd_harness import manager
from lrd_harness.contracts import Text
from lrd_harness.errors import UserError
from lrd_harness.models.bidirectional import NO_LIKELIHOODS
from lrd_harness.planning.resolve import Plan, make_plan
from lrd_harness.planning.suite import ModelEntry, Suite
from lrd_harness.progress import Display

BOTH = {"attention_mask": "bidirectional"}
WORDS = ["a cat sat on a mat.", "x y", " ".join(tiny.WORDS[:20])]
TEXTS = [Text(text) for text in WORDS]
HEEDING = ("Llama", "GPT2", "GPTNeoX", "OPT", "Gemma3Text", "Qwen2", "Qwen3", "Mistral")


def reference(folder: Path, layer: int, pooling: str, **settings: Any) -> torch.Tensor:
    """States of the texts, each alone, by transformers and a mask that is written out, (n, d)."""
    model = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager", **settings)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    rows = []
    for word in WORDS:
        ids = torch.tensor([tokenizer(word)["input_ids"]])
        everything = torch.zeros(1, 1, ids.shape[1], ids.shape[1])  # nothing is masked
        with torch.inference_mode():
            states = model(
                input_ids=ids,
                attention_mask=everything,
                position_ids=torch.arange(ids.shape[1])[None],
                output_hidden_states=True,
            ).hidden_states
        state = states[layer][0]
        rows.append(state.mean(0) if pooling == "mean" else state[-1])
    return torch.stack(rows)


@pytest.mark.parametrize("attention", ["eager", pytest.param("sdpa", marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", tiny.rest_slow(HEEDING, "Llama"))
def test_states_are_those_of_a_mask_of_nothing(family: str, attention: str, tmp_path: Path) -> None:
    """Padded in one batch, under the mask that the model makes itself, and alone under ours."""
    tiny.save(family, tmp_path, uneven=True)
    for pooling in ("last", "mean"):
        model = tiny.open_model(tmp_path, pooling=pooling, attention=attention, **BOTH)
        assert all(model.look_ahead())
        states = model.states(model.tokenize(TEXTS))
        for layer in (1, 2):  # transformers' last one is normed
            expected = reference(tmp_path, layer, pooling)
            torch.testing.assert_close(states["raw", layer], expected, atol=1e-4, rtol=1e-4)
        causal = tiny.open_model(tmp_path, pooling=pooling)
        assert not any(causal.look_ahead())
        assert causal.identity.get("attention_mask") is None
        apart = causal.states(causal.tokenize(TEXTS))["raw", 2] - states["raw", 2]
        assert apart.norm() > 0.1


def refusing(name: str, folder: Path) -> Path:
    """A model of a family that does not heed what its configuration says, or in part of it."""
    sizes: dict[str, Any] = {key: tiny.SMALL[key] for key in ("hidden_size", *tiny.TOKENS)}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 64}
    made = {
        "Mamba": lambda: tiny.config("Mamba"),
        "StableLm": lambda: transformers.StableLmConfig(**sizes, **heads, num_hidden_layers=3),
        "GPTNeo": lambda: transformers.GPTNeoConfig(
            **sizes, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]]
        ),
        "Bamba": lambda: transformers.BambaConfig(
            **sizes, **heads, num_hidden_layers=3, attn_layer_indices=[1], mamba_n_heads=8,
            mamba_d_head=8, mamba_d_state=8, mamba_n_groups=1, mamba_chunk_size=16,
        ),
        "Gemma3Text": lambda: tiny.config("Gemma3Text", use_bidirectional_attention=True),
        "Bert": lambda: tiny.config("Bert"),
    }  # fmt: skip
    return tiny.save_config(made[name](), folder)


@pytest.mark.parametrize(
    ("name", "mask", "line"),
    [
        ("Mamba", "bidirectional", "its blocks stay causal"),
        ("StableLm", "bidirectional", "its blocks stay causal (--attention eager helps"),
        ("GPTNeo", "bidirectional", "its blocks stay causal"),
        ("Bamba", "bidirectional", "its blocks 1,3 stay causal"),
        ("Gemma3Text", "causal", "its blocks see the tokens behind all the same"),
        ("Bert", "causal", "its blocks see the tokens behind all the same"),
    ],
)
def test_a_mask_that_is_not_heeded(name: str, mask: str, line: str, tmp_path: Path) -> None:
    refusing(name, tmp_path)
    with pytest.raises(UserError) as caught:
        tiny.open_model(tmp_path, attention_mask=mask)
    assert f"cannot be read with a {mask} mask: {line}" in str(caught.value)


def test_masks_that_are_there_already(tmp_path: Path) -> None:
    refusing("StableLm", tmp_path / "stable")
    assert all(tiny.open_model(tmp_path / "stable", attention="eager", **BOTH).look_ahead())
    refusing("Bert", tmp_path / "bert")
    assert all(tiny.open_model(tmp_path / "bert", **BOTH).look_ahead())
    tiny.save("Llama", tmp_path / "llama")
    model = tiny.open_model(tmp_path / "llama", attention_mask="causal", max_length=1)
    assert model.look_ahead() == []  # of one token nothing can be said
    assert model.identity["attention_mask"] == "causal"


def test_a_window_hides_the_end_of_a_text_and_not_the_next_token(tmp_path: Path) -> None:
    tiny.save("Gemma3Text", tmp_path, sliding_window=4)
    model = tiny.open_model(tmp_path, **BOTH)
    assert all(model.look_ahead())
    assert model.padding == "right"


def test_decoders_that_are_bidirectional_by_their_configuration(tmp_path: Path) -> None:
    """As embedding models on Gemma 3 are: with sentence-transformers' modules, and without."""
    gemma = {"family": "Gemma3Text", "use_bidirectional_attention": True, "sliding_window": 8}
    folder = tiny.save_st(tmp_path / "embedder", dense=16, **gemma)
    model, whole = tiny.open_model(folder), SentenceTransformer(str(folder))
    assert all(model.look_ahead())
    np.testing.assert_allclose(tiny.embeddings(model, TEXTS), whole.encode(WORDS), atol=1e-5)
    plain = tmp_path / "embedder-inner"
    model = tiny.open_model(plain)
    assert (model.identity["adapter"], model.info.pooling) == ("decoder", "mean")
    last = ("final", model.info.blocks)
    np.testing.assert_allclose(
        model.states(model.tokenize(TEXTS))[last],
        [whole[0].auto_model(**whole.tokenize([word])).last_hidden_state[0].mean(0).detach()
         for word in WORDS],
        atol=1e-5,
    )  # fmt: skip
    named = tiny.open_model(plain, "decoder", head=True)
    assert (named.head, named.headless) == (None, NO_LIKELIHOODS)


def test_a_mask_from_python(tmp_path: Path) -> None:
    """In a notebook and on mteb's side, under another name than without."""
    folder = str(tiny.save("Llama", tmp_path / "model"))
    read = tiny.open_model(folder, "decoder", **BOTH)
    wanted = read.states(read.tokenize(TEXTS))["final", 3].numpy()
    opened = lrd_harness.open(folder, quiet=True, **BOTH)
    assert np.allclose(opened.encode(WORDS)[-1], wanted, atol=1e-5)
    model = lrd_harness.mteb_model(folder, **BOTH)
    assert model.mteb_model_meta.experiment_name == "reading_bidirectional"


def test_what_mixes_the_tokens_of_a_batch_is_no_mask(tmp_path: Path) -> None:
    """As bitsandbytes in 8 bits, which looks for outliers in all of them."""
    model = tiny.open_model(tiny.save("Llama", tmp_path))
    projection: Any = model.blocks[1].self_attn.v_proj
    projection.state = SimpleNamespace(threshold=6.0)

    def mixed(module: Any, _: Any, output: torch.Tensor) -> torch.Tensor:
        return output + bool(module.state.threshold) * output.mean()

    projection.register_forward_hook(mixed)
    assert model.look_ahead.__wrapped__() == [False] * 3
    assert projection.state.threshold == 6.0


def test_rounding_is_no_mask(tmp_path: Path) -> None:
    """As of experts, which round by how many tokens they are given."""
    model = tiny.open_model(tiny.save("Llama", tmp_path))
    passes: list[None] = []

    def rounded(module: Any, _: Any, output: torch.Tensor) -> torch.Tensor:
        passes.append(None)
        return output + 2.5e-6 * (len(passes) % 2)  # before and after a token is changed

    model.blocks[1].mlp.register_forward_hook(rounded)
    assert model.look_ahead.__wrapped__() == [False] * 3


def test_likelihoods_need_a_causal_mask(tmp_path: Path) -> None:
    tiny.save("GPT2", tmp_path / "gpt", causal=True)
    tiny.save("GPT2", tmp_path / "both", causal=True)
    change(tmp_path / "both" / "config.json", is_causal=False)
    typed = ModelEntry(str(tmp_path / "gpt"), attention_mask="bidirectional")
    stage = Display(quiet=True).stage

    def plan(*models: ModelEntry) -> Plan:
        return make_plan(Suite("x", models, ("MMLU",)), manager.load(), stage)

    for entry in (typed, ModelEntry(str(tmp_path / "both"))):
        with pytest.raises(UserError, match=f"MMLU cannot be run on local/.*: {NO_LIKELIHOODS}"):
            plan(entry)
    model = tiny.planned(tmp_path / "both", attention_mask="causal")
    assert model.likelihoods
    head = replace(model, options=replace(model.options, head=True)).open().head
    assert head is not None
