"""Whether a predictor tells kin apart: its order of the models within each family.

A predictor that only tells families from one another (decoders of seven billion parameters from
small encoders) has a high rho over all models and none within a family. The families are those of
the models' configurations ("bert", "mistral").

Of two models of one family whose mean scores differ, a predictor is right where it puts the better
one first; level predictions count as half, as in Harrell's (1982) concordance index. 0.5 is chance.

Checkpoints of one training run: models of a run whose names differ in the step alone.

A step is read from a revision (`EleutherAI/pythia-410m@step1000`, `@step1000-tokens4B`, `@2000`)
or from the end of a folder's name (`local/checkpoint-500`, `local/run/global_step10`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Literal, NamedTuple

import numpy as np
from scipy import stats as scipy_stats

from lrd_harness.board import inference, statistics
from lrd_harness.board.panel import FRENET_RANK, MeanRanks, Panel, dates, mean_ranks, negated, sizes
from lrd_harness.contracts import Choice
from lrd_harness.results.database import Key, ModelRow, Results

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


LEAST = 4  # members of a family that have both, for a rho within it
DRAWS = 1_999
_DENSE = 300  # members, up to which all pairs are held at once
MOST_PAIRS = 5_000  # above so many pairs no p-value: the orders drawn would not fit
_NUMBER = np.float64


class Pairs(NamedTuple):
    """surplus: pairs that a predictor has right less those it has wrong; n: of unlike scores."""

    surplus: int = 0
    n: int = 0

    @property
    def share(self) -> float | None:
        """Pairs in the right order, level predictions counted as half; None without a pair."""
        return (self.n + self.surplus) / (2 * self.n) if self.n else None


@dataclass(frozen=True)
class Beside:
    """A metric beside one baseline on the `pairs` that both have: their shares in order."""

    name: str
    own: float
    share: float
    pairs: int


@dataclass(frozen=True)
class KinAgreement:
    """One predictor within the families.

    share: of the `pairs` of kin with unlike scores, those in the right order, 0..1, 0.5 = chance;
    p: two-sided, by orders of the scores drawn within each family, None above 5,000 pairs;
    between, between_pairs: the same share, of pairs of models of two families;
    rho: median over families of Spearman's rho within the family, by_family: each of at least 4
    models that have both, None where not defined; beside: of a metric, the baselines on the pairs
    that both have.
    """

    name: str
    kind: Literal["metric", "baseline"]
    share: float | None
    pairs: int
    p: float | None
    between: float | None
    between_pairs: int
    rho: float | None
    by_family: Mapping[str, float | None]
    beside: tuple[Beside, ...] = ()


@dataclass(frozen=True)
class Relative:
    """A model among its kin. rank: by mean score; predicted: predictor -> rank, 1 = best.

    Ranks are within the family; level models share the better one; None where not predicted.
    """

    model: str
    revision: str
    score: float
    rank: int
    predicted: Mapping[str, int | None]


@dataclass(frozen=True)
class Kin:
    """A family of at least two models that have a mean score over all tasks, best first."""

    name: str
    models: tuple[Relative, ...]


@dataclass(frozen=True)
class Families:
    """All predictors, then all families, the largest first.

    left_out: models in no family of two: their family is not known, they lack a task and so have
    no comparable score, or they are the only one of their family.
    """

    rows: tuple[KinAgreement, ...]
    families: tuple[Kin, ...]
    left_out: int


@dataclass(frozen=True)
class _Setting:
    """scores: of the models with family and score; kin: family -> places of its members in it."""

    keys: Sequence[Key]
    scores: np.ndarray
    kin: Mapping[str, np.ndarray]
    baselines: Mapping[str, np.ndarray]
    drawn: dict[bytes, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)


def build_families(
    panel: Panel, actual: Mapping[Key, float | None], order: Mapping[str, MeanRanks]
) -> Families | None:
    """Every predictor within every family; None where no family has two models with a score.

    actual: model -> mean score; order: metric -> model -> mean rank, 1 = best.
    """
    names = {key: row.family for key, row in panel.models.items() if actual[key] is not None}
    keys = [key for key, family in names.items() if family]
    of = [names[key] or "" for key in keys]
    places = {name: np.flatnonzero([name == other for other in of]) for name in dict.fromkeys(of)}
    kin = {name: at for name, at in sorted(places.items(), key=lambda i: -len(i[1])) if len(at) > 1}
    if not kin:
        return None
    metrics = {name: negated(ranks) for name, ranks in order.items()}
    for name, values in panel.others.items():
        metrics[name] = negated(mean_ranks(values, panel.models, Choice(name, "max")))
    rank = negated(mean_ranks(panel.frenet_rank, panel.models, Choice("rank", "max")))
    others = {**sizes(panel), FRENET_RANK: rank, **dates(panel)}

    def column(values: Mapping[Key, float | None]) -> np.ndarray:
        return np.array([values[key] for key in keys], dtype=_NUMBER)

    baselines = {name: column(values) for name, values in others.items()}
    setting = _Setting(keys, column(actual), kin, baselines)
    held = {name: column(values) for name, values in metrics.items()}
    rows = [_agreement(name, "metric", values, setting) for name, values in held.items()]
    rows += [_agreement(name, "baseline", values, setting) for name, values in baselines.items()]
    return Families(
        tuple(row for row in rows if row.pairs or row.kind == "metric"),
        tuple(_kin(name, at, held | baselines, setting) for name, at in kin.items()),
        len(panel.models) - sum(map(len, kin.values())),
    )


def _agreement(
    name: str, kind: Literal["metric", "baseline"], values: np.ndarray, setting: _Setting
) -> KinAgreement:
    within = _within(values, setting)
    there = ~np.isnan(values)
    whole = concordance(values[there], setting.scores[there])
    between = Pairs(whole.surplus - within.surplus, whole.n - within.n)
    rhos = {family: _rho(values, at, setting) for family, at in setting.kin.items()}
    by_family = {family: rho for family, (rho, n) in rhos.items() if n >= LEAST}
    against = setting.baselines if kind == "metric" else {}
    beside = (_beside(other, values, base, setting) for other, base in against.items())
    return KinAgreement(
        name=name,
        kind=kind,
        share=within.share,
        pairs=within.n,
        p=_p(values, within, setting),
        between=between.share,
        between_pairs=between.n,
        rho=inference.median(list(by_family.values())),
        by_family=by_family,
        beside=tuple(one for one in beside if one),
    )


def _rho(values: np.ndarray, at: np.ndarray, setting: _Setting) -> tuple[float | None, int]:
    """Spearman's rho among the members at these places, and how many have a value."""
    x, y = statistics.paired(values[at], setting.scores[at])
    return statistics.spearman(x, y), len(x)


def _beside(
    name: str, values: np.ndarray, baseline: np.ndarray, setting: _Setting
) -> Beside | None:
    both = ~np.isnan(values) & ~np.isnan(baseline)
    own, other = (_within(np.where(both, side, np.nan), setting) for side in (values, baseline))
    if own.share is None or other.share is None:
        return None
    return Beside(name, own.share, other.share, own.n)


def _within(values: np.ndarray, setting: _Setting) -> Pairs:
    """The pairs of all families together."""
    found = []
    for at in setting.kin.values():
        there = at[~np.isnan(values[at])]
        found.append(concordance(values[there], setting.scores[there]))
    return Pairs(sum(pairs.surplus for pairs in found), sum(pairs.n for pairs in found))


def concordance(x: np.ndarray, y: np.ndarray) -> Pairs:
    """All pairs of (n,) predictions with unlike scores y (n,): right less wrong, and how many."""
    if len(x) <= _DENSE:
        a, b = (np.sign(side[:, None] - side[None, :]) for side in (x, y))
        return Pairs(int(np.sum(a * b)) // 2, int(np.sum(b != 0)) // 2)
    pairs = len(x) * (len(x) - 1) // 2
    free_x, free_y = (pairs - _level(side) for side in (x, y))
    if not free_x or not free_y:
        return Pairs(0, free_y)
    tau = scipy_stats.kendalltau(x, y, method="asymptotic").statistic  # in n log n
    return Pairs(round(float(tau) * float(free_x) ** 0.5 * float(free_y) ** 0.5), free_y)


def _level(values: np.ndarray) -> int:
    """How many pairs are level."""
    counts = np.unique(values, return_counts=True)[1].astype(object)
    return int(sum(n * (n - 1) // 2 for n in counts))


def _p(values: np.ndarray, within: Pairs, setting: _Setting) -> float | None:
    """(count + 1) / (draws + 1) of drawn orders with as large a surplus, either way.

    Exact in that P(p <= a) <= a where, in every family, all orders of the scores are alike.
    """
    there = ~np.isnan(values)
    members = (int(there[at].sum()) for at in setting.kin.values())
    if not within.n or sum(n * (n - 1) // 2 for n in members) > MOST_PAIRS:
        return None
    if there.tobytes() not in setting.drawn:
        setting.drawn[there.tobytes()] = _drawn(there, setting)
    pairs, signs = setting.drawn[there.tobytes()]
    own = np.sign(values[pairs[:, 0]] - values[pairs[:, 1]]).astype(np.float32)
    if not own.any():
        return None
    surplus = np.abs(signs @ own)  # whole numbers below 2^24: exact in float32
    return (int(np.sum(surplus >= abs(within.surplus))) + 1) / (DRAWS + 1)


def _drawn(there: np.ndarray, setting: _Setting) -> tuple[np.ndarray, np.ndarray]:
    """The pairs of kin among `there` (P, 2), and the signs of their scores' order as drawn.

    Signs are (draws, P): the scores of every family's members in seeded random orders.
    """
    generator = np.random.default_rng(42)
    pairs, signs = [], []
    for at in setting.kin.values():
        members = at[there[at]]
        if len(members) < 2:
            continue
        first, second = np.array(list(combinations(range(len(members)), 2))).T
        scores = np.tile(setting.scores[members], (DRAWS, 1))
        drawn = generator.permuted(scores, axis=1)
        pairs.append(np.stack([members[first], members[second]], axis=1))
        signs.append(np.sign(drawn[:, first] - drawn[:, second]).astype(np.float32))
    return np.concatenate(pairs), np.concatenate(signs, axis=1)


def _kin(name: str, at: np.ndarray, held: Mapping[str, np.ndarray], setting: _Setting) -> Kin:
    scores = setting.scores[at]
    ranks = statistics.places(scores)
    predicted = {who: statistics.places(values[at]) for who, values in held.items()}
    models = [
        Relative(
            model=setting.keys[place].model,
            revision=setting.keys[place].revision,
            score=float(scores[i]),
            rank=ranks[i] or 0,
            predicted={who: places[i] for who, places in predicted.items()},
        )
        for i, place in enumerate(at.tolist())
    ]
    return Kin(name, tuple(sorted(models, key=lambda model: model.rank)))
