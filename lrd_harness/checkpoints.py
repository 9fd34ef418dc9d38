"""Checkpoints of one training run: models of a run whose names differ in the step alone.

A step is read from a revision (`EleutherAI/pythia-410m@step1000`, `@step1000-tokens4B`, `@2000`)
or from the end of a folder's name (`local/checkpoint-500`, `local/run/global_step10`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lrd_harness.results import Key, ModelRow, Results

UNITS = {  # what is counted, what counts more exactly first -> the words for it
    "step": "global_step steps step checkpoint ckpt iteration iter".split(),
    "epoch": ["epoch"],
    "tokens": ["tokens"],
}
_WORDS = {word: unit for unit, words in UNITS.items() for word in words}
_PROGRESS = re.compile(
    rf"(?<![a-z])({'|'.join(_WORDS)})[-_=]?(\d+)([kmb]?)(?![a-z0-9.])", re.IGNORECASE
)
_THOUSANDS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
_READING = re.compile(r"(.+?)( \[[^\[\]]*\])?", re.DOTALL)  # as plan.py writes a reading of its own
_SHORT = 12  # digits of a commit that are shown


@dataclass(frozen=True)
class Member:
    """One checkpoint. step: None where its name has none; label: how a table calls it."""

    label: str
    step: int | None
    key: Key


@dataclass(frozen=True)
class Family:
    """The checkpoints of one run, at least two, in order of training as far as names tell.

    stem: what their names share; unit: of the steps, "step", "epoch" or "tokens", and "" where no
    member has one. Members without a step come last, in order of appearance, and of these the
    model without any revision (or with `main`) at the end, as "final".
    """

    stem: str
    unit: str
    members: tuple[Member, ...]


class _Read(NamedTuple):
    """A name read. base: the model that it is a checkpoint of; final: it names no checkpoint."""

    base: str
    stem: str
    label: str
    unit: str = ""
    step: int | None = None
    final: bool = False


class _Group(NamedTuple):
    """What the members of a family have in common; blocks and width as an unlike model differs."""

    base: str
    blocks: int | None
    width: int | None
    stem: str = ""
    unit: str = ""


def families(results: Results) -> tuple[Family, ...]:
    """The families among the whole models (variant "full"): those with steps first.

    Models of unequal depth or width are never one family. Revisions without a step, as a commit,
    and the model without a revision belong to the model's steps where these are one series, else
    they are a family of their own.
    """
    stepped: dict[_Group, list[Member]] = {}
    loose: dict[_Group, list[tuple[_Read, ModelRow]]] = {}
    for row in {row.key: row for row in results.models if row.variant == "full"}.values():
        read = _read(row.model)
        group = _Group(read.base, row.blocks, row.width)
        if read.step is None:
            loose.setdefault(group, []).append((read, row))
        else:
            series = group._replace(stem=read.stem, unit=read.unit)
            stepped.setdefault(series, []).append(Member(read.label, read.step, row.key))
    for members in stepped.values():
        members.sort(key=lambda member: member.step or 0)
    by_model: dict[tuple[object, ...], list[_Group]] = {}
    for series in stepped:
        by_model.setdefault(series[:3], []).append(series)
    for group, held in loose.items():
        same = by_model.get(group[:3], [])
        series = same[0] if len(same) == 1 else group._replace(stem=group.base)
        stepped.setdefault(series, []).extend(_without_step(held))
    found = (Family(group.stem, group.unit, tuple(held)) for group, held in stepped.items())
    return tuple(family for family in found if len(family.members) > 1)


def _without_step(held: Sequence[tuple[_Read, ModelRow]]) -> list[Member]:
    """Members in order of appearance, models without a revision last."""
    finals = sum(read.final for read, _ in held)
    ordered = sorted(held, key=lambda pair: pair[0].final)
    names = [read.label for read, _ in held]
    return [
        Member(
            read.label
            if names.count(read.label) == 1 and not (read.final and finals > 1)
            else row.revision[:_SHORT] or read.label,
            None,
            row.key,
        )
        for read, row in ordered
    ]


def _read(name: str) -> _Read:
    """A model's name as results have it, the reading in brackets kept with its base."""
    match = _READING.fullmatch(name)
    bare, reading = (match[1], match[2] or "") if match else (name, "")
    base, at, revision = bare.partition("@")
    if not at or revision == "main":
        return _folder(base, reading)
    found = _progress(revision)
    if found is None:
        label = revision[:_SHORT] if re.fullmatch("[0-9a-f]{40}", revision) else revision
        return _Read(base + reading, base + reading, label)
    rest, unit, step = found
    stem = f"{base}@{rest}" if rest else base
    return _Read(base + reading, stem + reading, revision, unit, step)


def _folder(name: str, reading: str) -> _Read:
    """A name without a revision: a checkpoint if it ends in a step, else a model of its own."""
    above, slash, last = name.rpartition("/")
    matches = list(_PROGRESS.finditer(last))
    found = _progress(last) if matches and matches[-1].end() == len(last) else None
    own = name.startswith("local/")
    if found is None or not (found[0] or own):  # a hub's model may be called step3
        return _Read(name + reading, name + reading, "final", final=True)
    rest, unit, step = found
    stem = above
    if rest or above == "local":  # the folder above is not known
        stem = f"{above}{slash}{rest or matches[0][1]}"
    return _Read(stem + reading, stem + reading, last, unit, step)


def _progress(text: str) -> tuple[str, str, int] | None:
    """What is left of a text without its counters, the unit of the best counter, and its number.

    None where it counts nothing: names of releases and commits count no steps.
    """
    if re.fullmatch(r"[0-9]{1,15}", text):
        return "", "step", int(text)
    counters: dict[str, int] = {}
    for word, digits, thousands in _PROGRESS.findall(text):
        count = int(digits) * _THOUSANDS[thousands.lower()]
        counters.setdefault(_WORDS[word.lower()], count)
    unit = next((unit for unit in UNITS if unit in counters), None)
    if unit is None:
        return None
    rest = re.sub(r"[-_=.]{2,}", "-", _PROGRESS.sub("", text)).strip("-_=.")
    return rest, unit, counters[unit]
