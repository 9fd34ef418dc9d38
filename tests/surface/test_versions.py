"""Plugins of another interface are refused, old names said, and code known by what it is."""

from __future__ import annotations

import importlib
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures_packages import Install

import lrd_harness
from lrd_harness import manager, measure, versions
from lrd_harness.contracts import Adapter, Choice, Metric, ModelInfo, PanelMetric
from lrd_harness.errors import UnitError, UserError, told_to
from lrd_harness.guard import Owner
from lrd_harness.hookspecs import hookimpl
from lrd_harness.registration import registered
from lrd_harness.scores import Profile
from lrd_harness.versions import Deprecated

STATES = np.random.default_rng(0).normal(size=(5, 12, 6)).cumsum(0)
CODE = """
from lrd_harness import {imports}

{more}

def measure(states):
    return {values}

@hookimpl
def lrd_metrics():
    return [Metric("mine", measure{fields})]
"""


def code(
    more: str = "", values: str = "{'a': 1.0}", imports: str = "Metric, hookimpl", fields: str = ""
) -> str:
    return CODE.format(more=more, values=values, imports=imports, fields=fields)


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What the user is told, of which nothing was said before."""
    told: list[str] = []
    versions._said.clear()
    with told_to(told.append):
        yield told


def put(folder: Path, source: str, name: str = "mine.py") -> Path:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(source)
    return folder / name


REFUSED = {
    "2": "it is made for plugin interface 2, and this lrd-harness has 1: upgrade lrd-harness",
    "0": "its lrd_interface is 0, not a whole number from 1",
    "True": "its lrd_interface is True, not",
    "'1'": "its lrd_interface is '1', not",
    "None": "its lrd_interface is None, not",
    "1 + 1": "made for plugin interface 2",
}


@pytest.mark.parametrize("made", REFUSED)
def test_a_plugin_for_another_interface_is_refused_by_name(
    made: str, tmp_path: Path, install: Install
) -> None:
    source = code(f"lrd_interface = {made}")
    with pytest.raises(UserError) as refused:
        manager.from_name(str(put(tmp_path, source)))
    assert str(refused.value).startswith(f"plugin {tmp_path / 'mine.py'} cannot be loaded: ")
    assert REFUSED[made] in str(refused.value)
    install("mine", source)
    (broken,) = manager.load().broken  # and nothing else is lost
    assert (broken.name, broken.provider) == ("mine", "lrd-mine 1.2")
    assert REFUSED[made] in broken.reason


def test_the_interface_is_the_reason_where_a_newer_one_has_other_names(tmp_path: Path) -> None:
    source = code("lrd_interface = 2", imports="Metric, Prism, hookimpl")
    with pytest.raises(UserError, match="interface 2, and this lrd-harness has 1: upgrade"):
        manager.from_name(str(put(tmp_path, source)))
    for stated in ("", "lrd_interface = 1", "lrd_interface = 1 + 1"):
        with pytest.raises(UserError, match="cannot import name 'Prism'"):
            manager.from_name(str(put(tmp_path, code(stated, imports="Prism"))))


def test_an_object_says_it_itself_or_its_module(monkeypatch: pytest.MonkeyPatch) -> None:
    class Plugin:
        @hookimpl
        def lrd_metrics(self) -> list[Metric]:
            return [Metric("mine", lambda states: {})]

    assert manager.load((Plugin(),)).get("metric", "mine")
    for owner in (Plugin, sys.modules[__name__]):
        with monkeypatch.context() as patch:
            patch.setattr(owner, "lrd_interface", 3, raising=False)
            with pytest.raises(UserError, match=r"Plugin .*cannot be used: .* interface 3"):
                manager.load((Plugin(),))


def test_an_older_one_is_told_what_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = put(tmp_path, code("lrd_interface = 1"))
    assert manager.from_name(str(file))
    monkeypatch.setattr(versions, "INTERFACE", 2)
    monkeypatch.setitem(versions.DEPRECATED, "lrd_harness.Later", Deprecated("Sooner", 3))
    steps = r"interface 1, and this lrd-harness has 2: write Profile\(.*\) for each list in place "
    with pytest.raises(UserError, match=steps + "of the score `start`, then lrd_interface = 2$"):
        manager.from_name(str(file))


def mine(file: Path) -> Any:
    return manager.load((manager.from_name(str(file)),)).get("metric", "mine")


def test_a_score_start_is_an_old_way_of_which_its_user_is_told_once(
    tmp_path: Path, lines: list[str]
) -> None:
    old = "{'a': [float(h.std()) for h in states[2:]], 'start': 2}"
    new = "{'a': Profile('states', 2, [float(h.std()) for h in states[2:]])}"
    metric = mine(put(tmp_path, code(values=old)))
    scores = [measure(metric, STATES) for _ in range(2)]
    assert lines == [
        "metric mine (mine.py, line 6) uses the score `start`, which goes with plugin interface 2: "
        "write Profile(of, start, values) for each list"
    ]
    replaced = measure(
        mine(put(tmp_path, code(values=new, imports="Metric, Profile, hookimpl"))), STATES
    )
    assert (len(lines), replaced.start, replaced) == (1, scores[0].start, scores[1])
    assert replaced["a"].layers == scores[0]["a"].layers == [2, 3, 4]


def test_other_old_names(tmp_path: Path, lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(versions.DEPRECATED, "lrd_harness.Measure", Deprecated("Metric", 2))
    monkeypatch.setitem(versions.DEPRECATED, "Metric.unit", Deprecated("its description", 2))
    source = code("Metric = Measure", imports="Measure, hookimpl", fields=", unit='nats'")
    assert type(mine(put(tmp_path, source))) is Metric
    goes = "which goes with plugin interface 2: write"
    assert lines == [
        f"mine.py, line 2 uses lrd_harness.Measure, {goes} Metric",
        f"metric 'mine' (mine.py, line 6) uses Metric.unit, {goes} its description",
    ]
    assert not hasattr(lrd_harness, "Measured")


FAULTS = {
    "gone": (Profile("layers", 0, [1.0] * 5), "a: a profile of layers, declared as of nothing"),  # type: ignore[arg-type]
    "declared": (Profile("steps", 0, [1.0] * 4), "a: a profile of steps, declared as of states"),
    "long": (Profile("states", 2, [1.0] * 5), "a list of 5 values, .*: 3 states are there"),
    "late": (Profile("states", 6, []), "a: starts at 6, which is none of 5 states"),
    "early": (Profile("states", -1, [1.0] * 6), "a: starts at -1"),
    "half": (Profile("states", 0.5, [1.0] * 5), "a: starts at 0.5"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_profile_that_does_not_fit(fault: str) -> None:
    profile, reason = FAULTS[fault]
    of: Any = "states" if fault == "declared" else None
    with pytest.raises(UnitError, match=reason):
        measure(Metric("mine", lambda states: {"a": profile}, of=of), STATES)


def test_a_profile_is_counted_from_what_the_metric_was_given() -> None:
    values = {"a": Profile("inner states", 1, np.arange(1.0)), "b": [1.0] * 4}
    given = [np.zeros((12, 6)), *STATES[1:]]  # the first state is left out before
    scores = measure(Metric("mine", lambda states: values), given)
    assert (scores.start, scores["a"].layers, scores["b"].layers) == (1, [3], [1, 2, 3, 4])
    per_text = Metric("mine", lambda states: {"a": Profile("states", 1, [1.0] * 4)}, "tokens")
    with pytest.raises(UnitError, match="a starts at state 1, and a text's values at state 0"):
        measure(per_text, STATES)


def version(file: Path) -> str:
    return str(mine(file).version)


def test_code_is_known_by_what_it_is_not_by_where_it_lies(tmp_path: Path) -> None:
    file = put(tmp_path, code())
    first = version(file)
    assert first.startswith("1+")
    moved = put(tmp_path / "elsewhere", code(), "renamed.py")
    assert version(moved) == first
    file.write_text(code(values="{'a': 2.0}"))  # of the same length, within the same second
    assert version(file) != first
    assert measure(mine(file), STATES)["a"] == 2.0
    assert manager.load().get("metric", "frenet").version == "1"


def test_a_file_that_it_imports_when_it_is_called_is_its_code_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Known by what it held when it was imported."""
    monkeypatch.syspath_prepend(str(tmp_path))
    source = "def measure(states):\n    from late_helper_of_mine import FACTOR\n    return {}\n"
    file = put(tmp_path, code() + source)
    helper = put(tmp_path, "FACTOR = 3\n", "late_helper_of_mine.py")
    first = version(file)
    helper.write_text("FACTOR = 4\n")
    second = version(file)
    assert second != first
    importlib.import_module("late_helper_of_mine")
    helper.write_text("FACTOR = 5\n")
    assert version(file) == second
    monkeypatch.delitem(sys.modules, "late_helper_of_mine")
    assert version(file) not in (first, second)


def test_a_file_that_it_imports_is_its_code_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    put(tmp_path, "import helper_of_mine as again\nFACTOR = 1\n", "helper_of_mine.py")
    put(tmp_path, "FACTOR = 3\n", "unused_by_mine.py")
    file = put(tmp_path, code("from helper_of_mine import FACTOR"))
    first = version(file)
    put(tmp_path, "FACTOR = 4\n", "unused_by_mine.py")
    assert version(file) == first
    shutil.copy(file, tmp_path / "renamed.py")
    assert version(tmp_path / "renamed.py") == first
    put(tmp_path, "FACTOR = 22\n", "helper_of_mine.py")
    monkeypatch.delitem(sys.modules, "helper_of_mine")
    assert version(file) != first


def test_of_a_package_all_code_counts_and_what_was_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code that is edited after it was imported is not what runs, until it is reloaded."""
    monkeypatch.syspath_prepend(str(tmp_path))
    put(tmp_path / "package_of_mine", code("from . import inner"), "__init__.py")
    inner = put(tmp_path / "package_of_mine", "FACTOR = 1\n", "inner.py")
    module = importlib.import_module("package_of_mine")

    def of() -> str:
        return str(manager.load((module,)).get("metric", "mine").version)

    first = of()
    put(tmp_path / "package_of_mine" / "__pycache__", "", "inner.cpython-311.pyc")
    put(tmp_path / "package_of_mine", "", "notes.txt")
    inner.write_text("FACTOR = 2\n")
    assert of() == first
    importlib.reload(module)
    assert of() != first
    inner.write_text("FACTOR = 1\n")
    importlib.reload(module)
    assert of() == first


def test_an_installed_one_has_its_release_too(install: Install) -> None:
    seen = {}
    for release in ("1.2", "1.3", "1.2"):
        install("mine", code(), version=release)
        plugins = manager.load()
        (stranger,) = plugins.strangers
        assert stranger.owner.provider == f"lrd-mine {release}"
        assert plugins.get("metric", "mine").version == f"1+{stranger.version}"
        assert seen.setdefault(release, stranger.version) == stranger.version
    assert [key for key, value in seen.items() if value.startswith(f"{key}.")] == ["1.2", "1.3"]
    assert len(set(seen.values())) == 2


def test_metrics_of_models_and_of_panels_have_names_of_their_own(tmp_path: Path) -> None:
    class Plugin:
        def __init__(self, *names: str) -> None:
            self.metrics, *self.panels = names

        @hookimpl
        def lrd_metrics(self) -> list[Metric]:
            return [Metric(self.metrics, lambda states: {}, selection=Choice("a"))]

        @hookimpl
        def lrd_panel_metrics(self) -> list[PanelMetric]:
            return [PanelMetric(name, lambda states, families: {}) for name in self.panels]

    assert manager.load((Plugin("one", "two"),)).names("panel metric")[-1] == "two"
    with pytest.raises(UserError, match="two of the name 'one'"):
        manager.load((Plugin("one", "one"),))
    for pair in ((Plugin("one", "two"), Plugin("two")), (Plugin("x", "frenet"),)):
        with pytest.raises(UserError, match="two plugins provide a metric named"):
            manager.load(pair)


@pytest.mark.parametrize("fixed", [False, True])
def test_the_states_of_an_adapter_are_known_by_its_code(fixed: bool) -> None:
    """A model whose identity cannot be set is refused: its states would be an earlier version's."""

    class Opened:
        info = ModelInfo(1, 1, 1, "mean", 8, "mine")

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return None

    class Fixed(Opened):
        @property
        def identity(self) -> dict[str, str]:
            return {"adapter": "mine"}

    class Open(Opened):
        def __init__(self) -> None:
            self.identity = {"adapter": "mine"}

    made: Any = Fixed if fixed else Open
    adapter = Adapter("mine", lambda checkpoint: True, lambda checkpoint, options: made())
    opens = registered(adapter, "adapter", Owner("mine"), "3f6d96d8").open
    if fixed:
        with pytest.raises(UserError, match="a model whose identity cannot be set: make it a "):
            opens({}, {})
    else:
        expected = {"adapter": "mine", "adapter_version": "mine 1+3f6d96d8"}
        assert opens({}, {}).identity == expected
        own = registered(adapter, "adapter", Owner("mine", built_in=True)).open
        assert own({}, {}).identity == {"adapter": "mine"}


def test_what_goes_is_in_the_docs() -> None:
    page = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text("utf-8").replace("`", "")
    for old, entry in versions.DEPRECATED.items():
        row = rf"interface {entry.gone}:\n(?:.*\n)+?\| {re.escape(entry.new)}.* \| .*"
        assert re.search(row + re.escape(old.replace("`", "").removeprefix("the ")), page)
