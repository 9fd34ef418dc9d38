"""One layer a model by one standard error: by hand, over tasks, on the board, in every form."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import choice_rows
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrd_harness.board import interchange
from lrd_harness.board.layer_choice import build_choice
from lrd_harness.board.leaderboard import report
from lrd_harness.board.one_layer import Curve, one_layer_table, steady
from lrd_harness.manager import load
from lrd_harness.results.rows import Key, Profile, Results

RULE = "split_text, one standard error"
Q = np.array(
    [
        [1.0, 0.5, 1.0, 1.0, 0.5, 1.0, 1.0, 1.0],
        [0.25, 1.0, 0.2, 1.0, 0.5, 1.0, 0.5, 1.0],
        [0.5, 0.5, 1.0, 0.5, 1.0, 1.0, 1.0, 1.0],
    ]
)  # a row a layer


def curve(q: Any) -> Curve:
    """Of values (layers, texts): what a metric records."""
    n = q.shape[1]
    errors = (q - q[-1]).std(axis=1, ddof=1) / np.sqrt(n)
    return Curve(n, dict(enumerate(q.mean(axis=1).tolist())), dict(enumerate(errors.tolist())))


def test_expected_choice() -> None:
    found = steady([curve(Q)], 2)
    assert found is not None
    assert (found.layer, found.best, found.n) == (2, 0, 8)
    assert (found.lead, found.error) == pytest.approx((0.0625, 0.1132908708968707))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 2**20), st.lists(st.integers(2, 20), min_size=1, max_size=4), st.booleans())
def test_tasks_go_together_as_all_their_texts_do(seed: int, sizes: list[int], least: bool) -> None:
    """From means and errors alone, exactly what the values of all texts give."""
    draw = np.random.RandomState(seed)
    parts = [draw.choice([0.2, 0.25, 1 / 3, 0.5, 1.0], (4, n)) for n in sizes]
    found = steady([curve(part) for part in parts], 3, "min" if least else "max")
    q = np.concatenate(parts, axis=1) * (-1 if least else 1)
    best = int(np.argmax(np.round(q.mean(axis=1), 9)))  # the first of ties
    gaps = q[best] - q[-1]
    error = gaps.std(ddof=1) / np.sqrt(len(gaps))
    assert found is not None
    assert found.best == best
    assert (found.lead, found.error) == pytest.approx((gaps.mean(), error), abs=1e-12)
    if abs(gaps.mean() - error) > 1e-12:
        assert found.layer == (best if gaps.mean() > error else 3)


def test_layers_that_a_task_lacks_are_no_candidates() -> None:
    whole, late = curve(Q), curve(Q)
    late = late._replace(means={i: v for i, v in late.means.items() if i})
    found = steady([whole, late], 2)
    assert found is not None
    assert (found.best, found.n) == (2, 16)
    assert steady([whole, late], 3) is None  # no last layer
    assert steady([whole._replace(n=0)], 2) is None  # as of a file that does not say how many
    assert steady([], 2) is None


def measured(task: str, means: tuple[Any, ...], error: float, n: int = 20, **more: Any) -> Any:
    layers = tuple(range(len(means)))
    errors = tuple(None if m is None else error * (i < len(means) - 1) for i, m in enumerate(means))
    profiles = {"mrr": Profile(layers, means), "lead_se": Profile(layers, errors)}
    fields = {"layer_choice": ("mrr", "max"), "margin": "lead_se", "profiles": profiles, "n": n}
    return choice_rows.metric("split_text", task, (), **(fields | more))


# at 2 on all tasks together, at 3, 1 and 4 on each
CURVES = {
    "t1": (0.1, 0.2, 0.6, 0.7, 0.4),
    "t2": (0.1, 0.9, 0.8, 0.2, 0.4),
    "t3": (0.1, 0.2, 0.6, 0.4, 0.7),
}


def run(error: float = 0.01, **more: Any) -> Results:
    rows = tuple(measured(task, means, error, **more) for task, means in CURVES.items())
    base = choice_rows.results()
    return replace(base, metrics=(*base.metrics, *rows))


def rows(board: Any, table: str, **cells: Any) -> list[Any]:
    return [r for r in board.table(table).rows if cells.items() <= r.items()]


@pytest.mark.parametrize(("error", "layer"), [(0.01, 2), (1.0, 4)])
def test_the_board_takes_one_layer_a_model(error: float, layer: int) -> None:
    """Gains of it stand beside those of the layer that each task has for itself."""
    board = report(run(error))
    (row,) = rows(board, "one_layer")
    assert (row["model"], row["metric"], row["n"]) == ("a", "split_text.mrr", 60)
    assert (row["best"], row["layer"], row["rule"], row["blocks"]) == (2, layer, 4, 4)
    leads = [0.2, 0.4, -0.1]
    assert row["lead"] == pytest.approx(np.mean(leads))
    squares = 20 * sum(19 * error**2 + (lead - row["lead"]) ** 2 for lead in leads)
    assert row["error"] == pytest.approx(np.sqrt(squares / 59 / 60))
    gains = {task: s[layer] - s[-1] for task, s in choice_rows.SCORES.items()}
    (gain,) = rows(board, "layer_gain", rule=RULE)
    assert gain["gain"] == pytest.approx(np.mean([*gains.values()]))
    assert (gain["n"], gain["depth"], gain["kind"]) == (3, layer / 4, "metric")
    assert gain["picks"] == "argmax, one a model"
    alone, reverse = rows(board, "layer_gain", rule="split_text")
    assert alone["gain"] == pytest.approx((0.05 - 0.2 + 0.2 + 0) / 3 + 0.1 / 3, abs=0.2)
    assert not reverse["first"]
    picks = rows(board, "layer_picks", metric=RULE)
    assert {p["task"]: p["gain"] for p in picks} == pytest.approx(gains)
    assert {p["layer"] for p in picks} == {layer}
    picked = [r["layer"] for r in rows(board, "layers", **{f"picked.{RULE}": 1})]
    assert picked == [layer] * 3


def test_of_scored_layers_alone_where_gains_are_counted() -> None:
    """The table has the layer of all; a task without scores counts in both."""
    made = run()
    scores = [s for s in made.scores if s.task != "t3" and s.layer != 2]
    choice = build_choice(replace(made, scores=tuple(scores)))
    assert choice is not None
    assert [p["layer"] for p in choice.picks if p["metric"] == RULE] == [4, 4]  # on two tasks: 1
    (row,) = one_layer_table(made, {}, "embedding").rows
    assert row["layer"] == 2


def test_what_uses_labels_is_marked() -> None:
    board = report(run(control=True))
    (gain,) = rows(board, "layer_gain", rule=RULE)
    assert (gain["kind"], gain["picks"]) == ("control", "argmax, one a model, in-sample")
    assert rows(board, "layer_picks", metric=f"{RULE} (uses labels)")


def test_each_model_has_its_own_and_needs_no_score() -> None:
    made = run()
    other = [replace(row, model="b") for row in made.metrics if row.task == "t2"]
    models = (*made.models, replace(made.models[0], model="b", family="gpt2", pooling="last"))
    both = Results(models=models, metrics=(*made.metrics, *other))
    labels = {Key("b", "", "full"): "the other"}
    found = {row["model"]: row for row in one_layer_table(both, labels, "embedding").rows}
    assert [found["the other"][name] for name in ("layer", "rule", "n")] == [1, 3, 20]
    assert found["a"]["layer"] == 2
    assert rows(report(both), "one_layer")
    bare = one_layer_table(choice_rows.results(), {}, "embedding")
    assert (bare.rows, bare.shown) == ([], False)


def test_it_stands_in_every_form() -> None:
    """With the evidence, of a metric that is experimental."""
    board = report(run())
    assert board.table("one_layer").caption[1].startswith("split_text is experimental: on 8 models")
    for form in ("table", "md", "latex", "html", "json", "fragment"):
        text = " ".join(load().get("reporter", form).write(board).split())
        assert "one standard error" in text, form
        assert "8 models" in text.replace("~", " ") or form == "json", form
    files = dict(load().get("reporter", "tidy").files(board))
    statistics = [line for line in files["statistics.csv"].decode().splitlines() if "lead" in line]
    assert any("one_layer" in line and "split_text.mrr" in line for line in statistics)
    assert RULE in files["statistics.csv"].decode()


def test_a_file_of_values_says_not_how_many_texts(tmp_path: Path) -> None:
    file = tmp_path / "values.csv"
    lines = [
        f"a,{i},X,split_text.{name},0.{5 + i}" for i in range(3) for name in ("mrr", "lead_se")
    ]
    file.write_text("\n".join(["model,layer,task,name,value", *lines]) + "\n")
    scores = tmp_path / "scores.csv"
    lines = [f"a,{i},X,0.{5 + i}" for i in range(3)]
    scores.write_text("\n".join(["model,layer,task,score", *lines]) + "\n")
    board = report(interchange.read(scores, file))
    assert board.table("one_layer").rows == []
    (gain,) = rows(board, "layer_gain", rule=RULE)
    assert (gain["gain"], gain["n"]) == (None, 0)
