"""`lrd-harness layer`: a layer chosen without labels, the model cut there, and the errors."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace as NS
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
from lrd_harness.store.location import cache_dir
from lrd_harness.studies import layer as study

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
    assert printed.startswith(f"Layer 2 of 4 of local/{model}")
    assert choices(printed)["peak"][:3] == ["peak", "max", "2"]
    assert "blocks 1-2 of 4" in " ".join(printed.split())
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


@pytest.mark.parametrize(("model", "number"), [("bert", 4), ("llama", 3), ("st", 4)])
def test_without_a_metric_the_rule_takes_a_layer(
    model: str, number: int, deep: Path, tmp_path: Path, capsys: Any
) -> None:
    """Of a decoder that at depth 0.8, of an encoder the last, which is not saved once more."""
    assert layer(deep, model, "--save", tmp_path / "cut", "--output", tmp_path) == 0
    printed = " ".join(capsys.readouterr().out.split())
    facts = json.loads((tmp_path / "layer.json").read_text())
    assert (facts["layer"], facts["chosen_by"]) == (number, "one-line rule")
    if number == 4:
        assert printed.startswith(f"The last layer, 4 of 4, of local/{model}: the model as it is")
        assert f"Nothing was saved: the whole model is {deep / model}." in printed
        assert not (tmp_path / "cut").exists()
        return
    assert printed.startswith(f"Layer 3 of 4 of local/{model} • The one-line rule: of a decoder")
    assert tiny.open_model(tmp_path / "cut").info.blocks == 3
    assert "the rule `one-line rule`" in (tmp_path / "cut" / "README.md").read_text()
    assert "Against the original, on 24 texts" in printed


def test_no_text_is_read_for_the_rule_alone(deep: Path, capsys: Any) -> None:
    assert main(["layer", str(deep / "llama"), "--quiet"]) == 0
    assert "Layer 3 of 4" in capsys.readouterr().out
    assert not (cache_dir() / "states").exists()


@pytest.mark.parametrize(
    ("family", "pooling", "likelihoods", "expected"),
    [
        ("own", "mean", False, (5, "the last layer, as nothing says what kind")),
        ("own", "mean", True, (4, "of a decoder")),
        ("own", "last", False, (4, "of a decoder")),
        ("qwen3", "mean", False, (4, "of a decoder")),
        ("modernbert", "cls", False, (5, "of an encoder")),
    ],
)
def test_the_rule_knows_models_of_any_adapter(
    family: str, pooling: str, likelihoods: bool, expected: tuple[int, str]
) -> None:
    opened = NS(info=NS(family=family, pooling=pooling), parts=NS(adapter="mine"))
    adapter = NS(likelihoods=likelihoods)
    planned = NS(name="m", checkpoint=NS(revision="r"), adapter=adapter, modality="text")
    found = study.rule(NS(planned=planned, model=opened, blocks=5))  # type: ignore[arg-type]
    assert found.layer == expected[0]
    assert found.text.startswith(expected[1])


@pytest.mark.parametrize("model", ["llama", "st"])
def test_where_a_metric_chooses_the_last_layer_nothing_is_saved(
    model: str, deep: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    peak_at(monkeypatch, 4)
    saved = tmp_path / "saved"
    assert layer(deep, model, "--by", "peak", "--save", saved) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("The last layer, 4 of 4")
    (beside,) = re.findall(r"^one-line rule .*$", printed, re.MULTILINE)
    assert beside.split()[4] == {"llama": "3", "st": "4"}[model]
    assert not saved.exists()


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
    assert list(choices(printed.out)) == ["effective_rank", "one-line"]
    for save, end in (((), ""), (("--save", deep / "no"), ", so nothing was saved")):
        assert layer(deep, "bert", "--by", "bad", *save) == 2
        said = f"bad: UnitError: out of luck: no metric has chosen a layer{end}"
        assert running.one_line(capsys) == said
