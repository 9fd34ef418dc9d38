"""What plugins register: every record is checked once, and its code guarded from then on."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping, Sized
from contextlib import suppress
from dataclasses import Field, fields, replace
from functools import partial, wraps
from inspect import signature
from numbers import Integral, Real
from typing import Any, get_args

from lrd_harness.contracts import (
    Adapter,
    Choice,
    Command,
    Continuation,
    Metric,
    PanelMetric,
    PromptType,
    Pruner,
    Reporter,
    Request,
    Score,
    Summary,
    Task,
    TaskFamily,
)
from lrd_harness.guard import Owner, guarded
from lrd_harness.images import on_images
from lrd_harness.measures import Needs, Norm
from lrd_harness.scores import Of, number, plain, plain_panel
from lrd_harness.versions import DEPRECATED, START, deprecated

MOST_NAME = 200  # characters of a name, which becomes part of files' names
SUFFIX = re.compile(r"([-.][\w.-]*\w)?", re.ASCII)
OFFERED = (
    *("info", "identity", "has_final_norm", "blocks", "final_norm", "tokenizer", "similarity"),
    *("head", "headless", "prompt", "tokenize", "truncated", "states", "embed"),
)
METHODS = (
    *("prompt", "tokenize", "truncated", "states", "embed"),
    *("features", "inputs", "pooled", "watch", "normed", "attention"),
)
PASSING: dict[type, tuple[type[Exception], ...]] = {  # what code may raise besides
    TaskFamily: (KeyError,),  # for a name that it does not know
    Command: (BrokenPipeError,),  # whoever reads what it prints has read enough
}
WORD = re.compile(r"\w[\w.-]*")  # what a command is called
SURROGATE = re.compile("[\ud800-\udfff]")  # half a pair, which no tokenizer takes
Record = Metric | PanelMetric | Command | Adapter | Task | TaskFamily | Pruner | Reporter
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


def _is_of(value: Any) -> bool:
    of = value.values() if isinstance(value, Mapping) else (value,)
    return all(item in get_args(Of) for item in of)


def _is_summaries(value: Any) -> bool:
    def fits(name: Any, of: Any) -> bool:
        if not (_is_name(name) and isinstance(of, Summary) and _is_name(of.matrix)):
            return False
        ways = (("mean", "median"), ("row", "column"), ("max", "min", ""))
        return all(part in some for part, some in zip(of[1:], ways, strict=True))

    return isinstance(value, Mapping) and all(fits(name, of) for name, of in value.items())


def _names(*kinds: type[Collection[Any]]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kinds) and all(map(_is_name, value))


NAME = (f"a printable text of 1 to {MOST_NAME} characters", _is_name)
SPECIAL: dict[str, Kind] = {  # fields that are more than their type says
    **dict.fromkeys(("name", "version", "type"), NAME),
    "description": ("a text", lambda value: isinstance(value, str)),
    "measure": ("a function that takes states", _is_measure),
    "norm": (f"one of {', '.join(get_args(Norm))}", lambda v: v in get_args(Norm)),
    "needs": (f"one of {', '.join(get_args(Needs))}", lambda v: v in get_args(Needs)),
    "of": ('what lists belong to, as "states", or that by score', _is_of),
    "summaries": ('a mapping from scores to Summary("MATRIX")', _is_summaries),
    "states": ('"last" or "all"', lambda v: v in ("last", "all")),
    "modality": ('"text" or "image"', lambda v: v in ("text", "image")),
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
    """The record with its code guarded; `version`, of that code, is put behind its own.

    Raises TypeError for a field that is not what contracts.py says.
    """
    whose = f"{kind} '{record.name}'" if _is_name(record.name) else kind
    for field in fields(record):
        if fault := _fault(record, field):
            raise TypeError(f"{field.name} of {whose} {fault}")
        old = f"{type(record).__name__}.{field.name}"
        used = not owner.built_in and getattr(record, field.name) != field.default
        if used and old in DEPRECATED:
            code = next(filter(callable, vars(record).values()), None)
            deprecated(old, f"{whose} ({owner.place(Exception(), code)})")
    labelled = isinstance(record, Metric) and record.needs == "labels"
    if labelled and len(signature(record.measure).parameters) < 2:
        raise TypeError(f"measure of {whose} takes no labels: its second argument")
    if isinstance(record, Metric) and record.needs == "views" and record.views < 1:
        raise TypeError(f"views of {whose} is 0: say how many of each text it needs")
    if version and hasattr(record, "version"):
        record = replace(record, version=f"{record.version}+{version}")
    if isinstance(record, Command) and not WORD.fullmatch(record.name):
        raise TypeError(f"name of {whose} is not a word that can be typed as one")
    if isinstance(record, Task) and record.likelihood and not (record.tokenize and record.requests):
        raise TypeError(f"{whose} compares continuations: it needs tokenize and requests")
    if isinstance(record, Task):
        fit = "a type of images, as ImageClassification, or Images where there are no labels"
        if images := on_images(record.type):
            fit = 'modality="image"'
        if images != (record.modality == "image"):
            said = f"{whose} of {record.modality}s has the type {record.type}"
            raise TypeError(f"{said}: give {fit}")
    changed: dict[str, Any] = {
        name: guarded(
            getattr(record, name),
            owner,
            f"{kind} {record.name}",
            partial(checked, what=name) if checked is not None else None,
            PASSING.get(type(record), ()),
            isinstance(record, Command),
            lends=True,
        )
        for name, checked in _code(record, kind, owner, version).items()
        if getattr(record, name) is not None
    }
    return replace(record, **changed)


def _code(
    record: Record, kind: str, owner: Owner, version: str
) -> dict[str, Callable[..., Any] | None]:
    """By the name of a field with code, what checks its answers: of (answer, what) the answer."""
    if isinstance(record, Metric):
        return dict.fromkeys(("measure", "finish"), partial(_values, record, owner))
    if isinstance(record, Adapter):
        return {
            "claims": lambda answer, what: bool(answer),
            "open": partial(_model, owner, record),
            "check": None,
        }
    if isinstance(record, Task):
        return {
            "texts": _requests,
            "requests": _continuations if record.likelihood else _requests,
            "evaluate": _score,
            "fingerprint": _text,
            "labels": _labels,
            **dict.fromkeys(("check", "save", "tokenize"), None),
        }
    if isinstance(record, TaskFamily):
        return {"names": _mapping, "open": partial(_tasks, kind, owner, version)}
    if isinstance(record, Pruner):
        return {"choose": _list}
    if isinstance(record, PanelMetric):
        return {"measure": lambda scores, what: plain_panel(scores, record.name)}
    if isinstance(record, Command):
        return {"run": _exit_code, "arguments": None}
    return {"write": _text, "files": _files}


def _only(kind: type, word: str, answer: Any, what: str) -> Any:
    if not isinstance(answer, kind):
        raise TypeError(f"{what} gave {_short(answer)}, not {word}")
    return answer


def _values(metric: Metric, owner: Owner, scores: Any, what: str) -> dict[str, Any]:
    values = plain(scores, metric.name)
    if "start" in values and not owner.built_in:
        deprecated(START, f"metric {metric.name} ({owner.place(Exception(), metric.measure)})")
    return values


_mapping = partial(_only, Mapping, "a mapping")


def _text(answer: Any, what: str) -> str:
    text: str = _only(str, "a text", answer, what)
    if SURROGATE.search(text):
        raise ValueError(f"{what} gave {_short(text)}, which holds half a character")
    return text


def _list(answer: Any, what: str, kind: type = object, word: str = "") -> list[Any]:
    """A list, all of whose items are of that kind."""
    if isinstance(answer, str | bytes | Mapping) or not hasattr(answer, "__iter__"):
        raise TypeError(f"{what} gave {_short(answer)}, not a list")
    return [_only(kind, word, item, what) for item in answer]


def _tasks(kind: str, owner: Owner, version: str, answer: Any, what: str) -> Any:
    """The tasks that a family makes of a name, guarded as registered ones are."""
    if isinstance(answer, Task):
        return registered(answer, kind, owner, version)
    return [registered(task, kind, owner, version) for task in _list(answer, what, Task, "a Task")]


def _model(owner: Owner, adapter: Adapter, model: Any, what: str) -> Any:
    """An opened model, checked; a stranger's with its methods guarded, as far as it lets them be.

    Raises TypeError for what is no contracts.Model.
    """
    lacking = next((name for name in OFFERED if not hasattr(model, name)), None)
    if lacking is not None:
        raise TypeError(f"{what} gave no model, but {_short(model)}, which has no {lacking}")
    least = {"parameters": 0, "blocks": 1, "width": 1, "max_length": 1}
    for name in (*least, "pooling", "family"):
        value = getattr(model.info, name, None)
        fits = _is_text(value) if name not in least else _is_whole(value) and value >= least[name]  # type: ignore[operator]
        if not fits:
            raise TypeError(f"{what} gave a model whose info has {_short(value)} for {name}")
    identity = model.identity
    texts = isinstance(identity, Mapping) and {type(text) for text in identity.values()} <= {str}
    if not texts or "adapter" not in identity:
        fault = "no mapping of texts, or no adapter's"
        raise TypeError(f"{what} gave a model whose identity is {fault}")
    if adapter.version != "1" or not owner.built_in:
        # states of an earlier version of it are others, and so are those of one that opens the same
        known = adapter.version if owner.built_in else f"{adapter.name} {adapter.version}"
        with suppress(AttributeError):
            model.identity = {**identity, "adapter_version": known}
        if model.identity.get("adapter_version") != known:
            raise TypeError(f"{what} gave a model whose identity cannot be set: make it a field")
    for name in METHODS if not owner.built_in else ():
        method = getattr(model, name, None)
        if callable(method):
            if name == "states":
                method = wraps(method)(partial(_states, method, model))
            if name == "tokenize":
                method = wraps(method)(partial(_inputs, method))
            with suppress(AttributeError, TypeError):
                setattr(model, name, guarded(method, owner, f"adapter {adapter.name}"))
    return model


def _inputs(method: Any, texts: Sized) -> list[Any]:
    """What `tokenize` of a stranger's model gives, checked: one input for each text."""
    inputs = _list(method(texts), "tokenize")
    if len(inputs) != len(texts):
        raise TypeError(f"tokenize gave {len(inputs)} inputs for {len(texts)} texts")
    return inputs


def _states(method: Any, model: Any, batch: Sized, observe: Any = None) -> Any:
    """What `states` of a stranger's model gives, checked: each plane, a row for each text."""
    needed: list[tuple[str, int]] = [("raw", layer) for layer in range(model.info.blocks + 1)]
    if model.has_final_norm:
        needed.append(("final", model.info.blocks))

    def observed(states: Any, mask: Any) -> Any:
        planes = observe(states, mask)
        needed.extend(planes)
        return planes

    answer = _mapping(method(batch, **({} if observe is None else {"observe": observed})), "states")
    for plane, rows in answer.items():
        shape = tuple(getattr(rows, "shape", ()))
        if not hasattr(rows, "is_floating_point") or len(shape) != 2 or shape[0] != len(batch):
            shown = f"{_short(rows)} {shape}" if shape else _short(rows)
            raise TypeError(f"states gave {shown} for {plane}, no tensor ({len(batch)}, width)")
    if lacking := [plane for plane in needed if plane not in answer]:
        raise TypeError(f"states gave nothing for {lacking[0]}")
    if observe is not None and len(needed) == model.info.blocks + 1 + model.has_final_norm:
        raise TypeError("states did not call observe")
    return answer


def _requests(answer: Any, what: str) -> list[Request]:
    requests: list[Request] = _list(answer, what, Request, "a Request")
    for text, prompt_type, _ in requests:
        if not isinstance(text, str) or prompt_type not in (None, *get_args(PromptType)):
            kind = _short(prompt_type)
            raise TypeError(f"{what} gave a Request of {_short(text)} with prompt_type {kind}")
        if SURROGATE.search(text):
            raise ValueError(f"{what} gave {_short(text)}, which holds half a character")
    return requests


def _labels(answer: Any, what: str) -> list[Any]:
    labels = _list(answer.tolist() if hasattr(answer, "tolist") else answer, what)
    for label in labels:
        if not isinstance(label, str | Integral | tuple | None):
            raise TypeError(f"{what} gave {_short(label)}, not a class: a text or a whole number")
    return labels


def _continuations(answer: Any, what: str) -> list[Continuation]:
    word = "a Continuation of two texts"
    requests: list[Continuation] = _list(answer, what, Continuation, word)
    for request in requests:
        if not all(isinstance(part, str) for part in request):
            raise TypeError(f"{what} gave {_short(request)}, not {word}")
    return requests


def _score(answer: Any, what: str) -> Score:
    """A Score of plain numbers, which may still be NaN: steps.evaluate says what that means."""
    score: Score = _only(Score, "a Score", answer, what)
    if not _is_name(score.name):
        raise TypeError(f"{what} gave {_short(score.name)} as the name of its score")
    if not isinstance(score.scores, Mapping):
        raise TypeError(f"{what} gave {_short(score.scores)} for further scores, not a mapping")
    main, stderr, chance = number(score.main, "the main score"), score.stderr, score.chance
    stderr = None if stderr is None else float(number(stderr, "the standard error"))
    chance = None if chance is None else float(number(chance, "the chance score"))
    return replace(score, main=main, stderr=stderr, chance=chance)


def _exit_code(answer: Any, what: str) -> int:
    if answer is not None and not (_is_whole(answer) and answer < 256):
        raise TypeError(f"{what} gave {_short(answer)}, no exit code: None, or 0 to 255")
    return int(answer or 0)


def _files(answer: Any, what: str) -> list[tuple[str, bytes]]:
    files = [tuple(file) if isinstance(file, list) else file for file in _list(answer, what)]
    for file in files:
        if not isinstance(file, tuple) or len(file) != 2:
            raise TypeError(f"{what} gave {_short(file)}, not a path and its contents")
        path, contents = file
        if not isinstance(path, str) or not isinstance(contents, bytes):
            raise TypeError(f"{what} gave {_short(contents)}, not bytes, for {_short(path)}")
    return files


def _short(value: Any) -> str:
    """A value as messages show it: texts and numbers as they are, of others the kind alone."""
    if value is None or isinstance(value, bool | int | float | str):
        shown = ascii(value)
        return shown if len(shown) <= 60 else f"{shown[:57]}..."
    if isinstance(value, Choice):
        return f"Choice({_short(value.score)}, {_short(value.best)})"
    return f"a {type(value).__name__}"
