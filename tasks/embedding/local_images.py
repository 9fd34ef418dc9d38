"""Images of a task in a local folder: those that rows name, or a folder for each class.

DIR/TASK/SPLIT/CLASS/FILE, or DIR/TASK/CLASS/FILE: a classification is then trained on one half of
each class and tested on the other.
"""

from __future__ import annotations

import os.path
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lrd_harness.tasks.own_images import image_files

from lrd_harness.errors import UserError, say

SEED = 42
Row = dict[str, Any]
Splits = dict[str, dict[str, list[Path]]]  # files by split and class


def columns(task: Any) -> tuple[str, ...]:
    """The columns of a mteb task that hold images; none of a task on texts."""
    if task.metadata.modalities != ["image"]:
        return ()
    if hasattr(task, "column_names"):
        return tuple(task.column_names)
    return (getattr(task, "input_column_name", "image"),)


def multilabel(task: Any) -> bool:
    """Whether an image may have several labels."""
    from mteb.abstasks import AbsTaskMultilabelClassification

    return isinstance(task, AbsTaskMultilabelClassification)


def number(rows: Iterable[Row], label: str) -> None:
    """Put numbers in place of labels, in their order: mteb's clusters of images are numbered."""
    names = sorted({row[label] for row in rows})
    for row in rows:
        row[label] = names.index(row[label])


def place(row: Row, images: Iterable[str], rows: Path, number: int) -> Row:
    """A row of the file `rows` with whole paths in place of the names of its images.

    Raises UserError, with file and row, for a name that leads out of the file's folder, and for
    one of no file.
    """
    placed = dict(row)
    for column in (column for column in images if column in row):
        name = os.path.normpath(row[column])
        placed[column] = str(rows.parent / name)
        if os.path.isabs(name) or name.split(os.sep)[0] == os.pardir:
            raise UserError(
                f"{rows}, row {number}: '{column}' leads out of the folder: {name:.120}"
            )
        if not os.path.isfile(placed[column]):
            raise UserError(f"{rows}, row {number}: '{column}' names no file: {name:.120}")
    return placed


def by_class(task: Any, folder: Path, splits: Iterable[str]) -> dict[str, list[Row]] | None:
    """Rows by split, where the folder has a folder for each class; None where it has rows.

    Classes are numbered in the order of their names. Raises UserError for a split without classes,
    a class without images, and one to be told apart that there is nothing to learn of.
    """
    needed = sorted(splits)
    rows = any((folder / f"{split}.jsonl").is_file() for split in needed)
    if rows or not hasattr(task, "input_column_name") or multilabel(task):
        return None
    if any((folder / split).is_dir() for split in needed):
        found = {split: _classes(folder / split) for split in needed}
    else:
        found = _halves(_classes(folder), needed)
    names = sorted({name for classes in found.values() for name in classes})
    if len(names) < 2:
        raise UserError(f"{folder}: one class alone, {names[0]}")
    trained = found.get(getattr(task, "train_split", ""), names)
    if lacking := [name for name in names if name not in trained]:
        raise UserError(f"{folder / task.train_split}: no class {lacking[0]}, which is tested on")
    column = columns(task)[0]
    return {
        split: [
            {column: str(file), task.label_column_name: names.index(name)}
            for name, files in classes.items()
            for file in files
        ]
        for split, classes in found.items()
    }


def _classes(folder: Path) -> dict[str, list[Path]]:
    """The images of each class, by name; says what other files there are."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder, nor {folder.name}.jsonl beside it")
    shown = (path for path in sorted(folder.iterdir()) if path.name[0] != ".")
    found = {path.name: image_files(path) for path in shown if path.is_dir()}
    if not found:
        raise UserError(
            f"{folder}: no {folder.name}.jsonl beside it and no folders of classes in it"
        )
    for name, (files, others) in found.items():
        if others:
            say(f"{folder / name}: files left out that are no images: {len(others):,}")
        if not files:
            raise UserError(f"{folder / name}: no images")
    return {name: files for name, (files, _) in found.items()}


def _halves(classes: Mapping[str, list[Path]], splits: Sequence[str]) -> Splits:
    """Of each class one half to be trained on and the other to be tested on, drawn with a seed.

    All is to be tested on where nothing is trained. Raises UserError for a class of one image.
    """
    if len(splits) == 1:
        return {splits[0]: dict(classes)}
    halves: Splits = {split: {} for split in splits}
    for name, files in classes.items():
        if len(files) < len(splits):
            raise UserError(
                f"{files[0].parent}: one image, which cannot be both trained and tested on"
            )
        drawn = random.Random(SEED).sample(files, len(files))
        for i, split in enumerate(splits):
            halves[split][name] = sorted(drawn[i :: len(splits)])
    return halves
