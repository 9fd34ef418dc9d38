"""What metrics are measured on: pooled states, views and token values of a task's texts.

Views of a text: the text with a few typing mistakes, the same ones on every machine.

Noise of characters and words as in "Layer by Layer" (Skean et al. 2025), whose views came from
nlpaug's SplitAug, RandomCharAug and KeyboardAug: a word is split, characters are swapped, inserted,
deleted or replaced, or hit the neighbouring key. Drawn characters come from the text itself, so
that its script stays.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count as numbers
from random import Random
from unicodedata import ucd_3_2_0 as characters

from lrd_harness import measuring
from lrd_harness.capture.layers import StoredStates, StoredViews, planes
from lrd_harness.capture.token_metrics import TokenValues, Watched, share_faults
from lrd_harness.contracts import Model, Norm, Text
from lrd_harness.errors import UnitError
from lrd_harness.measuring import PlannedMetric
from lrd_harness.processes import ALONE, Ranks
from lrd_harness.store.location import cache_dir
from lrd_harness.store.store import Store

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
    text of fewer than 3 characters is too short: its views are the text itself.
    """
    if len(text) < SHORTEST:
        return [text] * count
    noise = _Noise(text, seed)
    blank = text.isspace()
    seen = {"", _plain(text, blank)}
    made: list[str] = []
    for i in range(count):
        for attempt in numbers():
            view = noise.view(i, attempt)
            plain = _plain(view, blank)
            if plain not in seen:
                break
        seen.add(plain)
        made.append(view)
    return made


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
        made = [*self.units, ""]  # a neighbour for the last one
        for place in sorted(places):
            self._edit(made, place, draw)
        return "".join(made)

    def _edit(self, made: list[str], place: int, draw: Callable[[], float]) -> None:
        """One mistake; one that is impossible here (no word goes on, no such key) is another."""
        here, after = made[place], made[place + 1]
        kind = int(draw() * 6)
        inside = after != "" and not after.isspace()
        if kind == 0 and inside:
            made[place] = here + " "
        elif kind == 1 and inside:
            made[place : place + 2] = after, here
        elif kind == 2:
            made[place] = ""
        elif kind == 3:
            made[place] = self._any(draw)
        elif kind == 4:
            made[place] = here + self._any(draw)
        else:
            made[place] = _neighbour(here, draw) or here + self._any(draw)

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
    found = [place for place, unit in enumerate(units) if unit[0] in letters]
    if len(found) < SHORTEST:
        found = [place for place, unit in enumerate(units) if not unit.isspace()]
    return found or list(range(len(units)))


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


@dataclass(frozen=True)
class Sampling:
    """How metrics see a model. norm: metrics.md, Norm; view_texts: texts that get views."""

    norm: Norm = "hf"
    view_texts: int = 1000
    device: str = "cpu"


class Samples:
    """The samples of one model for the metrics of a run.

    store: of the pooled states of the texts; plain: of texts read as they are, for the views.
    """

    def __init__(
        self,
        model: Model,
        store: Store,
        plain: Store,
        identity: dict[str, str],
        sampling: Sampling,
    ) -> None:
        self._model, self._store, self._plain = model, store, plain
        self._identity, self._sampling = identity, sampling
        self._tokens: dict[int, TokenValues] = {}

    def views(self, texts: Sequence[Text], items: Sequence[PlannedMetric]) -> list[Text]:
        """The views of the texts that these metrics ask for, those of a text together."""
        count = max((i.metric.views for i in items if i.metric.needs == "views"), default=0)
        return [view for several in self._views(texts, count) for view in several]

    def watched(self, texts: Sequence[Text], items: Sequence[PlannedMetric]) -> Watched | None:
        """What is to watch the forward pass of these texts; None where no metric needs it."""
        tokens = [self.tokens(item) for item in items if item.metric.needs == "tokens"]
        return Watched(self._model, self._sampling.norm, tokens, texts) if tokens else None

    def tokens(self, item: PlannedMetric) -> TokenValues:
        """The values of a token metric."""
        if id(item) not in self._tokens:
            root, states = cache_dir() / "states", self._model.info.blocks + 1
            made = TokenValues(item, root, self._identity, self._sampling.norm, states)
            if "observe" not in inspect.signature(self._model.states).parameters:
                made.fault = UnitError("the model's adapter shows no states of tokens")
            self._tokens[id(item)] = made
        return self._tokens[id(item)]

    def refresh(self, ranks: Ranks = ALONE) -> None:
        """Take note of what other processes have kept, and of token metrics that failed there.

        Each waits for all.
        """
        for values in self._tokens.values():
            values.store.refresh()
        share_faults(list(self._tokens.values()), ranks)

    def measure(self, item: PlannedMetric, texts: Sequence[Text]) -> tuple[measuring.Scores, int]:
        """A metric's scores on texts that were captured, and the number of texts they are of.

        Raises whatever the metric raises.
        """
        metric, device = item.metric, self._sampling.device
        if metric.needs == "tokens":
            return self.tokens(item).finished(texts)
        chosen = planes(self._model, self._sampling.norm)
        if metric.needs == "pooled":
            states = StoredStates(self._store, texts, chosen, device)
            return measuring.measure(metric, states, **item.parameters), len(texts)
        views = self._views(texts, metric.views)
        given = StoredViews(self._plain, views, chosen, device)
        return measuring.measure(metric, given, **item.parameters), len(views)

    def _views(self, texts: Sequence[Text], count: int) -> list[list[Text]]:
        """Of the first texts of the sample, `count` views each, under the text's own prompt."""
        if not count:
            return []
        return [
            [Text(view, text.prompt) for view in views(text.text, count)]
            for text in texts[: self._sampling.view_texts]
        ]
