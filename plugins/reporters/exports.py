"""Exports: the leaderboard for papers, for data frames, and as model cards."""

from __future__ import annotations

from collections.abc import Sequence

from lrd_harness.contracts import Reporter
from lrd_harness.hookspecs import hookimpl

from ._cards import cards
from ._latex import latex
from ._tidy import tidy


@hookimpl
def lrd_reporters() -> Sequence[Reporter]:
    """LaTeX, and two folders: every value in tidy tables, a card for each model."""
    return [
        Reporter("latex", latex, ".tex", description="booktabs tables for a paper"),
        Reporter("tidy", files=tidy, description="every value, one a row, as CSV and Parquet"),
        Reporter("cards", files=cards, description="a Hugging Face model card for each model"),
    ]
