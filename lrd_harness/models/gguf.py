"""A GGUF file as an ordinary checkpoint: read once by transformers, kept as safetensors."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lrd_harness.errors import UserError
from lrd_harness.store import files, manifest
from lrd_harness.store.files import usual_modes

# Kinds of byte-level tokenizer (`tokenizer.ggml.pre`) that split numbers into digits before
# anything else. transformers leaves that step out, and so cuts "a  2" in other places.
_DIGITS_APART = {"codeshell", "command-r", "exaone", "refact", "smollm", "starcoder"}

_PROBE = "In 2024,  3 of the 7 samples weren't read: a naïve test!"


def convert(file: Path, to: Path) -> Path:
    """Make `to` a folder with config, tokenizer and float32 weights of this GGUF file.

    Returns `to`, at once if it is there already as it was made; it appears whole or not at all.

    Raises UserError if the package gguf is missing, if transformers cannot read the file, or if
    the saved model does not give the logits of the one that was read.
    """
    files.sweep(to.parent, older=files.AGE)
    if to.is_dir() and not manifest.changed(to):
        return to
    if importlib.util.find_spec("gguf") is None:
        raise UserError(f'{file.name} needs the gguf package: pip install "lrd-harness[demo]"')
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        with files.folder(to.parent) as work:
            made = work / "model"
            with _no_bars():
                _convert(file, made)
            usual_modes(made)
            manifest.write(made, manifest.read(to) or manifest.measured(to))
            manifest.put(made, to, work / "before")
    except UserError:
        raise
    except Exception as error:  # whatever a damaged or foreign file raises in the libraries
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise UserError(f"{file.name} cannot be read as a GGUF model: {reason[0]}") from error
    return to


def _convert(file: Path, to: Path) -> None:
    """Read the GGUF file, write the folder, and compare what that gives."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"gguf_file": file.name, "local_files_only": True}
    tokenizer = AutoTokenizer.from_pretrained(file.parent, **source)
    model: Any = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **source)
    # Else the saved folder would call itself quantised and ask for the GGUF file again.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    _split_digits(tokenizer, _metadata(file, "tokenizer.ggml.pre"))
    # GGUF states a length for the model only.
    length = getattr(model.config, "max_position_embeddings", tokenizer.model_max_length)
    tokenizer.model_max_length = min(tokenizer.model_max_length, length)
    model.save_pretrained(to)
    tokenizer.save_pretrained(to)
    _compare(file.name, model, tokenizer, to)


def _compare(name: str, model: Any, tokenizer: Any, folder: Path) -> None:
    """Raise UserError if the folder gives other tokens or logits than model and tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    again: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True
    )
    read = AutoTokenizer.from_pretrained(folder, local_files_only=True)(_PROBE)["input_ids"]
    if read != tokenizer(_PROBE)["input_ids"]:
        raise UserError(f"{name}: the converted tokenizer differs from the one that was read")
    with torch.inference_mode():
        first, second = (m.eval()(input_ids=torch.tensor([read])).logits for m in (model, again))
    if not torch.allclose(first, second, rtol=1e-5, atol=1e-4):
        raise UserError(f"{name}: the converted model differs from the one that was read")


def _metadata(file: Path, name: str) -> Any:
    """A field of the file's header, None if it is not there."""
    from gguf import GGUFReader

    field = GGUFReader(file).fields.get(name)
    return None if field is None else field.contents()


def _split_digits(tokenizer: Any, kind: str) -> None:
    """Give a plain byte-level tokenizer of such a kind the step that splits digits."""
    from tokenizers import pre_tokenizers

    backend = tokenizer.backend_tokenizer
    if kind in _DIGITS_APART and isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel):
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, backend.pre_tokenizer])


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    """Without transformers' own progress bars, which would cut through ours."""
    reading: Any = importlib.import_module("transformers.modeling_gguf_pytorch_utils")
    logging: Any = importlib.import_module("transformers.utils.logging")
    shown, bar = logging.is_progress_bar_enabled(), reading.tqdm
    logging.disable_progress_bar()
    reading.tqdm = functools.partial(bar, disable=True)  # this one heeds no setting
    try:
        yield
    finally:
        reading.tqdm = bar
        if shown:
            logging.enable_progress_bar()
