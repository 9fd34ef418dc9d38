"""What a folder or hub repository is, told by its files before anything is loaded.

Every `refuse_...` raises UserError with what was found and how to go on where no model can be read:
else it would be scored as another model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, NoReturn

from lrd_harness import errors
from lrd_harness.contracts import Checkpoint
from lrd_harness.errors import UserError
from lrd_harness.models import quantised
from lrd_harness.models.modality import PROCESSORS, TOKENIZER, has_tokenizer, reads_images

COUNT = re.compile(r"(num|n)_(\w+_)?(layers?|blocks)|(num_)?(encoder|decoder)_layers|depth")
PARTS = re.compile(r"(num|n)_(\w+_)?(experts|groups|heads)")  # of a block, which may have none
SIZE = re.compile(
    r"(\w+_)?vocab_size|(\w+_)?hidden_size|\w*intermediate_size|d_model|d_ff|d_kv|"
    r"n_embd|n_inner|dim|hidden_dim|(\w+_)?ffn_dim|embedding_size|head_dim"
)
POSITIONS = re.compile(r"(\w+_)?max_position_embeddings|n_positions|n_ctx|max_seq_len|seq_length")
BOUNDS = ((POSITIONS, 5 * 10**7), (PARTS, 2**16), (COUNT, errors.BLOCKS), (SIZE, 10**8))
FEW, SMALL = 64, 10**6  # counts and sizes that are not looked at further


def check_sizes(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise UserError where config.json states sizes far beyond the weights in the folder.

    transformers builds as many blocks as it says before it looks at the weights, and 10^9 of them
    would be built for ever. Small differences are told of by transformers, or are right, as of
    blocks that share their weights. A folder without weights is held to the bounds alone.
    """
    weights: tuple[int, int] | None = None
    for key, value in _numbers(config):
        where = f"{folder / 'config.json'}: {key} is {errors.shown(value)}"
        count = COUNT.fullmatch(key) is not None
        of_headers = count or SIZE.fullmatch(key)
        if of_headers and value <= (FEW if count else SMALL):
            continue
        most = next(most for kind, most in BOUNDS if kind.fullmatch(key))
        if not value <= most:  # NaN, too
            raise UserError(f"{where}: at most {most:,} is possible")
        if of_headers:
            blocks, side = weights = weights or _measures(folder)
            if count and blocks and value > 4 * blocks + FEW:
                raise UserError(f"{where}, but the weights beside it have {blocks} blocks")
            if not count and side and value > 16 * side:
                raise UserError(f"{where}, but no weight beside it has more than {side:,} rows")


def _numbers(config: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers under a name that says a count or a size, those of nested configurations too."""
    left = [config]
    while left:
        for key, value in left.pop().items():
            if isinstance(value, dict):
                left.append(value)
            elif type(value) in (int, float) and any(kind.fullmatch(key) for kind, _ in BOUNDS):
                yield key, value


def _measures(folder: Path) -> tuple[int, int]:
    """Of the weights, by their headers: the longest list of modules, the longest side."""
    from safetensors import safe_open

    modules, side = 0, 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as weights:
            for name in weights.keys():  # noqa: SIM118 - it is no mapping
                numbers = [part for part in name.split(".") if re.fullmatch("[0-9]{1,9}", part)]
                modules = max([modules, *(int(number) + 1 for number in numbers)])
                side = max([side, *weights.get_slice(name).get_shape()])
    return modules, side


LIST = "modules.json"
SETTINGS = "config_sentence_transformers.json"
LIBRARY = "sentence_transformers."
ROUTERS = ("Router", "Asym")
_BEHIND = ("Dense", "Normalize", "LayerNorm", "Dropout", *ROUTERS)
_FIRST = {
    "StaticEmbedding": "a static embedding: one vector per token, and no layers to read",
    "SparseStaticEmbedding": "a static embedding: one weight per token, and no layers to read",
    "WordEmbeddings": "word vectors, without layers to read",
    "BoW": "a bag of words, without layers to read",
    "CLIPModel": "a pair of towers for images and texts: {path}, given instead, is read for images",
    **dict.fromkeys(
        ROUTERS, "a Router: it sends queries and documents through different models, each its own"
    ),
}
_KINDS = {
    "SparseEncoder": "weighs the words of its vocabulary and makes no dense embedding",
    "CrossEncoder": "scores pairs of texts and makes no embedding of one",
    "MultiVectorEncoder": "makes a vector of each token and none of the text",
    "ColBERT": "makes a vector of each token and none of the text",
}
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


class Module(NamedTuple):
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
        match entry:
            case {"type": str(kind), "path": str(place)}:
                path = PurePosixPath(place.strip("/"))
            case _:
                raise UserError(f"{where}: its module {number} has no type or no path")
        if ".." in path.parts or len(place.encode()) > 255:
            raise UserError(f"{where}: its module {number} has a path that is none of its folders")
        modules.append(Module(kind, "/".join(path.parts)))
    return modules


def module_paths(listed: Any, file: str, where: str) -> list[str]:
    """The folders of modules.json, the transformer's first: "" or, in old models, 0_Transformer."""
    modules = modules_of(listed, file)
    _refuse_first(where, modules)
    paths = [module.path for module in modules]
    return paths if modules[0].name.endswith("Transformer") else ["", *paths]


def _refuse_first(where: str, modules: Sequence[Module]) -> None:
    """Refuse a model that does not begin with a transformer."""
    first = modules[0]
    if first.type.startswith(LIBRARY) and not first.name.endswith("Transformer"):
        what = _FIRST.get(first.name, f"{first.type[:80]}, which is not read")
        what = what.replace("{path}", f"its folder {first.path}".rstrip())
        kinds = ", ".join(module.name for module in modules)
        raise UserError(f"{where}: its first module is no transformer ({kinds}) but {what}")


def refuse_kind(where: str, settings: Mapping[str, Any]) -> None:
    """Refuse a model that says in its settings that it embeds no texts."""
    kind = str(settings.get("model_type") or "SentenceTransformer")
    if kind != "SentenceTransformer":
        what = f" of sentence-transformers, which {_KINDS[kind]}" if kind in _KINDS else ""
        raise UserError(
            f"{where} is a {kind[:60]}{what}; encoder:NAME reads the layers of the transformer in "
            "it"
        )


def refuse_unread(source: Source, modules: Sequence[Module], own_code: bool = False) -> None:
    """Refuse modules that cannot be read, or not as they are meant, and weights that are pickled.

    A transformer, a pooling, and modules that work on the pooled vector can be read; whether those
    of the model's own code do so shows when it is opened.
    """
    if SETTINGS in source.files:
        refuse_kind(source.where, source.read(SETTINGS))
    own = {module for module in modules if own_code and not module.type.startswith(LIBRARY)}
    for module in modules:
        if module not in own:
            _refuse_foreign(source.where, module.type, LIST)
        refuse_kind(source.where, {"model_type": _KIND_OF.get(module.name)})
    _refuse_first(source.where, modules)
    kinds = ", ".join(module.name for module in modules)
    if len(modules) < 2 or (modules[1].name != "Pooling" and modules[1] not in own):
        what = "no layers to read" if len(modules) < 2 else f"its {modules[1].name} is not read"
        raise UserError(f"{source.where}: no pooling after the transformer ({kinds}): {what}")
    _refuse_transformer(source, modules[0])
    spelled = [m.name for m in modules[1:4]] == ["Pooling", "Dense", "Pooling"] and (
        source.read(within(modules[2].path, "config.json")).get("module_output_name") == LENGTH
    )
    for module in [modules[2], *modules[4:]] if spelled else modules[2:]:
        if module not in own:
            _refuse_behind(source, module)


def _refuse_foreign(where: str, name: str, file: str, trusted: str = LIBRARY) -> None:
    """Refuse a class of another library than the trusted one, named in a file."""
    if not name.startswith(trusted):
        raise UserError(
            f"{where} names code of its own in {file} ({name[:60]}), "
            "which is not run (trust_remote_code)"
        )


def _refuse_transformer(source: Source, module: Module) -> None:
    """Refuse a transformer that reads queries and documents, or its last state, in another way."""
    name = within(module.path, "sentence_bert_config.json")
    settings = source.read(name) if name in source.files else {}
    for key in _SIDED:
        if settings.get(key) is not None:
            raise UserError(
                f"{source.where} reads queries and documents in different ways ({key} in {name}), "
                "which is not done here"
            )
    task = settings.get("transformer_task") or "feature-extraction"
    if task != "feature-extraction":
        raise UserError(f"{source.where} pools no hidden states but what its head makes ({task})")


def _refuse_behind(source: Source, module: Module) -> None:
    """Refuse what cannot come behind the pooling, _within a router as well."""
    where = source.where
    if module.name not in _BEHIND:
        raise UserError(f"{where}: its module {module.name} behind the pooling is not read")
    if module.name in ("Dense", "LayerNorm") and within(module.path, WEIGHTS) not in source.files:
        pickled = within(module.path, "pytorch_model.bin") in source.files
        place = "as pytorch_model.bin alone, which can run code" if pickled else "nowhere"
        raise UserError(
            f"{where}: its module {module.path} has its weights {place}; only safetensors are read "
            "(save the model anew with sentence-transformers)"
        )
    if module.name == "Dense":
        name = within(module.path, "config.json")
        settings = source.read(name)
        if settings.get("module_input_name") == "token_embeddings":
            raise UserError(f"{where}: its module {module.path} works on tokens, which is not read")
        # sentence-transformers would take its default in place of a function that it does not trust
        _refuse_foreign(where, str(settings.get("activation_function", "torch.")), name, "torch.")
    if module.name in ROUTERS:
        name = within(module.path, "router_config.json")
        if name not in source.files:
            name = within(module.path, "config.json")
        types = source.read(name).get("types")
        if not isinstance(types, dict):
            raise UserError(f"{where}: {name} lists no modules")
        parts = [{"type": kind, "path": within(module.path, path)} for path, kind in types.items()]
        for part in modules_of(parts, f"{where}: {name}"):
            _refuse_foreign(where, part.type, name)
            _refuse_behind(source, part)


WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
ADAPTER = "adapter_config.json"
# a class of LLM2Vec's own, for which transformers' class of the family does as well
_KIN = "(llama|mistral|gemma2?|qwen[23])"
LLM2VEC = re.compile(
    rf"(.*[./-])?(modeling_{_KIN}_encoder\.{_KIN}EncoderModel|"
    rf"bidirectional_{_KIN}\.{_KIN}Bi(Model|ForMNTP))",
    re.IGNORECASE,
)
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
    """A folder or a hub repository.

    where: as messages name it; read: the JSON of a file in it; fetch: the file on this machine.
    """

    where: str
    files: frozenset[str]
    read: Callable[[str], Mapping[str, Any]]
    fetch: Callable[[str], Path] = Path

    def below(self, inner: str) -> frozenset[str]:
        """The names of the files in a folder of it, "" for itself, without those further down."""
        start = f"{inner}/" if inner else ""
        names = (f.removeprefix(start) for f in self.files if f.startswith(start))
        return frozenset(name for name in names if "/" not in name)


def refuse_other_kinds(source: Source) -> None:
    """Refuse a pipeline of models."""
    if "model_index.json" in source.files:
        raise UserError(
            f"{source.where} is a pipeline of diffusers (model_index.json), not a language model"
        )


def refuse_missing_config(source: Source, kind: str) -> NoReturn:
    """Refuse a folder that has no config.json; kind: how the line begins."""
    names = source.below("")
    gguf = sorted(name for name in names if name.endswith(".gguf"))
    if any(SPLIT.fullmatch(name) for name in gguf):
        what = f"{gguf[0]} is a part of a split file, to be joined first (llama-gguf-split --merge)"
    elif len(gguf) == 1:  # of a hub repository
        what = f"{_short(gguf[0])} is read from a folder of this machine"
    elif gguf:
        what = f"of its {len(gguf)} .gguf files leave the one that is meant in a folder of its own"
    elif "params.json" in names:
        what = "it is in its makers' own form (params.json), to be converted to transformers'"
    elif weights := _form(source.files):
        what = f"it has {weights[0]}"
    elif any(TOKENIZER.fullmatch(name) for name in names):
        what = "it has a tokenizer alone"
    else:
        raise UserError(kind)
    raise UserError(f"{kind}; {what}")


def examined(source: Source, first: str, without: str) -> tuple[str, dict[str, Any]]:
    """The folder of the transformer, and its configuration. Raises UserError for what is not read.

    first: where modules.json has the transformer; without: what is said where no config.json is.
    """
    refuse_other_kinds(source)
    places = (path for path in (first, "") if within(path, "config.json") in source.files)
    inner = next(places, None)
    if inner is None:
        refuse_missing_config(source, without)
    _refuse_weights(source, inner)
    return inner, dict(source.read(within(inner, "config.json")))


def foreign(checkpoint: Checkpoint) -> str:
    """Why transformers cannot read a checkpoint, which is left to others' adapters; "" if it can.

    Its type of model is not known, or what makes tokens of texts, or pixels of images, lacks.
    """
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    where, config, files = checkpoint.path, checkpoint.config, checkpoint.files
    kind, own = config.get("model_type"), config.get("auto_map")
    coded = isinstance(own, Mapping) and "AutoConfig" in own
    if isinstance(kind, str) and kind not in CONFIG_MAPPING and not coded:
        return f"{where}: transformers {transformers.__version__} knows no model of type '{kind}'"
    if reads_images(config, files):
        lacks = files.isdisjoint(PROCESSORS)
        why = "says how an image is brought to the size and the colours that the model was made for"
        return f"{where} has no {PROCESSORS[0]}, which {why}" if lacks else ""
    if has_tokenizer(files):
        return ""
    of = f"; it is made for images or sound ({PROCESSORS[0]})" if PROCESSORS[0] in files else ""
    return f"{where} has no tokenizer (tokenizer.json, vocab.txt or the like){of}"


def check_readable(checkpoint: Checkpoint) -> None:
    """Raise UserError for what transformers cannot read; see `foreign` and quantised.check."""
    if reason := foreign(checkpoint):
        raise UserError(reason)
    quantised.check(checkpoint)


def _refuse_weights(source: Source, inner: str) -> None:
    """Refuse weights that transformers would not take from safetensors."""
    here = source.below(inner)
    names = {WEIGHTS, INDEX}
    if any(name.endswith(".safetensors") for name in here):  # config.json may name another one
        config = source.read(within(inner, "config.json"))
        names.add(str(config.get("transformers_weights")))
    if not here & names:
        other = _form(here) or _form(source.files)
        what = f"; it has {other[0]}: {other[1]}" if other else ""
        raise UserError(
            f"{source.where} has no weights as safetensors, the only kind that is read{what}"
        )


def within(folder: str, name: str) -> str:
    """The path of a file in a folder, "" for the root."""
    return f"{folder}/{name}" if folder else name


def _form(files: Iterable[str]) -> tuple[str, str] | None:
    """A file of weights and what it is; how to go on. None without any."""
    for pattern, (form, advice) in _FORMS.items():
        first = min((f for f in files if re.fullmatch(pattern, f.rpartition("/")[2])), default="")
        if first:
            return f"{_short(first)} ({form})", advice
    return None


def _short(value: Any) -> str:
    """A name out of a file, fit for one line."""
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
