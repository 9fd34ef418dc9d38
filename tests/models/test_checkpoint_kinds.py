"""What a folder is that is no model to be read is told by name, before anything is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import running
import tiny
import torch
import transformers
from odd_checkpoints import at_the_hub, change, fault, packed, pickled, with_head
from sentence_transformers import SentenceTransformer, SparseEncoder
from sentence_transformers.base.modules import Dense
from sentence_transformers.sentence_transformer import modules as sentence


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
    ("config.json", {"AutoModel": "own.Model", "AutoConfig": "own.Config"}, "own.Model"),
    ("config.json", {"AutoModelForCausalLM": "org/it--own.LM"}, "org/it--own.LM"),
    ("config.json", ["own.Model"], "own.Model"),
    ("tokenizer_config.json", {"AutoTokenizer": ["own.Slow", None]}, "own.Slow"),
    ("tokenizer_config.json", {"AutoTokenizer": [None, "own.Fast"]}, "own.Fast"),
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
    change(folder / "config.json", auto_map={})
    assert tiny.open_model(folder).info.blocks == 3
    packed = tiny.save_st(tmp_path / "st")
    for name in ("processor_config.json", "tokenizer_config.json"):
        (packed / name).exists() or (packed / name).write_text("{}")
        change(packed / name, auto_map={"AutoProcessor": "own.P"})
        assert "names code of its own in the auto_map of " in fault(packed)
        change(packed / name, auto_map={"AutoImageProcessor": "own.P"})
        assert tiny.open_model(packed).info.blocks == 3


def test_a_run_refuses_it_before_anything_is_done(
    folder: Path, tmp_path: Path, own_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(folder / "config.json", auto_map={"AutoModel": "own.Model"})
    assert running.run(tmp_path / "out", [folder], tiny.task_data(tmp_path / "data")) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out" / "journal").exists()


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
    old = Path(shutil.copytree(packed, tmp_path / "old"))
    (old / "0_Transformer").mkdir()
    for path in old.glob("adapter_*"):
        path.rename(old / "0_Transformer" / path.name)
    modules = json.loads((old / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (old / "modules.json").write_text(json.dumps(modules))
    for folder in (alone, beside, whole, packed, old):
        assert "holds a PEFT adapter (LORA) for " in fault(folder)
        assert "merge_and_unload()" in fault(folder)
    change(whole / "adapter_config.json", peft_type="PROMPT_TUNING")
    assert "none that can be merged" in fault(whole)
    # what the line says is to be done
    base: Any = transformers.AutoModel.from_pretrained(plain)
    merged: Any = peft.PeftModel.from_pretrained(base, str(alone)).merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    tiny.tokenizer().save_pretrained(tmp_path / "merged")
    assert tiny.open_model(tmp_path / "merged").info.blocks == 3
    # adapters further down are no part of the model
    lora(tmp_path / "merged" / "checkpoint-5", plain)
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


def test_the_same_is_told_of_the_hub(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = {
        "holds a PEFT adapter (LORA)": lora(tmp_path / "adapter", plain),
        "names code of its own in the auto_map": tmp_path / "code",
        "its module 2_Dense has its weights as pytorch_model.bin": tmp_path / "dense",
        "is a SparseEncoder": tmp_path / "sparse",
        "but a static embedding": tmp_path / "static",
        "is a pipeline of diffusers": tmp_path / "pipeline",
        "it has no config.json; of its 2 .gguf files": tmp_path / "gguf",
        "it has no config.json; a.gguf is read from a folder": tmp_path / "one",
    }
    shutil.copytree(plain, tmp_path / "code")
    change(tmp_path / "code" / "config.json", auto_map={"AutoModel": "own.Model"})
    packed(tmp_path / "dense", sentence.Pooling(32), Dense(32, 8), plain=plain)
    pickled(tmp_path / "dense" / "2_Dense")
    inner = with_head(plain, transformers.AutoModelForMaskedLM, tmp_path / "inner")
    SparseEncoder(str(inner), device="cpu").save_pretrained(str(tmp_path / "sparse"))
    static = sentence.StaticEmbedding(tiny.tokenizer(), embedding_dim=16)
    SentenceTransformer(modules=[static], device="cpu").save(str(tmp_path / "static"))
    for name, files in (
        ("pipeline", ["model_index.json"]),
        ("gguf", ["a.gguf", "b.gguf"]),
        ("one", ["a.gguf"]),
    ):
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).touch()
    for line, folder in folders.items():
        at_the_hub(folder, monkeypatch)
        assert line in fault("org/it")


def test_folders_without_configuration(tmp_path: Path) -> None:
    made = {
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
    small = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    }
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
