"""What a folder is that is no model to be read is told by name, before anything is loaded.

Also which models of sentence-transformers are read, and by which name the others are refused.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import tiny
import torch
import transformers
from odd_checkpoints import TEXTS, at_the_hub, change, fault, packed, pickled, with_head
from sentence_transformers import (
    CrossEncoder,
    MultiVectorEncoder,
    SentenceTransformer,
    SparseEncoder,
)
from sentence_transformers.base.modules import Dense, Router, Transformer
from sentence_transformers.sentence_transformer import modules as sentence

from lrd_harness.contracts import Text
from lrd_harness.errors import UserError


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save("Bert", tmp_path_factory.mktemp("kinds") / "plain")


@pytest.fixture
def folder(plain: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(plain, tmp_path / "model"))


@pytest.fixture(autouse=True)
def nothing_is_unpickled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("unpickled"))


OWN_CODE = [
    ("config.json", {"AutoConfig": "own.Config"}, "own.Config"),
    ("config.json", {"AutoModelForCausalLM": "org/it--own.LM"}, "org/it--own.LM"),
    ("config.json", ["own.Model"], "own.Model"),
    ("tokenizer_config.json", {"AutoTokenizer": ["own.Slow", None]}, "own.Slow"),
    ("tokenizer_config.json", ["own.Slow", None], "own.Slow"),
]


@pytest.mark.parametrize(("file", "auto_map", "named"), OWN_CODE)
@pytest.mark.parametrize("packed", [False, True])
def test_code_of_its_own_for_a_type_that_transformers_knows(
    packed: bool, file: str, auto_map: Any, named: str, folder: Path, tmp_path: Path
) -> None:
    """The stock class may read it otherwise: gte-Qwen2 sees both ways and adds an end token."""
    folder = tiny.save_st(tmp_path / "st") if packed else folder
    change(folder / file, auto_map=auto_map)
    line = fault(folder)
    assert f"names code of its own in the auto_map of {file} ({named}), which is not run" in line
    assert "take auto_map out of a copy" in line
    change(folder / file, auto_map={})
    assert tiny.open_model(folder).info.blocks == 3


def test_code_for_images_alone_is_not_needed(folder: Path, tmp_path: Path) -> None:
    """sentence-transformers makes a whole processor, transformers a tokenizer."""
    change(folder / "config.json", auto_map={"AutoImageProcessor": "own.P", "AutoProcessor": "o.Q"})
    change(folder / "tokenizer_config.json", auto_map={"AutoProcessor": "own.Q"})
    assert tiny.open_model(folder).info.blocks == 3
    for value in (None, "own.Model"):
        change(folder / "config.json", auto_map=value)
        assert "the auto_map of config.json is no table of classes" in fault(folder)
    packed = tiny.save_st(tmp_path / "st")
    for name in ("processor_config.json", "tokenizer_config.json"):
        (packed / name).exists() or (packed / name).write_text("{}")
        change(packed / name, auto_map={"AutoProcessor": "own.P"})
        assert "names code of its own in the auto_map of " in fault(packed)
        change(packed / name, auto_map={"AutoImageProcessor": "own.P"})
        assert tiny.open_model(packed).info.blocks == 3


def lora(folder: Path, base: Path) -> Path:
    made = peft.LoraConfig(target_modules=["query", "value"], r=2, init_lora_weights=False)
    model: Any = transformers.AutoModel.from_pretrained(base)
    peft.get_peft_model(model, made).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def test_adapters_wherever_they_lie(plain: Path, tmp_path: Path) -> None:
    alone = lora(tmp_path / "alone", plain)
    beside = Path(shutil.copytree(alone, tmp_path / "beside"))
    shutil.copy(plain / "config.json", beside)
    whole = Path(shutil.copytree(plain, tmp_path / "whole"))
    shutil.copy(alone / "adapter_config.json", whole)
    packed = tmp_path / "packed"
    model = SentenceTransformer(str(tiny.save_st(tmp_path / "st")), device="cpu")
    model.add_adapter(peft.LoraConfig(target_modules=["query"], r=2))
    model.save(str(packed))
    for folder in (alone, beside, whole, packed):
        assert "holds a PEFT adapter (LORA) for " in fault(folder)
        assert "merge_and_unload()" in fault(folder)
    change(whole / "adapter_config.json", peft_type="PROMPT_TUNING")
    assert "none that can be merged" in fault(whole)
    # what the line says is to be done
    base: Any = transformers.AutoModel.from_pretrained(plain)
    merged: Any = peft.PeftModel.from_pretrained(base, str(alone)).merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    tiny.tokenizer().save_pretrained(tmp_path / "merged")
    lora(tmp_path / "merged" / "checkpoint-5", plain)  # further down is no part of the model
    assert tiny.open_model(tmp_path / "merged").info.blocks == 3


FORMS = [
    ("pytorch_model.bin", "pytorch_model.bin (a pickle, which can run code)"),
    ("consolidated.00.pth", "consolidated.00.pth (a pickle"),
    ("tf_model.h5", "tf_model.h5 (weights of TensorFlow)"),
    ("flax_model.msgpack", "flax_model.msgpack (weights of Flax)"),
    ("onnx/model.onnx", "onnx/model.onnx (ONNX)"),
    ("openvino/openvino_model.xml", "openvino/openvino_model.xml (OpenVINO)"),
    ("model-00001-of-00001.safetensors", "(neither model.safetensors nor with an index)"),
    ("some.gguf", "some.gguf (GGUF): move it to a folder without config.json"),
]


@pytest.mark.parametrize(("name", "line"), FORMS)
@pytest.mark.parametrize("hub", [False, True])
def test_weights_in_other_forms(
    hub: bool, name: str, line: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = folder / name
    moved.parent.mkdir(exist_ok=True)
    (folder / "model.safetensors").rename(moved)
    (folder / "2_Dense").mkdir()
    (folder / "2_Dense" / "model.safetensors").touch()  # of another part of the model
    where = str(folder)
    if hub:
        at_the_hub(folder, monkeypatch)
        where = "org/it"
    assert f"{where} has no weights as safetensors" in fault(where)
    assert line in fault(where)


def test_weights_under_a_name_that_the_configuration_says(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "own.safetensors")
    assert "own.safetensors (neither" in fault(folder)
    change(folder / "config.json", transformers_weights="own.safetensors")
    assert tiny.open_model(folder).info.blocks == 3


def test_folders_without_configuration(tmp_path: Path) -> None:
    made = {
        "is a pipeline of diffusers": ["model_index.json"],
        "part of a split file": ["a-00001-of-00002.gguf"],
        "of its 2 .gguf files leave the one that is meant": ["a.gguf", "b.gguf"],
        "it is in its makers' own form (params.json)": ["params.json", "consolidated.00.pth"],
        "it has pytorch_model.bin (a pickle": ["pytorch_model.bin"],
        "it has model.safetensors": ["model.safetensors"],
        "it has a tokenizer alone": ["tokenizer.json"],
        "nor a single .gguf file": ["notes.txt"],
    }
    for number, (line, names) in enumerate(made.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name in names:
            (folder / name).touch()
        assert line in fault(folder)


QUANTISED = [
    ({"quant_method": "gptq", "bits": 4}, "(gptq)"),
    ({"quant_method": "awq", "bits": 4, "group_size": 128}, "(awq)"),
    ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "(bitsandbytes)"),
    ({"quant_method": "strange"}, "(strange) and cannot be read here: Unknown"),
    ({}, "cannot be read here"),
    ("gptq", "(gptq) and cannot be read here"),
]


@pytest.mark.parametrize(("said", "line"), QUANTISED)
def test_quantised_weights(
    said: Any, line: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers skips a way that it does not know, and reads packed numbers as weights."""
    from transformers.quantizers import quantizer_awq, quantizer_gptq

    for module in (quantizer_awq, quantizer_gptq):
        monkeypatch.setattr(module, "is_gptqmodel_available", lambda: False, raising=False)
        monkeypatch.setattr(module, "is_optimum_available", lambda: False, raising=False)
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    for model in (folder, tiny.save_st(tmp_path / "st")):
        change(model / "config.json", quantization_config=said)
        assert "its weights are quantised" in fault(model)
        assert line in fault(model)


def test_models_of_images_and_of_sound(tmp_path: Path) -> None:
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    small |= {"intermediate_size": 64}
    seen = {**small, "image_size": 32, "patch_size": 16}
    text = {**small, "vocab_size": len(tiny.VOCAB)}
    configs = {
        "reads no text: ViTModel takes image": transformers.ViTConfig(**seen),
        "compares images with texts (CLIPModel)": transformers.CLIPConfig(
            text_config=text, vision_config=seen
        ),
        "compares images with texts (SiglipModel)": transformers.SiglipConfig(
            text_config=text, vision_config=seen
        ),
        "reads no text: HubertModel takes audio": transformers.HubertConfig(**small),
    }
    for line, config in configs.items():
        folder = tmp_path / config.model_type
        config.save_pretrained(folder)
        (folder / "model.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")
        (folder / "preprocessor_config.json").write_text("{}")
        assert "no tokenizer" in fault(folder)
        assert "it is made for images or sound" in fault(folder)
        tiny.tokenizer().save_pretrained(folder)
        assert line in fault(folder)
    tower = transformers.CLIPTextConfig(**text)
    transformers.AutoModel.from_config(tower).save_pretrained(tmp_path / "tower")
    tiny.tokenizer().save_pretrained(tmp_path / "tower")
    assert tiny.open_model(tmp_path / "tower").info.blocks == 2


ENCODERS = [
    (SparseEncoder, transformers.AutoModelForMaskedLM, "a SparseEncoder of sentence-transformers"),
    (CrossEncoder, transformers.AutoModelForSequenceClassification, "a CrossEncoder of sentence"),
    (MultiVectorEncoder, transformers.AutoModel, "a MultiVectorEncoder of sentence-transformers"),
]


@pytest.mark.parametrize(("kind", "head", "named"), ENCODERS)
def test_encoders_that_make_no_dense_embedding(
    kind: Any, head: Any, named: str, plain: Path, tmp_path: Path
) -> None:
    inner = with_head(plain, head, tmp_path / "inner")
    folder = tmp_path / "model"
    kind(str(inner), device="cpu").save_pretrained(str(folder))
    line = fault(folder)
    assert named in line
    assert "encoder:NAME reads the layers" in line
    with pytest.raises(UserError, match=named):
        tiny.open_model(folder, "sentence-transformers")
    assert tiny.open_model(folder, "encoder").info.blocks == 3  # as the line says
    # the settings lost, the modules still tell, but for a CrossEncoder, which has one alone
    (folder / "config_sentence_transformers.json").unlink()
    assert ("no pooling after" if kind is CrossEncoder else named.split()[1]) in fault(folder)


def test_encoders_of_others_and_of_old_versions(folder: Path, plain: Path, tmp_path: Path) -> None:
    config = folder / "config.json"
    for key, said in (
        ("sentence_transformers", {"activation_fn": "torch.nn.modules.linear.Identity"}),
        ("sbert_ce_default_activation_function", "torch.nn.modules.linear.Identity"),
    ):
        change(config, **{key: said})
        assert "is a CrossEncoder of sentence-transformers, which scores pairs" in fault(folder)
        change(config, **{key: None})
    change(config, architectures=["HF_ColBERT"])
    assert "is a ColBERT" in fault(folder)
    # a head of its own is no fault: the states are what it sees, and a name in the weights
    for head in (
        transformers.AutoModelForMaskedLM,
        transformers.AutoModelForSequenceClassification,
    ):
        made = with_head(plain, head, tmp_path / head.__name__)
        assert tiny.open_model(made).identity["adapter"] == "encoder"
    (made / "config_sentence_transformers.json").write_text('{"model_type": "SparseEncoder"}')
    assert "is a SparseEncoder" in fault(made)
    (made / "config_sentence_transformers.json").write_text('{"model_type": "Strange"}')
    assert "is a Strange" in fault(made)


def test_models_that_do_not_begin_with_a_transformer(plain: Path, tmp_path: Path) -> None:
    mean = sentence.Pooling(32)
    towers = [Transformer(str(plain)), mean]
    made = {
        "static": [sentence.StaticEmbedding(tiny.tokenizer(), embedding_dim=16)],
        "bow": [sentence.BoW(["a", "b"])],
        "router": [Router.for_query_document(towers, towers)],
    }
    lines = {}
    for name, modules in made.items():
        SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / name))
        lines[name] = fault(tmp_path / name)
    assert "but a static embedding: one vector per token, and no layers to read" in lines["static"]
    assert "but a bag of words, without layers to read" in lines["bow"]
    assert "but a Router: it sends queries and documents through different" in lines["router"]
    # a config.json beside it changes nothing
    shutil.copy(plain / "config.json", tmp_path / "static")
    assert "but a static embedding" in fault(tmp_path / "static")


def test_modules_that_are_read_and_those_that_are_not(plain: Path, tmp_path: Path) -> None:
    mean = sentence.Pooling(32)
    read = [mean, sentence.LayerNorm(32), sentence.Dropout(0.5), Dense(32, 8)]
    folder = packed(tmp_path / "read", *read, plain=plain)
    model, own = tiny.open_model(folder), SentenceTransformer(str(folder), device="cpu")
    pooled = model.states(model.tokenize([Text(text) for text in TEXTS]))["raw", 3]
    np.testing.assert_allclose(model.embed(pooled).numpy(), own.encode(TEXTS), atol=1e-6)

    between = {
        "WeightedLayerPooling": sentence.WeightedLayerPooling(32, 3, 1),
        "WordWeights": sentence.WordWeights(list(tiny.VOCAB), {}),
        "CNN": sentence.CNN(32, 32, [1]),
        "LSTM": sentence.LSTM(32, 16),
        "Dense": Dense(32, 32, module_input_name="token_embeddings"),
    }
    for name, module in between.items():
        folder = packed(tmp_path / name, module, mean, plain=plain)
        line = fault(folder)
        assert (
            f"no pooling after the transformer (Transformer, {name}, Pooling): its {name}" in line
        )
    second = packed(tmp_path / "second", mean, sentence.Pooling(32), plain=plain)
    assert "its module Pooling behind the pooling is not read" in fault(second)


def test_states_that_are_not_the_last_ones(plain: Path, tmp_path: Path) -> None:
    folder = packed(tmp_path / "model", sentence.Pooling(32), plain=plain)
    said = folder / "sentence_bert_config.json"
    read = {"text": {"method": "forward", "method_output_name": ["hidden_states", "-2"]}}
    change(said, modality_config=read)
    with pytest.raises(UserError, match="pools something else than its last state"):
        tiny.open_model(folder)
    change(said, transformer_task="fill-mask")
    assert "pools no hidden states but what its head makes (fill-mask)" in fault(folder)


def test_pickled_weights_of_a_module(plain: Path, tmp_path: Path) -> None:
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


def test_functions_that_would_be_replaced(plain: Path, tmp_path: Path) -> None:
    """sentence-transformers takes Tanh for an activation that it does not trust."""
    folder = packed(tmp_path / "model", sentence.Pooling(32), Dense(32, 8), plain=plain)
    change(folder / "2_Dense" / "config.json", activation_function="own.Act")
    assert "names code of its own in 2_Dense/config.json (own.Act)" in fault(folder)


MODULE = {"type": "sentence_transformers.models.Transformer", "path": ""}
ODD = [
    ([], "not a list of modules"),
    ({}, "not a model's configuration"),
    ([1], "its module 1 has no type or no path"),
    ([{"path": ""}], "its module 1 has no type or no path"),
    ([{"type": 5, "path": ""}], "its module 1 has no type or no path"),
    ([MODULE], "no pooling after"),
    ([{"type": "sentence_transformers.models.BERT", "path": ""}], "models.BERT, which is not read"),
    *(([{**MODULE, "path": path}], "path that is none of its") for path in ("../a", "x" * 5000)),
    ([{"type": "pylate.models.Transformer", "path": ""}], "names code of its own in modules.json"),
]


@pytest.mark.parametrize(("content", "line"), ODD)
def test_odd_lists_of_modules(content: Any, line: str, folder: Path) -> None:
    (folder / "modules.json").write_text(json.dumps(content))
    assert line in fault(folder)
