"""The two kinds of failure: bad input ends the command, a fault in a unit is recorded."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input or a missing resource: one clear line for the user, exit code 2."""


class Elsewhere(UserError):
    """A fault of another process of the run, which tells of it itself."""


class StorageFull(UserError):
    """Nothing more can be written: the run stops, and goes on when there is space again."""


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


def described(error: Exception) -> str:
    """The text under which an error is recorded: that of a UserError says all by itself."""
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def unknown(kind: str, name: str, known: Iterable[str], hint: str = "") -> UserError:
    """A UserError for a name that is not in `known`, with the nearest names."""
    near = difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.5)
    if not near:
        folded = {k.lower(): k for k in sorted(known)}
        near = [folded[n] for n in difflib.get_close_matches(name.lower(), folded, n=3, cutoff=0.5)]
    meant = f" Did you mean {' or '.join(near)}?" if near else ""
    return UserError(f"unknown {kind} '{name}'.{meant}{' ' + hint if hint else ''}")
