"""What `select`, `compare`, `probe` and `layer` do alike: bad input, files, a full disk."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import running
import tiny

from lrd_harness.cli import main

pytestmark = pytest.mark.usefixtures("own_cache")
RANK = "--plugins effective_rank"
COMMANDS = {
    "select": "--models one two --plugins nrs --draws 2",
    "compare": f"one two {RANK} --draws 2",
    "probe": f"one --kind random --shares 0 {RANK}",
    "layer": "one --by effective_rank",
}
BAD = {
    "select --models one": "there is nothing to choose: name at least 2 models",
    "select --models one two one": "is named twice",
    "select --models one two --plugins curvature": "curvature ranks no models",
    "select --models one two --plugins frennet": "Did you mean frenet?",
    "select --models one two --max-texts 12": "at least 16 texts, got 12: give more, or --draws 0",
    "select --models one two --draws 1": "1 draws: intervals need at least 2",
    "select --models one nowhere": "nowhere",
    "select --models one two --draws 0 --texts few": "to rank models takes at least 8 texts, got 5",
    "compare one short": "local/one has 3 blocks and local/short has 2",
    "compare one two --draws 1": "1 draws: intervals need at least 2",
    "compare one two --plugins lida": "Did you mean lidar?",
    "compare one two --max-length 0": "max_length is 0, not a whole number of at least",
    "compare one two --max-texts 12": "intervals need at least 16 texts, got 12",
    "compare one nowhere": "nowhere",
    "compare one two --device cuda:77": "device 'cuda:77' cannot be used",
    "compare one two --set nrs.q=3 --plugins nrs": "parameter of metric nrs",
    "compare one two --draws 0 --texts few": "a comparison needs at least 8 texts, got 5",
    "probe one --kind randon": "Did you mean random?",
    "probe one --kind random --plugins lidar": "lidar compares augmented views, and a probe",
    "probe one --kind random --lengths 4": "--lengths needs --kind length",
    "probe one --kind length --shares 0": "--shares needs --kind repetition or random",
    "probe one --kind random --shares half": "--shares half: not numbers such as 0,0.5,1",
    "probe one --kind random --shares 2": "share 2: not between 0 and 1",
    "probe one --kind length --lengths 500": "length 500: the model takes 128 tokens",
    "probe one --kind random --seed -1": "--seed -1: not a whole number",
    "probe one --kind random --max-texts 3": "max_texts is 3",
    "probe one --kind random --task x": "give either --texts or --task",
    "probe one --kind random --norm rw": "unknown norm in command line 'rw'. Did you mean raw?",
    "probe one --kind random --set curvature.skip=-1": "skip",
    "probe one --kind random --texts few": "a probe needs at least 8 texts with words, got 5",
    "layer one --by dyme": "unknown metric 'dyme'. Did you mean dime",
    "layer one --by cosine": "metric cosine chooses no layer",
    "layer one --set dime.beta=1": "unknown parameter of metric dime 'beta'",
    "layer one --set lidar.delta=1": "lidar is not measured here, so it takes no",
    "layer one --set dime.alpha=0": "metric dime: alpha must be above 0, not 0",
    "layer one --save full": "is not empty",
    "layer nowhere": "nowhere",
    "layer one --texts no.jsonl": "no such file",
    "layer nowhere --texts few": "has 5 distinct texts; to choose a layer takes at least 8",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of 3, 3 and 2 blocks, texts, too few texts, and a folder that is not empty."""
    made = tmp_path_factory.mktemp("own-texts")
    tiny.save("Bert", made / "one")
    tiny.save("Bert", made / "two", seed=1)
    tiny.save("Bert", made / "short", num_hidden_layers=2)
    texts = tiny.sentences(24)
    tiny.write_rows(made / "texts.jsonl", [{"text": text} for text in texts])
    (made / "few").write_text("\n".join(texts[:5]))
    (made / "full").mkdir()
    (made / "full" / "file").touch()
    return made


def run(folder: Path, typed: str, *more: object) -> int:
    """A command on the texts; names of files stand for those in the folder."""
    files = {path.name for path in folder.iterdir()} | {"nowhere", "no.jsonl"}
    command, *words = (str(folder / word) if word in files else word for word in typed.split())
    texts = () if "--texts" in words else ("--texts", str(folder / "texts.jsonl"))
    return main([command, "--quiet", *texts, *words, *map(str, more)])


@pytest.mark.parametrize("typed", BAD)
def test_bad_input_is_one_line(typed: str, folder: Path, capsys: Any) -> None:
    assert run(folder, typed) == 2
    assert BAD[typed] in running.one_line(capsys)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk_is_no_fault_of_a_metric(
    command: str, folder: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: Any, **named: Any) -> Any:
        raise RuntimeError("odd") from OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("lrd_harness.measuring.measure", full)
    assert run(folder, f"{command} {COMMANDS[command]}") == 2
    assert "no space left" in running.one_line(capsys)


@pytest.mark.parametrize("command", ["select", "compare", "probe"])
def test_an_output_that_cannot_be_made_is_said_before_a_model_is_opened(
    command: str, folder: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lrd_harness.models.text_model.TextModel.__init__", None)
    (tmp_path / "afile").write_text("")
    typed = f"{command} {COMMANDS[command]} --output"
    assert run(folder, typed, tmp_path / "afile" / "x") == 2
    assert "afile/x cannot be made" in running.one_line(capsys)
    assert run(folder, typed, tmp_path / "afile") == 2
    assert "is a file, not a folder" in running.one_line(capsys)


@pytest.mark.parametrize("command", ["select", "compare", "probe"])
def test_own_files_are_written_over_others_are_not(
    command: str, folder: Path, tmp_path: Path, capsys: Any
) -> None:
    typed = f"{command} {COMMANDS[command]} --output"
    for _ in range(2):
        assert run(folder, typed, tmp_path) == 0
    capsys.readouterr()
    for name in (f"{command}.json", f"{command}.csv"):
        before = (tmp_path / name).read_text()
        (tmp_path / name).write_text('{"mine": 1}')
        assert run(folder, typed, tmp_path) == 2
        said = running.one_line(capsys)
        assert f"{tmp_path / name} is there already and was not made by lrd-harness {command}" in (
            said
        )
        assert (tmp_path / name).read_text() == '{"mine": 1}'
        (tmp_path / name).write_text(before)
