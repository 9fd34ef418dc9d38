"""What modules.json says of a sentence-transformers model, and which of them can be read.

A model that can be read is a transformer, a pooling, and modules that work on the pooled vector.
Everything else is refused by its name: taken for that, it would be scored as another model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from lrd_harness.errors import UserError
from lrd_harness.recognition import WEIGHTS, within

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
