"""Where downloads and states are kept between runs, and how paths are named in OUT.

OUT is shared with colleagues and in papers' supplements: absolute paths in it help nobody there,
and tell names of people and projects.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lrd_harness.errors import UserError, named
from lrd_harness.store import files

VARIABLE = "LRD_HARNESS_CACHE"
LIMIT = "LRD_HARNESS_CACHE_LIMIT"
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([KMGT])(I)?)?B?")


def cache_dir() -> Path:
    """The cache folder: $LRD_HARNESS_CACHE, or one in the user's own cache; made if need be.

    What killed processes have left in it goes, and of small files; of others who uses them sees
    to that.
    Raises UserError if it cannot be made.
    """
    variable = os.environ.get(VARIABLE)
    folder = named(variable).absolute() if variable else _users() / "lrd-harness"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"the cache folder {folder} cannot be made ({error.strerror}); "
            f"set {VARIABLE} to another one"
        ) from error
    for place in (folder, folder / "budgets", folder / "frames"):
        files.remove_leftovers(place)
    return folder


def limit() -> int | None:
    """The bytes that states may take: $LRD_HARNESS_CACHE_LIMIT, as 200GB; None without a limit.

    Raises UserError for what is no size.
    """
    text = os.environ.get(LIMIT, "").strip()
    match = _SIZE.fullmatch(text.upper() or "0")
    if match is None:
        raise UserError(f"{LIMIT} is '{text}', not a size such as 200GB, or 0 for no limit")
    number, letter, binary = match.groups()
    return int(float(number) * (1024 if binary else 1000) ** " KMGT".index(letter or " ")) or None


def shown(size: float) -> str:
    """A number of bytes for reading, as 1.2 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 99.5 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _users() -> Path:
    """The folder where this system keeps a user's caches."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return Path(local) if local else Path.home() / "AppData" / "Local"
    caches = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG specification: a relative path is to be ignored.
    return caches if caches.is_absolute() else Path.home() / ".cache"


FOLDER = "home"  # in the cache folder


def redirect() -> None:
    """Have libraries that would write into a home without that right write into our cache.

    As in containers and on nodes of a cluster: importing mteb makes a folder in the home, and
    downloads go there. What the user has set stays, and a hub cache that is there and readable.
    To be called before they are imported, as they read these variables then. Does nothing where
    our own cache cannot be made either, which is said when it is needed.
    """
    places = _places()
    barred = {name: path for name, path in places.items() if not _is_writable(path)}
    if not barred and _home() is not None:
        return
    try:
        instead = cache_dir() / FOLDER
        instead.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError, UserError):
        return
    if _home() is None:  # nobody's: "~" stands for no folder, and mteb asks for it in any case
        os.environ["HOME"] = str(instead)
    for name, path in barred.items():
        os.environ[name] = str(instead / path.name)


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
    places = {
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
        places["HF_HOME"] = hub
    return {name: path for name, path in places.items() if not os.environ.get(name)}


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


_PART = r"[^/\s'\"<>|:;,()\[\]{}]"
_ABSOLUTE = re.compile(rf"(?<![\w/.~$-])/(?!/)(?:{_PART}+/)+({_PART}*)")
_TYPED = re.compile(r"([\w-]+:|--[\w-]+=)?(/.+)", re.DOTALL)  # texts:FILE, --output=DIR


def place(path: Path | str) -> str:
    """A path as it is kept: from the working folder if it lies there, else the name alone."""
    whole, here = Path(os.path.abspath(path)), Path.cwd()
    inside = here != Path(here.anchor) and whole.is_relative_to(here)
    return whole.relative_to(here).as_posix() if inside else whole.name


def word(typed: str) -> str:
    """A word of a command line; an absolute path in it as `place` has it."""
    match = _TYPED.fullmatch(typed)
    return f"{match[1] or ''}{place(match[2])}" if match else typed


def text(message: str) -> str:
    """A message or traceback: modules from where they are imported, other files by their names."""
    package = str(Path(__file__).parent.parent)
    modules = (package, *(entry for entry in sys.path if os.path.isabs(entry)), os.getcwd())
    for folder in sorted({folder.rstrip(os.sep) for folder in modules} - {""}, key=len)[::-1]:
        message = message.replace(f"{folder}{os.sep}", "")
    return _ABSOLUTE.sub(lambda match: match[1] or match[0].rstrip("/").rpartition("/")[2], message)


def values(nested: Any, shown: Callable[[str], str]) -> Any:
    """Nested mappings and lists, with absolute paths as they are `shown`."""
    if isinstance(nested, Mapping):
        return {key: values(value, shown) for key, value in nested.items()}
    if isinstance(nested, list):
        return [values(value, shown) for value in nested]
    return shown(nested) if isinstance(nested, str) and os.path.isabs(nested) else nested


def mark(path: Path | str) -> str:
    """What tells a place from another without naming it."""
    return hashlib.sha256(str(path).encode("utf-8", "surrogateescape")).hexdigest()[:16]
