"""The command `lrd-harness`. Each sub-command is a module; heavy imports wait until it runs."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from collections.abc import Sequence

COMMANDS = (
    *("run", "plan", "merge", "select", "prune", "layer", "probe", "compare"),
    *("leaderboard", "plugins", "suites", "tasks", "models", "cache"),
)

ABOUT = """\
Measure and evaluate every layer of language models: one forward pass a text,
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


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    from lrd_harness import __version__

    top = argparse.ArgumentParser(
        prog="lrd-harness",
        description=ABOUT,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"lrd-harness {__version__}")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        importlib.import_module(f"lrd_harness.cli.{name}").add(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Exit codes: 0 done, 1 some units failed, 2 bad input, 130 interrupted."""
    from lrd_harness.errors import Elsewhere, UserError
    from lrd_harness.files import full
    from lrd_harness.launch import SPAWNED
    from lrd_harness.notices import told_to

    chosen = parser().parse_args(arguments)
    chosen.typed = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with told_to(lambda line: print(line, file=sys.stderr)):
            code: int = chosen.run(chosen)
    except Elsewhere:
        time.sleep(1)  # the process that tells of it is to have told before all are ended
        return 2
    except UserError as error:
        print("lrd-harness:", " ".join(str(error).splitlines()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0" and SPAWNED not in os.environ:
            print("\nInterrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `lrd-harness tasks | head`
        sys.stderr.close()
        return 0
    except OSError as error:
        no_space = full(error)
        if no_space is None:
            raise
        print("lrd-harness:", no_space, file=sys.stderr)
        return 2
    return code
