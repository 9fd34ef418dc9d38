"""`lrd-harness prune` and `layer`: a smaller model, its blocks chosen on one's own texts."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrd_harness import errors
from lrd_harness.blocks import written
from lrd_harness.cli import texts
from lrd_harness.cli.arguments import (
    add_many,
    add_settings,
    load,
    names,
    path,
    settings_given,
)
from lrd_harness.cli.run import hush
from lrd_harness.errors import UserError
from lrd_harness.planning import suite
from lrd_harness.planning.parameters import resolve_metrics
from lrd_harness.planning.resolve import PlannedModel, check_settings, resolve_model, resolve_tasks
from lrd_harness.progress import Display
from lrd_harness.store.files import write_text

if TYPE_CHECKING:
    from lrd_harness.models.save import Pruned
    from lrd_harness.studies.prune import Shrinking, Wish

EPILOGS = {
    "prune": """\
examples:
  lrd-harness prune MODEL --rule gfmi --budget 0.15 --texts FILE --save DIR
  lrd-harness prune MODEL --layers 7,12-14 --save DIR
  lrd-harness run --models MODEL --tasks STSBenchmark --prune --output OUT
      scores of pruned models, to choose a rule and a budget by

Blocks are numbered from 1, at the input. DIR is an ordinary checkpoint, which
transformers, sentence-transformers and lm-eval load; without --save the blocks
are only named. Rules: `lrd-harness plugins`.""",
    "layer": """\
examples:
  lrd-harness layer MODEL --texts FILE
  lrd-harness layer MODEL --texts FILE --by dime,prompt_entropy,infonce
  lrd-harness layer MODEL --texts FILE --by dime --save DIR
  lrd-harness run --models MODEL --tasks STSBenchmark --plugins dime,infonce
      what each metric's layer gains where there are labels

DIR is an ordinary checkpoint that ends at the chosen layer: transformers,
sentence-transformers and lm-eval load it. Where the last layer is chosen, it is
the whole model. Metrics that choose a layer: `lrd-harness plugins`.
exit codes: 0 done; 1 done, but a metric failed; 2 bad input.""",
}


def prune_arguments(sub: Any) -> None:
    sub.add_argument("model", metavar="MODEL", help=texts.MODEL)
    which = sub.add_argument_group("which blocks")
    which.add_argument("--rule", help="a pruning rule, as gfmi")
    which.add_argument(
        "--budget", type=float, metavar="SHARE", help="share of the candidate blocks that goes"
    )
    texts.add_file(which, "texts to choose on")
    which.add_argument("--layers", metavar="BLOCKS", help="given blocks, as 7,12-14")
    which.add_argument("--protect", type=int, metavar="N", help="blocks kept at either end")
    which.add_argument("--seed", type=int, metavar="N", help="of the rule random (0)")
    add_many(which, "--load", "FILE.py", "rules and metrics of your own")
    what = sub.add_argument_group("what is made")
    what.add_argument("--save", type=path, metavar="DIR", help="write the smaller model")
    what.add_argument(
        "--save-mergekit", type=path, metavar="FILE", help="write a mergekit configuration of it"
    )
    what.add_argument(
        "--scores", type=path, metavar="OUT", help="a run with --prune: its scores, how it read"
    )
    add_settings(sub, ("pooling", "max_length", "device"))
    sub.add_argument("--quiet", action="store_true", help="no progress")


def layer_arguments(sub: Any) -> None:
    sub.add_argument("model", metavar="MODEL", help=texts.MODEL)
    sub.add_argument(
        "--by",
        nargs="+",
        default=["dime"],
        metavar="METRIC",
        help="metrics that choose (dime); the first one's layer is saved; all: every one",
    )
    texts.add_texts(sub, texts.TEXTS["layer"], "view_texts")
    sub.add_argument("--save", type=path, metavar="DIR", help="write the model, cut at that layer")


def prune(arguments: argparse.Namespace) -> int:
    """Take blocks out of a model: those that a rule chooses on texts, or given
    ones; and save the smaller model as an ordinary checkpoint.
    """
    by_rule = arguments.rule is not None
    if by_rule == (arguments.layers is not None):
        raise UserError("give either --rule with --budget, or --layers")
    if by_rule and arguments.budget is None:
        raise UserError("--rule needs a --budget, as 0.15")
    for name in ("budget", "texts", "text_column", "seed", "protect"):
        if not by_rule and getattr(arguments, name) is not None:
            raise UserError(f"--{name.replace('_', '-')} needs --rule")
    texts.check_column(arguments)
    errors.check_whole(arguments.seed or 0, "--seed", 0, errors.SEED)
    hush()
    from lrd_harness.models.cut import parse_blocks
    from lrd_harness.models.save import check_free, mergekit
    from lrd_harness.studies.prune import Shrinking, as_scored

    if arguments.save is not None:
        check_free(arguments.save)
    if arguments.save_mergekit is not None:
        _check_new(arguments.save_mergekit, arguments.save)
    display = Display(quiet=arguments.quiet)
    planned, wish = _resolved(arguments, display)
    if arguments.scores is not None and (arguments.scores / "run.json").exists():
        planned = as_scored(planned, arguments.scores)
    opened = Shrinking(planned, display, texts.batch_tokens(planned))
    removed = opened.choose(wish) if wish else parse_blocks(arguments.layers, opened.blocks)
    source = Path(arguments.texts).name if arguments.texts else None
    pruned = opened.report(removed, wish, source, arguments.scores)
    before, after = pruned.parameters
    how = f"{wish.rule.name} at {wish.budget:g}: " if wish else ""
    print(
        f"{how}blocks {written(removed)} of 1-{opened.blocks} removed, "
        f"{before / 1e6:,.1f} to {after / 1e6:,.1f} million parameters ({after / before - 1:+.1%})"
    )
    if arguments.save is not None:
        notes = _saved(opened, pruned, arguments.save)
        print(f"saved to {arguments.save}", *(f"note: {note}" for note in notes), sep="\n")
    if arguments.save_mergekit is not None:
        found = planned.checkpoint
        origin = f"{found.path}@{found.revision}" if found.hub else found.path
        kept = found.config.get("dtype") or found.config.get("torch_dtype") or "float32"
        text = mergekit(origin, opened.blocks, removed, str(kept))
        write_text(arguments.save_mergekit, text)
        print(f"mergekit configuration in {arguments.save_mergekit}")
    return 0


def _saved(opened: Shrinking, pruned: Pruned, folder: Path) -> list[str]:
    """Save the model without the blocks that are removed; what is to be noted of it."""
    from lrd_harness.models.save import card, save

    notes: list[str] = []
    removed, source = pruned.removed, opened.planned.checkpoint
    with opened.display.stage("saving"):
        save(source, removed, folder, card(pruned), opened.measured(removed), notes.append)
    return notes


def _check_new(file: Path, folder: Path | None) -> None:
    """Raise UserError unless the file can be written beside what else is."""
    if file.exists():
        raise UserError(f"{file} is there already")
    if not os.access(file.absolute().parent, os.W_OK):
        raise UserError(f"{file}: its folder is not there, or cannot be written to")
    if folder is not None and folder.absolute() in (file.absolute(), *file.absolute().parents):
        raise UserError(f"{file} and --save {folder} are in each other's way")


def _resolved(arguments: argparse.Namespace, display: Display) -> tuple[PlannedModel, Wish | None]:
    """The model, and what is wished for if a rule is to choose."""
    from lrd_harness.studies.prune import Wish

    plugins = load(arguments)
    given = {**settings_given(arguments), "pooling": None}
    given.pop("layers", None)  # of this command: blocks
    settings = suite.settings(given, "command line")
    check_settings(settings)
    wish = None
    if arguments.rule is not None:
        rule = plugins.get("pruning rule", arguments.rule)
        limits = {"protect": arguments.protect, "budgets": arguments.budget}
        tasks = (f"texts:{arguments.texts}",) if arguments.texts else ()
        made = suite.Suite("prune", tasks=tasks, plugins=rule.metrics, settings=settings)
        task = next(iter(resolve_tasks(made, plugins)), None)
        if task is not None and task.check is not None:
            task.check()
        metrics, asked = resolve_metrics(made, plugins), suite.pruning(limits, "command line")
        wish = Wish(rule, arguments.budget, metrics, task, arguments.seed or 0, asked)
    plugins.tell()
    read = {name: getattr(arguments, name) for name in ("pooling", "max_length")}
    entry = suite.ModelEntry(arguments.model, **read)
    return resolve_model(entry, settings, plugins, display.stage), wish


def layer(arguments: argparse.Namespace) -> int:
    """Measure every layer of a model on texts without labels, let a metric choose one,
    and save the model cut off there.
    """
    from lrd_harness.capture.samples import Questions, Sampling
    from lrd_harness.models.save import check_free
    from lrd_harness.studies.prune import Shrinking, check_choosing, choose_layer

    save = arguments.save
    if save is not None:
        check_free(save)
    plugins, by = load(arguments), names(arguments.by)
    if "all" in by:
        by = [metric.name for metric in plugins.all("metric") if metric.layer_choice]
    resolved = texts.resolve(arguments, by)
    settings, items, task = resolved.settings, resolved.items, resolved.task
    questions = Questions(settings.max_texts)
    check_choosing(items, questions, task)
    (planned,) = resolved.models(arguments.model)
    opened = Shrinking(planned, resolved.display, texts.batch_tokens(planned))
    sampling = Sampling(settings.norm, settings.view_texts, planned.options.device)
    found = choose_layer(opened, task, items, questions, sampling)
    code = resolved.finish(found, "layer")
    choice = next(iter(found.table("choices").rows), None)
    if choice is None:
        raise UserError(f"no metric has chosen a layer{', so nothing was saved' if save else ''}")
    if save is None:
        return code
    number, metric, blocks = choice["layer"], choice["metric"], opened.blocks
    source = Path(arguments.texts).name if arguments.texts else task.name
    pruned = opened.report(range(number + 1, blocks + 1), None, None, None)
    notes = _saved(opened, replace(pruned, metric=metric, texts=source), save)
    before, after = (count / 1e6 for count in pruned.parameters)
    what = f"blocks 1-{number} of {blocks}, {before:,.1f} to {after:,.1f} million parameters"
    whole = f"the whole model, since {metric} chooses its last layer"
    print(f"Saved to {save}: {what if number < blocks else whole}.")
    for note in notes:
        print(f"Note: {note}.")
    return code
