"""From labelled rows to the columns of mteb tasks: seeded, balanced samples of distinct texts."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from . import data

Columns = Mapping[str, Any]
Answers = dict[str, list[str]]  # question -> its answers

# Topics whose questions have an answer that can be told from others; the rest is small talk.
TOPICS = (
    *("ai", "coding", "computers", "food", "history", "literature", "money", "movies"),
    *("politics", "science", "sports", "tech_support", "trivia"),
)
GROUPS = (
    *("comp.graphics", "misc.forsale", "rec.autos", "rec.sport.hockey", "sci.crypt", "sci.med"),
    *("sci.space", "soc.religion.christian", "talk.politics.guns", "talk.politics.mideast"),
)


def classification(rows: Sequence[data.Labelled], train: int, test: int, level: int = 0) -> Columns:
    """`train` and `test` texts of each label that has as many."""
    learned, tested = data.balanced(rows, (train, test), level)
    return _labelled(learned, tested, level)


def post_classification(train: int, test: int, words: int) -> Columns:
    """Newsgroup posts, trained on early ones and tested on later ones."""
    early, late = posts("train", words), posts("test", words)
    repeated = {data.key(row.text) for row in early}
    late = [row for row in late if data.key(row.text) not in repeated]
    return _labelled(data.balanced(early, (train,))[0], data.balanced(late, (test,))[0])


def post_clustering(groups: Sequence[str] | None, size: int, words: int) -> Columns:
    """`size` posts of each of these groups, None for all groups."""
    rows = [row for row in posts("test", words) if groups is None or row.labels[0] in groups]
    (sample,) = data.balanced(rows, (size,))
    labels = [row.labels[0] for row in sample]
    return {"test": {"sentences": [row.text for row in sample], "labels": labels}}


def posts(split: str, words: int) -> list[data.Labelled]:
    """Newsgroup posts of at least 20 words, cut to their first `words`."""
    return data.distinct(
        data.Labelled(data.cut(text, words), labels)
        for text, labels in data.newsgroups(split)
        if len(text.split()) >= 20
    )


def _labelled(
    train: Sequence[data.Labelled], test: Sequence[data.Labelled], level: int = 0
) -> Columns:
    """Columns text and label, the label as a number in alphabetical order."""
    names = sorted({row.labels[level] for row in train})
    return {
        split: {
            "text": [row.text for row in rows],
            "label": [names.index(row.labels[level]) for row in rows],
        }
        for split, rows in (("train", train), ("test", test))
    }


def similarity() -> Columns:
    """All pairs of different documents."""
    texts, matrix = data.lee()
    pairs = [(i, j) for i in range(len(texts)) for j in range(i + 1, len(texts))]
    return {
        "test": {
            "sentence1": [texts[i] for i, _ in pairs],
            "sentence2": [texts[j] for _, j in pairs],
            "score": [matrix[i][j] for i, j in pairs],
        }
    }


def _answers(per_topic: int | None) -> dict[str, Answers]:
    """topic -> question -> answers cut to 40 words, for `per_topic` questions of each topic."""
    spelling: dict[str, str] = {}  # one spelling of each text
    topics: dict[str, Answers] = defaultdict(dict)
    for topic, question, answer in data.chatterbot():
        if topic not in TOPICS and per_topic is not None:
            continue
        short = data.cut(answer, 40)
        asked = spelling.setdefault(data.key(question), question)
        said = spelling.setdefault(data.key(short), short)
        held = topics[topic].setdefault(asked, [])
        if said not in held:
            held.append(said)
    rng = random.Random(data.SEED)
    return {
        topic: {
            question: answers[question]
            for question in rng.sample(sorted(answers), min(per_topic or 10**6, len(answers)))
        }
        for topic, answers in sorted(topics.items())
    }


def ranking(per_topic: int | None) -> dict[str, Any]:
    """Questions as queries, answers as documents: ids -> texts, and which are relevant."""
    answers: Answers = defaultdict(list)
    for topic in _answers(per_topic).values():
        for question, said in topic.items():
            answers[question].extend(text for text in said if text not in answers[question])
    documents = list(dict.fromkeys(text for said in answers.values() for text in said))
    number = {text: f"d{i}" for i, text in enumerate(documents)}
    return {
        "corpus": {name: text for text, name in number.items()},
        "queries": {f"q{i}": question for i, question in enumerate(answers)},
        "relevant_docs": {
            f"q{i}": {number[text]: 1 for text in said} for i, said in enumerate(answers.values())
        },
    }


def reranking(per_topic: int, candidates: int) -> Columns:
    """The same, each question with its answers among `candidates` shuffled others."""
    made = ranking(per_topic)
    rng = random.Random(data.SEED)
    made["top_ranked"] = {}
    for query, relevant in made["relevant_docs"].items():
        others = [name for name in made["corpus"] if name not in relevant]
        shown = [*relevant, *rng.sample(others, candidates)]
        rng.shuffle(shown)  # ties favour the order
        made["top_ranked"][query] = shown
    return made


def pairs(per_topic: int) -> Columns:
    """Each question once with an answer to it (1) and once with another of its topic (0)."""
    rng = random.Random(data.SEED)
    rows = []
    for topic in _answers(per_topic).values():
        for question, said in topic.items():
            others = sorted({text for texts in topic.values() for text in texts} - set(said))
            if others:
                rows += [(question, said[0], 1), (question, rng.choice(others), 0)]
    rng.shuffle(rows)
    questions, answers, labels = (list(column) for column in zip(*rows, strict=True))
    return {"test": {"sentence1": questions, "sentence2": answers, "labels": labels}}
