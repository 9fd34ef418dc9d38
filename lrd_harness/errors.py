"""What is said to users: two kinds of failure, bounds of what may be asked for, and notices.

Bad input ends the command with one line (UserError); a fault of one unit is recorded (UnitError)
and the run goes on. The bounds are far above what anyone needs: a slip of the keyboard or a
damaged file ends in a line instead of a machine that computes for ever.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from numbers import Integral
from pathlib import Path
from typing import Any


def plain(text: object) -> str:
    """Text with everything unprintable (line ends, escapes, direction marks) made visible.

    >>> print(plain("a\\nb"))
    a\\nb
    """
    shown = str(text)
    if shown.isprintable():
        return shown
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in shown
    )


_listener: ContextVar[Callable[[str], None] | None] = ContextVar("listener", default=None)


def bounded(text: str) -> str:
    """Text of which each line is short enough for a terminal, whatever names stand in it.

    >>> len(bounded("x" * 5000))
    300
    """
    return "\n".join(map(short, text.split("\n")))


def tell(text: str) -> None:
    """Tell the user at once, on standard error."""
    print(bounded(text), file=sys.stderr, flush=True)


@contextlib.contextmanager
def told_to(show: Callable[[str], None]) -> Iterator[None]:
    """Within the block, `say` calls show(line).

    >>> with told_to(print):
    ...     say("one text is empty")
    one text is empty
    """
    token = _listener.set(show)
    try:
        yield
    finally:
        _listener.reset(token)


def say(line: str) -> None:
    """Tell the user, where somebody listens."""
    show = _listener.get()
    if show is not None:
        show(line)


LONGEST = 300  # characters of a message
# libraries whose own warnings stay off the terminal
LOUD = "lm_eval mteb sentence_transformers transformers datasets huggingface_hub".split()


class UserError(Exception):
    """Bad input or a missing resource: one clear line for the user, exit code 2."""


class Elsewhere(UserError):
    """A fault of another process of the run, which tells of it itself."""


class StorageFull(UserError):
    """Nothing more can be written: the run stops, and goes on when there is space again."""


class PluginFault(UserError):
    """Something that a plugin's code raised, or gave that is none of what it may give.

    what: the error in one line; place: "FILE, line N" in the plugin's code; role: "metric NAME".
    """

    def __init__(self, what: str, place: str = "", role: str = "") -> None:
        super().__init__(f"{what} ({place})" if place else what)
        self.role = role


class UnitError(ValueError):
    """A named fault of one (model, task, metric or layer): recorded, the run goes on.

    The class name is recorded with the message, so subclasses name the fault.
    """


class NotEnoughTexts(UnitError):
    """Fewer texts than a metric can be computed on."""


class NotEnoughTokens(UnitError):
    """A text with fewer tokens than a metric needs."""


class NotFinite(UnitError):
    """NaN or infinity in the states.

    layer: in which, where that is known.
    """

    layer: int | None = None


def not_finite(layer: int | None, dtype: object, what: str = "the states") -> NotFinite:
    """The error that says where NaN or infinity was met, and what may help.

    dtype: of the model, as "float16" or torch.float16; "" where it is not known.

    >>> print(not_finite(3, "float16"))
    NaN or infinity in the states of layer 3: float16 ends at 65,504, try --dtype bfloat16
    """
    place = "" if layer is None else f" of layer {layer}"
    advice = {
        "float16": ": float16 ends at 65,504, try --dtype bfloat16",
        "bfloat16": ": try --dtype float32",
        "float32": ", in float32 as well: its weights may hold them",
    }
    text = f"NaN or infinity in {what}{place}{advice.get(str(dtype).removeprefix('torch.'), '')}"
    error = NotFinite(text)
    error.layer = layer
    return error


class NotInRange(UnitError):
    """States that the type in which they are to be kept cannot hold."""


def not_in_range(layer: int, name: str, largest: float, most: float) -> NotInRange:
    """The error that says which states a type cannot hold, and what may help.

    largest: of the numbers of a state; most: the largest number of the type.

    >>> print(not_in_range(3, "float16", 81234.0, 65504.0))
    the states of layer 3 (up to 8.12e+04) do not fit float16: try --store-dtype bfloat16
    """
    which = "up to" if largest > most else "so small,"
    wider = "bfloat16" if name == "float16" else "float32"
    text = f"the states of layer {layer} ({which} {largest:.3g}) do not fit {name}"
    return NotInRange(f"{text}: try --store-dtype {wider}")


class StatesLost(UnitError):
    """States that were in the store went while they were needed: removed, or found damaged."""


class DegenerateState(UnitError):
    """A state that is the same for (nearly) all texts, above the first sound one."""


def short(text: str, most: int = LONGEST) -> str:
    """Text as one line of at most `most` characters; what is left out is left out of its middle.

    What a message is about stands at its beginning, and what to do at its end.

    >>> short("the model " + "x" * 100 + " is not there", most=30)
    'the model xxxxxxxxxx ... there'
    """
    if len(text) > 10 * most:  # whoever sent it may have sent megabytes
        text = text[: 5 * most] + text[-5 * most :]
    line = plain(" ".join(text.splitlines()))
    head = most * 2 // 3
    return line if len(line) <= most else f"{line[:head]} ... {line[head + 5 - most :]}"


def message(error: BaseException) -> str | None:
    """What an error says; None where telling it fails."""
    try:
        return str(error)
    except KeyboardInterrupt:
        raise
    except BaseException:
        return None


def first_line(error: BaseException) -> str:
    """The first line of what an error of a library says; its class where it says nothing.

    >>> first_line(ValueError("no\\ntexts")), first_line(ValueError())
    ('no', 'ValueError')
    """
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def described(error: BaseException, most: int = LONGEST) -> str:
    """The line under which an error is recorded: that of a UserError says all by itself.

    >>> described(ValueError("no\\ntexts")), described(UserError("no texts"))
    ('ValueError: no texts', 'no texts')
    """
    kind, text = type(error).__name__, message(error)
    if text is None:
        text = "its message cannot be shown"
    whole = text if text and isinstance(error, UserError) else f"{kind}: {text}" if text else kind
    return short(whole, most)


def unknown(kind: str, name: str, known: Iterable[str], hint: str = "") -> UserError:
    """A UserError for a name that is not in `known`, with the nearest names.

    >>> str(unknown("metric", "frennet", ["frenet", "nrs"]))
    "unknown metric 'frennet'. Did you mean frenet?"
    """
    others = sorted({*known} - {name})
    near = difflib.get_close_matches(name, others, n=3, cutoff=0.5)
    if not near:
        lower = {k.lower(): k for k in others}
        near = [lower[n] for n in difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.5)]
    meant = f" Did you mean {' or '.join(near)}?" if near else ""
    return UserError(f"unknown {kind} '{name}'.{meant}{' ' + hint if hint else ''}")


COUNT = 10**9  # texts, tokens, documents
DRAWS = 10_000  # repetitions: half-samples, random choices
STEPS = 1_000  # of a probe, of budgets
TOKENS = 10**6  # of one text
SLICES = 10**6
EXAMPLES = 1_000  # in a prompt
SEED = 2**32 - 1
BLOCKS = 10_000
SECONDS = 10**6
WIDTH = 10**9
PARAMETERS = 2**63 - 1


def check_whole(value: Any, what: str, least: int, most: int) -> None:
    """Raise UserError unless it is a whole number within the bounds; `what` begins the message.

    >>> check_whole(0, "--draws", 1, DRAWS)
    Traceback (most recent call last):
    lrd_harness.errors.UserError: --draws 0: not a whole number of at least 1
    """
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < least:
        mark = "," if what.endswith(" is") else ":"
        raise UserError(f"{what} {shown(value)}{mark} not a whole number of at least {least}")
    if value > most:
        raise UserError(f"{what} {shown(value)}: at most {most:,} is possible")


def layer_number(layer: Any, name: str, last: int | None) -> int:
    """A state 0..L of a model, whose L may not be known. Raises UserError for what is none.

    >>> layer_number(7, "local/a", 6)
    Traceback (most recent call last):
    lrd_harness.errors.UserError: local/a has layers 0 to 6, no layer 7
    """
    whole = isinstance(layer, Integral) and not isinstance(layer, bool)  # numpy's, too
    if not whole or layer < 0 or (last is not None and layer > last):
        end = "its last" if last is None else last
        raise UserError(f"{name} has layers 0 to {end}, no layer {layer!r:.60}")
    return int(layer)


def processes() -> int:
    """How many a run may start on this machine: four a core, and 16 in any case."""
    return max(16, 4 * (os.cpu_count() or 1))


def shown(value: Any) -> str:
    """A value for a message; of whole numbers too long for one, about how large they are.

    >>> shown(12), shown(10**4000)
    ('12', 'beyond 10^30')
    """
    if isinstance(value, int) and abs(value) >= 10**30:
        return "beyond 10^30" if value > 0 else "below -10^30"
    return f"{value!s:.60}"


def named(name: str) -> Path:
    """The path of a name, its ~ expanded. Raises UserError for a name that no path can have.

    >>> named("runs/a").parts
    ('runs', 'a')
    """
    check_typed([name])
    try:
        return Path(name).expanduser()
    except RuntimeError:
        raise UserError(f"{name}: there is no user of that name, or none with a home") from None


def there(name: str) -> bool:
    """Whether something of that name is there, which a name that is too long for one never is.

    >>> there("."), there("x" * 5000)
    (True, False)
    """
    try:
        return named(name).exists()
    except OSError:
        return False


def check_typed(words: Iterable[str]) -> None:
    """Raise UserError for a word that cannot be a path nor be written down.

    >>> check_typed(["a", "b\\0"])
    Traceback (most recent call last):
    lrd_harness.errors.UserError: 'b\\x00' holds a NUL character, which no name can
    """
    for word in words:
        if "\0" in word:
            raise UserError(f"{word!r} holds a NUL character, which no name can")
        try:
            word.encode()
        except UnicodeEncodeError:
            raise UserError(f"{word!r} is not UTF-8 text") from None
