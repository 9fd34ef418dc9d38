"""`lrd-harness select`, `compare` and `probe`: models measured on one's own texts."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lrd_harness import errors
from lrd_harness.cli.arguments import (
    add_literal_names,
    add_many,
    add_settings,
    load,
    names,
    parameters_of,
    path,
    settings_given,
    show,
)
from lrd_harness.cli.run import hush
from lrd_harness.errors import UserError, tell
from lrd_harness.planning import suite
from lrd_harness.planning.parameters import resolve_metrics
from lrd_harness.planning.resolve import (
    PlannedModel,
    check_settings,
    checked_task,
    distinct,
    resolve_model,
    resolve_tasks,
)
from lrd_harness.planning.suite import ModelEntry, Settings
from lrd_harness.progress import Display

if TYPE_CHECKING:
    from lrd_harness.contracts import Task
    from lrd_harness.manager import Plugins
    from lrd_harness.measuring import PlannedMetric
    from lrd_harness.report import Report
    from lrd_harness.studies.values import Design

TASK = "LeeDocumentSTS"  # texts that need no hub
MODEL = "a hub id, folder, or pypi:PACKAGE==VERSION"
READ = ("pooling", "norm", "max_length", "device")
TEXTS = {"select": 500, "compare": 500, "probe": 200, "layer": 5000}  # at most
EPILOGS = {
    "select": """\
examples:
  lrd-harness select --models A B C --texts FILE.jsonl
  lrd-harness select --models A B C --texts FILE.jsonl --plugins frenet,nrs
  lrd-harness select --models A B --task LeeDocumentSTS --output DIR
  lrd-harness run --models A B C --tasks STSBenchmark --plugins frenet,nrs,gfmi
      how well the metrics do where there are labels

Every metric that ranks models (`lrd-harness plugins`) ranks these on your
texts, beside what size alone says. Intervals (95 %) are over texts: all is
computed again on --draws random halves of them, the same for all models
(delete-half, as copies of a text would break neighbours and singular values).
Give 200 texts or more. They say nothing of how well a metric predicts scores:
no label is seen.
--output: select.csv, one row per model and metric (first: in what share of
half-samples, each moved to its score on all texts, no model is before it;
halved: the mean score on halves as they are), and select.json.
exit codes: 0 done; 1 done, but a model or a metric failed; 2 bad input.""",
    "compare": """\
examples:
  lrd-harness compare BASE TUNED
      on 50 news documents that come without the hub
  lrd-harness compare BASE TUNED --texts FILE --plugins curvature,nrs
  lrd-harness compare MODEL@step1000 MODEL@step143000 --output DIR

Differences are TUNED minus BASE. Their 95 % intervals say how far they would be
off on other texts like these: each metric is computed again on --draws random
halves of the texts, the same for both models (delete-half jackknife). Give 200
texts or more: with fewer they are rough for ranks, neighbours and the like.
--output: compare.csv, one row per metric and layer, and compare.json.
exit codes: 0 done; 1 done, but a metric failed; 2 bad input.""",
    "probe": """\
examples:
  lrd-harness probe MODEL --kind repetition
      on 50 news documents that come without the hub
  lrd-harness probe MODEL --kind random --texts FILE --shares 0,0.1,0.5
  lrd-harness probe MODEL --kind length --lengths 16,64,256 --output DIR

kinds: repetition: a share of each text's tokens becomes one token of the text;
  random: the same share becomes random tokens of the vocabulary; length: texts
  are chained and cut to so many tokens. Special tokens and prompts stay.
--output: probe.csv, one row per value (all scores, those of the model too), and
  probe.json. Nothing that is read is kept in the cache.
exit codes: 0 done; 1 done, but a metric failed at some step; 2 bad input.""",
}


def _add(sub: Any, command: str, metrics: str) -> None:
    """Declare what the commands have in common; metrics: what the default ones are."""
    add_texts(sub, TEXTS[command])
    add_many(sub, "--plugins", "METRIC", f"metrics ({metrics})")
    sub.add_argument("--output", type=path, metavar="DIR", help="also write .csv and .json there")
    add_literal_names(sub)
    sub.add_argument("--seed", type=int, default=0, metavar="N", help="of what is drawn (0)")


def add_texts(sub: Any, texts: int, *more: str) -> None:
    """Declare the texts and how models are read; more: settings beside the usual ones."""
    add_file(sub, "your texts")
    sub.add_argument(
        "--task", metavar="TASK", help=f"the texts of a task ({TASK}, 50 news documents)"
    )
    add_many(sub, "--set", "METRIC.NAME=VALUE", "a metric's parameter")
    add_many(sub, "--load", "FILE.py", "your own metrics")
    add_settings(sub, (*READ, "max_texts", *more), max_texts=texts)
    sub.add_argument("--quiet", action="store_true", help="no progress")


def add_file(group: Any, what: str) -> None:
    """Declare the file of texts, and the column that these are in."""
    group.add_argument("--texts", metavar="FILE", help=f"{what}: .jsonl, .csv, .parquet; or lines")
    group.add_argument("--text-column", metavar="NAME", help="the texts' column of a table (text)")


def _add_draws(sub: Any) -> None:
    sub.add_argument(
        "--draws", type=int, default=100, metavar="N", help="half-samples (100; 0: none)"
    )


def select_arguments(sub: Any) -> None:
    sub.add_argument(
        "--models", nargs="+", required=True, metavar="MODEL", help=f"two or more: {MODEL}"
    )
    _add_draws(sub)
    _add(sub, "select", "all that rank models")


def compare_arguments(sub: Any) -> None:
    sub.add_argument("a", metavar="A", help=MODEL)
    sub.add_argument("b", metavar="B", help="the model that is compared with it")
    _add_draws(sub)
    _add(sub, "compare", "all that need no views")


def probe_arguments(sub: Any) -> None:
    sub.add_argument("model", metavar="MODEL", help=MODEL)
    sub.add_argument("--kind", required=True, help="repetition, random, or length")
    sub.add_argument("--shares", metavar="P", help="shares of the tokens (0,0.25,0.5,0.75,1)")
    sub.add_argument("--lengths", metavar="N", help="tokens per text (8,16,32,64,128)")
    _add(sub, "probe", "prompt_entropy,dataset_entropy,curvature,effective_rank")


@dataclass(frozen=True)
class Resolved:
    """What was typed, by name resolved and checked."""

    arguments: argparse.Namespace
    task: Task
    items: list[PlannedMetric]
    settings: Settings
    plugins: Plugins
    display: Display

    def models(self, *names: str) -> list[PlannedModel]:
        """Models by the names that were typed. Raises UserError for one that is not found."""
        read = {name: getattr(self.arguments, name) for name in ("pooling", "max_length")}
        given = self.settings, self.plugins, self.display.stage
        return [resolve_model(ModelEntry(name, **read), *given) for name in names]

    def design(self, model: PlannedModel) -> Design:
        """What is measured, on the model's device."""
        from lrd_harness.capture.samples import Questions, Sampling
        from lrd_harness.studies.values import Design

        most, given = self.settings.max_texts, self.arguments
        return Design(
            task=self.task,
            items=self.items,
            questions=Questions(most),
            sampling=Sampling(self.settings.norm, most, model.options.device),
            draws=getattr(given, "draws", 0),
            seed=given.seed,
            batch_tokens=batch_tokens(model),
        )

    def check_output(self, name: str, columns: Sequence[str]) -> None:
        """Make the folder of --output. Raises UserError where NAME.csv cannot be written there."""
        from lrd_harness.runner.folder import make
        from lrd_harness.studies.values import check_free

        folder = self.arguments.output
        if folder is not None:
            check_free(folder, name, columns)
            make(folder)

    def finish(self, report: Report, name: str) -> int:
        """Print the report and its errors, write NAME.csv and NAME.json. Returns the exit code."""
        from lrd_harness.studies.values import write

        if report.shown or report.notes:
            show(replace(report, errors=()), self.plugins)
        for fault in report.errors:
            tell(f"error: {fault}")
        folder = getattr(self.arguments, "output", None)
        if folder is not None:
            write(folder, name, report)
            self.display.line(f"\nAll of it is in {folder}: {name}.csv, {name}.json")
        return 1 if report.errors else 0


def resolve(
    arguments: argparse.Namespace, named: Sequence[str], usual: Sequence[str] | None = None
) -> Resolved:
    """Resolve all but the models.

    named: the metrics that were named; usual: those where none are, None for all that need no
    views; "all" are these too. Raises UserError for names that there are not, texts out of reach
    and settings of a wrong kind.
    """
    hush()
    display = Display(quiet=arguments.quiet)
    if arguments.texts and arguments.task:
        raise UserError("give either --texts or --task")
    check_column(arguments)
    errors.check_whole(getattr(arguments, "seed", 0), "--seed", 0, errors.SEED)
    errors.check_whole(max(0, getattr(arguments, "draws", 0)), "--draws", 0, errors.DRAWS)
    plugins = load(arguments)
    chosen: list[str] | None = names(list(named))
    if not chosen and usual is not None:
        chosen = [name for name in usual if name in plugins.names("metric")]
    elif chosen in ([], ["all"]):
        chosen = None
    given = settings_given(arguments, max_texts=TEXTS[arguments.command])
    made = suite.Suite(
        "texts",
        tasks=(f"texts:{arguments.texts}" if arguments.texts else arguments.task or TASK,),
        plugins=None if chosen is None else tuple(chosen),
        parameters=parameters_of(arguments.set),
        settings=suite.settings(given, "command line"),
    )
    check_settings(made.settings)
    items = resolve_metrics(made, plugins)
    if not items:
        raise UserError("no metrics: name some with --plugins")
    tasks = resolve_tasks(made, plugins)
    if len(tasks) != 1:
        some = ", ".join(task.name for task in tasks[:3])
        raise UserError(f"--task stands for {len(tasks)} tasks ({some} ...): name one of them")
    task = checked_task(tasks[0], display.stage)
    plugins.tell()
    return Resolved(arguments, task, items, made.settings, plugins, display)


def check_column(arguments: argparse.Namespace) -> None:
    """Raise UserError for a column without a file."""
    if arguments.text_column is not None and not arguments.texts:
        raise UserError("--text-column needs --texts")


def batch_tokens(planned: PlannedModel) -> int:
    """Tokens per batch on the model's device, as in a run."""
    from lrd_harness.runner.loop import BATCH_TOKENS

    return BATCH_TOKENS.get(planned.options.device.split(":")[0], 4096)


def select(arguments: argparse.Namespace) -> int:
    """Rank models for texts without labels, by the metrics and by size, with
    intervals over the texts, what each model costs, and how far to trust it.
    """
    from lrd_harness.studies import select as study

    usual = [m.name for m in load(arguments).all("metric") if m.selection is not None]
    resolved = resolve(arguments, arguments.plugins, usual)
    models = distinct(resolved.models(*arguments.models))
    study.check(models, resolved.items)
    resolved.check_output("select", study.COLUMNS)
    found = study.select(models, resolved.design(models[0]), resolved.display)
    return resolved.finish(found, "select")


def compare(arguments: argparse.Namespace) -> int:
    """Measure two models of equal depth on the same texts, and print the
    differences at every layer with intervals over the texts.
    """
    from lrd_harness.studies import compare as study

    resolved = resolve(arguments, arguments.plugins)
    a, b = resolved.models(arguments.a, arguments.b)
    if a.checkpoint.path != b.checkpoint.path:  # one model may be compared as two adapters read it
        a, b = distinct([a, b])
    resolved.check_output("compare", study.COLUMNS)
    found = study.compare(a, b, resolved.design(a), resolved.display)
    return resolved.finish(found, "compare")


def probe(arguments: argparse.Namespace) -> int:
    """Repeat a share of the tokens, put random ones in their place, or make texts
    longer; measure every layer at each step.
    """
    from lrd_harness.contracts import Text
    from lrd_harness.studies import probe as study

    kind = arguments.kind
    study.check(kind, [])
    steps = _steps(arguments)
    resolved = resolve(arguments, arguments.plugins, study.USUAL)
    study.check(kind, resolved.items)
    (planned,) = resolved.models(arguments.model)
    resolved.check_output("probe", study.COLUMNS)
    design, display = resolved.design(planned), resolved.display
    with display.stage(f"{planned.name}: opening"):
        model = planned.open()
    sample = design.questions.sample(design.task)
    given = [Text(r.text, model.prompt(design.task, r.prompt_type)) for r in sample]
    with display.stage(f"{planned.name}: reading all layers", "texts") as advance:
        how = design.seed, design.sampling.norm, design.batch_tokens, advance
        found = study.probe(model, given, design.items, kind, steps, *how)
    for remark in found.remarks:
        display.line(remark)
    info = {"pooling": model.info.pooling, "max_length": model.info.max_length}
    facts = {**design.facts, "texts": found.n, **info}
    del facts["draws"]
    report = study.report(found, kind, planned.name, planned.checkpoint.revision, facts)
    return resolved.finish(report, "probe")


def _steps(arguments: argparse.Namespace) -> list[float] | None:
    """The shares or lengths that were typed. Raises UserError for those of the other kind."""
    long = arguments.kind == "length"
    if (arguments.shares if long else arguments.lengths) is not None:
        option, other = ("--shares", "repetition or random") if long else ("--lengths", "length")
        raise UserError(f"{option} needs --kind {other}")
    if long:
        return _numbers(arguments.lengths, "--lengths", "8,16,64", errors.TOKENS)
    return _numbers(arguments.shares, "--shares", "0,0.5,1", errors.COUNT)


def _numbers(typed: str | None, option: str, example: str, most: int) -> list[float] | None:
    """Numbers as 0,0.5,1, ascending and each once; None for none. Raises UserError for others."""
    if typed is None:
        return None
    try:
        found = sorted({float(part) for part in typed.split(",")})
    except ValueError:
        found = []
    if not found or not all(abs(one) < float("inf") for one in found):
        raise UserError(f"{option} {typed:.60}: not numbers such as {example}")
    if len(found) > errors.STEPS:
        raise UserError(f"{option}: {len(found):,} numbers; at most {errors.STEPS:,} are possible")
    if found[-1] > most:
        raise UserError(f"{option} {found[-1]:g}: at most {most:,} is possible")
    return [int(one) if one == int(one) else one for one in found]
