"""How far to trust a choice between models that saw no label, in plain sentences."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from lrd_harness import inference, stats
from lrd_harness.choose_model import Candidate, Chosen, Place

STEADY = 0.95  # share of half-samples in which the first model must be first
FEW = 8  # models below which an order may well come about by chance
MANY = 200  # texts from which on scores and intervals of all metrics hold, see halves.py
SIZES = {"parameters": "most parameters", "width": "widest"}


def size_ranks(candidates: Sequence[Candidate]) -> dict[str, dict[str, int | None]]:
    """What size predicts, 1 = largest: by parameters (or their logarithm), and by width."""
    costs = [one.cost for one in candidates]
    values = {
        "parameters": [None if cost is None else float(cost.parameters) for cost in costs],
        "width": [None if cost is None else float(cost.width) for cost in costs],
    }
    names = [one.name for one in candidates]
    return {size: dict(zip(names, stats.places(of), strict=True)) for size, of in values.items()}


def firsts(places: Sequence[Place]) -> list[str]:
    """The models that a metric puts first; several where they are level."""
    return [place.model for place in places if place.rank == 1]


def remarks(chosen: Chosen) -> list[str]:
    """On these texts, on the metrics among each other, on size, and on labels."""
    if not chosen.places:
        return ["No model could be ranked."]
    alone: dict[str, list[str]] = {}
    for metric, places in chosen.places.items():
        if len(places) == 1:
            alone.setdefault(places[0].model, []).append(metric)
    lines = [
        f"Only {model} has a score by {_and(metrics)}: nothing is ranked by "
        f"{'it' if len(metrics) == 1 else 'them'}."
        for model, metrics in alone.items()
    ]
    if not chosen.rankings:
        return lines
    tops = {metric: firsts(places) for metric, places in chosen.rankings.items()}
    labels = _labels(len(chosen.ranked))
    return [_agreement(tops, chosen), *lines, *_sampling(chosen), _size(tops, chosen), labels]


def _agreement(tops: dict[str, list[str]], chosen: Chosen) -> str:
    """Whether the metrics choose the same model, and how alike their orders are."""
    if len(tops) == 1:
        ((metric, models),) = tops.items()
        return f"{metric} puts {_and(models)} first; no other metric has ranked them."
    if len(set(map(tuple, tops.values()))) == 1:
        models = next(iter(tops.values()))
        every = "Both" if len(tops) == 2 else f"All {len(tops)}"
        return f"{every} metrics put {_and(models)} first{_taus(chosen)}."
    said = "; ".join(f"{metric}: {_and(models)}" for metric, models in tops.items())
    return (
        f"The metrics choose different models ({said}){_taus(chosen)}: they measure different "
        "things, and texts without labels do not say which of them is right here."
    )


def _taus(chosen: Chosen) -> str:
    """Kendall's tau-b of each pair of metrics on the models that both have."""
    found = []
    for (one, here), (two, there) in combinations(chosen.rankings.items(), 2):
        other = {place.model: place.rank for place in there}
        both = [(place.rank, other[place.model]) for place in here if place.model in other]
        tau = (
            inference.kendall([a for a, _ in both], [b for _, b in both]) if len(both) > 2 else None
        )
        if tau is not None:
            found.append(f"{one} and {two} {tau:+.2f}")
    return f" (Kendall's tau of their orders: {', '.join(found)})" if found else ""


def _sampling(chosen: Chosen) -> list[str]:
    """Whether another sample of texts, or half as many, might put another model first."""
    tops = [places[0] for places in chosen.rankings.values() if places[0].first is not None]
    lines = [_stay(tops)] if tops else []
    lost = [m for m, places in chosen.rankings.items() if places[0].first is None]
    if not chosen.draws:
        lines.append(
            "No half-samples were drawn (--draws 0): nothing is known of how other texts would "
            "rank the models."
        )
    elif lost:
        lines.append(
            f"Too few half-samples gave all models a score by {_and(lost)}: nothing is known of "
            "how other texts would rank them."
        )
    if chosen.texts < MANY:
        what = "scores, ranks and intervals" if chosen.draws else "scores and ranks"
        lines.append(f"{chosen.texts} texts are few: {what} are rough below {MANY}.")
    for places in chosen.rankings.values():
        before = [place for place in places if place.overtakes]
        if before:
            sign = 1 if places[0].best == "max" else -1
            halved = max(before, key=lambda place: sign * (place.halved or 0))
            lines.append(
                f"On half as many texts {halved.metric} would put {halved.model} first: its score "
                "depends on how many texts there are."
            )
    return lines


def _stay(tops: Sequence[Place]) -> str:
    """How often the first models are first on half-samples, too."""
    by_model: dict[str, list[str]] = {}
    for top in tops:
        share = f"{100 * (top.first or 0):.0f} % ({top.metric})"
        by_model.setdefault(top.model, []).append(share)
    shares = "; ".join(f"{model} in {_and(held)}" for model, held in by_model.items())
    unsure = [t.metric for t in tops if (t.first or 0) < STEADY]
    end = (
        f"By {_and(unsure)} another model may well be first on other texts like these"
        if unsure
        else "Other texts like these would very likely put the same models first"
    )
    return (
        "In what share of half-samples, each moved to its score on all texts, the first model is "
        f"first again: {shares}. {end}."
    )


def _size(tops: dict[str, list[str]], chosen: Chosen) -> str:
    """Whether the choice says more than that a model is large, by sizes in which they differ."""
    largest = {
        SIZES[size]: [name for name, rank in ranks.items() if rank == 1]
        for size, ranks in size_ranks(chosen.ranked).items()
        if len(set(ranks.values())) > 1
    }
    if not largest:
        return "Size cannot tell these models apart: all are equally large, and equally wide."
    large = {name for names in largest.values() for name in names}
    sizes = "; ".join(f"{size}: {_and(names)}" for size, names in largest.items())
    if len(largest) > 1 and len(set(map(tuple, largest.values()))) == 1:
        sizes = f"{', and '.join(largest)}: {_and(next(iter(largest.values())))}"
    same = [metric for metric, models in tops.items() if set(models) & large]
    if len(same) < len(tops):
        those = f"as {_and(same)} {'does' if len(same) == 1 else 'do'}" if same else "otherwise"
        return f"Size alone would choose {those} ({sizes})."
    if len(large) == 1:
        return f"Size alone would choose the same ({sizes}): no metric adds anything to it here."
    return f"Every metric's choice is among the largest ({sizes}): it says little more than that."


def _labels(models: int) -> str:
    """What no interval over texts says."""
    few = (
        f" With {models} models, guessing finds the best one in 1 of {models} cases, so that being "
        "right or wrong once says little."
        if models < FEW
        else ""
    )
    return (
        "No label was seen, and no interval here says how well the models would do: over a "
        "published panel of embedding models and 30 tasks, the logarithm of the width alone orders "
        f"the models with a median rho of .70, which a metric has to beat.{few} Before you rely on "
        "it, score the first ones on some labelled examples (`lrd-harness run`)."
    )


def _and(names: Sequence[str]) -> str:
    """Names in a row."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
