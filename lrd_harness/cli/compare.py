"""`lrd-harness compare`: two models of equal depth, layer by layer, with intervals over texts."""

from __future__ import annotations

import argparse
from typing import Any

from lrd_harness.cli import texts

TEXTS = 500
EPILOG = """\
examples:
  lrd-harness compare BASE TUNED
      on 50 news documents that come without the hub
  lrd-harness compare BASE TUNED --texts FILE --plugins curvature,nrs
  lrd-harness compare MODEL@step1000 MODEL@step143000 --output DIR

Differences are TUNED minus BASE. Their 95 % intervals say how far they would be
off on other texts like these: each metric is computed again on --draws random
halves of the texts, the same for both models (delete-half jackknife). Give 200
texts or more: with fewer they are rough for ranks, neighbours and the like.
--output: compare.csv, one row per metric and layer, and compare.json.
exit codes: 0 done; 1 done, but a metric failed; 2 bad input."""


def add(commands: Any) -> None:
    """Declare the command."""
    sub = commands.add_parser(
        "compare",
        help="two models of equal depth, layer by layer, as a base and a tuned one",
        description="Measure two models of equal depth on the same texts, and print the\n"
        "differences at every layer with intervals over the texts.",
        epilog=EPILOG,
        declare=_arguments,
    )
    sub.set_defaults(run=run)


def _arguments(sub: Any) -> None:
    sub.add_argument("a", metavar="A", help=texts.MODEL)
    sub.add_argument("b", metavar="B", help="the model that is compared with it")
    texts.add_draws(sub)
    texts.add(sub, "all that need no views", TEXTS)


def run(arguments: argparse.Namespace) -> int:
    """Resolve, read both models, print. Returns the exit code."""
    from lrd_harness.planning.resolve import distinct
    from lrd_harness.studies import compare

    resolved = texts.resolve(arguments, TEXTS, None, arguments.plugins)
    a, b = resolved.models(arguments.a, arguments.b)
    if a.checkpoint.path != b.checkpoint.path:  # one model may be compared as two adapters read it
        a, b = distinct([a, b])
    resolved.check_output("compare", compare.COLUMNS)
    found = compare.compare(a, b, resolved.design(a), resolved.display)
    return resolved.finish(found, "compare")
