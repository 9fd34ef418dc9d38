"""A model's frame: what was found when it was opened, enough to use its states without its weights.

It is kept beside the states, by all that the opening depends on. How long a text may be, which side
is padded and how images are pooled is tried on the weights: so identity and all are what they were.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from inspect import unwrap
from pathlib import Path
from typing import Any
from unittest.mock import patch

from lrd_harness import __version__, guard
from lrd_harness.contracts import Adapter, Checkpoint, ModelOptions
from lrd_harness.models import quantised
from lrd_harness.models.find import weight_files
from lrd_harness.store.documents import memo
from lrd_harness.store.location import cache_dir

FRAMES = "frames"
LIBRARIES = ("mteb", "sentence-transformers", "tokenizers", "transformers")
PLACING = ("device", "device_map", "weights")  # options that change no state


def file_of(checkpoint: Checkpoint, adapter: Adapter, options: ModelOptions) -> Path:
    """Where the frame of a model lies, read by this adapter with these options."""
    read = {name: value for name, value in asdict(options).items() if name not in PLACING}
    whose = [checkpoint.name, checkpoint.revision, checkpoint.content]
    versions = [__version__, *map(importlib.metadata.version, LIBRARIES)]
    return memo(cache_dir() / FRAMES, whose, adapter.name, adapter.version, read, versions)


def suits(checkpoint: Checkpoint, adapter: Adapter) -> bool:
    """Whether a shipped adapter can do without weights: none packed or merged, and no own code."""
    shipped = _module(unguarded(adapter)).startswith("lrd_harness.plugins.")
    return shipped and not (checkpoint.code or checkpoint.peft or quantised.method(checkpoint))


def unguarded(adapter: Adapter) -> Any:
    """What opens an adapter's models, without our guard; what else is around it stays."""
    return unwrap(adapter.open, stop=lambda function: _module(function) != guard.__name__)


def _module(function: Any) -> str:
    """Where a function is written, whatever it says of itself to pass for another."""
    return str(getattr(function, "__globals__", {}).get("__name__", ""))


@contextmanager
def hollow() -> Iterator[None]:
    """Within it transformers makes models of their configurations alone, and reads no weights."""
    import torch
    from transformers import PreTrainedModel

    def made(kind: Any, path: Any, /, *_: Any, config: Any = None, **how: Any) -> Any:
        if config is None:
            config = kind.config_class.from_pretrained(path)
            config.update({name: how[name] for name in how if name in vars(config)})
        with torch.device("meta"):
            model = kind._from_config(config, dtype=how.get("dtype", config.dtype))
        for part in model.modules():  # it stays where it is, whatever it is a part of
            part._apply = partial(_as_it_is, part)
        lacking = dict.fromkeys(("missing_keys", "mismatched_keys"), ())
        return (model, lacking) if how.get("output_loading_info") else model

    with patch.object(PreTrainedModel, "from_pretrained", classmethod(made)):
        yield


def read_part(part: Any, name: str, checkpoint: Checkpoint, options: ModelOptions) -> None:
    """Have the weights of one part of a hollow model, by the name that it has in the files."""
    import torch
    from safetensors import safe_open

    values: dict[str, Any] = {}
    for path in weight_files(checkpoint):
        with safe_open(path, framework="pt", device=options.device) as weights:
            names = [key for key in weights.keys() if key.startswith(f"{name}.")]  # noqa: SIM118
            values |= {key.removeprefix(f"{name}."): weights.get_tensor(key) for key in names}
    dtype = getattr(torch, options.dtype)
    part.load_state_dict({key: value.to(dtype) for key, value in values.items()}, assign=True)


def _as_it_is(part: Any, *_: Any, **__: Any) -> Any:
    return part
