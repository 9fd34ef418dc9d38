"""`--actual published`: mteb's own results cache, written by mteb, beside a run or a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lrd_harness.board import published
from lrd_harness.cli import main
from lrd_harness.errors import UserError
from lrd_harness.models import registry as official
from lrd_harness.results.journal import Journal

Shown = pytest.CaptureFixture[str]
E5, GTE = "intfloat/e5-small-v2", "thenlper/gte-base"
OLD = "0" * 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MTEB_CACHE", str(tmp_path / "mteb"))
    return tmp_path / "mteb"


def save(model: str, task: str, score: float, revision: str | None = None, **more: Any) -> None:
    """A result as mteb writes it. more: other splits, and other subsets of the split test."""
    import mteb
    from mteb.results import TaskResult

    subsets = {"default": {"main_score": score}} | more.pop("subsets", {})
    scores = {"test": subsets} | {k: {"default": {"main_score": v}} for k, v in more.items()}
    result = TaskResult.from_task_results(mteb.get_task(task), scores, evaluation_time=1.0)
    meta = mteb.get_model_meta(model)
    if revision is not None:
        meta = meta.model_copy(update={"revision": revision})
    mteb.ResultCache().save_to_cache(result, meta)


def out(folder: Path, *models: str, tasks: tuple[str, ...] = ("STSBenchmark",)) -> Path:
    """The journal of a run of these models, as MODEL or MODEL=REVISION."""
    journal = Journal(folder)
    for i, name in enumerate(models):
        model, _, revision = name.partition("=")
        who = {"model": model, "revision": revision or "abc", "variant": "full"}
        journal.append({"kind": "model", "unit": f"{name}|model", **who, "blocks": 2})
        for task in tasks:
            score = {"layer": 2, "layers": 2, "score": 0.1 + i / 100, "task": task}
            journal.append({"kind": "score", "unit": f"{name}|{task}|2", **who, **score})
    journal.close()
    return folder


def scores(capsys: Shown, *arguments: str) -> dict[str, dict[str, float]]:
    """Model -> task -> score of the board; what was said is left to be read."""
    assert main(["leaderboard", *arguments, "--format", "json"]) == 0
    said = capsys.readouterr()
    print(said.err, end="")
    rows = json.loads(said.out)["tables"]["models"]["rows"]
    return {
        row["model"]: {k.removeprefix("score."): v for k, v in row.items() if "score." in k[:6]}
        for row in rows
    }


def test_beside_a_run(cache: Path, tmp_path: Path, capsys: Shown) -> None:
    """Its models and tasks alone; what has no published score is said."""
    save(E5, "STSBenchmark", 0.85, validation=0.2)
    save(E5, "SciFact", 0.65)
    save(GTE, "STSBenchmark", 0.86)
    names = (E5, "local/bert", f"{E5} [cls]")
    run = out(tmp_path / "out", *names, tasks=("STSBenchmark", "LeeDocumentSTS"))
    found = scores(capsys, str(run), "--actual", "published")
    assert {model: by_task["STSBenchmark"] for model, by_task in found.items()} == {
        E5: 0.85,
        "local/bert": None,
        f"{E5} [cls]": None,
    }
    assert found[E5]["LeeDocumentSTS"] == 0.1
    assert "SciFact" not in found[E5]
    assert capsys.readouterr().out.splitlines() == [
        f"published mteb results: none of models that are pooled in another way: {E5} [cls]",
        "published mteb results: none of 1 model: local/bert",
        "published mteb results: none on LeeDocumentSTS: the run's scores are kept there",
        "published mteb results: 2 models without a score on some task, so no rank: local/bert, "
        f"{E5} [cls]",
    ]


def test_beside_a_file_of_values(cache: Path, tmp_path: Path, capsys: Shown) -> None:
    """The models file may say what a model is called on the hub."""
    save(E5, "STSBenchmark", 0.85)
    values, models = tmp_path / "V.csv", tmp_path / "M.csv"
    rows = [f"{m},model,{t},made.x,1" for m in ("e5", GTE) for t in ("STSBenchmark", "Own")]
    values.write_text("\n".join(["model,layer,task,name,value", *rows]))
    models.write_text(f"model,hub_id,blocks\ne5,{E5},12\n")
    files = ["--actual", "published", "--values", str(values), "--models-info", str(models)]
    assert scores(capsys, *files) == {"e5": {"STSBenchmark": 0.85}, GTE: {"STSBenchmark": None}}
    assert capsys.readouterr().out.splitlines()[:2] == [
        f"published mteb results: none of 1 model: {GTE}",
        "published mteb results: none on Own: no scores there",
    ]


def test_of_several_revisions_mteb_s_own_is_taken_or_the_one_that_is_named(cache: Path) -> None:
    save(E5, "STSBenchmark", 0.85)
    save(E5, "STSBenchmark", 0.5, revision=OLD)
    wanted = [published.HubModel("main", E5, ""), published.HubModel("old", E5, OLD[:12])]
    wanted.append(published.HubModel("none", E5, "step1000"))
    notes: list[str] = []
    found = published.read(wanted, ["STSBenchmark"], notes.append, "")
    assert {cell.model: cell.number for cell in found.cells} == {"main": 0.85, "old": 0.5}
    assert found.types == {"STSBenchmark": "STS"}
    assert found.score_names == {"STSBenchmark": "cosine_spearman"}
    assert notes == [f"published mteb results: none of 1 model: {E5}"]


def test_subsets_and_splits_are_those_of_our_tasks(cache: Path) -> None:
    """English of a task of many languages; a result that lacks what we score does not count."""
    name = "MassiveIntentClassification"
    assert official.task(name).hf_subsets == ["en"]
    languages = {"en": {"main_score": 0.7}, "de": {"main_score": 0.3}}
    import mteb
    from mteb.results import TaskResult

    for model, held in ((E5, languages), (GTE, {"de": languages["de"]})):
        result = TaskResult.from_task_results(mteb.get_task(name), {"test": held}, 1.0)
        mteb.ResultCache().save_to_cache(result, mteb.get_model_meta(model))
    wanted = [published.HubModel(model, model, "") for model in (E5, GTE)]
    (cell,) = published.read(wanted, [name], lambda note: None, "").cells
    assert (cell.model, cell.number) == (E5, 0.7)


def test_results_by_layer_are_not_the_model_s(cache: Path) -> None:
    import mteb
    from mteb.results import TaskResult

    scores = {"test": {"default": {"main_score": 0.4}}}
    result = TaskResult.from_task_results(mteb.get_task("STSBenchmark"), scores, 1.0)
    meta = mteb.get_model_meta(E5, experiment_kwargs={"layer": 4})
    mteb.ResultCache().save_to_cache(result, meta)
    with pytest.raises(UserError, match="no published score"):
        published.read([published.HubModel(E5, E5, "")], ["STSBenchmark"], print, "")


def refused(capsys: Shown, *arguments: str) -> str:
    assert main(["leaderboard", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    return said.err


def test_nothing_published_names_what_to_do(cache: Path, tmp_path: Path, capsys: Shown) -> None:
    run = str(out(tmp_path / "out", E5))
    said = refused(capsys, run, "--actual", "published")
    assert f"no published score of {E5} on STSBenchmark in {cache}" in said
    assert "ResultCache().download_from_remote()" in said
    assert "MTEB_CACHE" in said
    own = str(out(tmp_path / "own", E5, tasks=("LeeDocumentSTS",)))
    assert "of these none is: LeeDocumentSTS" in refused(capsys, own, "--actual", "published")


def test_a_result_that_cannot_be_read(cache: Path, tmp_path: Path, capsys: Shown) -> None:
    save(E5, "STSBenchmark", 0.85)
    (file,) = cache.glob("results/*/*/STSBenchmark.json")
    file.write_text("{")
    run = str(out(tmp_path / "out", E5))
    assert "published mteb results cannot be read (" in refused(
        capsys, run, "--actual", "published"
    )


def test_words_and_files(tmp_path: Path, capsys: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is called like the word needs ./; the words need something to look up."""
    run = str(out(tmp_path / "out", E5))
    monkeypatch.chdir(tmp_path)
    for name in ("run", "published"):
        (tmp_path / name).write_text(f"model,STSBenchmark\n{E5},0.7\n")
        assert scores(capsys, run, "--actual", f"./{name}") == {E5: {"STSBenchmark": 0.7}}
    (tmp_path / "M.csv").write_text(f"model,width\n{E5},384\n")
    info = ["--models-info", "M.csv"]
    assert "is for the OUT folder of a run (a file: ./run)" in refused(
        capsys, "--actual", "run", *info
    )
    assert "looks up the models and tasks of OUT or of --values" in refused(
        capsys, "--actual", "published", *info
    )
