"""The conformance kit: what a metric plugin, or a reporter, must pass, in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lrd_harness.contracts import Metric, Reporter
from lrd_harness.errors import UnitError
from lrd_harness.measuring import finish, measure
from lrd_harness.planning.parameters import LENGTHS, random_sample, random_states
from lrd_harness.report import Column, Report, Table
from lrd_harness.scores import Scores

Arrays = Sequence[np.ndarray] | np.ndarray
LAWS = ("rotation", "scaling", "permutation")


def check_metric(metric: Metric, /, **parameters: object) -> Scores:
    """Raise AssertionError, with the reason, where a metric breaks its contract.

    Checked on random states: it can be called on arrays, twice alike, without changing them;
    every score is a finite float or a list of them that belongs to states, steps or inner states;
    its selection and layer-choice scores are there; and the laws that it declares hold. A token
    metric is called on texts of several lengths, of which it may refuse some with a UnitError,
    must give all others the same scores in the same lengths, and is judged by what `finish` makes
    of them. The law "permutation" is that of the texts' order, for every kind of metric.
    Returns the scores.

    Examples
    --------
    >>> from lrd_harness import Choice
    >>> def spread(states):
    ...     return {"spread": [float(state.std()) for state in states]}
    >>> check_metric(Metric("spread", spread, invariances=frozenset({"permutation"}))).states
    5
    >>> check_metric(Metric("spread", spread, selection=Choice("range")))
    Traceback (most recent call last):
    AssertionError: spread gave no score range, which ranks it
    """
    unknown = metric.invariances - set(LAWS)
    assert not unknown, f"{metric.name} declares unknown laws: {sorted(unknown)}"
    sample = _sample(metric)
    before = [[state.copy() for state in states] for states in sample]
    try:
        scores = _measured(metric, sample, parameters)
    except UnitError as error:
        raise AssertionError(str(error)) from error
    _check_shapes(metric, scores)
    unchanged = all(
        np.array_equal(a, b)
        for old, new in zip(before, sample, strict=True)
        for a, b in zip(old, new, strict=True)
    )
    assert unchanged, f"{metric.name} changes the states that it is given"
    _check_equal(metric, "a second call", scores, _measured(metric, sample, parameters))
    for law in sorted(metric.invariances):
        changed = _changed(law, metric, sample)
        _check_equal(metric, f"a {law}", scores, _measured(metric, changed, parameters))
    return scores


def _sample(metric: Metric) -> list[Arrays]:
    """What the metric is called on: several texts' states for a token metric, else one sample's."""
    if metric.needs != "tokens":
        return [random_sample(metric)]
    return [np.stack(random_states(tokens, seed=seed)) for seed, tokens in enumerate(LENGTHS)]


def _measured(metric: Metric, sample: Sequence[Arrays], parameters: dict[str, object]) -> Scores:
    """The metric's scores on its sample; of a token metric, of all texts that it does not refuse.

    Raises UnitError where it refuses all.
    """
    import torch

    if metric.needs != "tokens":
        return measure(metric, sample[0], **parameters)
    texts: list[Scores] = []
    refused = UnitError(f"{metric.name} was tried on no text")
    for states in sample:
        try:
            # one tensor, as in a run: nothing is copied, so what a metric changes is seen
            tensor = torch.from_numpy(np.asarray(states))
            texts.append(measure(metric, tensor, **parameters))
        except UnitError as error:
            refused = error
    if not texts:
        raise refused
    for scores in texts:
        alike = _lengths(scores) == _lengths(texts[0])
        assert alike, f"{metric.name} gives other scores, or other lengths, for another text"
    return finish(metric, texts)


def _lengths(scores: Scores) -> dict[str, int | None]:
    return {name: len(v) if isinstance(v, list) else None for name, v in scores.items()}


def _check_shapes(metric: Metric, scores: Scores) -> None:
    for name, value in scores.items():
        finite = np.isfinite(np.asarray(value, dtype=np.float64)).all()
        assert finite, f"{metric.name}.{name} is not finite: {value}"
    choice = metric.layer_choice
    layers = choice is None or isinstance(scores.get(choice.score), list)
    assert layers, f"{metric.name} chooses layers by {choice and choice.score}, which is no list"


def _check_equal(metric: Metric, what: str, expected: Scores, scores: Scores) -> None:
    assert expected.keys() == scores.keys(), f"{metric.name}: {what} changes which scores there are"
    for name, value in expected.items():
        close = np.allclose(value, scores[name], rtol=1e-6, atol=1e-9)
        assert close, f"{metric.name}.{name}: {what} changes {value} to {scores[name]}"


def _changed(law: str, metric: Metric, sample: Sequence[Arrays]) -> list[Arrays]:
    """The sample rotated, scaled, or its texts (of a sample: its states' rows) in another order."""
    width = sample[0][0].shape[-1]
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(width, width)))
    order = np.random.default_rng(2).permutation(len(sample[0][0]))
    if law == "rotation":
        return [[state @ turn for state in states] for states in sample]
    if law == "scaling":
        return [[state * 3.7 for state in states] for states in sample]
    if metric.needs == "tokens":
        return list(reversed(sample))
    return [[state[order] for state in sample[0]]]


def check_reporter(reporter: Reporter) -> dict[str, bytes]:
    """Raise AssertionError, with the reason, where a reporter breaks its contract.

    Checked on a report without tables and on a small leaderboard with names such as strangers give
    (a slash, upper case, markup, dots, 300 characters): twice alike, a text or files with paths
    that are plainly inside a folder, each once, also where upper and lower case are one.
    Returns the files of the second one; a text has the path "".

    Examples
    --------
    >>> check_reporter(Reporter("title", lambda report: report.title, ".txt"))
    {'': b'Leaderboard'}
    """
    from lrd_harness.store.folders import folded, inside

    files: dict[str, bytes] = {}
    for report in (Report("Leaderboard"), small_report(STRANGE)):
        if reporter.write is not None:
            text = reporter.write(report)
            assert isinstance(text, str), f"{reporter.name} wrote no text"
            assert text == reporter.write(report), f"{reporter.name} writes another text each time"
            files = {"": text.encode()}
            continue
        assert reporter.files is not None
        pairs = list(reporter.files(report))
        files = dict(pairs)
        assert len(files) == len(pairs), f"{reporter.name} gives a file twice"
        alike = len({folded(path) for path in files}) < len(files)
        assert not alike, f"{reporter.name} gives files that differ in case: see folders.safe_names"
        for path, contents in pairs:
            assert inside(path), f"{reporter.name} gives the file {path!r}: see folders.safe_name"
            assert isinstance(contents, bytes), f"{reporter.name} gives no bytes for {path}"
        assert files == dict(reporter.files(report)), f"{reporter.name} writes others each time"
    return files


STRANGE = ("org/model", "Org/Model", "../up", "<script>|$%&_{}\\", "", "x" * 300, "\u202e")


def small_report(names: Sequence[str]) -> Report:
    """The main tables of a leaderboard of these models: two blocks, a task, a metric."""
    info, models, values = [], [], []
    for i, name in enumerate(names):
        size = {"revision": "1", "parameters": 10 + i, "blocks": 2, "width": 4, "family": None}
        info.append({"model": name, "name": name, "released": None, **size})
        scores = {"score": i / 20, "score.Task/1": i / 20, "best_layer": 2, "m.v": i / 3}
        models.append({"rank": len(names) - i, "predicted.m": i + 1, "model": name} | size | scores)
        common = {"model": name, "revision": "1", "variant": "full", "task": "Task/1", "n": 8}
        for layer in range(3):
            score = {"kind": "score", "source": "task", "name": "s", "value": (i + layer) / 20}
            values.append({**common, **score, "layer": layer, "task_type": "STS"})
        values.append({**common, "kind": "metric", "source": "m", "name": "v", "value": i / 3})
    task = {"task": "Task/1", "type": "STS", "score_name": "s", "models": len(names)}
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
    for name, rows in hidden.items():
        columns = dict.fromkeys(column for row in rows for column in row)
        tables.append(Table(name, "", tuple(map(Column, columns)), rows, shown=False))
    return Report("Leaderboard", tuple(tables), ("Few models.",), ("a: failed",))
