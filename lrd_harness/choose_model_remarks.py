"""How far to trust a choice between models that saw no label, in plain sentences."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from lrd_harness import inference, stats
from lrd_harness.choose_model import Candidate, Chosen, Place

STEADY = 0.95  # share of half-samples in which the first model must be first
FEW = 8  # models below which an order may well come about by chance


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
        return []
    tops = {metric: firsts(places) for metric, places in chosen.places.items()}
    return [
        _agreement(tops, chosen),
        *_sampling(chosen),
        _size(tops, chosen),
        _labels(len({p.model for places in chosen.places.values() for p in places})),
    ]


def _agreement(tops: dict[str, list[str]], chosen: Chosen) -> str:
    """Whether the metrics choose the same model, and how alike their orders are."""
    if len(tops) == 1:
        ((metric, models),) = tops.items()
        return f"{metric} puts {_and(models)} first; no other metric was asked."
    if len(set(map(tuple, tops.values()))) == 1:
        models = next(iter(tops.values()))
        return f"All {len(tops)} metrics put {_and(models)} first{_taus(chosen)}."
    said = "; ".join(f"{metric}: {_and(models)}" for metric, models in tops.items())
    return (
        f"The metrics choose different models ({said}){_taus(chosen)}: they measure different "
        "things, and texts without labels do not say which of them is right here."
    )


def _taus(chosen: Chosen) -> str:
    """Kendall's tau-b of each pair of metrics on the models that both have."""
    found = []
    for (one, here), (two, there) in combinations(chosen.places.items(), 2):
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
    tops = [places[0] for places in chosen.places.values() if places[0].first is not None]
    lines = []
    if tops:
        by_model: dict[str, list[str]] = {}
        for top in tops:
            by_model.setdefault(top.model, []).append(
                f"{100 * (top.first or 0):.0f} % ({top.metric})"
            )
        shares = "; ".join(f"{model} on {_and(held)}" for model, held in by_model.items())
        unsure = [t.metric for t in tops if (t.first or 0) < STEADY]
        end = (
            f"By {_and(unsure)} another model may well be first on other texts like these"
            if unsure
            else "Other texts like these would very likely put the same models first"
        )
        lines.append(f"Of the halves of the texts, these stay first: {shares}. {end}.")
    for places in chosen.places.values():
        sign = 1 if places[0].best == "max" else -1
        halved = max(places, key=lambda place: sign * (place.halved or 0))
        if halved.halved is not None and halved.halved != places[0].halved:
            lines.append(
                f"On half as many texts {halved.metric} would put {halved.model} first: its score "
                "depends on how many texts there are."
            )
    return lines


def _size(tops: dict[str, list[str]], chosen: Chosen) -> str:
    """Whether the choice says more than that a model is large."""
    by_size = size_ranks([one for one in chosen.candidates if one.cost is not None])
    largest, widest = (
        [name for name, rank in by_size[size].items() if rank == 1]
        for size in ("parameters", "width")
    )
    sizes = f"most parameters: {_and(largest)}; widest: {_and(widest)}"
    if largest == widest:
        sizes = f"most parameters, and widest: {_and(largest)}"
    same = [metric for metric, models in tops.items() if set(models) & {*largest, *widest}]
    if len(same) < len(tops):
        those = f"as {_and(same)} does" if same else "otherwise"
        return f"Size alone would choose {those} ({sizes})."
    if len({*largest, *widest}) == 1:
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
