"""Own unlabelled texts: `texts:FILE`, for metrics without scores."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence

from lrd_harness.contracts import Request, Task, TaskFamily, TaskOptions
from lrd_harness.errors import UserError, named, plain
from lrd_harness.hookspecs import hookimpl

from .rows import is_table, read_texts

LONGEST = 150  # characters of a file's name in that of its task


def open_file(name: str, options: TaskOptions) -> Task:
    """The texts of a file: a column of a table, or plain lines.

    Raises UserError for a file that is not there or a row without text (file and row named).
    """
    path = named(name)
    if not name.strip():
        raise UserError("texts: names no file")

    @functools.cache
    def texts() -> Sequence[Request]:
        return [Request(text) for text in read_texts(path, options.text_column)]

    def check() -> None:
        if path.is_dir():
            raise UserError(f"{path} is a folder, not a file of texts")
        if not path.is_file():
            raise UserError(f"{path}: no such file")
        texts()

    def fingerprint() -> str:
        digest = hashlib.sha256(path.read_bytes())
        if is_table(path) and path.suffix != ".jsonl":  # such files were once read as lines
            digest.update(b"a table")
        if options.text_column != TaskOptions.text_column:
            digest.update(options.text_column.encode())
        return digest.hexdigest()[:16]

    shown = plain(path.name if path.is_absolute() else name)
    return Task(
        name=f"texts:{shown if len(shown) <= LONGEST else shown[-LONGEST:]}",
        place=f"texts:{name}",
        texts=texts,
        evaluate=None,
        description=f"texts of {path.name}, without labels",
        check=check,
        fingerprint=fingerprint,
    )


@hookimpl
def lrd_tasks() -> list[TaskFamily]:
    """Texts from a file."""
    return [TaskFamily("texts", names=dict, open=open_file)]
