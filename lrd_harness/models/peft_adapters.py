"""Adapters of weights (PEFT: LoRA and the like): which base one is for, and how it goes onto it.

An adapter is found as a checkpoint of its own, whose config is its adapter_config.json. With its
base it makes one checkpoint, opened as the base is, whose adapters are then merged into the weights
in memory, one after the other.
"""

from __future__ import annotations

import importlib.util
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from lrd_harness.contracts import Checkpoint
from lrd_harness.errors import UserError, short, there
from lrd_harness.models import hub
from lrd_harness.models.recognition import ADAPTER, Source

if TYPE_CHECKING:
    from torch import nn

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.txt", "vocab.json")
BASE, KIND = "base_model_name_or_path", "peft_type"
WEIGHTS = "adapter_model.safetensors"
_ROOT = "base_model.model."  # what peft puts before the names of a model's modules
# kinds that add to the text or to the pass, and settings that do more than change weights
_UNMERGED = re.compile("PROMPT|P_TUNING|PREFIX|CPT|CARTRIDGE|ADAPTION|XLORA|POLY|SHADOW|LILY")
_BEYOND = ("layer_replication", "alora_invocation_tokens", "arrow_config", "megatron_config")
_DRAWN = "pissa_niter"
_UNUSED = re.compile("pooler|vblora_vector_bank")  # on which no state depends; kept elsewhere


def parts(name: str) -> list[str]:
    """The names in BASE+ADAPTER+ADAPTER; the name of something that is there is never taken apart.

    Raises UserError for an empty one.

    >>> parts("org/base@v1+pypi:lora==1.0")
    ['org/base@v1', 'pypi:lora==1.0']
    """
    pieces, names = name.split("+"), list[str]()
    while pieces:
        lengths = range(len(pieces), 1, -1)
        n = next((n for n in lengths if there("+".join(pieces[:n]))), 1)
        names.append("+".join(pieces[:n]))
        pieces = pieces[n:]
    if len(names) > 1 and not all(names):
        raise UserError(f"{name}: nothing before or after a + (BASE+ADAPTER)")
    return names


def place(files: Iterable[str], first: str = "") -> str | None:
    """The path of the adapter_config.json among these files; None without one.

    first: where modules.json has the transformer. Those of other folders are no part of the model.
    """
    paths = [str(PurePosixPath(folder, ADAPTER)) for folder in dict.fromkeys([first, ""])]
    return next((path for path in paths if path in files), None)


def is_adapter(checkpoint: Checkpoint) -> bool:
    """Whether it was found as an adapter, and no whole model."""
    return KIND in checkpoint.config


def examined(source: Source, first: str) -> dict[str, Any]:
    """The adapter_config.json of a folder. Raises UserError for an adapter that is not read."""
    path = place(source.files, first) or ADAPTER
    config = dict(source.read(path))
    kind = short(str(config.get(KIND) or "of an unknown kind"), 40)
    holds = f"{source.where} holds a PEFT adapter ({kind})"
    if _UNMERGED.search(kind):
        raise UserError(f"{holds} that cannot be merged into the weights of a model: not read")
    if key := next(filter(config.get, _BEYOND), None):
        raise UserError(f"{holds} that does more than change weights ({key}): not read")
    if (begun := str(config.get("init_lora_weights"))).startswith(_DRAWN):
        raise UserError(
            f"{holds} for a base that peft splits anew, with random numbers, whenever it is read "
            f"({short(begun, 40)}): not read; let peft convert it to LoRA"
        )
    if str(PurePosixPath(path).with_name(WEIGHTS)) not in source.files:
        pickled = str(PurePosixPath(path).with_name("adapter_model.bin")) in source.files
        what = "adapter_model.bin is a pickle, which can run code" if pickled else "it lacks them"
        raise UserError(f"{holds}, of whose weights only {WEIGHTS} is read: {what}")
    if importlib.util.find_spec("peft") is None:
        raise UserError(f'{holds}, which needs peft: pip install "lrd-harness[peft]"')
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as known

    if kind not in {str(key.value) for key in known}:
        raise UserError(f"{holds}, a kind that the installed peft does not know")
    return config


def base_named(adapter: Checkpoint) -> str:
    """The name of the base that the adapter says it is for. Raises UserError where it says none."""
    name, revision = adapter.config.get(BASE), adapter.config.get("revision")
    if not isinstance(name, str) or not name:
        raise UserError(f"{adapter.name} does not say what it goes onto: give BASE+ADAPTER")
    of_hub = revision and not there(name) and ":" not in name and "@" not in name
    return f"{name}@{revision}" if of_hub else name


def put_on(base: Checkpoint, adapter: Checkpoint, name: str) -> Checkpoint:
    """A checkpoint, which may have adapters already, with one more; name: as results call it.

    Raises UserError for a base whose weights cannot take any.
    """
    if base.config.get("quantization_config"):
        raise UserError(
            f"{name}: the weights of {base.name} are quantised, and an adapter merged into them "
            "would be rounded: give the base that is not, as BASE+ADAPTER"
        )
    contents = [part.content or part.revision for part in (base, adapter)]
    return replace(
        base,
        name=name,
        revision=f"{base.revision}+{adapter.revision}",
        files=base.files | adapter.files,
        content="+".join(contents) if base.content or adapter.content else "",
        base=base_of(base),
        peft=(*base.peft, adapter),
    )


def base_of(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint below the adapters; one without is its own."""
    return checkpoint.base or checkpoint


def uppermost(checkpoint: Checkpoint) -> Checkpoint:
    """The last adapter that goes on, after which a model is called; without any, the model."""
    return (checkpoint, *checkpoint.peft)[-1]


def recorded(checkpoint: Checkpoint) -> list[str]:
    """What a model is made of, its base first, as NAME@REVISION each."""
    return [f"{part.name}@{part.revision}" for part in (base_of(checkpoint), *checkpoint.peft)]


def provider(checkpoint: Checkpoint, *names: str) -> Checkpoint:
    """Whose files of these names count: the last adapter's that has one, else the base's."""
    found = (a for a in reversed(checkpoint.peft) if not a.files.isdisjoint(names))
    return next(found, base_of(checkpoint))


def merge(model: Any, checkpoint: Checkpoint) -> None:
    """Merge the adapters of a checkpoint into a model of its base, in place.

    model: with or without a head, whichever way round the adapters were trained; what they hold of
    a head that the model has not got is left out, as no state depends on it. Raises UserError for
    an adapter that is not of this base: weights that match nothing, lack or have other shapes.
    """
    for adapter in checkpoint.peft:
        base = base_of(checkpoint).name
        try:
            with warnings.catch_warnings(action="ignore"):
                fault = _merge(model, _folder(adapter))
        except Exception as error:  # whatever peft and torch raise for weights that do not fit
            text = " ".join(str(error).split()) or type(error).__name__
            fault = text[max(text.find("size mismatch"), 0) :]
        if fault:
            raise UserError(f"the adapter {adapter.name} does not fit {base}: {short(fault, 150)}")


def _folder(adapter: Checkpoint) -> Path:
    """The folder of an adapter's configuration and weights, downloaded if they have to be."""
    config = place(adapter.files, "0_Transformer") or ADAPTER
    if not adapter.hub:
        return Path(adapter.path, config).parent
    hub.download(adapter.path, str(PurePosixPath(config).with_name(WEIGHTS)), adapter.revision)
    return hub.download(adapter.path, config, adapter.revision).parent


def _merge(model: Any, folder: Path) -> str:
    """Merge one adapter; returns why it cannot be, "" where it is done."""
    from peft import PeftConfig, PeftModel
    from safetensors import safe_open

    with safe_open(folder / WEIGHTS, framework="pt") as weights:
        shapes = {k.removeprefix(_ROOT): weights.get_slice(k).get_shape() for k in weights.keys()}  # noqa: SIM118
    target, body = _target(model, list(shapes))
    if target is None:
        return f"it is for modules as {min(shapes, default='none')}, of which it has none"
    _resize(model, target, shapes)
    config = PeftConfig.from_pretrained(str(folder))
    config.inference_mode, config.task_type = True, None  # of which one wraps the head
    adapted = PeftModel(target, config)
    mapping = getattr(model, "_checkpoint_conversion_mapping", {})
    loaded = adapted.load_adapter(str(folder), "default", torch_device="cpu", key_mapping=mapping)
    lacking = [key for key in loaded.missing_keys if not _UNUSED.search(key)]
    strange = [key.removeprefix(_ROOT) for key in loaded.unexpected_keys]
    # an embedding that was made longer and trained is kept twice, once under such a name
    twice = {key for key in strange if key.replace(".modules_to_save.", ".") in {*shapes} - {key}}
    here = (body, *(f"{name}." for name, _ in target.named_children()))  # else it is another head's
    strange = [k for k in strange if k.startswith(here) and k not in twice and "pooler" not in k]
    for keys, what in ((lacking, "it lacks weights"), (strange, "weights that match nothing")):
        if keys:
            return f"{what} ({len(keys)}, as {min(keys)})"
    _untie(model)
    adapted.merge_and_unload(safe_merge=True)
    return ""


def _untie(model: Any) -> None:
    """Give a head weights of its own where an adapter changes it, or the embedding it shares.

    Into shared ones peft would merge what is for either of them. It notes that in the config.
    """
    try:
        words, head = model.get_input_embeddings(), model.get_output_embeddings()
    except (AttributeError, NotImplementedError):  # a model without one of them
        return
    layer = getattr(head, "base_layer", head)
    changed = hasattr(words, "base_layer") or layer is not head
    if changed and getattr(layer, "weight", None) is words.weight:
        layer.weight = type(layer.weight)(layer.weight.detach().clone())


def _target(model: Any, names: Sequence[str]) -> tuple[nn.Module | None, str]:
    """The module to which the names of an adapter's weights are relative, None without any.

    And how names of the part that makes states begin. An adapter is trained on a model with a head
    or on one without, and either may be here: the names tell.
    """
    body, prefix = model.base_model, str(model.base_model_prefix)
    inside = f"{prefix}." if prefix else ""
    targets = [(model, inside), (body, "")] if body is not model else [(model, "")]
    if body is model and prefix:
        targets.append((_headless(model, prefix), inside))

    def matches(target: nn.Module) -> int:
        """How many names begin with those of the target's modules, and how deep they go."""
        known = {name for name, _ in target.named_modules()}
        cuts = (accumulate(name.split("."), "{}.{}".format) for name in names)
        return sum(cut in known for name in cuts for cut in name)

    target, inside = max(targets, key=lambda pair: matches(pair[0]))
    return (target, inside) if matches(target) else (None, "")


def _headless(body: Any, prefix: str) -> Any:
    """A module around a model without its head, named as it is in the one with a head."""
    from torch import nn

    class Whole(nn.Module):
        def __getattr__(self, name: str) -> Any:  # peft and transformers ask much of a model
            return getattr(body, name) if name != prefix else body

    whole = Whole()
    whole._modules[prefix] = body
    return whole


def _resize(model: Any, target: nn.Module, shapes: Mapping[str, Sequence[int]]) -> None:
    """Make room for the rows of an embedding that comes with the adapter, if it has other ones."""
    embedding = model.get_input_embeddings()
    name = next((n for n, module in target.named_modules() if module is embedding), "")
    for key in (f"{name}.weight", f"{name}.base_layer.weight"):
        if key in shapes and shapes[key][0] != len(embedding.weight):
            model.resize_token_embeddings(shapes[key][0], mean_resizing=False)


@contextmanager
def found_base(base: Checkpoint, where: Mapping[str, Any]) -> Iterator[None]:
    """Within, sentence-transformers loads the base of an adapter's folder from where it was found.

    where: what loaders are told of that place.
    """
    from sentence_transformers.base.modules import Transformer

    config, model = Transformer._load_config, Transformer._load_model
    told = {**where, "subfolder": ""}

    def load_config(self: Any, _: str, backend: Any, given: Mapping[str, Any]) -> Any:
        return config(self, base.path, backend, {**given, **told})

    def load_model(
        self: Any, _: str, task: Any, made: Any, backend: Any, __: bool, **given: Any
    ) -> Any:
        return model(self, base.path, task, made, backend, False, **{**given, **told})

    with patch.multiple(Transformer, _load_config=load_config, _load_model=load_model):
        yield
