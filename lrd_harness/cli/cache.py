"""`lrd-harness cache`: what is kept between runs, whether it is sound, and removing it."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from lrd_harness import manager
from lrd_harness.cli.arguments import show, table
from lrd_harness.errors import UserError, tell
from lrd_harness.manager import Plugins
from lrd_harness.progress import Display
from lrd_harness.report import Cell, Report
from lrd_harness.store import files, inventory, location
from lrd_harness.store.inventory import Item, Stored

AGE = re.compile(r"(\d+(?:\.\d+)?)([hdw])")
SECONDS = {"h": 3600, "d": 86_400, "w": 604_800}


def cache_command(arguments: argparse.Namespace) -> int:
    """Show, verify or clear the cache. Returns the exit code."""
    plugins, folder = manager.load(), location.cache_dir().resolve()
    if arguments.action == "info":
        info(folder, plugins)
    elif arguments.action == "verify":
        return verify(folder, arguments.repair)
    else:
        clear(folder, arguments)
    return 0


def _size(items: Iterable[Item | Stored]) -> str:
    return location.shown(sum(item.size for item in items))


def info(folder: Path, plugins: Plugins) -> None:
    """Print where the cache is and what is in it."""
    inventory.remove_leftovers(folder)
    limit, stores = location.limit(), inventory.stores(folder)
    kinds: list[tuple[Cell, ...]] = []
    for kind in inventory.DOWNLOADS:
        items = inventory.downloads(folder, kind)
        kinds.append((kind, len(items), _size(items), None))
    bound = f"of {location.shown(limit)}" if limit is not None else "no limit"
    number = sum(len(store.states) for store in stores)
    kinds.append((inventory.STATES, number, _size(stores), bound))
    by_model: dict[str, list[Stored]] = {}
    for store in stores:
        if store.states:
            by_model.setdefault(store.model, []).append(store)
    by_size = sorted(by_model.items(), key=lambda pair: -sum(store.size for store in pair[1]))
    models = [(m, inventory.texts(parts), _size(parts), _last_used(parts)) for m, parts in by_size]
    kept = table("Kept between runs", ("kind", "number", "size", "limit"), kinds)
    states = table("States", ("model", "texts", "size", "last used"), models)
    print(f"{folder}\n")
    show(Report("Cache", (kept, states)), plugins)
    _name_strangers(folder)


def _last_used(stores: Iterable[Stored]) -> str:
    newest = max(item.used for store in stores for item in store.states)
    # 0: a time in the future
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(newest)) if newest else "unknown"


def _name_strangers(folder: Path) -> None:
    """Name what is not ours."""
    for path in inventory.strangers(folder):
        what = "a link, not followed" if path.is_symlink() else "not the harness's"
        tell(f"{path.relative_to(folder)}: {what}, left alone")


def verify(folder: Path, repair: bool) -> int:
    """Read all states; name those that are damaged, and remove them. Returns the exit code."""
    inventory.remove_leftovers(folder)
    stores = inventory.stores(folder)
    left = damaged = 0
    with Display().stage("verifying states", "stores") as advance:
        for done, store in enumerate(stores):
            advance(done, len(stores))
            for path, reason in inventory.damaged(store):
                removed = ""
                if repair:
                    with suppress(OSError):  # its texts are then read again
                        path.unlink(missing_ok=True)
                        removed = "; removed"
                damaged, left = damaged + 1, left + (not removed)
                print(f"{path.relative_to(folder)}: {reason}{removed} ({store.model})")
        advance(len(stores), len(stores))
    _name_strangers(folder)
    number = sum(len(store.states) for store in stores)
    print(f"{number:,} files of states, {_size(stores)}: {damaged or 'none'} damaged")
    return 1 if left else 0


def clear(folder: Path, arguments: argparse.Namespace) -> None:
    """Remove what is asked for, after asking."""
    model, everything = arguments.model, arguments.all
    if model and (arguments.packages or everything):
        raise UserError("--model goes with states: --packages and --all know no models")
    age = _age(arguments.older_than)
    inventory.remove_leftovers(folder)
    named = bool(model or everything)  # what is named goes, in use or not
    spared = 0 if named else inventory.IN_USE
    before = files.clock(folder) - (spared if age is None else age)
    stores = inventory.stores(folder)
    running = (
        age is None
        and not named
        and any(inventory.in_use(item) for store in stores for item in store.states)
    )
    if arguments.packages:
        stores = []
    if model:
        stores = [store for store in stores if store.of(model)]
        if not stores:
            raise UserError(f"no states of a model {model}: see `lrd-harness cache info`")
    states = [item for store in stores for item in store.states]
    recent = [item for item in states if item.used > before]
    old = [item for item in states if item.used <= before]
    kinds = inventory.DOWNLOADS if arguments.packages or everything else ()
    downloads = [item for kind in kinds for item in inventory.downloads(folder, kind)]
    if running and downloads:
        print("Kept packages and converted models: a run of the last hour may be using them.")
        downloads = []
    downloads = [item for item in downloads if age is None or item.used <= before]
    parts = [f"{_size(old)} of states"] if old else []
    if downloads:
        parts.append(f"{len(downloads)} packages and converted models ({_size(downloads)})")
    if not _agreed(" and ".join(parts), folder, arguments.yes):
        print("Nothing was removed.")
        return
    whole = everything and age is None
    if whole:
        inventory.remove_leftovers(folder, older=files.ANY)
        stores = inventory.stores(folder)
    removed = [inventory.remove_states(store, before) for store in stores]
    gone = [item for items, _ in removed for item in items]
    if gone:
        print(f"Removed {_size(gone)} of states.")
    if age is None and recent:
        print(f"Kept {_size(recent)} used within the last hour: --older-than 0h takes them too.")
    if stay := [item for _, items in removed for item in items if item.used <= before]:
        print(f"Kept {_size(stay)} that may not be removed.")
    _remove_downloads(downloads)
    if not (states or downloads or gone):
        print("There is nothing to remove.")
    if age is None and kinds and not running:
        inventory.remove_rest(folder, whole)
    _name_strangers(folder)


def _remove_downloads(downloads: Sequence[Item]) -> None:
    for item in downloads:
        try:
            inventory.remove_download(item)
        except OSError as error:
            raise UserError(f"{item.path} cannot be removed ({error.strerror})") from None
    if downloads:
        print(f"Removed {_size(downloads)} of packages and converted models.")


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
