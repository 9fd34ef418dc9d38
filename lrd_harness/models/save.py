"""Keep a model, pruned or whole: an ordinary checkpoint, which transformers and the like load.

Beside it goes a model card; a mergekit configuration says the same of a pruned one.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from lrd_harness.blocks import runs, written
from lrd_harness.contracts import Checkpoint
from lrd_harness.errors import UserError, first_line, named
from lrd_harness.models import own_code, quantised
from lrd_harness.models.backbone import Backbone, body
from lrd_harness.models.bidirectional import choose
from lrd_harness.models.cut import kept_blocks, remove
from lrd_harness.models.find import Parent, local_file, name_of, of_modules
from lrd_harness.models.hub import fetched
from lrd_harness.models.image_processors import load_processor, noise, pixels
from lrd_harness.models.loading import (
    listed_classes,
    load_model,
    load_modules,
    load_tokenizer,
    quiet,
    refuse_missing,
)
from lrd_harness.models.modality import PROCESSORS, TOKENIZER
from lrd_harness.models.peft_adapters import base_of
from lrd_harness.models.recognition import foreign
from lrd_harness.models.registry import tokenizer_arguments
from lrd_harness.models.sentence_modules import Measured, Tower, add, fit, section
from lrd_harness.store import files

GENERATION = "generation_config.json"
_TEXT = "The quick brown fox jumps over the lazy dog."


class _Plain:
    """A model as transformers opens it, with its head; root: that model; answer: for _TEXT.

    Raises UserError for weights that are not there.
    """

    def __init__(self, checkpoint: Checkpoint, kind: Any, tower: Tower | None = None) -> None:
        placed = quantised.placing(checkpoint, None, "cpu")
        self.tower = tower
        self.tokenizer: Any = None if tower else load_tokenizer(checkpoint)
        model, missing = load_model(kind, checkpoint, dtype="auto", **placed)
        refuse_missing(checkpoint.path, missing)
        self.checkpoint, self.root = checkpoint, quantised.writable(model.eval())

    def write(self, folder: Path) -> None:
        model = self.root
        try:
            if model.can_generate():
                model.generation_config.validate(strict=True)
        except ValueError:  # transformers would not write it; the original's file is copied
            model.generation_config = type(model.generation_config)()
        model.save_pretrained(folder)
        self.write_reader(folder)

    def write_reader(self, folder: Path) -> None:
        """What makes inputs of texts or images."""
        self.tokenizer.save_pretrained(folder)

    def reopen(self, folder: Path) -> _Plain:
        return type(self)(_saved(self.checkpoint, folder), type(self.root), self.tower)

    def blocks(self) -> Any:
        return Backbone(body(self.root), self.probe()).blocks

    def probe(self) -> dict[str, torch.Tensor]:
        return _probe(self.tokenizer)

    def answer(self) -> Any:
        inner = self.root.get_encoder() if self.root.config.is_encoder_decoder else self.root
        return inner(**self.probe())[0]


class _OfModules(_Plain):
    """The same as sentence-transformers opens it; root: the transformers model inside."""

    def __init__(self, checkpoint: Checkpoint, tokenizing: Mapping[str, Any]) -> None:
        placed = quantised.placing(checkpoint, None, "cpu")
        self.model: Any = load_modules(
            checkpoint,
            device="cpu",
            processor_kwargs=dict(tokenizing),
            model_kwargs={"dtype": "auto", "use_safetensors": True, **placed},
        )
        root = getattr(self.model[0], "auto_model", None)
        if root is None:
            raise UserError(f"{checkpoint.path}: its first module is no transformer")
        self.checkpoint, self.root = checkpoint, quantised.writable(root)
        self.tokenizer = self.model.tokenizer

    def write(self, folder: Path) -> None:
        self.model.save(str(folder), create_model_card=False)

    def reopen(self, folder: Path) -> _OfModules:
        return _OfModules(_saved(self.checkpoint, folder), {})

    def answer(self) -> Any:
        return self.model.encode([_TEXT], convert_to_tensor=True, show_progress_bar=False)


class _OfImages(_Plain):
    """A model of images, with its head or the tower of texts beside it; answer: for noise."""

    tower: Tower

    def write_reader(self, folder: Path) -> None:
        for name in self.checkpoint.files:
            if name in PROCESSORS or TOKENIZER.fullmatch(name):
                shutil.copyfile(local_file(self.checkpoint, name), folder / name)

    @property
    def _body(self) -> Any:
        inner = (m for m in self.root.modules() if type(m).__name__ == self.tower.kind)
        return next(inner, self.root)

    def blocks(self) -> Any:
        return self._body.get_submodule(self.tower.blocks)

    def probe(self) -> dict[str, torch.Tensor]:
        return pixels(load_processor(self.checkpoint), noise(), self._body)

    def answer(self) -> Any:
        with torch.random.fork_rng():
            torch.manual_seed(0)  # a masked autoencoder draws what it sees
            return self._body(**self.probe())[0]


def _saved(checkpoint: Checkpoint, folder: Path) -> Checkpoint:
    """What has been written of a checkpoint, its adapters merged."""
    return replace(checkpoint, path=str(folder), base=None, peft=())


def _open(checkpoint: Checkpoint, measured: Measured | None) -> _Plain:
    checkpoint = fetched(checkpoint)
    if of_modules(checkpoint) if measured is None else not measured.plain:
        opened = _OfModules(checkpoint, tokenizer_arguments(measured.name) if measured else {})
        if measured is not None:
            fit(opened.model, measured)
        return opened
    from transformers import AutoModel

    tower = measured.tower if measured else None
    opening = _OfImages if tower else _Plain
    kinds = own_code.auto_classes(checkpoint) or listed_classes(checkpoint)
    for kind in kinds[:1]:  # it was saved from
        with suppress(UserError):  # its head has no weights: what is below is what there is
            return opening(checkpoint, kind, tower)
    return opening(checkpoint, AutoModel, tower)


def _probe(tokenizer: Any) -> dict[str, torch.Tensor]:
    """The text as a batch of one, (1, T)."""
    ids = torch.tensor([list(map(int, tokenizer(_TEXT)["input_ids"]))])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def save(
    checkpoint: Checkpoint,
    removed: Sequence[int],
    folder: Path,
    card: str,
    measured: Measured | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Write a checkpoint without these blocks (1..L) to a folder; returns the folder.

    The original is opened anew, in its own precision, with its head or its sentence-transformers
    modules. Of an encoder-decoder model the encoder is pruned, and the decoder is kept.

    Parameters
    ----------
    removed : without any to remove the whole model is written.
    card : the text of README.md.
    measured : how the model was read; the folder then says so, to sentence-transformers and to this
        harness.
    say : is told, in single lines, what a user has to know beyond that; README.md says it, too.

    Raises UserError for a folder that is not empty, for what cut.remove refuses, and where what was
    written does not give the states of the pruned model. It appears whole or not at all.
    """
    folder = named(str(folder)).absolute()
    check_free(folder)
    try:
        with quiet(), own_code.running(checkpoint):
            opened = _open(checkpoint, measured)
            if measured is not None:
                choose(opened.root, measured.options.attention_mask)
            if removed:
                blocks: Any = opened.blocks()
                if quantised.method(checkpoint):  # a pass may pack weights anew, with a loss
                    name = next(n for n, m in opened.root.named_modules() if m is blocks)
                    opened = _open(checkpoint, measured)
                    blocks = opened.root.get_submodule(name)
                remove(opened.root, blocks, removed)
            lines = _write(opened, checkpoint, folder, card, measured, removed)
    except UserError:
        raise
    except Exception as error:  # whatever the libraries and the disk raise
        raise UserError(
            f"{checkpoint.name} cannot be saved to {folder}: {first_line(error)}"
        ) from error
    for line in lines:
        say(line)
    return folder


def check_free(folder: Path) -> None:
    """Raise UserError unless the folder is absent or empty.

    What processes that were killed while they saved have left beside it is removed.
    """
    files.remove_leftovers(folder.parent)
    if folder.is_dir():
        if any(folder.iterdir()):
            raise UserError(f"{folder} is not empty; a model is saved to a new folder")
    elif folder.exists() or folder.is_symlink():
        raise UserError(f"{folder} is a file, not a folder")


def check_saved(checkpoint: Checkpoint) -> None:
    """Raise UserError for a model that only a plugin opens: nobody could load what was written."""
    if reason := foreign(checkpoint):
        raise UserError(f"{checkpoint.name} is no model that can be saved: {reason}")


def _write(
    opened: _Plain,
    checkpoint: Checkpoint,
    folder: Path,
    card: str,
    measured: Measured | None,
    removed: Sequence[int],
) -> list[str]:
    """Write to a sibling, compare, and give it its name; returns what to know of how it is read."""
    lines: list[str] = []
    new = [parent for parent in folder.parents if not parent.exists()]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with files.folder(folder.parent) as work:
            part = work / folder.name  # with the permissions that a new folder has
            part.mkdir()
            opened.write(part)
            lines += own_code.keep(part, checkpoint, partial(local_file, base_of(checkpoint)))
            if GENERATION in checkpoint.files:  # transformers would write valid settings only
                shutil.copyfile(local_file(checkpoint, GENERATION), part / GENERATION)
            _compare(opened, part, checkpoint, not removed)
            if measured is not None:
                name, revision = name_of(checkpoint), checkpoint.revision
                parent = Parent(name=name, revision=revision, removed=list(removed))
                lines += add(part, measured, opened.tokenizer, opened.root, parent)
                if checkpoint.peft:
                    merged = ", ".join(adapter.name for adapter in checkpoint.peft)
                    lines.append(f"merged into its weights, and not needed beside it: {merged}")
                card += section(measured, lines)
            (part / "README.md").write_text(card, encoding="utf-8")
            files.usual_modes(part)
            check_free(folder)
            part.rename(folder)
    except BaseException:
        for above in new:  # from the inside out; what somebody else has used by now stays
            if above.is_dir() and not any(above.iterdir()):
                above.rmdir()
        raise
    return lines


def _compare(opened: _Plain, folder: Path, checkpoint: Checkpoint, whole: bool) -> None:
    """Raise UserError if the folder gives other tokens or states than the model in memory.

    Some families build a block by its place (ModernBERT's first has no norm before its attention),
    so that there is no configuration for what is left.
    """
    kind, name = type(opened.root).__name__, checkpoint.name
    misfit = UserError(
        f"{name} cannot be kept as a checkpoint: read again, a {kind} gives other states"
        if whole
        else f"{name} without these blocks cannot be kept as a checkpoint: "
        f"{kind} builds its blocks by their place"
    )
    if packing := quantised.method(checkpoint):
        misfit = UserError(
            f"{name} cannot be kept as a checkpoint: transformers does not write what it has read "
            f"of quantised weights ({packing}); save the original, and quantise that"
        )
    try:
        again = opened.reopen(folder)
    except UserError:  # tensors of a block of another kind
        raise misfit from None
    read, before = again.probe(), opened.probe()
    if not all(torch.equal(read[name], before[name]) for name in before):
        raise UserError(f"{name}: its tokenizer changes when it is saved")
    with torch.inference_mode():
        first, second = opened.answer(), again.answer()
    if not torch.allclose(first, second, rtol=1e-5, atol=1e-5, equal_nan=True):
        raise misfit


def mergekit(model: str, blocks: int, removed: Sequence[int], dtype: str = "float32") -> str:
    """A mergekit passthrough configuration (YAML) that keeps the remaining blocks.

    model: a hub id or folder; blocks: L; removed: block numbers, 1..L. Each slice is a run of
    blocks that stay; its layer_range counts from 0, the end not included.

    Raises UserError for what cut.kept_blocks refuses.
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

    model: the original, as the user named it; hub: whether that is a hub id; blocks: its L;
    removed: block numbers, 1..L, none of a model that was kept whole; parameters: before, after;
    metric: which chose the layer that the model ends at, if one did; rule, budget, seed, protect:
    how the blocks were chosen, None if by hand or as usual; texts: what the rule read, and unit:
    what these are, "texts" or "images";
    compared: the texts on which it was compared with the original; fidelity: rows of figures with
    label, original and changed; scores: task -> (the original's, the pruned model's), as the tasks
    count them;
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
    unit: str = "texts"
    compared: str | None = None
    fidelity: Sequence[Mapping[str, Any]] = ()
    scores: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    library: str = "transformers"


def card(pruned: Pruned) -> str:
    """The README.md of a pruned model: front matter (YAML), what was removed, how, and scores."""
    from huggingface_hub import ModelCard, ModelCardData

    tags = ["pruned", "layer-pruning"] if pruned.removed else []
    front = ModelCardData(
        base_model=pruned.model if pruned.hub else None,  # the hub takes its own ids alone
        library_name=pruned.library,
        tags=["lrd-harness", *tags, *filter(None, [pruned.rule, pruned.metric])],
    )
    blocks = range(1, pruned.blocks + 1)
    kept = kept_blocks(pruned.removed, pruned.blocks) if pruned.removed else blocks
    before, after = pruned.parameters
    text = ModelCard.from_template(
        front,
        str(Path(__file__).with_name("card.md")),
        pruned=pruned,
        n=len(pruned.removed),
        removed=written(sorted(pruned.removed)),
        kept=written(kept),
        last=kept[-1],
        before=before,
        after=after,
        plain=_plain,
        number=lambda value: "" if value is None else f"{value:.4g}",
    )
    return f"{str(text).rstrip()}\n"


def _plain(text: str) -> str:
    """A text for a cell or heading: one line, and no bar ends the cell."""
    return " ".join(text.split()).replace("|", "\\|")
