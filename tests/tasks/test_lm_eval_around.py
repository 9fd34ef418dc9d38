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

from lrd_harness.cli import parser
from lrd_harness.cli.arguments import suite_of
from lrd_harness.contracts import TaskOptions

pytestmark = pytest.mark.usefixtures("own_cache", "own_alone")
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


def rows(label: Any) -> list[dict[str, Any]]:
    ends = tiny.sentences(4, 3, most=3)
    return [{"query": t, "choices": ends, "label": label} for t in tiny.sentences(9, 5)]


@pytest.mark.slow
def test_chance_folders_of_results_and_data_that_change(
    gpt: Path, tmp_path: Path, capsys: Any
) -> None:
    """Chance counts the right answers; two models of one name have folders of their own."""
    include, out, away = tmp_path / "own", tmp_path / "out", tmp_path / "away.jsonl"
    stock.write_task(include, "around_one", CHOICES, {"validation": rows(2)})
    stock.write_task(include, "around_three", CHOICES, {"validation": rows([0, 2, 3])})
    (include / "counts.py").write_text("def count(doc, results):\n    return {'acc': 1.0}\n")
    body = CHOICES + "process_results: !function counts.count\n"
    stock.write_task(include, "around_own", body, {"validation": rows(1)})
    # its data lie elsewhere, where its file points to
    file, inside = include / "around_one.yaml", include / "data" / "around_one-validation.jsonl"
    shutil.move(inside, away)
    file.write_text(file.read_text().replace(str(inside), str(away)))
    models = [gpt, tiny.save("GPT2", tmp_path / "other" / "gpt", causal=True, seed=1)]
    typed = ("--include-path", str(include), "--plugins", "nrs", "--layers", "last")
    names = ["lm-eval:around_one", "lm-eval:around_three", "lm-eval:around_own"]
    assert running.run(out, models, include, *typed, tasks=names) == 0
    chance = {r["task"]: r["chance"] for r in running.records(out, "score")}
    assert chance == dict(zip(names, (0.25, 0.75, None), strict=True))
    folders = {p.parent for p in (out / "lm_eval").rglob("results_*.json")}
    assert len(folders) == 4  # of each model its last layer and itself
    assert all(len(list(folder.glob("results_*.json"))) == len(names) for folder in folders)
    tiny.write_rows(away, rows(0))
    capsys.readouterr()
    assert running.run(out, models, include, *typed, tasks=names) == 2
    assert "on data that have changed since" in capsys.readouterr().err
    worse = CHOICES.replace("higher_is_better: true", "higher_is_better: false")
    stock.write_task(include, "around_less", worse, {"validation": rows(2)})
    assert (
        running.run(tmp_path / "less", models, include, *typed, tasks=["lm-eval:around_less"]) == 2
    )
    assert "has no score of which more is better" in running.one_line(capsys)


def test_options_of_the_offline_task(
    gpt: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Local rows are not passed over; a model that there is not is said before data are loaded."""

    def never(options: TaskOptions) -> None:
        raise AssertionError("data were loaded")

    monkeypatch.setattr(lm_eval_tasks, "load_offline", never)
    data = stock.mmlu(tmp_path / "data", "anatomy")
    for model, folder, more, reason in (
        (gpt, tmp_path, ("--num-fewshot", "6"), "MMLU has 5 examples a subject at most, not 6"),
        (gpt, tmp_path, ("--limit", "0"), "limit is 0, not a number above 0"),
        (gpt, tmp_path, ("--limit", "1.5"), "limit is 1.5"),
        (gpt, data, (), "lm-eval:mmlu"),
        (tmp_path / "none", tmp_path, (), "none"),
    ):
        assert running.run(tmp_path / "out", [model], folder, *more, tasks=["MMLU"]) == 2
        assert reason in running.one_line(capsys)


def test_a_suites_limit_goes_with_its_tasks() -> None:
    for typed, limit in (
        (["run"], 114),
        (["run", "--tasks", "lm-eval:hellaswag"], None),
        (["run", "--suite", "mmlu", "--tasks", "MMLU", "--limit", "9"], 9),
    ):
        chosen = suite_of(parser().parse_args(typed)).settings
        assert (chosen.limit, chosen.num_fewshot) == (limit, None)


@pytest.mark.slow
def test_local_mmlu_goes_on_wherever_it_lies(gpt: Path, tmp_path: Path, capsys: Any) -> None:
    """Without development questions, which no prompt needs here."""
    here, there, out = (tmp_path / name for name in ("here", "there", "out"))
    tiny.write_rows(here / "mmlu" / "test.jsonl", stock.questions(9, 0, "anatomy"))
    typed = ("--plugins", "cosine", "--layers")
    assert running.run(out, [gpt], here, *typed, "last", tasks=[f"lm-eval:{ANATOMY}"]) == 0
    shutil.move(here, there)
    assert running.run(out, [gpt], there, *typed, "all", tasks=[f"lm-eval:{ANATOMY}"]) == 0
    assert {r["layer"] for r in running.records(out, "score")} == {0, 1, 2, 3}
    tiny.write_rows(there / "mmlu" / "test.jsonl", stock.questions(9, 1, "anatomy"))
    assert running.run(out, [gpt], there, *typed, "all", tasks=[f"lm-eval:{ANATOMY}"]) == 2
    assert "on data that have changed since" in capsys.readouterr().err


def test_a_task_in_yaml_may_move_with_its_data(tmp_path: Path) -> None:
    """Folders of before hold a hash of data and place: it is known as well, where that stays."""
    row = {"query": "the cat", "choices": ["sat", "ran"], "label": 0}
    prints = []
    for name, label in (("a", 0), ("b", 0), ("b", 1)):
        split = {"validation": [{**row, "label": label}], "train": [row]}
        stock.write_task(tmp_path / name, "moves", stock.CHOICES, split)
        (task,) = lm_eval_tasks.open_task("moves", TaskOptions(include_path=tmp_path / name))
        prints.append(task.fingerprint())
    here, moved, changed = prints
    assert here == moved != changed
    assert here.placed != moved.placed
    assert here == here.placed
    assert moved != here.placed
