"""Makes kept/: the OUT and the cache folder of a small run, as the code of its day wrote them.

    cd tests && python -m end_to_end.keep

They were made once, before the package was rebuilt inside, and are to be made again only where it
is decided, and told in the changelog, that runs and caches of before cannot be gone on with. Models
and data are not kept: they are the same to the byte wherever they are made, and a local model is
known by its name and its content, wherever it lies. Left out are reports, which every command makes
again, and what is not ours in the cache.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import sys
import tempfile
from pathlib import Path

from . import made
from .commands import done

KEPT = Path(__file__).parent / "kept"
OUT, CACHE = "out", "cache"
RECORDS = ("run.json", "journal", "mteb", "lm_eval")
DATABASE = "results.sql"  # what makes results.sqlite again, a tenth as large
HALVES, MINE, OTHER = 2, 2, 1  # slices of the run: how many, the one that is kept, the other


def place(folder: Path) -> Path:
    """The models and the data of the run."""
    made.bert(folder / "encoder", 41, 2, 16)
    made.gpt2(folder / "decoder", 42, 3, 16)
    made.small_data(folder / "data")
    made.endings(folder / "own", "kept_endings", 10, 47, data="own/kept_endings.jsonl")
    made.write_texts(folder / "texts.jsonl", 12, 43)
    return folder


def command(out: Path, half: int | None = None) -> list[object]:
    """The run, from within the place; half: one of its two slices.

    A task in YAML is known by what it says, the name of its data too, which is a relative one.
    """
    tasks = ("STSBenchmark", "lm-eval:kept_endings", "texts:texts.jsonl")
    asked: list[object] = ["run", "--models", "encoder", "decoder", "--tasks", *tasks]
    asked += ["--task-data", "data", "--include-path", "own", "--view-texts", 8, "--set", "nrs.k=4"]
    asked += ["--plugins", "frenet,nrs,curvature,dime", "--output", out, "--quiet"]
    return asked if half is None else [*asked, "--shard", f"{half}/{HALVES}"]


def keep(kept: Path) -> None:
    """Make a slice of the run, and keep its records and states."""
    with tempfile.TemporaryDirectory(prefix="lrd-keep-") as work:
        folder = place(Path(work))
        with contextlib.chdir(folder):
            done(folder / CACHE, *command(folder / OUT, half=MINE))
        shutil.rmtree(kept, ignore_errors=True)
        for name in RECORDS:
            copy(folder / OUT / name, kept / OUT / name)
        copy(folder / CACHE / "states", kept / CACHE / "states")
        (kept / DATABASE).write_text(dumped(folder / OUT / "results.sqlite"), encoding="utf-8")


def copy(source: Path, target: Path) -> None:
    """Copy a file or a folder; what is not there is left out."""
    if source.is_dir():
        shutil.copytree(source, target)
    elif source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def dumped(database: Path) -> str:
    """The statements that make a database again."""
    with contextlib.closing(sqlite3.connect(database)) as held:
        version = held.execute("PRAGMA user_version").fetchone()[0]
        lines = "\n".join(held.iterdump())
    return f"{lines}\nPRAGMA user_version = {version};\n"


def restore(kept: Path) -> None:
    """Make the database of what was kept again, in its OUT."""
    statements = (kept / DATABASE).read_text(encoding="utf-8")
    with contextlib.closing(sqlite3.connect(kept / OUT / "results.sqlite")) as held:
        held.executescript(statements)


if __name__ == "__main__":
    keep(Path(sys.argv[1]) if len(sys.argv) > 1 else KEPT)
