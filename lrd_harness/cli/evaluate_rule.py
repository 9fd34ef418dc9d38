"""`lrd-harness evaluate-rule`: whether a rule for layers or models beats its control."""

from __future__ import annotations

import argparse
import hashlib
import importlib.resources
from collections.abc import Callable
from dataclasses import fields

from lrd_harness.board import interchange, rule_trial
from lrd_harness.cli.leaderboard import deliver, find_reporter
from lrd_harness.errors import UserError, named
from lrd_harness.planning.settings import read_record
from lrd_harness.results.rows import Results
from lrd_harness.runner import folder
from lrd_harness.store.documents import read_file, yaml_value


def evaluate_rule_command(arguments: argparse.Namespace) -> int:
    """Print or write the verdict. Returns the exit code."""
    notes: list[str] = []
    reporter = find_reporter(arguments)
    terms, stated = _terms(arguments)
    results = _results(arguments, notes.append)
    deliver(
        rule_trial.report(arguments.of, results, terms, stated), reporter, arguments.output, notes
    )
    return 0


def _terms(arguments: argparse.Namespace) -> tuple[rule_trial.Terms, str]:
    """What is tested, and in words where that was stated. Raises UserError for a bad suite."""
    if arguments.suite is None:
        where = f"the shipped suite {arguments.of}"
        place = importlib.resources.files("lrd_harness.tasks.suites") / "rules"
        content = (place / f"{arguments.of}.yaml").read_bytes()
    else:
        where = arguments.suite
        content = read_file(named(where))
    try:
        parts = yaml_value(content.decode("utf-8"), where)
    except UnicodeDecodeError:
        raise UserError(f"{where}: not UTF-8 text") from None
    if isinstance(parts, dict):
        for name in ("primary", "control", "smallest"):
            if name not in parts:
                raise UserError(f"{where}: no '{name}' (see lrd-harness evaluate-rule --help)")
    terms = read_record(rule_trial.Terms, parts, f"key in {where}", where)
    typed = {"primary": arguments.rule, "control": arguments.control}
    typed = {name: word for name, word in typed.items() if word is not None}
    base = terms
    terms = read_record(rule_trial.Terms, typed, "option", "command line", base)
    digest = hashlib.sha256(content).hexdigest()[:12]
    stated = f"as stated in {where} (SHA-256 {digest})"
    if terms.primary != base.primary:
        stated = f"named on the command line ({where} states {base.primary})"
    if terms.control != base.control:
        stated += f", the control on the command line (in place of {base.control})"
    return terms, stated


def _results(arguments: argparse.Namespace, say: Callable[[str], None]) -> Results:
    """Those of all runs together, or of files."""
    files = arguments.actual, arguments.values, arguments.models_info
    if bool(arguments.outs) == any(files):
        raise UserError("give the OUT folders of runs, or --actual S.csv and what goes with it")
    if not arguments.outs:
        if arguments.actual is None:
            raise UserError("there are no scores to judge by: give --actual S.csv")
        return interchange.read(*files, say)
    runs = [folder.shown(out) for out in arguments.outs]
    parts = {
        f.name: tuple(r for run in runs for r in getattr(run, f.name)) for f in fields(Results)
    }
    return Results(**parts)
