"""What rules are told of a model in a run: values recorded there, and a sample of its texts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from lrd_harness import evidence
from lrd_harness.contracts import Task, Text
from lrd_harness.errors import UnitError
from lrd_harness.model_evidence import ModelEvidence
from lrd_harness.parameters import PlannedMetric
from lrd_harness.plan import PlannedModel
from lrd_harness.pruning import Pruning
from lrd_harness.questions import sampled
from lrd_harness.reading import Reading
from lrd_harness.text_model import TextModel
from lrd_harness.units import Ledger, metric_unit


class SweepEvidence:
    """The evidence for one model's choices, made when the first rule asks for it.

    metrics: whose recorded values are read; tasks: whose texts, and values on them.
    """

    def __init__(
        self,
        planned: PlannedModel,
        pruning: Pruning,
        metrics: Sequence[PlannedMetric],
        tasks: Sequence[Task],
        ledger: Ledger,
        model: TextModel,
        readings: Sequence[Reading],
    ) -> None:
        self._planned, self._asked, self._metrics = planned, pruning, metrics
        self._tasks, self._ledger, self._model = tasks, ledger, model
        self._readings = readings

    @cached_property
    def texts(self) -> list[Text]:
        """A seeded sample of the distinct texts of the tasks, in order.

        Of the embedding tasks where there are any: prompts of the others are many times as long.
        """
        for reading in self._readings:
            tasks = [t for t in self._tasks if t.likelihood == reading.likelihood]
            every = list(dict.fromkeys(text for t in tasks for text in self._of(reading, t)))
            if every:
                return sampled(every, self._asked.texts)
        return []

    @staticmethod
    def _of(reading: Reading, task: Task) -> list[Text]:
        """A task's texts; none where they fail, which is recorded where they are scored."""
        try:
            return reading.sample(task)
        except Exception:
            return []

    @cached_property
    def later(self) -> evidence.Later:
        """The evidence, to be made when a rule asks for it."""
        return evidence.Later(self._make)

    def _make(self) -> ModelEvidence:
        """Recorded profiles, averaged over the tasks, and what is computed on the texts."""
        if not self.texts:
            raise UnitError("there are no texts to choose blocks on")
        tasks = [
            profiles for task in self._tasks for profiles in [self._profiles(task)] if profiles
        ]
        return ModelEvidence(
            self._model, self.texts, evidence.averaged(tasks), self._readings[0].budget.tokens
        )

    def _profiles(self, task: Task) -> dict[str, list[float | None]]:
        found: dict[str, list[float | None]] = {}
        for item in self._metrics:
            record = self._ledger.get(metric_unit(self._planned, task, item))
            if record is not None:
                found |= evidence.block_profiles(
                    item.metric.name,
                    record["profiles"],
                    self._model.info.blocks,
                    record["start"],
                    self._asked.indexing,
                )
        return found
