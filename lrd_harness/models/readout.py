"""What is read from states: one row per text, and the log-probabilities of a language-model head.

Families scale their logits, cap them, or scale the states before the head. None of that is looked
up: the model's own code is run, with the state that it would have computed put in its place.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import chain, repeat
from typing import Any

import torch
from torch import Tensor, nn

from lrd_harness.contracts import PromptType, Task
from lrd_harness.errors import UserError, unknown
from lrd_harness.models.backbone import Backbone, hooked, same

LOGIT_BYTES = 64 * 2**20  # float32 logits in memory at once: 64 rows of a vocabulary of 256k
Pool = Callable[[Tensor, Tensor], Tensor]
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")


def mean(state: Tensor, mask: Tensor) -> Tensor:
    """Mean of the non-padding tokens: (b, T, d), (b, T) -> (b, d), in float32 or better."""
    # padding may hold NaN
    state = state.masked_fill(~mask.bool().unsqueeze(-1), 0)
    if state.dtype in (torch.float16, torch.bfloat16):
        state = state.float()
    weights = mask.to(state.dtype)
    return torch.bmm((weights / weights.sum(1, keepdim=True)).unsqueeze(1), state).squeeze(1)


def mean_no_sink(state: Tensor, mask: Tensor) -> Tensor:
    """Mean without position 0, the attention sink of decoders, unless that is all a text has."""
    rest = mask.clone().scatter_(1, mask.int().argmax(1, keepdim=True), 0)
    return mean(state, torch.where(rest.sum(1, keepdim=True) > 0, rest, mask))


def first(state: Tensor, mask: Tensor) -> Tensor:
    """The first non-padding token (CLS): (b, T, d), (b, T) -> (b, d)."""
    return state[torch.arange(len(state), device=state.device), mask.int().argmax(1)]


def last(state: Tensor, mask: Tensor) -> Tensor:
    """The last non-padding token: (b, T, d), (b, T) -> (b, d)."""
    position = mask.shape[1] - 1 - mask.flip(1).int().argmax(1)
    return state[torch.arange(len(state), device=state.device), position]


POOLINGS: dict[str, Pool] = {"mean": mean, "cls": first, "last": last, "mean-no-sink": mean_no_sink}
ONE_TOKEN = ("cls", "last")  # those that take a single token's state
# of images by `ImageModel`: patches are what "mean" takes, and a pooler is the model's own
OF_IMAGES = ("cls", "mean", "cls-mean", "pooler")


def pooling_named(name: str) -> Pool:
    """The pooling of that name. Raises UserError for a name that there is not."""
    if name not in POOLINGS:
        raise unknown("pooling", name, POOLINGS, f"There are: {', '.join(POOLINGS)}.")
    return POOLINGS[name]


def embedded(
    embed: Callable[..., Tensor],
    pooled: Tensor,
    prompt_type: PromptType | None,
    task: Task | None = None,
) -> Tensor:
    """What a model's `embed` makes of pooled states; it is told the prompt type and the task, if it
    takes them."""
    takes = inspect.signature(embed).parameters
    told = {"prompt_type": prompt_type, "task": task}
    return embed(pooled, **{name: value for name, value in told.items() if name in takes})


class NoPooler(nn.Module):
    """Stands where a pooler was; hands on what it is given."""

    def forward(self, state: Any, *_: Any, **__: Any) -> Any:
        """The state as it is."""
        return state


def leave_out(module: nn.Module, holes: Collection[str]) -> None:
    """Take the poolers out of a model, in place, of which all weights are among the holes.

    holes: names of the parameters that the checkpoint has not got, as transformers reports them.
    """
    for name, child in list(module.named_modules()):
        weights = {f"{name}.{parameter}" for parameter, _ in child.named_parameters()}
        if "pooler" in name.rpartition(".")[2] and weights and weights <= set(holes):
            module.set_submodule(name, NoPooler())


def left_out(module: nn.Module) -> list[str]:
    """The names of the poolers that were taken out of the model."""
    return [name for name, child in module.named_modules() if isinstance(child, NoPooler)]


class Pooler:
    """The model's own pooler, run on a state put in the place of its last one, (b, T, d) -> (b, m).

    inputs: what the backbone takes, of a few images. Raises UserError where there is no pooler, and
    where what it gives does not follow from the last state alone.
    """

    def __init__(self, backbone: Backbone, inputs: Mapping[str, Tensor]) -> None:
        self._module, self._blocks = backbone.module, backbone.blocks
        norm = backbone.final_norm  # of several modules the last one writes the state
        self._norm = norm[-1] if isinstance(norm, nn.Sequential) else norm
        name, written = type(self._module).__name__, []
        with hooked([self._blocks[-1]], lambda block, args, output: written.append(output)):
            last = backbone.run(inputs, lambda layer, state: None)
        self._answer = written[-1]
        with torch.inference_mode():
            pooled = self._pooled(inputs)
        if left_out(self._module) or not isinstance(pooled, Tensor) or pooled.dim() != 2:
            raise UserError(f"{name} has no pooler, or its weights are not there")
        if not same(self(last, inputs), pooled):
            raise UserError(f"{name}: what its pooler gives does not follow from its state")

    def __call__(self, state: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """What the pooler makes of a state, behind the final norm, of images with these inputs."""
        # one image will do to be embedded for nothing, unless there is a mask for each
        alone = inputs if len(inputs) > 1 else {k: v[:1] for k, v in inputs.items()}
        written = self._answer
        answer = (state, *written[1:]) if isinstance(written, (tuple, list)) else state
        with torch.inference_mode(), ExitStack() as stack:
            for block in self._blocks:  # none of which is run
                stack.enter_context(_answering(block, lambda *_, **__: answer))
            if self._norm is not None:
                first = chain([state], repeat(None))  # BLIP's pooler applies the norm again
                norm = self._norm.forward
                stack.enter_context(
                    _answering(self._norm, lambda x: norm(x) if (s := next(first)) is None else s)
                )
            pooled: Tensor = self._pooled(alone)
        return pooled

    def _pooled(self, inputs: Mapping[str, Tensor]) -> Any:
        return getattr(self._module(**inputs), "pooler_output", None)


@contextmanager
def _answering(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Within it, a module does this in place of its own forward, and no hook of it is told."""
    before = {k: v for k, v in vars(module).items() if k == "forward" or k in _HOOKS}
    vars(module).update({name: {} for name in _HOOKS}, forward=forward)
    try:
        yield
    finally:
        del module.forward
        vars(module).update(before)


class Head:
    """The head of a causal language model.

    whole: the model with its head; probe: features of one short text, (1, T) tensors;
    normed: the state after the final norm that the probe gives, (1, T, d).

    Raises UserError where the model's logits do not follow from that state alone.
    """

    def __init__(self, whole: nn.Module, probe: Mapping[str, Tensor], normed: Tensor) -> None:
        self.whole = whole
        self._inside, self._answer = _reader(whole, probe, normed)
        with torch.inference_mode():
            logits = whole(**probe, use_cache=False).logits[0].float()
        self.vocabulary = logits.shape[-1]
        again = self.logits(normed[0]).float()
        if not torch.allclose(again, logits, rtol=1e-3, atol=1e-3, equal_nan=True):
            raise UserError(
                f"{type(whole).__name__}: its logits do not follow from its last state by its head"
            )

    def logits(self, normed: Tensor) -> Tensor:
        """Logits (m, V) of normed states (m, d), scaled and capped as the model does."""
        ids = torch.zeros(1, len(normed), dtype=torch.long, device=normed.device)
        with torch.inference_mode(), self._put(normed.unsqueeze(0)):
            logits: Tensor = self.whole(input_ids=ids, use_cache=False).logits
        return logits[0]

    def log_probabilities(self, normed: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Of states (m, d), log P of K tokens each (m, K) in nats, float32; and the likeliest (m,).

        The states go through the head in parts, so that memory is bounded whatever the vocabulary.
        """
        rows = max(1, LOGIT_BYTES // (4 * self.vocabulary))
        chosen, likeliest = [], []
        for start in range(0, len(normed), rows):
            logits = self.logits(normed[start : start + rows]).float()
            likeliest.append(logits.argmax(-1))
            picked = logits.gather(1, tokens[start : start + rows])
            chosen.append(picked - logits.logsumexp(-1, keepdim=True))
        return torch.cat(chosen), torch.cat(likeliest)

    @contextmanager
    def _put(self, state: Tensor) -> Iterator[None]:
        """Let the part of the model below the head answer with this state (1, m, d)."""
        answer = self._answer(last_hidden_state=state)
        with _answering(self._inside, lambda *args, **kwargs: answer):
            yield


def _reader(
    whole: nn.Module, probe: Mapping[str, Tensor], normed: Tensor
) -> tuple[nn.Module, Callable[..., Any]]:
    """The outermost module within the model that hands the head its state; its kind of output."""
    outputs: dict[int, Any] = {}

    def note(module: nn.Module, args: Any, output: Any) -> None:
        state = getattr(output, "last_hidden_state", None)
        if isinstance(state, Tensor) and state.shape == normed.shape:
            outputs[id(module)] = output

    inner = [m for m in whole.modules() if m is not whole]
    with torch.inference_mode(), hooked(inner, note):
        whole(**probe, use_cache=False)
    reader = next((m for m in whole.modules() if id(m) in outputs), None)  # from the outside in
    if reader is None:
        kind = type(whole).__name__
        raise UserError(f"{kind}: what its head reads cannot be told from its output")
    return reader, type(outputs[id(reader)])
