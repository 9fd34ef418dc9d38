"""Files, JSON and YAML that others wrote: whatever is wrong with one is one fault in one line."""

from __future__ import annotations

import hashlib
import json
import math
import stat
from collections.abc import Hashable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from lrd_harness.errors import StorageFull, UserError
from lrd_harness.store.files import write_text


def read_file(path: Path) -> bytes:
    """The bytes of a file.

    Raises UserError for what is no file, as a folder or a pipe, which would be waited for; and for
    one that is not there or cannot be read.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UserError(f"{path} is no file{', but a folder' if path.is_dir() else ''}")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def json_value(text: str | bytes) -> Any:
    """What a JSON text says; NaN and Infinity are read, as Python does.

    Raises ValueError for anything else, also where it is nested too deeply, and for half of a
    surrogate pair, which no file can hold.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        value = json.loads(text)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("holds half of a surrogate pair, which is no character") from None
    return value


def memo(folder: Path, *about: Any) -> Path:
    """The file of a folder of the cache in which something small is kept, named by all it is of."""
    described = json.dumps(about, sort_keys=True)
    return folder / f"{hashlib.sha256(described.encode()).hexdigest()[:24]}.json"


def remembered(file: Path) -> dict[str, Any]:
    """What is kept in it; {} where there is none, or one that was damaged: it is found again."""
    try:
        value = json_value(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def remember(file: Path, value: Mapping[str, Any]) -> None:
    """Keep that in it, where there is room."""
    if remembered(file) != value:
        with suppress(OSError, StorageFull):  # what it is of is worth more
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text(file, json.dumps(value))


MOST = 100_000  # values that a document may come to, aliases written out
WIDEST = 64  # bits of a whole number


def yaml_value(text: str, where: str) -> Any:
    """What a YAML text says; `where` stands in the message.

    Raises UserError, with the line where there is one, for what is not YAML or not to be taken for
    a value: a date that there is not, a number that is not finite or beyond 64 bits, aliases that
    multiply or hold themselves, and what is nested too deeply.
    """
    try:
        value = yaml.load(text, Loader=_Loader)
        _count(value, {}, set())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", "cannot be read")
        raise UserError(f"{where}{line}: not YAML ({problem})") from None
    except RecursionError:
        raise UserError(f"{where}: not YAML that can be read (nested too deeply)") from None
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
    return value


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, of which whatever its constructors raise is an error with a line."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
        except (yaml.YAMLError, RecursionError):
            raise
        except Exception:
            raise _problem(node, f"is no {node.tag.rpartition(':')[2]}") from None
        if isinstance(value, int) and value.bit_length() > WIDEST:
            raise _problem(node, f"is beyond {WIDEST} bits")
        if isinstance(value, float) and not math.isfinite(value):
            raise _problem(node, "is no finite number")
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = next((key for key in keys if key != "<<" and keys.count(key) > 1), None)
        if twice is not None:  # the first of them would be lost without a word
            raise _problem(node, "stands there twice", repr(twice[:60]))
        return super().construct_mapping(node, deep)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > MOST:  # merged from aliases that multiply
            raise _problem(node, f"comes to more than {MOST:,} values")


def _problem(node: yaml.Node, what: str, shown: str = "what stands here") -> yaml.YAMLError:
    shown = repr(str(node.value)[:40]) if isinstance(node, yaml.ScalarNode) else shown
    return yaml.constructor.ConstructorError(None, None, f"{shown} {what}", node.start_mark)


def _count(value: Any, sizes: dict[int, int], above: set[int]) -> int:
    """How many values there are in it, each alias counted as what it stands for.

    sizes: of what was counted before, by id; above: the ids of what this one is in.
    Raises ValueError for more than MOST, and for an anchor that holds itself.
    """
    if isinstance(value, Hashable) and not isinstance(value, tuple):
        return 1
    key = id(value)
    if key in above:
        raise ValueError("an anchor holds itself")
    if key not in sizes:
        inside = value.values() if isinstance(value, dict) else value
        total = 1 + sum(_count(part, sizes, above | {key}) for part in inside)
        if total > MOST:
            raise ValueError(f"comes to more than {MOST:,} values, aliases written out")
        sizes[key] = total
    return sizes[key]
