"""Adapter: LLM2Vec's models, decoders that see both ways and leave the instruction out of the mean.

Their own code is for an old transformers and is not run: transformers' class of the family, told to
be bidirectional, gives the same states. The rest is as in the package llm2vec 0.2.3.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, PositiveInt, ValidationError

from lrd_harness.contracts import Adapter, Checkpoint, Model, ModelOptions, Task, Text
from lrd_harness.errors import UserError
from lrd_harness.hookspecs import hookimpl
from lrd_harness.models.find import as_saved, of_modules, read_json
from lrd_harness.models.recognition import ADAPTER, LIST, LLM2VEC

from .plain import check_plain, load_plain

if TYPE_CHECKING:
    from torch import Tensor

FILE = "llm2vec_config.json"
DEFAULT = "LLM2Vec's own default"  # where FILE does not say it
INSTRUCTION = "-no-instruction"  # behind the name of a pooling that leaves the instruction out
# LLM2Vec's names of poolings, and ours
POOLINGS = {
    "mean": "mean",
    "weighted_mean": "weighted-mean",
    "eos_token": "last",
    "last_token": "last",
    "bos_token": "cls",
}
_INST = ("[INST] ", " [/INST]")
_IM = ("<|im_start|>user\n", "<|im_end|>")
# base models whose chat markers go around a text
MARKERS = {
    "meta-llama/Meta-Llama-3-8B-Instruct": (
        "<|start_header_id|>user<|end_header_id|>\n\n",
        "<|eot_id|>",
    ),
    "mistralai/Mistral-7B-Instruct-v0.2": _INST,
    "meta-llama/Llama-2-7b-chat-hf": _INST,
    "google/gemma-2-9b-it": ("<bos><start_of_turn>user\n", "<end_of_turn>"),
    "Qwen/Qwen2-1.5B-Instruct": _IM,
    "Qwen/Qwen2-7B-Instruct": _IM,
}
# what ends a text where the pooling is eos_token, by base model and by family
ENDS = {
    "meta-llama/Meta-Llama-3-8B-Instruct": "",
    "meta-llama/Meta-Llama-3-8B": "<|end_of_text|>",
    "llama": " </s>",
    "mistral": " </s>",
    "gemma": "<eos>",
    "qwen2": "<|endoftext|>",
}


class Reading(BaseModel, strict=True):
    """What FILE says, and what holds where it does not say it.

    max_length: tokens of a text with its instruction; doc_max_length: of the text alone.
    """

    pooling_mode: str = "mean"
    max_length: PositiveInt = 512
    doc_max_length: PositiveInt = 400
    skip_instruction: bool = True


def claims(checkpoint: Checkpoint) -> bool:
    """Whether a folder, or an adapter of weights on it, says that LLM2Vec has made it."""
    if FILE in checkpoint.files:
        return True
    for part in (checkpoint, *checkpoint.peft):
        mapping = part.config.get("auto_mapping")
        if isinstance(mapping, Mapping):
            place = f"{mapping.get('parent_library')}.{mapping.get('base_model_class')}"
            if LLM2VEC.fullmatch(place):
                return True
    tables = (config.get("auto_map") for config in _configs(checkpoint))
    named = [table.get("AutoModel") for table in tables if isinstance(table, Mapping)]
    return any(isinstance(name, str) and LLM2VEC.fullmatch(name) for name in named)


def _configs(checkpoint: Checkpoint) -> Iterator[Mapping[str, Any]]:
    """The config.json of the base, and those that lie beside adapters of weights."""
    yield checkpoint.config
    for part in checkpoint.peft:
        if "config.json" in part.files:
            yield read_json(part, "config.json")


def names(checkpoint: Checkpoint) -> list[str]:
    """The names that the base model has, in any of the files, or by which it was found."""
    found: list[Any] = [checkpoint.name, checkpoint.path]
    found += [config.get("_name_or_path") for config in _configs(checkpoint)]
    adapters = (read_json(part, ADAPTER) for part in checkpoint.peft if ADAPTER in part.files)
    found += [config.get("base_model_name_or_path") for config in adapters]
    return [name for name in found if isinstance(name, str)]


def check(checkpoint: Checkpoint) -> None:
    """Raise UserError for what is not read as LLM2Vec does it, and see check_plain."""
    name = checkpoint.name
    if of_modules(checkpoint):
        raise UserError(
            f"{name} is LLM2Vec's and has a {LIST} as well: say which is meant, as "
            f"decoder:NAME or sentence-transformers:NAME, with --attention-mask"
        )
    _refuse_gap(checkpoint)
    reading(checkpoint)
    check_plain(checkpoint)


def _refuse_gap(checkpoint: Checkpoint) -> None:
    """Raise UserError for an adapter made for an MNTP model that is not below it.

    PEFT notes the model that was trained, and forgets what had been merged into it before.
    """
    adapters = [part.name for part in checkpoint.peft]
    for number, name in enumerate(adapters):
        below = [*names(replace(checkpoint, peft=())), *adapters[:number]]
        made_for = re.match(r"(.*-mntp)-\w", name)
        if made_for and not any(other.endswith("-mntp") for other in below):
            raise UserError(
                f"{name} goes onto {made_for[1]}, and its files name what is below that: give "
                f"{made_for[1]}+{name}"
            )


def reading(checkpoint: Checkpoint) -> Reading:
    """How the model reads texts. Raises UserError for a FILE that says something else."""
    settings = read_json(checkpoint, FILE) if FILE in checkpoint.files else {}
    try:
        read = Reading.model_validate(settings)
    except ValidationError as error:
        wrong = error.errors()[0]["loc"][0]
        raise UserError(f"{checkpoint.name}: its {FILE} has no sound {wrong}") from None
    if read.pooling_mode not in POOLINGS:
        raise UserError(
            f"{checkpoint.name}: its {FILE} pools by {read.pooling_mode[:60]}, which is not read"
        )
    return read


def open_model(checkpoint: Checkpoint, options: ModelOptions) -> Model:
    """Open the model with a bidirectional mask, adapters merged; its last layer is the model's."""
    from lrd_harness.models.text_model import Parts, TextModel

    check(checkpoint)
    read, options = reading(checkpoint), as_saved(checkpoint, options)
    mask = options.attention_mask or "bidirectional"
    options = replace(options, attention_mask=mask, head=False)
    module, tokenizer, _ = load_plain(checkpoint, options)
    pooling = POOLINGS[read.pooling_mode]
    if read.skip_instruction and pooling.endswith("mean"):
        pooling += INSTRUCTION
    base = next((name for name in names(checkpoint) if name in {**MARKERS, **ENDS}), "")
    length = options.max_length or read.max_length
    said = dict.fromkeys(read.model_fields_set, FILE)
    beside: dict[str, dict[str, Any]] = {FILE: {**read.model_dump(), "max_length": length}}
    if base:
        beside["config.json"] = {"_name_or_path": base}
    return TextModel(
        checkpoint,
        options,
        Parts(
            adapter="llm2vec",
            module=module,
            tokenizer=tokenizer,
            encode=_encoder(tokenizer, read, base, module.config.model_type),
            pool=_pool(pooling),
            pooling=pooling,
            max_length=length,
            pooling_from=said.get("pooling_mode", DEFAULT),
            lengths={said.get("max_length", DEFAULT): read.max_length},
            prompt=_prompt(options.prompts),
            prompt_from="its own" if options.prompts else "mteb's instructions",
            beside=beside,
        ),
    )


def _encoder(
    tokenizer: Any, read: Reading, base: str, family: str
) -> Callable[[Sequence[Text], int], list[dict[str, Any]]]:
    """Instruction and text between the marks of the base; how many tokens are not the text's."""
    before, after = MARKERS.get(base, ("", ""))
    end = ENDS.get(base, ENDS.get(family, "")) if read.pooling_mode == "eos_token" else ""
    stripped = bool(before or end)

    def encode(texts: Sequence[Text], max_length: int) -> list[dict[str, Any]]:
        cut = functools.partial(tokenizer, truncation=True, max_length=max_length)
        whole, tails, shortened = [], [], []
        for text in texts:
            body = _shortened(text.text, cut, read.doc_max_length)
            shortened.append(body != text.text)
            tails.append((body.rstrip() if stripped else body) + after + end)
            instruction = text.prompt.strip()
            whole.append(f"{before}{instruction}{' ' * bool(instruction)}{tails[-1]}")
        ids = cut(whole)["input_ids"]
        kept = cut(tails, add_special_tokens=False)["input_ids"]
        lengths = [max(0, len(i) - len(k)) if k else 0 for i, k in zip(ids, kept, strict=True)]
        return [
            {"input_ids": i, "prompt_length": length, "cut": c}
            for i, length, c in zip(ids, lengths, shortened, strict=True)
        ]

    return encode


def _shortened(text: str, cut: Callable[..., Any], tokens: int) -> str:
    """As many first words of a text as have so many tokens, found as LLM2Vec finds them."""
    while (count := len(cut(text, add_special_tokens=False)["input_ids"])) > tokens:
        words = text.split()
        text = " ".join(words[: int(len(words) * (tokens / count))])
    return text


def _pool(pooling: str) -> Callable[[Tensor, Mapping[str, Any]], Tensor]:
    from lrd_harness.models.readout import mean
    from lrd_harness.models.text_model import by_mask

    if not pooling.startswith(("mean", "weighted")):
        return by_mask(pooling)

    def pool(state: Tensor, features: Mapping[str, Any]) -> Tensor:
        mask = features["attention_mask"]
        if pooling.endswith(INSTRUCTION):
            left_out = mask.new_tensor(features["prompt_length"]).unsqueeze(1)
            mask = mask * (mask.cumsum(1) > left_out)
        return mean(state, mask * mask.cumsum(1) if pooling.startswith("weighted") else mask)

    return pool


def _prompt(chosen: Mapping[str, str] | None) -> Callable[[Task, str | None], str]:
    """mteb's instruction for a task with a colon behind it, as mteb's wrapper of LLM2Vec has it."""
    from lrd_harness.models.registry import prompt_rule

    if chosen is not None:
        return prompt_rule("", chosen=chosen)
    from mteb.models.model_implementations.llm2vec_models import LLM2VecModel, llm2vec_instruction
    from mteb.types import PromptType

    rules = object.__new__(LLM2VecModel)  # its __init__ loads the weights

    @functools.cache
    def prompt(task: Task, prompt_type: str | None) -> str:
        if isinstance(task.prompt, Mapping) and not task.prompt.get(prompt_type or ""):
            return ""  # mteb warns of each
        try:
            kind = PromptType(prompt_type) if prompt_type else None
            return llm2vec_instruction(rules.get_instruction(task, kind))  # type: ignore[arg-type]
        except KeyError:  # a task that mteb does not know
            return ""

    return prompt


@hookimpl
def lrd_adapters() -> list[Adapter]:
    """The adapter for LLM2Vec's models."""
    return [
        Adapter(
            "llm2vec",
            claims,
            open_model,
            priority=30,
            description="LLM2Vec's models: bidirectional decoders, no instruction in the mean",
            check=check,
        )
    ]
