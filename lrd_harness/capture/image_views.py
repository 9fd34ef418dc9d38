"""Views of an image: a part of it, mirrored or not, in other colours, the same on every machine.

The augmentations of SimCLR (Chen et al. 2020), by which "Layer by Layer" (Skean et al. 2025) has
views of images, without blur and changes of hue: a random part brought back to the image's size,
a flip, and brightness, contrast and saturation changed, or all colours to grey. Colours are
computed in whole numbers, and all draws are of random(), which is the same in every Python.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache, partial
from math import sqrt
from random import Random
from typing import TYPE_CHECKING

import numpy as np

from lrd_harness.images import PREFIX, Image, key_of

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

VERSION = 1  # of the views; others have other keys
LONGEST = 1024  # pixels of a view's longer side; larger images are made smaller first
AREA = (0.08, 1.0)  # the share of the image that is kept
STRETCH = 4 / 3  # how much wider or higher than the image's a part's proportions are at most
FLIPPED, RECOLOURED, GREY = 0.5, 0.8, 0.2  # shares of the views
STRENGTH = 205  # of 256, how far brightness, contrast and saturation change at most, 0.8
WHOLE, HALF = 256, 128  # shares of colours are whole numbers of 1 / 256, rounded
_TRIES = 32  # draws until a view differs from the image and from the views before it
_KEPT = 2  # images whose pixels stay in memory: the views of one are read one after another


def image_views(image: Image, count: int, seed: int) -> list[Image]:
    """`count` views of an image, made when they are opened.

    View i depends on (seed, i, pixels) only: fewer views are the first. No two are equal, nor equal
    to the image. They have its size, but at most 1,024 pixels on the longer side.
    """
    width, height = _within(image.size)
    made = []
    for i in range(count):
        name = hashlib.sha256(f"view {VERSION} {seed} {i} {image}".encode()).hexdigest()
        key = f"{PREFIX}{width}x{height}:{name[:32]}"
        view = partial(_view, image, seed, i)
        made.append(Image.derived(key, view, f"{image.name}, view {i + 1}"))
    return made


class _Views:
    """An image opened once for its views; view i is found after those before it."""

    def __init__(self, image: Image, seed: int) -> None:
        self._picture = image.open().resize(_within(image.size))
        self._name = f"{VERSION}\n{seed}\n{image}"
        self._seen = {key_of(self._picture)}
        self._attempts: list[int] = []  # by view, which of its draws differs from all before

    def __getitem__(self, i: int) -> Picture:
        if i < len(self._attempts):
            return self._draw(i, self._attempts[i])
        while len(self._attempts) <= i:
            for attempt in range(_TRIES):
                made = self._draw(len(self._attempts), attempt)
                if (key := key_of(made)) not in self._seen:
                    break
            self._seen.add(key)
            self._attempts.append(attempt)
        return made

    def _draw(self, i: int, attempt: int) -> Picture:
        """View i, in one of its attempts."""
        import PIL.Image as pil

        name = hashlib.sha256(f"{self._name}\n{i}\n{attempt}".encode()).digest()
        draw = Random(int.from_bytes(name, "big")).random
        width, height = self._picture.size
        low, high = AREA
        area = low + (high - low) * draw()
        stretch = 1 + (STRETCH - 1) * draw()
        stretch = 1 / stretch if draw() < 0.5 else stretch
        w, left = _part(width, sqrt(area * stretch), draw())
        h, top = _part(height, sqrt(area / stretch), draw())
        box = left, top, left + w, top + h
        made = self._picture.resize((width, height), pil.Resampling.BICUBIC, box)
        if draw() < FLIPPED:
            made = made.transpose(pil.Transpose.FLIP_LEFT_RIGHT)
        recoloured, grey = draw() < RECOLOURED, draw() < GREY
        changes = [round(STRENGTH * (2 * draw() - 1)) if recoloured else 0 for _ in range(3)]
        return recolour(made, changes[0], changes[1], -WHOLE if grey else changes[2])


def recolour(picture: Picture, brightness: int, contrast: int, saturation: int) -> Picture:
    """An RGB image in other colours; 0 changes nothing.

    brightness, of 256: -256 is black, 256 is white; contrast, saturation: -256 is none, 256 twice
    as much.
    """
    import PIL.Image as pil

    goal = 255 if brightness > 0 else 0
    share = abs(brightness)
    picture = picture.point([v + ((goal - v) * share + HALF) // WHOLE for v in range(256)] * 3)
    counts = picture.convert("L").histogram()
    middle = sum(value * count for value, count in enumerate(counts)) // sum(counts)
    apart = [middle + ((v - middle) * (WHOLE + contrast) + HALF) // WHOLE for v in range(256)]
    picture = picture.point([max(0, min(255, v)) for v in apart] * 3)
    if not saturation:
        return picture
    grey = np.asarray(picture.convert("L"), np.int32)[..., None]
    values = np.asarray(picture, np.int32) - grey
    values *= WHOLE + saturation
    values += HALF
    values >>= 8
    values += grey
    return pil.fromarray(values.clip(0, 255, out=values).astype(np.uint8))


_views = lru_cache(_KEPT)(_Views)


def _view(image: Image, seed: int, i: int) -> Picture:
    return _views(image, seed)[i]


def _within(size: tuple[int, int]) -> tuple[int, int]:
    """The size of an image's views."""
    longer = max(*size, LONGEST)
    width, height = (max(1, side * LONGEST // longer) for side in size)
    return width, height


def _part(side: int, share: float, place: float) -> tuple[int, int]:
    """The length, and the beginning, of a part of a side."""
    length = max(1, min(side, round(side * share)))
    return length, int(place * (side - length + 1))
