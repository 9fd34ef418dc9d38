"""The command `lrd-harness`. Heavy imports wait until a sub-command runs."""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from lrd_harness.errors import (
    Elsewhere,
    PluginFault,
    UserError,
    check_typed,
    described,
    short,
    tell,
    told_to,
)

TRACEBACK = "LRD_HARNESS_TRACEBACK"  # set to have unforeseen faults with their tracebacks

COMMANDS = {  # the module of each, and its line in the help
    "run": ("run", "measure and evaluate models, print the leaderboard"),
    "plan": ("run", "estimate what a run will cost, before it starts"),
    "merge": ("run", "join slices of a run, or runs of several machines"),
    "select": ("texts", "which of several models for your texts, without labels"),
    "prune": ("prune", "take blocks out of a model and save what is left"),
    "layer": (
        "prune",
        "choose a layer of a model on your texts, without labels; save the model cut there",
    ),
    "probe": ("texts", "change texts step by step and measure every layer at each step"),
    "compare": ("texts", "two models of equal depth, layer by layer, as a base and a tuned one"),
    "leaderboard": ("leaderboard", "print the leaderboard of a run, or of CSV files"),
    "plugins": ("listings", "list metrics, adapters, tasks, rules and reporters"),
    "suites": ("listings", "list suites, or show one"),
    "tasks": ("listings", "list tasks"),
    "models": ("listings", "list known models, and how to name others"),
    "cache": ("cache", "show, verify or clear what is kept between runs"),
}

ABOUT = """\
Measure and evaluate every layer of language models: one forward pass per text,
mteb's and lm-eval's own scores at each layer, label-free metrics beside them,
a leaderboard of predicted and actual ranks; and pruning by the metrics."""

EXAMPLES = """\
examples:
  lrd-harness run --plugins frenet,gfmi
      the quickstart: four small models, real texts, no hub
  lrd-harness run --models intfloat/e5-small-v2 ./mine --tasks STSBenchmark
  lrd-harness run --suite mteb-32 --models BAAI/bge-small-en-v1.5 --output out
  lrd-harness run --models EleutherAI/pythia-160m --tasks lm-eval:mmlu --limit 5
  lrd-harness select --models ./mine ./other --texts FILE
  lrd-harness prune ./mine --rule gfmi --budget 0.15 --texts FILE --save smaller
  lrd-harness layer ./mine --texts FILE --by dime --save shorter
  lrd-harness probe ./mine --kind repetition
  lrd-harness compare ./base ./tuned --texts FILE
  lrd-harness leaderboard out --format md
      print a finished run again
"""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, as those of every command.

    command: NAME, if it is for one. Its module, imported once it is typed, has a function NAME,
    whose docstring begins its help, NAME_arguments, and an entry of EPILOGS, which ends its help.
    """

    def __init__(self, command: str = "", **named: Any) -> None:
        named.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**named)
        self._command = command

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does, of arguments that are declared by now."""
        name, self._command = self._command, ""
        if name:
            module = importlib.import_module(f"lrd_harness.cli.{COMMANDS[name][0]}")
            run = getattr(module, name)
            self.description = inspect.getdoc(run)
            self.epilog = getattr(module, "EPILOGS", {}).get(name)
            self.set_defaults(run=run)
            getattr(module, f"{name}_arguments", lambda sub: None)(self)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """End with exit code 2."""
        command = self.prog.removeprefix("lrd-harness").strip()
        where = f"{command}: " if command else ""
        self.exit(2, short(f"lrd-harness: {where}{message} (see {self.prog} --help)") + "\n")


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    from lrd_harness import __version__

    top = Parser(prog="lrd-harness", description=ABOUT, epilog=EXAMPLES)
    top.add_argument("--version", action="version", version=f"lrd-harness {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (_, help) in COMMANDS.items():
        commands.add_parser(name, command=name, help=help)
    return top


def _empty(typed: Sequence[str]) -> str:
    """What of a command line is empty, as of shell variables that are not set; "" for nothing."""
    option = ""
    for word in typed:
        name, equals, value = word.partition("=")
        option = name if word.startswith("--") else option
        if not (value if word.startswith("--") and equals else word).strip(" ,\t\r\n"):
            return option or "an argument"
    return ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Exit codes: 0 done, 1 some units failed, 2 bad input, 130 interrupted."""
    from lrd_harness.processes import SPAWNED
    from lrd_harness.store import location
    from lrd_harness.store.files import full
    from lrd_harness.store.tables import literal_names

    for stream in (sys.stdout, sys.stderr):
        _print_all(stream)
    typed = list(sys.argv[1:] if arguments is None else arguments)
    try:
        check_typed(typed)
        if where := _empty(typed):
            raise UserError(f"{where} is empty: is a variable not set?")
        chosen = parser().parse_args(typed)
        chosen.typed = typed
        location.redirect()
        with told_to(_once()), literal_names(getattr(chosen, "literal_names", False)):
            code: int = chosen.run(chosen)
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
    return code


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
    from lrd_harness.guard import Owner

    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    place = Owner("lrd-harness", root=Path(__file__).parent.parent).place(error)
    return f"{described(error)} ({place}; {TRACEBACK}=1 shows how it came about)"
