"""lm-eval's tasks by name, and the user's own: found in its index, checked, loaded with their data.

lm-eval passes over a file that it cannot read, takes the first of two tasks of one name, and counts
a document whose target is none of its choices as answered wrongly. Each is told of here instead.
"""

from __future__ import annotations

import contextlib
import functools
import re
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lrd_harness.errors import UserError
from lrd_harness.models import hub
from lrd_harness.store.documents import json_value, read_file

from . import mmlu

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager


COMPARED = ("multiple_choice", "loglikelihood")
ASKED = {"generate_until": "generates text", "loglikelihood_rolling": "scores whole documents"}
MMLU = "cais/mmlu"
IGNORED = {"__pycache__", ".ipynb_checkpoints"}  # folders that lm-eval does not look into


@functools.cache
def index(include: Path | None) -> TaskManager:
    """lm-eval's index of tasks, with those of a folder; it takes several seconds to make.

    Raises UserError for a file in the folder that lm-eval cannot be given.
    """
    from lm_eval.tasks import TaskManager

    if include:
        files(include)
    return TaskManager(include_path=str(include) if include else None)


@functools.cache
def mmlu_index() -> TaskManager:
    """The index of MMLU alone, which takes no time."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_defaults=False, include_path=str(mmlu.folder() / "default"))


def members(manager: TaskManager, name: str) -> list[str] | None:
    """The names that a group or tag is of, in order; None for a single task.

    Raises KeyError for an unknown name, UserError for a member without a name.
    """
    entry = manager.task_index[name]
    if entry.cfg is None:
        return sorted(entry.tags)
    if "group" not in entry.cfg:
        return None
    # a group lists names, or mappings with a name and what it changes
    listed = [
        member if isinstance(member, str) else member.get("task") or member.get("group")
        for member in entry.cfg.get("task", ())
    ]
    if not all(isinstance(member, str) for member in listed):
        raise UserError(f"lm-eval:{name} has parts without names, which cannot be told apart")
    return listed


def leaves(manager: TaskManager, name: str) -> Iterator[str]:
    """The single tasks of a name, in order."""
    parts = members(manager, name)
    if parts is None:
        yield name
    for part in parts or ():
        yield from leaves(manager, part)


def expand(manager: TaskManager, name: str) -> list[str]:
    """The names that this one stands for: itself, or where it has no score of its own its members.

    Raises as `members`, and UserError for one with a part that is refused.
    """
    parts, config = members(manager, name), manager.task_index[name].cfg or {}
    if (parts or "group" in config) and not config.get("aggregate_metric_list"):
        return [single for part in parts or () for single in expand(manager, part)]
    for leaf in leaves(manager, name):
        _check_compares(manager, leaf, name)
    return [name]


def compared(manager: TaskManager) -> list[str]:
    """All names of which every part compares continuations."""

    @functools.cache
    def all_compare(name: str) -> bool:
        try:
            parts = members(manager, name)
        except (KeyError, UserError):
            return False
        if parts is not None:
            return bool(parts) and all(map(all_compare, parts))
        config = manager.task_index[name].cfg or {}
        compares = "class" not in config and config.get("output_type") in COMPARED
        return compares and _more_is_better(config)

    return [name for name in manager.all_tasks if all_compare(name)]


def _more_is_better(config: Mapping[str, Any]) -> bool:
    """Whether a task has a score that ranks models upwards; without a list it has accuracy."""
    listed = config.get("metric_list") or [{}]
    known = [metric for metric in listed if isinstance(metric, dict)] or [{}]
    return any(metric.get("higher_is_better", True) for metric in known)


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


def load(
    manager: TaskManager,
    name: str,
    include: Path | None = None,
    rows: mmlu.Rows | None = None,
    where: str = "",
) -> dict[str, Any]:
    """The task or group with its data, as lm-eval records it.

    include: a folder of tasks of one's own, which come before lm-eval's of the same name;
    rows: those of MMLU's subjects, None for the hub's; where: they are from, for messages.
    Raises UserError for data out of reach.
    """
    with named(manager, name, include):
        configs = [manager.task_index[leaf].cfg or {} for leaf in leaves(manager, name)]
        for config in configs:
            check_data(config)
        if rows is None:
            _check_hub(name, configs)
        tasks = name if rows is None else _build(manager, name, rows, where)
        with hub.at_once():
            return dict(manager.load(tasks))


def named(
    manager: TaskManager, name: str, include: Path | None
) -> contextlib.AbstractContextManager[None]:
    """`plainly` of a task of this name, with its file where it is one of one's own."""
    path = manager.task_index[name].yaml_path
    if path is not None and (include is None or not path.is_relative_to(include)):
        path = None
    return plainly(f"lm-eval:{name}", path)


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
        fault = fault_of(error)
        said = f": {fault}" if fault else f" cannot be prepared: {reason_of(error)}"
        where = f" ({file})" if file is not None else ""
        raise UserError(f"{what}{said}{where}") from error


def _build(manager: TaskManager, name: str, rows: mmlu.Rows, where: str) -> list[Any]:
    """A task, a group or the tasks of a tag, of the given rows, made by lm-eval's own classes.

    Subjects without a row are left out, as in a small sample.
    """
    from lm_eval.api.group import Group
    from lm_eval.config.group import GroupConfig

    config, parts = manager.task_index[name].cfg or {}, members(manager, name)
    if parts is not None:
        items = [item for part in parts for item in _build(manager, part, rows, where)]
        if "group" not in config:
            return items
        known = config.keys() & {field.name for field in fields(GroupConfig)}
        group: Group = Group.from_config(GroupConfig(**{key: config[key] for key in known}))
        for item in items:
            group.add(item)
        return [group]
    if config.get("dataset_path") != MMLU:
        raise UserError(f"lm-eval:{name} is no part of MMLU, and {where} holds nothing else")
    splits = rows.get(config["dataset_name"], {})
    if not splits.get("test"):
        return []
    data = {"custom_dataset": functools.partial(_dataset, splits), "dataset_path": where}
    return [manager.load({**config, **data})["tasks"][name]]


def _dataset(rows: Mapping[str, Sequence[Mapping[str, Any]]], **_: object) -> Any:
    """MMLU's splits as lm-eval expects them; without development rows, an empty split."""
    from datasets import Dataset, DatasetDict, Features, List, Value

    text = Value("string")
    columns = {"question": text, "choices": List(text), "answer": Value("int64"), "subject": text}
    features = Features(columns)
    splits = {
        split: {name: [row[name] for row in rows.get(split, ())] for name in features}
        for split in ("test", "dev")
    }
    return DatasetDict({k: Dataset.from_dict(v, features=features) for k, v in splits.items()})


DEEPEST = 200  # levels of a YAML file, and of a data file that is looked at more closely
NAMELESS = (AssertionError, AttributeError, LookupError, NameError, TypeError)


@dataclass(frozen=True)
class Files:
    """What is in a folder of tasks: the files of each name, and why others cannot be read."""

    names: Mapping[str, Sequence[Path]]
    broken: Mapping[Path, str]

    def check(self, name: str) -> None:
        """Raise UserError for a name of two files, and for one that a broken file is to have."""
        mine = re.compile(rf"^\s*-?\s*(task|group)\s*:\s*[\"']?{re.escape(name)}[\"']?\s*$", re.M)
        for path, reason in self.broken.items():
            written = path.read_bytes().decode("utf-8", "replace") if path.is_file() else ""
            if path.stem == name or mine.search(written):
                raise UserError(f"{path}: no task that lm-eval can read ({reason})")
        paths = self.names.get(name, ())
        if len(paths) > 1:
            raise UserError(f"{paths[0]} and {paths[1]} are both of the name {name}: rename one")

    @property
    def hint(self) -> str:
        """What is said where a name is not found."""
        broken = [f"{path.name} ({reason})" for path, reason in self.broken.items()]
        return f"Not read: {', '.join(broken[:2])}." if broken else ""


@functools.cache
def files(folder: Path) -> Files:
    """All task files of a folder, as lm-eval finds them.

    Raises UserError for a file that ends lm-eval itself: one that is nested too deeply, or whose
    name is no text.
    """
    from lm_eval.tasks.manager import load_yaml

    names: dict[str, list[Path]] = {}
    broken: dict[Path, str] = {}
    for path in sorted(p for p in folder.rglob("*.yaml") if not IGNORED & {*p.parts}):
        try:
            _check_depth(path)
            config = load_yaml(path, resolve_func=False)
            name = config.get("group", config.get("task")) or config["task"]
        except UserError:
            raise
        except Exception as error:  # whatever the YAML library and lm-eval raise
            broken[path] = reason_of(error)
            continue
        for key in ("task", "group", "tag"):
            value = config.get(key)  # a group lists mappings beside names
            parts = value if isinstance(value, list) else [value]
            if not all(isinstance(part, (str, dict, type(None))) for part in parts):
                raise UserError(f"{path}: '{key}' is {str(value)[:40]}, not a name in quotes")
        names.setdefault(name if isinstance(name, str) else path.stem, []).append(path)
    return Files(names, broken)


def _check_depth(path: Path) -> None:
    """Raise UserError for what a parser in C would follow until its stack is used up."""
    depth = 0
    try:
        for event in yaml.parse(read_file(path), Loader=getattr(yaml, "CLoader", yaml.Loader)):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise UserError(f"{path}: nested too deeply to be read")
    except yaml.YAMLError:
        if depth > DEEPEST // 2:
            raise UserError(f"{path}: nested too deeply to be read") from None
        raise


def reason_of(error: BaseException) -> str:
    """What an error of a library says, in one line; its class where it says too little."""
    if type(error).__name__.startswith("DatasetGeneration") and error.__cause__ is not None:
        return reason_of(error.__cause__)
    if isinstance(error, yaml.MarkedYAMLError) and error.problem:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        return f"not YAML: {error.problem}{line}"
    said = next(iter(str(error).splitlines()), "")
    kind = type(error).__name__
    return f"{kind}: {said}" if said and isinstance(error, NAMELESS) else said or kind


def check_data(config: Mapping[str, Any]) -> None:
    """Raise UserError, with file and row, for local data in which a reader would lose itself."""
    options = config.get("dataset_kwargs")
    splits = options.get("data_files") if isinstance(options, dict) else None
    for listed in splits.values() if isinstance(splits, dict) else [splits]:
        for name in listed if isinstance(listed, list) else [listed]:
            path = Path(name) if isinstance(name, str) and "://" not in name else None
            if path is not None and path.suffix in (".json", ".jsonl") and path.is_file():
                _check_rows(path)


def _check_hub(name: str, configs: Iterable[Mapping[str, Any]]) -> None:
    """Raise UserError for a data set that neither the hub gives nor its cache."""
    from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES as packaged

    asked = {}
    for config in configs:
        options, path = config.get("dataset_kwargs"), config.get("dataset_path")
        given = options if isinstance(options, dict) else {}
        here = "custom_dataset" in config or "data_files" in given or path in packaged
        if isinstance(path, str) and not (here or path.endswith(".py") or Path(path).exists()):
            asked[path] = given.get("revision")
    for path, revision in asked.items():
        try:
            hub.check_data(path, revision)
        except UserError as error:
            line = f"lm-eval:{name}: its data ({path}) are not on this machine, and {error}"
            raise UserError(line) from None


def _check_rows(path: Path) -> None:
    """Raise UserError for what ends the process in the reader of data sets: depth, and null."""
    open_before = 0
    for number, line in enumerate(read_file(path).split(b"\n"), 1):
        if line.strip() == b"null":
            raise UserError(f"{path}, row {number}: not a JSON object")
        opened = line.count(b"[") + line.count(b"{")
        closed = line.count(b"]") + line.count(b"}")
        if opened > DEEPEST:
            try:
                json_value(line)
            except ValueError as error:
                raise UserError(f"{path}, row {number}: {error}") from None
        open_before += opened - closed
        if open_before > DEEPEST:
            raise UserError(f"{path}, row {number}: nested too deeply")


def fault_of(error: BaseException) -> str:
    """What is wrong with the document that lm-eval was at when it raised, its first being 0:
    "document 3: ..."; "" where it was at none.
    """
    where = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        function, variables = frame.f_code.co_name, frame.f_locals
        if function == "build_all_requests" and "doc_id" in variables:
            number, drawn = variables["doc_id"], variables.get("samples")
            where = f"document {drawn[number] if drawn else number}: "
        elif function == "__init__" and "test_doc" in variables:  # lm-eval tries the first
            where = "document 0: "
            if variables.get("test_choice") is not None:
                try:
                    _check_choices(variables["test_choice"])
                    _check_target(variables.get("test_target"), variables["test_choice"])
                except ValueError as fault:
                    return f"{where}{fault}"
        elif function == "fewshot_context" and "fs_doc" in variables and where:
            where = f"{where}an example in its prompt: "
    return f"{where}{reason_of(error)}" if where else ""


def check_documents(
    name: str, task: Any, documents: Iterable[tuple[int, Any]], folder: Path
) -> None:
    """Raise UserError, with the document, for one of a task of this folder that lm-eval could not
    score, or would count as answered wrongly whatever the answer.
    """
    source = Path(str((task.config.metadata or {}).get("config_source")))
    if task.OUTPUT_TYPE != "multiple_choice" or not source.is_relative_to(folder):
        return
    listed = task.config.metric_list or ()
    # requests without a context, to correct by
    twice = any(metric.get("metric") == "acc_mutual_info" for metric in listed)
    for number, document in documents:
        try:
            choices = task.doc_to_choice(document)
            _check_choices(choices)
            if task.config.process_results is None:
                gold = task.doc_to_text if task.multiple_input else task.doc_to_target
                _check_target(gold(document), choices)
                task.process_results(document, [(-1.0, False)] * len(choices) * (1 + twice))
        except Exception as error:  # whatever a template or lm-eval's scoring raises
            said = str(error) if type(error) is ValueError else reason_of(error)
            raise UserError(f"lm-eval:{name}: document {number}: {said}") from None


def _check_choices(choices: Any) -> None:
    """Raise ValueError for choices that are none."""
    if not isinstance(choices, list) or not choices:
        raise ValueError(f"its choices are {str(choices)[:40]!r}, not a list of texts")
    for place, choice in enumerate(choices):
        if not isinstance(choice, str):
            raise ValueError(f"choice {place} is {str(choice)[:40]}, not a text")
        if not choice.strip():
            raise ValueError(f"choice {place} is empty, so there is no continuation to score")


def _check_target(target: Any, choices: Sequence[str]) -> None:
    """Raise ValueError for a target that is none of the choices, nor the place of one."""
    for answer in target if isinstance(target, list) else [target]:
        among: Sequence[Any] = choices if isinstance(answer, str) else range(len(choices))
        if not isinstance(answer, (str, int, float)) or answer not in among:
            shown = str(answer)[:40]
            raise ValueError(f"its target {shown!r} is none of its {len(choices)} choices (from 0)")
