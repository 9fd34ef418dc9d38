"""Quantised checkpoints are read as what their packed weights stand for, and counted as that."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lrd_harness.contracts import Text
from lrd_harness.errors import UserError
from lrd_harness.models.find import find
from lrd_harness.models.quantised import in_memory, parameters, placing
from lrd_harness.models.save import save

GROUP = 32
ORDER = {"gptq": range(8), "awq": (0, 2, 4, 6, 1, 3, 5, 7)}
TEXTS = [Text("the quick brown fox jumps"), Text("a dog")]
SETTINGS: dict[str, dict[str, Any]] = {
    "gptq": {"bits": 4, "group_size": GROUP, "desc_act": False, "sym": False},
    "awq": {"bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"},
    "fp8": {"activation_scheme": "dynamic", "weight_block_size": [GROUP, GROUP]},
}


def packed(numbers: Tensor, axis: int, order: Any) -> Tensor:
    """Numbers of 0..15, eight to an int32 along an axis."""
    moved = numbers.movedim(axis, -1)
    eights = moved.reshape(*moved.shape[:-1], -1, 8).long()
    joined = torch.stack([(eights[..., n] & 15) << 4 * k for k, n in enumerate(order)]).sum(0)
    return joined.int().movedim(-1, axis).contiguous()


def in_four_bits(kind: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """A weight (out, in) as GPTQ or AWQ write it, rounded; and what it stands for."""
    groups = weight.reshape(len(weight), -1, GROUP)
    low, high = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)
    scale = ((high - low) / 15).half().float()
    zero = (-low / scale).round().clamp(1, 15)
    number = (groups / scale[..., None] + zero[..., None]).round().clamp(0, 15)
    again = ((number - zero[..., None]) * scale[..., None]).flatten(1)
    rows, order = number.flatten(1).T.contiguous(), ORDER[kind]
    tensors = {"qweight": packed(rows, 0 if kind == "gptq" else 1, order)}
    tensors["qzeros"] = packed((zero - int(kind == "gptq")).T.contiguous(), 1, order)
    tensors["scales"] = scale.T.contiguous().half()
    if kind == "gptq":
        tensors["g_idx"] = (torch.arange(weight.shape[1]) // GROUP).int()
    return tensors, again


def in_fp8(kind: str, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """A weight as DeepSeek writes it: float8 with a scale for each square block."""
    rows, columns = weight.shape[0] // GROUP, weight.shape[1] // GROUP
    blocks = weight.reshape(rows, GROUP, columns, GROUP)
    scale = blocks.abs().amax((1, 3), keepdim=True) / 448
    small = (blocks / scale).to(torch.float8_e4m3fn)
    tensors = {"weight": small.reshape(weight.shape), "weight_scale_inv": scale[:, 0, :, 0]}
    return tensors, (small.float() * scale).reshape(weight.shape)


def written(kind: str, folder: Path, how: Callable[..., Any]) -> tuple[Path, Path]:
    """A small Llama with packed weights, made by hand, and one of the weights they stand for."""
    base, small = folder / "base", folder / "small"
    tiny.save("Llama", base, causal=True, uneven=True, hidden_size=64, intermediate_size=128)
    small.mkdir()
    tensors: dict[str, Tensor] = {}
    whole = load_file(base / "model.safetensors")
    for name, weight in whole.items():
        if name.endswith("proj.weight"):
            parts, whole[name] = how(kind, weight)
            tensors |= {f"{name.removesuffix('weight')}{part}": t for part, t in parts.items()}
        else:
            tensors[name] = whole[name] = weight.half().float()
    save_file(tensors, small / "model.safetensors", {"format": "pt"})
    save_file(whole, base / "model.safetensors", {"format": "pt"})
    config = json.loads((base / "config.json").read_text())
    config["quantization_config"] = {"quant_method": kind, **SETTINGS[kind]}
    (small / "config.json").write_text(json.dumps(config))
    tiny.tokenizer(encoder=False).save_pretrained(small)
    return base, small


def states(model: Any) -> Mapping[tuple[str, int], Tensor]:
    planes: Mapping[tuple[str, int], Tensor] = model.states(model.tokenize(TEXTS))
    return planes


def near(model: Any, other: Any, share: float) -> None:
    """All states of two models differ by at most this share of their length."""
    first, second = states(model), states(other)
    assert first.keys() == second.keys()
    for key in first:
        assert (first[key] - second[key]).norm() <= share * second[key].norm(), key


def test_fp8_is_read_as_what_it_stands_for(tmp_path: Path) -> None:
    base, small = written("fp8", tmp_path, in_fp8)
    whole, read = tiny.open_model(base), tiny.open_model(small)
    near(read, whole, 5e-3 if torch.cuda.is_available() else 1e-5)
    assert read.info.parameters == whole.info.parameters


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gptq", "awq"])
def test_four_bits_are_read_as_what_they_stand_for(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("gptqmodel")
    base, small = written(kind, tmp_path, in_four_bits)
    whole, read = tiny.open_model(base), tiny.open_model(small)
    near(read, whole, 0.01)  # their library computes in half precision
    assert read.info.parameters == whole.info.parameters
    assert in_memory(read.parts.module) < in_memory(whole.parts.module) / 3
    if kind == "gptq":  # of which the library changes the zeros when it reads them
        with pytest.raises(UserError, match="does not write what it has read of quantised weights"):
            save(find(str(small)), (2,), tmp_path / "pruned", "")
        return
    check_pruned(small, tmp_path / "pruned")


def check_pruned(original: Path, folder: Path) -> None:
    """What is saved without block 2 gives the states before it, and others after it."""
    save(find(str(original)), (2,), folder, "")
    before, after = states(tiny.open_model(original)), states(tiny.open_model(folder))
    torch.testing.assert_close(after["raw", 1], before["raw", 1], rtol=0, atol=0)
    assert len(after) < len(before)
    assert json.loads((folder / "config.json").read_text())["quantization_config"]


@pytest.fixture
def of_bits(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """Makes a small Llama, and it as bitsandbytes packs it."""
    pytest.importorskip("bitsandbytes")

    def make(**how: Any) -> tuple[Path, Path]:
        base, small = tmp_path / "base", tmp_path / "small"
        tiny.save("Llama", base, causal=True, uneven=True, hidden_size=64, intermediate_size=128)
        kind: Any = transformers.BitsAndBytesConfig
        auto: Any = transformers.AutoModelForCausalLM
        auto.from_pretrained(base, quantization_config=kind(**how)).save_pretrained(small)
        tiny.tokenizer(encoder=False).save_pretrained(small)
        return base, small

    return make


HOW = [{"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, {"load_in_8bit": True}]
HOW.append({"load_in_4bit": True, "bnb_4bit_use_double_quant": True})


@pytest.mark.slow
@pytest.mark.parametrize("how", HOW)
def test_bitsandbytes(how: dict[str, Any], of_bits: Any, tmp_path: Path) -> None:
    base, small = of_bits(**how)
    whole, read = tiny.open_model(base), tiny.open_model(small)
    assert read.info.parameters == whole.info.parameters
    assert not any(read.look_ahead())
    assert in_memory(read.parts.module) < in_memory(whole.parts.module) / 3
    again: Any = transformers.AutoModel.from_pretrained(small)
    for name, weight in again.dequantize().named_parameters():  # transformers' own way back
        whole.parts.module.get_parameter(name).data.copy_(weight)
    near(read, whole, 0.03)  # it computes in half precision, or in eight bits
    check_pruned(small, tmp_path / "pruned")


@pytest.mark.slow
def test_packed_weights_that_are_not_there(of_bits: Any) -> None:
    _, small = of_bits(load_in_8bit=True)
    weights = load_file(small / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.SCB"]
    save_file(weights, small / "model.safetensors", {"format": "pt"})
    with pytest.raises((UserError, RuntimeError)):
        tiny.open_model(small)


class Packed(nn.Module):
    """A linear layer as most libraries pack it: no parameters, all of it buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.in_features, self.out_features = 16, 8
        self.register_buffer("qweight", torch.zeros(2, 8, dtype=torch.int32))
        self.register_buffer("bias", torch.zeros(8))


def test_counting() -> None:
    """Packed weights count as what they stand for, shared ones once, in bytes as they lie."""
    shared = nn.Linear(16, 8)
    model = nn.Sequential(Packed(), shared, shared, nn.LayerNorm(8))
    assert parameters(model) == (16 * 8 + 8) + (16 * 8 + 8) + 16
    assert in_memory(model) == (2 * 8 + 8) * 4 + (16 * 8 + 8) * 4 + 16 * 4
    small = nn.Linear(16, 8, bias=False)
    small.weight = nn.Parameter(torch.zeros(64, 1, dtype=torch.uint8), requires_grad=False)
    assert parameters(small) == 16 * 8
    assert in_memory(small) == 64


def test_wrapped_tensors() -> None:
    """A tensor that says it is of float32 has the bytes that it is made of."""
    pytest.importorskip("torchao")
    quantization = importlib.import_module("torchao.quantization")
    layer = nn.Linear(64, 32, bias=False)
    quantization.quantize_(layer, quantization.Int8WeightOnlyConfig())
    assert parameters(layer) == 64 * 32
    assert 64 * 32 <= in_memory(layer) < 2 * 64 * 32


def test_packed_weights_are_read_to_the_device(tmp_path: Path) -> None:
    whole = find(str(tiny.save("Llama", tmp_path / "whole")))
    assert placing(whole, None, "cuda:1") == {}
    small = find(str(written("fp8", tmp_path / "fp8", in_fp8)[1]))
    assert placing(small, None, "cuda:1") == {"device_map": {"": "cuda:1"}}
    assert placing(small, "auto", "cuda:1") == {"device_map": "auto"}
