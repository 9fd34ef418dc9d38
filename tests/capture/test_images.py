"""Images: of any mode right, by PIL's own pixels and by arithmetic, or one line with the file."""

from __future__ import annotations

import io
import pickle
import struct
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image as pil
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import array_shapes, arrays

from lrd_harness.errors import UserError
from lrd_harness.images import Image

RNG = np.random.default_rng(7)
GREY = RNG.integers(0, 256, (5, 7), np.uint8)
RGBA = RNG.integers(0, 256, (5, 7, 4), np.uint8)
RGBA[0, :3, 3], RGBA[1, :3, 3] = 0, 255
COLOURS = pil.fromarray(RGBA[..., :3].copy())


def pixels(source: Any) -> np.ndarray:
    opened = Image.of(source, "it").open()
    assert opened.mode == "RGB"
    return np.asarray(opened)


def encoded(image: pil.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def over_white(rgba: np.ndarray) -> np.ndarray:
    alpha = rgba[..., 3:] / 255
    return rgba[..., :3] * alpha + 255 * (1 - alpha)


def grey_png(bits: int, values: list[int], hidden: int) -> bytes:
    """A PNG file of one row of grey values, one of them transparent, as other programs write it."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    row = "".join(f"{value:0{bits}b}" for value in values)
    row += "0" * (-len(row) % 8)
    data = bytes(int(row[i : i + 8], 2) for i in range(0, len(row), 8))
    header = struct.pack(">IIBBBBB", len(values), 1, bits, 0, 0, 0, 0)
    parts = (b"IHDR", header), (b"tRNS", struct.pack(">H", hidden))
    parts += (b"IDAT", zlib.compress(b"\0" + data)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@pytest.mark.parametrize("mode", "1 L P RGB RGBX CMYK YCbCr LAB HSV".split())
def test_opaque_modes_have_the_pixels_that_pil_gives_them(mode: str) -> None:
    image = COLOURS if mode == "LAB" else COLOURS.convert(mode)
    if mode == "LAB":
        image = pil.frombytes("LAB", COLOURS.size, COLOURS.tobytes())
    assert (pixels(image) == np.asarray(image.convert("RGB"))).all()


@pytest.mark.parametrize(
    "mode", ["RGBA", "RGBa", "LA", "La", "PA", "P, one", "P, bytes", "P, RGBA"]
)
def test_transparent_shows_white(mode: str) -> None:
    image = full = pil.fromarray(RGBA)
    if mode == "RGBa":
        image = full.convert("RGBa")
        full = image.convert("RGBA")
    elif mode in ("LA", "La"):
        full = full.convert("LA")
        image = full.convert("La") if mode == "La" else full
        full = image.convert("LA").convert("RGBA")
    elif mode == "PA":
        image = pil.merge("LA", (pil.fromarray(GREY), full.getchannel("A"))).convert("PA")
        full = image.convert("RGBA")
    elif mode.startswith("P"):
        image = pil.fromarray(GREY % 4).convert("P")
        alpha = bytes([0, 40, 200, 255])
        palette = [9, 8, 7, 60, 50, 40, 100, 0, 200, 255, 1, 3]
        image.putpalette(palette)
        if mode == "P, RGBA":
            rows = [(*palette[3 * i : 3 * i + 3], alpha[i]) for i in range(4)]
            image.putpalette([value for row in rows for value in row], "RGBA")
        else:
            image.info["transparency"] = alpha if mode == "P, bytes" else 0
            alpha = alpha if mode == "P, bytes" else bytes([0, 255, 255, 255])
        colours = np.array(palette, np.uint8).reshape(4, 3)[GREY % 4]
        full = pil.fromarray(np.dstack([colours, np.array([*alpha], np.uint8)[GREY % 4]]))
    found, values = pixels(image), np.asarray(full)
    assert np.abs(found - over_white(values)).max() <= 1  # PIL rounds in steps
    assert (found[values[..., 3] == 0] == 255).all()
    opaque = values[..., 3] == 255
    assert (found[opaque] == values[opaque][:, :3]).all()
    if mode in ("RGBA", "LA", "P, bytes"):
        assert (pixels(encoded(image)) == found).all()


@pytest.mark.parametrize(("bits", "step"), [(1, 255), (2, 85), (4, 17), (8, 1), (16, 1 / 257)])
def test_the_one_transparent_colour_of_a_png_file(bits: int, step: float) -> None:
    values = [0, 1, 2**bits - 1, 1, 2**bits // 2]
    expected = [255 if value == 1 else round(value * step) for value in values]
    assert pixels(grey_png(bits, values, 1))[0].tolist() == [[v] * 3 for v in expected]


def test_a_transparent_colour_beside_rgb() -> None:
    found = pixels(encoded(COLOURS, transparency=COLOURS.getpixel((2, 1))))
    expected = np.asarray(COLOURS).copy()
    expected[1, 2] = 255
    assert (found == expected).all()


@pytest.mark.parametrize("kind", ["<u2", ">u2", "PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled(kind: str) -> None:
    values = RNG.integers(0, 65536, (5, 7), np.uint16)
    values[0, :3] = 0, 255, 65535
    modes = {"<u2": "I;16", ">u2": "I;16B"}
    image = pil.fromarray(values)
    if kind in modes:
        image = pil.frombytes(modes[kind], (7, 5), values.astype(kind).tobytes())
    found = pixels(image if kind in modes else encoded(image, kind))
    assert (found == np.rint(values / 257)[..., None]).all()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 100.25, 254.5], [0, 100, 254]),
        ([0, 1, 255], [0, 1, 255]),
        ([0, 257, 30_000], [0, 1, 117]),
        ([0.0, 257.0, 65_535.0], [0, 1, 255]),
        ([-100, 0, 100], [0, 128, 255]),
        ([-1.0, -0.5, -1.0], [0, 128, 0]),
        ([0, 500_000, 1_000_000], [0, 128, 255]),
        ([0.0, 2e30, 4e30], [0, 128, 255]),
    ],
)
def test_other_numbers_are_scaled_to_eight_bits(values: list[float], expected: list[int]) -> None:
    kind = np.float32 if isinstance(values[0], float) else np.int32
    image = pil.fromarray(np.array([values], kind))
    for source in (image, encoded(image, "TIFF")):
        assert pixels(source)[0].tolist() == [[v] * 3 for v in expected]


def test_a_dark_image_of_16_bits_stays_dark() -> None:
    dark = pil.fromarray(np.full((2, 2), 200, np.uint16))
    assert {int(pixels(encoded(dark, kind)).max()) for kind in ("PNG", "PPM", "TIFF")} == {1}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_photographs_stand_upright(kind: str) -> None:
    values = np.zeros((16, 32, 3), np.uint8)
    values[:8, :16], values[8:, :16] = 250, 130
    turned = {1: values, 2: values[:, ::-1], 3: values[::-1, ::-1], 4: values[::-1]}
    swapped = values.swapaxes(0, 1)
    turned |= {5: swapped, 6: swapped[:, ::-1], 7: swapped[::-1, ::-1], 8: swapped[::-1]}
    for number, expected in turned.items():
        exif = pil.Exif()
        exif[0x0112] = number
        found = pixels(encoded(pil.fromarray(values), kind, exif=exif))
        assert found.shape == expected.shape
        assert np.abs(found.astype(int) - expected).max() < 20, number  # JPEG loses some


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_an_animation_the_first_frame_counts(kind: str) -> None:
    frames = [pil.new("RGB", (6, 4), colour) for colour in ("red", "blue", "lime")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert pil.open(io.BytesIO(data)).n_frames == 3  # type: ignore[attr-defined]
    assert (pixels(data) == [255, 0, 0]).all()


def test_colour_profiles_are_left_alone() -> None:
    assert (pixels(encoded(COLOURS, icc_profile=b"no profile")) == np.asarray(COLOURS)).all()


@settings(max_examples=60, deadline=None)
@given(arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=9).map(lambda s: (*s, 4))))
def test_equal_pixels_have_equal_keys(values: np.ndarray) -> None:
    image = pil.fromarray(values)
    key = Image.of(image)
    shown = key.open()
    for other in (
        encoded(image),
        encoded(shown),
        shown,
        encoded(shown, "BMP"),
        shown.convert("RGBA"),
    ):
        assert Image.of(other) == key
    assert key.size == image.size
    upside = values.copy()
    upside[0, 0] = [*(255 - np.asarray(shown)[0, 0]), 255]
    assert Image.of(pil.fromarray(upside)) != key
    long = pil.frombytes("RGB", (values.shape[0] * values.shape[1], 1), shown.tobytes())
    assert (Image.of(long) == key) == (long.size == image.size)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1)])
def test_any_size(size: tuple[int, int]) -> None:
    key = Image.of(encoded(pil.new("LA", size, (3, 255))))
    assert key.size == key.open().size == size


def test_large_ones_are_read_without_a_word_up_to_what_pillow_opens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pil, "MAX_IMAGE_PIXELS", 20)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Image.of(encoded(COLOURS)).size == (7, 5)
    monkeypatch.setattr(pil, "MAX_IMAGE_PIXELS", 17)
    with pytest.raises(UserError, match=r"it: no image that can be read.*35 pixels.*limit of 34"):
        pixels(encoded(COLOURS))


LARGE = pil.fromarray(RNG.integers(0, 256, (64, 64, 3), np.uint8))
BROKEN = {kind: encoded(LARGE, kind)[:3000] for kind in "PNG JPEG GIF BMP WEBP TIFF PPM".split()}
BROKEN |= {f"begun {kind}": data[:20] for kind, data in BROKEN.items()}
BROKEN["damaged PNG"] = (png := encoded(LARGE))[:1000] + b"?" * 8 + png[1008:]
BROKEN["bomb"] = grey_png(8, [0], 0).replace(
    struct.pack(">II", 1, 1), struct.pack(">II", 9**5, 9**5)
)
BROKEN["no numbers"] = encoded(pil.fromarray(np.array([[1, np.nan]], np.float32)), "TIFF")
BROKEN |= {"empty": b"", "text": b"a b", "blanks": b"\n" * 9, "zip": b"PK\3\4" + bytes(30)}
BROKEN["svg"] = b'<svg xmlns="http://www.w3.org/2000/svg"><rect width="3" height="3"/></svg>'
BROKEN["eps"] = encoded(COLOURS, "EPS")


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_read_is_named_in_one_line(name: str, tmp_path: Path) -> None:
    file = tmp_path / "odd\nname.png"
    file.write_bytes(BROKEN[name])
    for source in (file, str(file), BROKEN[name]):
        with pytest.raises(UserError) as failed:
            Image.of(source, "" if source is not BROKEN[name] else "odd\nname.png")
        line = str(failed.value)
        assert "odd\\nname.png: no image that can be read (" in line
        assert line.isprintable()
        assert len(line) < len(str(tmp_path)) + 200
        assert "<_io" not in line


@pytest.mark.parametrize("name", ["folder", "missing.png", "begun PNG"])
def test_what_is_no_file_and_what_pil_has_not_decoded_yet(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    file: Any = tmp_path / name
    if name == "begun PNG":
        file = pil.open(io.BytesIO(png[:3000]))  # which PIL opens and does not yet decode
    with pytest.raises(UserError, match=f"{name}: no image"):
        Image.of(file, name if name == "begun PNG" else "")
    with pytest.raises(UserError, match="without pixels"):
        Image.of(pil.new("RGB", (0, 4)))


def test_pixels_are_those_of_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    COLOURS.save("a.png")
    image, drawn = COLOURS.copy(), Image.of("a.png")
    kept = Image.of(image)
    image.putpixel((0, 0), (1, 2, 3))
    drawn_on = kept.open()
    drawn_on.putpixel((0, 0), (1, 2, 3))
    assert kept.open().tobytes() == COLOURS.tobytes()
    monkeypatch.chdir("/")
    assert drawn.open().tobytes() == COLOURS.tobytes()
    assert Image.of(drawn) is drawn
    image.save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png: the image changed"):
        drawn.open()
    (tmp_path / "a.png").unlink()
    with pytest.raises(UserError, match=r"a\.png: no image"):
        drawn.open()


def test_they_go_to_other_processes(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(COLOURS))
    for source in (tmp_path / "a.png", encoded(COLOURS), COLOURS, pil.open(tmp_path / "a.png")):
        image = Image.of(source, "one")
        copy = pickle.loads(pickle.dumps(image))
        assert (copy, copy.name, type(copy)) == (image, "one", Image)
        assert copy.open().tobytes() == COLOURS.tobytes()


def test_without_pillow_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(COLOURS)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(UserError, match=r'pip install "lrd-harness\[vision\]"'):
        Image.of(data)
