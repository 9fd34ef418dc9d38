"""Files and JSON that others wrote: whatever is wrong with them is one fault, told in one line."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

from lrd_harness.errors import UserError


def read_file(path: Path) -> bytes:
    """The bytes of a file.

    Raises UserError for what is no file, as a folder or a pipe, which would be waited for; and for
    one that is not there or cannot be read.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UserError(f"{path} is no file{', but a folder' if path.is_dir() else ''}")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def json_value(text: str | bytes) -> Any:
    """What a JSON text says; NaN and Infinity are read, as Python does.

    Raises ValueError for anything else, also where it is nested too deeply, and for half of a
    surrogate pair, which no file can hold.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        found = json.loads(text)
        if "\\u" in text:
            json.dumps(found, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("holds half of a surrogate pair, which is no character") from None
    return found
