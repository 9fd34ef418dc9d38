"""What a stranger's call may not keep, take or write to; the guard around it, by itself."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lrd_harness import errors, isolation, measuring
from lrd_harness.contracts import Metric, PanelMetric, Reporter
from lrd_harness.errors import PluginFault, told_to
from lrd_harness.guard import Owner, guard, guarded
from lrd_harness.panels import measure_panel
from lrd_harness.registration import registered
from lrd_harness.report import Report, listing

HERE = Path(__file__)
STRANGER = Owner("stranger", file=HERE, root=HERE)
CHANGES: dict[
    str, tuple[Callable[[], Any], Callable[[], Any]]
] = {  # what a call does, what shows it
    "folder": (lambda: os.chdir("/"), os.getcwd),
    "environment": (lambda: os.environ.update(HOME="/nowhere", ODD="1"), os.environ.copy),
    "unset": (lambda: os.environ.pop("PATH"), lambda: os.environ.get("PATH")),
    "random": (lambda: random.seed(5), lambda: hash(random.getstate())),
    "numpy": (lambda: np.random.seed(5), lambda: np.random.get_state()[1].tolist()),  # type: ignore[index,union-attr]
    "torch": (lambda: torch.manual_seed(5), lambda: torch.get_rng_state().tolist()),
    "dtype": (lambda: torch.set_default_dtype(torch.float16), lambda: torch.ones(1).dtype),
    "device": (lambda: torch.set_default_device("meta"), lambda: torch.ones(1).device),
    "grad": (lambda: torch.set_grad_enabled(False), torch.is_grad_enabled),
    "threads": (lambda: torch.set_num_threads(1 + torch.get_num_threads()), torch.get_num_threads),
    "numpy errors": (lambda: np.seterr(all="raise"), np.geterr),
    "warnings": (lambda: warnings.simplefilter("error"), lambda: list(warnings.filters)),
    "path of imports": (lambda: sys.path.clear(), lambda: list(sys.path)),
    "hook of errors": (lambda: setattr(sys, "excepthook", None), lambda: sys.excepthook),
    "recursion": (lambda: sys.setrecursionlimit(200_000), sys.getrecursionlimit),
    "interrupts": (
        lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
        lambda: signal.getsignal(signal.SIGINT),
    ),
    "the end": (
        lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN),
        lambda: signal.getsignal(signal.SIGTERM),
    ),
    "an alarm": (lambda: signal.alarm(1), lambda: signal.getitimer(signal.ITIMER_REAL)),
    "errors' stream": (lambda: setattr(sys, "stderr", None), lambda: sys.stderr),
    "output closed": (lambda: sys.stdout.close(), lambda: sys.stdout.closed),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("ends", [True, False])
def test_what_a_call_changes_of_the_process_is_put_back(change: str, ends: bool) -> None:
    does, shown = CHANGES[change]
    before = shown()

    def call() -> None:
        does()
        assert change == "output closed" or shown() != before
        if not ends:
            raise RuntimeError

    with contextlib.nullcontext() if ends else pytest.raises(PluginFault):
        guarded(call, STRANGER, "metric odd")()
    assert shown() == before


@pytest.fixture
def alarm() -> Iterator[None]:
    """Nothing is armed and no handler left, whatever the test did."""
    yield
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGVTALRM) == signal.SIG_DFL


def hangs(*_: Any) -> None:
    while True:
        time.sleep(0.01)


def goes_on(*_: Any) -> dict[str, float]:
    with contextlib.suppress(BaseException):
        hangs()
    return {"a": 1.0}


def persists(*_: Any) -> None:
    for _n in range(2):
        with contextlib.suppress(BaseException):
            hangs()
    hangs()


def in_one_piece(*_: Any) -> dict[str, float]:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])  # as C code that does not look
    time.sleep(0.2)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    return {"a": 1.0}


def searches(*_: Any) -> None:
    re.match("(a+)+$", "a" * 40 + "b")  # lets no other thread run


@pytest.mark.usefixtures("alarm")
@pytest.mark.parametrize("call", [hangs, goes_on, persists, in_one_piece, searches])
def test_a_call_is_interrupted_at_the_limit(
    call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolation, "AGAIN", 0.1)
    begun = time.monotonic()
    with isolation.limited(0.1), pytest.raises(PluginFault) as caught:
        guarded(call, STRANGER, "metric odd")()
    assert time.monotonic() - begun < 2
    assert str(caught.value).startswith("TimedOut: interrupted after 0.1 s, as --plugin-timeout")
    assert "(test_isolation.py, line " in str(caught.value)
    assert caught.value.role == "metric odd"


@pytest.mark.usefixtures("alarm")
def test_the_time_of_a_call_is_its_own() -> None:
    """Neither that of a stranger whom it calls, nor that of what is built in and calls it."""
    within = guarded(lambda: time.sleep(0.15), STRANGER, "adapter b")

    def call() -> str:
        within()
        within()
        return "done"

    outer = guarded(call, STRANGER, "task a")
    with isolation.limited(0.2):
        assert outer() == "done"
        built_in = guarded(hangs, Owner("lrd-harness", built_in=True), "metric nrs")
        with pytest.raises(PluginFault) as caught:
            guarded(built_in, STRANGER, "task a")()
        assert caught.value.role == "task a"
    guarded(lambda: time.sleep(0.01), STRANGER, "task a")()  # no limit is left


def test_a_timer_that_ran_before_goes_on() -> None:
    rings: list[float] = []
    former = signal.signal(signal.SIGALRM, lambda *_: rings.append(time.monotonic()))
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with isolation.limited(5):
            guarded(lambda: time.sleep(0.1), STRANGER, "metric odd")()
        assert not rings
        time.sleep(0.4)
        with isolation.limited(5):  # nor does it wait for a call to end
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            guarded(lambda: [time.sleep(0.01) for _ in range(20)], STRANGER, "metric odd")()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
    assert len(rings) == 2


def test_where_nothing_can_be_interrupted_that_is_said() -> None:
    lines: list[str] = []

    def work() -> None:
        with told_to(lines.append), isolation.limited(1):
            guarded(lambda: None, STRANGER, "metric odd")()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert [line.split(":")[0] for line in lines] == ["--plugin-timeout"]


def test_a_call_that_does_not_come_back_is_named_each_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(isolation, "MINUTE", 0.5)
    lines: list[str] = []

    def waits() -> None:
        time.sleep(1.3)  # here

    here = next(n for n, line in enumerate(HERE.read_text().splitlines(), 1) if "# here" in line)
    with told_to(lines.append):
        guarded(waits, STRANGER, "metric slow")()
        guarded(lambda: None, STRANGER, "metric quick")()
        with guard(Owner("lrd-harness", built_in=True), "metric nrs"):
            time.sleep(0.6)
        guarded(lambda: time.sleep(0.6), STRANGER, "command mine", printing=True)()
    named = f"metric slow (test_isolation.py, line {here}) has been running for"
    assert lines == [f"{named} 1 minute", f"{named} 2 minutes"]


def centres(states: Any, *_: Any) -> dict[str, float]:
    for state in states:
        state -= state.mean(0)
    return {"a": 1.0}


def by_numpy(states: Any, *_: Any) -> dict[str, float]:
    states[len(states) - 1].numpy()[0, 0] = 1e6
    return {"a": 1.0}


def sorts(states: Any, *_: Any) -> dict[str, float]:
    list(states)[-1].numpy().sort(axis=0)
    return {"a": 1.0}


def through_a_view(states: Any, *_: Any) -> dict[str, float]:
    rows = states[0][1:]
    states[1].sum()
    rows.zero_()
    return {"a": 1.0}


def only_reads(states: Any, *_: Any) -> dict[str, float]:
    return {"a": float(sum(state.clone().zero_().sum() for state in states))}


@pytest.mark.parametrize("needs", ["pooled", "tokens", "views", "attention", "labels"])
@pytest.mark.parametrize("writes", [centres, by_numpy, sorts, through_a_view, only_reads])
def test_a_metric_may_not_write_to_its_input(writes: Any, needs: Any) -> None:
    shape = (
        (3, 12, 2, 4)
        if needs == "views"
        else (3, 2, 12, 12)
        if needs == "attention"
        else (3, 12, 4)
    )
    states = torch.from_numpy(np.random.default_rng(0).normal(size=shape))
    before = states.clone()
    record = Metric("odd", writes, needs, views=2 * (needs == "views"))
    metric = registered(record, "metric", STRANGER)
    labels = [0, 1] * 6 if needs == "labels" else None
    if writes is only_reads:
        measuring.measure(metric, states, labels)
    else:
        with pytest.raises(PluginFault, match=r"^TypeError: it writes to its input.*line \d+\)$"):
            measuring.measure(metric, states, labels)
    assert torch.equal(states, before)


@pytest.mark.parametrize("kind", [errors.StorageFull, errors.Elsewhere, PluginFault])
def test_what_only_the_harness_can_know_is_not_taken_from_a_plugin(kind: Any) -> None:
    def call() -> None:
        raise kind("made up")

    with pytest.raises(PluginFault, match=r"^made up \(test_isolation.py, line \d+\)$"):
        guarded(call, STRANGER, "metric odd")()
    within = guarded(call, Owner("lrd-harness", built_in=True), "metric nrs")
    elsewhere = Owner("another", file=Path("another.py"), root=Path("another.py"))
    with pytest.raises(kind) as caught:
        guarded(within, elsewhere, "task a")()
    assert type(caught.value) is kind


def test_parameters_are_lent() -> None:
    def takes(states: Any, powers: Any) -> dict[str, float]:
        return {"a": float(powers.pop())}

    states = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 12, 4)))
    metric, powers = registered(Metric("odd", takes), "metric", STRANGER), [1, 2]
    assert [measuring.measure(metric, states, powers=powers)["a"] for _ in "ab"] == [2.0, 2.0]


def test_labels_a_panel_and_lists_are_lent() -> None:
    states = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 12, 4)))
    before, panel = states.clone(), {"m": states[0], "n": states[1]}

    def relabels(states: Any, labels: Any) -> dict[str, float]:
        labels[0] = 1 - labels[0]
        return {"a": 1.0}

    def moves(states: Any, families: Any) -> dict[str, Any]:
        families["m"] = "other"
        states["m"].add_(1)
        return {"a": dict.fromkeys(states, 1.0)}

    odd = registered(Metric("odd", relabels, "labels"), "metric", STRANGER)
    with pytest.raises(PluginFault, match="writes to its input"):
        measuring.measure(odd, states, [0, 1] * 6)
    together = registered(PanelMetric("odd", moves), "panel metric", STRANGER)
    with pytest.raises(PluginFault, match="writes to its input"):
        measure_panel(together, panel)
    assert torch.equal(states, before)

    def empties(report: Report) -> str:
        report.table("sizes").rows.clear()  # type: ignore[attr-defined]
        return "none"

    report = Report("Sizes", (listing("sizes", "Sizes", [{"model": "a"}]),))
    assert registered(Reporter("odd", empties), "reporter", STRANGER).write(report) == "none"
    assert report.table("sizes").rows == [{"model": "a"}]
    blocks = [1, 2, 3]
    assert guarded(list.pop, STRANGER, "pruning rule odd", lends=True)(blocks) == 3
    assert blocks == [1, 2, 3]
