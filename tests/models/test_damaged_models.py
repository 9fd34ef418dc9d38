"""A model folder that is damaged, in whatever way, is one line for every command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import running
import tiny
from running import one_line, records

from lrd_harness.cli import main
from lrd_harness.contracts import Checkpoint

pytestmark = pytest.mark.usefixtures("own_cache")

COMMANDS = (
    ["layer", "{}", "--by", "effective_rank", "--texts", "{texts}"],
    ["probe", "{}", "--kind", "random", "--plugins", "effective_rank", "--texts", "{texts}"],
    ["compare", "{sound}", "{}", "--plugins", "effective_rank", "--texts", "{texts}"],
    ["prune", "{}", "--layers", "2"],
)
TRANSFORMER = {"type": "sentence_transformers.models.Transformer", "path": "", "name": "0"}


def config(**changes: Any) -> Callable[[Path], None]:
    """Change fields of config.json."""

    def damage(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return damage


def content(name: str, what: bytes) -> Callable[[Path], None]:
    """Put something else into a file."""

    def damage(folder: Path) -> None:
        (folder / name).write_bytes(what)

    return damage


def cut(folder: Path) -> None:
    """Leave half of the weights."""
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def replaced(name: str) -> Callable[[Path], None]:
    """A folder in place of a file."""

    def damage(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return damage


def modules(*rows: Any) -> Callable[[Path], None]:
    """What modules.json says."""
    return content("modules.json", json.dumps(rows).encode())


DAMAGES: dict[str, Callable[[Path], None]] = {
    "width is a mapping": config(hidden_size={}),
    "width is a text": config(hidden_size="wide"),
    "width is another": config(hidden_size=64),
    "blocks are a list": config(num_hidden_layers=[]),
    "no blocks": config(num_hidden_layers=0),
    "more blocks than weights": config(num_hidden_layers=9),
    "heads do not divide": config(num_attention_heads=5),
    "an activation that there is not": config(hidden_act="none"),
    "vocabulary is negative": config(vocab_size=-1),
    "kind is a list": config(model_type=[]),
    "kind is a number": config(model_type=7),
    "kind is a mapping": config(model_type={"bert": 1}),
    "quantized": config(quantization_config={"quant_method": "gptq", "bits": 4}),
    "quantized somehow": config(quantization_config=[1]),
    "deep": content("config.json", b'{"a":' * 100_000),
    "empty configuration": content("config.json", b""),
    "a list for a configuration": content("config.json", b"[]"),
    "long number": content("config.json", b'{"model_type": "bert", "x": ' + b"9" * 6000 + b"}"),
    "weights are cut": cut,
    "weights are empty": content("model.safetensors", b""),
    "weights are no file": replaced("model.safetensors"),
    "tokenizer is empty": content("tokenizer.json", b""),
    "tokenizer is no object": content("tokenizer.json", b"[]"),
    "tokenizer is of no kind": content("tokenizer.json", b'{"model": {"type": "Nope"}}'),
    "tokenizer is deep": content("tokenizer.json", b"[" * 100_000),
    "tokenizer settings are a list": content("tokenizer_config.json", b"[]"),
    "module of a long path": modules({**TRANSFORMER, "path": "x" * 300}),
    "module of a path that is none": modules({**TRANSFORMER, "path": "a\0b"}),
    "modules are numbers": modules(1, 2),
    "module of other code": modules({**TRANSFORMER, "type": "os.system"}),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damaged")
    tiny.save("Bert", folder / "bert")
    tiny.write_rows(folder / "texts.jsonl", [{"text": t} for t in tiny.sentences(20)])
    return folder


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_one_line(
    damage: str, sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The commands take turns, for all of them go through one function."""
    folder = shutil.copytree(sound / "bert", tmp_path / "damaged")
    DAMAGES[damage](folder)
    command = COMMANDS[list(DAMAGES).index(damage) % len(COMMANDS)]
    named = {"texts": sound / "texts.jsonl", "sound": sound / "bert"}
    assert main([*(part.format(folder, **named) for part in command), "--quiet"]) == 2
    line = one_line(capsys)
    assert "damaged" in line or "Bert" in line
    assert "LRD_HARNESS_TRACEBACK" not in line  # it was foreseen
    assert len(line) < 400


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_every_command_says_the_same(
    command: list[str], sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(sound / "bert", tmp_path / "damaged")
    config(hidden_size={})(folder)
    named = {"texts": sound / "texts.jsonl", "sound": sound / "bert"}
    assert main([*(part.format(folder, **named) for part in command), "--quiet"]) == 2
    assert one_line(capsys).startswith("local/damaged cannot be opened: Strict")


def test_in_a_run_and_a_selection_the_others_go_on(
    place: Path, sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(sound / "bert", tmp_path / "damaged")
    config(hidden_size={})(folder)
    out, more = tmp_path / "out", ["--plugins", "nrs", "--layers", "last"]
    models = [folder, place / "bert"]
    assert running.run(out, models, place / "data", *more, tasks=["STSBenchmark"]) == 1
    (failed,) = records(out, "error")
    assert failed["error"].startswith("local/damaged cannot be opened: Strict")
    assert "hidden_size" in failed["traceback"]
    assert [r["model"] for r in records(out, "score")] == ["local/bert"]
    capsys.readouterr()
    texts = ["--texts", str(sound / "texts.jsonl"), "--draws", "0", "--plugins", "frenet"]
    assert main(["select", "--models", *map(str, models), *texts, "--quiet"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "local/damaged cannot be opened" in line


ODD: list[Any] = [None, 1, 1.5, True, "x", [], {}, [1], [None], [["x"]], {"a": 1}, ["Bert", 3]]


@pytest.mark.parametrize("field", ["model_type", "architectures", "is_decoder"])
@pytest.mark.parametrize("value", ODD, ids=str)
def test_no_claim_fails_on_odd_values(field: str, value: Any) -> None:
    from lrd_harness import manager

    found = Checkpoint("m", "/nowhere", "0", {"model_type": "bert", field: value}, frozenset())
    for adapter in manager.load().all("adapter"):
        assert adapter.claims(found) in (True, False)


def test_a_fault_that_nothing_foresaw_is_one_line(
    sound: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*given: Any) -> Any:
        raise LookupError("of\nours")

    monkeypatch.setattr("lrd_harness.models.cut.parameters", fail)
    monkeypatch.setattr("lrd_harness.studies.prune.parameters", fail)
    command = ["prune", str(sound / "bert"), "--layers", "2", "--quiet"]
    assert main(command) == 2
    line = one_line(capsys)
    assert line.startswith("LookupError: of ours (lrd_harness/shrink.py, line ")
    monkeypatch.setenv("LRD_HARNESS_TRACEBACK", "1")
    with pytest.raises(LookupError):
        main(command)
