"""Reading a model leaves it as it was, and no text's states depend on those read before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers
from torch import nn

from lrd_harness.capture.walk import Walk
from lrd_harness.contracts import Text
from lrd_harness.models.backbone import Backbone, Snapshot, follows_length
from lrd_harness.models.cut import remove

SHORT, LONG = Text("the cat sat"), Text(" ".join(tiny.sentences(12)))


def save(made: Any, folder: Path, encoder: bool = True) -> Path:
    torch.manual_seed(0)
    transformers.AutoModel.from_config(made).save_pretrained(folder)
    tiny.tokenizer(encoder=encoder, max_length=256).save_pretrained(folder)
    return folder


def big_bird(**changes: Any) -> Any:
    return transformers.BigBirdConfig(
        **tiny.SMALL,
        attention_type="block_sparse",
        block_size=16,
        num_random_blocks=1,
        max_position_embeddings=512,
        **changes,
    )


def check_as_stock(folder: Path, texts: list[Text]) -> None:
    """States of texts, read in this order, are those of a fresh model for each."""
    model = tiny.open_model(folder, pooling="mean")
    assert model.padding == "none"  # or they would depend on the longest of their batch
    encoded = model.tokenize(texts)
    found = [model.states([one]) for one in encoded]
    together = model.states(encoded)
    for i, one in enumerate(encoded):
        stock = transformers.AutoModel.from_pretrained(folder).eval()
        ids = torch.tensor([one["input_ids"]])
        with torch.inference_mode():
            own = stock(
                input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True
            )
        for layer, state in enumerate(own.hidden_states[:-1]):
            torch.testing.assert_close(found[i]["raw", layer][0], state[0].mean(0))
            torch.testing.assert_close(together["raw", layer][i], found[i]["raw", layer][0])


def test_big_bird_stays_sparse(tmp_path: Path) -> None:
    """It turns to full attention for good by a short text, as every probe is."""
    folder = save(big_bird(), tmp_path / "m")
    model = tiny.open_model(folder)
    assert model.backbone.module.attention_type == "block_sparse"
    check_as_stock(folder, [SHORT, LONG, SHORT, LONG])


def test_blocks_that_are_filled_up_hold_no_tokens(tmp_path: Path) -> None:
    """In sparse attention BigBird reads whole blocks of 16 tokens, and pads the last one itself."""
    folder = save(big_bird(), tmp_path / "m")
    texts = [Text("a" * n) for n in (125, 126, 127, 140)]
    check_as_stock(folder, texts)
    model = tiny.open_model(folder, pooling="mean")
    walk = Walk(model.backbone)
    features = model.features(model.tokenize(texts[:1]))
    found: dict[Any, Any] = {}
    walk.run(
        model.inputs(features),
        [(), (2,)],
        lambda removed, state: found.update({removed: model.pooled(state, features)["raw"]}),
    )
    kept = remove(model.backbone.module, model.blocks, (2,))
    assert len(kept) == 2
    pruned = Backbone(model.backbone.module, model.inputs(model.features(model.tokenize([SHORT]))))
    last = pruned.run(model.inputs(features), lambda layer, state: None)
    torch.testing.assert_close(found[(2,)][0], last[0].mean(0))


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_rotary_frequencies_that_follow_the_longest_text(kind: str, tmp_path: Path) -> None:
    rope: dict[str, Any] = {"rope_type": kind, "rope_theta": 1e4, "factor": 4.0}
    if kind == "longrope":
        rope |= {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
        rope |= {"original_max_position_embeddings": 32}
    most = 32 if kind == "dynamic" else 256
    changes = {"max_position_embeddings": most, "rope_parameters": rope, "num_key_value_heads": 2}
    made = transformers.LlamaConfig(**tiny.SMALL, **changes)
    folder = save(made, tmp_path / "m", encoder=False)
    assert follows_length(transformers.AutoModel.from_pretrained(folder))
    model = tiny.open_model(folder, max_length=256, pooling="mean")
    assert model.padding == "none"
    texts = [LONG, SHORT, LONG]
    together = model.states(model.tokenize(texts))
    for i, text in enumerate(texts):
        alone = tiny.open_model(folder, max_length=256, pooling="mean")
        expected = alone.states(alone.tokenize([text]))
        for plane, state in expected.items():
            torch.testing.assert_close(together[plane][i], state[0])


def test_weights_are_prepared_once(tmp_path: Path) -> None:
    """RWKV halves those of later blocks before its first pass, and must not do so again."""
    made = transformers.RwkvConfig(
        vocab_size=len(tiny.VOCAB), hidden_size=32, num_hidden_layers=5, rescale_every=2
    )
    folder = save(made, tmp_path / "m", encoder=False)
    model = tiny.open_model(folder)
    ids = torch.tensor([model.tokenize([LONG])[0]["input_ids"]])
    for _ in range(2):
        last = model.backbone.run({"input_ids": ids}, lambda layer, state: None)
        with torch.inference_mode():
            own = transformers.AutoModel.from_pretrained(folder).eval()(input_ids=ids)
        torch.testing.assert_close(last, own.last_hidden_state)


class Changing(nn.Module):
    """Changes whatever a module has."""

    def __init__(self) -> None:
        super().__init__()
        self.inner: nn.Module = nn.Linear(2, 2)
        self.register_buffer("table", torch.zeros(3))
        self.kind, self.cached = "sparse", None

    def forward(self, what: str) -> None:
        if what == "part":
            self.inner = nn.Linear(2, 2)
        elif what == "buffer":
            self.table += 1
        elif what == "value":
            self.kind = "full"
        elif what == "cache":
            self.cached = torch.ones(2)
            self.grown = 1


@pytest.mark.parametrize("what", ["part", "buffer", "value", "cache", "nothing"])
def test_what_is_put_back(what: str) -> None:
    module = Changing()
    inner, names = module.inner, set(vars(module))
    snapshot = Snapshot(module)
    module(what)
    assert snapshot.restore() == (what in ("part", "buffer", "value"))
    assert module.inner is inner
    assert module.kind == "sparse"
    assert module.cached is None
    assert set(vars(module)) == names
    assert torch.equal(module.get_buffer("table"), torch.zeros(3))
    assert not snapshot.restore()


def test_written_weights_are_kept() -> None:
    module = Changing()
    snapshot = Snapshot(module)
    module.kind = "prepared"
    with torch.inference_mode():
        module.get_parameter("inner.weight").mul_(0)
    assert not snapshot.restore()
    assert module.kind == "prepared"
    module.kind = "other"
    assert snapshot.restore()
    assert module.kind == "prepared"
