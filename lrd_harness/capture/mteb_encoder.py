"""One layer of a model as the encoder that mteb evaluates, and data whose columns are read once.

It imports mteb and datasets, so it is imported when the first task is evaluated.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from datasets import Dataset, DatasetDict
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ScoringFunction
from mteb.types import Array, PromptType
from sentence_transformers.util import SimilarityFunction
from torch.utils.data import BatchSampler, SequentialSampler

from lrd_harness.contracts import Modality, ModelView, Task
from lrd_harness.errors import UserError
from lrd_harness.images import Image, key_of, opened
from lrd_harness.store.folders import fitting


class Numbers(list[int]):
    """A column of whole numbers, as labels are, whose array is made once for all who ask for it."""

    def __init__(self, numbers: list[int]) -> None:
        super().__init__(numbers)
        self._array = np.array(numbers)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self._array, dtype, copy=copy)


class EagerColumns(Dataset):  # type: ignore[misc]
    """A data set that gives a column as a list, kept for as long as its rows are the same.

    mteb's evaluators index a column row by row and hand it to scikit-learn; a lazy column decodes
    every row anew each time, which costs more than all the classifiers.
    """

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, str):
            return super().__getitem__(key)
        kept = self.__dict__.setdefault("_kept_columns", {})
        name = (self._fingerprint, key)  # copies share the dictionary, changed ones get a new print
        if name not in kept:
            column = list(super().__getitem__(key)[:])
            kept[name] = Numbers(column) if {*map(type, column)} == {int} else column
        return kept[name]

    def select(self, indices: Iterable[int], *args: Any, **kwargs: Any) -> Any:
        """Some of the rows, of which columns are lists as well.

        The same rows have the same print, by which `map` finds on disk what it made of them.
        """
        rows = indices if isinstance(indices, Sequence) else list(indices)
        chosen = np.asarray(rows, dtype=np.int64).tobytes()
        fingerprint = hashlib.sha256(self._fingerprint.encode() + chosen).hexdigest()[:16]
        return eager(super().select(rows, *args, **{"new_fingerprint": fingerprint, **kwargs}))


def eager(data: Any) -> Any:
    """The same data with eager columns; what is no data set is returned as it is."""
    if isinstance(data, DatasetDict):
        return DatasetDict({name: eager(part) for name, part in data.items()})
    if isinstance(data, dict):
        return {name: eager(part) for name, part in data.items()}
    if type(data) is not Dataset:
        return data
    data = copy.copy(data)
    data.__class__ = EagerColumns
    return data


FILES = datasets.Image(decode=False)
JUDGEMENTS = ("relevant_docs", "top_ranked")  # of retrieval, beside corpus and queries


class Gallery:
    """The images of data sets by what stands for them in their columns.

    mteb hands a column of images on row by row, and each would be decoded anew for every layer and
    every classifier. Here an image is decoded once, when it is first asked for: a classifier is
    trained on few of the images that there are.
    """

    def __init__(self) -> None:
        self._columns: list[tuple[Dataset, str]] = []
        self._images: dict[str, Image] = {}

    def keep(self, data: Any, name: str) -> Any:
        """The same data with columns of strings in place of images; name: of data, in messages."""
        if isinstance(data, dict):
            images = {k: part for k, part in data.items() if k not in JUDGEMENTS}
            parts = {k: self.keep(part, f"{name}, {k}") for k, part in images.items()}
            return DatasetDict(parts) if isinstance(data, DatasetDict) else {**data, **parts}
        if not isinstance(data, Dataset):
            return data
        for column, feature in data.features.items():
            if isinstance(feature, datasets.Image):
                files = data.select_columns(column).cast_column(column, FILES)
                references = [f"{len(self._columns)}:{row}" for row in range(len(data))]
                self._columns.append((files, name))
                data = data.remove_columns(column).add_column(column, references)
        return data

    def __getitem__(self, reference: str) -> Image:
        """The image that a string in a column stands for.

        Raises UserError for what is no image, naming its file, or data and row.
        """
        if reference not in self._images:
            number, row = map(int, reference.split(":"))
            data, name = self._columns[number]
            self._images[reference] = _of_row(data, row, f"{name}, row {row + 1}")
        return self._images[reference]


def _of_row(files: Dataset, row: int, name: str) -> Image:
    """The image of a row of a data set's one column; its bytes stay where the data have them."""
    file = _file(files, row)
    if isinstance(file, Path):
        return Image.of(file)
    return Image.derived(key_of(opened(file, name)), lambda: opened(_file(files, row), name), name)


def _file(files: Dataset, row: int) -> Path | bytes:
    (cell,) = files[row].values()
    cell = cell or {}
    return cell.get("bytes") or (Path(cell["path"]) if cell.get("path") else b"")


_SCORING = {function.value: function for function in ScoringFunction}


def model_meta(view: ModelView, experiment: Mapping[str, Any], modality: Modality) -> ModelMeta:
    """mteb's record of a view; a layer is an experiment of the model."""
    return ModelMeta.create_empty(
        overwrites={
            "name": fitting(view.name.replace(":", "/")),
            "revision": view.revision,
            "similarity_fn_name": _SCORING.get(view.similarity),
            "experiment_kwargs": dict(experiment) or None,
            "modalities": [modality],
        }
    )


class LayerEncoder(AbsEncoder):
    """mteb's encoder protocol over a model view, which looks texts up where it has them.

    task: whose prompts texts get; None: those of the task that mteb evaluates. gallery: of what
    reads images, where those are that columns of strings stand for.
    """

    def __init__(
        self, view: ModelView, task: Task | None = None, gallery: Gallery | None = None
    ) -> None:
        self.view, self.task, self.gallery = view, task, gallery
        modality: Modality = "text" if gallery is None else "image"
        self.mteb_model_meta = model_meta(view, view.experiments[0], modality)
        self._pairs = SimilarityFunction.to_similarity_pairwise_fn(view.similarity)
        self._all = SimilarityFunction.to_similarity_fn(view.similarity)

    def encode(
        self,
        inputs: Any,
        *,
        task_metadata: Any = None,
        prompt_type: PromptType | None = None,
        precision: str = "float32",
        **kwargs: Any,
    ) -> Array:
        """Embeddings (n, d) float32 of all texts or images of the loader, in order.

        Raises UserError for another precision, which mteb would name in its results.
        """
        if precision != "float32":
            raise UserError(f"precision {precision}: layers are given in float32 only")
        if self.gallery is None:
            texts = _texts(inputs)
        else:
            references = self.gallery.keep(inputs.dataset, "mteb's data")["image"]
            texts = [self.gallery[reference] for reference in references]
        task = self.task or _task(task_metadata)
        vectors = self.view.encode(texts, task, prompt_type.value if prompt_type else None)
        # as mteb's wrappers of image models do: its classifiers are then fitted in float64
        return vectors if self.gallery is None else torch.from_numpy(vectors)

    def similarity(self, embeddings1: Array, embeddings2: Array) -> Array:
        """All pairs, compared as the model compares."""
        return self._all(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Array, embeddings2: Array) -> Array:
        """Row by row, compared as the model compares."""
        return self._pairs(embeddings1, embeddings2)


def _texts(inputs: Any) -> list[str]:
    """The texts of a loader, in order: at once where it hands rows on as the data have them."""
    data = getattr(inputs, "dataset", None)
    if isinstance(data, Dataset) and _as_they_are(inputs):
        columns = data.data.columns
        if "text" in data.column_names and not any(column.null_count for column in columns):
            return list(data["text"][:])
    return [text for batch in inputs for text in batch["text"]]


def _as_they_are(loader: Any) -> bool:
    """Whether a loader is as mteb makes them: all rows, in order, put together by torch or mteb."""
    batches = loader.batch_sampler
    ordered = type(batches) is BatchSampler and type(batches.sampler) is SequentialSampler
    whole = ordered and not batches.drop_last
    return whole and loader.collate_fn.__module__.partition(".")[0] in ("torch", "mteb")


def _task(about: Any) -> Task:
    """What prompts go by of a task, out of mteb's metadata."""
    return Task(about.name, texts=list, evaluate=None, type=about.type, prompt=about.prompt)
