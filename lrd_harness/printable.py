"""Names from strangers, as they may be printed."""

from __future__ import annotations


def plain(text: object) -> str:
    """Text with everything unprintable (line ends, escapes, direction marks) made visible."""
    shown = str(text)
    if shown.isprintable():
        return shown
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in shown
    )
