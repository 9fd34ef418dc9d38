"""What processes share out, and what they tell each other of metrics that failed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny

from lrd_harness.capture import embeddings, likelihoods
from lrd_harness.capture.augment import views
from lrd_harness.capture.embeddings import Captured
from lrd_harness.capture.samples import Sampling
from lrd_harness.capture.token_metrics import TokenValues, share_faults
from lrd_harness.contracts import Metric, Task, Text
from lrd_harness.errors import StorageFull, UserError
from lrd_harness.measuring import PlannedMetric
from lrd_harness.processes import Connected

WORLD = 3


class Thread(Connected):
    """One of WORLD processes that are threads."""

    def __init__(self, rank: int, meeting: threading.Barrier, values: list[Any]) -> None:
        self.rank, self.world, self.gathered = rank, WORLD, 0
        self._meeting, self._values = meeting, values

    def gather(self, value: Any) -> list[Any]:
        self.gathered += 1
        self._values[self.rank] = value
        self._meeting.wait(10)
        values = list(self._values)
        self._meeting.wait(10)
        return values


def in_all(do: Callable[[Thread], None]) -> list[Thread]:
    """Have all processes do something at the same time."""
    meeting, values = threading.Barrier(WORLD), [None] * WORLD
    ranks = [Thread(rank, meeting, values) for rank in range(WORLD)]
    threads = [threading.Thread(target=do, args=(rank,)) for rank in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return ranks


def test_equal_sizes_are_shared_alike_whatever_their_order() -> None:
    items = [Text(f"{n:02}") for n in range(20)] + [Text("longer"), Text("a", "prompt")]
    shares: list[list[Text]] = [[] for _ in range(WORLD)]

    def do(ranks: Thread) -> None:
        order = items[ranks.rank :] + items[: ranks.rank]  # as a set's may be in each process
        shares[ranks.rank] = ranks.share(order, embeddings.size)

    in_all(do)
    assert sorted(chain(*shares)) == sorted(items)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def fail(states: Any, power: float = 1.0) -> dict[str, Any]:
    return {"x": [0.0] * len(states)}


def test_a_fault_in_one_process_is_one_in_all(tmp_path: Path) -> None:
    """Of each metric, the first that has one tells it; each asks once, with faults or without."""

    def values(name: str, power: float) -> TokenValues:
        item = PlannedMetric(Metric(name, fail, needs="tokens"), {"power": power})
        return TokenValues(item, tmp_path, {"model": "m"}, "hf", 3)

    every = [[values("a", 1.0), values("a", 2.0), values("b", 1.0)] for _ in range(WORLD)]
    first = ZeroDivisionError("bad luck")
    every[1][1].fault, every[2][1].fault = first, KeyError("later")
    every[2][2].fault = OSError(28, "No space left on device", str(tmp_path / "f"))
    ranks = in_all(lambda ranks: share_faults(every[ranks.rank], ranks))
    assert [rank.gathered for rank in ranks] == [1] * WORLD
    assert [tokens[0].fault for tokens in every] == [None] * WORLD
    assert every[1][1].fault is first
    for rank in (0, 2):
        fault = every[rank][1].fault
        assert (type(fault), str(fault)) == (UserError, "ZeroDivisionError: bad luck")
        with pytest.raises(UserError, match="bad luck"):
            every[rank][1].finished([Text("a")])
    assert type(every[0][2].fault) is type(every[1][2].fault) is StorageFull


def test_views_of_contexts_are_those_of_the_whole_sample(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Together the processes read the views of `view_texts` contexts, each view once."""
    monkeypatch.setenv("LRD_HARNESS_CACHE", str(tmp_path))
    opened = tiny.open_model(tiny.save("GPT2", tmp_path / "m"))
    contexts = tiny.sentences(24)
    requests: list[Any] = [SimpleNamespace(text=text, context=text) for text in contexts]
    task = Task("Mine", texts=list, evaluate=None, tokenize=lambda *_: None)  # type: ignore[arg-type]
    questions: Any = SimpleNamespace(sample=lambda task: requests)
    seen: list[list[Text]] = []

    def note(model: Any, texts: Any, *rest: Any, **more: Any) -> Captured:
        seen.append(list(texts))
        return Captured()

    monkeypatch.setattr(embeddings, "capture", note)
    monkeypatch.setattr(likelihoods, "capture", lambda *_, **more: Captured())
    item = PlannedMetric(Metric("v", fail, needs="views", views=2), {})

    def do(ranks: Thread) -> None:
        reader = likelihoods.Likelihoods(opened, questions, 100, Sampling(view_texts=6), ranks)
        assert reader.capture({task: requests}, lambda *at: None, {task: [item]}) == {}

    in_all(do)
    assert len(seen) == WORLD
    expected = {Text(view) for text in contexts[:6] for view in views(text, 2)}
    assert sorted(chain(*seen)) == sorted(expected)
