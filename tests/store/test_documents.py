"""JSON and YAML of others: what is wrong with them is one UserError, with the line."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import yaml

from lrd_harness import UserError
from lrd_harness.planning.suite import load
from lrd_harness.store.documents import json_value, read_file, yaml_value

DEEP = 200_000
BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {k: v}\n" + "".join(
    f"m{i}: &m{i} {{<<: [{', '.join([f'*m{i - 1}' if i else '*a'] * 40)}]}}\n" for i in range(8)
)
YAML_FAULTS = {
    "tasks:\n- 2024-13-45": "line 2: not YAML ('2024-13-45' is no timestamp)",
    "a: 2024-02-30T25:61:61": "line 1: not YAML ('2024-02-30T25:61:61' is no timestamp)",
    "a: !!int abc": "line 1: not YAML ('abc' is no int)",
    "a: !!int ''": "line 1: not YAML ('' is no int)",
    "a: !!float q": "is no float",
    "a: !!bool perhaps": "is no bool",
    "a: !!timestamp never": "is no timestamp",
    "\n\na: " + "9" * 5000: "line 3: not YAML ('" + "9" * 40 + "' ",
    "a: 0x" + "f" * 3000: "is beyond 64 bits",
    "a: 36893488147419103232": "is beyond 64 bits",
    "a: .inf": "'.inf' is no finite number",
    "a: -.INF": "is no finite number",
    "a: .nan": "is no finite number",
    "a: !!binary é": "failed to convert",
    "a: !foo bar": "could not determine a constructor",
    "a: !!python/object/apply:os.getcwd []": "could not determine a constructor",
    "a: &a [*a]": "an anchor holds itself",
    "a: &a {x: {y: *a}}": "an anchor holds itself",
    "a: *nobody": "found undefined alias",
    "a: 1\nb: 2\na: 3": "line 1: not YAML ('a' stands there twice)",
    "{[1]: 2}": "found unhashable key",
    "[" * 2000: "nested too deeply",
    "- " * 2000 + "a": "nested too deeply",
    "a: \x00": "special characters are not allowed",
    BOMB: "comes to more than 100,000 values",
    MERGES: "comes to more than 100,000 values",
}


@pytest.mark.slow
@pytest.mark.parametrize("text", YAML_FAULTS, ids=lambda text: repr(text[:20]))
def test_yaml_that_is_none(text: str, tmp_path: Path) -> None:
    begun, file = time.monotonic(), tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as fault:
        yaml_value(text, "F.yaml")
    assert YAML_FAULTS[text] in str(fault.value)
    assert str(fault.value).startswith("F.yaml")
    assert len(str(fault.value)) < 300
    with pytest.raises(UserError, match=r"^[^\n]+mine\.yaml"):
        load(str(file))  # as a suite
    assert time.monotonic() - begun < 20


def test_what_is_sound_is_read_as_by_pyyaml() -> None:
    text = "a: &x [1, 0x1F, 1_000, -2.5, 1.0e+3, ~, yes, 2024-01-31, 'é']\nb: *x\nc: {<<: {d: 1}}\n"
    text += "d: 1e999\n"  # in YAML 1.1 a text, since there is no point in it
    assert yaml_value(text, "F") == yaml.safe_load(text)


JSON_FAULTS = {
    "nested too deeply": "[" * DEEP,
    "nested too": '{"a":' * DEEP,
    "Exceeds the limit": "9" * 5000,
    "can't decode": b"\xff",
    "half of a surrogate pair": '{"a": "\\ud800"}',
    "Expecting value": "",
}


@pytest.mark.parametrize("reason", JSON_FAULTS)
def test_json_that_is_none_is_a_value_error(reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        json_value(JSON_FAULTS[reason])


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "away")
    faults = {"pipe": "is no file", ".": "is no file, but a folder", "link": "cannot"}
    for name, reason in faults.items():
        with pytest.raises(UserError, match=reason):
            read_file(tmp_path / name)
