"""Plugins are found, looked up by name, and named with their distribution where they are broken."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fixtures_packages import Install
from running import one_line

from lrd_harness import hookimpl, manager
from lrd_harness.cli import main
from lrd_harness.contracts import Metric, Reporter
from lrd_harness.errors import UserError, told_to

Shown = pytest.CaptureFixture[str]


class Metrics:
    """A plugin with some metrics of these names."""

    def __init__(self, *names: str, called: str = "metrics-of-the-test") -> None:
        self.names, self.__name__ = names, called

    @hookimpl
    def lrd_metrics(self) -> list[Metric]:
        """One record a name."""
        return [Metric(name, measure=lambda states: {}) for name in self.names]


HOOK = """
from lrd_harness import Metric, Reporter, TaskFamily, hookimpl
@hookimpl
def {hook}():
    {body}
"""


def metrics(*names: str) -> str:
    """The source of a plugin with these metrics."""
    records = (
        f"Metric({name!r}, lambda states: {{'value': float(len(states))}})" for name in names
    )
    return HOOK.format(hook="lrd_metrics", body=f"return [{', '.join(records)}]")


def test_built_ins_are_found() -> None:
    plugins = manager.load()
    assert plugins.broken == []
    assert {"frenet", "nrs", "gfmi"} <= set(plugins.names("metric"))
    assert {"sentence-transformers", "encoder", "decoder"} <= set(plugins.names("adapter"))
    assert {"mteb", "texts", "LeeDocumentSTS"} <= set(plugins.names("task"))
    assert plugins.names("reporter")[:4] == ["table", "md", "csv", "json"]


def test_objects_with_hooks_are_found_and_managers_share_nothing() -> None:
    class Reporters:
        """One name in two kinds is no clash."""

        @hookimpl
        def lrd_reporters(self) -> list[Reporter]:
            return [Reporter("frenet", write=lambda report: "")]

    class Wrong:
        @hookimpl
        def lrd_metrics(self) -> list[Any]:
            return [Metric("half", len), Reporter("x", write=lambda report: "")]

    plugins = manager.load((Metrics("third"), Reporters()))
    assert plugins.get("metric", "third").name == "third"
    assert plugins.get("reporter", "frenet") is not plugins.get("metric", "frenet")
    assert "third" not in manager.load().names("metric")
    with pytest.raises(UserError, match="lrd_metrics returned Reporter, not a metric"):
        manager.load((Wrong(),))


def test_a_clash_of_a_plugin_that_was_named_names_both() -> None:
    with pytest.raises(UserError) as clash:
        manager.load((Metrics("nrs"),))
    for part in ("metric", "'nrs'", "lrd_harness.plugins.metrics.nrs", "metrics-of-the-test"):
        assert part in str(clash.value)
    with pytest.raises(UserError, match="first-one and second-one"):
        manager.load((Metrics("a", called="first-one"), Metrics("a", called="second-one")))


def test_an_installed_plugin_that_clashes_is_left_out_and_said(
    install: Install, tmp_path: Path, capsys: Shown
) -> None:
    """Whole: what else it has may count on its own metric of that name."""
    install("lookalike", metrics("more", "frenet"))
    install("fine", metrics("fine"))
    assert main(["plugins"]) == 0
    assert "lrd-lookalike 1.2" in capsys.readouterr().out
    plugins = manager.load()
    assert plugins.entries["metric"]["frenet"].provider == "lrd_harness.plugins.metrics.frenet"
    assert plugins.get("metric", "fine").measure([1, 2]) == {"value": 2.0}
    lines: list[str] = []
    with told_to(lines.append):
        plugins.tell()
    (line,) = lines
    for part in ("lookalike", "lrd-lookalike 1.2 is left out", "'frenet'", "metrics.frenet"):
        assert part in line
    with pytest.raises(UserError, match="named 'frenet'"):  # nothing else bears this name
        plugins.get("metric", "more")
    (tmp_path / "s.csv").write_text("model,T1\na,0.5\nb,0.4\nc,0.3\n")
    (tmp_path / "m.csv").write_text("model,width\na,64\nb,128\nc,192\n")
    files = ["--actual", str(tmp_path / "s.csv"), "--models-info", str(tmp_path / "m.csv")]
    assert main(["leaderboard", *files]) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert "'lookalike' of lrd-lookalike 1.2 is left out" in line  # once a command


def test_of_two_strangers_of_one_name_both_are_left_out(install: Install) -> None:
    install("one", metrics("same"))
    install("two", metrics("same"))
    plugins = manager.load()
    assert {broken.name for broken in plugins.broken} == {"one", "two"}
    with pytest.raises(UserError, match=r"'same': lrd-one 1\.2 and lrd-two 1\.2"):
        plugins.get("metric", "same")


def test_of_two_entry_points_of_one_name_the_second_is_left_out(install: Install) -> None:
    install("same", metrics("one"), distribution="lrd-first")
    install("same", metrics("two"), distribution="lrd-second")
    plugins = manager.load()
    assert len({"one", "two"} & set(plugins.names("metric"))) == 1
    (broken,) = plugins.broken
    assert broken.name == "same"
    assert "entry point of the same name" in broken.reason


def test_reporters_that_would_write_one_file_clash(install: Install) -> None:
    body = "return [Reporter('my', lambda b: 'x', '.md')]"
    install("markdown", HOOK.format(hook="lrd_reporters", body=body))
    (broken,) = manager.load().broken
    assert "report named 'leaderboard.md'" in broken.reason


def test_a_family_of_tasks_that_fails_costs_no_other_its_own(
    install: Install, capsys: Shown
) -> None:
    body = "return [TaskFamily('odd', lambda: 1 / 0, print, bare=True, offline=True)]"
    install("odd", HOOK.format(hook="lrd_tasks", body=body))
    assert main(["tasks"]) == 0
    printed = capsys.readouterr()
    assert "LeeDocumentSTS" in printed.out
    (line,) = printed.err.splitlines()
    assert line.startswith("the tasks of odd are not known: ZeroDivisionError: ")
    assert line.endswith("(lrd_odd.py, line 5)")


@pytest.mark.parametrize(
    ("kind", "name", "meant"),
    [
        ("metric", "frennet", "frenet"),
        ("metric", "NRS", "nrs"),
        ("adapter", "sentence-transformer", "sentence-transformers"),
        ("reporter", "jsn", "json"),
    ],
)
def test_unknown_names_get_did_you_mean(kind: str, name: str, meant: str) -> None:
    with pytest.raises(UserError, match=f"unknown {kind} '{name}'. Did you mean {meant}"):
        manager.load().get(kind, name)


BROKEN = {  # a plugin's source, what is said of it, and of it as a file that --load names
    "no import": ("import not_there_at_all", "ModuleNotFoundError"),
    "leaves": ("raise SystemExit('not today')", "not today"),
    "moves": ("import os; os.chdir('/'); 1 / 0", "ZeroDivisionError"),
    "no message": (
        "class Mute(BaseException):\n    __str__ = None\nraise Mute",
        "Mute: its message cannot be shown",
    ),
    "hook raises": (HOOK.format(hook="lrd_metrics", body="raise OSError('no disk')"), "no disk"),
    "no list": (HOOK.format(hook="lrd_metrics", body="pass"), "TypeError"),
    "wrong record": (
        HOOK.format(hook="lrd_metrics", body="return [Metric('half', measure=len), 'frenet2']"),
        "lrd_metrics returned str, not a metric",
    ),
    "misspelt hook": (
        HOOK.format(hook="lrd_metric", body="return []"),
        "implements lrd_metric; the hooks are lrd_metrics",
    ),
    "arguments": (
        "from lrd_harness import hookimpl\n@hookimpl\ndef lrd_metrics(config): return []",
        "PluginValidationError",
    ),
    "no hook": ("x = 1", "implements no hook at all"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_plugin_is_named_and_stops_only_who_asks_for_it(
    fault: str, install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Shown
) -> None:
    """An installed one, and one that the command names, which prints nothing on our output."""
    monkeypatch.chdir(tmp_path)
    source, reason = BROKEN[fault]
    install("wobbly", f"print('PRINTED')\n{source}")
    install("fine", metrics("fine"))
    plugins = manager.load()
    assert [(b.name, b.provider) for b in plugins.broken] == [("wobbly", "lrd-wobbly 1.2")]
    assert plugins.names("metric")[-1] == "fine"
    assert "half" not in plugins.names("metric")

    assert main(["plugins"]) == 0
    shown = capsys.readouterr().out
    assert shown.index("frenet") < shown.index("wobbly")
    assert "lrd-wobbly1.2" in "".join(shown.split())  # the table breaks lines

    command = ["run", "--models", "x/y", "--tasks", "STSBenchmark", "--output", "out"]
    for named, line in (
        (["--plugins", "wobbly"], "'wobbly' of lrd-wobbly 1.2 is broken"),
        (["--load", "lrd_wobbly.py"], "plugin lrd_wobbly"),
    ):
        assert main([*command, *named]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert line in printed.err.splitlines()[-1]
        assert reason in printed.err.splitlines()[-1]
    assert os.getcwd() == os.path.realpath(tmp_path)
    assert not (tmp_path / "out").exists()


def test_files_beside_a_file_are_imported_wherever_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when it is called; one of another folder is not taken for it."""
    path = list(sys.path)
    for where, value in (("one", 1), ("two", 2)):
        (tmp_path / where).mkdir()
        (tmp_path / where / "beside_it.py").write_text(f"VALUE = {value}\n")
        (tmp_path / where / "late.py").write_text(
            "from lrd_harness import Metric, hookimpl\n"
            "def measure(states):\n"
            "    from beside_it import VALUE\n"
            "    return {'x': VALUE}\n"
            "@hookimpl\n"
            "def lrd_metrics():\n"
            "    return [Metric('late', measure)]\n"
        )
    late = manager.load_named([str(tmp_path / "one" / "late.py")]).get("metric", "late")
    assert late.measure([])["x"] == 1
    monkeypatch.setitem(sys.modules, "beside_it", sys.modules["beside_it"])
    assert sys.path == path
    with pytest.raises(UserError, match=r"beside_it.py beside it is hidden by .*rename one"):
        manager.load_named([str(tmp_path / "two" / "late.py")])


def test_a_file_that_is_not_there_is_one_line(capsys: Shown) -> None:
    assert main(["run", "--load", "not-there.py"]) == 2
    assert "not-there.py" in one_line(capsys)


@pytest.mark.slow
def test_what_only_lists_loads_nothing_heavy() -> None:
    code = """
import sys
from lrd_harness.cli import main
for command in ("--help", "run --help", "plugins", "suites", "tasks", "models"):
    try:
        code = main(command.split())
    except SystemExit as stop:
        code = stop.code
    heavy = {"torch", "mteb", "transformers", "datasets", "scipy", "sklearn"} & set(sys.modules)
    assert code == 0 and not heavy, (command, code, heavy)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
