"""Base models: local MMLU and a task in lm-eval's own form, accuracy at each layer."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import made, reading
from .commands import done
from .conftest import Place
from .frozen import expect

SUBJECTS = ("lm-eval:mmlu_anatomy", "lm-eval:mmlu_virology")


@pytest.fixture(scope="module")
def out(place: Place) -> Path:
    """Two decoders on the questions of two subjects, and an encoder that has no head."""
    folder = place.folder / "mmlu"
    models = place.models("gpt", "llama", "bert-one")
    asked = (
        "--tasks",
        *SUBJECTS,
        "STSBenchmark",
        "--task-data",
        place.data,
        "--plugins",
        "frenet,nrs",
    )
    done(place.cache, "run", "--models", *models, *asked, "--output", folder, "--quiet")
    return folder


def test_accuracy_layer_by_layer(out: Path) -> None:
    what = "model, task, layer, score_name, score, stderr, chance"
    order = "ORDER BY model, task, layer"
    expect("likelihood-scores", reading.rows(out, f"SELECT {what} FROM scores {order}"))


def test_values_and_statistics(place: Place, out: Path, tmp_path: Path) -> None:
    done(place.cache, "leaderboard", out, "--format", "tidy", "--output", tmp_path)
    expect("likelihood-values", reading.series(tmp_path))
    expect("likelihood-statistics", reading.statistics(tmp_path))


def test_base_models_have_a_board_of_their_own(out: Path) -> None:
    embedding, base = reading.boards((out / "leaderboard.json").read_text())
    found = {"embedding": reading.ranking(embedding), "base": reading.ranking(base)}
    assert found["base"].keys() == {"local/gpt", "local/llama"}
    expect("likelihood-ranking", found)
    rows = reading.table(out / "leaderboard.csv")
    expect("likelihood-csv", reading.columns(rows))


def test_files_of_lm_eval(out: Path) -> None:
    found = reading.native(out, "lm_eval")
    assert {folder.rsplit("/", 1)[1] for folder in found} >= {
        "model",
        *(f"layer_{n}" for n in range(6)),
    }
    expect("likelihood-files", found)


def test_a_task_in_yaml(place: Place, tmp_path: Path) -> None:
    own, out = made.endings(tmp_path / "own", "end_to_end_endings", 16, 11), tmp_path / "out"
    asked = ("--tasks", "lm-eval:end_to_end_endings", "--include-path", own)
    more = ("--plugins", "effective_rank", "--limit", 12, "--log-samples", "--quiet")
    done(place.cache, "run", "--models", place.folder / "gpt", *asked, *more, "--output", out)
    expect("likelihood-yaml", reading.recorded(out))
    assert list((out / "lm_eval").rglob("*samples*"))


def test_examples_before_a_question(place: Place, tmp_path: Path) -> None:
    """Prompts that are too long with them are cut, and counted."""
    asked = ("--tasks", SUBJECTS[0], "--task-data", place.data, "--num-fewshot", 2)
    more = ("--plugins", "cosine", "--output", tmp_path, "--quiet")
    done(place.cache, "run", "--models", place.folder / "llama", *asked, *more)
    found = {"recorded": reading.recorded(tmp_path), "met": reading.met(tmp_path)}
    expect("likelihood-fewshot", found)
