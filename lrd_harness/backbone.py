"""A transformers backbone seen block by block: one forward pass, every state.

The blocks and the final norm are not looked up by name, since every family has its own: they are
found by watching one short probe pass, and the find is checked against the model's own output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lrd_harness.errors import UserError

Watch = Callable[[int, Tensor], None]


class Backbone:
    """The blocks and the final norm of a transformers model without its head.

    Attributes: module; blocks (ModuleList); calls (L, how often blocks are called in a pass: more
    than len(blocks) where blocks share weights, as in ALBERT); final_norm (None if the last block's
    output is the model's output).

    Raises UserError where the module cannot be run on tokens, has no blocks called in sequence, or
    its output does not follow from the last block.
    """

    def __init__(self, module: nn.Module, probe: Mapping[str, Tensor]) -> None:
        self.module = module.eval()
        name = type(module).__name__
        _check_runs(module, probe, name)
        self.blocks, self.calls = _find_blocks(module, probe, name)
        self.final_norm = _find_final_norm(self, probe, name)

    def run(self, features: Mapping[str, Tensor], watch: Watch) -> Tensor:
        """One forward pass; `watch(l, state)` sees state 0..L, (b, T, d_l), as written.

        Returns the model's last_hidden_state (b, T, d_L).
        """
        seen = 0

        def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if seen == 0:
                watch(0, args[0] if args else kwargs["hidden_states"])

        def leave(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            nonlocal seen
            seen += 1
            watch(seen, hidden_of(output))

        with torch.inference_mode(), _hooked(self.blocks, enter, leave):
            return _last_hidden_state(self.module, features)


def _last_hidden_state(module: nn.Module, features: Mapping[str, Tensor]) -> Tensor:
    """The model's own output state; no cache is kept, since nothing is generated."""
    output = module(**features, **({"use_cache": False} if _takes_cache(module) else {}))
    state: Tensor = output[0] if isinstance(output, tuple) else output.last_hidden_state
    return state


def _check_runs(module: nn.Module, probe: Mapping[str, Tensor], name: str) -> None:
    try:
        with torch.inference_mode():
            state = _last_hidden_state(module, probe)
    except Exception as error:
        raise UserError(f"{name} cannot be run on tokens: {error}") from error
    if state.dim() != 3 or state.shape[:2] != probe["input_ids"].shape:
        raise UserError(f"{name} gives no state for each token: not a transformer")


def _takes_cache(module: nn.Module) -> bool:
    return bool(getattr(getattr(module, "config", None), "use_cache", False))


def hidden_of(output: Any) -> Tensor:
    """Blocks return a tensor or, in some families, a tuple that begins with it."""
    state: Tensor = output[0] if isinstance(output, (tuple, list)) else output
    return state


@contextmanager
def _hooked(blocks: nn.ModuleList, enter: Any, leave: Any) -> Iterator[None]:
    handles = [block.register_forward_hook(leave) for block in blocks]
    handles += [block.register_forward_pre_hook(enter, with_kwargs=True) for block in blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _find_blocks(
    module: nn.Module, probe: Mapping[str, Tensor], name: str
) -> tuple[nn.ModuleList, int]:
    """The outermost ModuleList whose members hand a (b, T, d) state on to each other."""
    lists = [m for m in module.modules() if isinstance(m, nn.ModuleList) and len(m)]
    shape = tuple(probe["input_ids"].shape)
    counts = [0] * len(lists)

    def counter(index: int) -> Callable[..., None]:
        def count(_: nn.Module, args: Any, output: Any) -> None:
            state = hidden_of(output)
            if isinstance(state, Tensor) and state.dim() == 3 and tuple(state.shape[:2]) == shape:
                counts[index] += 1

        return count

    handles = [m.register_forward_hook(counter(i)) for i, found in enumerate(lists) for m in found]
    try:
        with torch.inference_mode():
            _last_hidden_state(module, probe)
    finally:
        for handle in handles:
            handle.remove()
    config: Any = getattr(module, "config", None)
    expected = getattr(config.get_text_config() if config else None, "num_hidden_layers", None)
    # modules() walks from the outside in, so ties go to the outermost list
    for index, found in enumerate(lists):
        if expected and counts[index] == expected and counts[index] % len(found) == 0:
            return found, counts[index]
    best = max(range(len(lists)), key=lambda i: counts[i], default=None)
    if best is None or counts[best] == 0:
        raise UserError(f"{name} has no blocks that are called in sequence: not a transformer")
    return lists[best], counts[best]


def _find_final_norm(
    backbone: Backbone, probe: Mapping[str, Tensor], name: str
) -> nn.Module | None:
    """The modules between the last block and the output, found by following the tensor."""
    states: dict[int, Tensor] = {}
    trail: list[tuple[nn.Module, Tensor, Tensor]] = []
    inner = {id(m) for m in backbone.blocks.modules()}

    def follow(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if args and isinstance(args[0], Tensor) and isinstance(output, Tensor):
            trail.append((module, args[0], output))

    leaves = [m for m in backbone.module.modules() if not list(m.children()) and id(m) not in inner]
    handles = [m.register_forward_hook(follow) for m in leaves]
    try:
        last = backbone.run(probe, lambda layer, state: states.update({layer: state}))
    finally:
        for handle in handles:
            handle.remove()
    current = states[backbone.calls]
    chain = []
    for module, before, after in trail:
        if same(before, current) and not same(after, before):
            chain.append(module)
            current = after
    if not same(current, last):
        raise UserError(
            f"{name}: its output does not follow from its last block by modules of its own, "
            "so layers of it cannot be read"
        )
    if not chain:
        return None
    return chain[0] if len(chain) == 1 else nn.Sequential(*chain)


def same(a: Tensor, b: Tensor) -> bool:
    """Equal but for rounding; NaN equals NaN."""
    if a.shape != b.shape:
        return False
    # T5 keeps a part of itself in float32 when the rest is in half precision
    loose = {a.dtype, b.dtype} & {torch.float16, torch.bfloat16}
    rtol, atol = (1e-2, 1e-3) if loose else (1e-5, 1e-6)
    # NaN weights are a fault of the states, found where these are measured
    return torch.allclose(a.float(), b.float(), rtol=rtol, atol=atol, equal_nan=True)
