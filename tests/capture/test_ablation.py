"""Single-block ablation against a loop over transformers' own models without one block each."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import transformers
from scipy import stats
from torch.nn import functional

from lrd_harness.capture import ablation, evidence
from lrd_harness.capture.ablation import Ablation
from lrd_harness.capture.evidence import ModelEvidence
from lrd_harness.contracts import Text
from lrd_harness.errors import UnitError

SENTENCES = tiny.sentences(56)
L = 4
PLACES = {"GPT2": "transformer.h", "Llama": "model.layers", "Bert": "encoder.layer"}


def saved(tmp_path: Path, family: str, **more: Any) -> Path:
    depth = {"n_layer" if family == "GPT2" else "num_hidden_layers": L}
    causal = family != "Bert"
    return tiny.save(family, tmp_path / family, causal=causal, uneven=True, **depth, **more)


def known(folder: Path, texts: list[str] = SENTENCES, **options: Any) -> ModelEvidence:
    """Evidence of batches that are padded."""
    model = tiny.open_model(folder, **options)
    return ModelEvidence(model, [Text(text) for text in texts], {}, 60)


def without(model: Any, path: str) -> list[Any]:
    """The model, and as it is without each of its blocks."""
    cut = []
    for number in range(L):
        other = copy.deepcopy(model)
        rest = [block for i, block in enumerate(other.get_submodule(path)) if i != number]
        other.set_submodule(path, torch.nn.ModuleList(rest))
        for name in ("n_layer", "num_hidden_layers"):
            if hasattr(other.config, name):
                setattr(other.config, name, L - 1)
        cut.append(other.eval())
    return [model.eval(), *cut]


@torch.no_grad()
def divergences(folder: Path, family: str, texts: list[str]) -> list[float]:
    """KL of the next token without each block, each text alone, over all tokens together."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    models = without(transformers.AutoModelForCausalLM.from_pretrained(folder), PLACES[family])
    nats, tokens = np.zeros(L), 0
    for text in texts:
        ids = tokenizer(text, return_tensors="pt").input_ids
        every = [m(ids, use_cache=False).logits[0, :-1].double().log_softmax(-1) for m in models]
        tokens += ids.shape[1] - 1
        for number, changed in enumerate(every[1:]):
            kl = functional.kl_div(changed, every[0], log_target=True, reduction="sum")
            nats[number] += float(kl)
    return list(nats / tokens)


@pytest.mark.parametrize(("family", "padding"), [("GPT2", "right"), ("Llama", "left")])
def test_of_a_language_model_it_is_the_kl_of_the_next_token(
    family: str, padding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved(tmp_path, family)
    found = known(folder, SENTENCES[:20], head=True, padding=padding)
    expected = divergences(folder, family, SENTENCES[:20])
    assert min(expected) > 1e-3
    assert found.profiles["ablation"] == pytest.approx(expected, rel=1e-3)
    # of some of the texts, without reading them again
    monkeypatch.setattr(evidence, "ablate", None)
    part = found.part([1, 4, 5], {"frenet.speed": [0.5] * L})
    some = [SENTENCES[i] for i in (1, 4, 5)]
    assert part.profiles["ablation"] == pytest.approx(divergences(folder, family, some), rel=1e-3)
    assert part.profiles["frenet.speed"] == [0.5] * L


def test_pieces_and_a_bound_of_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved(tmp_path, "Llama")
    whole = known(folder, SENTENCES[:9], head=True).profiles["ablation"]
    monkeypatch.setattr(ablation, "AT_ONCE", 3 * len(tiny.VOCAB))  # three tokens a piece
    assert known(folder, SENTENCES[:9], head=True).profiles["ablation"] == pytest.approx(
        whole, rel=1e-6
    )
    monkeypatch.setattr(evidence, "ABLATION_TOKENS", 1)
    first = int(np.random.RandomState(42).permutation(len(SENTENCES))[0])  # whatever its place
    alone = divergences(folder, "Llama", SENTENCES[first : first + 1])
    found = known(folder, head=True)
    assert found.profiles["ablation"] == pytest.approx(alone, rel=1e-3)
    assert list(found._read.ablation.weights.nonzero()[0]) == [first]
    with pytest.raises(UnitError, match="second token"):
        _ = known(folder, ["a"], head=True).profiles["ablation"]


@torch.no_grad()
def test_of_an_encoder_it_is_the_loss_of_cosine(tmp_path: Path) -> None:
    folder = saved(tmp_path, "Bert")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    models = without(transformers.AutoModel.from_pretrained(folder), PLACES["Bert"])
    outputs = np.zeros((L + 1, len(SENTENCES), 32))
    for i, text in enumerate(SENTENCES):
        ids = tokenizer(text, return_tensors="pt").input_ids
        for number, model in enumerate(models):
            outputs[number, i] = model(ids).last_hidden_state[0].double().mean(0)
    units = outputs / np.linalg.norm(outputs, axis=-1, keepdims=True)
    cosines = [float((units[0] * unit).sum(-1).mean()) for unit in units[1:]]
    found = known(folder)
    assert found.profiles["ablation"] == pytest.approx([1 - c for c in cosines], rel=1e-3)
    assert found.part([2, 3], {}).profiles["ablation"] == pytest.approx(
        [1 - float((units[0, 2:4] * unit[2:4]).sum(-1).mean()) for unit in units[1:]], rel=1e-3
    )
    pairs = np.triu_indices(len(SENTENCES), 1)
    alike = [
        stats.spearmanr(*((u @ u.T)[pairs] for u in (units[0], unit)))[0] for unit in units[1:]
    ]
    kept = found._read.ablation.effects
    again = ModelEvidence(
        found._read.model, SENTENCES, {}, 60, lambda compute: found._read.ablation
    )
    assert again.profiles["ablation"] == kept["cosine_loss"] == found.profiles["ablation"]
    assert list(kept) == ["cosine_loss", "rsa_loss"]
    assert kept["rsa_loss"] == pytest.approx([1 - rho for rho in alike], abs=1e-4)
    few = known(folder, SENTENCES[:20])._read.ablation.effects
    assert few["rsa_loss"] == [None] * L  # of fewer than 50 texts


def test_a_loss_that_is_not_finite_is_no_value() -> None:
    losses = np.array([[1.0, np.inf, np.nan, -1e-18], [2.0, 1.0, 0.0, 0.0]])
    found = Ablation("kl", losses, np.array([2.0, 1.0]))
    assert found.effect([0, 1]) == [1.0, None, None, 0.0]
    assert found.effect([1]) == [2.0, 1.0, 0.0, 0.0]


def test_parts_of_other_evidence(tmp_path: Path) -> None:
    """What it is of some texts is what it would be if there were these alone."""
    folder, rows = saved(tmp_path, "Bert"), [0, 3, 7, 8, 11, 20]
    part, alone = known(folder).part(rows, {}), known(folder, [SENTENCES[i] for i in rows])
    read = part._read.tokens
    assert part.profiles["block_influence"] == pytest.approx(
        alone.profiles["block_influence"], rel=1e-5
    )
    assert part.angle(2, 3) == pytest.approx(alone.angle(2, 3), rel=1e-4)
    assert part._read.tokens is read
    with pytest.raises(UnitError, match="no text is left"):
        known(folder).part([], {})
    few, whole = known(folder, SENTENCES[:20]), known(folder, SENTENCES[:9])
    sets = [(), (2,), (2, 3)]
    assert few.part(range(9), {}).agreements(sets) == pytest.approx(
        whole.agreements(sets), rel=1e-5
    )
