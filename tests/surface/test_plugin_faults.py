"""What a stranger's plugin does wrong costs its own values in a command, and is named.

What one call may change, take or write to is tried by itself in test_isolation.py.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import running
import tiny
import torch
from running import one_line, records

import lrd_harness
from lrd_harness.cli import main

pytestmark = pytest.mark.usefixtures("own_cache")

HEAD = """
import math, os, sys
import numpy as np
import torch
from lrd_harness import hookimpl
from lrd_harness.contracts import *
from lrd_harness.errors import UserError

class Mute(BaseException):
    __str__ = None

def fails(error):
    raise error
"""
FOREVER = "[0 for _ in iter(int, 1)]"
LIMIT = ("--plugin-timeout", "1")
METRICS = {
    "exits": "sys.exit(3)",
    "base": "fails(GeneratorExit('x'))",
    "disk": "fails(OSError(28, 'No space left on device'))",
    "endless": FOREVER,
    "writes": "(states[1].zero_(), {'a': 1.0})[1]",
    "writes-numpy": "(states[-1].numpy().fill(0), {'a': 1.0})[1]",
    "mute": "fails(Mute())",
    "none": "None",
    "nothing": "{}",
    "infinite-table": "{'a': torch.full((4, 2), math.inf)}",
    "infinite-list": "{'a': [0.0, math.inf, 0.0, 0.0]}",
    "nan": "{'a': math.nan}",
    "start": "{'start': math.nan}",
    "long": "{'a': [1.0] * 100}",
}
TOKENS = {
    "token-infinite": "{'a': [math.inf] * 4}",
    "token-exits": "sys.exit(1)",
    "token-writes": "(states.numpy().fill(0), {'a': [0.0] * 4})[1]",
}
SOUND = {
    "moves": "(os.chdir('/'), {'a': 1.0})[1]",
    "prints": "(print('PRINTED'), {'a': np.float32(1.0)})[1]",
    "draws": "{'a': float(torch.rand(1)) + np.random.rand()}",
    "seeds": "(torch.manual_seed(0), np.random.seed(0), {'a': 1.0})[2]",
    "sets": "(torch.set_default_dtype(torch.float16), os.environ.clear(), {'a': 1.0})[2]",
    "draws-again": "{'a': float(torch.rand(1)) + np.random.rand()}",
    "partly": "{'a': [math.nan, 1.0, 2.0, 3.0]}",
}


def plugin(folder: Path, hook: str, *rows: str, head: str = "") -> str:
    """A plugin's file with one hook that returns these records, as they are written."""
    file = folder / f"{hook}.py"
    returned = "".join(f"        {row},\n" for row in rows)
    file.write_text(f"{HEAD}{head}\n@hookimpl\ndef {hook}():\n    return [\n{returned}    ]\n")
    return str(file)


def measures(bodies: dict[str, str], more: str = "") -> list[str]:
    return [f"Metric({name!r}, lambda states: {body}{more})" for name, body in bodies.items()]


def run(out: Path, place: Path, *more: str, tasks: Any = ("STSBenchmark",)) -> int:
    return running.run(
        out, [place / "bert"], place / "data", "--layers", "last", *more, tasks=tasks
    )


@pytest.mark.slow
def test_each_metric_costs_its_own_values(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    rows = [*measures(METRICS), *measures(SOUND), *measures(TOKENS, ", needs='tokens'")]
    file = plugin(tmp_path, "lrd_metrics", *rows)
    monkeypatch.chdir(tmp_path)
    names = [*METRICS, *SOUND, *TOKENS]
    names += ["prompt_entropy", "nrs"]
    before = set(os.environ)
    assert run(Path("out"), place, "--plugins", *names, "--load", file, *LIMIT) == 1
    assert Path.cwd() == tmp_path
    assert before <= set(os.environ)
    assert torch.get_default_dtype() == torch.float32
    assert "PRINTED" not in capsys.readouterr().out
    failed = {r["metric"]: r["error"] for r in records(tmp_path / "out", "error")}
    assert set(failed) == {*METRICS, *TOKENS}
    values = {r["metric"]: r for r in records(tmp_path / "out", "metric")}
    assert set(values) == {*SOUND, "prompt_entropy", "nrs"}
    assert values["draws"]["values"] == values["draws-again"]["values"]
    assert run(Path("alone"), place, "--plugins", "prompt_entropy", "nrs") == 0
    for alone in records(tmp_path / "alone", "metric"):
        for part in ("values", "profiles"):
            assert values[alone["metric"]][part] == alone[part]
    assert len(records(tmp_path / "out", "score")) == 1
    lines = Path(file).read_text().splitlines()
    own = ("exits", "none", "endless", "writes", "writes-numpy", "token-exits", "token-writes")
    sources = {name: f"Metric('{name}'" for name in own}
    raised = dict.fromkeys(("mute", "base", "disk"), "raise error")
    for name, source in {**sources, **raised}.items():
        number = next(i for i, line in enumerate(lines, 1) if source in line)
        assert failed[name].endswith(f"(lrd_metrics.py, line {number})"), failed[name]
    assert failed["endless"].startswith("TimedOut: interrupted after 1 s, as --plugin-timeout")
    for name in ("writes", "writes-numpy", "token-writes"):
        assert failed[name].startswith("TypeError: it writes to its input")
    traces = {r["metric"]: r["traceback"] for r in records(tmp_path / "out", "error")}
    told = ("exits", "endless", "token-exits", "disk")
    assert all("lrd_metrics.py" in traces[name] for name in told)
    board = json.loads((tmp_path / "out" / "leaderboard.json").read_text())["errors"]
    assert all(failed[name] in str(board) for name in own)
    assert failed["infinite-table"].startswith("NotFinite: the score a is [")
    assert failed["infinite-table"].endswith("] at layer 0")
    assert failed["infinite-list"] == "NotFinite: the score a is inf at layer 1"
    assert values["partly"]["profiles"]["a"]["values"] == [None, 1.0, 2.0, 3.0]


SCORES = {
    "nan stderr": "Score(0.5, 'acc', stderr=math.nan)",
    "infinite stderr": "Score(0.5, 'acc', stderr=np.float64('inf'))",
    "nan chance": "Score(0.5, 'acc', chance=torch.tensor(math.nan))",
    "infinite": "Score(-math.inf, 'acc')",
    "none": "None",
    "exits": "sys.exit(3)",
    "endless": FOREVER,
}
OTHERS = {
    "texts none": "lambda: None, None",
    "requests exit": "texts, score, requests=lambda: sys.exit(1)",
    "check fails": "texts, score, requests=texts, check=lambda: 1 / 0",
    "print none": "texts, score, requests=texts, fingerprint=lambda: None",
    "save exits": "texts, score, requests=texts, save=lambda *arguments: sys.exit(1)",
}


@pytest.mark.slow
def test_each_task_costs_its_own_values(place: Path, tmp_path: Path) -> None:
    head = """
def texts():
    return [Request(f"the cat {i} sat") for i in range(12)]

def score(view):
    return Score(0.5, "acc")
"""
    scores = {name: f"texts, lambda view: {body}, requests=texts" for name, body in SCORES.items()}
    tasks = {**scores, **OTHERS, "sound": "texts, score"}
    rows = [f"Task({name!r}, {fields})" for name, fields in tasks.items()]
    file, out = plugin(tmp_path, "lrd_tasks", *rows, head=head), tmp_path / "out"
    assert run(out, place, "--plugins", "nrs", "--load", file, *LIMIT, tasks=[*tasks]) == 1
    failed = {r["task"]: r for r in records(out, "error")}
    assert set(failed) == {*SCORES, *OTHERS}
    assert [r["task"] for r in records(out, "score")] == ["sound"]
    for name in ("nan stderr", "infinite stderr"):
        assert f"{name} gave" in failed[name]["error"]
        assert "for the standard error of its score" in failed[name]["error"]
        assert failed[name]["layer"] == 3
    assert "for the score of chance" in failed["nan chance"]["error"]
    for name in ("none", "exits", "endless", *OTHERS):
        assert "(lrd_tasks.py, line " in failed[name]["error"], failed[name]["error"]


PLAIN = """
from importlib import import_module

def open_one(checkpoint, options):
    plain = import_module("lrd_harness.plugins.adapters.plain")
    model = plain.open_plain(checkpoint, options, adapter="odd", default_pooling="mean")
    model.states = lambda *arguments: sys.exit(3)
    return model
"""
OPENS = {
    "lambda c, o: None": "local/bert cannot be opened: ",
    "lambda c, o: sys.exit(0)": "local/bert cannot be opened: ",
    f"lambda c, o: {FOREVER}": "local/bert cannot be opened: TimedOut: ",
    "open_one": "SystemExit: 3 (lrd_adapters.py, line ",
}


@pytest.mark.slow
@pytest.mark.parametrize("opens", OPENS)
def test_an_adapter_that_opens_no_model(
    opens: str, place: Path, tmp_path: Path, capsys: Any
) -> None:
    """An error of that model; in commands on one model the end; its methods are guarded too."""
    record = f"Adapter('odd', lambda c: True, {opens}, priority=99)"
    file = plugin(tmp_path, "lrd_adapters", record, head=PLAIN)
    assert run(tmp_path / "out", place, "--load", file, *LIMIT) == 1
    (failed,) = records(tmp_path / "out", "error")
    assert failed["error"].startswith(OPENS[opens])
    assert "(lrd_adapters.py, line " in failed["error"]
    if "None" in opens:
        capsys.readouterr()
        command = ["prune", str(place / "bert"), "--blocks", "2", "--quiet", "--load", file]
        assert main(command) == 2
        assert one_line(capsys).startswith("local/bert cannot be opened: ")


@pytest.mark.parametrize("claims", ["np.ones(3)", "fails(Mute())"])
def test_an_adapter_whose_claims_fail_is_passed_over(
    claims: str, place: Path, tmp_path: Path, capsys: Any
) -> None:
    file = plugin(tmp_path, "lrd_adapters", f"Adapter('odd', lambda c: {claims}, print, 99)")
    assert main(["prune", str(place / "bert"), "--blocks", "2", "--quiet", "--load", file]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("adapter odd is not asked to open local/bert: ")
    assert "(lrd_adapters.py, line " in line


def test_an_adapter_cannot_change_what_others_are_asked_about(place: Path, tmp_path: Path) -> None:
    file = plugin(tmp_path, "lrd_adapters", "Adapter('odd', lambda c: c.config.clear(), print, 99)")
    assert main(["prune", str(place / "bert"), "--blocks", "2", "--quiet", "--load", file]) == 0


LOADED = {  # the hook, a record, and what the one line says
    "hook none": ("lrd_metrics", "*None", "NoneType"),
    "hook raises": ("lrd_metrics", "1 / 0", "ZeroDivisionError: division by zero (lrd_metrics.py"),
    "hook exits": ("lrd_tasks", "sys.exit(0)", "SystemExit: 0 (lrd_tasks.py, line "),
    "hook endless": ("lrd_metrics", FOREVER, "TimedOut: interrupted after 1 s"),
    "no record": ("lrd_reporters", "print", "returned builtin_function_or_method, not a reporter"),
    "no function": ("lrd_metrics", "Metric('odd', None)", "measure of metric 'odd' is None"),
    "no priority": ("lrd_adapters", "Adapter('odd', bool, print, 'x')", "priority of adapter"),
    "a name twice": ("lrd_pruners", "*[Pruner('odd', print)] * 2", "two of the name 'odd'"),
    "a built-in name": ("lrd_metrics", "Metric('frenet', print)", "metric named 'frenet'"),
    "another hook": ("lrd_metric", "", "implements lrd_metric; the hooks are"),
}


@pytest.mark.parametrize("case", LOADED)
def test_what_cannot_be_loaded_ends_a_command(
    case: str, place: Path, tmp_path: Path, capsys: Any
) -> None:
    hook, row, said = LOADED[case]
    file = plugin(tmp_path, hook, *filter(None, [row]))
    assert run(tmp_path / "out", place, "--load", file, *LIMIT) == 2
    assert said in one_line(capsys)


@pytest.mark.parametrize("body", ["1 / 0", "sys.exit(0)", FOREVER, "os.kill(os.getpid(), 2)"])
def test_a_file_that_fails_to_import(body: str, place: Path, tmp_path: Path, capsys: Any) -> None:
    file = plugin(tmp_path, "lrd_metrics", head=body)
    code = run(tmp_path / "out", place, "--load", file, *LIMIT)
    if "kill" in body:
        assert code == 130
        return
    assert code == 2
    assert one_line(capsys).startswith(f"plugin {file} cannot be loaded: ")


@pytest.mark.slow
def test_a_panel_metric_costs_its_own_values(place: Path, tmp_path: Path) -> None:
    bodies = {
        "exits": "sys.exit(1)",
        "endless": FOREVER,
        "writes": "[s[m].zero_() for m in s] and {'a': dict.fromkeys(s, 1.0)}",
        "nan": "{'a': dict.fromkeys(s, math.nan)}",
        "half": "{'a': {min(s): 1.0}}",
        "list": "[1.0, 2.0]",
        "nothing": "None",
    }
    rows = [f"PanelMetric({name!r}, lambda s, f: {body})" for name, body in bodies.items()]
    file, out = plugin(tmp_path, "lrd_panel_metrics", *rows), tmp_path / "out"
    models = [place / "bert", place / "gpt"]
    more = ("--layers", "last", "--plugins", *bodies, "mutual_knn", "--load", file, *LIMIT)
    assert running.run(out, models, place / "data", *more, tasks=("STSBenchmark",)) == 1
    failed = {r["metric"]: r["error"] for r in records(out, "error")}
    assert failed.keys() == bodies.keys()
    assert {r["metric"] for r in records(out, "metric")} == {"mutual_knn"}
    for name in ("exits", "endless", "writes", "list", "nothing"):
        assert "(lrd_panel_metrics.py, line " in failed[name]


@pytest.mark.slow
def test_what_else_a_run_lives_through(place: Path, tmp_path: Path, capsys: Any) -> None:
    """Reporters that write nothing; parameters that JSON cannot hold; two files of one name."""
    texts = {"none": "None", "number": "5", "exits": "sys.exit(1)", "endless": FOREVER}
    texts |= {"clears": "b.table('ranking').rows.clear() or 'done'"}
    texts |= {"sound": "str(len(b.table('ranking').rows))"}
    rows = [f"Reporter({name!r}, lambda b: {text}, '.{name}')" for name, text in texts.items()]
    head = "def measure(states, kind=torch.float64, share=math.nan):\n    return {'a': 1.0}\n"
    files = [plugin(tmp_path, "lrd_reporters", *rows)]
    files.append(plugin(tmp_path, "lrd_metrics", "Metric('typed', measure)", head=head))
    (tmp_path / "b").mkdir()
    files.append(plugin(tmp_path / "b", "lrd_metrics", *measures({"other": "{'a': 2.0}"})))
    out = tmp_path / "out"
    assert run(out, place, "--plugins", "typed", "other", "--load", *files, *LIMIT) == 1
    lines = capsys.readouterr().err.splitlines()
    failed = [f" reporter {name}" for name in ("none", "number", "exits", "endless")]
    assert [line.split(":")[1] for line in lines] == failed
    assert all("(lrd_reporters.py, line " in line for line in lines)
    assert (out / "leaderboard.sound").read_text() == "1"
    assert not (out / "leaderboard.none").exists()
    parameters = {row["metric"]: row["parameters"] for row in records(out, "metric")}
    assert parameters["typed"].items() >= {"kind": "torch.float64", "share": "nan"}.items()
    assert not {"kind", "share"} & parameters["other"].keys()
    typed, _ = json.loads((out / "run.json").read_text())["metrics"]
    assert typed["parameters"]["share"] == "nan"


def test_an_interrupt_in_a_plugin_is_one(place: Path, tmp_path: Path, capsys: Any) -> None:
    file = plugin(tmp_path, "lrd_metrics", *measures({"odd": "fails(KeyboardInterrupt())"}))
    assert run(tmp_path / "out", place, "--plugins", "odd", "--load", file) == 130
    assert "goes on where it stopped" in capsys.readouterr().err


@pytest.mark.parametrize("answer", ["None", "sys.exit(1)", "[2.5]", "[99]", FOREVER])
def test_a_rule_that_chooses_no_blocks(
    answer: str, place: Path, tmp_path: Path, capsys: Any
) -> None:
    file = plugin(tmp_path, "lrd_pruners", f"Pruner('odd', lambda *arguments: {answer})")
    command = ["prune", str(place / "bert"), "--rule", "odd", "--budget", "0.3", "--quiet"]
    assert main([*command, "--protect", "0", "--load", file, *LIMIT]) == 2
    assert "the rule odd " in one_line(capsys)


PLUGINS = ("--plugins", "odd", "effective_rank")
COMMANDS = {
    "sys.exit(3)": ("layer", "{}", "--by", "odd,effective_rank"),
    "{'odd': [math.inf] * 4}": ("compare", "{}", "{}", "--draws", "2", *PLUGINS),
    FOREVER: ("layer", "{}", "--by", "odd,effective_rank", *LIMIT),
    "fails(UserError('not on these'))": ("layer", "{}", "--by", "odd,effective_rank"),
    "fails(Mute())": ("probe", "{}", "--kind", "random", "--shares", "0", *PLUGINS),
    "{'max_odd': math.nan}": (
        *("select", "--models", "{}", "{other}", "--draws", "2", "--plugins", "odd", "frenet"),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("body", COMMANDS)
def test_a_metric_costs_its_values_in_every_command(
    body: str, place: Path, tmp_path: Path, capsys: Any
) -> None:
    choices = ", selection=Choice('max_odd'), layer_choice=Choice('odd')"
    file = plugin(tmp_path, "lrd_metrics", *measures({"odd": body}, choices))
    tiny.write_rows(tmp_path / "texts.jsonl", [{"text": t} for t in tiny.sentences(20)])
    words = [word.format(place / "bert", other=place / "gpt") for word in COMMANDS[body]]
    more = ["--texts", str(tmp_path / "texts.jsonl"), "--load", file, "--quiet"]
    assert main([*words, *more]) == 1
    printed = capsys.readouterr()
    assert all("odd" in line for line in printed.err.splitlines())
    assert "Traceback" not in printed.err
    assert "frenet" in printed.out or "effective_rank" in printed.out


@pytest.mark.slow
def test_a_limit_of_a_suite_and_in_python(place: Path, tmp_path: Path) -> None:
    file = plugin(tmp_path, "lrd_metrics", *measures({"odd": FOREVER}))
    (tmp_path / "texts.txt").write_text("\n".join(tiny.sentences(12)))
    suite, out = tmp_path / "suite.yaml", tmp_path / "out"
    suite.write_text(f"""
models: [{place / "bert"}]
tasks: ["texts:{tmp_path / "texts.txt"}"]
plugins: [odd, effective_rank]
settings: {{plugin_timeout: 1}}
""")
    assert main(["run", "--suite", str(suite), "--load", file, "--output", str(out)]) == 1
    given = {"metrics": "odd", "texts": tmp_path / "texts.txt", "plugin_timeout": 1}
    lrd_harness.run(place / "bert", load=file, output=tmp_path / "again", **given)
    for folder in (out, tmp_path / "again"):
        (failed,) = records(folder, "error")
        assert failed["error"].startswith("TimedOut: interrupted after 1 s")
    assert "plugin_timeout" not in json.loads((out / "run.json").read_text())["settings"]
