"""Predictors judged task by task: numbers against scipy, verdicts, and every form they come in."""

from __future__ import annotations

import csv
import importlib
import io
import json
import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from rich.cells import cell_len
from scipy import stats as scipy_stats

from lrd_harness import inference, stats
from lrd_harness.cli import main
from lrd_harness.leaderboard import Leaderboard, build
from lrd_harness.results import MetricRow, ModelRow, Results, ScoreRow
from lrd_harness.selection import Agreement, TaskAgreement
from lrd_harness.selection_remarks import of_selection

Shown = pytest.CaptureFixture[str]
Best = Literal["max", "min"]
Values = dict[tuple[int, int], float]  # (model, task) -> value
WIDTHS = (128, 256, 384, 768, 1024)


def panel(
    models: int,
    scores: Values,
    metrics: dict[tuple[str, str, Best], Values],
    task_type: str = "STS",
) -> Results:
    """Models of five widths, m0 the narrowest; parameters and depth in another order."""
    rows = [
        ModelRow(
            model=f"m{i}",
            parameters=10**6 * (1 + (7 * i) % models),
            width=WIDTHS[i * len(WIDTHS) // models],
            blocks=4 + (3 * i) % 5,
        )
        for i in range(models)
    ]
    blocks = {f"m{i}": row.blocks or 0 for i, row in enumerate(rows)}
    return Results(
        models=tuple(rows),
        scores=tuple(
            ScoreRow(
                model=f"m{i}", task=f"T{t}", task_type=task_type,
                layer=blocks[f"m{i}"], layers=blocks[f"m{i}"], score=value,
            )
            for (i, t), value in scores.items()
        ),
        metrics=tuple(
            MetricRow(
                model=f"m{i}", task=f"T{t}", task_type=task_type, metric=name, n=9,
                selection=(score, best), values={score: value, "rank": float((i * i) % 7)},
            )
            for (name, score, best), values in metrics.items()
            for (i, t), value in values.items()
        ),
    )  # fmt: skip


def grid(models: int, tasks: int, of: Any) -> Values:
    return {(i, t): float(of(i, t)) for i in range(models) for t in range(tasks)}


def of_size(models: int, tasks: int, noise: float, seed: int = 0) -> Values:
    """Scores that go with the width."""
    generator = np.random.default_rng(seed)
    steps = [i * len(WIDTHS) // models for i in range(models)]
    return grid(models, tasks, lambda i, t: 0.5 + (steps[i] + noise * generator.normal()) / 100)


def rows(board: Leaderboard) -> dict[str, Agreement]:
    assert board.selection is not None
    return {row.name: row for row in board.selection.rows}


def verdicts(board: Leaderboard) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in of_selection(board.selection)[1:])


@pytest.mark.parametrize("seed", range(4))
def test_every_number_against_scipy_with_ties_and_holes(seed: int) -> None:
    generator = np.random.default_rng(seed)
    kept = generator.random((12, 6)) < 0.8
    scores = {at: v for at, v in of_size(12, 6, 2, seed).items() if kept[at]}
    values = {at: float(generator.integers(0, 6)) for at in scores if generator.random() < 0.9}
    board = build(panel(12, scores, {("my", "s", "min"): values}))
    found = rows(board)["my.s"]
    assert (found.kind, found.best) == ("metric", "min")
    for task in found.tasks:
        t = int(task.task[1:])
        both = [i for i in range(12) if (i, t) in values]
        x, y = ([-values[i, t] for i in both], [scores[i, t] for i in both])
        size = [(7 * i) % 12 for i in both]
        assert task.n == len(both) >= 4
        assert task.rho == pytest.approx(scipy_stats.spearmanr(x, y).statistic)
        assert task.tau == pytest.approx(scipy_stats.kendalltau(x, y).statistic)
        assert task.p == stats.permutation_p(x, y)
        assert task.partial["log parameters"] == inference.partial_rho(x, y, size)
        assert task.partial_p["log parameters"] == inference.partial_p(x, y, size)
        top = [b for a, b in zip(x, y, strict=True) if a == max(x)]
        assert task.regret == pytest.approx(max(y) - np.mean(top))
        assert task.regret_random == pytest.approx(max(y) - np.mean(y))
        assert task.regret_largest == pytest.approx(max(y) - y[int(np.argmax(size))])
    assert [task.p_holm for task in found.tasks] == inference.holm([t.p for t in found.tasks])
    for name in ("rho", "tau"):
        assert getattr(found, name) == np.median([getattr(task, name) for task in found.tasks])
    assert found.significant == sum((task.p or 1) < 0.05 for task in found.tasks)
    assert found.holm == sum((task.p_holm or 1) < 0.05 for task in found.tasks)
    assert found.regret == pytest.approx(np.mean([task.regret or 0.0 for task in found.tasks]))
    assert (found.low, found.high) == inference.bootstrap_median([t.rho for t in found.tasks])


def test_intervals_over_models_resample_whole_models() -> None:
    scores = of_size(12, 5, 2)
    values = grid(12, 5, lambda i, t: (i * 5 + t) % 12)
    found = rows(build(panel(12, scores, {("my", "s", "max"): values})))["my.s"]
    by_task = []
    for row in inference.resamples(12)[:300].astype(int):  # the first of 2,000
        drawn = np.repeat(np.arange(12), row)
        pairs = [([values[i, t] for i in drawn], [scores[i, t] for i in drawn]) for t in range(5)]
        by_task.append([scipy_stats.spearmanr(x, y).statistic for x, y in pairs])
    expected = np.percentile(np.median(by_task, axis=1), [2.5, 97.5])
    assert (found.models_low, found.models_high) == pytest.approx(tuple(expected), abs=0.12)
    low, high = np.percentile([rhos[0] for rhos in by_task], [2.5, 97.5])
    assert (found.tasks[0].low, found.tasks[0].high) == pytest.approx((low, high), abs=0.12)


def test_baselines_and_a_random_choice_stand_beside_the_metrics() -> None:
    scores = of_size(15, 4, 0.5)
    frenet = grid(15, 4, lambda i, t: i)
    held = panel(
        15, scores, {("frenet", "d0L", "max"): frenet, ("cosine", "cosine", "max"): frenet}
    )
    found = rows(build(held))
    assert [(row.name, row.kind) for row in found.values()] == [
        ("frenet.d0L", "metric"),
        ("cosine", "metric"),
        *((name, "baseline") for name in ("log parameters", "log width", "depth", "frenet.rank")),
        ("random model", "control"),
    ]
    width = [WIDTHS[i // 3] for i in range(15)]
    expected = [
        scipy_stats.spearmanr(width, [scores[i, t] for i in range(15)]).statistic for t in range(4)
    ]
    assert found["log width"].rho == pytest.approx(np.median(expected))
    assert found["random model"].rho is None
    assert found["random model"].regret == found["log width"].regret_random
    assert found["log parameters"].regret == found["frenet.d0L"].regret_largest
    assert found["log parameters"].partial["log parameters"] is None
    assert found["log parameters"].partial["frenet.rank"] is not None
    assert [rival.name for rival in found["frenet.d0L"].rivals] == list(found)[2:6]
    assert not found["log width"].rivals


def test_other_scores_of_interest_are_judged_where_they_were_recorded() -> None:
    scores = of_size(6, 2, 1)
    held = panel(6, scores, {("frenet", "d0L", "max"): grid(6, 2, lambda i, t: i)})
    with_more = [
        MetricRow(**{**vars(row), "values": {**row.values, "d0L_normalised": -row.values["d0L"]}})
        for row in held.metrics
    ]
    found = rows(build(Results(held.models, held.scores, tuple(with_more))))
    assert found["frenet.d0L_normalised"].rho == -(found["frenet.d0L"].rho or 0.0)
    assert "gfmi.mean_auc_adjusted" not in found


def test_too_few_models_for_a_task_and_for_the_table() -> None:
    values = grid(4, 2, lambda i, t: i)
    assert build(panel(3, of_size(3, 2, 1), {("my", "s", "max"): values})).selection is None
    four = build(panel(4, of_size(4, 2, 1), {("my", "s", "max"): values}))
    assert rows(four)["my.s"].n == 4  # counted, but p < .05 is out of reach: not shown
    assert not any("task by task" in note or "my.s" in note for note in four.notes)
    scores = {**of_size(12, 1, 1), **{(i, 1): 0.1 * i for i in range(3)}}
    one = rows(build(panel(12, scores, {("my", "s", "max"): grid(12, 2, lambda i, t: i)})))
    assert [(task.task, task.n) for task in one["my.s"].tasks] == [("T0", 12)]
    assert one["my.s"].low is None  # no interval over a single task


def test_a_verdict_on_each_metric() -> None:
    scores = grid(25, 9, lambda i, t: 0.3 + ((i * 11 + t) % 25) / 50)
    turned = {at: -value for at, value in scores.items()}
    same = grid(25, 9, lambda i, t: WIDTHS[i // 5])
    metrics: dict[tuple[str, str, Best], Values] = {
        ("right", "s", "max"): scores,
        ("turned", "s", "min"): turned,
        ("wrong", "s", "max"): turned,
        ("size", "s", "max"): same,
        ("flat", "s", "max"): grid(25, 9, lambda i, t: 1),
    }
    board = build(panel(25, scores, metrics))
    said = verdicts(board)
    assert said["right.s"].startswith("better than every size baseline (closest: ")
    assert said["turned.s"] == said["right.s"]
    assert said["wrong.s"].startswith("no better than ")
    assert "median rho -1.00 against " in said["wrong.s"]
    assert said["size.s"].startswith("no better than ")
    assert (
        said["flat.s"] == "no task has 4 models with different values and scores: nothing to say."
    )
    assert set(of_selection(board.selection)) <= set(board.notes)
    bar = of_selection(board.selection)[0]
    assert bar.startswith("What a metric has to beat, task by task: ")
    assert "log width, median rho" in bar


def test_a_lead_that_other_models_might_undo_is_called_so() -> None:
    scores = of_size(12, 6, 1.5)
    generator = np.random.default_rng(1)
    values = {at: v + 0.011 * generator.normal() for at, v in scores.items()}
    said = verdicts(build(panel(12, scores, {("my", "s", "max"): values})))["my.s"]
    assert said.startswith("ahead of every size baseline, but by no more than other models might")
    assert "its lead over log width is +0." in said
    few = {at: v for at, v in scores.items() if at[0] < 7}
    said = verdicts(build(panel(7, few, {("my", "s", "max"): few})))["my.s"]
    assert said.startswith("too few models to say (7, the median over tasks; 10 at least): ")


def test_a_metric_is_held_against_the_baselines_on_its_own_models_and_tasks() -> None:
    scores = of_size(20, 8, 0.3)
    values = {at: -v for at, v in scores.items() if at[0] < 12 and at[1] < 5}
    board = build(panel(20, scores, {("my", "s", "max"): values}))
    rival = next(r for r in rows(board)["my.s"].rivals if r.name == "log width")
    expected = []
    for t in range(5):
        width = [WIDTHS[i * 5 // 20] for i in range(12)]
        expected.append(scipy_stats.spearmanr(width, [scores[i, t] for i in range(12)]).statistic)
    assert rival.rho == pytest.approx(np.median(expected))
    assert (rival.own, rival.n, rival.tasks) == (-1, 12, 5)
    assert rival.low is not None
    assert rival.low <= -1 - rival.rho + 1e-9


def test_nothing_of_size_is_known() -> None:
    scores = of_size(12, 3, 1)
    held = panel(12, scores, {("my", "s", "max"): scores})
    bare = tuple(ModelRow(model=m.model) for m in held.models)
    board = build(Results(bare, held.scores, held.metrics))
    assert rows(board)["my.s"].regret_largest is None
    some = Results(held.models[:5] + bare[5:], held.scores, held.metrics)
    assert verdicts(build(some))["my.s"].endswith("no size of 10 models to compare it with.")
    assert of_selection(board.selection) == (
        "my.s: median rho +1.00, and no size of 10 models to compare it with.",
    )


def files(folder: Path, models: int = 12, tasks: int = 7) -> list[str]:
    """Scores that go with the width, with holes, and what is known of the models."""
    scores = of_size(models, tasks, 0.8)
    lines = ["model," + ",".join(f"T{t}" for t in range(tasks))]
    for i in range(models):
        cells = ["" if (i + t) % 11 == 10 else f"{100 * scores[i, t]:.2f}" for t in range(tasks)]
        lines.append(",".join([f"m{i}", *cells]))
    actual, info = folder / "S.csv", folder / "M.csv"
    actual.write_text("\n".join(lines) + "\n")
    known = [
        f"m{i},{1 + (7 * i) % models},{WIDTHS[i * 5 // models]},{4 + (3 * i) % 5},f"
        for i in range(models)
    ]
    info.write_text("\n".join(["model,parameters_millions,width,blocks,family", *known]) + "\n")
    return ["--actual", str(actual), "--models-info", str(info)]


def shown(capsys: Shown, *arguments: str) -> str:
    assert main(["leaderboard", *arguments]) == 0
    return capsys.readouterr().out


def test_scores_and_models_alone_say_what_a_metric_has_to_beat(
    capsys: Shown, tmp_path: Path
) -> None:
    arguments = files(tmp_path)
    text = shown(capsys, *arguments)
    assert max(map(cell_len, text.splitlines())) <= 80
    lines = text.splitlines()
    start = lines.index("How well each predictor orders the models, task by task")
    table = {line.split("  ")[0]: line.split() for line in lines[start + 5 : start + 9]}
    held = {row["name"]: row for row in json.loads(shown(capsys, *arguments, "--format", "json"))[
        "selection"]}  # fmt: skip
    assert list(held) == list(table) == ["log parameters", "log width", "depth", "random model"]
    width = held["log width"]
    assert width["rho"] > 0.85
    assert table["log width"][2] == f"{width['rho']:+.2f}"
    assert table["log width"][6:8] == [f"{width['significant']}/7", f"{width['holm']}/7"]
    assert width["significant"] == 7
    said = " ".join(text.split())
    assert "No metric is judged here; what one would have to beat, task by task: log width" in said
    assert f"median rho {width['rho']:+.2f}, p < .05 on 7 of 7 tasks" in said
    assert "rho given frenet.rank" not in said  # nothing is known of it
    assert "random model" in shown(capsys, *arguments, "--format", "md")


def test_the_csv_form_is_as_it_was(capsys: Shown, tmp_path: Path) -> None:
    head = next(csv.reader(io.StringIO(shown(capsys, *files(tmp_path), "--format", "csv"))))
    tasks = [f"{what}.T{t}" for t in range(7) for what in ("score", "best_layer", "best_score")]
    info = ["parameters", "blocks", "width", "pooling", "max_length", "family"]
    means = ["tasks", "score", "best_layer", "best_score"]
    assert head == ["rank", "model", "revision", *info, *means, *tasks, "notes"]


def test_metrics_come_before_the_baselines_and_the_base_board_says_so() -> None:
    sheets: Any = importlib.import_module("lrd_harness.plugins._selection")
    scores = of_size(8, 3, 1)
    metrics: dict[tuple[str, str, Best], Values] = {("a|b", "s", "min"): scores}
    board = build(panel(8, scores, metrics, task_type="LogLikelihood"))
    (sheet,) = sheets.selection_sheets(board)
    assert sheet.title == "How well each predictor orders the base models, task by task"
    assert sheet.columns[0].cells[:3] == ("a|b.s ↓", "– baselines –", "log parameters")
    assert {len(column.cells) for column in sheet.columns} == {len(sheet.columns[0].cells)}
    assert sheets.selection_document(None) is None
    (first, *_) = sheets.selection_document(board.selection)
    assert set(TaskAgreement.__dataclass_fields__) == set(first["tasks"][0])
    assert not math.isnan(first["regret"])
