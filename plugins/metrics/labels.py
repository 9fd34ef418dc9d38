"""Controls that see the texts' labels: logme, hscore and knn_accuracy of every layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import log, pi
from typing import TYPE_CHECKING

from lrd_harness.contracts import Choice, Metric, Values
from lrd_harness.errors import NotEnoughTexts, UnitError
from lrd_harness.hookspecs import hookimpl
from lrd_harness.measuring import MIN_TEXTS

from ._directions import LAWS
from .nrs import cosine_neighbours, lowered

if TYPE_CHECKING:
    import torch


OF_A_CLASS = 5  # texts: smaller classes are left out
STEPS, SETTLED, NO_ZERO = 11, 1e-3, 1e-5  # of logme's fixed point, as released
NOTHING = 1e-12  # of the largest: an eigenvalue below is rounding


@hookimpl
def lrd_metrics() -> list[Metric]:
    """Register the metrics.

    logme has no intercept and adds 1e-5 to sums of squares, so "scaling" holds of it but nearly.
    """
    rows: list[tuple[Callable[..., Values], frozenset[str]]] = [
        (logme, LAWS - {"scaling"}),
        (hscore, LAWS),
        (knn_accuracy, LAWS),
    ]
    return [
        Metric(
            measure.__name__,
            measure,
            "labels",
            layer_choice=Choice(measure.__name__),
            invariances=laws,
            of="states",
            group="labels",
            norm="final",
        )
        for measure, laws in rows
    ]


class Labelled:
    """The texts of classes of at least 5: their `states`, `classes` (n,), `left` of all texts.

    Raises UnitError for fewer than two such classes, NotEnoughTexts below 8 texts in them.
    """

    def __init__(self, name: str, states: Sequence[torch.Tensor], labels: torch.Tensor) -> None:
        import torch

        sizes = torch.bincount(labels)
        self.rows = (sizes[labels] >= OF_A_CLASS).nonzero()[:, 0]
        _, self.classes = torch.unique(labels[self.rows], return_inverse=True)
        self.sizes = sizes[sizes >= OF_A_CLASS].double()
        self.left = len(labels) - len(self.rows)
        if len(self.sizes) < 2:
            raise UnitError(
                f"{name} needs 2 classes of at least {OF_A_CLASS} texts, got {len(self.sizes)} "
                f"of {int((sizes > 0).sum())}"
            )
        if len(self.rows) < MIN_TEXTS:
            raise NotEnoughTexts(f"{name} needs at least {MIN_TEXTS} texts, got {len(self.rows)}")
        self._states = states

    @property
    def states(self) -> Iterator[torch.Tensor]:
        """Each state's rows of these texts, (n, d_l)."""
        return (state[self.rows] if self.left else state for state in self._states)

    def sums(self, rows: torch.Tensor) -> torch.Tensor:
        """The sum over each class of rows (n, d): (classes, d)."""
        empty = rows.new_zeros(len(self.sizes), rows.shape[1])
        return empty.index_add_(0, self.classes.to(rows.device), rows)

    @property
    def counted(self) -> dict[str, float]:
        """`left_out`, the texts of smaller classes, where there are some."""
        return {"left_out": self.left} if self.left else {}


def logme(states: Sequence[torch.Tensor], labels: torch.Tensor) -> Values:
    """LogME: how well a Bayesian linear model fits the classes, without training one.

    Source: arXiv 2110.10545; for n < d as the paper and the first release have it, since the later
    one counts directions that are not there. No intercept, so that translation matters; values do
    not compare across widths, numbers of texts or of classes.

    Parameters
    ----------
    states : sequence of S tensors (n, d_l)
        Pooled texts.
    labels : tensor (n,)
        The class of each text.

    Returns
    -------
    dict
        ``logme``, S values in nats a text, higher is better: the log evidence of 0/1 columns, mean
        over the classes; ``left_out``, texts of classes with fewer than 5, where there are any.

    Raises
    ------
    UnitError
        Below two classes of at least 5 texts.

    Examples
    --------
    Classes that are apart, and the same texts in turns:

    >>> import torch
    >>> state = torch.eye(2).repeat_interleave(5, dim=0).double()
    >>> turns = torch.arange(10) % 2
    >>> apart, mixed = (logme([state], y)["logme"][0] for y in (turns.sort().values, turns))
    >>> apart > mixed
    True
    """
    texts = Labelled("logme", states, labels)
    evidence = [float(_evidence(state, texts).mean()) for state in texts.states]
    return {"logme": evidence, **texts.counted}


def _evidence(state: torch.Tensor, texts: Labelled) -> torch.Tensor:
    """The log evidence a text of each class's 0/1 column, (classes,); all at once."""
    import torch

    n = len(state)
    u, s, _ = torch.linalg.svd(state, full_matrices=False)
    sigma, squares = s.square(), texts.sums(u).square()  # (r,), (classes, r)
    sizes = texts.sizes.to(state.device)
    rest = (sizes - squares.sum(dim=1)).clamp(min=0)
    alpha, beta = torch.ones_like(rest), torch.ones_like(rest)
    m, e = torch.zeros_like(rest), torch.zeros_like(rest)
    going = torch.ones_like(rest, dtype=torch.bool)
    for _ in range(STEPS):
        tau = (alpha / beta)[:, None]
        gamma = (sigma / (sigma + tau)).sum(dim=1)
        free = (n - len(sigma)) + (tau / (sigma + tau)).sum(dim=1)  # n - gamma, all its digits
        m = m.where(~going, (sigma * squares / (tau + sigma).square()).sum(dim=1))
        e = e.where(~going, (squares / (1 + sigma / tau).square()).sum(dim=1) + rest)
        alpha = alpha.where(~going, gamma / (m + NO_ZERO))
        beta = beta.where(~going, free / (e + NO_ZERO))
        going = going & ((alpha / beta - tau[:, 0]).abs() / tau[:, 0] > SETTLED)
        if not going.any():
            break
    spread = torch.log1p((beta / alpha)[:, None] * sigma).sum(dim=1)
    total: torch.Tensor = n * beta.log() - spread - beta * e - alpha * m - n * log(2 * pi)
    return total / (2 * n)


def hscore(states: Sequence[torch.Tensor], labels: torch.Tensor) -> Values:
    """H-score: the spread of the classes' means in units of the states' own covariance.

    Source: Ibrahim et al. 2021 (arXiv 2110.06893), its covariance shrunk as Ledoit and Wolf (2004)
    do. With fewer texts than dimensions the shrinkage decides: see it beside the score.

    Parameters
    ----------
    states : sequence of S tensors (n, d_l)
        Pooled texts.
    labels : tensor (n,)
        The class of each text.

    Returns
    -------
    dict
        ``hscore``, S values in 0..min(classes - 1, d) n / (n - 1), higher is better;
        ``shrinkage``, 0..1; ``left_out``, texts of classes with fewer than 5, where there are any.

    Raises
    ------
    UnitError
        Below two classes of at least 5 texts.

    Examples
    --------
    Of two classes that one dimension tells apart, and of the same texts in turns:

    >>> import torch
    >>> state = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)).double()
    >>> turns = torch.arange(40) % 2
    >>> state[:, 0] += 10 * turns
    >>> [round(hscore([state], y)["hscore"][0]) for y in (turns, turns.sort().values)]
    [1, 0]
    """
    texts = Labelled("hscore", states, labels)
    pairs = [_spread(state, texts) for state in texts.states]
    scores, shrinkages = ([pair[i] for pair in pairs] for i in (0, 1))
    return {"hscore": scores, "shrinkage": shrinkages, **texts.counted}


def _spread(state: torch.Tensor, texts: Labelled) -> tuple[float, float]:
    """The H-score, and how far its covariance was shrunk."""
    import torch

    n, d = state.shape
    x = state - state.mean(dim=0)
    c = x.T @ x / n
    mu, squared = float(c.trace()) / d, float(c.square().sum())
    noise = (float(x.square().sum(dim=1).square().sum()) / n - squared) / (d * n)
    away = squared / d - mu**2
    a = min(max(noise / away, 0.0), 1.0) if away > 0 else 0.0
    variances, axes = torch.linalg.eigh(c)
    shrunk = (1 - a) * variances + a * mu
    means = texts.sums(x) @ axes  # n_c times each mean
    between = (means.square() / texts.sizes.to(x.device)[:, None]).sum(dim=0) / (n - 1)
    there = shrunk > NOTHING * shrunk.max()  # no class differs where no text does
    return (1 - a) * float((between[there] / shrunk[there]).sum()), a


def knn_accuracy(states: Sequence[torch.Tensor], labels: torch.Tensor, k: int = 10) -> Values:
    """How many texts have the class that most of their nearest neighbours have.

    Each text is left out of its own neighbours: of pure noise it lies below chance.

    Parameters
    ----------
    states : sequence of S tensors (n, d_l)
        Pooled texts.
    labels : tensor (n,)
        The class of each text.
    k : int, default 10
        Neighbours by cosine, ties to the lower index; lowered to floor((n - 1) / 4).

    Returns
    -------
    dict
        ``knn_accuracy``, S values in 0..1, higher is better; of classes with as many neighbours
        that counts which is met first, from the nearest on. ``majority``, the share of the largest
        class; ``k``, as used; ``left_out``, texts of classes with fewer than 5, where there are
        any.

    Raises
    ------
    UnitError
        Below two classes of at least 5 texts.

    Examples
    --------
    >>> import torch
    >>> state = torch.eye(2).repeat_interleave(6, dim=0).double()
    >>> scores = knn_accuracy([state], torch.arange(12) // 6)
    >>> scores["knn_accuracy"], scores["majority"], scores["k"]
    ([1.0], 0.5, 2)
    """
    texts = Labelled("knn_accuracy", states, labels)
    k = lowered(k, len(texts.rows))
    shares = [_voted(state, texts.classes.to(state.device), k) for state in texts.states]
    majority = float(texts.sizes.max()) / len(texts.rows)
    return {"knn_accuracy": shares, "majority": majority, "k": k, **texts.counted}


def _voted(state: torch.Tensor, classes: torch.Tensor, k: int) -> float:
    """The share of the rows of (n, d) whose class their k nearest others vote for."""
    import torch

    near = cosine_neighbours(state, k, torch.arange(len(state), device=state.device))
    by_index = near.indices.argsort(dim=1)
    indices, distances = (of.gather(1, by_index) for of in (near.indices, near.distances))
    distances, order = distances.sort(dim=1, stable=True)
    # distances that differ by rounding are equal: among these the lower index comes first
    level = (distances.diff(dim=1) > near.tie).cumsum(dim=1)
    level = torch.nn.functional.pad(level, (1, 0))
    indices = indices.gather(1, order)
    order = (level * len(state) + indices).argsort(dim=1)
    voted = classes[indices.gather(1, order)]  # (n, k), from the nearest on
    counts = torch.zeros(len(state), int(classes.max()) + 1, dtype=torch.int64, device=state.device)
    votes = counts.scatter_add_(1, voted, torch.ones_like(voted)).gather(1, voted)
    chosen = voted.gather(1, votes.argmax(dim=1, keepdim=True))[:, 0]  # the first of the largest
    return float((chosen == classes).double().mean())
