"""A model, or a layer of one, for mteb's own `evaluate`, which then files what a run files."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from lrd_harness import errors, manager
from lrd_harness.capture.embeddings import Embeddings
from lrd_harness.capture.mteb_encoder import Gallery, LayerEncoder
from lrd_harness.capture.samples import Questions
from lrd_harness.contracts import Text
from lrd_harness.errors import UserError, tell, told_to
from lrd_harness.models.loading import quiet
from lrd_harness.planning import models as planned_models
from lrd_harness.planning import settings as records
from lrd_harness.planning import suite
from lrd_harness.planning.models import PlannedModel
from lrd_harness.progress import Display
from lrd_harness.runner.units import reader_settings

WHERE = "mteb_model"  # where an argument stands, in messages
READING = (
    "pooling max_length dtype attention attention_mask padding device device_map batch_tokens "
    "trust_remote_code"
).split()


class MtebModel(LayerEncoder):
    """An opened model at one of its layers, as mteb evaluates it.

    layer: the state, 0..L, or None for the model as it is; layers: 0..L, all that there are.
    """

    def __init__(self, planned: PlannedModel, reader: Embeddings, layer: int | None) -> None:
        blocks = reader.model.info.blocks
        if layer is not None:
            layer = errors.layer_number(layer, planned.name, blocks)
        self.layer, self.layers = layer, range(blocks + 1)
        self._planned, self._reader, self._display = planned, reader, Display(quiet=True)
        experiment = {**({} if layer is None else {"layer": layer}), **planned.experiment}
        checkpoint, state = planned.checkpoint, blocks if layer is None else layer
        view = reader.view(state, checkpoint.name, checkpoint.revision, [experiment])
        view.fetch = self._read
        super().__init__(view, gallery=Gallery() if planned.modality == "image" else None)

    def at(self, layer: int | None) -> MtebModel:
        """The same opened model at another layer. Raises UserError where it has no such layer."""
        return MtebModel(self._planned, self._reader, layer)

    def encode(self, inputs: Any, *, show_progress_bar: bool = True, **kwargs: Any) -> Any:
        """Embeddings (n, d) float32 of the loader's texts or images, in order; see LayerEncoder."""
        self._display = Display(quiet=not (show_progress_bar and sys.stderr.isatty()))
        return super().encode(inputs, **kwargs)

    def _read(self, texts: Sequence[Text]) -> None:
        """Have the states of all layers of these texts."""
        kind = f"{self._planned.modality}s"
        with self._display.stage(f"{self._planned.name}: reading all layers", kind) as advance:
            self._reader.read(texts, advance)


def mteb_model(
    name: str,
    layer: int | None = None,
    *,
    adapter: str | None = None,
    prompts: Mapping[str, str] | None = None,
    load: str | Sequence[str] = (),
    **settings: Any,
) -> MtebModel:
    """A model at a layer, for `mteb.evaluate`, which then files the scores that `run` files.

    Texts are read once for all layers of a model and kept in the cache, where a run finds them.

    Parameters
    ----------
    name : str
        A hub id, a folder, or pypi:PACKAGE==VERSION, as the command takes it.
    layer : int, optional
        The state 0..L, which mteb files as the experiment `layer`; by default the whole model.
    adapter, prompts : optional
        The name of the adapter that opens the model; prompts by mteb's keys, which replace all
        others.
    load : str or sequence of str
        Modules or files of plugins, as the option --load takes them.
    **settings
        pooling, max_length, dtype, attention, attention_mask, padding, device, device_map,
        batch_tokens and trust_remote_code, as the options of a run.

    Raises UserError for a model that cannot be found or opened, a layer that it has not got, and
    settings that are unknown or wrong.

    Examples
    --------
    >>> mteb_model("a b", layer=2)
    Traceback (most recent call last):
    lrd_harness.errors.UserError: 'a b' is neither a folder, a hub id nor pypi:PACKAGE==VERSION
    """
    for setting in settings.keys() - set(READING):
        raise errors.unknown("setting of mteb_model", setting, READING)
    files = [load] if isinstance(load, str) else load
    with told_to(tell), quiet():
        plugins = manager.load_named(files)
        chosen = records.settings(settings, WHERE)
        planned_models.check_settings(chosen)
        fields = {"model": name, "adapter": adapter, "prompts": prompts}
        entries = suite.entries([{k: v for k, v in fields.items() if v is not None}], WHERE)
        if len(entries) != 1:
            raise UserError(f"{name} names {len(entries)} models: give one")
        planned = planned_models.resolve_model(entries[0], chosen, plugins, Display().stage)
        planned_models.check_trusted([planned], chosen, plugins)
        if layer is not None:
            errors.layer_number(layer, planned.name, planned.depth)
        model = planned.open()
    budget, sampling = reader_settings(chosen, planned, model)
    reader = Embeddings(model, Questions(chosen.max_texts), budget, sampling)
    return MtebModel(planned, reader, layer)
