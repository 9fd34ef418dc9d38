"""What surrounds lm-eval's scores: chance, folders of results, data that change, options."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from typing import Any

import pytest
import running
import stock
import tiny

from lrd_harness.cli.arguments import suite_of
from lrd_harness.contracts import TaskOptions

pytestmark = pytest.mark.usefixtures("own_cache")
lm_eval_tasks: Any = importlib.import_module("lrd_harness.tasks.likelihood.lm_eval_tasks")

CHOICES = """
output_type: multiple_choice
validation_split: validation
doc_to_text: "{{query}}"
doc_to_target: "label"
doc_to_choice: "choices"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""


@pytest.fixture(scope="module")
def gpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save("GPT2", tmp_path_factory.mktemp("models") / "gpt", causal=True)


def rows(label: Any, count: int = 9) -> list[dict[str, Any]]:
    ends = tiny.sentences(4, 3, most=3)
    return [{"query": t, "choices": ends, "label": label} for t in tiny.sentences(count, 5)]


def run(out: Path, model: Path, folder: Path, *tasks: str, more: tuple[str, ...] = ()) -> int:
    given = ("--include-path", str(folder), "--plugins", "nrs", "--layers", "last", *more)
    return running.run(out, [model], folder, *given, tasks=tasks)


def test_chance_counts_the_right_answers(gpt: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    stock.write_task(own, "around_one", CHOICES, {"validation": rows(2)})
    stock.write_task(own, "around_three", CHOICES, {"validation": rows([0, 2, 3])})
    (own / "counts.py").write_text("def count(doc, results):\n    return {'acc': 1.0}\n")
    body = CHOICES + "process_results: !function counts.count\n"
    stock.write_task(own, "around_own", body, {"validation": rows(1)})
    names = ("lm-eval:around_one", "lm-eval:around_three", "lm-eval:around_own")
    assert run(tmp_path / "out", gpt, own, *names) == 0
    chance = {r["task"]: r["chance"] for r in running.records(tmp_path / "out", "score")}
    assert chance == {names[0]: 0.25, names[1]: 0.75, names[2]: None}


def test_models_of_one_name_have_folders_of_their_own(gpt: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    stock.write_task(own, "around_one", CHOICES, {"validation": rows(2)})
    other = tmp_path / "other" / "gpt"
    tiny.save("GPT2", other, causal=True, seed=1)
    given = ("--include-path", str(own), "--plugins", "nrs", "--layers", "last")
    assert (
        running.run(tmp_path / "out", [gpt, other], own, *given, tasks=["lm-eval:around_one"]) == 0
    )
    folders = {p.parent for p in (tmp_path / "out" / "lm_eval").rglob("results_*.json")}
    assert len(folders) == 4  # of each model its last layer and itself
    assert all(len(list(folder.glob("results_*.json"))) == 1 for folder in folders)


def test_data_that_a_task_file_points_to(gpt: Path, tmp_path: Path, capsys: Any) -> None:
    own, out = tmp_path / "own", tmp_path / "out"
    stock.write_task(own, "around_one", CHOICES, {"validation": rows(2)})
    away = tmp_path / "away.jsonl"
    shutil.move(own / "data" / "around_one-validation.jsonl", away)
    file = own / "around_one.yaml"
    file.write_text(
        file.read_text().replace(str(own / "data" / "around_one-validation.jsonl"), str(away))
    )
    assert run(out, gpt, own, "lm-eval:around_one") == 0
    tiny.write_rows(away, rows(0))
    capsys.readouterr()
    assert run(out, gpt, own, "lm-eval:around_one") == 2
    assert "on data that have changed since" in capsys.readouterr().err


def test_scores_of_which_less_is_better_are_refused(gpt: Path, tmp_path: Path, capsys: Any) -> None:
    own = tmp_path / "own"
    worse = CHOICES.replace("higher_is_better: true", "higher_is_better: false")
    stock.write_task(own, "around_less", worse, {"validation": rows(2)})
    assert run(tmp_path / "out", gpt, own, "lm-eval:around_less") == 2
    assert "has no score of which more is better" in running.one_line(capsys)
    assert "crows_pairs_english" not in lm_eval_tasks._names()
    assert "hellaswag" in lm_eval_tasks._names()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--num-fewshot", "6"), "MMLU has 5 examples a subject at most, not 6"),
        (("--limit", "0"), "limit is 0, not a number above 0"),
        (("--limit", "1.5"), "limit is 1.5"),
    ],
)
def test_options_of_the_offline_task(
    more: tuple[str, ...], said: str, gpt: Path, tmp_path: Path, capsys: Any
) -> None:
    assert running.run(tmp_path / "out", [gpt], tmp_path, *more, tasks=["MMLU"]) == 2
    assert said in running.one_line(capsys)


def test_local_rows_are_not_passed_over(gpt: Path, tmp_path: Path, capsys: Any) -> None:
    data = stock.mmlu(tmp_path / "data", "anatomy")
    assert running.run(tmp_path / "out", [gpt], data, tasks=["MMLU"]) == 2
    assert "lm-eval:mmlu" in running.one_line(capsys)


def test_a_model_that_there_is_not_is_said_before_prompts_are_made(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(options: TaskOptions) -> None:
        raise AssertionError("data were loaded")

    monkeypatch.setattr(lm_eval_tasks, "load_offline", never)
    assert running.run(tmp_path / "out", [tmp_path / "none"], tmp_path, tasks=["MMLU"]) == 2
    assert "none" in running.one_line(capsys)


def test_a_suites_limit_goes_with_its_tasks() -> None:
    from lrd_harness.cli import parser

    assert suite_of(parser().parse_args(["run"])).settings.limit == 114
    typed = parser().parse_args(["run", "--tasks", "lm-eval:hellaswag"])
    assert suite_of(typed).settings.limit is None
    typed = parser().parse_args(["run", "--suite", "mmlu", "--tasks", "MMLU", "--limit", "9"])
    assert (suite_of(typed).settings.limit, suite_of(typed).settings.num_fewshot) == (9, None)
