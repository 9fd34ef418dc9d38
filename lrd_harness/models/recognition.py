"""What a folder or hub repository is where no model can be read from it, told by its files.

Every function raises UserError with what was found and how to go on, before anything is loaded.

Sizes that a config.json states, against the weights beside it: an absurd one ends in a line.

transformers builds as many blocks as the configuration says before it looks at the weights, and
tables as long as it says without looking at any; 10^9 of them would be built for ever. The headers
of the weights tell how many there can be. Only what is far beyond them is refused here: small
differences are told of by transformers, or are right, as of blocks that share their weights.

What modules.json says of a sentence-transformers model, and which of them can be read.

A model that can be read is a transformer, a pooling, and modules that work on the pooled vector.
Everything else is refused by its name: taken for that, it would be scored as another model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, NoReturn

from lrd_harness import errors
from lrd_harness.errors import UserError

COUNT = re.compile(r"(num|n)_(\w+_)?(layers?|blocks)|(num_)?(encoder|decoder)_layers|depth")
PARTS = re.compile(r"(num|n)_(\w+_)?(experts|groups|heads)")  # of a block, which may have none
SIZE = re.compile(
    r"(\w+_)?vocab_size|(\w+_)?hidden_size|\w*intermediate_size|d_model|d_ff|d_kv|"
    r"n_embd|n_inner|dim|hidden_dim|(\w+_)?ffn_dim|embedding_size|head_dim"
)
POSITIONS = re.compile(r"(\w+_)?max_position_embeddings|n_positions|n_ctx|max_seq_len|seq_length")
KINDS = (COUNT, PARTS, SIZE, POSITIONS)
FEW, SMALL = 64, 10**6  # counts and sizes that are not looked at further
MOST_SIZE, MOST_POSITIONS, MOST_PARTS = 10**8, 5 * 10**7, 2**16


class Weights(NamedTuple):
    """What the headers say: the longest list of modules, and the longest side of a tensor."""

    modules: int
    side: int


def check_sizes(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise UserError where config.json states sizes far beyond the weights in the folder.

    Only headers are read, and only where something is large. A folder without weights is held to
    the bounds alone.
    """
    found: Weights | None = None
    for key, value in _numbers(config):
        where = f"{folder / 'config.json'}: {key} is {errors.shown(value)}"
        if POSITIONS.fullmatch(key) or PARTS.fullmatch(key):
            most = MOST_POSITIONS if POSITIONS.fullmatch(key) else MOST_PARTS
            if not value <= most:
                raise UserError(f"{where}: at most {most:,} is possible")
            continue
        count = COUNT.fullmatch(key) is not None
        if value <= (FEW if count else SMALL):
            continue
        most = errors.BLOCKS if count else MOST_SIZE
        if not value <= most:  # NaN, too
            raise UserError(f"{where}: at most {most:,} is possible")
        found = found or _weights(sorted(folder.glob("*.safetensors")))
        if count and found.modules and value > 4 * found.modules + FEW:
            raise UserError(f"{where}, but the weights beside it have {found.modules} blocks")
        if not count and found.side and value > 16 * found.side:
            raise UserError(f"{where}, but no weight beside it has more than {found.side:,} rows")


def _numbers(config: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers under a name that says a count or a size, those of nested configurations too."""
    left: list[Mapping[str, Any]] = [config]
    while left:
        for key, value in left.pop().items():
            if isinstance(value, dict):
                left.append(value)
            elif _is_number(value) and any(k.fullmatch(key) for k in KINDS):
                yield key, value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _weights(files: Sequence[Path]) -> Weights:
    from safetensors import safe_open

    modules, side = 0, 0
    for path in files:
        with safe_open(path, framework="numpy") as weights:
            for name in weights.keys():  # noqa: SIM118 - it is no mapping
                numbers = [part for part in name.split(".") if re.fullmatch("[0-9]{1,9}", part)]
                modules = max([modules, *(int(number) + 1 for number in numbers)])
                side = max([side, *weights.get_slice(name).get_shape()])
    return Weights(modules, side)


LIST = "modules.json"
SETTINGS = "config_sentence_transformers.json"
OWN = "sentence_transformers."
ROUTERS = ("Router", "Asym")
_BEHIND = ("Dense", "Normalize", "LayerNorm", "Dropout", *ROUTERS)
_WEIGHTED = ("Dense", "LayerNorm")
_FIRST = {
    "StaticEmbedding": "a static embedding: a vector a token, and no layers to read",
    "SparseStaticEmbedding": "a static embedding: a weight a token, and no layers to read",
    "WordEmbeddings": "word vectors, without layers to read",
    "BoW": "a bag of words, without layers to read",
    "CLIPModel": "a pair of towers for images and texts, which is not read",
    "Router": "a Router: it sends queries and documents through different models, and each is one",
}
_FIRST["Asym"] = _FIRST["Router"]
_KINDS = {
    "SparseEncoder": "weighs the words of its vocabulary and makes no dense embedding",
    "CrossEncoder": "scores pairs of texts and makes no embedding of one",
    "MultiVectorEncoder": "makes a vector of each token and none of the text",
}
_KINDS["ColBERT"] = _KINDS["MultiVectorEncoder"]
_KIND_OF = {  # modules that only one kind has
    "MLMTransformer": "SparseEncoder",
    "SpladePooling": "SparseEncoder",
    "SparseAutoEncoder": "SparseEncoder",
    "LogitScore": "CrossEncoder",
    "MultiVectorMask": "MultiVectorEncoder",
    "TokenPooling": "MultiVectorEncoder",
}
LENGTH = "prompt_length"  # what a Dense layer makes where modules spell the mean without a sink
_SIDED = ("query_length", "document_length", "query_expansion")

Read = Callable[[str], Any]  # the JSON of a file of the checkpoint, by its path in it


@dataclass(frozen=True)
class Module:
    """An entry of modules.json. type: the dotted name of its class; path: its folder."""

    type: str
    path: str

    @property
    def name(self) -> str:
        """The name of its class alone."""
        return self.type.rpartition(".")[2]


def modules_of(listed: Any, where: str) -> list[Module]:
    """The modules that modules.json lists. Raises UserError for a list that is none."""
    if not isinstance(listed, list) or not listed:
        raise UserError(f"{where}: not a list of modules")
    modules = []
    for number, entry in enumerate(listed, 1):
        said = entry if isinstance(entry, dict) else {}
        if not isinstance(said.get("type"), str) or not isinstance(said.get("path"), str):
            raise UserError(f"{where}: its module {number} has no type or no path")
        path = PurePosixPath(said["path"].strip("/"))
        if ".." in path.parts or len(said["path"].encode()) > 255:
            raise UserError(f"{where}: its module {number} has a path that is none of its folders")
        modules.append(Module(said["type"], "" if path == PurePosixPath() else str(path)))
    return modules


def refuse_first(where: str, modules: Sequence[Module]) -> None:
    """Refuse a model that does not begin with a transformer."""
    first = modules[0]
    if first.type.startswith(OWN) and not first.name.endswith("Transformer"):
        what = _FIRST.get(first.name, f"{first.type[:80]}, which is not read")
        kinds = ", ".join(module.name for module in modules)
        raise UserError(f"{where}: its first module is no transformer ({kinds}) but {what}")


def refuse_kind(where: str, settings: Mapping[str, Any]) -> None:
    """Refuse a model that says in its settings that it embeds no texts."""
    kind = settings.get("model_type") or "SentenceTransformer"
    if kind != "SentenceTransformer":
        _refuse_kind(where, str(kind))


def refuse_unread(where: str, modules: Sequence[Module], files: frozenset[str], read: Read) -> None:
    """Refuse modules that cannot be read, or not as they are meant, and weights that are pickled.

    read: the JSON of one of the files. Nothing but JSON is read.
    """
    if SETTINGS in files:
        refuse_kind(where, read(SETTINGS))
    for module in modules:
        _refuse_foreign(where, module.type, LIST)
        if module.name in _KIND_OF:
            _refuse_kind(where, _KIND_OF[module.name])
    refuse_first(where, modules)
    kinds = ", ".join(module.name for module in modules)
    if len(modules) < 2 or modules[1].name != "Pooling":
        what = "no layers to read" if len(modules) < 2 else f"its {modules[1].name} is not read"
        raise UserError(f"{where}: no pooling after the transformer ({kinds}): {what}")
    _refuse_transformer(where, modules[0], files, read)
    spelled = [m.name for m in modules[1:4]] == ["Pooling", "Dense", "Pooling"]
    if spelled and read(within(modules[2].path, "config.json")).get("module_output_name") != LENGTH:
        spelled = False
    for module in [modules[2], *modules[4:]] if spelled else modules[2:]:
        _refuse_behind(where, module, files, read)


def _refuse_kind(where: str, kind: str) -> None:
    what = f" of sentence-transformers, which {_KINDS[kind]}" if kind in _KINDS else ""
    raise UserError(
        f"{where} is a {kind[:60]}{what}; encoder:NAME reads the layers of the transformer in it"
    )


def _refuse_foreign(where: str, name: str, file: str, trusted: str = OWN) -> None:
    """Refuse a class of another library than the trusted one, named in a file."""
    if not name.startswith(trusted):
        raise UserError(
            f"{where} names code of its own in {file} ({name[:60]}), "
            "which is not run (trust_remote_code)"
        )


def _refuse_transformer(where: str, module: Module, files: frozenset[str], read: Read) -> None:
    """Refuse a transformer that reads queries and documents, or its last state, in another way."""
    name = within(module.path, "sentence_bert_config.json")
    said = read(name) if name in files else {}
    for key in _SIDED:
        if said.get(key) is not None:
            raise UserError(
                f"{where} reads queries and documents in different ways ({key} in {name}), "
                "which is not done here"
            )
    task = said.get("transformer_task") or "feature-extraction"
    if task != "feature-extraction":
        raise UserError(f"{where} pools no hidden states but what its head makes ({task})")


def _refuse_behind(where: str, module: Module, files: frozenset[str], read: Read) -> None:
    """Refuse what cannot come behind the pooling, within a router as well."""
    if module.name not in _BEHIND:
        raise UserError(f"{where}: its module {module.name} behind the pooling is not read")
    if module.name in _WEIGHTED and within(module.path, WEIGHTS) not in files:
        pickled = within(module.path, "pytorch_model.bin") in files
        found = "as pytorch_model.bin alone, which can run code" if pickled else "nowhere"
        raise UserError(
            f"{where}: its module {module.path} has its weights {found}; only safetensors are read "
            "(save the model anew with sentence-transformers)"
        )
    if module.name == "Dense":
        name = within(module.path, "config.json")
        said = read(name)
        if said.get("module_input_name") == "token_embeddings":
            raise UserError(f"{where}: its module {module.path} works on tokens, which is not read")
        # sentence-transformers would take its default in place of a function that it does not trust
        _refuse_foreign(where, str(said.get("activation_function", "torch.")), name, "torch.")
    if module.name in ROUTERS:
        for part in _routed(where, module, files, read):
            _refuse_behind(where, part, files, read)


def _routed(where: str, module: Module, files: frozenset[str], read: Read) -> list[Module]:
    """The modules that a router sends vectors through."""
    own = within(module.path, "router_config.json")
    name = own if own in files else within(module.path, "config.json")
    types = read(name).get("types")
    if not isinstance(types, dict):
        raise UserError(f"{where}: {name} lists no modules")
    listed = [{"type": kind, "path": within(module.path, path)} for path, kind in types.items()]
    parts = modules_of(listed, f"{where}: {name}")
    for part in parts:
        _refuse_foreign(where, part.type, name)
    return parts


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
