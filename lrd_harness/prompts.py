"""Which prompt goes before a text: the user's, else mteb's for models it knows, else the model's.

mteb keeps prompts in the loader arguments of its model records; they are resolved with mteb's own
functions, so that a task's score is the one mteb would give.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lrd_harness.contracts import Task

Prompt = Callable[[Task, str | None], str]

# The names under which sentence-transformers' encode_query and encode_document look.
_OWN_NAMES = {"query": ("query",), "document": ("document", "passage", "corpus")}


def prompt_rule(
    model_name: str,
    own: Mapping[str, str | None] | None = None,
    default: str | None = None,
    chosen: Mapping[str, str] | None = None,
) -> Prompt:
    """The prompt of (task, prompt type) for one model.

    own, default: a sentence-transformers model's prompts and the name of its default prompt;
    chosen: the user's prompts, by mteb's keys (task name, task type, "query", "document", each
    also as "NAME-query"), which replace all others.
    """
    instruct = None if chosen is not None else _instruct(model_name)
    table = chosen if chosen is not None else _known(model_name) or own or {}

    def prompt(task: Task, prompt_type: str | None) -> str:
        if instruct is not None:
            return instruct(task, prompt_type)
        from mteb.models.abs_encoder import get_prompt_name

        kind = _prompt_type(prompt_type)
        named = get_prompt_name({k: v or "" for k, v in table.items()}, task, kind)  # type: ignore[arg-type]
        if named is not None:
            return table[named] or ""
        if chosen is None:
            for name in _OWN_NAMES.get(prompt_type or "", ()):
                if own and name in own:
                    return own[name] or ""
            if own and default is not None:
                return own.get(default) or ""
        return ""

    return prompt


def _prompt_type(prompt_type: str | None) -> Any:
    from mteb.types import PromptType

    return PromptType(prompt_type) if prompt_type else None


def _meta(model_name: str) -> Any:
    """mteb's record of the model, without asking the hub; None for a model it does not know."""
    import mteb

    try:
        return mteb.get_model_meta(model_name)
    except (KeyError, ValueError):
        return None


def _known(model_name: str) -> Mapping[str, str] | None:
    meta = _meta(model_name)
    return (meta.loader_kwargs or {}).get("model_prompts") if meta else None


def _instruct(model_name: str) -> Prompt | None:
    """The instructions of models that mteb loads with an instruction template."""
    meta = _meta(model_name)
    from mteb.models.instruct_wrapper import InstructSentenceTransformerModel

    if meta is None or not isinstance(meta.loader, type):
        return None
    if not issubclass(meta.loader, InstructSentenceTransformerModel):
        return None
    given = meta.loader_kwargs
    # mteb's class loads the weights in __init__; only its prompt rules are wanted here
    rules = object.__new__(InstructSentenceTransformerModel)
    rules.instruction_template = given.get("instruction_template")
    rules.prompts_dict = given.get("prompts_dict")
    if given.get("prompt_priority"):
        from mteb.models.abs_encoder import PromptSource

        rules.prompt_priority = [PromptSource.from_str(s) for s in given["prompt_priority"]]
    on_documents = given.get("apply_instruction_to_passages", True)

    def prompt(task: Task, prompt_type: str | None) -> str:
        if prompt_type == "document" and not on_documents:
            return ""
        try:
            text: str = rules.get_task_instruction(task, _prompt_type(prompt_type))  # type: ignore[arg-type]
        except KeyError:  # a task that mteb does not know has no instruction of mteb's
            return ""
        return text

    return prompt
