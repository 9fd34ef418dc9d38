"""kill -9 while a command saves, exports, merges or clears: the next one works, nothing is left."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import running
import tiny

from lrd_harness.contracts import Text
from lrd_harness.store.store import Store

pytestmark = pytest.mark.slow

# command -> how often it is killed, the first time before its first step, the last before its last
KILLS = {
    **dict.fromkeys(("layer", "figures", "cards", "tidy", "file", "clear packages"), 2),
    **dict.fromkeys(("prune", "merge", "verify"), 3),
    "clear": 3,
}


@pytest.fixture(scope="module")
def amiss(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What was amiss after kills, by command."""
    place = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LRD_HARNESS_CACHE", str(place / "cache"))
        jobs = list(made(place))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    program = str(Path(__file__).parents[1] / "support/killing_steps.py")
    call = [sys.executable, program, json.dumps(jobs)]
    done = subprocess.run(call, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


def made(place: Path) -> list[dict[str, Any]]:
    """A model, two runs, a cache, and what is to be done with them."""
    bert, data = tiny.save("Bert", place / "bert"), tiny.task_data(place / "data")
    texts = place / "texts.txt"
    texts.write_text("\n".join(tiny.sentences(30)) + "\n")
    tasks = ("STSBenchmark",)
    assert running.run(place / "one", [bert], data, "--plugins", "nrs", tasks=tasks) == 0
    shutil.copytree(place / "one", place / "two")
    for file in (place / "two").rglob("*.json*"):
        file.write_text(file.read_text().replace("local/bert", "local/other"))
    outs = [str(place / name) for name in ("one", "two")]
    (place / "empty").mkdir()
    held = cache(place / "held")
    to, board = str(place / "now"), ["leaderboard", outs[0]]
    save = ["--save", f"{to}/new/model", "--quiet"]
    commands: dict[str, list[str]] = {
        "prune": ["prune", str(bert), "--blocks", "2", *save],
        "layer": ["layer", str(bert), "--texts", str(texts), "--by", "dime", *save],
        **{
            name: [*board, "--format", name, "--output", f"{to}/a/{name}"]
            for name in ("cards", "figures", "tidy")
        },
        "file": [*board, "--output", f"{to}/board.md"],
        "merge": ["merge", *outs, "--output", f"{to}/whole"],
        "clear": ["cache", "clear", "--all", "--yes"],
        "clear packages": ["cache", "clear", "--packages", "--yes"],
        "verify": ["cache", "verify", "--repair"],
    }
    (place / "now").mkdir()
    return [
        {
            "name": name,
            "command": command,
            "place": to,
            "before": str(held if command[0] == "cache" else place / "empty"),
            "cache": to if command[0] == "cache" else str(place / "cache"),
            "kills": KILLS[name],
            "once": "--save" in command,
        }
        for name, command in commands.items()
    ]


def cache(folder: Path) -> Path:
    """Two stores, one with a damaged file, a package, a converted model, the rest."""
    for name in ("one", "two"):
        store = Store(folder / "states", {"model": name})
        for text in "abc":
            store.write([Text(text)], {("raw", 0): np.ones((1, 8), np.float32)})
    for path in folder.glob("states/*/*.safetensors"):
        os.utime(path, (time.time() - 86_400,) * 2)  # not in use any more
    shard = min(folder.glob("states/*/*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-4] + b"\1\1\1\1")
    for kind, name in (("packages", "made-up-1.0"), ("converted", f"tiny-{'0' * 12}")):
        (folder / kind / name / "inner").mkdir(parents=True)
        (folder / kind / name / "inner" / "data.bin").write_bytes(b"x" * 1000)
    (folder / "packages" / "made-up-1.0.sha256").write_text("0" * 64)
    (folder / "budgets").mkdir()
    (folder / "budgets" / f"{'0' * 24}.json").write_text('{"tokens": 8}')
    return Path(shutil.copytree(folder, folder.with_name("copy")))


@pytest.mark.parametrize("name", KILLS)
def test_a_command_that_is_killed(name: str, amiss: dict[str, list[str]]) -> None:
    assert amiss[name] == []
