"""The command `lrd-harness`. What a command needs is imported once it runs."""

from __future__ import annotations

import argparse
import gc
import importlib
import importlib.metadata
import inspect
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from lrd_harness import __version__, errors, isolation
from lrd_harness.cli import help, options
from lrd_harness.errors import (
    LOUD,
    Elsewhere,
    PluginFault,
    UserError,
    check_typed,
    described,
    short,
    tell,
    told_to,
)
from lrd_harness.guard import Owner
from lrd_harness.processes import SPAWNED
from lrd_harness.store import location
from lrd_harness.store.files import full
from lrd_harness.store.tables import literal_names

if TYPE_CHECKING:
    from lrd_harness.contracts import Command

TRACEBACK = "LRD_HARNESS_TRACEBACK"  # set to have unforeseen faults with their tracebacks
LM_EVAL = "lm-eval"  # the command that hands on what follows it

COMMANDS = {  # the module whose function NAME_command runs it, and its line in the help
    "run": ("run", "measure and evaluate models, print the leaderboard"),
    "capture": ("run", "read models into the store, for runs that then need no GPU"),
    "plan": ("run", "estimate what a run will cost, before it starts"),
    "merge": ("run", "join slices of a run, or runs of several machines"),
    "select": ("texts", "which of several models for your texts, without labels"),
    "prune": ("texts", "take blocks out of a model and save what is left"),
    "layer": ("texts", "which layer of a model, without labels; save the model cut there"),
    "states": ("texts", "the vectors of your texts at chosen layers, as a file"),
    "probe": ("texts", "change texts step by step and measure every layer at each step"),
    "compare": ("texts", "how alike two models are, layer by layer: a base and a tuned one"),
    LM_EVAL: ("run", "lm-eval's own command, with a model up to a layer as `--model lrd`"),
    "leaderboard": ("leaderboard", "print the leaderboard of a run, or of CSV files"),
    "evaluate-rule": ("evaluate_rule", "whether a rule for layers or models beats its control"),
    "plugins": ("plugins", "list plugins; make a package for one of yours, check or show one"),
    "suites": ("listings", "list suites, or show one"),
    "tasks": ("listings", "list tasks"),
    "models": ("listings", "list known models; tell how a model will be read, and why"),
    "cache": ("cache", "show, verify or clear what is kept between runs"),
}


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, as those of every command.

    command: NAME, if it is for one. What it takes is declared by `options.NAME` once it is typed.
    """

    def __init__(self, command: str = "", **named: Any) -> None:
        named.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**named)
        self._command = command

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does, of arguments that are declared by now."""
        name, self._command = self._command, ""
        if name == LM_EVAL and args and args[0] not in ("-h", "--help"):
            load, words = _loaded(args)
            return argparse.Namespace(lm_eval=words, load=load, verbose=True), []
        if name:
            declare = getattr(options, name.replace("-", "_"))
            self.description = inspect.getdoc(declare)
            self.epilog = help.EPILOGS.get(name)
            declare(self)
        found, unknown = super().parse_known_args(args, namespace)
        if name and unknown:  # or the help that is pointed to would not be this command's
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        """End with exit code 2."""
        command = self.prog.removeprefix("lrd-harness").strip()
        where = f"{command}: " if command else ""
        self.exit(2, short(f"lrd-harness: {where}{message} (see {self.prog} --help)") + "\n")


def parser(more: Iterable[Command] = ()) -> argparse.ArgumentParser:
    """The whole command line; more: commands that plugins bring."""
    top = Parser(prog="lrd-harness", description=help.ABOUT, epilog=help.EXAMPLES)
    top.add_argument("--version", action="version", version=f"lrd-harness {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (_, line) in COMMANDS.items():
        commands.add_parser(name, command=name, help=line)
    for record in more:
        commands.add_parser(record.name, help=short(record.description).replace("%", "%%"))
    return top


def _loaded(typed: Sequence[str]) -> tuple[list[str], list[str]]:
    """What is given to --load, and the other words."""
    only = Parser(prog="lrd-harness", add_help=False, allow_abbrev=False)
    options.add_load(only)
    known, others = only.parse_known_args(typed)
    return known.load, others


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Exit codes: 0 done, 1 some units failed, 2 bad input, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):
        _print_all(stream)
    if arguments is None:  # a process of our own: a sixth of its imports was collecting no garbage
        gc.set_threshold(100_000, 20, 50)
    typed = list(sys.argv[1:] if arguments is None else arguments)
    try:
        check_typed(typed)
        if where := _empty(typed):
            raise UserError(f"{where} is empty: is a variable not set?")
        if _brought(typed):
            return _run_brought(typed)
        return _run(parser().parse_args(typed), typed)
    except Elsewhere:
        time.sleep(1)  # the process that tells of it is to have told before all are ended
        return 2
    except UserError as error:
        role = f"{error.role}: " if isinstance(error, PluginFault) and error.role else ""
        return _bad(f"{role}{error}")
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0" and SPAWNED not in os.environ:
            print("\nInterrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `lrd-harness tasks | head`
        sys.stderr.close()
        return 0
    except (SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # a fault of ours, or a panic in a library
        if os.environ.get(TRACEBACK):
            raise
        return _bad(str(full(error) or _unforeseen(error)))


def _brought(typed: Sequence[str]) -> bool:
    """Whether a command of a plugin may be meant, or help is wanted, and plugins are there."""
    if not typed or typed[0] in (*COMMANDS, "--version"):
        return False
    named = "--load" in [word.partition("=")[0] for word in typed]
    return named or bool(importlib.metadata.entry_points(group="lrd_harness"))


def _run_brought(typed: list[str]) -> int:
    """Run a command of a plugin; or print help that lists them, and end for what is none."""
    from lrd_harness.manager import naming

    if typed[0].partition("=")[0] == "--load":
        raise UserError("--load stands behind a command, as lrd-harness run --load FILE.py")
    location.redirect()
    _hush()
    with told_to(_once()), naming(_loaded(typed)[0]):
        commands = importlib.import_module("lrd_harness.cli.plugins").commands(typed[0])
        record: Command | None = next((c for c in commands if c.name == typed[0]), None)
        if record is None:
            return _run(parser(commands).parse_args(typed), typed)
        return record.run(_own_arguments(record, typed[1:])) or 0


def _own_arguments(record: Command, typed: list[str]) -> argparse.Namespace:
    """What was typed behind a command of a plugin. Raises PluginFault for a fault of its own."""
    about = short(record.description)
    if "%(prog)" in about:  # what argparse would then format
        about = about.replace("%", "%%")
    own = Parser(prog=f"lrd-harness {record.name}", description=about)
    options.add_load(own)
    if record.arguments is not None:
        record.arguments(own)
    try:
        return own.parse_args(typed)
    except UserError:
        raise
    except Exception as error:  # of a type=, or of a help that cannot be formatted
        code = getattr(inspect.unwrap(record.run), "__code__", None)
        owner = Owner(record.name, root=Path(code.co_filename) if code else None)
        place = owner.place(error, record.arguments)
        raise PluginFault(described(error), place, f"command {record.name}") from error


def _run(arguments: argparse.Namespace, typed: list[str]) -> int:
    """Run what was parsed. Where libraries write, and what they tell, they ask when imported."""
    from lrd_harness.manager import naming  # brings pluggy, which help does without

    arguments.typed = typed
    location.redirect()
    if not getattr(arguments, "verbose", False):
        _hush()
    module = importlib.import_module(f"lrd_harness.cli.{COMMANDS[arguments.command][0]}")
    literal = literal_names(getattr(arguments, "literal_names", False))
    seconds = getattr(arguments, "plugin_timeout", None)
    if seconds is not None:
        errors.check_whole(seconds, "--plugin-timeout", 1, errors.SECONDS)
    with told_to(_once()), isolation.limited(seconds), literal, naming(arguments.load):
        name = arguments.command.replace("-", "_")
        code: int = getattr(module, f"{name}_command")(arguments)
    return code


def _hush() -> None:
    """Keep the libraries' warnings and bars off the terminal: progress and errors are ours."""
    for name in ("TRANSFORMERS_VERBOSITY", "HF_HUB_VERBOSITY"):
        os.environ.setdefault(name, "error")
    os.environ.setdefault("DATASETS_VERBOSITY", "critical")  # what it raises is told of in our line
    for name in ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TQDM_DISABLE", "1")
    warnings.filterwarnings("ignore")
    if "transformers" in sys.modules:  # imported before, by a program that calls the command
        sys.modules["transformers"].utils.logging.disable_progress_bar()
    for name in LOUD:
        # what these two log as an error they also raise, which is told of in a line of ours
        level = logging.CRITICAL if name in ("datasets", "lm_eval") else logging.ERROR
        logging.getLogger(name).setLevel(level)


def _empty(typed: Sequence[str]) -> str:
    """What of a command line is empty, as of shell variables that are not set; "" for nothing."""
    option = ""
    for word in typed:
        name, equals, value = word.partition("=")
        option = name if word.startswith("--") else option
        if not (value if word.startswith("--") and equals else word).strip(" ,\t\r\n"):
            return option or "an argument"
    return ""


def _print_all(stream: Any) -> None:
    """Have a stream replace what its encoding has no character for, as cp1252 or ASCII."""
    with suppress(AttributeError, ValueError):
        if stream.errors != "backslashreplace":
            stream.reconfigure(errors="replace")


def _once() -> Callable[[str], None]:
    """Prints lines on standard error, each once; in one of several processes alone."""
    said: set[str] = set()

    def show(line: str) -> None:
        if line not in said and os.environ.get("RANK", "0") == "0":
            tell(line)
        said.add(line)

    return show


def _bad(line: str) -> int:
    tell(f"lrd-harness: {' '.join(line.splitlines())}")
    return 2


def _unforeseen(error: BaseException) -> str:
    """One line for a fault that nothing has foreseen, with the place in the harness."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    place = Owner("lrd-harness", root=Path(__file__).parent.parent).place(error)
    return f"{described(error)} ({place}; {TRACEBACK}=1 shows how it came about)"
