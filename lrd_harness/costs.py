"""What a run costs, as a plan tells it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from lrd_harness.calibration import Span
from lrd_harness.errors import UserError

STAGES = ("opening", "reading", "metrics", "tasks × layers", "pruning")
READ = 6e-6  # seconds to find a text's state in the store
RECORD = 0.006  # seconds to put a unit on disk


@dataclass
class ModelCost:
    """What a model will cost.

    texts: distinct ones that are asked for (of likelihood tasks: requests); stored: of these, those
    that need no pass; passes, tokens: to be run; disk: bytes that the store will grow by; units:
    scores and metrics to be made; spans: seconds by stage; faults: what could not be estimated.
    """

    name: str
    texts: int = 0
    stored: int = 0
    passes: int = 0
    tokens: int = 0
    disk: int = 0
    units: int = 0
    spans: dict[str, Span] = field(default_factory=lambda: dict.fromkeys(STAGES, Span()))
    faults: list[str] = field(default_factory=list)

    @property
    def span(self) -> Span:
        """All stages."""
        return total(self.spans.values())

    def add(self, stage: str, span: Span) -> None:
        """More seconds of a stage."""
        self.spans[stage] = self.spans[stage].plus(span)


def total(spans: Iterable[Span]) -> Span:
    """One after the other."""
    found = Span()
    for span in spans:
        found = found.plus(span)
    return found


@dataclass
class Estimate:
    """What a run will cost. common: seconds apart from models, to begin and to collect texts."""

    models: list[ModelCost]
    common: Span

    @property
    def span(self) -> Span:
        """The whole run."""
        return total([self.common, *(model.span for model in self.models)])

    def record(self) -> dict[str, Any]:
        """All of it as JSON can hold it; seconds as {low, high}."""
        return {
            "seconds": self.span._asdict(),
            "common": self.common._asdict(),
            "models": [
                {**asdict(m), "spans": {k: s._asdict() for k, s in m.spans.items()}}
                for m in self.models
            ],
        }


def line(name: str, error: Exception) -> str:
    """A fault in one line."""
    text = next(iter(str(error).splitlines()), "")
    kind = type(error).__name__
    if isinstance(error, UserError):  # it says all by itself
        return f"{name}: {text.removeprefix(f'{name} cannot be opened: ')}"
    return f"{name}: {kind}{f': {text}' if text else ''}"
