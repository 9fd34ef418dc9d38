"""The two kinds of failure: bad input ends the command, a fault in a unit is recorded."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from lrd_harness.printable import plain

LONGEST = 300  # characters of a message


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
    """NaN or infinity in the states."""


class StatesLost(UnitError):
    """States that were in the store went while they were needed: removed, or found damaged."""


class DegenerateState(UnitError):
    """A state that is the same for (nearly) all texts, above the first sound one."""


def short(text: str, most: int = LONGEST) -> str:
    """Text as one line of at most `most` characters; what is left out is left out of its middle.

    What a message is about stands at its beginning, and what to do at its end.
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


def described(error: BaseException, most: int = LONGEST) -> str:
    """The line under which an error is recorded: that of a UserError says all by itself."""
    kind, text = type(error).__name__, message(error)
    if text is None:
        text = "its message cannot be shown"
    whole = text if text and isinstance(error, UserError) else f"{kind}: {text}" if text else kind
    return short(whole, most)


def unknown(kind: str, name: str, known: Iterable[str], hint: str = "") -> UserError:
    """A UserError for a name that is not in `known`, with the nearest names."""
    near = difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.5)
    if not near:
        folded = {k.lower(): k for k in sorted(known)}
        near = [folded[n] for n in difflib.get_close_matches(name.lower(), folded, n=3, cutoff=0.5)]
    meant = f" Did you mean {' or '.join(near)}?" if near else ""
    return UserError(f"unknown {kind} '{name}'.{meant}{' ' + hint if hint else ''}")
