"""`lrd-harness run`, `capture`, `plan` and `merge`: models and tasks in, a leaderboard out."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import psutil

from lrd_harness import errors, manager, processes
from lrd_harness.cli import Parser, main, options
from lrd_harness.cli.arguments import show, suite_of, table
from lrd_harness.errors import UserError, tell
from lrd_harness.manager import Plugins
from lrd_harness.planning import shards
from lrd_harness.planning.resolve import Plan, make_plan
from lrd_harness.planning.shards import Seconds, Shard
from lrd_harness.processes import Ranks
from lrd_harness.progress import Display
from lrd_harness.report import Report, Table
from lrd_harness.results import journal
from lrd_harness.runner import cluster, evaluators, folder
from lrd_harness.runner.cost import Estimator, slices
from lrd_harness.runner.evaluators import Evaluators
from lrd_harness.runner.loop import execute, prepare, unfinished
from lrd_harness.runner.merge import earlier, merge
from lrd_harness.runner.passes import capture
from lrd_harness.runner.profile import Profile
from lrd_harness.store.files import write_text
from lrd_harness.store.location import cache_dir

LRD, LAYER_LM = "lrd", "lrd_harness.runner.layer_lm:LayerLM"  # as in setup.cfg
STARTING = 10.0  # seconds that it takes at most until a command begins
NO_NUMBER = "--cluster slurm needs --shards N, the number of slices"


def run_command(arguments: argparse.Namespace) -> int:
    """Run a suite, in this process or in several. Returns the exit code."""
    return _in_processes(arguments, _run)


def capture_command(arguments: argparse.Namespace) -> int:
    """Read what a run would read, and nothing else. Returns the exit code."""
    arguments.evaluators = 0
    return _in_processes(arguments, _capture)


def _in_processes(
    arguments: argparse.Namespace, do: Callable[[argparse.Namespace, Ranks], int]
) -> int:
    """Do it in this process, in those that it is one of, or in several that are started."""
    if evaluators.at_work:
        arguments.device = "cpu"
        quiet = Display(quiet=True)
        return evaluators.at_work.serve(lambda: _planned(arguments, quiet)[0])
    _check_numbers(arguments)
    several = (arguments.processes or 1) > 1
    if arguments.cluster:
        return _submit(arguments)
    for name in ("shards", "slurm", *cluster.SBATCH):
        if getattr(arguments, name) is not None:
            raise UserError(f"--{name} needs --cluster slurm")
    if arguments.device_map and (several or processes.launched()):
        raise UserError("--device-map spreads a model over all GPUs: run it in one process")
    if several and not processes.launched():
        try:
            return processes.spawn(main, arguments.typed, arguments.processes)
        except KeyboardInterrupt:
            _interrupted(arguments.output)
            return processes.INTERRUPTED
    with processes.connected() as ranks:
        return do(arguments, ranks)


def _check_numbers(arguments: argparse.Namespace) -> None:
    """Raise UserError for a number of things that is none."""
    most = errors.processes()
    for name, least, limit in (
        ("evaluators", 0, most),
        ("processes", 1, most),
        ("shards", 1, errors.SLICES),
        ("gpus", 1, cluster.MOST),
        ("cpus", 1, cluster.MOST),
    ):
        if (number := getattr(arguments, name, None)) is not None:
            errors.check_whole(number, f"--{name}", least, limit)


def _run(arguments: argparse.Namespace, ranks: Ranks) -> int:
    """In one process of those that run it."""
    display = Display(quiet=arguments.quiet or not ranks.main)
    whole, shard, plugins = processes.together(ranks, lambda: _planned(arguments, display))
    run = prepare(whole, arguments.output, display, shard, ranks)
    plan, out = run.plan, run.out
    try:
        profile, beside = Profile(), _beside(arguments, plan, ranks)
        failed = execute(plan, out, display, ranks, run.slices, profile, beside)
        ranks.wait()
        if not ranks.main:
            return 0
        if not plan.models:
            print(f"Slice {shard} is empty: there are fewer pairs of model and task.")
            return 0
        with profile.stage("writing"):
            board, faults = folder.write_views(out, plugins)
        profile.keep(out)
    except KeyboardInterrupt:
        if ranks.main and processes.SPAWNED not in os.environ:
            _interrupted(out)
        return processes.INTERRUPTED
    show(board, plugins, faults, arguments.full, f"lrd-harness leaderboard {out} --full")
    native = "".join(f", {name}/" for name in ("mteb", "lm_eval") if (out / name).is_dir())
    display.line(
        f"\nAll of it is in {out}: leaderboard.html, .md, .csv, .json, .tex, results.sqlite{native}"
    )
    if line := profile.line():
        display.line(line)
    return 1 if failed or faults else 0


def _capture(arguments: argparse.Namespace, ranks: Ranks) -> int:
    """In one process of those that read."""
    display = Display(quiet=arguments.quiet or not ranks.main)
    whole, shard, plugins = processes.together(ranks, lambda: _planned(arguments, display))
    plan, *_ = processes.together(ranks, lambda: shards.part(whole, shard, arguments.output))
    rows, failed = capture(plan, display, ranks)
    if ranks.main:
        texts = "images" if {model.modality for model in plan.models} == {"image"} else "texts"
        columns = ("model", texts, "in store before", "passes", "tokens", "seconds", "in store, MB")
        if rows:
            title = "Read into the store"
            show(Report(title, tables=(table(title, columns, rows, ","),)), plugins)
            how = ", without weights" if all(model.has_frame for model in plan.models) else ""
            display.line(f"\nThe store is in {cache_dir()}. `run` goes on from it{how}.")
    return 1 if failed else 0


def _beside(arguments: argparse.Namespace, plan: Plan, ranks: Ranks) -> Evaluators:
    """What evaluates beside this process."""
    number = evaluators.count(arguments.evaluators, [m.options.device for m in plan.models])
    return Evaluators(number if ranks.agree(number > 0) else 0, main, arguments.typed)


def _planned(arguments: argparse.Namespace, display: Display) -> tuple[Plan, Shard | None, Plugins]:
    """The plan of what was typed, which slice of it, and the plugins. Raises UserError."""
    shard = shards.parse(arguments.shard) if arguments.shard else None
    plugins, suite = manager.load(), suite_of(arguments)
    prune = arguments.prune_rules is not None
    return make_plan(suite, plugins, display.stage, prune), shard, plugins


def _submit(arguments: argparse.Namespace) -> int:
    """Have a cluster do what is missing; where nothing is of a run, print its leaderboard."""
    if arguments.shard or processes.launched():
        raise UserError("--cluster submits every slice, from one process: leave --shard out")
    cluster.check((arguments.output or Path()).absolute())
    given, display = cluster.resources(vars(arguments)), Display(quiet=arguments.quiet)
    places = [arguments.output] if arguments.output else [*Path("runs").glob("*")]
    if not arguments.shards and not any((p / shards.FOLDER / shards.CUT).exists() for p in places):
        raise UserError(NO_NUMBER)  # before models are looked up
    plan, _, _ = _planned(arguments, display)
    out = folder.choose(arguments.output, plan).absolute()
    runs = arguments.command == "run"
    if runs:
        earlier(out)  # what cannot be merged into is told of now
    of = arguments.shards or len(kept.slices if (kept := shards.read(out)) else ())
    if not of:
        raise UserError(NO_NUMBER)
    cut = shards.settled(
        out, plan, of, lambda: Estimator(plan, out, display, 0.0).estimate().seconds(plan)
    )
    words = without_cluster(arguments.typed)
    each, compare = list(words), words if plan.panel else []
    if (arguments.gpus or 1) > 1 and not (arguments.processes or arguments.device_map):
        each += ["--processes", str(arguments.gpus)]
    within = out / shards.FOLDER

    def undone(number: int) -> bool:
        shard = Shard(number, of)
        part = shards.cut(plan, shard, cut)
        return unfinished(part, folder.choose(shard.place(out), part))

    if cluster.resume(within, of, undone if runs else None, each, compare, given):
        return 0
    lost = "" if runs else f" (where the cache was cleared since, remove {within / cluster.JOBS})"
    print(f"All {of} slices are done{lost}.")
    arguments.outs, arguments.output = cluster.begun(within, of), out
    if not (runs and plan.panel):
        return merge_command(arguments) if runs else 0
    for remark in merge(arguments.outs, out):
        tell(remark)
    return _run(arguments, processes.ALONE)  # which only compares


def without_cluster(typed: list[str]) -> list[str]:
    """The words of a command without the options of a cluster, as a job of it has them."""
    only = Parser(add_help=False)
    options.add_cluster(only)
    _, words = only.parse_known_args(typed)
    return list(words)


def _interrupted(out: Path | None) -> None:
    where = f" with --output {out}" if out else ""
    tell(f"\nInterrupted. The same command{where} goes on where it stopped.")


def plan_command(arguments: argparse.Namespace) -> int:
    """Estimate what a run of the same options costs. Returns the exit code."""
    # a run takes the time since this process began, too; less where that is a program's
    age = time.time() - psutil.Process().create_time()
    begun = time.perf_counter() - min(max(0.0, age), STARTING)
    if arguments.named is not None and arguments.suite is not None:
        raise UserError(f"give one suite: {arguments.named} or --suite {arguments.suite}")
    arguments.suite = arguments.suite or arguments.named
    _check_numbers(arguments)
    if arguments.shards and arguments.shard:
        raise UserError("give --shards N, to cut a run, or --shard I/N, for a slice of it")
    display = Display(quiet=arguments.quiet)
    whole, shard, plugins = _planned(arguments, display)
    plan, place, suffix = shards.part(whole, shard, arguments.output)
    out, tables = folder.choose(place, plan, suffix), tuple[Table, ...]()
    spent = time.perf_counter() - begun
    estimates = cache(Estimator(folder.renamed(out, plan), out, display, spent).estimate)
    if arguments.shards:

        def costs() -> Mapping[str, Seconds]:
            return estimates().seconds(plan)

        if arguments.output:
            earlier(out)  # slices would do again what a whole run has done
        cut = shards.settled(arguments.output, plan, arguments.shards, costs)
        tables = (slices(cut, arguments.output),)
    estimate = estimates()
    report = estimate.report()
    report = replace(report, tables=(*report.tables, *tables))
    modalities = {model.modality for model in plan.models}
    names = [*(model.name for model in plan.models), *(task.name for task in plan.tasks)]
    show(report.of("image" if modalities == {"image"} else "text", *names), plugins)
    for fault in estimate.faults:
        tell(f"not estimated: {fault}")
    if arguments.json is not None:
        try:
            write_text(arguments.json, json.dumps(estimate.record(), indent=1))
        except OSError as error:
            raise UserError(f"{arguments.json} cannot be written ({error.strerror})") from None
    return 1 if estimate.faults else 0


def lm_eval_command(arguments: argparse.Namespace) -> int:
    """Run lm-eval's own command line, which knows `--model lrd`. Returns the exit code."""
    manager.load().tell()
    import lm_eval.models  # noqa: F401  # lists its own, which it does later only if there is none
    from lm_eval.__main__ import cli_evaluate
    from lm_eval.api.registry import model_registry

    if LRD not in model_registry:  # lm-eval has read the entry point, from the release after 0.4.13
        model_registry.register(LRD, target=LAYER_LM)
    typed, sys.argv = sys.argv, [arguments.command, *arguments.lm_eval]
    try:
        cli_evaluate()
    finally:
        sys.argv = typed
    return 0


def merge_command(arguments: argparse.Namespace) -> int:
    """Join the runs and print the leaderboard of all. Returns the exit code."""
    plugins, out = manager.load(), arguments.output
    plugins.tell()
    for remark in merge(arguments.outs, out):
        tell(remark)
    board, faults = folder.write_views(out, plugins)
    show(board, plugins, faults, arguments.full, f"lrd-harness leaderboard {out} --full")
    tell(f"\nAll of it is in {out}.")
    return 1 if faults or journal.read_run(out)["errors"] else 0
