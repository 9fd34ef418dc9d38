"""Fidelity of changed models on texts: what transformers gives, layers side by side, parents."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import transformers

from lrd_harness.capture.fidelity import alike
from lrd_harness.cli import main
from lrd_harness.manager import load
from lrd_harness.progress import Display
from lrd_harness.studies import fidelity, prune
from lrd_harness.studies.compare import nearest
from lrd_harness.studies.study import Study

pytestmark = pytest.mark.usefixtures("own_cache")
TEXTS = tiny.sentences(60)
KINDS = ("cosine", "rsa", "knn_overlap", "cka")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of six blocks, one of which has no head, one shallower, and texts."""
    place = tmp_path_factory.mktemp("fidelity")
    six = {"num_hidden_layers": 6, "initializer_range": 0.1}
    tiny.save("ModernBert", place / "bert", **six)
    tiny.save("Llama", place / "llama", causal=True, **six)
    tiny.save("GPT2", place / "gpt", causal=True, n_layer=6, initializer_range=0.1)
    tiny.save("Bert", place / "short", num_hidden_layers=2, hidden_size=16)
    tiny.write_rows(place / "texts.jsonl", [{"text": text} for text in TEXTS])
    return place


def pruned(folder: Path, model: str, blocks: str, output: Path | None = None) -> Any:
    study = Study("prune", load(), texts=folder / "texts.jsonl", display=Display(quiet=True))
    (planned,) = study.models(str(folder / model))
    return prune.prune(planned, blocks, study.design(()), study.display, output=output)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["bert", "llama", "gpt"])
def test_more_blocks_leave_less(model: str, folder: Path) -> None:
    """Every figure falls, and the answer says the last of them."""
    found = [pruned(folder, model, blocks) for blocks in ("4", "3-4", "2-4")]
    figures = [report.facts["fidelity"] for report in found]
    for name in (*KINDS, *(() if model == "bert" else ("same_top1",))):
        values = [row[name] for row in figures]
        assert values == sorted(values, reverse=True), name
    if model != "bert":
        assert figures[0]["kl"] < figures[1]["kl"] < figures[2]["kl"]
        assert [row["kl_itself"] for row in figures] == pytest.approx([0] * 3, abs=1e-9)
    near = f"{figures[-1]['knn_overlap']:.0%}".replace("%", " %")
    assert f"10 nearest texts {near} are the same" in found[-1].answer[0]


@pytest.mark.slow
def test_next_tokens_are_those_of_transformers(folder: Path, tmp_path: Path) -> None:
    report = pruned(folder, "llama", "2,5", tmp_path / "cut")
    both = [
        transformers.AutoModelForCausalLM.from_pretrained(path).eval()
        for path in (folder / "llama", tmp_path / "cut")
    ]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "llama")
    kl, surprise, same, tokens = 0.0, np.zeros(2), 0, 0
    last: list[Any] = [[], []]
    for text in TEXTS:  # each alone, so without padding
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            given = [model(ids, output_hidden_states=True) for model in both]
        p, q = (answer.logits[0, :-1].double().log_softmax(-1) for answer in given)
        kl += float((p.exp() * (p - q)).sum())
        surprise -= [float(logs.gather(1, ids[0, 1:, None]).sum()) for logs in (p, q)]
        same += int((p.argmax(-1) == q.argmax(-1)).sum())
        tokens += len(p)
        for side, answer in zip(last, given, strict=True):
            side.append(answer.hidden_states[-1][0, -1].numpy())
    expected = alike(*map(np.array, last)) | {"tokens": tokens, "kl": kl / tokens}
    expected |= {"same_top1": same / tokens, "perplexity": np.exp(surprise[1] / tokens)}
    expected["perplexity_original"] = np.exp(surprise[0] / tokens)
    figures = report.facts["fidelity"]
    assert {name: figures[name] for name in expected} == pytest.approx(expected, rel=1e-3)
    rows = {row["figure"]: row for row in report.table("prune").rows}
    weights = [
        (path / "model.safetensors").stat().st_size / 1e6
        for path in (folder / "llama", tmp_path / "cut")
    ]
    assert [rows["disk"]["original"], rows["disk"]["changed"]] == weights
    assert rows["latency"]["changed"] > 0
    card = (tmp_path / "cut" / "README.md").read_text()
    assert (
        f"| perplexity | {figures['perplexity_original']:.4g} | {figures['perplexity']:.4g} |"
        in card
    )
    assert "On 60 texts of texts.jsonl, without labels." in card


def test_which_layers_stand_beside_each_other() -> None:
    every = range(4)
    assert [nearest(layer, (6, 3), every) for layer in range(7)] == [0, 0, 1, 1, 2, 2, 3]
    assert [nearest(layer, (2, 3), every) for layer in range(3)] == [0, 1, 3]
    assert [nearest(layer, (3, 3), {0, 2}) for layer in every] == [0, None, 2, None]
    assert nearest(5, (6, 3), {1, 2}) == 2  # a step has no last state
    assert nearest(0, (6, 3), ()) is None


@pytest.mark.slow
def test_models_of_unequal_depth_and_width(folder: Path, tmp_path: Path, capsys: Any) -> None:
    """Figures are those of `alike` on the states that transformers gives, the right ones."""
    typed = ("--texts", folder / "texts.jsonl", "--plugins", "effective_rank", "--draws", 0)
    models = (folder / "bert", folder / "short")
    more = ("--pooling", "mean", "--quiet", "--output", tmp_path)
    assert main(["compare", *map(str, (*models, *typed, *more))]) == 0
    printed = capsys.readouterr().out
    assert "nearest in relative depth" in " ".join(printed.split())
    found = json.loads((tmp_path / "compare.json").read_text())
    states = []
    for path in models:
        model = transformers.AutoModel.from_pretrained(path).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(path)
        every: list[Any] = []
        for text in TEXTS:
            ids = tokenizer(text, return_tensors="pt")["input_ids"]
            with torch.inference_mode():
                hidden = model(ids, output_hidden_states=True).hidden_states
            every.append([state[0].mean(0).numpy() for state in hidden])
        states.append([np.array(layer) for layer in zip(*every, strict=True)])
    expected = alike(states[0][-1], states[1][-1])
    assert found["fidelity"] == pytest.approx(expected, rel=1e-3)
    assert "cosine" not in expected
    pairs = [(0, 0), (1, 0), (2, 1), (3, 1), (4, 1), (5, 2), (6, 2)]
    assert [(row["layer"], row["layer_b"]) for row in found["alike"]] == pairs
    for row, (a, b) in zip(found["alike"], pairs, strict=True):
        assert row["cka"] == pytest.approx(alike(states[0][a], states[1][b])["cka"], rel=1e-3)
    with (tmp_path / "compare.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(int(row["layer"]), int(row["layer_b"])) for row in rows] == pairs


@pytest.mark.slow
def test_language_models_side_by_side(folder: Path, tmp_path: Path) -> None:
    """`compare` and `prune` agree; other vocabularies and few texts cost their own figures only."""
    figures = pruned(folder, "llama", "2,5", tmp_path / "cut").facts["fidelity"]
    study = Study(
        "compare",
        load(),
        texts=folder / "texts.jsonl",
        metrics=("nrs",),
        settings={"max_texts": 60},
        display=Display(quiet=True),
    )
    report = study.compare(str(folder / "llama"), str(tmp_path / "cut"))
    assert report.facts["fidelity"] == pytest.approx(figures, rel=1e-3, abs=1e-8)
    assert report.answer[0].startswith("Of each text's 10 nearest")
    report = study.compare(str(folder / "llama"), str(folder / "bert"))
    assert "kl" not in report.facts["fidelity"]
    assert "bert has no head" in " ".join(report.table("fidelity").caption)


@pytest.mark.slow
def test_the_parent_of_a_saved_model(folder: Path, tmp_path: Path) -> None:
    whole = Path(shutil.copytree(folder / "gpt", tmp_path / "gpt"))
    study = Study("select", load(), texts=folder / "texts.jsonl", display=Display(quiet=True))
    design = study.design(())
    (planned,) = study.models(str(whole))
    assert fidelity.to_parent(planned, design, study.display) is None
    report = prune.prune(planned, "3", design, study.display, output=tmp_path / "cut")
    (cut,) = study.models(str(tmp_path / "cut"))
    found = fidelity.to_parent(fidelity.with_head(cut), design, study.display)
    assert isinstance(found, fidelity.Fidelity)
    assert found.figures == pytest.approx(report.facts["fidelity"], rel=1e-3, abs=1e-8)
    bare = fidelity.to_parent(cut, design, study.display, cut.open())
    assert isinstance(bare, fidelity.Fidelity)
    assert (bare.figures.keys() & {"kl", "cka"}, bare.notes) == ({"cka"}, [])
    (whole / "added").write_text("")
    assert "no longer the one" in str(fidelity.to_parent(cut, design, study.display))
    shutil.rmtree(whole)
    assert "no such folder" in str(fidelity.to_parent(cut, design, study.display))


@pytest.mark.slow
def test_of_many_tokens_some_texts_are_drawn(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fidelity, "TOKENS", 300)
    report = pruned(folder, "gpt", "2")
    figures, caption = report.facts["fidelity"], " ".join(report.table("prune").caption)
    assert 100 < figures["tokens"] < 300
    assert figures["texts"] == 60
    assert f"Next tokens: {figures['tokens']}, of " in caption
    assert "of the 60 texts, drawn by a seed" in caption


def test_texts_of_the_same_tokens_are_all_read(folder: Path) -> None:
    """As those that differ behind the longest length."""
    twice, short = [*TEXTS, *(f"{text} and more" for text in TEXTS)], {"max_length": 4}
    how: Any = {"texts": twice, "settings": short, "display": Display(quiet=True)}
    report = Study("prune", load(), **how).prune(str(folder / "gpt"), blocks="2")
    assert report.facts["fidelity"]["tokens"] == 120 * 3
    assert "drawn by a seed" not in " ".join(report.table("prune").caption)


@pytest.mark.slow
def test_few_texts_cost_figures_alone(folder: Path, tmp_path: Path, capsys: Any) -> None:
    tiny.write_rows(tmp_path / "few.jsonl", [{"text": text} for text in TEXTS[:9]])
    typed = ["prune", folder / "llama", "--blocks", "2", "--texts", tmp_path / "few.jsonl"]
    assert main([*map(str, typed), "--quiet", "--output", str(tmp_path)]) == 0
    assert "at least 50 texts, got 9" in " ".join(capsys.readouterr().out.split())
    with (tmp_path / "prune.csv").open() as file:
        named = [row["figure"] for row in csv.DictReader(file)]
    assert named == ["kl", "same_top1", "perplexity", "blocks", "parameters", "memory", "latency"]
