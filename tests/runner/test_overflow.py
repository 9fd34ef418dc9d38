"""Half precision that overflows in a block: every command names the layer and a remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import running
import tiny
import torch
import transformers
from running import records

import lrd_harness

pytestmark = pytest.mark.usefixtures("own_cache")
LINE = "NaN or infinity in the states of layer {}: float16 ends at 65,504, try --dtype bfloat16"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models whose states, from layer 2 on, are beyond what float16 holds; and texts."""
    folder = tmp_path_factory.mktemp("overflow")
    for number in range(2):
        torch.manual_seed(number)
        model = transformers.AutoModelForCausalLM.from_config(tiny.config("Llama"))
        with torch.no_grad():
            model.model.norm.weight.add_(torch.rand(32))
            model.model.layers[1].mlp.down_proj.weight.mul_(1e5)
            model.model.layers[1].mlp.up_proj.weight.mul_(1e5)
        model.save_pretrained(folder / f"m{number}")
        tiny.tokenizer(encoder=False).save_pretrained(folder / f"m{number}")
    (folder / "texts.txt").write_text("\n".join(tiny.sentences(24)))
    tiny.task_data(folder / "data")
    return folder


@pytest.mark.slow
def test_layers_below_are_scored_through_the_final_norm(folder: Path, tmp_path: Path) -> None:
    """That the last state is no number does not hide the norm, which acts on the others."""
    scores: dict[str, Any] = {}
    for dtype in ("float16", "float32"):
        out, tasks = tmp_path / dtype, ["STSBenchmark"]
        more = ("--dtype", dtype, "--plugins", "nrs,prompt_entropy", "--layers", "all")
        code = running.run(out, [folder / "m0"], folder / "data", *more, tasks=tasks)
        assert code == (dtype == "float16")
        scores[dtype] = {r["layer"]: r["score"] for r in records(out, "score")}
    errors = {(r["layer"], r["metric"]): r["error"] for r in records(tmp_path / "float16", "error")}
    assert errors == {
        (2, None): f"NotFinite: {LINE.format(2)}",
        (3, None): f"NotFinite: {LINE.format(3)}",
        (None, "nrs"): f"NotFinite: {LINE.format(2)}",
        (None, "prompt_entropy"): f"NotFinite: {LINE.format(2)}".replace(
            "states", "tokens' states"
        ),
    }
    assert scores["float16"].keys() == {0, 1}
    for layer, score in scores["float16"].items():
        assert score == pytest.approx(scores["float32"][layer], abs=0.02)


STUDIES: dict[str, tuple[Any, int]] = {
    "select": (lambda one, two, **how: lrd_harness.select([one, two], draws=2, **how), 2),
    "layer": (lambda one, two, metrics, **how: lrd_harness.layer(one, by="dime", **how), 2),
    "compare": (lambda one, two, **how: lrd_harness.compare(one, two, draws=2, **how), 3),
}


@pytest.mark.parametrize("study", tiny.rest_slow(STUDIES, "compare"))
def test_studies(study: str, folder: Path, capsys: Any) -> None:
    call, layer = STUDIES[study]
    models = (str(folder / name) for name in ("m0", "m1"))
    texts, said = str(folder / "texts.txt"), ""
    try:
        said = str(call(*models, texts=texts, metrics="nrs", dtype="float16", quiet=True))
    except Exception as error:  # where nothing else was asked for
        said = str(error)
    captured = capsys.readouterr()
    assert LINE.format(layer) in " ".join((said + captured.out + captured.err).split())


def test_vectors(folder: Path, capsys: Any) -> None:
    """They are the user's, numbers or not, and a line says so."""
    model = lrd_harness.open(str(folder / "m0"), dtype="float16", quiet=True)
    states = model.encode(["a cat", "the dog sat"])
    assert LINE.format(2) in capsys.readouterr().err
    assert [bool(np.isfinite(state).all()) for state in states] == [True, True, False, False]
