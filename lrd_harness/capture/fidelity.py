"""How alike a changed model (pruned, cut, tuned, quantised) is to its original, without labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from lrd_harness.capture.covariance import debiased_cka, top_share
from lrd_harness.capture.samples import SEED
from lrd_harness.errors import DegenerateState, NotEnoughTexts, NotFinite, UnitError
from lrd_harness.measuring import float64, is_degenerate, is_finite

LEAST, MOST = 50, 2000  # texts
K = 10  # neighbours
AT_ONCE = 2**24  # float64 numbers of next-token distributions in memory at once, 128 MiB


def alike(original: Any, changed: Any) -> dict[str, float]:
    """How alike two models' outputs for the same texts are.

    Parameters
    ----------
    original, changed : (n, d) and (n, d')
        Pooled outputs, of 50 texts or more; of more than 2000 a seeded sample is taken. Arithmetic
        is in float64.

    Returns
    -------
    dict
        ``texts``, how many were compared. Of each text with itself: ``cosine``, the mean cosine of
        its two outputs, and ``unpaired``, that of two different texts' (neither where widths
        differ). Of all texts: ``rsa``, Spearman's correlation of the two matrices of cosines;
        ``knn_overlap``, the mean share of a text's 10 nearest others that are the same, beside
        ``chance``; ``cka``, as of `debiased_cka`, beside ``top_share`` and
        ``top_share_original``, the share of the variance that lies in the first direction: near 1,
        that direction alone decides. What has no value is absent: all but cosines where an output
        is the same for most texts.

    Raises NotEnoughTexts, NotFinite, and UnitError for unequal numbers of texts.

    Examples
    --------
    >>> states = np.random.default_rng(0).normal(size=(60, 8))
    >>> {name: round(value, 6) for name, value in alike(states, -2 * states).items()}["rsa"]
    1.0
    """
    h, g = _checked(original), _checked(changed)
    if len(h) != len(g):
        raise UnitError(f"outputs of {len(h)} texts and of {len(g)}: they must be of the same")
    if len(h) < LEAST:
        raise NotEnoughTexts(f"fidelity needs at least {LEAST} texts, got {len(h)}")
    h, g = _some(h), _some(g)
    n, k = len(h), K
    figures: dict[str, float] = {"texts": n}
    units = _directions(h), _directions(g)
    if h.shape[1] == g.shape[1]:
        paired = float((units[0] * units[1]).sum())
        every = float(units[0].sum(axis=0) @ units[1].sum(axis=0))
        figures |= {"cosine": paired / n, "unpaired": (every - paired) / (n * (n - 1))}
    if any(is_degenerate(torch.from_numpy(state)) for state in (h, g)):
        return figures
    apart = [_apart(unit) for unit in units]
    if (rsa := _ranked_alike(*apart)) is not None:
        figures["rsa"] = rsa
    near = [_neighbours(matrix, k) for matrix in apart]
    common = sum(len(set(a) & set(b)) for a, b in zip(*map(np.ndarray.tolist, near), strict=True))
    figures |= {"knn_overlap": common / (n * k), "chance": k / (n - 1)}
    before, after = torch.from_numpy(h), torch.from_numpy(g)
    try:
        figures["cka"] = debiased_cka(before, after)
    except DegenerateState:
        return figures
    return figures | {"top_share": top_share(after), "top_share_original": top_share(before)}


def rank_correlation(original: np.ndarray, changed: np.ndarray) -> float | None:
    """`rsa` alone, of outputs (n, d) and (n, d'), -1..1; None where it has no value.

    Without a value are fewer than 50 texts, outputs that are not finite, and those that are the
    same for most texts.
    """
    sides = [_some(np.asarray(side, dtype=np.float64)) for side in (original, changed)]
    states = [torch.from_numpy(side) for side in sides]
    if len(sides[0]) < LEAST or not all(is_finite(s) and not is_degenerate(s) for s in states):
        return None
    return _ranked_alike(*(_apart(_directions(side)) for side in sides))


def _some(rows: np.ndarray) -> np.ndarray:
    return rows[chosen(len(rows))] if len(rows) > MOST else rows


def _apart(units: np.ndarray) -> np.ndarray:
    """1 - cosine of rows of length 1 or 0, by chords of centred rows: all digits where most agree.

    Rounded, so that what is tied is not ordered by the last digit.
    """
    rows = units - units.mean(axis=0)
    half = ((rows**2).sum(axis=1) + (1 - (units**2).sum(axis=1).round())) / 2
    apart: np.ndarray = half[:, None] + half - rows @ rows.T
    unit = 1e-12 * np.sqrt(2 * half.max())
    return np.round(apart / unit) if unit else apart


def _ranked_alike(a: np.ndarray, b: np.ndarray) -> float | None:
    """Spearman's correlation of what is above the diagonals; None where one is constant."""
    pairs = np.triu_indices(len(a), 1)
    ranks = [stats.rankdata(matrix[pairs]) for matrix in (a, b)]
    return float(np.corrcoef(*ranks)[0, 1]) if all(np.ptp(rank) for rank in ranks) else None


def divergence(first: Tensor, second: Tensor) -> Tensor:
    """Of log-probabilities (m, V) float64 of two models, KL(first | second) of each row, nats."""
    p, away = first.exp(), first - second
    nats: Tensor = torch.linalg.vecdot(p, away)
    if nats.isnan().any():  # where a token is ruled out; 0 log 0 is 0
        nats = (p * away).where(p > 0, 0).sum(dim=1)
    return nats


def chosen(n: int) -> np.ndarray:
    """Which of n texts are compared: the numbers (2000,) of a seeded sample, ascending."""
    return np.sort(np.random.RandomState(SEED).choice(n, MOST, replace=False))


def _checked(outputs: Any) -> np.ndarray:
    state = float64(outputs).cpu()
    if not is_finite(state):
        raise NotFinite("NaN or infinity in the outputs")
    array: np.ndarray = state.numpy()
    return array


def _directions(rows: np.ndarray) -> np.ndarray:
    """Rows (n, d) of length 1; those of zeros stay as they are."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: np.ndarray = rows / np.where(norms > 0, norms, np.inf)
    return unit


def _neighbours(apart: np.ndarray, k: int) -> np.ndarray:
    """Of each text the k nearest others (n, k), ties to the lower index."""
    away = apart.copy()
    np.fill_diagonal(away, np.inf)
    return away.argsort(axis=1, kind="stable")[:, :k]


class NextTokens:
    """What language models expect as the next token, over all predicted tokens of all texts.

    tokens: how many were predicted. Each text's tokens 2..T are, from those before them.
    """

    def __init__(self) -> None:
        self.tokens = 0
        self._surprise = [0.0, 0.0]  # nats: the original's, the changed model's
        self._kl, self._same, self._pairs = 0.0, 0, 0

    def add(self, ids: Tensor, logits: Tensor, changed: Tensor | None = None) -> None:
        """Count a text's tokens ids (T,): logits (T, V) of the original, or of the only model.

        Rows are of single tokens, none of padding. The last row, behind which there is no token, is
        not looked at, and may be absent. Raises UnitError for vocabularies of unequal size.
        """
        after = ids[1:].to(logits.device)
        if changed is not None and changed.shape[-1] != logits.shape[-1]:
            sizes = f"{logits.shape[-1]} and {changed.shape[-1]}"
            raise UnitError(f"vocabularies of {sizes} tokens: they must be equal")
        self.tokens += len(after)
        self._pairs += len(after) if changed is not None else 0
        step = max(1, AT_ONCE // logits.shape[-1])
        for start in range(0, len(after), step):
            here = slice(start, min(start + step, len(after)))
            first = self._read(0, logits[here], after[here])
            if changed is not None:
                second = self._read(1, changed[here].to(first.device), after[here])
                self._kl += float(divergence(first, second).sum())
                self._same += int((first.argmax(dim=1) == second.argmax(dim=1)).sum())

    def _read(self, side: int, logits: Tensor, after: Tensor) -> Tensor:
        """Log-probabilities (m, V) float64; those of the true tokens are counted."""
        logs = float64(logits).log_softmax(dim=1)
        after = after.to(logs.device)
        self._surprise[side] -= float(logs.gather(1, after.unsqueeze(1)).sum())
        return logs

    @property
    def figures(self) -> dict[str, float]:
        """``tokens``, and of one model ``perplexity``, exp of the mean surprise in nats.

        Of two ``perplexity_original`` and ``perplexity``; ``kl``, nats of the original's
        distribution against the changed one's, 0 or more, 0 for equal ones; ``same_top1``, the
        share of tokens at which both expect the same one most. Raises UnitError without tokens, for
        NaN, and where some texts were of one model and others of two.
        """
        if not self.tokens:
            raise UnitError("no text has a second token to be predicted")
        if self._pairs not in (0, self.tokens):
            raise UnitError("some texts were read by one model only")
        means = np.array([*self._surprise, self._kl, self._same]) / self.tokens
        if np.isnan(means).any():
            raise NotFinite("NaN in the log-probabilities of tokens")
        with np.errstate(over="ignore"):
            perplexities = np.exp(means[:2]).tolist()
        if not self._pairs:
            return {"tokens": self.tokens, "perplexity": perplexities[0]}
        return {
            "tokens": self.tokens,
            "kl": max(0.0, float(means[2])),
            "perplexity_original": perplexities[0],
            "perplexity": perplexities[1],
            "same_top1": float(means[3]),
        }
