"""The architecture: every block mixes each byte with the three before it, and then its values."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn


class Block(nn.Module):
    """A gate opened by the bytes before it."""

    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.across = nn.Conv1d(width, width, 4, groups=width)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, state):
        normed = self.norm(state)
        before = nn.functional.pad(normed.transpose(1, 2), (3, 0))
        gate = self.across(before).transpose(1, 2)
        return state + self.out(nn.functional.silu(gate) * self.value(normed))


class Mixer(nn.Module):
    def __init__(self, width, blocks):
        super().__init__()
        self.bytes = nn.Embedding(256, width)
        self.layers = nn.ModuleList(Block(width) for _ in range(blocks))
        self.last = nn.LayerNorm(width)

    def forward(self, input_ids, attention_mask=None):
        state = self.bytes(input_ids)
        for block in self.layers:
            state = block(state)
        return (self.last(state),)


def save(folder, width=24, blocks=4, length=200):
    """A checkpoint with random weights."""
    torch.manual_seed(0)
    folder = Path(folder)
    folder.mkdir(parents=True)
    save_file(Mixer(width, blocks).state_dict(), folder / "model.safetensors")
    config = {"model_type": "lrd_mixer", "width": width, "blocks": blocks, "length": length}
    (folder / "config.json").write_text(json.dumps(config))
