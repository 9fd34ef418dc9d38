"""Where downloads and states are kept between runs, and how much of the states."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from lrd_harness import files, temporary
from lrd_harness.errors import UserError

VARIABLE = "LRD_HARNESS_CACHE"
LIMIT = "LRD_HARNESS_CACHE_LIMIT"
_LETTERS = "KMGT"
UNITS = {
    "": 1,
    "B": 1,
    **{f"{letter}B": 1000 ** (i + 1) for i, letter in enumerate(_LETTERS)},
    **{f"{letter}IB": 1024 ** (i + 1) for i, letter in enumerate(_LETTERS)},
}


def cache_dir() -> Path:
    """The cache folder: $LRD_HARNESS_CACHE, or one in the user's own cache; made if need be.

    What killed processes have left in it goes, and of small files; of others who uses them sees
    to that.
    Raises UserError if it cannot be made.
    """
    named = os.environ.get(VARIABLE)
    folder = files.named(named).absolute() if named else _users() / "lrd-harness"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"the cache folder {folder} cannot be made ({error.strerror}); "
            f"set {VARIABLE} to another one"
        ) from error
    for place in (folder, folder / "budgets", folder / "scripts"):
        temporary.sweep(place, older=temporary.AGE)
    return folder


def limit() -> int | None:
    """The bytes that states may take: $LRD_HARNESS_CACHE_LIMIT, as 200GB; None without a limit.

    Raises UserError for what is no size.
    """
    text = os.environ.get(LIMIT, "").strip()
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?I?B?)", text.upper() or "0")
    if match is None or _unit(match[2]) not in UNITS:
        raise UserError(f"{LIMIT} is '{text}', not a size such as 200GB, or 0 for no limit")
    return int(float(match[1]) * UNITS[_unit(match[2])]) or None


def shown(size: float) -> str:
    """A number of bytes for reading, as 1.2 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 99.5 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _unit(letters: str) -> str:
    """The unit with its B, which may be left out."""
    return letters if not letters or letters.endswith("B") else f"{letters}B"


def _users() -> Path:
    """The folder where this system keeps a user's caches."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return Path(local) if local else Path.home() / "AppData" / "Local"
    named = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification: a relative path is to be ignored.
    return Path(named) if Path(named).is_absolute() else Path.home() / ".cache"
