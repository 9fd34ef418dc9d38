"""Several names in one, as a shell writes them: `NAME@{step1000,step16000}` is two names."""

from __future__ import annotations

from lrd_harness.errors import UserError
from lrd_harness.files import there


def expand(name: str, where: str) -> list[str]:
    """The names that a name with one group of braces stands for; any other name is itself.

    For shells that do not expand braces, for quoted names and for suites. `where` stands in error
    messages. Blanks around an item do not count. The name of something that is there is left as it
    is. Raises UserError for braces that do not match, an empty item and a second group.
    """
    if not {"{", "}"} & set(name) or there(name):
        return [name]
    before, opened, rest = name.partition("{")
    inner, closed, after = rest.partition("}")
    if not opened or not closed or "}" in before:
        hint = (
            "; a name with blanks in the braces needs quotes" if opened and "}" not in name else ""
        )
        raise UserError(f"{where}: model '{name}': braces do not match{hint}")
    if {"{", "}"} & {*inner, *after}:
        raise UserError(f"{where}: model '{name}': more than one group of braces")
    items = [item.strip() for item in inner.split(",")]
    if not all(items):
        raise UserError(f"{where}: model '{name}': an item in the braces is empty")
    return [f"{before}{item}{after}" for item in items]
