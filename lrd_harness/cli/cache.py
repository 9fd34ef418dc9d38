"""`lrd-harness cache`: what is kept between runs, whether it is sound, and removing it."""

from __future__ import annotations

import argparse
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrd_harness.errors import UserError, tell

if TYPE_CHECKING:
    from lrd_harness.store.inventory import Held

ABOUT = """\
Downloaded packages, converted models and the states that were read are kept in
one folder, so that nothing is downloaded or read twice. All of it may be
removed: what is needed again comes back.

LRD_HARNESS_CACHE is the folder, by default one in the user's own cache.
LRD_HARNESS_CACHE_LIMIT is the size that states may take, as 200GB (default: no
limit): what was not used for longest makes room for what is written."""

CLEAR = """\
examples:
  lrd-harness cache clear --older-than 30d
      states that were not used for 30 days (also 12h, 2w)
  lrd-harness cache clear --model intfloat/e5-small-v2
  lrd-harness cache clear --all --yes

What a running process uses is kept. Files that are not the harness's are named
and left alone; links are not followed."""

AGE = re.compile(r"(\d+(?:\.\d+)?)([hdw])")
SECONDS = {"h": 3600, "d": 86_400, "w": 604_800}


def add(commands: Any) -> None:
    """Declare the arguments."""
    form = argparse.RawDescriptionHelpFormatter
    about = "show, verify or clear what is kept between runs"
    sub = commands.add_parser("cache", help=about, description=ABOUT, formatter_class=form)
    does = sub.add_subparsers(dest="action", metavar="ACTION", required=True)
    one = does.add_parser("info", help="where it is, and how large", description=ABOUT)
    one.formatter_class = form
    one.set_defaults(run=info)
    what = "read all states and compare their checksums"
    one = does.add_parser("verify", help=what, description=f"{what.capitalize()}.")
    one.add_argument("--repair", action="store_true", help="remove damaged files")
    one.epilog = "exit codes: 0 all sound, or repaired; 1 some files are damaged; 2 bad input"
    one.set_defaults(run=verify)
    what = "remove states, packages or both"
    one = does.add_parser(
        "clear", help=what, description=f"{what.capitalize()}.", epilog=CLEAR, formatter_class=form
    )
    part = one.add_mutually_exclusive_group()
    part.add_argument("--states", action="store_true", help="states that were read (default)")
    part.add_argument("--packages", action="store_true", help="packages and converted models")
    part.add_argument("--all", action="store_true", help="everything")
    one.add_argument("--model", metavar="NAME", help="only states of this model, NAME[@REVISION]")
    one.add_argument(
        "--older-than", metavar="AGE", help="only what was not used, or downloaded, since"
    )
    one.add_argument("--yes", action="store_true", help="do not ask")
    one.set_defaults(run=clear)


def _folder() -> Path:
    """The cache, without what killed processes have left there."""
    from lrd_harness.store import inventory
    from lrd_harness.store.location import cache_dir

    folder = cache_dir().resolve()
    inventory.sweep(folder)
    return folder


def info(arguments: argparse.Namespace) -> int:
    """Print where the cache is and what is in it. Returns the exit code."""
    from lrd_harness.cli.tables import show
    from lrd_harness.store import inventory
    from lrd_harness.store import location as cache

    folder, limit = _folder(), cache.limit()
    held = inventory.stores(folder)
    rows = []
    for kind in inventory.DOWNLOADS:
        found = inventory.downloads(folder, kind)
        rows.append((kind, str(len(found)), cache.shown(sum(one.size for one in found)), ""))
    size, count = sum(one.folder.size for one in held), sum(len(one.folder.shards) for one in held)
    bound = f"of {cache.shown(limit)}" if limit is not None else "no limit"
    rows.append((inventory.STATES, str(count), cache.shown(size), bound))
    print(f"{folder}\n")
    show("Kept between runs", ("", "number", "size", "limit"), rows)
    if held:
        columns = ("model", "texts", "size", "last used", "in use")
        show("States", columns, [row for row in _by_model(held) if row])
    _name_strangers(folder, held)
    return 0


def _by_model(held: list[Held]) -> list[tuple[str, ...]]:
    """A row a model that has states, the largest first."""
    from lrd_harness.store import inventory, leases
    from lrd_harness.store.location import shown

    models: dict[str, list[Held]] = {}
    for one in held:
        models.setdefault(one.model, []).append(one)
    rows: list[tuple[int, tuple[str, ...]]] = []
    now = time.time()
    for name, own in models.items():
        shards = [shard for one in own for shard in one.folder.shards]
        if shards:
            newest = max(shard.used for shard in shards)  # 0: they say a time in the future
            last = time.localtime(newest)
            used = any(leases.since(one.folder.path, now) is not None for one in own)
            size = sum(one.folder.size for one in own)
            date = time.strftime("%Y-%m-%d %H:%M", last) if newest else "unknown"
            row = (name, f"{inventory.texts(own):,}", shown(size), date, "yes" if used else "")
            rows.append((size, row))
    return [row for _, row in sorted(rows, key=lambda pair: (-pair[0], pair[1]))]


def _name_strangers(folder: Path, held: list[Held]) -> None:
    """Name what is not ours."""
    from lrd_harness.store import inventory

    found = inventory.strangers(folder) + [path for one in held for path in one.folder.foreign]
    for path in found:
        what = "a link, not followed" if path.is_symlink() else "not the harness's"
        tell(f"{path.relative_to(folder)}: {what}, left alone")


def verify(arguments: argparse.Namespace) -> int:
    """Read all states; name those that are damaged. Returns the exit code."""
    from lrd_harness.progress import Display
    from lrd_harness.store import inventory
    from lrd_harness.store.location import shown

    folder = _folder()
    held = inventory.stores(folder)
    count, size = sum(len(one.folder.shards) for one in held), sum(one.folder.size for one in held)
    left = bad = 0
    with Display().stage("verifying states", "stores") as advance:
        for done, one in enumerate(held):
            advance(done, len(held))
            for path, reason in inventory.damaged(one):
                bad += 1
                removed = arguments.repair and _removed(path)
                left += not removed
                name = path.relative_to(folder)
                print(f"{name}: {reason}{'; removed' if removed else ''} ({one.model})")
        advance(len(held), len(held))
    _name_strangers(folder, held)
    print(f"{count:,} files of states, {shown(size)}: {bad or 'none'} damaged")
    return 1 if left else 0


def _removed(path: Path) -> bool:
    """Remove a damaged file, whose texts are then read again."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return False
    return True


def clear(arguments: argparse.Namespace) -> int:
    """Remove what is asked for, after asking. Returns the exit code."""
    from lrd_harness.store import files as temporary
    from lrd_harness.store import inventory

    if arguments.model and (arguments.packages or arguments.all):
        raise UserError("--model goes with states: --packages and --all know no models")
    age = _age(arguments.older_than)
    before = None if age is None else time.time() - age
    folder = _folder()
    held = [] if arguments.packages else inventory.stores(folder)
    if arguments.model:
        held = [one for one in held if one.of(arguments.model)]
        if not held:
            raise UserError(f"no states of a model {arguments.model}: see `lrd-harness cache info`")
    kinds = inventory.DOWNLOADS if arguments.packages or arguments.all else ()
    brought = [one for kind in kinds for one in inventory.downloads(folder, kind)]
    brought = [one for one in brought if before is None or one.made < before]
    asked = _asked_for(held, brought, before)
    if not _agreed(asked, folder, arguments.yes):
        print("Nothing was removed.")
        return 0
    if not asked:
        print("There is nothing to remove.")
    if arguments.all and before is None and not inventory.in_use(folder):
        inventory.sweep(folder, older=temporary.ANY)
        held = inventory.stores(folder)
    _clear_states(held, before)  # also the folders of stores in which nothing is left
    _clear_downloads(folder, brought)
    if before is None and (arguments.all or arguments.packages):
        _clear_rest(folder, arguments.all)
    _name_strangers(folder, held)
    return 0


def _age(text: str | None) -> float | None:
    """Seconds of an age such as 30d."""
    if text is None:
        return None
    match = AGE.fullmatch(text)
    if match is None:
        raise UserError(f"--older-than {text}: not an age such as 30d, 12h or 2w")
    return float(match[1]) * SECONDS[match[2]]


def _asked_for(held: list[Held], brought: list[Any], before: float | None) -> str:
    """What is going to be removed, in words; "" for nothing."""
    from lrd_harness.store.location import shown

    files = [shard for one in held for shard in one.folder.shards]
    files = [file for file in files if before is None or file.used < before]
    parts = []
    if files:
        parts.append(f"{shown(sum(file.size for file in files))} of states")
    if brought:
        size = shown(sum(one.size for one in brought))
        parts.append(f"{len(brought)} packages and converted models ({size})")
    return " and ".join(parts)


def _agreed(what: str, folder: Path, yes: bool) -> bool:
    """Whether it may be removed. Raises UserError where nobody can be asked."""
    if yes or not what:
        return True
    if not sys.stdin.isatty():
        raise UserError(f"this would remove {what} from {folder}: give --yes")
    print(f"Remove {what} from {folder}? [y/N] ", end="", flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _clear_states(held: list[Held], before: float | None) -> None:
    from lrd_harness.store import inventory
    from lrd_harness.store.location import shown

    gone, stay = [], []
    for one in held:
        removed, kept = inventory.remove_states(one, before)
        gone += removed
        stay += kept
    if gone:
        print(f"Removed {shown(sum(file.size for file in gone))} of states.")
    if stay:
        size = shown(sum(file.size for file in stay))
        print(f"Kept {size} that running processes use, or that may not be removed.")


def _clear_rest(folder: Path, whole: bool) -> None:
    """Remove checksums of packages that are gone; whole: and what else is ours."""
    from lrd_harness.store import inventory

    rest = [] if inventory.in_use(folder) else inventory.records_alone(folder)
    if whole:
        rest += [*inventory.budgets(folder), *inventory.scripts(folder)]
    for path in rest:
        path.unlink(missing_ok=True)
    if whole:
        if not inventory.in_use(folder):
            inventory.remove_home(folder)
        inventory.remove_folders(folder)


def _clear_downloads(folder: Path, brought: list[Any]) -> None:
    """Remove packages and converted models; a process with open states may be using any of them."""
    from lrd_harness.store import inventory
    from lrd_harness.store.location import shown

    if not brought:
        return
    if inventory.in_use(folder):
        print("Kept packages and converted models: a running process may be using them.")
        return
    size = 0
    for one in brought:
        try:
            inventory.remove_download(one)
        except OSError as error:
            raise UserError(f"{one.path} cannot be removed ({error.strerror})") from None
        size += one.size
    print(f"Removed {shown(size)} of packages and converted models.")
