"""News of a village: a task with its data, a form that names the best model, and a command."""

import hashlib
import json
from pathlib import Path

from lrd_harness import Command, Reporter, Request, Score, Task, UserError, hookimpl

lrd_interface = 1
FILE = Path(__file__).with_name("news.jsonl")


def rows():
    return [json.loads(line) for line in FILE.read_text("utf-8").splitlines()]


def check():
    if not FILE.is_file():
        raise UserError(f"{FILE}: no such file")


def evaluate(view):
    """The share of texts whose nearest text is of their subject."""
    import numpy as np

    vectors = view.encode([row["text"] for row in rows()], VILLAGE)
    distances = np.linalg.norm(vectors[:, None] - vectors, axis=-1)
    np.fill_diagonal(distances, np.inf)
    subjects = np.array([row["subject"] for row in rows()])
    right = subjects[distances.argmin(1)] == subjects
    chance = float(np.mean([(subjects == s).sum() - 1 for s in subjects]) / (len(subjects) - 1))
    return Score(float(right.mean()), "accuracy", chance=chance)


VILLAGE = Task(
    "Village",
    lambda: [Request(row["text"]) for row in rows()],
    evaluate,
    type="Classification",
    description="news of a village, by subject",
    check=check,
    fingerprint=lambda: hashlib.sha256(FILE.read_bytes()).hexdigest()[:16],
    labels=lambda: [row["subject"] for row in rows()],
)


def write(report):
    """One line: the model of the first rank."""
    table = report.get("ranking")
    return f"Best: {table.rows[0]['model']}\n" if table and table.rows else ""


def run(arguments):
    news = [row for row in rows() if arguments.subject in (None, row["subject"])]
    if not news:
        raise UserError(f"no news on {arguments.subject}")
    print(f"{len(news)} news")


@hookimpl
def lrd_tasks():
    return [VILLAGE]


@hookimpl
def lrd_reporters():
    return [Reporter("best", write, suffix=".best", description="the best model in a line")]


@hookimpl
def lrd_commands():
    def arguments(parser):
        parser.add_argument("--subject", help="count those on one subject")

    return [Command("village-news", run, arguments, description="how many news there are")]
