"""Results to a Report: the tables of every statistic, and what must be said beside them.

Likelihood tasks have a board of their own, made in the same way, whose tables are named "base.NAME"
where there are embedding tasks too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from lrd_harness.board import (
    agreement,
    claims,
    depth,
    families,
    layer_choice,
    layers,
    panel,
    pruned,
    ranking,
    training,
    unseen,
    values,
    verdicts,
)
from lrd_harness.board.cautions import Caution
from lrd_harness.report import Report, Table
from lrd_harness.results.kinds import split
from lrd_harness.results.rows import Results


def report(results: Results) -> Report:
    """The leaderboard of the whole models (variant "full"), and of pruned ones; holes are told.

    Tables that programs read besides are not shown. Raises ValueError only for results that `load`
    would not give.
    """
    sides = split(results)
    whole = {row.key: row.model for row in results.models if row.variant == "full"}
    names = Counter(whole.values())
    main = Board(sides.main, sides.kind, names)
    base = Board(sides.base, "base", names, "base.") if sides.base else None
    boards = [main, *([base] if base else [])]
    sweep = pruned.build_pruned(results)
    errors = sorted(results.errors, key=lambda error: error.variant != "full")
    once = [
        ranking.models_table(main, base),
        layers.layers_table([b.results for b in boards], [p for b in boards for p in b.picks]),
        training.checkpoints_table([board.results for board in boards]),
        values.values_table([board.results for board in boards]),
        values.errors_table(errors),
    ]
    tables = [table for board in boards for table in board.tables(sweep)]
    notes = [str(caution) for caution in main.all_cautions]
    notes += [f"Base models: {caution}" for caution in base.all_cautions] if base else []
    notes += map(str, pruned.pruning_cautions(results, sweep))
    return Report(
        title=main.title,
        tables=(*tables, *pruned.pruning_tables(sweep), *once),
        notes=tuple(notes),
        errors=tuple(map(values.error_line, errors)),
        facts={"kind": main.kind, **main.facts, **({"base": base.facts} if base else {})},
    )


@dataclass(frozen=True)
class Board(ranking.Ranking):
    """All that is made of the tasks of one kind. prefix: of the names of its tables."""

    prefix: str = ""

    @cached_property
    def choice(self) -> layer_choice.LayerChoice | None:
        return layer_choice.build_choice(self.results)

    @cached_property
    def selection(self) -> agreement.Selection | None:
        return agreement.build_selection(self.panel)

    @cached_property
    def combined(self) -> unseen.Combined | None:
        return unseen.build_combined(self.panel)

    @cached_property
    def families(self) -> tuple[list[Table], int]:
        """Their tables, and how many models are in no family of two."""
        return families.family_tables(self.panel, self.labels, self.what)

    @property
    def what(self) -> str:
        return "base models" if self.base else "models"

    @property
    def picks(self) -> Sequence[dict[str, Any]]:
        """The layers that metrics choose."""
        return self.choice.picks if self.choice else ()

    def tables(self, sweep: Sequence[pruned.PrunedRow]) -> Iterator[Table]:
        """In the order in which people read them. sweep: the pruned models of both kinds."""
        own = [
            ranking.ranking_table(self),
            ranking.scores_table(self),
            panel.correlation_table(self.panel, self.what),
            *agreement.agreement_tables(self.selection, self.what),
            *self.families[0],
            *unseen.combined_tables(self.combined, self.panel, self.labels, self.what),
            *ranking.listings(self),
        ]
        yield from (replace(table, name=f"{self.prefix}{table.name}") for table in own)
        profiles = depth.build_profiles(self.results, self.kind)
        found = claims.build_claims(self.kind, self.selection, self.choice, self.results, sweep)
        yield from layer_choice.choice_tables(self.choice, self.prefix)
        yield from depth.profile_tables(profiles, self.prefix)
        yield from claims.claim_tables(found, self.prefix)
        yield from training.checkpoint_tables(self.results, self.prefix)

    @property
    def facts(self) -> dict[str, Any]:
        """What programs may want beside the tables."""
        combined = self.combined.facts if self.combined else None
        return {"families": {"left_out": self.families[1]}, "combined": combined}

    @cached_property
    def all_cautions(self) -> list[Caution]:
        """On the whole, then on single models."""
        telling = self.selection is not None and self.selection.telling
        return [
            *self.cautions(),
            *verdicts.agreement_cautions(self.selection),
            *(verdicts.combined_cautions(self.combined) if telling else ()),
            *layer_choice.choice_cautions(self.choice),
            *(caution for row in self.rows for caution in row["cautions"]),
        ]
