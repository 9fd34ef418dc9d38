"""Numbers out of the files of OUT and of printed forms.

What knows a form is here alone. The journal, the database, CSV and the folder `tidy` stay as they
are. The JSON forms may get another layout: a version 2 would be followed here, and nowhere else.
"""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

WHO, WHAT = (
    ("model", "variant", "task"),
    ("kind", "source", "name"),
)  # a series of values.csv
COMMON = ("n", "unit", "best", "chance")
TIMED = ("latency", "latency_full", "seconds")  # values that a clock gives
MODEL = (
    "revision",
    "family",
    "parameters",
    "blocks",
    "width",
    "pooling",
    "adapter",
    "max_length",
)
STATISTIC = ("board", "about", "predictor", "kind", "best", "task", "other")


def cell(text: str) -> Any:
    """A cell of a CSV file: None, a number or a text."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text or None


def table(source: Path | str) -> list[dict[str, Any]]:
    """A CSV file, or the text of one."""
    text = source.read_text(encoding="utf-8") if isinstance(source, Path) else source
    return [
        {name: cell(value) for name, value in row.items()}
        for row in csv.DictReader(io.StringIO(text))
    ]


def columns(rows: Sequence[dict[str, Any]], *left_out: str) -> dict[str, list[Any]]:
    """A table column by column, without those that a clock fills."""
    names = [name for name in rows[0] if name not in left_out]
    return {name: [row[name] for row in rows] for name in names}


# ---------------------------------------------------------------- the folder tidy


def series(folder: Path) -> dict[str, Any]:
    """values.csv as model / variant / task -> kind / source / name -> numbers, layer by layer.

    Where there is more than numbers of all layers: also the layers and what else is the same in
    the series. Not taken are mteb's areas under abstention curves, which hang on the order of equal
    scores, and how many texts were read, which hangs on what the cache had: see counters.
    """
    made: dict[str, dict[str, Any]] = {}
    for row in table(folder / "values.csv"):
        told = row["kind"] == "capture" or row["name"] in TIMED
        if told or str(row["name"]).startswith("nauc_"):
            continue
        who, what = _joined(row, WHO), _joined(row, WHAT)
        held = made.setdefault(who, {}).setdefault(what, {"layers": [], "values": []})
        held["layers"].append(row["layer"])
        held["values"].append(row["value"] if row["text"] is None else row["text"])
        held |= {name: row[name] for name in COMMON if row[name] is not None}
        if row["stderr"] is not None:
            held.setdefault("stderrs", []).append(row["stderr"])
    return {who: {what: _shorter(one) for what, one in held.items()} for who, held in made.items()}


def _joined(row: dict[str, Any], names: Iterable[str]) -> str:
    return " / ".join(str(row[name]) for name in names if row[name] is not None)


def _shorter(held: dict[str, Any]) -> Any:
    """Numbers alone where they say all; of a table sums of its cells, layer by layer."""
    layers = held.pop("layers")
    if layers == [None] or layers == list(range(len(layers))):
        return held["values"] if held.keys() == {"values"} else held
    if len(set(layers)) < len(layers):
        cells: dict[str, list[float]] = {}
        for layer, value in zip(layers, held.pop("values"), strict=True):
            cells.setdefault(str(layer), []).append(value or 0.0)
        return {
            **held,
            "sums": {layer: _moments(values) for layer, values in cells.items()},
        }
    return {**held, "layers": layers}


def _moments(values: Sequence[float]) -> list[float]:
    """How many, their sum, and their sum by place: any value that changes, or moves, shows."""
    return [
        len(values),
        sum(values),
        sum(place * one for place, one in enumerate(values)),
    ]


def models(folder: Path) -> dict[str, Any]:
    """What values.csv says of each model."""
    rows = table(folder / "values.csv")
    return {row["model"]: {name: row[name] for name in MODEL} for row in rows}


def parameters(folder: Path) -> dict[str, Any]:
    """The parameters and version of each metric, of values.csv."""
    found: dict[str, Any] = {}
    for row in table(folder / "values.csv"):
        if row["kind"] == "metric":
            given = json.loads(row["parameters_of_metric"])
            found[row["source"]] = {"version": row["version"], **given}
            found[row["source"]].pop("pooling", None)
    return found


def statistics(folder: Path) -> dict[str, Any]:
    """statistics.csv as board / about / predictor ... -> statistic -> number."""
    made: dict[str, dict[str, Any]] = {}
    for row in table(folder / "statistics.csv"):
        key = _joined(row, STATISTIC)
        held = made.setdefault(key, {} if row["n"] is None else {"n": row["n"]})
        assert row["statistic"] not in held, f"{key} / {row['statistic']} is there twice"
        held[row["statistic"]] = row["value"]
    return made


def as_parquet(folder: Path, name: str) -> list[list[Any]]:
    """The cells of NAME.parquet."""
    import pyarrow.parquet as pq

    held = pq.read_table(folder / f"{name}.parquet")
    return [held.column_names, *(list(row.values()) for row in held.to_pylist())]


def as_csv(folder: Path, name: str) -> list[list[str]]:
    """The cells of NAME.csv, as written."""
    with (folder / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


# ---------------------------------------------------------------- OUT


def journal(out: Path, *kinds: str) -> list[dict[str, Any]]:
    """The records of some kinds (of all where none is named)."""
    files = sorted((out / "journal").glob("*.jsonl"))
    lines = (line for file in files for line in file.read_text(encoding="utf-8").splitlines())
    return [record for record in map(json.loads, lines) if not kinds or record["kind"] in kinds]


def recorded(out: Path) -> dict[str, Any]:
    """Unit -> the numbers that the journal holds of it."""
    names = (
        "score",
        "scores",
        "values",
        "profiles",
        "n",
        "start",
        "removed",
        "candidates",
    )
    return {
        record["unit"]: {name: record[name] for name in names if name in record}
        for record in journal(out, "score", "metric", "pruning")
    }


def kinds(out: Path) -> dict[str, int]:
    """How many units of each kind the journal has."""
    units = {record["unit"]: record["kind"] for record in journal(out)}
    return dict(sorted(Counter(units.values()).items()))


def rows(out: Path, query: str) -> list[list[Any]]:
    """What the database of OUT answers."""
    with sqlite3.connect(out / "results.sqlite") as held:
        return [list(row) for row in held.execute(query)]


def database(out: Path) -> dict[str, Any]:
    """The tables of the database: their columns and how many rows they have."""
    found = {}
    for (name,) in rows(out, "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"):
        names = [row[1] for row in rows(out, f"PRAGMA table_info({name})")]
        found[name] = {
            "columns": names,
            "rows": rows(out, f"SELECT count(*) FROM {name}")[0][0],
        }
    return found


def blocks_removed(out: Path) -> dict[str, Any]:
    """The choices of the pruning rules, of the database."""
    what = "model, rule, seed, budget, removed, candidates, blocks, n"
    found = rows(out, f"SELECT {what} FROM prunings ORDER BY model, rule, seed, budget")
    return {
        f"{model} / {rule} / {seed} / {budget}": {
            "removed": json.loads(removed),
            "candidates": json.loads(candidates),
            "blocks": blocks,
            "n": n,
        }
        for model, rule, seed, budget, removed, candidates, blocks, n in found
    }


def run(out: Path) -> dict[str, Any]:
    """run.json: what was asked for, without versions, places and times."""
    held = json.loads((out / "run.json").read_text(encoding="utf-8"))
    names = ("suite", "errors", "settings", "layers", "metrics", "pruning", "data")
    found = {name: held[name] for name in names}
    found["tasks"] = [[task["name"], task["type"]] for task in held["tasks"]]
    entries = held["models"]
    found["models"] = [[m["name"], m["revision"], m["adapter"], m["label"]] for m in entries]
    return found


def counters(out: Path) -> dict[str, Any]:
    """What the last call read, over all models, without its time."""
    held = json.loads((out / "run.json").read_text(encoding="utf-8"))["counters"]["total"]
    return {name: number for name, number in held.items() if name != "seconds"}


def met(out: Path) -> dict[str, Any]:
    """What the texts were like: model -> task -> numbers."""
    held = json.loads((out / "run.json").read_text(encoding="utf-8"))["counters"]["met"]
    return dict(held)


def native(out: Path, kind: str) -> list[str]:
    """The folders with result files of mteb or lm-eval."""
    found = {path.parent.relative_to(out).as_posix() for path in (out / kind).rglob("*.json")}
    return sorted(found)


# ---------------------------------------------------------------- the JSON form


def boards(text: str) -> list[dict[str, Any]]:
    """The boards of the JSON form: of embedding tasks, and of base models where there is one.

    A board is table -> rows, of base models without "base." before the names; "kind" and "facts"
    are beside. Tables that are there once are in both.
    """
    whole = json.loads(text)
    assert whole["schema"] == "lrd-harness/leaderboard"
    tables = {name: table["rows"] for name, table in whole["tables"].items()}
    facts = whole["facts"]
    own = {name: rows for name, rows in tables.items() if not name.startswith("base.")}
    base = {n.removeprefix("base."): rows for n, rows in tables.items() if n.startswith("base.")}
    found = [{**own, "kind": facts["kind"], "facts": facts, "before": ""}]
    if base:
        found.append({**own, **base, "kind": "base", "facts": facts["base"], "before": "base."})
    return found


def _fields(row: dict[str, Any], start: str) -> dict[str, Any]:
    """The columns that begin so, without that."""
    return {name.removeprefix(start): cell for name, cell in row.items() if name.startswith(start)}


def ranking(board: dict[str, Any]) -> dict[str, Any]:
    """Model -> its ranks, scores and values."""
    before: str = board["before"]
    found: dict[str, Any] = {}
    labels = {(row["name"], row["revision"]): row["model"] for row in board["model_info"]}
    for row in board["models"]:
        if before and row.get("base.tasks") is None:
            continue
        one: dict[str, Any] = {
            n: row[before + n] for n in ("rank", "score", "best_layer", "best_score")
        }
        one["predicted"] = _fields(row, f"{before}predicted.")
        columns = {m["metric"]: f"{before}{m['metric']}.{m['score']}" for m in board["metrics"]}
        one["values"] = {metric: row[column] for metric, column in columns.items()}
        found[labels[row["model"], row["revision"]]] = one
    return found


def picks(board: dict[str, Any]) -> dict[str, Any]:
    """Model / task / metric -> the layer that it chooses, and the gain."""
    names = ("layer", "gain", "reverse", "reverse_gain")
    who = ("model", "task", "metric", "score")
    held = board.get("layer_picks", ())
    return {" / ".join(one[n] for n in who): [one[n] for n in names] for one in held}


def combined(board: dict[str, Any]) -> dict[str, Any]:
    """The combined predictor: its rows, strengths, and what it predicts for each model."""
    names = ["name", "features", "rho", "low", "high", "p", "chance", "rmse"]
    names += ["lead", "lead_low", "lead_high"]
    rows = [{**row, "name": row["predictor"]} for row in board.get("combined", ())]
    models = [
        {"model": row["name"], "predicted": _fields(row, "predicted.")}
        | {name: row[name] for name in ("revision", "family", "actual")}
        for row in board.get("combined_models", ())
    ]
    alphas = {row["family"]: row["alpha"] for row in board.get("combined_strengths", ())}
    facts = board["facts"]["combined"] or {}
    known = ("families", "models_left_out", "features_left_out", "n")
    return {
        **{name: facts[name] for name in known if name in facts},
        "rows": [{name: row.get(name) for name in names} for row in rows],
        "models": models,
        "alphas": alphas or None,
    }


def families(board: dict[str, Any]) -> dict[str, Any]:
    """The families and pairs of models in them."""
    names = ("kind", "share", "pairs", "p", "between", "between_pairs", "rho")
    rows: dict[str, dict[str, Any]] = {}
    for row in board.get("families", ()):
        by_family = {n: v for n, v in _fields(row, "by_family.").items() if v is not None}
        one = {"name": row["predictor"], **{name: row.get(name) for name in names}}
        rows[row["predictor"]] = one | {"by_family": by_family, "beside": []}
    for row in board.get("family_rivals", ()):
        held = {
            "name": row["other"],
            **{name: row[name] for name in ("own", "share", "pairs")},
        }
        rows[row["predictor"]]["beside"].append(held)
    kin: dict[str, list[Any]] = {}
    for row in board.get("family_ranks", ()):
        one = {"model": row["name"], "predicted": _fields(row, "predicted.")}
        one |= {name: row[name] for name in ("revision", "score", "rank")}
        kin.setdefault(row["family"], []).append(one)
    if not rows:
        return {}
    held_families = [{"name": name, "models": models} for name, models in kin.items()]
    left_out = board["facts"]["families"]["left_out"]
    return {
        "rows": list(rows.values()),
        "families": held_families,
        "left_out": left_out,
    }


def claims(board: dict[str, Any]) -> dict[str, Any]:
    """Claim -> verdict and numbers."""
    names = ("verdict", "value", "low", "high", "p", "control", "control_value", "n")
    return {
        one["predictor"]: {name: one.get(name) for name in names} for one in board.get("claim", ())
    }


def curves(board: dict[str, Any]) -> dict[str, Any]:
    """Mean curves over depth of all models, at every tenth of it; where they are highest."""
    return {
        f"{one['grouping']} / {one['group']} / {one['source']}": {
            **{name: one[name][::10] for name in ("means", "spread", "counts")},
            **{
                end: {
                    "mean": one[end],
                    "low": one[f"{end}_low"],
                    "high": one[f"{end}_high"],
                }
                for end in ("highest", "lowest")
            },
            **{name: one[name] for name in ("models", "tasks", "pairs")},
        }
        for one in board.get("profiles", ())
        if one["grouping"] == "all"
    }


def alike(board: dict[str, Any]) -> dict[str, Any]:
    """How scores and metrics of all models run alike over the layers."""
    names = ("rho", "low", "high", "pairs", "models")
    return {
        one["second"]: {name: one[name] for name in names}
        for one in board.get("profile_correlations", ())
        if (one["grouping"], one["first"]) == ("all", "score")
    }


def pruning(board: dict[str, Any]) -> list[dict[str, Any]]:
    """How rules do over models, without times."""
    names = [
        "kind",
        "rule",
        "budget",
        "models",
        "pairs",
        "change",
        "compared",
        "difference",
    ]
    names += ["beats", "verdict"]
    rows = board.get("pruning_summary", ())
    return [{name: row.get(name) for name in names} for row in rows]


def checkpoints(board: dict[str, Any]) -> list[Any]:
    """Families of checkpoints: their members, and curves over layers."""
    named: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in board.get("checkpoint_curves", ()):
        named.setdefault(row["family"], {}).setdefault(row["curve"], []).append(row)
    found = []
    for number, (stem, by_curve) in enumerate(named.items(), start=1):
        curves = [
            {
                "name": name,
                **{key: rows[0][key] for key in ("metric", "choose", "tasks")},
                "profiles": [{key: row[key] for key in ("layers", "values")} for row in rows],
            }
            for name, rows in by_curve.items()
        ]
        about = {
            "kind": board["kind"],
            "stem": stem,
            "unit": by_curve["score"][0]["unit"],
        }
        members = [_member(board, row) for row in board[f"checkpoints.{number}"]]
        found.append({**about, "tasks": curves[0]["tasks"], "members": members, "curves": curves})
    return found


def _member(board: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    names = ("label", "step", "model", "revision", "variant", "depth", "score")
    columns = {m["metric"]: f"{m['metric']}.{m['score']}" for m in board["metrics"]}
    return {
        **{name: row[name] for name in (*names, "best_layer", "best_score")},
        "values": {metric: row[column] for metric, column in columns.items() if column in row},
        "layers": _fields(row, "layer."),
    }


# ---------------------------------------------------------------- files of other commands


def document_values(folder: Path, name: str) -> dict[str, Any]:
    """Of NAME.json of select: the models that were measured."""
    held = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return {"models": [one["model"] for one in held["models"]]}


def probed(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """probe.csv as metric / score / step -> values in their order, with n."""
    found: dict[str, Any] = {}
    for row in rows:
        key = _joined(row, ("metric", "score", "step"))
        found.setdefault(key, []).append([row["layer"], row["value"], row["n"]])
    return found


def starred(printed: str) -> list[list[Any]]:
    """The table that `layer` prints, row by row; a star marks what a metric chooses."""
    lines = (line.split() for line in printed.splitlines())
    return [
        [one if "*" in one else cell(one) for one in words]
        for words in lines
        if len(words) > 2 and words[0].isdigit() and words[1].replace(".", "").isdigit()
    ]


def saved(folder: Path) -> dict[str, Any]:
    """A saved checkpoint: its files, its weights' names, shapes and sums."""
    from safetensors.numpy import load_file

    weights = load_file(folder / "model.safetensors")
    files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    sums = {
        name: [list(one.shape), float(one.astype(float).sum())]
        for name, one in sorted(weights.items())
    }
    return {"files": files, "weights": sums}


def fields(found: Any, *names: str) -> list[list[Any]]:
    """Some fields of the rows of a document."""
    return [[row.get(name) for name in names] for row in found]


def sorted_rows(found: Iterable[Sequence[Any]]) -> list[list[Any]]:
    """Rows in an order of their own."""
    return sorted((list(row) for row in found), key=repr)
