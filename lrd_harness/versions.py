"""Versions of the interface that plugins are made for, and of their own code; names that go."""

from __future__ import annotations

import ast
import hashlib
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES, PathFinder
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

from lrd_harness.errors import PluginFault, plain, say

if TYPE_CHECKING:
    from lrd_harness.guard import Owner

INTERFACE = 1  # raised when a plugin that was made for the one before may no longer work
NAME = "lrd_interface"  # under which a plugin's module says which one it is made for


class Deprecated(NamedTuple):
    """What to write for an old name, and the first interface that is without it."""

    new: str
    gone: int


# What plugins are told to give up: "lrd_harness.NAME" to import, "RECORD.FIELD", or said in words.
# An entry stays when its name is gone: plugins made for an older interface are told what changed.
START = "the score `start`"
DEPRECATED = {START: Deprecated("Profile(of, start, values) for each list", 2)}
_said: set[tuple[str, str]] = set()
_sources: dict[Path, tuple[object, bytes]] = {}  # by file beside a plugin's: its import, its code


def deprecated(old: str, place: str) -> Deprecated:
    """What to write for an old name; the user is told once for each place that uses it."""
    entry = DEPRECATED[old]
    if (old, place) not in _said:
        _said.add((old, place))
        goes = f"goes with plugin interface {entry.gone}"
        say(plain(f"{place} uses {old}, which {goes}: write {entry.new}"))
    return entry


def caller(frame: FrameType | None) -> str:
    """The file and line from which the package is used, "mine.py, line 3"."""
    own = str(Path(__file__).parent)
    while frame is not None and frame.f_code.co_filename.startswith((own, "<frozen importlib")):
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}, line {frame.f_lineno}" if frame else "a plugin"


def imported(load: Callable[[], Any]) -> Any:
    """A plugin that is made for this interface.

    Raises PluginFault for one that is made for another, also where it cannot be imported for that
    reason; what `load` raises.
    """
    try:
        plugin = load()
    except Exception as error:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if frame.f_code.co_name == "<module>":
                _check(_stated(Path(frame.f_code.co_filename)))
        raise
    check_interface(plugin)
    return plugin


def check_interface(plugin: object) -> None:
    """Raise PluginFault for a module, or object, that says it is made for another interface.

    An object may leave it to the module of its class. What says nothing is made for the first.
    """
    module = sys.modules.get(type(plugin).__module__)
    _check(getattr(plugin, NAME, getattr(module, NAME, 1)))


def _stated(file: Path) -> Any:
    """What the source of a module says in one assignment, without running it; by default 1."""
    with suppress(OSError, SyntaxError, ValueError):
        for node in ast.parse(file.read_bytes()).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == NAME:
                return ast.literal_eval(node.value)
    return 1


def _check(made: Any) -> None:
    if type(made) is not int or made < 1:
        raise PluginFault(f"its {NAME} is {ascii(made)[:60]}, not a whole number from 1")
    if made == INTERFACE:
        return
    said = f"it is made for plugin interface {made}, and this lrd-harness has {INTERFACE}"
    if made > INTERFACE:
        raise PluginFault(f"{said}: upgrade lrd-harness")
    entries = [(old, entry) for old, entry in DEPRECATED.items() if made < entry.gone <= INTERFACE]
    steps = [f"write {entry.new} in place of {old}" for old, entry in entries]
    raise PluginFault(f"{said}: {', '.join([*steps, f'then {NAME} = {INTERFACE}'])}")


def version_of(plugin: object, owner: Owner, distribution: str = "") -> str:
    """The version of a stranger's code, part of the identity of every value that it has a part in.

    distribution: its version, if it is installed. Behind it goes a hash of the plugin's own code:
    all of its package, or its file and those beside it that it imports; where these lie does not
    matter. It is taken once for each import, since code that was edited later is not what runs.
    """
    module = plugin if hasattr(plugin, "__spec__") else sys.modules.get(type(plugin).__module__)
    spec = getattr(module, "__spec__", None)
    known = getattr(spec, "lrd_code", None)
    if known is None:
        known = _code(owner.root)
        if spec is not None:
            spec.lrd_code = known
    return ".".join(filter(None, (distribution, known)))


def _code(root: Path | None) -> str:
    """A short hash of a plugin's code; "" where there is no file, as in a notebook."""
    try:
        if root is None:
            return ""
        if not root.is_dir():
            files = list(dict.fromkeys(_beside(root, [])))
        else:
            suffixes = (*SOURCE_SUFFIXES, *EXTENSION_SUFFIXES)
            files = sorted(path for path in root.rglob("*") if path.name.endswith(suffixes))
        beside = files[1:] if root.is_file() else []
        contents = [_source(path) if path in beside else path.read_bytes() for path in files]
    except (OSError, SyntaxError, ValueError):
        return ""
    if len(contents) == 1:
        return hashlib.sha256(contents[0]).hexdigest()[:8]
    whole = hashlib.sha256()
    for path, content in zip(files, contents, strict=True):
        name = path.name if root not in path.parents else path.relative_to(root).as_posix()
        name = "" if path == root else name  # it may be renamed
        whole.update(f"{name}\n{hashlib.sha256(content).hexdigest()}\n".encode())
    return whole.hexdigest()[:8]


def _beside(file: Path, above: list[Path]) -> Iterator[Path]:
    """A file, and those in its folder that it imports, at once or when it is called, and so on."""
    yield file
    for other in _imported(file):
        loaded = getattr(sys.modules.get(other.stem), "__file__", None) or other
        if Path(loaded).resolve() == other.resolve() and other not in (file, *above):
            yield from _beside(other, [*above, file])


def check_beside(file: Path) -> None:
    """Raise ImportError where a file in another folder is in the way of one that it imports."""
    for other in _imported(file):
        module = sys.modules.get(other.stem)
        spec = None if module else PathFinder.find_spec(other.stem)
        name = getattr(module, "__file__", None) or (spec and spec.origin)
        installed = {*Path(name or "").parents} & {Path(sys.prefix), Path(sys.base_prefix)}
        if name and not installed and Path(name).resolve() != other.resolve():
            raise ImportError(f"{other.name} beside it is hidden by {name}: rename one of the two")


def _imported(file: Path) -> Iterator[Path]:
    """The files beside this one of names that it imports."""
    for node in ast.walk(ast.parse(file.read_bytes() if file.suffix == ".py" else b"")):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        yield from filter(Path.is_file, (file.with_name(f"{name}.py") for name in names))


def _source(file: Path) -> bytes:
    """What a file held when it was imported, which is what runs, as far as that was seen."""
    spec: object = getattr(sys.modules.get(file.stem), "__spec__", None)
    before, source = _sources.get(file, (spec, b""))
    same = before is spec or before is None  # or imported since
    if file not in _sources or spec is None or not same:
        source = file.read_bytes()
    _sources[file] = spec, source
    return source
