"""The prompt before a text is the one that mteb's own wrappers pass to the model."""

from __future__ import annotations

import inspect
import warnings
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any

import mteb
import numpy as np
import pytest
import sentence_transformers
import torch
import yaml
from datasets import Dataset
from mteb.models import SentenceTransformerEncoderWrapper
from mteb.models.instruct_wrapper import InstructSentenceTransformerModel
from mteb.types import PromptType
from sentence_transformers import SentenceTransformer

from lrd_harness.contracts import Task
from lrd_harness.errors import told_to
from lrd_harness.models.registry import loader_arguments, prompt_rule, unseeded
from lrd_harness.models.wrappers import loader_of

TASKS = [
    "STSBenchmark",
    "Banking77Classification",
    "TwentyNewsgroupsClustering",
    "SciFact",
    "NFCorpus",
    "AskUbuntuDupQuestions",
    "SprintDuplicateQuestions",
    "SummEvalSummarization.v2",
]
SUITE = Path(__file__).parents[2] / "tasks" / "suites" / "lrd-30.yaml"
PAPER = yaml.safe_load(SUITE.read_text())["models"]
TYPES = [None, "query", "document"]
STOCK = {"query": "", "document": ""}  # what sentence-transformers gives a model without prompts


class Recorder(SentenceTransformer):  # type: ignore[misc]
    """A model without weights that keeps the prompt it would encode with."""

    def __init__(self, prompts: Any = None, default: str | None = None) -> None:
        self.__dict__ |= {"prompts": dict(prompts or STOCK), "default_prompt_name": default}
        self.__dict__ |= {name: {} for name in ("_modules", "_parameters", "_buffers")}
        self.__dict__ |= {"used": [], "truncate_dim": None, "max_seq_length": None}

    tokenizer = SimpleNamespace()  # of which NV-Embed's wrapper sets attributes

    def encode(self, inputs: Any, prompt: Any = None, prompt_name: Any = None, **_: Any) -> Any:
        self.used.append(self._resolve_prompt(prompt, prompt_name))
        return np.zeros((len(inputs), 2), np.float32)

    def _first_module(self) -> Any:
        config = SimpleNamespace(_attn_implementation="sdpa")
        model = SimpleNamespace(config=config)
        return SimpleNamespace(auto_model=model, tokenizer=SimpleNamespace())

    def set_pooling_include_prompt(self, include_prompt: bool) -> None:
        pass


class Loader:
    """What the wrappers ask of a DataLoader."""

    dataset = Dataset.from_dict({"text": ["a"]})

    def __iter__(self) -> Any:
        return iter([{"text": ["a"]}])


def task_of(name: str) -> Task:
    metadata = mteb.get_task(name).metadata
    kind, prompt = metadata.type, metadata.prompt
    return Task(metadata.name, texts=list, evaluate=None, type=kind, prompt=prompt)


def check_as_mteb(rule: Any, wrapper: Any, model: Recorder) -> None:
    """Compare the prompts of a rule with those that mteb's wrapper encodes with."""
    for name in TASKS:
        about = {"task_metadata": mteb.get_task(name).metadata, "hf_split": "test"}
        task = task_of(name)
        # of texts that are queries or documents mteb never asks without saying which
        for kind in TYPES[isinstance(task.prompt, dict) :]:
            prompt_type = PromptType(kind) if kind else None
            with warnings.catch_warnings(action="ignore"):
                wrapper.encode(Loader(), hf_subset="default", prompt_type=prompt_type, **about)
            assert rule(task, kind) == (model.used[-1] or ""), (name, kind)


@pytest.mark.parametrize(
    "saved",
    [
        {},
        {"prompts": {"query": "Q: ", "document": "D: "}},
        {"prompts": {"query": "Q: ", "passage": "P: ", "plain": "A: "}, "default": "plain"},
    ],
    ids=["none", "two", "default"],
)
@pytest.mark.parametrize(
    "name",
    [
        *PAPER,
        "intfloat/multilingual-e5-large-instruct",
        "SamilPwC-AXNode-GenAI/PwC-Embedding_expr",
        "dmis-lab/UltraBERT-Embed-150M",
        "zeroentropy/zembed-1",
        "jinaai/jina-embeddings-v5-text-nano",
        "HIT-TMG/KaLM-embedding-multilingual-mini-instruct-v1",
        "hotchpotch/bekko-embedding-v1-a8m",
    ],
)
def test_models_that_mteb_knows(
    name: str, saved: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As mteb's own loader of the model has it, around a recorder in place of the weights."""
    meta, model = mteb.get_model_meta(name), Recorder(**saved)
    monkeypatch.setattr(sentence_transformers, "SentenceTransformer", lambda *_, **__: model)
    arguments = {
        k: v for k, v in meta.loader_kwargs.items() if "kwargs" not in k and k != "max_seq_length"
    }
    with warnings.catch_warnings(action="ignore"):
        wrapper = meta.loader(meta.name, revision=meta.revision, **arguments)
    rule = prompt_rule(name, saved.get("prompts", STOCK), saved.get("default"))
    check_as_mteb(rule, wrapper, model)


def test_known_models_do_have_prompts() -> None:
    """Without which the comparison above would say nothing."""
    task = task_of("SciFact")
    assert prompt_rule("intfloat/e5-small-v2", STOCK)(task, "query") == "query: "
    assert prompt_rule("intfloat/e5-small-v2@v1", STOCK)(task, "document") == "passage: "
    long = prompt_rule("intfloat/multilingual-e5-large-instruct", STOCK)
    assert long(task, "query").startswith("Instruct: Given a scientific claim")
    assert long(task, "document") == ""
    assert prompt_rule("local/e5-small-v2", STOCK)(task, "query") == ""


@pytest.mark.parametrize(
    ("prompts", "default"),
    [
        ({"query": "Q: ", "document": "D: "}, None),
        ({"query": "Q: ", "passage": "P: "}, None),
        ({"corpus": "C: ", "passage": "P: "}, None),
        ({"query": "Q: ", "plain": "A: "}, "plain"),
        ({"plain": "A: ", "passage": "P: ", "query": ""}, "plain"),
        ({"STS": "S: ", "SciFact-query": "F: ", "query": "Q: ", "SciFact": "G: "}, None),
        ({"Retrieval-document": "R: ", "Banking77Classification": "B: "}, None),
        (STOCK, None),
    ],
)
def test_prompts_saved_with_a_model(prompts: dict[str, str], default: str | None) -> None:
    """Of a model that mteb does not know: as mteb evaluates a SentenceTransformer."""
    model = Recorder(prompts, default)
    wrapper: Any = object.__new__(SentenceTransformerEncoderWrapper)
    wrapper.model, wrapper.model_prompts = model, prompts
    for name in ("fps", "max_frames", "num_frames", "target_sampling_rate", "max_samples"):
        setattr(wrapper, name, None)
    wrapper.mteb_model_meta = SimpleNamespace(modalities=["text"])
    check_as_mteb(prompt_rule("local/model", prompts, default), wrapper, model)


@pytest.mark.parametrize("name", ["local/m", "intfloat/e5-small-v2", "Qwen/Qwen3-Embedding-0.6B"])
def test_the_users_prompts_replace_all(name: str) -> None:
    chosen = {"query": "ask: ", "STS": "like: ", "SciFact-document": "read: "}
    rule = prompt_rule(name, {"query": "Q: ", "document": "D: ", "x": "X: "}, "x", chosen)
    assert [rule(task_of("SciFact"), kind) for kind in TYPES] == ["", "ask: ", "read: "]
    assert [rule(task_of("STSBenchmark"), kind) for kind in TYPES] == 3 * ["like: "]
    assert prompt_rule(name, {"query": "Q: "}, chosen={})(task_of("SciFact"), "query") == ""


def test_a_task_of_ones_own() -> None:
    """mteb has no instruction for it; one that it brings along is used."""
    name = "intfloat/multilingual-e5-large-instruct"
    plain = Task("Mine", texts=list, evaluate=None, type="Mine")
    assert prompt_rule(name, STOCK)(plain, "query") == ""
    told = Task("Mine", texts=list, evaluate=None, type="Mine", prompt={"query": "Find it"})
    assert prompt_rule(name, STOCK)(told, "query") == "Instruct: Find it\nQuery: "
    assert prompt_rule("intfloat/e5-small-v2", STOCK)(plain, None) == ""
    assert prompt_rule("intfloat/e5-small-v2", STOCK)(plain, "query") == "query: "


def test_how_mteb_loads_a_model() -> None:
    assert loader_arguments("intfloat/e5-mistral-7b-instruct")["add_eos_token"] is True
    assert loader_arguments("GritLM/GritLM-7B")["include_prompt"] is False
    for other in ("local/model", "pypi:thing", "openai/text-embedding-3-small", "nobody/none"):
        assert loader_arguments(other) == {}


WRAPPERS = (InstructSentenceTransformerModel, SentenceTransformerEncoderWrapper)


def test_every_loader_of_mtebs_registry() -> None:
    """One of its wrappers, a function around one that is in the table, or one that is told of."""
    around: set[str] = set()
    followed: set[str] = set()
    for meta in mteb.get_model_metas():
        how, loader = loader_of(meta.name), meta.loader
        assert how.arguments.items() >= (meta.loader_kwargs or {}).items(), meta.name
        if isinstance(loader, type):
            kinds = [issubclass(loader, wrapper) for wrapper in WRAPPERS]
            assert [bool(how.wrapper) and issubclass(how.wrapper, k) for k in WRAPPERS] == kinds
            followed |= {loader.__name__} if any(kinds) and how.special is None else set()
            assert how.special in (None, loader.__name__)
        elif isinstance(loader, FunctionType):
            code = inspect.unwrap(loader).__code__
            made = [wrapper.__name__ in code.co_names for wrapper in WRAPPERS]
            kinds = [how.wrapper is wrapper for wrapper in WRAPPERS]
            assert kinds == made, f"{meta.name}: no such loader in the table"
            assert (how.special is None) == any(made)
            around |= {code.co_name} if any(made) else set()
        else:
            assert how.special is None
            assert loader is None
    assert sorted(around) == [
        "instruct_loader",
        "q3e_instruct_loader",
        "sentence_transformers_loader",
        "ultrabert_embed_loader",
        "voyage_4_nano_loader",
    ]
    assert sorted(followed - {wrapper.__name__ for wrapper in WRAPPERS}) == [
        "BekkoEncoderWrapper",
        "JinaV5TextWrapper",
        "JinaWrapper",
        "KALMWrapper",
        "NomicWrapper",
        "_NVEmbedWrapper",
    ]


@pytest.mark.parametrize(
    ("name", "loader"),
    [
        ("McGill-NLP/LLM2Vec-Sheared-LLaMA-mntp-supervised", "loader_inner"),
        ("WhereIsAI/UAE-Large-V1", "UAEWrapper"),
        ("jinaai/jina-embeddings-v3", "JinaWrapper"),  # read without its adapters
        ("nomic-ai/nomic-embed-text-v1.5", None),
        ("intfloat/e5-small-v2", None),
        ("Qwen/Qwen3-Embedding-0.6B", None),
        ("local/model", None),
    ],
)
def test_a_loader_that_is_not_followed_is_told_of(name: str, loader: str | None) -> None:
    told: list[str] = []
    with told_to(told.append):
        rule = prompt_rule(name, STOCK)
        rule(task_of("SciFact"), "query")
    assert len(told) == (loader is not None)
    assert all(f"mteb reads {name} by a loader of its own ({loader})" in line for line in told)


def test_a_listing_of_tasks_leaves_torch_unseeded() -> None:
    torch.manual_seed(3)
    with unseeded():
        mteb.get_task("STSBenchmark")
    assert torch.initial_seed() == 3
    mteb.get_task("STSBenchmark")
    assert torch.initial_seed() == 42
