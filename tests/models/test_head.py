"""The head's log-probabilities are the model's own: scaled, capped, after one final norm."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import stock
import tiny
import torch
from torch import Tensor

from lrd_harness.contracts import Text
from lrd_harness.errors import UserError
from lrd_harness.models import readout as module
from lrd_harness.models.readout import Head
from lrd_harness.models.text_model import NO_HEAD

pytestmark = pytest.mark.usefixtures("inference")
CAUSAL = [f for f in tiny.WIDER if f in ("Falcon", "Bloom", "Phi", "Mpt", "Rwkv")]
CHANGES: dict[str, dict[str, Any]] = {
    "Gemma2": {"final_logit_softcapping": 2.0},
    "Cohere": {"logit_scale": 0.3},
    "Granite": {"logits_scaling": 5.0},
    "OPT": {"word_embed_proj_dim": 16},
    "Bert": {"is_decoder": True},
}


@pytest.fixture
def inference() -> Iterator[None]:
    """No gradients, as in a run."""
    with torch.inference_mode():
        yield


def opened(tmp_path: Path, family: str, **changes: Any) -> Any:
    changes = {**CHANGES.get(family, {}), **changes}
    folder = tiny.save(family, tmp_path / family, causal=True, uneven=True, **changes)
    return tiny.open_model(folder, "decoder", head=True)


def last(model: Any, text: str = "the quick brown fox, and a dog.") -> tuple[Tensor, Tensor]:
    """The last state of each token, raw (T, d), and the model's own logits there (T, V)."""
    encoded = model.tokenize([Text(text)])
    states: dict[int, Tensor] = {}
    model.watch(encoded, lambda layer, state: states.update({layer: state[0]}))
    ids = torch.tensor([encoded[0]["input_ids"]])
    own = model.whole(ids).logits[0]
    return states[len(states) - 1], own


@pytest.mark.parametrize(
    "family",
    tiny.rest_slow(
        [*tiny.DECODERS, *tiny.SCALED, *CAUSAL, "Bert", "GPTJ"], "Gemma2", "OPT", "Bert"
    ),
)
def test_logits_are_the_models_own(family: str, tmp_path: Path) -> None:
    model = opened(tmp_path, family, **({"rotary_dim": 4} if family == "GPTJ" else {}))
    raw, own = last(model)
    assert own.std() > 0.05
    torch.testing.assert_close(model.head.logits(model.normed(raw)), own, rtol=1e-4, atol=1e-4)

    tokens = torch.randint(0, own.shape[-1], (len(raw), 3))
    chosen, likeliest = model.head.log_probabilities(model.normed(raw), tokens)
    expected = own.double().log_softmax(-1).gather(1, tokens)
    torch.testing.assert_close(chosen.double(), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(likeliest, own.argmax(-1))

    assert model.has_final_norm == (family != "Bert")  # BERT's blocks end in their norm
    if model.has_final_norm and family != "OPT":  # where it is not followed by a projection
        # the check can fail: normed twice, or not at all, is another state
        for wrong in (model.normed(model.normed(raw)), raw):
            assert (model.head.logits(wrong) - own).abs().max() > 0.01


@pytest.mark.parametrize("rows", [1, 3, 7])
def test_memory_is_bounded(rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large vocabulary goes through in parts, with the same result."""
    model = opened(tmp_path, "Llama", vocab_size=4000)
    normed = torch.randn(17, 32)
    tokens = torch.randint(0, 4000, (17, 2))
    whole = model.head.log_probabilities(normed, tokens)
    monkeypatch.setattr(module, "LOGIT_BYTES", rows * 4 * 4000 + 5)
    seen: list[int] = []
    model.whole.lm_head.register_forward_hook(lambda _, args, out: seen.append(out.numel()))
    parts = model.head.log_probabilities(normed, tokens)
    assert len(seen) == -(-17 // rows)
    assert sum(seen) == 17 * 4000
    assert max(seen) * 4 <= module.LOGIT_BYTES
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other)
    monkeypatch.setattr(module, "LOGIT_BYTES", 1)  # a row at a time at least
    assert torch.equal(model.head.log_probabilities(normed, tokens)[1], whole[1])


def test_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    """Also where the head fails in the middle."""
    model = opened(tmp_path, "GPT2")
    raw, own = last(model)
    model.head.logits(model.normed(raw))
    assert torch.equal(last(model)[1], own)
    with pytest.raises(RuntimeError):
        model.head.logits(torch.zeros(3, 31))
    assert torch.equal(last(model)[1], own)
    assert all("forward" not in vars(m) for m in model.whole.modules())


def test_logits_that_follow_from_something_else_are_refused(tmp_path: Path) -> None:
    """A head that reads more than the last state."""
    whole = stock.load(tiny.save("GPT2", tmp_path / "model", causal=True, uneven=True))
    probe = {"input_ids": torch.arange(7, 15).unsqueeze(0)}
    normed = whole.transformer(**probe).last_hidden_state
    wrong = whole.transformer.ln_f(normed)
    assert Head(whole, probe, normed).vocabulary == len(tiny.VOCAB)
    with pytest.raises(UserError, match="GPT2LMHeadModel: its logits do not follow"):
        Head(whole, probe, wrong)
    with pytest.raises(UserError, match="what its head reads cannot be told"):
        Head(whole, probe, normed[:, :3])


def test_weights_without_a_head(tmp_path: Path) -> None:
    """Of a family whose head is not tied to its embeddings, and of one whose head is."""
    model = tiny.open_model(
        tiny.save("GPTNeoX", tmp_path / "m", tie_word_embeddings=False), head=True
    )
    assert (model.head, model.headless) == (None, NO_HEAD)
    assert tiny.open_model(tiny.save("GPT2", tmp_path / "tied"), head=True).head is not None
