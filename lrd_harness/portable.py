"""What is kept in OUT says nothing of where things lie on the user's machine, where a name serves.

OUT is shared: with colleagues, in papers' supplements. Absolute paths in it help nobody there, and
tell names of people and projects.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_PART = r"[^/\s'\"<>|:;,()\[\]{}]"
_ABSOLUTE = re.compile(rf"(?<![\w/.~$-])/(?!/)(?:{_PART}+/)+({_PART}*)")
_TYPED = re.compile(r"([\w-]+:|--[\w-]+=)?(/.+)", re.DOTALL)  # texts:FILE, --output=DIR


def place(path: Path | str) -> str:
    """A path as it is kept: from the working folder if it lies there, else the name alone."""
    found = Path(os.path.abspath(path))
    here = Path.cwd()
    inside = here != Path(here.anchor) and found.is_relative_to(here)
    return found.relative_to(here).as_posix() if inside else found.name


def word(typed: str) -> str:
    """A word of a command line; an absolute path in it as `place` has it."""
    match = _TYPED.fullmatch(typed)
    return f"{match[1] or ''}{place(match[2])}" if match else typed


def text(said: str) -> str:
    """A message or traceback: modules from where they are imported, other files by their names."""
    for folder in _roots():
        said = said.replace(folder, "")
    return _ABSOLUTE.sub(lambda match: match[1] or match[0].rstrip("/").rpartition("/")[2], said)


def values(held: Any) -> Any:
    """Nested mappings and lists, with paths of what is there as `place` has them."""
    if isinstance(held, Mapping):
        return {key: values(value) for key, value in held.items()}
    if isinstance(held, list):
        return [values(value) for value in held]
    is_path = isinstance(held, str) and os.path.isabs(held) and os.path.exists(held)
    return place(held) if is_path else held


def mark(path: Path | str) -> str:
    """What tells a place from another without naming it."""
    return hashlib.sha256(str(path).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _roots() -> list[str]:
    """Folders that need no name, the longest first."""
    own = str(Path(__file__).parent.parent)
    modules = [own, *(entry for entry in sys.path if os.path.isabs(entry))]
    found = {f"{folder.rstrip(os.sep)}{os.sep}" for folder in (*modules, os.getcwd())}
    return sorted((folder for folder in found if len(folder) > 1), key=len, reverse=True)
