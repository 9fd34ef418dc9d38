"""Task data from a local folder, in the hub's columns or in those of mteb's task type already.

DIR/TASK/SPLIT.jsonl, for retrieval and reranking corpus, queries, qrels and top_ranked.jsonl, each
also under DIR/TASK/SPLIT/; of tasks with several languages DIR/TASK/SUBSET/... Rows of tasks on
images name files, relative to the folder that the rows are in; or DIR/TASK/SPLIT/CLASS/FILE, or
DIR/TASK/CLASS/FILE: a classification is then trained on one half of each class and tested on the
other.
"""

from __future__ import annotations

import os.path
import random
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from lrd_harness.tasks.own_images import image_files
from lrd_harness.tasks.rows import (
    CLASS,
    FILE,
    GROUP,
    KINDS,
    ONE_CLASS,
    PAIR_LABEL,
    RELEVANCE,
    first_row,
    read_rows,
)

from lrd_harness.errors import UserError

SEED = 42  # of the halves of classes
Row = dict[str, Any]
LABELS = {"Regression": "a number", "Clustering": GROUP}
LABELLED = {CLASS, ONE_CLASS, GROUP, PAIR_LABEL, "a number", "a list of numbers"}

QUERY = {"query": "a text", "positive": "a text or a list of texts"}
QUERY["negative"] = QUERY["positive"]


def load(task: Any, folder: Path) -> None:
    """Put the folder's data into a mteb task object, as its own loader would have.

    Columns of corpus.jsonl: id, text, optional title; queries.jsonl: id, text; qrels.jsonl:
    query-id, corpus-id, score; top_ranked.jsonl, for reranking: query-id, corpus-ids.
    Raises UserError for a missing file, a malformed row (file and row named) and data that the
    task's own transformation does not take.
    """
    from datasets import DatasetDict
    from mteb.abstasks.retrieval import AbsTaskRetrieval

    subsets = {s: folder / s if (folder / s).is_dir() else folder for s in task.hf_subsets}
    retrieval = isinstance(task, AbsTaskRetrieval)
    files = {path.name for path in folder.rglob("*.jsonl")}
    if task.metadata.type == "Reranking" and files and "corpus.jsonl" not in files:
        task.transform_old_dataset_format(DatasetDict(_splits(task, folder, QUERY)))
    elif retrieval:
        task.dataset = {
            s: {split: _retrieval(task, where, split) for split in task.eval_splits}
            for s, where in subsets.items()
        }
    else:
        columns = _columns(task)
        loaded = {s: DatasetDict(_splits(task, f, columns)) for s, f in subsets.items()}
        task.dataset = loaded if task.metadata.is_multilingual else loaded[task.hf_subsets[0]]
    _prepare(task, folder)
    task.data_loaded = True


def _prepare(task: Any, folder: Path) -> None:
    """The task's own preparation, where the data are not in its final columns already."""
    columns, before, fault = _columns(task), task.dataset, None
    try:
        task.dataset_transform()
    except Exception as error:
        task.dataset, fault = before, error
    for split, data in evaluated(task) if columns else ():
        file = f"{folder / split}.jsonl"
        for column in columns:
            if column not in data.column_names:
                why = f", nor does mteb's own preparation take it ({fault!r})" if fault else ""
                raise UserError(f"{file}, row 1: no '{column}'{why}")
        # Labels and scores are of their kind also where mteb's preparation has made them.
        for column, kind in columns.items():
            for number, value in enumerate(data[column] if kind in LABELLED else (), 1):
                if not KINDS[kind](value):
                    wrong = f"'{column}', as mteb prepares it, is not {kind}"
                    raise UserError(f"{file}: {wrong} in row {number}")


def evaluated(task: Any) -> Iterator[tuple[str, Any]]:
    """The splits that a mteb task is evaluated on, of each subset: name and data."""
    for subset in task.hf_subsets:
        data = task.dataset[subset] if subset in task.dataset else task.dataset
        for split in task.eval_splits:
            yield split, data[split]


def _columns(task: Any) -> dict[str, str]:
    """The columns that the task's type needs in every row, and the kind of each."""
    images = _of_images(task)
    texts, text = (FILE, FILE) if images else ("a text or a list of texts", "a text")
    if hasattr(task, "human_summaries_column_name"):
        return {
            task.text_column_name: "a text",
            task.human_summaries_column_name: texts,
            task.machine_summaries_column_name: texts,
            task.relevancy_column_name: "a list of numbers",
        }
    if hasattr(task, "input1_column_name"):
        named = (task.input1_column_name, task.input2_column_name)
        return {**dict.fromkeys(named, texts), task.label_column_name: PAIR_LABEL}
    if hasattr(task, "input_column_name"):
        kind = ONE_CLASS if images and not _multilabel(task) else CLASS
        kind = LABELS.get(task.metadata.type, kind)
        return {task.input_column_name: texts, task.label_column_name: kind}
    if hasattr(task, "column_names"):
        return {**dict.fromkeys(task.column_names, text), "score": "a number"}
    return {}


def _splits(task: Any, folder: Path, columns: Mapping[str, str]) -> dict[str, Any]:
    needed = set(task.eval_splits)
    if hasattr(task, "train_split") and not getattr(task, "is_cross_validation", False):
        needed.add(task.train_split)
    images = [column for column, kind in columns.items() if kind == FILE]
    classes = ONE_CLASS in columns.values()
    if classes and not any((folder / f"{split}.jsonl").is_file() for split in needed):
        splits = _by_class(task, folder, sorted(needed))
    else:
        splits = _by_split(task, folder, needed, columns, images)
    if classes:
        _number_classes(task, folder, {split: splits[split] for split in needed})
    return {
        split: _dataset(folder / f"{split}.jsonl", rows, images) for split, rows in splits.items()
    }


def _by_split(
    task: Any,
    folder: Path,
    needed: Iterable[str],
    columns: Mapping[str, str],
    images: Sequence[str],
) -> dict[str, list[Row]]:
    """The rows of every file of rows, by its name."""
    for split in sorted(needed):
        if not (folder / f"{split}.jsonl").is_file():
            raise UserError(f"{folder}: no {split}.jsonl, which {task.metadata.name} needs")
    splits = {}
    for file in sorted(folder.glob("*.jsonl")):
        # the hub's own columns, where they are not mteb's: whatever the first row has
        first = dict.fromkeys(first_row(file), "anything")
        rows = read_rows(file, columns if images or columns.keys() <= first.keys() else first)
        _check_lengths(task, file, rows)
        splits[file.stem] = [_placed(row, images, file, number) for number, row in rows]
    return splits


def _check_lengths(task: Any, file: Path, rows: list[tuple[int, dict[str, Any]]]) -> None:
    """Lists that belong together, as texts and their labels, are equally long."""
    for texts, labels in (
        ("input_column_name", "label_column_name"),
        ("input1_column_name", "label_column_name"),
        ("machine_summaries_column_name", "relevancy_column_name"),
    ):
        a, b = getattr(task, texts, ""), getattr(task, labels, "")
        for number, row in rows:
            left, right = row.get(a), row.get(b)
            if isinstance(left, list) and isinstance(right, list) and len(left) != len(right):
                raise UserError(f"{file}, row {number}: {len(left)} '{a}' but {len(right)} '{b}'")


def _dataset(file: Path, rows: Iterable[dict[str, Any]], images: Sequence[str] = ()) -> Any:
    from datasets import Dataset, Image

    try:
        data = Dataset.from_list(list(rows))
        for column in images:
            data = data.cast_column(column, Image())
        return data
    except (ValueError, TypeError, OverflowError) as error:  # pyarrow's are among them
        raise UserError(f"{file}: {str(error).splitlines()[0]}") from None


def _retrieval(task: Any, folder: Path, split: str) -> dict[str, Any]:
    def file(name: str) -> Path:
        return folder / split / name if (folder / split / name).is_file() else folder / name

    images = ["image"] if _of_images(task) else []
    corpus, queries = (_by_id(file(f"{part}.jsonl"), images) for part in ("corpus", "queries"))
    relevant: dict[str, dict[str, int]] = {}
    qrels = file("qrels.jsonl")
    judged = {"query-id": "an id", "corpus-id": "an id", "score": RELEVANCE}
    for number, row in read_rows(qrels, judged):
        query, document, score = str(row["query-id"]), str(row["corpus-id"]), int(row["score"])
        _check_ids(qrels, number, [query], queries, "queries")
        _check_ids(qrels, number, [document], corpus, "corpus")
        before = relevant.setdefault(query, {}).setdefault(document, score)
        if before != score:
            raise UserError(
                f"{qrels}, row {number}: '{document}' for '{query}' has the score {before} "
                "in a row before"
            )
    ranked: dict[str, list[str]] | None = None
    candidates = file("top_ranked.jsonl")
    if candidates.is_file():
        ranked = {}
        listed = {"query-id": "an id", "corpus-ids": "a list of ids"}
        for number, row in read_rows(candidates, listed):
            query, documents = str(row["query-id"]), [str(d) for d in row["corpus-ids"]]
            _check_ids(candidates, number, [query], queries, "queries")
            _check_ids(candidates, number, documents, corpus, "corpus")
            if query in ranked:
                raise UserError(f"{candidates}, row {number}: query '{query}' is there twice")
            ranked[query] = documents
    elif task.metadata.type == "Reranking":
        raise UserError(f"{folder}: no top_ranked.jsonl, which {task.metadata.name} needs")
    return {
        "corpus": _dataset(file("corpus.jsonl"), corpus.values(), images),
        "queries": _dataset(file("queries.jsonl"), queries.values(), images),
        "relevant_docs": relevant,
        "top_ranked": ranked,
    }


def _by_id(file: Path, images: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Documents or queries by id, which is text in mteb and may be spelt `_id`."""
    rows: dict[str, dict[str, Any]] = {}
    name = "_id" if "_id" in first_row(file) else "id"
    content = dict.fromkeys(images, FILE) or {"text": "a text"}
    for number, row in read_rows(file, {name: "an id", **content}):
        key = str(row.pop(name))
        if key in rows:
            raise UserError(f"{file}, row {number}: id '{key}' is there twice")
        title = {"title": row.get("title") or ""} if file.stem == "corpus" and not images else {}
        rows[key] = {**_placed(row, images, file, number), "id": key, **title}
    return rows


def _check_ids(file: Path, number: int, ids: Iterable[str], known: Container[str], of: str) -> None:
    for identifier in ids:
        if identifier not in known:
            raise UserError(f"{file}, row {number}: id '{identifier}' is not in {of}.jsonl")


def _of_images(task: Any) -> bool:
    return bool(task.metadata.modalities == ["image"])


def _multilabel(task: Any) -> bool:
    """Whether an image may have several labels."""
    from mteb.abstasks import AbsTaskMultilabelClassification

    return isinstance(task, AbsTaskMultilabelClassification)


def _placed(row: Row, images: Iterable[str], rows: Path, number: int) -> Row:
    """A row of the file `rows` with whole paths in place of the names of its images.

    Raises UserError, with file and row, for a name that leads out of the file's folder, and for
    one of no file.
    """
    placed = dict(row)
    for column in images:
        name = os.path.normpath(row[column])
        placed[column] = str(rows.parent / name)
        if os.path.isabs(name) or name.split(os.sep)[0] == os.pardir:
            raise UserError(
                f"{rows}, row {number}: '{column}' leads out of the folder: {name:.120}"
            )
        if not os.path.isfile(placed[column]):
            raise UserError(f"{rows}, row {number}: '{column}' names no file: {name:.120}")
    return placed


def _by_class(task: Any, folder: Path, needed: Sequence[str]) -> dict[str, list[Row]]:
    """Rows by split of a folder that has a folder for each class.

    Raises UserError for a split without classes and a class without images.
    """
    if any((folder / split).is_dir() for split in needed):
        found = {split: _classes(folder / split) for split in needed}
    else:
        found = _halves(_classes(folder), needed)
    image, label = task.input_column_name, task.label_column_name
    return {
        split: [{image: str(file), label: name} for name in classes for file in classes[name]]
        for split, classes in found.items()
    }


def _number_classes(task: Any, folder: Path, splits: Mapping[str, list[Row]]) -> None:
    """Put numbers in place of classes, in their order: mteb takes no names of clusters or of two.

    Raises UserError for one class alone, and for one tested but not trained.
    """
    label, train = task.label_column_name, getattr(task, "train_split", "")
    found = {split: {row[label] for row in rows} for split, rows in splits.items()}
    names = sorted(set().union(*found.values()), key=lambda name: (isinstance(name, str), name))
    if len(names) < 2:
        raise UserError(f"{folder}: one class alone, {names[0]}")
    if lacking := [name for name in names if name not in found.get(train, names)]:
        raise UserError(f"{folder / train}: no class {lacking[0]}, which is tested on")
    numbers = {name: number for number, name in enumerate(names)}
    for row in chain.from_iterable(splits.values()):
        row[label] = numbers[row[label]]


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
    return found


def _halves(
    classes: Mapping[str, list[Path]], splits: Sequence[str]
) -> dict[str, dict[str, list[Path]]]:
    """Of each class one half to be trained on and the other to be tested on, drawn with a seed.

    All is to be tested on where nothing is trained. Raises UserError for a class of one image.
    """
    if len(splits) == 1:
        return {splits[0]: dict(classes)}
    drawn = {}
    for name, files in classes.items():
        if len(files) < len(splits):
            raise UserError(
                f"{files[0].parent}: one image, which cannot be both trained and tested on"
            )
        drawn[name] = random.Random(SEED).sample(files, len(files))
    return {
        split: {name: sorted(files[i :: len(splits)]) for name, files in drawn.items()}
        for i, split in enumerate(splits)
    }
