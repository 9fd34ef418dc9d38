"""Layer-wise representation dynamics: every layer of a language model, measured and evaluated."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# In a checkout `plugins/` and `tasks/` lie beside this package; installed, they lie within it.
if (Path(__file__).parent.parent / "setup.cfg").is_file():
    __path__.append(str(Path(__file__).parent.parent))

if TYPE_CHECKING:
    from lrd_harness.contracts import (
        Adapter as Adapter,
    )
    from lrd_harness.contracts import (
        Choice as Choice,
    )
    from lrd_harness.contracts import (
        Metric as Metric,
    )
    from lrd_harness.contracts import (
        Task as Task,
    )
    from lrd_harness.hookspecs import hookimpl as hookimpl
    from lrd_harness.measuring import measure as measure
    from lrd_harness.measuring import summaries as summaries

_EXPORTS = {
    "hookimpl": "hookspecs",
    "measure": "measuring",
    "summaries": "measuring",
    **dict.fromkeys(
        (
            "Adapter Checkpoint Choice Metric ModelInfo ModelOptions ModelView Pruner Reporter "
            "Request Score Task TaskFamily TaskOptions Text"
        ).split(),
        "contracts",
    ),
    **dict.fromkeys(
        ("UserError UnitError NotEnoughTexts NotEnoughTokens NotFinite DegenerateState").split(),
        "errors",
    ),
}


def __getattr__(name: str) -> Any:
    """Import on first use, so that `lrd-harness --help` does not wait for torch."""
    if name not in _EXPORTS:
        raise AttributeError(f"module 'lrd_harness' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(f"lrd_harness.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
