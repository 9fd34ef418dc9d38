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
from stock import ANATOMY

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


@pytest.fixture
def own_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    stock.own_alone(monkeypatch)


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
    other = tiny.save("GPT2", tmp_path / "other" / "gpt", causal=True, seed=1)
    given = ("--models", str(gpt), str(other))
    assert run(tmp_path / "out", gpt, own, "lm-eval:around_one", more=given) == 0
    folders = {p.parent for p in (tmp_path / "out" / "lm_eval").rglob("results_*.json")}
    assert len(folders) == 4  # of each model its last layer and itself
    assert all(len(list(folder.glob("results_*.json"))) == 1 for folder in folders)


def test_data_that_a_task_file_points_to(gpt: Path, tmp_path: Path, capsys: Any) -> None:
    own, out = tmp_path / "own", tmp_path / "out"
    stock.write_task(own, "around_one", CHOICES, {"validation": rows(2)})
    away = tmp_path / "away.jsonl"
    shutil.move(own / "data" / "around_one-validation.jsonl", away)
    file, inside = own / "around_one.yaml", str(own / "data" / "around_one-validation.jsonl")
    file.write_text(file.read_text().replace(inside, str(away)))
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


def test_options_of_the_offline_task(gpt: Path, tmp_path: Path, capsys: Any) -> None:
    """Local rows are not passed over."""
    data = stock.mmlu(tmp_path / "data", "anatomy")
    for folder, more, said in (
        (tmp_path, ("--num-fewshot", "6"), "MMLU has 5 examples a subject at most, not 6"),
        (tmp_path, ("--limit", "0"), "limit is 0, not a number above 0"),
        (tmp_path, ("--limit", "1.5"), "limit is 1.5"),
        (data, (), "lm-eval:mmlu"),
    ):
        assert running.run(tmp_path / "out", [gpt], folder, *more, tasks=["MMLU"]) == 2
        assert said in running.one_line(capsys)


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


def opened(name: str, **options: Any) -> Any:
    (task,) = lm_eval_tasks.open_task(name, TaskOptions(**options))
    return task


@pytest.mark.usefixtures("own_alone")
def test_local_mmlu_goes_on_wherever_it_lies(gpt: Path, tmp_path: Path, capsys: Any) -> None:
    """Without development questions, which no prompt needs here."""
    here, there, out = (tmp_path / name for name in ("here", "there", "out"))
    tiny.write_rows(here / "mmlu" / "test.jsonl", stock.questions(9, 0, "anatomy"))
    given = ("--plugins", "cosine", "--layers")
    assert running.run(out, [gpt], here, *given, "last", tasks=[f"lm-eval:{ANATOMY}"]) == 0
    shutil.move(here, there)
    assert running.run(out, [gpt], there, *given, "all", tasks=[f"lm-eval:{ANATOMY}"]) == 0
    assert {r["layer"] for r in running.records(out, "score")} == {0, 1, 2, 3}
    tiny.write_rows(there / "mmlu" / "test.jsonl", stock.questions(9, 1, "anatomy"))
    assert running.run(out, [gpt], there, *given, "all", tasks=[f"lm-eval:{ANATOMY}"]) == 2
    assert "on data that have changed since" in capsys.readouterr().err


@pytest.mark.usefixtures("own_alone")
def test_the_fingerprint_of_local_mmlu_is_of_its_rows(tmp_path: Path) -> None:
    found = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        path = tmp_path / name / "mmlu" / "test.jsonl"
        tiny.write_rows(path, stock.questions(9, seed, "anatomy"))
        found.append(str(opened(ANATOMY, data=tmp_path / name).fingerprint()))
    assert found[0] == found[1] != found[2]


@pytest.mark.usefixtures("own_alone")
def test_a_task_in_yaml_may_move_with_its_data(tmp_path: Path) -> None:
    """Folders of before hold a hash of data and place: it is known as well, where that stays."""
    row = {"query": "the cat", "choices": ["sat", "ran"], "label": 0}
    found = []
    for name, label in (("a", 0), ("b", 0), ("b", 1)):
        split = {"validation": [{**row, "label": label}], "train": [row]}
        stock.write_task(tmp_path / name, "moves", stock.CHOICES, split)
        found.append(opened("moves", include_path=tmp_path / name).fingerprint())
    here, moved, changed = found
    assert here == moved != changed
    assert here.placed != moved.placed
    assert here == here.placed
    assert moved != here.placed
