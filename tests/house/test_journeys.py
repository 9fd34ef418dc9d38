"""The journeys of docs/developers.md: their files are few, there, and passed in a small run."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import FrameType

import pytest
import running

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/developers.md").read_text(encoding="utf-8")
MOST = {"A text, from data set to leaderboard": 10, "A metric's value": 8, "A pruned variant": 12}


def files(journey: str) -> list[str]:
    """The files of a journey, in order."""
    section = PAGE.split(f"### {journey}\n", 1)[1].split("\n#", 1)[0]
    return re.findall(r"^\d+\. `([\w/]+\.py)` \w", section, re.MULTILINE)


@pytest.fixture(scope="module")
def passed(place: Path, tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The files in which something was called in a small run with pruning."""
    seen: set[str] = set()

    def see(frame: FrameType, event: str, argument: object) -> None:
        seen.add(frame.f_code.co_filename)  # a call: lines are not looked at

    out = tmp_path_factory.mktemp("journey") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LRD_HARNESS_CACHE", str(out.parent / "cache"))
        sys.settrace(see)
        try:
            code = running.run(
                out, [place / "bert"], place / "data", "--prune", "frenet", tasks=["STSBenchmark"]
            )
        finally:
            sys.settrace(None)
    assert code == 0
    return {str(Path(name).relative_to(ROOT)) for name in seen if name.startswith(str(ROOT))}


@pytest.mark.slow
@pytest.mark.parametrize("journey", MOST)
def test_few_files_and_each_is_passed(journey: str, passed: set[str]) -> None:
    named = files(journey)
    assert 5 <= len(named) <= MOST[journey]
    assert [name for name in named if name not in passed] == []
