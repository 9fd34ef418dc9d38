"""Images as tasks, the store and metrics know them: by a key, with the pixels behind it.

All are brought to RGB here and nowhere else. What is transparent shows white; a photograph stands
upright, as its EXIF data say; of an animation the first frame counts, of several pages the first;
16 bits and decimals are scaled to 8 bits; colour profiles are left alone.
"""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrd_harness.errors import UserError, first_line, plain

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image as Picture

RULE = "RGB, upright, transparent over white"  # in the identity of states: other rules, others
PREFIX = "image:"
DRAWINGS = ("EPS", "WMF", "EMF")  # lines, not pixels; pillow would start other programs for them
GREYS = {"L;2": 85, "L;4": 17}  # from 2 and 4 bits to 8, as pillow reads pixels
TASK_TYPES = (  # how the types of tasks on images begin, in mteb's words; "Images" have no labels
    *("Image", "Visual", "Vision", "Any2Any"),
    *("ZeroShotClassification", "Compositionality", "DocumentUnderstanding"),
)


class Image(str):
    """An image as its key, which goes wherever a text goes; alike in size and pixels, alike in key.

    name: what messages call it, as its file.
    """

    name: str
    _make: Callable[[], Picture]

    @classmethod
    def of(cls, source: Any, name: str = "") -> Image:
        """An image from a path, the bytes of a file or a PIL image; decoded once, for its key.

        Of a PIL image the pixels are kept as they are now. Raises UserError, naming it, for what
        is no image or is damaged.
        """
        if isinstance(source, Image):
            return source
        if isinstance(source, str | os.PathLike):
            source = Path(source).absolute()
            name = name or str(source)
        name = name or "an image"
        picture = opened(source, name)
        key = key_of(picture)
        if not isinstance(source, Path | bytes):
            return cls.derived(key, picture.copy, name)
        return cls.derived(key, partial(reopened, source, name, key), name)

    @classmethod
    def derived(cls, key: str, make: Callable[[], Picture], name: str) -> Image:
        """An image of that key that is made, in RGB, when it is opened."""
        image = cls(key)
        image._make, image.name = make, name
        return image

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, without opening it."""
        width, height = self.removeprefix(PREFIX).partition(":")[0].split("x")
        return int(width), int(height)

    def open(self) -> Picture:
        """The pixels, as a PIL image in RGB. Raises UserError where they are gone or damaged."""
        return self._make()


def key_of(picture: Picture) -> str:
    """The key of an RGB image: its size, and a hash of that and of the pixels."""
    size = f"{picture.width}x{picture.height}"
    digest = hashlib.sha256(f"{size}\0".encode() + picture.tobytes()).hexdigest()[:32]
    return f"{PREFIX}{size}:{digest}"


def reopened(source: Path | bytes, name: str, key: str) -> Picture:
    """The image that had this key. Raises UserError if the file has another one by now."""
    picture = opened(source, name)
    if key_of(picture) != key:
        raise UserError(f"{plain(name)}: the image changed while it was read; start again")
    return picture


def on_images(task_type: str) -> bool:
    """Whether tasks of a type are on images.

    >>> on_images("VisualSTS(eng)"), on_images("STS")
    (True, False)
    """
    return task_type.startswith(TASK_TYPES)


def pillow() -> Any:
    """PIL.Image, which users of texts alone may lack. Raises UserError, saying what to install."""
    try:
        import PIL.Image
    except ImportError:
        raise UserError('images need pillow: pip install "lrd-harness[vision]"') from None
    return PIL.Image


def opened(source: Any, name: str) -> Picture:
    """A Path, the bytes of a file or a PIL image as a PIL image in RGB. Raises UserError."""
    pil = pillow()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large images, and of odd data beside the pixels
            if isinstance(source, pil.Image):
                return in_rgb(source)
            with pil.open(stream(source)) as picture:
                if picture.format in DRAWINGS:
                    raise ValueError("a drawing of lines; save it as PNG")
                return in_rgb(picture)
    except pil.UnidentifiedImageError:
        reason = f"of no format that pillow {pil.__version__} knows"
    except Exception as error:  # whatever a decoder raises
        reason = getattr(error, "strerror", None) or first_line(error)
    raise UserError(f"{plain(name)}: no image that can be read ({plain(reason):.120})")


def stream(source: Path | bytes) -> io.BytesIO:
    """The bytes of a file. Raises OSError, and ValueError for what is empty or no file."""
    if isinstance(source, Path):
        if source.exists() and not source.is_file():
            raise ValueError("not a file")
        source = source.read_bytes()
    if not source:
        raise ValueError("empty")
    return io.BytesIO(source)


def in_rgb(picture: Picture) -> Picture:
    """A PIL image of any mode in RGB, which shares nothing with it. Raises ValueError, OSError."""
    import numpy as np
    import PIL.Image as pil
    from PIL import ImageOps

    if not picture.width * picture.height:
        raise ValueError("without pixels")
    kind = picture.format
    hidden = hidden_colour(picture)  # before it is decoded
    picture = ImageOps.exif_transpose(picture)
    if picture.mode[0] in "IF":
        return in_eight_bits(np.asarray(picture), picture.mode, kind, hidden).convert("RGB")
    if hidden is not None:
        picture.info["transparency"] = hidden
    if picture.mode == "La":
        picture = picture.convert("LA")
    colours = picture.palette.mode if picture.palette else picture.mode
    if colours.upper().endswith("A") or picture.mode == "PA" or hidden is not None:
        above = picture.convert("RGBA")
        white = pil.new("RGBA", above.size, "white")
        return pil.alpha_composite(white, above).convert("RGB")
    return picture.convert("RGB")


def hidden_colour(picture: Picture) -> Any:
    """The transparent colours, as the pixels will have them; None where there are none.

    The one colour of a PNG file without alpha has the file's own bits, of which pillow takes no
    notice: of 2 and 4 bits they become 8, as of 16 they do.
    """
    hidden = picture.info.get("transparency")
    tile = getattr(picture, "tile", None)
    if isinstance(hidden, int) and picture.mode == "L" and tile:
        return hidden * GREYS.get(str(tile[0][3]), 1)
    if isinstance(hidden, tuple) and max(hidden) > 255:
        return tuple(value >> 8 for value in hidden)
    return hidden


def in_eight_bits(values: np.ndarray, mode: str, kind: str | None, hidden: Any) -> Picture:
    """Grey values of 16 or 32 bits or decimals, (height, width), as a PIL image of 8 bits, "L".

    Of 16 bits, 65535 is white. Otherwise white is 1 (of decimals), 255 or 65535, the first that no
    value is above; values beyond, or below 0, are stretched between the least and the greatest.
    kind: the format of the file; hidden: the value that is transparent, or None.
    """
    import numpy as np
    import PIL.Image as pil

    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise ValueError("NaN or infinity among its values")
    sixteen = mode.startswith("I;16") or (mode == "I" and kind in ("PNG", "PPM"))
    scales = (65535,) if sixteen else (255, 65535) if mode == "I" else (1, 255, 65535)
    black = min(low, 0.0)
    white = next((scale for scale in scales if high <= scale and low >= 0), max(high, 0.0))
    grey = np.rint((values.astype(np.float64) - black) * 255 / (white - black)).astype(np.uint8)
    if isinstance(hidden, int):
        grey[values == hidden] = 255
    return pil.fromarray(grey)
