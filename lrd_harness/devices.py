"""Where a model lies: on one device, or spread over several by accelerate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lrd_harness.contracts import ModelOptions

if TYPE_CHECKING:
    import torch
    from torch import nn


def place(module: nn.Module, options: ModelOptions) -> torch.device:
    """Bring a model to its device, in evaluation mode; the device that its tokens go to.

    One that was spread over several devices when it was loaded stays where it is; accelerate's
    hooks move what goes from one device to the next.
    """
    import torch

    module.eval()
    if options.device_map is None:
        module.to(options.device)
        return torch.device(options.device)
    held = (p.device for p in module.parameters() if p.device.type != "meta")  # meta: offloaded
    return next(held, torch.device(options.device))


def mapping(options: ModelOptions) -> dict[str, Any]:
    """What transformers' loaders are to be told of devices."""
    return {} if options.device_map is None else {"device_map": options.device_map}


def exact() -> None:
    """No TF32: on a GPU it would keep ten bits of a float32's digits in metrics and states."""
    import torch

    torch.set_float32_matmul_precision("highest")
