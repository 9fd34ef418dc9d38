"""Forms that are folders: the contract, safe names and paths, and the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrd_harness.cli import main
from lrd_harness.contracts import Reporter
from lrd_harness.errors import UserError
from lrd_harness.store.folders import LIST, folded, inside, safe_name, safe_names, write_folder
from lrd_harness.testing import check_reporter

# fmt: off
HOSTILE = (
    "org/model_50%", "[red]*star*", "--- ,, '' `` ?` !` \"x\"", "a & b \\ {c} $d$ #e ^f ~g",
    "two\nlines\r\x1b[31m: {yaml: [1, 2]}", "<script>|</script>", "../../etc/passwd",
    "right\u202eto left", "x" * 300, "模型 é ß", "- |\n---\n", "=1+1", "#type", "lead", " lead",
    "lead\n", "\\#type", "nan", "Org/model_50%",
)
# fmt: on


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "reporter 'x' needs either write or files"),
        ({"write": str, "files": lambda report: []}, "and not both"),
        ({"files": lambda report: [], "suffix": ".x"}, "a folder, which has no suffix"),
    ],
)
def test_a_reporter_writes_a_text_or_a_folder(fields: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Reporter("x", **fields)


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ([("../x", b"")], "gives the file '../x'"),
        ([("a", b""), ("a", b"")], "gives a file twice"),
        ([("a", b""), ("A", b"")], "gives files that differ in case"),
        ([("a", "text")], "gave 'text', not bytes, for 'a'"),
    ],
)
def test_faults_of_reporters_are_named(files: Any, reason: str) -> None:
    with pytest.raises(AssertionError, match=reason):
        check_reporter(Reporter("x", files=lambda report: files))
    texts = iter("abcd")
    with pytest.raises(AssertionError, match="another text each time"):
        check_reporter(Reporter("x", lambda report: next(texts)))


@given(
    st.lists(
        st.text(max_size=120)
        | st.sampled_from(["a:b", "Org/Model", "org/model", "e\u0301", "\xe9", "", "\xdf", "ss"])
    )
)
@settings(max_examples=50, deadline=None)
def test_a_safe_name_is_one_part_of_a_path_and_of_one_name(names: list[str]) -> None:
    safe = [safe_name(name) for name in names]
    again = {*names, *safe, *map(safe_name, safe), *map(str.upper, safe)}
    assert len({safe_name(name) for name in again}) == len(again)
    distinct = safe_names(again)
    assert set(distinct) == again
    assert len({folded(name) for name in distinct.values()}) == len(again)
    for name in (*safe, *distinct.values()):
        assert inside(name)
        assert "/" not in name
        assert len(name.encode()) <= 110


def test_safe_names_stay_readable_and_distinct() -> None:
    assert safe_name("intfloat/e5-small-v2") == "intfloat__e5-small-v2"
    assert safe_name("model@1a2b") == "model@1a2b"
    assert safe_names(["Org/Model", "b"]) == {"Org/Model": "Org__Model", "b": "b"}
    alike = ["a/b", "a__b", "a/b/", "a//b", "a:b", "a_b", "a b", "", ".", "..", "/", "con", "CON.x"]
    safe = [safe_name(name) for name in [*alike, "x" * 301, "-rf", *HOSTILE]]
    assert len({name.casefold() for name in safe}) == len(safe)
    assert not {"con", ".", "..", ""} & set(safe)
    assert not any(name.startswith("-") for name in safe)


BAD = [*"/x ../x a/../x a//x . a/. a\\x c:x".split(), "", "a\0", "a\nb", LIST, "x" * 300]


@pytest.mark.parametrize("path", BAD)
def test_paths_that_leave_the_folder_are_refused(path: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no path inside the folder"):
        write_folder(tmp_path / "out", "odd", [("fine", b"1"), (path, b"2")])
    assert not (tmp_path / "out").exists()


def test_files_are_replaced_only_where_they_are_ours(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert write_folder(out, "x", [("a/b.txt", b"1"), ("c", b"2")]) == ["a/b.txt", "c"]
    write_folder(out, "x", [("a/b.txt", b"3")])
    write_folder(out, "y", [("c", b"2"), ("d", b"4")])  # of another form, as it was left
    assert [(out / n).read_bytes() for n in ("a/b.txt", "c", "d")] == [b"3", b"2", b"4"]
    (out / "c").write_bytes(b"edited")
    with pytest.raises(UserError, match="not made by lrd-harness or changed since"):
        write_folder(out, "x", [("d", b"5"), ("c", b"6")])
    assert ((out / "c").read_bytes(), (out / "d").read_bytes()) == (b"edited", b"4")
    (out / "mine").write_bytes(b"mine")
    with pytest.raises(UserError, match="mine is there already"):
        write_folder(out, "x", [("mine", b"7")])
    (out / LIST).write_text("nothing of the kind")
    with pytest.raises(UserError, match="is there already"):
        write_folder(out, "x", [("d", b"8")])
    write_folder(out, "x", [("d", b"4")])  # the same contents harm nobody
    with pytest.raises(UserError, match="twice"):
        write_folder(out, "x", [("z", b""), ("z", b"")])
    with pytest.raises(UserError, match="'z/a' and 'Z/a', which are one where upper"):
        write_folder(out, "x", [("z/a", b""), ("Z/a", b"")])


def test_a_folder_never_holds_parts_of_two_calls(tmp_path: Path) -> None:
    out, said = tmp_path / "out", list[str]()
    write_folder(out, "x", [("a/b/c", b"1"), ("a/d", b"2"), ("e/f", b"3"), ("g", b"4")])
    write_folder(out, "y", [("h", b"5")], said.append)  # another form's stay
    assert [(out / name).exists() for name in ("a/b/c", "a/d", "e/f", "g", "h")] == [True] * 5
    (out / "e" / "mine").write_text("mine")
    (out / "g").write_bytes(b"changed")
    write_folder(out, "x", [("a/d", b"6")], said.append)
    left = sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())
    assert left == [LIST, "a/d", "e/mine", "g", "h"]
    assert not (out / "a" / "b").exists()
    assert said == [f"{out / 'g'} is left of an earlier call, as it was changed since"]
    write_folder(out, "x", [], said.append)  # nothing to show: all stays
    assert (out / "a" / "d").read_bytes() == b"6"
    assert len(said) == 1


def test_a_list_that_names_what_is_outside_removes_nothing(tmp_path: Path) -> None:
    out, away = tmp_path / "out", tmp_path / "away"
    write_folder(away, "x", [("a", b"1")])
    write_folder(out, "x", [("b", b"2")])
    (out / "link").symlink_to(away)
    listed = json.loads((away / LIST).read_text())
    files = dict.fromkeys(("../away/a", str(away / "a"), "link/a"), listed["files"]["a"])
    (out / LIST).write_text(json.dumps({**listed, "files": files}))
    write_folder(out, "x", [("c", b"3")])
    assert (away / "a").read_bytes() == b"1"


def test_what_is_in_the_way_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file, and the form x is a folder"):
        write_folder(tmp_path / "file", "x", [("a", b"")])
    away = tmp_path / "away"
    away.mkdir()
    (tmp_path / "link").symlink_to(away)
    for path in ("link/a", "link", "file/a", "away"):
        with pytest.raises(UserError, match="is in the way"):
            write_folder(tmp_path, "x", [(path, b"1")])
    assert list(away.iterdir()) == []


DATA = Path(__file__).parents[1] / "data"
VALUES = ["leaderboard", "--values", str(DATA / "layer_values.csv")]
COMMAND = [*VALUES, "--actual", str(DATA / "layer_scores.csv")]


@pytest.mark.slow
def test_folders_from_the_command(tmp_path: Path, capsys: Any) -> None:
    assert main([*COMMAND, "--format", "tidy"]) == 2
    said = capsys.readouterr().err
    assert said == "lrd-harness: --format tidy writes a folder: give --output DIR\n"
    out = tmp_path / "out"
    for form, file in (("tidy", "values.csv"), ("cards", "large/README.md")):
        assert main([*COMMAND, "--format", form, "--output", str(out)]) == 0
        said = capsys.readouterr()
        assert (out / file).is_file()
        assert f"written to {out}: " in said.err
        assert said.out == ""
    (out / "values.csv").write_text("mine")
    assert main([*COMMAND, "--format", "tidy", "--output", str(out)]) == 2
    assert "values.csv is there already" in capsys.readouterr().err
    assert main([*VALUES, "--format", "cards", "--output", str(out)]) == 0
    assert "nothing to show in the form cards" in capsys.readouterr().err
    # the form is as the output ends
    for name, begins in {
        "board.md": "# Leaderboard",
        "board.csv": "rank,",
        "board.json": "{",
        "board.tex": "% Made by",
        "board": "Leaderboard: ",
        "leaderboard-layers.csv": "model,revision,task,layer,",
    }.items():
        assert main([*COMMAND, "--output", str(tmp_path / name)]) == 0
        assert (tmp_path / name).read_text().startswith(begins)
