"""A saved model gives what was measured: in sentence-transformers, in mteb, and in the harness."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import running
import tiny
import torch
import transformers
from odd_checkpoints import change
from sentence_transformers import SentenceTransformer
from test_against_mteb import by_mteb, local

from lrd_harness.cli import main
from lrd_harness.contracts import Text
from lrd_harness.models.cut import remove
from lrd_harness.models.find import FILE
from lrd_harness.models.save import save
from lrd_harness.models.sentence_modules import Measured
from lrd_harness.models.text_model import TextModel
from lrd_harness.progress import Display
from lrd_harness.studies.prune import Shrinking

pytestmark = [pytest.mark.usefixtures("own_cache"), pytest.mark.slow]
TEXTS = tiny.sentences(7, most=40)
SINK = {"pooling": "mean-no-sink"}


def prune(model: Path | str, folder: Path, removed: str = "2", **options: Any) -> int:
    chosen = [part for n, v in options.items() for part in (f"--{n.replace('_', '-')}", v)]
    words = ("prune", model, "--blocks", removed, "--save", folder, "--quiet", *chosen)
    return main([*map(str, words)])


def outputs(model: Any, prompt: str = "") -> np.ndarray:
    """What the harness makes of the texts, each read alone."""
    return np.concatenate([tiny.embeddings(model, [Text(text, prompt)]) for text in TEXTS])


def pruned(folder: Path, removed: tuple[int, ...] = (2,), **options: Any) -> TextModel:
    """The model without blocks, opened anew from its parts, as it is measured."""
    full = tiny.open_model(folder, **options)
    remove(full.backbone.module, full.blocks, removed)
    return TextModel(full.checkpoint, full.options, full.parts)


def agree(folder: Path, measured: TextModel, prompt: str = "", **encoding: Any) -> Any:
    """Check that both libraries read the folder as it was measured; the model as both do."""
    again, model = tiny.open_model(folder), SentenceTransformer(str(folder), device="cpu")
    expected = outputs(measured, prompt)
    for vectors in (outputs(again, prompt), model.encode(TEXTS, prompt=prompt, **encoding)):
        np.testing.assert_allclose(vectors, expected, rtol=1e-5, atol=1e-5)
    assert again.info.pooling == measured.info.pooling
    assert again.info.max_length == model.max_seq_length == measured.info.max_length
    return again, model


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("Llama", {}),
        ("Llama", {**SINK, "max_length": 17}),
        ("GPT2", {"pooling": "mean"}),
        ("Qwen2", {"pooling": "mean", "attention_mask": "bidirectional"}),
        ("Mamba", {"max_length": 9}),
        ("Bert", {"pooling": "cls", "max_length": 11}),
        ("T5", {"pooling": "last"}),
        ("Bart", SINK),
    ],
)
def test_plain_checkpoints(family: str, options: dict[str, Any], tmp_path: Path) -> None:
    causal = family in tiny.DECODERS
    tiny.save(family, tmp_path / "full", causal=causal, uneven=True)
    assert prune(tmp_path / "full", tmp_path / "cut", **options) == 0
    again, _ = agree(tmp_path / "cut", pruned(tmp_path / "full", **options))
    assert again.parts.adapter == ("decoder" if causal else "encoder")
    saved = json.loads((tmp_path / "cut" / FILE).read_text())  # a model is known by its bytes
    assert [*saved] == ["pooling", "max_length", "attention", "prompts", "plain", "parent"]
    assert saved["parent"]["name"] == str(tmp_path / "full")
    card = (tmp_path / "cut" / "README.md").read_text()
    assert f"- pooling: `{again.info.pooling}`" in card
    assert f"- tokens of a text: {again.info.max_length} at most" in card
    kept = tiny.open_model(tmp_path / "cut", pooling="cls", max_length=5)  # what is asked for goes
    assert (kept.info.pooling, kept.info.max_length) == ("cls", 5)
    assert prune(tmp_path / "cut", tmp_path / "shorter", removed="1") == 0  # saved again, it stays
    agree(tmp_path / "shorter", pruned(tmp_path / "full", (1, 2), **options))


def test_half_precision_without_a_pad_token(tmp_path: Path) -> None:
    """sentence-transformers reads float32, as was measured, and can pad."""
    folder = tiny.save("GPT2", tmp_path / "full", causal=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    model.to(torch.bfloat16).save_pretrained(folder)
    change(folder / "tokenizer_config.json", pad_token=None)
    assert prune(folder, tmp_path / "cut", **SINK) == 0
    _, model = agree(tmp_path / "cut", pruned(folder, **SINK))
    assert model.dtype == torch.float32
    kept = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "cut", dtype="auto")
    assert kept.dtype == torch.bfloat16
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "cut").pad_token is None


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ({"dense": 16, "pooling": "cls", "default_prompt": "query"}, {}),
        ({"dense": 16, "pooling": ("mean", "max"), "include_prompt": False}, {"max_length": 12}),
        ({"dense": 16}, {**SINK, "max_length": 9}),
        ({"family": "T5", "include_prompt": False}, SINK),
        ({"family": "Llama", "padding_side": "left"}, {"pooling": "last"}),
    ],
)
def test_models_of_modules(shape: dict[str, Any], options: dict[str, Any], tmp_path: Path) -> None:
    prompts = {"query": "ask: ", "document": "tell: "}
    full = tiny.save_st(tmp_path / "full", prompts=prompts, max_seq_length=20, **shape)
    assert prune(full, tmp_path / "cut", **options) == 0
    measured = pruned(full, **options)
    agree(tmp_path / "cut", measured)
    again, model = agree(tmp_path / "cut", measured, "ask: ")
    assert again.parts.adapter == "sentence-transformers"
    kinds = [type(m).__name__ for m in model]
    assert kinds[-1] == "Normalize"
    assert ("Dense" in kinds[-2]) == ("dense" in shape)
    default = shape.get("default_prompt")
    assert (model.prompts, model.default_prompt_name) == (prompts, default)
    assert [*json.loads((tmp_path / "cut" / FILE).read_text())] == ["parent"]
    assert prune(tmp_path / "cut", tmp_path / "shorter", removed="1") == 0
    agree(tmp_path / "shorter", pruned(full, (1, 2), **options), "tell: ")


def test_a_decoder_below_modules_is_saved_as_it_was_read(tmp_path: Path) -> None:
    full = tiny.save_st(tmp_path / "full", family="Llama", dense=16)
    assert prune(f"decoder:{full}", tmp_path / "cut") == 0
    agree(tmp_path / "cut", pruned(full, adapter="decoder"))


def test_what_sentence_transformers_cannot_do_is_told(tmp_path: Path) -> None:
    """As a pooling out of an adapter of one's own: no modules then, which would be wrong."""
    opened = tiny.open_model(tiny.save("Bert", tmp_path / "full"))
    for pooling in ("mine", "cls"):  # cls is not what `embed` gives
        vectors = lambda texts: np.ones((len(texts), 32))  # noqa: E731
        measured = Measured("a", True, pooling, 128, opened.options, (), vectors)
        lines: list[str] = []
        folder, card = tmp_path / pooling, "# Card\n"
        save(opened.checkpoint, (1,), folder, card, measured, lines.append)
        (line,) = lines
        assert "does not give what was measured: pool the last states of the model" in line
        assert line.endswith(f"by {pooling}")
        assert line in (folder / "README.md").read_text()
        assert not list(folder.glob("*sentence*")) + list(folder.glob("1_*"))
        assert not (folder / "modules.json").exists()


def shrunk(folder: Path, name: str, removed: tuple[int, ...]) -> Any:
    """A model under a name that mteb knows, and how it is measured."""
    display = Display(quiet=True)
    planned = tiny.planned(folder)
    known = replace(planned, checkpoint=replace(planned.checkpoint, name=name))
    opened = Shrinking(known, display)
    return known.checkpoint, opened.model, opened.measured(removed)


@pytest.mark.parametrize("of_modules", [True, False])
@pytest.mark.parametrize(
    "name", ["intfloat/e5-small-v2", "intfloat/multilingual-e5-large-instruct"]
)
def test_prompts_and_instructions_that_mteb_knows(
    name: str, of_modules: bool, tmp_path: Path
) -> None:
    """The saved folder has no name that mteb knows, and instructions depend on the task."""
    import mteb

    full = tmp_path / "full"
    tiny.save_st(full) if of_modules else tiny.save("Bert", full)
    checkpoint, model, measured = shrunk(full, name, (2,))
    lines: list[str] = []
    save(checkpoint, (2,), tmp_path / "cut", "# Card\n", measured, lines.append)
    again = tiny.open_model(tmp_path / "cut")
    assert again.parts.adapter == model.parts.adapter
    task: Any = mteb.get_task("SciFact").metadata
    assert again.prompt(task, "query") == model.prompt(task, "query") != ""
    assert again.prompt(task, "document") == model.prompt(task, "document")
    if name.endswith("instruct"):
        (line,) = lines
        assert line.endswith(f"those that mteb makes for {name}")
        return
    stock: Any = SentenceTransformer(str(tmp_path / "cut"), device="cpu")
    assert all(stock.prompts[k] == model.prompt(task, k) for k in ("query", "document"))
    texts = [Text(text, "query: ") for text in TEXTS]
    np.testing.assert_allclose(stock.encode_query(TEXTS), measured.embed(texts), atol=1e-5)


@pytest.mark.parametrize(
    ("family", "pooling", "line", "batch_size"),
    [
        ("Llama", "mean-no-sink", "makes zeros of a text that is a single token", 32),
        ("ConvBert", "mean", "batch_size=1) alone, since padding changes the states of a Conv", 1),
        ("Bert", "mean-no-sink", "", 32),
    ],
)
def test_what_to_know_is_told(
    family: str, pooling: str, line: str, batch_size: int, tmp_path: Path, capsys: Any
) -> None:
    tiny.save(family, tmp_path / "full", causal=family == "Llama")
    assert prune(tmp_path / "full", tmp_path / "cut", pooling=pooling) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.count("SentenceTransformer(DIR)") == bool(line)
    for text in (captured.out, (tmp_path / "cut" / "README.md").read_text()):
        assert line in text
        assert ("SentenceTransformer(DIR)" in text) == bool(line)
    agree(tmp_path / "cut", pruned(tmp_path / "full", pooling=pooling), batch_size=batch_size)


SUITE = """
models: {models}
tasks: [STSBenchmark, SciFact]
plugins: [nrs]
settings: {{max_length: 12, attention: eager, task_data: {data}}}
pruning: {{rules: [last], budgets: [0.25], tasks: [STSBenchmark, SciFact]}}
"""
PROMPTS = 'prompts: {query: "ask: ", document: "d: ", STSBenchmark: "sts: "}'


def test_the_score_of_the_table(tmp_path: Path, capsys: Any) -> None:
    """Of a suite with poolings, prompts and a length of its own: --scores takes them over."""
    full = tiny.save("Llama", tmp_path / "full", causal=True, num_hidden_layers=4, uneven=True)
    data, out, cut = tiny.task_data(tmp_path / "data"), tmp_path / "out", tmp_path / "cut"
    models = ", ".join(
        f"{{model: {full}, pooling: {pooling}, {PROMPTS}}}" for pooling in ("mean-no-sink", "last")
    )
    (tmp_path / "suite.yaml").write_text(SUITE.format(models=f"[{models}]", data=data))
    run = ("run", "--suite", tmp_path / "suite.yaml", "--layers", "last", "--prune", "--quiet")
    assert main([*map(str, run), "--output", str(out)]) == 0
    by_rule = ("--rule", "last", "--budget", "0.25", "--scores", out)
    command = [*map(str, ("prune", full, *by_rule, "--quiet", "--save"))]
    for more, line in (
        ([], "local/full in several ways: local/full ["),
        (["--pooling", "mean"], "read with pooling mean-no-sink, not mean: its scores are not"),
        (["--max-length", "13"], "read with max_length 12, not 13: its scores are not those of"),
    ):
        capsys.readouterr()
        assert main([*command, str(tmp_path / "no"), *more]) == 2
        assert line in running.one_line(capsys)
    assert main([*command, str(cut), "--pooling", "mean-no-sink"]) == 0
    scores = {
        row["task"]: row["score"]
        for row in running.records(out, "score")
        if row["variant"] != "full" and "mean-no-sink" in row["model"]
    }
    assert running.run(tmp_path / "again", [cut], data, "--layers", "last", tasks=scores) == 0
    again = {row["task"]: row["score"] for row in running.records(tmp_path / "again", "score")}
    model, card = SentenceTransformer(str(cut), device="cpu"), (cut / "README.md").read_text()
    for name in ("STSBenchmark", "SciFact"):
        assert again[name] == pytest.approx(scores[name], abs=1e-5)
        assert by_mteb(model, local(name, data)) == pytest.approx(scores[name], abs=1e-5)
        assert f"{scores[name]:.4f}" in card
    settings = json.loads((cut / "sentence_bert_config.json").read_text())
    assert settings["model_args"] == {"attn_implementation": "eager"}
    record = json.loads((out / "run.json").read_text())
    entry = record["models"][0]
    for broken in ([{}], [1], {}, None, [entry | {"options": {"max_length": "9"}}]):
        (out / "run.json").write_text(json.dumps({**record, "models": broken}))
        capsys.readouterr()
        assert main([*command, str(tmp_path / "no")]) == 2
        assert "models" in running.one_line(capsys).partition("run.json")[2]
