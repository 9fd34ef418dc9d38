"""Many variants of a backbone on one batch, each block run once for all that have it in common.

A variant is the model without some of its blocks. Up to the first block in which two variants
differ they have the same states, so the variants form a tree of kept-block sequences. It is walked
depth first from the states of one full pass, which also gives the arguments that each block takes.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lrd_harness.errors import UserError
from lrd_harness.models.backbone import Backbone, hidden_of, same
from lrd_harness.models.cut import kept_blocks

Removed = tuple[int, ...]  # ascending block numbers, 1..L, that are taken out; () is the full model


class Call(NamedTuple):
    """What a block takes besides the state; named: whether the state goes by name as well."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    named: bool


class Walk:
    """Runs a batch through many variants of a backbone, which share what they have in common.

    executions: how many blocks were run so far.
    Raises UserError for a model whose blocks share weights, as in ALBERT.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.executions = 0
        self._name = type(backbone.module).__name__
        self._checked = False
        if backbone.calls != len(backbone.blocks):
            raise UserError(
                f"{self._name} shares weights between its blocks, so none of them can be removed"
            )

    def run(
        self,
        features: Mapping[str, Tensor],
        variants: Sequence[Removed],
        seen: Callable[[Removed, Tensor], None],
    ) -> None:
        """One full pass, then what variants have of their own; `seen(removed, state)` of each.

        features: what the backbone takes; state: the variant's last one as written, (b, T, d),
        before the final norm, which belongs to the walk and must not be changed. At most as many
        states as there are blocks are in memory at a time, at the points where variants branch off.

        Raises UserError for blocks that do not exist, a variant without blocks, and, on the first
        batch, for a model whose blocks cannot be run one by one.
        """
        gone = {removed: frozenset(removed) for removed in variants}
        for removed in filter(None, gone):
            kept_blocks(removed, self.backbone.calls)
        if not gone:
            return
        with torch.inference_mode(), self.backbone.unchanged():
            calls, open_branches = self._full_pass(features, gone)
            # of what is left to do, the deepest branch first: it adds none above itself
            while open_branches:
                state, at, group = open_branches.pop()
                for number in range(at + 1, self.backbone.calls + 1):
                    out = [removed for removed in group if number in gone[removed]]
                    if len(out) == len(group):
                        continue
                    if out:
                        open_branches.append((state, number, out))
                        group = [removed for removed in group if number not in gone[removed]]
                    state = self._replay(number, calls[number], state)
                for removed in group:
                    seen(removed, state)

    def _full_pass(
        self, features: Mapping[str, Tensor], gone: Mapping[Removed, frozenset[int]]
    ) -> tuple[dict[int, Call], list[tuple[Tensor, int, list[Removed]]]]:
        """How each block is called, and where variants leave the full path, deepest last.

        A branch is (state, the last block that is decided on, the variants that go there).
        """
        depth = self.backbone.calls
        calls: dict[int, Call] = {}
        branches: list[tuple[Tensor, int, list[Removed]]] = []
        on_path = list(gone)
        flow = None if self._checked else _Flow()

        def watch(layer: int, state: Tensor) -> None:
            nonlocal on_path
            self.executions += layer > 0
            out = [removed for removed in on_path if layer == depth or layer + 1 in gone[removed]]
            if out:
                branches.append((state, min(layer + 1, depth), out))
                on_path = [removed for removed in on_path if layer + 1 not in gone[removed]]

        def enter(number: int, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            others = dict(kwargs)
            state = args[0] if args else others.pop("hidden_states")
            calls[number] = Call(args[1:], others, named=not args)
            if flow is not None:
                flow.enter(number == depth, state, calls[number])

        handles = []
        try:
            for number, block in enumerate(self.backbone.blocks, 1):
                entering = partial(enter, number)
                handles.append(block.register_forward_pre_hook(entering, with_kwargs=True))
                if flow is not None:
                    leaving = partial(flow.leave, number, calls)
                    handles.append(block.register_forward_hook(leaving))
            self.backbone.run(features, watch)
        finally:
            for handle in handles:
                handle.remove()
        if flow is not None:
            self._check(flow, calls[depth])
        return calls, branches

    def _check(self, flow: _Flow, call: Call) -> None:
        """Raise UserError unless the last block gives the same again, and nothing bypasses it."""
        again = self._replay(self.backbone.calls, call, flow.last_input)
        if not (flow.sound and flow.unchanged and same(again, flow.state)):
            raise UserError(
                f"{self._name}: its blocks hand on more than one state, so they cannot be run one "
                "by one and none of them can be removed"
            )
        self._checked = True

    def _replay(self, number: int, call: Call, state: Tensor) -> Tensor:
        """A block on another state, with the arguments that it had in the full pass."""
        self.executions += 1
        block = self.backbone.blocks[number - 1]
        if call.named:
            return hidden_of(block(hidden_states=state, **call.kwargs))
        return hidden_of(block(state, *call.args, **call.kwargs))


class _Flow:
    """Watches whether one state, and nothing else, goes from block to block.

    A block that is taken out must leave nothing behind but a gap: what the model does to a state
    between two blocks, and what it hands on beside it, a replay would not see.

    state: what the last block wrote so far; sound: whether each block took that as it was, and
    none took anything else that blocks had made. The first block may make something for all
    (T5's position bias), which variants without it take as well.
    """

    def __init__(self) -> None:
        self.sound = True
        self.state: Tensor
        self._begun = False
        self._written: list[weakref.ref[Tensor]] = []

    def enter(self, last: bool, state: Tensor, call: Call) -> None:
        """A block takes a state, and other arguments."""
        if self._begun:
            self.sound &= state is self.state or same(state, self.state)
        tensors = list(_tensors(call))
        self.sound &= not any(ref() is tensor for ref in self._written for tensor in tensors)
        if last:
            self.last_input, self._copy = state, state.clone()

    def leave(
        self, number: int, calls: Mapping[int, Call], block: nn.Module, args: Any, output: Any
    ) -> None:
        """A block has written its output."""
        self._begun, self.state = True, hidden_of(output)
        known = [id(tensor) for tensor in _tensors(calls[number])]
        for tensor in _tensors(output):
            if tensor is self.state or (number > 1 and id(tensor) not in known):
                self._written.append(weakref.ref(tensor))

    @property
    def unchanged(self) -> bool:
        """Whether the last block has left its input as it was, for other variants to take."""
        return same(self.last_input, self._copy)


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in nested tuples, lists and dictionaries."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _tensors(inner)
    elif isinstance(value, (tuple, list)):
        for inner in value:
            yield from _tensors(inner)
