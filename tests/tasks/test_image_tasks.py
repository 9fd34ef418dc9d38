"""Tasks on images, mteb's, local ones and digits: scores are mteb's on the images themselves."""

from __future__ import annotations

import functools
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import mteb
import numpy as np
import pytest
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder
from PIL import Image

from lrd_harness import images
from lrd_harness.contracts import TaskOptions
from lrd_harness.errors import UserError
from lrd_harness.models.registry import prompt_rule

mteb_tasks: Any = importlib.import_module("lrd_harness.tasks.embedding.mteb_tasks")
offline: Any = importlib.import_module("lrd_harness.tasks.offline.tasks")
encoder: Any = importlib.import_module("lrd_harness.capture.mteb_encoder")
FAMILIES = {family.name: family for family in mteb_tasks.lrd_tasks()}
COLOURS = {"green": (100, 150, 110), "red": (150, 110, 100), "violet": (120, 100, 150)}
META = {"name": "test/pixels", "revision": "1"}


def pixels(pictures: list[Any]) -> Any:
    """What an image model could see: the image in 3 x 3, (n, 27) float32."""
    small = [np.asarray(picture.convert("RGB").resize((3, 3))) for picture in pictures]
    return np.stack(small).reshape(len(small), -1).astype(np.float32) / 255


class Pixels(AbsEncoder):  # type: ignore[misc]
    """mteb's protocol, without the harness: the images that mteb's loader hands on."""

    mteb_model_meta = ModelMeta.create_empty(overwrites={**META, "modalities": ["image"]})

    def encode(self, inputs: Any, **_: Any) -> Any:
        return pixels([picture for batch in inputs for picture in batch["image"]])


VIEW = SimpleNamespace(
    **META,
    similarity="cosine",
    experiments=[{}],
    encode=lambda asked, *_: pixels([image.open() for image in asked]),
)


def by_mteb(task: Any, data: Any) -> Any:
    """mteb's result on data with images in their columns."""
    task.dataset, task.data_loaded = data, True
    return mteb.evaluate(Pixels(), task, cache=None, co2_tracker=False).task_results[0].get_score()


def drawings(count: int, seed: int = 3) -> dict[str, list[Any]]:
    """Images of each class, of sizes that differ, as noisy as to be confused at times."""
    draw = np.random.default_rng(seed)

    def drawn(colour: tuple[int, ...]) -> Any:
        size = (*draw.integers(5, 9, 2), 3)
        return Image.fromarray((draw.normal(0, 90, size) + colour).clip(0, 255).astype(np.uint8))

    return {name: [drawn(colour) for _ in range(count)] for name, colour in COLOURS.items()}


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """DIR with local data of every kind; the same images everywhere."""
    split = {"train": drawings(4), "test": drawings(6, 5)}
    for name in ("Own", "CIFAR10", "CIFAR10Clustering"):
        for part, classes in split.items():
            for label, pictures in classes.items():
                (tmp_path / name / part / label).mkdir(parents=True)
                for i, picture in enumerate(pictures):
                    picture.save(tmp_path / name / part / label / f"{i}.png")
    files: dict[str, list[tuple[str, str]]] = {"train": [], "test": []}
    for name in ("Rows", "MNIST", "Pairs", "STS12VisualSTS", "Drawn", "NIGHTSI2IRetrieval"):
        (tmp_path / name / "drawn").mkdir(parents=True)
        for part, classes in split.items():
            for label, pictures in classes.items():
                for i, picture in enumerate(pictures):
                    file = f"drawn/{part}-{label}-{i}.png"
                    picture.save(tmp_path / name / file)
                    files[part].append((file, label))
    for part, rows in files.items():
        rows[:] = sorted(set(rows))
        own = [{"image": file, "label": label} for file, label in rows]
        write_rows(tmp_path / "Rows" / f"{part}.jsonl", own)
        own = [{"image": file, "label": sorted(COLOURS).index(label)} for file, label in rows]
        write_rows(tmp_path / "MNIST" / f"{part}.jsonl", own)
    pairs = [(files["test"][i], files["test"][-i * i % 18]) for i in range(18)]
    for name, columns in (("Pairs", ("image1", "image2")), ("STS12VisualSTS", STS)):
        rows = [
            {columns[0]: a, columns[1]: b, "score": 4.0 * (c == d) + i % 2}
            for i, ((a, c), (b, d)) in enumerate(pairs)
        ]
        write_rows(tmp_path / name / "test.jsonl", rows)
    for name in ("Drawn", "NIGHTSI2IRetrieval"):
        for part, split_name in (("corpus", "test"), ("queries", "train")):
            listed = [{"id": file, "image": file} for file, _ in files[split_name]]
            write_rows(tmp_path / name / f"{part}.jsonl", listed)
        judged = [
            {"query-id": q, "corpus-id": d, "score": 1}
            for q, label in files["train"]
            for d, other in files["test"]
            if label == other
        ]
        write_rows(tmp_path / name / "qrels.jsonl", judged)
    return tmp_path


STS = ("sentence1", "sentence2")


def open_task(name: str, folder: Path) -> Any:
    family, colon, rest = name.partition(":")
    task = FAMILIES[family if colon else "mteb"].open(rest or name, TaskOptions(folder))
    task.check()
    return task


def table(folder: Path, name: str, images: tuple[str, ...], split: str) -> Any:
    """A file of rows as mteb would have it: images in columns."""
    rows = [
        json.loads(line) for line in (folder / name / f"{split}.jsonl").read_text().splitlines()
    ]
    data = datasets.Dataset.from_list(
        [{**row, **{c: str(folder / name / row[c]) for c in images}} for row in rows]
    )
    for column in images:
        data = data.cast_column(column, datasets.Image())
    return data


def class_table(folder: Path, name: str, image: str, split: str) -> Any:
    """Folders of classes as `datasets` itself reads them, in mteb's columns."""
    data = datasets.load_dataset(
        "imagefolder", data_dir=str(folder / name), split=split, cache_dir=str(folder / "cache")
    )
    return data.rename_columns({"image": image} if image != "image" else {})


def defined(kind: str) -> Any:
    return mteb_tasks.define("X", kind, {"path": "x", "revision": "x"}, {}, description="x")()


def retrieval(folder: Path, name: str) -> Any:
    corpus, queries = (table(folder, name, ("image",), part) for part in ("corpus", "queries"))
    relevant: dict[str, dict[str, int]] = {}
    for line in (folder / name / "qrels.jsonl").read_text().splitlines():
        row = json.loads(line)
        relevant.setdefault(row["query-id"], {})[row["corpus-id"]] = 1
    parts = {"corpus": corpus, "queries": queries, "relevant_docs": relevant, "top_ranked": None}
    return {"default": {"test": parts}}


SPLITS = ("train", "test")
SCORED = (
    *("ImageClassification:Own", "ImageClustering:Own", "CIFAR10", "CIFAR10Clustering"),
    *("ImageClassification:Rows", "ImageClustering:MNIST", "mteb:MNIST", "VisualSTS:Pairs"),
    *("STS12VisualSTS", "Any2AnyRetrieval:Drawn", "NIGHTSI2IRetrieval"),
)


def of_mteb(name: str, folder: Path) -> tuple[Any, Any]:
    """mteb's object of a task, and its data with images in the columns."""
    family, _, own = name.rpartition(":")
    task = mteb.get_task(own) if family in ("", "mteb") else defined(KINDS.get(family, family))
    if (folder / own / "qrels.jsonl").is_file():
        return task, retrieval(folder, own)
    if (folder / own / "test").is_dir():
        image = "img" if own.startswith("CIFAR") else "image"
        return task, datasets.DatasetDict({s: class_table(folder, own, image, s) for s in SPLITS})
    columns = {"Pairs": ("image1", "image2"), "STS12VisualSTS": STS}.get(own, ("image",))
    there = [split for split in SPLITS if (folder / own / f"{split}.jsonl").is_file()]
    return task, datasets.DatasetDict({s: table(folder, own, columns, s) for s in there})


KINDS = {"VisualSTS": "VisualSTS(eng)"}


@pytest.mark.slow
@pytest.mark.parametrize("name", SCORED)
def test_scores_are_mtebs_on_the_images_themselves(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = by_mteb(*of_mteb(name, folder))
    assert 0.1 < expected < 1
    task = open_task(name, folder)
    assert task.modality == "image"
    assert len({request.text for request in task.texts()}) <= 18
    assert all(isinstance(r.text, images.Image) for r in (*task.texts(), *task.requests()))
    pictures = {request.text: request.text.open() for request in task.requests()}
    monkeypatch.setattr(images, "opened", None)  # nothing is decoded from here on
    layer = SimpleNamespace(
        **{**vars(VIEW), "encode": lambda a, *_: pixels([pictures[i] for i in a])}
    )
    for _ in range(2):
        assert task.evaluate(layer).main == pytest.approx(expected, abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["DigitsImageClassification", "DigitsImageClustering"])
def test_digits_need_no_download(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stock = offline.mteb_task(name)
    stock.load_data()
    expected = by_mteb(stock, stock.dataset)
    (task,) = (task for task in offline.lrd_tasks() if task.name == name)
    task.check()
    seen = {request.text: pixels([request.text.open()])[0] for request in task.requests()}
    assert {request.text.split(":")[1] for request in task.texts()} == {"8x8"}
    assert len(set(task.texts())) == 500
    monkeypatch.setattr(encoder, "opened", None)  # nothing is decoded from here on
    layer = {**vars(VIEW), "encode": lambda asked, *_: np.stack([seen[image] for image in asked])}
    assert task.evaluate(SimpleNamespace(**layer)).main == pytest.approx(expected)
    assert 0.3 < expected < 0.95


def row(file: str, number: int, **changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        lines = (folder / file).read_text().splitlines()
        changed = {**json.loads(lines[number - 1]), **changes}
        lines[number - 1] = json.dumps({k: v for k, v in changed.items() if v is not ...})
        (folder / file).write_text("\n".join(lines))

    return change


def moved(file: str, to: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / file).rename(folder / to)


def written(file: str, content: bytes = b"no image") -> Callable[[Path], Any]:
    return lambda folder: (folder / file).write_bytes(content)


def emptied(file: str) -> Callable[[Path], None]:
    def empty(folder: Path) -> None:
        for path in (folder / file).iterdir():
            path.unlink()

    return empty


def single(folder: Path) -> None:
    for part in ("train/red", "train/violet", "test/red", "test/violet"):
        (folder / "Own" / part).rename(folder / part.replace("/", "-"))


def alike(folder: Path) -> None:
    """All rows are of one class."""
    for split in ("train", "test"):
        file = folder / "Rows" / f"{split}.jsonl"
        rows = [{**json.loads(line), "label": "red"} for line in file.read_text().splitlines()]
        file.write_text("\n".join(map(json.dumps, rows)))


CLASSES, ROWS, PAIRS = "ImageClassification:Own", "ImageClassification:Rows", "VisualSTS:Pairs"
DRAWN = "Any2AnyRetrieval:Drawn"
# task, what is done to its folder, what the one line says
FAULTS: list[tuple[str, Callable[[Path], Any], str]] = [
    ("ImageClassification:None", lambda f: None, "ImageClassification:None: no folder "),
    *((f"ImageClassification:{n}", lambda f: None, ": no folder ") for n in ("", "..", ".")),
    ("VisualSTS:../Pairs", lambda f: None, "VisualSTS:../Pairs: no folder "),
    (ROWS, row("Rows/test.jsonl", 3, image="../Own/train/red/0.png"), "row 3: 'image' leads out"),
    (ROWS, row("Rows/train.jsonl", 2, image="/etc/hostname"), "row 2: 'image' leads out of the"),
    (ROWS, row("Rows/test.jsonl", 4, image="drawn/none.png"), "row 4: 'image' names no file: d"),
    (ROWS, row("Rows/test.jsonl", 4, image="drawn"), "row 4: 'image' names no file: drawn"),
    (ROWS, row("Rows/test.jsonl", 4, image=7), "row 4: 'image' is not the name of a file"),
    (ROWS, row("Rows/test.jsonl", 4, image=""), "row 4: 'image' is not the name of a file"),
    (ROWS, row("Rows/test.jsonl", 1, image=...), "Rows/test.jsonl, row 1: no 'image'"),
    (ROWS, row("Rows/train.jsonl", 5, label=...), "Rows/train.jsonl, row 5: no 'label'"),
    (ROWS, row("Rows/test.jsonl", 1, label=["red"]), "row 1: 'label' is not a class"),
    (ROWS, row("Rows/test.jsonl", 4, label="blue"), "Rows/train: no class blue, which is tested"),
    (ROWS, alike, "Rows: one class alone, red"),
    (ROWS.replace("Classification", "Clustering"), alike, "Rows: one class alone, red"),
    (ROWS, moved("Rows/train.jsonl", "Rows/elsewhere"), "no train.jsonl, which"),
    (ROWS, written("Rows/drawn/test-red-1.png"), "Rows/drawn/test-red-1.png: no image that can"),
    (CLASSES, written("Own/test/red/1.png"), "Own/test/red/1.png: no image that can be read"),
    (CLASSES, emptied("Own/test/green"), "Own/test/green: no images"),
    (CLASSES, moved("Own/train/red", "Own/train/rad"), "Own/train: no class red, which is tested"),
    (CLASSES, moved("Own/train", "else"), "Own/train: no such folder, nor train.jsonl beside it"),
    (CLASSES, single, "Own: one class alone, green"),
    (CLASSES, lambda f: [moved("Own", "X")(f), (f / "Own").mkdir()], "no folders of classes in it"),
    (PAIRS, row("Pairs/test.jsonl", 2, image2=...), "Pairs/test.jsonl, row 2: no 'image2'"),
    (PAIRS, row("Pairs/test.jsonl", 2, image2="x.png"), "row 2: 'image2' names no file: x.png"),
    (PAIRS, row("Pairs/test.jsonl", 2, score="much"), "row 2: 'score' is not a number"),
    (PAIRS, moved("Pairs/test.jsonl", "Pairs/dev.jsonl"), "no test.jsonl, which VisualSTS-Pairs"),
    (DRAWN, row("Drawn/corpus.jsonl", 5, image="x.png"), "corpus.jsonl, row 5: 'image' names no"),
    (DRAWN, row("Drawn/queries.jsonl", 5, image=...), "queries.jsonl, row 5: no 'image'"),
    (DRAWN, row("Drawn/qrels.jsonl", 5, **{"corpus-id": "x"}), "qrels.jsonl, row 5: id 'x' is not"),
    (DRAWN, moved("Drawn/queries.jsonl", "Drawn/asked"), "Drawn/queries.jsonl: cannot be read"),
]


@pytest.mark.parametrize(("name", "spoil", "line"), FAULTS)
def test_what_is_wrong_is_named_in_one_line(
    name: str, spoil: Callable[[Path], Any], line: str, folder: Path
) -> None:
    spoil(folder)
    with pytest.raises(UserError) as caught:
        open_task(name, folder)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_two_classes_are_scored_alike_in_rows_and_in_folders(folder: Path) -> None:
    """Of two, mteb takes numbers alone."""
    for split in SPLITS:
        (folder / "Own" / split / "red").rename(folder / f"{split}-red")
        file = folder / "Rows" / f"{split}.jsonl"
        lines = [line for line in file.read_text().splitlines() if "red" not in line]
        file.write_text("\n".join(lines))
    rows, folders = (open_task(name, folder).evaluate(VIEW) for name in (ROWS, CLASSES))
    assert rows.scores == folders.scores
    assert rows.scores["ap"] > 0


def test_classes_without_splits_are_halved(tmp_path: Path) -> None:
    """What is trained on is not tested on; clustering takes all; what is no image is left out."""
    for label, pictures in drawings(7).items():
        (tmp_path / "Halved" / label / "deeper").mkdir(parents=True)
        for i, picture in enumerate(pictures):
            picture.save(tmp_path / "Halved" / label / ("deeper" if i % 2 else ".") / f"{i}.png")
        (tmp_path / "Halved" / label / "notes.txt").write_text("no image")
        (tmp_path / "Halved" / label / ".hidden.png").write_bytes(b"no image")
    (tmp_path / "Halved" / ".git" / "x").mkdir(parents=True)
    task = open_task("ImageClassification:Halved", tmp_path)
    trained, tested = {r.text for r in task.requests()}, {r.text for r in task.texts()}
    assert len(trained) == 21
    assert len(tested) == 12
    again = open_task("ImageClassification:Halved", tmp_path)
    assert [r.text for r in again.requests()] == [r.text for r in task.requests()]
    assert {r.text for r in open_task("ImageClustering:Halved", tmp_path).texts()} == trained
    before = task.fingerprint()
    drawings(1, 9)["red"][0].save(tmp_path / "Halved" / "red" / "0.png")
    assert task.fingerprint() != before
    (tmp_path / "Halved" / "blue").mkdir()
    picture.save(tmp_path / "Halved" / "blue" / "0.png")
    with pytest.raises(UserError, match="blue: one image, which cannot be both trained"):
        open_task("ImageClassification:Halved", tmp_path)


@pytest.mark.slow
def test_images_with_several_labels(folder: Path) -> None:
    rows = [
        {"image": f"drawn/test-{c}-{i}.png", "classes": [n, 3] if i % 2 else [n]}
        for n, c in enumerate(sorted(COLOURS))
        for i in range(6)
    ]
    (folder / "Rows").rename(folder / "VOC2007")
    for split in ("train", "test"):
        write_rows(folder / "VOC2007" / f"{split}.jsonl", rows)
    stock = mteb.get_task("VOC2007")
    data = {s: table(folder, "VOC2007", ("image",), s) for s in SPLITS}
    expected = by_mteb(stock, datasets.DatasetDict(data))
    assert open_task("VOC2007", folder).evaluate(VIEW).main == pytest.approx(expected)


def test_a_task_of_several(folder: Path) -> None:
    """An aggregate's parts have folders of their own; its score is mteb's mean."""
    name = "VisualSTS17Eng"
    part = mteb.get_task(name).tasks[0].metadata.name
    (folder / name).mkdir()
    (folder / "STS12VisualSTS").rename(folder / name / part)
    task = open_task(name, folder)
    expected = by_mteb(*of_mteb("VisualSTS:Pairs", folder))
    assert task.evaluate(VIEW).main == pytest.approx(expected)
    assert len({request.text for request in task.texts()}) <= 18


def test_texts_of_a_type_of_images_have_the_prompts_that_mteb_gives_them(tmp_path: Path) -> None:
    """WebQAT2TRetrieval is on texts alone; results call it Retrieval."""
    folder = tmp_path / "WebQAT2TRetrieval"
    folder.mkdir()
    for part in ("corpus", "queries"):
        rows = [json.dumps({"id": f"{part}{i}", "text": f"{part} {i}"}) for i in range(3)]
        (folder / f"{part}.jsonl").write_text("\n".join(rows))
    row = {"query-id": "queries0", "corpus-id": "corpus1", "score": 1}
    (folder / "qrels.jsonl").write_text(json.dumps(row))
    task = open_task(folder.name, tmp_path)
    assert (task.type, task.modality) == ("Retrieval", "text")
    saved = {"Any2AnyRetrieval-query": "ask: ", "Any2AnyRetrieval": "read: ", "Retrieval": "no: "}
    prompt = prompt_rule("a/b", saved)
    asked = {(r.prompt_type, prompt(r.part or task, r.prompt_type)) for r in task.requests()}
    assert asked == {("query", "ask: "), ("document", "read: ")}


def test_colours_are_brought_to_rgb(tmp_path: Path) -> None:
    """mteb hands images on in any mode; what is transparent shows white."""
    clear = Image.new("RGBA", (4, 4), (200, 0, 0, 0))
    stored = datasets.Dataset.from_dict({"image": [clear, clear.convert("L")], "label": [0, 1]})
    gallery = encoder.Gallery()
    kept = gallery.keep(datasets.DatasetDict(test=stored), "Mixed")["test"]
    assert kept["label"] == [0, 1]
    seen = [gallery[reference].open() for reference in kept["image"]]
    assert [picture.mode for picture in seen] == ["RGB", "RGB"]
    assert [picture.getpixel((0, 0)) for picture in seen] == [(255,) * 3, (60,) * 3]
    assert gallery[kept["image"][0]] is gallery[kept["image"][0]]
    broken = stored.cast_column("image", datasets.Image(decode=False)).to_list()
    rows = [broken[0], {"image": {"bytes": b"none", "path": None}, "label": 1}, {"label": 2}]
    lost = datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())
    kept = gallery.keep({"default": {"test": {"corpus": lost, "relevant_docs": {}}}}, "Lost")
    references = kept["default"]["test"]["corpus"]["image"]
    assert gallery[references[0]] == gallery["0:0"]  # alike in size and pixels
    for number in (1, 2):
        with pytest.raises(
            UserError, match=rf"Lost, default, test, corpus, row {number + 1}: no im"
        ):
            _ = gallery[references[number]]


@pytest.mark.parametrize("name", ["DigitsImageClustering", CLASSES, ROWS])
def test_without_pillow_a_line_says_what_to_install(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setattr(datasets.config, "PIL_AVAILABLE", False)
    digits = {task.name: task.check for task in offline.lrd_tasks()}
    with pytest.raises(UserError, match=r'pip install "lrd-harness\[vision\]"$'):
        (digits.get(name) or functools.partial(open_task, name, folder))()
