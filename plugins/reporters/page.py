"""Reporters: the leaderboard as a page for a browser, and its figures as files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING

from lrd_harness.contracts import Reporter
from lrd_harness.hookspecs import hookimpl

if TYPE_CHECKING:
    from lrd_harness.board.leaderboard import Leaderboard


@hookimpl
def lrd_reporters() -> Sequence[Reporter]:
    """The page is kept by every run; the figures are made on demand."""
    return [
        Reporter("html", html, ".html", description="a page that needs no network"),
        Reporter("figures", files=figure_files, description="the page's figures as SVG and PNG"),
    ]


def html(board: Leaderboard) -> str:
    """One file that makes no request: verdicts, sortable tables, figures, the data to download.

    The same board gives the same file; no date is in it.
    """
    from ._figures import figures
    from ._page import page
    from .forms import as_csv, as_json

    downloads = [
        ("leaderboard.json", "application/json", "JSON, everything", as_json),
        ("leaderboard.csv", "text/csv", "CSV, a line a model", as_csv),
    ]
    return page(board, figures(board), library, downloads)


def figure_files(board: Leaderboard) -> Iterable[tuple[str, bytes]]:
    """NAME.svg and NAME.png of every figure."""
    from ._figures import figure_files

    return figure_files(board)


@lru_cache(maxsize=1)
def library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script that may stand in a page.

    It comes with vl-convert, which takes a second or two to put it together: the result is kept in
    the cache folder, under the versions that it is of.
    """
    from importlib.metadata import version

    import vl_convert

    from lrd_harness.errors import UserError
    from lrd_harness.store.files import write_text
    from lrd_harness.store.location import cache_dir

    from ._figures import vega_lite

    made = vega_lite()
    name = f"vl-convert-{version('vl-convert-python')}-{made}.js"
    path = cache_dir() / "scripts" / name
    if path.exists():
        return path.read_text(encoding="utf-8")
    script: str = vl_convert.javascript_bundle(vl_version=made)  # type: ignore[call-arg]
    # within a string or a pattern of JavaScript the same, but no longer the end of the element
    script = script.replace("</script", "<\\/script").replace("<!--", "<\\!--")
    with suppress(OSError, UserError):  # a disk that is full or read-only costs time alone
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, script)
    return script
