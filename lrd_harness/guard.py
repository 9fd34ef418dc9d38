"""Where plugins' code is called: whatever it does costs that plugin alone, and is named.

`guarded` wraps each callable of a record once, when the record is registered, so that no place that
calls one needs to know whose it is.
"""

from __future__ import annotations

import functools
import inspect
import io
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrd_harness.errors import PluginFault, UnitError, UserError, described, message

MOST = 160  # characters of what was raised: file and line follow, and are not to be cut off
OUT, ERR = 1, 2  # the process's own descriptors


@dataclass(frozen=True)
class Owner:
    """Whose code it is. provider: as messages name it; file: of its module, if it has one.

    root: the file, or the folder of the package that it belongs to.
    """

    provider: str
    built_in: bool = False
    file: Path | None = None
    root: Path | None = None

    @classmethod
    def of(cls, plugin: object, provider: str, built_in: bool = False) -> Owner:
        """The owner of a plugin's code: a module, or an object of a class in one."""
        if not isinstance(getattr(plugin, "__file__", None), str):
            plugin = sys.modules.get(type(plugin).__module__)
        name = getattr(plugin, "__file__", None)
        if not isinstance(name, str):
            return cls(provider, built_in)
        file = root = Path(name)
        package = sys.modules.get(str(getattr(plugin, "__name__", "")).partition(".")[0])
        top = Path(getattr(package, "__file__", None) or "")
        if top.name == "__init__.py" and top.parent in file.parents:
            root = top.parent
        return cls(provider, built_in, file, root)

    def place(self, error: BaseException, function: object = None) -> str:
        """Where in this plugin's code something went wrong: "mine.py, line 3"; "" if unknown.

        That is the last line of its code in the traceback, else where the function begins.
        """
        walk = traceback.walk_tb(error.__traceback__)
        frames = [(Path(frame.f_code.co_filename), line) for frame, line in walk]
        lines = [(file, n) for file, n in frames if self._has(file)]
        if lines:
            return self._shown(*lines[-1])
        code = _code(function)
        return self._shown(Path(code.co_filename), code.co_firstlineno) if code else ""

    def _has(self, file: Path) -> bool:
        return self.root is not None and (file == self.root or self.root in file.parents)

    def _shown(self, file: Path, line: int) -> str:
        inside = self.root is not None and self.root in file.parents
        name = file.relative_to(self.root.parent) if inside and self.root else file.name
        return f"{name}, line {line}"


def guarded(
    function: Callable[..., Any],
    owner: Owner,
    role: str,
    checked: Callable[[Any], Any] | None = None,
    passing: tuple[type[Exception], ...] = (),
    printing: bool = False,
) -> Callable[..., Any]:
    """The function, with `Guard` around each call of it.

    checked: makes of an answer what the core works with; what it raises is the plugin's fault.
    passing: further errors that the contract allows; printing: it is to print, as a command is.
    """

    @functools.wraps(function)
    def call(*arguments: Any, **keywords: Any) -> Any:
        with guard(owner, role, function, passing, printing):
            answer = function(*arguments, **keywords)
            return answer if checked is None else checked(answer)

    return call


@contextmanager
def guard(
    owner: Owner,
    role: str,
    function: object = None,
    passing: tuple[type[Exception], ...] = (),
    printing: bool = False,
) -> Iterator[None]:
    """Within the block runs a plugin's code, which can neither end nor move the process.

    A stranger's output goes to standard error, and the working folder is again what it was.
    Raises PluginFault for whatever it raises but errors that say themselves what they mean (those
    of lrd_harness.errors), memory that does not suffice, and KeyboardInterrupt. Of built-in code
    errors pass as they are, and only what is no Exception (sys.exit, a panic in a library) is a
    fault.
    """
    try:
        if owner.built_in:
            yield
        else:
            with _apart(printing):
                yield
    except BaseException as error:
        if _passes(error, owner, passing):
            raise
        raise PluginFault(described(error, MOST), owner.place(error, function), role) from error


def _passes(error: BaseException, owner: Owner, passing: tuple[type[Exception], ...]) -> bool:
    if isinstance(error, (KeyboardInterrupt, PluginFault)):
        return True
    if not isinstance(error, Exception) or message(error) is None:
        return False
    if owner.built_in or isinstance(error, (UserError, UnitError, *passing)):
        return True
    if "torch" not in sys.modules:
        return False
    from accelerate.utils.memory import should_reduce_batch_size

    return bool(should_reduce_batch_size(error))


@contextmanager
def _apart(printing: bool) -> Iterator[None]:
    """What is printed goes to standard error, unless it is to; the working folder is kept."""
    folder = None
    with suppress(OSError):  # it may have been removed
        folder = os.getcwd()
    try:
        if printing:
            yield
        else:
            with _printing_elsewhere(), redirect_stdout(_Lent(sys.stderr)):
                yield
    finally:
        if folder is not None:
            with suppress(OSError):
                os.chdir(folder)


class _Lent(io.TextIOBase):
    """A stream that whoever has it cannot close."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def close(self) -> None:
        """Nothing."""

    def __getattribute__(self, name: str) -> Any:
        if name in ("close", "_stream", "__class__"):
            return super().__getattribute__(name)
        return getattr(super().__getattribute__("_stream"), name)


@contextmanager
def _printing_elsewhere() -> Iterator[None]:
    """For the process as a whole: its children, C libraries, and who kept sys.__stdout__."""
    _flush()
    try:
        output = os.dup(OUT)
    except OSError:  # there is none
        yield
        return
    try:
        with suppress(OSError):
            os.dup2(ERR, OUT)
        yield
    finally:
        _flush()
        os.dup2(output, OUT)
        os.close(output)


def _flush() -> None:
    for stream in (sys.stdout, sys.__stdout__):
        if stream is not None:
            with suppress(OSError, ValueError):
                stream.flush()


def _code(function: object) -> Any:
    """The code of a function, a method, a partial or an object that can be called."""
    with suppress(Exception):
        while isinstance(function, functools.partial):
            function = function.func
        function = inspect.unwrap(function)  # type: ignore[arg-type]
        code = getattr(function, "__code__", None)
        return code if code is not None else type(function).__call__.__code__
    return None
