"""Task data from a local folder, in mteb's columns: DIR/TASK/SPLIT.jsonl.

Rows may have the columns of the data set on the hub, which the task's own preparation then turns
into mteb's, or those of mteb's task type already.

Retrieval and reranking: DIR/TASK/corpus.jsonl (id, text, optional title), queries.jsonl (id, text),
qrels.jsonl (query-id, corpus-id, score) and, for reranking, top_ranked.jsonl (query-id,
corpus-ids); each also under DIR/TASK/SPLIT/. Tasks with several languages: DIR/TASK/SUBSET/...
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lrd_harness.tasks.rows import CLASS, GROUP, KINDS, PAIR_LABEL, RELEVANCE, first_row, read_rows

from lrd_harness.errors import UserError

LABELS = {"Regression": "a number", "Clustering": GROUP}
LABELLED = {CLASS, GROUP, PAIR_LABEL, "a number", "a list of numbers"}

QUERY = {"query": "a text", "positive": "a text or a list of texts"}
QUERY["negative"] = QUERY["positive"]


def load(task: Any, folder: Path) -> None:
    """Put the folder's data into a mteb task object, as its own loader would have.

    Raises UserError for a missing file, a malformed row (file and row named) and data that the
    task's own transformation does not take.
    """
    from datasets import DatasetDict
    from mteb.abstasks.retrieval import AbsTaskRetrieval

    subsets = {s: folder / s if (folder / s).is_dir() else folder for s in task.hf_subsets}
    retrieval = isinstance(task, AbsTaskRetrieval)
    old_reranking = (
        task.metadata.type == "Reranking"
        and not any(folder.rglob("corpus.jsonl"))
        and any(folder.rglob("*.jsonl"))
    )
    if old_reranking:
        given = DatasetDict(_splits(task, folder, QUERY))
        task.transform_old_dataset_format(given)
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
    given = task.dataset
    fault: Exception | None = None
    try:
        task.dataset_transform()
    except Exception as error:
        task.dataset, fault = given, error
    for split, data, column, _ in _read(task):
        if column not in data.column_names:
            why = f", nor does mteb's own preparation take it ({fault!r})" if fault else ""
            raise UserError(f"{folder / split}.jsonl, row 1: no '{column}'{why}")
    # Labels and scores are of their kind also where mteb's preparation has made them.
    for split, data, column, kind in _read(task):
        for number, value in enumerate(data[column] if kind in LABELLED else (), 1):
            if not KINDS[kind](value):
                raise UserError(
                    f"{folder / split}.jsonl: '{column}', as mteb prepares it, is not {kind} "
                    f"in row {number}"
                )


def _read(task: Any) -> Iterator[tuple[str, Any, str, str]]:
    """What its evaluation reads: a split, the data of it, a column and its kind."""
    columns = _columns(task)
    for subset in task.hf_subsets:
        data = task.dataset[subset] if subset in task.dataset else task.dataset
        for split in task.eval_splits:
            for column, kind in columns.items():
                yield split, data[split], column, kind


def _columns(task: Any) -> dict[str, str]:
    """The columns that the task's type needs in every row, and the kind of each."""
    texts = "a text or a list of texts"
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
        kind = LABELS.get(task.metadata.type, CLASS)
        return {task.input_column_name: texts, task.label_column_name: kind}
    if hasattr(task, "column_names"):
        return {**dict.fromkeys(task.column_names, "a text"), "score": "a number"}
    return {}


def _splits(task: Any, folder: Path, columns: Mapping[str, str]) -> dict[str, Any]:
    needed = set(task.eval_splits)
    if hasattr(task, "train_split") and not getattr(task, "is_cross_validation", False):
        needed.add(task.train_split)
    for split in sorted(needed):
        if not (folder / f"{split}.jsonl").is_file():
            raise UserError(f"{folder}: no {split}.jsonl, which {task.metadata.name} needs")
    splits = {}
    for file in sorted(folder.glob("*.jsonl")):
        # the hub's own columns, where they are not mteb's: whatever the first row has
        first = dict.fromkeys(first_row(file), "anything")
        rows = read_rows(file, columns if set(columns) <= set(first) else first)
        _check_lengths(task, file, rows)
        splits[file.stem] = _dataset(file, [row for _, row in rows])
    return splits


def _check_lengths(task: Any, file: Path, rows: list[tuple[int, dict[str, Any]]]) -> None:
    """Lists that belong together, as texts and their labels, are equally long."""
    pairs = [
        (getattr(task, a, None), getattr(task, b, None))
        for a, b in (
            ("input_column_name", "label_column_name"),
            ("input1_column_name", "label_column_name"),
            ("machine_summaries_column_name", "relevancy_column_name"),
        )
    ]
    for number, row in rows:
        for a, b in pairs:
            one, other = row.get(a or ""), row.get(b or "")
            if isinstance(one, list) and isinstance(other, list) and len(one) != len(other):
                raise UserError(f"{file}, row {number}: {len(one)} '{a}' but {len(other)} '{b}'")


def _dataset(file: Path, rows: list[dict[str, Any]]) -> Any:
    from datasets import Dataset

    try:
        return Dataset.from_list(rows)
    except (ValueError, TypeError, OverflowError) as error:  # pyarrow's are among them
        raise UserError(f"{file}: {str(error).splitlines()[0]}") from None


def _retrieval(task: Any, folder: Path, split: str) -> dict[str, Any]:
    def file(name: str) -> Path:
        return folder / split / name if (folder / split / name).is_file() else folder / name

    corpus = _by_id(file("corpus.jsonl"))
    queries = _by_id(file("queries.jsonl"))
    relevant: dict[str, dict[str, int]] = {}
    qrels = file("qrels.jsonl")
    judged = {"query-id": "an id", "corpus-id": "an id", "score": RELEVANCE}
    for number, row in read_rows(qrels, judged):
        query, document = str(row["query-id"]), str(row["corpus-id"])
        _check_ids(qrels, number, (queries, corpus), [query], [document])
        held = relevant.setdefault(query, {})
        if held.setdefault(document, int(row["score"])) != row["score"]:
            raise UserError(
                f"{qrels}, row {number}: '{document}' for '{query}' has the score {held[document]} "
                "in a row before"
            )
    ranked: dict[str, list[str]] | None = None
    candidates = file("top_ranked.jsonl")
    if candidates.is_file():
        ranked = {}
        listed = {"query-id": "an id", "corpus-ids": "a list of ids"}
        for number, row in read_rows(candidates, listed):
            query, documents = str(row["query-id"]), [str(d) for d in row["corpus-ids"]]
            _check_ids(candidates, number, (queries, corpus), [query], documents)
            if query in ranked:
                raise UserError(f"{candidates}, row {number}: query '{query}' is there twice")
            ranked[query] = documents
    elif task.metadata.type == "Reranking":
        raise UserError(f"{folder}: no top_ranked.jsonl, which {task.metadata.name} needs")
    return {
        "corpus": _dataset(file("corpus.jsonl"), list(corpus.values())),
        "queries": _dataset(file("queries.jsonl"), list(queries.values())),
        "relevant_docs": relevant,
        "top_ranked": ranked,
    }


def _by_id(file: Path) -> dict[str, dict[str, Any]]:
    """Documents or queries by id, which is text in mteb and may be spelt `_id`."""
    found: dict[str, dict[str, Any]] = {}
    name = "_id" if "_id" in first_row(file) else "id"
    for number, row in read_rows(file, {name: "an id", "text": "a text"}):
        key = str(row.pop(name))
        if key in found:
            raise UserError(f"{file}, row {number}: id '{key}' is there twice")
        title = {"title": row.get("title") or ""} if file.stem == "corpus" else {}
        found[key] = {**row, "id": key, **title}
    return found


def _check_ids(
    file: Path,
    number: int,
    known: tuple[Mapping[str, Any], Mapping[str, Any]],
    queries: list[str],
    documents: list[str],
) -> None:
    for there, asked, name in zip(known, (queries, documents), ("queries", "corpus"), strict=True):
        for key in asked:
            if key not in there:
                raise UserError(f"{file}, row {number}: id '{key}' is not in {name}.jsonl")
