"""`lrd-harness prune`: a smaller model, its blocks chosen by a rule or by hand."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from lrd_harness.cli.arguments import add_settings, load, path, settings_given
from lrd_harness.cli.texts import MODEL, add_file, batch_tokens, check_column
from lrd_harness.errors import SEED, UserError, check_whole

EPILOG = """\
examples:
  lrd-harness prune MODEL --rule gfmi --budget 0.15 --texts FILE --save DIR
  lrd-harness prune MODEL --layers 7,12-14 --save DIR
  lrd-harness run --models MODEL --tasks STSBenchmark --prune --output OUT
      scores of pruned models, to choose a rule and a budget by

Blocks are numbered from 1, at the input. DIR is an ordinary checkpoint, which
transformers, sentence-transformers and lm-eval load; without --save the blocks
are only named. Rules: `lrd-harness plugins`."""


def add(commands: Any) -> None:
    """Declare the command."""
    sub = commands.add_parser(
        "prune",
        help="take blocks out of a model and save what is left",
        description="Take blocks out of a model: those that a rule chooses on texts, or given\n"
        "ones; and save the smaller model as an ordinary checkpoint.",
        epilog=EPILOG,
        declare=_arguments,
    )
    sub.set_defaults(run=run)


def _arguments(sub: Any) -> None:
    sub.add_argument("model", metavar="MODEL", help=MODEL)
    which = sub.add_argument_group("which blocks")
    which.add_argument("--rule", help="a pruning rule, as gfmi")
    which.add_argument(
        "--budget", type=float, metavar="SHARE", help="share of the candidate blocks that goes"
    )
    add_file(which, "texts to choose on")
    which.add_argument("--layers", metavar="BLOCKS", help="given blocks, as 7,12-14")
    which.add_argument("--protect", type=int, metavar="N", help="blocks kept at either end")
    which.add_argument("--seed", type=int, metavar="N", help="of the rule random (0)")
    which.add_argument(
        "--load", nargs="+", default=[], metavar="FILE.py", help="rules and metrics of your own"
    )
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


def run(arguments: argparse.Namespace) -> int:
    """Choose, report, save. Returns the exit code."""
    by_rule = arguments.rule is not None
    if by_rule == (arguments.layers is not None):
        raise UserError("give either --rule with --budget, or --layers")
    if by_rule and arguments.budget is None:
        raise UserError("--rule needs a --budget, as 0.15")
    for name in ("budget", "texts", "text_column", "seed", "protect"):
        if not by_rule and getattr(arguments, name) is not None:
            raise UserError(f"--{name.replace('_', '-')} needs --rule")
    check_column(arguments)
    from lrd_harness.blocks import written
    from lrd_harness.cli.run import hush
    from lrd_harness.models.cut import parse_blocks
    from lrd_harness.models.save import card, check_free, mergekit, save
    from lrd_harness.progress import Display
    from lrd_harness.store.files import write_text
    from lrd_harness.studies.prune import Shrinking, as_scored

    check_whole(arguments.seed or 0, "--seed", 0, SEED)
    hush()
    if arguments.save is not None:
        check_free(arguments.save)
    if arguments.save_mergekit is not None:
        _check_new(arguments.save_mergekit, arguments.save)
    display = Display(quiet=arguments.quiet)
    planned, wish = _resolved(arguments, display)
    if arguments.scores is not None and (arguments.scores / "run.json").exists():
        planned = as_scored(planned, arguments.scores)
    shrinking = Shrinking(planned, display, batch_tokens(planned))
    removed = shrinking.choose(wish) if wish else parse_blocks(arguments.layers, shrinking.blocks)
    texts = Path(arguments.texts).name if arguments.texts else None
    pruned = shrinking.report(removed, wish, texts, arguments.scores)
    before, after = pruned.parameters
    how = f"{wish.rule.name} at {wish.budget:g}: " if wish else ""
    print(
        f"{how}blocks {written(removed)} of 1-{shrinking.blocks} removed, "
        f"{before / 1e6:,.1f} to {after / 1e6:,.1f} million parameters ({after / before - 1:+.1%})"
    )
    if arguments.save is not None:
        with display.stage("saving"):
            notes: list[str] = []
            measured = shrinking.measured(removed)
            folder = save(
                planned.checkpoint, removed, arguments.save, card(pruned), measured, notes.append
            )
        print(f"saved to {folder}")
        for note in notes:
            print(f"note: {note}")
    if arguments.save_mergekit is not None:
        found = planned.checkpoint
        origin = f"{found.path}@{found.revision}" if found.hub else found.path
        kept = found.config.get("dtype") or found.config.get("torch_dtype") or "float32"
        text = mergekit(origin, shrinking.blocks, removed, str(kept))
        write_text(arguments.save_mergekit, text)
        print(f"mergekit configuration in {arguments.save_mergekit}")
    return 0


def _check_new(file: Path, folder: Path | None) -> None:
    """Raise UserError unless the file can be written beside what else is."""
    if file.exists():
        raise UserError(f"{file} is there already")
    if not os.access(file.absolute().parent, os.W_OK):
        raise UserError(f"{file}: its folder is not there, or cannot be written to")
    if folder is not None and folder.absolute() in (file.absolute(), *file.absolute().parents):
        raise UserError(f"{file} and --save {folder} are in each other's way")


def _resolved(arguments: argparse.Namespace, display: Any) -> tuple[Any, Any]:
    """The model, and what is wished for if a rule is to choose."""
    from lrd_harness.planning import suite
    from lrd_harness.planning.parameters import resolve_metrics
    from lrd_harness.planning.resolve import check_settings, resolve_model, resolve_tasks
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
        wish = Wish(
            rule,
            arguments.budget,
            resolve_metrics(made, plugins),
            task,
            arguments.seed or 0,
            suite.pruning(limits, "command line"),
        )
    read = {"pooling": arguments.pooling, "max_length": arguments.max_length}
    plugins.tell()
    entry = suite.ModelEntry(arguments.model, **read)
    return resolve_model(entry, settings, plugins, display.stage), wish
