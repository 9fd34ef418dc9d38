"""Code of models that was written for other versions of transformers."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import transformers
from odd_checkpoints import change
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling

from lrd_harness.contracts import Checkpoint, ModelOptions, Text
from lrd_harness.errors import UserError
from lrd_harness.models import own_code
from lrd_harness.models.find import find
from lrd_harness.models.recognition import Source
from lrd_harness.runner.layer_lm import LayerLM

CODE = """
import torch
from transformers import BertConfig, BertModel
from transformers.models.bert.modeling_bert import BertLayer


class TurnedConfig(BertConfig):
    model_type = "turned-bert"


class Turn(BertLayer):
    def __init__(self, config, layer_idx=None):
        super().__init__(config, layer_idx=layer_idx)
        width = config.hidden_size
        angles = 1.0 / 100 ** (torch.arange(width) / width)
        self.register_buffer("angles", angles, persistent=False)
        self.register_buffer("numbers", torch.arange(512), persistent=False)

    def forward(self, hidden_states, *arguments, **options):
        places = self.numbers[: hidden_states.shape[1], None]
        turned = hidden_states * torch.cos(places * self.angles)
        return super().forward(turned.to(hidden_states.dtype), *arguments, **options)


class TurnedModel(BertModel):
    config_class = TurnedConfig

    def __init__(self, config):
        super().__init__(config, add_pooling_layer=False)
        turned = [Turn(config, number) for number in range(config.num_hidden_layers)]
        self.encoder.layer = torch.nn.ModuleList(turned)
        self.post_init()
"""


def made_by_its_code(folder: Path) -> Any:
    """The model as its class builds it of the folder's configuration; its weights are random."""
    spec: Any = importlib.util.spec_from_file_location("turned", folder / "modeling_turned.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.manual_seed(0)
    config = module.TurnedConfig(**json.loads((folder / "config.json").read_text()))
    return module.TurnedModel(config).eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "model"
    place.mkdir()
    (place / "modeling_turned.py").write_text(CODE)
    (place / "config.json").write_text(json.dumps({**tiny.SMALL, "model_type": "turned-bert"}))
    model = made_by_its_code(place)
    tiny.enlarge(model, "Bert", uneven=True)
    model.save_pretrained(place)
    tiny.tokenizer().save_pretrained(place)
    kinds = {"AutoConfig": "TurnedConfig", "AutoModel": "TurnedModel"}
    mapped = {auto: f"modeling_turned.{name}" for auto, name in kinds.items()}
    change(place / "config.json", auto_map=mapped)
    return place


@pytest.mark.parametrize("modules", [False, True])
def test_buffers_are_what_the_code_computes(folder: Path, tmp_path: Path, modules: bool) -> None:
    expected = made_by_its_code(folder)
    expected.load_state_dict(load_file(folder / "model.safetensors"))
    if modules:
        first = Transformer(
            str(folder),
            model_kwargs={"trust_remote_code": True},
            config_kwargs={"trust_remote_code": True},
        )
        SentenceTransformer(modules=[first, Pooling(32)]).save(str(tmp_path / "st"))
        (tmp_path / "st" / "config.json").write_text((folder / "config.json").read_text())
        (tmp_path / "st" / "modeling_turned.py").write_text(CODE)
        folder = tmp_path / "st"
    found = find(str(folder), trusted=[str(folder)])
    with own_code.running(found):
        model = tiny.adapter_of(found).open(found, ModelOptions())
    for name, buffer in expected.named_buffers():
        torch.testing.assert_close(model.parts.module.get_buffer(name), buffer)
    (encoded,) = model.tokenize([Text("some words to be read")])
    ids = torch.tensor([encoded["input_ids"]])
    with torch.inference_mode():
        states = expected(input_ids=ids, output_hidden_states=True).hidden_states
    for layer, state in enumerate(states):
        ours = model.states([encoded])["raw", layer].numpy()
        np.testing.assert_allclose(ours, state.mean(1).numpy(), atol=1e-5)


LM = """
import torch
from transformers import GPT2Config, GPT2LMHeadModel


class LiftedConfig(GPT2Config):
    model_type = "lifted-gpt2"


class LiftedLMHeadModel(GPT2LMHeadModel):
    config_class = LiftedConfig

    def __init__(self, config):
        super().__init__(config)
        self.register_buffer("lift", torch.arange(config.vocab_size) / 10, persistent=False)
        self.post_init()

    def forward(self, *arguments, **options):
        output = super().forward(*arguments, **options)
        output.logits = output.logits + self.lift
        return output
"""


def test_in_lm_eval(tmp_path: Path) -> None:
    folder = tiny.save("GPT2", tmp_path / "lm", causal=True)
    ids = torch.tensor([[7, 8, 9, 10]])
    plain = transformers.AutoModelForCausalLM.from_pretrained(folder)
    (folder / "modeling_lifted.py").write_text(LM)
    kinds = {"AutoConfig": "LiftedConfig", "AutoModelForCausalLM": "LiftedLMHeadModel"}
    mapped = {auto: f"modeling_lifted.{name}" for auto, name in kinds.items()}
    change(folder / "config.json", model_type="lifted-gpt2", auto_map=mapped)
    lm: Any = LayerLM(str(folder), trust_remote_code=True, device="cpu")
    with torch.inference_mode():
        wanted = plain(ids).logits + torch.arange(len(tiny.VOCAB)) / 10
        torch.testing.assert_close(lm.model(ids).logits, wanted)


@pytest.mark.parametrize(
    ("name", "code", "refused"),
    [
        ("tiiuae/falcon-7b", "", False),
        ("mine/falcon-tuned", "tiiuae/falcon-7b--", False),
        ("mine/falcon-tuned", "", True),  # whatever it has made of it
        ("tiiuae/falcon-7b", "mine/falcon--", True),
    ],
)
def test_code_that_became_a_class_of_transformers(
    name: str, code: str, refused: bool, tmp_path: Path
) -> None:
    folder = tiny.save("Falcon", tmp_path / "model", causal=True)
    config = json.loads((folder / "config.json").read_text())
    kinds = {"AutoConfig": "configuration_falcon.FalconConfig"}
    kinds |= {"AutoModelForCausalLM": "modeling_falcon.FalconForCausalLM"}
    config["auto_map"] = {auto: code + kind for auto, kind in kinds.items()}
    (folder / "config.json").write_text(json.dumps(config))
    source = Source(name, frozenset(p.name for p in folder.iterdir()), lambda file: config)
    found = Checkpoint(name, str(folder), "0" * 40, config, source.files)
    if refused:
        with pytest.raises(UserError, match="names code of its own"):
            own_code.code_of(found, source, "", name, ())
    else:
        assert own_code.code_of(found, source, "", name, ()) == {}
        model = tiny.adapter_of(found).open(found, ModelOptions())
        assert type(model.parts.module) is transformers.FalconModel
