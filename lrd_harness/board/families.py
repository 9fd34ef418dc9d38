"""Models of one family: checkpoints of one training run, and whether a predictor orders a family.

A predictor that only tells families from one another (decoders of seven billion parameters from
small encoders) has a high rho over all models and none within a family. The families are those of
the models' configurations ("bert", "mistral"). Of two models of one family whose mean scores
differ, a predictor is right where it puts the better one first; level predictions count as half, as
in Harrell's (1982) concordance index. 0.5 is chance.

Checkpoints of one training run are models whose names differ in the step alone. A step is read from
a revision (`EleutherAI/pythia-410m@step1000`, `@step1000-tokens4B`, `@2000`) or from the end of a
folder's name (`local/checkpoint-500`, `local/run/global_step10`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from lrd_harness.board import inference, statistics
from lrd_harness.board.panel import Panel
from lrd_harness.report import Column, Table, listing
from lrd_harness.results.rows import Key, ModelRow, Results

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
_NAME = re.compile(r"(.+?)( \[[^\[\]]*\])?", re.DOTALL)  # a way of reading the model, in brackets
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
    match = _NAME.fullmatch(name)
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
LEAST_PAIRS = 5  # pairs of one family: below, a share of them says nothing
SHOWN = 6  # families whose rho is shown, the largest
DRAWS = 1_999
MOST_PAIRS = 5_000  # above so many pairs no p-value: the orders drawn would not fit
SIZES = ("log parameters", "log width", "depth")


class Pairs(NamedTuple):
    """surplus: pairs that a predictor has right less those it has wrong; n: of unlike scores."""

    surplus: int
    n: int

    @property
    def share(self) -> float | None:
        """Pairs in the right order, level predictions counted as half; None without a pair."""
        return (self.n + self.surplus) / (2 * self.n) if self.n else None


@dataclass(frozen=True)
class _Groups:
    """scores: of the models with family and score; members: family -> places of its models."""

    scores: np.ndarray
    members: Mapping[str, np.ndarray]
    drawn: dict[bytes, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    def within(self, values: np.ndarray) -> Pairs:
        """The pairs of all families together."""
        found = [concordance(values[at], self.scores[at]) for at in self.members.values()]
        return Pairs(sum(pairs.surplus for pairs in found), sum(pairs.n for pairs in found))


def concordance(x: np.ndarray, y: np.ndarray) -> Pairs:
    """All pairs of (n,) predictions with unlike scores y (n,): right less wrong, and how many."""
    x, y = statistics.complete(x, y)
    a, b = (np.sign(side[:, None] - side[None, :]) for side in (x, y))
    return Pairs(int(np.sum(a * b)) // 2, int(np.sum(b != 0)) // 2)


def family_tables(
    panel: Panel, labels: Sequence[str], what: str = "models"
) -> tuple[list[Table], int]:
    """How predictors order each family, beside each baseline, and the ranks within families.

    Also how many models are in no family of two. [] where no family has two models with a score.
    """
    scored = np.flatnonzero(~np.isnan(panel.actual)).tolist()
    keep = [i for i in scored if panel.models[i].family]
    of = np.array([panel.models[i].family for i in keep])
    places = {name: np.flatnonzero(of == name) for name in dict.fromkeys(of.tolist())}
    large = sorted(places.items(), key=lambda item: -len(item[1]))
    groups = _Groups(panel.actual[keep], {name: at for name, at in large if len(at) > 1})
    left_out = len(panel.models) - sum(map(len, groups.members.values()))
    if not groups.members:
        return [], left_out
    values = {one.name: one.order[keep] for one in panel.predictors}
    kinds = {one.name: one.kind for one in panel.predictors}
    baselines = {name: v for name, v in values.items() if kinds[name] == "baseline"}
    rows, rivals = [], []
    for name, of_models in values.items():
        beside = list(_beside(of_models, baselines, groups)) if kinds[name] == "metric" else []
        row = {"predictor": name, "kind": kinds[name], **_within(of_models, groups)}
        sizes = [rival for rival in beside if rival["other"] in SIZES]
        best = max(sizes, key=lambda rival: rival["share"], default=None)
        row["best_size"] = best and f"{best['share']:.2f} {best['other']}"
        rivals += [{"predictor": name, **rival} for rival in beside]
        if row["pairs"] or kinds[name] == "metric":
            rows.append(row)
    models = [
        {"model": labels[i], "name": panel.models[i].model, "revision": panel.models[i].revision}
        for i in keep
    ]
    shown = max((row["pairs"] for row in rows), default=0) >= LEAST_PAIRS
    tables = [
        _agreements(rows, groups, left_out, what),
        _ranks({row["predictor"]: row["kind"] for row in rows}, values, groups, models, what),
    ]
    title = "Each metric beside each baseline, within families"
    return [
        *(replace(table, shown=shown) for table in tables),
        listing("family_rivals", title, rivals, "predictor", "other"),
    ], left_out


def _within(values: np.ndarray, groups: _Groups) -> dict[str, Any]:
    """One predictor: shares of pairs within and between families, rho by family."""
    within, whole = groups.within(values), concordance(values, groups.scores)
    between = Pairs(whole.surplus - within.surplus, whole.n - within.n)
    rhos = {}
    for name, at in groups.members.items():
        x, y = statistics.complete(values[at], groups.scores[at])
        if len(x) >= LEAST:
            rhos[name] = statistics.spearman(x, y)
    return {
        "share": within.share,
        "p": _p(values, within, groups),
        "pairs": within.n,
        "between": between.share,
        "between_pairs": between.n,
        "rho": inference.median(list(rhos.values())),
        **{f"by_family.{name}": rho for name, rho in rhos.items()},
    }


def _beside(
    values: np.ndarray, baselines: Mapping[str, np.ndarray], groups: _Groups
) -> Iterator[dict[str, Any]]:
    """A metric beside each baseline on the pairs that both have: their shares in order."""
    for name, baseline in baselines.items():
        both = ~np.isnan(values) & ~np.isnan(baseline)
        own, other = (groups.within(np.where(both, v, np.nan)) for v in (values, baseline))
        if own.share is not None and other.share is not None:
            yield {"other": name, "own": own.share, "share": other.share, "pairs": own.n}


def _p(values: np.ndarray, within: Pairs, groups: _Groups) -> float | None:
    """(count + 1) / (draws + 1) of drawn orders with as large a surplus, either way.

    Exact in that P(p <= a) <= a where, in every family, all orders of the scores are alike.
    """
    there = ~np.isnan(values)
    sizes = (int(there[at].sum()) for at in groups.members.values())
    if not within.n or sum(n * (n - 1) // 2 for n in sizes) > MOST_PAIRS:
        return None
    if there.tobytes() not in groups.drawn:
        groups.drawn[there.tobytes()] = _drawn(there, groups)
    pairs, signs = groups.drawn[there.tobytes()]
    own = np.sign(values[pairs[:, 0]] - values[pairs[:, 1]]).astype(np.float32)
    if not own.any():
        return None
    surplus = np.abs(signs @ own)  # whole numbers below 2^24: exact in float32
    return (int(np.sum(surplus >= abs(within.surplus))) + 1) / (DRAWS + 1)


def _drawn(there: np.ndarray, groups: _Groups) -> tuple[np.ndarray, np.ndarray]:
    """The pairs within families among `there` (P, 2), and the signs of their scores as drawn.

    Signs are (draws, P): the scores of every family's members in seeded random orders.
    """
    generator = np.random.default_rng(42)
    pairs, signs = [], []
    for at in groups.members.values():
        members = at[there[at]]
        if len(members) < 2:
            continue
        first, second = np.array(list(combinations(range(len(members)), 2))).T
        scores = np.tile(groups.scores[members], (DRAWS, 1))
        drawn = generator.permuted(scores, axis=1)
        pairs.append(np.stack([members[first], members[second]], axis=1))
        signs.append(np.sign(drawn[:, first] - drawn[:, second]).astype(np.float32))
    return np.concatenate(pairs), np.concatenate(signs, axis=1)


def _agreements(
    rows: Sequence[Mapping[str, Any]], groups: _Groups, left_out: int, what: str
) -> Table:
    found = {f"by_family.{name}": (name, len(at)) for name, at in groups.members.items()}
    found = {name: of for name, of in found.items() if any(name in row for row in rows)}
    columns = [
        Column("predictor", key=True),
        Column("kind", shown=False),
        Column("share", "pairs in order within a family", "0 to 1", "max", ".2f"),
        Column("p", "p (two-sided)", form=".2g"),
        Column("pairs", "n", "pairs"),
        Column("between", "pairs in order between families", "0 to 1", "max", ".2f"),
        Column("between_pairs", shown=False),
        Column("rho", "median rho", best="max", form="+z.2f"),
        Column("best_size", "best size on the same pairs"),
        *(
            Column(name, f"rho in {family}, n = {n}", form="+z.2f", rest=1, shown=i < SHOWN)
            for i, (name, (family, n)) in enumerate(found.items())
        ),
    ]
    pairs = sum(len(at) * (len(at) - 1) // 2 for at in groups.members.values())
    drawn = "p by orders drawn within the families"
    if pairs > MOST_PAIRS and any(row["p"] is None for row in rows):
        drawn = f"no p is drawn above {MOST_PAIRS:,} pairs"
    caption = [
        "A predictor that only tells families from one another is worth little: size does that. "
        "Pairs in order: of the pairs of models with unlike mean scores, the share that the "
        "predictor has in the right order (0.5 is chance, 1 all; level predictions count as half), "
        f"of one family and of two; {drawn}. rho: Spearman's within a family of at least "
        f"{LEAST} models, and the median over these families."
    ]
    if left_out:
        caption.append(
            f"{left_out} models are in no family of two: it is not known, they lack a task, or "
            "they are the only one."
        )
    title = f"How well each predictor orders the {what} within their families"
    return Table("families", title, tuple(columns), rows, tuple(caption))


def _ranks(
    kinds: Mapping[str, str],
    values: Mapping[str, np.ndarray],
    groups: _Groups,
    models: Sequence[Mapping[str, Any]],
    what: str,
) -> Table:
    """One row per model, the families one under another, each from its best model down."""
    rows = []
    for family, at in groups.members.items():
        ranks = {"rank": statistics.places(groups.scores[at])}
        ranks |= {f"predicted.{name}": statistics.places(values[name][at]) for name in kinds}
        for i in sorted(range(len(at)), key=lambda i: ranks["rank"][i] or 0):
            row = {"family": family, "score": float(groups.scores[at[i]])}
            own = {name: places[i] for name, places in ranks.items()}
            rows.append({**models[int(at[i])], **row, **own})
    by_metric = {name for name, kind in kinds.items() if kind == "metric"} or set(kinds)
    columns = (
        Column("model", key=True),
        Column("name", shown=False),
        Column("revision", shown=False),
        Column("family"),
        Column("score", "mean score", "0 to 1", "max", ".4f"),
        Column("rank", "actual rank"),
        *(Column(f"predicted.{n}", f"rank by {n}", shown=n in by_metric) for n in kinds),
    )
    caption = (
        "Ranks within the family, 1 = best: by mean score of the last layer, and as predicted; "
        "models that are level share the better one.",
    )
    return Table("family_ranks", f"Ranks of {what} within their families", columns, rows, caption)
