"""`lrd-harness plugins`: list them, make a package for one, check one, show what it offers."""

from __future__ import annotations

import argparse
import importlib.util
import keyword
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import fields
from inspect import Parameter, getdoc, signature
from pathlib import Path
from shlex import quote
from typing import Any

from lrd_harness import manager
from lrd_harness.cli.arguments import show, table
from lrd_harness.cli.options import TEMPLATES
from lrd_harness.contracts import Choice, Command, TaskFamily
from lrd_harness.errors import UserError, plain, unknown
from lrd_harness.manager import KINDS, Entry, Plugins
from lrd_harness.report import Report, Table
from lrd_harness.store import files
from lrd_harness.versions import INTERFACE

NAME = re.compile(r"[a-z][a-z0-9_]*", re.ASCII)
RECORD = re.compile(  # of a template: the example's name, as registered
    r'\b(?:Metric|PanelMetric|Adapter|Task|TaskFamily|Pruner|Reporter|Command)\(\s*"(\w+)"'
)
USES = {  # kind -> what its user types
    "metric": "lrd-harness run --plugins {}",
    "panel metric": "lrd-harness run --plugins {}",
    "adapter": "lrd-harness run --models {}:MODEL",
    "task": "lrd-harness run --tasks {}",
    "pruning rule": "lrd-harness prune MODEL --rule {} --budget 0.2",
    "reporter": "lrd-harness leaderboard OUT --format {}",
    "command": "lrd-harness {} --help",
}


def plugins_command(arguments: argparse.Namespace) -> int:
    """List the plugins, or do what was asked for. Returns the exit code."""
    actions: dict[str | None, Callable[[argparse.Namespace], int]]
    actions = {None: _list, "new": _new, "check": _check, "show": _show}
    return actions[arguments.action](arguments)


def commands(word: str) -> list[Command]:
    """Those that plugins bring. Raises UserError where one of the name `word` was left out."""
    plugins = manager.load()
    plugins.tell()
    plugins.check_borne("command", word)
    return plugins.all("command")


def _list(arguments: argparse.Namespace) -> int:
    plugins = manager.load()
    tables = []
    for kind, entries in plugins.entries.items():
        rows = []
        for entry in entries.values():
            ours = entry.provider.startswith("lrd_harness.")
            origin = "" if ours else f" (from {entry.provider})"
            about = "; ".join([_about(kind, entry.record), *_standing(kind, entry.record)])
            rows.append((entry.record.name, about + origin))
        tables.append(table(f"{kind.capitalize()}s", ("name", "what it is"), rows))
    broken = [(fault.name, f"{fault.reason} (from {fault.provider})") for fault in plugins.broken]
    tables.append(table("Broken plugins", ("entry point", "why"), broken))
    show(Report("Plugins", tuple(tables)), plugins)
    return 0


def _about(kind: str, record: Any) -> str:
    if isinstance(record, TaskFamily):
        return f"a family of tasks, {record.name}:NAME"
    layer_choice = getattr(record, "layer_choice", None)
    if kind.endswith("metric") and record.selection is not None:
        better = "higher" if record.selection.best == "max" else "lower"
        return f"ranks models by {record.selection.score}, {better} is better"
    if layer_choice is not None:
        end = "lowest" if layer_choice.best == "min" else "highest"
        ahead = " by more than one standard error" * bool(record.margin)
        return f"chooses a layer, where {layer_choice.score} is {end}{ahead}"
    if kind.endswith("metric"):
        return "ranks no models" + ", chooses no layer" * (kind == "metric")
    if kind == "reporter":
        kept = f"kept as leaderboard{record.suffix}" if record.suffix else "printed"
        where = kept if record.files is None else "a folder, --output DIR"
        return f"{record.description}; {where}" if record.description else where
    return str(getattr(record, "description", ""))


def _standing(kind: str, record: Any) -> Iterator[str]:
    """Of a metric: its group, when it is measured, and whether it is experimental."""
    if kind.endswith("metric"):
        if record.group:
            yield f"group {record.group}"
        if not getattr(record, "by_default", False):
            yield "measured where named"
        if record.experimental:
            yield "experimental"


def _new(arguments: argparse.Namespace) -> int:
    """Make a package around the smallest example of a kind, which takes the name that was typed."""
    name, out = arguments.name, arguments.output or Path(arguments.name)
    code = (TEMPLATES / f"{arguments.kind}.py.txt").read_text("utf-8")
    kind, hook = next((kind, hook) for kind, (hook, _) in KINDS.items() if f"def {hook}(" in code)
    (example,) = RECORD.findall(code)
    _check_name(name, kind, set(re.findall(r"\w+", code)) - {example})
    use = _use(kind, name, "TaskFamily(" in code)
    article = "An" if kind.startswith("a") else "A"
    words = {"NAME": name, "KIND": f"{article} {kind}", "HOOK": hook, "USE": use}
    made = {f"src/{name}.py": re.sub(rf"(?<![^\W_]){example}(?![^\W_])", name, code)}
    for path in sorted((TEMPLATES / "package").iterdir()):
        text = path.read_text("utf-8")
        for word, value in words.items():
            text = re.sub(rf"\b{word}\b", value, text)
        file = path.name.removesuffix(".txt").replace("NAME", name)
        made["tests/" * file.startswith("test_") + file] = text
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"{out} is there already: give another --output DIR")
        out.parent.mkdir(parents=True, exist_ok=True)
        with files.folder(out.parent) as work:
            for file, text in made.items():
                (work / file).parent.mkdir(exist_ok=True)
                (work / file).write_text(text, "utf-8")
            files.usual_modes(work)
            work.rename(out)
    except OSError as error:
        raise UserError(f"{out} cannot be made ({error.strerror})") from None
    print(f"{out}: {', '.join(sorted(made))}\n\nNext:")
    print(f"  lrd-harness plugins check {out}/src/{name}.py\n  python -m pip install -e {out}")
    print(f"  {use}")
    return 0


def _check_name(name: str, kind: str, words: set[str]) -> None:
    """Raise UserError for a name that a module, a record or a word of the example cannot have."""
    better = re.sub(r"\W+|_+", "_", name.lower(), flags=re.ASCII).strip("_0123456789")
    if not NAME.fullmatch(name) or keyword.iskeyword(name):
        hint = f", as {better}" if NAME.fullmatch(better) and better != name else ""
        raise UserError(f"{plain(name)} is no name for a module: a-z, 0-9 and _{hint}")
    spec = importlib.util.find_spec(name)
    if spec is not None and spec.origin is not None:  # else a mere folder
        raise UserError(f"there is a module {name} already: give another name")
    if name in words:
        raise UserError(f"the example of a {kind} uses the word {name}: give another name")
    if name in (*manager.load().names(kind), *(manager.COMMANDS if kind == "command" else ())):
        raise UserError(f"there is a {kind} {name} already: give another name")


def _check(arguments: argparse.Namespace) -> int:
    """Check the records of names and files, a row a check. Returns 1 where one does not hold."""
    from lrd_harness.kit import checks_of  # brings torch
    from lrd_harness.models.find import find

    named = [(p, *pair) for p, pairs in map(_named, arguments.names) for pair in pairs]
    if arguments.model and "adapter" not in {kind for _, kind, _ in named}:
        raise UserError(f"--model is for adapters, and {', '.join(arguments.names)} gives none")
    for model in arguments.model:
        find(model)
    failed = False
    for plugins, kind, entry in named:
        for model in arguments.model or [None] if kind == "adapter" else [None]:
            outcomes = list(checks_of(entry.record, model).outcomes())
            failed |= any(outcome.fault for outcome in outcomes)
            title = f"{kind.capitalize()} {entry.record.name}{f' on {model}' if model else ''}"
            rows = [(check, fault or "ok", advice or None) for check, fault, advice, _ in outcomes]
            columns = ("what must hold", "result", "what to do")
            show(Report(title, (table(title, columns, rows),)), plugins)
    return int(failed)


def _show(arguments: argparse.Namespace) -> int:
    """Show the records of a name, or all that a distribution or a file provides."""
    plugins, shown = _named(arguments.name)
    tables = [part for kind, entry in shown for part in _tables(kind, entry, plugins)]
    show(Report(arguments.name, tuple(tables)), plugins)
    return 0


def _named(name: str) -> tuple[Plugins, list[tuple[str, Entry]]]:
    """The records of a name, or all that a distribution or a file provides; with their kinds.

    Raises UserError where there is none, with "did you mean".
    """
    file = name.endswith(".py")
    plugins = manager.load_named([name]) if file else manager.load()
    entries = [(kind, entry) for kind in KINDS for entry in plugins.entries[kind].values()]
    bearers = [] if file else [pair for pair in entries if pair[1].record.name == name]
    provider = Path(name).stem if file else name
    shown = bearers or [pair for pair in entries if pair[1].provider.split()[0] == provider]
    if not shown:
        for kind in KINDS:
            plugins.check_borne(kind, name)
        known = [entry.record.name for _, entry in entries]
        raise unknown("plugin", name, known, "`lrd-harness plugins` lists them all.")
    return plugins, shown


def _tables(kind: str, entry: Entry, plugins: Plugins) -> Iterator[Table]:
    """What there is to say of a record, and its parameters."""
    record = entry.record
    said = getdoc(record.measure) if kind.endswith("metric") else None
    about = [_about(kind, record), " ".join((said or "").split("\n\n")[0].split())]
    rows = [("what it is", "; ".join(filter(None, about))), ("from", entry.provider)]
    if kind.endswith("metric"):
        always = getattr(record, "by_default", False)
        rows.append(("measured", "by default" if always else "where it or its group is named"))
    stranger = next((s for s in plugins.strangers if s.owner.provider == entry.provider), None)
    if stranger is not None:
        rows += [("file", str(stranger.owner.file or "")), ("code", stranger.version)]
        rows.append(("interface", str(INTERFACE)))  # of others nothing is taken
    for field in fields(record):
        value = getattr(record, field.name)
        if field.name not in ("name", "description", "default") and not callable(value):
            rows.append((field.name.replace("_", " "), _said(value)))
    use = _use(kind, record.name, isinstance(record, TaskFamily))
    use += " --output DIR" * (getattr(record, "files", None) is not None)
    if stranger is not None and stranger.name == stranger.owner.provider:  # it is not installed
        file = stranger.owner.file
        use += f" --load {quote(os.path.relpath(file))}" if file else ""
    rows.append(("use", use))
    title = f"{kind.capitalize()} {record.name}"
    yield table(title, ("field", "value"), [row for row in rows if row[1]])
    if kind.endswith("metric"):
        known = signature(record.measure).parameters.values()
        settings = [(p.name, _type(p), repr(p.default)) for p in known if p.default is not p.empty]
        yield table(f"Parameters of {record.name}", ("parameter", "type", "default"), settings)


def _type(parameter: Parameter) -> str:
    """As it was written, else that of the default."""
    hint = parameter.annotation
    if hint is parameter.empty:
        return type(parameter.default).__name__
    return hint if isinstance(hint, str) else str(getattr(hint, "__name__", hint))


def _use(kind: str, name: str, family: bool) -> str:
    return USES[kind].format(f"{name}:NAME" if family else name)


def _said(value: Any) -> str:
    """A field's value in words; "" where it says nothing."""
    if isinstance(value, Choice):
        return f"{value.score}, {'higher' if value.best == 'max' else 'lower'} is better"
    if isinstance(value, (frozenset, tuple, list)):
        return ", ".join(map(str, sorted(value)))
    return "" if value in (None, "", False) else "yes" if value is True else str(value)
