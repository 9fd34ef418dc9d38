"""Wheels that are damaged or made to do harm: one line each, and nothing is left of them."""

from __future__ import annotations

import contextlib
import struct
import tempfile
import zipfile
from pathlib import Path

import pytest
from fixtures_packages import MakeWheel
from hypothesis import given, settings
from hypothesis import strategies as st

from lrd_harness.errors import UserError
from lrd_harness.models import wheels
from lrd_harness.models.wheels import unpack

TEXT = b"some rows of text, again and again: some rows of text\n" * 40
NAME = "demo/rows.txt"


def wheel(folder: Path, method: int = zipfile.ZIP_DEFLATED, **files: bytes) -> Path:
    path = folder / "demo-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in (files or {NAME: TEXT}).items():
            archive.writestr(name, content)
    return path


def refused(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        unpack(path, path.parent / "files")
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) <= 280, "with what goes before it, a line of 300"
    return message


METHODS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("at", [0, 1, 9, 30])
def test_content_that_is_damaged(method: int, at: int, tmp_path: Path) -> None:
    """Each compression has errors of its own, as zlib.error and LZMAError."""
    path = wheel(tmp_path, method)
    content = bytearray(path.read_bytes())
    start = 30 + len(NAME) + at
    content[start : start + 8] = bytes(byte ^ 0xFF for byte in content[start : start + 8])
    path.write_bytes(content)
    assert "no sound wheel" in refused(path)


@pytest.mark.parametrize("part", [0.0, 0.3, 0.6, 0.9, 0.99])
def test_a_file_that_is_cut(part: float, tmp_path: Path) -> None:
    path = wheel(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    assert "no sound wheel" in refused(path)


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        *((6, b"\1"), (6, b"\40"), (8, b"\x63"), (14, b"\0\0\0\0"), (0, b"PK\7\7")),
        *((26, b"\xff\xff"), (28, b"\xff\xff")),
    ],
    ids=["encrypted", "patched", "compression", "crc", "magic", "name", "extra"],
)
def test_headers_that_lie(offset: int, value: bytes, tmp_path: Path) -> None:
    """In the file's own header and in the list at the end, where the same lies two bytes on."""
    path = wheel(tmp_path)
    content = bytearray(path.read_bytes())
    for start in (offset, content.index(b"PK\1\2") + offset + (2 if offset else 0)):
        content[start : start + len(value)] = value
    path.write_bytes(content)
    assert "no sound wheel" in refused(path)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        *((name, "empty part") for name in (".", "./x", "a//b", "a/./b", "a/.")),
        *((name, "cannot be printed") for name in ("a\nb", "a\x1b[31mb", "a\u202eb", "a\x7fb")),
        *((name, "too long") for name in ("x" * 256, f"a/{'é' * 128}/b", "a/" * 600 + "b")),
        *((name, "leads out of the folder") for name in ("..", "a/../../b", "../b", "../")),
        *((name, "an absolute path or a foreign separator") for name in ("/a", "C:a", "a\\b")),
    ],
)
def test_names(name: str, fault: str, tmp_path: Path) -> None:
    message = refused(wheel(tmp_path, **{"demo/a": b"x", name: b"x"}))
    assert fault in message
    assert sorted(p.name for p in tmp_path.iterdir()) == ["demo-1.0-py3-none-any.whl"]


def test_a_name_of_nothing(tmp_path: Path) -> None:
    """A zero byte ends a name, and here begins it."""
    path = wheel(tmp_path, **{"demo/a": b"x", "?": b"x"})
    path.write_bytes(path.read_bytes().replace(b"?", b"\0"))
    assert "empty part" in refused(path)


@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b/c", "a/b"), ("x/A", "x/a/b")])
def test_a_file_and_a_folder_of_one_name(names: tuple[str, ...], tmp_path: Path) -> None:
    assert "a file and a folder of one name" in refused(
        wheel(tmp_path, **dict.fromkeys(names, b""))
    )


def test_folders_of_their_own_are_nothing_bad(tmp_path: Path) -> None:
    path = wheel(tmp_path, **{"a/": b"", "a/b/": b"", "a/b/c": b"x", "é.txt": b"y", "d e": b"z"})
    unpack(path, tmp_path / "files")
    assert (tmp_path / "files" / "a" / "b" / "c").read_bytes() == b"x"


def test_the_same_name_twice(tmp_path: Path) -> None:
    path = wheel(tmp_path)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(NAME, b"others")
    assert "twice the same name" in refused(path)


def test_a_name_that_is_not_unicode(tmp_path: Path) -> None:
    path = wheel(tmp_path, déjà=b"x")
    path.write_bytes(path.read_bytes().replace("déjà".encode(), b"d\xff\xfej\xff\xfe"))
    assert "no sound wheel" in refused(path)


def test_sizes_beyond_the_file(tmp_path: Path) -> None:
    path = wheel(tmp_path)
    content = path.read_bytes()
    at = content.index(b"PK\5\6")
    for offset in (12, 16):  # size and place of the list at the end
        lying = content[: at + offset] + struct.pack("<L", 0x7FFFFFF0) + content[at + offset + 4 :]
        path.write_bytes(lying)
        assert "no sound wheel" in refused(path)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_wheel_changed_anywhere(data: st.DataObject) -> None:
    """It is unpacked as it was meant, or refused; a name may be another one."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = wheel(folder, **{NAME: TEXT, "demo/config.json": b"{}"})
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            at = data.draw(st.integers(0, len(content) - 1))
            content[at] = data.draw(st.integers(0, 255))
        path.write_bytes(content)
        with contextlib.suppress(UserError):
            unpack(path, folder / "files")
            for file in (folder / "files").rglob("*"):
                assert file.is_dir() or file.read_bytes() in (TEXT, b"{}")


def test_what_pip_makes_of_them(make_wheel: MakeWheel, cache: Path) -> None:
    """Whichever of the two meets the damage, it is said in a line."""
    sound = make_wheel({NAME: TEXT}).read_bytes()
    at = sound.index(b"METADATA")
    for content in (b"", sound[:200], sound[: at + 8] + b"\xff" * 9 + sound[at + 17 :]):
        next((cache.parent / "index").glob("*.whl")).write_bytes(content)
        with pytest.raises(UserError) as caught:
            wheels.fetch("demo-pkg==1.0")
        message = str(caught.value)
        assert message.startswith("pypi:demo-pkg==1.0: ") or "no sound wheel" in message
        assert message.isprintable()
        assert len(message) <= 280
        assert not list((cache / "packages").iterdir())
