"""What the harness sees of a model before a run: how it is read, why so, and what it can do.

What its files say is told of a model that cannot be opened, too.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import PurePath
from typing import Any, NamedTuple

import torch
from torch import nn

from lrd_harness.blocks import written
from lrd_harness.contracts import Checkpoint, Model, Task
from lrd_harness.errors import UserError, described
from lrd_harness.manager import Plugins
from lrd_harness.models import inspection, quantised
from lrd_harness.models.find import known_as, weight_bytes, weight_files
from lrd_harness.models.image_model import ImageModel
from lrd_harness.models.opened import OpenedModel
from lrd_harness.models.peft_adapters import base_of
from lrd_harness.models.readout import embedded
from lrd_harness.models.wrappers import loader_of, route
from lrd_harness.planning import models as planned_models
from lrd_harness.planning import resolve
from lrd_harness.planning.models import PlannedModel
from lrd_harness.planning.settings import Settings
from lrd_harness.planning.suite import ModelEntry, Suite
from lrd_harness.progress import Display
from lrd_harness.report import Cell, Column, Report, Table, listing
from lrd_harness.store import location
from lrd_harness.studies.fidelity import with_head
from lrd_harness.studies.values import opened

COLUMNS = (Column("fact", key=True), Column("told"), Column("value", shown=False))
ORDER = (
    *("revision", "architecture", "family", "adapter", "blocks", "width", "final norm"),
    *("attention mask", "pooling", "prompts", "context limit", "images", "parameters"),
    "stored parameters",
    *("dtype", "quantised", "memory", "disk", "adapters of weights", "code of its own"),
    *("likelihoods", "pruning", "speed"),
)
NORMED = {"hf": "applied to the last state", "final": "applied to all states", "raw": "not applied"}
PROMPTED = ("STSBenchmark", "Banking77Classification", "SciFact")  # tasks, a kind each


class Fact(NamedTuple):
    """What is known of a model. value: for programs; told: for people, by default the value."""

    value: Cell
    told: str = ""


Facts = dict[str, Fact]
NONE = Fact(None)


def describe(
    entries: Sequence[ModelEntry], settings: Settings, plugins: Plugins, display: Display
) -> Report:
    """What there is to know of each model; the errors are of those that cannot be opened.

    Beside a table for each model there is `models`, for programs, with a row for each.
    """
    planned_models.check_settings(settings)
    tasks = resolve.resolve_tasks(Suite("models", tasks=PROMPTED), plugins)
    known: dict[str, Facts] = {entry.model: {} for entry in entries}
    found, answer, errors = {}, [], []

    @contextmanager
    def attempt(model: str) -> Iterator[None]:
        try:
            with planned_models.in_one_line(f"{model} cannot be read"):
                yield
        except UserError as error:
            named = PurePath(model).name in str(error)
            errors.append(str(error) if named else f"{model}: {error}")

    for entry in entries:
        with attempt(entry.model):
            found[entry.model] = planned_models.found_model(entry, settings, plugins, display.stage)
    if not errors:
        planned_models.check_trusted(list(found.values()), settings, plugins)
    for model, planned in found.items():
        with attempt(model):
            known[model] |= of_files(planned, plugins)
            planned.check()
            known[model] |= of_model(planned, settings, tasks, display)
            answer.append(f"{model}: {_summary(known[model])}.")
        gc.collect()
    rows = [
        {"model": model, **{n.replace(" ", "_"): facts.get(n, NONE).value for n in ORDER}}
        for model, facts in known.items()
    ]
    tables = [_table(model, facts) for model, facts in known.items()]
    plugins.tell()
    every = listing("models", "Models", rows, "model")
    return Report("Models", (every, *tables), answer=tuple(answer), errors=tuple(errors))


def _table(model: str, facts: Facts) -> Table:
    rows = [
        {"fact": name, "told": fact.told or str(fact.value), "value": fact.value}
        for name in ORDER
        if (fact := facts.get(name, NONE)) != NONE
    ]
    return Table(f"facts.{model}", model, COLUMNS, rows)


def _summary(facts: Facts) -> str:
    of: dict[str, Any] = {name: fact.value for name, fact in facts.items()}
    if "images" in of:
        reads = f"images of {of['images']:,} tokens"
    else:
        reads = f"texts of at most {of['context limit']:,} tokens"
    return (
        f"{of['blocks']} blocks of width {of['width']}, pooled by {of['pooling']}, {reads}, "
        f"{of['parameters']:,} parameters"
    )


def of_files(planned: PlannedModel, plugins: Plugins) -> Facts:
    """What is known before a model is opened."""
    checkpoint, config = planned.checkpoint, planned.checkpoint.config
    parts = ", ".join(f"{adapter.name} ({adapter.revision:.12})" for adapter in checkpoint.peft)
    base = base_of(checkpoint)
    code = ", ".join(f"{name} (sha256 {sha:.12})" for name, sha in checkpoint.code.items())
    return {
        "revision": Fact(checkpoint.revision),
        "architecture": Fact(", ".join(checkpoint.architectures) or config.get("model_type")),
        "family": Fact(config.get("model_type")),
        "adapter": Fact(planned.adapter.name, _adapter(planned, plugins)),
        "blocks": Fact(planned.depth),
        "width": Fact(planned_models.width_of(config)),
        "quantised": Fact(quantised.method(checkpoint) or None, _quantised(checkpoint)),
        "adapters of weights": Fact(parts, f"{parts}, on {base.name} ({base.revision:.12})")
        if parts
        else NONE,
        "code of its own": Fact(code or None),
        **_weights(checkpoint, planned.options.dtype),
    }


def _weights(checkpoint: Checkpoint, dtype: str) -> Facts:
    """What the files of weights are; nothing of those that are not on this machine."""
    stored = inspection.values_in(weight_files(checkpoint))
    if not stored:
        return {}
    types = " and ".join(kind for kind, n in stored.most_common() if n > stored.total() / 100)
    disk = weight_bytes(checkpoint)
    return {
        "dtype": Fact(types, f"{types} in the files, read as {dtype}"),
        "disk": Fact(disk, location.shown(disk)),
    }


def _adapter(planned: PlannedModel, plugins: Plugins) -> str:
    """Which adapter opens it, why, and which others could."""
    adapter = planned.adapter
    claiming = planned_models.claiming(planned.checkpoint, plugins)
    alike = [a.name for a in claiming if a.modality == adapter.modality]
    others = [name for name in alike if name != adapter.name]
    why = "as named" if planned.named else "the first that claims it"
    what = f": {adapter.description}" if adapter.description else ""
    more = f"; {' and '.join(others)} would, too ({others[0]}:MODEL)" if others else ""
    return f"{adapter.name}, {why}{what}{more}"


def _quantised(checkpoint: Checkpoint) -> str:
    settings, kind = checkpoint.config.get("quantization_config"), quantised.method(checkpoint)
    bits = settings.get("bits") if isinstance(settings, dict) else None
    return f"{kind}, {bits} bits" if bits else kind


def of_model(
    planned: PlannedModel, settings: Settings, tasks: Sequence[Task], display: Display
) -> Facts:
    """What a model shows once it is opened. Raises UserError where it cannot be."""
    without = ""
    try:
        model = opened(with_head(planned), display)
    except UserError as error:
        if not planned.likelihoods:
            raise
        without = str(error)
        model = opened(planned, display)
    info = model.info
    facts: dict[str, Callable[[], Fact]] = {
        "family": lambda: Fact(info.family),
        "blocks": lambda: Fact(info.blocks, _blocks(model)),
        "width": lambda: Fact(info.width, _width(model)),
        "final norm": lambda: _final_norm(model, settings),
        "attention mask": lambda: _mask(model),
        "pooling": lambda: Fact(info.pooling, _pooling(planned, model)),
        "parameters": lambda: Fact(info.parameters, f"{info.parameters:,} below any head"),
        "likelihoods": lambda: _likelihoods(planned, model, without),
    }
    if isinstance(model, ImageModel):
        facts["images"] = partial(_images, model)
    else:
        facts["prompts"] = lambda: _prompts(planned, model, tasks)
        facts["context limit"] = lambda: Fact(info.max_length, _length(planned, model))
    on_disk: Facts = {}
    if isinstance(model, OpenedModel):
        checkpoint, root = model.checkpoint, model.parts.whole or model.parts.module
        on_disk = _weights(checkpoint, planned.options.dtype)  # of the hub, now that it is here
        facts |= {
            "stored parameters": lambda: _stored(checkpoint, root),
            "memory": lambda: _memory(root),
            "pruning": lambda: _pruning(model),
            "speed": lambda: Fact(inspection.slow_path(root) or None),
        }
    return {name: _attempted(make) for name, make in facts.items()} | on_disk


def _attempted(make: Callable[[], Fact]) -> Fact:
    """A fact; where finding it out fails, for whatever reason, that is told in its place."""
    try:
        return make()
    except Exception as error:  # of a library, or a plugin
        return Fact(None, f"cannot be told: {described(error)}")


def _stored(checkpoint: Checkpoint, root: nn.Module) -> Fact:
    if quantised.method(checkpoint):
        return NONE  # its numbers are packed
    number = inspection.stored_parameters(checkpoint, root)
    return Fact(number, f"{number:,} in the files, heads too, tied ones once")


def _memory(root: nn.Module) -> Fact:
    size = quantised.in_memory(root)
    return Fact(size, f"{location.shown(size)} of weights, as read")


def _images(model: ImageModel) -> Fact:
    """What becomes of an image, and by what."""
    tokens, patches = len(model.patches), int(model.patches.sum())
    size, made = "x".join(map(str, model.size)), model.identity["processor"]
    return Fact(tokens, f"{size} by {made}; {tokens} tokens, of which {patches} are patches")


def _pruning(model: OpenedModel) -> Fact:
    allowed, reason = inspection.removable(model.parts.module, model.blocks)
    if not allowed:
        return Fact(False, f"no: {reason}")
    others = written({*range(1, len(model.blocks) + 1)} - {*allowed})
    but = f"; not {others}: {reason}" if others else ""
    return Fact(True, f"blocks {written(allowed)} can be taken out{but}")


def _blocks(model: Any) -> str:
    own = len(model.blocks)
    return "" if own == model.info.blocks else f"{model.info.blocks}, by {own} with shared weights"


def _width(model: Model) -> str:
    width = model.info.width
    output = embedded(model.embed, torch.zeros(1, width), "document").shape[1]
    return "" if output == width else f"{width}; its output has {output}"


def _final_norm(model: Model, settings: Settings) -> Fact:
    norm, module = model.final_norm, getattr(getattr(model, "parts", None), "module", None)
    if norm is None:
        return Fact("none", "none: the last block writes the output")
    names = {id(m): name for name, m in module.named_modules()} if module is not None else {}
    chain = [norm] if id(norm) in names or not isinstance(norm, nn.Sequential) else list(norm)
    name = " and ".join(f"{names.get(id(m), 'a')} ({type(m).__name__})" for m in chain)
    return Fact(name, f"{name}, {NORMED[settings.norm]} (--norm {settings.norm})")


def _mask(model: Any) -> Fact:
    """Which tokens a token sees, as a trial of every block shows."""
    ahead = model.look_ahead() if hasattr(model, "look_ahead") else []
    if not any(ahead) or all(ahead):
        kind = "bidirectional" if any(ahead) else "causal"
        return Fact(kind, f"{kind}, tried on every block") if ahead else NONE
    blocks = written(number for number, sees in enumerate(ahead, 1) if sees)
    return Fact("mixed", f"bidirectional in blocks {blocks}, causal in the others, as tried")


def _pooling(planned: PlannedModel, model: Any) -> str:
    where = getattr(getattr(model, "parts", None), "pooling_from", "")
    where = f"by {where}" if where else f"usual for the adapter {planned.adapter.name}"
    return f"{model.info.pooling}, {'as chosen' if planned.options.pooling else where}"


def _length(planned: PlannedModel, model: Any) -> str:
    """The limit, what states it, and what the blocks were seen to bear."""
    parts, limit = getattr(model, "parts", None), model.info.max_length
    lengths: Mapping[str, int] = getattr(parts, "lengths", {})
    stated = getattr(parts, "max_length", limit)
    by = " and ".join(name for name, length in lengths.items() if length == stated)
    by = "as chosen" if planned.options.max_length else by and f"by {by}"
    by = by or f"by the adapter {planned.adapter.name}"
    others = [f"{name} says {n:,}" for name, n in lengths.items() if n != stated]
    tried = f"; its blocks bear no more, though {stated:,} {by}" if limit < stated else f" {by}"
    return "; ".join([f"{limit:,} tokens{tried}", *others])


def _prompts(planned: PlannedModel, model: Model, tasks: Sequence[Task]) -> Fact:
    """What goes before the texts of a few tasks, and who says so."""
    prompts = {}
    for task in tasks:
        sides = ("query", "document") if task.type == "Retrieval" else (None,)
        for side in sides:
            text, adapter = route(model.prompt(task, side))
            said = f"{text!r} by its adapter {adapter}" if adapter else repr(text)
            prompts[" ".join(filter(None, [task.name, side]))] = said
    if set(prompts.values()) == {repr("")}:
        return Fact("none")
    how = loader_of(known_as(planned.checkpoint))
    known = how.instructs or how.routes or how.prompts
    by = f"mteb's ({how.wrapper.__name__})" if how.wrapper and known else ""
    by = by or getattr(getattr(model, "parts", None), "prompt_from", "its own")
    if len(set(prompts.values())) == 1:
        prompts = {"every text": next(iter(prompts.values()))}
    said = ", ".join(f"{name} {prompt}" for name, prompt in prompts.items())
    return Fact(said, f"{by}: {said}")


def _likelihoods(planned: PlannedModel, model: Model, without: str) -> Fact:
    if model.head is not None:
        return Fact(True, "yes, through its head")
    if planned.adapter.likelihoods:
        return Fact(False, f"no: {without or planned.headless or model.headless}")
    return Fact(False, f"no: the adapter {planned.adapter.name} reads no head")
