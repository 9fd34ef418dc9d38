"""Tasks of mteb: its own data, evaluators and scores, on one layer of a model at a time."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from lrd_harness.contracts import Modality, ModelView, Request, Score, Task, TaskFamily, TaskOptions
from lrd_harness.errors import UserError
from lrd_harness.hookspecs import hookimpl
from lrd_harness.images import on_images
from lrd_harness.models import hub, registry
from lrd_harness.models.find import content_hash

from . import local_data

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask

    from lrd_harness.capture.mteb_encoder import Gallery

# of each type of task, mteb's class, main score and category
TYPES = {
    "Classification": ("AbsTaskClassification", "accuracy", "t2c"),
    "Clustering": ("AbsTaskClustering", "v_measure", "t2c"),
    "PairClassification": ("AbsTaskPairClassification", "max_ap", "t2t"),
    "Reranking": ("AbsTaskRetrieval", "map_at_1000", "t2t"),
    "Retrieval": ("AbsTaskRetrieval", "ndcg_at_10", "t2t"),
    "STS": ("AbsTaskSTS", "cosine_spearman", "t2t"),
    "ImageClassification": ("AbsTaskClassification", "accuracy", "i2c"),
    "ImageClustering": ("AbsTaskClusteringLegacy", "nmi", "i2c"),
    "Any2AnyRetrieval": ("AbsTaskRetrieval", "ndcg_at_10", "i2i"),
    "VisualSTS(eng)": ("AbsTaskSTS", "cosine_spearman", "i2i"),
}
# what tasks on images have in mteb, where its classes are made for texts
_LABELLED = {"input_column_name": "image", "label_column_name": "label"}
IMAGES: Mapping[str, Mapping[str, Any]] = {
    "ImageClassification": {**_LABELLED, "samples_per_label": 16, "n_experiments": 5},
    "ImageClustering": _LABELLED,
    "VisualSTS(eng)": {"column_names": ("image1", "image2")},
}
LABELLED = ("Classification", "Clustering")  # types, of images too, with one class a text
# what mteb files of how it was called; its default batches are small, and texts are read in others
ENCODING: Any = {"batch_size": 512, "show_progress_bar": False}


def define(
    name: str, kind: str, dataset: Mapping[str, str], attributes: Mapping[str, Any], **about: Any
) -> type[AbsTask]:
    """The mteb class of a task that mteb has not got, evaluated on the split test.

    kind: one of `TYPES`; dataset: path and revision, attributes: of the class; about: what else its
    metadata say.
    """
    from mteb import abstasks
    from mteb.abstasks.task_metadata import TaskMetadata

    base, main_score, category = TYPES[kind]
    metadata = TaskMetadata(
        name=name,
        type=kind,  # type: ignore[arg-type]
        dataset=dataset,  # type: ignore[arg-type]
        category=category,  # type: ignore[arg-type]
        modalities=["image" if category.startswith("i") else "text"],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score=main_score,
        **about,
    )
    members = {"metadata": metadata, **IMAGES.get(kind, {}), **attributes}
    return type(name, (getattr(abstasks, base),), members)


def check_reachable(metadata: Any, folder: Path | None) -> None:
    """Raises UserError if the data are neither in the hub's cache nor on a hub within reach."""
    path = metadata.dataset["path"]
    if Path(path).exists():
        return
    looked = f" and not in {folder / metadata.name}" if folder else ""
    try:
        hub.check_data(path, metadata.dataset.get("revision"))
    except UserError as error:
        raise UserError(
            f"{metadata.name}: its data ({path}) are not on this machine{looked}, and {error}. "
            f"--task-data DIR reads DIR/{metadata.name}/SPLIT.jsonl instead."
        ) from None


def wrap(
    make: Callable[[], AbsTask],
    *,
    name: str,
    type: str,
    description: str = "",
    prompt: str | Mapping[str, str] | None = None,
    load: Callable[[Any], None] = lambda task: task.load_data(),
    check: Callable[[], None] | None = None,
    local: Path | None = None,
) -> Task:
    """A Task around a mteb task.

    make: a new mteb task object each call. mteb's task objects are stateful (clustering draws
    from a generator that it keeps), so every layer gets a new one; the data are loaded once.
    load: fills a task object with its data; check: by default loads them, so that data that are
    missing or malformed show before any model is opened, and images that cannot be read.
    """
    modality: Modality = "image" if on_images(type) else "text"

    @functools.cache
    def gallery() -> Gallery | None:
        from lrd_harness.capture.mteb_encoder import Gallery

        return Gallery() if modality == "image" else None

    @functools.cache
    def loaded() -> Any:
        from lrd_harness.capture.mteb_encoder import eager

        task = make()
        for part in _parts(task):
            load(part)
            if retrieval := hasattr(part, "convert_v1_dataset_format_to_v2"):
                part.convert_v1_dataset_format_to_v2(num_proc=None)
            if images := gallery():
                part.dataset = images.keep(part.dataset, part.metadata.name)
            if not retrieval:  # which has no labels
                part.dataset = eager(part.dataset)
        return task

    def fresh() -> Any:
        task = make()
        for new, old in zip(_parts(task), _parts(loaded()), strict=True):
            new.dataset, new.data_loaded = old.dataset, True
        return task

    def look() -> None:
        requests() if modality == "image" else loaded()

    @functools.cache
    def requests() -> Sequence[Request]:
        from lrd_harness.capture.samples import Listener

        listener = Listener(task)
        _evaluate(fresh(), listener, task, gallery())
        return listener.requests

    def labels() -> list[Any]:
        return list(_labels(loaded()).values())

    task = Task(
        name=name,
        texts=lambda: _texts(fresh(), requests, gallery()),
        evaluate=lambda view: _evaluate(fresh(), view, task, gallery()),
        type=type,
        prompt=prompt,
        requests=requests,
        description=description,
        check=check or look,
        save=functools.partial(_save, modality),
        fingerprint=None if local is None else lambda: content_hash(local)[:16],
        modality=modality,
        labels=labels if type.removeprefix("Image") in LABELLED else None,
    )
    return task


def _parts(task: Any) -> list[Any]:
    """The task objects that hold data: an aggregate such as CQADupstackRetrieval has several."""
    return list(task.tasks) if getattr(task, "is_aggregate", False) else [task]


def _evaluate(mteb_task: Any, view: ModelView, task: Task, gallery: Gallery | None) -> Score:
    import mteb

    from lrd_harness.capture.mteb_encoder import LayerEncoder

    # else each part has prompts of its own, or they go by a type that results do not have
    whole = _parts(mteb_task)[0] is mteb_task and mteb_task.metadata.type == task.type
    results = mteb.evaluate(
        cast("Any", LayerEncoder(view, task if whole else None, gallery)),
        mteb_task,
        cache=None,
        co2_tracker=False,
        show_progress_bar=False,
        encode_kwargs=ENCODING.copy(),
    )
    result = results.task_results[0]
    return Score(
        main=float(result.get_score()),
        name=str(mteb_task.metadata.main_score),
        scores=_flat(result.scores),
        native=result,
    )


def _flat(scores: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, float]:
    """All numbers of a result; split and language are named only where there are several."""
    cells = [(split, row) for split, rows in scores.items() for row in rows]
    flat: dict[str, float] = {}
    for split, row in cells:
        prefix = "" if len(cells) == 1 else f"{split}.{row.get('hf_subset', 'default')}."
        flat |= {f"{prefix}{k}": float(v) for k, v in row.items() if isinstance(v, (int, float))}
    return flat


def _texts(
    mteb_task: Any, requests: Callable[[], Sequence[Request]], gallery: Gallery | None
) -> Sequence[Request]:
    """The texts for metrics: classified and clustered ones, documents, or both sides of pairs."""
    kind = mteb_task.metadata.type.removeprefix("Image")
    if kind.endswith(("Retrieval", "Reranking")):
        return [request for request in requests() if request.prompt_type == "document"]
    if kind not in ("Classification", "MultilabelClassification", "Clustering"):
        return requests()
    texts: dict[str, None] = {}
    column = getattr(mteb_task, "input_column_name", "sentences")
    for _, data in local_data.evaluated(mteb_task):
        texts.update(dict.fromkeys(_strings(data[column])))
    return [Request(text if gallery is None else gallery[text]) for text in texts]


def _labels(mteb_task: Any) -> dict[str, Any]:
    """By text its class, in the order of `_texts`; None of a text that is there with several.

    Of nested classes, a list, the whole path.
    """
    labels: dict[str, Any] = {}
    column = getattr(mteb_task, "input_column_name", "sentences")
    named = getattr(mteb_task, "label_column_name", "labels")
    for _, data in local_data.evaluated(mteb_task):
        for text, label in _labelled(data[column], data[named]):
            if labels.setdefault(text, label) != label:
                labels[text] = None
    return labels


def _labelled(texts: Iterable[Any], labels: Iterable[Any]) -> Iterable[tuple[str, Any]]:
    """Each text with its label; legacy clustering tasks hold lists of both in each row."""
    for text, label in zip(texts, labels, strict=True):
        if isinstance(text, str):
            yield text, tuple(label) if isinstance(label, list) else label
        else:
            yield from _labelled(text, label if isinstance(label, list) else [label] * len(text))


def _strings(values: Iterable[Any]) -> Iterable[str]:
    """Legacy clustering tasks hold a list of texts in each row."""
    for value in values:
        yield from [value] if isinstance(value, str) else _strings(value)


def _save(modality: Modality, score: Score, view: ModelView, out: Path) -> None:
    """Write mteb's own result file in mteb's own layout under out/mteb/results."""
    from mteb.cache import ResultCache

    from lrd_harness.capture.mteb_encoder import model_meta

    cache = ResultCache(out / "mteb")
    for experiment in view.experiments:
        meta = model_meta(view, experiment, modality)
        cache.save_to_cache(score.native, meta, encode_kwargs=ENCODING)


@functools.cache
def _names() -> Mapping[str, str]:
    import mteb

    with registry.unseeded():
        return {
            task.metadata.name: registry.task_type(task.metadata)
            for modality in get_args(Modality)
            for task in mteb.get_tasks(
                modalities=[modality], exclusive_modality_filter=True, exclude_superseded=False
            )
        }


def _open(name: str, options: TaskOptions) -> Task:
    """A task of mteb's registry, as its English benchmark has it; else English, and split test.

    Raises KeyError for a name that mteb does not know, UserError for a task on texts and images
    together, on sound or on video.
    """
    if (kind := _names().get(name)) is None:
        of = " and ".join(registry.task(name).metadata.modalities)
        raise UserError(
            f"{name} is a task of mteb on {of}: only those on texts alone or images alone can be "
            "run. `lrd-harness tasks image` lists those on images."
        )

    def make() -> AbsTask:
        return cast("AbsTask", registry.task(name))

    metadata = make().metadata
    folder = options.data / name if options.data else None
    local = folder if folder is not None and folder.is_dir() else None

    def load(task: Any) -> None:
        if local is not None:
            part = local / task.metadata.name
            local_data.load(task, part if part.is_dir() else local)
            return
        try:
            with hub.at_once():
                task.load_data()
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(f"{task.metadata.name}: its data cannot be loaded: {reason}") from None

    def check() -> None:
        for part in _parts(make()):
            check_reachable(part.metadata, options.data)

    return wrap(
        make,
        name=name,
        type=kind,
        description=metadata.description,
        prompt=metadata.prompt,  # type: ignore[arg-type]
        load=load,
        check=check if local is None else None,
        local=local,
    )


def _open_own(kind: str, name: str, options: TaskOptions) -> Task:
    """A task on images of one's own, in DIR/NAME of the local data.

    Raises UserError where that is no folder.
    """
    family, folder = kind.partition("(")[0], options.data and options.data / name
    if folder is None:
        raise UserError(f"{family}:{name} is read from DIR/{name}: name DIR with --task-data")
    if name in ("", "..") or Path(name).name != name or not folder.is_dir():
        raise UserError(f"{family}:{name}: no folder {folder}")
    description = f"images in {folder.name}, labelled by the user"
    local = {"path": "local", "revision": "local"}
    return wrap(
        define(f"{family}-{name}", kind, local, {}, description=description),
        name=f"{family}:{name}",
        type=kind,
        description=description,
        load=lambda task: local_data.load(task, folder),
        local=folder,
    )


@hookimpl
def lrd_tasks() -> list[TaskFamily]:
    """Every task of mteb on texts or on images, with or without the prefix `mteb:`; own ones."""
    own = [
        TaskFamily(kind.partition("(")[0], names=dict, open=functools.partial(_open_own, kind))
        for kind, (*_, category) in TYPES.items()
        if category.startswith("i")
    ]
    return [TaskFamily("mteb", names=_names, open=_open, bare=True), *own]
