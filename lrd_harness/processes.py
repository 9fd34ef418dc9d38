"""Several processes at one run: who they are, what they share out, where they wait for each other.

accelerate connects them, whether `--processes`, torchrun or accelerate launch has started them.
Between them go only small objects; states go through the store on disk, results through journals.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import TypeVar

from lrd_harness.errors import Elsewhere, UserError, say

Item = TypeVar("Item")
PATIENCE = timedelta(days=7)  # how long they wait for the slowest; a dead one is noticed at once
SPAWNED = "LRD_HARNESS_SPAWNED"  # of a process whose parent speaks for it when it is interrupted
BAD_INPUT, INTERRUPTED = 2, 130  # exit codes


class Ranks:
    """The processes of a run, here a single one: every method does what one process would.

    rank: this process's number, 0 the main one; world: how many there are; waiting: what is
    entered while others are waited for.
    """

    rank = 0
    world = 1
    waiting: Callable[[], AbstractContextManager[None]] = nullcontext

    @property
    def main(self) -> bool:
        """Whether this is the process that speaks, and writes what is written once."""
        return self.rank == 0

    def gather(self, value: Item) -> list[Item]:
        """The values of all processes, by rank; each waits for all."""
        return [value]

    def agree(self, good: bool) -> bool:
        """Whether all processes say so; each waits for all."""
        return all(self.gather(good))

    def common(self, names: Iterable[str]) -> set[str]:
        """The names that all processes have; each waits for all."""
        return set.intersection(*map(set, self.gather(list(names))))

    def first(self, value: Item) -> Item:
        """The main process's value, in all of them."""
        return self.gather(value)[0]

    def wait(self) -> None:
        """Until all are here."""
        self.gather(None)

    def deal(self, items: Sequence[Item]) -> Iterator[tuple[int, Item]]:
        """Of a list that is the same in all processes, what this one is to do, and its number.

        Each takes the next when it has done its last, so that all end together.
        """
        yield from enumerate(items)

    def share(self, items: Iterable[Item], size: Callable[[Item], int]) -> list[Item]:
        """Of distinct items that are the same in all processes, those of this one, of like size."""
        return list(items)

    def adding(self, advance: Callable[[int, int], None]) -> Callable[[int, int], None]:
        """`advance(done, total)` that shows in the main process what all have done together."""
        return advance


class Connected(Ranks):
    """One of several processes, connected by accelerate."""

    def __init__(self) -> None:
        # Its functions have the group as a default argument: imported later, they would keep it,
        # and its threads, until the interpreter is torn down, where these abort the process.
        import torch.distributed.nn.functional  # noqa: F401
        from accelerate import PartialState
        from torch.distributed import PrefixStore  # type: ignore[attr-defined]
        from torch.distributed.rendezvous import rendezvous

        # of a training that accelerate is configured for: transformers would, by these, load
        # weights in one process alone
        for name in [n for n in os.environ if n.startswith(("ACCELERATE_USE_FSDP", "FSDP_"))]:
            del os.environ[name]
        store, *_ = next(iter(rendezvous("env://", timeout=PATIENCE)))
        # on the CPU: what they exchange is small, and takes nothing of a GPU's memory
        state = PartialState(cpu=True, backend="gloo", store=store, timeout=PATIENCE)
        self.rank, self.world = state.process_index, state.num_processes
        self._store = PrefixStore("lrd-harness", store)
        self._steps = 0

    def gather(self, value: Item) -> list[Item]:
        """As Ranks."""
        from accelerate.utils import gather_object

        try:
            with self.waiting():
                return list(gather_object([value]))
        except RuntimeError as error:  # one has left, and said why
            raise Elsewhere("another process has ended") from error

    def deal(self, items: Sequence[Item]) -> Iterator[tuple[int, Item]]:
        """As Ranks: a counter in the store of torch.distributed says which is the next."""
        name = self._step()
        while (number := self._add(name, 1) - 1) < len(items):
            yield number, items[number]

    def share(self, items: Iterable[Item], size: Callable[[Item], int]) -> list[Item]:
        """As Ranks: dealt by size, from the largest on, there and back."""
        # by their texts where sizes are equal: a set has an order of its own in each process
        ordered = sorted(items, key=lambda item: (-size(item), str(item)))
        turn = 2 * self.world
        mine = (self.rank, turn - 1 - self.rank)
        return [item for place, item in enumerate(ordered) if place % turn in mine]

    def adding(self, advance: Callable[[int, int], None]) -> Callable[[int, int], None]:
        """As Ranks."""
        name, before = self._step(), (0, 0)

        def add(done: int, total: int) -> None:
            nonlocal before
            more, before = (done - before[0], total - before[1]), (done, total)
            advance(self._add(f"done {name}", more[0]), self._add(f"total {name}", more[1]))

        return add

    def _add(self, name: str, more: int) -> int:
        try:
            return int(self._store.add(name, more))
        except RuntimeError as error:  # the node that held it is gone
            raise Elsewhere("another process has ended") from error

    def _step(self) -> str:
        """The same in all processes, as these do the same things in the same order."""
        self._steps += 1
        return str(self._steps)


ALONE = Ranks()


def launched() -> bool:
    """Whether this process is one of several, started by torchrun, accelerate or `spawn`."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def cores() -> int:
    """How many cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not everywhere
    return len(affinity(0)) if affinity else os.cpu_count() or 1


@contextmanager
def connected() -> Iterator[Ranks]:
    """The processes that this one was started with, by torchrun or as `--processes` does."""
    if not launched():
        if {"ACCELERATE_MIXED_PRECISION", "MASTER_ADDR"} <= os.environ.keys():
            say(
                "accelerate launch has started one process alone, as it does on CPUs without MPI: "
                "give it --multi_gpu, also where there is no GPU, or the command --processes N"
            )
        yield ALONE
        return
    from torch.distributed import destroy_process_group

    _end_with_launcher()
    ranks = Connected()
    try:
        yield ranks
    finally:
        destroy_process_group()


def _end_with_launcher() -> None:
    """Be ended where a killed torchrun or accelerate launch cannot do it (`spawn` sees to its own).

    Linux alone does that.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ and SPAWNED not in os.environ:
        from torch import multiprocessing

        if end := getattr(multiprocessing, "_prctl_pr_set_pdeathsig", None):
            end(signal.SIGTERM)


def together(ranks: Ranks, do: Callable[[], Item]) -> Item:
    """Do something in the main process, then in the others, which find what it downloaded.

    Where it fails in one process, it fails in all. Raises its UserError; in a process in which
    nothing failed, Elsewhere.
    """
    result: list[Item] = []
    fault: UserError | None = None
    for turn in (ranks.main, not ranks.main):
        try:
            if turn:
                result.append(do())
        except UserError as error:
            fault = error
        if not ranks.agree(fault is None):
            raise fault or Elsewhere("another process could not go on")
    return result[0]


def spawn(main: Callable[[list[str]], int], arguments: Sequence[str], processes: int) -> int:
    """Run a command line in so many processes on this machine, as accelerate launch does.

    Returns the main one's exit code. Raises UserError where a process dies: the same command goes
    on where they stopped.
    """
    import logging

    from accelerate.utils import patch_environment
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # what is wrong is said below, in one line
    for name in ("torch.distributed.elastic", "torch.multiprocessing"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    threads = os.environ.get("OMP_NUM_THREADS") or max(1, cores() // processes)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=f"lrd-harness-{os.getpid()}",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        monitor_interval=0.2,
        start_method="spawn",
    )
    try:
        with patch_environment(OMP_NUM_THREADS=threads, **{SPAWNED: 1}):
            codes = elastic_launch(config, _child)(main, list(arguments))
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode in (BAD_INPUT, INTERRUPTED):  # it has said why
            return int(failure.exitcode)
        how = failure.signal_name() if failure.exitcode < 0 else f"exit code {failure.exitcode}"
        raise UserError(
            f"process {rank} of {processes} ended ({how}); the same command goes on where it "
            "stopped"
        ) from None
    except SignalException:
        raise KeyboardInterrupt from None
    return int(codes[0])


def _child(main: Callable[[list[str]], int], arguments: list[str]) -> int:
    code = main(arguments)
    if code in (BAD_INPUT, INTERRUPTED):
        # Others may be waiting for this one: nothing but its end tells them.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code
