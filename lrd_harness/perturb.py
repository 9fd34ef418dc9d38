"""Texts changed on the level of tokens: repeated, replaced at random, or chained to a length.

As in "Does Representation Matter?" (arXiv 2412.09563), but with exact shares instead of
probabilities, and nested: what is changed at a smaller share is also changed at a larger one. What
is drawn depends on (seed, number of the text) only, by numpy's default_rng.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lrd_harness.contracts import Text
from lrd_harness.errors import UserError
from lrd_harness.protocols import Encoded, Model

PART = 512  # texts that are tokenised together


class Tokens:
    """The token features of texts; which of their tokens are ordinary, and so may be changed.

    Special tokens, [UNK] among them, and the tokens of a prompt are not. `inside` are the places of
    the text itself, which chains are made of: the ordinary tokens and those [UNK] that stand for
    words of it. Texts without an ordinary token are left out; len() counts the others. Raises
    UserError where none is left.
    """

    def __init__(self, model: Model, texts: Sequence[Text], seed: int = 0) -> None:
        self._model, self._seed = model, seed
        self._special = special(model.tokenizer)
        frame = self._special - _unknown(model.tokenizer)
        parts = [texts[start : start + PART] for start in range(0, len(texts), PART)]
        encoded = [features for part in parts for features in model.tokenize(part)]
        prompts = {
            prompt: list(model.tokenize([Text("", prompt)])[0]["input_ids"]) if prompt else []
            for prompt in {text.prompt for text in texts}
        }
        self.encoded: list[Encoded] = []
        self.ordinary: list[list[int]] = []  # positions, as are the next
        self.inside: list[list[int]] = []
        self._numbers: list[int] = []
        for number, (text, features) in enumerate(zip(texts, encoded, strict=True)):
            ids = features["input_ids"]
            first = max(int(features.get("prompt_length", 0)), _common(prompts[text.prompt], ids))
            places = [i for i in range(first, len(ids)) if ids[i] not in self._special]
            if places:
                self.encoded.append(features)
                self.ordinary.append(places)
                self.inside.append([i for i in range(first, len(ids)) if ids[i] not in frame])
                self._numbers.append(number)
        if not self.encoded:
            raise UserError("no text has a token that could be changed")

    def __len__(self) -> int:
        return len(self.encoded)

    def repeated(self, share: float) -> list[Encoded]:
        """The texts, round(share * m) of the m ordinary tokens of each being one token of it.

        The token is the same at every share. A share of 0 gives the texts themselves.
        """

        def one_of_its_own(draw: np.random.Generator, ids: Sequence[int]) -> Sequence[int]:
            return [ids[int(draw.integers(len(ids)))]] * len(ids)

        return self._replaced(share, one_of_its_own)

    def randomised(self, share: float) -> list[Encoded]:
        """The texts, the same tokens as in `repeated` being random ones of the vocabulary."""
        words = vocabulary(self._model)

        def anything(draw: np.random.Generator, ids: Sequence[int]) -> Sequence[int]:
            return [words[i] for i in draw.integers(len(words), size=len(ids))]

        return self._replaced(share, anything)

    def chained(self, length: int) -> list[Encoded]:
        """A chain for each text, with exactly `length` tokens of texts: it, the next, and so on.

        After the last text comes the first. A shorter chain is the beginning of a longer one. Each
        stands between the prompt and the special tokens of the text that it begins with. [UNK] in
        a text is a token of it. Raises UserError where the model takes no text so long.
        """
        if length > self.room:
            most = self._model.info.max_length
            raise UserError(
                f"length {length}: the model takes {most} tokens, of which up to "
                f"{most - self.room} are special ones or the prompt's"
            )
        return [self._chain(i, length) for i in range(len(self))]

    @property
    def total(self) -> int:
        """How many tokens chains can take of the texts in all: longer ones repeat themselves."""
        return sum(map(len, self.inside))

    @property
    def room(self) -> int:
        """How many tokens of texts the model takes beside the special ones and the prompt's."""
        pairs = zip(self.encoded, self.inside, strict=True)
        frames = [len(f["input_ids"]) - (p[-1] - p[0] + 1) for f, p in pairs]
        return self._model.info.max_length - max(frames)

    def _replaced(
        self, share: float, others: Callable[[np.random.Generator, Sequence[int]], Sequence[int]]
    ) -> list[Encoded]:
        """others: from a text's ordinary tokens to what may stand in their place, in that order."""
        made: list[Encoded] = []
        for number, features, places in zip(
            self._numbers, self.encoded, self.ordinary, strict=True
        ):
            draw = np.random.default_rng([self._seed, number])
            order = draw.permutation(len(places))
            ids = list(features["input_ids"])
            new = others(draw, [ids[i] for i in places])
            for which in order[: round(share * len(places))]:
                ids[places[which]] = new[which]
            made.append({**features, "input_ids": ids})
        return made

    def _chain(self, start: int, length: int) -> Encoded:
        features, places = self.encoded[start], self.inside[start]
        chain: list[int] = []
        number = start
        while len(chain) < length:
            ids = self.encoded[number]["input_ids"]
            chain += [ids[i] for i in self.inside[number]]
            number = (number + 1) % len(self)
        first, behind = places[0], places[-1] + 1
        made: dict[str, Any] = dict(features)
        for name, middle in (("input_ids", chain[:length]), ("token_type_ids", None)):
            if name in features:
                row = list(features[name])
                inner = [row[first]] * length if middle is None else middle
                made[name] = [*row[:first], *inner, *row[behind:]]
        return made


def special(tokenizer: Any) -> set[int]:
    """The ids of all tokens that stand for no text."""
    found = {int(i) for i in tokenizer.all_special_ids}
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return found | {int(i) for i, token in added.items() if getattr(token, "special", False)}


def _unknown(tokenizer: Any) -> set[int]:
    """The id of [UNK], where it is not also a token that frames texts, as GPT-2's is."""
    roles = ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "mask_token_id")
    unknown = getattr(tokenizer, "unk_token_id", None)
    frame = {getattr(tokenizer, role, None) for role in roles}
    return set() if unknown is None or unknown in frame else {int(unknown)}


def vocabulary(model: Model) -> list[int]:
    """The ids of all ordinary tokens that the model has a vector for, in ascending order.

    Raises UserError where the tokenizer shows none.
    """
    known = set(map(int, getattr(model.tokenizer, "get_vocab", dict)().values()))
    module: Any = getattr(getattr(model, "backbone", None), "module", None)
    table = module.get_input_embeddings() if hasattr(module, "get_input_embeddings") else None
    rows = getattr(table, "num_embeddings", None) or max(known, default=0) + 1
    words = sorted(i for i in known - special(model.tokenizer) if i < rows)
    if not words:
        raise UserError("the model's tokenizer shows no vocabulary to draw random tokens from")
    return words


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many leading tokens two texts share."""
    pairs = zip(a, b, strict=False)
    return next((i for i, (one, other) in enumerate(pairs) if one != other), min(len(a), len(b)))
