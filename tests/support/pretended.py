"""A GPU that there is not: its tensors compute on the CPU, and mix with no others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

GPU = torch.device("cuda:0")
# what torch itself takes of a CPU's tensors: indices, and values to be written
MIXED = ("aten::index", "aten::index_put", "aten::index_put_", "aten::copy_")


class OnGPU(Tensor):
    """A tensor of the GPU; `values`: its numbers, on the CPU."""

    values: Tensor
    device = GPU  # type: ignore[assignment]
    is_cuda = True  # type: ignore[assignment]

    @staticmethod
    def of(values: Tensor) -> OnGPU:
        """The same numbers on the GPU."""
        made: Any = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            OnGPU, values.shape, strides=values.stride(), dtype=values.dtype
        )
        made.values = values
        return made  # type: ignore[no-any-return]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = tree_flatten((args, kwargs))[0]
        mixed = any(type(v) is Tensor and v.dim() for v in given)
        if mixed and func.name().split(".")[0] not in MIXED:
            raise RuntimeError(f"{func}: Expected all tensors to be on the same device")
        to_cpu = func.name().startswith("aten::copy_") and type(args[0]) is Tensor
        result = func(*_plain(args), **_plain(kwargs or {}))
        return result if to_cpu else _on_gpu(result)

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        """As a tensor's, which would think that it is on the CPU."""
        places = [v for v in (*args, kwargs.pop("device", None)) if _device(v)]
        rest = [v for v in args if not _device(v)]
        kwargs.pop("non_blocking", None)
        values = self.values.to(*_plain(rest), **kwargs) if rest or kwargs else self.values
        here = all(_device(place) == GPU for place in places)
        return OnGPU.of(values) if here else values

    def cpu(self, *_: Any) -> Tensor:  # type: ignore[override]
        """Its numbers on the CPU."""
        return self.values

    def numpy(self, *_: Any, **__: Any) -> Any:
        """Refused, as of a real one."""
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def item(self) -> Any:
        """A single number."""
        return self.values.item()

    def tolist(self) -> Any:
        """Its numbers as a list."""
        return self.values.tolist()

    def __bool__(self) -> bool:
        return bool(self.values)

    def __int__(self) -> int:
        return int(self.values)

    def __float__(self) -> float:
        return float(self.values)

    def __index__(self) -> int:
        return int(self.values)

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"OnGPU({self.values!r})"


class PretendedGPU(TorchFunctionMode):  # type: ignore[no-untyped-call]
    """Within it, tensors can be made on `cuda:0` and brought there."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        places = [i for i, v in enumerate(args) if i and _device(v)]
        asked = next((_device(v) for v in (kwargs.get("device"), *args[1:]) if _device(v)), None)
        if asked != GPU:
            return func(*args, **kwargs)
        # the same without a device, for which torch would look for a driver
        kwargs.pop("device", None)
        args = [v for i, v in enumerate(args) if i not in places]
        moved = getattr(func, "__name__", "") == "to" and not (args[1:] or kwargs)
        return _on_gpu(args[0] if moved else func(*args, **kwargs))


@contextmanager
def a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Within it, models that are opened for `cuda:0` are there."""
    move = nn.Module.to

    def to(module: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        if not any(_device(v) == GPU for v in args):
            return move(module, *args, **kwargs)
        for part in module.modules():
            for name, weight in part.named_parameters(recurse=False):
                there = nn.Parameter(OnGPU.of(weight.data), requires_grad=False)
                part._parameters[name] = there
            for name, buffer in part.named_buffers(recurse=False):
                part._buffers[name] = _on_gpu(buffer)
        return module

    def no_grad(mode: bool = True) -> Any:
        return torch.no_grad() if mode else nullcontext()

    class Stream:
        """Which is done with everything."""

        def record_event(self) -> Any:
            """Itself."""
            return self

        def synchronize(self) -> None:
            """Nothing is waited for."""

    with monkeypatch.context() as patch, PretendedGPU():
        patch.setattr(nn.Module, "to", to)
        patch.setattr(torch, "inference_mode", no_grad)  # which torch allows no such tensors
        patch.setattr(torch.cuda, "device", lambda device: nullcontext())
        patch.setattr(torch.cuda, "current_stream", lambda device: Stream())
        patch.setattr(torch.cuda, "synchronize", lambda device: None)
        memory = SimpleNamespace(name="pretended", total_memory=2**30)
        patch.setattr(torch.cuda, "get_device_properties", lambda device: memory)
        yield


def _plain(values: Any) -> Any:
    return tree_map(lambda v: v.values if isinstance(v, OnGPU) else v, values)


def _on_gpu(values: Any) -> Any:
    return tree_map(lambda v: OnGPU.of(v) if type(v) is Tensor else v, values)


def _device(value: Any) -> torch.device | None:
    """A device where it names one, of GPUs the only one that there is."""
    if not isinstance(value, (str, torch.device)) or str(value) not in ("cpu", "cuda", "cuda:0"):
        return None
    return GPU if str(value).startswith("cuda") else torch.device("cpu")
