"""What a folder or hub repository is where no model can be read from it, told by its files.

Every function raises UserError with what was found and how to go on, before anything is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from lrd_harness.errors import UserError

TOKENIZER = re.compile(
    r"tokenizer.*|special_tokens_map\.json|vocab.*|merges.*|bpe\..*|.*\.(model|spm|vocab|tiktoken)"
)
WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
ADAPTER = "adapter_config.json"
_AUTO = ("AutoModel", "AutoConfig", "AutoTokenizer")
_PROCESSORS = ("processor_config.json", "preprocessor_config.json")
_PROMPTS = re.compile("PROMPT|P_TUNING|PREFIX|CPT")  # adapters that put tokens before the text
SPLIT = re.compile(r".*-\d{5}-of-\d{5}\.gguf")
_ANEW = "save the model anew with transformers (save_pretrained)"
_OLD = "transformers 4 can convert it"
_ORIGINAL = "give the model that it was made from"
_FORMS = {  # names of files -> what they are, and how to go on
    r"pytorch_model.*\.bin|.*\.(pt|pth|ckpt)": ("a pickle, which can run code", _ANEW),
    r"tf_model.*\.h5": ("weights of TensorFlow", _OLD),
    r"flax_model.*\.msgpack": ("weights of Flax", _OLD),
    r".*\.onnx": ("ONNX", _ORIGINAL),
    r".*openvino.*\.(xml|bin)": ("OpenVINO", _ORIGINAL),
    r".*\.gguf": ("GGUF", "move it to a folder without config.json"),
    r".*\.safetensors": (f"neither {WEIGHTS} nor with an index", _ANEW),
}


@dataclass(frozen=True)
class Source:
    """A folder or a hub repository. where: as messages name it; read: the JSON of a file in it."""

    where: str
    files: frozenset[str]
    read: Callable[[str], Mapping[str, Any]]

    def below(self, inner: str) -> frozenset[str]:
        """The names of the files in a folder of it, "" for itself, without those further down."""
        start = f"{inner}/" if inner else ""
        names = (f.removeprefix(start) for f in self.files if f.startswith(start))
        return frozenset(name for name in names if "/" not in name)


def refuse_other_kinds(source: Source, inner: str) -> None:
    """Refuse a pipeline of models, and an adapter that changes a model which lies elsewhere."""
    if "model_index.json" in source.files:
        raise UserError(
            f"{source.where} is a pipeline of diffusers (model_index.json), not a language model"
        )
    for name in dict.fromkeys([within(inner, ADAPTER), ADAPTER]):
        if name in source.files:
            said = source.read(name)
            kind = _short(said.get("peft_type") or "of an unknown kind")
            base = said.get("base_model_name_or_path")
            advice = ": load it with peft, merge_and_unload() it, save_pretrained() the result and "
            advice += "give that folder"
            raise UserError(
                f"{source.where} holds a PEFT adapter ({kind})"
                f"{f' for {_short(base)}' if base else ''}, not a whole model"
                f"{' and none that can be merged into one' if _PROMPTS.search(kind) else advice}"
            )


def refuse_missing_config(source: Source, kind: str) -> NoReturn:
    """Refuse a folder that has no config.json; kind: how the line begins."""
    names = source.below("")
    gguf = sorted(name for name in names if name.endswith(".gguf"))
    if any(SPLIT.fullmatch(name) for name in gguf):
        found = (
            f"{gguf[0]} is a part of a split file, to be joined first (llama-gguf-split --merge)"
        )
    elif len(gguf) == 1:  # of a hub repository
        found = f"{_short(gguf[0])} is read from a folder of this machine"
    elif gguf:
        found = f"of its {len(gguf)} .gguf files leave the one that is meant in a folder of its own"
    elif "params.json" in names:
        found = "it is in its makers' own form (params.json), to be converted to transformers'"
    elif weights := _form(source.files):
        found = f"it has {weights[0]}"
    elif any(TOKENIZER.fullmatch(name) for name in names):
        found = "it has a tokenizer alone"
    else:
        raise UserError(kind)
    raise UserError(f"{kind}; {found}")


def refuse_weights(source: Source, inner: str) -> None:
    """Refuse weights that transformers would not take from safetensors, and a lost tokenizer."""
    here = source.below(inner)
    if not here & {WEIGHTS, INDEX} and not _renamed(source, inner, here):
        other = _form(here) or _form(source.files)
        found = f"; it has {other[0]}: {other[1]}" if other else ""
        raise UserError(
            f"{source.where} has no weights as safetensors, the only kind that is read{found}"
        )
    if not any(TOKENIZER.fullmatch(f.rpartition("/")[2]) for f in source.files):
        senses = "preprocessor_config.json" in here
        raise UserError(
            f"{source.where} has no tokenizer (tokenizer.json, vocab.txt or the like)"
            + ("; it is made for images or sound (preprocessor_config.json)" if senses else "")
        )


def refuse_own_code(source: Source, inner: str, config: Mapping[str, Any]) -> None:
    """Refuse a checkpoint whose configuration or tokenizer is made by code that comes with it.

    transformers would read the class of its own that is nearest, which may differ in a mask or an
    end token: nothing tells.
    """
    used: tuple[str, ...] = _AUTO
    named = ["tokenizer_config.json"]
    if "modules.json" in source.files:  # sentence-transformers makes a whole processor
        used, named = (*_AUTO, "AutoProcessor"), [*named, *_PROCESSORS]
    said = {within(inner, "config.json"): config}
    for name in dict.fromkeys(within(where, file) for file in named for where in (inner, "")):
        if name in source.files:
            said[name] = source.read(name)
    for file, content in said.items():
        # transformers itself fails on null
        if "auto_map" in content and not isinstance(content["auto_map"], Mapping | list):
            raise UserError(f"{source.where}: the auto_map of {file} is no table of classes")
        code = _own_class(content.get("auto_map"), used)
        if code:
            raise UserError(
                f"{source.where} names code of its own in the auto_map of {file} ({_short(code)}), "
                "which is not run (trust_remote_code); if transformers' own class will do, take "
                "auto_map out of a copy"
            )


def within(folder: str, name: str) -> str:
    """The path of a file in a folder, "" for the root."""
    return f"{folder}/{name}" if folder else name


def _renamed(source: Source, inner: str, here: frozenset[str]) -> bool:
    """Whether config.json names safetensors of another name that are there."""
    if not any(name.endswith(".safetensors") for name in here):
        return False
    return str(source.read(within(inner, "config.json")).get("transformers_weights")) in here


def _own_class(auto_map: Any, used: tuple[str, ...]) -> str:
    """The class that an auto_map names for what is used here; "" without any."""
    if isinstance(auto_map, list):  # of old tokenizers: slow class, fast class
        auto_map = {"AutoTokenizer": auto_map}
    for auto in sorted(auto_map or (), reverse=True):  # the tokenizer and the model first
        if auto.startswith(used):
            named = auto_map[auto]
            classes = named if isinstance(named, list) else [named]
            return next((str(c) for c in classes if c), auto)
    return ""


def _form(files: Iterable[str]) -> tuple[str, str] | None:
    """A file of weights and what it is; how to go on. None without any."""
    for pattern, (form, advice) in _FORMS.items():
        found = sorted(f for f in files if re.fullmatch(pattern, f.rpartition("/")[2]))
        if found:
            return f"{_short(found[0])} ({form})", advice
    return None


def _short(value: Any) -> str:
    """A name out of a file, fit for one line."""
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
