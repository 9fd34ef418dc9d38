"""A made report with every table that a form looks for by name, of any models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

from lrd_harness.report import Column, Report, Row, Table

NAMES = tuple(f"owner/model-{letter}" for letter in "abcdefgh")
BLOCKS = 4
TASKS = {"Bank": "Classification", "Sts": "STS", "Trec": "Classification"}
BASE_TASKS = {"MMLU": "LogLikelihood"}  # the last two models are scored on it too
METRICS = {"frenet": "d0L", "entropy": "mean"}  # metric -> selection score
PROFILES = ("frenet.speed", "entropy.entropy")
BINS = 50
INHERITED = ("constructor", "toString")  # what every object of JavaScript has
HOSTILE = (
    "<script>window.hacked = 1</script>",
    "</script><script>window.hacked = 2</script><!--",
    '"><img src=x onerror="window.hacked = 3">',
    "'onmouseover='window.hacked = 4' x='",
    "{{constructor.constructor('window.hacked = 5')()}} ${window.hacked = 6}",
    "right\u202eto left \u200f\u2067",
    "x" * 300,
    "javascript:window.hacked=7 datum['model'] [0].a\\n\n\x1b[31m",
    "__proto__",
    "pipe|back\\slash **bold** _it_ `code` ~~x~~ $y$ # [l](u) a_b 50% {}^",
    "=HYPERLINK(1)",
    "模型/大きい名前-漢字漢字漢字漢字漢字漢字漢字",
    " padded ",
    *INHERITED,
)


def table(
    name: str, rows: Iterable[Row], columns: Sequence[Column] = (), shown: bool = False, **more: Any
) -> Table:
    """A table; a column for each key of its rows where none are given."""
    rows = list(rows)
    names = dict.fromkeys(key for row in rows for key in row)
    return Table(
        name, more.pop("title", name), columns or _columns(names), rows, shown=shown, **more
    )


def _columns(names: Iterable[str]) -> tuple[Column, ...]:
    keys = {"model", "predictor", "task", "metric"}
    return tuple(Column(name, key=name in keys) for name in names)


def report(
    names: Sequence[str] = NAMES, base: bool = True, parts: Sequence[str] | None = None
) -> Report:
    """Everything that a leaderboard has; names of tasks, families are hostile where models' are.

    parts: the tables wanted, if not all.
    """
    rng = np.random.default_rng(0)
    hostile = tuple(names) == HOSTILE
    tasks = dict(zip((*INHERITED, HOSTILE[0]), TASKS.values(), strict=True)) if hostile else TASKS
    families = HOSTILE[:3] if hostile else ("bert", "llama", "gpt2")
    info = [
        {"model": name, "name": name, "revision": f"{i}abcdef", "released": None}
        | {"parameters": 10**6 * (len(names) - i), "blocks": BLOCKS, "width": 64 * (1 + i % 4)}
        | {"pooling": "mean", "family": families[i % 3]}
        for i, name in enumerate(names)
    ]
    models = [_model(i, row, tasks, len(names)) for i, row in enumerate(info)]
    tables = [*_people(models, tasks), *_statistics("", tasks), *_hidden("", tasks)]
    if base:
        ranked = [row for row in models if row.get("base.rank") is not None]
        tables.insert(5, _ranking("base.ranking", ranked, "base."))
        tables += [*_statistics("base.", BASE_TASKS), *_hidden("base.", BASE_TASKS)]
    tables += [table("models", models), table("model_info", info)]
    if parts is None:
        every = [*tasks, *(BASE_TASKS if base else ())]
        tables += [
            table("values", _values(models, every, rng)),
            table("layers", _layers(models, every, rng)),
            table("pruning", _pruning(names)),
        ]
    notes = (
        "The best layer is an oracle.",
        "A metric has to beat log parameters <b>.",
        f"{names[0]}: is cut.",
        "Base models: few.",
    )
    errors = (f"{names[0]} · Sts · gfmi: NotFinite: state 3",)
    title = f"Leaderboard: {len(names)} models"
    answer = (f"{names[0]} is best of {len(names)}.", "No metric predicts the order.")
    run = {"command": 'lrd-harness run "a b"', "begun": "2026-01-02T03:04:05+00:00"}
    run |= {"finished": None, "versions": {"torch": "2", "mteb": "3", "none": None}}
    facts = {"kind": "embedding", "run": run}
    whole = Report(title, tuple(tables), notes, errors, facts, answer=answer)
    return whole if parts is None else whole.only(parts)


def _model(i: int, info: Mapping[str, Any], tasks: Mapping[str, str], n: int) -> dict[str, Any]:
    """A row of leaderboard.csv; the first model is the best."""
    score = 0.75 - i / 40
    row = {"rank": i + 1, **{f"predicted.{m}": n - i for m in METRICS}, "model": info["name"]}
    row |= {key: info[key] for key in info if key not in ("model", "name", "released")}
    row |= {"tasks": len(tasks), "score": score}
    row |= {"best_layer": BLOCKS - 1, "best_score": score + 0.01}
    row |= {f"{metric}.{name}": i + 0.125 for metric, name in METRICS.items()}
    for task in tasks:
        row |= {f"score.{task}": score, f"best_layer.{task}": 3, f"best_score.{task}": score + 0.02}
    ranked = i >= n - 2
    row |= {"base.rank": i - n + 3 if ranked else None, "base.score": score if ranked else None}
    row |= {f"base.predicted.{metric}": n - i if ranked else None for metric in METRICS}
    for task in BASE_TASKS:
        scores = {f"score.{task}": score, f"stderr.{task}": 0.01, f"chance.{task}": 0.25}
        row |= scores if ranked else dict.fromkeys(scores)
    return row


def _ranking(name: str, models: Iterable[Row], prefix: str = "") -> Table:
    columns = (
        Column(f"{prefix}rank", "actual rank", form="place"),
        *(
            Column(f"{prefix}predicted.{metric}", f"pred. {metric}", form="place")
            for metric in METRICS
        ),
        Column("model", key=True),
        Column(f"{prefix}score", "score", best="max", form=".4f", error="stderr.MMLU"),
        Column("frenet.d0L", unit="radians", best="max", form="#.4g"),
        Column("stderr.MMLU", shown=False),
        Column("pooling", rest=2),
    )
    caption = ("actual rank: order of the mean score (1 = best).",)
    return Table(name, f"Ranking of models ({name})", columns, list(models), caption)


def _people(models: list[dict[str, Any]], tasks: Mapping[str, str]) -> list[Table]:
    scores = (
        Column("model", key=True),
        *(Column(f"score.{task}", f"{task} accuracy", best="max", form=".4f") for task in tasks),
    )
    return [_ranking("ranking", models), Table("scores", "Scores by task", scores, models)]


def _statistics(prefix: str, tasks: Mapping[str, str]) -> list[Table]:
    """Of each predictor: in the mean, over tasks, on each task."""
    predictors = {"frenet": "metric", "log parameters": "baseline", "depth": "control"}
    mean, over, each = [], [], []
    for i, (name, kind) in enumerate(predictors.items()):
        who = {"predictor": name, "kind": kind}
        rho = 0.75 - 0.25 * i
        mean.append({**who, "rho": rho, "p": 0.01, "n": 8})
        interval = {"low": rho - 0.1, "high": rho + 0.1, "models_low": None, "models_high": None}
        more = {"significant": 2, "partial.log parameters": None, "n": 8, "size": True}
        over.append({**who, "best": "max", "rho": rho, "interval": "a to b", **interval, **more})
        for task in tasks:
            each.append({**who, "best": "max", "task": task, "rho": rho / 2, "p": 0.5, "n": 7})
    claim = {"predictor": "it holds", "verdict": "holds", "control": "depth"}
    shown = {"correlations": mean, "agreement": over, "claim": [{**claim, "value": 1.5, "n": 3}]}
    tables = [table(prefix + name, rows, shown=True) for name, rows in shown.items()]
    return [*tables, table(f"{prefix}agreement_tasks", each)]


def _hidden(prefix: str, tasks: Mapping[str, str]) -> list[Table]:
    known = {"score_name": "accuracy", "models": 8, "chance": None}
    metrics = [{"metric": m, "score": s, "best": "max"} for m, s in METRICS.items()]
    return [
        table(f"{prefix}tasks", [{"task": t, "type": kind, **known} for t, kind in tasks.items()]),
        table(f"{prefix}metrics", metrics),
        table(f"{prefix}profiles", _profiles()),
    ]


def _profiles() -> list[dict[str, Any]]:
    groups = {"all": ["all"], "kind": ["encoder", "decoder"], "family": ["bert", "gpt2", "llama"]}
    groups["task type"] = ["STS", "Classification"]
    rows = []
    for grouping, members in groups.items():
        for i, group in enumerate(members):
            for j, source in enumerate(("score", *PROFILES, "frenet.other")):
                means = [0.5 + i / 10 + j + d / 1000 for d in range(101)]
                row = {"grouping": grouping, "group": group, "source": source, "means": means}
                spread = [None if i else 0.05] * 101
                row |= {"main": source != "frenet.other", "spread": spread, "counts": [4] * 101}
                rows.append(row | {"models": 4 - (j > 1), "best": None})
    return rows


def _scored(models: Sequence[Row], tasks: Sequence[str]) -> Iterator[tuple[dict[str, Any], Row]]:
    """What names each model and each task that it has a score of; the model's row."""
    for row in models:
        for task in tasks:
            if row.get(f"score.{task}") is not None:
                yield {"model": row["model"], "revision": row["revision"], "task": task}, row


def _layers(
    models: Sequence[Row], tasks: Sequence[str], rng: np.random.Generator
) -> list[dict[str, Any]]:
    rows = []
    for place, _ in _scored(models, tasks):
        for layer in range(BLOCKS + 1):
            speed = float(rng.random()) if layer < BLOCKS else None
            profiles = {PROFILES[0]: speed, PROFILES[1]: float(rng.random())}
            rows.append(place | {"layer": layer, "score": 0.5 + layer / 100} | profiles)
    return rows


def _values(
    models: Sequence[Row], tasks: Sequence[str], rng: np.random.Generator
) -> list[dict[str, Any]]:
    """Scores and metrics, a histogram and distances of layers."""
    rows: list[dict[str, Any]] = []
    score = {"kind": "score", "source": "task", "name": "accuracy", "place": None, "n": None}
    metric = {"source": "frenet", "n": 20, "layer": None, "unit": None, "place": None}
    for place, model in _scored(models, tasks):
        common = {**place, "variant": "full", "task_type": TASKS.get(place["task"], "STS")}
        for layer in range(BLOCKS + 1):
            value = {"layer": layer, "value": 0.5 + layer / 100, "unit": "0-1"}
            rows.append(common | score | value)
        d0l = {"kind": "metric", "name": "d0L", "value": model["frenet.d0L"]}
        speed = {"kind": "profile", "name": "speed", "value": 0.25, "layer": 0}
        rows += [common | metric | d0l, common | metric | speed]
        for name, width in {"histogram": BINS, "distance": BLOCKS + 1}.items():
            kind = {"kind": "table", "name": name, "source": f"of_{name}"}
            for layer, number in product(range(BLOCKS + 1), range(width)):
                cell = {"layer": layer, "place": number, "value": float(rng.integers(0, 5))}
                rows.append(common | metric | kind | cell)
    error = {"kind": "error", "task": None, "text": "NotFinite: state 3", "value": None}
    return [*rows, {**rows[-1], **error, "layer": None, "place": None}]


def _pruning(names: Sequence[str]) -> list[dict[str, Any]]:
    spread = {"random_median": -2.0, "random_low": -3.0, "random_high": -1.0, "random_seeds": 5}
    return [
        {"model": name, "revision": f"{i}abcdef", "kind": "embedding", "rule": rule}
        | {"budget": budget, "removed": 1, "change": -10 * budget, **spread}
        for (i, name), rule, budget in product(enumerate(names[:2]), ("random", "last"), (0.1, 0.2))
    ]
