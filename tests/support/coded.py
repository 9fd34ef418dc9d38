"""Small models with code of their own, as their authors publish them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tiny
import torch
from safetensors.torch import save_file

BLOCKS = """
import torch
from torch import nn

SCALE = 1.0


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(width), nn.Linear(width, width)

    def forward(self, state):
        return state + SCALE * torch.tanh(self.linear(self.norm(state)))
"""
CONFIGURATION = """
from transformers import PreTrainedConfig


class TinyConfig(PreTrainedConfig):
    model_type = "tiny_of_its_own"

    def __init__(self, hidden_size=16, num_hidden_layers=3, vocab_size=100, **more):
        self.hidden_size, self.num_hidden_layers = hidden_size, num_hidden_layers
        self.vocab_size = vocab_size
        super().__init__(**more)
"""
MODELING = """
from pathlib import Path

from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput

from .blocks_tiny import Block
from .configuration_tiny import TinyConfig

if MARK:
    Path(MARK).touch()


class Base(PreTrainedModel):
    config_class = TinyConfig
    base_model_prefix = "model"

    def _init_weights(self, module):
        pass


class TinyModel(Base):
    def __init__(self, config):
        super().__init__(config)
        self.words = nn.Embedding(config.vocab_size, config.hidden_size)
        blocks = range(config.num_hidden_layers)
        self.layers = nn.ModuleList(Block(config.hidden_size) for _ in blocks)
        self.last = nn.LayerNorm(config.hidden_size)
        self.post_init()

    def get_input_embeddings(self):
        return self.words

    def forward(self, input_ids, attention_mask=None, output_hidden_states=False, **more):
        state = self.words(input_ids)
        states = [state]
        for layer in self.layers:
            state = layer(state)
            states.append(state)
        states[-1] = self.last(state)
        return BaseModelOutput(last_hidden_state=states[-1], hidden_states=tuple(states))


class TinyForCausalLM(Base):
    def __init__(self, config):
        super().__init__(config)
        self.model = TinyModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.model.words

    def get_output_embeddings(self):
        return self.lm_head

    def forward(self, input_ids, attention_mask=None, **more):
        output = self.model(input_ids, **more)
        logits = self.lm_head(output.last_hidden_state)
        return CausalLMOutput(logits=logits, hidden_states=output.hidden_states)
"""
REGISTERS = """
from transformers import AutoConfig, AutoModel

AutoConfig.register("tiny_of_its_own", TinyConfig, exist_ok=True)
AutoModel.register(TinyConfig, TinyModel, exist_ok=True)
"""
SENTENCE = """
from sentence_transformers.base.modules import Module


class Halved(Module):
    def forward(self, features, **more):
        return {**features, "sentence_embedding": features["sentence_embedding"] / 2}

    def save(self, output_path, *args, **kwargs):
        pass

    @classmethod
    def load(cls, model_name_or_path, **kwargs):
        return cls()
"""
TRANSFORMER = """
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer


class Transformer(nn.Module):  # as jina-embeddings-v3 has it
    save_in_root = True

    def __init__(self, name, model_args=None, tokenizer_args=None, config_args=None, **more):
        super().__init__()
        config = AutoConfig.from_pretrained(name, **(config_args or {}))
        self.auto_model = AutoModel.from_pretrained(name, config=config, **(model_args or {}))
        self.tokenizer = AutoTokenizer.from_pretrained(name, **(tokenizer_args or {}))
        self.max_seq_length = 64

    def forward(self, features, task=None):
        read = {name: features[name] for name in ("input_ids", "attention_mask")}
        return {**features, "token_embeddings": self.auto_model(**read).last_hidden_state}

    def get_word_embedding_dimension(self):
        return self.auto_model.config.hidden_size

    def tokenize(self, texts):
        how = {"padding": True, "truncation": True, "return_tensors": "pt"}
        return self.tokenizer(list(texts), max_length=self.max_seq_length, **how)

    def save(self, path, safe_serialization=True):
        self.auto_model.save_pretrained(path)
        self.tokenizer.save_pretrained(path)

    @classmethod
    def load(cls, path):
        return cls(path)
"""
AUTO_MAP = {
    "AutoConfig": "configuration_tiny.TinyConfig",
    "AutoModel": "modeling_tiny.TinyModel",
    "AutoModelForCausalLM": "modeling_tiny.TinyForCausalLM",
}


def save(
    folder: Path,
    mark: Path | str = "",
    *,
    causal: bool = False,
    registers: bool = False,
    **changes: Any,
) -> Path:
    """A random model with the code that makes it, which touches `mark` whenever it is imported.

    causal: with a head; registers: the code tells transformers of its classes by itself; changes:
    of config.json.
    """
    folder.mkdir()
    modeling = MODELING.replace("MARK", repr(str(mark))) + REGISTERS * registers
    files = {"blocks_tiny": BLOCKS, "configuration_tiny": CONFIGURATION, "modeling_tiny": modeling}
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    width, start = 16, "model." if causal else ""
    torch.manual_seed(0)
    weights = {f"{start}words.weight": torch.randn(len(tiny.VOCAB), width)}
    for name in [*(f"layers.{i}.norm" for i in range(3)), "last"]:
        weights |= {f"{start}{name}.weight": torch.rand(width) + 0.5}
        weights |= {f"{start}{name}.bias": torch.rand(width)}
    for i in range(3):
        weights |= {f"{start}layers.{i}.linear.weight": torch.randn(width, width)}
        weights |= {f"{start}layers.{i}.linear.bias": torch.randn(width)}
    if causal:
        weights["lm_head.weight"] = torch.randn(len(tiny.VOCAB), width)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "model_type": "tiny_of_its_own",
        "architectures": ["TinyForCausalLM" if causal else "TinyModel"],
        "auto_map": AUTO_MAP,
        "hidden_size": width,
        "num_hidden_layers": 3,
        "vocab_size": len(tiny.VOCAB),
        **changes,
    }
    tiny.tokenizer(encoder=not causal).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))
    return folder
