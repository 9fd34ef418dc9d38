"""lm-eval's results of one layer: its main score with error and chance, and its own files."""

from __future__ import annotations

import copy
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval.api.instance import Instance
from lm_eval.loggers import EvaluationTracker

from lrd_harness.contracts import LikelihoodView, Score
from lrd_harness.errors import UserError
from lrd_harness.store import location
from lrd_harness.store.folders import fitting

if TYPE_CHECKING:
    from .requests import Loaded


def score_of(loaded: Loaded, instances: Mapping[str, Sequence[Instance]], results: Any) -> Score:
    """The main score of lm-eval's results, what belongs to it, and the other scores."""
    name = loaded.name
    own = results["results"][name]
    keys = [k for k, v in own.items() if isinstance(v, float) and "," in k and "_stderr" not in k]
    better = results["higher_is_better"].get(name) or {}
    keys = [k for k in keys if better.get(k.partition(",")[0], True)]
    if not keys:
        raise UserError(f"lm-eval:{name} has no score of which more is better")
    main = next((k for k in keys if k.startswith("acc,")), keys[0])
    metric, _, filtered = main.partition(",")
    return Score(
        main=own[main],
        name=metric,
        stderr=_stderr(own.get(f"{metric}_stderr,{filtered}"), own[main], metric, own),
        chance=_chance(loaded, instances) if metric.startswith("acc") else None,
        scores={
            **{k: float(v) for k, v in own.items() if isinstance(v, float)},
            **{
                f"{part}.{main}": float(found[main])
                for part, found in results["results"].items()
                if part != name and isinstance(found.get(main), float)
            },
        },
        native=results,
    )


def _stderr(given: Any, score: float, metric: str, own: Mapping[str, Any]) -> float | None:
    """lm-eval's own; it has none where a subject has one question: then that of a proportion."""
    if isinstance(given, (int, float)):
        return float(given)
    n = int(own.get("sample_len", 0))
    return math.sqrt(score * (1 - score) / (n - 1)) if metric == "acc" and n > 1 else None


def _chance(loaded: Loaded, every: Mapping[str, Sequence[Instance]]) -> float | None:
    """What guessing gets: the mean over questions of right / all choices, subjects as weighed.

    None for a task without choices, and for one that counts its answers in a way of its own.
    """
    group = (loaded.record.get("groups") or {}).get(loaded.name)
    by_size = not group or group.aggregate_metric_list[0].weight_by_size
    total = weight = 0.0
    for name, instances in every.items():
        task = loaded.tasks[name]
        if task.OUTPUT_TYPE != "multiple_choice" or task.config.process_results is not None:
            return None
        # requests without a context only serve to correct the others by
        asked = [i for i in instances if i.args[0]] or instances
        choices = Counter(i.doc_id for i in asked)
        right = {i.doc_id: _right(task.doc_to_target(i.doc)) for i in asked}
        mean = sum(right[doc] / n for doc, n in choices.items()) / len(choices)
        size = len(choices) if by_size else 1
        total, weight = total + mean * size, weight + size
    return total / weight


def _right(target: Any) -> int:
    """How many of the choices are right: several where the target is a list."""
    return len(set(target)) if isinstance(target, list) else 1


def save(score: Score, view: LikelihoodView, out: Path) -> None:
    """Write lm-eval's own result files of this layer under out/lm_eval/MODEL/REVISION/LAYER/."""
    results = dict(score.native)
    samples = results.pop("samples", None)
    results = location.values(results)
    for experiment in view.experiments:
        parts = [f"{key}_{value}" for key, value in experiment.items()] or ["model"]
        model = out / "lm_eval" / _safe(view.name) / _safe(view.revision)
        folder = model / "-".join(map(_safe, parts))
        folder.mkdir(parents=True, exist_ok=True)
        tracker = EvaluationTracker(output_path=str(folder / "results.json"))
        tracker.general_config_tracker.log_experiment_args(
            "lrd-harness", results["config"]["model_args"], None, None, False
        )
        tracker.save_results_aggregated(results=dict(results), samples=samples)
        if not (folder / f"results_{tracker.date_id}.json").is_file():  # it only logs its failures
            raise OSError(f"lm-eval could not write its results to {folder}")
        for name, rows in (samples or {}).items():
            # a copy, since lm-eval changes them in writing
            tracker.save_results_samples(task_name=name, samples=copy.deepcopy(rows))


def _safe(name: str) -> str:
    """A folder's name, as lm-eval makes them of models' names."""
    return fitting(re.sub(r"[\"<>:/|\\?*\[\]\s]+", "__", name))
