"""A plan is made before anything is opened: names and parameters; bad input ends in one line."""

from __future__ import annotations

import json
import math
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import running
import tiny
import yaml
from running import one_line

from lrd_harness import manager
from lrd_harness.cli import main, parser
from lrd_harness.cli.arguments import suite_of
from lrd_harness.contracts import Checkpoint, Metric, PanelMetric
from lrd_harness.errors import UserError
from lrd_harness.measuring import PlannedMetric
from lrd_harness.planning import models as planned_models
from lrd_harness.planning.parameters import resolve_measures, resolve_metrics
from lrd_harness.planning.resolve import Plan, make_plan
from lrd_harness.planning.settings import Settings
from lrd_harness.planning.suite import ModelEntry, Suite


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two models that are called alike, data, and own texts."""
    folder = tmp_path_factory.mktemp("place")
    tiny.save("Bert", folder / "a" / "model")
    tiny.save("Bert", folder / "b" / "model", seed=1)
    tiny.save("GPT2", folder / "gpt", causal=True)
    tiny.task_data(folder / "data")
    (folder / "own.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    return folder


def names(plan: Plan) -> list[str]:
    return [model.name for model in plan.models]


def plan(place: Path, *models: Any, tasks: Any = ("STSBenchmark",), **more: Any) -> Plan:
    """A plan over models of the folder."""
    entries = tuple(m if isinstance(m, ModelEntry) else ModelEntry(str(m)) for m in models)
    settings = Settings(task_data=str(place / "data"), **more.pop("settings", {}))
    suite = Suite("x", entries, tasks, settings=settings, **more)
    return make_plan(suite, manager.load(), lambda text: nullcontext(lambda done, total: None))


def test_names_are_resolved(place: Path) -> None:
    resolved = plan(
        place,
        place / "a" / "model",
        f"decoder:{place / 'a' / 'model'}",
        ModelEntry(str(place / "gpt"), pooling="mean", max_length=16),
        tasks=("STSBenchmark", "mteb:SciFact", f"texts:{place / 'own.jsonl'}"),
        plugins=("nrs", "frenet"),
        parameters={"nrs": {"k": 10}},
        settings={"pooling": "cls", "dtype": "bfloat16"},
    )
    assert names(resolved) == ["local/model", "local/model [decoder]", "local/gpt [mean, 16]"]
    assert [m.adapter.name for m in resolved.models] == ["encoder", "decoder", "decoder"]
    assert [m.options.pooling for m in resolved.models] == ["cls", "cls", "mean"]
    assert [m.options.max_length for m in resolved.models] == [None, None, 16]
    assert {m.options.dtype for m in resolved.models} == {"bfloat16"}
    assert [m.depth for m in resolved.models] == [3, 3, 3]
    types = {"STSBenchmark": "STS", "SciFact": "Retrieval", "texts:own.jsonl": "Texts"}
    assert {t.name: t.type for t in resolved.tasks} == types
    assert [(m.metric.name, m.parameters) for m in resolved.metrics] == [
        ("nrs", {"k": 10, "anchors": 500}),
        ("frenet", {"variance": 0.95, "rank": None, "space": "feature"}),
    ]


def test_names_that_are_alike_are_told_apart(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folders by more of their paths, checkpoints of a hub model by their revisions."""
    a, b = place / "a" / "model", place / "b" / "model"
    c = Path(shutil.copytree(place / "b", tmp_path / "c" / "b")) / "model"
    assert names(plan(place, a, b)) == ["local/a/model", "local/b/model"]
    assert names(plan(place, a, b, c)) == [f"local/{'/'.join(p.parts[-3:])}" for p in (a, b, c)]
    labelled = (ModelEntry(str(path), pooling="cls") for path in (a, b))
    assert names(plan(place, *labelled)) == ["local/a/model [cls]", "local/b/model [cls]"]
    config = json.loads((place / "gpt" / "config.json").read_text())

    def find(name: str, *_: Any) -> Checkpoint:
        hub_id, _, revision = name.partition("@")
        files = frozenset(["tokenizer.json"])
        return Checkpoint(hub_id, hub_id, revision or "main0", config, files, hub=True)

    monkeypatch.setattr(planned_models, "find", find)
    hub = plan(place, "org/p@step1", "org/p@step2", "org/p")
    assert names(hub) == ["org/p@step1", "org/p@step2", "org/p"]
    assert {model.checkpoint.name for model in hub.models} == {"org/p"}


@pytest.mark.parametrize(
    ("config", "depth"),
    [
        ({"num_hidden_layers": 6}, 6),
        ({"n_layer": 12}, 12),
        ({"text_config": {"num_hidden_layers": 26}}, 26),
        ({"model_type": "odd"}, None),
    ],
)
def test_depths(config: dict[str, Any], depth: int | None) -> None:
    assert planned_models.depth_of(config) == depth


M, D = "{place}/a/model", "{place}/data"
# what is typed after `run --task-data D --output OUT`, and what the line says
WRONG = {
    "--models org/nothing --tasks SciFact": "model 'org/nothing' is not on this machine",
    "--models decodr:{place}/gpt --tasks SciFact": "unknown prefix 'decodr'. Did you mean decoder",
    "--models https://hub/gpt --tasks SciFact": "unknown prefix 'https'. Before the colon of "
    "'https://hub/gpt' goes one of pypi, ",
    f"--models {M} {{place}}/a/../a/model --tasks SciFact": "model local/model is named twice",
    f"--models {M} --tasks mteb:SciFct": "unknown mteb task 'SciFct'. Did you mean SciFact",
    f"--models {M} --tasks images": "images is a family of tasks: give images:NAME",
    f"--models {M} --tasks mtb:SciFact": "unknown kind of task 'mtb'. Did you mean mteb",
    f"--models {M} --tasks SciFact mteb:SciFact": "task SciFact is named twice",
    f"--models {M} --tasks texts:{{place}}/no.jsonl": "no.jsonl: no such file",
    f"--models {M} --tasks NFCorpus": "NFCorpus: its data (mteb/nfcorpus) are not on this machine "
    "and not in {place}/data/NFCorpus, and the hub is out of reach",
    f"--models {M} --tasks SciFact --dtype float23": "unknown dtype in command line 'float23'. Did",
    f"--models {M} --tasks SciFact --device cuda:77": "device 'cuda:77' cannot be used",
    f"--models {M} --tasks SciFact --device gpu": "device 'gpu' cannot be used",
    f"--models {M} --tasks SciFact --max-texts 2": "max_texts is 2, not a whole number",
    f"--models {M} --tasks SciFact --set nrs.k": "--set nrs.k: not METRIC.NAME=VALUE",
    f"--models {M} --tasks SciFact --set nrs.k=ten": "nrs is 'ten', not a whole number; by default",
    f"--models {M} --tasks SciFact --set nsr.k=3": "unknown metric to set a parameter of 'nsr'.",
    f"--models {M} --tasks SciFact --set nrs.k=3 --plugins frenet": "nrs is not measured here",
    f"--models {M} --tasks SciFact --max-length 0": "max_length is 0, not a whole number",
    "--suite mteb-32": "suite mteb-32 has no models: give them with --models",
}


@pytest.mark.parametrize("typed", WRONG)
def test_bad_input_gets_one_line_and_nothing_is_written(
    typed: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    typed, message = (str(t).replace("{place}", str(place)) for t in (typed, WRONG[typed]))
    command = ["run", "--task-data", str(place / "data"), "--output", str(out), "--quiet"]
    assert main([*command, *typed.split()]) == 2
    assert message in one_line(capsys)
    assert not out.exists()


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("adapter: encodr", "unknown adapter 'encodr'. Did you mean encoder"),
        ("pooling: maen", "'maen'. Did you mean mean"),
    ],
)
def test_a_model_of_the_suite_with_an_unknown_adapter_or_pooling(
    key: str, message: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(f"tasks: [SciFact]\nmodels: [{{model: {place / 'gpt'}, {key}}}]")
    typed = ("run", "--suite", file, "--task-data", place / "data", "--output", tmp_path / "out")
    assert main([*map(str, typed)]) == 2
    assert message in one_line(capsys)


def test_parts_of_a_suite_are_replaced(tmp_path: Path) -> None:
    def suite(*typed: str) -> Suite:
        return suite_of(parser().parse_args(["run", *typed]))

    assert suite().name == "quickstart"
    assert len(suite().models) == 4
    only = suite("--models", "a", "b")
    assert [m.model for m in only.models] == ["a", "b"]
    assert only.tasks == suite().tasks
    assert suite("--tasks", "SICK-R").models == suite().models
    assert suite("--models", "a", "--tasks", "b").name == "custom"
    assert suite("--suite", "mteb-32", "--layers", "0,2", "5").settings.layers == (0, 2, 5)
    assert suite("--plugins", "nrs,gfmi", "frenet").plugins == ("nrs", "gfmi", "frenet")
    file = tmp_path / "s.yaml"
    file.write_text("models: [a]\ntasks: [b]\nplugins: [{nrs: {k: 9}}, frenet]\n")
    assert suite("--suite", str(file), "--plugins", "frenet").parameters == {}
    more = suite("--suite", str(file), "--set", "nrs.anchors=50", "frenet.space=sample")
    assert more.parameters == {"nrs": {"k": 9, "anchors": 50}, "frenet": {"space": "sample"}}


def test_metrics_that_need_views_are_asked_for_by_name(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They multiply the texts to be read; "all" means them too."""
    tokens = Metric("by-token", measure=lambda states: {}, needs="tokens")
    views = Metric("by-view", measure=lambda states: {}, needs="views", views=2)
    running.with_plugin(monkeypatch, lrd_metrics=lambda: [tokens, views])

    def chosen(**parts: Any) -> list[str]:
        return [m.metric.name for m in plan(place, place / "gpt", **parts).metrics]

    assert "by-token" in chosen()
    assert "frenet" in chosen()
    assert "by-view" not in chosen()
    assert chosen(plugins=("by-view",)) == ["by-view"]
    assert chosen(plugins=("all",)) == [m.name for m in manager.load().all("metric")]
    assert {"by-view", "lidar", "frenet"} <= set(chosen(plugins=("all",)))


def test_a_group_stands_for_its_metrics_and_costly_ones_are_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cheap = Metric("cheap", lambda states: {}, group="sizes")
    costly = replace(cheap, name="costly", default=False)
    pair = PanelMetric("pair", lambda states, families: {}, group="sizes")
    running.with_plugin(
        monkeypatch, lrd_metrics=lambda: [cheap, costly], lrd_panel_metrics=lambda: [pair]
    )

    def chosen(*named: str) -> list[list[str]]:
        suite = Suite("x", plugins=named or None)
        return [[m.metric.name for m in part] for part in resolve_measures(suite, manager.load())]

    assert chosen()[0][-1] == "cheap"
    assert chosen()[1] == []
    assert chosen("sizes", "costly", "nrs") == [["cheap", "costly", "nrs"], ["pair"]]
    assert "costly" in chosen("all")[0]
    with pytest.raises(UserError, match=r"'size'\. Did you mean sizes"):
        chosen("size")


def resolved(metric: str, **parameters: Any) -> PlannedMetric:
    suite = Suite("x", plugins=(metric,), parameters={metric: parameters})
    (item,) = resolve_metrics(suite, manager.load())
    return item


@pytest.mark.parametrize(
    ("metric", "name", "typed", "number"),
    [
        ("lidar", "delta", "1e-4", 1e-4),
        ("lidar", "delta", "1e4", 1e4),
        ("lidar", "delta", "2", 2),
        ("dime", "alpha", "inf", math.inf),
        ("dime", "alpha", ".inf", math.inf),
    ],
)
def test_numbers_that_yaml_takes_for_texts(
    metric: str, name: str, typed: str, number: float
) -> None:
    assert resolved(metric, **{name: yaml.safe_load(typed)}).parameters[name] == number


@pytest.mark.parametrize(
    ("metric", "name", "value", "message"),
    [
        ("dime", "alpha", "one", "alpha of metric dime is 'one', not a number; by default it is 1"),
        ("dime", "alpha", "nan", "parameter alpha of metric dime is nan, not a number"),
        ("dime", "alpha", -1, "^metric dime: alpha must be above 0, not -1"),
        ("lidar", "delta", "inf", "^metric lidar: delta must be above 0 and finite"),
        ("frenet", "variance", math.inf, "^metric frenet: variance must lie in"),
        ("nrs", "k", "1e1", "parameter k of metric nrs is '1e1'"),
    ],
)
def test_values_that_are_refused(metric: str, name: str, value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolved(metric, **{name: value})


def test_infinite_ones_are_texts_in_json() -> None:
    item = PlannedMetric(Metric("m", dict), {"a": math.inf, "b": -math.inf, "c": 1e308, "d": None})
    written = {"a": "inf", "b": "-inf", "c": 1e308, "d": None}
    assert json.loads(json.dumps(item.written, allow_nan=False)) == written


@pytest.mark.usefixtures("own_cache")
@pytest.mark.slow
def test_a_run_with_an_infinite_one(tmp_path: Path) -> None:
    """S_inf is -log of the largest share of the spectrum: below all others; reported once."""
    data, model = tiny.task_data(tmp_path / "data"), tiny.save("Bert", tmp_path / "bert")
    usual = ("--plugins", "dataset_entropy")
    infinite = (*usual, "--set", "dataset_entropy.alpha=inf")
    for out, more in (("inf", infinite), ("inf", infinite), ("usual", usual)):
        assert running.run(tmp_path / out, [model], data, *more, tasks=["STSBenchmark"]) == 0
    (least,), (row,) = (running.records(tmp_path / out, "metric") for out in ("inf", "usual"))
    assert least["parameters"]["alpha"] == "inf"
    pairs = zip(*(r["profiles"]["dataset_entropy"]["values"] for r in (least, row)), strict=True)
    assert all(low < high for low, high in pairs)
