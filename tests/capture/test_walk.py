"""Variants that are walked together have the states of models pruned one by one."""

from __future__ import annotations

import copy
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lrd_harness.capture.walk import Removed, Walk
from lrd_harness.errors import UserError
from lrd_harness.models.backbone import Backbone
from lrd_harness.models.cut import remove

BLOCKS = 6
KINDS = ["sliding_attention", "full_attention", "sliding_attention"] * 2
CHANGES: dict[str, dict[str, Any]] = {
    # windows narrower than the text, so that a block that took another's mask would show
    "Gemma3Text": {"layer_types": KINDS, "sliding_window": 4},
    "ModernBert": {"local_attention": 4},
}
FAMILIES = ("Bert", "MPNet", "T5", "Llama", "Gemma3Text", "GPT2", "GPTNeoX", "Mamba", "OPT")
FAMILIES += ("ModernBert", "Bart", "Bloom")
VARIANTS: list[Removed] = [(), (1,), (2,), (2, 3), (2, 3, 5), (1, 4), (5,), (5, 6), (6,), (3, 4, 6)]


def made(family: str, blocks: int = BLOCKS) -> Any:
    """The module of a random model, as the harness runs it; blocks differ visibly."""
    torch.manual_seed(0)
    named: dict[str, str] = getattr(transformers, f"{family}Config").attribute_map
    counts = {"num_hidden_layers", named.get("num_hidden_layers", "num_hidden_layers")}
    changes = {**dict.fromkeys(counts, blocks), **CHANGES.get(family, {})}
    model: Any = transformers.AutoModel.from_config(tiny.config(family, **changes)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and "norm" not in name.lower() and "A_log" not in name:
                parameter.mul_(2)
    return model.get_encoder() if model.config.is_encoder_decoder else model


def probe(batch: int = 3) -> dict[str, Tensor]:
    """Token features; the last text is padded on the right."""
    torch.manual_seed(1)
    ids = torch.randint(7, len(tiny.VOCAB), (batch, 9))
    mask = torch.ones_like(ids)
    if batch > 1:
        mask[-1, 5:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def opened(module: nn.Module) -> Backbone:
    return Backbone(module, probe(1))


def walked(walk: Walk, variants: list[Removed]) -> dict[Removed, Tensor]:
    found: dict[Removed, Tensor] = {}

    def seen(removed: Removed, state: Tensor) -> None:
        assert removed not in found
        assert state.is_inference()
        found[removed] = state.clone()

    walk.run(probe(), variants, seen)
    assert set(found) == set(variants)
    return found


def last_of(backbone: Backbone) -> Tensor:
    states: dict[int, Tensor] = {}
    backbone.run(probe(), lambda layer, state: states.update({layer: state}))
    return states[backbone.calls]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_state_is_that_of_the_pruned_model(family: str) -> None:
    module = made(family)
    backbone = opened(module)
    found = walked(Walk(backbone), VARIANTS)
    mask = probe()["attention_mask"].bool()
    for removed, state in found.items():
        pruned = copy.deepcopy(module)
        if removed:
            remove(pruned, opened(pruned).blocks, removed)
        expected = last_of(opened(pruned))
        scale = float(expected[mask].abs().max().clamp(min=1))
        assert float((state - expected)[mask].abs().max()) <= 1e-5 * scale
        if removed:
            assert not torch.allclose(state, found[()], atol=1e-2)
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules()) == 0


def edges(variants: set[Removed]) -> int:
    """The blocks that a tree of kept sequences takes, the full one among them."""
    full = tuple(range(1, BLOCKS + 1))
    kept = [tuple(n for n in full if n not in removed) for removed in variants]
    return len({way[: i + 1] for way in [full, *kept] for i in range(len(way))})


BACKBONE = opened(made("GPT2"))
numbers = st.sets(st.integers(1, BLOCKS), max_size=BLOCKS - 1).map(lambda s: tuple(sorted(s)))


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.lists(numbers, min_size=1, max_size=12, unique=True), st.randoms())
def test_each_edge_of_the_tree_is_run_once(variants: list[Removed], random: Any) -> None:
    walk = Walk(BACKBONE)
    walked(walk, [()])  # the check of the first batch
    assert walk.executions == BLOCKS + 1
    calls: Counter[int] = Counter()
    handles = [
        block.register_forward_hook(lambda *_, number=number: calls.update([number]))
        for number, block in enumerate(BACKBONE.blocks, 1)
    ]
    found = walked(walk, variants)
    for handle in handles:
        handle.remove()
    assert sum(calls.values()) == walk.executions - (BLOCKS + 1) == edges(set(variants))
    turned = random.sample(variants, len(variants))
    again = walked(walk, turned)
    for removed, state in found.items():
        assert torch.equal(again[removed], state)
        assert torch.equal(walked(walk, [removed])[removed], state)


@pytest.mark.parametrize(
    ("removed", "complaint"),
    [
        ((7,), "block 7 does not exist: the model has blocks 1 to 6"),
        ((0, 2), "block 0 does not exist"),
        ((2, 2), "block 2 is given twice"),
        ((1, 2, 3, 4, 5, 6), "none would be left"),
    ],
)
def test_variants_that_there_cannot_be(removed: Removed, complaint: str) -> None:
    walk = Walk(BACKBONE)
    with pytest.raises(UserError, match=complaint):
        walked(walk, [(), removed])
    assert walk.executions == 0


def test_shared_weights() -> None:
    with pytest.raises(UserError, match=r"AlbertModel shares weights .* none of them can be"):
        Walk(opened(made("Albert")))


def chained(blocks: Any, state: Tensor) -> Tensor:
    for block in blocks:
        state = block(state)
    return state


def scaled(blocks: Any, state: Tensor) -> Tensor:
    for block in blocks:
        state = block(2 * state)
    return state


def residual(blocks: Any, state: Tensor) -> Tensor:
    """A second state that every block takes from the one before it and makes anew."""
    other = None
    for block in blocks:
        state, other = block(state, other)
    return state


def skipping(blocks: Any, state: Tensor) -> Tensor:
    """A state that is taken again further up."""
    below, _ = blocks[1](blocks[0](state)[0])
    return blocks[3](blocks[2](below)[0], below)[0]  # type: ignore[no-any-return]


class Adding(nn.Linear):
    def forward(self, state: Tensor, other: Tensor | None = None) -> Any:
        return super().forward(state if other is None else state + other), state.tanh()


class Overwriting(nn.Linear):
    def forward(self, state: Tensor) -> Tensor:
        return super().forward(state.mul_(2))


class Remembering(nn.Linear):
    def forward(self, state: Tensor) -> Tensor:
        self.passes = getattr(self, "passes", 0) + 1
        return super().forward(state) * self.passes


class Chain(nn.Module):
    """A model that is written by hand."""

    def __init__(self, block: Any = nn.Linear, way: Any = chained) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.way = nn.Embedding(len(tiny.VOCAB), 8), way
        self.blocks = nn.ModuleList(block(8, 8) for _ in range(4))

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Any:
        return SimpleNamespace(last_hidden_state=self.way(self.blocks, self.embed(input_ids)))


def test_a_chain_by_hand() -> None:
    found = walked(Walk(opened(Chain())), [(1,), (2, 4)])
    assert not torch.allclose(found[1,], found[2, 4])


UNSOUND = [(nn.Linear, scaled), (Adding, residual), (Adding, skipping)]


@pytest.mark.parametrize(
    ("block", "way"), [*UNSOUND, (Overwriting, chained), (Remembering, chained)]
)
def test_blocks_that_hand_on_more_than_a_state(block: Any, way: Any) -> None:
    walk = Walk(opened(Chain(block, way)))
    for _ in range(2):  # it is not let through the second time
        with pytest.raises(UserError, match="cannot be run one by one"):
            walk.run(probe(), [(1,)], lambda removed, state: pytest.fail("not sound"))


def test_a_family_that_scales_between_blocks() -> None:
    """RWKV halves its states every sixth block."""
    assert walked(Walk(opened(made("Rwkv", 5))), [(2,)])
    with pytest.raises(UserError, match="RwkvModel: its blocks hand on more than one state"):
        walked(Walk(opened(made("Rwkv", 7))), [(2,)])


def test_no_hook_stays_when_a_walk_fails() -> None:
    module = made("Bert", 3)
    walk = Walk(opened(module))

    def refuse(removed: Removed, state: Tensor) -> None:
        raise KeyError(removed)

    with pytest.raises(KeyError):
        walk.run(probe(), [(), (2,)], refuse)
    handle = walk.backbone.blocks[1].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        walk.run(probe(), [(2,)], lambda removed, state: None)
    handle.remove()
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules()) == 0
    assert walked(walk, [(2,)])
