"""Batches that do not fit: the budget is halved, the values are the same, and it is remembered."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import running
import tiny
import torch
from running import Patch, counters

from lrd_harness.capture.embeddings import capture
from lrd_harness.capture.layers import planes
from lrd_harness.capture.token_budget import Budget, found_before
from lrd_harness.contracts import Text
from lrd_harness.errors import UserError
from lrd_harness.models.text_model import TextModel
from lrd_harness.store.store import Store

TEXTS = [Text(t) for t in tiny.sentences(40)]


class Small:
    """Memory that takes so many tokens a batch, padding included."""

    def __init__(self, monkeypatch: Patch, most: int) -> None:
        self.passes: list[int] = []
        padded = TextModel.features

        def pad(model: Any, batch: Any, side: Any = None) -> Any:
            features = padded(model, batch, side)
            self.passes.append(features["input_ids"].numel())
            if self.passes[-1] > most:
                raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return features

        monkeypatch.setattr(TextModel, "features", pad)


@pytest.fixture
def model(tmp_path: Path) -> Any:
    return tiny.open_model(tiny.save("Bert", tmp_path / "m"))


def states(model: Any, folder: Path) -> np.ndarray:
    return np.stack([Store(folder, model.identity).read(TEXTS, p) for p in planes(model, "hf")])


@pytest.mark.slow
def test_the_budget_is_halved_and_nothing_else_changes(
    model: Any, tmp_path: Path, monkeypatch: Patch
) -> None:
    capture(model, TEXTS, Store(tmp_path / "a", model.identity), batch_tokens=1000)
    small = Small(monkeypatch, 200)
    budget = Budget(1000)
    told: list[tuple[int, int]] = []
    done = capture(
        model,
        TEXTS,
        Store(tmp_path / "b", model.identity),
        batch_tokens=budget,
        progress=lambda *at: told.append(at),
    )
    assert done.forwarded == len(TEXTS)
    assert budget.tokens == 125  # 1000, 500, 250, 125
    assert max(n for n in small.passes[3:]) <= 125
    assert told[-1] == (len(TEXTS), len(TEXTS))
    np.testing.assert_allclose(
        states(model, tmp_path / "b"), states(model, tmp_path / "a"), rtol=1e-4, atol=1e-5
    )


def fits(tokens: int) -> int:
    if tokens > 300:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
    return tokens


@pytest.mark.slow
def test_what_was_found_is_remembered(tmp_path: Path) -> None:
    identity = {"model": "m", "dtype": "float32"}
    first = found_before(tmp_path, identity, "cpu", 4096)
    assert first.attempt(fits) == 256
    assert found_before(tmp_path, identity, "cpu", 4096).tokens == 256
    assert found_before(tmp_path, identity, "cpu", 128).tokens == 128  # what is asked for
    assert found_before(tmp_path, {"model": "n"}, "cpu", 4096).tokens == 4096
    (file,) = tmp_path.iterdir()
    for bad in ("damaged", '{"tokens": 0}', '{"tokens": -5}'):
        file.write_text(bad)
        assert found_before(tmp_path, identity, "cpu", 4096).tokens == 4096


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_a_budget_that_cannot_be_kept_ends_nothing(
    number: int, tmp_path: Path, monkeypatch: Patch
) -> None:
    def refuse(*args: Any, **options: Any) -> Any:
        raise OSError(number, "refused")

    monkeypatch.setattr("lrd_harness.store.files.path", refuse)
    budget = found_before(tmp_path, {}, "cpu", 512)
    assert budget.attempt(fits) == budget.tokens == 256


@pytest.mark.slow
@pytest.mark.parametrize(
    ("says", "error", "message", "tokens"),
    [
        ("DefaultCPUAllocator: can't allocate memory", UserError, "for a single text", [4, 2, 1]),
        ("index out of range", RuntimeError, "index out of range", [4]),  # it is not tried again
    ],
)
def test_errors_that_fewer_tokens_do_not_mend(
    says: str, error: type[Exception], message: str, tokens: list[int], tmp_path: Path
) -> None:
    calls: list[int] = []

    def fail(tokens: int) -> None:
        calls.append(tokens)
        raise RuntimeError(says)

    budget = found_before(tmp_path, {}, "cpu", 4)
    with pytest.raises(error, match=message):
        budget.attempt(fail)
    assert (calls, budget.tokens, list(tmp_path.iterdir())) == (tokens, 4, [])


@pytest.mark.slow
@pytest.mark.usefixtures("own_cache")
def test_a_run_goes_on_with_less(place: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    small = Small(monkeypatch, 128)
    out = tmp_path / "out"
    assert running.run(out, [place / "bert"], place / "data", "--batch-tokens", "512") == 0
    assert max(small.passes) > 128
    assert counters(out)["forwarded"] > 100
    small.passes.clear()
    again = ("--batch-tokens", "512", "--plugins", "curvature")  # the same texts, for their tokens
    assert running.run(out, [place / "bert"], place / "data", *again) == 0
    assert small.passes
    assert max(small.passes) <= 128
