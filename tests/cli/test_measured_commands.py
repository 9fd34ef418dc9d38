"""What `layer`, `compare` and `probe` do alike: a full disk, an output that cannot be written."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import running
import tiny

from lrd_harness.cli import main

COMMANDS = (
    ["layer", "{}", "--by", "effective_rank"],
    ["compare", "{}", "{}", "--plugins", "effective_rank", "--draws", "2"],
    ["probe", "{}", "--kind", "random", "--shares", "0", "--plugins", "effective_rank"],
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("measured")
    tiny.save("Bert", made / "bert")
    tiny.write_rows(made / "texts.jsonl", [{"text": t} for t in tiny.sentences(20)])
    return made


def run(folder: Path, command: list[str], *more: str) -> int:
    named = [part.format(folder / "bert") for part in command]
    return main([*named, "--texts", str(folder / "texts.jsonl"), "--quiet", *more])


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_a_full_disk_is_no_metrics_fault(
    command: list[str], folder: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: Any, **named: Any) -> Any:
        raise RuntimeError("odd") from OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("lrd_harness.measuring.measure", full)
    assert run(folder, command) == 2
    assert "no space left" in running.one_line(capsys)


@pytest.mark.parametrize("command", COMMANDS[1:], ids=lambda command: command[0])
def test_an_output_that_cannot_be_made_is_said_before_a_model_is_opened(
    command: list[str],
    folder: Path,
    tmp_path: Path,
    capsys: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "lrd_harness.models.text_model.TextModel.__init__", None
    )  # it is not got to
    (tmp_path / "afile").write_text("")
    assert run(folder, command, "--output", str(tmp_path / "afile" / "x")) == 2
    assert "afile/x cannot be made" in running.one_line(capsys)
