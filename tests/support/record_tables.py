"""Tables of what plugins' records hold, made from the code; as a program, puts them into the docs.

A page says `<!-- fields: Metric -->`; the table below that line is that of the record.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from pathlib import Path
from typing import Any, get_args

from lrd_harness import contracts, measures, report
from lrd_harness.models import image_model, opened, text_model

MARK = re.compile(r"^<!-- fields: (\w+) -->\n(?:\n(?:\|.*\n)+)?", re.MULTILINE)
HEAD = "| field | type | default | what it is |\n|---|---|---|---|\n"
RECORDS = vars(opened) | vars(text_model) | vars(image_model) | vars(report) | vars(contracts)
USUAL = {  # of all records, where their docstring does not say more
    "name": "what users type; no other of its kind has it",
    "description": "one line for listings",
}


def fields_of(record: Any) -> dict[str, tuple[str, str]]:
    """Type and default, "" for none, of each field of a dataclass or a NamedTuple, as written."""
    (tree,) = ast.parse(inspect.getsource(record)).body
    assert isinstance(tree, ast.ClassDef)
    fields = {}
    for node in tree.body:
        if isinstance(node, ast.AnnAssign):
            default = ast.unparse(node.value) if node.value is not None else ""
            default = re.sub(r"^field\(default=(.*), kw_only=True\)$", r"\1", default)
            empty = re.fullmatch(r"field\(default_factory=dict\)", default)
            fields[ast.unparse(node.target)] = (
                ast.unparse(node.annotation),
                "{}" if empty else default,
            )
    return fields


def type_of(hint: str) -> str:
    """A type for readers: a name for some words is these words; no | in a table."""
    known = vars(measures) | vars(contracts)
    for name in set(re.findall(r"\b[A-Z]\w+\b", hint)):
        words = get_args(known.get(name))
        if words and all(isinstance(word, str) for word in words):
            hint = re.sub(rf"\b{name}\b", " | ".join(f'"{word}"' for word in words), hint)
    hint = re.sub(
        r"Literal\[([^\]]*)\]", lambda m: m[1].replace("'", '"').replace(", ", " | "), hint
    )
    return f"`{hint.replace(' | ', ' or ')}`"


def texts_of(record: Any) -> dict[str, str]:
    """What the docstring says of each field: "name: text", up to the next one or a blank line."""
    names = "|".join(fields_of(record))
    body = (inspect.getdoc(record) or "").partition("\n")[2]
    entry = re.compile(
        rf"(?:^|(?<=[;.]\s))({names}): (.*?)(?=[;.]\s+(?:{names}): |\n\n|\Z)",
        re.DOTALL | re.MULTILINE,
    )
    return {
        m[1]: " ".join(m[2].split()).rstrip(".;").replace("|", "\\|") for m in entry.finditer(body)
    }


def fields_table(record: Any) -> str:
    """The fields of a record in Markdown."""
    texts = USUAL | texts_of(record)
    rows = []
    for name, (hint, default) in fields_of(record).items():
        shown = f"`{default}`".replace("'", '"') if default else "required"
        rows.append(f"| `{name}` | {type_of(hint)} | {shown} | {texts.get(name, '')} |\n")
    return HEAD + "".join(rows)


def with_tables(page: str) -> str:
    """A page with the table below each mark as the code has it."""
    return MARK.sub(lambda m: f"<!-- fields: {m[1]} -->\n\n{fields_table(RECORDS[m[1]])}", page)


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        path.write_text(with_tables(path.read_text("utf-8")), "utf-8")
