"""Tables of commands at 80 columns: long names, many columns."""

from __future__ import annotations

from typing import Any

import pytest

from lrd_harness.cli import tables, texts

LONG = ("org/" + "x" * 56, "org/" + "y" * 296)


def printed_table(capsys: Any, names: Any, metrics: int = 3) -> list[str]:
    heads = ("model", *(f"metric{i}" for i in range(metrics)), "parameters", "width")
    cells = [f"{i} (1-{i})" for i in range(metrics)]
    rows = [[name, *cells, "1 (278.0 M)", "1 (768)"] for name in names]
    texts.table("title", heads, rows)
    lines: list[str] = capsys.readouterr().out.splitlines()
    return lines


@pytest.mark.parametrize("name", LONG)
def test_long_names_are_folded_and_cost_no_column(name: str, capsys: Any) -> None:
    lines = printed_table(capsys, [name, "short"])
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    for cell in ("metric0", "2 (1-2)", "1 (278.0 M)", "1 (768)", "width"):
        assert cell in text
    assert text.count(name[-1]) == name.count(name[-1])


def test_columns_without_room_go_on_in_another_table(capsys: Any) -> None:
    lines = printed_table(capsys, LONG, metrics=9)
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert text.count("model") > 1
    for i in range(9):
        assert text.count(f"metric{i}") == 1
        assert text.count(f"{i} (1-{i})") == 2


def test_names_of_other_tables_stay_whole_beside_words(capsys: Any) -> None:
    tables.show("", ("name", "what it is"), [[LONG[0], "many words " * 20]])
    lines = capsys.readouterr().out.splitlines()
    assert LONG[0] in "\n".join(lines)
    assert max(map(len, lines)) <= 80


def test_lists_of_names_hold_nothing_unprintable(capsys: Any) -> None:
    tables.names("of\x1b[2J", ["a\u202eb"])
    out = capsys.readouterr().out
    assert all(line.isprintable() for line in out.splitlines())
    assert "a\\u202eb" in out
