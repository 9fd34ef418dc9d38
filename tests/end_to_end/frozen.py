"""Recorded expectations: expected/NAME.json, written where LRD_FREEZE=1 is set, else compared.

They were recorded from the code as it was before it was rebuilt inside. A number is to be written
again only where a change of results is wanted, and told in the changelog.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parent / "expected"
FREEZE = "LRD_FREEZE"
RESAMPLED = ("low", "high", "lead_stderr")  # how names of numbers end that come of random draws
SHOWN = 20  # differences that a failure lists


class Tolerance(NamedTuple):
    """How near a number has to be; digits: the significant ones that are recorded."""

    relative: float
    absolute: float
    digits: int


EXACT = Tolerance(1e-9, 1e-12, 13)  # of float64 numbers alone
SUMS = Tolerance(1e-5, 2e-6, 8)  # that hang on sums in float32, as all values of models
DRAWS = 1e-3  # absolute, of intervals by resampling


def expect(name: str, found: Any, tolerance: Tolerance = SUMS) -> None:
    """Compare with expected/NAME.json, or record it there."""
    path = FOLDER / f"{name}.json"
    if os.environ.get(FREEZE) == "1":
        FOLDER.mkdir(exist_ok=True)
        path.write_text(_written(_rounded(found, tolerance.digits)), encoding="utf-8")
        return
    expected = json.loads(path.read_text(encoding="utf-8"))
    told = list(differences(expected, _plain(found), tolerance))
    shown = "\n".join(told[:SHOWN])
    assert not told, f"{len(told)} differences from {path.name}:\n{shown}"


def differences(
    expected: Any, found: Any, tolerance: Tolerance, at: tuple[str, ...] = ()
) -> Iterator[str]:
    """A line for each value that is missing, new or another."""
    where = " / ".join(at)
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in expected.keys() | found.keys():
            if key not in found or key not in expected:
                yield f"{where} / {key}: {'gone' if key in expected else 'new'}"
            else:
                yield from differences(expected[key], found[key], tolerance, (*at, key))
    elif isinstance(expected, list) and isinstance(found, list):
        if len(expected) != len(found):
            yield f"{where}: {len(expected)} items expected, {len(found)} found"
        for i, pair in enumerate(zip(expected, found, strict=False)):
            yield from differences(*pair, tolerance, (*at, str(i)))
    elif not _same(expected, found, tolerance, at):
        yield f"{where}: {expected!r} expected, {found!r} found"


def _same(expected: Any, found: Any, tolerance: Tolerance, at: tuple[str, ...]) -> bool:
    numbers = all(type(one) in (int, float) for one in (expected, found))
    if not numbers:
        return type(expected) is type(found) and bool(expected == found)
    name = next((part for part in reversed(at) if not part.isdigit()), "")
    absolute = DRAWS if name.endswith(RESAMPLED) else tolerance.absolute
    return math.isclose(expected, found, rel_tol=tolerance.relative, abs_tol=absolute)


def _plain(found: Any) -> Any:
    """As JSON gives it back."""
    return json.loads(json.dumps(found))


def _rounded(found: Any, digits: int) -> Any:
    if isinstance(found, dict):
        return {str(key): _rounded(value, digits) for key, value in found.items()}
    if isinstance(found, (list, tuple)):
        return [_rounded(value, digits) for value in found]
    return float(f"{found:.{digits}g}") if isinstance(found, float) else found


def _written(content: Any) -> str:
    """JSON with a line for each item of the first two levels, so that a change reads well."""
    return _lines(content, 2) + "\n"


def _lines(content: Any, depth: int) -> str:
    if depth == 0 or not isinstance(content, (dict, list)) or not content:
        return json.dumps(content, ensure_ascii=False)
    if isinstance(content, list):
        return "[\n" + ",\n".join(_lines(one, depth - 1) for one in content) + "\n]"
    named = (
        f"{json.dumps(k, ensure_ascii=False)}: {_lines(v, depth - 1)}" for k, v in content.items()
    )
    return "{\n" + ",\n".join(named) + "\n}"
