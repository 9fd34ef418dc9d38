"""Checkpoints that are not what they seem, and the line that each is answered with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import tiny
import torch
import transformers
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer

from lrd_harness.errors import UserError
from lrd_harness.models.find import find

TEXTS = ["a cat", "the dog ran to the park", "x y z"]


def check(name: Path | str) -> None:
    """What a run does with a model before it is opened."""
    checkpoint = find(str(name))
    tiny.adapter_of(checkpoint).check(checkpoint)


def fault(name: Path | str) -> str:
    """The one line that a model is answered with."""
    with pytest.raises(UserError) as error:
        check(name)
    line = str(error.value)
    assert "\n" not in line
    assert len(line.replace(str(name), "")) < 230
    return line


def change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def with_head(plain: Path, kind: Any, folder: Path) -> Path:
    """A checkpoint with a random head."""
    kind.from_config(transformers.AutoConfig.from_pretrained(plain, num_labels=1)).save_pretrained(
        folder
    )
    tiny.tokenizer().save_pretrained(folder)
    return folder


def packed(folder: Path, *modules: Any, plain: Path) -> Path:
    whole = [Transformer(str(plain)), *modules]
    SentenceTransformer(modules=whole, device="cpu").save(str(folder))
    return folder


def pickled(module: Path) -> None:
    """The weights of a module as versions before 3 saved them."""
    torch.save(load_file(module / "model.safetensors"), module / "pytorch_model.bin")
    (module / "model.safetensors").unlink()


def at_the_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder as the repository org/it, its small files alone to be had."""
    files = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    hub_says(monkeypatch, Info(*files))

    def download(_: str, name: str, **__: Any) -> str:
        assert name.endswith(".json"), f"{name} was downloaded"
        return str(folder / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)


class Info:
    """What the hub says of a model."""

    sha = "0123abc"

    def __init__(self, *files: str) -> None:
        self.siblings = [type("File", (), {"rfilename": file})() for file in files]


def hub_says(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    def model_info(self: Any, *_: Any, **__: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
