"""What plugins register: every record is checked once, and its code guarded from then on."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import Field, fields, replace
from functools import partial
from inspect import signature
from numbers import Integral, Real
from typing import Any, get_args

from lrd_harness.contracts import (
    Adapter,
    Choice,
    Continuation,
    Metric,
    PromptType,
    Pruner,
    Reporter,
    Request,
    Score,
    Task,
    TaskFamily,
)
from lrd_harness.guard import Owner, guarded
from lrd_harness.scores import number, plain

MOST_NAME = 200  # characters of a name, which becomes part of files' names
SUFFIX = re.compile(r"([-.][\w.-]*\w)?", re.ASCII)
OFFERED = (
    *("info", "identity", "has_final_norm", "blocks", "final_norm", "tokenizer", "similarity"),
    *("head", "headless", "prompt", "tokenize", "truncated", "states", "embed"),
)
METHODS = (
    *("prompt", "tokenize", "truncated", "states", "embed"),
    *("features", "inputs", "pooled", "watch", "normed"),
)
SURROGATE = re.compile("[\ud800-\udfff]")  # half a pair, which no tokenizer takes
Record = Metric | Adapter | Task | TaskFamily | Pruner | Reporter
Kind = tuple[str, Callable[[Any], bool]]  # what a value has to be, in words, and whether it is


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable()


def _is_name(value: Any) -> bool:
    return _is_text(value) and value == value.strip() != "" and len(value) <= MOST_NAME


def _is_choice(value: Any) -> bool:
    return isinstance(value, Choice) and _is_name(value.score) and value.best in ("max", "min")


def _is_number(value: Any, of: Any = Real) -> bool:
    return isinstance(value, of) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: Any) -> bool:
    return _is_number(value, Integral) and int(value) >= 0


def _is_measure(value: Any) -> bool:
    """Whether it is a function of which the parameters can be found, as a run records them."""
    try:
        return callable(value) and len(signature(value).parameters) > 0
    except (TypeError, ValueError):
        return False


def _names(*kinds: type[Collection[Any]]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kinds) and all(map(_is_name, value))


NAME = (f"a printable text of 1 to {MOST_NAME} characters", _is_name)
SPECIAL: dict[str, Kind] = {  # fields that are more than their type says
    **dict.fromkeys(("name", "version", "type"), NAME),
    "description": ("a text", lambda value: isinstance(value, str)),
    "measure": ("a function of states, its parameters known", _is_measure),
    "needs": ('"pooled", "tokens" or "views"', lambda v: v in ("pooled", "tokens", "views")),
    "priority": ("a finite number", _is_number),
    "prompt": ("a text or a mapping of them", lambda v: isinstance(v, str | Mapping)),
    "suffix": (
        'the end of a file\'s name, as ".md", or ""',
        lambda value: isinstance(value, str) and SUFFIX.fullmatch(value) is not None,
    ),
}
TYPES: dict[str, Kind] = {  # by how the type of a field begins
    "Callable": ("a function", callable),
    "Choice": ('a Choice(score, "max" or "min")', _is_choice),
    "bool": ("True or False", lambda value: isinstance(value, bool)),
    "frozenset": ("a set of names", _names(frozenset, set)),
    "int": ("a whole number", _is_whole),
    "str": ("a printable text", _is_text),
    "tuple": ("a tuple of names", _names(tuple, list)),
}


def _fault(record: Any, field: Field[Any]) -> str:
    """What is wrong with a field of a record; "" for nothing."""
    value, hint = getattr(record, field.name), str(field.type)
    what, fits = SPECIAL.get(field.name) or TYPES[re.split(r"\W", hint)[0]]
    optional = hint.endswith("| None")
    if fits(value) or (optional and value is None):
        return ""
    return f"is {_short(value)}, not {what}{', or None' if optional else ''}"


def registered(record: Any, kind: str, owner: Owner, version: str = "") -> Any:
    """The record with its code guarded; `version` is put behind that of its values.

    Raises TypeError for a field that is not what contracts.py says.
    """
    whose = f"{kind} '{record.name}'" if _is_name(record.name) else kind
    for field in fields(record):
        if fault := _fault(record, field):
            raise TypeError(f"{field.name} of {whose} {fault}")
    if isinstance(record, Task) and record.likelihood and not (record.tokenize and record.requests):
        raise TypeError(f"{whose} compares continuations: it needs tokenize and requests")
    changed: dict[str, Any] = {
        name: guarded(
            getattr(record, name),
            owner,
            f"{kind} {record.name}",
            partial(how, what=name) if how is not None else None,
            (KeyError,) if isinstance(record, TaskFamily) else (),  # for a name it does not know
        )
        for name, how in _code(record, kind, owner).items()
        if getattr(record, name) is not None
    }
    if version:
        changed["version"] = f"{record.version}+{version}"
    return replace(record, **changed)


def _code(record: Record, kind: str, owner: Owner) -> dict[str, Callable[..., Any] | None]:
    """By the name of a field with code, what is made of what that returns."""
    if isinstance(record, Metric):
        return dict.fromkeys(("measure", "finish"), partial(_scores, record))
    if isinstance(record, Adapter):
        return {
            "claims": lambda found, what: bool(found),
            "open": partial(_model, owner, record),
            "check": None,
        }
    if isinstance(record, Task):
        return {
            "texts": _requests,
            "requests": _continuations if record.likelihood else _requests,
            "evaluate": _score,
            "fingerprint": _text,
            **dict.fromkeys(("check", "save", "tokenize"), None),
        }
    if isinstance(record, TaskFamily):
        return {"names": _mapping, "open": partial(_tasks, kind, owner)}
    if isinstance(record, Pruner):
        return {"choose": _list}
    return {"write": _text, "files": _files}


def _scores(metric: Metric, found: Any, what: str) -> Any:
    return plain(found, metric.name)


def _only(kind: type, word: str, found: Any, what: str) -> Any:
    if not isinstance(found, kind):
        raise TypeError(f"{what} gave {_short(found)}, not {word}")
    return found


_text, _mapping = partial(_only, str, "a text"), partial(_only, Mapping, "a mapping")


def _tasks(kind: str, owner: Owner, found: Any, what: str) -> Any:
    """The tasks that a family makes of a name, guarded as registered ones are."""
    if isinstance(found, Task):
        return registered(found, kind, owner)
    tasks = _list(found, what)
    for task in tasks:
        if not isinstance(task, Task):
            raise TypeError(f"{what} gave {_short(task)}, not a Task")
    return [registered(task, kind, owner) for task in tasks]


def _model(owner: Owner, adapter: Adapter, found: Any, what: str) -> Any:
    """An opened model, checked; a stranger's with its methods guarded, as far as it lets them be.

    Raises TypeError for what is no model, as protocols.Model says.
    """
    lacking = next((name for name in OFFERED if not hasattr(found, name)), None)
    if lacking is not None:
        raise TypeError(f"{what} gave no model, but {_short(found)}, which has no {lacking}")
    info, identity = found.info, found.identity
    least = {"parameters": 0, "blocks": 1, "width": 1, "max_length": 1}
    for name in (*least, "pooling", "family"):
        value = getattr(info, name, None)
        fits = _is_text(value) if name not in least else _is_whole(value) and value >= least[name]  # type: ignore[operator]
        if not fits:
            raise TypeError(f"{what} gave a model whose info has {_short(value)} for {name}")
    texts = isinstance(identity, Mapping) and {type(one) for one in identity.values()} <= {str}
    if not texts or "adapter" not in identity:
        says = "no mapping of texts, or no adapter's"
        raise TypeError(f"{what} gave a model whose identity is {says}")
    for name in METHODS if not owner.built_in else ():
        method = getattr(found, name, None)
        if callable(method):
            with suppress(AttributeError, TypeError):
                setattr(found, name, guarded(method, owner, f"adapter {adapter.name}"))
    return found


def _requests(found: Any, what: str) -> list[Request]:
    for one in (every := _list(found, what)):
        if not isinstance(one, Request):
            raise TypeError(f"{what} gave {_short(one)}, not a Request")
        if not isinstance(one.text, str) or one.prompt_type not in (None, *get_args(PromptType)):
            raise TypeError(
                f"{what} gave a Request of {_short(one.text)} with prompt_type "
                f"{_short(one.prompt_type)}"
            )
        if SURROGATE.search(one.text):
            raise ValueError(f"{what} gave {_short(one.text)}, which holds half a character")
    return every


def _continuations(found: Any, what: str) -> list[Continuation]:
    for one in (every := _list(found, what)):
        if not isinstance(one, Continuation) or not all(isinstance(part, str) for part in one):
            raise TypeError(f"{what} gave {_short(one)}, not a Continuation of two texts")
    return every


def _score(found: Any, what: str) -> Score:
    """A Score of plain numbers, which may still be NaN: steps.evaluate says what that means."""
    if not isinstance(found, Score):
        raise TypeError(f"{what} gave {_short(found)}, not a Score")
    if not _is_name(found.name):
        raise TypeError(f"{what} gave {_short(found.name)} as the name of its score")
    if not isinstance(found.scores, Mapping):
        raise TypeError(f"{what} gave {_short(found.scores)} for further scores, not a mapping")
    return replace(
        found,
        main=number(found.main, "the main score"),
        stderr=None if found.stderr is None else float(number(found.stderr, "the standard error")),
        chance=None if found.chance is None else float(number(found.chance, "the chance score")),
    )


def _files(found: Any, what: str) -> list[tuple[str, bytes]]:
    files = [tuple(one) if isinstance(one, list) else one for one in _list(found, what)]
    for one in files:
        if not isinstance(one, tuple) or len(one) != 2:
            raise TypeError(f"{what} gave {_short(one)}, not a path and its contents")
        if not isinstance(one[0], str) or not isinstance(one[1], bytes):
            raise TypeError(f"{what} gave {_short(one[1])}, not bytes, for {_short(one[0])}")
    return files


def _list(found: Any, what: str) -> list[Any]:
    if isinstance(found, str | bytes | Mapping) or not hasattr(found, "__iter__"):
        raise TypeError(f"{what} gave {_short(found)}, not a list")
    return list(found)


def _short(value: Any) -> str:
    """A value as messages show it: texts and numbers as they are, of others the kind alone."""
    if value is None or isinstance(value, bool | int | float | str):
        shown = ascii(value)
        return shown if len(shown) <= 60 else f"{shown[:57]}..."
    if isinstance(value, Choice):
        return f"Choice({_short(value.score)}, {_short(value.best)})"
    return f"a {type(value).__name__}"
