"""Scores on halves are kept: an interrupted study goes on, and nothing is used that has changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny

from lrd_harness import manager
from lrd_harness.capture.samples import Sampling
from lrd_harness.cli import main
from lrd_harness.contracts import Choice, Metric, Text
from lrd_harness.errors import UnitError
from lrd_harness.measuring import PlannedMetric
from lrd_harness.planning.models import depth_of
from lrd_harness.progress import Display
from lrd_harness.scores import Scores
from lrd_harness.store import inventory
from lrd_harness.studies import resampling, select
from lrd_harness.studies.resampling import Kept, Resampled, code, digest, kept_scores
from lrd_harness.studies.study import Study
from lrd_harness.studies.values import Design

IDENTITY = {"model": "m", "revision": "1"}
TEXTS = [Text(str(i)) for i in range(20)]
CODE = """
from lrd_harness import hookimpl
from lrd_harness.cli import main
from lrd_harness.contracts import Choice, Metric

def spread(states, power=2):
    return {"spread": float(states[-1].std()) ** power}

@hookimpl
def lrd_metrics():
    return [Metric("spread", spread, selection=Choice("spread"))]
"""


def design(draws: int | None = None, seed: int = 0, **sampling: Any) -> Design:
    how = Sampling(**{"view_texts": 20, **sampling})
    questions: Any = SimpleNamespace(sample=lambda task: TEXTS)
    task: Any = SimpleNamespace(name="t", modality="text")
    return Design(task, [], questions, how, draws, seed, 100)


class Statistic:
    """The mean number of the texts, which is interrupted or fails at some calls."""

    def __init__(self, raising: dict[int, BaseException] | None = None) -> None:
        self.calls, self.raising = 0, raising or {}

    def __call__(self, rows: Any) -> tuple[Scores, int]:
        self.calls += 1
        if self.calls in self.raising:
            raise self.raising[self.calls]
        chosen = np.arange(20) if rows is None else rows
        return Scores({"mean": float(chosen.mean())}, 2), len(chosen)


def resampled(statistic: Any, seed: int = 0, kept: bool = True) -> Resampled:
    where = Kept(IDENTITY, {"measured": "mean"}) if kept else None
    return Resampled(statistic, lambda scores: scores["mean"], design(seed=seed), where)


def measured(one: Resampled, draws: int) -> list[float | None]:
    one.pilot()
    return list(one.measured(draws, lambda done, total: None).halves)


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("at", [1, 3, 9])
def test_what_was_measured_before_an_interruption_is_not_measured_again(at: int) -> None:
    whole = measured(resampled(Statistic(), kept=False), 12)
    first, second = Statistic({at: KeyboardInterrupt()}), Statistic()
    with pytest.raises(KeyboardInterrupt):
        measured(resampled(first), 12)
    assert measured(resampled(second), 12) == whole
    assert first.calls - 1 + second.calls == 13
    more, last = Statistic(), Statistic()
    assert measured(resampled(more), 20)[:12] == whole
    assert more.calls == 8
    one = resampled(last)
    assert measured(one, 20)[:12] == whole
    assert (last.calls, one.seconds > 0) == (0, True)


@pytest.mark.usefixtures("own_cache")
def test_a_fault_on_a_half_costs_that_half_and_is_not_kept() -> None:
    faulty, sound = Statistic({4: UnitError("too few")}), Statistic()
    assert measured(resampled(faulty), 6)[2] is None
    assert faulty.calls == 7
    assert None not in measured(resampled(sound), 6)
    assert sound.calls == 1
    with pytest.raises(UnitError, match="degenerate"):
        measured(resampled(Statistic({1: UnitError("degenerate")}), kept=False), 6)


@pytest.mark.usefixtures("own_cache")
def test_a_killed_study_loses_seconds_of_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    """As rows are written while it goes on, and not only at the end."""
    monkeypatch.setattr(resampling, "FLUSH", 0.0)
    names, there = ["all texts", *(f"half {i} by 0" for i in range(5))], []

    def statistic(rows: Any) -> tuple[Scores, int]:
        there.append(len(Kept(IDENTITY, {"measured": "mean"}).read(names)))
        return Scores({"mean": 1.0}, 2), 20

    measured(resampled(statistic), 5)
    assert there == [0, 1, 2, 3, 4, 5]


def places(cache: Path) -> set[str]:
    return {part.path.name for part in inventory.stores(cache)}


def test_kept_scores_are_those_of_the_same_question(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each thing that changes a score changes where it is kept."""
    file = tmp_path / "mine.py"
    file.write_text(CODE)

    def metric(**changes: Any) -> Metric:
        plugins = manager.load((manager.from_name(str(file)),))
        return replace(plugins.get("metric", "spread"), **changes)

    def keep(planned: PlannedMetric, texts: Any = TEXTS, **sampling: Any) -> None:
        assert kept_scores(IDENTITY, planned, design(**sampling), texts) is not None

    keep(PlannedMetric(metric(), {}))
    keep(PlannedMetric(metric(), {}))
    assert len(places(own_cache)) == 1
    keep(PlannedMetric(metric(version="2"), {}))
    keep(PlannedMetric(metric(selection=Choice("spread", "min")), {}))
    keep(PlannedMetric(metric(), {"power": 3}))
    keep(PlannedMetric(metric(), {}), TEXTS[::-1])
    keep(PlannedMetric(metric(), {}), [*TEXTS[1:], Text("0", "query: ")])
    keep(PlannedMetric(metric(), {}), norm="raw")
    keep(PlannedMetric(metric(), {}), device="cuda")
    file.write_text(CODE.replace("std", "var"))
    keep(PlannedMetric(metric(), {}))
    assert len(places(own_cache)) == 9
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "shared").mkdir()
    helper = tmp_path / "shared" / "numbers.py"
    helper.write_text("POWER = 2")
    within = CODE.replace("    return", "    from shared import numbers\n    return", 1)
    file.write_text(f"import scipy.stats\n{within}")
    for power, count in ((2, 10), (2, 10), (3, 11)):
        helper.write_text(f"POWER = {power}")
        keep(PlannedMetric(metric(), {}))
        assert len(places(own_cache)) == count
    assert inventory.texts(inventory.stores(own_cache)) == 0


def factory(power: float) -> Callable[..., Any]:
    return lambda states: {"s": power}


def test_code_that_is_not_in_a_file_of_its_own_is_not_kept() -> None:
    lambda_of = Metric("s", factory(2), selection=Choice("s"))
    assert code(lambda_of) is None
    assert code(Metric("s", dict, selection=Choice("s"))) is None
    assert code(manager.load().get("metric", "nrs")) is not None
    assert digest(TEXTS) != digest(TEXTS[1:])


@pytest.fixture
def models(tmp_path: Path) -> list[str]:
    return [str(tiny.save(family, tmp_path / family)) for family in ("Bert", "GPT2")]


def selected(models: list[str], texts: Path) -> Any:
    study = Study(
        "select",
        manager.load(),
        texts=texts,
        metrics=("nrs", "frenet"),
        draws=None,
        display=Display(quiet=True),
    )
    return study.select(models)


@pytest.mark.slow
def test_an_interrupted_selection_gives_the_same_table(
    models: list[str], tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(tiny.sentences(24)) + "\n")
    whole, calls = selected(models, texts), 0
    assert selected(models, texts) == whole
    # again in a cache of its own, interrupted again and again, at another place each time
    monkeypatch.setenv("LRD_HARNESS_CACHE", str(own_cache / "other"))
    original, passes = Resampled._value, []

    def interrupted(self: Resampled, name: str, rows: Any) -> Any:
        nonlocal calls
        known = name in self._values
        if not known:
            calls += 1
            if calls % 70 == 0:
                raise KeyboardInterrupt
        return original(self, name, rows)

    monkeypatch.setattr(Resampled, "_value", interrupted)
    for _ in range(20):
        try:
            again = selected(models, texts)
            break
        except KeyboardInterrupt:
            passes.append(calls)
    assert len(passes) >= 4

    def values(report: Any) -> list[dict[str, Any]]:
        rows = report.table("select").rows
        return [{k: v for k, v in row.items() if k != "seconds_1000"} for row in rows]

    assert values(again) == values(whole)
    assert again.table("ranks") == whole.table("ranks")
    monkeypatch.setattr(select, "cost", None)  # which is kept, too
    assert selected(models, texts) == again


@pytest.mark.slow
def test_a_model_without_some_blocks_is_shown_beside_its_parent(
    models: list[str], tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, cut = tmp_path / "texts.txt", tmp_path / "cut"
    texts.write_text("\n".join(tiny.sentences(60)) + "\n")
    assert main(["prune", models[0], "--blocks", "2-3", "--save", str(cut), "--quiet"]) == 0
    found = selected([models[0], str(cut)], texts)
    (row,) = found.table("origins").rows
    assert row["model"] == "local/cut"
    assert row["parent"].endswith("Bert")
    assert row["chance"] < row["knn_overlap"] < 1
    assert sum("without blocks 2-3" in line for line in found.answer) == 1
    monkeypatch.setattr(select, "to_parent", None)  # what it gave is kept
    assert selected([models[0], str(cut)], texts) == found


@pytest.mark.parametrize(
    ("configs", "said"),
    [
        ([{"n_layer": 6, "n_embd": 10}, {"num_hidden_layers": 12, "hidden_size": 20}], "9 min"),
        ([{}, {"text_config": {"n_layer": 6, "n_embd": 10}}], "2 min"),
    ],
)
def test_the_estimate_goes_by_blocks_and_squared_width(
    configs: list[dict[str, Any]], said: str
) -> None:
    models: Any = [
        SimpleNamespace(depth=depth_of(config), checkpoint=SimpleNamespace(config=config))
        for config in configs
    ]
    assert select.estimate(models, 60.0).startswith(f"2 models: about {said} to read the texts")
