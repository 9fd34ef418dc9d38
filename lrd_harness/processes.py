"""Several processes at one run: who they are, what they share out, where they wait for each other.

torch.distributed starts and connects them (here, or under torchrun or accelerate launch). Between
them go only small objects; states go through the store on disk, results through the journals.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from lrd_harness.errors import Elsewhere, UserError
from lrd_harness.store import files

Item = TypeVar("Item")
PATIENCE = timedelta(days=7)  # how long they wait for the slowest; a dead one is noticed at once
SPAWNED = "LRD_HARNESS_SPAWNED"  # of a process whose parent speaks for it when it is interrupted
BAD_INPUT, INTERRUPTED = 2, 130  # exit codes


class Ranks:
    """The processes of a run, here a single one: every method does what one process would.

    rank: this process's number, 0 the main one; world: how many there are.
    """

    rank = 0
    world = 1

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
    """One of several processes, connected by torch.distributed."""

    def __init__(self) -> None:
        import torch.distributed as dist
        from torch.distributed.rendezvous import rendezvous

        store, self.rank, self.world = next(iter(rendezvous("env://", timeout=PATIENCE)))
        self._store: Any = dist.PrefixStore("lrd-harness", store)  # type: ignore[attr-defined]
        self._named = 0
        dist.init_process_group(
            "gloo", store=store, rank=self.rank, world_size=self.world, timeout=PATIENCE
        )

    def gather(self, value: Item) -> list[Item]:
        """As Ranks."""
        import torch.distributed as dist

        found: list[Any] = [None] * self.world
        try:
            dist.all_gather_object(found, value)
        except RuntimeError as error:  # one has left, and said why
            raise Elsewhere("another process has ended") from error
        return found

    def deal(self, items: Sequence[Item]) -> Iterator[tuple[int, Item]]:
        """As Ranks: a counter in the store of torch.distributed says which is the next."""
        name = self._name()
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
        told, name = [0, 0], self._name()

        def add(done: int, total: int) -> None:
            both = (done - told[0], total - told[1])
            told[:] = [done, total]
            done, total = (
                self._add(f"{what} {name}", more)
                for what, more in zip(("done", "total"), both, strict=True)
            )
            advance(done, total)

        return add

    def _add(self, name: str, more: int) -> int:
        try:
            found: int = self._store.add(name, more)
        except RuntimeError as error:  # the node that held it is gone
            raise Elsewhere("another process has ended") from error
        return found

    def _name(self) -> str:
        """The same in all processes, as these do the same things in the same order."""
        self._named += 1
        return str(self._named)

    def close(self) -> None:
        """Leave; the others need this one no more."""
        import torch.distributed as dist

        dist.destroy_process_group()


ALONE = Ranks()


def launched() -> bool:
    """Whether this process is one of several, started by torchrun, accelerate or `spawn`."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def connected() -> Iterator[Ranks]:
    """The processes that this one was started with, by torchrun or as `--processes` does."""
    if not launched():
        yield ALONE
        return
    ranks = Connected()
    try:
        yield ranks
    finally:
        ranks.close()


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


def check_shared(ranks: Ranks, folders: Sequence[Path]) -> None:
    """Raise UserError unless all processes see the same folders, as those of several nodes must.

    The main process leaves a mark in each, and the others look for it.
    """
    if ranks.world == 1:
        return
    mark = ranks.first(files.name())
    for folder in folders:
        together(ranks, partial(_touch, folder / mark) if ranks.main else lambda: None)
        blind = "" if (folder / mark).exists() else socket.gethostname()
        hosts = sorted(set(filter(None, ranks.gather(blind))))
        if ranks.main:
            (folder / mark).unlink(missing_ok=True)
        if hosts and ranks.main:
            raise UserError(
                f"{folder} is not the same folder on {', '.join(hosts)}: the processes of a run "
                "need one OUT and one cache folder (LRD_HARNESS_CACHE) that all of them share"
            )
        if hosts:
            raise Elsewhere("the main process has said why")


def _touch(file: Path) -> None:
    try:
        file.touch()
    except OSError as error:
        raise UserError(f"{file.parent} cannot be written to ({error.strerror})") from None


def spawn(arguments: Sequence[str], processes: int) -> int:
    """Run the command line in so many processes on this machine; the main one's exit code.

    Raises UserError where a process dies: the same command goes on where they stopped.
    """
    import logging

    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # what is wrong is said below, in one line
    for name in ("torch.distributed.elastic", "torch.multiprocessing"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (cores or 1) // processes)))
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
        codes = elastic_launch(config, work)(list(arguments))
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
    code: int = codes[0]
    return code


def work(arguments: list[str]) -> int:
    """One process of those that `spawn` starts."""
    from lrd_harness.cli import main

    os.environ[SPAWNED] = "1"
    code = main(arguments)
    if code in (BAD_INPUT, INTERRUPTED):
        # Others may be waiting for this one: nothing but its end tells them.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code
