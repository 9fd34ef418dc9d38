"""Two stages: `capture` reads, `run` goes on from the store without weights, to the same tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import running
import stock
import tiny
from loading_weights import loaded
from odd_checkpoints import change
from running import Patch, Shown, counters, numbers

from lrd_harness.cli import main
from lrd_harness.contracts import Metric

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_cache")]
KEPT = "frenet,dime,prompt_entropy,sink,mutual_knn"  # states, views, tokens, and all others


def sink(maps: Any) -> dict[str, list[float]]:
    return {"sink": [float(m[:, :, 0].mean()) for m in maps]}


@pytest.fixture
def metrics(monkeypatch: Patch) -> None:
    attentive = Metric("sink", sink, needs="attention", of="blocks")
    running.with_plugin(monkeypatch, lrd_metrics=lambda: [attentive])


def capture(models: list[Path], data: Path, *more: str, **keywords: Any) -> int:
    """What a run of these arguments reads."""
    return main(["capture", *running.command(Path("none"), models, data, *more, **keywords)[1:]])


def test_a_run_behind_a_capture_loads_no_weights_and_gives_the_same(
    tmp_path: Path, tmp_path_factory: Any, metrics: None, monkeypatch: Patch, capsys: Shown
) -> None:
    stock.own_alone(monkeypatch)
    base = stock.place(tmp_path_factory.getbasetemp())
    models = [base / "gpt", tiny.save_st(tmp_path / "dense", dense=7, prompts={"query": "ask: "})]
    more = ("--plugins", KEPT, "--include-path", str(base / "own"), "--max-texts", "40")
    tasks = ["STSBenchmark", f"lm-eval:{stock.ENDINGS}"]
    both = tmp_path / "both"
    assert running.run(both, models, base / "data", *more, tasks=tasks) == 0
    monkeypatch.setenv("LRD_HARNESS_CACHE", str(tmp_path / "second"))
    capsys.readouterr()
    for stored in (False, True):
        with loaded() as kinds:
            assert capture(models, base / "data", *more, tasks=tasks) == 0
        assert (not kinds) == stored
        rows = [line.split() for line in capsys.readouterr().out.splitlines() if "local/" in line]
        for _, texts, before, passes, tokens, *_ in rows:
            assert int(texts) > 100
            assert (texts == before) == (passes == "0") == (tokens == "0") == stored
        assert [row[0] for row in rows] == ["local/gpt", "local/dense"]
    out = tmp_path / "second-out"
    with loaded() as kinds:
        assert running.run(out, models, base / "data", *more, tasks=tasks) == 0
    assert kinds == []
    assert counters(out)["forwarded"] == 0
    assert numbers(out) == numbers(both)
    # pruned models are none that a capture has read: weights are loaded
    with loaded() as kinds:
        out, prune = tmp_path / "pruned", ("--plugins", "frenet", "--prune", "frenet")
        assert running.run(out, models[1:], base / "data", *prune, tasks=tasks[:1]) == 0
    assert set(kinds) == {"BertModel"}
    assert running.records(out, "variant")


def test_a_model_at_fault_is_a_line_and_others_go_on(
    place: Path, tmp_path: Path, capsys: Shown
) -> None:
    change(tiny.save("Bert", tmp_path / "torn") / "config.json", hidden_size=64)
    torn = [tmp_path / "torn", place / "bert"]
    sweep = ("--plugins", "frenet", "--prune", "frenet")
    command = ["capture", *running.command(tmp_path, torn, place / "data", *sweep)[1:]]
    assert main([word for word in command if word != "--quiet"]) == 1
    captured = capsys.readouterr()
    assert [line.split()[0] for line in captured.out.splitlines() if "local/" in line] == [
        "local/bert"
    ]
    assert captured.err.count("error: local/torn: ") == 1
    assert "`run` goes on from it.\n" in captured.err  # with the weights of what has no frame
    assert "pruned models are read by `run` alone" in captured.err
    assert main(command) == 1  # quiet, where no board will show it
    assert capsys.readouterr().err.count("error: local/torn: ") == 1
    assert not (tmp_path / "run.json").exists()
