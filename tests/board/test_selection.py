"""Predictors judged task by task: numbers against scipy, verdicts, and every form they come in."""

from __future__ import annotations

import csv
import importlib
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.cells import cell_len
from scipy import stats as scipy_stats
from selection_panels import WIDTHS, Best, Values, grid, of_size, panel, rows, verdicts

from lrd_harness.board import inference
from lrd_harness.board.agreement import TaskAgreement, of_selection
from lrd_harness.board.leaderboard import build
from lrd_harness.cli import main
from lrd_harness.results.database import MetricRow, ModelRow, Results

Shown = pytest.CaptureFixture[str]


def plain_tests(x: np.ndarray, y: np.ndarray, size: np.ndarray) -> tuple[float, float, float]:
    """p, partial rho given size, and its p: by 3,000 orders drawn one by one."""
    u, v, w = map(scipy_stats.rankdata, (x, y, size))
    generator = np.random.default_rng(3)
    orders = np.array([u, *(generator.permutation(u) for _ in range(3_000))])
    r = np.corrcoef(np.vstack([orders, v, w]))
    own, given = r[:-2, -2], r[:-2, -1]
    partial = (own - given * r[-2, -1]) / np.sqrt((1 - given**2) * (1 - r[-2, -1] ** 2))
    p, partial_p = (np.mean(np.abs(a) >= abs(a[0]) - 1e-9) for a in (own, partial))
    return float(p), float(partial[0]), float(partial_p)


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
        p, partial, partial_p = plain_tests(np.array(x), np.array(y), np.array(size))
        assert task.p == pytest.approx(p, abs=0.03)
        assert task.partial["log parameters"] == pytest.approx(partial)
        assert task.partial_p["log parameters"] == pytest.approx(partial_p, abs=0.03)
        top = [b for a, b in zip(x, y, strict=True) if a == max(x)]
        assert task.regret == pytest.approx(max(y) - np.mean(top))
        assert task.regret_random == pytest.approx(max(y) - np.mean(y))
        assert task.regret_largest == pytest.approx(max(y) - y[int(np.argmax(size))])
    ps = sorted(task.p or 0.0 for task in found.tasks)
    adjusted = np.maximum.accumulate([min(1, (len(ps) - k) * p) for k, p in enumerate(ps)])
    assert sorted(task.p_holm or 0.0 for task in found.tasks) == pytest.approx(adjusted.tolist())
    for name in ("rho", "tau"):
        assert getattr(found, name) == np.median([getattr(task, name) for task in found.tasks])
    assert found.significant == sum((task.p or 1) < 0.05 for task in found.tasks)
    assert found.holm == sum((task.p_holm or 1) < 0.05 for task in found.tasks)
    assert found.regret == pytest.approx(np.mean([task.regret or 0.0 for task in found.tasks]))
    assert (found.low, found.high) == inference.bootstrap_median([t.rho for t in found.tasks])


def rho_of(x: list[float], y: list[float]) -> float:
    if len(set(zip(x, y, strict=True))) < 3 or len(set(x)) == 1 or len(set(y)) == 1:
        return math.nan
    return float(np.corrcoef(scipy_stats.rankdata(x), scipy_stats.rankdata(y))[0, 1])


@pytest.mark.parametrize("holes", [False, True])
def test_intervals_over_models_resample_whole_models(holes: bool) -> None:
    """Of the median the models of the panel, of one task those that it has."""
    there = {(i, t) for i in range(12) for t in range(5) if not holes or (3 * i + t) % 5}
    scores = {at: v for at, v in of_size(12, 5, 2).items() if at in there}
    values = {at: float((at[0] * 5 + at[1]) % 12) for at in there}
    found = rows(build(panel(12, scores, {("my", "s", "max"): values})))["my.s"]

    def rhos(t: int, counts: np.ndarray, models: list[int]) -> list[float]:
        drawn = ([i for i in np.repeat(models, row) if (i, t) in there] for row in counts)
        return [rho_of([values[i, t] for i in d], [scores[i, t] for i in d]) for d in drawn]

    counts = inference.resamples(12).astype(int)
    by_task = [rhos(t, counts, list(range(12))) for t in range(5)]
    expected = np.nanpercentile(np.nanmedian(by_task, axis=0), [2.5, 97.5])
    assert (found.models_low, found.models_high) == pytest.approx(tuple(expected))
    first = next(task for task in found.tasks if task.task == "T0")
    own = [i for i in range(12) if (i, 0) in there]
    counts = inference.resamples(len(own)).astype(int)
    expected = np.nanpercentile(rhos(0, counts, own), [2.5, 97.5])
    assert (first.low, first.high) == pytest.approx(tuple(expected))
    # and not the resamples of one seed alone: others', drawn in another way
    counts = np.random.default_rng(1).multinomial(len(own), [1 / len(own)] * len(own), 2_000)
    expected = np.nanpercentile(rhos(0, counts, own), [2.5, 97.5])
    assert (first.low, first.high) == pytest.approx(tuple(expected), abs=0.08)


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
    sheets: Any = importlib.import_module("lrd_harness.plugins.reporters._selection")
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
