"""Where the libraries keep their own files when the user's home cannot be written.

As in containers and on nodes of a cluster: importing mteb makes a folder in the home, and downloads
go there. What the user has set stays; so does a hub cache that is there and can be read.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from lrd_harness.files import named

FOLDER = "home"  # in the cache folder


def redirect() -> None:
    """Have libraries that would write into a home without that right write into our cache.

    To be called before they are imported, as they read these variables then. Does nothing where
    our own cache cannot be made either, which is said when it is needed.
    """
    from lrd_harness.cache import cache_dir
    from lrd_harness.errors import UserError

    places = _places()
    barred = {name: path for name, path in places.items() if not _is_writable(path)}
    if not barred and _home() is not None:
        return
    try:
        own = cache_dir() / FOLDER
        own.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError, UserError):
        return
    if _home() is None:  # nobody's: "~" stands for no folder, and mteb asks for it in any case
        os.environ["HOME"] = str(own)
    for name, path in barred.items():
        os.environ[name] = str(own / path.name)


def _home() -> Path | None:
    try:
        return Path.home()
    except RuntimeError:
        return None


def _places() -> dict[str, Path]:
    """By variable, where its library writes; only variables that the user has not set."""
    home = _home() or Path("~").absolute() / "none"
    cached = os.environ.get("XDG_CACHE_HOME")
    caches = Path(cached) if cached else home / ".cache"
    config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    hub = named(os.environ.get("HF_HOME") or str(caches / "huggingface"))
    found = {
        "MTEB_CACHE": home / ".cache" / "mteb",
        "HF_DATASETS_CACHE": hub / "datasets",
        "HF_MODULES_CACHE": hub / "modules",
        "HF_ASSETS_CACHE": hub / "assets",
        "HF_XET_CACHE": hub / "xet",
        "HF_METRICS_CACHE": hub / "metrics",
        "HF_EVALUATE_CACHE": hub / "evaluate",
        "TORCH_HOME": caches / "torch",
        "TRITON_CACHE_DIR": home / ".triton" / "cache",
        "MPLCONFIGDIR": config / "matplotlib",
        "NUMBA_CACHE_DIR": caches / "numba",
        "NLTK_DATA": home / "nltk_data",
        "SACREBLEU": home / ".sacrebleu",
        "PIP_CACHE_DIR": caches / "pip",
    }
    if not _holds_something(hub / "hub"):
        found["HF_HOME"] = hub
    return {name: path for name, path in found.items() if not os.environ.get(name)}


def _holds_something(folder: Path) -> bool:
    with suppress(OSError):
        return any(folder.iterdir())
    return False


def _is_writable(path: Path) -> bool:
    """Whether files can be made in a folder, or the folder itself; tried, and nothing is left.

    What the permissions say is not enough: a file system may be for reading alone, or be none.
    """
    for there in (path, *path.parents):
        try:
            if there.is_dir():
                break
            if there.exists() or there.is_symlink():
                return False
        except OSError:
            return False
    if not os.access(there, os.W_OK | os.X_OK):
        return False
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".lrd-harness-", dir=there))
    except OSError:
        return False
    return True
