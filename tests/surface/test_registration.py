"""Records are checked when they are registered, and their code is guarded from then on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lrd_harness.contracts import (
    LIKELIHOOD,
    Adapter,
    Choice,
    Continuation,
    Metric,
    PanelMetric,
    Pruner,
    Reporter,
    Request,
    Score,
    Summary,
    Task,
    TaskFamily,
)
from lrd_harness.errors import NotEnoughTexts, PluginFault, StorageFull, UserError
from lrd_harness.guard import Owner, described, guard, guarded
from lrd_harness.registration import registered
from lrd_harness.store.files import full

HERE = Path(__file__)
STRANGER = Owner("mine 1.0", file=HERE, root=HERE)
BUILT_IN = Owner("lrd_harness.plugins.x", built_in=True)


def never(*arguments: Any) -> Any:
    raise AssertionError("not to be called")


@pytest.mark.parametrize(
    ("record", "what"),
    [
        (Metric("m", never, selection=Choice("a", "higher")), "selection"),
        (Metric("m", never, layer_choice=Choice(3)), "layer_choice"),
        (Metric("m", lambda: None), "measure"),
        (Metric("m", torch.linalg.norm), "measure"),
        *((Metric(name, never), "name") for name in ("", " m", "a\nb", "\ud800", "x" * 201, None)),
        (Metric("m", never, norm="none"), "not one of raw, final, hf"),
        (Metric("m", never, needs=[]), "needs"),
        (Metric("m", lambda states: {}, needs="labels"), "measure of record 'm' takes no labels"),
        (Metric("m", never, of="layers"), "of"),
        (Metric("m", never, of={"a": "layers"}), "of"),
        (Metric("m", never, views=True), "views"),
        (Metric("m", never, "views"), "views"),
        (Metric("m", never, finish=1), "finish"),
        (Metric("m", never, invariances="rotation"), "invariances"),
        (Metric("m", never, version=2), "version"),
        *(
            (PanelMetric("m", lambda states, families: {}, summaries=wrong), "summaries")
            for wrong in (
                ["s"],
                {"s": "x"},
                {"": Summary("x")},
                {"s": Summary("x", "max")},
                {"s": Summary("x", along="rows")},
                {"s": Summary("x", best="higher")},
            )
        ),
        (Adapter("a", never, never, priority=float("nan")), "priority"),
        (Adapter("a", None, never), "claims"),
        (Adapter("a", never, never, likelihoods=None), "likelihoods"),
        (Task("t", None, None), "texts"),
        (Task("t", list, None, type=None), "type"),
        (Task("t", list, never, type=LIKELIHOOD), "tokenize and requests"),
        (TaskFamily("f", None, never), "names"),
        (Pruner("p", never, metrics="frenet"), "metrics"),
        (Reporter("r", write=never, suffix="/../x"), "suffix"),
    ],
)
def test_a_record_with_a_field_that_is_none_is_refused(record: Any, what: str) -> None:
    with pytest.raises(TypeError, match=what):
        registered(record, "record", STRANGER)


def test_a_sound_record_is_as_it_was_but_for_its_code() -> None:
    metric = Metric("m", lambda states, *, k=3: {"a": np.float32(k)}, selection=Choice("a"))
    record = registered(metric, "metric", STRANGER, version="abc")
    assert (record.name, record.version, record.selection) == ("m", "1+abc", Choice("a"))
    assert record.measure([], k=2) == {"a": 2.0}
    assert registered(Adapter("a", never, never, np.float64(2.5)), "adapter", STRANGER)


WRONG_VALUES: list[Any] = [
    *(None, 1.0, [1.0], {1: 1.0}, {None: 1.0}, {"": 1.0}, {"a\n": 1.0}),
    *({"a": v} for v in (None, "1", "12", b"1", 1j, {}, {1.0}, len, 10**400, np.ones(2, complex))),
    *({"a": [v] * 4} for v in (None, "1", 1j, {}, [[1.0]])),
    *({"a": v} for v in ([[1.0], 2.0], [1.0, [2.0]], np.ones((4, 2, 2)), (x for x in (1.0, 2.0)))),
    {"a": np.ma.array([1.0, 2.0], mask=[True, False])},
]


def test_what_is_no_number_is_the_metrics_fault() -> None:
    for values in WRONG_VALUES:
        record = registered(Metric("m", lambda states, v=values: v), "metric", STRANGER)
        with pytest.raises(PluginFault, match=r"m(\.a)? .*\(test_registration\.py, line \d+\)$"):
            record.measure([])


def test_numbers_of_all_kinds_become_pythons_own() -> None:
    values = {
        "a": np.float32(0.5),
        "b": torch.tensor(2),
        "c": [torch.tensor(1.0), np.int64(2), Fraction(1, 2), Decimal("0.25")],
        "d": torch.ones(2, 2, requires_grad=True),
        "e": [np.zeros(1), [1]],
        "f": True,
        "g": 10**30,
        "h": range(3),
    }
    scores = registered(Metric("m", lambda states: values), "metric", STRANGER).measure([])
    numbers = {"a": 0.5, "b": 2, "c": [1.0, 2.0, 0.5, 0.25], "d": [[1.0, 1.0], [1.0, 1.0]]}
    assert scores == numbers | {"e": [[0.0], [1.0]], "f": 1, "g": 1e30, "h": [0.0, 1.0, 2.0]}
    assert type(scores["f"]) is int
    assert type(scores["g"]) is float  # an integer that no database holds


def gives(answer: Any) -> Callable[..., Any]:
    return lambda *arguments: answer


def leaves(*arguments: Any) -> Any:
    sys.exit(3)


@pytest.mark.parametrize(
    ("field", "code", "says"),
    [
        ("texts", gives(None), "texts gave None, not a list"),
        ("texts", gives("abc"), "texts gave 'abc', not a list"),
        ("texts", gives(["a"]), "texts gave 'a', not a Request"),
        ("texts", gives([Request(5)]), "a Request of 5"),
        ("texts", gives([Request("a", "qury")]), "prompt_type 'qury'"),
        ("texts", gives([Request("half \ud800")]), "holds half a character"),
        ("requests", lambda: (1 / 0 for _ in "a"), "ZeroDivisionError"),
        ("requests", gives([Continuation("a", "b")]), "not a Request"),
        ("evaluate", gives(None), "evaluate gave None, not a Score"),
        ("evaluate", gives(0.5), "evaluate gave 0.5, not a Score"),
        ("evaluate", gives(Score("0.5", "acc")), "the main score is a str"),
        ("evaluate", gives(Score(1j, "acc")), "the main score is 1j"),
        ("evaluate", gives(Score(0.5, "acc", stderr="x")), "standard error"),
        ("evaluate", gives(Score(0.5, "")), "name of its score"),
        ("evaluate", gives(Score(0.5, "acc", scores=None)), "further scores"),
        ("fingerprint", gives(None), "fingerprint gave None, not a text"),
        ("labels", gives("abc"), "labels gave 'abc', not a list"),
        ("labels", gives([0, 0.5]), "labels gave 0.5, not a class: a text or a whole number"),
        ("labels", gives([["a"]]), "labels gave a list, not a class"),
        ("labels", gives(np.array([0.5])), "labels gave 0.5, not a class"),
        ("check", leaves, "SystemExit: 3"),
        ("save", leaves, "SystemExit: 3"),
    ],
)
def test_what_tasks_may_not_give(field: str, code: Callable[..., Any], says: str) -> None:
    fields: dict[str, Any] = {"texts": list, "evaluate": None, field: code}
    task = registered(Task("t", **fields), "task", STRANGER)
    arguments = {"evaluate": 1, "save": 3}.get(field, 0)
    with pytest.raises(PluginFault, match=says) as fault:
        getattr(task, field)(*[None] * arguments)
    assert "test_registration.py, line" in str(fault.value)
    assert fault.value.role == "task t"


TASK: Any = Task("t", gives(None), None)
ANSWERS: dict[str, Any] = {"none": None, "bare": TASK, "list": [TASK, 5]}
FAMILY = TaskFamily("f", dict, lambda name, options: ANSWERS[name])


def late(report: Any) -> Any:
    yield ("a", b"1")
    sys.exit(4)


RECORDS: list[tuple[str, Any, Callable[[Any], Any], str]] = [
    *(
        ("adapter", Adapter("a", never, gives(m)), lambda a: a.open(None, None), "gave no model")
        for m in (None, "model", 5, torch.nn.Linear(1, 1))
    ),
    ("task", FAMILY, lambda family: family.open("none", None), "not a list"),
    ("task", FAMILY, lambda family: family.open("list", None), "not a Task"),
    ("task", FAMILY, lambda family: family.open("bare", None).texts(), "texts gave None"),
    ("reporter", Reporter("r", write=len), lambda r: r.write([]), "write gave 0, not a text"),
    ("reporter", Reporter("r", gives("a\ud800")), lambda r: r.write([]), "half a character"),
    *(
        ("reporter", Reporter("r", files=files), lambda r: r.files([]), says)
        for files, says in (
            (late, "SystemExit: 4"),
            (gives([("a", "text")]), "'text', not bytes, for 'a'"),
            (gives(["ab"]), "not a path and its contents"),
            (gives(None), "files gave None, not a list"),
        )
    ),
]


def test_what_records_may_not_give() -> None:
    for kind, record, use, says in RECORDS:
        with pytest.raises(PluginFault, match=says):
            use(registered(record, kind, STRANGER))


def test_unknown_tasks_of_a_family_stay_so_and_numbers_become_floats() -> None:
    with pytest.raises(KeyError):
        registered(FAMILY, "task", STRANGER).open("unknown", None)
    score = Score(np.float32(0.5), "acc", stderr=torch.tensor(0.25), chance=np.array(0.125))
    score = registered(Task("t", list, lambda view: score), "task", STRANGER).evaluate(None)
    assert (score.main, score.stderr, score.chance) == (0.5, 0.25, 0.125)
    assert {type(v) for v in (score.main, score.stderr, score.chance)} == {float}


class Unspeakable(Exception):
    """An error whose message cannot be made."""

    def __str__(self) -> str:
        raise ValueError("in str")


class Base(BaseException):
    """What no `except Exception` takes."""


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ValueError("one\ntwo"), "ValueError: one two"),
        (SystemExit(3), "SystemExit: 3"),
        (StopIteration(), "StopIteration"),
        (Base("x"), "Base: x"),
        (Unspeakable(), "Unspeakable: its message cannot be shown"),
        (OSError(28, "No space left on device"), "OSError: .* No space left"),
        (StorageFull("really"), "really"),
        # what says itself what it means passes
        *((error, "") for error in (UserError("a"), NotEnoughTexts("few"))),
        (torch.cuda.OutOfMemoryError("CUDA out of memory."), ""),
        (KeyboardInterrupt(), ""),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_a_stranger_raises_is_a_named_fault(error: BaseException, says: str) -> None:
    def call() -> None:
        raise error

    with pytest.raises(PluginFault if says else type(error), match=says or None) as fault:
        guarded(call, STRANGER, "metric m")()
    if says:
        line = call.__code__.co_firstlineno + 1
        assert str(fault.value).endswith(f"(test_registration.py, line {line})")
        assert full(fault.value) is None  # a full disk of its own, or none
    else:
        assert fault.value is error


def test_the_place_stays_in_long_messages_and_errors_of_built_in_code_pass() -> None:
    import lrd_harness
    from lrd_harness import blocks

    with pytest.raises(PluginFault) as fault, guard(STRANGER, "metric m"):
        raise ValueError("x" * 10_000)
    assert len(str(fault.value)) < 250
    assert "test_registration.py, line" in str(fault.value)
    assert described(ValueError("y")) == "ValueError: y"
    with pytest.raises(ZeroDivisionError), guard(BUILT_IN, "metric m"):
        raise ZeroDivisionError
    with pytest.raises(PluginFault, match="SystemExit: 1"), guard(BUILT_IN, "metric m"):
        sys.exit(1)
    owner = Owner.of(blocks, "x")  # a whole package
    assert owner.root == Path(lrd_harness.__file__).parent
    with pytest.raises(UserError) as error:
        blocks.candidates(0)
    assert owner.place(error.value).startswith("lrd_harness/blocks.py, line ")


def test_a_stranger_neither_prints_nor_moves_us(tmp_path: Path) -> None:
    """Not by a child either, nor by who kept the stream; what was printed before stays ours."""
    code = """
import os, subprocess, sys
from lrd_harness.guard import Owner, guarded
def call():
    print("one"); os.write(1, b"two\\n"); subprocess.run(["echo", "three"])
    print("four", file=sys.__stdout__); sys.stdout.close(); os.chdir("/")
print("before")
guarded(call, Owner("mine"), "metric m")()
print("after", os.getcwd())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout == f"before\nafter {os.path.realpath(tmp_path)}\n"
    assert sorted(done.stderr.split()) == ["four", "one", "three", "two"]


def with_states(
    states: Any, final_norm: bool = False, tokenize: Any = None, adapter: str = "odd"
) -> Any:
    """A model of two blocks that a stranger's adapter has opened, whose `states` are these."""
    names = "blocks final_norm tokenizer similarity head headless prompt tokenize truncated embed"
    model = SimpleNamespace(**dict.fromkeys(names.split()), states=states)
    model.info = SimpleNamespace(
        parameters=1, blocks=2, width=4, max_length=8, pooling="mean", family="odd"
    )
    model.identity, model.has_final_norm = {"adapter": "odd"}, final_norm
    model.tokenize = tokenize
    record = Adapter(adapter, bool, lambda checkpoint, options: model)
    return registered(record, "adapter", STRANGER).open(None, None)


PLANES = {("raw", layer): torch.zeros(3, 4) for layer in range(3)}


@pytest.mark.parametrize(
    ("planes", "said"),
    [
        (None, "None, not a mapping"),
        ({**PLANES, ("raw", 1): torch.zeros(2, 4)}, r"a Tensor \(2, 4\) for \('raw', 1\)"),
        ({**PLANES, ("raw", 1): torch.zeros(6, 4)}, r"no tensor \(3, width\)"),
        ({**PLANES, ("raw", 1): torch.zeros(3)}, r"a Tensor \(3,\)"),
        ({**PLANES, ("raw", 1): np.zeros((3, 4))}, "a ndarray"),
        ({key: PLANES[key] for key in [("raw", 0), ("raw", 2)]}, r"nothing for \('raw', 1\)"),
    ],
)
def test_planes_that_are_none_are_a_fault_of_the_adapter(planes: Any, said: str) -> None:
    with pytest.raises(PluginFault, match=rf"^TypeError: states gave .*{said}.*test_registration"):
        with_states(lambda batch: planes).states([{}] * 3)


@pytest.mark.parametrize(
    ("inputs", "said"), [(None, "gave None, not a list"), ([{}], "gave 1 inputs for 2 texts")]
)
def test_inputs_are_one_for_each_text(inputs: Any, said: str) -> None:
    model = with_states(None, tokenize=lambda texts: inputs)
    with pytest.raises(PluginFault, match=rf"^TypeError: tokenize {said} .*test_registration"):
        model.tokenize(["a", "b"])


def test_adapters_that_open_a_model_alike_have_states_of_their_own() -> None:
    assert with_states(None, adapter="one").identity != with_states(None, adapter="two").identity


def test_planes_are_whole_and_observed() -> None:
    def observe(states: Any, mask: Any) -> Any:
        return {("tokens 0", 0): torch.ones(3, 2)}

    assert with_states(lambda batch: PLANES).states([{}] * 3) == PLANES
    with pytest.raises(PluginFault, match=r"nothing for \('final', 2\)"):
        with_states(lambda batch: PLANES, final_norm=True).states([{}] * 3)
    sound = with_states(lambda batch, observe: {**PLANES, **observe([], None)})
    assert sound.states([{}] * 3, observe).keys() == {*PLANES, ("tokens 0", 0)}
    assert "observe" in signature(sound.states).parameters
    for states, said in {
        lambda batch, observe: PLANES: "did not call observe",
        lambda batch, observe: (observe([], None), PLANES)[1]: "nothing for .'tokens 0'",
    }.items():
        with pytest.raises(PluginFault, match=said):
            with_states(states).states([{}] * 3, observe=observe)
