"""Variants that share their prefix: one walk over all of them against one pass of each.

    python tests/benchmarks/pruning.py

27 variants of SmolLM2's 30 blocks: 3, 4 and 5 of the candidates 4 to 27, chosen by six ways that
stand for rules and by three random seeds, each nested over the budgets. Both ways read the same
batches, of the quickstart's texts, and pool every variant's last state; batch by batch they take
turns. One by one, each variant is a pruned model, of weights in common; what chooses the same
blocks is run once in both.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from _setting import arguments, distinct_texts, open_model, tasks, timed
from torch import Tensor, nn

from lrd_harness.capture.embeddings import batches
from lrd_harness.capture.layers import planes
from lrd_harness.capture.token_budget import BATCH_TOKENS
from lrd_harness.capture.walk import Removed, Walk
from lrd_harness.models.backbone import Backbone
from lrd_harness.models.cut import remove

CANDIDATES = range(4, 28)
COUNTS = (3, 4, 5)
# the order in which a rule takes blocks; angular distances favour runs in the upper half
RULES = {
    "last": range(27, 22, -1),
    "run, deep": (24, 23, 25, 22, 26),
    "run, upper": (20, 21, 19, 22, 18),
    "run, middle": (15, 14, 16, 13, 17),
    "scattered": (25, 21, 26, 18, 23),
    "scattered, lower": (22, 12, 17, 24, 9),
}
SEEDS = (0, 1, 2)


def variants() -> list[Removed]:
    """The distinct sets of blocks that are taken out."""
    orders: list[Sequence[int]] = list(RULES.values())
    for seed in SEEDS:
        orders.append(np.random.default_rng(seed).permutation(CANDIDATES).tolist())
    return list(dict.fromkeys(tuple(sorted(o[:m])) for o in orders for m in COUNTS))


def pruned(module: nn.Module, blocks: nn.ModuleList, removed: Removed) -> nn.Module:
    """A model without some blocks, its weights those of the original."""
    shared = {id(p): p for p in (*module.parameters(), *module.buffers())}
    path = next(name for name, m in module.named_modules() if m is blocks)
    copied = copy.deepcopy(module, memo=dict(shared))
    left = copied.get_submodule(path)
    assert isinstance(left, nn.ModuleList)
    remove(copied, left, removed)
    return copied


def main() -> None:
    """Print the block executions, the times and the largest difference of the two ways."""
    parser = arguments(__doc__, embeddings=False)
    parser.add_argument("--texts", type=int, default=32)
    parser.add_argument("--max-length", type=int, default=256)
    options = parser.parse_args()
    model, sets = open_model("SmolLM2", options.max_length), variants()
    texts = distinct_texts(model, tasks())
    texts = texts[:: max(1, len(texts) // options.texts)]
    encoded = sorted(model.tokenize(texts), key=lambda e: -len(e["input_ids"]))
    lengths = [len(e["input_ids"]) for e in encoded]
    probe = model.inputs(model.features(encoded[-1:]))
    alone = {
        removed: Backbone(pruned(model.backbone.module, model.blocks, removed), probe)
        for removed in sets
    }
    walk, kind = Walk(model.backbone), planes(model, "final")[-1][0]
    walk.run(probe, [()], lambda removed, state: None)  # its check, and a warm start
    before, executions, apart, number = walk.executions, 0, 0.0, 0
    seconds = {"tree": 0.0, "one by one": 0.0}
    for batch in batches(lengths, BATCH_TOKENS["cpu"]):
        features = model.features(encoded[batch.start : batch.stop])
        inputs = model.inputs(features)
        pooled: dict[Removed, Tensor] = {}

        def seen(removed: Removed, state: Tensor, features=features, pooled=pooled) -> None:  # type: ignore[no-untyped-def]
            pooled[removed] = model.pooled(state, features)[kind]

        def single(backbone: Backbone, inputs=inputs, features=features) -> Tensor:  # type: ignore[no-untyped-def]
            states: dict[str, Tensor] = {}
            with torch.inference_mode():
                backbone.run(inputs, lambda layer, state: states.update(last=state))
                return model.pooled(states["last"], features)[kind]

        seconds["tree"] += timed(walk.run, inputs, sets, seen)[0]
        for removed, backbone in alone.items():
            time, expected = timed(single, backbone)
            seconds["one by one"] += time
            executions += backbone.calls
            apart = max(apart, float((expected - pooled[removed]).norm() / expected.norm()))
        number += 1
    tree = walk.executions - before
    print(f"{len(sets)} variants, {len(encoded)} texts, {sum(lengths)} tokens, {number} batches")
    print(f"{'':12} {'blocks':>8} {'a batch':>8} {'time':>9}")
    for name, blocks in (("one by one", executions), ("tree", tree)):
        print(f"{name:12} {blocks:8} {blocks / number:8.0f} {seconds[name]:8.1f}s")
    ratio = seconds["tree"] / seconds["one by one"]
    print(f"{'ratio':12} {tree / executions:8.2f} {'':8} {ratio:9.2f}")
    print(f"largest relative difference of pooled states: {apart:.1e}")
    if apart > 1e-5:
        raise SystemExit("the two ways differ")


if __name__ == "__main__":
    main()
