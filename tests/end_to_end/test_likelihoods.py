"""Base models: local MMLU and a task in lm-eval's own form, accuracy at each layer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from . import made, reading
from .commands import done
from .conftest import Place
from .frozen import expect

ENDINGS = """\
task: end_to_end_endings
dataset_path: json
dataset_kwargs: {{data_files: {{validation: {file}}}}}
output_type: multiple_choice
validation_split: validation
doc_to_text: "{{{{query}}}}"
doc_to_target: "{{{{label}}}}"
doc_to_choice: "choices"
num_fewshot: 0
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
"""


@pytest.fixture(scope="module")
def out(place: Place) -> Path:
    """Two decoders on the questions of two subjects, and an encoder that has no head."""
    folder = place.folder / "mmlu"
    models = place.models("gpt", "llama", "bert-one")
    asked = ("--tasks", "MMLU", "STSBenchmark", "--task-data", place.data, "--plugins", "frenet,nrs")
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
    assert {folder.rsplit("/", 1)[1] for folder in found} >= {"model", *(f"layer_{n}" for n in range(6))}
    expect("likelihood-files", found)


def test_a_task_in_yaml(place: Place, tmp_path: Path) -> None:
    texts, ends = made.sentences(16, 11, least=3), made.sentences(48, 12, least=1, most=4)
    rows = [
        {"query": text, "choices": ends[3 * i : 3 * i + 3], "label": i % 3}
        for i, text in enumerate(texts)
    ]
    data = made.write_rows(tmp_path / "own" / "rows.jsonl", rows)
    (tmp_path / "own" / "endings.yaml").write_text(ENDINGS.format(file=json.dumps(str(data))))
    out = tmp_path / "out"
    asked = ("--tasks", "lm-eval:end_to_end_endings", "--include-path", tmp_path / "own")
    more = ("--plugins", "effective_rank", "--limit", 12, "--log-samples", "--quiet")
    done(place.cache, "run", "--models", place.folder / "gpt", *asked, *more, "--output", out)
    expect("likelihood-yaml", reading.recorded(out))
    samples = [path for path in (out / "lm_eval").rglob("*samples*")]
    assert samples


def test_examples_before_a_question(place: Place, tmp_path: Path) -> None:
    """Two of the same questions stand for examples; prompts too long are cut and counted."""
    folder = tmp_path / "data" / "mmlu"
    rows = reading_rows(place.data / "mmlu" / "test.jsonl")
    made.write_rows(folder / "test.jsonl", rows[:8])
    made.write_rows(folder / "dev.jsonl", rows[8:14])
    asked = ("--tasks", "MMLU", "--task-data", tmp_path / "data", "--num-fewshot", 1)
    more = ("--plugins", "cosine", "--output", tmp_path / "out", "--quiet")
    done(place.cache, "run", "--models", place.folder / "llama", *asked, *more)
    found = {"recorded": reading.recorded(tmp_path / "out"), "met": reading.met(tmp_path / "out")}
    expect("likelihood-fewshot", found)


def reading_rows(path: Path) -> list[dict[str, object]]:
    """The rows of a JSON lines file."""
    return [json.loads(line) for line in path.read_text().splitlines()]
