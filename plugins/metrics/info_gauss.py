"""info_gauss: how much of other models' leading directions a model predicts on unseen texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf, sqrt
from typing import TYPE_CHECKING, Any, NamedTuple

from lrd_harness.contracts import PanelMetric, PanelValues, Summary
from lrd_harness.errors import DegenerateState, NotEnoughTexts, UserError
from lrd_harness.hookspecs import hookimpl

from .similarity import by_model

if TYPE_CHECKING:
    import numpy as np
    import torch

LEAST = 100  # texts
RANK = 1e-6  # of the largest singular value: directions as short as this are rounding
GRID = tuple(10.0**power for power in range(-4, 3))
EVIDENCE = (
    "on 8 real models, looked at afterwards, is_gauss followed the scores with rho -.1 to .6 over "
    "n, k and with or without a twin, received with .8 to 1: believe neither yet"
)


@hookimpl
def lrd_panel_metrics() -> list[PanelMetric]:
    """Register the metric."""
    summaries = {
        "is_gauss": Summary("gain", "median", "row", best="max"),
        "received": Summary("gain", "median", "column"),
    }
    fields: Any = {"summaries": summaries, "group": "panel"}
    fields |= {"experimental": True, "evidence": EVIDENCE, "texts": LEAST}
    return [PanelMetric("info_gauss", info_gauss, **fields)]


def info_gauss(
    states: Mapping[str, torch.Tensor],
    families: Mapping[str, str | None],
    k: int = 64,
    folds: int = 5,
    seed: int = 0,
    grid: Sequence[float] = GRID,
    floor: float = 1e-4,
) -> PanelValues:
    """What a linear Gaussian model of V's leading components gains by seeing U, on unseen texts.

    It is fitted on the other folds, by ridge regression. Source: information sufficiency (EMIR,
    arXiv 2406.07640), with such a model in place of its networks, and held-out texts.

    Experimental, see EVIDENCE. Values depend on n, k and who is on the panel; copies and sisters
    raise each other.

    Parameters
    ----------
    states : mapping from model to tensor (n, d)
        Pooled texts. Each model is decomposed once a fold; M n min(n, d) float64 numbers are held:
        256 MB for 10 models of 2,000 texts that are 2,000 wide or wider.
    families : not used.
    k : int, default 64
        Components of V that are predicted; lowered to floor(t / 8), t the fewest texts to fit on,
        and to the least rank of a model in a fold.
    folds, seed : int, default 5 and 0
        Parts of a draw of the texts, each held out once.
    grid : sequence of float, default 1e-4, 1e-3 .. 1e2
        Strengths of the ridge, as shares of the mean squared singular value of U; for each U, V and
        fold the one with the least leave-one-out error is taken, ties to the larger.
    floor : float, default 1e-4
        The least error variance of a component; it bounds the gain by about -log(floor) / 2 + 1/2.

    Returns
    -------
    dict
        ``gain``, row U (what is seen), column V (what is predicted), not symmetric: nats a text and
        component, negative where the prediction harms; ``r2``, alike, the share of variance
        predicted; ``k``, as used; ``n``. Of three models or more the harness adds ``is_gauss``, the
        median of a model's row of ``gain`` (higher is the published better end), and ``received``,
        of its column.

    Raises
    ------
    NotEnoughTexts
        Below 100 texts.
    DegenerateState
        For a model that gives all texts of a fold one state.
    UserError
        For a parameter out of its range.

    Examples
    --------
    A model of which V is a part tells more of V than V of it:

    >>> import torch
    >>> whole = torch.randn(200, 8, generator=torch.Generator().manual_seed(0)).double()
    >>> gain = info_gauss({"whole": whole, "part": whole[:, :2]}, {})["gain"]
    >>> gain["whole"]["part"] > 3 > 1 > gain["part"]["whole"]
    True
    """
    import numpy as np
    import torch

    n = len(next(iter(states.values())))
    _check(n, k, folds, seed, grid, floor)
    parts = np.array_split(np.random.RandomState(seed).permutation(n), folds)
    k = min(k, (n - len(parts[0])) // 8)
    gain, error, total = torch.zeros(3, len(states), len(states), dtype=torch.float64)
    for held in parts:
        models = [_factors(model, states[model], held) for model in states]
        if (rank := min(len(model.scale) for model in models)) < k:
            return info_gauss(states, families, rank, folds, seed, grid, floor)
        for u, seen in enumerate(models):
            others = [v for v in range(len(models)) if v != u]
            of_fold = _predicted(seen, [models[v] for v in others], k, grid, floor)
            for sums, of_others in zip((gain, error, total), of_fold, strict=True):
                sums[u, others] += of_others.cpu()
    matrices = {"gain": gain / n, "r2": 1 - error / total}
    return {
        **{name: by_model(list(states), matrix) for name, matrix in matrices.items()},
        "k": k,
        "n": n,
    }


def _check(n: int, k: int, folds: int, seed: int, grid: Sequence[float], floor: float) -> None:
    if k < 1:
        raise UserError(f"info_gauss: k must be at least 1, not {k}")
    if folds < 2:
        raise UserError(f"info_gauss: folds must be at least 2, not {folds}")
    if not 0 <= seed < 2**32:
        raise UserError(f"info_gauss: seed must be 0 or more and below 2**32, not {seed}")
    # below, a text of a wide model would have a leverage of 1, and no leave-one-out error
    if not grid or not all(1e-9 <= strength < inf for strength in grid):
        raise UserError(f"info_gauss: grid must be strengths of 1e-9 or more, not {list(grid)}")
    if floor <= 0:
        raise UserError(f"info_gauss: floor must be above 0, not {floor}")
    if n < max(LEAST, folds):
        raise NotEnoughTexts(f"info_gauss needs at least {max(LEAST, folds)} texts, got {n}")


class _Factors(NamedTuple):
    """A model on one fold: P diag(s) Qᵀ, the states it is fitted on less their mean."""

    left: torch.Tensor  # P (t, r)
    scale: torch.Tensor  # s (r,), descending
    held: torch.Tensor  # (h, r): held-out states, less that mean, times Q / s


def _factors(name: str, state: torch.Tensor, held: np.ndarray) -> _Factors:
    import torch

    if state.shape[1] > len(state):  # turned into as many dimensions as texts: half the time
        state = torch.linalg.qr(state.T, mode="r").R.T
    out = torch.zeros(len(state), dtype=torch.bool)
    out[torch.from_numpy(held)] = True
    out = out.to(state.device)
    mean = state[~out].mean(dim=0)
    left, scale, right = torch.linalg.svd(state[~out] - mean, full_matrices=False)
    r = int((scale > RANK * scale[0]).sum())
    if not r:
        raise DegenerateState(f"info_gauss: {name} has one state for all texts of a fold")
    left, scale, right = left[:, :r].contiguous(), scale[:r], right[:r]  # or all would be held
    return _Factors(left, scale, (state[out] - mean) @ right.T / scale)


def _predicted(
    seen: _Factors, others: Sequence[_Factors], k: int, grid: Sequence[float], floor: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of each other model, sums over the held-out texts: gain, squared error, square, (M - 1,)."""
    import torch

    left, device = seen.left, seen.left.device
    t = len(left)
    # the k components of all other models beside each other, of variance 1: (t, K), (h, K)
    goal = torch.cat([v.left[:, :k].to(device) for v in others], dim=1) * sqrt(t)
    unseen = torch.cat([v.held[:, :k].to(device) for v in others], dim=1) * sqrt(t)
    squares, shares = seen.scale.square(), left.T @ goal
    least = torch.full((len(others),), torch.inf, dtype=torch.float64, device=device)
    variance, kept = torch.zeros_like(goal[0]), torch.zeros_like(shares)
    for strength in sorted(grid, reverse=True):
        weights = squares / (squares + strength * squares.mean())
        shrunk = weights[:, None] * shares
        leverage = 1 / t + left.square() @ weights
        errors = ((goal - left @ shrunk) / (1 - leverage)[:, None]).square().mean(dim=0)
        mean = errors.view(-1, k).mean(dim=1)
        better = mean < least
        least = torch.where(better, mean, least)
        columns = better.repeat_interleave(k)
        variance = torch.where(columns, errors, variance)
        kept = torch.where(columns, shrunk, kept)
    variance = variance.clamp(min=floor)
    square, error = unseen.square(), (unseen - seen.held @ kept).square()
    gain = (square - error / variance - variance.log()).sum(dim=0) / (2 * k)
    sums = (gain, error.sum(dim=0), square.sum(dim=0))
    of_gain, of_error, of_square = (of.view(-1, k).sum(dim=1) for of in sums)
    return of_gain, of_error, of_square
