"""lm-eval's tasks by name: found in its index, checked, loaded with their data."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrd_harness.errors import UserError

from . import mmlu, task_files

if TYPE_CHECKING:
    from lm_eval.api.group import Group
    from lm_eval.api.task import Task as EvalTask
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks.manager import TaskDict


COMPARED = ("multiple_choice", "loglikelihood")
ASKED = {"generate_until": "generates text", "loglikelihood_rolling": "scores whole documents"}
MMLU = "cais/mmlu"


@dataclass(frozen=True)
class Source:
    """Where tasks and their data come from.

    include: a folder of tasks of one's own, which come before lm-eval's of the same name;
    mmlu: the rows of MMLU's subjects, None for the hub's; where: these rows are from, for messages.
    """

    include: Path | None = None
    mmlu: mmlu.Rows | None = None
    where: str = ""


@functools.cache
def index(include: Path | None) -> TaskManager:
    """lm-eval's index of tasks, with those of a folder; it takes several seconds to make.

    Raises UserError for a file in the folder that lm-eval cannot be given.
    """
    from lm_eval.tasks import TaskManager

    if include:
        task_files.files(include)
    return TaskManager(include_path=str(include) if include else None)


@functools.cache
def mmlu_index() -> TaskManager:
    """The index of MMLU alone, which takes no time."""
    from lm_eval.tasks import TaskManager

    spec = importlib.util.find_spec("lm_eval")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "tasks" / "mmlu" / "default"
    return TaskManager(include_defaults=False, include_path=str(folder))


def expand(manager: TaskManager, name: str) -> list[str]:
    """The names that this one stands for: itself, or where it has no score of its own its members.

    Raises KeyError for an unknown name, UserError for one with a member that is refused.
    """
    entry = manager.task_index[name]
    if entry.tags and entry.yaml_path is None and entry.cfg is None:
        names = sorted(entry.tags)
    elif entry.cfg and "group" in entry.cfg and not entry.cfg.get("aggregate_metric_list"):
        names = [_member(member, name) for member in entry.cfg.get("task", ())]
    else:
        for leaf in leaves(manager, name):
            _check_compares(manager, leaf, name)
        return [name]
    return [one for member in names for one in expand(manager, member)]


def compared(manager: TaskManager) -> list[str]:
    """All names of which every part compares continuations."""

    @functools.cache
    def all_compare(name: str) -> bool:
        entry = manager.task_index.get(name)
        if entry is None:
            return False
        config = entry.cfg or {}
        if "group" in config or entry.cfg is None:
            members = config.get("task", ()) if "group" in config else entry.tags
            named = [m if isinstance(m, str) else m.get("task", m.get("group")) for m in members]
            return bool(named) and all(isinstance(n, str) and all_compare(n) for n in named)
        asked = "class" not in config and config.get("output_type") in COMPARED
        return asked and _more_is_better(config)

    return [name for name in manager.all_tasks if all_compare(name)]


def _more_is_better(config: Mapping[str, Any]) -> bool:
    """Whether a task has a score that ranks models upwards; without a list it has accuracy."""
    listed = config.get("metric_list") or [{}]
    known = [metric for metric in listed if isinstance(metric, dict)] or [{}]
    return any(metric.get("higher_is_better", True) for metric in known)


def leaves(manager: TaskManager, name: str) -> Iterator[str]:
    """The single tasks of a name, in order."""
    entry = manager.task_index[name]
    if entry.cfg and "group" in entry.cfg:
        for member in entry.cfg.get("task", ()):
            yield from leaves(manager, _member(member, name))
    elif entry.cfg is None:
        for member in sorted(entry.tags):
            yield from leaves(manager, member)
    else:
        yield name


def _member(member: Any, group: str) -> str:
    """A group lists names, or mappings with a name and what is changed for this group."""
    found = member if isinstance(member, str) else member.get("task") or member.get("group")
    if not isinstance(found, str):
        raise UserError(f"lm-eval:{group} has parts without names, which cannot be told apart")
    return found


def _check_compares(manager: TaskManager, leaf: str, name: str) -> None:
    """Raise UserError for a task that asks for anything but the comparison of continuations."""
    config = manager.task_index[leaf].cfg or {}
    kind = config.get("output_type", "generate_until")
    if not _more_is_better(config):
        raise UserError(f"lm-eval:{name} has no score of which more is better")
    if "class" in config or kind not in COMPARED:
        what = "is a program of its own" if "class" in config else ASKED.get(kind, kind)
        part = f" ({leaf})" if leaf != name else ""
        raise UserError(
            f"lm-eval:{name}{part} {what}; only tasks that compare log-likelihoods of "
            "continuations can be read layer by layer"
        )


def load(manager: TaskManager, name: str, source: Source) -> TaskDict:
    """The task or group with its data. Raises UserError for data that are out of reach."""
    with plainly(f"lm-eval:{name}", own_file(manager, name, source.include)):
        for leaf in leaves(manager, name):
            task_files.check_data(manager.task_index[leaf].cfg or {})
        if source.mmlu is None:
            return manager.load(name)
        built = _build(manager, name, source)
        return manager.load(built if isinstance(built, list) else [built])


def own_file(manager: TaskManager, name: str, include: Path | None) -> Path | None:
    """The file of a task of one's own; None for lm-eval's."""
    path = manager.task_index[name].yaml_path
    mine = path is not None and include is not None and path.is_relative_to(include)
    return path if mine else None


@contextlib.contextmanager
def plainly(what: str, file: Path | None = None) -> Iterator[None]:
    """Turn whatever a task's own code raises into one line that names the task, the document that
    lm-eval was at, and the file of a task of one's own.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        fault = task_files.fault_of(error)
        said = f": {fault}" if fault else f" cannot be prepared: {task_files.reason_of(error)}"
        where = f" ({file})" if file is not None else ""
        raise UserError(f"{what}{said}{where}") from error


def _build(manager: TaskManager, name: str, source: Source) -> Any:
    """A task, group or list of tasks whose data are the given rows, made by lm-eval's own classes.

    Subjects without a row are left out, as in a small sample.
    """
    from lm_eval.api.group import Group
    from lm_eval.config.group import GroupConfig

    entry = manager.task_index[name]
    config = entry.cfg
    if config is None:
        found = (_build(manager, member, source) for member in sorted(entry.tags))
        return [task for task in found if task is not None]
    if "group" not in config:
        return _subject(manager, name, config, source)
    known = {f.name for f in fields(GroupConfig)}
    group: Group = Group.from_config(GroupConfig(**{k: v for k, v in config.items() if k in known}))
    for member in config.get("task", ()):
        built = _build(manager, _member(member, name), source)
        for item in built if isinstance(built, list) else [built]:
            if item is not None:
                group.add(item)
    return group


def _subject(
    manager: TaskManager, name: str, config: Mapping[str, Any], source: Source
) -> EvalTask | None:
    if config.get("dataset_path") != MMLU:
        raise UserError(f"lm-eval:{name} is no part of MMLU, and {source.where} holds nothing else")
    rows = (source.mmlu or {}).get(config["dataset_name"], {})
    if not rows.get("test"):
        return None
    given = {"custom_dataset": functools.partial(_dataset, rows), "dataset_path": source.where}
    made: EvalTask = manager.load({**config, **given})["tasks"][name]
    return made


def _dataset(rows: Mapping[str, Sequence[Mapping[str, Any]]], **_: object) -> Any:
    """MMLU's splits as lm-eval expects them; without development rows, an empty split."""
    from datasets import Dataset, DatasetDict, Features, Sequence, Value

    features = Features(
        {
            "question": Value("string"),
            "choices": Sequence(Value("string")),
            "answer": Value("int64"),
            "subject": Value("string"),
        }
    )
    columns = {
        split: {name: [row[name] for row in rows.get(split, ())] for name in features}
        for split in ("test", "dev")
    }
    return DatasetDict({k: Dataset.from_dict(v, features=features) for k, v in columns.items()})
