"""`lrd-harness cache`: what is kept between runs, whether it is sound, and removing it."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from lrd_harness import manager
from lrd_harness.cli.arguments import show
from lrd_harness.errors import UserError, tell
from lrd_harness.progress import Display
from lrd_harness.report import Column, Report, Table
from lrd_harness.store import files, inventory, location
from lrd_harness.store.inventory import Item, Stored

CLEAR = """\
examples:
  lrd-harness cache clear --older-than 30d
      states that were not used for 30 days (also 12h, 2w)
  lrd-harness cache clear --model intfloat/e5-small-v2
  lrd-harness cache clear --all --yes

What was used within the last hour is kept, as a run may be using it, unless
--older-than says otherwise (0h: all). Files that are not the harness's are named
and left alone; links are not followed."""

AGE = re.compile(r"(\d+(?:\.\d+)?)([hdw])")
SECONDS = {"h": 3600, "d": 86_400, "w": 604_800}


def cache_arguments(sub: Any) -> None:
    does = sub.add_subparsers(dest="action", metavar="ACTION", required=True)
    does.add_parser("info", help="where it is, and how large", description=sub.description)
    what = "read all states and compare their checksums"
    one = does.add_parser("verify", help=what, description=f"{what.capitalize()}.")
    one.add_argument("--repair", action="store_true", help="remove damaged files")
    one.epilog = "exit codes: 0 all sound, or repaired; 1 some files are damaged; 2 bad input"
    what = "remove states, packages or both"
    one = does.add_parser("clear", help=what, description=f"{what.capitalize()}.", epilog=CLEAR)
    part = one.add_mutually_exclusive_group()
    part.add_argument("--states", action="store_true", help="states that were read (default)")
    part.add_argument("--packages", action="store_true", help="packages and converted models")
    part.add_argument("--all", action="store_true", help="everything")
    one.add_argument("--model", metavar="NAME", help="only states of this model, NAME[@REVISION]")
    one.add_argument(
        "--older-than", metavar="AGE", help="only what was not used, or downloaded, since"
    )
    one.add_argument("--yes", action="store_true", help="do not ask")


def cache(arguments: argparse.Namespace) -> int:
    """Downloaded packages, converted models and the states that were read are kept in
    one folder, so that nothing is downloaded or read twice. All of it may be
    removed: what is needed again comes back.

    LRD_HARNESS_CACHE is the folder, by default one in the user's own cache.
    LRD_HARNESS_CACHE_LIMIT is the size that states may take, as 200GB (default: no
    limit): at the start of a run, what was not used for longest makes room.
    """
    return {"info": info, "verify": verify, "clear": clear}[arguments.action](arguments)


def _folder() -> Path:
    """The cache, without what killed processes have left there."""

    folder = location.cache_dir().resolve()
    inventory.sweep(folder)
    return folder


def _size(items: Iterable[Item | Stored]) -> str:
    return location.shown(sum(item.size for item in items))


def info(arguments: argparse.Namespace) -> int:
    """Print where the cache is and what is in it. Returns the exit code."""
    folder, limit = _folder(), location.limit()
    stores = inventory.stores(folder)
    rows: list[dict[str, Any]] = []
    for kind in inventory.DOWNLOADS:
        found = inventory.downloads(folder, kind)
        rows.append({"kind": kind, "number": len(found), "size": _size(found)})
    count = sum(len(one.states) for one in stores)
    bound = f"of {location.shown(limit)}" if limit is not None else "no limit"
    rows.append({"kind": inventory.STATES, "number": count, "size": _size(stores), "limit": bound})
    columns = (Column("kind", key=True), *map(Column, ("number", "size", "limit")))
    kept = Table("kept", "Kept between runs", columns, rows)
    models: dict[str, list[Stored]] = {}
    for one in stores:
        if one.states:
            models.setdefault(one.model, []).append(one)
    rows = []
    for name, own in sorted(models.items(), key=lambda pair: -sum(one.size for one in pair[1])):
        newest = max(item.used for one in own for item in one.states)  # 0: a time in the future
        date = time.strftime("%Y-%m-%d %H:%M", time.localtime(newest)) if newest else "unknown"
        texts = inventory.texts(own)
        rows.append({"model": name, "texts": texts, "size": _size(own), "last used": date})
    columns = (Column("model", key=True), *map(Column, ("texts", "size", "last used")))
    print(f"{folder}\n")
    show(Report("Cache", (kept, Table("states", "States", columns, rows))), manager.load())
    _name_strangers(folder)
    return 0


def _name_strangers(folder: Path) -> None:
    """Name what is not ours."""
    for path in inventory.strangers(folder):
        what = "a link, not followed" if path.is_symlink() else "not the harness's"
        tell(f"{path.relative_to(folder)}: {what}, left alone")


def verify(arguments: argparse.Namespace) -> int:
    """Read all states; name those that are damaged. Returns the exit code."""
    folder = _folder()
    stores = inventory.stores(folder)
    left = bad = 0
    with Display().stage("verifying states", "stores") as advance:
        for done, one in enumerate(stores):
            advance(done, len(stores))
            for path, reason in inventory.damaged(one):
                removed = ""
                if arguments.repair:
                    with suppress(OSError):  # its texts are then read again
                        path.unlink(missing_ok=True)
                        removed = "; removed"
                bad, left = bad + 1, left + (not removed)
                print(f"{path.relative_to(folder)}: {reason}{removed} ({one.model})")
        advance(len(stores), len(stores))
    _name_strangers(folder)
    count = sum(len(one.states) for one in stores)
    print(f"{count:,} files of states, {_size(stores)}: {bad or 'none'} damaged")
    return 1 if left else 0


def clear(arguments: argparse.Namespace) -> int:
    """Remove what is asked for, after asking. Returns the exit code."""
    if arguments.model and (arguments.packages or arguments.all):
        raise UserError("--model goes with states: --packages and --all know no models")
    age = _age(arguments.older_than)
    folder = _folder()
    named = bool(arguments.model or arguments.all)  # what is named goes, in use or not
    spared = 0 if named else inventory.IN_USE
    before = files.clock(folder) - (spared if age is None else age)
    stores = inventory.stores(folder)
    every = [item for one in stores for item in one.states]
    stores = [] if arguments.packages else stores
    if arguments.model:
        stores = [one for one in stores if one.of(arguments.model)]
        if not stores:
            raise UserError(f"no states of a model {arguments.model}: see `lrd-harness cache info`")
    states = [item for one in stores for item in one.states]
    recent = [item for item in states if item.used > before]
    kinds = inventory.DOWNLOADS if arguments.packages or arguments.all else ()
    brought = [item for kind in kinds for item in inventory.downloads(folder, kind)]
    running = age is None and not named and any(map(inventory.in_use, every))
    if running and brought:
        print("Kept packages and converted models: a run of the last hour may be using them.")
        brought = []
    brought = [item for item in brought if age is None or item.used <= before]
    old = [item for item in states if item.used <= before]
    parts = [f"{_size(old)} of states"] if old else []
    if brought:
        parts.append(f"{len(brought)} packages and converted models ({_size(brought)})")
    if not _agreed(" and ".join(parts), folder, arguments.yes):
        print("Nothing was removed.")
        return 0
    everything = arguments.all and age is None and not running
    if everything:
        inventory.sweep(folder, older=files.ANY)
        stores = inventory.stores(folder)
    removed = [inventory.remove_states(one, before) for one in stores]
    gone, stay = ([item for pair in removed for item in pair[i]] for i in (0, 1))
    if gone:
        print(f"Removed {_size(gone)} of states.")
    if age is None and recent:
        print(f"Kept {_size(recent)} used within the last hour: --older-than 0h takes them too.")
    if stay := [item for item in stay if item.used <= before]:
        print(f"Kept {_size(stay)} that may not be removed.")
    for item in brought:
        try:
            inventory.remove_download(item)
        except OSError as error:
            raise UserError(f"{item.path} cannot be removed ({error.strerror})") from None
    if brought:
        print(f"Removed {_size(brought)} of packages and converted models.")
    if not (old or brought or recent or gone):
        print("There is nothing to remove.")
    if age is None and (arguments.all or arguments.packages) and not running:
        inventory.remove_rest(folder, everything)
    _name_strangers(folder)
    return 0


def _age(text: str | None) -> float | None:
    """Seconds of an age such as 30d."""
    if text is None:
        return None
    match = AGE.fullmatch(text)
    if match is None:
        raise UserError(f"--older-than {text}: not an age such as 30d, 12h or 2w")
    return float(match[1]) * SECONDS[match[2]]


def _agreed(what: str, folder: Path, yes: bool) -> bool:
    """Whether it may be removed. Raises UserError where nobody can be asked."""
    if yes or not what:
        return True
    if not sys.stdin.isatty():
        raise UserError(f"this would remove {what} from {folder}: give --yes")
    print(f"Remove {what} from {folder}? [y/N] ", end="", flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
