"""lm-eval's side of a likelihood task: its requests, its tokens, its scores, its result files."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import math
import os
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import lm_eval
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.evaluator_utils import get_sample_size
from lm_eval.loggers import EvaluationTracker
from lm_eval.models.huggingface import HFLM

from lrd_harness.contracts import (
    Continuation,
    LanguageModel,
    LikelihoodView,
    Score,
    TaskOptions,
    TokenPairs,
)
from lrd_harness.errors import UserError
from lrd_harness.store import location
from lrd_harness.store.folders import fitting

from . import mmlu
from .loading import check_documents, plainly

SEED = 1234  # lm-eval's own, for few-shot examples that are drawn at random
UNHASHED = ("metadata", "custom_dataset")  # where the task's file lies, and a function
BOOTSTRAP = 1000  # lm-eval's default of 100,000 takes minutes a layer; accuracies need none


class Fingerprint(str):
    """A hash of data; equal also to the one that older folders hold, of data and their place."""

    placed: str

    def __new__(cls, value: str, placed: str) -> Fingerprint:
        """The hash, and that of before."""
        fingerprint = super().__new__(cls, value)
        fingerprint.placed = placed
        return fingerprint

    def __eq__(self, other: object) -> bool:
        return str(self) == other or self.placed == other

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__


def _written(part: Any) -> bytes:
    return json.dumps(part, sort_keys=True, default=str).encode() + b"\n"


@dataclass(frozen=True)
class Loaded:
    """A task or group of lm-eval with its data.

    record: lm-eval's, of tasks and groups; examples: of each task, how many there are for its
    prompts at most, where fewer than asked for will do; about: where the data are from, for files.
    """

    name: str
    record: dict[str, Any]
    options: TaskOptions
    examples: Mapping[str, int] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tasks(self) -> Mapping[str, Any]:
        """Its single tasks by name."""
        tasks: Mapping[str, Any] = self.record["tasks"]
        return tasks

    def fingerprint(self) -> Fingerprint:
        """A hash of all documents and settings of its tasks, wherever its files lie."""
        placed, digest = hashlib.sha256(), hashlib.sha256()
        for name, task in self.tasks.items():
            settings = {k: v for k, v in task.dump_config().items() if k not in UNHASHED}
            documents = [_written(row) for row in (*task.eval_docs, *(task.fewshot_docs() or ()))]
            unplaced = location.values(settings, lambda path: Path(path).name)
            for hashed, about in ((placed, settings), (digest, unplaced)):
                for part in (_written(name), _written(about), *documents):
                    hashed.update(part)
        return Fingerprint(digest.hexdigest()[:16], placed.hexdigest()[:16])

    @functools.cached_property
    def instances(self) -> Mapping[str, Sequence[Instance]]:
        """lm-eval's requests of each task, their prompts made once for all models and layers.

        Raises UserError for too few examples, and for what cannot be answered.
        """
        options, instances = self.options, {}
        for name, task in self.tasks.items():
            shots = options.num_fewshot
            if shots is not None:
                shots = min(shots, self.examples.get(name, shots))
            shots = _set_fewshot(task, shots)
            with plainly(f"lm-eval:{self.name}: {name} with {shots} examples in its prompts"):
                which = self.documents[name]
                task.build_all_requests(**which, rank=0, world_size=1)
            numbers = which.get("samples")  # lm-eval counts those that were drawn
            _check_requests(name, task.instances, numbers)
            if options.include_path is not None:
                found = task.doc_iterator(**which, rank=0, world_size=1)
                documents = ((numbers[i] if numbers else i, document) for i, document in found)
                check_documents(name, task, documents, options.include_path)
            instances[name] = task.instances
            task.build_all_requests = functools.partial(_again, task)
        return instances

    @functools.cached_property
    def documents(self) -> Mapping[str, Mapping[str, Any]]:
        """Which documents of each task are asked for, as lm-eval takes it: `limit` or `samples`.

        Raises UserError where there are to be fewer in all than there are tasks.
        """
        limit, most = self.options.limit, self.options.max_questions
        if most is None:
            return {name: {"limit": get_sample_size(t, limit)} for name, t in self.tasks.items()}
        sizes = {name: mmlu.within(len(t.eval_docs), limit) for name, t in self.tasks.items()}
        chosen = mmlu.stratified(sizes, most)
        if len(chosen) < len(sizes):
            raise UserError(
                f"lm-eval:{self.name} has {len(sizes)} parts, and each needs a question: "
                f"max_questions is {most}"
            )
        return {name: {"samples": numbers} for name, numbers in chosen.items()}

    @property
    def samples(self) -> dict[str, list[int]] | None:
        """The numbers of the documents that were drawn of each task; None where none were."""
        drawn = {name: [*which.get("samples", ())] for name, which in self.documents.items()}
        return drawn if self.options.max_questions is not None else None

    @property
    def requests(self) -> list[Continuation]:
        """What it asks a model, as often as it does, in order."""
        return [Continuation(*i.args) for part in self.instances.values() for i in part]

    @property
    def contexts(self) -> list[str]:
        """The prompts of its documents, in order; those that serve to correct by are left out."""
        prompts = {
            (name, instance.doc_id, instance.args[0]): instance.args[0]
            for name, instances in self.instances.items()
            for instance in instances
        }
        return [context for context in prompts.values() if context.strip()] or [*prompts.values()]


def _again(task: Any, **_: Any) -> None:
    """In place of making the prompts of a task once more: the same, unanswered.

    The lists and mappings of earlier answers are left to those who hold them.
    """
    for instance in task.instances:
        instance.resps, instance.filtered_resps = [], {}


def _set_fewshot(task: Any, shots: int | None) -> int:
    """As lm-eval's `simple_evaluate` sets it: a task that says 0 keeps it, and 0 is the default.

    Returns how many examples its prompts have.
    """
    usual: int | None = task.get_config("num_fewshot")
    if usual != 0 and (shots is not None or usual is None):
        usual = shots or 0
        task.set_config(key="num_fewshot", value=usual)
    task.set_fewshot_seed(seed=SEED)
    return usual or 0


def _check_requests(
    name: str, instances: Sequence[Instance], numbers: Sequence[int] | None
) -> None:
    for instance in instances:
        if instance.request_type != "loglikelihood" or len(instance.args) != 2:
            raise UserError(f"lm-eval:{name} asks for more than log-likelihoods of texts")
        if not instance.args[1].strip():
            number = numbers[instance.doc_id] if numbers else instance.doc_id
            where = f"lm-eval:{name}: document {number}: choice {instance.idx}"
            raise UserError(f"{where} is empty, so there is no continuation to score")


class _Tokens(HFLM):  # type: ignore[misc]  # lm-eval has no types
    """lm-eval's own tokenization of requests, without a pass.

    encoded: of each request, what it was, and the tokens of its context and its continuation.
    """

    def __init__(self, model: LanguageModel) -> None:
        super().__init__(
            pretrained=model.whole,
            tokenizer=copy.deepcopy(model.tokenizer),  # a padding token may be added to it
            backend="causal",
            max_length=model.options.max_length,
        )
        self.encoded: Sequence[tuple[Any, list[int], list[int]]] = ()
        self._encode = functools.lru_cache(16)(super().tok_encode)

    def tok_encode(self, string: str, *args: Any, **kwargs: Any) -> list[int]:
        """As it is; the context that the choices of a question share is encoded once."""
        return list(self._encode(string, *args, **kwargs))

    def _loglikelihood_tokens(self, requests: Any, **kwargs: Any) -> list[tuple[float, bool]]:
        self.encoded = requests
        return [(0.0, False)] * len(requests)


def tokenize(model: LanguageModel, requests: Sequence[Continuation]) -> TokenPairs:
    """The tokens of requests as lm-eval's `hf` has them.

    Where lm-eval lets texts be longer than the model bears, they are cut to what it does.
    Raises UserError for a request without tokens, or with one that the model does not know.
    """
    lm = _Tokens(model)
    instances = [Instance("loglikelihood", {}, tuple(request), 0) for request in requests]
    lm.loglikelihood(instances, disable_tqdm=True)
    most = model.length_limit(int(lm.max_length))
    for (context, continuation), before, after in lm.encoded:
        if not before or not after or len(after) > most:
            fault = "more than the model takes" if after else "none"
            raise UserError(
                f"the continuation {continuation[:40]!r} of a prompt that ends in "
                f"{context[-40:]!r} has too many or too few tokens: {fault}"
            )
        model.check_tokens((*before, *after), context + continuation)
    return TokenPairs([(before, after) for _, before, after in lm.encoded], most)


class _Layer(LM):  # type: ignore[misc]  # lm-eval has no types
    """One layer as lm-eval's language model: answers are looked up, not computed."""

    def __init__(self, view: LikelihoodView) -> None:
        super().__init__()
        self.view = view

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """The log-likelihood of each request, and whether it is the greedy continuation."""
        return list(self.view.loglikelihoods([Continuation(*r.args) for r in requests]))

    def loglikelihood_rolling(self, requests: list[Instance]) -> Any:
        """Never asked for: such tasks are refused when they are found."""
        raise UserError("only continuations are compared layer by layer")

    generate_until = loglikelihood_rolling


def evaluate(loaded: Loaded, view: LikelihoodView) -> Score:
    """lm-eval's score of one layer."""
    _ = loaded.instances  # which lm-eval then takes
    options = loaded.options
    results: Any = lm_eval.evaluate(
        lm=_Layer(view),
        task_dict=cast("Any", loaded.record),
        limit=cast("Any", options.limit) if options.max_questions is None else None,
        samples=loaded.samples,
        bootstrap_iters=BOOTSTRAP,
        log_samples=options.log_samples,
    )
    results["config"] = {
        "model": "lrd-harness",
        "model_args": {"pretrained": view.name, "revision": view.revision, **view.experiments[0]},
        "limit": options.limit,
        "max_questions": options.max_questions,
        **loaded.about,
        "bootstrap_iters": BOOTSTRAP,
        "fewshot_seed": SEED,
    }
    results["date"] = time.time()
    results["lm_eval_version"] = lm_eval.__version__
    return score_of(loaded, results)


def score_of(loaded: Loaded, results: Any) -> Score:
    """The main score of lm-eval's results, what belongs to it, and the other scores."""
    row = results["results"][loaded.name]
    better = results["higher_is_better"].get(loaded.name) or {}
    numbers = {key: float(value) for key, value in row.items() if isinstance(value, float)}
    keys = [
        key
        for key in numbers
        if "," in key and "_stderr" not in key and better.get(key.partition(",")[0], True)
    ]
    if not keys:
        raise UserError(f"lm-eval:{loaded.name} has no score of which more is better")
    main = next((key for key in keys if key.startswith("acc,")), keys[0])
    metric, _, filtered = main.partition(",")
    parts = {
        f"{part}.{main}": float(scores[main])
        for part, scores in results["results"].items()
        if part != loaded.name and isinstance(scores.get(main), float)
    }
    return Score(
        main=row[main],
        name=metric,
        stderr=_stderr(row.get(f"{metric}_stderr,{filtered}"), row[main], metric, row),
        chance=_chance(loaded) if metric.startswith("acc") else None,
        scores={**numbers, **parts},
        native=results,
    )


def _stderr(stderr: Any, score: float, metric: str, row: Mapping[str, Any]) -> float | None:
    """lm-eval's own; it has none where a subject has one question: then that of a proportion."""
    if isinstance(stderr, (int, float)):
        return float(stderr)
    n = int(row.get("sample_len", 0))
    return math.sqrt(score * (1 - score) / (n - 1)) if metric == "acc" and n > 1 else None


def _chance(loaded: Loaded) -> float | None:
    """What guessing gets: the mean over questions of right / all choices, subjects as weighed.

    None for a task without choices, and for one that counts its answers in a way of its own.
    """
    group = (loaded.record.get("groups") or {}).get(loaded.name)
    by_size = not group or group.aggregate_metric_list[0].weight_by_size
    total = weight = 0.0
    for name, instances in loaded.instances.items():
        task = loaded.tasks[name]
        if task.OUTPUT_TYPE != "multiple_choice" or task.config.process_results is not None:
            return None
        # requests without a context only serve to correct the others by
        scored = [i for i in instances if i.args[0]] or instances
        choices = Counter(i.doc_id for i in scored)
        gold = {i.doc_id: task.doc_to_target(i.doc) for i in scored}
        right = {doc: len({*g}) if isinstance(g, list) else 1 for doc, g in gold.items()}
        mean = sum(right[doc] / n for doc, n in choices.items()) / len(choices)
        size = len(choices) if by_size else 1
        total, weight = total + mean * size, weight + size
    return total / weight


def save(score: Score, view: LikelihoodView, out: Path) -> None:
    """Write lm-eval's own result files of this layer under out/lm_eval/MODEL/REVISION/LAYER/."""
    results = dict(score.native)
    samples = results.pop("samples", None)
    results = location.values(results, lambda p: location.place(p) if os.path.exists(p) else p)
    for experiment in view.experiments:
        layer = "-".join(f"{key}_{value}" for key, value in experiment.items()) or "model"
        # folders' names, as lm-eval makes them of models' names
        names = (
            re.sub(r"[\"<>:/|\\?*\[\]\s]+", "__", n) for n in (view.name, view.revision, layer)
        )
        folder = out.joinpath("lm_eval", *map(fitting, names))
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
