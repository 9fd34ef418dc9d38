"""How transformers loads a checkpoint or a GGUF file, and how long a text it then bears."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import warnings
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lrd_harness.contracts import Checkpoint, ModelOptions
from lrd_harness.errors import UserError, described
from lrd_harness.models.backbone import Backbone, Operations, text_config
from lrd_harness.store import files, manifest

# Kinds of byte-level tokenizer (`tokenizer.ggml.pre`) that split numbers into digits before
# anything else. transformers leaves that step out, and so cuts "a  2" in other places.
_DIGITS_APART = {"codeshell", "command-r", "exaone", "refact", "smollm", "starcoder"}

_PROBE = "In 2024,  3 of the 7 samples weren't read: a naïve test!"


def origin(checkpoint: Checkpoint) -> dict[str, Any]:
    """What the libraries' loaders are told of where a checkpoint lies; its own code is not run."""
    return {
        "revision": checkpoint.revision if checkpoint.hub else None,
        "local_files_only": not checkpoint.hub,
        "trust_remote_code": False,
    }


def computing(options: ModelOptions) -> dict[str, Any]:
    """What transformers' loaders are told of precision, attention and devices."""
    chosen = {"attn_implementation": options.attention, "device_map": options.device_map}
    return {"dtype": options.dtype} | {k: v for k, v in chosen.items() if v is not None}


def load(
    kind: Any, path: str, where: Mapping[str, Any], **arguments: Any
) -> tuple[Any, Any, list[str]]:
    """A model of a class, its tokenizer, and the weights that are missing, but for poolers'."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path, **where)
    model, loading = kind.from_pretrained(
        path, use_safetensors=True, output_loading_info=True, **arguments, **where
    )
    return model, tokenizer, _missing(model, loading)


def _missing(model: Any, loading: Mapping[str, Any]) -> list[str]:
    """The weights that the checkpoint has not got; poolers without are left out of the model."""
    from lrd_harness.models.readout import leave_out

    missing = {*loading["missing_keys"], *(key for key, *_ in loading["mismatched_keys"])}
    leave_out(model, missing)
    return sorted(key for key in missing if "pooler" not in key)


def refuse_missing(name: str, missing: Collection[str]) -> None:
    """Raise UserError for weights that are not there, so that they would be random."""
    if missing:
        raise UserError(f"{name}: its weights lack {len(missing)} tensors, as {min(missing)}")


def check_whole(checkpoint: Checkpoint, module: Any, subfolder: str = "") -> None:
    """Raise UserError if a model that was loaded from this checkpoint was not filled by it.

    For loaders that do not say: the names are compared on the meta device, no weight is read.
    """
    if getattr(module, "hf_quantizer", None):
        return  # weights that are packed under other names
    _, loading = type(module).from_pretrained(
        checkpoint.path,
        config=module.config,
        subfolder=subfolder,
        use_safetensors=True,
        output_loading_info=True,
        device_map="meta",
        **origin(checkpoint),
    )
    refuse_missing(checkpoint.name, _missing(module, loading))


def convert(file: Path, to: Path) -> Path:
    """Make `to` a folder with config, tokenizer and float32 weights of this GGUF file.

    Returns `to`, at once if it is there already as it was made; it appears whole or not at all.
    Raises UserError, also if the saved model does not give the logits of the one that was read.
    """
    files.sweep(to.parent, older=files.AGE)
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
        reason = described(error, 150)
        raise UserError(f"{file.name} cannot be read as a GGUF model: {reason}") from error
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


# What a trial may cost on a CPU: operations of a pass, and bytes of one block's attention scores.
OPERATIONS = 2e11
SCORES = 2**30
# Of the passes whose lookups are noted: few, so that small tables bear them; of two lengths, since
# what grows with the text (the tokens of an expert) is no table.
TOKENS = (7, 5)

_ATEN = torch.ops.aten


def length_limit(backbone: Backbone, probe: Mapping[str, Tensor], most: int) -> int:
    """How many tokens a text may have, up to `most`, at least 1: as many as the blocks bear.

    probe: features of a short text, (1, T), as the backbone takes them.
    A trial whose cost is out of proportion goes through the first block alone, or stops at a
    shorter text; beyond that the tables that were seen to be looked up are believed.

    Raises UserError where not a single token is borne.
    """
    tables = position_tables(backbone, probe)
    listed = min([most, *tables])
    # an index outside a table is an error on the CPU, and the end of the process on a GPU
    start = most if probe["input_ids"].device.type == "cpu" else listed
    tried = _affordable(backbone, probe, start)
    if _bears(backbone, probe, tried):
        return start if tried == start else max(tried, listed)
    below, above = 0, tried
    # numbers of a configuration may be limits, and are tried like any other
    settings = getattr(text_config(backbone.module), "__dict__", {})
    declared = [value for value in settings.values() if type(value) is int and value > 0]
    for length in sorted({n for n in (*tables, *declared) if n < tried}, reverse=True):
        if _bears(backbone, probe, length):
            below = length
            if not _bears(backbone, probe, length + 1):
                return length
            break
        above = length
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (middle, above) if _bears(backbone, probe, middle) else (below, middle)
    if not below:
        name = type(backbone.module).__name__
        raise UserError(f"{name} cannot be run on texts of any length up to {tried} tokens")
    return below


def _bears(backbone: Backbone, probe: Mapping[str, Tensor], length: int) -> bool:
    """Whether a text of so many tokens goes through, or would but for the memory."""
    whole = _operations(backbone, length) * backbone.calls <= _budget(probe)
    return backbone.bears(stretched(probe, length), None if whole else 1)


def _affordable(backbone: Backbone, probe: Mapping[str, Tensor], length: int) -> int:
    """The length, or the longest half, quarter ... of it that one block can be tried on."""
    config: Any = getattr(backbone.module, "config", None)
    eager = getattr(config, "_attn_implementation", "eager") in (None, "eager")
    heads = getattr(text_config(backbone.module), "num_attention_heads", 1) if eager else 1
    heads = heads if isinstance(heads, int) and heads > 0 else 1
    while length > 1 and (
        _operations(backbone, length) > _budget(probe) or 4 * heads * length**2 > SCORES
    ):
        length //= 2
    return length


def _budget(probe: Mapping[str, Tensor]) -> float:
    return OPERATIONS if probe["input_ids"].device.type == "cpu" else 25 * OPERATIONS


def _operations(backbone: Backbone, length: int) -> float:
    """Roughly those of one block."""
    weights = list(backbone.blocks[0].parameters())
    width = max((p.shape[-1] for p in weights), default=1)
    return 2.0 * length * sum(p.numel() for p in weights) + 4.0 * length**2 * width


def _rows_behind(operation: Any, args: Any, tokens: int) -> int | None:
    """How many rows a table has from the first of the T that an operation looks up there.

    None where it looks up none, or not rows n, n + 1, ... along one axis, the same in all others.
    """
    if operation is _ATEN.embedding.default:
        axis, rows = 0, args[1]
    elif operation in (_ATEN.index_select.default, _ATEN.gather.default):
        axis, rows = args[1:3]
    elif operation is _ATEN.index.Tensor and sum(index is not None for index in args[1]) == 1:
        axis, rows = next((i, index) for i, index in enumerate(args[1]) if index is not None)
    else:
        return None
    if rows.dtype.is_floating_point or rows.dtype == torch.bool:
        return None
    for tokens_at in [d for d, size in enumerate(rows.shape) if size == tokens]:
        run = rows.movedim(tokens_at, -1).reshape(-1, tokens)
        first = int(run[0, 0])
        expected = torch.arange(first, first + tokens, device=rows.device)
        if first >= 0 and bool((run == expected).all()):
            return int(args[0].shape[axis]) - first
    return None


def position_tables(backbone: Backbone, probe: Mapping[str, Tensor]) -> list[int]:
    """How many tokens the tables of positions have rows for, as far as a short pass shows them."""
    return sorted(set.intersection(*(_tables(backbone, probe, tokens) for tokens in TOKENS)))


def _tables(backbone: Backbone, probe: Mapping[str, Tensor], tokens: int) -> set[int]:
    """The lengths of the tables that a pass over one token, so many times, looks up in order."""
    lengths: set[int] = set()
    middle = probe["input_ids"].shape[1] // 2
    repeated = stretched(probe, tokens)
    repeated["input_ids"] = probe["input_ids"][:, middle : middle + 1].repeat(1, tokens)

    def note(operation: Any, args: Any) -> None:
        rows = _rows_behind(operation, args, tokens)
        if rows is not None:
            lengths.add(rows)

    with Operations(note):
        backbone.bears(repeated, None)
    return lengths


def stretched(probe: Mapping[str, Tensor], length: int) -> dict[str, Tensor]:
    """The probe (1, T) at another length: cut, or its middle token repeated."""
    size = probe["input_ids"].shape[1]
    rows = list(range(min(size, length)))
    middle = size // 2
    rows[middle:middle] = [middle] * (length - len(rows))
    return {name: values[:, rows] for name, values in probe.items()}
