"""The script that checks a GPU runs on a CPU, with nothing there that it is not to need."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FORBIDDEN = """
import sys
from importlib.machinery import PathFinder
class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        absent = name.partition(".")[0] in {absent!r}
        return None if absent else PathFinder.find_spec(name, path, target)
sys.meta_path[:] = [Finder if finder is PathFinder else finder for finder in sys.meta_path]
"""
ABSENT = "mteb lm_eval pluggy pydantic datasets pandas polars pyarrow altair jinja2".split()


@pytest.mark.slow
def test_on_a_cpu(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(FORBIDDEN.format(absent=ABSENT))
    program = Path(__file__).with_name("check.py")
    more = {"PYTHONPATH": str(tmp_path), "OUT": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(program), "--device", "cpu"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **more},
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    rows = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert [row["name"] for row in rows if row["passed"] is None] == ["out of memory"]
    assert len(rows) == len({row["name"] for row in rows}) == 16
    assert done.stdout.count("\nok ") == 15
