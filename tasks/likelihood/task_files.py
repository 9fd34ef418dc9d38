"""Files of tasks for lm-eval that a user wrote: which are none, and which documents have no score.

lm-eval passes over a file that it cannot read, takes the first of two tasks of one name, and counts
a document whose target is none of its choices as answered wrongly. Each is told of here instead.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lrd_harness.errors import UserError
from lrd_harness.store.documents import json_value, read_file

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
        found = self.names.get(name, ())
        if len(found) > 1:
            raise UserError(f"{found[0]} and {found[1]} are both of the name {name}: rename one")

    @property
    def hint(self) -> str:
        """What is said where a name is not found."""
        said = [f"{path.name} ({reason})" for path, reason in self.broken.items()]
        return f"Not read: {', '.join(said[:2])}." if said else ""


@functools.cache
def files(folder: Path) -> Files:
    """All task files of a folder, as lm-eval finds them.

    Raises UserError for a file that ends lm-eval itself: one that is nested too deeply, or whose
    name is no text.
    """
    from lm_eval.tasks._index import TaskIndex
    from lm_eval.tasks._yaml_loader import load_yaml

    names: dict[str, list[Path]] = {}
    broken: dict[Path, str] = {}
    for path in TaskIndex._iter_yaml_files(folder):
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
            _check_names(path, key, config.get(key))
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


def _check_names(path: Path, key: str, value: Any) -> None:
    """Raise UserError for a name that is none; a group lists mappings beside names."""
    listed = value if isinstance(value, list) else [value]
    if not all(one is None or isinstance(one, (str, dict)) for one in listed):
        raise UserError(f"{path}: '{key}' is {str(value)[:40]}, not a name in quotes")


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
    given = config.get("dataset_kwargs")
    named = given.get("data_files") if isinstance(given, dict) else None
    listed = list(named.values()) if isinstance(named, dict) else [named]
    for one in listed:
        for name in one if isinstance(one, list) else [one]:
            path = Path(name) if isinstance(name, str) and "://" not in name else None
            if path is not None and path.suffix in (".json", ".jsonl") and path.is_file():
                _check_rows(path)


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
    trace, found = error.__traceback__, ""
    while trace is not None:
        code, held = trace.tb_frame.f_code, trace.tb_frame.f_locals
        if code.co_name == "build_all_requests" and "doc_id" in held:
            found = f"document {held['doc_id']}: "
        elif code.co_name == "__init__" and "test_doc" in held:  # lm-eval tries the first
            found = "document 0: "
            if held.get("test_choice") is not None:
                try:
                    _check_choices(held["test_choice"])
                    _check_target(held.get("test_target"), held["test_choice"])
                except ValueError as fault:
                    return f"{found}{fault}"
        elif code.co_name == "fewshot_context" and "fs_doc" in held and found:
            found = f"{found}an example in its prompt: "
        trace = trace.tb_next
    return f"{found}{reason_of(error)}" if found else ""


def check_documents(
    name: str, task: Any, documents: Iterable[tuple[int, Any]], folder: Path
) -> None:
    """Raise UserError, with the document, for one of a task of this folder that lm-eval could not
    score, or would count as answered wrongly whatever the answer.
    """
    source = Path(str((task.config.metadata or {}).get("config_source")))
    if task.OUTPUT_TYPE != "multiple_choice" or not source.is_relative_to(folder):
        return
    twice = "acc_mutual_info" in task._metric_fn_list  # requests without a context, to correct by
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
    for one in target if isinstance(target, list) else [target]:
        if isinstance(one, str):
            fits = one in choices
        else:
            fits = isinstance(one, (int, float)) and one in range(len(choices))
        if not fits:
            shown = str(one)[:40]
            raise ValueError(f"its target {shown!r} is none of its {len(choices)} choices (from 0)")
