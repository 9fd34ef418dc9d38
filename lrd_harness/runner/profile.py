"""Where the time of a run goes: seconds by stage, of the clock and of this process's processors."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lrd_harness.processes import Ranks
from lrd_harness.progress import duration
from lrd_harness.results.journal import read_run
from lrd_harness.store import files

Seconds = Mapping[str, Mapping[str, float]]  # by stage, {"wall": ..., "cpu": ...}
OTHER = "other"  # what is in no stage
LEAST = 1.0  # seconds of a run of which a line is worth reading


class Profile:
    """The seconds of one call, by stage; of stages within each other each second is the inner's.

    "writing" is of the store, journals, result files and tables; "waiting" of one process for
    others. Of several processes the sums are kept. cpu: with all threads, without children.
    """

    def __init__(self) -> None:
        self._spent: dict[str, dict[str, float]] = {}
        self._within, self._at = [OTHER], _now()
        self.processes = 1

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """What the block takes is of this stage, but for stages within it."""
        self._settle()
        self._within.append(name)
        try:
            yield
        finally:
            self._settle()
            self._within.pop()

    @contextmanager
    def watching(self, ranks: Ranks) -> Iterator[None]:
        """Within the block, what is written to files and waited for others are stages, too."""
        token = files.writing.set(lambda: self.stage("writing"))
        ranks.waiting = lambda: self.stage("waiting")
        try:
            yield
        finally:
            del ranks.waiting
            files.writing.reset(token)

    def seconds(self) -> Seconds:
        """What was spent until now, by stage."""
        self._settle()
        return self._spent

    def add(self, other: Seconds, processes: int) -> None:
        """Add what other processes of the same call have spent."""
        self.processes += processes
        for name, spent in other.items():
            self._spend(name, spent["wall"], spent["cpu"])

    def record(self, begun: str) -> dict[str, Any]:
        """The profile as run.json keeps it, of a call that began then."""
        stages = {
            name: {kind: round(n, 3) for kind, n in spent.items()}
            for name, spent in self.seconds().items()
            if spent["wall"] >= 0.0005
        }
        return {"begun": begun, "processes": self.processes, "stages": stages}

    def keep(self, out: Path) -> None:
        """Bring the profile of this call, which run.json has as the last, up to now."""
        run = read_run(out)
        *earlier, last = run["profile"]
        profile = [*earlier, self.record(last["begun"])]
        files.write_text(out / "run.json", json.dumps({**run, "profile": profile}, indent=1))

    def line(self) -> str:
        """Stages, time and share, those that took longest first; "" for nothing to speak of."""
        spent = self.seconds()
        whole, cpu = (sum(s[kind] for s in spent.values()) for kind in ("wall", "cpu"))
        if whole < LEAST:
            return ""
        longest = sorted(spent, key=lambda name: -spent[name]["wall"])
        parts = [
            f"{name} {_shown(spent[name]['wall'])} ({spent[name]['wall'] / whole:.0%})"
            for name in longest
            if spent[name]["wall"] / whole >= 0.005
        ]
        by = f", {self.processes} processes added up" if self.processes > 1 else ""
        return f"Time{by}: {_shown(whole)}, CPU {_shown(cpu)}: {', '.join(parts)}"

    def _settle(self) -> None:
        """What has passed since the last change of stages is the innermost one's."""
        before, self._at = self._at, _now()
        self._spend(self._within[-1], *(b - a for a, b in zip(before, self._at, strict=True)))

    def _spend(self, name: str, wall: float, cpu: float) -> None:
        spent = self._spent.setdefault(name, {"wall": 0.0, "cpu": 0.0})
        spent["wall"] += wall
        spent["cpu"] += cpu


def _shown(seconds: float) -> str:
    return duration(seconds) if seconds >= 1 else "< 1 s"


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()
