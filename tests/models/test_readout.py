"""Poolings are those of plain loops, a head's log-probabilities the model's own.

A pooler that the checkpoint has no weights for is neither counted nor saved.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stock
import tiny
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from lrd_harness.cli import main
from lrd_harness.contracts import Text
from lrd_harness.errors import UserError
from lrd_harness.models import readout
from lrd_harness.models.readout import POOLINGS, Head, left_out, pooling_named
from lrd_harness.models.text_model import NO_HEAD


def batch(lengths: list[int], side: str, spare: int = 0) -> tuple[Tensor, Tensor]:
    """Token states (b, T, 5) of texts of these lengths, and their mask."""
    longest = max(lengths) + spare
    state = torch.randn(len(lengths), longest, 5, generator=torch.Generator().manual_seed(0))
    place, length = torch.arange(longest), torch.tensor(lengths).unsqueeze(1)
    mask = (place >= longest - length) if side == "left" else (place < length)
    return state, mask.long()


def by_loop(name: str, state: Tensor, mask: Tensor) -> np.ndarray:
    rows = []
    for text, there in zip(state.double().numpy(), mask.bool().numpy(), strict=True):
        tokens = text[there]
        chosen = {"mean": tokens, "cls": tokens[:1], "last": tokens[-1:]}.get(name, tokens[1:])
        rows.append((chosen if len(chosen) else tokens).mean(0))
    return np.array(rows)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=5),
    st.sampled_from(["left", "right"]),
    st.sampled_from(sorted(POOLINGS)),
    st.integers(0, 3),
)
def test_equal_to_a_loop_whatever_stands_in_the_padding(
    lengths: list[int], side: str, name: str, spare: int
) -> None:
    state, mask = batch(lengths, side, spare)
    pooled = POOLINGS[name](state, mask)
    np.testing.assert_allclose(pooled.numpy(), by_loop(name, state, mask), atol=1e-6)
    for filler in (float("nan"), float("inf"), 1e30):
        filled = state.masked_fill(mask.unsqueeze(-1) == 0, filler)
        before = filled.clone()
        assert torch.equal(POOLINGS[name](filled, mask), pooled)
        assert torch.equal(filled.nan_to_num(), before.nan_to_num())  # it stays as it is


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", POOLINGS)
def test_half_precision_is_averaged_in_float32(name: str, dtype: torch.dtype) -> None:
    state, mask = batch([200, 3, 77], "right")
    state = (state + 100).to(dtype)
    pooled = POOLINGS[name](state, mask).float()
    np.testing.assert_allclose(pooled.numpy(), by_loop(name, state, mask), rtol=1e-6)


def test_an_unknown_name() -> None:
    with pytest.raises(UserError, match=r"unknown pooling 'men'. Did you mean mean"):
        pooling_named("men")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("pooling", ["mean", "lasttoken"])
def test_a_model_of_modules_pools_half_precision_in_float32(
    pooling: str, dtype: str, tmp_path: Path
) -> None:
    """Its pooled states are those of its token states, one by one."""
    folder = tiny.save_st(tmp_path / "m", pooling=pooling, normalize=False, family="GPT2")
    model = tiny.open_model(folder, dtype=dtype)
    assert model.identity["adapter"] == "sentence-transformers"
    for text in tiny.sentences(3, least=8):
        encoded = model.tokenize([Text(text)])
        tokens: list[Tensor] = []
        model.watch(encoded, lambda layer, state, tokens=tokens: tokens.append(state[0].clone()))
        states = model.states(encoded)
        for layer, state in enumerate(tokens):
            assert state.dtype == getattr(torch, dtype)
            with torch.inference_mode():
                normed = model.normed(state)
            for kind, rows in (("raw", state), ("final", normed)):
                expected = rows.float().mean(0) if pooling == "mean" else rows[-1].float()
                torch.testing.assert_close(states[kind, layer][0], expected, rtol=1e-5, atol=1e-6)


def weights_of(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def size(folder: Path) -> int:
    return sum(value.numel() for value in weights_of(folder).values())


@pytest.mark.parametrize("of_modules", [False, True])
@pytest.mark.parametrize("family", ["Bert", "MPNet"])
def test_a_pooler_without_weights(
    family: str, of_modules: bool, tmp_path: Path, own_cache: Path
) -> None:
    folder = tmp_path / "full"
    tiny.save_st(folder, family=family) if of_modules else tiny.save(family, folder)
    texts = [Text("a quick brown fox"), Text("dogs")]
    full = tiny.open_model(folder)
    assert full.info.parameters == size(folder)
    assert not left_out(full.parts.module)
    kept = {name: value for name, value in weights_of(folder).items() if "pooler" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    bare = tiny.open_model(folder)
    assert bare.info.parameters == size(folder) == full.info.parameters - (32 * 32 + 32)
    assert left_out(bare.parts.module) == ["pooler"]
    np.testing.assert_array_equal(tiny.embeddings(bare, texts), tiny.embeddings(full, texts))
    cut = tmp_path / "cut"
    assert main(["prune", str(folder), "--blocks", "2", "--save", str(cut), "--quiet"]) == 0
    assert not [name for name in weights_of(cut) if "pooler" in name]
    assert tiny.open_model(cut).info.parameters == size(cut)


def test_a_pooler_of_a_checkpoint_with_a_head(tmp_path: Path) -> None:
    whole = transformers.BertForSequenceClassification(tiny.config("Bert"))
    whole.save_pretrained(tmp_path / "full")
    tiny.tokenizer().save_pretrained(tmp_path / "full")
    model = tiny.open_model(tmp_path / "full")
    assert not left_out(model.parts.module)
    assert model.info.parameters == sum(p.numel() for p in whole.bert.parameters())


CAUSAL = [f for f in tiny.WIDER if f in ("Falcon", "Bloom", "Phi", "Mpt", "Rwkv")]
CHANGES: dict[str, dict[str, Any]] = {
    "Gemma2": {"final_logit_softcapping": 2.0},
    "Cohere": {"logit_scale": 0.3},
    "Granite": {"logits_scaling": 5.0},
    "OPT": {"word_embed_proj_dim": 16},
    "Bert": {"is_decoder": True},
    "GPTJ": {"rotary_dim": 4},
}
HEADED = [*tiny.DECODERS, *tiny.SCALED, *CAUSAL, "Bert", "GPTJ"]


def with_head(tmp_path: Path, family: str, **changes: Any) -> Any:
    changes = {**CHANGES.get(family, {}), **changes}
    folder = tiny.save(family, tmp_path / family, causal=True, uneven=True, **changes)
    return tiny.open_model(folder, "decoder", head=True)


@torch.inference_mode()
def last(model: Any) -> tuple[Tensor, Tensor]:
    """The last state of each token, raw (T, d), and the model's own logits there (T, V)."""
    encoded = model.tokenize([Text("the quick brown fox, and a dog.")])
    states: dict[int, Tensor] = {}
    model.watch(encoded, lambda layer, state: states.update({layer: state[0]}))
    logits = model.whole(torch.tensor([encoded[0]["input_ids"]])).logits[0]
    return states[len(states) - 1], logits


@pytest.mark.parametrize("family", tiny.rest_slow(HEADED, "Gemma2", "OPT", "Bert"))
@torch.inference_mode()
def test_logits_are_the_models_own(family: str, tmp_path: Path) -> None:
    """Scaled, capped, after one final norm."""
    model = with_head(tmp_path, family)
    raw, logits = last(model)
    normed = model.normed(raw)
    assert logits.std() > 0.05
    torch.testing.assert_close(model.head.logits(normed), logits, rtol=1e-4, atol=1e-4)

    tokens = torch.randint(0, logits.shape[-1], (len(raw), 3))
    chosen, likeliest = model.head.log_probabilities(normed, tokens)
    expected = logits.double().log_softmax(-1).gather(1, tokens)
    torch.testing.assert_close(chosen.double(), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(likeliest, logits.argmax(-1))

    assert model.has_final_norm == (family != "Bert")  # BERT's blocks end in their norm
    if model.has_final_norm and family != "OPT":  # where it is not followed by a projection
        # the check can fail: normed twice, or not at all, is another state
        for wrong in (model.normed(normed), raw):
            assert (model.head.logits(wrong) - logits).abs().max() > 0.01


@torch.inference_mode()
def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large vocabulary goes through in parts, with the same result."""
    model = with_head(tmp_path, "Llama", vocab_size=4000)
    normed, tokens = torch.randn(17, 32), torch.randint(0, 4000, (17, 2))
    whole = model.head.log_probabilities(normed, tokens)
    sizes: list[int] = []
    model.whole.lm_head.register_forward_hook(lambda _, args, out: sizes.append(out.numel()))
    for rows, most in ((3, 3 * 4 * 4000 + 5), (1, 1)):  # a row at a time at least
        monkeypatch.setattr(readout, "LOGIT_BYTES", most)
        sizes.clear()
        torch.testing.assert_close(model.head.log_probabilities(normed, tokens), whole)
        assert len(sizes) == -(-17 // rows)
        assert (max(sizes), sum(sizes)) == (rows * 4000, 17 * 4000)


@torch.inference_mode()
def test_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    """Also where the head fails in the middle."""
    model = with_head(tmp_path, "GPT2")
    raw, logits = last(model)
    model.head.logits(model.normed(raw))
    assert torch.equal(last(model)[1], logits)
    with pytest.raises(RuntimeError):
        model.head.logits(torch.zeros(3, 31))
    assert torch.equal(last(model)[1], logits)
    assert all("forward" not in vars(m) for m in model.whole.modules())


@torch.inference_mode()
def test_logits_that_follow_from_something_else_are_refused(tmp_path: Path) -> None:
    """A head that reads more than the last state."""
    whole = stock.load(tiny.save("GPT2", tmp_path / "model", causal=True, uneven=True))
    probe = {"input_ids": torch.arange(7, 15).unsqueeze(0)}
    normed = whole.transformer(**probe).last_hidden_state
    assert Head(whole, probe, normed).vocabulary == len(tiny.VOCAB)
    with pytest.raises(UserError, match="GPT2LMHeadModel: its logits do not follow"):
        Head(whole, probe, whole.transformer.ln_f(normed))
    with pytest.raises(UserError, match="what its head reads cannot be told"):
        Head(whole, probe, normed[:, :3])


def test_weights_without_a_head(tmp_path: Path) -> None:
    """Of a family whose head is not tied to its embeddings, and of one whose head is."""
    folder = tiny.save("GPTNeoX", tmp_path / "m", tie_word_embeddings=False)
    model = tiny.open_model(folder, head=True)
    assert (model.head, model.headless) == (None, NO_HEAD)
    assert tiny.open_model(tiny.save("GPT2", tmp_path / "tied"), head=True).head is not None
