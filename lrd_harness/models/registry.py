"""What mteb's package knows: tasks, models, and which prompt goes before a text.

Prompts are the user's, else mteb's for models it knows, else the model's own. mteb's are resolved
with mteb's own functions, so that a task's score is the one mteb would give.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import FunctionType
from typing import Any

from lrd_harness.contracts import Task

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
    """
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
    return _loading(model_name)[1].get("model_prompts")


def loader_arguments(model_name: str) -> Mapping[str, Any]:
    """What mteb tells sentence-transformers when it loads this model; {} where it does not."""
    wrapper, arguments = _loading(model_name)
    return arguments if wrapper is not None else {}


def tokenizer_arguments(model_name: str) -> dict[str, Any]:
    """What mteb tells the tokenizer of a sentence-transformers model."""
    arguments = loader_arguments(model_name)
    of_tokenizer = {n: v for key in _TOKENIZING for n, v in arguments.get(key, {}).items()}
    return of_tokenizer | ({"add_eos_token": True} if arguments.get("add_eos_token") else {})


def _loading(model_name: str) -> tuple[type | None, Mapping[str, Any]]:
    """Which of its two wrappers of sentence-transformers mteb loads a model with, and how."""
    import mteb
    from mteb.models.instruct_wrapper import InstructSentenceTransformerModel
    from mteb.models.sentence_transformer_wrapper import SentenceTransformerEncoderWrapper

    try:
        meta: Any = mteb.get_model_meta(hub_name(model_name))
    except (KeyError, ValueError):  # a model that mteb does not know
        return None, {}
    arguments, loader = meta.loader_kwargs or {}, meta.loader
    for wrapper in (InstructSentenceTransformerModel, SentenceTransformerEncoderWrapper):
        if isinstance(loader, type) and issubclass(loader, wrapper):
            return wrapper, arguments
        if isinstance(loader, FunctionType) and loader.__globals__.get(wrapper.__name__) is wrapper:
            call = _made_with(loader, wrapper.__name__, meta, arguments)
            if call is not None:
                return wrapper, call
    return None, arguments


def _made_with(
    loader: FunctionType, wrapper: str, meta: Any, arguments: Mapping[str, Any]
) -> Mapping[str, Any] | None:
    """The arguments that a loader function gives a wrapper, which is not made: it loads weights."""

    if wrapper not in loader.__code__.co_names:
        return None
    calls: list[Mapping[str, Any]] = []

    def stop(*_: Any, **arguments: Any) -> None:
        calls.append(arguments)
        raise InterruptedError

    names = {**loader.__globals__, wrapper: stop}
    defaults, closure = loader.__defaults__, loader.__closure__
    stopped = FunctionType(loader.__code__, names, loader.__name__, defaults, closure)
    stopped.__kwdefaults__ = loader.__kwdefaults__
    with suppress(Exception):  # also where a package is missing that only this model needs
        stopped(meta.name, revision=meta.revision, **arguments)
    return calls[0] if calls else None


def _instruct(model_name: str, fallback: str) -> Prompt | None:
    """The instructions of models that mteb loads with an instruction template."""
    from mteb.models.instruct_wrapper import InstructSentenceTransformerModel

    wrapper, arguments = _loading(model_name)
    if wrapper is not InstructSentenceTransformerModel:
        return None
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
