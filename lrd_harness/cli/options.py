"""What each command takes: a function of its name declares it, whose docstring begins its help."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from lrd_harness.cli.help import EPILOGS
from lrd_harness.errors import named

TEMPLATES = Path(__file__).parents[1] / "templates"  # KIND.py.txt, the smallest example of a kind
MODEL = "a hub id, folder, or pypi:PACKAGE==VERSION"
METRICS = (
    "metric plugins, as frenet,gfmi, groups of them, as geometry, or all (default: those that need "
    "the usual pass alone and little time; `lrd-harness plugins` says which)"
)
SHARD = (
    "run one of N slices, the I-th (from 1): as `plan --shards N` has cut OUT, else of equal "
    "numbers of models × tasks; auto: that of this job of a Slurm array. `lrd-harness merge` joins "
    "them"
)
EVALUATORS = (
    "processes on this machine that measure and evaluate while the next model is read (on GPUs one "
    "for each core that is left, at most 16 for each process; on CPUs 0: the process that read a "
    "model also evaluates it)"
)
SHARDS = (
    "cut the run into N slices of equal cost, and keep the cut in the OUT of --output; "
    "`run --shard I/N` with this OUT runs one"
)
FULL = "print every table and note, not only the answer and the ranking"
LITERAL = (
    "in CSV, write names as they are (else ' stands before one that begins with = + - @, so that "
    "no spreadsheet takes it for a formula)"
)


def run(sub: Any) -> None:
    """Read every layer of the models once, evaluate each layer on the tasks,
    compute the metrics, and print the leaderboard.
    """
    _add_run(sub)
    where = _add_where(sub)
    _add(where, "--evaluators", "N", EVALUATORS, type=int)
    add_cluster(sub)
    _add_flag(sub, "--full", FULL)
    _add_flag(sub, "--literal-names", LITERAL)
    _add_display(sub, "the leaderboard")


def capture(sub: Any) -> None:
    """Do the forward passes of a run and nothing else: no metric, no evaluation, no
    leaderboard. `run` with the same options then reads no weights.
    """
    _add_run(sub, "of the run: how its slices are cut, and logs of --cluster (default: none)")
    _add_where(sub)
    add_cluster(sub)
    _add_display(sub, "the table")


def add_cluster(sub: Any) -> None:
    """What has a command submitted to a cluster, in place of being run here."""
    on = sub.add_argument_group("on a cluster: a job for each slice, and for a run one that merges")
    help = "submit jobs to it; given again, those that are then missing (needs submitit)"
    _add(on, "--cluster", "slurm", help, choices=["slurm"])
    help = "slices of equal cost, a job each; may be left out where OUT is cut"
    _add(on, "--shards", "N", help, type=int)
    _add(on, "--gpus", "G", "GPUs of a job, a process on each (none)", type=int)
    _add(on, "--cpus", "C", "CPU cores of a job", type=int)
    _add(on, "--memory", "SIZE", "memory of a job, as 32G")
    _add(on, "--time", "T", "time limit of a job, which is then requeued and goes on (4:00:00)")
    _add(on, "--partition", "NAME", "the partition, or queue, of the jobs")
    _add(on, "--account", "NAME", "the account that jobs are charged to")
    _add(on, "--slurm", "KEY=VALUE", "other options of sbatch, as qos=long", nargs="+")


def plan(sub: Any) -> None:
    """Tell what a run will cost, model by model: texts, forward passes, tokens,
    disk, and an estimate of time, from a short calibration.
    """
    _add(sub, "named", "SUITE", "a suite, as --suite", nargs="?")
    _add_run(sub)
    _add(sub, "--shards", "N", SHARDS, type=int)
    _add(sub, "--json", "FILE", "write all numbers to a file", type=named)
    _add_display(sub, "the tables")


def merge(sub: Any) -> None:
    """Join runs into one folder, and print its leaderboard: the slices of
    `run --shard`, or the same suite on several machines.
    """
    _add(sub, "outs", "OUT", "the folders of the runs", type=named, nargs="+")
    _add(sub, "--output", "OUT", "the joint folder", type=named, required=True)
    add_load(sub)
    _add_flag(sub, "--full", FULL)
    _add_flag(sub, "--literal-names", LITERAL)


def lm_eval(sub: Any) -> None:
    """Run lm-eval's own command line with one more kind of model: `lrd`, any model
    up to one of its layers, on every task that lm-eval has, generation included.
    """
    _add(sub, "lm_eval", "...", "lm-eval's own arguments", nargs="*")
    add_load(sub)


def select(sub: Any) -> None:
    """Rank models for texts or images without labels, by the metrics and by size, with
    intervals over the texts, what each model costs, and how far to trust it.
    """
    _add(sub, "--models", "MODEL", f"two or more: {MODEL}", nargs="+", required=True)
    _add_study(sub, "select", "all that rank models")


def compare(sub: Any) -> None:
    """Tell how alike two models are on the same texts or images, and print the
    differences of metrics at every layer with intervals over these.
    """
    _add(sub, "a", "A", MODEL)
    _add(sub, "b", "B", "the model that is compared with it")
    _add_study(sub, "compare", "all that need no views")


def probe(sub: Any) -> None:
    """Repeat a share of the tokens, put random ones in their place, or make texts
    longer; measure every layer at each step.
    """
    _add(sub, "model", "MODEL", MODEL)
    _add(sub, "--kind", None, "repetition, random, or length", required=True)
    _add(sub, "--shares", "P", "shares of the tokens (0,0.25,0.5,0.75,1)")
    _add(sub, "--lengths", "N", "tokens per text (8,16,32,64,128)")
    _add_study(sub, "probe", "prompt_entropy,dataset_entropy,curvature,effective_rank")


def layer(sub: Any) -> None:
    """Take the layer of a model that a one-line rule names, or that metrics choose on
    texts or images without labels; and save the model cut off there.
    """
    _add(sub, "model", "MODEL", MODEL)
    by = "metrics that choose, as dime, the first one decides; all: every one (default: the rule)"
    _add_many(sub, "--by", "METRIC", by)
    _add(sub, "--save", "DIR", "write the model, cut at that layer", type=named)
    _add_study(sub, "layer", "none, beside those of --by", "view_texts")


def prune(sub: Any) -> None:
    """Take blocks out of a model: those that a rule chooses on texts, or given
    ones; tell how much worse it is, and save it as an ordinary checkpoint.
    """
    _add(sub, "model", "MODEL", MODEL)
    which = sub.add_argument_group("which blocks")
    _add(which, "--rule", None, "a pruning rule, as gfmi")
    _add(which, "--budget", "SHARE", "share of the candidate blocks that goes", type=float)
    _add(which, "--blocks", "BLOCKS", "given blocks, as 7,12-14")
    _add(which, "--protect", "N", "blocks kept at either end", type=int)
    halves = "random halves of the texts on which the rule chooses again"
    _add(which, "--text-samples", "N", halves, type=int)
    what = sub.add_argument_group("what is made")
    _add(what, "--save", "DIR", "write the smaller model", type=named)
    _add(what, "--save-mergekit", "FILE", "write a mergekit configuration of it", type=named)
    _add(what, "--scores", "OUT", "a run with --prune: its scores, how it read", type=named)
    _add_study(sub, "prune")


def states(sub: Any) -> None:
    """Read texts or images once and write the pooled vectors of chosen layers to a
    file, one row each, for programs of your own.
    """
    _add(sub, "model", "MODEL", MODEL)
    _add_study(sub, "states", "", "layers")


def leaderboard(sub: Any) -> None:
    """Print the leaderboard of a run, also of one that is still running; or of
    scores and metric values from CSV files.
    """
    _add(sub, "out", "OUT", "the output folder of a run", type=named, nargs="?")
    actual = "scores: of the run OUT (default), of the public mteb results, or of a file"
    _add(sub, "--actual", "run|published|S.csv", actual)
    _add(sub, "--values", "V.csv", "metric values, without a run", type=named)
    _add(sub, "--models-info", "M.csv", "sizes of their models", type=named)
    _add_flag(sub, "--common", "rank on the tasks that all models have a score of")
    _add_flag(sub, "--full", FULL)
    _add(sub, "--model", "MODEL", "print one model layer by layer instead")
    _add(sub, "--table", "NAME", "print one table alone, as ranking, in any text form")
    columns = "of that table, or of the form's own, these columns alone (score.* for all scores)"
    _add(sub, "--columns", "NAME,...", columns)
    _add(sub, "--format", "FORM", "one of the forms below")
    _add(sub, "--output", "FILE", "write to a file instead, or to a folder DIR", type=named)
    add_load(sub)
    _add_flag(sub, "--literal-names", LITERAL)


def evaluate_rule(sub: Any) -> None:
    """Tell whether a rule that chooses layers, or orders models, without labels beats
    its control beyond these models and tasks; and how many would settle it.
    """
    _add(sub, "of", "layers|models", "what the rule chooses", choices=["layers", "models"])
    _add(sub, "outs", "OUT", "the output folders of runs", type=named, nargs="*")
    _add(sub, "--suite", "FILE", "the terms, in YAML (default: the shipped ones, see below)")
    _add(sub, "--rule", "RULE", "the primary rule, as mymetric, in place of the suite's")
    _add(sub, "--control", "RULE", "what it has to beat, in place of the suite's")
    _add(sub, "--actual", "S.csv", "scores, without a run", type=named)
    _add(sub, "--values", "V.csv", "metric values, without a run", type=named)
    _add(sub, "--models-info", "M.csv", "sizes and families of their models", type=named)
    _add(sub, "--format", "FORM", "a form of `lrd-harness leaderboard` (table)")
    _add(sub, "--output", "FILE", "write to a file instead, or to a folder DIR", type=named)
    add_load(sub)
    _add_flag(sub, "--literal-names", LITERAL)


def plugins(sub: Any) -> None:
    """List every registered plugin, and those that could not be loaded; make a package
    for one of your own, check one, or show what one offers.
    """
    add_load(sub)
    does = sub.add_subparsers(dest="action", metavar="ACTION")
    what = "ake a package with the smallest example of a kind: code, test, README"
    new = does.add_parser("new", help=f"m{what}", description=f"M{what}.")
    kinds = sorted(path.name.partition(".")[0] for path in TEMPLATES.glob("*.py.txt"))
    _add(new, "kind", "KIND", ", ".join(kinds), choices=kinds)
    _add(new, "name", "NAME", "what it is to be called, as my_metric")
    _add(new, "--output", "DIR", "the folder of the package (NAME)", type=named)
    what = "whether a plugin keeps its contract, and what to do where it does not"
    check = does.add_parser("check", help=what, description=f"Check {what}.")
    _add(check, "names", "NAME|FILE.py", "of any kind; or a distribution, or a file", nargs="+")
    text = "a checkpoint to check adapters on (a tiny one); may be given again"
    _add(check, "--model", "MODEL", text, action="append", default=[])
    text = "seconds that a call of a plugin not shipped may take"
    _add(check, "--plugin-timeout", "N", text, type=int)
    what = "what a plugin offers, from where, its version and its parameters"
    show = does.add_parser("show", help=what, description=f"Show {what}.")
    _add(show, "name", "NAME|FILE.py", "of any kind; or a distribution, or a file")
    for action in (new, check, show):
        add_load(action, argparse.SUPPRESS)


def suites(sub: Any) -> None:
    """List the shipped suites; with a name or a file, show what that suite runs."""
    _add(sub, "suite", "NAME|FILE", None, nargs="?")
    add_load(sub)


def tasks(sub: Any) -> None:
    """List the tasks that need no hub; with a word, all tasks, mteb's too, of that
    type, or with that word in the name (`lrd-harness tasks sts`).
    """
    _add(sub, "word", None, "a type, or part of a name", nargs="?")
    add_load(sub)


def models(sub: Any) -> None:
    """List the models that the shipped suites name; of a MODEL, tell what the harness
    sees of it: how it is read and why so, what it can do, or why it cannot be read.
    """
    _add(sub, "models", "MODEL", f"{MODEL} (several: a table each)", nargs="*")
    _add(sub, "--format", "FORM", "table, json, csv, md or another form that prints (table)")
    add_load(sub)
    _add_flag(sub, "--quiet", "no progress")
    read = "pooling max_length norm dtype attention attention_mask trust_remote_code device"
    _add_settings(sub, [*read.split(), "plugin_timeout"])


def cache(sub: Any) -> None:
    """Downloaded packages, converted models and the states that were read are kept in
    one folder, so that nothing is downloaded or read twice. All of it may be
    removed: what is needed again comes back.

    LRD_HARNESS_CACHE is the folder, by default one in the user's own cache.
    LRD_HARNESS_CACHE_LIMIT is the size that states may take, as 200GB (default: no
    limit): at the start of a run, what was not used for longest makes room.
    """
    does = sub.add_subparsers(dest="action", metavar="ACTION", required=True)
    info = does.add_parser("info", help="where it is, and how large", description=sub.description)
    what = "read all states and compare their checksums"
    verify = does.add_parser("verify", help=what, description=f"{what.capitalize()}.")
    verify.epilog = EPILOGS["cache verify"]
    _add_flag(verify, "--repair", "remove damaged files")
    what = "remove states, packages or both"
    clear = does.add_parser("clear", help=what, description=f"{what.capitalize()}.")
    clear.epilog = EPILOGS["cache clear"]
    part = clear.add_mutually_exclusive_group()
    _add_flag(part, "--states", "states that were read (default)")
    _add_flag(part, "--packages", "packages and converted models")
    _add_flag(part, "--all", "everything")
    _add(clear, "--model", "NAME", "only states of this model, NAME[@REVISION]")
    _add(clear, "--older-than", "AGE", "only what was not used, or downloaded, since")
    _add_flag(clear, "--yes", "do not ask")
    for action in (info, verify, clear):
        add_load(action)


def add_load(sub: Any, default: Any = None) -> None:
    """The option that every command has."""
    more: dict[str, Any] = {"nargs": "+", "action": "extend", "default": default or []}
    _add(sub, "--load", "FILE.py", "plugins of your own, file or module", **more)


def _add(group: Any, name: str, metavar: str | None, help: str | None, **more: Any) -> None:
    group.add_argument(name, metavar=metavar, help=help, **more)


def _add_many(group: Any, option: str, metavar: str, help: str) -> None:
    """An option that takes several words, none by default."""
    _add(group, option, metavar, help, nargs="+", default=[])


def _add_flag(group: Any, option: str, help: str) -> None:
    group.add_argument(option, action="store_true", help=help)


def _add_display(sub: Any, left: str) -> None:
    _add_flag(sub, "--quiet", f"no progress, only {left}")
    _add_flag(sub, "--verbose", "let the libraries' own messages through")


def _add_where(sub: Any) -> Any:
    where = sub.add_argument_group("where it runs (also under torchrun and accelerate launch)")
    _add(where, "--processes", "N", "processes on this machine, a GPU each (1)", type=int)
    return where


def _add_run(sub: Any, output: str = "default: runs/SUITE-DATE") -> None:
    """What a run takes; `plan` and `capture` take the same. output: what OUT is to them."""
    what = sub.add_argument_group("what to run")
    _add(what, "--suite", "NAME|FILE", "a suite (default: quickstart)")
    _add_many(what, "--models", "MODEL", "replace the suite's models")
    tasks = "replace the suite's tasks"
    what.add_argument("--tasks", "--task", metavar="TASK", help=tasks, nargs="+", default=[])
    _add(what, "--texts", "FILE", "your texts, without labels: as the task texts:FILE", default="")
    images = "your images, without labels: as the task images:DIR"
    _add(what, "--images", "DIR", images, default="")
    _add_many(what, "--plugins", "METRIC", METRICS)
    add_load(what)
    _add_many(what, "--set", "METRIC.NAME=VALUE", "a metric's parameter")
    _add(what, "--output", "OUT", output, type=named)
    _add(what, "--shard", "I/N|auto", SHARD)
    _add_settings(sub)


def _add_study(sub: Any, command: str, metrics: str = "", *more: str) -> None:
    """What studies have in common.

    metrics: what the default ones are, "" where none are chosen; more: settings beside the usual.
    """
    from lrd_harness.planning.settings import STUDY_DIGITS, STUDY_TASKS, STUDY_TEXTS  # pydantic

    _add(sub, "--texts", "FILE", "your texts: .jsonl, .csv, .parquet; or lines")
    _add(sub, "--text-column", "NAME", "the texts' column of a table (text)")
    what, usual = "the texts of a task", f"{STUDY_TASKS['text']}, 50 news documents"
    if command != "probe":  # which changes tokens
        _add(sub, "--images", "DIR", "for models of images: your images, those in subfolders too")
        what = "the texts or images of a task"
        usual += f"; for models of images {STUDY_TASKS['image']}, {STUDY_DIGITS} written digits"
    _add(sub, "--task", "TASK", f"{what} ({usual})")
    if metrics:
        _add_many(sub, "--plugins", "METRIC", f"metrics ({metrics})")
    if command != "states":
        _add_many(sub, "--set", "METRIC.NAME=VALUE", "a metric's parameter")
    add_load(sub)
    if command in ("select", "compare"):
        usual = "as many as a minute allows, at most 100" if command == "select" else "100"
        _add(sub, "--draws", "N", f"half-samples ({usual}; 0: none)", type=int)
    if command not in ("layer", "states"):
        _add(sub, "--seed", "N", "of what is drawn (0)", type=int)
    if command == "states":
        forms = ".safetensors, .npz or .parquet, written whole or not at all"
        _add(sub, "--output", "FILE", forms, type=named, required=True)
    else:
        _add(sub, "--output", "DIR", "also write .csv and .json there", type=named)
        _add_flag(sub, "--literal-names", LITERAL)
    _add_flag(sub, "--quiet", "no progress")
    read = "pooling norm max_length attention_mask dtype trust_remote_code device max_texts".split()
    most = "all" if command == "states" else STUDY_TEXTS[command]
    _add_settings(sub, [*read, "plugin_timeout", *more], max_texts=most)


def _add_settings(sub: Any, only: Sequence[str] = (), **defaults: Any) -> None:
    """Fields of Settings and Pruning, in their groups.

    only: fields of Settings, no Pruning; defaults: what help says where a command has its own.
    """
    from lrd_harness.planning.settings import Pruning, Settings, settings_of  # brings pydantic

    groups = {group.title: group for group in sub._action_groups}
    kinds = {"integer": int, "number": number}
    for prefix, record in (("", Settings),) if only else (("", Settings), ("prune_", Pruning)):
        for name, field in settings_of(record).items():
            if "flag" not in field or (only and name not in only):
                continue
            default, text = defaults.get(name, field["default"]), field["text"]
            if isinstance(default, list):
                default = ", ".join(map(str, default)) or None
            if default is not None and default is not False and default != ():
                text += f" ({default})"
            how: dict[str, Any] = {"metavar": field["metavar"], "type": kinds.get(field["type"])}
            if field["type"] == "boolean":
                how = {"action": "store_true", "default": None}
            elif field["type"] == "array":
                how["nargs"] = "*" if name == "rules" else "+"
            if field["group"] not in groups:
                groups[field["group"]] = sub.add_argument_group(field["group"])
            how |= {"dest": f"{prefix}{name}", "help": text}
            groups[field["group"]].add_argument(field["flag"], **how)


def number(text: str) -> float:
    """A whole number, or one with a point."""
    value = float(text) if "." in text else int(text)
    if isinstance(value, float) and not isfinite(value):
        raise ValueError(text)
    return value
