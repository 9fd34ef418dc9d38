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
    assert "peak chooses layer 4 of 6 (peak is highest there, over 24 texts)" in printed
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
    assert f"effective_rank chooses layer {best} of 6" in printed
    assert f"{ranks[best]:#.4g} *" in printed
    assert "dime is lowest there, over 10 texts" in printed
    assert len(re.findall(r" \*(?!:)", printed)) == 3  # one a metric; and the title's
    lines = [line for line in printed.splitlines() if re.match(r"^\s*\d ", line)]
    assert [line.split()[0] for line in lines] == list("0123456")


def test_layer_0_is_not_chosen(deep: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    peak_at(monkeypatch, 0)
    assert layer(deep, "bert", "--by", "peak") == 0
    assert "peak chooses layer 1 of 6" in capsys.readouterr().out  # 0 is no model


def test_after_the_last_layer_nothing_is_cut(
    deep: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    peak_at(monkeypatch, 6)
    assert layer(deep, "bert", "--by", "peak", "--save", tmp_path / "cut") == 0
    assert "Nothing was saved: peak chooses the last layer" in capsys.readouterr().out
    assert not (tmp_path / "cut").exists()


def test_a_metric_that_fails_costs_itself_only(
    deep: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(states: Any) -> Any:
        raise UnitError("out of luck")

    record = Metric("bad", fails, layer_choice=Choice("bad"))
    running.with_plugin(monkeypatch, lrd_metrics=lambda: [record])
    assert layer(deep, "bert", "--by", "bad,effective_rank") == 1
    captured = capsys.readouterr()
    assert "error: bad: out of luck" in captured.err
    assert "effective_rank chooses layer" in captured.out
    assert layer(deep, "bert", "--by", "bad") == 2
    assert "no metric has chosen a layer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--by", "dyme"), "unknown metric 'dyme'. Did you mean dime"),
        (("--by", "cosine"), "metric cosine chooses no layer"),
        (("--by", "dime", "--set", "dime.beta=1"), "unknown parameter of metric dime 'beta'"),
        (("--max-texts", "3"), "max_texts is 3"),
        (("--task", "NoSuchTask"), "unknown task 'NoSuchTask'"),
    ],
)
def test_bad_input_is_one_line(
    more: tuple[str, ...], message: str, deep: Path, capsys: Any
) -> None:
    assert layer(deep, "bert", *more) == 2
    assert message in running.one_line(capsys)


def test_places_that_cannot_be_used(deep: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert layer(deep, "bert", "--save", tmp_path / "full") == 2
    assert "is not empty" in running.one_line(capsys)
    assert main(["layer", str(deep / "none"), "--texts", str(deep / "texts.jsonl")]) == 2
    assert "none" in running.one_line(capsys)
    assert main(["layer", str(deep / "bert"), "--texts", str(deep / "no.jsonl")]) == 2
    assert "no such file" in running.one_line(capsys)
