"""What a folder is that is no model to be read is told by name, before anything is loaded.

Also which models of sentence-transformers are read, and by which name the others are refused.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentence_transformers
import tiny
import torch
import transformers
from odd_checkpoints import TEXTS, at_the_hub, change, fault, packed, pickled, with_head
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Router, Transformer
from sentence_transformers.sentence_transformer import modules as sentence

from lrd_harness import manager
from lrd_harness.contracts import Text
from lrd_harness.errors import UserError
from lrd_harness.models.find import find
from lrd_harness.planning.models import resolve_model
from lrd_harness.planning.settings import Settings
from lrd_harness.planning.suite import ModelEntry
from lrd_harness.progress import Display


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save("Bert", tmp_path_factory.mktemp("kinds") / "plain")


@pytest.fixture(scope="module")
def of_modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_st(tmp_path_factory.mktemp("kinds") / "st")


@pytest.fixture
def folder(plain: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(plain, tmp_path / "model"))


@pytest.fixture
def packed_folder(of_modules: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(of_modules, tmp_path / "st"))


@pytest.fixture(autouse=True)
def nothing_is_unpickled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("unpickled"))


def opens(folder: Path, adapter: str | None = None) -> bool:
    return tiny.open_model(folder, adapter).info.blocks in (2, 3)


@pytest.mark.parametrize(
    ("file", "auto_map", "named"),
    [
        ("config.json", {"AutoConfig": "own.Config"}, "own.Config"),
        ("config.json", {"AutoModelForCausalLM": "org/it--own.LM"}, "org/it--own.LM"),
        ("config.json", ["own.Model"], "own.Model"),
        ("tokenizer_config.json", {"AutoTokenizer": ["own.Slow", None]}, "own.Slow"),
        ("tokenizer_config.json", ["own.Slow", None], "own.Slow"),
    ],
)
def test_code_of_its_own_for_a_type_that_transformers_knows(
    file: str, auto_map: Any, named: str, folder: Path, packed_folder: Path, tmp_path: Path
) -> None:
    """The stock class may read it otherwise: gte-Qwen2 sees both ways and adds an end token.

    Nothing of the code is run, nor is anybody asked about it, who may not be there to answer.
    """
    ran = tmp_path / "ran"
    for model in (folder, packed_folder):
        (model / "own.py").write_text(f"open({str(ran)!r}, 'w')\nraise SystemExit('ran')\n")
        change(model / file, auto_map=auto_map)
        line = fault(model)
        assert f"names code of its own in the auto_map of {file} ({named}), which is not" in line
        assert "take auto_map out of a copy" in line
        with pytest.raises(UserError, match="--trust-remote-code"):
            tiny.open_model(model)
        change(model / file, auto_map={})
        assert opens(model)
        assert not ran.exists()


def test_code_for_images_alone_is_not_needed(folder: Path, packed_folder: Path) -> None:
    """sentence-transformers makes a whole processor, transformers a tokenizer."""
    change(folder / "config.json", auto_map={"AutoImageProcessor": "own.P", "AutoProcessor": "o.Q"})
    change(folder / "tokenizer_config.json", auto_map={"AutoProcessor": "own.Q"})
    assert opens(folder)
    for value in (None, "own.Model"):
        change(folder / "config.json", auto_map=value)
        assert "the auto_map of config.json is no table of classes" in fault(folder)
    (packed_folder / "processor_config.json").write_text("{}")
    for name in ("processor_config.json", "tokenizer_config.json"):
        change(packed_folder / name, auto_map={"AutoProcessor": "own.P"})
        assert "names code of its own in the auto_map of " in fault(packed_folder)
        change(packed_folder / name, auto_map={"AutoImageProcessor": "own.P"})
        assert opens(packed_folder)


def test_an_adapter_of_weights_that_is_none_or_no_part_of_the_model(folder: Path) -> None:
    (folder / "checkpoint-5").mkdir()
    settings = {"peft_type": "LORA", "base_model_name_or_path": "org/base"}
    for place in ("checkpoint-5", ""):
        (folder / place / "adapter_config.json").write_text(json.dumps(settings))
        if place:
            assert opens(folder)
    assert "only adapter_model.safetensors is read: it lacks them" in fault(folder)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("pytorch_model.bin", "pytorch_model.bin (a pickle, which can run code)"),
        ("consolidated.00.pth", "consolidated.00.pth (a pickle"),
        ("tf_model.h5", "tf_model.h5 (weights of TensorFlow)"),
        ("flax_model.msgpack", "flax_model.msgpack (weights of Flax)"),
        ("onnx/model.onnx", "onnx/model.onnx (ONNX)"),
        ("openvino/openvino_model.xml", "openvino/openvino_model.xml (OpenVINO)"),
        ("model-00001-of-00001.safetensors", "(neither model.safetensors nor with an index)"),
        ("some.gguf", "some.gguf (GGUF): move it to a folder without config.json"),
    ],
)
def test_weights_in_other_forms(
    name: str, line: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / "model.safetensors").rename(folder / name)
    (folder / "2_Dense").mkdir()
    (folder / "2_Dense" / "model.safetensors").touch()  # of another part of the model
    at_the_hub(folder, monkeypatch)
    for where in (str(folder), "org/it"):
        said = fault(where)
        assert f"{where} has no weights as safetensors" in said
        assert line in said


def test_weights_under_a_name_that_the_configuration_says(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "own.safetensors")
    assert "own.safetensors (neither" in fault(folder)
    change(folder / "config.json", transformers_weights="own.safetensors")
    assert opens(folder)


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (["model_index.json"], "is a pipeline of diffusers"),
        (["a-00001-of-00002.gguf"], "part of a split file"),
        (["a.gguf", "b.gguf"], "of its 2 .gguf files leave the one that is meant"),
        (["params.json", "consolidated.00.pth"], "it is in its makers' own form (params.json)"),
        (["pytorch_model.bin"], "it has pytorch_model.bin (a pickle"),
        (["model.safetensors"], "it has model.safetensors"),
        (["tokenizer.json"], "it has a tokenizer alone"),
        (["notes.txt"], "nor a single .gguf file"),
    ],
)
def test_folders_without_configuration(names: list[str], line: str, tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).write_text("{}")
    assert line in fault(tmp_path)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"quant_method": "gptq", "bits": 4}, "(gptq), which needs optimum and gptqmodel: pip in"),
        ({"quant_method": "awq", "bits": 4}, "(awq), which needs gptqmodel: pip install gptqmodel"),
        ({"load_in_4bit": True}, "(bitsandbytes), which needs bitsandbytes: pip install bitsandb"),
        ({"quant_method": "quanto"}, "which needs optimum-quanto: pip install optimum-quanto"),
        ({"quant_method": "aqlm"}, 'pip install "aqlm[gpu,cpu]"'),
        ({"quant_method": "compressed-tensors"}, "pip install compressed-tensors"),
        ({"quant_method": "strange"}, "(strange) and cannot be read here: Unknown"),
        ({}, "(unknown) and cannot be read here"),
        ("gptq", "(gptq), which needs optimum"),
    ],
)
def test_quantised_weights(
    settings: Any, line: str, folder: Path, packed_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers skips a way that it does not know, and reads packed numbers as weights."""
    for package in ("optimum", "gptqmodel", "bitsandbytes", "aqlm", "compressed_tensors"):
        monkeypatch.setitem(sys.modules, package, None)
    for model in (folder, packed_folder):
        change(model / "config.json", quantization_config=settings)
        said = fault(model)
        assert "its weights are quantised" in said
        assert line in said


SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"intermediate_size": 64}
VISION = {**SIZES, "image_size": 32, "patch_size": 16}
WORDS = {**SIZES, "vocab_size": len(tiny.VOCAB)}
TOWERS = {"text_config": WORDS, "vision_config": VISION}


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (transformers.HubertConfig(**SIZES), "hears or speaks (HubertModel)"),
        (transformers.AltCLIPConfig(**TOWERS), "compares images with texts (AltCLIPModel)"),
        (transformers.BlipConfig(**TOWERS), "compares images with texts (BlipModel)"),
        (transformers.AlignConfig(), "(AlignModel), each in a tower of its own, and is not read"),
        (transformers.Blip2Config(), "(Blip2Model), each in a tower of its own, and is not read"),
    ],
)
def test_models_of_sound_and_towers_not_read(config: Any, line: str, tmp_path: Path) -> None:
    config.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")
    (tmp_path / "preprocessor_config.json").write_text("{}")
    said = fault(tmp_path)
    assert "no tokenizer" in said
    assert "it is made for images or sound" in said
    tiny.tokenizer().save_pretrained(tmp_path)
    assert line in fault(tmp_path)


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (transformers.ViTConfig(**VISION), "reads no text: ViTModel takes image (image:NAME"),
        (transformers.CLIPConfig(**TOWERS), "(CLIPModel), each in a tower of its own (image:NAME"),
        (transformers.SiglipConfig(**TOWERS), "(SiglipModel), each in a tower of its own (image:"),
    ],
)
def test_models_of_images_as_models_of_texts(config: Any, line: str, tmp_path: Path) -> None:
    config.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")
    assert "has no preprocessor_config.json, which says how an image" in fault(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("{}")
    with pytest.raises(UserError, match=re.escape(line)):
        tiny.ADAPTERS["encoder"]().check(find(str(tmp_path)))


SOUND = "whisper wav2vec2 clap musicgen speecht5 qwen2_audio vits encodec voxtral moshi"


@pytest.mark.parametrize("kind", SOUND.split())
def test_every_kind_of_sound(kind: str, folder: Path) -> None:
    change(folder / "config.json", model_type=kind, architectures=None)
    assert "models of sound are not read" in fault(folder)


PAIRS, WORDS_OF = "CrossEncoder", "SparseEncoder"
SCORERS = [  # the name of the folder, its head, the labels of that, its card; and what it is
    ("my-reranker", "BertForSequenceClassification", 1, "", PAIRS),
    ("model", "BertForSequenceClassification", 1, "tags: [cross-encoder]", PAIRS),
    ("model", "BertForSequenceClassification", 1, "pipeline_tag: text-ranking", PAIRS),
    ("Qwen-Reranker", "LlamaForCausalLM", 2, "", "reranker"),
    ("monot5", "T5ForConditionalGeneration", 2, "", "reranker"),
    ("splade-v3", "BertForMaskedLM", 2, "", WORDS_OF),
    ("model", "DistilBertForMaskedLM", 2, "tags: [sparse-encoder, x]", WORDS_OF),
    ("my-reranker", "BertModel", 2, "", ""),  # says so, and has no head for it
    ("my-reranker", "BertForSequenceClassification", 3, "", ""),
    ("model", "BertForSequenceClassification", 1, "tags: [sparse]", ""),
    ("model", "BertForMaskedLM", 2, "tags: [fill-mask", ""),  # a card that is no YAML
]


@pytest.mark.parametrize(("name", "head", "labels", "card", "kind"), SCORERS)
def test_models_that_say_that_they_score(
    name: str, head: str, labels: int, card: str, kind: str, tmp_path: Path
) -> None:
    tiny.save("Llama" if "Causal" in head else "Bert", tmp_path / name)
    id2label = {str(label): f"LABEL_{label}" for label in range(labels)}
    change(tmp_path / name / "config.json", architectures=[head], id2label=id2label)
    if card:
        (tmp_path / name / "README.md").write_text(f"---\n{card}\n---\n# It\n")
    how = {"settings": Settings(), "plugins": manager.load(), "stage": Display(quiet=True).stage}
    resolve = partial(resolve_model, **how)
    if kind:
        with pytest.raises(
            UserError, match=f"says that it is a {kind} .*coder:NAME reads"
        ) as error:
            resolve(ModelEntry(model=str(tmp_path / name)))
        assert "\n" not in str(error.value)
    else:
        assert resolve(ModelEntry(model=str(tmp_path / name))).adapter.name == "encoder"
    chosen = resolve(ModelEntry(model=f"encoder:{tmp_path / name}"))
    assert chosen.adapter.name == "encoder"


def test_a_tower_of_texts_is_read(tmp_path: Path) -> None:
    tower = transformers.AutoModel.from_config(transformers.CLIPTextConfig(**WORDS))
    tower.save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    assert opens(tmp_path)


@pytest.mark.parametrize(
    ("kind", "head"),
    [
        ("SparseEncoder", transformers.AutoModelForMaskedLM),
        ("CrossEncoder", transformers.AutoModelForSequenceClassification),
        ("MultiVectorEncoder", transformers.AutoModel),
    ],
)
def test_encoders_that_make_no_dense_embedding(
    kind: str, head: Any, plain: Path, tmp_path: Path
) -> None:
    inner, folder = with_head(plain, head, tmp_path / "inner"), tmp_path / "model"
    getattr(sentence_transformers, kind)(str(inner), device="cpu").save_pretrained(str(folder))
    line = fault(folder)
    assert f"is a {kind} of sentence-transformers" in line
    assert "encoder:NAME reads the layers" in line
    with pytest.raises(UserError, match=f"is a {kind} of"):
        tiny.open_model(folder, "sentence-transformers")
    assert opens(folder, "encoder")  # as the line says
    # the settings lost, the modules still tell, but for a CrossEncoder, which has one alone
    (folder / "config_sentence_transformers.json").unlink()
    assert ("no pooling after" if kind == "CrossEncoder" else kind) in fault(folder)


def test_encoders_of_others_and_of_old_versions(folder: Path, plain: Path, tmp_path: Path) -> None:
    config = folder / "config.json"
    for key in ("sentence_transformers", "sbert_ce_default_activation_function"):
        change(config, **{key: "torch.nn.modules.linear.Identity"})
        assert "is a CrossEncoder of sentence-transformers, which scores pairs" in fault(folder)
        change(config, **{key: None})
    change(config, architectures=["HF_ColBERT"])
    assert "is a ColBERT" in fault(folder)
    # a head of its own is no fault: the states are what it sees, and a name in the weights
    for head in (
        transformers.AutoModelForMaskedLM,
        transformers.AutoModelForSequenceClassification,
    ):
        model = with_head(plain, head, tmp_path / head.__name__)
        assert tiny.open_model(model).identity["adapter"] == "encoder"
    for kind in ("SparseEncoder", "Strange"):
        settings = {"model_type": kind}
        (model / "config_sentence_transformers.json").write_text(json.dumps(settings))
        assert f"is a {kind}" in fault(model)


def test_towers_in_a_folder_of_sentence_transformers(tmp_path: Path) -> None:
    listed = {"type": "sentence_transformers.models.CLIPModel", "path": "0_CLIPModel"}
    (tmp_path / "modules.json").write_text(json.dumps([listed]))
    assert "its folder 0_CLIPModel, given instead, is read for images" in fault(tmp_path)


def test_models_that_do_not_begin_with_a_transformer(plain: Path, tmp_path: Path) -> None:
    towers = [Transformer(str(plain)), sentence.Pooling(32)]
    static = sentence.StaticEmbedding(tiny.tokenizer(), embedding_dim=16)
    lines = {
        "a static embedding: one vector per token, and no layers to read": static,
        "a bag of words, without layers to read": sentence.BoW(["a", "b"]),
        "a Router: it sends queries and documents": Router.for_query_document(towers, towers),
    }
    for line, module in lines.items():
        folder = tmp_path / type(module).__name__
        SentenceTransformer(modules=[module], device="cpu").save(str(folder))
        assert f"but {line}" in fault(folder)
    # a config.json beside it changes nothing
    shutil.copy(plain / "config.json", tmp_path / "StaticEmbedding")
    assert "but a static embedding" in fault(tmp_path / "StaticEmbedding")


@pytest.mark.slow
def test_modules_that_are_read_and_those_that_are_not(plain: Path, tmp_path: Path) -> None:
    mean = sentence.Pooling(32)
    read = [mean, sentence.LayerNorm(32), sentence.Dropout(0.5), Dense(32, 8)]
    folder = packed(tmp_path / "read", *read, plain=plain)
    model, stock = tiny.open_model(folder), SentenceTransformer(str(folder), device="cpu")
    pooled = model.states(model.tokenize([Text(text) for text in TEXTS]))["raw", 3]
    np.testing.assert_allclose(model.embed(pooled).numpy(), stock.encode(TEXTS), atol=1e-6)

    for module in (
        sentence.WeightedLayerPooling(32, 3, 1),
        sentence.WordWeights(list(tiny.VOCAB), {}),
        sentence.CNN(32, 32, [1]),
        sentence.LSTM(32, 16),
        Dense(32, 32, module_input_name="token_embeddings"),
    ):
        name = type(module).__name__
        line = fault(packed(tmp_path / name, module, mean, plain=plain))
        assert f"after the transformer (Transformer, {name}, Pooling): its {name}" in line
    second = packed(tmp_path / "second", mean, sentence.Pooling(32), plain=plain)
    assert "its module Pooling behind the pooling is not read" in fault(second)


def test_states_that_are_not_the_last_ones(packed_folder: Path) -> None:
    settings = packed_folder / "sentence_bert_config.json"
    read = {"text": {"method": "forward", "method_output_name": ["hidden_states", "-2"]}}
    change(settings, modality_config=read)
    with pytest.raises(UserError, match="pools something else than its last state"):
        tiny.open_model(packed_folder)
    change(settings, transformer_task="fill-mask")
    assert "pools no hidden states but what its head makes (fill-mask)" in fault(packed_folder)


def test_weights_and_functions_of_modules(plain: Path, tmp_path: Path) -> None:
    mean, norm = sentence.Pooling(32), sentence.LayerNorm(32)
    router = Router.for_query_document([Dense(32, 8)], [Dense(32, 8)])
    folder = packed(tmp_path / "model", mean, norm, Dense(32, 32), router, plain=plain)
    tiny.open_model(folder)
    for path in ("2_LayerNorm", "3_Dense", "4_Router/document_0_Dense"):
        copy = Path(shutil.copytree(folder, tmp_path / path.replace("/", "-")))
        pickled(copy / path)
        assert f"its module {path} has its weights as pytorch_model.bin alone" in fault(copy)
        with pytest.raises(UserError, match=r"pytorch_model.bin alone"):
            tiny.open_model(copy)
        (copy / path / "pytorch_model.bin").unlink()
        assert f"its module {path} has its weights nowhere" in fault(copy)
    # beside safetensors, which are taken, a pickle does no harm
    (folder / "3_Dense" / "pytorch_model.bin").write_bytes(b"not even a pickle")
    tiny.open_model(folder)
    # sentence-transformers takes Tanh for an activation that it does not trust
    change(folder / "3_Dense" / "config.json", activation_function="own.Act")
    assert "names code of its own in 3_Dense/config.json (own.Act)" in fault(folder)


MODULE = {"type": "sentence_transformers.models.Transformer", "path": ""}


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ([], "not a list of modules"),
        ({}, "not a model's configuration"),
        ([1], "its module 1 has no type or no path"),
        ([{"type": 5, "path": ""}], "its module 1 has no type or no path"),
        ([MODULE], "no pooling after"),
        ([{**MODULE, "type": "sentence_transformers.models.BERT"}], "BERT, which is not read"),
        *(([{**MODULE, "path": path}], "path that is none of") for path in ("../a", "x" * 5000)),
        ([{**MODULE, "type": "pylate.models.Transformer"}], "names code of its own in modules"),
    ],
)
def test_odd_lists_of_modules(content: Any, line: str, folder: Path) -> None:
    (folder / "modules.json").write_text(json.dumps(content))
    assert line in fault(folder)
