"""A transformers backbone seen block by block: one forward pass, every state.

Blocks and final norm have another name in every family: they are found by watching a short probe
pass, and the find is checked against the model's own output.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lrd_harness.errors import UserError, not_finite
from lrd_harness.models.snapshot import Snapshot


def text_config(module: nn.Module) -> Any:
    """The part for text of the configuration that a model reads; None where it has none."""
    config: Any = getattr(module, "config", None)
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def follows_length(module: nn.Module) -> bool:
    """Whether rotary frequencies depend on the longest text of a batch."""
    types = [getattr(part, "rope_type", None) for part in module.modules()]
    kinds = [k for t in types for k in (t.values() if isinstance(t, dict) else [t])]
    return any(isinstance(k, str) and ("dynamic" in k or k == "longrope") for k in kinds)


# Names that configurations, and some modules, give to the number of blocks.
COUNTS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers", "num_encoder_layers", "depth")
_DECODERS = ("decoder_layers", "num_decoder_layers")  # of one that stands alone
Watch = Callable[[int, Tensor], None]


class Backbone:
    """The blocks and the final norm of a transformers model without its head.

    Attributes: module; blocks (ModuleList); calls (L, how often blocks are called in a pass: more
    than len(blocks) where blocks share weights, as in ALBERT); final_norm (None if the last block's
    output is the model's output); vocabulary (rows of the embedding that token ids are looked up
    in, None where there is no such table); by_length (whether a pass depends on the longest text
    of its batch, or changes the model: after each pass the model is then put back as it was);
    written (whether a state is what a block writes, and not what the next one reads).

    Raises UserError for a module that cannot be read by layer. It is left as it was found.
    """

    def __init__(self, module: nn.Module, probe: Mapping[str, Tensor]) -> None:
        self.module = module.eval()
        self._snapshot, self._within, self.written = Snapshot(module), False, False
        try:
            self.vocabulary, shape = _check_runs(module, probe)
            self.blocks, self.calls = _find_blocks(module, probe, shape)
            self.by_length = False
            self.final_norm = _find_final_norm(self, probe)
        finally:
            changed = self._snapshot.restore(hooks=True)
        self.by_length = changed or follows_length(module)
        try:
            if wrong := _disagreement(self, probe):
                self.written = True
                if _disagreement(self, probe):
                    raise UserError(f"{type(module).__name__}: {wrong}")
        finally:
            self._snapshot.restore(hooks=True)

    def run(self, features: Mapping[str, Tensor], watch: Watch) -> Tensor:
        """One forward pass; `watch(l, state)` sees state 0..L, (b, T, d_l).

        State l is what block l + 1 reads, and the last one what block L writes: some models work on
        a state between two blocks (DeBERTa's convolution behind its first). Where transformers'
        list has it as block l writes it (YOLOS adds positions behind each), it is that.

        Returns the model's last_hidden_state (b, T, d_L).
        """
        entered = left = 0

        def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            nonlocal entered
            if not (entered and self.written):
                watch(entered, args[0] if args else kwargs["hidden_states"])
            entered += 1

        def leave(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            nonlocal left
            left += 1
            if left == self.calls or self.written:
                watch(left, hidden_of(output))

        with torch.inference_mode(), self.unchanged(), hooked(self.blocks, leave, enter):
            return _last_hidden_state(self.module, features)

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Put the model back as it was behind the block; within it, passes may build on others."""
        outermost, self._within = not self._within, True
        tensors = chain(self.module.parameters(), self.module.buffers(), [torch.empty(0)])
        place = next(tensor.device for tensor in tensors if not tensor.is_meta)  # meta: offloaded
        # kernels that are not torch's own (Triton's) are launched on the current GPU
        current = torch.cuda.device(place) if place.type == "cuda" else nullcontext()
        try:
            # without a caller's autocast, which would change the states
            with current, torch.autocast(place.type, enabled=False):
                yield
        finally:
            if outermost:
                self._within = False
                if self.by_length:
                    self._snapshot.restore()

    def bears(self, features: Mapping[str, Tensor], blocks: int | None) -> bool:
        """Whether a pass goes through so many blocks (None: all) without a fault.

        A lack of memory is none. What the pass changes is put back, and noted in `by_length`.
        """
        from accelerate.utils.memory import should_reduce_batch_size

        left = 0

        def leave(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            nonlocal left
            left += 1
            if left == blocks:
                raise _EnoughError

        try:
            with torch.inference_mode(), hooked(self.blocks, leave):
                _last_hidden_state(self.module, features)
        except _EnoughError:
            return True
        except Exception as error:  # whatever a model raises on a text that is too long for it
            return bool(should_reduce_batch_size(error))
        finally:
            self.by_length |= self._snapshot.restore()
        return True


def body(model: Any) -> Any:
    """The part of a transformers model that gives a state for each token, below any head.

    Of an encoder-decoder that is the encoder, whose checkpoint may have no decoder (T5EncoderModel
    says of itself that it is none). Some models name a part as their base that they do not have.
    """
    both = all(isinstance(getattr(model, part, None), nn.Module) for part in ("encoder", "decoder"))
    if model.config.is_encoder_decoder or both or type(model).__name__.endswith("EncoderModel"):
        return model.get_encoder()
    inner = model.base_model
    if inner is model:
        words = model.get_input_embeddings() if has_head(model) else None
        parts = [part for part in model.children() if any(m is words for m in part.modules())]
        if len(parts) != 1:
            return model
        (inner,) = parts
    return body(inner) if has_head(inner) else inner


def has_head(model: Any) -> bool:
    """Whether a transformers model goes on from states to words."""
    try:
        return model.get_output_embeddings() is not None
    except (AttributeError, NotImplementedError):
        return False


class _EnoughError(Exception):
    """Ends a pass when what was wanted of it is known."""


def _last_hidden_state(module: nn.Module, features: Mapping[str, Tensor]) -> Tensor:
    """The model's own output state."""
    output = output_of(module, features)
    state: Tensor = output[0] if isinstance(output, tuple) else output.last_hidden_state
    return state


def output_of(module: nn.Module, features: Mapping[str, Tensor], **more: bool) -> Any:
    """What a pass gives, without a cache: a block that is run again would find itself in it."""
    caches = getattr(getattr(module, "config", None), "use_cache", False)
    if caches or "use_cache" in inspect.signature(module.forward).parameters:
        more["use_cache"] = False
    return module(**features, **more)


def _check_runs(module: nn.Module, probe: Mapping[str, Tensor]) -> tuple[int | None, torch.Size]:
    """Raise UserError unless the module runs and gives a state for each token.

    Returns the rows of the tokens' embedding, None where it is given images, and (b, T).

    Operations are watched, since some modules flatten the tokens first, and some hand them to a
    table of positions for their number alone.
    """
    name, ids = type(module).__name__, probe.get("input_ids")
    tokens = torch.empty(0) if ids is None else ids.flatten().cpu()
    rows: list[int] = []
    check_stack(module, ids is None)

    def note(operation: Any, args: Sequence[Any]) -> None:
        if operation is torch.ops.aten.embedding.default:
            looked_up = args[1].flatten()
            if len(looked_up) == len(tokens) and bool((looked_up.cpu() == tokens).all()):
                rows.append(len(args[0]))

    try:
        with torch.inference_mode(), Operations(note):
            state = _last_hidden_state(module, probe)
    except Exception as error:
        if rows and (most := int(tokens.max())) >= min(rows):
            raise UserError(
                f"{name} has an embedding of {min(rows)} tokens, and its tokenizer gives the "
                f"token {most}: it is another model's"
            ) from error
        of = "images" if ids is None else "tokens"
        raise UserError(f"{name} cannot be run on {of}: {error}") from error
    shape = tuple(getattr(state, "shape", ()))
    b = len(next(iter(probe.values())))
    length = "T" if ids is None else ids.shape[1]
    if len(shape) != 3 or shape[0] != b or length not in ("T", shape[1]):
        raise UserError(
            f"{name} gives no state for each token, ({b}, {length}, d), but "
            f"{shape or type(state).__name__}: not a transformer that can be read by layer"
        )
    return min(rows, default=None), state.shape[:2]


def check_stack(module: nn.Module, images: bool) -> None:
    """Raise UserError for a model whose configuration says that it is no stack of equal blocks.

    A stage has a width and a resolution of its own. Of a model that finds things in images the
    output is of its decoder alone, whose first state is the same for all images.
    """
    config, parts = getattr(module, "config", None), ""
    for name in ("depths", "depth"):
        depths = getattr(config, name, None)
        if isinstance(depths, (list, tuple)) and len(depths) > 1:
            numbers = ", ".join(map(str, depths))
            parts = f"{len(depths)} stages ({name} {numbers}), each of its own width and resolution"
    if images and getattr(config, "is_encoder_decoder", False):
        parts = "an encoder of images and a decoder of something else"
    if parts:
        whole = f"{type(module).__name__} is made of {parts}"
        raise UserError(f"{whole}: only a stack of equal blocks can be read by layer")


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's has no types
    """Within it, `note(operation, arguments)` is told of each before it is done and may fail."""

    def __init__(self, note: Callable[[Any, Sequence[Any]], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._note = note

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self._note(func, args)
        return func(*args, **(kwargs or {}))


def hidden_of(output: Any) -> Tensor:
    """Blocks return a tensor or, in some families, a tuple that begins with it."""
    state: Tensor = output[0] if isinstance(output, (tuple, list)) else output
    return state


@contextmanager
def hooked(modules: Iterable[nn.Module], leave: Any, enter: Any = None) -> Iterator[None]:
    """Within the block, forward hooks on the modules; `enter` is given keyword arguments, too."""
    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_hook(leave).remove)
            if enter is not None:
                handle = module.register_forward_pre_hook(enter, with_kwargs=True)
                stack.callback(handle.remove)
        yield


def _find_blocks(
    module: nn.Module, probe: Mapping[str, Tensor], shape: torch.Size
) -> tuple[nn.ModuleList, int]:
    """The outermost ModuleList whose members hand a (b, T, d) state on to each other."""
    lists = [m for m in module.modules() if isinstance(m, nn.ModuleList) and len(m)]
    calls: Counter[int] = Counter()
    given: dict[int, Any] = {}

    def count(member: nn.Module, args: Any, output: Any) -> None:
        given[id(member)] = state = hidden_of(output)
        if isinstance(state, Tensor) and state.dim() == 3 and len(state) == shape[0]:
            calls[id(member)] += state.shape[1] >= shape[1]

    members = {id(member): member for blocks in lists for member in blocks}
    with torch.inference_mode(), hooked(members.values(), count):
        _last_hidden_state(module, probe)
    counts = [sum(calls[id(member)] for member in blocks) for blocks in lists]
    expected = getattr(text_config(module), "num_hidden_layers", None)
    # modules() walks from the outside in, so ties go to the outermost list
    if not any(counts):
        tokens = ", ".join(map(str, shape))
        raise UserError(
            f"{type(module).__name__} has no blocks to read: a list of modules was looked for that "
            f"hand a state of each token, ({tokens}, d), to each other; {_lists(module, given)}"
        )
    found = list(zip(lists, counts, strict=True))
    likely = (pair for pair in found if 0 < pair[1] == expected and expected % len(pair[0]) == 0)
    blocks, number = next(likely, found[counts.index(max(counts))])
    _check_whole(module, blocks, number, [member for i, member in members.items() if i in given])
    return blocks, number


def _check_whole(
    module: nn.Module, blocks: nn.ModuleList, calls: int, run: Sequence[nn.Module]
) -> None:
    """Raise UserError where these are not all of the model's blocks, but a part or groups of them.

    run: the members of any list of modules that are called in a pass.
    """
    configs = (getattr(module, "config", None), text_config(module))
    counts = [getattr(config, name, None) for config in configs for name in (*COUNTS, *_DECODERS)]
    declared = sorted({n for n in counts if type(n) is int and n > 0})
    kinds, within = {type(block) for block in blocks}, set(blocks.modules())
    others = sum(type(member) in kinds and member not in within for member in run)
    kind = type(blocks[0]).__name__
    if declared and {calls, len(blocks)}.isdisjoint(declared):
        what = f"its configuration tells of {declared[-1]} blocks, and {calls} {kind} are run"
    elif others:
        what = f"{others} more {kind} are run than the {len(blocks)} that were taken for its blocks"
    else:
        return
    raise UserError(f"{type(module).__name__}: {what}, so its layers cannot be read")


def _lists(module: nn.Module, given: Mapping[int, Any]) -> str:
    """What the members of a model's outermost lists of modules gave, of three of them."""
    said: dict[str, str] = {}
    for path, blocks in module.named_modules():
        within = any(path.startswith(f"{other}.") for other in said)
        if not isinstance(blocks, nn.ModuleList) or not len(blocks) or within:
            continue
        output = next((given[id(member)] for member in blocks if id(member) in given), None)
        what = f"give {tuple(output.shape)}" if isinstance(output, Tensor) else "give none"
        said[path] = f"its {path} ({len(blocks)} {type(blocks[0]).__name__}) {what}"
    return ", ".join([*said.values()][:3]) or "it has no list of modules"


def _find_final_norm(backbone: Backbone, probe: Mapping[str, Tensor]) -> nn.Module | None:
    """The modules between the last block and the output, found by following the tensor."""
    states: dict[int, Tensor] = {}
    trail: list[tuple[nn.Module, Tensor, Tensor]] = []
    inner = {id(m) for m in backbone.blocks.modules()}

    def follow(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if args and isinstance(args[0], Tensor) and isinstance(output, Tensor):
            trail.append((module, args[0], output))

    leaves = [m for m in backbone.module.modules() if not list(m.children()) and id(m) not in inner]
    with hooked(leaves, follow):
        last = backbone.run(probe, lambda layer, state: states.update({layer: state}))
    lengths = sorted({state.shape[1] for state in states.values()})
    if len(lengths) > 1:
        raise UserError(
            f"{type(backbone.module).__name__}: its blocks make {lengths[0]} tokens of "
            f"{lengths[-1]}, so its layers cannot be read"
        )
    tokens = last.shape[1]  # Longformer fills up its window behind them
    current, chain = states[backbone.calls], []
    alike = same if bool(last.isfinite().all()) else _is  # any NaN is like another
    for module, before, after in trail:
        if alike(current[:, :tokens], last):  # what comes after it, as a pooler, reads the output
            break
        if alike(before, current) and not alike(after, before):
            chain.append(module)
            current = after
    if not alike(current[:, :tokens], last):
        name, blocks = type(backbone.module).__name__, type(backbone.blocks[0]).__name__
        if alike is _is:
            at = min(layer for layer, state in states.items() if not state.isfinite().all())
            raise UserError(f"{name}: {not_finite(at, last.dtype)}, already on a short text")
        raise UserError(
            f"{name}: its output does not follow from its last block by modules of its own (taken "
            f"for blocks: {len(backbone.blocks)} {blocks}), so layers of it cannot be read"
        )
    return nn.Sequential(*chain) if len(chain) > 1 else next(iter(chain), None)


def _disagreement(backbone: Backbone, probe: Mapping[str, Tensor]) -> str:
    """What is wrong where transformers' own list of hidden states holds others than these, or "".

    Its last one may be normed. In some families (Mamba, RWKV) the list begins with state 1, and
    what the last block writes stands in it twice, normed and not.
    """
    try:
        with torch.inference_mode():
            output = output_of(backbone.module, probe, output_hidden_states=True)
    except Exception:  # a model that does not offer them, or not like this
        return ""
    theirs = getattr(output, "hidden_states", None)
    if not isinstance(theirs, (tuple, list)) or not theirs:
        return ""
    if len(theirs) != backbone.calls + 1:  # of stages with blocks of their own, say
        return (
            f"transformers gives {len(theirs)} hidden states and its blocks make "
            f"{backbone.calls + 1}, so its layers cannot be read"
        )
    states: dict[int, Tensor] = {}
    n = theirs[0].shape[1]
    last = backbone.run(probe, lambda layer, state: states.update({layer: state[:, :n].clone()}))
    ends = [states[backbone.calls], last]
    for first in (0, 1):
        pairs = [(layer, theirs[layer - first]) for layer in range(first, backbone.calls + first)]
        wrong = [layer for layer, state in pairs if not same(states[layer], state)]
        if not wrong and any(same(end, theirs[-1]) for end in ends):
            return ""
        if first == 0:
            at = wrong[0] if wrong else backbone.calls
    return (
        f"state {at} as its blocks hand it on is not hidden_states[{at}] of transformers, so its "
        "layers cannot be read"
    )


def rounding(dtype: str) -> float:
    """By which share of their length pooled states may be off: in half precision a few per cent."""
    return 1e-3 if dtype == "float32" else 0.05


def _is(a: Tensor, b: Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape


def same(a: Tensor, b: Tensor) -> bool:
    """Equal but for rounding; NaN equals NaN."""
    if a.shape != b.shape:
        return False
    # T5 keeps a part of itself in float32 when the rest is in half precision
    loose = {a.dtype, b.dtype} & {torch.float16, torch.bfloat16}
    rtol, atol = (1e-2, 1e-3) if loose else (1e-5, 1e-6)
    # NaN weights are a fault of the states, found where these are measured
    return torch.allclose(a.float(), b.float(), rtol=rtol, atol=atol, equal_nan=True)
