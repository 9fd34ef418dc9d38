"""Checkpoints whose weights are packed in fewer bits: GPTQ, AWQ, bitsandbytes and others.

transformers opens them, by the library of the method. What a packed weight hides is told here.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any

from lrd_harness.contracts import Checkpoint
from lrd_harness.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn

# method -> what pip installs for it, and the module that this brings
PACKAGES = {
    "aqlm": {"aqlm[gpu,cpu]": "aqlm"},
    "auto-round": {"auto-round": "auto_round"},
    "awq": {"gptqmodel": "gptqmodel"},
    "bitsandbytes": {"bitsandbytes": "bitsandbytes"},
    "compressed-tensors": {"compressed-tensors": "compressed_tensors"},
    "gptq": {"optimum": "optimum", "gptqmodel": "gptqmodel"},
    "hqq": {"hqq": "hqq"},
    "quanto": {"optimum-quanto": "optimum.quanto"},
    "spqr": {"spqr_quant[gpu]": "spqr_quant"},
    "torchao": {"torchao": "torchao"},
    "vptq": {"vptq": "vptq"},
}


def method(checkpoint: Checkpoint) -> str:
    """How the weights are quantised, as config.json calls it, "" where they are not."""
    settings = checkpoint.config.get("quantization_config")
    if settings is None:
        return ""
    stated = settings.get("quant_method") if isinstance(settings, dict) else settings
    flags = isinstance(settings, dict) and {"load_in_4bit", "load_in_8bit"} & {*settings}
    return str(stated or ("bitsandbytes" if flags else "unknown"))[:40]


def check(checkpoint: Checkpoint) -> None:
    """Raise UserError for weights quantised in a way that cannot be undone here.

    transformers skips one that it does not know, and reads packed numbers as weights.
    """
    kind = method(checkpoint)
    if not kind:
        return
    said = f"{checkpoint.name}: its weights are quantised ({kind})"
    if lacking := [name for name, module in PACKAGES.get(kind, {}).items() if not _there(module)]:
        names = " ".join(f'"{name}"' if "[" in name else name for name in lacking)
        raise UserError(f"{said}, which needs {' and '.join(lacking)}: pip install {names}")
    from transformers.quantizers.auto import AutoHfQuantizer

    _quieten(kind)
    settings = checkpoint.config["quantization_config"]
    try:
        AutoHfQuantizer.from_config(settings, pre_quantized=True).validate_environment(
            device_map=None, dtype=None, weights_only=True
        )
    except Exception as error:  # a package or a device that lacks, a method not known
        reason = " ".join((str(error) or type(error).__name__).split()).split(". ")[0][:120]
        raise UserError(f"{said} and cannot be read here: {reason}") from error


def _there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it
        return False


def placing(checkpoint: Checkpoint, device_map: Any, device: Any) -> dict[str, Any]:
    """What a loader of packed weights is told of devices: they are not moved once they are read."""
    if not method(checkpoint):
        return {}
    _quieten(method(checkpoint))
    return {"device_map": device_map or {"": device}}


def _quieten(kind: str) -> None:
    """Keep the libraries' own lines out of a command's answer; what is wrong is an error here."""
    # which says with every product that it computes in half precision
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if "gptqmodel" in PACKAGES.get(kind, ()) and _there("gptqmodel"):
        with redirect_stdout(sys.stderr):
            logger = importlib.import_module("gptqmodel.utils.logger").setup_logger()
            logger.setLevel(logging.ERROR)


def writable(model: Any) -> Any:
    """The model, which transformers can write again: packed weights as they are."""
    if getattr(model, "hf_quantizer", None):
        vars(model).pop("_weight_conversions", None)  # of which some have no way back
    return model


@contextmanager
def token_by_token(module: nn.Module) -> Iterator[None]:
    """Have each token computed by itself within the block.

    bitsandbytes in 8 bits looks for outliers in all tokens of a batch, and so mixes them.
    """
    states: list[Any] = [getattr(part, "state", None) for part in module.modules()]
    thresholds = [(state, state.threshold) for state in states if hasattr(state, "threshold")]
    try:
        for state, _ in thresholds:
            state.threshold = 0.0
        yield
    finally:
        for state, threshold in thresholds:
            state.threshold = threshold


def parameters(module: nn.Module) -> int:
    """How many parameters a model has: of a packed weight, those that it stands for."""
    counted: dict[int, int] = {}
    for part in module.modules():
        rows, columns = getattr(part, "out_features", None), getattr(part, "in_features", None)
        own: list[Any] = list(part.parameters(recurse=False))
        if type(rows) is int and type(columns) is int and _packed(part, rows * columns):
            counted[id(part)] = rows * columns
            own = [getattr(part, "bias", None)]  # some hold it as a buffer
        counted |= {id(p): p.numel() for p in own if p is not None}
    return sum(counted.values())


def _packed(layer: nn.Module, size: int) -> bool:
    """Whether a linear layer of so many weights holds them in another form."""
    weight: Any = getattr(layer, "weight", None)
    whole = getattr(weight, "numel", int)() == size and weight.dtype.is_floating_point
    return not (whole and weight.dtype.itemsize > 1)


def in_memory(module: nn.Module) -> int:
    """Bytes of a model's parameters and buffers, with the scales that packed ones carry."""
    tensors = (*module.parameters(), *module.buffers())
    return sum(t.nbytes for tensor in tensors for t in _stored(tensor))


def _stored(tensor: Tensor) -> Iterator[Tensor]:
    """What a tensor is made of: itself, the parts of a wrapper, and its state of quantisation."""
    from torch.utils._python_dispatch import is_traceable_wrapper_subclass

    if is_traceable_wrapper_subclass(tensor):  # torchao
        for name in tensor.__tensor_flatten__()[0]:
            yield from _stored(getattr(tensor, name))
        return
    yield tensor
    state = getattr(tensor, "quant_state", None)  # bitsandbytes, whose scales may be packed again
    while state is not None:
        yield from (state.absmax, state.code)
        state = getattr(state, "state2", None)
    if (scales := getattr(tensor, "SCB", None)) is not None:
        yield scales
