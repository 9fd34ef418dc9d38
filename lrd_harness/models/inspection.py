"""What a checkpoint's files hold and an opened model shows, for those who decide whether to run it.

Of files of weights only the headers are read.
"""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
from collections import Counter
from collections.abc import Iterable
from math import prod
from pathlib import Path

from torch import nn

from lrd_harness.contracts import Checkpoint
from lrd_harness.errors import UserError
from lrd_harness.models.cut import parameters
from lrd_harness.models.find import read_json, weight_files
from lrd_harness.models.loading import absent, listed_classes, on_meta
from lrd_harness.models.own_code import running
from lrd_harness.models.recognition import LIST, modules_of

_LOOPS = {"rwkv": "kernels", "xlstm": "xlstm"}  # families that loop over tokens for want of these
_DISTRIBUTIONS = {"fla": "flash-linear-attention"}
_TYPES = {"F": "float", "BF": "bfloat", "I": "int", "U": "uint", "BOOL": "bool"}


def values_in(files: Iterable[Path]) -> Counter[str]:
    """How many values files of weights hold, by their type in torch's words ("float16")."""
    from safetensors import safe_open

    counts: Counter[str] = Counter()
    for path in files:
        with safe_open(path, framework="numpy") as weights:
            for name in weights.keys():  # noqa: SIM118 - it is no mapping
                part = weights.get_slice(name)
                letters, bits = re.split(r"(?=\d)|$", part.get_dtype(), maxsplit=1)
                counts[_TYPES.get(letters, letters) + bits] += prod(part.get_shape())
    return counts


def stored_parameters(checkpoint: Checkpoint, module: nn.Module) -> int:
    """How many parameters a checkpoint holds, heads and further modules too; tied ones once.

    They are those of the class that config.json names, else of the module's.
    """
    if not hasattr(module, "from_pretrained"):  # a plugin's own
        return values_in(weight_files(checkpoint)).total()
    family = checkpoint.config.get("model_type")
    listed = (k for k in listed_classes(checkpoint) if k.config_class.model_type == family)
    folder, others = "", set[str]()
    if LIST in checkpoint.files:  # in old models the transformer has a folder of its own
        first, *rest = modules_of(read_json(checkpoint, LIST, list), LIST)
        folder = first.path if f"{first.path}/config.json" in checkpoint.files else ""
        others = {module.path for module in rest} - {folder}
    with running(checkpoint):
        model, loading = on_meta(checkpoint, next(listed, type(module)), folder)
    missing = absent(loading)
    behind = [path for path in weight_files(checkpoint) if path.parent.name in others]
    own: int = sum(p.numel() for name, p in model.named_parameters() if name not in missing)
    return own + values_in(behind).total()


def missing_kernels(module: nn.Module) -> list[str]:
    """The packages for want of which blocks run on the slow path of transformers.

    Its functions that stand in for those of a package know whether they do.
    """
    packages: dict[str, None] = {}
    for kind in dict.fromkeys(type(part) for part in module.modules()):
        around = vars(sys.modules.get(kind.__module__, kind))  # a plugin's file is not among them
        methods = [inspect.unwrap(m) for m in vars(kind).values() if inspect.isfunction(m)]
        for name in dict.fromkeys(name for m in methods for name in m.__code__.co_names):
            if inspect.isfunction(function := around.get(name)):
                made_with = inspect.getclosurevars(function).nonlocals
                if made_with.get("is_new_implementation") is False:
                    packages[str(made_with.get("package"))] = None
    family = getattr(getattr(module, "config", None), "model_type", "")
    if family in _LOOPS and importlib.util.find_spec(_LOOPS[family]) is None:
        packages[_LOOPS[family]] = None
    return [_DISTRIBUTIONS.get(name, name.replace("_", "-")) for name in packages]


def slow_path(module: nn.Module) -> str:
    """What is said of a model whose kernels are missing; "" for any other."""
    packages = " and ".join(missing_kernels(module))
    return f"transformers' slow path, without {packages} (for NVIDIA GPUs)" if packages else ""


def removable(module: nn.Module, blocks: nn.ModuleList) -> tuple[list[int], str]:
    """The blocks that can each be taken out alone, and why the first of the others cannot."""
    allowed, reason = [], ""
    for number in range(1, len(blocks) + 1):
        try:
            parameters(module, blocks, [number])
            allowed.append(number)
        except UserError as error:
            reason = reason or str(error)
    return allowed, reason
