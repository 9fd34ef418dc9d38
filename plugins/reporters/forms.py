"""Reporters: a report for a terminal, as Markdown, CSV, JSON and LaTeX, as a page, and folders."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from importlib import import_module
from typing import Any

from lrd_harness.contracts import Reporter
from lrd_harness.hookspecs import hookimpl
from lrd_harness.report import Report


@hookimpl
def lrd_reporters() -> Sequence[Reporter]:
    """All of them; what they need is imported when they are used, as listings call this too."""
    texts = [
        ("table", _later("_sheets", "terminal"), "", "for a terminal"),
        ("md", _later("_markdown", "markdown"), ".md", "Markdown"),
        ("csv", partial(_csv, "models"), ".csv", "one row per model"),
        ("json", _later("_data", "as_json"), ".json", "everything, for programs"),
        ("layers", partial(_csv, "layers"), "-layers.csv", "scores and profiles by layer"),
        ("pruning", partial(_csv, "pruning"), "-pruning.csv", "scores of pruned models"),
        ("checkpoints", partial(_csv, "checkpoints"), "-checkpoints.csv", "over training steps"),
        ("latex", _later("_latex", "latex"), ".tex", "booktabs tables for a paper"),
        ("html", _later("_page", "page"), ".html", "a page that needs no network"),
        ("fragment", _later("_markdown", "fragment"), "", "HTML without a page, as in notebooks"),
    ]
    folders = [
        ("figures", _later("_figures", "figure_files"), "the page's figures as SVG and PNG"),
        ("tidy", _later("_data", "tidy"), "every value, one per row, as CSV and Parquet"),
        ("cards", _later("_markdown", "cards"), "a Hugging Face model card for each model"),
    ]
    return [
        *(Reporter(name, write, suffix, description=line) for name, write, suffix, line in texts),
        *(Reporter(name, files=files, description=line) for name, files, line in folders),
    ]


def _later(module: str, name: str) -> Any:
    """A function of a module of this folder, imported when it is first called."""
    return lambda report: getattr(import_module(f".{module}", __package__), name)(report)


def _csv(name: str, report: Report) -> str:
    """The form that is one table of a report."""
    from ._data import as_csv

    table = report.get(name)
    if table is None and name == "models" and report.tables:
        table = report.tables[0]  # of one that was asked for by name, or of another command
    return as_csv(table) if table is not None else ""
