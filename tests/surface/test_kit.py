"""The conformance kit passes what is sound and names what is not, and says what to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from test_llm2vec import save as save_llm2vec

from lrd_harness import manager
from lrd_harness.cli import main
from lrd_harness.contracts import (
    Adapter,
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
from lrd_harness.kit import CHECKS, checks_of
from lrd_harness.testing import check, check_adapter, check_command, check_metric

METRICS = {metric.name: metric for metric in manager.load().all("metric")}
# lidar's delta is absolute; dime's shufflings are drawn by the texts' numbers.
FEWER_LAWS = {"lidar": {"rotation", "permutation"}, "dime": {"rotation", "scaling"}}


@pytest.mark.parametrize("kind", ["metric", "panel metric", "pruning rule", "reporter", "command"])
def test_what_is_built_in_conforms(kind: str) -> None:
    for record in manager.load().all(kind):
        check(record)


def test_what_built_in_metrics_declare() -> None:
    laws = {"rotation", "scaling", "permutation"}
    assert all(m.invariances == FEWER_LAWS.get(n, laws) for n, m in METRICS.items())
    assert {n for n, m in METRICS.items() if m.selection} == {"frenet", "nrs", "gfmi"}
    lowest = ("prompt_entropy", "dataset_entropy", "curvature", "dime")
    highest = {"effective_rank": "effective_rank", "infonce": "mi", "lidar": "lidar"}
    expected = {name: (name, "min") for name in lowest}
    expected |= {name: (score, "max") for name, score in highest.items()}
    assert {n: m.layer_choice for n, m in METRICS.items() if m.layer_choice} == expected


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


def test_of_names_lists_that_there_are() -> None:
    metric = Metric("m", lambda states: {"x": [1.0] * len(states)}, of={"y": "states"})
    with pytest.raises(AssertionError, match=r"names y, and its lists are \['x'\]"):
        check(metric)


def test_a_fault_is_told_once() -> None:
    task = replace(TASK, evaluate=lambda view: 1 / 0)
    faults = [outcome.fault for outcome in checks_of(task).outcomes() if outcome.fault]
    assert "ZeroDivisionError" in faults[0]
    assert faults[1:] == ["as above", "as above"]


def test_a_token_metric_may_refuse_some_texts_and_not_all() -> None:
    laws = frozenset({"rotation", "permutation"})
    scores = check_metric(Metric("m", mean_norm, needs="tokens", invariances=laws))
    assert scores["length"] == pytest.approx((12 + 9 + 7 + 12) / 4)
    assert len(scores["size"]) == 5  # type: ignore[arg-type]

    def refuse(states: Any) -> dict[str, float]:
        raise NotEnoughTokens("never enough")

    with pytest.raises(AssertionError, match="never enough"):
        check_metric(Metric("m", refuse, needs="tokens"))


def test_view_metrics_are_tried_on_as_many_views_as_they_ask_for() -> None:
    def count(states: Any) -> dict[str, Any]:
        return {
            "q": [float(s.shape[1]) for s in states],
            "first": [float(s[:, 0].norm()) for s in states],
        }

    metric = Metric("m", count, needs="views", views=7, invariances=frozenset({"rotation"}))
    assert check_metric(metric)["q"] == [7.0] * 5


@pytest.mark.parametrize("needs", ["pooled", "tokens", "views", "halves", "attention", "labels"])
def test_metrics_that_need_many_texts_or_tokens_are_tried_on_many(needs: Any) -> None:
    def measured(states: Any, labels: Any = ()) -> dict[str, Any]:
        if states[0].shape[-2 if needs == "attention" else 0] < 100:
            raise UnitError("100 of them")
        return {"x": [float(state.square().mean()) for state in states], "y": len(labels)}

    metric = Metric("m", measured, needs=needs, views=2 * (needs == "views"))
    assert check_metric(metric)["y"] == (480 if needs == "labels" else 0)


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


@pytest.mark.parametrize(("reason", "record"), FAULTS, ids=range(len(FAULTS)))
def test_faults_are_named(reason: str, record: Any) -> None:
    with pytest.raises(AssertionError, match=reason) as raised:
        check(record)
    assert len(str(raised.value).splitlines()[-1]) > 20  # what to do


def test_what_is_sound_passes() -> None:
    for record in SOUND:
        check(record)
    check(FAMILY, "t")
    with pytest.raises(TypeError, match="int is no record"):
        check(5)


def test_commands_are_run_by_what_was_typed() -> None:
    check_command(Command("c", lambda typed: None, lambda parser: parser.add_argument("x")), ["1"])
    for reason, run in {
        "run gave 'done', no exit code": lambda typed: "done",
        "SystemExit: 3": lambda typed: exit(3),
    }.items():
        with pytest.raises(AssertionError, match=reason):
            check_command(Command("c", run), [])
    with pytest.raises(AssertionError, match=r"its arguments refuse the words \[\]"):
        check_command(Command("c", print, lambda parser: parser.add_argument("x")), [])


class Changed:
    """An opened model, some of whose methods are others."""

    def __init__(self, model: Any, **methods: Any) -> None:
        self.__dict__ |= {"_model": model} | {
            name: lambda *given, method=method: method(model, *given)
            for name, method in methods.items()
        }

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def states(change: Callable[[Any], Any]) -> Any:
    return {"states": lambda model, batch: change(model.states(batch))}


def shifted(planes: Any) -> Any:
    return {
        (kind, layer): planes.get(("raw", layer + 1), state)
        for (kind, layer), state in planes.items()
    }


def first_too(planes: Any) -> Any:
    return {plane: state + state.mean(0) for plane, state in planes.items()}


def by_value(planes: Any) -> Any:
    return {plane: state[state[:, 0].argsort()] for plane, state in planes.items()}


ADAPTERS: dict[str, dict[str, Any]] = {
    r"states gave nothing for \('raw', 0\)": states(
        lambda planes: {plane: state for plane, state in planes.items() if plane[1]}
    ),
    r"states \[\('final', 0\)\] are missing": states(
        lambda planes: {plane: state for plane, state in planes.items() if plane != ("final", 0)}
    ),
    "is torch.float64": states(lambda p: {plane: state.double() for plane, state in p.items()}),
    "NaN or infinity in state": states(lambda p: {k: v * float("nan") for k, v in p.items()}),
    "reading texts together changes state": states(first_too),
    "reading texts together|the order of the inputs": states(by_value),
    "off transformers' own": states(shifted),
    "all states are the same": states(lambda p: dict.fromkeys(p, next(iter(p.values())))),
    r"truncated says \[False, False\]": {"truncated": lambda model, *_: [False, False]},
    "embed gave 1 vectors": {"embed": lambda model, pooled: pooled.mean(0, keepdim=True)},
    "prompt gave NoneType": {"prompt": lambda model, *_: None},
    "tokenize gave 0 inputs for": {"tokenize": lambda model, texts: []},
}
DECODER = tiny.ADAPTERS["decoder"]()


def changed(**methods: Any) -> Adapter:
    return replace(DECODER, open=lambda *given: Changed(DECODER.open(*given), **methods))


@pytest.mark.slow
@pytest.mark.parametrize("reason", ADAPTERS)
def test_faults_of_adapters_are_named(reason: str) -> None:
    with pytest.raises(AssertionError, match=reason):
        check(changed(**ADAPTERS[reason]))


def one_identity(checkpoint: Any, options: Any) -> Any:
    model = DECODER.open(checkpoint, options)
    model.identity = {"adapter": "decoder"}
    return model


def by_nearness(checkpoint: Any, options: Any) -> Any:
    model = DECODER.open(checkpoint, options)
    model.similarity = "nearness"
    return model


def on_the_left(checkpoint: Any, options: Any) -> Any:
    model = DECODER.open(checkpoint, options)
    double = dict.fromkeys(("raw", "final"), 2.0 if options.padding == "left" else 1.0)
    return Changed(model, **states(lambda p: {k: v * double[k[0]] for k, v in p.items()}))


@pytest.mark.slow
def test_faults_of_opening_are_named(tmp_path: Path) -> None:
    check(DECODER)
    check_adapter(DECODER, tiny.save("Mamba", tmp_path / "mamba"))
    for reason, adapter in {
        "changes states, and not its identity": replace(DECODER, open=one_identity),
        "similarity is 'nearness'": replace(DECODER, open=by_nearness),
        "padding on the left changes": replace(DECODER, open=on_the_left),
        "KeyError: 'model_type'": replace(DECODER, claims=lambda c: bool(c.config["model_type"])),
        "does not claim any of the checkpoints": replace(DECODER, claims=lambda c: False),
        "gave no model, but None": replace(DECODER, open=lambda *_: None),
    }.items():
        with pytest.raises(AssertionError, match=reason):
            check_adapter(adapter)
    with pytest.raises(AssertionError, match=r"(?s)no such folder.*--model FOLDER"):
        check_adapter(DECODER, tmp_path / "none")


@pytest.mark.slow
@pytest.mark.parametrize("name", tiny.ADAPTERS)
def test_built_in_adapters_conform(name: str, tmp_path: Path) -> None:
    made: dict[str, Any] = {
        "sentence-transformers": lambda: tiny.save_st(tmp_path / "model", dense=16),
        "llm2vec": lambda: save_llm2vec(tmp_path / "model"),
        "encoder": lambda: tiny.save("T5", tmp_path / "model"),
        "decoder": lambda: tiny.save("GPT2", tmp_path / "model"),
    }
    check_adapter(tiny.ADAPTERS[name](), *([made[name]()] if name in made else []))


@pytest.mark.slow
def test_built_in_tasks_conform() -> None:
    records = {record.name: record for record in manager.load().all("task")}
    for name in ("LeeDocumentSTS", "ChatterbotRetrieval", "TrecQuestionClassification"):
        check(records[name])
    for name in ("mteb", "texts", "images", "ImageClassification"):
        check(records[name])


OWN = """
from lrd_harness import Metric, Pruner, hookimpl

@hookimpl
def lrd_metrics():
    return [Metric("mine", lambda states: {"x": 1.0})]

@hookimpl
def lrd_pruners():
    return [Pruner("first", lambda evidence, candidates, m, seed: candidates[:1])]
"""


def test_the_command_shows_every_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    assert main(["plugins", "check", "cosine", "mutual_knn"]) == 0
    assert capsys.readouterr().out.count(" ok") == 14
    assert main(["plugins", "check", str(tmp_path / "mine.py")]) == 1
    shown = " ".join(capsys.readouterr().out.split())
    for said in ("Metric mine", "Pruning rule first", "not 2 of the", "not tried", "what to do"):
        assert said in shown
    assert main(["plugins", "check", "cosin"]) == 2
    assert "Did you mean cosine" in capsys.readouterr().err
    assert main(["plugins", "check", "decoder", "--model", str(tmp_path / "none")]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert main(["plugins", "check", "cosine", "--model", str(tmp_path)]) == 2
    assert "--model is for adapters" in capsys.readouterr().err


ENDLESS = """
from lrd_harness import Metric, hookimpl

def measure(states):
    while True:
        pass

@hookimpl
def lrd_metrics():
    return [Metric("endless", measure)]
"""


@pytest.mark.slow
def test_the_command_comes_back_from_what_does_not(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "endless.py").write_text(ENDLESS)
    assert main(["plugins", "check", str(tmp_path / "endless.py"), "--plugin-timeout", "1"]) == 1
    assert "interrupted after 1 s" in " ".join(capsys.readouterr().out.split())


def test_the_docs_name_every_check() -> None:
    kinds = "metric, panel metric, adapter, task, family of tasks, pruning rule, reporter, command"
    classes = zip(kinds.split(", "), CHECKS.values(), strict=True)
    texts = {kind: list(checks.promised().values())[1:] for kind, checks in classes}
    rows = [f"| {kind} | {'; '.join(what for what, _ in row)} |" for kind, row in texts.items()]
    table = "\n".join(["| kind | what must hold |", "|---|---|", *rows])
    page = Path(__file__).parents[2] / "docs" / "plugins.md"
    assert f"\n\n{table}\n\n" in page.read_text("utf-8"), table
    assert all(what and advice.endswith(".") for row in texts.values() for what, advice in row)
