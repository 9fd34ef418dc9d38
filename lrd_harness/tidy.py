"""A command's values in files of one's choice: NAME.csv, one value a row, and NAME.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lrd_harness import csv_cells, portable
from lrd_harness.documents import json_value, read_file
from lrd_harness.errors import UserError
from lrd_harness.files import write_text

MADE_BY = "made_by"


def made_by(name: str) -> str:
    """What a JSON file of a command says of its origin."""
    return f"lrd-harness {name}"


def check_free(folder: Path, name: str, columns: Sequence[str]) -> None:
    """Raise UserError where the files cannot be written, or would replace somebody else's.

    Files of the same command are written over.
    """
    if not folder.is_dir():
        if folder.exists() or folder.is_symlink():
            raise UserError(f"{folder} is a file, not a folder")
        return
    ours = {".csv": _is_csv, ".json": _is_json}
    for suffix, is_ours in ours.items():
        path = folder / f"{name}{suffix}"
        if (path.exists() or path.is_symlink()) and not is_ours(path, name, columns):
            raise UserError(f"{path} is there already and was not made by lrd-harness {name}")


def _is_csv(path: Path, name: str, columns: Sequence[str]) -> bool:
    try:
        with path.open(encoding="utf-8") as file:
            return file.readline().rstrip("\n") == ",".join(columns)
    except (OSError, UnicodeDecodeError):
        return False


def _is_json(path: Path, name: str, columns: Sequence[str]) -> bool:
    try:
        found = json_value(read_file(path))
    except (UserError, ValueError):
        return False
    return isinstance(found, dict) and found.get(MADE_BY) == made_by(name)


def write(
    folder: Path,
    name: str,
    columns: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    record: Mapping[str, Any],
) -> None:
    """Write both files; the JSON holds `record` and the rows as `values`.

    Paths in its `errors` are cut to names.

    None is an empty cell. Raises UserError where the folder cannot be written to.
    """
    errors = [_portable(error) for error in record.get("errors", ())]
    record = {**record, "errors": errors} if errors else record
    whole = {MADE_BY: made_by(name), **record, "values": list(rows)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / f"{name}.csv", csv_cells.written_rows(columns, rows))
        described = json.dumps(whole, indent=1, ensure_ascii=False, allow_nan=False, default=str)
        write_text(folder / f"{name}.json", described + "\n")
    except OSError as error:
        raise UserError(f"{folder} cannot be written to ({error.strerror})") from None


def _portable(error: Any) -> Any:
    """An error, a text or fields of one, without folders."""
    if isinstance(error, Mapping):
        return {name: _portable(value) for name, value in error.items()}
    return portable.text(error) if isinstance(error, str) else error
