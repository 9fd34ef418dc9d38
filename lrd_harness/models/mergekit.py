"""What is written beside a pruned model: the same as a mergekit configuration, and a model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import yaml

from lrd_harness.blocks import runs, written
from lrd_harness.models.cut import kept_blocks


def mergekit(model: str, blocks: int, removed: Sequence[int], dtype: str = "float32") -> str:
    """A mergekit passthrough configuration (YAML) that keeps the remaining blocks.

    model: a hub id or folder; blocks: L; removed: block numbers, 1..L. Each slice is a run of
    blocks that stay; its layer_range counts from 0, the end not included.

    Raises UserError for what prune.kept_blocks refuses.
    """
    slices = [
        {"sources": [{"model": model, "layer_range": [first - 1, last]}]}
        for first, last in runs(kept_blocks(removed, blocks))
    ]
    config = {"slices": slices, "merge_method": "passthrough", "dtype": dtype}
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True)


@dataclass(frozen=True)
class Pruned:
    """What a model card says of a pruned model.

    model: the original, as the user named it; hub: whether that is a hub id; revision: of it;
    blocks: L of the original; removed: block numbers, 1..L, none of a model that was kept whole;
    parameters: before and after;
    metric: which chose the layer that the model ends at, if one did;
    rule, budget, seed, protect: how the blocks were chosen, None if by hand, or where a rule takes
    no seed and protection is as usual; texts: what the rule read;
    scores: task -> (the original's score, the pruned model's), as the tasks count them;
    library: "transformers" or "sentence-transformers".
    """

    model: str
    revision: str
    blocks: int
    removed: Sequence[int]
    parameters: tuple[int, int]
    hub: bool = False
    metric: str | None = None
    rule: str | None = None
    budget: float | None = None
    seed: int | None = None
    protect: int | None = None
    texts: str | None = None
    scores: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    library: str = "transformers"


def card(pruned: Pruned) -> str:
    """The README.md of a pruned model: front matter (YAML), what was removed, how, and scores.

    Of a model that was kept whole: why it was.
    """
    if not pruned.removed:
        return _whole_card(pruned)
    removed = written(sorted(pruned.removed))
    kept = written(kept_blocks(pruned.removed, pruned.blocks))
    before, after = pruned.parameters
    chosen = f"the rule `{pruned.rule}`" if pruned.rule else "hand"
    if pruned.metric:
        last = kept_blocks(pruned.removed, pruned.blocks)[-1]
        chosen = f"the metric `{pruned.metric}`: the model ends at layer {last}"
    chosen += "" if pruned.seed is None else f" (seed {pruned.seed})"
    budget = ""
    if pruned.budget is not None:
        budget = f" at a budget of {100 * pruned.budget:g} % of the candidates"
    if pruned.protect is not None:
        budget += f"; blocks kept at either end: {pruned.protect}"
    rows = [
        ("blocks removed", f"{removed} ({len(pruned.removed)} of {pruned.blocks})"),
        ("blocks kept", kept),
        ("chosen by", f"{chosen}{budget}"),
        *([("texts", pruned.texts)] if pruned.texts else []),
        ("parameters", f"{before:,} before, {after:,} after ({after / before - 1:+.1%})"),
    ]
    lines = [
        f"# {_name(pruned)} without {len(pruned.removed)} of its {pruned.blocks} blocks",
        "",
        f"`{pruned.model}` (revision `{pruned.revision}`) with blocks taken out by lrd-harness;",
        "the weights that are left are as they were. Blocks are numbered from 1, at the input.",
        "",
        *_table(("", ""), [(what, _plain(value)) for what, value in rows]),
    ]
    if pruned.scores:
        lines += ["", "## Scores", "", *_table(_SCORES, _score_rows(pruned.scores))]
    return f"---\n{_front(pruned)}---\n\n" + "\n".join(lines) + "\n"


def _whole_card(pruned: Pruned) -> str:
    rows = [
        ("blocks", f"1-{pruned.blocks}"),
        *([("texts", pruned.texts)] if pruned.texts else []),
        ("parameters", f"{pruned.parameters[0]:,}"),
    ]
    why = f": the metric `{pruned.metric}` chose its last layer" if pruned.metric else ""
    lines = [
        f"# {_name(pruned)} with all of its {pruned.blocks} blocks",
        "",
        f"`{pruned.model}` (revision `{pruned.revision}`), kept whole by lrd-harness{why}.",
        "",
        *_table(("", ""), [(what, _plain(value)) for what, value in rows]),
    ]
    return f"---\n{_front(pruned)}---\n\n" + "\n".join(lines) + "\n"


def _name(pruned: Pruned) -> str:
    """The last part of the model's name."""
    return _plain(pruned.model.rpartition("/")[2] or pruned.model)


_SCORES = ("task", "original", "pruned", "change")


def _front(pruned: Pruned) -> str:
    """The front matter; the hub takes nothing but its own ids as a base_model."""
    front: dict[str, object] = {"base_model": pruned.model} if pruned.hub else {}
    chosen = filter(None, [pruned.rule, pruned.metric])
    front |= {
        "library_name": pruned.library,
        "tags": ["lrd-harness", *(("pruned", "layer-pruning") if pruned.removed else ()), *chosen],
    }
    return yaml.safe_dump(front, sort_keys=False, allow_unicode=True)


def _score_rows(scores: Mapping[str, tuple[float, float]]) -> list[tuple[str, ...]]:
    return [
        (
            _plain(task),
            f"{full:.4f}",
            f"{left:.4f}",
            f"{left / full - 1:+.1%}" if full > 0 else "",  # no share of nothing
        )
        for task, (full, left) in scores.items()
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _plain(text: str) -> str:
    """A text for a cell or heading: one line, and no bar ends the cell."""
    return " ".join(text.split()).replace("|", "\\|")
