"""Whether a mteb task's data can be had, asked before any model is opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lrd_harness.errors import UserError


def check_reachable(metadata: Any, folder: Path | None) -> None:
    """Raises UserError if the data are neither in the hub's cache nor on a hub within reach."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError

    path = metadata.dataset["path"]
    if Path(path).exists():
        return
    cached = Path(constants.HF_HUB_CACHE) / f"datasets--{path.replace('/', '--')}" / "snapshots"
    if cached.is_dir() and any(cached.iterdir()):
        return
    looked = f" and not in {folder / metadata.name}" if folder else ""
    try:
        HfApi().dataset_info(path, revision=metadata.dataset.get("revision"), timeout=20)
    except HfHubHTTPError as error:
        reason = f"the hub refuses them ({str(error).splitlines()[0]})"
    except Exception:  # every transport has its own errors; all mean that nothing answers
        reason = "the hub is out of reach"
    else:
        return
    raise UserError(
        f"{metadata.name}: its data ({path}) are not on this machine{looked}, and {reason}. "
        f"--task-data DIR reads DIR/{metadata.name}/SPLIT.jsonl instead."
    )
