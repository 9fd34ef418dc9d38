"""One layer of a model as the encoder that mteb evaluates, and data whose columns are read once.

It imports mteb and datasets, so it is imported when the first task is evaluated.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from datasets import Dataset, DatasetDict
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ScoringFunction
from mteb.types import Array, PromptType
from sentence_transformers.util import SimilarityFunction

from lrd_harness.contracts import ModelView, Task
from lrd_harness.errors import UserError
from lrd_harness.store.folders import fitting


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
            kept[name] = list(super().__getitem__(key))
        return kept[name]


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


_SCORING = {function.value: function for function in ScoringFunction}


def model_meta(view: ModelView, experiment: Mapping[str, Any]) -> ModelMeta:
    """mteb's record of a view; a layer is an experiment of the model."""
    return ModelMeta.create_empty(
        overwrites={
            "name": fitting(view.name.replace(":", "/")),
            "revision": view.revision,
            "similarity_fn_name": _SCORING.get(view.similarity),
            "experiment_kwargs": dict(experiment) or None,
        }
    )


class LayerEncoder(AbsEncoder):
    """mteb's encoder protocol over a model view, which looks texts up where it has them.

    task: whose prompts texts get; None: those of the task that mteb evaluates.
    """

    def __init__(self, view: ModelView, task: Task | None = None) -> None:
        self.view, self.task = view, task
        self.mteb_model_meta = model_meta(view, view.experiments[0])
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
        """Embeddings (n, d) float32 of all texts of the loader, in order.

        Raises UserError for another precision, which mteb would name in its results.
        """
        if precision != "float32":
            raise UserError(f"precision {precision}: layers are given in float32 only")
        texts = [text for batch in inputs for text in batch["text"]]
        task = self.task or _task(task_metadata)
        return self.view.encode(texts, task, prompt_type.value if prompt_type else None)

    def similarity(self, embeddings1: Array, embeddings2: Array) -> Array:
        """All pairs, compared as the model compares."""
        return self._all(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Array, embeddings2: Array) -> Array:
        """Row by row, compared as the model compares."""
        return self._pairs(embeddings1, embeddings2)


def _task(about: Any) -> Task:
    """What prompts go by of a task, out of mteb's metadata."""
    return Task(about.name, texts=list, evaluate=None, type=about.type, prompt=about.prompt)
