"""Checks of one record: what must hold, and what its author can do where it does not."""

from __future__ import annotations

import inspect
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np
import torch

from lrd_harness import manager
from lrd_harness.errors import described
from lrd_harness.guard import Owner
from lrd_harness.registration import registered

NOT_TRIED = "not tried"


class Outcome(NamedTuple):
    """A check that was made. fault: what was wrong, "" for nothing; advice: what to do then."""

    check: str
    fault: str = ""
    advice: str = ""
    error: Exception | None = None


class Checks:
    """The checks of a kind: its public methods, in order, each of which raises what is wrong.

    The first line of a method's docstring is what must hold, the rest what to do where it does not.
    Where the first does not hold, the others are not tried.
    """

    def __init__(self, record: Any) -> None:
        kinds = (kind for kind, (_, types) in manager.KINDS.items() if isinstance(record, types))
        self.kind = next(kinds, "")
        if not self.kind:
            raise TypeError(f"{type(record).__name__} is no record of a plugin")
        self.name, self._given = str(record.name), record

    @property
    def title(self) -> str:
        """What is checked: "metric spread"."""
        return f"{self.kind} {self.name}"

    def fields(self) -> None:
        """its fields are what they should be

        docs/plugins.md has the fields of every record, their types and defaults.
        """
        self.record = registered(self._given, self.kind, owner_of(self._given))

    @classmethod
    def promised(cls) -> dict[str, tuple[str, str]]:
        """By name of each check what must hold, and what to do where it does not."""
        methods = (n for n, m in vars(cls).items() if inspect.isfunction(m))
        own = [name for name in methods if name[0] != "_" and name not in vars(Checks)]
        docs = {name: str(inspect.getdoc(getattr(cls, name))) for name in ["fields", *own]}
        parts = {name: doc.partition("\n\n")[::2] for name, doc in docs.items()}
        return {name: (what, " ".join(advice.split())) for name, (what, advice) in parts.items()}

    def outcomes(self) -> Iterator[Outcome]:
        """Each check, when it has been made."""
        stopped = False
        for number, (name, (what, advice)) in enumerate(self.promised().items()):
            if stopped:
                yield Outcome(what, NOT_TRIED)
                continue
            try:
                getattr(self, name)()
            except Exception as error:
                ours = isinstance(error, AssertionError) and str(error)
                yield Outcome(what, ours or described(error), advice, error)
                stopped = number < 2  # the record is none, or cannot be called
            else:
                yield Outcome(what)

    def passed(self) -> None:
        """Raise AssertionError at the first check that fails: what was wrong, and what to do."""
        for outcome in self.outcomes():
            if outcome.fault:
                said = f"{self.name}: {outcome.fault}\n{outcome.advice}"
                raise AssertionError(said) from outcome.error


def stir() -> None:
    """Move the generators that all share on, so that what draws from them differs next time."""
    random.random()
    np.random.random()
    torch.rand(())


def twice(function: Callable[[], Any]) -> tuple[Any, Any]:
    """What it gives, and what it gives then."""
    first = function()
    stir()
    return first, function()


def owner_of(record: Any) -> Owner:
    """Whose code a record's functions are, as far as can be seen."""
    for field in fields(record):
        if callable(function := getattr(record, field.name)):
            name = str(getattr(inspect.unwrap(function), "__module__", ""))
            return Owner.of(sys.modules.get(name, function), name or type(function).__name__)
    return Owner(type(record).__name__)


def numbers(value: Any) -> np.ndarray:
    """All numbers of a score, one after another."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return np.concatenate([np.empty(0), *map(numbers, value)])
    return np.atleast_1d(np.asarray(value, np.float64))


def alike(what: str, scores: Any, others: Any, near: float = 1e-6, tiny: float = 1e-9) -> None:
    """Raise AssertionError where two sets of scores are not the same; what: made the second."""
    assert scores.keys() == others.keys(), f"{what} changes which scores there are"
    for name in scores:
        first, second = numbers(scores[name]), numbers(others[name])
        assert first.shape == second.shape, f"{what} changes how many values {name} has"
        if np.allclose(first, second, rtol=near, atol=tiny, equal_nan=True):
            continue
        place = int(np.argmax(~np.isclose(first, second, rtol=near, atol=tiny, equal_nan=True)))
        of = f", value {place + 1}," if len(first) > 1 else ""
        raise AssertionError(
            f"{what} changes {name}{of} from {first[place]:.6g} to {second[place]:.6g}"
        )
