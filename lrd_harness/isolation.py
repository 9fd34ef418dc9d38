"""What a stranger's call cannot keep: the process is put back as it was, and its time is watched.

Threads that it starts, files that it removes and a process that it kills cannot be undone.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import (
    ExitStack,
    contextmanager,
    nullcontext,
    redirect_stderr,
    redirect_stdout,
    suppress,
)
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Any

from lrd_harness.errors import plain, say

OUT, ERR = 1, 2  # the process's own descriptors
HANDLED = {getattr(signal, name, 0) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGALRM")}
MINUTE = 60.0  # seconds after which a call is named, each time
AGAIN, TICK = 1.0, 0.1  # seconds until a call is rung again, and between two looks at the clock
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
    return main and hasattr(signal, "pthread_kill")


@dataclass(eq=False)
class _Call:
    """A call that has not come back.

    place(frame): where in the plugin's code it is; due: when it is to be interrupted, by the clock,
    as it was if rung, inf for never; minutes: for how many it was named, in the context where
    somebody listens.
    """

    role: str
    place: Callable[[Any], str]
    due: float
    rung: bool = False
    minutes: int = 0
    thread: int = field(default_factory=threading.get_ident)
    begun: float = field(default_factory=time.monotonic)
    context: Context = field(default_factory=copy_context)


_calls: list[_Call] = []  # the innermost last
_lock = threading.Lock()
_any = threading.Event()
_thread = threading.Lock()  # taken once, by the thread that watches


@contextmanager
def watched(role: str, place: Callable[[Any], str], machinery: Sequence[str]) -> Iterator[None]:
    """Name a call each minute; interrupt it by TimedOut at the limit, and again if that is caught.

    It does not count how long another such call takes within it. machinery: files in whose own
    code nothing is raised, since they put things back.
    """
    seconds = _limit.get() if _can_interrupt() else None
    error = TimedOut(f"interrupted after {seconds} s, as --plugin-timeout says")
    outer = next((c for c in reversed(_calls) if c.thread == threading.get_ident()), None)
    call = _Call(role, place, inf if seconds is None else time.monotonic() + seconds)
    over = False

    def ring(number: int, frame: Any) -> None:
        frame = frame.f_back if frame.f_code is _let_in.__code__ else frame
        if not call.rung and callable(former):  # an alarm of somebody else's
            former(number, frame)
        elif call.rung and not over and frame.f_code.co_filename not in machinery:
            raise error

    former = signal.signal(signal.SIGALRM, ring) if seconds is not None else None
    _calls.append(call)
    _any.set()
    if _thread.acquire(blocking=False):
        threading.Thread(target=_watch, name="watch of plugins", daemon=True).start()
    try:
        with nullcontext() if seconds is None else _letting_in():
            yield
    finally:
        over = True
        with _lock:
            _calls.remove(call)
        if outer is not None:
            outer.due += time.monotonic() - call.begun
        if seconds is not None:
            time.sleep(0)  # an alarm that is on its way comes now
            signal.signal(signal.SIGALRM, signal.SIG_DFL if former is None else former)
    if call.rung:  # and it went on: what came back is of a call that was cut short, or is too late
        raise error


def _let_in(number: int, frame: Any) -> None:
    time.sleep(0.001)


@contextmanager
def _letting_in() -> Iterator[None]:
    """Within the block C code that looks for signals, as that of re, lets the watch run.

    It may keep all other threads from running: a timer that the system keeps asks it to let go.
    """
    former = signal.signal(signal.SIGVTALRM, _let_in)
    timer = signal.setitimer(signal.ITIMER_VIRTUAL, AGAIN, AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, *timer)
        time.sleep(0)  # as in `watched`
        signal.signal(signal.SIGVTALRM, signal.SIG_DFL if former is None else former)


def _watch() -> None:
    """Ring and name calls, for as long as the process lives."""
    while True:
        _any.clear()
        if not _calls:
            _any.wait()
        time.sleep(TICK)
        with _lock:  # it may not end before it has been rung
            now, calls = time.monotonic(), list(_calls)
            timed = next((call for call in reversed(calls) if call.due < inf), None)
            if timed is not None and timed.due <= now:
                timed.rung, timed.due = True, now + AGAIN
                signal.pthread_kill(timed.thread, signal.SIGALRM)
        for call in calls:
            minutes = int((now - call.begun) / MINUTE)
            if minutes > call.minutes:
                call.minutes = minutes
                with suppress(Exception):
                    _name(call)


def _name(call: _Call) -> None:
    place = call.place(sys._current_frames().get(call.thread))
    spent = f"{call.minutes} minute{'s' if call.minutes > 1 else ''}"
    where = f" ({place})" if place else ""
    call.context.run(say, plain(f"{call.role}{where} has been running for {spent}"))


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


def _parts(importing: bool) -> Iterator[tuple[Callable[[], Any], Callable[[Any], Any]]]:
    """Of what is put back of the process what reads and what sets it; of a library once loaded."""
    yield _folder, os.chdir
    yield random.getstate, random.setstate
    yield sys.getrecursionlimit, sys.setrecursionlimit
    yield lambda: list(sys.path or ()), _set_path
    yield lambda: sys.excepthook, lambda hook: setattr(sys, "excepthook", hook)
    if not importing:
        yield os.environ.copy, _set_environment
    if threading.current_thread() is threading.main_thread():
        if hasattr(signal, "setitimer"):
            yield _alarm_is_set, _unset_alarm
        for number in HANDLED & signal.valid_signals():
            yield partial(signal.getsignal, number), partial(signal.signal, number)
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


def _alarm_is_set() -> bool:
    return signal.getitimer(signal.ITIMER_REAL) > (0.0, 0.0)


def _unset_alarm(was_set: bool) -> None:
    """That of a call which is over would end the process; one that was set before goes on."""
    if not was_set:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _folder() -> str | None:
    with suppress(OSError):  # it may have been removed
        return os.getcwd()
    return None


def _set_path(folders: list[str]) -> None:
    """As they were, and behind them what was added, which may be needed yet."""
    sys.path = [*folders, *(folder for folder in sys.path or () if folder not in folders)]


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


class _Lent:
    """A stream that whoever has it cannot close."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def close(self) -> None:
        """Nothing."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


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
