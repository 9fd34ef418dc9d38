"""Hooks of mkdocs: the README is the first page, and no page fetches anything from elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

FETCHED = re.compile(r"""(?:src=|<link[^>]*href=|url\(|@import\s*)["']?(?:https?:)?//[^"')\s]+""")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Put the README beside the pages that it links to."""
    readme = Path(config.docs_dir).with_name("README.md").read_text(encoding="utf-8")
    files.append(File.generated(config, "index.md", content=readme.replace("](docs/", "](")))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Take the name of the file, which is for tests, off a block: it is no Markdown here."""
    return re.sub(r"^```(\w+) file=\S+$", r"```\1", markdown, flags=re.MULTILINE)


def on_post_build(config: MkDocsConfig) -> None:
    """Refuse a site that needs the network to be read."""
    for path in Path(config.site_dir).rglob("*"):
        if path.suffix in (".html", ".css") and (met := FETCHED.search(path.read_text("utf-8"))):
            raise PluginError(f"{path} fetches {met.group()}")
