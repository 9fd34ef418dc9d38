"""Where downloads and states are kept between runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from lrd_harness.errors import UserError

VARIABLE = "LRD_HARNESS_CACHE"


def cache_dir() -> Path:
    """The cache folder, made if need be: $LRD_HARNESS_CACHE, or one in the user's own cache.

    Raises UserError if it cannot be made.
    """
    named = os.environ.get(VARIABLE)
    folder = Path(named).expanduser().absolute() if named else _users() / "lrd-harness"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"the cache folder {folder} cannot be made ({error.strerror}); "
            f"set {VARIABLE} to another one"
        ) from error
    return folder


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
