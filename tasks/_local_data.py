"""Task data from a local folder, in mteb's columns: DIR/TASK/SPLIT.jsonl.

Rows may have the columns of the data set on the hub, which the task's own preparation then turns
into mteb's, or those of mteb's task type already.

Retrieval and reranking: DIR/TASK/corpus.jsonl (id, text, optional title), queries.jsonl (id, text),
qrels.jsonl (query-id, corpus-id, score) and, for reranking, top_ranked.jsonl (query-id,
corpus-ids); each also under DIR/TASK/SPLIT/. Tasks with several languages: DIR/TASK/SUBSET/...
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lrd_harness.errors import UserError

Row = dict[str, Any]


def read_rows(path: Path, columns: Iterable[str]) -> list[Row]:
    """The rows of a JSON lines file.

    Raises UserError that names file and row for a row that is no JSON object or lacks a column.
    """
    rows: list[Row] = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, row {number}: not JSON ({error.msg})") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}, row {number}: not a JSON object")
        lacking = [c for c in columns if row.get(c) is None]
        if lacking:
            raise UserError(f"{path}, row {number}: no '{lacking[0]}'")
        rows.append(row)
    if not rows:
        raise UserError(f"{path}: no rows")
    return rows


def load(task: Any, folder: Path) -> None:
    """Put the folder's data into a mteb task object, as its own loader would have.

    Raises UserError for a missing file, a malformed row (file and row named) and data that the
    task's own transformation does not take.
    """
    from datasets import DatasetDict
    from mteb.abstasks.retrieval import AbsTaskRetrieval

    subsets = {s: folder / s if (folder / s).is_dir() else folder for s in task.hf_subsets}
    retrieval = isinstance(task, AbsTaskRetrieval)
    old_reranking = retrieval and not any(folder.rglob("corpus.jsonl"))
    if old_reranking:
        given = DatasetDict(_splits(task, folder, ("query", "positive", "negative")))
        task.transform_old_dataset_format(given)
    elif retrieval:
        task.dataset = {
            s: {split: _retrieval(where, split) for split in task.eval_splits}
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
    try:
        task.dataset_transform()
    except Exception as error:
        task.dataset = given
        if not _is_final(task):
            raise UserError(
                f"{folder}: mteb's own preparation of {task.metadata.name} does not take these "
                f"data ({type(error).__name__}: {error})"
            ) from None


def _is_final(task: Any) -> bool:
    data = task.dataset
    data = data[task.hf_subsets[0]] if task.hf_subsets[0] in data else data
    return all(set(_columns(task)) <= set(data[s].column_names) for s in task.eval_splits)


def _columns(task: Any) -> list[str]:
    """The columns that the task's type needs in every row."""
    names = (
        ["column_names"],
        ["input1_column_name", "input2_column_name", "label_column_name"],
        ["input_column_name", "label_column_name"],
        ["text_column_name", "human_summaries_column_name", "machine_summaries_column_name"],
    )
    for group in names:
        if all(hasattr(task, name) for name in group):
            values = [getattr(task, name) for name in group]
            flat = [c for v in values for c in ([v] if isinstance(v, str) else list(v))]
            return [*flat, "score"] if group == ["column_names"] else flat
    return []


def _splits(task: Any, folder: Path, columns: Iterable[str]) -> dict[str, Any]:
    from datasets import Dataset

    needed = set(task.eval_splits)
    if hasattr(task, "train_split") and not getattr(task, "is_cross_validation", False):
        needed.add(task.train_split)
    for split in sorted(needed):
        if not (folder / f"{split}.jsonl").is_file():
            raise UserError(f"{folder}: no {split}.jsonl, which {task.metadata.name} needs")
    final = set(columns)
    splits = {}
    for file in sorted(folder.glob("*.jsonl")):
        first = set(read_rows(file, ())[0])
        splits[file.stem] = Dataset.from_list(read_rows(file, final if final <= first else first))
    return splits


def _retrieval(folder: Path, split: str) -> dict[str, Any]:
    from datasets import Dataset

    def file(name: str) -> Path:
        return folder / split / name if (folder / split / name).is_file() else folder / name

    corpus = read_rows(file("corpus.jsonl"), ["id", "text"])
    queries = read_rows(file("queries.jsonl"), ["id", "text"])
    relevant: dict[str, dict[str, int]] = {}
    known_queries, known_documents = {r["id"] for r in queries}, {r["id"] for r in corpus}
    qrels = file("qrels.jsonl")
    for number, row in enumerate(read_rows(qrels, ["query-id", "corpus-id", "score"]), 1):
        if row["query-id"] not in known_queries or row["corpus-id"] not in known_documents:
            raise UserError(f"{qrels}, row {number}: names an id that is in neither file")
        relevant.setdefault(row["query-id"], {})[row["corpus-id"]] = int(row["score"])
    ranked = None
    if file("top_ranked.jsonl").is_file():
        rows = read_rows(file("top_ranked.jsonl"), ["query-id", "corpus-ids"])
        ranked = {row["query-id"]: row["corpus-ids"] for row in rows}
    return {
        "corpus": Dataset.from_list([{"title": "", **row} for row in corpus]),
        "queries": Dataset.from_list(queries),
        "relevant_docs": relevant,
        "top_ranked": ranked,
    }
