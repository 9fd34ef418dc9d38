"""A model that mteb evaluates: under which name it is filed, what is read once, and refused."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import mteb
import pytest
import tiny

import lrd_harness
from lrd_harness.errors import UserError
from lrd_harness.planning import models as planned_models
from lrd_harness.planning.models import PlannedModel


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.task_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save("Bert", tmp_path_factory.mktemp("models") / "bert", num_hidden_layers=2)


def similarity(data: Path) -> Any:
    """mteb's STSBenchmark with local data."""
    task = mteb.get_task("STSBenchmark", eval_splits=["test"])
    importlib.import_module("lrd_harness.tasks.embedding.local_data").load(
        task, data / task.metadata.name
    )
    return task


QUIET: Any = {"show_progress_bar": False, "co2_tracker": False}


@pytest.mark.slow
def test_one_pass_serves_all_layers(
    data: Path, folder: Path, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = lrd_harness.mteb_model(str(folder), pooling="mean", device="cpu")
    forwarded: list[int] = []
    states = model._reader.model.states
    monkeypatch.setattr(
        model._reader.model,
        "states",
        lambda batch, **more: forwarded.append(len(batch)) or states(batch, **more),
    )
    cache = mteb.ResultCache(tmp_path)
    for layer in (*model.layers, None):
        mteb.evaluate(model.at(layer), similarity(data), cache=cache, **QUIET)
    task = similarity(data)
    test = task.dataset["test"]
    assert sum(forwarded) == len({*test["sentence1"], *test["sentence2"]})

    again = lrd_harness.mteb_model(str(folder), 1, pooling="mean")
    results = cache.load_results(load_experiments="match_name")
    assert {result.experiment_name for result in results} == {
        "reading_mean",
        *(f"layer_{layer}__reading_mean" for layer in (0, 1, 2)),
    }
    assert again.mteb_model_meta == model.at(1).mteb_model_meta != model.mteb_model_meta
    (new,) = mteb.evaluate(again, similarity(data), cache=None, **QUIET)
    score = pytest.approx(new.get_score(), abs=1e-6)  # mteb's files have six digits
    for one in (
        cache.load_results([again.mteb_model_meta]),
        cache.load_results(experiment_kwargs={"layer": 1, "reading": "mean"}),
    ):
        assert one.to_dataframe()["local/bert"].tolist() == [score]
    every = [task.get_score() for result in results for task in result]
    averaged = results.to_dataframe()["local/bert"].item()  # as docs/mteb.md warns
    assert averaged == pytest.approx(sum(every) / 4) != score


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({"layer": 3}, "local/bert has layers 0 to 2, no layer 3"),
        ({"layer": -1}, "local/bert has layers 0 to 2, no layer -1"),
        ({"layer": "2"}, "local/bert has layers 0 to 2, no layer '2'"),
        ({"layer": True}, "local/bert has layers 0 to 2, no layer True"),
        ({"norm": "final"}, "unknown setting of mteb_model 'norm'"),
        ({"pooling": "max"}, "unknown pooling"),
        ({"max_length": 0}, "max_length"),
        ({"adapter": "none"}, "unknown adapter 'none'"),
        ({"prompts": ["a"]}, "prompts is not a mapping"),
        ({"load": ["no_such_module"]}, "no_such_module"),
        ({"load": "no_such_module"}, "plugin no_such_module cannot be loaded"),
    ],
)
def test_bad_input_is_one_line_before_the_model_is_opened(
    arguments: dict[str, Any], fault: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PlannedModel, "open", lambda self: pytest.fail("it was opened"))
    with pytest.raises(UserError) as caught:
        lrd_harness.mteb_model(str(folder), **arguments)
    assert fault in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_depth_that_the_configuration_does_not_say(
    folder: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planned_models, "depth_of", lambda config: None)
    with pytest.raises(UserError, match="has layers 0 to 2, no layer 3"):
        lrd_harness.mteb_model(str(folder), layer=3)


def test_what_mteb_would_name_in_its_results_and_is_not_done(
    data: Path, folder: Path, own_cache: Path
) -> None:
    """mteb files another precision as an experiment of its own."""
    model, how = lrd_harness.mteb_model(str(folder), 1), {"precision": "int8"}
    with pytest.raises(UserError, match="precision int8"):
        mteb.evaluate(model, similarity(data), cache=None, encode_kwargs=how, **QUIET)
