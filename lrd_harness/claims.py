"""The papers' headline findings restated on a run's own data, each with a control and a verdict.

    leaderboard.build(results).claims

* d0L agrees on most tasks: share of tasks with a positive rho. Holds if a one-sided binomial test
  against one half has p < .05 and the 95 % bootstrap interval over models of the median rho is
  above 0. At least 10 models, of as many training runs, and 5 tasks. Control: the best size
  baseline.
* all three scores agree: the least of the three median rhos. Holds if all three intervals are above
  0. As many. Control: the best size baseline.
* gfmi beats random, 15 % and 20 %: mean change of the score. Holds if a rank test among random's
  seeds, see claim_pruning.py, has p < .05. At least 5 training runs.
* frenet beats random only lightly: holds if that test has p < .05 at the lightest budget and at no
  heavier one that removes more blocks. At least 5 training runs.
* middle layers beat the last: mean gain of the middle layer that is best on the other tasks. Holds
  if its 95 % t interval over training runs is above 0. At least 5 of them, and 30 model-task pairs.
  Control: a random layer.
* a label-free layer gains 3 %: gain of the best metric in percent. Holds if its 95 % t interval,
  for all metrics together, is above 0 and reaches 3 %. As many. Control: the best of last, first,
  random and fixed-depth layers.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lrd_harness.checkpoints import families
from lrd_harness.claim_layers import layer_claims
from lrd_harness.claim_pruning import pruning_claims
from lrd_harness.claim_rows import HOLDS, Claim, Verdict
from lrd_harness.claim_selection import selection_claims

if TYPE_CHECKING:
    from lrd_harness.leaderboard import Leaderboard
    from lrd_harness.pruned import PrunedTable
    from lrd_harness.results import Key

__all__ = ["Claim", "Verdict", "build_claims"]


def build_claims(board: Leaderboard, pruned: PrunedTable | None) -> tuple[Claim, ...]:
    """All claims, in the order above, on one board's tasks.

    pruned: the table of both kinds of task, of which the board's kind counts.
    """
    runs: dict[Key, Key] = {}
    if pruned:
        held = families(board.results)
        runs = {member.key: one.members[0].key for one in held for member in one.members}
    found = (
        *selection_claims(board.selection),
        *pruning_claims(pruned, board.kind, lambda key: runs.get(key, key)),
        *layer_claims(board.choice, board.results),
    )
    return tuple(map(_beside_control, found))


def _beside_control(claim: Claim) -> Claim:
    """With a caution where what needs no metric may do as well."""
    if claim.verdict != HOLDS or claim.ahead is not False:
        return claim
    return replace(claim, reason=f"{claim.reason}; but {claim.control} may do as well")
