"""Where plugins' code is called: whatever it does costs that plugin alone, and is named.

`guarded` wraps each callable of a record once, when the record is registered, so that no place that
calls one needs to know whose it is.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import sys
import traceback
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

from lrd_harness import isolation
from lrd_harness.contracts import Checkpoint
from lrd_harness.errors import (
    Elsewhere,
    PluginFault,
    StorageFull,
    UnitError,
    UserError,
    described,
    message,
)
from lrd_harness.report import Report

if TYPE_CHECKING:
    import torch

MOST = 160  # characters of what was raised: file and line follow, and are not to be cut off
MACHINERY = (__file__, isolation.__file__, contextlib.__file__)
IMPORT = "plugin"  # the role of what is imported


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
        return self._line([*traceback.walk_tb(error.__traceback__)], function)

    def raised(self, error: BaseException) -> bool:
        """Whether a line of this plugin's own code raised it."""
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        return bool(frames) and self._has(Path(frames[-1].f_code.co_filename))

    def reached(self, frame: FrameType | None, function: object = None) -> str:
        """Where in this plugin's code a call is that goes on in this frame, likewise."""
        frames = list(traceback.walk_stack(frame)) if frame is not None else []
        return self._line(frames[::-1], function)

    def _line(self, frames: list[tuple[FrameType, int]], function: object) -> str:
        files = [(Path(frame.f_code.co_filename), line) for frame, line in frames]
        lines = [(file, n) for file, n in files if self._has(file)]
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
    lends: bool = False,
) -> Callable[..., Any]:
    """The function, with `guard` around each call of it.

    checked: makes of an answer what the core works with; what it raises is the plugin's fault.
    passing: further errors that the contract allows; printing: it is to print, as a command is.
    lends: a stranger gets copies of the arguments (see `lent`), and may not write to arrays.
    """

    @functools.wraps(function)
    def call(*arguments: Any, **keywords: Any) -> Any:
        lend = lent if lends and not owner.built_in else Loan
        *loans, named = [lend(value) for value in (*arguments, keywords)]
        with guard(owner, role, function, passing, printing):
            answer = function(*(loan.value for loan in loans), **named.value)
            answer = answer if checked is None else checked(answer)
            if any(loan.written() for loan in (*loans, named)):
                raise TypeError("it writes to its input, and has to work on a copy")
            return answer

    return call


class Loan(NamedTuple):
    """A value for a stranger; written(): whether it has changed an array of it."""

    value: Any
    written: Callable[[], bool] = lambda: False


def lent(value: Any) -> Loan:
    """What a stranger gets in place of a value, so that what it writes reaches nobody else.

    Lists and mappings are copied with the arrays in them, a Report or Checkpoint whole; States,
    which are read one by one, say by their method `lent` how that is done.
    """
    if hasattr(value, "lent"):
        loan: Loan = value.lent()
        return loan
    kind = type(value)
    if kind in (list, tuple, dict):
        parts = [lent(part) for part in (value.values() if kind is dict else value)]
        given = [part.value for part in parts]
        copied = dict(zip(value, given, strict=True)) if kind is dict else kind(given)
        return Loan(copied, lambda: any(part.written() for part in parts))
    if kind.__name__ == "Tensor":
        tensor = value.detach().clone()
        return Loan(tensor, lambda: not tensor.equal(value))
    if kind.__name__ == "ndarray":
        array = value.copy()
        return Loan(array, lambda: array.tobytes() != value.tobytes())
    return Loan(copy.deepcopy(value) if isinstance(value, (Report, Checkpoint)) else value)


class Watch:
    """Sees whether a stranger writes to tensors that are made for it one by one, and not kept.

    In place by torch that is seen of each of them; through numpy, which leaves no trace, of the
    one that was handed over last.
    """

    def __init__(self) -> None:
        self._counters: list[tuple[torch.Tensor, int]] = []
        self._last: tuple[torch.Tensor, int] | None = None
        self._written = False

    def hand_over(self, tensor: torch.Tensor, source: object) -> torch.Tensor:
        """The tensor, or a copy where it shares the memory of what it was made from."""
        self._written = self.written()
        if type(source) is type(tensor) and source.data_ptr() == tensor.data_ptr():
            tensor = tensor.clone()
        counter = tensor.detach()  # shares the count of writes
        counter.data = tensor.new_empty(0)
        self._counters.append((counter, counter._version))
        self._last = tensor, _checksum(tensor)
        return tensor

    def written(self) -> bool:
        """Whether any has been written to, as far as that is seen."""
        if self._last is not None and _checksum(self._last[0]) != self._last[1]:
            return True
        return self._written or any(t._version != count for t, count in self._counters)


def _checksum(tensor: torch.Tensor) -> int:
    """Of what numpy may write to."""
    return zlib.crc32(tensor.contiguous().numpy().data) if tensor.device.type == "cpu" else 0


@contextmanager
def guard(
    owner: Owner,
    role: str,
    function: object = None,
    passing: tuple[type[Exception], ...] = (),
    printing: bool = False,
) -> Iterator[None]:
    """Within the block runs a plugin's code, which can neither end nor move the process.

    A stranger's output goes to standard error, what it changes of the process is put back, a call
    that takes long is named, and interrupted at the limit (see isolation). printing: what it prints
    is shown, and it takes its time.
    Raises PluginFault for whatever it raises but errors that say themselves what they mean (those
    of lrd_harness.errors), memory that does not suffice, and KeyboardInterrupt. Of built-in code
    errors pass as they are, and only what is no Exception (sys.exit, a panic in a library) is a
    fault.
    """
    try:
        if owner.built_in:
            yield
        elif printing:
            with _beside(owner), isolation.apart(printing=True):
                yield
        else:
            place = functools.partial(owner.reached, function=function)
            with (
                _beside(owner),
                isolation.apart(importing=role == IMPORT),
                isolation.watched(role, place, MACHINERY),
            ):
                yield
    except BaseException as error:
        if _passes(error, owner, passing):
            raise
        raise PluginFault(described(error, MOST), owner.place(error, function), role) from error


@contextmanager
def _beside(owner: Owner) -> Iterator[None]:
    """Within the block the files beside a plugin that is a file can be imported."""
    folder = str(owner.root.parent) if owner.root and owner.root == owner.file else ""
    if added := folder and folder not in sys.path:
        sys.path.append(folder)
    try:
        yield
    finally:
        if added and folder in sys.path:
            sys.path.remove(folder)


def _passes(error: BaseException, owner: Owner, passing: tuple[type[Exception], ...]) -> bool:
    if isinstance(error, KeyboardInterrupt):
        return True
    if isinstance(error, (PluginFault, StorageFull, Elsewhere)):  # ours, unless it made them up
        return not owner.raised(error)
    if isinstance(error, isolation.TimedOut):  # of the stranger who called what is built in
        return owner.built_in
    if not isinstance(error, Exception) or message(error) is None:
        return False
    if owner.built_in or isinstance(error, (UserError, UnitError, *passing)):
        return True
    if "torch" not in sys.modules:
        return False
    from accelerate.utils.memory import should_reduce_batch_size

    return bool(should_reduce_batch_size(error))


def _code(function: object) -> Any:
    """The code of a function, a method, a partial or an object that can be called."""
    with suppress(Exception):
        function = inspect.unwrap(function)  # type: ignore[arg-type]
        while isinstance(function, functools.partial):
            function = inspect.unwrap(function.func)
        code = getattr(function, "__code__", None)
        return code if code is not None else type(function).__call__.__code__
    return None
