"""Images as tasks, the store and metrics know them: by a key, with the pixels behind it.

All are brought to RGB here and nowhere else: what is transparent shows white.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrd_harness.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

RULE = "RGB, transparent over white"  # part of the identity of states; another rule, other states
LACKING = 'images need pillow: pip install "lrd-harness[vision]"'
PREFIX = "image:"


class Image(str):
    """An image as its key, which goes wherever a text goes; alike in size and pixels, alike in key.

    name: what messages call it, as its file.
    """

    name: str
    _make: Callable[[], Picture]

    @classmethod
    def of(cls, source: Any, name: str = "") -> Image:
        """An image from a Path, the bytes of a file or a PIL image; decoded once, for its key.

        Raises UserError, naming it, for what is no image or is damaged.
        """
        name = name or (str(source) if isinstance(source, Path) else "an image")
        return cls.derived(key_of(opened(source, name)), lambda: opened(source, name), name)

    @classmethod
    def derived(cls, key: str, make: Callable[[], Picture], name: str) -> Image:
        """An image of that key that is made, in RGB, when it is opened."""
        image = cls(key)
        image._make, image.name = make, name
        return image

    def open(self) -> Picture:
        """The pixels, as a PIL image in RGB. Raises UserError where they are gone or damaged."""
        return self._make()


def key_of(picture: Picture) -> str:
    """The key of an RGB image: its size, and a hash of that and of the pixels."""
    size = f"{picture.width}x{picture.height}"
    digest = hashlib.sha256(f"{size}\0".encode() + picture.tobytes()).hexdigest()[:32]
    return f"{PREFIX}{size}:{digest}"


def opened(source: Any, name: str) -> Picture:
    """A Path, the bytes of a file or a PIL image as a PIL image in RGB. Raises UserError."""
    try:
        from PIL import Image as pil
    except ImportError:
        raise UserError(LACKING) from None
    try:
        if isinstance(source, pil.Image):
            return in_rgb(source)
        with pil.open(io.BytesIO(source) if isinstance(source, bytes) else source) as picture:
            return in_rgb(picture)
    except Exception as error:  # whatever a decoder raises
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{name}: no image that can be read ({reason:.120})") from None


def in_rgb(picture: Picture) -> Picture:
    """A PIL image of any mode in RGB, over white where it is transparent."""
    from PIL import Image as pil

    if picture.mode == "RGB":
        return picture.copy()
    if picture.has_transparency_data:
        above = picture.convert("RGBA")
        white = pil.new("RGBA", above.size, "white")
        return pil.alpha_composite(white, above).convert("RGB")
    return picture.convert("RGB")
