"""`lrd-harness select`: which of these models for my texts, without labels."""

from __future__ import annotations

import argparse
from typing import Any

from lrd_harness.cli import texts

TEXTS = 500
EPILOG = """\
examples:
  lrd-harness select --models A B C --texts FILE.jsonl
  lrd-harness select --models A B C --texts FILE.jsonl --plugins frenet,nrs
  lrd-harness select --models A B --task LeeDocumentSTS --output DIR
  lrd-harness run --models A B C --tasks STSBenchmark --plugins frenet,nrs,gfmi
      how well the metrics do where there are labels

Every metric that ranks models (`lrd-harness plugins`) ranks these on your
texts, beside what size alone says. Intervals (95 %) are over texts: all is
computed again on --draws random halves of them, the same for all models
(delete-half, as copies of a text would break neighbours and singular values).
Give 200 texts or more. They say nothing of how well a metric predicts scores:
no label is seen.
--output: select.csv, one row per model and metric (first: in what share of
half-samples, each moved to its score on all texts, no model is before it;
halved: the mean score on halves as they are), and select.json.
exit codes: 0 done; 1 done, but a model or a metric failed; 2 bad input."""


def add(commands: Any) -> None:
    """Declare the command."""
    sub = commands.add_parser(
        "select",
        help="which of several models for your texts, without labels",
        description="Rank models for texts without labels, by the metrics and by size, with\n"
        "intervals over the texts, what each model costs, and how far to trust it.",
        epilog=EPILOG,
        declare=_arguments,
    )
    sub.set_defaults(run=run)


def _arguments(sub: Any) -> None:
    sub.add_argument(
        "--models", nargs="+", required=True, metavar="MODEL", help=f"two or more: {texts.MODEL}"
    )
    texts.add_draws(sub)
    texts.add(sub, "all that rank models", TEXTS)


def run(arguments: argparse.Namespace) -> int:
    """Resolve, read all models, print. Returns the exit code."""
    from lrd_harness.cli.arguments import load
    from lrd_harness.planning.resolve import distinct
    from lrd_harness.studies import select

    usual = [m.name for m in load(arguments).all("metric") if m.selection is not None]
    resolved = texts.resolve(arguments, TEXTS, usual, arguments.plugins)
    models = distinct(resolved.models(*arguments.models))
    select.check(models, resolved.items)
    resolved.check_output("select", select.COLUMNS)
    found = select.select(models, resolved.design(models[0]), resolved.display)
    return resolved.finish(found, "select")
