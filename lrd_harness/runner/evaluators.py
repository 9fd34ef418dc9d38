"""Evaluating beside the reading: metrics, and tasks at layers, in processes of their own.

The process that reads a model hands over what is to be done on its states and goes on with the next
model. An evaluator makes the same plan anew from the command line, finds the states in the store
and keeps results in a journal of its own. What it cannot do, as where a task asks for texts that
the store lacks, comes back to be done by a process that opens the model.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType
from typing import Any

from accelerate.utils import patch_environment

from lrd_harness.capture.embeddings import Embeddings
from lrd_harness.capture.likelihoods import Likelihoods, Reader
from lrd_harness.capture.samples import Questions
from lrd_harness.contracts import Model
from lrd_harness.errors import UserError, described, told_to
from lrd_harness.planning.models import PlannedModel
from lrd_harness.planning.resolve import Plan
from lrd_harness.processes import ALONE, Ranks, cores
from lrd_harness.progress import Display
from lrd_harness.results.journal import Journal
from lrd_harness.runner import folder
from lrd_harness.runner.profile import Profile, Seconds
from lrd_harness.runner.units import Context, Ledger, Unit, reader_settings

LOOK = 0.5  # seconds between two looks at what is done, or at whether the reading process lives
MOST = 16  # that a process which reads has of itself
PATIENCE = 5.0  # seconds in which an evaluator without work is to end
Main = Callable[[list[str]], int]  # runs a command line
at_work: Evaluator | None = None  # in an evaluator's process


def count(wanted: int | None, devices: Iterable[str]) -> int:
    """How many evaluators this process has, of so many that the machine is to have.

    None: where models are on accelerators one for each core that reading processes leave, at least
    1 and at most MOST each, as every one takes about a gigabyte; else none.
    """
    readers = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("WORLD_SIZE") or 1)
    if wanted is None:
        fast = any(not device.startswith("cpu") for device in devices)
        return min(MOST, max(1, cores() // readers - 1)) if fast else 0
    more = int(os.environ.get("LOCAL_RANK") or 0) < wanted % readers
    return max(1, wanted // readers + more) if wanted else 0


class Evaluators:
    """The evaluators of a process that reads, by default none; see `start`.

    main, typed: the command line that they make their plan of.
    """

    def __init__(self, number: int = 0, main: Main | None = None, typed: Sequence[str] = ()):
        self.number, self._command = number, (main, typed)
        self._pending: list[Unit] = []
        self._busy: dict[int, Unit] = {}  # by the evaluator's number
        self._met: defaultdict[int, set[str]] = defaultdict(set)  # the tasks whose data it has
        self._spent: dict[int, Seconds] = {}
        self._lacking: list[Unit] = []  # what no evaluator could do
        self._over: Exception | bool = False
        self._changed = threading.Condition()
        self._started: list[tuple[BaseProcess, threading.Thread]] = []

    @contextmanager
    def serving(
        self, ledger: Ledger, display: Display, out: Path, profile: Profile
    ) -> Iterator[None]:
        """Within the block they work for a run; behind it none is left.

        profile: their seconds are added to it, but for those in which they wait.
        """
        self._ledger, self._display, self._out, self._profile = ledger, display, out, profile
        patience = 0.0
        try:
            yield
            patience = PATIENCE
        finally:
            self._end(True)
            for process, thread in self._started:
                process.join(patience)
                process.kill()
                thread.join()
                process.join()
            for seconds in self._spent.values():
                profile.add(seconds, 1)

    def start(self) -> None:
        """Have them make their plans, unless they have begun."""
        spawning, left = multiprocessing.get_context("spawn"), self.number - len(self._started)
        with _apart() if left else nullcontext():
            for number in range(left):
                ours, theirs = spawning.Pipe()
                arguments = Evaluator(theirs, self._out, os.getpid()), *self._command
                process = spawning.Process(target=_begin, args=arguments)
                process.start()
                theirs.close()
                thread = threading.Thread(target=self._employ, args=(number, process, ours))
                thread.start()
                self._started.append((process, thread))

    def hand(self, units: Sequence[Unit]) -> None:
        """Have units of a model done, its metrics first, when those of models before are begun.

        Raises UserError where an evaluator has ended.
        """
        with self._changed:
            if isinstance(self._over, Exception):
                raise self._over
            self._pending += sorted(units, key=lambda unit: not unit.metric)
            self._changed.notify_all()

    def wait(self, text: str, which: Callable[[Unit], bool] = lambda unit: True) -> list[Unit]:
        """Until these units are done; of them, those that no evaluator could do.

        Raises UserError where an evaluator has ended.
        """

        def left() -> int:
            return sum(map(which, [*self._pending, *self._busy.values()]))

        stage, waiting = self._display.stage(text, "units"), self._profile.stage("waiting")
        with stage as advance, waiting, self._changed:
            total = left()
            while left() and not self._over:
                advance(total - left(), total)
                self._changed.wait(LOOK)
            if isinstance(self._over, Exception):
                raise self._over
            advance(total, total)
            return list(filter(which, self._lacking))

    def finish(self, ranks: Ranks) -> set[str]:
        """Wait for all; the models of which no evaluator could do something, in any process."""
        lacking = {unit.model for unit in self.wait("metrics, tasks × layers")}
        return set().union(*ranks.gather(lacking))

    def _employ(self, number: int, process: BaseProcess, connection: Connection) -> None:
        """Have an evaluator do unit after unit; in a thread of its own."""
        try:
            with connection:
                while (unit := self._next(number)) is not None:
                    connection.send(unit)
                    while not isinstance(answer := connection.recv(), tuple):
                        if isinstance(answer, Exception):
                            raise answer
                        hear = self._display.line if isinstance(answer, str) else self._ledger.note
                        hear(answer)
                    with self._changed:
                        done, self._spent[number] = answer
                        self._lacking += [] if done else [unit]
                        del self._busy[number]
                        self._changed.notify_all()
        except (EOFError, OSError):
            process.join()
            self._end(self._death(number, process.exitcode or 0))
        except Exception as error:
            self._end(error)

    def _death(self, number: int, code: int) -> UserError:
        """How an evaluator ended before its time, and at what."""
        at = self._busy.get(number)
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        place = f", {at.model}, {at.task}, {at.metric or f'layer {at.layer}'}" if at else ""
        which = f"evaluator {number + 1} of {self.number} ended ({how}{place})"
        fewer = " (where memory is short, with fewer --evaluators)" * (how == "SIGKILL")
        return UserError(f"{which}; the same command goes on where it stopped{fewer}")

    def _next(self, number: int) -> Unit | None:
        """What an evaluator is to do next: of a task whose data it has, else one that none has."""
        with self._changed:
            self._changed.wait_for(lambda: self._pending or self._over)
            if self._over:
                return None
            first, met = self._pending[0], set().union(*self._met.values())

            def turn(unit: Unit) -> tuple[bool, ...]:
                behind = unit.model != first.model, bool(unit.metric) != bool(first.metric)
                return *behind, unit.task not in self._met[number], unit.task in met

            unit = self._busy[number] = min(self._pending, key=turn)
            self._pending.remove(unit)
            self._met[number].add(unit.task)
            return unit

    def _end(self, why: Exception | bool) -> None:
        with self._changed:
            self._over = self._over or why
            self._changed.notify_all()


@contextmanager
def _apart() -> Iterator[None]:
    """Processes that are started in the block have a thread each, and do not hear of Ctrl-C.

    Nor do they run the program that was started, as one without `if __name__ == "__main__"` would.
    """
    program, hears = sys.modules["__main__"], threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if hears else None
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        with patch_environment(OMP_NUM_THREADS=os.environ.get("OMP_NUM_THREADS") or 1):
            yield
    finally:
        sys.modules["__main__"] = program
        if hears:
            signal.signal(signal.SIGINT, before)


def _begin(here: Evaluator, main: Main, typed: list[str]) -> None:
    """An evaluator's process: there the command is `Evaluator.serve`."""
    global at_work
    at_work = here
    for name in ("RANK", "WORLD_SIZE"):
        os.environ.pop(name, None)
    threading.Thread(target=here.watch, daemon=True).start()
    main(typed)


class Evaluator:
    """One of them, in its process: one model at a time, on the CPU, from the store.

    lacking: the unit needs what is not there, so that nothing is kept of it.
    """

    lacking = False
    _sending = threading.Lock()

    def __init__(self, connection: Connection, out: Path, reader: int) -> None:
        self._connection, self.out, self._reading = connection, out, reader
        self._of = ""  # the model that is open
        self._model: Model | None = None
        self._readers: dict[bool, Reader] = {}

    def watch(self) -> None:
        """End this process when the one that reads is gone."""
        while os.getppid() == self._reading:
            time.sleep(LOOK)
        os._exit(1)

    def serve(self, make: Callable[[], Plan]) -> int:
        """Make the plan, then do what is handed over, until nobody hands over any more."""
        try:
            with told_to(lambda line: None):  # the process that reads has told it
                plan = folder.renamed(self.out, make())
            self._plan, self._ledger, profile = plan, _Ledger(self), Profile()
            self._questions = Questions(plan.settings.max_texts)
            with profile.watching(ALONE), told_to(self.say):
                while True:
                    with profile.stage("waiting"):
                        unit = self._connection.recv()
                    done, seconds = self._done(unit, profile), profile.seconds()
                    self.say((done, {name: seconds[name] for name in seconds if name != "waiting"}))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return 0
        except Exception as error:  # of a full disk, or a fault of ours
            self.say(error if isinstance(error, UserError) else UserError(described(error)))
            return 1

    def say(self, what: str | dict[str, Any] | Exception | tuple[bool, Seconds]) -> None:
        """Have the process that reads hear a line, a record, what ends all, or that a unit is done.

        No lines and no records are sent of a unit that is given back.
        """
        with self._sending:
            if not (self.lacking and isinstance(what, (str, dict))):
                self._connection.send(what)

    def _done(self, unit: Unit, profile: Profile) -> bool:
        """Whether a unit could be done; its records and lines were sent."""
        (planned,) = (model for model in self._plan.models if model.name == unit.model)
        (task,) = (task for task in self._plan.tasks if task.name == unit.task)
        self.lacking = False
        with profile.stage("opening"):
            reader = self._reader(planned, task.likelihood)
        if reader is None or dict(reader.model.identity) != unit.identity:
            return False
        display = Display(quiet=True)
        display.line = self.say  # type: ignore[assignment, method-assign]
        context = Context(self._plan, planned, self._ledger, self.out, display, profile=profile)
        unit.do(context, reader, task)
        return not self.lacking

    def _reader(self, planned: PlannedModel, likelihood: bool) -> Reader | None:
        """What reads the model's states in the store; None where that takes its weights."""
        on_cpu = replace(planned.options, device="cpu", device_map=None)
        planned = replace(planned, options=on_cpu)
        if self._of != planned.name:
            self._of, self._model, self._readers = planned.name, None, {}
            gc.collect()  # no two models in memory at once
            self._model = planned.framed(self._lack)
        if self._model and likelihood not in self._readers:
            settings = reader_settings(self._plan.settings, planned, self._model)
            kind = Likelihoods if likelihood else Embeddings
            self._readers[likelihood] = kind(self._model, self._questions, *settings)
        return self._readers.get(likelihood)

    def _lack(self) -> Model:
        self.lacking = True
        raise UserError("the store lacks a text")


class _Ledger(Ledger):
    """The records of units: those of others are not read here."""

    def __init__(self, evaluator: Evaluator) -> None:
        self._journal, self._records, self.failed = Journal(evaluator.out), {}, set()
        self._evaluator = evaluator

    def append(self, record: dict[str, Any]) -> None:
        """As Ledger."""
        if not self._evaluator.lacking:
            super().append(record)
        self._evaluator.say(record)
