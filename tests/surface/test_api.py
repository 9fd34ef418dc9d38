"""The functions that notebooks call: their numbers are the commands', wrong input is one line."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import running
import tiny
import torch

import lrd_harness
from lrd_harness import UserError, api
from lrd_harness.capture.layers import planes
from lrd_harness.cli import main
from lrd_harness.contracts import Text
from lrd_harness.store.files import StorageFull
from lrd_harness.studies.states import Opened

pytestmark = pytest.mark.usefixtures("own_cache")
TEXTS = tiny.sentences(20)
NOTEBOOK = Path(__file__).parents[2] / "docs/notebook.ipynb"


@pytest.mark.slow
def test_a_run_gives_what_the_command_gives(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    models, more = [place / "bert", place / "gpt"], ("--layers", "0,3", "--pooling", "mean")
    assert running.run(tmp_path / "typed", models, place / "data", *more, tasks=["SciFact"]) == 0
    printed = capsys.readouterr().out
    asked: dict[str, Any] = {
        "models": list(map(str, models)),
        "tasks": "SciFact",
        "metrics": ["frenet", "nrs"],
        "task_data": str(place / "data"),
        "layers": [0, 3],
        "pooling": "mean",
        "output": "called",
    }
    results = lrd_harness.run(**asked, quiet=True)
    typed = lrd_harness.values(tmp_path / "typed")
    pd.testing.assert_frame_equal(results.values, typed)
    pd.testing.assert_frame_equal(lrd_harness.values("called"), typed)
    assert list(results.scores.layer) == [0, 3] * 2
    assert set(results.scores.score) == set(typed[typed.kind == "score"].value)
    ranking = results.leaderboard().frame("ranking")
    assert set(ranking.score) == set(results.scores[results.scores.layer == 3].score)
    assert repr(results).splitlines()[0] == printed.splitlines()[0]
    assert "<td>local/bert</td>" in results._repr_html_()
    figure = results.figure("curves")
    assert figure.startswith(b"<svg")
    assert figure._repr_svg_() == figure.decode()
    assert str(figure) == f"<SVG of {len(figure):,} bytes>"
    with pytest.raises(UserError, match="unknown figure 'curve'"):
        results.figure("curve")
    before = running.records(Path("called"), "score", "metric")
    again = lrd_harness.run(**{**asked, "output": Path("called")}, quiet=True)
    assert running.records(Path("called"), "score", "metric") == before  # nothing anew
    assert api._command({"models": ["a"], "num_fewshot": 0, "prune": True, "full": False}, {}) == (
        "lrd-harness run --models a --num-fewshot 0 --prune".split()
    )
    command = json.loads(Path("called/run.json").read_text())["command"]
    assert command[:5] == ["lrd-harness", "run", "--models", "bert", "gpt"]
    assert command[-2:] == ["--pooling", "mean"]
    pd.testing.assert_frame_equal(again.values, typed)
    assert capsys.readouterr() == ("", "")


COMMANDS: dict[str, tuple[str, list[Any], dict[str, Any]]] = {
    "select": ("--models BERT GPT --plugins nrs --draws 2", [["BERT", "GPT"]], {"draws": 2}),
    "layer": ("BERT --by effective_rank", ["BERT", "effective_rank"], {}),
    "compare": ("BERT BERT --plugins nrs --draws 2", ["BERT", "BERT"], {"draws": 2}),
    "prune": ("GPT --rule gfmi --budget 0.5 --protect 0", ["GPT", "gfmi", 0.5], {"protect": 0}),
}
TIMED = {"seconds_1000"}  # a column, and the row "latency"


def untimed(rows: Any, columns: Any) -> list[dict[str, Any]]:
    kept = (row for row in rows if row.get("figure") != "latency")
    return [{name: row[name] for name in columns if name not in TIMED} for row in kept]


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_studies_give_what_the_commands_give(
    name: str, place: Path, tmp_path: Path, capsys: Any
) -> None:
    """From a list of strings as from a file; the report shows itself and its tables."""
    tiny.write_rows(tmp_path / "texts.jsonl", [{"text": text} for text in TEXTS])
    typed, arguments, options = COMMANDS[name]
    models = {"BERT": str(place / "bert"), "GPT": str(place / "gpt")}
    words = [models.get(word, word) for word in typed.split()]
    where = ("--texts", str(tmp_path / "texts.jsonl"), "--output", str(tmp_path), "--quiet")
    assert main([name, *words, *where]) == 0
    printed = capsys.readouterr().out
    named = [models.get(a, a) if isinstance(a, str) else a for a in arguments]
    if name == "select":
        named = [list(models.values())]
    options = options | ({"metrics": "nrs"} if "nrs" in typed else {})
    report = getattr(lrd_harness, name)(*named, texts=TEXTS, quiet=True, **options)
    kept = json.loads((tmp_path / f"{name}.json").read_text())["values"]
    assert untimed(report.table(name).rows, kept[0]) == untimed(kept, kept[0])
    assert len(report.frame(name)) == len(kept)
    assert repr(report).splitlines()[0] == printed.splitlines()[0]
    assert "<table>" in report._repr_html_()
    with pytest.raises(UserError, match="unknown table 'no'"):
        report.frame("no")


def test_a_model_gives_the_states_that_metrics_see(place: Path) -> None:
    """Against one text at a time; copies keep their rows."""
    model = lrd_harness.open(str(place / "gpt"), pooling="mean", quiet=True)
    whole = tiny.open_model(place / "gpt", pooling="mean")
    assert (model.name, list(model.layers)) == ("local/gpt [mean]", [0, 1, 2, 3])
    texts = [*TEXTS[:3], "", TEXTS[0]]
    for norm in ("hf", "raw", "final"):
        with torch.autocast("cpu", torch.bfloat16):  # a caller's changes no states
            states = model.encode(texts, norm=norm)  # type: ignore[arg-type]
        assert (states.shape, states.dtype) == ((4, 5, whole.info.width), np.float32)
        alone = [whole.states(whole.tokenize([Text(text)])) for text in texts]
        expected = [[one[plane][0] for one in alone] for plane in planes(whole, norm)]
        np.testing.assert_allclose(states, np.array(expected), rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(states[:, 0], states[:, 4])
    for some in ([3, 1], np.array([3, 1])):
        np.testing.assert_array_equal(model.encode(texts, layers=some), model.encode(texts)[[3, 1]])


REFUSED = {
    "texts are a list of strings": lambda m: m.encode("one text"),
    "text 2 is no string: its type is int": lambda m: m.encode(["a", 2]),
    "no texts: the list is empty": lambda m: m.encode([]),
    "local/bert has layers 0 to 3, no layer 4": lambda m: m.encode(["a"], layers=[4]),
    "no layer True": lambda m: m.encode(["a"], layers=[True]),
    "has layers 0 to 3, no layer 'all'": lambda m: m.encode(["a"], layers="all"),
    "no layers: the list is empty": lambda m: m.encode(["a"], layers=[]),
    "unknown norm in encode 'hff'. Did you mean hf?": lambda m: m.encode(["a"], norm="hff"),
    "unknown option of open 'nrom'. Did you mean norm?": lambda m: lrd_harness.open("x", nrom=1),
    "unknown option of open 'max_texts'": lambda m: lrd_harness.open("x", max_texts=9),
    "unknown option of compare 'view_texts'": lambda m: lrd_harness.compare("x", "y", view_texts=9),
    "nrs is not measured here": lambda m: lrd_harness.prune(
        "x", blocks="1", parameters={"nrs": {"k": 3}}
    ),
    "unknown option of layer 'draws'": lambda m: lrd_harness.layer("x", draws=2),
    "unknown option of run 'modles'. Did you mean models": lambda m: lrd_harness.run(modles=["x"]),
    "budgets needs prune": lambda m: lrd_harness.run(["x"], ["y"], budgets=[0.1]),
    "3 is neither a name nor a list of names": lambda m: lrd_harness.run(["x"], tasks=3),  # type: ignore[arg-type]
    "unknown task 'SciFct'": lambda m: lrd_harness.run(["x"], tasks="SciFct", quiet=True),
    "unknown suite 'no'": lambda m: lrd_harness.run(suite="no", quiet=True),
    "3 is no path": lambda m: lrd_harness.run(["x"], output=3),  # type: ignore[arg-type]
    "['a text'] is no path": lambda m: lrd_harness.run(["x"], texts=["a text"]),  # type: ignore[arg-type]
    "None is no name": lambda m: lrd_harness.Results(None),  # type: ignore[arg-type]
    "unknown metric 'nr'": lambda m: lrd_harness.run(["x"], ["SciFact"], "nr", quiet=True),
    "call: pooling is 3, not a text": lambda m: lrd_harness.layer("x", pooling=3),
    "give either --rule with": lambda m: lrd_harness.prune("x"),
    "unknown pruning rule 'gfm'": lambda m: lrd_harness.prune("x", "gfm", 0.1),
    "no such file": lambda m: lrd_harness.compare("x", "x", texts="no.txt"),
    "give either --texts or --task": lambda m: lrd_harness.select(["x"], texts=["a"], task="b"),
    "3 is no name": lambda m: lrd_harness.open(3),  # type: ignore[arg-type]
    "parameters are given by metric": lambda m: lrd_harness.run(["x"], parameters={"nrs": 3}),  # type: ignore[dict-item]
    "--draws many: not a whole number": lambda m: lrd_harness.select(["x"], draws="many"),
    "no such folder: no-such": lambda m: lrd_harness.Results("no-such"),
}


@pytest.fixture(scope="module")
def bert(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LRD_HARNESS_CACHE", str(tmp_path_factory.mktemp("cache")))
        return lrd_harness.open(str(place / "bert"), quiet=True)


@pytest.mark.parametrize("said", REFUSED)
def test_wrong_input_is_one_line(said: str, bert: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """And it is found before a model is looked for."""
    monkeypatch.setattr("lrd_harness.planning.models.find", lambda *_: pytest.fail("looked for"))
    with pytest.raises(UserError) as caught:
        REFUSED[said](bert)  # type: ignore[no-untyped-call]
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not isinstance(caught.value, StorageFull)


def test_layers_of_several_widths(bert: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(self: Opened, task: Any, texts: Any, layers: list[int], norm: Any) -> list[np.ndarray]:
        return [np.ones((1, 2 + (layer > 1))) for layer in layers]

    monkeypatch.setattr(Opened, "read", read)
    with pytest.raises(UserError, match=r"several widths \(0: 2, 1: 2, 2: 3, 3: 3\)"):
        bert.encode(["a"])
    assert bert.encode(["a"], layers=[2, 3]).shape == (2, 1, 3)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Its cells in order; what a cell ends with shows itself."""
    monkeypatch.chdir(tmp_path)
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert len(cells) == 10
    names: dict[str, Any] = {}
    shown = []
    for cell in cells:
        if cell["cell_type"] == "code":
            *before, last = ast.parse("".join(cell["source"])).body
            exec(compile(ast.Module(before, []), str(NOTEBOOK), "exec"), names)
            shown.append(eval(compile(ast.unparse(last), str(NOTEBOOK), "eval"), names))
    assert [type(value).__name__ for value in shown] == (
        "Results DataFrame DataFrame Picture NoneType Shown Shown Shown Shown".split()
    )
    assert "(3, 3, 128)" in capsys.readouterr().out
    assert shown[1].shape == (7, 2)  # layers 0 to 6
    assert [len(value.shown) for value in shown[5:]] == [2, 1, 3, 4]
