"""A model of a suite: found, its adapter chosen, and how it is read; nothing is opened."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lrd_harness.contracts import Adapter, Checkpoint, Modality, Model, ModelOptions, Task
from lrd_harness.errors import PluginFault, UserError, described, say, there, unknown
from lrd_harness.guard import Owner, guard
from lrd_harness.manager import Plugins
from lrd_harness.models import frame, own_code
from lrd_harness.models.bidirectional import NO_LIKELIHOODS, says_bidirectional
from lrd_harness.models.find import find, name_of
from lrd_harness.models.hub import fetched
from lrd_harness.models.modality import two_towers
from lrd_harness.models.opened import OpenedModel, exact
from lrd_harness.models.peft_adapters import base_of, uppermost
from lrd_harness.models.purposes import refuse_scorers
from lrd_harness.models.readout import OF_IMAGES, POOLINGS
from lrd_harness.models.recognition import foreign
from lrd_harness.models.wheels import Progress
from lrd_harness.planning.settings import Settings
from lrd_harness.planning.suite import READING, ModelEntry, known_models
from lrd_harness.store.documents import remember, remembered
from lrd_harness.store.files import full

Stage = Callable[[str], AbstractContextManager[Progress]]


@contextmanager
def in_one_line(what: str) -> Iterator[None]:
    """Whatever damaged files of a model raise in the libraries becomes a UserError.

    Raises StorageFull where a full disk is behind it.
    """
    try:
        with guard(Owner("lrd-harness", built_in=True), what):
            yield
    except PluginFault as fault:
        raise UserError(f"{what}: {fault}") from fault
    except UserError:
        raise
    except Exception as error:
        raise full(error) or UserError(f"{what}: {described(error)}") from error


@dataclass(frozen=True)
class PlannedModel:
    """A model that a run will open.

    name: as results call it; depth: L, if the config says it; named: whether the adapter is.
    """

    name: str
    checkpoint: Checkpoint
    adapter: Adapter
    options: ModelOptions
    label: str
    depth: int | None
    named: bool = False

    @property
    def experiment(self) -> dict[str, str]:
        """How the model is read, where that is not its own way, as part of an experiment's name."""
        return {"reading": self.label} if self.label else {}

    def check(self) -> None:
        """Raise UserError, before anything is loaded, for what its adapter cannot read."""
        self._check_reading()
        if self.adapter.check is not None:
            self.adapter.check(self.checkpoint)
        if not self.named and self.adapter.name in ("encoder", "decoder"):
            refuse_scorers(self.checkpoint, self.adapter.name)

    def _check_reading(self) -> None:
        """Raise UserError for a choice of reading that is not for what the model reads."""
        pooling, whose = self.options.pooling, self.checkpoint.name
        known = [*POOLINGS] if self.modality == "text" else OF_IMAGES
        if pooling is not None and pooling not in known:
            hint = f"It reads {self.modality}s: choose from {', '.join(known)}."
            raise unknown(f"pooling of {whose}", pooling, known, hint)
        for name in ("max_length", "attention_mask", "prompts"):
            if self.modality == "image" and getattr(self.options, name) is not None:
                raise UserError(f"{whose} reads images: {name} is for models of texts")

    def open(self, weights: bool = True, opening: Callable[[], Model] | None = None) -> Model:
        """The opened model, for every command. Raises UserError where it cannot be opened.

        weights: False for a model that reads its weights when it has to, if it was opened before;
        opening: what it then calls to be opened whole, by default this.
        """
        exact()
        if not weights and (framed := self.framed(opening or self.open)):
            return framed
        with in_one_line(f"{self.name} cannot be opened"), own_code.running(self.checkpoint):
            model = self.adapter.open(fetched(self.checkpoint), self.options)
        if isinstance(model, OpenedModel) and frame.suits(self.checkpoint, self.adapter):
            remember(self._frame, model.frame())
        return model

    @property
    def _frame(self) -> Path:
        return frame.file_of(self.checkpoint, self.adapter, self.options)

    @property
    def has_frame(self) -> bool:
        """Whether its states can be used without its weights, as it was opened before."""
        return bool(remembered(self._frame))

    def framed(self, opening: Callable[[], Model]) -> Model | None:
        """The model of its frame; None where it has none, or makes no output without weights.

        opening: called for the whole model, when more is wanted than the frame has.
        """
        exact()
        if not (known := remembered(self._frame)):
            return None
        options = replace(self.options, weights=False)
        try:
            with frame.hollow():
                # not yet what is checked of a model
                model: Any = frame.unguarded(self.adapter)(fetched(self.checkpoint, False), options)
            model.restore(known, opening)
            model.embed(torch.zeros(1, model.info.width))
        except Exception:  # whatever wants a weight; if it is at fault, the whole model says so
            return None
        return model  # type: ignore[no-any-return]

    def takes(self, task: Task) -> bool:
        """Whether this kind of model can do the task at all."""
        return self.modality == task.modality and (self.likelihoods or not task.likelihood)

    @property
    def modality(self) -> Modality:
        """What it reads."""
        return self.adapter.modality

    @property
    def likelihoods(self) -> bool:
        """Whether it can compare continuations, if its weights have a head."""
        return not self.headless

    @property
    def headless(self) -> str:
        """Why it cannot compare continuations, whatever its weights have; "" where it may."""
        if not self.adapter.likelihoods:
            return "no language model"
        chosen = self.options.attention_mask
        ahead = chosen == "bidirectional" if chosen else says_bidirectional(self.checkpoint.config)
        return NO_LIKELIHOODS if ahead else ""


def resolve_model(
    entry: ModelEntry, settings: Settings, plugins: Plugins, stage: Stage
) -> PlannedModel:
    """A model of a suite that can be read. Raises UserError as `found_model` and adapters do."""
    model = found_model(entry, settings, plugins, stage)
    model.check()
    return model


def found_model(
    entry: ModelEntry, settings: Settings, plugins: Plugins, stage: Stage
) -> PlannedModel:
    """A model of a suite: found, and its adapter chosen. Raises UserError if there is none."""
    name, chosen = entry.model, entry.adapter
    prefix, colon, rest = name.partition(":")
    if colon and prefix in plugins.names("adapter"):
        name, chosen = rest, prefix
    elif colon and prefix.rpartition("+")[2] != "pypi" and not there(name):
        plugins.check_borne("adapter", prefix)
        known = ["pypi", *plugins.names("adapter")]
        hint = f"Before the colon of '{entry.model}' goes one of {', '.join(known)}."
        raise unknown("prefix", prefix, known, hint)
    adapter: Adapter | None = plugins.get("adapter", chosen) if chosen else None
    _check_pooling(entry.pooling, entry.model)
    with stage(name) as progress, in_one_line(f"model {name} cannot be read"):
        checkpoint = find(name, progress, known_models, _trusted(settings, plugins))
    if adapter is None:
        adapter = next(claiming(checkpoint, plugins), None)
    if adapter is None:
        unread = f"no adapter claims {name}: it is no model that any plugin can open"
        raise UserError(foreign(checkpoint) or unread)
    options = ModelOptions(
        pooling=entry.pooling or settings.pooling,
        max_length=entry.max_length or settings.max_length,
        dtype=settings.dtype,
        device=device(settings),
        device_map=settings.device_map,
        attention=settings.attention,
        attention_mask=entry.attention_mask or settings.attention_mask,
        padding=settings.padding,
        prompts=entry.prompts,
    )
    entry = replace(entry, model=name, adapter=chosen)
    read = replace(entry, **{part: getattr(options, part) for part in READING})
    # as typed, where that names a revision: two of them may be in one run
    shown = name if name.partition("@")[0] == checkpoint.name else checkpoint.name
    return PlannedModel(
        name=f"{shown} [{entry.label}]" if entry.label else shown,
        checkpoint=checkpoint,
        adapter=adapter,
        options=options,
        label=", ".join(filter(None, [read.label, options.dtype.replace("float32", "")])),
        depth=depth_of(checkpoint.config),
        named=chosen is not None,
    )


def claiming(checkpoint: Checkpoint, plugins: Plugins) -> Iterator[Adapter]:
    """The adapters that claim a checkpoint, the first one that which opens it."""
    adapters = sorted(plugins.all("adapter"), key=lambda a: -a.priority)
    return (adapter for adapter in adapters if _claims(adapter, checkpoint))


def check_trusted(models: Sequence[PlannedModel], settings: Settings, plugins: Plugins) -> None:
    """Raise UserError for a name whose code may run that is none of the models'."""
    both = (c for model in models for c in (model.checkpoint, base_of(model.checkpoint)))
    found = {name_of(checkpoint): checkpoint for checkpoint in both}
    own_code.check_named(_trusted(settings, plugins), found)


def _trusted(settings: Settings, plugins: Plugins) -> list[str]:
    """The names whose code may run, without the prefixes of adapters."""
    prefixes = tuple(f"{name}:" for name in plugins.names("adapter"))
    names = settings.trust_remote_code
    return [n.partition(":")[2] if n.startswith(prefixes) else n for n in names]


def _claims(adapter: Adapter, checkpoint: Checkpoint) -> bool:
    """Whether it does; one whose code fails is passed over, and the user is told."""
    try:
        return adapter.claims(checkpoint)
    except PluginFault as fault:
        say(f"adapter {adapter.name} is not asked to open {checkpoint.name}: {fault}")
        return False


def distinct(models: list[PlannedModel]) -> list[PlannedModel]:
    """Models with distinct names: folders that are called alike get their parents' names too.

    Raises UserError for a model that is named twice.
    """
    apart = []
    for model in models:
        alike = [other.checkpoint for other in models if other.name == model.name]
        paths = [uppermost(checkpoint).path for checkpoint in alike]
        if (
            paths.count(uppermost(model.checkpoint).path) > 1
            and len({c.revision for c in alike}) == 1
        ):
            raise UserError(f"model {model.name} is named twice")
        apart.append(set_apart(model, tails_apart(paths)) if len(alike) > 1 else model)
    return apart


def set_apart(model: PlannedModel, depth: int) -> PlannedModel:
    """The model by so many names from the end of its path; by its revision if it is no folder."""
    checkpoint, last = model.checkpoint, uppermost(model.checkpoint)
    name = f"{checkpoint.name}@{checkpoint.revision}"
    if last.name.startswith("local/"):
        below = checkpoint.name.removesuffix(last.name)  # BASE+, where that was typed
        name = f"{below}local/{'/'.join(Path(last.path).parts[-depth:])}"
    return replace(model, name=model.name.replace(checkpoint.name, name, 1))


def tails_apart(paths: Sequence[str]) -> int:
    """How many names from the end of these paths tell them apart, at least two."""
    parts = [Path(path).parts for path in paths]
    longest = max(map(len, parts))
    apart = (d for d in range(2, longest) if len({names[-d:] for names in parts}) == len(parts))
    return next(apart, max(2, longest))


def check_settings(settings: Settings) -> None:
    """What can be said of settings before anything is looked for. Raises UserError."""
    _check_pooling(settings.pooling, "settings")
    if settings.device == "auto":
        return
    try:
        torch.empty(0, device=torch.device(settings.device))
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"device '{settings.device}' cannot be used: {reason}") from None


def _check_pooling(name: str | None, where: str) -> None:
    known = dict.fromkeys((*POOLINGS, *OF_IMAGES))
    if name is not None and name not in known:
        raise unknown(f"pooling in {where}", name, known, f"Choose from {', '.join(known)}.")


def device(settings: Settings) -> str:
    """The device of a run: the chosen one, else the first accelerator, else the CPU.

    One of several processes on a machine takes a GPU of its own, as long as there are any left.
    """
    if settings.device not in ("auto", "cuda"):
        return settings.device
    chosen = settings.device == "cuda"
    if not chosen and os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true":  # launch --cpu
        return "cpu"
    if chosen or torch.cuda.is_available():
        rank = os.environ.get("LOCAL_RANK")
        return "cuda" if rank is None else f"cuda:{int(rank) % torch.cuda.device_count()}"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def depth_of(config: Mapping[str, Any]) -> int | None:
    """L as a config.json states it, by whichever of its names."""
    return _stated(config, "num_hidden_layers", "n_layer", "n_layers", "num_layers")


def width_of(config: Mapping[str, Any]) -> int | None:
    """The width of states as a config.json states it, by whichever of its names."""
    return _stated(config, "hidden_size", "n_embd", "d_model", "dim")


def _stated(config: Mapping[str, Any], *names: str) -> int | None:
    nested = config.get("vision_config" if two_towers(config) else "text_config")
    parts = (config, nested if isinstance(nested, dict) else {})
    stated = (part.get(name) for part in parts for name in names)
    return next((int(number) for number in stated if isinstance(number, int)), None)
