"""What metrics need beside pooled states: halves, maps of attention and labels, against others."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import running
import stock
import tiny
import tiny_images
import torch
import transformers

from lrd_harness.capture.embeddings import Embeddings
from lrd_harness.capture.samples import Questions, Sampling
from lrd_harness.cli import main
from lrd_harness.contracts import Metric, Request, Task, TaskOptions, Text
from lrd_harness.errors import NotEnoughTexts, NotFinite, UnitError, UserError
from lrd_harness.images import Image
from lrd_harness.manager import load
from lrd_harness.measuring import PlannedMetric

SENTENCES = tiny.sentences(30)


def first(maps: Any) -> dict[str, Any]:
    """What tokens attend to the first one, block by block, and the tokens."""
    return {"first": [float(each[:, :, 0].mean()) for each in maps], "tokens": len(maps[0][0])}


def apart(states: Any) -> dict[str, Any]:
    """How far the two rows of a text are from each other; one number that the order changes."""
    rows = [state[:, 0] - 2 * state[:, 1] for state in states]
    return {"apart": [float(row.norm(dim=1).mean()) for row in rows]}


def between(states: Any, labels: Any) -> dict[str, Any]:
    """The spread of the classes' means."""
    means = [[state[labels == c].mean(0) for c in labels.unique()] for state in states]
    spread = [float(torch.stack(rows).std()) for rows in means]
    return {"between": spread, "classes": len(labels.unique())}


FIRST = PlannedMetric(Metric("first", first, "attention"), {})
APART = PlannedMetric(Metric("apart", apart, "halves"), {})
BETWEEN = PlannedMetric(Metric("between", between, "labels"), {})


def task_of(texts: Sequence[Any], labels: Callable[[], Any] | None = None, **more: Any) -> Task:
    return Task("Own", lambda: [Request(text) for text in texts], None, labels=labels, **more)


def reader_of(model: Any, folder: Path, task: Task, *items: PlannedMetric, **more: Any) -> Any:
    """A reader that has read for these metrics."""
    reader = Embeddings(model, Questions(100), 300, Sampling(**more), root=folder)
    asked = {task: reader.ask(task, False, True)}
    reader.capture(asked, lambda *_: None, {task: items})
    return reader


FAMILIES = ("Bert", "GPT2", "Llama", "Albert", "T5", "Bart", "Gemma2", "ModernBert", "Falcon")


@pytest.mark.parametrize("family", tiny.rest_slow(FAMILIES, "Bert", "GPT2"))
def test_maps_are_transformers_own(family: str, tmp_path: Path) -> None:
    """Text by text without padding; the states are those of the usual pass before and after."""
    folder = tiny.save(family, tmp_path / "m")
    opened = tiny.open_model(folder)
    texts = [Text(text) for text in [*SENTENCES[:9], "a"]]
    encoded = opened.tokenize(texts)
    before = opened.states(encoded[:1])
    task = task_of([text.text for text in texts])
    reader = reader_of(opened, tmp_path / "store", task, FIRST)
    scores, n = reader.samples.measure(FIRST, reader.sample(task))
    plain = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    plain = plain.encoder if family in ("Bart", "T5") else plain
    expected = []
    for features in encoded:
        ids = torch.tensor([features["input_ids"]])
        with torch.no_grad():
            maps = plain(input_ids=ids, output_attentions=True).attentions
        for ours, theirs in zip(opened.attention(features), maps, strict=True):
            torch.testing.assert_close(ours, theirs[0], rtol=1e-4, atol=1e-6)
        expected.append([float(each[0, :, :, 0].double().mean()) for each in maps])
    assert n == len(texts)
    assert (scores["first"].of, scores["first"].layers[0]) == ("blocks", 1)
    np.testing.assert_allclose(scores["first"], np.mean(expected, 0), rtol=1e-4)
    assert reader.captured.forwarded == 2 * len(texts)
    for name, state in opened.states(encoded[:1]).items():
        assert torch.equal(state, before[name])
    again = reader_of(opened, tmp_path / "store", task, FIRST)
    assert again.captured.forwarded == 0
    assert again.samples.measure(FIRST, again.sample(task)) == (scores, n)


@pytest.mark.slow
def test_maps_of_images_are_transformers_own(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    tiny_images.save("ViTModel", folder)
    opened = tiny.open_model(folder)
    plain = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    (encoded,) = opened.tokenize([Text(Image.of(tiny_images.pictures(1)[0], "one"))])
    with torch.no_grad():
        maps = plain(**opened.inputs(opened.features([encoded])), output_attentions=True).attentions
    for ours, theirs in zip(opened.attention(encoded), maps, strict=True):
        torch.testing.assert_close(ours, theirs[0])


def _without_maps(opened: Any) -> str:
    return r"MambaModel shows no attention maps"


def _others_under_eager(opened: Any) -> str:
    usual = opened.backbone.run
    eager = opened.parts.module.config

    def run(inputs: Any, watch: Any) -> Any:
        return usual(inputs, watch) * (2 if eager._attn_implementation == "eager" else 1)

    opened.backbone.run = run
    return "BertModel has other states where its attention maps can be read"


def _too_long(opened: Any) -> str:
    opened.parts.module.config.num_attention_heads = 2**30
    return "tokens take .* GiB: --max-length makes texts shorter"


def _of_some_blocks(opened: Any) -> str:
    usual = opened.parts.module.forward

    def forward(**inputs: Any) -> Any:
        output = usual(**inputs)
        output.attentions = output.attentions and (*output.attentions[:2], None)
        return output

    opened.parts.module.forward = forward
    return "BertModel shows 2 attention maps of 3 blocks"


def _broken(opened: Any) -> str:
    opened.attention = lambda encoded: 1 / 0
    return "division by zero"


@pytest.mark.parametrize(
    ("family", "spoil"),
    [
        pytest.param("Mamba", _without_maps, marks=pytest.mark.slow),
        ("Bert", _others_under_eager),
        ("Bert", _too_long),
        ("Bert", _of_some_blocks),
        ("Bert", _broken),
    ],
)
def test_what_shows_no_maps_costs_metrics_of_attention_alone(
    family: str, spoil: Any, tmp_path: Path
) -> None:
    opened = tiny.open_model(tiny.save(family, tmp_path / "m"))
    tokens = PlannedMetric(Metric("length", lambda s: {"n": len(s[0])}, "tokens"), {})
    task = task_of(SENTENCES[:9])
    reader = Embeddings(opened, Questions(100), 300, root=tmp_path / "store")
    asked, says = {task: reader.ask(task, False, True)}, spoil(opened)
    reader.capture(asked, lambda *_: None, {task: [FIRST, tokens]})
    assert reader.samples.measure(tokens, reader.sample(task))[1] == 9
    with pytest.raises((UnitError, UserError, ZeroDivisionError), match=says):
        reader.samples.measure(FIRST, reader.sample(task))


def test_faults_in_single_texts_are_those_of_token_metrics(tmp_path: Path) -> None:
    """UnitError leaves a text out, which is counted; NaN in a map is named with its block."""
    opened = tiny.open_model(tiny.save("Bert", tmp_path / "m"))

    def long(maps: Any) -> dict[str, Any]:
        if maps[0].shape[-1] < 16:
            raise UnitError("16 tokens")
        return first(maps)

    item = PlannedMetric(Metric("long", long, "attention"), {})
    task = task_of([*SENTENCES[:12], "a", "b", "c"])
    reader = reader_of(opened, tmp_path / "store", task, item)
    lengths = [len(e["input_ids"]) for e in opened.tokenize(reader.sample(task))]
    scores, n = reader.samples.measure(item, reader.sample(task))
    assert (n, scores["left_out"]) == (sum(m >= 16 for m in lengths), sum(m < 16 for m in lengths))
    usual = opened.attention

    def attention(encoded: Any) -> Any:
        maps = usual(encoded)
        maps[1] = maps[1] * float("nan")
        return maps

    opened.attention = attention
    reader = reader_of(opened, tmp_path / "other", task, FIRST)
    with pytest.raises(NotFinite, match="in the attention maps of layer 2"):
        reader.samples.measure(FIRST, reader.sample(task))


def test_halves_are_read_under_the_texts_own_prompt(tmp_path: Path) -> None:
    """Those of at most `view_texts` texts of 6 words, by a seed; shorter ones are counted."""
    opened = tiny.open_model(tiny.save("Bert", tmp_path / "m"))
    opened.prompt = lambda task, prompt_type: "say: "
    texts = [*SENTENCES, "of six\twords  and\nmore ", "too short", "a b c d e"]
    long = [text for text in texts if len(text.split()) >= 6]
    task = task_of(texts)
    for most in (100, 9):
        reader = reader_of(opened, tmp_path / "store", task, APART, view_texts=most)
        scores, n = reader.samples.measure(APART, reader.sample(task))
        chosen = range(len(long))
        if most < len(long):
            chosen = sorted(np.random.RandomState(42).choice(len(long), most, replace=False))
        parts = []
        for i in chosen:
            words = long[i].split()
            middle = len(words) // 2
            parts += [" ".join(words[:middle]), " ".join(words[middle:])]
        states = opened.states(opened.tokenize([Text(part, "say: ") for part in parts]))
        last = states["raw", 3].double().view(-1, 2, 32)
        expected = float((last[:, 0] - 2 * last[:, 1]).norm(dim=1).mean())
        assert (n, scores["too_short"]) == (len(chosen), len(texts) - len(long))
        assert scores["apart"][3] == pytest.approx(expected, rel=1e-4)
    few = task_of([*long[:7], "a", "b"])
    reader = reader_of(opened, tmp_path / "store", few, APART)
    with pytest.raises(NotEnoughTexts, match=r"apart needs at least 8 texts of 6 words .* 7 of 9"):
        reader.samples.measure(APART, reader.sample(few))


def sizes(states: Any) -> dict[str, Any]:
    """How long the rows of each state are."""
    return {"size": [float(s.norm(dim=-1).mean()) for s in states]}


@pytest.mark.parametrize("needs", ["pooled", "tokens", "halves"])
def test_a_metric_sees_the_norm_that_it_names(needs: Any, tmp_path: Path) -> None:
    """Whatever the run's: the same as those of a run with that norm, which reads nothing anew."""
    opened = tiny.open_model(tiny.save("GPT2", tmp_path / "m", uneven=True))
    task = task_of(SENTENCES[:12])
    free, *fixed = (
        PlannedMetric(Metric(f"size{n}", sizes, needs, norm=n), {}) for n in (None, "raw", "final")
    )
    reader = reader_of(opened, tmp_path / "store", task, free, *fixed)
    sample, last = reader.sample(task), opened.info.blocks
    usual = reader.samples.measure(free, sample)[0]["size"]
    values = []
    for item in fixed:
        values.append(reader.samples.measure(item, sample)[0]["size"])
        same = reader_of(opened, tmp_path / "store", task, free, norm=item.metric.norm)
        assert same.captured.forwarded == (len(sample) if needs == "tokens" else 0)
        assert same.samples.measure(free, sample)[0]["size"] == values[-1]
    raw, final = values
    assert [*raw[:last], final[last]] == usual
    assert all(abs(a - b) > 1e-3 for a, b in zip(raw, final, strict=True))


def test_labels_go_with_their_texts(tmp_path: Path) -> None:
    """Copies of a text count once; with two labels, or None, it is left out, and counted."""
    opened = tiny.open_model(tiny.save("Bert", tmp_path / "m"))
    texts = [*SENTENCES[:12], SENTENCES[0], SENTENCES[1], "none"]
    labels = [*"abcabcabcabc", "a", "c", None]
    task = task_of(texts, lambda: labels)
    reader = reader_of(opened, tmp_path / "store", task, BETWEEN)
    of = reader.questions.labels(task)
    assert of == ["a", None, *labels[2:12], None]

    def measured(task: Task) -> Any:
        labels = lambda: reader.questions.labels(task)  # noqa: E731
        return reader.samples.measure(BETWEEN, reader.sample(task), labels)

    scores, n = measured(task)
    kept = [texts[i] for i in range(13) if i != 1 and texts[i] != "none"][:11]
    state = opened.states(opened.tokenize(list(map(Text, kept))))["raw", 3].double().numpy()
    names = np.array([label for label in of if label])
    means = np.stack([state[names == name].mean(0) for name in "abc"])
    assert (n, scores["left_out"], scores["classes"]) == (11, 2, 3)
    assert scores["between"][3] == pytest.approx(means.std(ddof=1), rel=1e-4)
    for wrong, says in (
        (lambda: labels[1:], "Own has 14 labels of 15 texts"),
        (lambda: [None] * 15, "between needs at least 8 texts with a label, got 0 of 13"),
    ):
        with pytest.raises((UserError, NotEnoughTexts), match=says):
            measured(task_of(texts, wrong))


def named(command: str, place: Path) -> list[str]:
    """The models of a command, as it takes them."""
    both = [str(place / "bert"), *[str(place / "gpt")] * (command in ("select", "compare"))]
    return ["--models", *both] if command == "select" else both


PLUGIN = """
from lrd_harness import Choice, Metric, Request, Task, hookimpl

def first(maps, shift=0.0):
    return {"first": [float(m[:, :, 0].mean()) + shift for m in maps]}

def apart(states):
    return {"apart": [float((s[:, 0] - s[:, 1]).norm(dim=1).mean()) for s in states]}

def classes(states, labels):
    return {"classes": int(labels.max()) + 1, "x": [1.0] * len(states)}

@hookimpl
def lrd_metrics():
    return [
        Metric("first", first, "attention", Choice("mean_first")),
        Metric("apart", apart, "halves", Choice("mean_apart")),
        Metric("classes", classes, "labels", Choice("classes"), Choice("x")),
    ]

TEXTS = [f"text number {i} of some words {i * i}" for i in range(20)]

@hookimpl
def lrd_tasks():
    texts = lambda: [Request(text) for text in TEXTS]
    labels = lambda: ["odd" if i % 2 else "even" for i in range(20)]
    return [
        Task("Labelled", texts, None, labels=labels),
        Task("Unlabelled", texts, None),
    ]
"""


@pytest.mark.slow
@pytest.mark.usefixtures("own_cache")
def test_a_run_measures_where_it_can_and_says_where_not(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Labels are controls; a second run opens nothing; other parameters are other values."""
    plugin, out = tmp_path / "needs.py", tmp_path / "out"
    plugin.write_text(PLUGIN)
    command = ["run", "--load", str(plugin), "--models", str(place / "bert"), "--output", str(out)]
    command += ["--tasks", "Labelled", "Unlabelled", "--plugins", "first,apart,classes,frenet"]
    assert main(command) == 0
    said = capsys.readouterr()
    assert said.err.count("classes is not measured on Unlabelled: no labels") == 1
    rows = {(r["task"], r["metric"]): r for r in running.records(out, "metric")}
    metrics = ("first", "apart", "frenet")
    assert rows.keys() == {
        ("Labelled", "classes"),
        *((task, name) for task in ("Labelled", "Unlabelled") for name in metrics),
    }
    assert [key for key, row in rows.items() if row.get("control")] == [("Labelled", "classes")]
    assert rows["Labelled", "classes"]["values"]["classes"] == 2
    profile = rows["Labelled", "first"]["profiles"]["first"]
    assert (profile["of"], profile["layers"]) == ("blocks", [1, 2, 3])
    assert main(command) == 0
    assert "nothing left to do" in capsys.readouterr().err
    assert main([*command, "--set", "first.shift=1", "--quiet"]) == 0
    more = [r for r in running.records(out, "metric") if r["metric"] == "first"][2:]
    shifted = [v - 1 for v in more[0]["profiles"]["first"]["values"]]
    np.testing.assert_allclose(shifted, profile["values"])


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["select", "--plugins", "classes"], "classes uses labels, and models are ranked here"),
        (["layer", "--by", "classes"], "classes uses labels, and layers are chosen here without"),
        (["compare", "--plugins", "classes"], "cannot be measured on Unlabelled: no labels"),
        (["probe", "--kind", "random", "--plugins", "apart"], "apart compares the halves of texts"),
        (
            ["probe", "--kind", "random", "--plugins", "classes"],
            "classes needs labels, and a probe",
        ),
    ],
)
def test_studies_refuse_what_they_cannot_give(
    command: list[str], says: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = tmp_path / "needs.py"
    plugin.write_text(PLUGIN)
    name, *more = command
    command = [name, *named(name, place), "--load", str(plugin), "--task", "Unlabelled", *more]
    assert main(command) == 2
    assert says in running.one_line(capsys)


@pytest.mark.slow
@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("command", ["select", "compare", "probe"])
def test_studies_measure_them_as_runs_do(command: str, place: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "needs.py"
    plugin.write_text(PLUGIN)
    names = {"probe": "first", "compare": "first,apart,classes"}.get(command, "first,apart")
    more = ["--load", str(plugin), "--plugins", names]
    if command == "probe":
        more += ["--kind", "random"]
    out = tmp_path / "out"
    more += ["--task", "Labelled", "--output", str(out)]
    assert main([command, *named(command, place), *more]) == 0
    text = (out / f"{command}.csv").read_text()
    assert all(f"{name}," in text for name in names.split(","))


@pytest.mark.slow
def test_contexts_are_read_as_texts_of_their_own(
    own_cache: Path, tmp_path: Path, tmp_path_factory: Any, monkeypatch: running.Patch
) -> None:
    """Of tasks that compare continuations; a plan counts the passes, which are not done again."""
    stock.own_alone(monkeypatch)
    folder, file = stock.place(tmp_path_factory.getbasetemp()), tmp_path / "plan.json"
    (tmp_path / "needs.py").write_text(PLUGIN)
    more = ("--load", str(tmp_path / "needs.py"), "--plugins", "first,apart")
    more += ("--include-path", str(folder / "own"))
    tasks, out = ["STSBenchmark", f"lm-eval:{stock.LAST_WORD}"], tmp_path / "out"
    command = running.command(out, [folder / "gpt"], folder / "data", *more, tasks=tasks)
    assert main(["plan", *command[1:], "--json", str(file)]) == 0
    (planned,) = json.loads(file.read_text())["models"]
    assert main(command) == 0
    counted = running.counters(out)
    assert planned["passes"] == counted["forwarded"]
    assert planned["tokens"] == pytest.approx(counted["tokens"], rel=0.05)
    rows = running.records(out, "metric")
    assert sorted((row["task"], row["metric"]) for row in rows) == sorted(
        (task, metric) for task in tasks for metric in ("apart", "first")
    )
    opened = tiny.open_model(folder / "gpt")
    texts = list(dict.fromkeys(r.text for r in stock_contexts(folder)))
    maps = [opened.attention(e) for e in opened.tokenize([Text(text) for text in texts])]
    expected = np.mean([[float(m[:, :, 0].double().mean()) for m in each] for each in maps], 0)
    (row,) = (r for r in rows if r["metric"] == "first" and r["task"] == tasks[1])
    np.testing.assert_allclose(row["profiles"]["first"]["values"], expected, rtol=1e-4)
    assert main([*command, "--output", str(tmp_path / "again")]) == 0
    assert running.counters(tmp_path / "again")["forwarded"] == 0


def stock_contexts(folder: Path) -> Sequence[Any]:
    """The contexts of the task."""
    options = TaskOptions(include_path=folder / "own")
    (family,) = (f for f in load().all("task") if f.name == "lm-eval")
    (task,) = family.open(stock.LAST_WORD, options)
    return task.texts()  # type: ignore[no-any-return]
