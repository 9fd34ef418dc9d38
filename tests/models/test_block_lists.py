"""Lists of blocks as users type them, and those that say nothing."""

from __future__ import annotations

import pytest
import torch
from test_prune import BLOCKS, made, state_of

from lrd_harness.errors import UserError
from lrd_harness.models.cut import parse_blocks, remove


@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        ("7,12-14", (7, 12, 13, 14)),
        ("3", (3,)),
        (" 9 , 2 - 4 ", (2, 3, 4, 9)),
        ("5-5", (5,)),
        ("1-14", tuple(range(1, 15))),
    ],
)
def test_blocks_as_users_type_them(text: str, blocks: tuple[int, ...]) -> None:
    assert parse_blocks(text, 14) == blocks


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "'' is no block number"),
        ("3,", "'' is no block number"),
        ("a", "'a' is no block number; blocks are given as 7,12-14"),
        ("2.5", "'2.5' is no block number"),
        ("-3", "'-3' is no block number"),
        ("2-3-4", "'2-3-4' is no block number"),
        ("٣", "is no block number"),
        ("0", "block 0 does not exist: the model has blocks 1 to 14"),
        ("0-3", "block 0 does not exist"),
        ("15", "block 15 does not exist"),
        ("3-99999999999", "block 99999999999 does not exist"),
        ("5-3", "blocks 5-3: the first must not come after the last"),
        ("3,3", "block 3 is given twice"),
        ("2-4,3", "block 3 is given twice"),
    ],
)
def test_lists_of_blocks_that_say_nothing(text: str, complaint: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_blocks(text, 14)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("removed", "complaint"),
    [
        ((), "no block is to be removed"),
        ((0,), "block 0 does not exist: the model has blocks 1 to 5"),
        ((2, 6), "block 6 does not exist: the model has blocks 1 to 5"),
        ((-1,), "block -1 does not exist"),
        ((2, 2), "block 2 is given twice"),
        ((1, 2, 3, 4, 5), "none would be left"),
    ],
)
def test_blocks_that_cannot_be_removed(removed: tuple[int, ...], complaint: str) -> None:
    model = made("Bert")
    before = state_of(model)
    with pytest.raises(UserError, match=complaint) as caught:
        remove(model, model.encoder.layer, removed)
    assert "\n" not in str(caught.value)
    assert model.config.num_hidden_layers == BLOCKS
    assert torch.equal(state_of(model), before)
