"""`lrd-harness probe`: the same texts repeated, scrambled or longer, and every layer's answer."""

from __future__ import annotations

import argparse
from typing import Any

from lrd_harness.cli import texts
from lrd_harness.errors import COUNT, STEPS, TOKENS, UserError

TEXTS = 200
EPILOG = """\
examples:
  lrd-harness probe MODEL --kind repetition
      on 50 news documents that come without the hub
  lrd-harness probe MODEL --kind random --texts FILE --shares 0,0.1,0.5
  lrd-harness probe MODEL --kind length --lengths 16,64,256 --output DIR

kinds: repetition: a share of each text's tokens becomes one token of the text;
  random: the same share becomes random tokens of the vocabulary; length: texts
  are chained and cut to so many tokens. Special tokens and prompts stay.
--output: probe.csv, one row per value (all scores, those of the model too), and
  probe.json. Nothing that is read is kept in the cache.
exit codes: 0 done; 1 done, but a metric failed at some step; 2 bad input."""


def add(commands: Any) -> None:
    """Declare the command."""
    sub = commands.add_parser(
        "probe",
        help="change texts step by step and measure every layer at each step",
        description="Repeat a share of the tokens, put random ones in their place, or make texts\n"
        "longer; measure every layer at each step.",
        epilog=EPILOG,
        declare=_arguments,
    )
    sub.set_defaults(run=run)


def _arguments(sub: Any) -> None:
    sub.add_argument("model", metavar="MODEL", help=texts.MODEL)
    sub.add_argument("--kind", required=True, help="repetition, random, or length")
    sub.add_argument("--shares", metavar="P", help="shares of the tokens (0,0.25,0.5,0.75,1)")
    sub.add_argument("--lengths", metavar="N", help="tokens per text (8,16,32,64,128)")
    texts.add(sub, "prompt_entropy,dataset_entropy,curvature,effective_rank", TEXTS)


def run(arguments: argparse.Namespace) -> int:
    """Resolve, read, print. Returns the exit code."""
    from lrd_harness.contracts import Text
    from lrd_harness.studies import probe

    kind = arguments.kind
    probe.check(kind, [])
    steps = _steps(arguments)
    resolved = texts.resolve(arguments, TEXTS, probe.USUAL, arguments.plugins)
    probe.check(kind, resolved.items)
    (planned,) = resolved.models(arguments.model)
    resolved.check_output("probe", probe.COLUMNS)
    design, display = resolved.design(planned), resolved.display
    with display.stage(f"{planned.name}: opening"):
        model = planned.open()
    sample = design.questions.sample(design.task)
    given = [Text(r.text, model.prompt(design.task, r.prompt_type)) for r in sample]
    with display.stage(f"{planned.name}: reading all layers", "texts") as advance:
        found = probe.probe(
            model,
            given,
            design.items,
            kind,
            steps,
            design.seed,
            design.sampling.norm,
            design.batch_tokens,
            advance,
        )
    for remark in found.remarks:
        display.line(remark)
    info = {"pooling": model.info.pooling, "max_length": model.info.max_length}
    facts = {**design.facts, "texts": found.n, **info}
    del facts["draws"]
    report = probe.report(found, kind, planned.name, planned.checkpoint.revision, facts)
    return resolved.finish(report, "probe")


def _steps(arguments: argparse.Namespace) -> list[float] | None:
    """The shares or lengths that were typed. Raises UserError for those of the other kind."""

    long = arguments.kind == "length"
    if (arguments.shares if long else arguments.lengths) is not None:
        option, other = ("--shares", "repetition or random") if long else ("--lengths", "length")
        raise UserError(f"{option} needs --kind {other}")
    if long:
        return _numbers(arguments.lengths, "--lengths", "8,16,64", TOKENS)
    return _numbers(arguments.shares, "--shares", "0,0.5,1", COUNT)


def _numbers(typed: str | None, option: str, example: str, most: int) -> list[float] | None:
    """Numbers as 0,0.5,1, ascending and each once; None for none. Raises UserError for others."""

    if typed is None:
        return None
    try:
        found = sorted({float(part) for part in typed.split(",")})
    except ValueError:
        found = []
    if not found or not all(abs(one) < float("inf") for one in found):
        raise UserError(f"{option} {typed:.60}: not numbers such as {example}")
    if len(found) > STEPS:
        raise UserError(f"{option}: {len(found):,} numbers; at most {STEPS:,} are possible")
    if found[-1] > most:
        raise UserError(f"{option} {found[-1]:g}: at most {most:,} is possible")
    return [int(one) if one == int(one) else one for one in found]
