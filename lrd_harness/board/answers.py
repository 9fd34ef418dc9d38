"""The answer of a board, before its tables: who is best, what predicted it, what to distrust."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from textwrap import wrap

import numpy as np

from lrd_harness.board import statistics, verdicts
from lrd_harness.board.agreement import Agreement, Selection
from lrd_harness.board.cautions import Caution, count
from lrd_harness.board.layers import Row
from lrd_harness.board.panel import BARS, SIZES, Panel, Predictor
from lrd_harness.board.standing import Standing, missing_cautions, outlying_cautions
from lrd_harness.report import Report

LINES = 10  # of a title and an answer in a terminal
NAMED = 1  # models that move, named in one sentence
# Cautions that stand in the answer too, the weightiest first.
WEIGHTY = (
    *("empty", "no_scores", "none_ranked", "two_models"),
    *("undefined", "versions", "parameters", "under_five", "guessing"),
)
VERDICTS = {
    "better": "better than {bar}",
    "may_be_chance": "ahead of {bar}, by no more than chance may give",
    "explained": "ahead of {bar}, but these together explain it",
    "not_better": "no better than {bar}",
    "no_size": "of so many models no size is known to compare it with",
    "few_models": "too few models to say whether better than size",
    "few_runs": "too few training runs to say whether better than size",
}


def build_answer(
    rows: Sequence[Row],
    panel: Panel,
    standing: Standing,
    selection: Selection | None,
    outlying: Sequence[Row],
    said: Sequence[Caution],
) -> Iterator[Caution]:
    """In a few sentences. rows: of the board, in its order; said: all of its cautions."""
    selecting = panel.selecting
    yield from _first(rows, panel, standing, selecting)
    if len(standing.ranked) > 2:
        for caution in _predicted(panel, selecting, selection):
            yield caution
            named = (caution.numbers.get("name"), caution.numbers.get("other"))
            yield from [other for other in said if _pools(other, named)][:1]
    yield from missing_cautions(panel, NAMED)
    yield from outlying_cautions(outlying, 1)
    weighty = (caution for caution in said if caution.code in WEIGHTY)
    yield from sorted(weighty, key=lambda caution: WEIGHTY.index(caution.code))


def _pools(caution: Caution, named: Sequence[str | None]) -> bool:
    return caution.code == "pooled" and caution.numbers["name"] in named


def brief(report: Report, again: str, width: int = 80) -> Report:
    """The answer and the rankings alone, each in the columns that come first; errors stay.

    The title and the answer take ten lines of the width at most: of what does not fit, the lightest
    sentences go. again: the command that shows everything; a last sentence says so.
    """
    rankings = [table for table in report.shown if table.name.split(".")[-1] == "ranking"]
    more = len(report.shown) - len(rankings)
    rest = [
        count(n, thing) for n, thing in ((more, "more table"), (len(report.notes), "note")) if n
    ]
    hint = f"{' and '.join(rest)}: {again}" if rest else ""

    def lines(sentence: str) -> int:
        return len(wrap(f"• {sentence}", width, subsequent_indent="  ")) if sentence else 0

    room, answer = LINES - 1 - lines(hint), []
    for sentence in report.answer:
        if lines(sentence) <= room:
            answer.append(sentence)
            room -= lines(sentence)
    tables = (replace(t, columns=tuple(c for c in t.columns if not c.rest)) for t in rankings)
    answer += [hint] if hint else []
    return replace(report, tables=tuple(tables), answer=tuple(answer), notes=())


def _first(
    rows: Sequence[Row], panel: Panel, standing: Standing, selecting: Sequence[Predictor]
) -> Iterator[Caution]:
    ranked = [panel.labels[place] for place in standing.ranked]
    tasks = count(len(panel.tasks), "task")
    if not ranked:
        if not panel.tasks and selecting and rows[0][f"predicted.{selecting[0].name}"] == 1:
            yield Caution("first_predicted", {"metric": selecting[0].name, **rows[0]})
        return
    scores = panel.actual[standing.ranked]
    of = f"mean of {tasks}" if len(panel.tasks) > 1 else f"on {panel.tasks[0].name}"
    whole = len(ranked) == len(rows)
    models = count(len(rows), "model") if whole else f"the {len(ranked)} models with all scores"
    numbers = {"model": ranked[0], "score": scores[0], "of": of, "models": models}
    if len(ranked) == 1:
        yield Caution("first_alone", numbers)
        return
    few = "is" if len(panel.tasks) == 1 else "are"
    second = f"{ranked[1]} ({scores[1]:.4f})"
    level, next_one = standing.level_with_first(), standing.level_with_next()[0]
    equal = np.flatnonzero(scores[1:] == scores[0]) + 1
    if beside := equal.tolist() or level:
        more = f" and {count(len(beside) - 1, 'other')}" if len(beside) > 1 else ""
        how = "level with" if len(equal) else "but cannot be told from"
        apart = f", {how} {ranked[beside[0]]}{more}"
    elif next_one is None:
        apart = f", before {second}; {tasks} {few} too few to tell them apart"
    else:
        apart = f", and can be told from {second} and all others"
    yield Caution("first", numbers | {"apart": apart})


def _predicted(
    panel: Panel, selecting: Sequence[Predictor], selection: Selection | None
) -> Iterator[Caution]:
    """By the median rho over tasks where there are enough models, else by the order of means."""
    if selection is not None and selection.telling:
        rows = [row for row in selection.rows if row.rho is not None]
        chosen = {name for predictor in selecting for name in (predictor.name, predictor.score)}
        metrics = [row for row in rows if row.kind == "metric" and row.name in chosen]
        if metrics:
            yield _by_task(metrics)
        elif sizes := [row for row in rows if row.name in BARS]:
            best = max(sizes, key=_rho)
            none = "can be judged" if selecting else "ranks models"
            numbers = {"none": none, "name": best.name, "rho": f"median rho {_rho(best):+z.2f}"}
            bar = verdicts.bar_of(row.name for row in sizes)
            yield Caution("predicted_size", numbers | {"bar": bar})
        return
    rhos = {p.name: statistics.spearman(p.strength, panel.actual) for p in panel.predictors}
    known = [(p.name, rho) for p in selecting if (rho := rhos[p.name]) is not None]
    if known:
        name, rho = max(known, key=lambda pair: pair[1])
        if rho <= 0:
            yield Caution("predicted_not", {"name": name, "rho": f"rho {rho:+z.2f}"})
            return
        size = max((of_size for s in SIZES if (of_size := rhos.get(s)) is not None), default=None)
        beside = "" if size is None else f", size {size:+z.2f}"
        verdict = "of so few models any order says little"
        numbers = {"best": _best_of(len(selecting)), "name": name, "verdict": verdict}
        yield Caution("predicted", numbers | {"rho": f"rho {rho:+z.2f}{beside}"})


def _rho(row: Agreement) -> float:
    return row.rho or 0.0


def _by_task(metrics: Sequence[Agreement]) -> Caution:
    """The one with the highest median rho, and how it does beside size."""
    best = max(metrics, key=_rho)
    over = f" over {count(len(best.tasks), 'task')}" if len(best.tasks) > 1 else ""
    numbers = {"name": best.name, "rho": f"median rho {_rho(best):+z.2f}{over}"}
    if _rho(best) <= 0:
        return Caution("predicted_not", numbers)
    verdict = verdicts.verdict(best, len(metrics))
    of = verdict.numbers
    beside = f", {of['other']} {of['other_rho']:+z.2f}" if "other" in of else of.get("beside", "")
    numbers |= {"best": _best_of(len(metrics)), "rho": numbers["rho"] + beside}
    numbers["other"] = of.get("other", "")
    return Caution("predicted", numbers | {"verdict": VERDICTS[verdict.code].format(**of)})


def _best_of(metrics: int) -> str:
    return f" best of {metrics} metrics" if metrics > 1 else ""
