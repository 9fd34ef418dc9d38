"""`lrd-harness layer`: a layer chosen without labels, the model cut there, and the errors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import running
import tiny
import torch
import transformers

from lrd_harness.cli import main
from lrd_harness.contracts import Choice, Metric, Text
from lrd_harness.errors import UnitError

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of six blocks, one as sentence-transformers keeps it, and texts."""
    folder = tmp_path_factory.mktemp("deep")
    tiny.save("Bert", folder / "bert", num_hidden_layers=6)
    tiny.save("Llama", folder / "llama", causal=True, num_hidden_layers=6, uneven=True)
    tiny.save_st(folder / "st", num_hidden_layers=6)
    tiny.write_rows(folder / "texts.jsonl", [{"text": t} for t in tiny.sentences(24)])
    return folder


def layer(deep: Path, model: str, *more: object) -> int:
    texts = () if "--task" in more else ("--texts", deep / "texts.jsonl")
    return main(["layer", str(deep / model), "--quiet", *map(str, (*texts, *more))])


def choices(printed: str) -> dict[str, list[str]]:
    """By metric what the printed table of choices says: score, best, layer, other, texts."""
    table = printed.partition("Layers chosen, of 1 to ")[2].partition("•")[0]
    rows = [line.split() for line in table.splitlines() if line.count("  ") > 3]
    return {row[0]: row[1:] for row in rows if row[0] != "metric"}


def peak_at(monkeypatch: pytest.MonkeyPatch, wanted: int) -> None:
    """A metric "peak" that is highest at one layer."""
    record = Metric(
        "peak",
        lambda states: {"peak": [-float(abs(i - wanted)) for i in range(len(states))]},
        layer_choice=Choice("peak", "max"),
    )
    running.with_plugin(monkeypatch, lrd_metrics=lambda: [record])


@pytest.mark.parametrize("model", ["bert", "llama", "st"])
def test_the_saved_model_ends_at_the_chosen_layer(
    model: str, deep: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    peak_at(monkeypatch, 4)
    cut = tmp_path / "cut"
    pooling = {} if model == "st" else {"pooling": "mean"}
    more = [part for name, value in pooling.items() for part in (f"--{name}", value)]
    assert layer(deep, model, "--by", "peak,dataset_entropy", "--save", cut, *more) == 0
    printed = capsys.readouterr().out
    assert choices(printed)["peak"][:3] == ["peak", "max", "4"]
    assert "blocks 1-4 of 6" in printed
    whole, short = (tiny.open_model(f, **pooling) for f in (deep / model, cut))
    assert short.info.blocks == 4
    texts = [Text(t) for t in tiny.sentences(5, seed=3)]
    batch = whole.tokenize(texts)
    kind = "final" if whole.has_final_norm else "raw"
    expected = whole.states(batch)[kind, 4]
    torch.testing.assert_close(short.states(batch)[kind, 4], expected, rtol=1e-5, atol=1e-5)
    card = (cut / "README.md").read_text()
    assert "the metric `peak`: the model ends at layer 4" in card
    assert "texts.jsonl" in card
    if model == "llama":
        kept = transformers.AutoModelForCausalLM.from_pretrained(cut)
        assert kept.config.num_hidden_layers == 4
    if model == "st":
        from sentence_transformers import SentenceTransformer

        found = SentenceTransformer(str(cut), device="cpu").encode([t.text for t in texts])
        np.testing.assert_allclose(found, whole.embed(expected).numpy(), rtol=1e-4, atol=1e-5)


def test_the_table_marks_what_the_metric_says(deep: Path, capsys: Any) -> None:
    import lrd_harness

    by = "dime,prompt_entropy,effective_rank"
    assert layer(deep, "bert", "--by", by, "--view-texts", 10) == 0
    printed = capsys.readouterr().out
    opened = tiny.open_model(deep / "bert")
    texts = [Text(t) for t in tiny.sentences(24)]
    states = [opened.states(opened.tokenize(texts))["raw", i].numpy() for i in range(7)]
    ranks = np.array(lrd_harness.measure("effective_rank", states)["effective_rank"])
    best = int(ranks[1:].argmax()) + 1
    found = choices(printed)
    assert found["effective_rank"][2] == str(best)
    assert f" {ranks[best]:#.4g}*\n" in printed
    assert (found["dime"][1], found["dime"][4]) == ("min", "10")
    assert len(re.findall(r"\d\*", printed)) == 3  # one per metric
    lines = [line for line in printed.splitlines() if re.match(r"^\s*\d ", line)]
    assert [line.split()[0] for line in lines] == list("0123456")


def test_layer_0_is_not_chosen(deep: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is what is said of lowest and highest values about it: it is no model."""
    peak_at(monkeypatch, 0)
    assert layer(deep, "bert", "--by", "peak") == 0
    assert choices(capsys.readouterr().out)["peak"] == ["peak", "max", "1", "6", "24"]


@pytest.mark.parametrize("model", ["llama", "st"])
def test_where_the_last_layer_is_chosen_the_whole_model_is_saved(
    model: str, deep: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    peak_at(monkeypatch, 6)
    kept = tmp_path / "kept"
    assert layer(deep, model, "--by", "peak", "--save", kept) == 0
    assert "the whole model, since peak chooses its last layer" in capsys.readouterr().out
    card = (kept / "README.md").read_text()
    assert "kept whole by lrd-harness: the metric `peak` chose its last layer" in card
    assert "pruned" not in card
    whole, again = (tiny.open_model(f) for f in (deep / model, kept))
    assert again.info == whole.info
    batch = whole.tokenize([Text(t) for t in tiny.sentences(5, seed=3)])
    for key, state in whole.states(batch).items():
        torch.testing.assert_close(again.states(batch)[key], state, rtol=1e-5, atol=1e-5)
    if model == "llama":
        head, its = (
            transformers.AutoModelForCausalLM.from_pretrained(f).get_output_embeddings().weight
            for f in (deep / model, kept)
        )
        torch.testing.assert_close(head, its)


def test_a_metric_that_fails_costs_itself_only(
    deep: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(states: Any) -> Any:
        raise UnitError("bad: out of luck")

    record = Metric("bad", fails, layer_choice=Choice("bad"))
    running.with_plugin(monkeypatch, lrd_metrics=lambda: [record])
    assert layer(deep, "bert", "--by", "bad,effective_rank") == 1
    captured = capsys.readouterr()
    assert "error: bad: UnitError: out of luck\n" in captured.err  # its name once
    assert list(choices(captured.out)) == ["effective_rank"]
    assert layer(deep, "bert", "--by", "bad") == 2
    assert "no metric has chosen a layer\n" in capsys.readouterr().err
    assert layer(deep, "bert", "--by", "bad", "--save", deep / "no") == 2
    assert "no metric has chosen a layer, so nothing was saved\n" in capsys.readouterr().err
