"""The command line in this process: what a call printed, and its exit code."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

from lrd_harness.cli import main

CACHE = "LRD_HARNESS_CACHE"
FULL = (
    "run",
    "merge",
    "leaderboard",
)  # print an answer and the ranking alone where not asked for all


class Said(NamedTuple):
    """What a command left: its exit code and its two streams."""

    code: int
    out: str
    err: str


def lrd(cache: Path, *arguments: object) -> Said:
    """`lrd-harness ARGUMENTS`, with a cache folder."""
    out, err = io.StringIO(), io.StringIO()
    arguments += ("--full",) if {*arguments[:1]} & {*FULL} else ()
    with (
        patch.dict(os.environ, {CACHE: str(cache)}),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as ended:  # as argparse ends
            code = int(ended.code or 0)
    return Said(code, out.getvalue(), err.getvalue())


def done(cache: Path, *arguments: object) -> str:
    """What a command printed, which must have ended with exit code 0."""
    said = lrd(cache, *arguments)
    assert said.code == 0, said.err
    return said.out
