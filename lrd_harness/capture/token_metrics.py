"""Metrics of one text at a time: their values, computed in a forward pass and kept on disk.

A token metric needs the states of all tokens, which are too large to be kept. It is called while a
batch is in memory, and only its values leave the pass: a row of numbers per text, in a store of its
own, so that a text is not forwarded again for the same metric with the same parameters. A metric
of attention has its values kept alike, from a pass for each text that shows its maps.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from lrd_harness import errors, measuring
from lrd_harness.capture.layers import planes
from lrd_harness.contracts import AttentiveModel, Model, Norm, Text
from lrd_harness.measuring import PlannedMetric
from lrd_harness.processes import Ranks
from lrd_harness.scores import Scores
from lrd_harness.store.files import full
from lrd_harness.store.store import Plane, Store

POOLED = ("raw", "final")
ROW: Plane = ("row", 0)  # (n, 1 + m) float64: an outcome, then the scores
SHORT = 128  # tokens
HEADS = 4  # of the random maps on which a metric of attention is tried
PART = 128  # texts whose values of attention are kept together
DONE, LEFT_OUT, NOT_FINITE = 0.0, 1.0, 2.0  # outcomes


class TokenValues:
    """The values of the texts of one model by a metric that sees one text at a time.

    root: the folder of all stores; identity: everything that changes a state. fault: what the
    metric raised on a text, apart from UnitError; it is not called again and nothing more is kept.
    """

    def __init__(
        self, item: PlannedMetric, root: Path, identity: Mapping[str, str], norm: Norm, states: int
    ) -> None:
        self.item, self.norm = item, norm
        parts = {
            "metric": item.metric.name,
            "version": item.metric.version,
            "parameters": json.dumps(dict(item.parameters), sort_keys=True, default=str),
            "norm": norm,
        }
        self.key = json.dumps(parts, sort_keys=True)  # the same in all processes of a run
        self.store = Store(root, {**identity, **parts})
        self.fault: Exception | None = None
        self._lengths: dict[str, int | None] = {}  # of each score: of a list, None of a number
        self._states = states

    def row(self, states: Tensor | Sequence[Tensor]) -> np.ndarray:
        """One text's values, states 0..L (T, d_l) or maps of attention given: (1 + m,) float64.

        Raises an error that says that memory does not suffice, for the pass to be tried again with
        fewer tokens; a single text on which that never helps fails the model, not the metric.
        """
        if not self._lengths and self.fault is None:
            self._learn()
        row = np.full(1 + sum(map(_size, self._lengths.values())), np.nan)
        if self.fault is not None:
            return row
        try:
            scores = measuring.measure(self.item.metric, states, **self.item.parameters)
            row[1:] = np.concatenate([np.atleast_1d(v) for v in self._checked(scores).values()])
            row[0] = DONE
        except errors.NotFinite as error:
            row[0] = NOT_FINITE
            row[1:] = np.nan if error.layer is None else error.layer
        except errors.UnitError:
            row[0] = LEFT_OUT
        except Exception as error:  # a stranger's metric, whose other texts would do the same
            self.fault = _fault(error)
        return row

    def _learn(self) -> None:
        """Which scores there are, and how long: found on a random text, as they are all alike."""
        seeded = torch.Generator().manual_seed(0)
        for tokens in (16, 1024):  # where some are to be left out, the shorter text may not do
            noise: Any = self._noise(tokens, seeded)
            try:
                scores = measuring.measure(self.item.metric, noise, **self.item.parameters)
                self._lengths, self.fault = _lengths(scores), None
                return
            except errors.NotEnoughTokens:  # of the random text, which is none of the user's
                name = self.item.metric.name
                self.fault = errors.NotEnoughTexts(
                    f"{name}: no text has enough tokens with these parameters"
                )
            except Exception as error:
                self.fault = _fault(error)

    def _noise(self, tokens: int, seeded: torch.Generator) -> Tensor | list[Tensor]:
        """A random text: its states (S, T, 8), or its maps of attention, (4, T, T) each."""
        if self.item.metric.needs == "attention":
            weights = torch.rand((HEADS, tokens, tokens), generator=seeded, dtype=torch.float64)
            return [weights.softmax(-1)] * (self._states - 1)
        return torch.randn((self._states, tokens, 8), generator=seeded, dtype=torch.float64)

    def _checked(self, scores: Scores) -> dict[str, Any]:
        lengths = _lengths(scores)
        if lengths != self._lengths:
            name = self.item.metric.name
            raise TypeError(f"{name} gives {lengths} on one text and {self._lengths} on another")
        return {name: scores[name] for name in self._lengths}

    def missing(self, texts: Sequence[Text]) -> list[Text]:
        """Those of the texts that have no values yet, each once, in order."""
        return [] if self.fault is not None else self.store.missing(texts)

    def keep(self, texts: Sequence[Text], rows: np.ndarray) -> None:
        """Keep the rows of those of the texts that have none yet."""
        new = set(self.missing(texts))
        here = [i for i, text in enumerate(texts) if text in new]
        if here:
            self.store.write([texts[i] for i in here], {ROW: rows[here]})

    def finished(self, texts: Sequence[Text]) -> tuple[Scores, int]:
        """The metric's result over these texts, and how many of them have a value.

        `left_out` among the scores says how many have none, where there are any.
        Raises the metric's own fault; NotFinite; NotEnoughTexts where fewer than 8 have a value.
        """
        name = self.item.metric.name
        if self.fault is None and not self._lengths:
            self._learn()
        if self.fault is not None:
            raise self.fault
        rows = self.store.read(texts, ROW)
        if (wrong := rows[:, 0] == NOT_FINITE).any():
            layers = rows[wrong, 1]  # NaN where it is not known
            layer = None if np.isnan(layers).all() else int(np.nanmin(layers))
            dtype = self.store.identity.get("dtype", "")
            maps = self.item.metric.needs == "attention"
            what = "the attention maps" if maps else "the tokens' states"
            raise errors.not_finite(layer, dtype, what)
        done = rows[rows[:, 0] == DONE, 1:]
        if np.isinf(done).any():
            raise errors.NotFinite(f"{name} gives infinity for a text")
        if len(done) < measuring.MIN_TEXTS:
            raise errors.NotEnoughTexts(
                f"{name} needs at least {measuring.MIN_TEXTS} texts with enough tokens, "
                f"got {len(done)} of {len(texts)}"
            )
        scores = measuring.finish(self.item.metric, [self._values(row) for row in done])
        if len(done) < len(texts):
            scores["left_out"] = len(texts) - len(done)
        return scores, len(done)

    def _values(self, row: np.ndarray) -> Scores:
        values: dict[str, float | list[float]] = {}
        at = 0
        for name, length in self._lengths.items():
            part = row[at : at + _size(length)].tolist()
            values[name] = part[0] if length is None else part
            at += _size(length)
        return Scores(values, self._states)


class Watched:
    """What watches a forward pass: token metrics, and the texts that they are measured on.

    attentive: the values of metrics of attention, whose passes are their own.
    """

    def __init__(
        self,
        model: Model,
        tokens: Sequence[TokenValues],
        texts: Sequence[Text],
        attentive: Sequence[TokenValues] = (),
    ) -> None:
        self.tokens, self.texts = list(tokens), list(texts)
        self.attentive = list(attentive)
        self._model = model
        self._planes = {v.norm: planes(model, v.norm) for v in self.tokens}

    def missing(self) -> list[Text]:
        """The texts that lack values of any of the metrics."""
        return list(dict.fromkeys(t for v in self.tokens for t in v.missing(self.texts)))

    def unattended(self) -> list[Text]:
        """The texts that lack values of any of the metrics of attention."""
        return list(dict.fromkeys(t for v in self.attentive for t in v.missing(self.texts)))

    def attend(self, model: Model) -> Iterator[tuple[int, int, int]]:
        """Have the values of metrics of attention: (texts done, of how many, this one's tokens).

        A fault of the model's in showing its maps is the metrics' own.
        """
        texts = self.unattended()
        for start in range(0, len(texts), PART):
            part, rows = texts[start : start + PART], [list[np.ndarray]() for _ in self.attentive]
            for done, encoded in enumerate(model.tokenize(part), start + 1):
                try:
                    maps = cast("AttentiveModel", model).attention(encoded)
                    for values, row in zip(self.attentive, rows, strict=True):
                        row.append(values.row(maps))
                except Exception as error:  # memory that does not suffice for a text's maps, too
                    for values in self.attentive:
                        values.fault = values.fault or error
                    return
                yield done, len(texts), maps[0].shape[-1]
            for values, row in zip(self.attentive, rows, strict=True):
                if values.fault is None:
                    values.keep(part, np.stack(row))

    def __call__(self, states: Sequence[Tensor], mask: Tensor) -> dict[Plane, Tensor]:
        """Of a batch's states 0..L, (b, T, d_l) as written, each metric's rows (b, 1 + m)."""
        final = self._model.final_norm
        seen = {
            norm: [
                state if kind != "final" or final is None else final(state).to(state.device)
                for (kind, _), state in zip(chosen, states, strict=True)
            ]
            for norm, chosen in self._planes.items()
        }
        alike = {norm: len({s.shape[-1] for s in of}) == 1 for norm, of in seen.items()}
        rows: list[list[np.ndarray]] = [[] for _ in self.tokens]
        threads = torch.get_num_threads()
        if mask.shape[1] < SHORT:  # their waiting for each other costs more than small matrices do
            torch.set_num_threads(1)
        try:
            for i, present in enumerate(mask.bool()):
                arrays: dict[Norm, Tensor | list[Tensor]] = {}
                for norm, layers in seen.items():
                    text = [measuring.float64(layer[i, present]) for layer in layers]  # (T, d_l)
                    arrays[norm] = torch.stack(text) if alike[norm] else text
                for values, batch in zip(self.tokens, rows, strict=True):
                    batch.append(values.row(arrays[values.norm]))
        finally:
            torch.set_num_threads(threads)
        return {
            (f"tokens {number}", 0): torch.from_numpy(np.stack(batch))
            for number, batch in enumerate(rows)
        }

    def keep(
        self, texts: Sequence[Text], planes: Mapping[Plane, np.ndarray]
    ) -> dict[Plane, np.ndarray]:
        """Keep the rows that a segment's planes hold; the other planes are given back."""
        for number, values in enumerate(self.tokens):
            if values.fault is None:
                values.keep(texts, planes[f"tokens {number}", 0])
        return {plane: rows for plane, rows in planes.items() if plane[0] in POOLED}


def share_faults(tokens: Sequence[TokenValues], ranks: Ranks) -> None:
    """Let a metric that failed in one process have failed in all, as the first of them tells.

    Each process waits for all, and asks once, whichever metrics it has. An error cannot always be
    sent, so elsewhere it is a UserError, which is recorded by the same text (StorageFull, which
    ends the run, where a full disk is behind it).
    """
    if ranks.world == 1:
        return
    faults = {
        values.key: (full(values.fault) is not None, errors.described(values.fault))
        for values in tokens
        if values.fault is not None
    }
    by_rank = ranks.gather(faults)
    for values in tokens:
        first = next((r for r, faults in enumerate(by_rank) if values.key in faults), ranks.rank)
        if first != ranks.rank:
            no_space, text = by_rank[first][values.key]
            values.fault = errors.StorageFull(text) if no_space else errors.UserError(text)


def _fault(error: Exception) -> Exception:
    """A metric's fault. Raises one that says that memory does not suffice, which is none."""
    from accelerate.utils.memory import should_reduce_batch_size

    if should_reduce_batch_size(error):
        raise error
    return error


def _lengths(scores: Scores) -> dict[str, int | None]:
    for name, value in scores.items():
        if isinstance(value, list) and any(isinstance(item, list) for item in value):
            raise TypeError(f"{name} is a table, which a token metric cannot give for one text")
    return {k: len(v) if isinstance(v, list) else None for k, v in scores.items()}


def _size(length: int | None) -> int:
    return 1 if length is None else length
