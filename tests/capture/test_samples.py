"""Runs with token and view metrics: what they are measured on, and what that costs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import running
import stock
import tiny
import torch
from running import Patch, counters, records
from test_lm_eval_runs import ANATOMY, run

import lrd_harness
from lrd_harness import manager
from lrd_harness.capture import samples
from lrd_harness.contracts import Task, Text
from lrd_harness.results.database import load

pytestmark = pytest.mark.usefixtures("own_cache")
VIEWS = ("--plugins", "infonce,lidar,dime", "--view-texts", "12")


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Language models and their tasks."""
    return stock.place(tmp_path_factory.getbasetemp())


def states_of(opened: Any, texts: Sequence[Text], norm_last: bool = True) -> np.ndarray:
    """Pooled states as metrics see them by default, one text at a time: (L + 1, n, d)."""
    rows = []
    for text in texts:
        found = opened.states(opened.tokenize([text]))
        last = opened.info.blocks
        kinds = ["raw"] * last + ["final" if opened.has_final_norm and norm_last else "raw"]
        rows.append(torch.cat([found[kind, layer] for layer, kind in enumerate(kinds)]).numpy())
    return np.stack(rows, axis=1)


def own_texts(folder: Path, count: int = 20) -> Path:
    file = folder / "own.jsonl"
    tiny.write_rows(file, [{"text": t} for t in tiny.sentences(count)])
    return file


@pytest.mark.parametrize("model", ["bert", "gpt"])
def test_values_are_those_of_views_encoded_one_by_one(
    model: str, place: Path, tmp_path: Path
) -> None:
    out, file = tmp_path / "out", own_texts(tmp_path)
    pooling = ("--pooling", "mean")
    arguments = (out, [place / model], place / "data", *VIEWS, *pooling)
    assert running.run(*arguments, tasks=[f"texts:{file}"]) == 0
    opened = tiny.open_model(place / model, pooling="mean")
    texts = [json.loads(line)["text"] for line in file.read_text().splitlines()][:12]
    views = [view for text in texts for view in samples.views(text, 16)]
    found = states_of(opened, [Text(view) for view in views])
    states = found.reshape(len(found), 12, 16, -1)
    for row in load(out).metrics:
        count = 16 if row.metric == "lidar" else 2
        expected = lrd_harness.measure(row.metric, states[:, :, :count])
        assert row.n == 12
        assert row.layer_choice is not None
        for name, profile in row.profiles.items():
            assert profile.values == pytest.approx(expected[name], rel=1e-3, abs=1e-4), name


def test_token_metrics_watch_the_pass_of_the_run(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    metrics = ("--plugins", "prompt_entropy,curvature,block_influence,frenet")
    data = place / "data"
    assert running.run(out, [place / "bert"], data, *metrics) == 0
    first = counters(out)["forwarded"]
    plain = tmp_path / "plain"
    assert running.run(plain, [place / "bert"], data, "--plugins", "frenet") == 0
    assert counters(plain)["forwarded"] == 0  # no text was read for the tokens alone
    opened = tiny.open_model(place / "bert")
    assert first == len({text for task in running.TASKS for text in _texts(data, task)})
    rows = {(r.metric, r.task): r for r in load(out).metrics}
    row = rows["prompt_entropy", "STSBenchmark"]
    texts = sorted(_sentences(data))
    expected = []
    for text in texts:
        tokens: list[torch.Tensor] = []
        batch = opened.tokenize([Text(text)])
        opened.watch(batch, lambda layer, s, tokens=tokens: tokens.append(s[0].clone()))
        expected.append(lrd_harness.measure("prompt_entropy", tokens)["prompt_entropy"])
    assert row.n == len(texts)
    assert row.profiles["prompt_entropy"].values == pytest.approx(np.mean(expected, 0), rel=1e-4)
    histogram = row.tables["histogram"]
    assert histogram.layers == (0, 1, 2, 3)
    assert [sum(counts) for counts in histogram.rows] == [len(texts)] * 4
    again = rows["block_influence", "STSBenchmark"].profiles["block_influence"]
    assert again.layers == (0, 1, 2)


def _texts(data: Path, task: str) -> set[str]:
    rows = [
        json.loads(line)
        for file in (data / task).glob("*.jsonl")
        if file.name != "qrels.jsonl"
        for line in file.read_text().splitlines()
    ]
    found = {row[k] for row in rows for k in ("sentence1", "sentence2") if k in row}
    titled = {f"{row.get('title', '')} {row['text']}".strip() for row in rows if "text" in row}
    return found | titled


def _sentences(data: Path) -> set[str]:
    rows = map(json.loads, (data / "STSBenchmark" / "test.jsonl").read_text().splitlines())
    return {row[name] for row in rows for name in ("sentence1", "sentence2")}


def test_prompts_of_a_likelihood_task(language: Path, tmp_path: Path) -> None:
    """Their tokens are watched in the pass that scores them; the answers are no part of them."""
    out = tmp_path / "out"
    metrics = ("--plugins", "prompt_entropy,infonce,nrs")
    assert run(out, language, *metrics) == 0
    forwarded = counters(out)["forwarded"]
    rows = {r.metric: r for r in load(out).metrics}
    n = rows["nrs"].n
    assert forwarded == n + 2 * n
    opened = tiny.open_model(language / "gpt", head=True)
    (plan,) = _task(language)
    prompts = list(dict.fromkeys(r.text for r in plan.texts()))
    expected = []
    for prompt in prompts:
        batch = [{"input_ids": opened.tokenizer(prompt)["input_ids"]}]
        tokens: list[torch.Tensor] = []
        opened.watch(batch, lambda layer, s, tokens=tokens: tokens.append(s[0].clone()))
        with torch.inference_mode():
            given = [*tokens[:-1], opened.normed(tokens[-1])]
        expected.append(lrd_harness.measure("prompt_entropy", given)["prompt_entropy"])
    assert rows["prompt_entropy"].n == len(prompts) == n
    profile = rows["prompt_entropy"].profiles["prompt_entropy"]
    assert profile.values == pytest.approx(np.mean(expected, 0), rel=1e-4)
    assert rows["infonce"].n == n
    assert run(out, language, *metrics) == 0
    assert counters(out)["forwarded"] == 0
    assert run(out, language, "--plugins", "prompt_entropy,infonce,nrs,curvature") == 0
    assert counters(out)["forwarded"] == n


def _task(folder: Path) -> Any:
    from lrd_harness.contracts import TaskOptions

    families = {r.name: r for r in manager.load().all("task")}
    return families["lm-eval"].open(
        ANATOMY, TaskOptions(data=folder / "data", include_path=folder / "own")
    )


def test_a_model_that_shows_no_tokens(place: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    from lrd_harness.models.text_model import TextModel

    whole = TextModel.states
    monkeypatch.setattr(TextModel, "states", lambda self, batch: whole(self, batch))
    out = tmp_path / "out"
    plugins = ("--plugins", "curvature,nrs")
    assert running.run(out, [place / "bert"], place / "data", *plugins) == 1
    assert {r["error"] for r in records(out, "error")} == {
        "UnitError: the model's adapter shows no states of tokens"
    }
    assert {r["metric"] for r in records(out, "metric")} == {"nrs"}


def test_few_and_short_texts_are_a_named_absence(place: Path, tmp_path: Path) -> None:
    file = tmp_path / "few.txt"
    file.write_text("one text only\n")
    short = tmp_path / "short.txt"
    short.write_text("\n".join("abcdefghijkl"))  # one token each, with [CLS] and [SEP] three
    out = tmp_path / "out"
    tasks = [f"texts:{file}", f"texts:{short}"]
    plugins = ("--plugins", "all")
    assert running.run(out, [place / "gpt"], place / "data", *plugins, tasks=tasks) == 1
    tasks = ["texts:few.txt", "texts:short.txt"]  # as OUT has them: without their folders
    failed = {(r["metric"], r["task"]): r["error"] for r in records(out, "error")}
    for metric in (m.name for m in manager.load().all("metric") if m.needs != "labels"):
        assert failed[metric, tasks[0]].startswith(("NotEnoughTexts", "DegenerateState")), metric
    assert failed["prompt_entropy", tasks[1]].startswith(
        "NotEnoughTexts: prompt_entropy needs at least 8 texts with enough tokens, got 0 of 12"
    )
    done = {(r["metric"], r["task"]): r for r in records(out, "metric")}
    influence = done["block_influence", tasks[1]]
    assert influence["n"] == 12
    assert all(np.isfinite(influence["profiles"]["block_influence"]["values"]))


@pytest.mark.parametrize("asked", [("text", None), (["a"], "no task"), (["a"], None, "qury")])
def test_what_a_task_asks_for_is_looked_at_when_it_asks(asked: Any) -> None:
    task = Task("t", list, None)
    texts, other, *rest = asked
    with pytest.raises(TypeError, match=r"^encode takes a list of texts, a Task, and one of"):
        samples.Listener(task).encode(texts, other or task, *rest)
