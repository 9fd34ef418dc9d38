"""What a stranger's call cannot keep: the process is put back as it was, and its time is watched.

Threads that it starts, files that it removes and a process that it kills cannot be undone.
"""

from __future__ import annotations

import io
import os
import random
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import (
    ExitStack,
    contextmanager,
    redirect_stderr,
    redirect_stdout,
    suppress,
)
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from lrd_harness.errors import plain, say

OUT, ERR = 1, 2  # the process's own descriptors
MINUTE = 60.0  # seconds after which a call is named, each time
AGAIN = 1.0  # seconds until an interrupt that was caught comes again
Part = tuple[Callable[[], Any], Callable[[Any], Any]]  # of the process: what reads and what sets it
_limit: ContextVar[float | None] = ContextVar("limit", default=None)


class TimedOut(BaseException):
    """A call ran past the limit; no Exception, so that few plugins catch it."""


@contextmanager
def limited(seconds: float | None = None) -> Iterator[None]:
    """Within the block each call of a stranger takes so long at most, or what `limit` says."""
    token = _limit.set(None)
    try:
        limit(seconds)
        yield
    finally:
        _limit.reset(token)


def limit(seconds: float | None) -> None:
    """Let a stranger's calls take so long at most each; where that cannot be held, say so."""
    _limit.set(seconds)
    if seconds is not None and not _can_interrupt():
        say("--plugin-timeout: nothing is interrupted here, calls are only named each minute")


def _can_interrupt() -> bool:
    main = threading.current_thread() is threading.main_thread()
    return main and hasattr(signal, "setitimer")


@contextmanager
def timed(machinery: tuple[str, ...]) -> Iterator[None]:
    """Interrupt the block by TimedOut when its time is up, and each second from then on.

    A timer that ran before goes on; that of a guard around this one stands still meanwhile.
    machinery: files in whose own code nothing is raised, since they put things back.
    """
    seconds = _limit.get()
    if seconds is None or not _can_interrupt():
        yield
        return
    error = TimedOut(f"interrupted after {seconds} s, as --plugin-timeout says")
    rung = over = False

    def ring(number: int, frame: Any) -> None:
        nonlocal rung
        rung = True
        if not over and frame.f_code.co_filename not in machinery:
            raise error

    former, begun = signal.signal(signal.SIGALRM, ring), time.monotonic()
    left, again = signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        yield
    finally:
        over = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL if former is None else former)
        if left:
            ours = getattr(former, "__module__", None) == __name__
            spent = 0.0 if ours else time.monotonic() - begun
            signal.setitimer(signal.ITIMER_REAL, max(left - spent, 0.001), again)
    if rung:  # and was caught: what came back is of a call that was cut short, or it came too late
        raise error


@dataclass(eq=False)
class _Call:
    """A call that has not come back. place(frame): where in the plugin's code it is."""

    role: str
    place: Callable[[Any], str]
    thread: int = field(default_factory=threading.get_ident)
    begun: float = field(default_factory=time.monotonic)
    context: Context = field(default_factory=copy_context)  # in which somebody listens
    minutes: int = 0


_calls: list[_Call] = []
_watch = threading.Lock()  # taken once, by the thread that watches


@contextmanager
def watched(role: str, place: Callable[[Any], str]) -> Iterator[None]:
    """Name the call each minute until it comes back."""
    call = _Call(role, place)
    _calls.append(call)
    if _watch.acquire(blocking=False):
        threading.Thread(target=_name_calls, name="watch of plugins", daemon=True).start()
    try:
        yield
    finally:
        _calls.remove(call)


def _name_calls() -> None:
    while True:
        time.sleep(MINUTE / 60)
        for call in (*_calls,):
            minutes = int((time.monotonic() - call.begun) / MINUTE)
            if minutes > call.minutes:
                call.minutes = minutes
                with suppress(Exception):
                    place = call.place(sys._current_frames().get(call.thread))
                    where = f" ({place})" if place else ""
                    spent = f"{minutes} minute{'s' if minutes > 1 else ''}"
                    line = f"{call.role}{where} has been running for {spent}"
                    call.context.run(say, plain(line))


@contextmanager
def apart(printing: bool = False, importing: bool = False) -> Iterator[None]:
    """What the block changes of the process is put back; what it prints goes to standard error.

    printing: where it was to go. importing: what libraries set when they are imported, environment
    and shown warnings, stays.
    """
    loaded = "torch" in sys.modules
    before = [(get, put, get()) for get, put in _parts(importing)]
    with ExitStack() as stack:
        stack.enter_context(redirect_stderr(sys.stderr))
        if not printing:
            stack.enter_context(_printing_elsewhere())
            stack.enter_context(redirect_stdout(_Lent(sys.stderr)))
        if not importing:
            stack.enter_context(warnings.catch_warnings())
        try:
            yield
        finally:
            for get, put, value in before:
                with suppress(Exception):
                    if not _same(get(), value):
                        put(value)
            if not loaded and "torch" in sys.modules:  # as it is when nobody has changed it
                import torch

                torch.set_default_dtype(torch.float32)
                torch.set_grad_enabled(True)


def _parts(importing: bool) -> Iterator[Part]:
    """What of the process is put back; of a library only once somebody has loaded it."""
    yield _folder, os.chdir
    yield random.getstate, random.setstate
    yield sys.getrecursionlimit, sys.setrecursionlimit
    if not importing:
        yield os.environ.copy, _set_environment
    if threading.current_thread() is threading.main_thread():
        yield partial(signal.getsignal, signal.SIGINT), partial(signal.signal, signal.SIGINT)
    if "numpy" in sys.modules:
        import numpy as np

        yield np.random.get_state, np.random.set_state
        yield np.geterr, lambda errors: np.seterr(**errors)
    if "torch" in sys.modules:
        import torch

        yield torch.get_rng_state, torch.set_rng_state
        yield torch.get_default_dtype, torch.set_default_dtype
        yield torch.get_default_device, torch.set_default_device
        yield torch.get_num_threads, torch.set_num_threads
        yield torch.is_grad_enabled, torch.set_grad_enabled
        yield torch.get_float32_matmul_precision, torch.set_float32_matmul_precision


def _folder() -> str | None:
    with suppress(OSError):  # it may have been removed
        return os.getcwd()
    return None


def _set_environment(variables: dict[str, str]) -> None:
    for name in os.environ.keys() - variables.keys():
        del os.environ[name]
    os.environ.update(variables)


def _same(now: Any, before: Any) -> bool:
    """Whether nothing is to be put back; of arrays that is not worth asking."""
    try:
        return bool(now == before)
    except (ValueError, RuntimeError):
        return False


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
