"""Built-in tasks that need no hub: real labelled texts out of registry packages, scored by mteb.

Samples are seeded and balanced, texts distinct and long ones cut at a word; the quickstart's tasks
together are small enough to be read by a model on two cores in a minute or two.
"""

from __future__ import annotations

from collections.abc import Sequence

from lrd_harness.tasks.embedding.mteb_tasks import wrap

from lrd_harness.contracts import Task
from lrd_harness.hookspecs import hookimpl

from . import columns, data
from .mteb_objects import Offline

QUICKSTART = (
    "TrecQuestionClassification",
    "NewsgroupPostsClustering",
    "LeeDocumentSTS",
    "ChatterbotRetrieval",
)

_TREC = "https://aclanthology.org/C02-1150/"
_NEWSGROUPS = "http://qwone.com/~jason/20Newsgroups/"
_CHATTERBOT = "https://github.com/gunthercox/chatterbot-corpus"


def _all_documents(documents: int) -> dict[str, int | None]:
    """Attributes that make mteb cluster as many documents as there are, not 4 % of them."""
    return {"max_fraction_of_documents_to_embed": None, "max_documents_per_cluster": documents}


OFFLINE = (
    Offline(
        "TrecQuestionClassification",
        "Classification",
        data.TREC,
        "What kind of answer a TREC question asks for, 6 kinds.",
        lambda: columns.classification(data.trec(), train=24, test=50),
        domains=("Encyclopaedic", "Written"),
        reference=_TREC,
    ),
    Offline(
        "TrecQuestionFineClassification",
        "Classification",
        data.TREC,
        "What kind of answer a TREC question asks for, the fine kinds with 40 questions or more.",
        lambda: columns.classification(data.trec(), train=16, test=24, level=1),
        domains=("Encyclopaedic", "Written"),
        reference=_TREC,
    ),
    Offline(
        "MovieReviewSentencesClassification",
        "Classification",
        data.REVIEWS,
        "Whether a sentence of a Rotten Tomatoes review speaks for or against the film.",
        lambda: columns.classification(data.reviews(), train=200, test=400),
        domains=("Reviews", "Written"),
        reference="https://aclanthology.org/P05-1015/",
        attributes={"samples_per_label": 64},
    ),
    Offline(
        "NewsgroupPostsClassification",
        "Classification",
        data.NEWSGROUPS,
        "The newsgroup, one of 20, of the first 100 words of a post; tested on later posts.",
        lambda: columns.post_classification(train=16, test=40, words=100),
        domains=("Social", "Web", "Written"),
        reference=_NEWSGROUPS,
    ),
    Offline(
        "NewsgroupPostsClustering",
        "Clustering",
        data.NEWSGROUPS,
        "The first 45 words of 300 posts of 10 newsgroups.",
        lambda: columns.post_clustering(columns.GROUPS, size=30, words=45),
        domains=("Social", "Web", "Written"),
        reference=_NEWSGROUPS,
        attributes=_all_documents(300),
    ),
    Offline(
        "NewsgroupPostsClusteringFull",
        "Clustering",
        data.NEWSGROUPS,
        "The first 200 words of 4,000 posts of 20 newsgroups.",
        lambda: columns.post_clustering(None, size=200, words=200),
        domains=("Social", "Web", "Written"),
        reference=_NEWSGROUPS,
        attributes=_all_documents(4000),
    ),
    Offline(
        "LeeDocumentSTS",
        "STS",
        data.LEE,
        "How alike people find 50 short news documents (Lee, Pincombe and Welsh 2005).",
        columns.similarity,
        domains=("News", "Written"),
        attributes={"min_score": 0, "max_score": 1},
    ),
    Offline(
        "ChatterbotRetrieval",
        "Retrieval",
        data.CHATTERBOT,
        "Find the answers to questions on 13 topics, up to 25 questions each.",
        lambda: columns.ranking(per_topic=25),
        domains=("Encyclopaedic", "Written"),
        reference=_CHATTERBOT,
        licence="bsd-3-clause",
    ),
    Offline(
        "ChatterbotRetrievalFull",
        "Retrieval",
        data.CHATTERBOT,
        "Find the answers to all questions of 21 topics, small talk included.",
        lambda: columns.ranking(per_topic=None),
        domains=("Encyclopaedic", "Written"),
        reference=_CHATTERBOT,
        licence="bsd-3-clause",
    ),
    Offline(
        "ChatterbotReranking",
        "Reranking",
        data.CHATTERBOT,
        "Tell the answers to a question from 19 other questions' answers.",
        lambda: columns.reranking(per_topic=25, candidates=19),
        domains=("Encyclopaedic", "Written"),
        reference=_CHATTERBOT,
        licence="bsd-3-clause",
    ),
    Offline(
        "ChatterbotPairClassification",
        "PairClassification",
        data.CHATTERBOT,
        "Whether a text answers a question or another question of the same topic.",
        lambda: columns.pairs(per_topic=25),
        domains=("Encyclopaedic", "Written"),
        reference=_CHATTERBOT,
        licence="bsd-3-clause",
    ),
)


@hookimpl
def lrd_tasks() -> Sequence[Task]:
    """One task a data set; its package is downloaded when the task is checked or loaded."""
    return [
        wrap(task.make, name=task.name, type=task.type, description=task.description)
        for task in OFFLINE
    ]
