"""Checks of one record: what must hold, and what its author can do where it does not."""

from __future__ import annotations

import inspect
import math
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Self

import numpy as np
import torch

from lrd_harness import manager
from lrd_harness.errors import described
from lrd_harness.guard import Owner
from lrd_harness.registration import registered


class Outcome(NamedTuple):
    """A check that was made. fault: what was wrong, "" for nothing; advice: what to do then."""

    check: str
    fault: str = ""
    advice: str = ""
    error: Exception | None = None


class Checks:
    """The checks of a kind: its public methods, in order, each of which raises what is wrong.

    The first line of a method's docstring is what must hold, the rest what to do where it does not.
    given: what the record is tried with, as its kind has it. Raises TypeError for no record.
    """

    def __init__(self, record: Any, given: Any = None) -> None:
        kinds = (kind for kind, (_, types) in manager.KINDS.items() if isinstance(record, types))
        self.kind = next(kinds, "")
        if not self.kind:
            raise TypeError(f"{type(record).__name__} is no record of a plugin")
        self.name, self.given, self._bare = str(record.name), given, record

    def fields(self) -> None:
        """its fields are what they should be

        docs/plugins.md has the fields of every record, their types and defaults.
        """
        self.record = registered(self._bare, self.kind, owner_of(self._bare))

    @classmethod
    def promised(cls) -> dict[str, tuple[str, str]]:
        """By name of each check what must hold, and what to do where it does not."""
        every = dict.fromkeys(name for kind in reversed(cls.mro()[:-2]) for name in vars(kind))
        own = [n for n in every if n[0] != "_" and n not in vars(Checks)]
        names = ["fields", *(name for name in own if callable(getattr(cls, name)))]
        docs = {name: str(inspect.getdoc(getattr(cls, name))) for name in names}
        parts = {name: doc.partition("\n\n")[::2] for name, doc in docs.items()}
        return {name: (what, " ".join(advice.split())) for name, (what, advice) in parts.items()}

    def outcomes(self) -> Iterator[Outcome]:
        """Each check, when it has been made; all that follow hang on the first two."""
        stopped, faults = False, set[str]()
        for number, (name, (what, advice)) in enumerate(self.promised().items()):
            if stopped:
                yield Outcome(what, "not tried")
                continue
            try:
                getattr(self, name)()
            except Exception as error:
                fault = said(error)
                yield Outcome(what, *(("as above",) if fault in faults else (fault, advice, error)))
                faults.add(fault)
                stopped = number < 2  # the record is none, or cannot be called
            else:
                yield Outcome(what)

    def passed(self) -> Self:
        """Raise AssertionError at the first check that fails: what was wrong, and what to do."""
        for outcome in self.outcomes():
            if outcome.fault:
                text = f"{self.name}: {outcome.fault}\n{outcome.advice}"
                raise AssertionError(text) from outcome.error
        return self


def said(error: Exception) -> str:
    """What was wrong, of a check its own words."""
    return (isinstance(error, AssertionError) and str(error)) or described(error)


def stir() -> None:
    """Move the generators that all share on, so that what draws from them differs next time."""
    random.random()
    np.random.random()
    torch.rand(())


def twice(what: str, function: Callable[[], Any]) -> Any:
    """What it gives, the same when it is called again; what: words for where it is not."""
    first = function()
    stir()
    assert function() == first, f"{what} the second time"
    return first


def owner_of(record: Any) -> Owner:
    """Whose code a record's functions are, as far as can be seen."""
    function = next(filter(callable, vars(record).values()), record)
    name = str(getattr(inspect.unwrap(function), "__module__", ""))
    return Owner.of(sys.modules.get(name, function), name or type(function).__name__)


def numbers(value: Any, name: str = "") -> dict[str, float]:
    """All numbers of scores, by where they stand: "x", "x, value 3" or "x of model 1"."""
    if isinstance(value, Mapping):
        parts = {f"{name} of {key}" if name else key: part for key, part in value.items()}
    elif isinstance(value, list):
        parts = {f"{name}, value {i}": part for i, part in enumerate(value, 1)}
    else:
        return {name: float(value)}
    return {place: n for where, part in parts.items() for place, n in numbers(part, where).items()}


def check_alike(
    what: str, scores: Any, others: Any, near: float = 1e-6, tiny: float = 1e-9
) -> None:
    """Raise AssertionError where two sets of scores are not the same; what: made the second."""
    first, second = numbers(scores), numbers(others)
    for place in sorted(first.keys() ^ second.keys()):
        raise AssertionError(f"{what} changes whether there is {place}")
    for place, one in first.items():
        other = second[place]
        same = math.isclose(one, other, rel_tol=near, abs_tol=tiny)
        same |= math.isnan(one) and math.isnan(other)
        assert same, f"{what} changes {place} from {one:.6g} to {other:.6g}"
