"""A model up to a layer in lm-eval's own command: as a checkpoint that ends there, and as `run`."""

from __future__ import annotations

import configparser
import functools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import running
import stock
import tiny
import torch
from stock import ENDINGS, LAST_WORD

from lrd_harness.cli import main
from lrd_harness.cli import run as command
from lrd_harness.errors import UserError
from lrd_harness.models.find import find
from lrd_harness.models.save import save
from lrd_harness.runner.layer_lm import LayerLM

SPEAKS, WHOLE = "tiny_speaks", "tiny_whole_texts"
SPEAK = """
output_type: generate_until
test_split: validation
num_fewshot: 0
doc_to_text: "{{text}}"
doc_to_target: "{{text}}"
generation_kwargs: {until: ["zzz"], max_gen_toks: 12}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
ROLL = """
output_type: loglikelihood_rolling
test_split: validation
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: bits_per_byte, higher_is_better: false}]
"""
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": {},
    "GPT2": {},
    "Gemma3Text": {"sliding_window": 16, "num_hidden_layers": 7},
    "Mamba": {},
}
pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tasks of every kind: choices, last words, whole texts, and texts to be gone on with."""
    folder = stock.tasks(tmp_path_factory.mktemp("own"))
    rows = [{"text": text} for text in tiny.sentences(6, 8, least=3)]
    stock.write_task(folder, SPEAKS, SPEAK, {"validation": rows})
    stock.write_task(folder, WHOLE, ROLL, {"validation": rows})
    return folder


def evaluated(lm: Any, own: Path, names: list[str]) -> dict[str, Any]:
    """What a model answers to every request, by task."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_defaults=False, include_path=str(own))
    with patch("lm_eval.evaluator.add_env_info"):
        result = lm_eval.simple_evaluate(lm, tasks=names, task_manager=manager, bootstrap_iters=10)
    assert result is not None
    return dict(result["samples"])


def answers(samples: dict[str, Any]) -> dict[str, list[Any]]:
    return {name: [row["resps"] for row in rows] for name, rows in samples.items()}


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_equal_to_a_checkpoint_that_ends_there(family: str, own: Path, tmp_path: Path) -> None:
    from lm_eval.models.huggingface import HFLM

    uneven, changes = family != "Mamba", FAMILIES[family]
    model = tiny.save(family, tmp_path / "model", causal=True, uneven=uneven, **changes)
    depth = changes.get("num_hidden_layers", 3)
    cut = save(find(str(model)), range(3, depth + 1), tmp_path / "cut", "")
    names = [ENDINGS, LAST_WORD, WHOLE, SPEAKS]
    for layer, folder in ((2, cut), (depth, model), (None, model)):
        mine = evaluated(LayerLM(str(model), layer, batch_size=4), own, names)
        theirs = evaluated(HFLM(str(folder), device="cpu", batch_size=4), own, names)
        assert answers(mine) == answers(theirs), layer
        assert len({str(text) for text in answers(mine)[SPEAKS]}) > 1


@pytest.mark.slow
def test_equal_to_a_run(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stock.own_alone(monkeypatch)
    model = tiny.save("GPT2", tmp_path / "model", causal=True, uneven=True)
    tasks = [f"lm-eval:{ENDINGS}", f"lm-eval:{LAST_WORD}"]
    typed = ("--include-path", str(own), "--log-samples", "--plugins", "cosine")
    assert running.run(tmp_path / "out", [model], tmp_path, *typed, tasks=tasks) == 0
    for layer in range(4):
        samples = evaluated(LayerLM(str(model), layer), own, [ENDINGS, LAST_WORD])
        for name in (ENDINGS, LAST_WORD):
            mine = stock.harness_answers(tmp_path / "out", layer, name)
            assert stock.difference(mine, stock.answers(samples[name])) < 1e-4


def test_the_embeddings_alone_go_on_with_a_text(tmp_path: Path) -> None:
    """Of layer 0, what follows a token depends on it and its position only."""
    model = tiny.save("GPT2", tmp_path / "model", causal=True, uneven=True)
    lm = LayerLM(str(model), 0)
    whole = stock.load(model)
    ids = torch.tensor([tiny.tokenizer(encoder=False)("the cat sat")["input_ids"]])
    with torch.inference_mode():
        made = lm.model.generate(ids, max_new_tokens=8, do_sample=False, use_cache=True)[0]
        state = whole.transformer.wte(made) + whole.transformer.wpe(torch.arange(len(made)))
        expected = whole.lm_head(whole.transformer.ln_f(state)).argmax(-1)
    assert len(made) > ids.shape[1]
    assert made[ids.shape[1] :].tolist() == expected[ids.shape[1] - 1 : -1].tolist()


@pytest.mark.parametrize(
    ("model", "layer", "reason"),
    [
        ("gpt", 4, "local/gpt has layers 0 to 3, no layer 4"),
        ("gpt", -1, "local/gpt has layers 0 to 3, no layer -1"),
        ("gpt", "last", "local/gpt has layers 0 to 3, no layer 'last'"),
        ("gpt", True, "local/gpt has layers 0 to 3, no layer True"),
        ("bert", 1, "local/bert: its weights hold no language-model head, so it"),
        ("headless", 1, "local/headless: its weights lack 1 tensor, lm_head.weight"),
        ("", 1, "say which model"),
        ("none", 1, "no such folder"),
    ],
)
def test_refused_before_weights_are_loaded(
    model: str, layer: Any, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = {"gpt": ("GPT2", True), "bert": ("Bert", False), "headless": ("Llama", False)}
    if model in kinds:
        family, causal = kinds[model]
        tiny.save(family, tmp_path / model, causal=causal)
    monkeypatch.setattr("lm_eval.models.huggingface.HFLM.__init__", lambda *_, **__: 1 / 0)
    with pytest.raises(UserError, match=re.escape(reason)):
        LayerLM(str(tmp_path / model) if model else "", layer)


@pytest.mark.slow
def test_the_command_hands_the_rest_to_lm_eval(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lm_eval.tasks import TaskManager

    few = functools.partial(TaskManager, include_defaults=False)  # of all, seconds
    monkeypatch.setattr("lm_eval.tasks.TaskManager", few)
    model = tiny.save("Llama", tmp_path / "model", causal=True)

    def typed(layer: int) -> list[str]:
        asked = ["--model_args", f"pretrained={model},layer={layer}", "--tasks", LAST_WORD, SPEAKS]
        return ["lm-eval", "--model", "lrd", *asked, "--include_path", str(own), "--limit", "3"]

    assert main([*typed(2), "--log_samples", "--output_path", str(tmp_path / "out")]) == 0
    assert f"|{LAST_WORD}" in capsys.readouterr().out
    (file,) = (tmp_path / "out").rglob(f"samples_{LAST_WORD}_*.jsonl")
    written = stock.answers(list(map(json.loads, file.read_text().splitlines())))
    samples = evaluated(LayerLM(str(model), 2), own, [LAST_WORD])[LAST_WORD]
    assert len(written) == 3
    assert stock.difference(written, stock.answers(samples)[:3]) < 1e-5
    assert main(typed(4)) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("has layers 0 to 3, no layer 4")


def test_models_of_lm_eval_itself_are_still_there() -> None:
    """In a process of its own: lm-eval lists them once, where there is no other yet."""
    program = (
        "import lm_eval.__main__ as m; from lm_eval.api.registry import get_model as get; "
        "from lrd_harness.cli import main; "
        "m.cli_evaluate = lambda: print(get('hf').__name__, get('lrd').__name__); "
        "main(['lm-eval', '--model', 'hf'])"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.stdout == "HFLM LayerLM\n", ran.stderr


def test_what_later_releases_of_lm_eval_find() -> None:
    setup = configparser.ConfigParser()
    setup.read(Path(__file__).parents[2] / "setup.cfg")
    listed = setup["options.entry_points"]["lm_eval.models"]
    assert listed.strip() == f"{command.LRD} = {command.LAYER_LM}"
    assert f"{LayerLM.__module__}:{LayerLM.__name__}" == command.LAYER_LM
