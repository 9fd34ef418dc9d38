"""The user's own data for lm-eval are known by their rows, wherever they lie."""

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

from lrd_harness.contracts import TaskOptions

pytestmark = pytest.mark.usefixtures("own_cache")
TASK = f"lm-eval:{ANATOMY}"


@pytest.fixture(autouse=True)
def own_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tasks but those of an include path, or MMLU, whose indices are made at once."""
    from lm_eval.tasks import TaskManager

    loading: Any = importlib.import_module("lrd_harness.tasks.likelihood.loading")

    def index(include: Path | None) -> TaskManager:
        if include is None:
            return loading.mmlu_index()  # type: ignore[no-any-return]
        return TaskManager(include_defaults=False, include_path=str(include))

    monkeypatch.setattr("lrd_harness.tasks.likelihood.lm_eval_tasks.index", index)


def opened(name: str, **options: Any) -> Any:
    tasks: Any = importlib.import_module("lrd_harness.tasks.likelihood.lm_eval_tasks")
    (task,) = tasks.open_task(name, TaskOptions(**options))
    return task


def test_local_mmlu_goes_on_wherever_it_lies(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, capsys: Any
) -> None:
    """Without development questions, which no prompt needs here."""
    gpt = tiny.save("GPT2", tmp_path_factory.mktemp("models") / "gpt", causal=True)
    here, there, out = (tmp_path / name for name in ("here", "there", "out"))
    tiny.write_rows(here / "mmlu" / "test.jsonl", stock.questions(9, 0, "anatomy"))
    given = ("--plugins", "cosine", "--layers")
    assert running.run(out, [gpt], here, *given, "last", tasks=[TASK]) == 0
    shutil.move(here, there)
    assert running.run(out, [gpt], there, *given, "all", tasks=[TASK]) == 0
    assert {r["layer"] for r in running.records(out, "score")} == {0, 1, 2, 3}
    tiny.write_rows(there / "mmlu" / "test.jsonl", stock.questions(9, 1, "anatomy"))
    assert running.run(out, [gpt], there, *given, "all", tasks=[TASK]) == 2
    assert "on data that have changed since" in capsys.readouterr().err


def test_the_fingerprint_of_local_mmlu_is_of_its_rows(tmp_path: Path) -> None:
    found = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        path = tmp_path / name / "mmlu" / "test.jsonl"
        tiny.write_rows(path, stock.questions(9, seed, "anatomy"))
        found.append(str(opened(ANATOMY, data=tmp_path / name).fingerprint()))
    assert found[0] == found[1] != found[2]


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
