"""Code that comes with a model: which files it is, whether it may run, and that no other does.

transformers and sentence-transformers run what a model names in an `auto_map`, or as the types in
its modules.json. Here it is refused unless the user names the model; then the checksums of all its
files belong to the model, and only files of these checksums run.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import importlib
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from lrd_harness.contracts import Checkpoint
from lrd_harness.errors import UserError, named, short, there
from lrd_harness.models import hub
from lrd_harness.models.modality import PROCESSORS, reads_images
from lrd_harness.models.peft_adapters import base_of
from lrd_harness.models.recognition import LIBRARY, LIST, LLM2VEC, Source, modules_of, within
from lrd_harness.store.documents import json_value, read_file

Fetch = Callable[[str], Path]  # where a file of a folder or repository lies
OPTION = "--trust-remote-code"
PACKAGE = "transformers_modules"  # in which transformers imports code of models
GENERATE = "custom_generate/generate.py"  # runs where a model is opened, named nowhere
_AUTO: tuple[str, ...] = ("AutoModel", "AutoConfig", "AutoTokenizer")
_CLASS = re.compile(r"(?:([\w.-]+/[\w.-]+)--)?([\w/-]+)\.(\w+)")
# code that became a class of transformers, which reads the model without it
_TAKEN_OVER = re.compile(r"tiiuae/falcon-\w+--(configuration|modeling)_falcon\.Falcon")
_COMMIT = re.compile("[0-9a-f]{40}")
_Table = dict[Any, Any]
_REGISTERED: dict[str, list[_Table]] = {}  # by the code that did it


def code_of(
    checkpoint: Checkpoint, source: Source, inner: str, typed: str, trusted: Collection[str]
) -> dict[str, str]:
    """The code that runs when a model is opened: sha256 by file; {} where none has to.

    A file of another repository is called REPOSITORY@COMMIT/FILE. Nothing is run.

    Parameters
    ----------
    inner : the folder of the transformer, "" for the root.
    typed : the name that stands for this very model, as the user would trust it.
    trusted : what the user trusts: models, and REPOSITORY@COMMIT for code that lies elsewhere.

    Raises UserError for code that is not trusted, that is not there, and that is not pinned.
    """
    classes = _classes(source, inner, checkpoint.config)
    if not classes:
        return {}
    file, first = classes[0]
    if not is_trusted(typed, trusted):
        here = f"{checkpoint.name}--"
        if all(_TAKEN_OVER.match(name if "--" in name else here + name) for _, name in classes):
            return {}
        what = f"{source.where} names code of its own in {file} ({short(first, 60)})"
        _refuse(what, checkpoint, typed, trusted)
    code: dict[str, str] = {}
    for file, name in classes:
        match = _CLASS.fullmatch(name)
        if match is None or ".." in name:
            raise UserError(f"{source.where}: {file} names no class of a file ({short(name, 60)})")
        repository, module, _ = match.groups()
        start, fetch = "", partial(_own, source)
        if repository not in (None, checkpoint.name):
            commit = _pinned(source.where, repository, trusted)
            start = f"{repository}@{commit}/"
            fetch = partial(hub.download, repository, revision=commit)
        _follow(f"{module}.py", start, fetch, code)
    if GENERATE in source.files:
        _follow(GENERATE, "", partial(_own, source), code)
    return code


def refuse_with_adapter(source: Source, inner: str) -> None:
    """Raise UserError for code that comes with an adapter of weights; that of its base may run.

    Without it transformers would take a tokenizer of its own, which may be another one.
    """
    for file, name in _classes(source, inner, {}):
        raise UserError(
            f"{source.where} is an adapter that names code of its own in {file} "
            f"({short(name, 60)}), which is not run: take it out of a copy, if the class of "
            "transformers will do"
        )


def is_trusted(typed: str, trusted: Collection[str]) -> bool:
    """Whether one of the names is this model's: a folder by any path, others as they are typed."""
    folder = Path(typed)
    return typed in trusted or (
        folder.is_absolute()
        and any(there(name) and named(name).resolve() == folder.resolve() for name in trusted)
    )


def _refuse(what: str, checkpoint: Checkpoint, typed: str, trusted: Collection[str]) -> NoReturn:
    of_hub = not checkpoint.name.startswith(("local/", "pypi:"))
    if of_hub and checkpoint.name in {name.partition("@")[0] for name in trusted}:
        raise UserError(
            f"{checkpoint.name}: its code is run at a commit alone, and that is now "
            f"{checkpoint.revision}: {OPTION} {typed}"
        )
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    hint = ""
    if checkpoint.config.get("model_type") in CONFIG_MAPPING and LIST not in what:
        hint = "; if transformers' own class will do, take auto_map out of a copy"
    name = "and this folder" if checkpoint.name.startswith("local/") else typed
    raise UserError(f"{what}, which is not run unless you trust it ({OPTION} {name}){hint}")


def check_named(trusted: Collection[str], models: Mapping[str, Checkpoint]) -> None:
    """Raise UserError for a trusted name that is no model's here, nor of a model's code.

    models: by the names that stand for them, those with adapters as BASE+ADAPTER.
    """
    for name in trusted:
        of_code = any(key.startswith(f"{name}/") for c in models.values() for key in c.code)
        parts = {part for typed in models for part in (typed, *typed.split("+"))}
        if not of_code and not any(is_trusted(part, [name]) for part in parts):
            raise UserError(
                f"{OPTION} {name}: that is none of the models here, which are {', '.join(models)}"
            )


def _pinned(where: str, repository: str, trusted: Collection[str]) -> str:
    """The commit at which the user trusts a repository."""
    for name in trusted:
        base, _, commit = name.partition("@")
        if base == repository and _COMMIT.fullmatch(commit):
            return commit
    raise UserError(
        f"{where} takes its code from {repository}, which is to be named too, with the 40 digits "
        f"of a commit: {OPTION} ... {repository}@COMMIT"
    )


def _classes(source: Source, inner: str, config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Where a class of its own is named, and the class: the tokenizer's and the model's first."""
    used, names = _AUTO, ["tokenizer_config.json"]
    if LIST in source.files:  # sentence-transformers makes a whole processor
        used, names = (*_AUTO, "AutoProcessor"), [*names, *PROCESSORS]
    elif reads_images(config, source.files):
        used, names = (*_AUTO, "AutoImageProcessor"), [*PROCESSORS]
    paths = {within(folder, name) for name in names for folder in (inner, "")} & source.files
    contents = [(within(inner, "config.json"), config)]
    contents += [(path, source.read(path)) for path in sorted(paths)]
    classes = []
    for file, content in contents:
        mapped = content.get("auto_map", {})
        if not isinstance(mapped, Mapping | list):  # transformers itself fails on null
            raise UserError(f"{source.where}: the auto_map of {file} is no table of classes")
        if isinstance(mapped, Mapping):  # by Auto class; in old tokenizers slow class, fast class
            mapped = [mapped[key] for key in sorted(mapped, reverse=True) if key.startswith(used)]
        lists = [names if isinstance(names, list) else [names] for names in mapped]
        foreign = [str(name) for name in chain(*lists) if name]
        where = f"the auto_map of {file}"
        classes += [(where, name) for name in foreign if not LLM2VEC.fullmatch(name)]
    if LIST in source.files:
        listed = modules_of(json_value(read_file(source.fetch(LIST))), f"{source.where}: {LIST}")
        classes += [(LIST, m.type) for m in listed if not m.type.startswith(LIBRARY)]
    return classes


def _own(source: Source, file: str) -> Path:
    if file not in source.files:
        raise UserError(f"{source.where}: its own code asks for {short(file, 60)}, which it lacks")
    return source.fetch(file)


def _follow(file: str, start: str, fetch: Fetch, code: dict[str, str]) -> None:
    """Add a file, and all that it imports by a relative name, to the code."""
    from transformers.dynamic_module_utils import get_relative_imports

    if start + file in code:
        return
    path = fetch(file)
    code[start + file] = _sha256(path)
    for name in sorted(get_relative_imports(path)):
        _follow((PurePosixPath(file).parent / f"{name}.py").as_posix(), start, fetch, code)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digest(code: Mapping[str, str]) -> str:
    """One checksum of all files of a model's code."""
    return hashlib.sha256(json.dumps(sorted(code.items())).encode()).hexdigest()


def auto_classes(checkpoint: Checkpoint) -> list[Any]:
    """transformers' Auto classes for which a model has a class of its own that may run.

    The one that it was saved from comes first.
    """
    import transformers

    mapped, saved = checkpoint.config.get("auto_map"), checkpoint.architectures
    if not checkpoint.code or not isinstance(mapped, Mapping):
        return []
    names = [name for name in mapped if name.startswith("AutoModel")]
    names.sort(key=lambda name: str(mapped[name]).rpartition(".")[2] not in saved)
    return [getattr(transformers, name) for name in names if hasattr(transformers, name)]


@contextmanager
def running(checkpoint: Checkpoint) -> Iterator[None]:
    """While a model is opened or saved: its code may run, and no other, whoever asks for it.

    Files are copied to a folder of this process, and compared with what was found before. What the
    code registers with transformers, as the class of a type of model, is not left to other models.
    Nor do kernels of anybody on the hub, which the files of a model may name as its attention.
    Raises UserError for other files, also for those that have changed; nobody is ever asked.
    """
    dynamic: Any = importlib.import_module("transformers.dynamic_module_utils")
    users = [dynamic, importlib.import_module("transformers.generation.utils")]
    kernels: Any = importlib.import_module("transformers.integrations.hub_kernels")
    copied, patience = dynamic.get_cached_module_file, dynamic.TIME_OUT_REMOTE_CODE
    kernel, tables, mark = kernels.get_kernel, _tables(), digest(checkpoint.code)
    if checkpoint.code:
        _fresh_folder()
    for user in users:
        user.get_cached_module_file = partial(_checked, checkpoint, copied)
    dynamic.TIME_OUT_REMOTE_CODE = 0
    kernels.get_kernel = lambda name, **how: kernel(
        name, **how | dict.fromkeys(how.keys() & {"allow_all_kernels"}, False)
    )
    for table in tables:  # what others ran may have changed since
        _taken(table)
    for table, registered in zip(tables, _REGISTERED.get(mark, ()), strict=False):
        table.update(registered)
    try:
        yield
    finally:
        _REGISTERED[mark] = [_taken(table) for table in tables]
        dynamic.TIME_OUT_REMOTE_CODE, kernels.get_kernel = patience, kernel
        for user in users:
            user.get_cached_module_file = copied


@functools.cache
def _fresh_folder() -> None:
    """From now on this process runs code in a new folder: copies of others may be edited."""
    dynamic: Any = importlib.import_module("transformers.dynamic_module_utils")
    folder = tempfile.mkdtemp(prefix="lrd-harness-code-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    dynamic.HF_MODULES_CACHE = folder
    sys.path.insert(0, folder)
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]


def _checked(
    checkpoint: Checkpoint,
    copied: Callable[..., str],
    place: Any,
    file: str,
    *more: Any,
    **how: Any,
) -> str:
    """As transformers' function that copies code to where it is run, for one model's alone."""
    dynamic: Any = importlib.import_module("transformers.dynamic_module_utils")
    local, base = Path(place).is_dir(), base_of(checkpoint)
    pins = {key.split("@")[0]: key.split("@")[1][:40] for key in checkpoint.code if "@" in key}
    pins |= dict.fromkeys((base.name, base.path), base.revision)
    if not checkpoint.code or not (local or place in pins):
        raise UserError(f"{checkpoint.name}: the code {short(f'{place}/{file}', 90)} is not run")
    if not local:
        how["revision"] = pins[place]
    copy = copied(place, file, *more, **how)
    path = Path(dynamic.HF_MODULES_CACHE) / copy
    for each in [path, *map(Path, dynamic.get_relative_import_files(path))]:
        if _sha256(each) not in checkpoint.code.values():
            raise UserError(
                f"{checkpoint.name}: its code {each.name} is not what it was when the model was "
                "found: begin again"
            )
    return copy


def _tables() -> list[_Table]:
    """The tables in which transformers keeps classes that others register."""
    from transformers.models.auto import (
        configuration_auto,
        image_processing_auto,
        modeling_auto,
        tokenization_auto,
    )

    tables: dict[int, _Table] = {}
    for module in (configuration_auto, image_processing_auto, modeling_auto, tokenization_auto):
        for name, value in vars(module).items():
            of_tokenizers = name.startswith("REGISTERED")
            table = value if of_tokenizers else getattr(value, "_extra_content", None)
            if isinstance(table, dict):
                tables[id(table)] = table
    return list(tables.values())


def _taken(table: _Table) -> _Table:
    """The classes that come from models' code, taken out of a table."""

    def of_code(kinds: Any) -> bool:
        several = kinds if isinstance(kinds, tuple) else (kinds,)  # slow and fast tokenizer
        return any(str(getattr(k, "__module__", "")).startswith(f"{PACKAGE}.") for k in several)

    return {key: table.pop(key) for key in [key for key in table if of_code(table[key])]}


def keep(folder: Path, checkpoint: Checkpoint, fetch: Fetch) -> list[str]:
    """Put the code of a model beside it where it was saved; says so, in a sentence.

    Raises UserError where it cannot be whole there.
    """
    if not checkpoint.code:
        return []
    sums: dict[Path, str] = {}
    for key, checksum in checkpoint.code.items():
        repository, pinned, rest = key.partition("@")
        file = rest[41:] if pinned else key
        origin = hub.download(repository, file, rest[:40]) if pinned else fetch(file)
        to = folder / file
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(origin, to)
        if sums.setdefault(to, checksum) != checksum or _sha256(to) != checksum:
            raise UserError(f"{checkpoint.name}: its code {file} has changed, or there are two")
    for path in folder.rglob("*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict) and "auto_map" in content:
            local = re.sub(r'"[\w.-]+/[\w.-]+--', '"', json.dumps(content["auto_map"]))
            content["auto_map"] = json.loads(local)
            text = json.dumps(content, indent=2, ensure_ascii=False)
            path.write_text(f"{text}\n", encoding="utf-8")
    files = ", ".join(sorted(path.relative_to(folder).as_posix() for path in sums))
    return [
        f"its own code goes with it ({files}): DIR opens where that is trusted "
        f"({OPTION} DIR, or trust_remote_code=True elsewhere)"
    ]
