"""`lrd-harness layer`: a layer of a model, chosen on one's own texts without labels."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrd_harness.cli import texts
from lrd_harness.cli.arguments import names, path
from lrd_harness.errors import UserError

if TYPE_CHECKING:
    from lrd_harness.report import Row
    from lrd_harness.studies.prune import Shrinking

TEXTS = 5000  # at most
EPILOG = """\
examples:
  lrd-harness layer MODEL --texts FILE
  lrd-harness layer MODEL --texts FILE --by dime,prompt_entropy,infonce
  lrd-harness layer MODEL --texts FILE --by dime --save DIR
  lrd-harness run --models MODEL --tasks STSBenchmark --plugins dime,infonce
      what each metric's layer gains where there are labels

DIR is an ordinary checkpoint that ends at the chosen layer: transformers,
sentence-transformers and lm-eval load it. Where the last layer is chosen, it is
the whole model. Metrics that choose a layer: `lrd-harness plugins`.
exit codes: 0 done; 1 done, but a metric failed; 2 bad input."""


def add(commands: Any) -> None:
    """Declare the command."""
    sub = commands.add_parser(
        "layer",
        help="choose a layer of a model on your texts, without labels; save the model cut there",
        description="Measure every layer of a model on texts without labels, let a metric choose "
        "one,\nand save the model cut off there.",
        epilog=EPILOG,
        declare=_arguments,
    )
    sub.set_defaults(run=run)


def _arguments(sub: Any) -> None:
    sub.add_argument("model", metavar="MODEL", help=texts.MODEL)
    sub.add_argument(
        "--by",
        nargs="+",
        default=["dime"],
        metavar="METRIC",
        help="metrics that choose (dime); the first one's layer is saved; all: every one",
    )
    texts.add_texts(sub, TEXTS, "view_texts")
    sub.add_argument("--save", type=path, metavar="DIR", help="write the model, cut at that layer")


def run(arguments: argparse.Namespace) -> int:
    """Measure, choose, print, save. Returns the exit code."""
    from lrd_harness.capture.samples import Questions, Sampling
    from lrd_harness.cli.arguments import load
    from lrd_harness.models.save import check_free
    from lrd_harness.studies.prune import Shrinking, check_choosing, choose_layer

    if arguments.save is not None:
        check_free(arguments.save)
    plugins, by = load(arguments), names(arguments.by)
    if "all" in by:
        by = [metric.name for metric in plugins.all("metric") if metric.layer_choice]
    resolved = texts.resolve(arguments, TEXTS, None, by)
    settings, items = resolved.settings, resolved.items
    questions = Questions(settings.max_texts)
    check_choosing(items, questions, resolved.task)
    (planned,) = resolved.models(arguments.model)
    opened = Shrinking(planned, resolved.display, texts.batch_tokens(planned))
    sampling = Sampling(settings.norm, settings.view_texts, planned.options.device)
    found = choose_layer(opened, resolved.task, items, questions, sampling)
    code = resolved.finish(found, "layer")
    choices = found.table("choices").rows
    if not choices:
        unsaved = ", so nothing was saved" if arguments.save is not None else ""
        raise UserError(f"no metric has chosen a layer{unsaved}")
    if arguments.save is not None:
        source = Path(arguments.texts).name if arguments.texts else resolved.task.name
        _save(opened, choices[0], source, arguments.save)
    return code


def _save(opened: Shrinking, choice: Row, source: str, folder: Path) -> None:
    """Write the model without the blocks behind the chosen layer, if there are any."""
    from dataclasses import replace

    from lrd_harness.models.save import card, save

    layer, metric = choice["layer"], choice["metric"]
    removed = range(layer + 1, opened.blocks + 1)
    said = replace(opened.report(removed, None, None, None), metric=metric, texts=source)
    with opened.display.stage("saving"):
        notes: list[str] = []
        measured = opened.measured(removed)
        save(opened.planned.checkpoint, removed, folder, card(said), measured, notes.append)
    before, after = (count / 1e6 for count in said.parameters)
    if removed:
        print(
            f"Saved to {folder}: blocks 1-{layer} of {opened.blocks}, {before:,.1f} to "
            f"{after:,.1f} million parameters."
        )
    else:
        print(f"Saved to {folder}: the whole model, since {metric} chooses its last layer.")
    for note in notes:
        print(f"Note: {note}.")
