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

from lrd_harness import measure
from lrd_harness.cli import main
from lrd_harness.contracts import Choice, Metric, Text
from lrd_harness.errors import UnitError

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of four blocks, one as sentence-transformers keeps it, and texts."""
    folder = tmp_path_factory.mktemp("deep")
    tiny.save("Bert", folder / "bert", num_hidden_layers=4)
    tiny.save("Llama", folder / "llama", causal=True, num_hidden_layers=4, uneven=True)
    tiny.save_st(folder / "st", num_hidden_layers=4)
    tiny.write_rows(folder / "texts.jsonl", [{"text": t} for t in tiny.sentences(24)])
    return folder


def layer(deep: Path, model: str, *more: object) -> int:
    texts = ("--texts", deep / "texts.jsonl")
    return main(["layer", str(deep / model), "--quiet", *map(str, (*texts, *more))])


def choices(printed: str) -> dict[str, list[str]]:
    """By metric what the printed table of choices says: score, best, layer, other, texts."""
    table = printed.partition("Layers chosen, of 1 to ")[2].partition("•")[0]
    rows = [line.split() for line in table.splitlines() if line.count("  ") > 3]
    return {row[0]: row[1:] for row in rows if row[0] != "metric"}


def peak_at(monkeypatch: pytest.MonkeyPatch, layer: int) -> None:
    """A metric "peak" that is highest at one layer."""
    metric = Metric(
        "peak",
        lambda states: {"peak": [-float(abs(i - layer)) for i in range(len(states))]},
        layer_choice=Choice("peak", "max"),
    )
    running.with_plugin(monkeypatch, lrd_metrics=lambda: [metric])


@pytest.mark.parametrize("model", ["bert", "llama", "st"])
def test_the_saved_model_ends_at_the_chosen_layer(
    model: str, deep: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    peak_at(monkeypatch, 2)
    cut = tmp_path / "cut"
    pooling = {} if model == "st" else {"pooling": "mean"}
    more = [part for name, value in pooling.items() for part in (f"--{name}", value)]
    assert layer(deep, model, "--by", "peak,dataset_entropy", "--save", cut, *more) == 0
    printed = capsys.readouterr().out
    assert choices(printed)["peak"][:3] == ["peak", "max", "2"]
    assert "blocks 1-2 of 4" in printed
    whole, short = (tiny.open_model(f, **pooling) for f in (deep / model, cut))
    assert short.info.blocks == 2
    texts = [Text(t) for t in tiny.sentences(5, seed=3)]
    batch = whole.tokenize(texts)
    kind = "final" if whole.has_final_norm else "raw"
    expected = whole.states(batch)[kind, 2]
    torch.testing.assert_close(short.states(batch)[kind, 2], expected, rtol=1e-5, atol=1e-5)
    card = (cut / "README.md").read_text()
    assert "the metric `peak`: the model ends at layer 2" in card
    assert "texts.jsonl" in card
    if model == "llama":
        saved = transformers.AutoModelForCausalLM.from_pretrained(cut)
        assert saved.config.num_hidden_layers == 2
    if model == "st":
        from sentence_transformers import SentenceTransformer

        embeddings = SentenceTransformer(str(cut), device="cpu").encode([t.text for t in texts])
        expected = whole.embed(expected).numpy()
        np.testing.assert_allclose(embeddings, expected, rtol=1e-4, atol=1e-5)


def test_the_table_marks_what_the_metric_says(deep: Path, capsys: Any) -> None:
    by = "dime,prompt_entropy,effective_rank"
    assert layer(deep, "bert", "--by", by, "--view-texts", 10) == 0
    printed = capsys.readouterr().out
    opened = tiny.open_model(deep / "bert")
    batch = opened.tokenize([Text(t) for t in tiny.sentences(24)])
    states = [opened.states(batch)["raw", i].numpy() for i in range(5)]
    ranks = np.array(measure("effective_rank", states)["effective_rank"])
    best = int(ranks[1:].argmax()) + 1
    chosen = choices(printed)
    assert chosen["effective_rank"][2] == str(best)
    assert f" {ranks[best]:#.4g}*\n" in printed
    assert (chosen["dime"][1], chosen["dime"][4]) == ("min", "10")
    assert len(re.findall(r"\d\*", printed)) == 3  # one per metric
    lines = [line for line in printed.splitlines() if re.match(r"^\s*\d ", line)]
    assert [line.split()[0] for line in lines] == list("01234")


def test_layer_0_is_not_chosen(deep: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is what is said of lowest and highest values about it: it is no model."""
    peak_at(monkeypatch, 0)
    assert layer(deep, "bert", "--by", "peak") == 0
    assert choices(capsys.readouterr().out)["peak"] == ["peak", "max", "1", "4", "24"]


@pytest.mark.parametrize("model", ["llama", "st"])
def test_where_the_last_layer_is_chosen_the_whole_model_is_saved(
    model: str, deep: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    peak_at(monkeypatch, 4)
    saved = tmp_path / "saved"
    assert layer(deep, model, "--by", "peak", "--save", saved) == 0
    assert "the whole model, since peak chooses its last layer" in capsys.readouterr().out
    card = (saved / "README.md").read_text()
    assert "kept whole by lrd-harness: the metric `peak` chose its last layer" in card
    assert "pruned" not in card
    whole, again = (tiny.open_model(f) for f in (deep / model, saved))
    assert again.info == whole.info
    batch = whole.tokenize([Text(t) for t in tiny.sentences(5, seed=3)])
    for key, state in whole.states(batch).items():
        torch.testing.assert_close(again.states(batch)[key], state, rtol=1e-5, atol=1e-5)
    if model == "llama":
        heads = (
            transformers.AutoModelForCausalLM.from_pretrained(f).get_output_embeddings().weight
            for f in (deep / model, saved)
        )
        torch.testing.assert_close(*heads)


def test_a_metric_that_fails_costs_itself_only(
    deep: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(states: Any) -> Any:
        raise UnitError("bad: out of luck")

    metric = Metric("bad", fails, layer_choice=Choice("bad"))
    running.with_plugin(monkeypatch, lrd_metrics=lambda: [metric])
    assert layer(deep, "bert", "--by", "bad,effective_rank") == 1
    printed = capsys.readouterr()
    assert "error: bad: UnitError: out of luck\n" in printed.err  # its name once
    assert list(choices(printed.out)) == ["effective_rank"]
    for save, end in (((), ""), (("--save", deep / "no"), ", so nothing was saved")):
        assert layer(deep, "bert", "--by", "bad", *save) == 2
        assert f"no metric has chosen a layer{end}\n" in capsys.readouterr().err
