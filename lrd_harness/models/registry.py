"""What mteb's package knows: tasks, models, and which prompt goes before a text.

Prompts are the user's, else mteb's for models it knows, else the model's own. mteb's are resolved
with mteb's own code, so that a task's score is the one mteb would give.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lrd_harness.contracts import Task
from lrd_harness.errors import say
from lrd_harness.models.wrappers import ROLES, Asked, Loader, Wrapper, hub_name, loader_of, routed

DATE = re.compile(r"\d{4}(-\d{2}){0,2}", re.ASCII)
Prompt = Callable[[Task, str | None], str]

_TOKENIZING = ("tokenizer_kwargs", "processor_kwargs")


@contextmanager
def unseeded() -> Iterator[None]:
    """Within it mteb's tasks do not seed torch, as each does that is made, thousands in a listing.

    Where no GPU is in use yet, torch keeps a traceback of every time: two seconds of a command.
    """
    torch: Any = sys.modules.get("torch")
    if torch is None:  # nor do they without it, and listings do without
        yield
        return
    before = torch.manual_seed, torch.cuda.manual_seed_all
    torch.manual_seed = torch.cuda.manual_seed_all = lambda seed: None
    try:
        yield
    finally:
        torch.manual_seed, torch.cuda.manual_seed_all = before


@functools.cache
def _english() -> Mapping[str, Any]:
    """Subsets and splits of the tasks of mteb's English benchmark."""
    import mteb

    with unseeded():  # which makes the tasks of all benchmarks
        tasks = mteb.get_benchmark("MTEB(eng, v1)").tasks
    return {
        task.metadata.name: {"hf_subsets": task.hf_subsets, "eval_splits": task.eval_splits}
        for task in tasks
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


def task_type(metadata: Any) -> str:
    """The type of a task, in mteb's words; of texts alone never that of tasks on images."""
    start = "" if "image" in metadata.modalities else "Any2Any"
    return str(metadata.type).removeprefix(start)


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


def prompt_rule(
    model_name: str,
    saved: Mapping[str, str | None] | None = None,
    default: str | None = None,
    chosen: Mapping[str, str] | None = None,
    routes: bool = False,
) -> Prompt:
    """The prompt of (task, prompt type) for one model.

    saved, default: a sentence-transformers model's prompts and the name of its default prompt;
    chosen: the user's prompts, by mteb's keys (task name, task type, "query", "document", each
    also as "NAME-query"), which replace all others; routes: whether prompts also name the model's
    adapter for a task (see wrappers.route), where mteb asks for one.

    Says so where mteb knows the model, but reads it in a way that is not followed here.
    """
    wrapper = Wrapper(model_name, saved, default)
    _tell_of_special(hub_name(model_name), wrapper.how, routes)
    own = None if chosen is None else _by_table(chosen)

    @functools.cache  # asked for every text, and mteb looks up tasks anew each time
    def prompt(task: Task, prompt_type: str | None) -> str:
        asked = Asked()
        if own is None or wrapper.how.routes:
            asked = wrapper.asks(task, prompt_type)
        text = asked.prompt if own is None else own(task, prompt_type)
        return routed(Asked(text, asked.adapter)) if routes else text

    return prompt


def loader_arguments(model_name: str) -> Mapping[str, Any]:
    """What mteb tells sentence-transformers when it loads this model; {} where it does not."""
    how = loader_of(model_name)
    return {} if how.wrapper is None else how.arguments


def tokenizer_arguments(model_name: str) -> dict[str, Any]:
    """What mteb tells the tokenizer of a sentence-transformers model."""
    arguments = loader_arguments(model_name)
    of_tokenizer = {n: v for key in _TOKENIZING for n, v in arguments.get(key, {}).items()}
    return of_tokenizer | ({"add_eos_token": True} if arguments.get("add_eos_token") else {})


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
        others = {name for names in ROLES.values() for name in names} - set(ROLES)
        table = {name: prompt for name, prompt in chosen.items() if name not in others}
        return {"query": "", "document": "", **table}, None
    known = loader_of(model_name).prompts
    table = {name: prompt or "" for name, prompt in (known or saved).items()}
    default = default if default in table else None
    fallback = table.get(default or "", "")
    for kind, names in ROLES.items():
        table[kind] = next((table[name] for name in names if name in table), fallback)
    return table, default


def instructed(model_name: str, chosen: Mapping[str, str] | None) -> bool:
    """Whether mteb makes instructions for the model, so that prompts depend on the task."""
    return chosen is None and loader_of(model_name).instructs


def _by_table(table: Mapping[str, str]) -> Prompt:
    """By mteb's order of keys."""

    def prompt(task: Task, prompt_type: str | None) -> str:
        from mteb.models.abs_encoder import get_prompt_name
        from mteb.types import PromptType

        kind = PromptType(prompt_type) if prompt_type else None
        key = get_prompt_name(dict(table), task, kind)  # type: ignore[arg-type]
        return "" if key is None else table[key]

    return prompt


def _tell_of_special(name: str, how: Loader, routes: bool) -> None:
    """Tell the user of a model that mteb itself reads in a way of its own."""
    special = how.special or (how.wrapper.__name__ if how.routes and not routes else None)
    if special is not None:
        say(
            f"note: mteb reads {name} by a loader of its own ({special}), which is not followed "
            "here: prompts that it makes are missing (give them with `prompts` in a suite), and "
            f"scores need not be those that mteb has for {name}"
        )
