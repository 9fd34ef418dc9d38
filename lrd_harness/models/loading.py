"""How transformers loads a checkpoint or a GGUF file, and which weights are not there."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from lrd_harness.contracts import Checkpoint, ModelOptions
from lrd_harness.errors import UserError, first_line
from lrd_harness.models.peft_adapters import (
    TOKENIZERS,
    base_of,
    found_base,
    is_adapter,
    merge,
    provider,
)
from lrd_harness.models.quantised import placing
from lrd_harness.models.recognition import LIST
from lrd_harness.store import files, manifest

# Kinds of byte-level tokenizer (`tokenizer.ggml.pre`) that split numbers into digits before
# anything else. transformers leaves that step out, and so cuts "a  2" in other places.
_DIGITS_APART = {"codeshell", "command-r", "exaone", "refact", "smollm", "starcoder"}

_PROBE = "In 2024,  3 of the 7 samples weren't read: a naïve test!"


def origin(checkpoint: Checkpoint) -> dict[str, Any]:
    """What the libraries' loaders are told of where a checkpoint lies, and of its own code."""
    return {
        "revision": base_of(checkpoint).revision if checkpoint.hub else None,
        "local_files_only": not checkpoint.hub,
        "trust_remote_code": bool(checkpoint.code),
    }


def computing(checkpoint: Checkpoint, options: ModelOptions) -> dict[str, Any]:
    """What transformers' loaders are told of precision, attention and devices."""
    chosen = {"attn_implementation": options.attention, "device_map": options.device_map}
    told = {"dtype": options.dtype} | {k: v for k, v in chosen.items() if v is not None}
    return told | placing(checkpoint, options.device_map, options.device)


def load(kind: Any, checkpoint: Checkpoint, **arguments: Any) -> tuple[Any, Any, list[str]]:
    """A model of a class, its tokenizer, and the weights that are missing, but for poolers'.

    Adapters of weights that the checkpoint has are merged into the model.
    """
    tokenizer = load_tokenizer(checkpoint)
    model, missing = load_model(kind, checkpoint, **arguments)
    return model, tokenizer, missing


def load_model(kind: Any, checkpoint: Checkpoint, **arguments: Any) -> tuple[Any, list[str]]:
    """The same without a tokenizer."""
    model, loading = kind.from_pretrained(
        checkpoint.path,
        use_safetensors=True,
        output_loading_info=True,
        **arguments,
        **origin(checkpoint),
    )
    complete(model, checkpoint)
    return model, _missing(model, loading)


def complete(model: Any, checkpoint: Checkpoint) -> None:
    """Add what transformers does not load of a checkpoint, in place."""
    if checkpoint.code:
        fill_buffers(model)
    merge(model, checkpoint)


def load_tokenizer(checkpoint: Checkpoint, **arguments: Any) -> Any:
    """The tokenizer of the last adapter that brings one, else that of the base."""
    from transformers import AutoTokenizer

    holder = provider(checkpoint, *TOKENIZERS)
    return AutoTokenizer.from_pretrained(holder.path, **origin(holder), **arguments)


def load_modules(checkpoint: Checkpoint, **arguments: Any) -> Any:
    """A SentenceTransformer, in evaluation mode; adapters of weights as in `load`."""
    from sentence_transformers import SentenceTransformer

    holder, base = provider(checkpoint, LIST), base_of(checkpoint)
    with found_base(base, origin(base)) if is_adapter(holder) else nullcontext():
        model: Any = SentenceTransformer(holder.path, **arguments, **origin(holder))
    if provider(checkpoint, *TOKENIZERS) != holder:
        length = model.max_seq_length
        model[0].processor = load_tokenizer(checkpoint, **arguments["processor_kwargs"])
        model.max_seq_length = length
    if (inner := getattr(model[0], "auto_model", None)) is not None:
        complete(inner, checkpoint)
    return model.eval()


def fill_buffers(model: Any) -> None:
    """Compute the buffers of a model of its own code that are not among its weights, in place.

    transformers makes a model without values, and fills in the weights. What the code computes when
    a model is made (rotary frequencies, positions) it leaves as it was in memory, whatever that is,
    unless the code is written for transformers 5. Raises UserError where it cannot be computed.
    """
    import torch
    from accelerate import init_empty_weights

    kept = model.state_dict().keys()
    buffers = {n: b for n, b in model.named_buffers() if n not in kept and b.device.type != "meta"}
    if not buffers:
        return
    kind, usual = type(model), torch.get_default_dtype()
    try:
        torch.set_default_dtype(model.dtype)
        with init_empty_weights(include_buffers=False), torch.no_grad():
            made = dict(kind(model.config).named_buffers())
    except Exception as error:  # whatever its code raises
        raise UserError(
            f"{kind.__name__}: what its code computes beside the weights ({min(buffers)}) "
            f"cannot be made anew: {first_line(error)}"
        ) from error
    finally:
        torch.set_default_dtype(usual)
    for name, buffer in buffers.items():
        if name in made and made[name].shape == buffer.shape:
            place, _, last = name.rpartition(".")
            setattr(model.get_submodule(place), last, made[name].to(buffer.device))


def _missing(model: Any, loading: Mapping[str, Any]) -> list[str]:
    """The weights that the checkpoint has not got; poolers without are left out of the model."""
    from lrd_harness.models.readout import leave_out

    missing = absent(loading)
    leave_out(model, missing)
    return sorted(key for key in missing if "pooler" not in key)


def absent(loading: Mapping[str, Any]) -> set[str]:
    """The weights that transformers did not find in the checkpoint, or not in their shape."""
    return {*loading["missing_keys"], *(key for key, *_ in loading["mismatched_keys"])}


def refuse_missing(name: str, missing: Collection[str]) -> None:
    """Raise UserError for weights that are not there, so that they would be random."""
    if missing:
        tensors = "tensors, as" if len(missing) > 1 else "tensor,"
        raise UserError(f"{name}: its weights lack {len(missing)} {tensors} {min(missing)}")


def whole_model(kind: Any, checkpoint: Checkpoint, options: ModelOptions, **more: Any) -> Any:
    """A model of a class of transformers, as the options say, with all weights but poolers'.

    more: what its loader is told besides. Raises UserError where weights are not there.
    """
    model, missing = load_model(kind, checkpoint, **computing(checkpoint, options), **more)
    refuse_missing(checkpoint.name, missing)
    return model


def listed_classes(checkpoint: Checkpoint) -> list[Any]:
    """transformers' classes that config.json names."""
    import transformers

    kinds: Any = (getattr(transformers, name, None) for name in checkpoint.architectures)
    models = (
        k for k in kinds if isinstance(k, type) and issubclass(k, transformers.PreTrainedModel)
    )
    return [k for k in models if k.config_class]


def check_whole(checkpoint: Checkpoint, module: Any, subfolder: str = "") -> None:
    """Raise UserError if a model that was loaded from this checkpoint was not filled by it.

    For loaders that do not say: the names are compared on the meta device, no weight is read but
    those that are packed, which know no such device.
    """
    packed = placing(checkpoint, None, module.device)
    config = module.config
    if checkpoint.peft:  # which may have brought an embedding with more rows
        config = type(config).from_pretrained(
            checkpoint.path, subfolder=subfolder, **origin(checkpoint)
        )
    config = None if packed else config
    _, loading = on_meta(checkpoint, type(module), subfolder, config=config, **packed)
    refuse_missing(checkpoint.name, _missing(module, loading))


def on_meta(
    checkpoint: Checkpoint, kind: Any, subfolder: str = "", **more: Any
) -> tuple[Any, Mapping[str, Any]]:
    """A model of a class without its weights, and what transformers says of loading them."""
    model, loading = kind.from_pretrained(
        checkpoint.path,
        subfolder=subfolder,
        use_safetensors=True,
        output_loading_info=True,
        **{"device_map": "meta", **more},
        **origin(checkpoint),
    )
    return model, loading


def convert(file: Path, to: Path) -> Path:
    """Make `to` a folder with config, tokenizer and float32 weights of this GGUF file.

    Returns `to`, at once if it is there already as it was made; it appears whole or not at all.
    Raises UserError, also if the saved model does not give the logits of the one that was read.
    """
    files.remove_leftovers(to.parent, older=files.AGE)
    if to.is_dir() and not manifest.changed(to):
        return to
    if importlib.util.find_spec("gguf") is None:
        raise UserError(f'{file.name} needs the gguf package: pip install "lrd-harness[demo]"')
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        with files.folder(to.parent) as work:
            folder = work / "model"
            with quiet():
                _convert(file, folder)
            files.usual_modes(folder)
            manifest.write(folder, manifest.read(to) or manifest.measured(to))
            manifest.put(folder, to, work / "before")
    except UserError:
        raise
    except Exception as error:  # whatever a damaged or foreign file raises in the libraries
        raise UserError(
            f"{file.name} cannot be read as a GGUF model: {first_line(error)}"
        ) from error
    return to


def _convert(file: Path, to: Path) -> None:
    """Read the GGUF file, write the folder, and compare what that gives."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"gguf_file": file.name, "local_files_only": True, "trust_remote_code": False}
    tokenizer = AutoTokenizer.from_pretrained(file.parent, **source)
    model: Any = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **source)
    # Else the saved folder would call itself quantised and ask for the GGUF file again.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    _split_digits(tokenizer, file)
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

    source = {"local_files_only": True, "trust_remote_code": False}
    again: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **source)
    read = AutoTokenizer.from_pretrained(folder, **source)(_PROBE)["input_ids"]
    if read != tokenizer(_PROBE)["input_ids"]:
        raise UserError(f"{name}: the converted tokenizer differs from the one that was read")
    with torch.inference_mode():
        first, second = (m.eval()(input_ids=torch.tensor([read])).logits for m in (model, again))
    if not torch.allclose(first, second, rtol=1e-5, atol=1e-4):
        raise UserError(f"{name}: the converted model differs from the one that was read")


def _split_digits(tokenizer: Any, file: Path) -> None:
    """Give a plain byte-level tokenizer the step that splits digits, if the file's kind has it."""
    from gguf import GGUFReader
    from tokenizers import pre_tokenizers

    kind = GGUFReader(file).fields.get("tokenizer.ggml.pre")
    apart = kind is not None and kind.contents() in _DIGITS_APART
    backend = tokenizer.backend_tokenizer
    if apart and isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel):
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, backend.pre_tokenizer])


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' own bars and reports of weights; what is wrong is an error here."""
    reading: Any = importlib.import_module("transformers.modeling_gguf_pytorch_utils")
    logging: Any = importlib.import_module("transformers.utils.logging")
    level, bars, bar = logging.get_verbosity(), logging.is_progress_bar_enabled(), reading.tqdm
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    reading.tqdm = functools.partial(bar, disable=True)  # this one heeds no setting
    try:
        yield
    finally:
        reading.tqdm = bar
        logging.set_verbosity(level)
        with warnings.catch_warnings(action="ignore"):  # of a user who wants no bars from the hub
            if bars:
                logging.enable_progress_bar()
