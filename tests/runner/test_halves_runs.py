"""split_text in real runs: recorded, resumed, cached, exported, and on texts of one's own."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import running
import tiny

import lrd_harness
from lrd_harness.board.layers import roles
from lrd_harness.board.leaderboard import report
from lrd_harness.board.one_layer import one_layers
from lrd_harness.capture import samples
from lrd_harness.cli import main
from lrd_harness.runner import folder, units

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_cache")]
RULE = "split_text, one standard error"


def run(out: Path, place: Path) -> int:
    """On a task with scores and on texts without."""
    tasks = ("STSBenchmark", f"texts:{out.parent / 'own.jsonl'}")
    more = ("--plugins", "split_text,nrs")
    return running.run(out, [place / "gpt"], place / "data", *more, tasks=tasks)


def split(text: str) -> tuple[str, str]:
    words = text.split()
    return " ".join(words[: len(words) // 2]), " ".join(words[len(words) // 2 :])


def by_hand(folder: Path, texts: list[str]) -> Any:
    """The scores of the halves' states, all through the final norm."""
    sides = zip(*map(split, texts), strict=True)
    model = lrd_harness.open(folder, quiet=True)
    first, second = (model.encode(list(side), norm="final") for side in sides)
    pairs = [np.stack(pair, axis=1) for pair in zip(first, second, strict=True)]
    return lrd_harness.measure("split_text", pairs)


def test_a_run_records_it_and_a_killed_one_goes_on(place: Path, tmp_path: Path) -> None:
    """The same values as by hand, in every file; a second folder reads nothing anew."""
    whole, out = tmp_path / "whole", tmp_path / "out"
    tiny.write_rows(tmp_path / "own.jsonl", [{"text": text} for text in tiny.sentences(30, 3)])
    with running.interrupted(units, "evaluate", 3):
        assert run(out, place) == 130
    assert run(out, place) == 0
    assert run(whole, place) == 0
    assert running.counters(whole)["forwarded"] == 0
    assert running.numbers(out) == running.numbers(whole)
    rows = [r for r in folder.shown(out).metrics if r.metric == "split_text"]
    assert {(r.margin, r.layer_choice, r.parameters["norm"]) for r in rows} == {
        ("lead_se", ("mrr", "max"), "final")
    }
    board = report(folder.shown(out))
    role = roles(rows)["split_text"]
    for key, choice in one_layers(folder.shown(out), role).items():
        of_model = [r for r in rows if r.key == key]
        assert choice.n == sum(r.n for r in of_model)
        (row,) = [r for r in board.table("one_layer").rows if r["model"] == key.model]
        assert (row["layer"], row["lead"]) == (choice.layer, choice.lead)
    assert {r["metric"] for r in board.table("layer_picks").rows} >= {"split_text", RULE}
    with (out / "leaderboard-layers.csv").open() as file:
        lines = [*csv.DictReader(file)]
    for line in lines:
        (row,) = [r for r in rows if (r.model, r.task) == (line["model"], line["task"])]
        mrr = dict(zip(*row.profiles["mrr"][:2], strict=True))
        if (value := mrr.get(int(line["layer"]))) is not None:
            assert float(line["split_text.mrr"]) == value
    for file in ("leaderboard.md", "leaderboard.html", "leaderboard.json"):
        assert "one standard error" in " ".join((out / file).read_text().split()), file


def test_values_are_those_of_the_halves(
    place: Path, tmp_path: Path, monkeypatch: running.Patch
) -> None:
    """Of texts of 6 words or more, as many as there may be, drawn by a seed."""
    texts = [*tiny.sentences(40, 3, most=20), "of five words no more"]
    tiny.write_rows(tmp_path / "own.jsonl", [{"text": text} for text in texts])
    long = [text for text in texts if len(text.split()) >= 6]
    for most in (500, 12):
        monkeypatch.setattr(samples, "MOST_HALVED", most)
        out, own = tmp_path / f"out{most}", f"texts:{tmp_path / 'own.jsonl'}"
        more = ("--plugins", "split_text")
        models = [place / "bert", place / "gpt"]
        assert running.run(out, models, place / "data", *more, tasks=[own]) == 0
        chosen = long
        if most < len(long):
            draw = np.random.RandomState(42).choice(len(long), most, replace=False)
            chosen = [long[i] for i in sorted(draw)]
        for row in folder.shown(out).metrics:
            assert (row.n, row.values["too_short"]) == (len(chosen), len(texts) - len(long))
            expected = by_hand(place / row.model.removeprefix("local/"), chosen)
            for name in ("mrr", "top1", "infonce", "lead_se"):
                values = expected[name]
                assert row.profiles[name].values == pytest.approx([*values], abs=1e-4), name


@pytest.mark.parametrize("error", [0.0, 9.0])
def test_layer_takes_it_on_own_texts(
    error: float, place: Path, tmp_path: Path, capsys: Any, monkeypatch: running.Patch
) -> None:
    """The best layer, or the last one where its lead is below the standard error."""
    file, out = tmp_path / "own.jsonl", tmp_path / "out"
    tiny.write_rows(file, [{"text": text} for text in tiny.sentences(40, 3, least=6)])

    def made(states: Any) -> dict[str, Any]:
        n = len(states)
        return {"own": [0.1, 0.9, *[0.5] * (n - 2)], "sure": [*[error] * (n - 1), 0.0]}

    metric = lrd_harness.Metric(
        "own", made, "halves", layer_choice=lrd_harness.Choice("own"), margin="sure"
    )
    running.with_plugin(monkeypatch, lrd_metrics=lambda: [metric])
    command = ["layer", str(place / "gpt"), "--texts", str(file), "--by", "own,split_text"]
    assert main([*command, "--output", str(out), "--quiet"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    said = json.loads((out / "layer.json").read_text())
    layer = 3 if error else 1
    assert (said["layer"], said["chosen_by"], said["errors"]) == (layer, "own", [])
    assert re.search(r"leads lead SE", printed)
    reason = "max of own"
    if error:
        reason = "the lead of layer 1, with the max of own, is 0.4000, not above its standard error"
    assert f"own chooses it ({reason}" in printed
    values = [v["value"] for v in said["values"] if v["metric"] == "split_text"]
    texts = [json.loads(line)["text"] for line in file.read_text().splitlines()]
    assert values == pytest.approx([*by_hand(place / "gpt", texts)["mrr"]], abs=1e-4)
