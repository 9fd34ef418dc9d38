"""Checks of adapters: a checkpoint is opened and read in several ways that must not matter."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrd_harness.contracts import Adapter, Checkpoint, Model, ModelOptions, Task, Text
from lrd_harness.errors import PluginFault, UserError
from lrd_harness.images import Image, pillow
from lrd_harness.kit.checking import Checks, Outcome
from lrd_harness.models.find import find
from lrd_harness.models.loading import quiet
from lrd_harness.models.readout import POOLINGS

SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")
NEAR = 1e-4  # of a state's length; what another order of additions makes is smaller
WORDS = "a cat sat on the mat while old dogs ran to some quiet green park and rain fell".split()
TEXTS = ("a cat sat", "the mat, the dogs and the rain", "", "Ünïcode 北京 🦊", " ".join(WORDS * 2))
LONG = " ".join(WORDS * 2000)
Planes = dict[tuple[str, int], Tensor]


class AdapterChecks(Checks):
    """Of an adapter. given: the name of a checkpoint, None for a tiny one that it claims."""

    record: Adapter
    _late = False  # transformers' list begins with what the first block writes, as of Mamba

    def outcomes(self) -> Iterator[Outcome]:
        """Each check, when it has been made."""
        with tempfile.TemporaryDirectory() as folder:
            self._folder = Path(folder)
            yield from super().outcomes()

    def opens(self) -> None:
        """it claims and opens the checkpoint

        `claims(checkpoint)` looks at checkpoint.config and files alone and never raises; `check`
        refuses, by UserError, what `open` could not read. An adapter for an architecture that
        transformers has not got needs a checkpoint: check_adapter(record, FOLDER), or
        `plugins check NAME --model FOLDER`.
        """
        made = tiny(self._folder, self.record.modality)
        tried = made if self.given is None else [find(str(self.given))]
        claimed = next(filter(self.record.claims, tried), None)
        which = self.given or "any of the checkpoints that the kit makes"
        assert claimed is not None, f"it does not claim {which}"
        self.checkpoint = claimed
        for config in ({}, {"model_type": None}, {"model_type": "no such", "architectures": 5}):
            self.record.claims(replace(self.checkpoint, config=config, files=frozenset()))
        if self.record.check is not None:
            self.record.check(self.checkpoint)
        self.model = self._opened()

    def states(self) -> None:
        """it gives the states 0 to L of every input, pooled, finite, float32

        `states(batch)` returns {("raw", l): (b, d_l)}, l = 0 (what enters the first block) to
        L = info.blocks; where has_final_norm is true also ("final", l), of the normed tokens.
        """
        blocks = self.model.info.blocks
        kinds = ("raw", "final") if self.model.has_final_norm else ("raw",)
        expected = {(kind, layer) for kind in kinds for layer in range(blocks + 1)}
        lacking, more = expected - self._alone.keys(), self._alone.keys() - expected
        assert not lacking, f"states {sorted(lacking)} are missing, of {blocks} blocks"
        assert not more, f"there are states {sorted(more)}, of {blocks} blocks"
        for plane, state in self._alone.items():
            assert state.dtype == torch.float32, f"state {plane} is {state.dtype}"
            assert state.isfinite().all(), f"NaN or infinity in state {plane}"
        width = self._alone["raw", blocks].shape[1]
        assert width == self.model.info.width, f"info.width is not that of state {blocks}, {width}"
        first = self._alone["raw", 0]
        same = all(torch.equal(first, state) for state in self._alone.values())
        assert not same, "all states are the same: is one tensor handed over again and again?"

    def batches(self) -> None:
        """an input's states do not depend on what is read with it, in whatever order

        Mask padding in attention and in pooling, count positions without it; where a model cannot
        be padded, its `padding` is "none". What is sorted by length is to be put back.
        """
        self._same("reading texts together", self._read(self.model, self._inputs))
        read = self._read(self.model, self._inputs[::-1])
        self._same("the order of the inputs", {k: v.flip(0) for k, v in read.items()})

    def padding(self) -> None:
        """the side that is padded changes nothing

        Take ModelOptions.padding as a wish: with "left", positions begin at the first token.
        """
        read = self._read(self._opened(padding="left"), self._inputs)
        self._same("padding on the left", read)

    def stock(self) -> None:
        """states are those that transformers itself gives, where it can

        State 0 is what enters the first block, state l what block l writes, before the final norm;
        normed states are "final" ones.
        """
        kind = "final" if self.model.has_final_norm else "raw"
        for row, layers in self._of_transformers():
            last = len(layers) - 1
            count = f"transformers gives {last + 1} states, it gives {self.model.info.blocks + 1}"
            assert last == self.model.info.blocks, count
            for place, state in enumerate(layers):
                layer = min(place + self._late, last)
                plane = (kind if place == last else "raw", layer)
                far = _distance(self._alone[plane][row], state)
                assert far < NEAR, f"state {layer} is {far:.2g} of its length off transformers' own"

    def truncation(self) -> None:
        """inputs that are too long are cut, and that is said

        `tokenize` cuts to info.max_length tokens; `truncated` says of each text whether it was.
        """
        if self.record.modality == "image" or self.model.info.max_length > len(LONG) // 8:
            return
        texts = [Text(TEXTS[0]), Text(LONG)]
        encoded, most = self.model.tokenize(texts), self.model.info.max_length
        tokens = [len(text.get("input_ids", ())) for text in encoded]
        assert max(tokens) <= most, f"{max(tokens)} tokens, of {most} in info.max_length"
        said = list(self.model.truncated(texts, encoded))
        assert said == [False, True], f"of a short and a long text truncated says {said}"
        finite = all(s.isfinite().all() for s in self.model.states(encoded).values())
        assert finite, "NaN or infinity in the states of a long text"

    def identity(self) -> None:
        """its identity tells whatever changes a state

        Put into `identity` all options that it takes notice of: states are kept under it, and
        those of another pooling or length would be taken for these.
        """
        identity, inputs = self.model.identity, [*self._inputs[:1], *self._inputs[-1:]]
        assert identity == self._opened().identity, "it is another one when opened again"
        first = self._read(self.model, inputs)
        poolings: list[dict[str, Any]] = [{"pooling": p} for p in ("cls", "mean", "last")]
        for option in [{"max_length": 8}, *poolings]:
            try:
                model = self._opened(**option)
            except PluginFault:
                raise
            except UserError:
                continue  # an option that it refuses
            if _apart(first, self._read(model, inputs)):
                assert model.identity != identity, f"{option} changes states, and not its identity"

    def output(self) -> None:
        """embed makes one finite vector of each state, and prompts are texts

        `embed(pooled)` takes (n, d) and returns (n, width of the output), row by row; `similarity`
        says how outputs are compared.
        """
        kind = "final" if self.model.has_final_norm else "raw"
        pooled = self._alone[kind, self.model.info.blocks]
        whole, one = self.model.embed(pooled), self.model.embed(pooled[:1])
        assert whole.ndim == 2, f"embed gave the shape {tuple(whole.shape)}"
        assert len(whole) == len(pooled), f"embed gave {len(whole)} vectors of {len(pooled)} states"
        assert whole.isfinite().all(), "embed gave NaN or infinity"
        assert _distance(whole[0], one[0]) < NEAR, "embed gives another vector beside others"
        similarity = self.model.similarity
        known = similarity in SIMILARITIES
        assert known, f"similarity is {similarity!r}, none of {', '.join(SIMILARITIES)}"
        for prompt_type in (None, "query", "document"):
            prompt = self.model.prompt(Task("kit", list, None), prompt_type)
            assert isinstance(prompt, str), f"prompt gave {type(prompt).__name__}, not a text"

    def _opened(self, **options: Any) -> Any:
        with quiet():
            return self.record.open(self.checkpoint, ModelOptions(**options))

    @cached_property
    def _inputs(self) -> list[Text]:
        if self.record.modality == "text":
            return [Text(text) for text in TEXTS]
        draw, sides = np.random.default_rng(0), ((40, 30), (30, 40), (64, 64), (9, 50))
        pixels = [draw.integers(0, 256, (*side, 3), np.uint8) for side in sides]
        return [Text(Image.of(pillow().fromarray(p))) for p in pixels]

    @cached_property
    def _alone(self) -> Planes:
        """The states of each input, read by itself."""
        read = [self._read(self.model, [each]) for each in self._inputs]
        return {plane: torch.cat([one[plane] for one in read]) for plane in read[0]}

    def _read(self, model: Model, inputs: Sequence[Text]) -> Planes:
        encoded = model.tokenize(inputs)
        assert len(encoded) == len(inputs), f"tokenize gave {len(encoded)} of {len(inputs)} inputs"
        return {plane: state.detach().cpu() for plane, state in model.states(encoded).items()}

    def _same(self, what: str, read: Planes) -> None:
        assert not (fault := _apart(self._alone, read)), f"{what} changes {fault}"

    def _of_transformers(self) -> Iterator[tuple[int, list[Tensor]]]:
        """Of each text its row and pooled states 0..L, by the model that transformers makes.

        Nothing where it has no such model, or pools in a way that is not known here.
        """
        pool = POOLINGS.get(self.model.info.pooling)
        if pool is None or self.record.modality == "image":
            return
        from transformers import AutoModel, PreTrainedModel

        module = getattr(getattr(self.model, "parts", None), "module", None)
        if module is None:
            try:
                module = AutoModel.from_pretrained(self.checkpoint.path).eval()
            except (OSError, ValueError, KeyError):
                return
        if not isinstance(module, PreTrainedModel):  # a plugin's own
            return
        for row, encoded in enumerate(self.model.tokenize(self._inputs)):
            ids = torch.tensor([list(encoded["input_ids"])])
            mask = torch.ones_like(ids)
            with torch.inference_mode():
                made = module(input_ids=ids, attention_mask=mask, output_hidden_states=True)
            if (layers := getattr(made, "hidden_states", None)) is None:
                return
            if (norm := self.model.final_norm) is not None:
                with torch.inference_mode():
                    self._late = torch.allclose(norm(layers[-2]), layers[-1], NEAR, NEAR)
            yield row, [pool(state, mask)[0].float() for state in layers]


def _distance(state: Tensor, other: Tensor) -> float:
    """How far they are apart, in lengths of the first."""
    if state.shape != other.shape:
        return float("inf")
    return float((state - other).norm() / state.norm().clamp(min=1e-12))


def _apart(first: Planes, second: Planes) -> str:
    """The first plane and row in which they are not the same; "" where they are."""
    if first.keys() != second.keys():
        return "which states there are"
    for plane in first:
        for row, (one, other) in enumerate(zip(first[plane], second[plane], strict=True)):
            if not (far := _distance(one, other)) < NEAR:
                return f"state {plane} of input {row + 1} by {far:.2g} of its length"
    return ""


def tiny(folder: Path, modality: str) -> Iterator[Checkpoint]:
    """Small random checkpoints in ordinary folders: a BERT and a Llama, or a ViT."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {word: i for i, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    small: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    small |= {"intermediate_size": 24}
    if modality == "image":
        small |= {"image_size": 32, "patch_size": 8}
        processor: Any = transformers.ViTImageProcessorPil(size={"height": 32, "width": 32})
    else:
        small |= {"vocab_size": len(words), "max_position_embeddings": 128}
        inner = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
        inner.pre_tokenizer = pre_tokenizers.Whitespace()
        named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "model_max_length": 128}
        kind: Any = transformers.PreTrainedTokenizerFast
        processor = kind(tokenizer_object=inner, **named)
    for name in ("ViT",) if modality == "image" else ("Bert", "Llama"):
        torch.manual_seed(0)
        config = getattr(transformers, f"{name}Config")(**small)
        with quiet():
            getattr(transformers, f"{name}Model")(config).save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
        yield find(str(folder / name))
