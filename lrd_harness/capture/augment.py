"""Views of a text: the text with a few typing mistakes, the same ones on every machine.

Noise of characters and words as in "Layer by Layer" (Skean et al. 2025), whose views came from
nlpaug's SplitAug, RandomCharAug and KeyboardAug: a word is split, characters are swapped, inserted,
deleted or replaced, or hit the neighbouring key. Drawn characters come from the text itself, so
that its script stays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from itertools import count as numbers
from random import Random
from unicodedata import ucd_3_2_0 as characters

from lrd_harness.capture.image_views import image_views
from lrd_harness.images import Image

SEED = 42
SHORTEST = 3  # characters of a text that can have views
RATES = (0.05, 0.10)  # the share of its letters and digits that a view edits, drawn for each view
_TRIES = 32  # draws before a view is made longer until it differs from the others
_KEYS = ("1234567890", "qwertyuiop", "asdfghjkl", "zxcvbnm")
_JOINER = "\u200d"
_JOINED = frozenset("\u200c\u200d") | frozenset(map(chr, range(0x1F3FB, 0x1F400)))  # skin tones


def views(text: str, count: int, seed: int = SEED) -> list[str]:
    """`count` views of a text. View i depends on (seed, i, text) only: fewer views are the first.

    No two views are equal, nor equal to the text, not even in lower case and with runs of white
    space as one blank (white space counts where the text is nothing else). No view is empty. A
    text of fewer than 3 characters is too short: its views are the text itself. An image has views
    of its own kind, see image_views.py.
    """
    if isinstance(text, Image):
        return [*image_views(text, count, seed)]
    if len(text) < SHORTEST:
        return [text] * count
    noise = _Noise(text, seed)
    blank = text.isspace()
    seen = {"", _plain(text, blank)}
    drawn: list[str] = []
    for i in range(count):
        for attempt in numbers():
            view = noise.view(i, attempt)
            plain = _plain(view, blank)
            if plain not in seen:
                break
        seen.add(plain)
        drawn.append(view)
    return drawn


class _Noise:
    """A text taken apart once for all its views.

    units: characters with what belongs to them (accents, joiners, skin tones); places: the indices
    of units that may be edited, letters and digits where there are enough of them.
    """

    def __init__(self, text: str, seed: int) -> None:
        self.text = text
        self.units = _units(text)
        self.places = _places(self.units)
        name = f"{seed}\n".encode() + text.encode("utf-8", "surrogatepass")
        self.digest = hashlib.sha256(name).digest()

    def view(self, i: int, attempt: int) -> str:
        """View i; later attempts edit more, and at last lengthen the text, so that one differs."""
        name = self.digest + f"{i}\n{attempt}".encode()
        # Python promises the same numbers in every version for random() alone, so all draws use it.
        draw = Random(int.from_bytes(hashlib.sha256(name).digest(), "big")).random
        if attempt >= _TRIES:
            return self.text + "".join(self._any(draw) for _ in range(attempt - _TRIES + 1))
        low, high = RATES
        n = len(self.places)
        edits = max(1, round(n * (low + (high - low) * draw()))) + attempt // 4
        # One place in each of as many equal parts: noise all over the text, in one ascending pass.
        step = n / edits
        places = {self.places[min(n - 1, int((part + draw()) * step))] for part in range(edits)}
        edited = [*self.units, ""]  # a neighbour for the last one
        for place in sorted(places):
            self._edit(edited, place, draw)
        return "".join(edited)

    def _edit(self, units: list[str], place: int, draw: Callable[[], float]) -> None:
        """One mistake; one that is impossible here (no word goes on, no such key) is another."""
        here, after = units[place], units[place + 1]
        kind = int(draw() * 6)
        inside = after != "" and not after.isspace()
        if kind == 0 and inside:
            units[place] = here + " "
        elif kind == 1 and inside:
            units[place : place + 2] = after, here
        elif kind == 2:
            units[place] = ""
        elif kind == 3:
            units[place] = self._any(draw)
        elif kind == 4:
            units[place] = here + self._any(draw)
        else:
            units[place] = _neighbour(here, draw) or here + self._any(draw)

    def _any(self, draw: Callable[[], float]) -> str:
        """A unit of the text."""
        return self.units[self.places[int(draw() * len(self.places))]]


def _plain(text: str, blank: bool) -> str:
    """What is left of a text in lower case and with single blanks; of a blank text all of it."""
    return text if blank else " ".join(text.lower().split())


def _units(text: str) -> list[str]:
    """The characters of a text, each with the accents, joiners and skin tones that follow it."""
    following = {c for c in set(text) if c in _JOINED or characters.category(c)[0] == "M"}
    if not following:
        return list(text)
    starts = [0]
    for place in range(1, len(text)):
        if text[place] not in following and text[place - 1] != _JOINER:
            starts.append(place)
    ends = [*starts[1:], len(text)]
    return [text[start:end] for start, end in zip(starts, ends, strict=True)]


def _places(units: Sequence[str]) -> list[int]:
    """Where to edit: letters and digits if there are at least 3, else what is seen, else all.

    By Unicode 3.2, which every Python has, so that new versions change no view; characters that it
    did not know (Cn: newer scripts, most emoji) count as letters.
    """
    first = {unit[0] for unit in units}
    letters = {c for c in first if (kind := characters.category(c))[0] in "LN" or kind == "Cn"}
    places = [place for place, unit in enumerate(units) if unit[0] in letters]
    if len(places) < SHORTEST:
        places = [place for place, unit in enumerate(units) if not unit.isspace()]
    return places or list(range(len(units)))


def _keyboard() -> dict[str, str]:
    """Each key's neighbours of its kind, letters or digits, on a QWERTY keyboard."""
    near = {}
    for r, keys in enumerate(_KEYS):
        for c, key in enumerate(keys):
            steps = ((0, -1), (0, 1), (-1, 0), (-1, 1), (1, -1), (1, 0))  # rows are set off
            around = [(r + down, c + right) for down, right in steps]
            there = [(a, b) for a, b in around if 0 <= a < len(_KEYS) and 0 <= b < len(_KEYS[a])]
            names = [_KEYS[a][b] for a, b in there]
            near[key] = "".join(name for name in names if name.isdigit() == key.isdigit())
    return near


_NEAR = _keyboard()


def _neighbour(unit: str, draw: Callable[[], float]) -> str:
    """The unit with a neighbouring key's letter, in the same case; "" where it is on no key."""
    near = _NEAR.get(unit[0].lower(), "")
    if not near:
        return ""
    key = near[int(draw() * len(near))]
    return (key.upper() if unit[0].isupper() else key) + unit[1:]
