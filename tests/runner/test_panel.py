"""Panel metrics in a run: all models on the same texts, once all are read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import running
import stock
import tiny
import tiny_images
from ranks import jobs
from running import Patch, Shown, one_line, records, with_plugin
from test_similarity import by_sklearn

import lrd_harness
from lrd_harness.board.leaderboard import report
from lrd_harness.cli import main
from lrd_harness.contracts import Choice, PanelMetric
from lrd_harness.manager import load
from lrd_harness.panels import measure_panel
from lrd_harness.runner import folder, panel

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_cache")]


@pytest.fixture(scope="module")
def own(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts, and a model beside those of `place`."""
    made = tmp_path_factory.mktemp("panel")
    tiny.write_rows(made / "own.jsonl", [{"text": text} for text in tiny.sentences(40, 3)])
    tiny.save("Bert", made / "second", seed=5, num_hidden_layers=2)
    for name in ("bert", "gpt", "nan", "data"):
        (made / name).symlink_to(place / name)
    return made


def command(own: Path, out: Path, models: str, *more: str, tasks: Any = ("texts",)) -> list[str]:
    named = [f"texts:{own / 'own.jsonl'}" if task == "texts" else task for task in tasks]
    more = more if "--plugins" in more else ("--plugins", "mutual_knn", *more)
    folders = [own / name for name in models.split()]
    return running.command(out, folders, own / "data", *more, tasks=named)


def pairs(out: Path) -> dict[str, dict[str, float]]:
    """What the board shows of mutual_knn."""
    rows = [row for row in folder.shown(out).metrics if row.metric == "mutual_knn"]
    return {row.model.removeprefix("local/"): dict((row.pairs or {})["pairs"]) for row in rows}


def test_the_values_are_those_of_the_models(own: Path, tmp_path: Path) -> None:
    """Of the last states, normed, or of a chosen layer; each model pooled as it is made to be."""
    texts, names = tiny.sentences(40, 3), ("bert", "gpt", "second")
    for layer in (None, 1):
        out, more = tmp_path / str(layer), (["--set", f"mutual_knn.layer={layer}"] if layer else [])
        assert main(command(own, out, " ".join(names), *more)) == 0
        states = {}
        for name in names:
            model = lrd_harness.open(own / name, quiet=True)
            (states[name],) = model.encode(texts, layers=[layer or model.layers[-1]])
        expected = by_sklearn(states, 9)
        for name, row in pairs(out).items():
            assert row == pytest.approx({f"local/{m}": v for m, v in expected[name].items()})
        shown = folder.shown(out).metrics
        assert {row.parameters["layer"] for row in shown} == {layer or "last"}
        assert [row.values["consensus"] for row in shown] == pytest.approx(
            [np.mean(list(row.values())) for row in expected.values()]
        )
        assert {row.n for row in shown} == {40}


def test_another_panel_is_another_value(own: Path, tmp_path: Path) -> None:
    """What is recorded is not done again; the board holds the panel that was asked for last."""
    out = tmp_path / "out"
    for models, measured in (
        *(("bert gpt", 2), ("bert gpt", 2), ("bert gpt second", 5), ("second gpt", 7)),
        *(("bert gpt", 7), ("gpt", 7)),
    ):
        asked = command(own, out, models, "--plugins", "mutual_knn" if " " in models else "nrs")
        assert main(asked) == 0
        assert len([r for r in records(out, "metric") if r["metric"] == "mutual_knn"]) == measured
        last = models.split() if " " in models else ["bert", "gpt"]
        assert {m: sorted(row) for m, row in pairs(out).items()} == {
            m: sorted(f"local/{other}" for other in last if other != m) for m in last
        }
        new = {"bert": models == "bert gpt" and measured == 2, "second": measured == 5}
        assert (running.counters(out)["forwarded"] > 0) in (any(new.values()), False)
    (out / "run.json").write_text(json.dumps({**run_json(out), "panels": {"mutual_knn": {}}}))
    assert pairs(out).keys() == {"second", "gpt"}  # stopped before it was said: the newest


def run_json(out: Path) -> dict[str, Any]:
    run: dict[str, Any] = json.loads((out / "run.json").read_text())
    return run


def test_a_model_without_sound_states_costs_itself_alone(own: Path, tmp_path: Path) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    assert main(command(own, out, "bert nan gpt")) == 1
    (error,) = records(out, "error")
    assert "NaN or infinity in the states of layer 3" in error["error"]
    assert (error["model"], error["metric"]) == ("local/nan", "mutual_knn")
    assert error["traceback"].startswith("Traceback")
    assert main(command(own, whole, "bert gpt")) == 0
    assert pairs(out) == pairs(whole)
    assert [len(r["parameters"]["panel"]) for r in records(out, "metric")] == [2, 2]


def test_a_model_that_cannot_be_opened(own: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    """The others are compared without it, and again with it once it can be opened."""
    from lrd_harness.planning.models import PlannedModel

    out, opens = tmp_path / "out", PlannedModel.open

    def failing(model: PlannedModel, **named: Any) -> Any:
        return 1 / 0 if "gpt" in model.name else opens(model, **named)

    with monkeypatch.context() as patch:
        patch.setattr(PlannedModel, "open", failing)
        for _ in range(2):  # what is known of the others is not read again
            assert main(command(own, out, "bert second gpt")) == 1
            assert pairs(out).keys() == {"bert", "second"}
    assert len(records(out, "metric")) == 2
    assert main(command(own, out, "bert second gpt")) == 0
    assert pairs(out).keys() == {"bert", "second", "gpt"}


def raising(states: Any, families: Any) -> Any:
    raise RuntimeError("no idea")


def test_a_metric_that_fails(own: Path, tmp_path: Path, monkeypatch: Patch, capsys: Shown) -> None:
    """Recorded for every model, told once; the other metrics have their values."""
    odd = PanelMetric("odd", lambda states, families: {"x": dict.fromkeys(["local/bert"], 0.5)})
    with_plugin(monkeypatch, lrd_panel_metrics=lambda: [PanelMetric("bad", raising), odd])
    out = tmp_path / "out"
    asked = command(own, out, "bert gpt", "--plugins", "bad,odd,mutual_knn")
    asked.remove("--quiet")
    assert main(asked) == 1
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert [("no idea" in line, "no value for local/gpt" in line) for line in told] == [
        (True, False),
        (False, True),
    ]
    errors = records(out, "error")
    assert sorted((e["model"], e["metric"]) for e in errors) == [
        (f"local/{model}", metric) for model in ("bert", "gpt") for metric in ("bad", "odd")
    ]
    assert "in raising" in errors[0]["traceback"]
    assert pairs(out).keys() == {"bert", "gpt"}


def test_families_all_states_and_what_ranks(
    own: Path, tmp_path: Path, monkeypatch: Patch, capsys: Shown
) -> None:
    seen: list[Any] = []

    def depth(states: Any, families: dict[str, Any], times: int = 1) -> Any:
        seen[:] = families, {tuple(s.shape) for m in states for s in states[m]}
        return {"depth": {m: times * len(states[m]) for m in states}}

    of_all = PanelMetric("depth", depth, states="all", selection=Choice("depth"), unit="states")
    with_plugin(monkeypatch, lrd_panel_metrics=lambda: [of_all])
    out, asked = tmp_path / "out", ("--plugins", "depth", "--set", "depth.times=2")
    last = ("--layers", "last")
    assert main(command(own, out, "bert gpt second", *asked, *last, tasks=["STSBenchmark"])) == 0
    assert seen == [{"local/bert": "bert", "local/gpt": "gpt2", "local/second": "bert"}, {(84, 32)}]
    found = {r["model"]: (r["values"], r["selection"]) for r in records(out, "metric")}
    choice = ["depth", "max"]
    assert found["local/second"] == ({"depth": 6}, choice)
    assert found["local/bert"] == ({"depth": 8}, choice)
    assert "pred. depth" in capsys.readouterr().out


def test_at_most_so_many_texts(own: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    seen: list[tuple[int, ...]] = []

    def look(states: Any, families: Any) -> Any:
        seen.extend(tuple(states[m].shape) for m in states)
        return {"first": {m: float(states[m][3, 0]) for m in states}}

    with_plugin(monkeypatch, lrd_panel_metrics=lambda: [PanelMetric("look", look)])
    monkeypatch.setattr(panel, "MOST", 12)
    assert main(command(own, tmp_path / "out", "bert second", "--plugins", "look")) == 0
    assert seen == [(12, 32)] * 2
    fourth = sorted(np.random.RandomState(42).choice(40, 12, replace=False))[3]
    for name in ("bert", "second"):
        model = lrd_harness.open(own / name, quiet=True)
        state = model.encode([tiny.sentences(40, 3)[fourth]], layers=[model.layers[-1]])[0]
        values = {r["model"]: r["values"]["first"] for r in records(tmp_path / "out", "metric")}
        assert values[f"local/{name}"] == pytest.approx(state[0, 0], rel=1e-5)


def test_images_and_texts_are_not_compared(own: Path, tmp_path: Path, capsys: Shown) -> None:
    for seed in (1, 2):
        tiny_images.save("ViTModel", tmp_path / f"eyes{seed}", seed)
    tiny_images.write(tmp_path / "pictures", tiny_images.pictures(12))
    models = [own / "bert", own / "second", tmp_path / "eyes1", tmp_path / "eyes2"]
    tasks, out = [f"texts:{own / 'own.jsonl'}", f"images:{tmp_path / 'pictures'}"], tmp_path / "out"
    asked = ("--plugins", "mutual_knn,nrs")
    assert running.run(out, models, own / "data", *asked, tasks=tasks) == 0
    assert {m: list(row) for m, row in pairs(out).items()} == {
        "bert": ["local/second"],
        "second": ["local/bert"],
        "eyes1": ["local/eyes2"],
        "eyes2": ["local/eyes1"],
    }
    asked = running.command(tmp_path / "two", models[:3], own / "data", *asked, tasks=tasks)
    assert main([word for word in asked if word != "--quiet"]) == 0
    assert "mutual_knn: fewer than two models to compare on images:" in capsys.readouterr().err


def test_contexts_of_likelihood_tasks(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: Patch
) -> None:
    stock.own_alone(monkeypatch)
    base = stock.place(tmp_path_factory.getbasetemp())
    tiny.save("GPT2", tmp_path / "second", causal=True, seed=2)
    given = ("--plugins", "mutual_knn", "--include-path", str(base / "own"), "--layers", "last")
    models, tasks = [base / "gpt", tmp_path / "second"], [f"lm-eval:{stock.ENDINGS}"]
    assert running.run(tmp_path / "out", models, base / "data", *given, tasks=tasks) == 0
    a, b = records(tmp_path / "out", "metric")
    assert a["pairs"]["pairs"]["local/second"] == b["pairs"]["pairs"]["local/gpt"] > 0
    assert a["task_type"] == "LogLikelihood"


def test_slices_are_compared_when_they_are_merged(own: Path, tmp_path: Path, capsys: Shown) -> None:
    asked = command(own, tmp_path / "whole", "bert gpt")
    assert main(asked) == 0
    parts = [tmp_path / "1", tmp_path / "2"]
    for part in parts:
        words = [str(part) if word == str(tmp_path / "whole") else word for word in asked]
        words.remove("--quiet")
        assert main([*words, "--shard", f"{part.name}/2"]) == 0
        assert "mutual_knn: no slice has all models. Merge" in capsys.readouterr().err
        assert records(part, "metric") == []
    merged = tmp_path / "merged"
    assert main(["merge", *map(str, parts), "--output", str(merged)]) == 0
    assert main([str(merged) if word == str(tmp_path / "whole") else word for word in asked]) == 0
    assert pairs(merged) == pairs(tmp_path / "whole")
    assert running.counters(merged)["forwarded"] == 0
    # merged with others, the values of one panel are shown
    assert main(command(own, tmp_path / "other", "bert second")) == 0
    both = tmp_path / "both"
    assert main(["merge", str(merged), str(tmp_path / "other"), "--output", str(both)]) == 0
    assert pairs(both).keys() in ({"bert", "gpt"}, {"bert", "second"})


def test_two_processes(own: Path, tmp_path: Path) -> None:
    one, two = command(own, tmp_path / "1", "bert gpt"), command(own, tmp_path / "2", "bert gpt")
    for asked in (one, two):
        asked[asked.index("--tasks") + 1 : asked.index("--task-data")] += ["STSBenchmark"]
    single, double = jobs(
        {"command": one, "world": 1}, {"command": two, "world": 2}, cache=tmp_path / "c"
    )
    assert [code for code, _, _ in (*single, *double)] == [0, 0, 0], double
    assert running.numbers(tmp_path / "1") == running.numbers(tmp_path / "2")
    assert run_json(tmp_path / "1")["panels"] == run_json(tmp_path / "2")["panels"]


REFUSED = {
    "one model": ("bert", (), "mutual_knn compares models: no task here is read by two of them"),
    "a slip": ("bert gpt", ("--plugins", "mutual_kn"), "unknown metric 'mutual_kn'. Did you mean"),
    "parameter": ("bert gpt", ("--set", "mutual_knn.kk=3"), "It has: k, layer."),
    "k": ("bert gpt", ("--set", "mutual_knn.k=0"), "metric mutual_knn: k must be at least 1"),
    "depth": ("bert second", ("--set", "mutual_knn.layer=3"), "layers 0 to 2, no layer 3"),
    "layer": (
        "bert gpt",
        ("--set", "mutual_knn.layer=first"),
        "layer of metric mutual_knn is first",
    ),
    "below": ("bert gpt", ("--set", "mutual_knn.layer=-1"), "not a whole number of at least 0"),
    "all": ("bert gpt", ("--plugins", "all", "--set", "mutual_knn.k=3"), "is not measured here"),
    "unasked": (
        "bert gpt",
        ("--plugins", "nrs", "--set", "mutual_knn.k=3"),
        "is not measured here",
    ),
}


@pytest.mark.parametrize(("models", "more", "said"), REFUSED.values(), ids=REFUSED)
def test_bad_input(
    own: Path, tmp_path: Path, capsys: Shown, models: str, more: tuple[str, ...], said: str
) -> None:
    assert main(command(own, tmp_path / "out", models, *more)) == 2
    assert said in one_line(capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("study", ["select", "compare", "layer"])
def test_studies_name_the_command(own: Path, study: str, capsys: Shown) -> None:
    models = [str(own / "bert"), *([str(own / "gpt")] if study != "layer" else [])]
    models = ["--models", *models] if study == "select" else models
    given = "--by" if study == "layer" else "--plugins"
    assert main([study, *models, "--texts", str(own / "own.jsonl"), given, "mutual_knn"]) == 2
    assert (
        "mutual_knn compares several models: name it in --plugins of `lrd-harness run`"
        in one_line(capsys)
    )


def test_the_plan_and_the_library(own: Path, tmp_path: Path, capsys: Shown) -> None:
    assert main(["plan", *command(own, tmp_path / "out", "bert gpt")[1:]]) == 0
    shown = capsys.readouterr().out
    assert "Not counted: comparing the models by mutual_knn" in shown
    assert "80" in shown  # texts of both
    found = lrd_harness.run(
        [own / "bert", own / "gpt"],
        metrics=["mutual_knn"],
        texts=own / "own.jsonl",
        output=tmp_path / "out",
        quiet=True,
    )
    assert {"pairs", "chance"} & set(found.values["name"]) == {"chance"}
    assert pairs(tmp_path / "out").keys() == {"bert", "gpt"}


GROUP = ("--plugins", "panel")


@pytest.fixture(scope="module")
def four(own: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """110 texts, two models more, and one that is not sound."""
    made = tmp_path_factory.mktemp("four")
    tiny.write_rows(made / "own.jsonl", [{"text": text} for text in tiny.sentences(110, 3)])
    tiny.save("GPT2", made / "third", causal=True, seed=7, num_hidden_layers=2)
    for name in ("bert", "gpt", "second", "nan", "data"):
        (made / name).symlink_to(own / name)
    return made


MODELS = "bert gpt second third"


@pytest.fixture(scope="module")
def whole(four: Path, place: Path) -> Path:
    """A run of all that are sound."""
    out = four / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LRD_HARNESS_CACHE", str(four / "cache"))
        assert main(command(four, out, MODELS, *GROUP)) == 0
    return out


def test_the_group_in_a_run(four: Path, tmp_path: Path) -> None:
    """As measured on the models' own states, families as recorded, without an unsound model."""
    out, texts = tmp_path / "out", tiny.sentences(110, 3)
    assert main(command(four, out, "bert gpt nan second third", *GROUP)) == 1
    assert {e["model"] for e in records(out, "error")} == {"local/nan"}
    states, families = {}, {}
    for name in MODELS.split():
        model = lrd_harness.open(four / name, quiet=True)
        (states[f"local/{name}"],) = model.encode(texts, layers=[model.layers[-1]])
        families[f"local/{name}"] = "gpt2" if name in ("gpt", "third") else "bert"
    for name in ("info_gauss", "mutual_knn", "panel_cka"):
        expected = measure_panel(load().get("panel metric", name), states, families)
        rows = [row for row in records(out, "metric") if row["metric"] == name]
        assert len(rows) == 4
        for row in rows:
            model = row["model"]
            assert row["values"] == pytest.approx(expected.values(model), rel=1e-4, abs=1e-4)
            for score, of in row["pairs"].items():
                pairs = expected.pairs[score][model]
                assert of == pytest.approx(pairs, rel=1e-4, abs=1e-4)
    board = report(folder.shown(out))
    maps = {table.name for table in board.tables if table.name.startswith("pairs.")}
    assert maps == {
        f"pairs.{name}"
        for name in ("info_gauss.gain", "info_gauss.r2", "mutual_knn.pairs", "panel_cka.pairs")
    }
    scores = {"is_gauss", "received", "consensus"}
    left_out = board.table("panel_without")
    assert {name.partition(".")[2] for name in left_out.column("predictor")} == scores
    assert set(left_out.column("other")) == {"none", *states}  # of two of a family none are left
    means = {row["model"]: row for row in board.table("panel").rows}
    gauss = [row for row in records(out, "metric") if row["metric"] == "info_gauss"]
    assert {row["model"]: means[row["model"]]["info_gauss.is_gauss"] for row in gauss} == {
        row["model"]: row["values"]["is_gauss"] for row in gauss
    }
    for form in ("html", "md", "tex"):
        text = (out / f"leaderboard.{form}").read_text()
        assert "is published as better" not in text  # no scores, so none goes with them
        assert "believe neither yet" in text
    assert "received" in (out / "leaderboard.json").read_text()
    values = lrd_harness.values(out)
    assert {"is_gauss", "received", "is_gauss_other_families"} <= set(values.name)


def test_a_panel_that_was_stopped_while_it_was_recorded(
    four: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command records what is missing, with the same numbers, and reads nothing again."""
    monkeypatch.setenv("LRD_HARNESS_CACHE", str(four / "cache"))
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    (journal,) = (out / "journal").iterdir()
    lines = journal.read_text().splitlines(keepends=True)
    last = [i for i, line in enumerate(lines) if '"metric":' in line][-6]
    journal.write_text("".join(lines[:last]) + lines[last][:40])
    assert main(command(four, out, MODELS, *GROUP)) == 0
    assert sum(record["forwarded"] for record in records(out, "capture")) == 4 * 110  # at first
    assert running.numbers(out) == running.numbers(whole)
    assert len({record["unit"] for record in records(out, "metric")}) == 12


def test_slices_of_the_group(four: Path, whole: Path, tmp_path: Path) -> None:
    merged = tmp_path / "merged"
    parts = [tmp_path / "1", tmp_path / "2"]
    for part in parts:
        assert main(command(four, part, MODELS, *GROUP, "--shard", f"{part.name}/2")) == 0
    assert main(["merge", *map(str, parts), "--output", str(merged)]) == 0
    assert main(command(four, merged, MODELS, *GROUP)) == 0
    assert running.numbers(merged) == running.numbers(whole)
    tables = [report(folder.shown(out)).table("panel_without").rows for out in (whole, merged)]
    assert tables[0] == tables[1]


def test_few_texts_for_one_of_the_group(own: Path, tmp_path: Path, capsys: Shown) -> None:
    """Left out, which is told each time; an error where it is named. The others have values."""
    for named, status, told in (
        ((), 0, "info_gauss is not measured on texts:own.jsonl: fewer than 100 texts"),
        ((), 0, "info_gauss is not measured on texts:own.jsonl: fewer than 100 texts"),
        (("--plugins", "panel,info_gauss"), 1, "info_gauss needs at least 100 texts, got 40"),
    ):
        asked = command(own, tmp_path / "out", "bert gpt", *GROUP, *named)
        asked.remove("--quiet")
        assert main(asked) == status
        said = [line for line in capsys.readouterr().err.splitlines() if "info_gauss" in line]
        assert len(said) == 1 + status  # an error of each model
        assert told in said[0]
        done = {row["metric"] for row in records(tmp_path / "out", "metric")}
        assert done == {"mutual_knn", "panel_cka"}
    assert main(command(own, tmp_path / "no", "bert gpt", *GROUP, "--set", "info_gauss.k=0")) == 2
    assert not (tmp_path / "no").exists()
