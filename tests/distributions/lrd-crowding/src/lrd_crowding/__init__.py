"""How crowded texts lie: a metric of a model, one of a panel of models, and a pruning rule."""

from lrd_harness import Choice, Metric, PanelMetric, Pruner, UnitError, hookimpl

lrd_interface = 1


def crowding(states, centred=False):
    """How far texts point into one direction, 0..1, in each layer: the length of their mean."""
    lengths = []
    for state in states:
        state = state - state.mean(0) if centred else state
        directions = state / state.norm(dim=1, keepdim=True).clamp(min=1e-12)
        lengths.append(float(directions.mean(0).norm()))
    return {"length": lengths}


def likeness(states, families):
    """How alike two models order pairs of texts by distance, and each one's mean over the others.

    Those of its own family are left out of a model's mean, where there are others.
    """
    import torch

    if len(states) < 2:
        raise UnitError("likeness compares models: it needs two or more")
    distances = {model: torch.pdist(state) for model, state in states.items()}
    pairs = {
        a: {
            b: float(torch.corrcoef(torch.stack([x, y]))[0, 1])
            for b, y in distances.items()
            if b != a
        }
        for a, x in distances.items()
    }
    means = {}
    for a, row in pairs.items():
        strange = [r for b, r in row.items() if families[a] is None or families[a] != families[b]]
        means[a] = sum(strange or row.values()) / len(strange or row)
    return {"likeness": means, "pairs": pairs}


def choose(evidence, candidates, m, seed):
    """The blocks behind which texts lie most crowded."""
    lengths = evidence.profiles["crowding.length"]
    crowded = sorted(candidates, key=lambda block: (lengths[block - 1] or 0.0, block))
    return sorted(crowded[-m:])


@hookimpl
def lrd_metrics():
    laws = frozenset({"rotation", "permutation", "scaling"})
    choice = Choice("mean_length", "min")
    return [Metric("crowding", crowding, selection=choice, of="states", invariances=laws)]


@hookimpl
def lrd_panel_metrics():
    return [PanelMetric("likeness", likeness, selection=Choice("likeness", "max"))]


@hookimpl
def lrd_pruners():
    about = "the blocks behind which texts lie most crowded"
    return [Pruner("crowded", choose, metrics=("crowding",), description=about)]
