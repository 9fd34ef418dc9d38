"""Adapters of other authors: modules of their own, tokens of their own, poolings of their own."""

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
from PIL import Image as pil

from lrd_harness import manager
from lrd_harness.contracts import Checkpoint, ModelOptions, Text
from lrd_harness.errors import UserError
from lrd_harness.images import Image
from lrd_harness.models.find import find
from lrd_harness.models.image_model import ImageModel, ImageParts
from lrd_harness.models.save import check_saved
from lrd_harness.models.text_model import Parts, TextModel
from lrd_harness.planning.models import resolve_model
from lrd_harness.planning.settings import Settings
from lrd_harness.planning.suite import ModelEntry
from lrd_harness.progress import Display

TESTS = Path(__file__).parents[1]
TEXTS = [Text("a short one"), Text("a text that is longer, of more bytes"), Text("")]


@pytest.fixture
def mixer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint of the architecture of tests/distributions/lrd-mixer, which can be imported."""
    monkeypatch.syspath_prepend(TESTS / "distributions" / "lrd-mixer" / "src")
    from lrd_mixer.model import save

    save(tmp_path / "mixer")
    return tmp_path / "mixer"


def opened(name: str, loaded: bool = True, **how: Any) -> Any:
    plugins = manager.load((__import__("lrd_mixer"),) if loaded else ())
    entry, stage = ModelEntry(name, **how), Display(quiet=True).stage
    return resolve_model(entry, Settings(), plugins, stage)


def test_an_unknown_type_is_left_to_the_adapter_that_claims_it(mixer: Path) -> None:
    assert opened(str(mixer)).adapter.name == "mixer"
    for name, loaded in ((str(mixer), False), (f"encoder:{mixer}", True)):
        with pytest.raises(UserError, match="knows no model of type 'lrd_mixer'"):
            opened(name, loaded)
    with pytest.raises(UserError, match=r"can be saved: .* no model of type 'lrd_mixer'"):
        check_saved(find(str(mixer)))
    (mixer / "config.json").write_text('{"model_type": "lrd_mixer", "width": 24, "blocks": "4"}')
    with pytest.raises(UserError, match=r"its config\.json has no blocks"):
        opened(str(mixer))


def test_its_states_are_those_that_its_blocks_hand_on(mixer: Path) -> None:
    model = opened(str(mixer)).open()
    module = model.parts.module
    planes = model.states(model.tokenize(TEXTS[:2]))
    assert model.info.blocks == 4
    assert (model.padding, model.info.pooling, model.info.max_length) == ("right", "mean", 200)
    for row, text in enumerate(TEXTS[:2]):
        with torch.inference_mode():
            state = module.bytes(torch.tensor([list(text.text.encode())]))
            for layer, block in enumerate([None, *module.layers]):
                state = state if block is None else block(state)
                near = {"rtol": 1e-5, "atol": 1e-6}
                torch.testing.assert_close(planes["raw", layer][row], state[0].mean(0), **near)
                normed = module.last(state)[0].mean(0)
                torch.testing.assert_close(planes["final", layer][row], normed, **near)


def test_what_is_cut_is_told_without_a_tokenizer(mixer: Path) -> None:
    """A text is cut where one token more would have been read."""
    model = opened(str(mixer), max_length=11).open()
    encoded = model.tokenize(TEXTS)
    assert [len(e["input_ids"]) for e in encoded] == [11, 11, 1]
    assert model.truncated(TEXTS, encoded) == [False, True, False]


def largest(state: Any, features: Any) -> Any:
    return state.masked_fill(features["attention_mask"].unsqueeze(-1) == 0, -9e9).amax(1)


def test_a_pooling_of_ones_own_yields_to_the_users(tmp_path: Path) -> None:
    folder = tiny.save("Bert", tmp_path / "bert")
    checkpoint, stock = find(str(folder)), transformers.AutoModel.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    parts = Parts(adapter="x", module=stock, tokenizer=tokenizer, pool=largest)
    model = TextModel(checkpoint, ModelOptions(), parts)
    assert (model.info.pooling, model.info.max_length) == ("own", tokenizer.model_max_length)
    planes = model.states(model.tokenize(TEXTS))
    for row, text in enumerate(TEXTS):
        with torch.inference_mode():
            states = stock(**tokenizer(text.text, return_tensors="pt"), output_hidden_states=True)
        for layer, state in enumerate(states.hidden_states):
            ours = planes["raw", layer][row]
            torch.testing.assert_close(ours, state[0].amax(0), rtol=1e-5, atol=1e-5)
    chosen = TextModel(checkpoint, ModelOptions(pooling="cls", max_length=5), parts)
    assert (chosen.info.pooling, chosen.info.max_length) == ("cls", 5)
    assert chosen.identity != model.identity


class Eyes(torch.nn.Module):
    """Patches that see their mean, with a configuration that is none of transformers'."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(width=16)
        self.cut = torch.nn.Conv2d(3, 16, 8, 8)
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(16, 16) for _ in range(3))

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor]:
        state = self.cut(pixels).flatten(2).transpose(1, 2)
        for block in self.blocks:
            state = block(state)
        return (state,)


class Small:
    """Images of 32 x 32 pixels between -1 and 1."""

    def __call__(self, images: Any, return_tensors: str) -> dict[str, torch.Tensor]:
        read = np.stack([image.resize((32, 32)) for image in images])
        return {"pixels": torch.tensor(read).permute(0, 3, 1, 2) / 127.5 - 1}

    def to_dict(self) -> dict[str, int]:
        return {"side": 32}


@pytest.mark.parametrize("pool", [None, lambda state, features: state.amax(1)])
def test_images_for_a_module_of_ones_own(pool: Any) -> None:
    torch.manual_seed(0)
    module = Eyes().eval()
    checkpoint = Checkpoint("m", "/nowhere", "0", {"model_type": "eyes"}, frozenset())
    parts = ImageParts(adapter="eyes", module=module, processor=Small(), pool=pool)
    model = ImageModel(checkpoint, ModelOptions(), parts)
    assert model.info.pooling == ("own" if pool else "mean")
    pictures = [pil.fromarray(np.full((40, 50, 3), 60 * i, np.uint8)) for i in range(3)]
    planes = model.states(model.tokenize([Text(Image.of(picture)) for picture in pictures]))
    with torch.inference_mode():
        state = module.cut(Small()(pictures, "pt")["pixels"]).flatten(2).transpose(1, 2)
        for layer in range(4):
            expected = state.amax(1) if pool else state.mean(1)
            torch.testing.assert_close(planes["raw", layer], expected, rtol=1e-5, atol=1e-6)
            state = module.blocks[layer](state) if layer < 3 else state
    with pytest.raises(UserError, match="unknown pooling 'cls'"):
        ImageModel(checkpoint, ModelOptions(pooling="cls"), replace(parts))
