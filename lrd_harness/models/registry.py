"""What mteb's package knows: tasks, models, and which prompt goes before a text.

Prompts are the user's, else mteb's for models it knows, else the model's own. mteb's are resolved
with mteb's own functions, so that a task's score is the one mteb would give.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from lrd_harness.contracts import Task
from lrd_harness.errors import say

DATE = re.compile(r"\d{4}(-\d{2}){0,2}", re.ASCII)
Prompt = Callable[[Task, str | None], str]

_TOKENIZING = ("tokenizer_kwargs", "processor_kwargs")
# The names under which sentence-transformers' encode_query and encode_document look.
_ROLES: Mapping[str | None, Sequence[str]] = {
    "query": ("query",),
    "document": ("document", "passage", "corpus"),
}


@functools.cache
def _english() -> Mapping[str, Any]:
    """Subsets and splits of the tasks of mteb's English benchmark."""
    import mteb

    return {
        task.metadata.name: {"hf_subsets": task.hf_subsets, "eval_splits": task.eval_splits}
        for task in mteb.get_benchmark("MTEB(eng, v1)").tasks
    }


def task(name: str) -> Any:
    """A new task object, as mteb's English benchmark has it; else English, and split test."""
    import mteb

    chosen = _english().get(name)
    if chosen is not None:
        return mteb.get_task(name, **chosen)
    try:
        loaded = mteb.get_task(name, languages=["eng"], exclusive_language_filter=True)
    except ValueError:  # a task of other languages only
        loaded = mteb.get_task(name)
    if "test" in loaded.eval_splits:
        loaded.filter_eval_splits(["test"])
    return loaded


def released(model: str) -> str | None:
    """The release date that mteb's registry has for a model, as exact as it is known.

    model: the name in results; a revision or pooling of the user's was released with its model.
    """
    import mteb

    try:
        date = str(mteb.get_model_meta(hub_name(model), fetch_from_hf=False).release_date)
    except (KeyError, ValueError):
        return None
    return date if DATE.fullmatch(date) else None


def hub_name(model: str) -> str:
    """The name without revision and pooling: `NAME@REVISION [cls]` is NAME."""
    return model.partition(" [")[0].partition("@")[0]


def prompt_rule(
    model_name: str,
    saved: Mapping[str, str | None] | None = None,
    default: str | None = None,
    chosen: Mapping[str, str] | None = None,
) -> Prompt:
    """The prompt of (task, prompt type) for one model.

    saved, default: a sentence-transformers model's prompts and the name of its default prompt;
    chosen: the user's prompts, by mteb's keys (task name, task type, "query", "document", each
    also as "NAME-query"), which replace all others.

    Says so where mteb knows the model, but reads it in a way that is not followed here.
    """
    _tell_of_special(model_name)
    if chosen is not None:
        return _by_table(chosen)
    # mteb's prompts for a model replace those that were saved with it, fallbacks included
    table = _known(model_name) or saved or {}
    fallback = table.get(default or "") or ""
    rule = _instruct(model_name, fallback) or _by_table(table, _ROLES, fallback)
    return functools.cache(rule)  # asked for every text, and mteb looks up tasks anew each time


def saved_prompts(
    model_name: str,
    saved: Mapping[str, str | None],
    default: str | None,
    chosen: Mapping[str, str] | None,
) -> tuple[dict[str, str], str | None]:
    """What `prompt_rule` goes by, as sentence-transformers keeps it; and the default prompt's name.

    Prompts of queries and documents are written out; instructions for each task are left out.
    """
    if chosen is not None:
        others = {name for names in _ROLES.values() for name in names} - set(_ROLES)
        table = {name: prompt for name, prompt in chosen.items() if name not in others}
        return {"query": "", "document": "", **table}, None
    table = {name: prompt or "" for name, prompt in (_known(model_name) or saved).items()}
    default = default if default in table else None
    fallback = table.get(default or "", "")
    for kind, names in _ROLES.items():
        if kind is not None:
            table[kind] = next((table[name] for name in names if name in table), fallback)
    return table, default


def instructed(model_name: str, chosen: Mapping[str, str] | None) -> bool:
    """Whether mteb makes instructions for the model, so that prompts depend on the task."""
    return chosen is None and _instruct(model_name, "") is not None


def _by_table(
    table: Mapping[str, str | None],
    roles: Mapping[str | None, Sequence[str]] | None = None,
    fallback: str = "",
) -> Prompt:
    """By mteb's order of keys, else by the names for this prompt type, else the fallback."""
    filled = {name: prompt or "" for name, prompt in table.items()}

    def prompt(task: Task, prompt_type: str | None) -> str:
        from mteb.models.abs_encoder import get_prompt_name

        key = get_prompt_name(filled, task, _prompt_type(prompt_type))  # type: ignore[arg-type]
        names = [key] if key is not None else (roles or {}).get(prompt_type, ())
        return next((filled[name] for name in names if name in filled), fallback)

    return prompt


def _prompt_type(prompt_type: str | None) -> Any:
    from mteb.types import PromptType

    return PromptType(prompt_type) if prompt_type else None


def _known(model_name: str) -> Mapping[str, str] | None:
    return loader_of(model_name).arguments.get("model_prompts")


def loader_arguments(model_name: str) -> Mapping[str, Any]:
    """What mteb tells sentence-transformers when it loads this model; {} where it does not."""
    how = loader_of(model_name)
    return how.arguments if how.instructs or how.wraps else {}


def tokenizer_arguments(model_name: str) -> dict[str, Any]:
    """What mteb tells the tokenizer of a sentence-transformers model."""
    arguments = loader_arguments(model_name)
    of_tokenizer = {n: v for key in _TOKENIZING for n, v in arguments.get(key, {}).items()}
    return of_tokenizer | ({"add_eos_token": True} if arguments.get("add_eos_token") else {})


class Loader(NamedTuple):
    """How mteb loads a model that it knows.

    instructs, wraps: whether mteb's wrapper makes instructions, or only puts prompts before texts;
    neither, of a loader that is not followed; arguments: what the wrapper is told; special: the
    name of mteb's own loader, where it may do more than is known here.
    """

    instructs: bool = False
    wraps: bool = False
    arguments: Mapping[str, Any] = MappingProxyType({})
    special: str | None = None


def _loader_functions() -> Mapping[str, tuple[bool, Mapping[str, Any]]]:
    """mteb's loaders that are functions around its wrappers of sentence-transformers.

    By name: whether the wrapper makes instructions, and what it is told beside `loader_kwargs`.
    """
    from mteb.models.model_implementations import qwen3_models

    template = getattr(qwen3_models, "instruction_template", None)
    qwen3 = {"instruction_template": template, "apply_instruction_to_passages": False}
    return {
        "qwen3_models.q3e_instruct_loader": (True, qwen3),
        "samilpwc_models.instruct_loader": (True, {}),
        "ultrabert_models.ultrabert_embed_loader": (True, {}),
        "voyage_models.voyage_4_nano_loader": (False, {}),
        "sentence_transformer_wrapper.sentence_transformers_loader": (False, {}),
    }


def loader_of(model_name: str) -> Loader:
    """How mteb loads a model; nothing where it does not know it."""
    import mteb
    from mteb.models.instruct_wrapper import InstructSentenceTransformerModel
    from mteb.models.sentence_transformer_wrapper import SentenceTransformerEncoderWrapper

    try:
        meta: Any = mteb.get_model_meta(hub_name(model_name))
    except (KeyError, ValueError):  # a model that mteb does not know
        return Loader()
    arguments, loader = meta.loader_kwargs or {}, meta.loader
    if loader is None:
        return Loader(arguments=arguments)
    name = str(getattr(loader, "__name__", type(loader).__name__))
    for wrapper in (InstructSentenceTransformerModel, SentenceTransformerEncoderWrapper):
        if isinstance(loader, type) and issubclass(loader, wrapper):
            instructs = wrapper is InstructSentenceTransformerModel
            return Loader(instructs, not instructs, arguments, None if loader is wrapper else name)
    place = f"{getattr(loader, '__module__', '').rpartition('.')[2]}.{name}"
    followed = _loader_functions().get(place)
    if followed is None:
        return Loader(arguments=arguments, special=name)
    instructs, told = followed
    return Loader(instructs, not instructs, {**told, **arguments})


def _tell_of_special(model_name: str) -> None:
    """Tell the user of a model that mteb itself reads in a way of its own."""
    special = loader_of(model_name).special
    if special is not None:
        name = hub_name(model_name)
        say(
            f"note: mteb reads {name} by a loader of its own ({special}), which is not followed "
            "here: prompts that it makes are missing (give them with `prompts` in a suite), and "
            f"scores need not be those that mteb has for {name}"
        )


def _instruct(model_name: str, fallback: str) -> Prompt | None:
    """The instructions of models that mteb loads with an instruction template."""
    from mteb.models.instruct_wrapper import InstructSentenceTransformerModel

    how = loader_of(model_name)
    if not how.instructs:
        return None
    arguments = how.arguments
    # mteb's class loads the weights in __init__; only its prompt rules are wanted here
    rules = object.__new__(InstructSentenceTransformerModel)
    rules.instruction_template = arguments.get("instruction_template")
    rules.prompts_dict = arguments.get("prompts_dict")
    if arguments.get("prompt_priority"):
        from mteb.models.abs_encoder import PromptSource

        rules.prompt_priority = [PromptSource.from_str(s) for s in arguments["prompt_priority"]]
    on_documents = arguments.get("apply_instruction_to_passages", True)

    def prompt(task: Task, prompt_type: str | None) -> str:
        if prompt_type == "document" and not on_documents:
            return fallback
        try:
            text: str = rules.get_task_instruction(task, _prompt_type(prompt_type))  # type: ignore[arg-type]
        except KeyError:  # a task that mteb does not know has no instruction of mteb's
            return ""
        return text

    return prompt
