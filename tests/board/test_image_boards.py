"""Boards of image tasks: apart from those of texts, alike in everything else, in every form."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pruning_rows import BLOCKS, SWEEP, choice, named, pruned, whole
from selection_panels import by, joined

import lrd_harness
from lrd_harness.board.layers import layer_table
from lrd_harness.board.leaderboard import report
from lrd_harness.board.pruned import build_pruned, summary
from lrd_harness.cli import main
from lrd_harness.contracts import LIKELIHOOD, Task
from lrd_harness.guard import Owner
from lrd_harness.manager import load
from lrd_harness.models import registry
from lrd_harness.registration import registered
from lrd_harness.report import Report
from lrd_harness.results.journal import Journal
from lrd_harness.results.kinds import model_kind, rule_layer, split
from lrd_harness.results.rows import (
    CaptureRow,
    ErrorRow,
    MetricRow,
    ModelRow,
    Profile,
    Results,
    ScoreRow,
    Table,
    UndefinedRow,
    VariantRow,
    kind_of,
)

LAYERS = 4
TEXTS = {"sts": "STS", "bank": "Classification"}
IMAGES = {"groups": "ImageClassification", "drawings": "Any2AnyRetrieval", "vsts": "VisualSTS(eng)"}
CHOICES = {"mmlu": LIKELIHOOD, "arc": LIKELIHOOD}
ONCE = {"models", "model_info", "layers", "checkpoints", "values", "errors"}


def made(names: str, types: dict[str, str], adapter: str, free: str = "") -> Results:
    """Models of five states with scores and a metric; free: a task of metrics alone, "type"."""
    models, scores, metrics = [], [], []
    for i, name in enumerate(names):
        size: dict[str, Any] = {"parameters": 1000 * (i + 1), "blocks": LAYERS, "width": 8 + i}
        models.append(ModelRow(model=name, adapter=adapter, pooling="cls", family=adapter, **size))
        for t, (task, task_type) in enumerate((types | ({"free": free} if free else {})).items()):
            where: dict[str, Any] = {"model": name, "task": task, "task_type": task_type}
            values = [0.2 + 0.1 * n + 0.01 * (i * (t + 1)) % 0.05 for n in (0, 1, 2, 4, 3)]
            profile = Profile(tuple(range(LAYERS + 1)), tuple(values))
            square = Table(profile.layers, tuple((0.0, 1, 2, 3, i) for _ in values))
            bins = Table(profile.layers, tuple((1.0, 2, 3, 4) for _ in values))
            metrics.append(
                MetricRow(
                    **where, metric="frenet", n=20, selection=("d0L", "max"), values={"d0L": i + t},
                    profiles={"speed": profile}, layer_choice=("speed", "max"),
                    tables={"distance": square, "histogram": bins},
                )
            )  # fmt: skip
            for layer, value in enumerate(values) if task != "free" else ():
                of = {"layer": layer, "layers": LAYERS, "score": value, "score_name": "accuracy"}
                scores.append(ScoreRow(**where, **of))
    return Results(tuple(models), tuple(scores), tuple(metrics))


OF_TEXTS = made("abcdef", TEXTS, "encoder", free="Texts")
OF_CHOICES = made("ghi", CHOICES, "decoder")
MADE = made("pqrstu", IMAGES, "image", free="Images")
OF_IMAGES = replace(
    MADE,
    models=(*MADE.models, ModelRow(model="v", adapter="image")),
    captures=(CaptureRow(model="p", texts=9, forwarded=8, tokens=40, truncated=0, empty=0,
                         duplicates=1),),
    errors=(ErrorRow(model="v", task="groups", error="NotFinite: state 3"),),
    undefined=(UndefinedRow(model="p", task="groups", layer=0, error="same"),),
)  # fmt: skip
ALL = joined(OF_TEXTS, OF_CHOICES, OF_IMAGES)


def written(results: Report, form: str) -> Any:
    return load().get("reporter", form).write(results)


@pytest.mark.slow
def test_every_type_of_mteb_s_is_on_the_board_of_what_its_tasks_are_made_of() -> None:
    import mteb

    for task in mteb.get_tasks(modalities=["text", "image"]):
        known = task.metadata.modalities
        if known in (["text"], ["image"]):
            expected = "image" if known == ["image"] else "embedding"
            assert kind_of(registry.task_type(task.metadata)) == expected, task.metadata.name
    kinds = [kind_of(of) for of in ("Images", "Texts", LIKELIHOOD, "")]
    assert kinds == ["image", "embedding", "base", "embedding"]


@pytest.mark.slow
@pytest.mark.parametrize("others", [(OF_TEXTS,), (OF_CHOICES,), (OF_TEXTS, OF_CHOICES)])
def test_images_beside_texts_leave_both_boards_as_they_are(others: tuple[Results, ...]) -> None:
    both, texts, images = (report(joined(*p)) for p in ((*others, OF_IMAGES), others, (OF_IMAGES,)))
    for board, prefix in ((texts, ""), (images, "image.")):
        for table in board.tables:
            if table.name not in ONCE:
                found = both.table(f"{prefix}{table.name}").rows
                assert json.dumps(list(found)) == json.dumps(list(table.rows)), table.name
    assert both.facts["image"] == {k: v for k, v in images.facts.items() if k != "kind"}
    assert both.facts["kind"] == texts.facts["kind"]
    assert set(texts.notes) <= set(both.notes)
    assert {f"Image models: {note}" for note in images.notes} <= set(both.notes)
    assert f"Image models: {images.answer[0]}" in both.answer[1:3]
    assert both.errors == images.errors
    names = {name: by(both, name, "model") for name in ("ranking", "image.ranking", "models")}
    assert names["image.ranking"].keys() == set("pqrstuv")  # v has an error alone, on such a task
    assert not names["ranking"].keys() & set("pqrstuv")
    assert names["models"].keys() == names["ranking"].keys() | set("pqrstuv")
    wide, alone = names["models"]["p"], by(images, "models", "model")["p"]
    for name, cell in alone.items():
        assert wide[name if name in wide else f"image.{name}"] == cell
    assert wide.get("rank") is None
    info = {row["name"]: row for row in images.table("model_info").rows}
    for name, row in by(both, "model_info", "model").items():
        assert name not in info or row == info[name]
    for name in ONCE - {"models"}:  # no row is lost, none is there twice
        rows = [json.dumps(row, sort_keys=True) for row in both.table(name).rows]
        parts = (row for b in (texts, images) for row in b.table(name).rows)
        assert sorted(rows) == sorted(json.dumps(row, sort_keys=True) for row in parts)


@pytest.mark.slow
def test_a_run_of_images_alone_says_so() -> None:
    board = report(OF_IMAGES)
    assert board.facts["kind"] == "image"
    assert board.title == "Image models: 7 models, 3 tasks"
    assert board.answer[0].startswith(f"{board.table('ranking').rows[0]['model']} is best")
    captures = [row for row in board.table("values").rows if row["kind"] == "capture"]
    assert {row["name"]: row["unit"] for row in captures}["forwarded"] == "images"
    page = written(board, "html")
    assert "<h1>Image models: 7 models, 3 tasks</h1>" in page
    assert "entropies of single images" in page
    cards = {n: c.decode() for n, c in load().get("reporter", "cards").files(board)}
    assert "model's states on images" in cards["p/README.md"]
    said = [*board.notes, *board.answer, *map(str, cards.values())]
    for table in board.shown:
        said += [table.title, *table.caption, *(column.heading for column in table.columns)]
    said += [words for figure in figures_of(board) for words in (figure.title, figure.caption)]
    assert [words for words in said if re.search(r"\btexts?\b", words)] == []


@pytest.mark.slow
def test_the_page_and_the_files_show_the_board_apart() -> None:
    both = report(ALL)
    page = written(both, "html")
    parts = [page.index(f'<section id="{part}"') for part in ("figures", "base", "image", "made")]
    assert parts == sorted(parts)
    apart = page[parts[2] : parts[3]]
    assert '<h2 id="image-title">Image models</h2>' in apart
    for name in ("image-curves", "image-predictors", "image-ranks", "image-distances"):
        assert f'id="figure-{name}"' in apart
        assert page.count(f'id="figure-{name}"') == 1
    assert "Image models: the entropies of single images" in apart
    assert "Image models: p is" not in page[: parts[2]]
    figures = {f.name: f for f in figures_of(both)}
    alone = {f.name: f for f in figures_of(report(OF_IMAGES))}
    texts = {f.name: f for f in figures_of(report(OF_TEXTS))}
    for name in alone:  # the task without scores is drawn with the models that read it
        assert figures[f"image-{name}"].rows == alone[name].rows
        assert figures[name].rows == texts[name].rows
    tidy = dict(load().get("reporter", "tidy").files(both))
    lines = tidy["statistics.csv"].decode().splitlines()
    assert {line.partition(",")[0] for line in lines[1:]} == {"embedding", "base", "image"}
    assert "tab:image.ranking" in written(both, "latex")


def figures_of(board: Report) -> Any:
    from lrd_harness.plugins.reporters._figures import figures

    return figures(board)


def test_a_model_layer_by_layer_and_the_frame() -> None:
    alone, beside = (layer_table(results, "p") for results in (OF_IMAGES, ALL))
    assert (list(alone.rows), alone.caption) == (list(beside.rows), beside.caption)
    several = layer_table(joined(OF_TEXTS, made("a", IMAGES, "image")), "a")
    assert several.column("score") == layer_table(OF_TEXTS, "a").column("score")
    assert several.caption[-1].endswith("image tasks: groups, drawings, vsts.")
    frame = ALL.frame
    sides = frame.groupby("side").task.unique().map(set).to_dict()
    assert sides["image"] == {*IMAGES, "free"}  # each row by the type that it records
    assert sides["base"] == {*CHOICES}


def test_metrics_without_types_go_with_their_models() -> None:
    """As of old runs, and of the file of values of a run whose file of scores has types."""
    untyped = replace(ALL, metrics=tuple(replace(row, task_type="") for row in ALL.metrics))
    for (kind, side), (found, of_untyped) in zip(
        split(ALL).items(), split(untyped).items(), strict=True
    ):
        assert kind == found
        rows = [(row.model, row.task) for row in side.metrics]
        assert [(row.model, row.task) for row in of_untyped.metrics] == rows


@pytest.mark.slow
def test_pruned_models_are_compared_by_kind_of_task() -> None:
    images = {"groups": 0.8, "vsts": 0.4}
    of: dict[str, Any] = {"model": "p", "task_type": "ImageClassification"}
    run = Results(
        models=(ModelRow(model="p", blocks=BLOCKS),),
        scores=(*whole(tasks=images, **of), *pruned([5], {"groups": 0.6, "vsts": 0.3}, **of)),
        prunings=(choice("frenet", 5, model="p"),),
        variants=(VariantRow(model="p", variant=named([5]), removed=(5,)),),
    )
    (row,) = build_pruned(run)
    assert (row.line["kind"], row.line["change"]) == ("image", pytest.approx(-25))
    both = joined(SWEEP, run)
    assert {r["kind"] for r in summary(build_pruned(both))} == {"embedding", "image"}
    assert [r for r in summary(build_pruned(both)) if r["kind"] == "embedding"] == summary(
        build_pruned(SWEEP)
    )
    titles = [t.title for t in report(both).tables if t.name.startswith("pruning.")]
    assert titles == ["Pruning: a, embedding tasks", "Pruning: p, image tasks"]
    assert report(run).table("pruning.1").title == "Pruning: p"
    assert [row.model for row in split(both)["image"].variants] == ["p"]


@pytest.mark.parametrize(
    ("row", "expected", "layer"),
    [
        ({"family": "dinov2", "pooling": "cls"}, "encoder", 12),
        ({"family": "clip_vision_model", "adapter": "another's"}, "encoder", 12),
        ({"family": "llama4_vision_model", "pooling": "mean"}, "encoder", 12),
        ({"family": "imagegpt", "pooling": "mean"}, "decoder embedder", 10),
        ({"family": "vit", "pooling": "last"}, "decoder embedder", 10),
        ({}, "encoder", 12),
    ],
)
def test_image_models_are_encoders_unless_they_are_told_not_to_be(
    row: dict[str, Any], expected: Any, layer: int
) -> None:
    kind = model_kind(ModelRow(**({"model": "p", "adapter": "image"} | row)), "image")
    assert (kind, rule_layer(kind, 12)) == (expected, layer)


@pytest.mark.parametrize(
    ("task_type", "modality"),
    [("STS", "image"), ("Texts", "image"), ("ImageClassification", "text"), ("Images", "text")],
)
def test_a_type_that_would_put_a_task_on_another_board_is_refused(
    task_type: str, modality: Any
) -> None:
    task = Task("t", list, None, type=task_type, modality=modality)
    with pytest.raises(TypeError, match=f"of {modality}s has the type {task_type}: give"):
        registered(task, "task", Owner("x", __file__))


def journaled(folder: Path, results: Results) -> str:
    journal = Journal(folder)
    for kind in ("models", "scores", "metrics"):
        for i, row in enumerate(getattr(results, kind)):
            record = {"kind": kind[:-1], "unit": f"{kind}|{i}|{row.model}", **vars(row)}
            for name in ("profiles", "tables"):
                if name in record:
                    record[name] = {key: of._asdict() for key, of in record[name].items()}
            journal.append(record)
    journal.close()
    return str(folder)


@pytest.mark.slow
def test_a_recorded_run_its_tables_by_name_and_a_file_of_scores(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def shown(*typed: str) -> Any:
        assert main(["leaderboard", *typed, "--format", "json"]) == 0
        return json.loads(capsys.readouterr().out)["tables"]

    out = journaled(tmp_path / "out", ALL)
    assert set(lrd_harness.values(out).side) == {"embedding", "base", "image"}
    ranked = shown(out, "--table", "image.ranking")["image.ranking"]["rows"]
    expected = by(report(ALL), "image.ranking", "model")
    assert {r["model"]: r["score"] for r in ranked} == pytest.approx(
        {m: r["score"] for m, r in expected.items() if m != "v"}
    )
    # a file that says the types of its tasks, in its own rows
    file = tmp_path / "scores.csv"
    lines = ["model,sts,groups", "#type,STS,ImageClassification", "a,0.5,", "b,0.4,", "p,,0.7"]
    file.write_text("\n".join([*lines, "q,,0.6"]))
    sizes = tmp_path / "sizes.csv"
    sizes.write_text("model,blocks\n" + "".join(f"{name},4\n" for name in "abpq"))
    tables = shown("--actual", str(file), "--models-info", str(sizes))
    ranks = {n: [r["model"] for r in tables[n]["rows"]] for n in ("ranking", "image.ranking")}
    assert ranks == {"ranking": ["a", "b"], "image.ranking": ["p", "q"]}
    beside = shown(out, "--actual", str(file))
    scores = {r["model"]: r["score"] for r in beside["image.tasks"]["rows"] if "score" in r}
    wide = {r["model"]: r for r in beside["models"]["rows"]}
    assert (wide["p"]["score.groups"], wide["p"]["image.tasks"], scores) == (0.7, 3, {})


@pytest.mark.slow
def test_published_scores_of_image_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As mteb itself writes them."""
    import mteb
    from mteb.results import TaskResult

    monkeypatch.setenv("MTEB_CACHE", str(tmp_path / "mteb"))
    names = {"facebook/dinov2-small": 0.75, "openai/clip-vit-base-patch32": 0.5}
    for name, score in names.items():
        by_split = {"test": {"default": {"main_score": score}}}
        result = TaskResult.from_task_results(mteb.get_task("CIFAR10"), by_split, evaluation_time=1)
        mteb.ResultCache().save_to_cache(result, mteb.get_model_meta(name))
    tasks = {"CIFAR10": "ImageClassification"}
    run = made("xy", tasks, "image")
    rename = dict(zip("xy", names, strict=True))
    parts = {
        name: tuple(replace(row, model=rename[row.model]) for row in getattr(run, name))
        for name in ("models", "scores", "metrics")
    }
    out = journaled(tmp_path / "out", Results(**parts))
    assert main(["leaderboard", out, "--actual", "published", "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)["tables"]["ranking"]["rows"]
    assert {row["model"]: row["score"] for row in rows} == names
