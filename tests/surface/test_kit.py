"""The conformance kit passes what is sound and names what is not, and says what to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
from planted_faults import FAMILY, FAULTS, SOUND, TASK, mean_norm
from test_llm2vec import save as save_llm2vec

from lrd_harness import manager
from lrd_harness.cli import main
from lrd_harness.contracts import (
    Adapter,
    Choice,
    Command,
    Metric,
)
from lrd_harness.errors import NotEnoughTokens, UnitError
from lrd_harness.kit import CHECKS, checks_of
from lrd_harness.testing import check, check_adapter, check_command, check_metric

METRICS = {metric.name: metric for metric in manager.load().all("metric")}
# lidar's delta is absolute; dime's shufflings are drawn by the texts' numbers.
FEWER_LAWS = {
    "lidar": {"rotation", "permutation"},
    "dime": {"rotation", "scaling"},
    "logme": {"rotation", "permutation"},  # what it adds to sums of squares is absolute
}


@pytest.mark.parametrize("kind", ["metric", "panel metric", "pruning rule", "reporter", "command"])
def test_what_is_built_in_conforms(kind: str) -> None:
    for record in manager.load().all(kind):
        check(record)


def test_what_built_in_metrics_declare() -> None:
    laws = {"rotation", "scaling", "permutation"}
    assert all(m.invariances == FEWER_LAWS.get(n, laws) for n, m in METRICS.items())
    assert {n for n, m in METRICS.items() if m.selection} == {"frenet", "nrs", "gfmi"}
    lowest = ("prompt_entropy", "dataset_entropy", "curvature", "dime", "uniformity", "alignment")
    highest = {
        "effective_rank": "effective_rank",
        "infonce": "mi",
        "lidar": "lidar",
        "split_text": "mrr",
    }
    highest |= {name: name for name in ("logme", "hscore", "knn_accuracy")}
    expected = {name: (name, "min") for name in lowest}
    expected |= {name: (score, "max") for name, score in highest.items()}
    expected["alpha_req"] = ("distance", "min")
    assert {n: m.layer_choice for n, m in METRICS.items() if m.layer_choice} == expected


def test_of_names_lists_that_there_are() -> None:
    metric = Metric("m", lambda states: {"x": [1.0] * len(states)}, of={"y": "states"})
    with pytest.raises(AssertionError, match=r"names y, and its lists are \['x'\]"):
        check(metric)


@pytest.mark.parametrize("choice", [None, Choice("x")])
def test_a_margin_is_a_list_beside_one_that_chooses(choice: Choice | None) -> None:
    metric = Metric(
        "m", lambda states: {"x": [1.0] * len(states)}, layer_choice=choice, margin="sure"
    )
    with pytest.raises(AssertionError, match="its margin is sure, which is no list"):
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


@pytest.mark.parametrize("needs", ["pooled", "labels", "views"])
def test_metrics_are_tried_on_as_many_texts_as_they_need(needs: Any) -> None:
    def spread(states: Any, *_: Any) -> dict[str, list[float]]:
        assert len(states[0]) >= 100
        return {"spread": [float(state.std()) for state in states]}

    laws = frozenset({"permutation"})
    metric = Metric("spread", spread, needs, views=2, texts=100, invariances=laws)
    assert check_metric(metric)["spread"].layers == [0, 1, 2, 3, 4]


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
    assert capsys.readouterr().out.count(" ok") == 16
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
