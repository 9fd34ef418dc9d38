"""A model spread by accelerate gives the states of one that is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import running
import tiny
import torch
from running import Patch

from lrd_harness.capture.embeddings import one_behind
from lrd_harness.contracts import Text
from lrd_harness.errors import StorageFull
from lrd_harness.planning.models import device
from lrd_harness.planning.settings import Settings

TEXTS = [Text(t) for t in tiny.sentences(6)]


def same_states(a: Any, b: Any) -> None:
    states, expected = (model.states(model.tokenize(TEXTS)) for model in (a, b))
    assert states.keys() == expected.keys()
    for plane, state in expected.items():
        torch.testing.assert_close(states[plane], state, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["Bert", "Llama"])
@pytest.mark.parametrize("adapter", [None, "sentence-transformers"])
def test_auto_is_the_model_itself(family: str, adapter: str | None, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    if adapter:
        tiny.save_st(folder, family=family)
    else:
        tiny.save(family, folder, uneven=True)
    same_states(tiny.open_model(folder, device_map="auto"), tiny.open_model(folder))


@pytest.mark.parametrize("part", ["layers.1", "embed_tokens"])  # these have the first weights
def test_parts_that_lie_elsewhere(part: str, tmp_path: Path) -> None:
    """Offloaded to disk, a part's weights come and go by the hooks that move between GPUs."""
    from accelerate import disk_offload

    folder = tiny.save("Llama", tmp_path / "m", uneven=True)
    plain = tiny.open_model(folder)
    spread = tiny.open_model(folder, device_map="auto")
    there = spread.parts.module.get_submodule(part)
    disk_offload(there, tmp_path / "offload", execution_device=torch.device("cpu"))
    assert all(p.device.type == "meta" for p in there.parameters())
    same_states(spread, plain)


@pytest.mark.slow
@pytest.mark.usefixtures("own_cache")
def test_in_a_run(place: Path, tmp_path: Path, capsys: Any) -> None:
    out, mapped = tmp_path / "out", tmp_path / "mapped"
    model, data = [place / "bert"], place / "data"
    more = ("--device-map", "auto", "--pooling", "mean-no-sink")
    assert running.run(mapped, model, data, *more, tasks=["STSBenchmark"]) == 0
    assert len(running.numbers(mapped)) == 4 + 2  # scores of layers, metrics
    capsys.readouterr()
    assert running.run(out, model, data, "--device-map", "round") == 2
    assert "unknown device_map in command line 'round'" in running.one_line(capsys)
    assert running.run(out, model, data, "--device-map", "auto", "--processes", "2") == 2
    assert "run it in one process" in running.one_line(capsys)


def test_each_process_takes_a_gpu_of_its_own(monkeypatch: Patch) -> None:
    """On four GPUs, and on none; the fifth process of a machine shares one."""
    for gpus, chosen, env, expected in (
        (4, "auto", {}, "cuda"),
        (4, "auto", {"LOCAL_RANK": "3", "RANK": "11"}, "cuda:3"),
        (4, "cuda", {"LOCAL_RANK": "3"}, "cuda:3"),
        (4, "cuda", {"LOCAL_RANK": "4"}, "cuda:0"),
        (4, "cuda:1", {"LOCAL_RANK": "3"}, "cuda:1"),
        (4, "cpu", {"LOCAL_RANK": "3"}, "cpu"),
        (4, "auto", {"LOCAL_RANK": "3", "ACCELERATE_USE_CPU": "True"}, "cpu"),
        (4, "cuda", {"ACCELERATE_USE_CPU": "True"}, "cuda"),
        (4, "auto", {"ACCELERATE_USE_CPU": "False"}, "cuda"),
        (0, "auto", {"LOCAL_RANK": "3"}, "cpu"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(torch.cuda, "is_available", lambda gpus=gpus: gpus > 0)
            patch.setattr(torch.cuda, "device_count", lambda gpus=gpus: gpus)
            patch.setattr(torch.backends.mps, "is_available", lambda: False)
            for name in ("LOCAL_RANK", "ACCELERATE_USE_CPU"):
                patch.delenv(name, raising=False)
            for name, value in env.items():
                patch.setenv(name, value)
            assert device(Settings(device=chosen)) == expected, (gpus, chosen, env)


def test_no_tf32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However a model is opened: in matrix products, and in convolutions, where torch has it on."""
    model = tiny.planned(tiny.save("Bert", tmp_path / "m"))
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    torch.set_float32_matmul_precision("high")
    model.open()
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cudnn.allow_tf32


def test_what_is_kept_beside() -> None:
    """One thing after the other, the next begun when the last is done; what one raises is heard."""
    done: list[int] = []
    with one_behind() as soon:
        for number in range(3):
            soon(lambda number=number: done.append(number))
    assert done == [0, 1, 2]

    def fails() -> None:
        raise StorageFull("no space left")

    def kept(*things: Callable[[], None]) -> None:
        with one_behind() as soon:
            for do in things:
                soon(do)

    for things in ([fails], [fails, lambda: done.append(9)]):
        with pytest.raises(StorageFull):
            kept(*things)
    assert done == [0, 1, 2]
