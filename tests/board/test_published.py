"""`--actual published`: mteb's own results cache, written by mteb, beside a run or a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lrd_harness.board import published
from lrd_harness.cli import main
from lrd_harness.errors import UserError
from lrd_harness.models import registry
from lrd_harness.results.journal import Journal

Shown = pytest.CaptureFixture[str]
E5, GTE = "intfloat/e5-small-v2", "thenlper/gte-base"
OLD = "0" * 40
STS = "STSBenchmark"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MTEB_CACHE", str(tmp_path / "mteb"))
    return tmp_path / "mteb"


def save(
    model: str, task: str, scores: dict[str, dict[str, float]], revision: str = "", **meta: Any
) -> None:
    """A result as mteb writes it. scores: split -> subset -> main score; meta: of the model."""
    import mteb
    from mteb.results import TaskResult

    by_split = {
        split: {subset: {"main_score": score} for subset, score in subsets.items()}
        for split, subsets in scores.items()
    }
    result = TaskResult.from_task_results(mteb.get_task(task), by_split, evaluation_time=1.0)
    known = mteb.get_model_meta(model, **meta)
    mteb.ResultCache().save_to_cache(
        result, known.model_copy(update={"revision": revision}) if revision else known
    )


def of_test(score: float, **splits: float) -> dict[str, dict[str, float]]:
    return {split: {"default": value} for split, value in {"test": score, **splits}.items()}


def out(folder: Path, *models: str, tasks: tuple[str, ...] = (STS,)) -> str:
    """The folder of a run of these models."""
    journal = Journal(folder)
    for i, model in enumerate(models):
        who = {"model": model, "revision": "abc", "variant": "full"}
        journal.append({"kind": "model", "unit": f"{model}|model", **who, "blocks": 2})
        for task in tasks:
            score = {"layer": 2, "layers": 2, "score": 0.1 + i / 100, "task": task}
            journal.append({"kind": "score", "unit": f"{model}|{task}|2", **who, **score})
    journal.close()
    return str(folder)


def board(capsys: Shown, *arguments: str) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Model -> task -> score, and what was told."""
    assert main(["leaderboard", *arguments, "--format", "json"]) == 0
    printed = capsys.readouterr()
    rows = json.loads(printed.out)["tables"]["models"]["rows"]
    scores = {
        row["model"]: {k.removeprefix("score."): v for k, v in row.items() if "score." in k[:6]}
        for row in rows
    }
    return scores, printed.err.splitlines()


def refused(capsys: Shown, *arguments: str) -> str:
    assert main(["leaderboard", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    return printed.err


def test_beside_a_run(cache: Path, tmp_path: Path, capsys: Shown) -> None:
    """Its models and tasks alone; what has no published score is said."""
    save(E5, STS, of_test(0.85, validation=0.2))
    save(E5, "SciFact", of_test(0.65))
    save(GTE, STS, of_test(0.86))
    pooled = f"{E5} [cls]"
    run = out(tmp_path / "out", E5, "local/bert", pooled, tasks=(STS, "LeeDocumentSTS"))
    scores, notes = board(capsys, run, "--actual", "published")
    assert {model: by_task[STS] for model, by_task in scores.items()} == {
        E5: 0.85,
        "local/bert": None,
        pooled: None,
    }
    assert scores[E5]["LeeDocumentSTS"] == 0.1
    assert "SciFact" not in scores[E5]
    assert notes == [
        f"published mteb results: none of models that are pooled in another way: {pooled}",
        "published mteb results: none of 1 model: local/bert",
        "published mteb results: none on LeeDocumentSTS: the run's scores are kept there",
        "published mteb results: 2 models without a score on some task, so no rank: local/bert, "
        f"{pooled}",
    ]


def test_beside_a_file_of_values(cache: Path, tmp_path: Path, capsys: Shown) -> None:
    """The models file may say what a model is called on the hub."""
    save(E5, STS, of_test(0.85))
    values, models = tmp_path / "V.csv", tmp_path / "M.csv"
    rows = [f"{m},model,{t},my.x,1" for m in ("e5", GTE) for t in (STS, "Own")]
    values.write_text("\n".join(["model,layer,task,name,value", *rows]))
    models.write_text(f"model,hub_id,blocks\ne5,{E5},12\n")
    files = ["--values", str(values), "--models-info", str(models)]
    scores, notes = board(capsys, "--actual", "published", *files)
    assert scores == {"e5": {STS: 0.85}, GTE: {STS: None}}
    assert notes[:2] == [
        f"published mteb results: none of 1 model: {GTE}",
        "published mteb results: none on Own: no scores there",
    ]


def test_of_several_revisions_mteb_s_own_is_taken_or_the_one_that_is_named(cache: Path) -> None:
    save(E5, STS, of_test(0.85))
    save(E5, STS, of_test(0.5), revision=OLD)
    revisions = {"main": "", "old": OLD[:12], "none": "step1000"}
    models = [published.HubModel(name, E5, revision) for name, revision in revisions.items()]
    notes: list[str] = []
    scores = published.read(models, [STS], notes.append, "")
    assert {cell.model: cell.number for cell in scores.cells} == {"main": 0.85, "old": 0.5}
    assert scores.types == {STS: "STS"}
    assert scores.score_names == {STS: "cosine_spearman"}
    assert notes == [f"published mteb results: none of 1 model: {E5}"]


def test_scores_are_those_of_our_tasks_and_of_the_model_itself(cache: Path) -> None:
    """English of a task of many languages; a result that lacks what we score does not count."""
    task = "MassiveIntentClassification"
    assert registry.task(task).hf_subsets == ["en"]
    save(E5, task, {"test": {"en": 0.7, "de": 0.3}})
    save(GTE, task, {"test": {"de": 0.3}})
    models = [published.HubModel(model, model, "") for model in (E5, GTE)]
    (cell,) = published.read(models, [task], lambda note: None, "").cells
    assert (cell.model, cell.number) == (E5, 0.7)
    save(E5, STS, of_test(0.4), experiment_kwargs={"layer": 4})
    with pytest.raises(UserError, match="no published score"):
        published.read(models[:1], [STS], print, "")


def test_nothing_published_or_readable_is_said(cache: Path, tmp_path: Path, capsys: Shown) -> None:
    run = out(tmp_path / "out", E5)
    error = refused(capsys, run, "--actual", "published")
    assert f"no published score of {E5} on {STS} in {cache}" in error
    assert "ResultCache().download_from_remote()" in error
    assert "MTEB_CACHE" in error
    other = out(tmp_path / "other", E5, tasks=("LeeDocumentSTS",))
    assert "of these none is: LeeDocumentSTS" in refused(capsys, other, "--actual", "published")
    save(E5, STS, of_test(0.85))
    (file,) = cache.glob("results/*/*/STSBenchmark.json")
    file.write_text("{")
    error = refused(capsys, run, "--actual", "published")
    assert "published mteb results cannot be read (" in error


def test_words_and_files(tmp_path: Path, capsys: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is called like the word needs ./; the words need something to look up."""
    run = out(tmp_path / "out", E5)
    monkeypatch.chdir(tmp_path)
    for name in ("run", "published"):
        (tmp_path / name).write_text(f"model,STSBenchmark\n{E5},0.7\n")
        scores, _ = board(capsys, run, "--actual", f"./{name}")
        assert scores == {E5: {STS: 0.7}}
    (tmp_path / "M.csv").write_text(f"model,width\n{E5},384\n")
    info = ["--models-info", "M.csv"]
    error = refused(capsys, "--actual", "run", *info)
    assert "is for the OUT folder of a run (a file: ./run)" in error
    error = refused(capsys, "--actual", "published", *info)
    assert "looks up the models and tasks of OUT or of --values" in error
