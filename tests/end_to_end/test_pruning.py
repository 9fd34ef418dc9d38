"""`prune`: blocks by a rule or by hand, the saved checkpoint, and mergekit's form."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from . import reading
from .commands import done
from .conftest import Place
from .frozen import expect

RULES = ("frenet", "nrs", "gfmi", "composite", "block_influence", "angular", "greedy", "last")


def kept_blocks(config: Path) -> list[int]:
    """The blocks, from 1, that a mergekit configuration keeps."""
    slices = yaml.safe_load(config.read_text())["slices"]
    spans = [one["layer_range"] for part in slices for one in part["sources"]]
    return [block for first, end in spans for block in range(first + 1, end + 1)]


@pytest.mark.parametrize("model", ["gpt", "bert-two"])
def test_what_every_rule_keeps(model: str, place: Place, tmp_path: Path) -> None:
    found = {}
    for rule in RULES:
        asked = ("--rule", rule, "--budget", 0.5, "--protect", 1, "--texts", place.texts)
        file = tmp_path / f"{rule}.yaml"
        more = ("--save-mergekit", file, "--quiet")
        done(place.cache, "prune", place.folder / model, *asked, *more)
        found[rule] = kept_blocks(file)
    for seed in (0, 1):
        asked = ("--rule", "random", "--budget", 0.5, "--protect", 1, "--seed", seed)
        file = tmp_path / f"random-{seed}.yaml"
        done(place.cache, "prune", place.folder / model, *asked, "--save-mergekit", file, "--quiet")
        found[f"random {seed}"] = kept_blocks(file)
    expect(f"prune-{model}", found)


def test_the_saved_model_is_the_whole_without_its_blocks(place: Place, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    small, whole = tmp_path / "small", place.folder / "llama"
    done(place.cache, "prune", whole, "--blocks", "2,4", "--save", small, "--quiet")
    assert json.loads((small / "config.json").read_text())["num_hidden_layers"] == 3
    before, now = (load_file(folder / "model.safetensors") for folder in (whole, small))
    for place_now, place_before in enumerate((0, 2, 4)):
        name = "model.layers.{}.mlp.up_proj.weight"
        np.testing.assert_array_equal(
            now[name.format(place_now)], before[name.format(place_before)]
        )
    assert len(now) == len(before) - 2 * 9
    expect("prune-saved", reading.saved(small))


def test_the_saved_model_scores_what_the_run_has(place: Place, tmp_path: Path) -> None:
    """A run with --prune, the same blocks removed by the command, and a run of that model."""
    model, out, small = place.folder / "bert-two", tmp_path / "out", tmp_path / "small"
    asked = ("--tasks", "STSBenchmark", "--task-data", place.data, "--quiet", "--layers", "last")
    sweep = ("--plugins", "nrs", "--prune", "last", "--budgets", 0.4)
    done(place.cache, "run", "--models", model, *asked, *sweep, "--output", out)
    (row,) = [r for r in reading.journal(out, "score") if r["variant"] != "full"]
    given = ("--rule", "last", "--budget", 0.4, "--scores", out, "--save", small, "--quiet")
    done(place.cache, "prune", model, *given)
    assert f"{row['score']:.4f}" in (small / "README.md").read_text()
    more = ("--plugins", "nrs", "--output", tmp_path / "again")
    done(place.cache, "run", "--models", small, *asked, *more)
    (again,) = reading.journal(tmp_path / "again", "score")
    assert again["score"] == pytest.approx(row["score"], rel=1e-6)
    expect("prune-score", {"score": row["score"], "variant": row["variant"]})
