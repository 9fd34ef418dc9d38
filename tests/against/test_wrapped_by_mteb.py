"""Models that mteb wraps in a way of its own: the last layer's score is that of mteb's own wrapper.

Small stand-ins under the models' own names, in the hub's cache; no hub is asked.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mteb
import numpy as np
import pytest
import running
import tiny
import torch
from huggingface_hub import constants
from sentence_transformers import SentenceTransformer
from test_against_mteb import by_mteb, local

from lrd_harness.cli import main
from lrd_harness.contracts import ModelOptions, Task, Text
from lrd_harness.errors import UserError
from lrd_harness.models.find import FILE, find
from lrd_harness.models.wrappers import Asked, route, routed

TASKS = ["STSBenchmark", "Banking77Classification", "SciFact"]
NOMIC, JINA, NVIDIA = (
    "nomic-ai/nomic-embed-text-v1.5",
    "jinaai/jina-embeddings-v3",
    "nvidia/NV-Embed-v2",
)
STS = Task("STSBenchmark", texts=list, evaluate=None, type="STS")
ADAPTERS = ["retrieval.query", "retrieval.passage", "separation", "classification", "text-matching"]

# A model with adapters of weights for tasks, and a first module that takes the name of one.
MODEL = f"""
import torch
from transformers import BertConfig, BertModel
from transformers.models.bert.modeling_bert import BertLayer


class AdaptedConfig(BertConfig):
    model_type = "adapted-bert"


class Block(BertLayer):
    def __init__(self, config, layer_idx=None):
        super().__init__(config, layer_idx=layer_idx)
        self.adapters = torch.nn.Linear(config.hidden_size, {len(ADAPTERS)})

    def forward(self, hidden_states, *arguments, adapter_mask=None, **others):
        state = super().forward(hidden_states, *arguments, **others)
        if adapter_mask is None:
            return state
        return state + self.adapters.weight[adapter_mask].unsqueeze(1) * state.roll(1, -1)


class AdaptedModel(BertModel):
    config_class = AdaptedConfig

    def __init__(self, config):
        super().__init__(config, add_pooling_layer=False)
        blocks = [Block(config, number) for number in range(config.num_hidden_layers)]
        self.encoder.layer = torch.nn.ModuleList(blocks)
        self.post_init()
"""
FIRST = f"""
import json
from pathlib import Path

import torch
from transformers import AutoModel, AutoTokenizer


class Transformer(torch.nn.Module):
    def __init__(self, path, max_seq_length, **arguments):
        super().__init__()
        self.auto_model = AutoModel.from_pretrained(path, trust_remote_code=True)
        self.tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=True)
        self.max_seq_length = max_seq_length

    def forward(self, features, task=None):
        told = {{}}
        if task:
            rows, number = len(features["input_ids"]), {ADAPTERS}.index(task)
            told["adapter_mask"] = torch.full((rows,), number, dtype=torch.int32)
        states = self.auto_model.forward(**features, **told, return_dict=False)[0]
        return {{**features, "token_embeddings": states}}

    def tokenize(self, texts):
        how = {{"padding": True, "truncation": "longest_first", "return_tensors": "pt"}}
        return dict(self.tokenizer(texts, max_length=self.max_seq_length, **how))

    def get_word_embedding_dimension(self):
        return self.auto_model.config.hidden_size

    def save(self, path, **options):
        self.auto_model.save_pretrained(path)

    @classmethod
    def load(cls, path):
        return cls(path, **json.loads((Path(path) / "sentence_bert_config.json").read_text()))
"""


def cached(name: str) -> Path:
    """Where the hub's cache would keep a model, at the revision that mteb names."""
    revision = str(mteb.get_model_meta(name).revision)
    place = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"
    (place / "refs").mkdir(parents=True, exist_ok=True)
    (place / "refs" / "main").write_text(revision)
    return place / "snapshots" / revision


def nomic(folder: Path) -> None:
    """A NomicBert, mean and no more: the wrapper has a layer norm and prompts for task types."""
    tiny.save_st(folder, family="NomicBert", normalize=False, max_seq_length=96)


def nvidia(folder: Path) -> None:
    """A Mistral without its instruction in the mean."""
    tiny.save_st(folder, family="Mistral", include_prompt=False)


def jina(folder: Path) -> None:
    """A Bert with adapters, code of its own."""
    tiny.save_st(folder, max_seq_length=64)
    (folder / "modeling_adapted.py").write_text(MODEL)
    (folder / "custom_st.py").write_text(FIRST)
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 64}')
    modules = json.loads((folder / "modules.json").read_text())
    modules[0] |= {"type": "custom_st.Transformer", "kwargs": ["task"]}
    (folder / "modules.json").write_text(json.dumps(modules))
    config = json.loads((folder / "config.json").read_text())
    classes = {"AutoConfig": "AdaptedConfig", "AutoModel": "AdaptedModel"}
    config |= {
        "model_type": "adapted-bert",
        "architectures": ["AdaptedModel"],
        "auto_map": {auto: f"modeling_adapted.{name}" for auto, name in classes.items()},
    }
    (folder / "config.json").write_text(json.dumps(config))
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    torch.manual_seed(3)
    for number in range(3):
        place = f"encoder.layer.{number}.adapters"
        weights[f"{place}.weight"] = torch.randn(len(ADAPTERS), 32)
        weights[f"{place}.bias"] = torch.zeros(len(ADAPTERS))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


MADE = {NOMIC: nomic, NVIDIA: nvidia, JINA: jina}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.task_data(tmp_path_factory.mktemp("data"))


def wrapped(name: str, folder: str) -> Any:
    """mteb's own wrapper, as its registry loads the model."""
    meta = mteb.get_model_meta(name)
    made: Any = meta.loader(folder, revision=None, device="cpu", **meta.loader_kwargs)
    made.model_name = name
    made.mteb_model_meta = meta
    return made


@pytest.mark.parametrize("name", MADE)
def test_the_last_layer_scores_what_mteb_gives(
    name: str, data: Path, tmp_path: Path, own_cache: Path
) -> None:
    MADE[name](tmp_path / "made")
    folder = cached(name)
    shutil.copytree(tmp_path / "made", folder)
    typed = f"{name}@{folder.name}"
    out, trust = tmp_path / "out", ["--trust-remote-code", typed] if name == JINA else []
    chosen = ["--plugins", "frenet", "--layers", "2", "3", *trust]
    assert running.run(out, [typed], data, *chosen, tasks=TASKS) == 0
    assert running.records(out, "error") == []
    scores = {(r["task"], r["layer"]): r["score"] for r in running.records(out, "score")}
    made = wrapped(name, str(folder))
    for task in TASKS:  # of what is fitted, rounding can tip some texts
        near = 0.002 if task.endswith("Classification") else 1e-5
        assert scores[task, 3] == pytest.approx(by_mteb(made, local(task, data)), abs=near), task
    assert scores["STSBenchmark", 2] != pytest.approx(scores["STSBenchmark", 3], abs=1e-4)
    # the wrapper does matter
    bare: Any = SentenceTransformer(str(folder)) if name != JINA else made
    made.model_prompts = {}  # no adapters
    for task in ("STSBenchmark", "SciFact"):
        assert abs(scores[task, 3] - by_mteb(bare, local(task, data))) > 1e-3, task


def test_a_saved_model_is_still_read_as_mteb_reads_it(
    tmp_path: Path, own_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nomic(tmp_path / "made")
    (tmp_path / "made" / FILE).write_text(json.dumps({"instructions": NOMIC}))
    command = ["prune", str(tmp_path / "made"), "--blocks", "2", "--save", str(tmp_path / "less")]
    assert main(command) == 0
    assert "mteb's NomicWrapper changes them" in " ".join(capsys.readouterr().out.split())
    texts = tiny.sentences(5)
    stock = SentenceTransformer(str(tmp_path / "less")).encode(texts, convert_to_tensor=True)
    expected = torch.nn.functional.layer_norm(stock, stock.shape[1:])
    expected = torch.nn.functional.normalize(expected)
    ours = tiny.embeddings(tiny.open_model(tmp_path / "less"), map(Text, texts))
    np.testing.assert_allclose(ours, expected.cpu(), atol=1e-5)
    assert tiny.open_model(tmp_path / "less").prompt(STS, None) == "classification: "


def test_texts_of_several_adapters_in_one_batch(tmp_path: Path, own_cache: Path) -> None:
    """Each is read as it is alone: with its adapter, with another, with none."""
    jina(tmp_path / "made")
    shutil.copytree(tmp_path / "made", folder := cached(JINA), dirs_exist_ok=True)
    typed = f"{JINA}@{folder.name}"
    found = find(typed, trusted=[typed])
    model = tiny.adapter_of(found).open(found, ModelOptions())
    prompts = [routed(Asked("like: ", name)) for name in ("separation", "text-matching")]
    texts = [Text("some words", prompt) for prompt in (*prompts, "like: ")]
    together = tiny.embeddings(model, texts)
    alone = np.concatenate([tiny.embeddings(model, [text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    assert min(np.linalg.norm(together[i] - together[i - 1]) for i in range(3)) > 1e-2
    stock = SentenceTransformer(str(folder), trust_remote_code=True)
    expected = stock.encode(["some words"], prompt="like: ", task="separation")
    np.testing.assert_allclose(together[:1], expected, atol=1e-6)
    with pytest.raises(UserError, match="some with an adapter of its own and some without"):
        model.features(model.tokenize(texts))


@pytest.mark.parametrize("asked", [Asked(), Asked("ask: "), Asked("", "x.y"), Asked("ask: ", "x")])
def test_a_prompt_that_names_an_adapter(asked: Asked) -> None:
    assert route(routed(asked)) == asked
