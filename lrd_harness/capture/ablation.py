"""Single-block ablation: what a model's output loses without each block alone, text by text."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lrd_harness.capture.embeddings import Progress
from lrd_harness.capture.fidelity import AT_ONCE, divergence, rank_correlation
from lrd_harness.capture.walk import Removed, Walk
from lrd_harness.contracts import BlockValues, Encoded
from lrd_harness.errors import UnitError
from lrd_harness.measuring import float64
from lrd_harness.models.opened import OpenedModel

Rows = Sequence[int]
similarity = torch.nn.functional.cosine_similarity


class Ablation(NamedTuple):
    """Of n texts and L blocks, what each text loses without each block.

    losses: (n, L); weights: (n,), by which they are averaged, 0 for a text that was not read. Of a
    language model "kl": nats from the original's next tokens, summed over a text's predicted
    tokens, and how many these are; of others "cosine_loss", 1 - the cosine of the outputs, weights
    of 1, and rsa_loss, 1 - the rank correlation of their similarities, of all texts together.
    """

    loss: str
    losses: np.ndarray
    weights: np.ndarray
    rsa_loss: BlockValues | None = None

    def effect(self, rows: Rows) -> list[float | None]:
        """The mean loss without each block on some texts, 0 or more; None where not finite.

        Raises UnitError where no token of these texts is predicted.
        """
        total = float(self.weights[list(rows)].sum())
        if not total:
            raise UnitError("no text has a second token to be predicted")
        means = (self.losses[list(rows)].sum(axis=0) / total).tolist()
        return [max(0.0, mean) if isfinite(mean) else None for mean in means]

    @property
    def effects(self) -> dict[str, BlockValues]:
        """The effect of each block by name of its loss, the one that counts first."""
        effects: dict[str, BlockValues] = {self.loss: self.effect(range(len(self.losses)))}
        return effects if self.rsa_loss is None else effects | {"rsa_loss": self.rsa_loss}


@torch.inference_mode()
def ablate(
    model: OpenedModel,
    batches: Sequence[tuple[Rows, Sequence[Encoded]]],
    n: int,
    progress: Progress,
) -> Ablation:
    """Run texts through a model without each of its blocks in turn: about L²/2 blocks a text.

    batches: numbers of texts, of 0..n-1, with their tokens. In memory are the states of a batch
    that the L variants write, and next-token distributions in pieces of AT_ONCE numbers. What goes
    with texts that are in no batch is 0. Raises UserError as `Walk` does.
    """
    blocks, walk = model.info.blocks, Walk(model.backbone)
    total = sum(len(batch) for _, batch in batches)
    variants: list[Removed] = [(), *((number,) for number in range(1, blocks + 1))]
    losses, weights, done = np.zeros((n, blocks)), np.zeros(n), 0
    outputs: np.ndarray | None = None
    for rows, batch in batches:
        here = list(rows)
        if model.head is not None:
            losses[here], weights[here] = _next_tokens(model, walk, batch, variants)
        else:
            pooled = pooled_states(model, walk, batch, variants)
            out = torch.stack([float64(model.embed(pooled[v])).cpu() for v in variants]).numpy()
            outputs = np.zeros((len(variants), n, out.shape[-1])) if outputs is None else outputs
            outputs[:, here] = out
            cosines = similarity(torch.from_numpy(out[:1]), torch.from_numpy(out[1:]), dim=-1)
            losses[here], weights[here] = 1 - cosines.numpy().T, 1
        done += len(batch)
        progress(done, total)
    if outputs is None:
        return Ablation("kl", losses, weights)
    whole, *others = outputs[:, weights > 0]
    alike = [rank_correlation(whole, other) for other in others]
    rsa_loss = [None if rho is None else 1 - rho for rho in alike]
    return Ablation("cosine_loss", losses, weights, rsa_loss)


def pooled_states(
    model: OpenedModel, walk: Walk, batch: Sequence[Encoded], variants: Sequence[Removed]
) -> dict[Removed, Tensor]:
    """The pooled last states (b, d) of a batch in each variant."""
    features, pooled = model.features(batch), {}

    def seen(removed: Removed, state: Tensor) -> None:
        kinds = model.pooled(state, features)
        pooled[removed] = kinds.get("final", kinds["raw"])

    walk.run(model.inputs(features), variants, seen)
    return pooled


def _next_tokens(
    model: OpenedModel, walk: Walk, batch: Sequence[Encoded], variants: Sequence[Removed]
) -> tuple[np.ndarray, np.ndarray]:
    """Nats summed over each text's predicted tokens (b, L), and how many these are (b,)."""
    features, head = model.features(batch), model.head
    assert head is not None
    mask = features["attention_mask"].bool()
    before = mask[:, :-1] & mask[:, 1:]  # the positions that another token of the text follows
    states: dict[Removed, Tensor] = {}

    def seen(removed: Removed, state: Tensor) -> None:
        states[removed] = model.normed(state[:, : before.shape[1]][before])

    nats = torch.zeros(len(batch), len(variants) - 1, dtype=torch.float64)
    if before.any():
        walk.run(model.inputs(features), variants, seen)
    owner, step = before.nonzero()[:, 0].cpu(), max(1, AT_ONCE // head.vocabulary)
    for start in range(0, len(owner), step):
        piece = slice(start, start + step)

        def logs(removed: Removed, piece: slice = piece) -> Tensor:
            return float64(head.logits(states[removed][piece])).log_softmax(dim=1)

        whole = logs(())
        for column, removed in enumerate(variants[1:]):
            nats[:, column].index_add_(0, owner[piece], divergence(whole, logs(removed)).cpu())
    return nats.numpy(), before.sum(1).cpu().numpy()
