"""`lrd-harness plugins new` and `show`, and --load on every command."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from running import one_line

from lrd_harness import manager
from lrd_harness.cli import COMMANDS, main
from lrd_harness.cli.options import TEMPLATES
from lrd_harness.cli.plugins import USES

Shown = pytest.CaptureFixture[str]
KINDS = sorted(path.name.partition(".")[0] for path in TEMPLATES.glob("*.py.txt"))
METRIC = """
from lrd_harness import Choice, Metric, hookimpl
print("imported")


def measure(states, power: float = 1.5, how="mean", most=None):
    '''How far texts lie
    apart.

    Not shown.
    '''
    return {"far": 1.0}


@hookimpl
def lrd_metrics():
    laws = frozenset({"scaling", "permutation"})
    return [Metric("far", measure, selection=Choice("far", "min"), invariances=laws)]
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    Path("far.py").write_text(METRIC)


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_package(kind: str, capsys: Shown, tmp_path: Path) -> None:
    assert main(["plugins", "new", kind, "mine_2", "--output", "here/package"]) == 0
    package, printed = Path("here/package"), capsys.readouterr().out
    made = {path.relative_to(package).as_posix() for path in package.rglob("*") if path.is_file()}
    assert made == {"README.md", "pyproject.toml", "src/mine_2.py", "tests/test_mine_2.py"}
    assert all(file in printed for file in made)
    assert not {"NAME", "KIND", "HOOK", "USE"} & {
        word for file in made for word in (package / file).read_text().split()
    }
    assert [path.name for path in Path("here").iterdir()] == ["package"]  # nothing half made
    project = tomllib.loads((package / "pyproject.toml").read_text())
    assert project["project"]["entry-points"]["lrd_harness"] == {"mine_2": "mine_2"}
    plugins = manager.load_named(["here/package/src/mine_2.py"])
    mine = [kind for kind in manager.KINDS if "mine_2" in plugins.names(kind)]
    assert len(mine) == 1
    assert USES[mine[0]].format("mine_2") in printed
    assert main(["plugins", "show", "here/package/src/mine_2.py"]) == 0
    assert f"{mine[0].capitalize()} mine_2" in capsys.readouterr().out
    before = {file: (package / file).read_text() for file in made}
    assert main(["plugins", "new", kind, "mine_3", "--output", "here/package"]) == 2
    assert "here/package is there already" in one_line(capsys)
    assert before == {file: (package / file).read_text() for file in made}
    ruff = ["ruff", "check", "--no-cache", str(package)]
    for command in (ruff, ["ruff", "format", "--check", "--no-cache", str(package)]):
        done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_new_packages_pass_their_own_tests() -> None:
    names = {kind: f"my_{kind.replace('-', '_')}" for kind in KINDS}
    for kind, name in names.items():
        assert main(["plugins", "new", kind, name]) == 0
    places = " ".join(str(Path(name, "src").resolve()) for name in names.values())
    more = ["-q", "-p", "no:cacheprovider", "-o", f"pythonpath={places}", *names.values()]
    done = subprocess.run([sys.executable, "-m", "pytest", *more], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(names)} passed" in done.stdout


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("My-Metric", "My-Metric is no name for a module: a-z, 0-9 and _, as my_metric"),
        ("2nd", "no name for a module"),
        ("../up", "no name for a module: a-z, 0-9 and _, as up"),
        ("__init__", "no name for a module: a-z, 0-9 and _, as init"),
        ("größe", "no name for a module"),
        ("class", "class is no name for a module"),
        ("torch", "there is a module torch already"),
        ("random", "there is a module random already"),
        ("lrd_harness", "there is a module lrd_harness already"),
        ("frenet", "there is a metric frenet already"),
        ("measure", "the example of a metric uses the word measure"),
        ("lrd_metrics", "the example of a metric uses the word lrd_metrics"),
        ("a" * 5000, "cannot be made (File name too long)"),
    ],
)
def test_names_that_a_new_metric_cannot_have(name: str, line: str, capsys: Shown) -> None:
    assert main(["plugins", "new", "metric", name]) == 2
    assert line in one_line(capsys)
    assert [path.name for path in Path().iterdir()] == ["far.py"]


def test_where_a_new_package_cannot_be(capsys: Shown) -> None:
    Path("file").write_text("mine")
    Path("folder/below").mkdir(parents=True)
    assert main(["plugins", "new", "metric", "folder"]) == 2
    assert "folder is there already: give another --output DIR" in one_line(capsys)
    assert main(["plugins", "new", "command", "run"]) == 2
    assert "the example of a command uses the word run" in one_line(capsys)
    assert main(["plugins", "new", "command", "merge"]) == 2
    assert "there is a command merge already" in one_line(capsys)
    for out in ("file", "file/below"):
        assert main(["plugins", "new", "metric", "mine", "--output", out]) == 2
        one_line(capsys)
    assert Path("file").read_text() == "mine"
    Path("empty").mkdir()
    assert main(["plugins", "new", "metric", "mine", "--output", "empty"]) == 0
    assert Path("empty/src/mine.py").is_file()


def shown(capsys: Shown, *typed: str) -> str:
    assert main(["plugins", "show", *typed]) == 0
    return " ".join(capsys.readouterr().out.split())


def test_show_tells_what_a_plugin_offers(capsys: Shown) -> None:
    text = shown(capsys, "far", "--load", "far.py")
    for words in (
        "Metric far",
        "ranks models by far, lower is better; How far texts lie apart.",
        "needs pooled",
        "invariances permutation, scaling",
        "power float 1.5",
        "how str 'mean'",
        "lrd-harness run --plugins far --load far.py",
    ):
        assert words in text
    assert "Not shown" not in text
    assert shown(capsys, "far.py") == text
    assert shown(capsys, "far.py", "--load", "./far.py") == text
    assert main(["plugins", "--load=far.py", "show", "far"]) == 0
    assert "Metric far" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("frenet", ["Metric frenet", "Pruning rule frenet", "variance float 0.95", "unit radians"]),
        ("infonce", ["needs views", "views"]),
        ("llm2vec", ["Adapter llm2vec", "priority 30", "run --models llm2vec:MODEL"]),
        ("mteb", ["Task mteb", "run --tasks mteb:NAME"]),
        ("LeeDocumentSTS", ["type STS", "modality text"]),
        ("md", ["Reporter md", "suffix .md", "leaderboard OUT --format md"]),
        ("tidy", ["leaderboard OUT --format tidy --output DIR"]),
        ("lrd_harness.plugins.pruners", ["Pruning rule gfmi", "Pruning rule angular"]),
    ],
)
def test_show_takes_a_name_of_any_kind(name: str, words: list[str], capsys: Shown) -> None:
    text = shown(capsys, name)
    assert [word for word in words if word not in text] == []


def test_show_of_what_there_is_not(capsys: Shown) -> None:
    for name, line in (
        ("frennet", "unknown plugin 'frennet'. Did you mean frenet"),
        ("none.py", "plugin none.py cannot be loaded: FileNotFoundError"),
    ):
        assert main(["plugins", "show", name]) == 2
        assert line in one_line(capsys)


ARGUMENTS = {  # with which a command gets as far as loading plugins
    "run": "--models x/y --tasks STSBenchmark",
    "plan": "--models x/y --tasks STSBenchmark",
    "merge": "out --output whole",
    "select": "--models x/y z/y --texts far.py",
    "prune": "x/y",
    "layer": "x/y",
    "states": "x/y --output v.npz",
    "probe": "x/y --kind random",
    "compare": "x/y z/y",
    "lm-eval": "ls tasks",
    "leaderboard": "out",
    "evaluate-rule": "layers out",
    "plugins new": "metric mine",
    "plugins show": "far",
    "cache info": "",
    "cache verify": "",
    "cache clear": "--yes",
}


@pytest.mark.parametrize(
    "command", [name for name in COMMANDS if name != "cache"] + [n for n in ARGUMENTS if " " in n]
)
def test_load_is_taken_by_every_command(command: str, own_cache: Path, capsys: Shown) -> None:
    typed = [*command.split(), *ARGUMENTS.get(command, "").split(), "--load"]
    assert main([*typed, "far.py", "no/such.py"]) == 2
    assert "plugin no/such.py cannot be loaded: FileNotFoundError" in capsys.readouterr().err
    assert not Path("mine").exists()


@pytest.mark.parametrize("command", ["suites", "tasks", "models", "plugins", "plugins show far"])
def test_a_file_is_loaded_once(command: str, own_cache: Path, capsys: Shown) -> None:
    more = ["--load", "far.py", "--load", "./far.py", str(Path("far.py").resolve())]
    assert main([*command.split(), *more]) == 0
    assert capsys.readouterr().err == "imported\n"


def test_what_is_loaded_is_known_where_files_are_read(capsys: Shown) -> None:
    """A metric of one's own ranks the models of CSV files, in a form of one's own."""
    Path("far.py").write_text(
        METRIC.replace("Choice, Metric", "Choice, Metric, Reporter")
        + "@hookimpl\ndef lrd_reporters():\n"
        + "    return [Reporter('mine', lambda report: str(report.get('metrics').rows), '.mine')]\n"
    )
    Path("values.csv").write_text(
        "model,layer,task,name,value\na,model,T,far.far,1\nb,model,T,far.far,2\nc,model,T,far.far,3\n"
    )
    Path("scores.csv").write_text("model,T\na,0.3\nb,0.2\nc,0.1\n")
    command = ["leaderboard", "--values", "values.csv", "--actual", "scores.csv", "--format"]
    assert main([*command, "mine", "--load", "far.py"]) == 0
    assert "'metric': 'far'" in capsys.readouterr().out
