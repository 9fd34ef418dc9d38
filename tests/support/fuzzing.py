"""What the fuzzing test is made of: hostile values, documents damaged by them, and what may come.

Documents are damaged in two ways: values in their tree are replaced, removed or added, and bytes of
the file are cut, repeated or replaced. What a command makes of any of it is held to one contract.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from hypothesis import strategies as st

from lrd_harness.cli import main

LONGEST = 300  # characters of a line on standard error
DEEP = 20_000  # brackets: beyond what any parser follows

# fmt: off
VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 3, 10**30, -(10**400), 1e308, 0.5, float("nan"), float("inf"),
    "", " ", "x", "x" * 400, "a\nb", "\x00", "\u202e", "\x1b[31m", "~nouser/x", "../..", "é" * 200,
    [], {}, [[]], [None], [1, "a"], ["x"] * 3, {"a": 1}, {"": None}, {"x" * 400: []},
    "{a,b}", "{" * 50, "nan", "1e999", "%s", "=1+1", "pypi:", "a:b", "@", "9" * 5000,
)
SCALARS = (  # YAML that raises where values are made of it, or makes odd ones
    "2024-13-45", "2024-02-30T25:61:61", "!!int abc", "!!int ''", "9" * 5000, ".inf", "-.inf",
    ".nan", "!!binary x", "!!binary 'é'", "!foo bar", "!!float q", "!!timestamp never", "!!set [a]",
    "!!omap {a: 1}", "!!pairs [1]", "&a [*a]", "&b {x: *b}", "*nobody", "{[1]: 2}", "{{a: 1}: 2}",
    "!!python/object/apply:os.getcwd []", "!!bool perhaps", "!!null {}", "<<: 1", "? [a]\n: b",
    "[" * DEEP, "{a: " * 2000, "0x" + "f" * 3000, "1:60:99", "0b2", "'\\ud800'", '"\\ud800"',
    "a: b: c", "%YAML 9.9", "--- a\n--- b", "\x00", "\t- a", "@x", "`x", "!!str", "!", "&",
    "2024-01-01", "\ufeff",
)
BYTES = (
    b"", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\xe9", b"\n", b"\r", b'"', b"{", b"}", b"[", b"]",
    b",", b";", b"\t", b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"null", b"\\ud800", b"x" * 400,
    b"[" * DEEP, b'{"a":' * DEEP, b"\xf0\x9f", b"\x1b[2J", b"'", b"#", b"=", b"=1+1", b"%", b"0.5",
)
# fmt: on


def _places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values in a tree of mappings and lists, the root's own among them."""
    yield path
    if isinstance(tree, list):
        tree = dict(enumerate(tree[:3]))
    for key, value in tree.items() if isinstance(tree, dict) else ():
        yield from _places(value, (*path, key))


@st.composite
def damaged(draw: st.DrawFn, tree: Any) -> Any:
    """The tree with one to three of its values replaced, removed, doubled or added to."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(_places(tree))))
        value = copy.deepcopy(draw(st.sampled_from(VALUES)))
        if not path:
            if draw(st.integers(0, 9)) == 0:
                return value
            continue
        above = tree
        for part in path[:-1]:
            above = above[part]
        how = draw(st.sampled_from(("replace", "replace", "replace", "remove", "add")))
        if how == "replace":
            above[path[-1]] = value
        elif how == "remove":
            del above[path[-1]]
        elif isinstance(above, dict):
            above[draw(st.sampled_from(["", "x", "name", "x" * 400, "a\nb"]))] = value
        else:
            above.append(value)
    return tree


@st.composite
def torn(draw: st.DrawFn, content: bytes) -> bytes:
    """The bytes with one to three places cut, repeated or replaced."""
    for _ in range(draw(st.integers(1, 3))):
        ends = [draw(st.integers(0, len(content))) for _ in range(2)]
        low, high = min(ends), min(max(ends), min(ends) + 60)
        middle = draw(st.sampled_from(BYTES))
        how = draw(st.sampled_from(("insert", "replace", "cut", "repeat")))
        if how == "insert":
            content = content[:low] + middle + content[low:]
        elif how == "replace":
            content = content[:low] + middle + content[high:]
        elif how == "cut":
            content = content[:low]
        else:
            content = content[:high] + content[low:]
    return content


def as_json(tree: Any) -> bytes:
    """JSON, with the literals that Python adds to it; halves of surrogate pairs as escapes."""
    return json.dumps(tree).encode()


def as_lines(rows: Any) -> bytes:
    """JSON lines of whatever the list of rows has become."""
    every = rows if isinstance(rows, list) else [rows]
    return b"".join(as_json(row) + b"\n" for row in every)


@st.composite
def document(draw: st.DrawFn, tree: Any, write: Callable[[Any], bytes] = as_json) -> bytes:
    """A damaged file of that tree: its values, its bytes, or both."""
    how = draw(st.sampled_from(("values", "values", "bytes", "both")))
    content = write(tree if how == "bytes" else draw(damaged(tree)))
    return content if how == "values" else draw(torn(content))


@st.composite
def yaml_document(draw: st.DrawFn, tree: Any) -> bytes:
    """As `document`, in YAML; a value may also be text that raises where it is read."""

    def write(tree: Any) -> bytes:
        return yaml.safe_dump(tree, allow_unicode=False).encode()

    if draw(st.booleans()):
        return draw(document(tree, write))
    tree = copy.deepcopy(tree)
    path = draw(st.sampled_from([p for p in _places(tree) if p]))
    above = tree
    for part in path[:-1]:
        above = above[part]
    above[path[-1]] = "HERE"
    return write(tree).replace(b"HERE", draw(st.sampled_from(SCALARS)).encode(), 1)


class Outcome(NamedTuple):
    """What a command came to: its exit code, what it printed, a traceback that left it ("")."""

    code: Any
    out: str
    err: str
    left: str


def outcome(arguments: Sequence[str]) -> Outcome:
    """Run a command line in this process."""
    out, err, left, code = io.StringIO(), io.StringIO(), "", None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(list(arguments))
        except SystemExit as error:
            code = error.code
        except BaseException:  # whatever leaves the command is what is looked for
            left = traceback.format_exc()
    return Outcome(code, out.getvalue(), err.getvalue(), left)


def faults(result: Outcome) -> list[str]:
    """What is wrong with an outcome: a traceback, an exit code, the length of a line."""
    wrong = []
    lines = result.err.split("\n")
    if result.left:
        wrong.append(f"left by an exception:\n{result.left[-3000:]}")
    elif result.code not in (0, 1, 2):
        wrong.append(f"exit code {result.code!r}")
    if "Traceback (most recent call last)" in result.out + result.err:
        wrong.append(f"a traceback is printed:\n{result.err[-3000:]}")
    long = [line for line in lines if len(line) > LONGEST]
    if long:
        wrong.append(f"a line of {len(long[0])} characters: {long[0][:400]}")
    if result.code == 2 and not result.left:
        ours = [line for line in lines if line.startswith("lrd-harness: ")]
        if len(ours) != 1:
            wrong.append(
                f"exit code 2 with {len(ours)} lines of the harness: {result.err[-600:]!r}"
            )
    return wrong


def judge(arguments: Sequence[str], wrong: Sequence[str]) -> None:
    """Fail for anything that is wrong."""
    assert not wrong, f"{arguments}\n" + "\n".join(wrong)


def tree_of(folder: Path) -> dict[str, int]:
    """The files under a folder, dot-files among them, with their sizes."""
    files = [Path(above) / name for above, _, names in os.walk(folder) for name in names]
    return {str(path.relative_to(folder)): path.lstat().st_size for path in files}
