"""Which weights were loaded, seen where transformers loads them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from transformers import PreTrainedModel


@contextmanager
def loaded() -> Iterator[list[str]]:
    """Within it, the classes of models of which weights were loaded, one after the other."""
    kinds: list[str] = []
    load = PreTrainedModel._load_pretrained_model

    def note(model: Any, *rest: Any, **more: Any) -> Any:
        kinds.append(type(model).__name__)
        return load(model, *rest, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PreTrainedModel, "_load_pretrained_model", staticmethod(note))
        yield kinds
