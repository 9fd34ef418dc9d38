"""The pooled states of texts or images at the layers of one model, as arrays and as files."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lrd_harness.capture.embeddings import Embeddings
from lrd_harness.capture.layers import planes
from lrd_harness.capture.samples import Questions, Sampling
from lrd_harness.contracts import Modality, Model, Norm, Request, Task, Text
from lrd_harness.errors import COUNT, UserError, layer_number, named, not_finite, tell
from lrd_harness.images import Image
from lrd_harness.planning import settings as records
from lrd_harness.planning.models import PlannedModel
from lrd_harness.planning.settings import Settings
from lrd_harness.progress import Display
from lrd_harness.report import Column, Report, Table
from lrd_harness.store.files import write_bytes
from lrd_harness.studies.values import MADE_BY, opened

MAKER = "lrd-harness states"
NORMS = {
    "hf": "as the blocks write them, the last one through the final norm (as hidden_states are)",
    "raw": "as the blocks write them",
    "final": "through the final norm",
}


class Opened:
    """An opened model that gives the pooled states of any texts or images, as metrics see them.

    name: as results call it; layers: range(L + 1), 0 being what enters the first block; norm: of
    the states unless others are asked for; modality: what it reads; model: the model itself.
    Texts are read once: their states are kept in the cache, as those of commands are.
    """

    def __init__(
        self, planned: PlannedModel, norm: Norm, batch_tokens: int, display: Display
    ) -> None:
        self.name, self.norm, self.revision = planned.name, norm, planned.checkpoint.revision
        self.modality = planned.modality
        self.model: Model = opened(planned, display)
        self.layers = range(self.model.info.blocks + 1)
        self._display = display
        sampling = Sampling(norm, device=planned.options.device)
        self._reading = Embeddings(self.model, Questions(COUNT), batch_tokens, sampling)

    def __repr__(self) -> str:
        info = self.model.info
        return (
            f"<{self.name}: layers 0 to {info.blocks}, {info.width} dims, {info.pooling} pooling>"
        )

    def encode(
        self, texts: Sequence[Any], *, layers: Iterable[int] | None = None, norm: Norm | None = None
    ) -> np.ndarray:
        """The pooled states of texts (L + 1, n, d) float32; row i is of text i, copies too.

        Of a model of images, those of images.

        Parameters
        ----------
        texts : a list of strings; of images, a list of paths or PIL images.
        layers : 0..L; by default all.
        norm : "hf" (raw states but the last one, which goes through the final norm, as
            transformers gives hidden_states), "raw" or "final"; by default as it was opened.

        Raises UserError for what is no list of these, for layers that there are not, and where the
        layers are not all of one width: `layers` then chooses those that are.
        """
        task = of_inputs(texts, self.modality)
        chosen = self.chosen(self.layers if layers is None else layers)
        states = self.read(task, list(task.texts()), chosen, norm)
        widths = {layer: state.shape[1] for layer, state in zip(chosen, states, strict=True)}
        if len(set(widths.values())) > 1:
            shown = ", ".join(f"{layer}: {width}" for layer, width in widths.items())
            raise UserError(
                f"the layers of {self.name} are of several widths ({shown}): "
                "encode those of one width, as layers=[0]"
            )
        return np.stack(states)

    def chosen(self, layers: Iterable[int]) -> list[int]:
        """These layers, checked. Raises UserError for one that there is not, and for none."""
        several = isinstance(layers, Iterable) and not isinstance(layers, str)
        every = layers if several else [layers]
        numbers = [layer_number(n, self.name, self.layers[-1]) for n in every]
        if not numbers:
            raise UserError("no layers: the list is empty")
        return numbers

    def read(
        self,
        task: Task,
        requests: Sequence[Request],
        layers: Sequence[int],
        norm: Norm | None = None,
    ) -> list[np.ndarray]:
        """Of each layer the states (n, d_l) float32 of a task's texts, read if need be.

        Raises UserError for an unknown norm.
        """
        norm = records.settings({"norm": norm or self.norm}, "encode").norm
        texts = [Text(r.text, self.model.prompt(task, r.prompt_type)) for r in requests]
        stage = f"{self.name}: reading all layers"
        with self._display.stage(stage, f"{task.modality}s") as advance:
            self._reading.read(texts, advance)
        store, places = self._reading.plain, planes(self.model, norm)
        if cut := store.truncated(texts):
            most = self.model.info.max_length
            self._display.line(f"cut at {most:,} tokens: {cut:,} of {len(texts):,} texts")
        states = [np.asarray(store.read(texts, places[layer]), np.float32) for layer in layers]
        for layer, state in zip(layers, states, strict=True):
            if not np.isfinite(state).all():  # they are the user's all the same
                dtype = store.identity.get("dtype", "")
                tell(f"note: {self.name}: {not_finite(layer, dtype)}")
                break
        return states


def of_inputs(inputs: Any, modality: Modality = "text") -> Task:
    """Texts, or images as paths or PIL images, as a task without labels. Raises UserError."""
    if isinstance(inputs, str | bytes) or not isinstance(inputs, Iterable):
        what = "strings" if modality == "text" else "paths or PIL images"
        raise UserError(f"{modality}s are a list of {what}")
    requests = [Request(_read(item, number, modality)) for number, item in enumerate(inputs, 1)]
    if not requests:
        raise UserError(f"no {modality}s: the list is empty")
    name, kind = f"{len(requests):,} {modality}s", f"{modality.capitalize()}s"
    return Task(name, lambda: requests, evaluate=None, type=kind, modality=modality)


def _read(item: Any, number: int, modality: Modality) -> str:
    """An item of a list as a text or an image."""
    if modality == "text":
        if isinstance(item, str):
            return item
    elif isinstance(item, Image) or hasattr(item, "convert"):  # as every PIL image has
        return Image.of(item, f"image {number}")
    elif isinstance(item, str | os.PathLike):
        return Image.of(named(os.fspath(item)), os.fspath(item))
    what = "no string" if modality == "text" else "no path and no PIL image"
    raise UserError(f"{modality} {number} is {what}: its type is {type(item).__name__}")


def write(model: Opened, task: Task, settings: Settings, file: Path) -> Report:
    """Write states to a file whose ending says its form; table "states" says what is in it.

    Arrays (safetensors, npz) and columns (Parquet, one list a row, beside text or image) are
    called layer_0 and so on; the rows are the inputs in their order, images by their names. What
    they are of is in the file's metadata. Raises UserError for layers that there are not, and where
    it cannot be written.
    """
    every = list(model.layers)
    named = {"all": every, "last": every[-1:]}
    layers = settings.layers
    numbers = model.chosen(named[layers] if isinstance(layers, str) else layers)
    one, several = task.modality, f"{task.modality}s"
    every_input = list(task.texts())
    requests = every_input[: settings.max_texts]
    states = model.read(task, requests, numbers)
    arrays = {f"layer_{n}": state for n, state in zip(numbers, states, strict=True)}
    facts = {
        MADE_BY: MAKER,
        "model": model.name,
        "revision": model.revision,
        "layers": numbers,
        "norm": model.norm,
        "pooling": model.model.info.pooling,
        several: len(requests),
        "task": task.name,
        "max_length": model.model.info.max_length,
    }
    inputs = [r.text.name if isinstance(r.text, Image) else r.text for r in requests]
    content = FORMS[file.suffix.lower()](arrays, {one: inputs}, facts)
    try:
        write_bytes(file, content)
    except OSError as error:
        raise UserError(f"{file} cannot be written ({error.strerror})") from None
    rows = [
        {"layer": n, "name": name, several: len(array), "width": array.shape[1]}
        for n, (name, array) in zip(numbers, arrays.items(), strict=True)
    ]
    how = f"States {NORMS[model.norm]}; {facts['pooling']} pooling. Row i is {one} i"
    cut = f", the first of {len(every_input):,}" if len(requests) < len(every_input) else ""
    answer = (f"{how}{cut}.",)
    title = f"States of {len(requests):,} {several} at {len(numbers)} layers in {file}"
    counts = Column(several, form=",d"), Column("width", unit="dims")
    columns = (Column("layer", key=True), Column("name"), *counts)
    return Report(title, (Table("states", title, columns, rows),), answer=answer, facts=facts)


Arrays = Mapping[str, np.ndarray]
Inputs = Mapping[str, Sequence[str]]  # the one column beside them


def _safetensors(arrays: Arrays, inputs: Inputs, facts: Mapping[str, Any]) -> bytes:
    from safetensors.numpy import save

    words = {k: v if isinstance(v, str) else json.dumps(v) for k, v in facts.items()}
    return save({k: np.ascontiguousarray(v) for k, v in arrays.items()}, metadata=words)


def _npz(arrays: Arrays, inputs: Inputs, facts: Mapping[str, Any]) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, metadata=np.array(json.dumps(facts)), **arrays)  # type: ignore[arg-type]
    return stream.getvalue()


def _parquet(arrays: Arrays, inputs: Inputs, facts: Mapping[str, Any]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {n: pa.array(i, pa.large_string()) for n, i in inputs.items()}
    for name, array in arrays.items():
        n, d = array.shape
        places = pa.array(np.arange(n + 1, dtype=np.int64) * d)
        columns[name] = pa.LargeListArray.from_arrays(places, pa.array(array.ravel()))
    table = pa.table(columns).replace_schema_metadata({"lrd_harness": json.dumps(facts)})
    stream = io.BytesIO()
    pq.write_table(table, stream)
    return stream.getvalue()


FORMS = {".safetensors": _safetensors, ".npz": _npz, ".parquet": _parquet}


def facts_of(file: Path) -> dict[str, Any]:
    """What a file that `write` has written says of itself; {} for others."""
    try:
        if file.suffix.lower() == ".safetensors":
            from safetensors import safe_open

            with safe_open(file, "numpy") as opened:
                return dict(opened.metadata() or {})
        if file.suffix.lower() == ".npz":
            with np.load(file, allow_pickle=False) as arrays:
                return dict(json.loads(str(arrays["metadata"])))
        import pyarrow.parquet as pq

        return dict(json.loads((pq.read_schema(file).metadata or {})[b"lrd_harness"]))
    except Exception:  # whatever the libraries raise for a file of another kind
        return {}


def check_free(file: Path) -> None:
    """Raise UserError for an ending that no form has, a missing folder, and another's file.

    A file of the same command is written over.
    """
    if file.suffix.lower() not in FORMS:
        raise UserError(f"{file}: no form ends so (there are {', '.join(FORMS)})")
    if not file.parent.is_dir():
        raise UserError(f"{file}: its folder is not there")
    there = file.exists() or file.is_symlink()
    if there and not (file.is_file() and facts_of(file).get(MADE_BY) == MAKER):
        raise UserError(f"{file} is there already and was not made by {MAKER}")
