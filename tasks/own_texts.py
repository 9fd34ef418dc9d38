"""Own unlabelled texts: `texts:FILE.jsonl`, for metrics without scores."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

from lrd_harness.contracts import Request, Task, TaskFamily, TaskOptions
from lrd_harness.errors import UserError
from lrd_harness.hookspecs import hookimpl

from ._rows import read_rows


def open_file(name: str, options: TaskOptions) -> Task:
    """The texts of a file: JSON lines with a `text`, or plain lines.

    Raises UserError for a file that is not there or a row without text (file and row named).
    """
    path = Path(name).expanduser()

    @functools.cache
    def texts() -> Sequence[Request]:
        if path.suffix == ".jsonl":
            return [Request(row["text"]) for _, row in read_rows(path, {"text": "a text"})]
        try:
            lines = path.read_text(encoding="utf-8-sig").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: cannot be read ({error})") from None
        found = [Request(line.rstrip("\r")) for line in lines if line.strip()]
        if not found:
            raise UserError(f"{path}: no texts")
        return found

    def check() -> None:
        if not path.is_file():
            raise UserError(f"{path}: no such file")
        texts()

    return Task(
        name=f"texts:{name}",
        texts=texts,
        evaluate=None,
        description=f"texts of {path.name}, without labels",
        check=check,
        fingerprint=lambda: hashlib.sha256(path.read_bytes()).hexdigest()[:16],
    )


@hookimpl
def lrd_tasks() -> list[TaskFamily]:
    """Texts from a file."""
    return [TaskFamily("texts", names=dict, open=open_file)]
