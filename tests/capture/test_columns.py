"""What mteb's evaluators are given in place of lazy columns and rows: the same values."""

from __future__ import annotations

import importlib
from typing import Any

import datasets
import numpy as np
import pytest
from sklearn.metrics import f1_score
from torch.utils.data import DataLoader, RandomSampler

encoder: Any = importlib.import_module("lrd_harness.capture.mteb_encoder")

COLUMNS: dict[str, list[Any]] = {
    "label": [3, 1, 2, 1, 0, 3],
    "score": [0.5, 1.0, 2.0, 1.5, 0.0, 3.0],
    "text": ["a", "b", "", "d e", "f", "g"],
    "several": [["a"], [], ["b", "c"], ["d"], [], ["e"]],
    "some": [1, None, 2, 3, 4, 5],
}
ROWS: list[tuple[str, Any]] = [
    ("in order", range(1, 4)),
    ("drawn", [4, 0, 0, 2]),
    ("none", []),
]


def kinds(column: list[Any]) -> list[type]:
    return [type(value) for value in column]


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("rows", [rows for _, rows in ROWS], ids=[name for name, _ in ROWS])
def test_a_column_of_selected_rows(rows: Any, column: str) -> None:
    plain = datasets.Dataset.from_dict(COLUMNS)
    eager = encoder.eager(plain)
    assert eager[column] == list(plain[column])
    chosen, again = eager.select(rows), eager.select(rows).select_columns([column])
    wanted = list(plain.select(rows)[column])
    assert chosen[column] == again[column] == wanted
    assert kinds(chosen[column]) == kinds(wanted)
    assert chosen[column] is chosen[column]
    twice = chosen.select([0]) if wanted else chosen
    assert twice[column] == wanted[:1]
    assert eager.select(iter(rows))[column] == eager.select(np.array(rows, int))[column] == wanted


def test_the_same_rows_are_known_again() -> None:
    """What mteb maps of them, as images, is a file of datasets' cache, and not one each time."""
    data = encoder.eager(datasets.Dataset.from_dict(COLUMNS))
    prints = [data.select(rows)._fingerprint for rows in ([1, 2], range(1, 3), iter([1, 2]))]
    assert len(set(prints)) == 1
    others = (data, data.select([2, 1]), data.select([1, 2]).select([1]), data.select([]))
    assert len({prints[0], *(other._fingerprint for other in others)}) == 5


def test_labels_are_one_array_that_nobody_changes() -> None:
    labels = encoder.eager(datasets.Dataset.from_dict(COLUMNS))["label"]
    array = np.asarray(labels)
    assert array.dtype == np.int64
    assert array.tolist() == COLUMNS["label"]
    assert np.asarray(labels, dtype=float).dtype == float
    changed = np.array(labels)
    changed[0] = 9
    assert np.asarray(labels)[0] == labels[0] == 3
    guessed = [3, 1, 1, 1, 0, 0]
    assert f1_score(labels, guessed, average="macro") == f1_score(
        COLUMNS["label"], guessed, average="macro"
    )


def test_the_texts_of_a_loader() -> None:
    data = datasets.Dataset.from_dict({"text": COLUMNS["text"], "id": COLUMNS["label"]})
    drawn = data.select([5, 0, 0])
    for rows in (data, drawn, encoder.eager(drawn)):
        assert encoder._texts(DataLoader(rows, batch_size=2)) == list(rows["text"])
    shuffled = DataLoader(data, batch_size=2, sampler=RandomSampler(data))
    assert sorted(encoder._texts(shuffled)) == sorted(COLUMNS["text"])
    batches = DataLoader(data, batch_sampler=[[3, 1], [0]])
    assert encoder._texts(batches) == [COLUMNS["text"][i] for i in (3, 1, 0)]
    assert len(encoder._texts(DataLoader(data, batch_size=4, drop_last=True))) == 4
    titled = DataLoader(data, collate_fn=lambda rows: {"text": [f"- {rows[0]['text']}"]})
    assert encoder._texts(titled)[0] == "- a"
    lists = DataLoader([{"text": "x"}, {"text": "y"}], batch_size=2)  # type: ignore[arg-type]
    assert encoder._texts(lists) == ["x", "y"]


def test_a_row_without_a_value_is_the_fault_that_it_is_for_mteb() -> None:
    data = datasets.Dataset.from_dict({"text": ["a", "b"], "title": [None, "t"]})
    with pytest.raises(TypeError, match="NoneType"):
        encoder._texts(DataLoader(data, batch_size=2))
