"""Checks of pruning rules, reporters and commands: of what is chosen, shown and typed."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from lrd_harness import blocks, manager
from lrd_harness.contracts import BlockValues, Command, Pruner, Reporter
from lrd_harness.errors import UnitError
from lrd_harness.kit.checking import Checks, stir
from lrd_harness.kit.metrics import MetricChecks
from lrd_harness.report import Column, Report, Table, listing
from lrd_harness.store.folders import folded, inside

CASES = [(L, m) for L in (2, 3, 6, 12) for m in range(1, len(blocks.candidates(L)))]


class Evidence(dict[str, BlockValues]):
    """What is known of a model of L blocks that there is not, and its profiles by METRIC.SCORE.

    known: by metric that the rule names, the profiles that it has, as far as it can be found here;
    flat: all blocks are alike. lacking: which profile was asked for that there is not.
    """

    def __init__(self, known: Mapping[str, Sequence[str]], L: int, flat: bool) -> None:
        self.known, self.blocks, self.flat = known, L, flat
        self.profiles: Mapping[str, BlockValues] = self
        self.lacking = ""

    def __missing__(self, name: str) -> BlockValues:
        metric = name.partition(".")[0]
        scores = self.known.get(metric)
        shipped = name in ("block_influence", "ablation")
        if not shipped and (scores is None or (scores and name not in scores)):
            there = f"there are {', '.join(scores or ())}"
            self.lacking = f"it reads the profile {name}, and "
            self.lacking += there if scores else f"Pruner(metrics=...) does not name {metric}"
            raise KeyError(name)
        draw = np.random.default_rng([self.blocks, *name.encode()])
        values = [0.5] * self.blocks if self.flat else draw.random(self.blocks).tolist()
        if self.blocks == 6:  # of this one alone, as a rule may refuse it
            values[self.blocks // 2] = None  # a block of which it is not known
        self[name] = values
        return self[name]

    def angle(self, first: int, last: int) -> float:
        """0 .. 1."""
        return 0.5 if self.flat else (first * 7 + last * 3) % 11 / 11

    def agreements(self, sets: Sequence[Sequence[int]]) -> list[float]:
        """Of each set 0 .. 1."""
        return [0.5 if self.flat else sum(removed) * 7 % 11 / 11 for removed in sets]


class PrunerChecks(Checks):
    """Of a pruning rule, on models of several depths."""

    record: Pruner

    def chooses(self) -> None:
        """it chooses m distinct candidates, for every m from 1 to all but one, of equal blocks too

        `choose(evidence, candidates, m, seed)` returns m of `candidates`; where it cannot, it
        raises lrd_harness.UnitError. It reads evidence.profiles[METRIC.SCORE] of the metrics that
        Pruner(metrics=...) names, in which a block without a value has None. Of equal values take
        the deeper block: compare (value, block).
        """
        made = [self._chosen(*case, flat=flat) for case in CASES for flat in (False, True)]
        assert any(made), "of 2, 3, 6 and 12 blocks it never chooses any"

    def repeatable(self) -> None:
        """it chooses the same again

        Draw by numpy.random.default_rng(seed), from the seed that `choose` is given, and keep
        nothing between calls.
        """
        for case in CASES:
            first, again = self._chosen(*case), self._chosen(*case)
            assert first == again, f"a second call changes the choice from {first} to {again}"

    def seed(self) -> None:
        """the seed changes the choice where it says so, and only there

        Pruner(seeded=True) is for rules that draw by the seed.
        """
        choices = {self._chosen(12, 2, seed=seed) for seed in range(10)} - {None}
        several = len(choices) > 1
        said = "another" if several else "the same"
        whether = f"with other seeds it chooses {said} blocks, and seeded is {self.record.seeded}"
        assert several == self.record.seeded or not choices, whether

    def nested(self) -> None:
        """what goes at a smaller m goes at a larger one, where it says so

        Pruner(nested=False) is for rules that choose anew for each m.
        """
        for L, m in CASES if self.record.nested else ():
            fewer, more = self._chosen(L, m), self._chosen(L, m + 1)
            kept = fewer is None or more is None or set(fewer) <= set(more)
            assert kept, f"of {L} blocks {fewer} go at m = {m}, and {more} at {m + 1}"

    @cached_property
    def _known(self) -> dict[str, list[str]]:
        """By metric that the rule names the profiles that it has, none where it is not here."""
        plugins, known = manager.load(), dict[str, list[str]]()
        for name in self.record.metrics:
            known[name] = []
            if name in plugins.names("metric"):
                checks = MetricChecks(plugins.get("metric", name))
                checks.fields()
                checks.values()
                scores = checks.scores.items()
                known[name] = [f"{name}.{s}" for s, v in scores if isinstance(v, list)]
        return known

    def _chosen(self, L: int, m: int, flat: bool = False, seed: int = 0) -> tuple[int, ...] | None:
        """Its choice, ascending; None where it says that there is none."""
        evidence, allowed = Evidence(self._known, L, flat), blocks.candidates(L)
        stir()
        try:
            answer = self.record.choose(evidence, list(allowed), m, seed)
        except UnitError:
            assert not evidence.lacking, evidence.lacking
            return None
        except Exception as error:
            raise AssertionError(evidence.lacking or f"of {L} blocks, m = {m}: {error}") from error
        try:
            return blocks.checked(self.name, answer, allowed, m)
        except UnitError as error:
            raise AssertionError(f"of {L} blocks, m = {m}: {error}") from error


class ReporterChecks(Checks):
    """Of a form of reports. files: what it writes of names as strangers give, a text under ""."""

    record: Reporter

    def empty(self) -> None:
        """it writes a report that has no tables

        Ask for tables by report.get(NAME), which gives None where there is none; without anything
        to show, write returns "".
        """
        self._written(Report("Leaderboard"))

    def hostile(self) -> None:
        """it writes names of models as strangers give them, into paths that are safe

        Names hold slashes, markup, nothing at all, 300 characters: escape them, and make names of
        files by lrd_harness.store.folders.safe_name (safe_names for several).
        """
        self.files = self._written(strange_report())

    def repeatable(self) -> None:
        """it writes the same again

        No time, no random name, no order of a set.
        """
        for report in (Report("Leaderboard"), strange_report()):
            what = "another text" if self.record.write is not None else "others"
            same = self._written(report) == self._written(report)
            assert same, f"{self.name} writes {what} each time"

    def _written(self, report: Report) -> dict[str, bytes]:
        stir()
        if self.record.write is not None:
            return {"": self.record.write(report).encode("utf-8", "surrogatepass")}
        assert self.record.files is not None
        pairs = list(self.record.files(report))
        files = dict(pairs)
        assert len(files) == len(pairs), f"{self.name} gives a file twice"
        alike = len({folded(path) for path in files}) < len(files)
        assert not alike, f"{self.name} gives files that differ in case: see folders.safe_names"
        for path in files:
            assert inside(path), f"{self.name} gives the file {path!r}: see folders.safe_name"
        return files


class CommandChecks(Checks):
    """Of a command: its help, and what it does. given: the words to run it with, None for not."""

    record: Command

    def help(self) -> None:
        """it declares its arguments, and its help can be shown

        Command(arguments=...) calls parser.add_argument; --load is there already, a % in a help
        text is written %%.
        """
        self._parser().format_help()

    def runs(self) -> None:
        """run returns a whole number or None

        Return the exit code (0 done, 1 something failed, 2 bad input) and raise
        lrd_harness.UserError for bad input; do not call sys.exit.
        """
        if self.given is None:
            return
        try:
            arguments = self._parser().parse_args(self.given)
        except SystemExit:  # argparse has said why
            raise AssertionError(f"its arguments refuse the words {self.given}") from None
        self.record.run(arguments)

    def _parser(self) -> argparse.ArgumentParser:
        parser = argparse.ArgumentParser(prog=f"lrd-harness {self.name}", exit_on_error=False)
        parser.add_argument("--load", action="append", default=[])
        if self.record.arguments is not None:
            self.record.arguments(parser)
        return parser


STRANGE = ("org/model", "Org/Model", "../up", "<script>|$%&_{}\\", "", "x" * 300, "\u202e")


def strange_report() -> Report:
    """The main tables of a leaderboard of such models: two blocks, a task, a metric."""
    info, models, values = [], [], []
    for i, name in enumerate(STRANGE):
        size = {"revision": "1", "parameters": 10 + i, "blocks": 2, "width": 4, "family": None}
        info.append({"model": name, "name": name, "released": None, **size})
        scores = {"score": i / 20, "score.Task/1": i / 20, "best_layer": 2, "m.v": i / 3}
        models.append(
            {"rank": len(STRANGE) - i, "predicted.m": i + 1, "model": name} | size | scores
        )
        common = {"model": name, "revision": "1", "variant": "full", "task": "Task/1", "n": 8}
        for layer in range(3):
            score = {"kind": "score", "source": "task", "name": "s", "value": (i + layer) / 20}
            values.append({**common, **score, "layer": layer, "task_type": "STS"})
        values.append({**common, "kind": "metric", "source": "m", "name": "v", "value": i / 3})
    task = {"task": "Task/1", "type": "STS", "score_name": "s", "models": len(STRANGE)}
    metric = {"metric": "m", "score": "v", "best": "max", "tasks": ["Task/1"]}
    ranking = (
        Column("rank", form="place"),
        Column("model", key=True),
        Column("score", best="max", form=".4f"),
        Column("m.v", form="#.4g"),
    )
    tables = [Table("ranking", "Leaderboard", ranking, models, ("Scores are 0 to 1.",))]
    hidden: dict[str, list[dict[str, Any]]] = {"models": models, "model_info": info}
    hidden |= {"tasks": [task], "metrics": [metric], "values": values}
    tables += [listing(name, "", rows) for name, rows in hidden.items()]
    return Report("Leaderboard", tuple(tables), ("Few models.",), ("a: failed",))
