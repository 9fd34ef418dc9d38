"""Which tokens the blocks of a model see: those before a token alone, or those behind it as well.

A word in its configuration makes a causal model bidirectional. Some families do not heed it, some
in a part of their blocks only, so it is tried: each block by itself is given states of which the
second token's is another, and what it makes of the first token tells whether that one sees it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from lrd_harness.blocks import written
from lrd_harness.contracts import Mask
from lrd_harness.errors import UserError
from lrd_harness.models.backbone import Backbone, hidden_of, hooked, same, text_config
from lrd_harness.models.quantised import token_by_token

NO_LIKELIHOODS = (
    "a model with a bidirectional mask, whose tokens see what they would have to predict"
)


def says_bidirectional(config: Mapping[str, Any]) -> bool:
    """Whether the config.json of a decoder says that its tokens see those behind them."""
    nested = config.get("text_config")
    return any(
        part.get("is_causal") is False or part.get("use_bidirectional_attention") in (True, "all")
        for part in (config, nested if isinstance(nested, dict) else {})
    )


def choose(module: nn.Module, mask: Mask | None) -> None:
    """Let the configuration of a model ask for a mask, in place; None leaves it as it is.

    Whether the model heeds that is for `check` to say. The word is saved with the model.
    """
    config = text_config(module)
    if mask is not None and config is not None:
        config.is_causal = mask == "causal"


def look_ahead(backbone: Backbone, probe: Mapping[str, Tensor]) -> list[bool | None]:
    """Of each block, 1..L, whether a token's state depends on the next token's.

    None where it does in a batch with padding and not in one without, or the other way round.
    probe: features of one text (1, T), as the backbone takes them; of a single token, which sees no
    other, nothing is said.
    """
    tokens = probe["input_ids"].shape[1]
    if tokens < 2:
        return []
    padded = {name: values.repeat(2, 1) for name, values in probe.items()}
    padded["attention_mask"][1, -1] = tokens < 3
    both = zip(_ahead(backbone, probe), _ahead(backbone, padded), strict=True)
    return [alone if alone == beside else None for alone, beside in both]


def _ahead(backbone: Backbone, features: Mapping[str, Tensor]) -> list[bool]:
    """The same of one batch.

    Not a text's last token is changed, which a sliding window may hide, and not the text itself, as
    a block that sees ahead would pass on what it sees to all behind it.
    """
    entered: list[Tensor] = []
    left: list[Tensor] = []
    ahead: list[bool] = []

    def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        state = args[0] if args else kwargs["hidden_states"]
        if len(entered) < backbone.calls:
            entered.append(state.clone())
            return None
        state = entered[len(ahead)].clone()
        state[:, 1] = state[:, 1].flip(-1)
        return ((state, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": state})

    def leave(_: nn.Module, args: Any, output: Any) -> None:
        state = hidden_of(output)
        if len(left) < backbone.calls:
            left.append(state.clone())
        else:
            ahead.append(_moved(state[:, 0], left[len(ahead)][:, 0]))

    with hooked(backbone.blocks, leave, enter), token_by_token(backbone.module):
        for _ in range(2):
            backbone.run(features, lambda layer, state: None)
    return ahead


def _moved(now: Tensor, before: Tensor) -> bool:
    """Whether states differ by more than the rounding of experts that are given other batches."""
    by = (now - before).float().norm()
    return not same(now, before) and bool(by > 1e-5 * before.float().norm())


def check(name: str, backbone: Backbone, ahead: Sequence[bool | None], mask: Mask) -> None:
    """Raise UserError where not all blocks follow the mask that was chosen.

    name: of the model; ahead: of each block whether it looks ahead, as `look_ahead` finds it.
    """
    wrong = [block for block, sees in enumerate(ahead, 1) if sees is not (mask == "bidirectional")]
    if not wrong:
        return
    blocks = "its blocks" if len(wrong) == backbone.calls else f"its blocks {written(wrong)}"
    stay = "stay causal" if mask == "bidirectional" else "see the tokens behind all the same"
    attention = getattr(text_config(backbone.module), "_attn_implementation", None)
    hint = "" if attention in ("eager", None) else " (--attention eager helps in some families)"
    kind = type(backbone.module).__name__
    raise UserError(f"{name} ({kind}) cannot be read with a {mask} mask: {blocks} {stay}{hint}")
