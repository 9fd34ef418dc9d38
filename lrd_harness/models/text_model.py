"""What adapters open of texts: tokens of a text, padding, prompts, and likelihoods by a head."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any, Literal

import torch
from torch import Tensor

from lrd_harness.contracts import Checkpoint, Encoded, ModelOptions, Task, Text
from lrd_harness.errors import UserError, short
from lrd_harness.models import quantised
from lrd_harness.models.backbone import rounding, text_config
from lrd_harness.models.bidirectional import NO_LIKELIHOODS, check, choose, look_ahead
from lrd_harness.models.lengths import length_limit, stated_lengths
from lrd_harness.models.opened import ModelParts, OpenedModel, Planes
from lrd_harness.models.readout import Head, pooling_named
from lrd_harness.models.registry import prompt_rule
from lrd_harness.models.wrappers import route

NO_HEAD = "its weights hold no language-model head, so it cannot compare continuations"
Side = Literal["right", "left", "none"]
_SENTENCE = "The quick brown fox jumps over the lazy dog."
CHUNK = 64
_PROBE = 13  # tokens of a probe; a number that no width or number of heads is likely to be
_TRIED_CUT = 64  # tokens; whether longer texts are cut is not tried


def shorten_chunks(module: torch.nn.Module) -> None:
    """Have Mamba-2's mixers work on a CPU in chunks of 64 tokens, to whole ones of which texts are
    filled up: 256 take four times as long for short texts. States are the same but for rounding.
    """
    mixers: list[Any] = [part for part in module.modules() if hasattr(part, "A_log")]
    for mixer in mixers:
        if type(getattr(mixer, "chunk_size", None)) is int:
            mixer.chunk_size = min(CHUNK, mixer.chunk_size)


@dataclass(kw_only=True)
class Parts(ModelParts):
    """What adapters of texts differ in, beside what ModelParts has.

    tokenizer: transformers'; None for a model with an `encode` of its own;
    encode: (texts, max_length) -> token features of texts as the model was made to read them, cut
        to so many tokens, without padding: {"input_ids": [...]}; there may be a "prompt_length",
        the number of leading tokens that `pool` is to leave out, "told", a number by name for the
        module itself, and a "cut", whether words were left out before; None: what `tokenizer` gives
        of prompt and text;
    max_length: tokens of a text that are wanted, 0 for the least of `lengths`; the model may bear
        fewer, and what the user chooses goes before it;
    lengths: what says of how many tokens a text may be; {}: tokenizer and configuration;
    prompt: the prompt of a task's texts; None: the user's, or mteb's; prompt_from: whose they are.
    """

    tokenizer: Any = None
    encode: Any = None
    max_length: int = 0
    prompt: Any = None
    lengths: Mapping[str, int] = field(default_factory=dict)
    prompt_from: str = "its own"


def by_mask(name: str) -> Callable[[Tensor, Mapping[str, Any]], Tensor]:
    """One of our own poolings as an adapter's `pool`. Raises UserError for an unknown one."""
    pool = pooling_named(name)
    return lambda state, features: pool(state, features["attention_mask"])


def _filled(parts: Parts, checkpoint: Checkpoint, options: ModelOptions) -> Parts:
    """With what an adapter leaves open, and what the user chooses in place of the model's own way.

    Raises UserError for an unknown pooling.
    """
    pooling = options.pooling or parts.pooling or ("own" if parts.pool else "mean")
    lengths = parts.lengths
    if not lengths and not parts.max_length:
        of_tokenizer = getattr(parts.tokenizer, "model_max_length", None)
        lengths = stated_lengths(text_config(parts.module), of_tokenizer)
    return replace(
        parts,
        pooling=pooling,
        pool=(not options.pooling and parts.pool) or by_mask(pooling),
        encode=parts.encode or _encoder(parts.tokenizer),
        max_length=options.max_length or parts.max_length or min(lengths.values()),
        lengths=lengths,
        prompt=parts.prompt or _prompts(checkpoint, options),
    )


def _prompts(checkpoint: Checkpoint, options: ModelOptions) -> Callable[[Task, str | None], str]:
    """The user's, or mteb's for this model."""
    from lrd_harness.models.find import known_as  # brings pydantic

    return prompt_rule(known_as(checkpoint), chosen=options.prompts)


def _encoder(tokenizer: Any) -> Callable[[Sequence[Text], int], list[dict[str, Any]]]:
    def encode(texts: Sequence[Text], max_length: int) -> list[dict[str, Any]]:
        features = tokenizer(
            [t.prompt + t.text for t in texts], truncation=True, max_length=max_length
        )
        names = [n for n in ("input_ids", "token_type_ids") if n in features]
        return [{n: features[n][i] for n in names} for i in range(len(texts))]

    return encode


class TextModel(OpenedModel):
    """An opened model of texts (contracts.BlockModel; with a head contracts.LanguageModel).

    Raises UserError from Backbone where the module is no transformer that can be read by layer.
    """

    parts: Parts
    padding: Side

    def __init__(self, checkpoint: Checkpoint, options: ModelOptions, parts: Parts) -> None:
        parts = _filled(parts, checkpoint, options)
        super().__init__(checkpoint, options, parts)
        self.tokenizer = parts.tokenizer
        if not options.weights:
            return
        if self.device.type == "cpu":
            shorten_chunks(parts.module)
        names = inspect.signature(parts.module.forward).parameters
        self._positions = "position_ids" in names
        self._typed = "token_type_ids" in names
        # the token from which RoBERTa and the like derive positions, which begin behind its number
        self._padding_idx = getattr(getattr(parts.module, "embeddings", None), "padding_idx", None)
        self._rows: int | None = None
        self.max_length = parts.max_length
        choose(parts.module, options.attention_mask)
        probe = self._probe()
        inputs = self.inputs(self.features([probe], "right"), "right")
        self.look(inputs)
        self._rows = self.backbone.vocabulary
        self.look_ahead = cache(partial(look_ahead, self.backbone, inputs))
        if options.attention_mask is not None:
            check(checkpoint.name, self.backbone, self.look_ahead(), options.attention_mask)
        self.length_limit = cache(partial(length_limit, self.backbone, inputs))
        self.max_length = self.length_limit(parts.max_length)
        self._check_cut()
        self.head: Head | None = None
        self.headless = NO_HEAD
        if parts.whole is not None and any(self.look_ahead()):
            self.headless = NO_LIKELIHOODS
        elif parts.whole is not None:
            try:
                normed = self.backbone.run(inputs, lambda layer, state: None)
                self.head = Head(parts.whole, inputs, normed)
            except UserError as error:
                self.headless = str(error)
        self.padding = self._sound_padding(probe)
        read = {"max_length": str(self.max_length), "padding": self.padding}
        self.describe(self.states([probe]), self.max_length, read)

    def prompt(self, task: Task, prompt_type: str | None) -> str:
        """The prompt that goes before a text of this task."""
        return str(self.parts.prompt(task, prompt_type))

    def tokenize(self, texts: Sequence[Text]) -> list[Encoded]:
        """Token features of each text, cut to the model's length; no text is without a token.

        Raises UserError for a text with a token that the model has no embedding of.
        """
        encoded = self._encoded(texts, self.max_length)
        for text, features in zip(texts, encoded, strict=True):
            self.check_tokens(features["input_ids"], text.prompt + text.text)
        return list(encoded)

    def check_tokens(self, tokens: Sequence[int], text: str) -> None:
        """Raise UserError for a token number outside the embedding, naming the text."""
        least, most = min(tokens, default=0), max(tokens, default=0)
        if self._rows is not None and not 0 <= least <= most < self._rows:
            wrong = least if least < 0 else most
            raise UserError(
                f"the text {short(text, 60)!r} has the token {wrong}, but the embedding of "
                f"{self.checkpoint.name} has {self._rows} rows: its tokenizer is another model's"
            )

    def _encoded(self, texts: Sequence[Text], max_length: int) -> list[dict[str, Any]]:
        encoded: list[dict[str, Any]] = self.parts.encode(
            [Text(*map(_readable, text)) for text in texts], max_length
        )
        for features in encoded:
            if not features["input_ids"]:
                features["input_ids"] = [self._token("bos", "eos", "pad")]
                if "token_type_ids" in features:
                    features["token_type_ids"] = [0]
        return encoded

    def _probe(self) -> dict[str, Any]:
        """The first tokens of a text, as few as are wanted; whatever the tokenizer adds or cuts."""
        (features,) = self._encoded([Text(_SENTENCE)], max(self.max_length, _PROBE))
        kept = slice(0, min(self.max_length, _PROBE))
        return {k: v[kept] if isinstance(v, list) else v for k, v in features.items()}

    def _check_cut(self) -> None:
        """Raise UserError where the tokenizer does not cut texts to the model's length."""
        if self.max_length > _TRIED_CUT:
            return
        (features,) = self._encoded([Text("fox " * (self.max_length + 1))], self.max_length)
        if len(features["input_ids"]) > self.max_length:
            (least,) = self._encoded([Text("")], _TRIED_CUT)
            raise UserError(
                f"{self.checkpoint.name}: texts cannot be cut to {self.max_length} "
                f"token{'' if self.max_length == 1 else 's'}, since its tokenizer adds "
                f"{len(least['input_ids'])} to each: --max-length must be more than that"
            )

    def truncated(self, texts: Sequence[Text], encoded: Sequence[Encoded]) -> list[bool]:
        """Of each text, whether it was longer than the model takes."""
        at_limit = [i for i, e in enumerate(encoded) if len(e["input_ids"]) >= self.max_length]
        cut = [bool(features.get("cut")) for features in encoded]
        if not at_limit:
            return cut
        if callable(self.tokenizer):
            full = [_readable(route(texts[i].prompt).prompt + texts[i].text) for i in at_limit]
            ids = self.tokenizer(full, verbose=False)["input_ids"]
        else:
            longer = self._encoded([texts[i] for i in at_limit], self.max_length + 1)
            ids = [features["input_ids"] for features in longer]
        for i, tokens in zip(at_limit, ids, strict=True):
            cut[i] |= len(tokens) > self.max_length
        return cut

    def kind(self, encoded: Encoded) -> object:
        """Texts that share it can be read in one pass."""
        length = len(encoded["input_ids"]) if self.padding == "none" else 0
        return length, *encoded.get("told", ())

    def _sound_padding(self, probe: Mapping[str, Any]) -> Side:
        """The side on which padding changes no state: the chosen one, else the other, else none.

        Some families know no positions of their own (BART, RWKV from the left), some let neighbours
        see the padding (ConvBERT), and some passes depend on the longest text.
        """
        if self.backbone.by_length:
            return "none"
        chosen = self.options.padding
        tokens = len(probe["input_ids"])
        if self.max_length > 1 and tokens == 1:  # a text of one token can still meet longer ones
            probe = {k: v * 2 if isinstance(v, list) else v for k, v in probe.items()}
            tokens = 2
        cut = max(1, tokens // 3)
        short = [{k: v[:cut] if isinstance(v, list) else v for k, v in probe.items()}]
        near = rounding(self._precision())  # states that are no numbers say nothing of padding
        alone = [i for i in self._padded(short, "right").items() if i[1].isfinite().all()]
        sides: tuple[Side, Side] = (chosen, "right" if chosen == "left" else "left")
        for side in sides:
            padded = self._padded([probe, *short], side)
            if all((padded[key][-1:] - v).norm() <= near * v.norm() for key, v in alone):
                return side
        return "none"

    def _padded(self, batch: Sequence[Encoded], side: Side) -> Planes:
        features = self.features(batch, side)
        return self.forward(features, self.inputs(features, side))

    def _precision(self) -> str:
        """That of the computing: of packed weights a half one, whatever is around them."""
        return "float16" if quantised.method(self.checkpoint) else self.options.dtype

    def features(self, batch: Sequence[Encoded], side: Side | None = None) -> dict[str, Any]:
        """Token features padded to one (b, T) batch on a side, by default `padding`.

        Where that is "none", texts must be of equal length.
        """
        side = side or self.padding
        longest = max(len(e["input_ids"]) for e in batch)
        filler = self._token("pad", "eos", "bos")
        pads = {"input_ids": filler, "token_type_ids": 0, "attention_mask": 0}
        features: dict[str, Any] = {}
        for name, pad in pads.items():
            if name != "attention_mask" and name not in batch[0]:
                continue
            rows = [list(e[name]) if name in e else [1] * len(e["input_ids"]) for e in batch]
            for row in rows:
                start = 0 if side == "left" else len(row)
                row[start:start] = [pad] * (longest - len(row))
            features[name] = torch.tensor(rows, device=self.device)
        if any("prompt_length" in e for e in batch):
            features["prompt_length"] = [int(e.get("prompt_length", 0)) for e in batch]
        told = [e.get("told", {}) for e in batch]
        if len({frozenset(numbers) for numbers in told}) > 1:
            raise UserError(
                f"{self.checkpoint.name} cannot read these texts in one pass: some with an adapter "
                "of its own and some without"
            )
        for name in told[0]:
            numbers = [row[name] for row in told]
            features.setdefault("told", {})[name] = torch.tensor(numbers, device=self.device)
        return features

    def _token(self, *names: str) -> int:
        """The first of the tokenizer's special tokens that the model has a row for.

        Padding is masked, so that any will do there; RoBERTa counts positions by its own.
        """
        for name in names:
            value = getattr(self.tokenizer, f"{name}_token_id", None)
            if value is not None and 0 <= int(value) < (self._rows or int(value) + 1):
                return int(value)
        return 0

    def inputs(self, features: Mapping[str, Any], side: Side | None = None) -> dict[str, Tensor]:
        """Those of the features of a batch, padded on a side, that the backbone itself takes."""
        names = ["input_ids", "attention_mask"] + ["token_type_ids"] * self._typed
        inputs = {name: features[name] for name in names if name in features}
        inputs |= features.get("told", {})
        if self._positions and (side or self.padding) == "left":
            counted = features["attention_mask"]
            if self._padding_idx is None:
                inputs["position_ids"] = (counted.cumsum(1) - 1).clamp(min=0)
            else:
                counted = counted * (features["input_ids"] != self._padding_idx)
                inputs["position_ids"] = counted.cumsum(1) * counted + self._padding_idx
        return inputs


def _readable(text: str) -> str:
    """The text with halves of surrogate pairs, which tokenizers refuse, joined or replaced."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
