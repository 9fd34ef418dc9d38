"""How mteb itself reads the models that it knows: its loaders, and what their wrappers add.

A wrapper says which prompt goes before a text, which of a model's own adapters reads it, and may
change the vectors. None of that is written again here: its own `encode` is run, around a stand-in
for the model.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from functools import partialmethod
from types import MappingProxyType, SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

from lrd_harness.contracts import Task

if TYPE_CHECKING:
    from torch import Tensor

# The names under which sentence-transformers' encode_query and encode_document look.
ROLES: Mapping[str, Sequence[str]] = {
    "query": ("query",),
    "document": ("document", "passage", "corpus"),
}
_ROUTED = ("JinaWrapper", "JinaV5TextWrapper")  # they name one of the model's adapters for a task
# mteb's wrappers that do no more than what a stand-in for the model can see and answer
_FOLLOWED = (*_ROUTED, "NomicWrapper", "BekkoEncoderWrapper", "KALMWrapper", "_NVEmbedWrapper")
_MARK = "\x1f"  # encloses the name of an adapter, before the prompt


class Loader(NamedTuple):
    """How mteb loads a model that it knows.

    wrapper: its class around sentence-transformers, None of a model that is loaded otherwise;
    arguments: what that is told; special: the name of mteb's own loader, where it does more than
    is followed here.
    """

    wrapper: Any = None
    arguments: Mapping[str, Any] = MappingProxyType({})
    special: str | None = None

    @property
    def instructs(self) -> bool:
        """Whether it makes instructions, so that prompts depend on the task."""
        from mteb.models.instruct_wrapper import InstructSentenceTransformerModel

        return self.wrapper is not None and issubclass(
            self.wrapper, InstructSentenceTransformerModel
        )

    @property
    def routes(self) -> bool:
        """Whether it names one of the model's own adapters of weights for each task."""
        return self.wrapper is not None and self.wrapper.__name__ in _ROUTED

    @property
    def changes(self) -> bool:
        """Whether it may make other vectors of those that the model gives."""
        from mteb.models.sentence_transformer_wrapper import SentenceTransformerEncoderWrapper

        return not (self.instructs or self.wrapper in (None, SentenceTransformerEncoderWrapper))

    @property
    def prompts(self) -> Mapping[str, str] | None:
        """mteb's prompts for the model by its keys, None without; see Wrapper for instructions."""
        return None if self.routes else self.arguments.get("model_prompts")


def hub_name(model: str) -> str:
    """The name without revision and pooling: `NAME@REVISION [cls]` is NAME."""
    return model.partition(" [")[0].partition("@")[0]


def loader_of(model_name: str) -> Loader:
    """How mteb loads a model; nothing where it does not know it."""
    import mteb
    from mteb.models.instruct_wrapper import InstructSentenceTransformerModel
    from mteb.models.sentence_transformer_wrapper import SentenceTransformerEncoderWrapper

    try:
        meta: Any = mteb.get_model_meta(hub_name(model_name), fetch_from_hf=False)
    except (KeyError, ValueError):  # a model that mteb does not know
        return Loader()
    arguments, loader = meta.loader_kwargs or {}, meta.loader
    if loader is None:
        return Loader(arguments=arguments)
    name = str(getattr(loader, "__name__", type(loader).__name__))
    for wrapper in (InstructSentenceTransformerModel, SentenceTransformerEncoderWrapper):
        if isinstance(loader, type) and issubclass(loader, wrapper):
            followed = loader is wrapper or name in _FOLLOWED
            return Loader(loader, arguments) if followed else Loader(wrapper, arguments, name)
    place = f"{getattr(loader, '__module__', '').rpartition('.')[2]}.{name}"
    if place not in _loader_functions():
        return Loader(arguments=arguments, special=name)
    instructs, told = _loader_functions()[place]
    wrapper = InstructSentenceTransformerModel if instructs else SentenceTransformerEncoderWrapper
    return Loader(wrapper, {**told, **arguments})


@functools.cache
def _loader_functions() -> Mapping[str, tuple[bool, Mapping[str, Any]]]:
    """mteb's loaders that are functions around its wrappers of sentence-transformers.

    By name: whether the wrapper makes instructions, and what it is told beside `loader_kwargs`.
    """
    from mteb.models.model_implementations import qwen3_models

    template = getattr(qwen3_models, "instruction_template", None)
    qwen3 = {"instruction_template": template, "apply_instruction_to_passages": False}
    return {
        "qwen3_models.q3e_instruct_loader": (True, qwen3),
        "samilpwc_models.instruct_loader": (True, {}),
        "ultrabert_models.ultrabert_embed_loader": (True, {}),
        "voyage_models.voyage_4_nano_loader": (False, {}),
        "sentence_transformer_wrapper.sentence_transformers_loader": (False, {}),
    }


class Asked(NamedTuple):
    """What a wrapper asks of its model. adapter: one of the model's own, "" for none."""

    prompt: str = ""
    adapter: str = ""


def routed(asked: Asked) -> str:
    """As a prompt, which names the adapter as well: texts of another one are other texts."""
    return f"{_MARK}{asked.adapter}{_MARK}{asked.prompt}" if asked.adapter else asked.prompt


def route(prompt: str) -> Asked:
    """The prompt and the adapter that `routed` has joined."""
    if not prompt.startswith(_MARK):
        return Asked(prompt)
    adapter, _, rest = prompt[len(_MARK) :].partition(_MARK)
    return Asked(rest, adapter)


class _StandIn:
    """Stands where a wrapper has its model: keeps what it is asked, and answers with `vectors`.

    prompts, default: those saved with the model, and the name of its default prompt, which apply
    as sentence-transformers has it.
    """

    def __init__(self, prompts: Mapping[str, str | None], default: str | None) -> None:
        self.prompts, self.default_prompt_name = dict(prompts), default
        self.asked, self.vectors = Asked(), None

    def encode(
        self,
        sentences: Sequence[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        task: str | None = None,
        normalize_embeddings: bool = False,
        **_: Any,
    ) -> Any:
        import torch

        if prompt is None:
            name = self.default_prompt_name if prompt_name is None else prompt_name
            prompt = self.prompts.get(name or "")
        self.asked = Asked(prompt or "", task or "")
        if normalize_embeddings:
            return torch.nn.functional.normalize(self.vectors, p=2, dim=1)  # type: ignore[arg-type]
        return self.vectors

    def _encode_as(self, role: str, sentences: Sequence[str], **options: Any) -> Any:
        if options.get("prompt") is None and options.get("prompt_name") is None:
            options["prompt_name"] = next((n for n in ROLES[role] if n in self.prompts), None)
        return self.encode(sentences, **options)

    encode_query = partialmethod(_encode_as, "query")
    encode_document = partialmethod(_encode_as, "document")


class Wrapper:
    """mteb's wrapper of a model by name, without the model; of one it does not know, the usual.

    saved, default: a sentence-transformers model's prompts and the name of its default prompt.
    """

    def __init__(
        self,
        model_name: str,
        saved: Mapping[str, str | None] | None = None,
        default: str | None = None,
    ) -> None:
        import inspect

        from mteb.models.abs_encoder import PromptSource
        from mteb.models.sentence_transformer_wrapper import SentenceTransformerEncoderWrapper

        self.how = loader_of(model_name)
        kind = self.how.wrapper or SentenceTransformerEncoderWrapper
        parameters = inspect.signature(kind).parameters.values()
        # what __init__ would keep, but for the weights that it would load
        kept = {p.name: p.default for p in parameters if p.default is not p.empty}
        kept |= self.how.arguments
        priority = kept.pop("prompt_priority", None)
        if priority:
            kept["prompt_priority"] = [PromptSource.from_str(source) for source in priority]
        # mteb's prompts for a model replace those that were saved with it, fallbacks included
        kept["model_prompts"] = kept.get("model_prompts") or dict(saved or {}) or None
        prompts = saved or {} if self.how.instructs else kept["model_prompts"] or {}
        self._model = _StandIn(prompts, default)
        self._wrapper = object.__new__(kind)
        vars(self._wrapper).update(kept, model_name=hub_name(model_name), model=self._model)
        self._wrapper.mteb_model_meta = SimpleNamespace(modalities=["text"])

    def asks(self, task: Task, prompt_type: str | None) -> Asked:
        """What it asks of the model for texts of a task, of a prompt type."""
        import torch

        try:
            self._encode(torch.zeros(1, 1), task, prompt_type)
        except KeyError:  # a task that mteb does not know has no instruction of mteb's
            return Asked()
        return self._model.asked

    def output(self, vectors: Tensor, task: Task | None, prompt_type: str | None) -> Tensor:
        """What it makes of the model's vectors (n, d), which may be of another number type."""
        import torch

        if not self.how.changes or not len(vectors):
            return vectors
        task = task or Task("", texts=list, evaluate=None)
        return torch.as_tensor(self._encode(vectors.float().cpu(), task, prompt_type))

    def _encode(self, vectors: Tensor, task: Task, prompt_type: str | None) -> Any:
        from mteb.types import PromptType

        self._model.vectors = vectors  # type: ignore[assignment]
        return self._wrapper.encode(
            _Texts(len(vectors)),
            task_metadata=task,
            hf_split="test",
            hf_subset="default",
            prompt_type=PromptType(prompt_type) if prompt_type else None,
        )


class _Texts:
    """What wrappers ask of a DataLoader of n texts."""

    dataset = SimpleNamespace(features={"text": None})

    def __init__(self, n: int) -> None:
        self._batches = [{"text": [""] * n}]

    def __iter__(self) -> Any:
        return iter(self._batches)
