"""Plugins of every kind with a fault each, which the conformance kit is to name, and sound ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from lrd_harness.contracts import (
    Choice,
    Command,
    Metric,
    PanelMetric,
    Pruner,
    Reporter,
    Request,
    Score,
    Task,
    TaskFamily,
)
from lrd_harness.errors import NotEnoughTokens, UnitError, UserError


def spread(states: Any) -> dict[str, Any]:
    return {"spread": [float(state.std()) for state in states]}


def mean_norm(states: Any) -> dict[str, Any]:
    if states.shape[-2] < 6:
        raise NotEnoughTokens("too short")
    return {"size": states.norm(dim=-1).mean(-1), "length": states.shape[-2]}


def longest(texts: Any) -> dict[str, Any]:
    return {"length": max(text["length"] for text in texts)}


def first_text(texts: Any) -> dict[str, Any]:
    return {"size": texts[0]["size"]}


def by_length(states: Any) -> dict[str, Any]:
    return {"x": [1.0] * states.shape[-2]}


def size(states: Any) -> dict[str, Any]:
    return {"x": float(states.sum())}


def doubled(states: Any) -> dict[str, Any]:
    return {"x": float(states.mul_(2).sum())}


def random(states: Any) -> dict[str, Any]:
    return {"x": float(torch.rand(()))}


def constant(value: Any) -> Any:
    return lambda states: {"x": value}


def through_numpy(states: Any) -> dict[str, Any]:
    states[0].numpy()[0] = 0
    return {"x": 1.0}


def first_row(states: Any) -> dict[str, Any]:
    return {"x": [float(state[0].norm()) for state in states]}


class Remembering:
    """Gives the largest norm of all that it was ever given."""

    largest = 0.0

    def __call__(self, states: Any) -> dict[str, Any]:
        self.largest = max(self.largest, *(float(state.norm()) for state in states))
        return {"x": self.largest}


def ties(states: Any) -> dict[str, Any]:
    return {"x": [float((state == state.float()).double().mean()) for state in states]}


def second_column(states: Any) -> dict[str, Any]:
    return {"x": [float(state[:, 1].std()) for state in states]}


def token_std(states: Any) -> dict[str, Any]:
    return {"x": float(states[-1].std(dim=0).mean())}


def within(states: Any, labels: Any) -> dict[str, Any]:
    centres = [torch.stack([h[labels == c].mean(0) for c in labels.unique()]) for h in states]
    return {"x": [float(of_layer.std(0).mean()) for of_layer in centres]}


def to_second(maps: Any) -> dict[str, Any]:
    return {"x": [float(block[:, :, 1].mean()) for block in maps]}


def by_number(states: Any, labels: Any) -> dict[str, Any]:
    return {"x": float((states[0].norm(dim=1) * labels).mean())}


def entropy(maps: Any) -> dict[str, Any]:
    return {"x": [float(-(block * block.log()).sum()) for block in maps]}


def per_step(states: Any) -> dict[str, Any]:
    return {"x": [float(state.norm() / torch.tensor(len(state) - 1.0)) for state in states]}


LAW = frozenset
TOKENS: Any = {"needs": "tokens"}
FAULTS: list[tuple[str, Any]] = [
    ("scaling changes", Metric("m", spread, invariances=LAW({"scaling"}))),
    ("unknown laws", Metric("m", spread, invariances=LAW({"magic"}))),
    ("no score missing", Metric("m", spread, selection=Choice("missing"))),
    ("no score spread", Metric("m", spread, selection=Choice("spread"))),
    ("no list", Metric("m", constant(1.0), layer_choice=Choice("x"))),
    ("not finite", Metric("m", constant(float("nan")))),
    ("values", Metric("m", constant([1.0]))),  # they belong to no layers
    ("a second call", Metric("m", random)),
    ("a rotation changes", Metric("m", size, invariances=LAW({"rotation"}), **TOKENS)),
    (
        "a permutation changes",
        Metric("m", mean_norm, finish=first_text, invariances=LAW({"permutation"}), **TOKENS),
    ),
    ("other lengths", Metric("m", by_length, **TOKENS)),
    ("changes the states|writes to its input", Metric("m", doubled, **TOKENS)),
    ("changes the states|writes to its input", Metric("m", through_numpy)),
    ("a permutation changes", Metric("m", first_row)),
    ("a call on other states", Metric("m", Remembering())),
    ("float32 changes", Metric("m", ties)),
    (r"one dimension: .*SVD|one dimension: .*Error", Metric("m", second_column)),
    ("one token: x is not finite", Metric("m", token_std, **TOKENS)),
    ("of: .*list of 5 values|declared as of steps", Metric("m", spread, of="steps")),
    ("mapping from names", Metric("m", lambda states: [1.0])),
    ("needs of metric 'm' is 'images'", Metric("m", spread, needs="images")),
    ("one class: x is not finite", Metric("m", within, needs="labels")),
    ("a permutation changes", Metric("m", by_number, needs="labels")),
    ("no score has a value in any layer", Metric("m", entropy, needs="attention")),
    ("one token: x of a text is infinite", Metric("m", per_step, **TOKENS)),
    ("no score was given", Metric("m", lambda states: {})),
    ("one token: IndexError", Metric("m", to_second, needs="attention")),
    ("no list", Metric("m", mean_norm, layer_choice=Choice("length"), **TOKENS)),
    (
        "gave no score mean_size, which ranks it: its numbers are ",
        Metric("m", mean_norm, finish=longest, selection=Choice("mean_size"), **TOKENS),
    ),
]


def kernels(states: Any, families: Any) -> dict[str, Any]:
    """A sound panel metric: how alike two models' similarities of texts are."""
    alike = {m: torch.corrcoef(s - s.mean(0)).nan_to_num().flatten() for m, s in states.items()}
    pairs = {m: {o: float(a @ b) for o, b in alike.items() if o != m} for m, a in alike.items()}
    return {"alike": pairs, "mean": {m: sum(row.values()) / len(row) for m, row in pairs.items()}}


def unlike_sisters(states: Any, families: Any) -> dict[str, Any]:
    """A sound one that goes by families, too."""
    mean = kernels(states, families)["alike"]
    families = {model: families[model] or model for model in states}
    others = {m: [v for o, v in r.items() if families[o] != families[m]] for m, r in mean.items()}
    return {"x": {model: sum(values) / max(len(values), 1) for model, values in others.items()}}


def of_many(states: Any, families: Any) -> dict[str, Any]:
    """A sound one that needs 100 texts."""
    if {len(state) < 100 for state in states.values()} == {True}:
        raise UnitError("100 texts")
    return {"x": spreads(states, families)}


def spreads(states: Any, families: Any) -> dict[str, float]:
    return {model: float(state.std()) for model, state in states.items()}


def zeroed(states: Any, families: Any) -> dict[str, Any]:
    for state in states.values():
        state.numpy()[0] = 0
    return {"x": 1.0}


SOUND = [
    PanelMetric("p", kernels, selection=Choice("mean")),
    PanelMetric("p", unlike_sisters),
    PanelMetric("p", of_many),
]
PANELS: dict[str, Any] = {
    "x of model 2 is nan|x.*is nan": lambda s, f: {"x": dict.fromkeys(s, float("nan"))},
    "has no value for model 4": lambda s, f: {"x": dict.fromkeys(list(s)[:3], 1.0)},
    "no score": lambda s, f: {},
    "a second call changes x": lambda s, f: {"x": float(torch.rand(()))},
    "another order of models changes x": lambda s, f: {"x": spreads(s, f)[next(iter(s))]},
    "another name of models changes x": lambda s, f: {"x": {m: float(len(m)) for m in s}},
    "another name of models changes first": lambda s, f: {"first": float(s[min(s)].norm())},
    "a permutation changes x": lambda s, f: {"x": {m: float(s[m][0].norm()) for m in s}},
    "changes the states|writes to its input": zeroed,
    "2 models: IndexError": lambda s, f: {"x": float(len(sorted(s)[2]) > 0)},
    "copies of one model: ZeroDivisionError": lambda s, f: {
        "x": 0 / (len({*spreads(s, f).values()}) - 1)
    },
    "2 models: ZeroDivisionError": lambda s, f: {"x": 0 / (len({*f.values()}) - 1)},
    "no family: ZeroDivisionError": lambda s, f: {"x": 1 / len({v for v in f.values() if v})},
}


FAULTS += [(reason, PanelMetric("p", measure)) for reason, measure in PANELS.items()]


def deepest(evidence: Any, candidates: Any, m: int, seed: int) -> Any:
    return candidates[-m:]


def drawn(evidence: Any, candidates: Any, m: int, seed: int) -> Any:
    return np.random.default_rng(seed).permutation(candidates)[:m]


def drawn_anywhere(evidence: Any, candidates: Any, m: int, seed: int) -> Any:
    return np.random.permutation(candidates)[:m]


def by_profile(name: str) -> Any:
    def choose(evidence: Any, candidates: Any, m: int, seed: int) -> Any:
        values = evidence.profiles[name]
        return sorted(candidates, key=lambda block: (values[block - 1] or 0.0, -block))[:m]

    return choose


def refused(evidence: Any, candidates: Any, m: int, seed: int) -> Any:
    raise UnitError("no idea")


def anew(evidence: Any, candidates: Any, m: int, seed: int) -> Any:
    return candidates[:m] if m % 2 else candidates[-m:]


def without_none(evidence: Any, candidates: Any, m: int, seed: int) -> Any:
    return sorted(candidates, key=lambda block: evidence.profiles["block_influence"][block - 1])[:m]


def distinct(evidence: Any, candidates: Any, m: int, seed: int) -> Any:
    by_value = {evidence.angle(block, block): block for block in candidates}
    return [by_value[value] for value in sorted(by_value)][:m]


def drawn_where_known(evidence: Any, candidates: Any, m: int, seed: int) -> Any:
    if None in evidence.profiles["block_influence"]:
        raise UnitError("the influence of a block is not known")
    return drawn(evidence, candidates, m, seed)


FAULTS += [
    ("and seeded is False", Pruner("r", drawn_where_known)),
    ("not 2 of the candidates", Pruner("r", lambda e, c, m, s: c[:1])),
    ("not 1 of the candidates", Pruner("r", lambda e, c, m, s: [0] * m)),
    ("no list of block numbers", Pruner("r", lambda e, c, m, s: ["a"] * m)),
    ("not a list", Pruner("r", lambda e, c, m, s: None)),
    ("of 2, 3, 6 and 12 blocks it never chooses any", Pruner("r", refused)),
    ("a second call changes the choice", Pruner("r", drawn_anywhere)),
    ("seeded is False", Pruner("r", drawn)),
    ("the same blocks, and seeded is True", Pruner("r", deepest, seeded=True)),
    ("go at m = 1", Pruner("r", anew)),
    ("does not name frenet", Pruner("r", by_profile("frenet.speed"))),
    ("frenet.speedd", Pruner("r", by_profile("frenet.speedd"), metrics=("frenet",))),
    ("m = 1: TypeError|m = 1: '<'", Pruner("r", without_none)),
    ("not 2 of the candidates", Pruner("r", distinct)),  # of blocks that are alike
    ("nested of pruning rule 'r' is 1", Pruner("r", deepest, nested=1)),  # type: ignore[arg-type]
]


TEXTS = [f"{word} {i}" for i in range(12) for word in ("a", "b")]


def texts() -> list[Request]:
    return [Request(text) for text in TEXTS]


def requests() -> list[Request]:
    return texts()[1:]


def labels() -> list[int]:
    return [i % 2 for i in range(24)]


def vectors(view: Any) -> Any:
    return view.encode(TEXTS, TASK)


def separation(view: Any) -> Score:
    """A sound score, of constant states too."""
    all_of = vectors(view)
    return Score(float(np.abs(all_of[::2].mean(0) - all_of[1::2].mean(0)).mean()), "distance")


TASK = Task("t", texts, separation)
KEPT: list[Any] = []
ONCE: list[Any] = []


def first_only(view: Any) -> Score:
    KEPT.append(vectors(view))
    return Score(float(KEPT[0].std() + len(KEPT)), "kept")


def first_alone(view: Any) -> Score:
    ONCE.extend([] if ONCE else [vectors(view).std()])
    return Score(float(ONCE[0]), "once")


def undefined(view: Any) -> Score:
    all_of = vectors(view)
    return Score(1 / int(all_of.std() > 0), "sharp")


def gone() -> Any:
    raise FileNotFoundError("data.jsonl")


def said_gone() -> None:
    raise UserError("data.jsonl: no such file")


TASKS: dict[str, dict[str, Any]] = {
    "no texts, and its check did not say so: .*data.jsonl": {"texts": gone},
    "missing, and it says so: data.jsonl: no such file": {"texts": gone, "check": said_gone},
    "texts are others the second time": {
        "texts": lambda: [Request(str(torch.rand(()))) for _ in TEXTS]
    },
    "it has no texts": {"texts": list},
    "12 labels for 24 texts": {"labels": lambda: labels()[:12]},
    "fingerprint is another": {"fingerprint": lambda: str(torch.rand(()))},
    "asks for what it did not name: .'a 0'": {"requests": requests},
    "asks the view for nothing": {"evaluate": lambda view: Score(0.5, "x")},
    "of one layer its score is": {"evaluate": first_only},
    "its score is not this one's": {"evaluate": first_alone},
    "its further score a is a str": {
        "evaluate": lambda view: replace(separation(view), scores={"a": "high"})
    },
    "its score is nan": {"evaluate": lambda view: Score(float(vectors(view).std() * np.nan), "x")},
    "a layer at which|ZeroDivisionError": {"evaluate": undefined},
    "not a Score": {"evaluate": lambda view: float(vectors(view).std())},
    "texts gave 'a text', not a list": {"texts": lambda: "a text"},
    "encode takes a list of texts": {"evaluate": lambda view: view.encode(texts(), TASK)},
}


SOUND += [replace(TASK, labels=labels, requests=texts), replace(TASK, evaluate=None)]
FAULTS += [(reason, replace(TASK, **fields)) for reason, fields in TASKS.items()]


def known_task(name: str, options: Any) -> Task:
    return {"t": TASK}[name]


def any_task(name: str, options: Any) -> Task:
    return TASK


def names() -> dict[str, str]:
    return {"t": "Texts"}


FAMILY = TaskFamily("f", names, known_task, offline=True)
SOUND += [FAMILY, Reporter("r", lambda report: report.title)]
FAULTS += [
    ("it opens 'no-such-task'", replace(FAMILY, open=any_task)),
    ("is no name with a type", replace(FAMILY, names=lambda: {"t": 1})),
    ("KeyError: 'u'", replace(FAMILY, names=lambda: {"u": "Texts"})),
    (
        r"KeyError: 'ranking'[^\n]*\n.*report.get",
        Reporter("r", lambda report: str(report.table("ranking").rows)),
    ),
    ("another text each time", Reporter("r", lambda report: str(torch.rand(())))),
    ("conflicting option string", Command("c", print, lambda p: p.add_argument("--load"))),
    ("format|ValueError", Command("c", print, lambda p: p.add_argument("x", help="%"))),
]
