"""What adapters open equals what sentence-transformers and transformers themselves make of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import transformers
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer

from lrd_harness.contracts import Text
from lrd_harness.errors import UserError
from lrd_harness.models.pooling import named

TEXTS = ["a", "", "x y z", "the cat sat on a mat.", " ".join(tiny.WORDS)]
SHAPES: dict[str, dict[str, Any]] = {
    "mean": {},
    "cls": {"pooling": "cls", "normalize": False},
    "max": {"pooling": "max", "normalize": False},
    "last": {"pooling": "lasttoken"},
    "weighted": {"pooling": "weightedmean"},
    "sqrt": {"pooling": "mean_sqrt_len_tokens", "normalize": False},
    "tuple-dense": {"pooling": ("cls", "max", "mean"), "dense": 16},
    "dense": {"dense": 16, "normalize": False},
    "short": {"max_seq_length": 12},
    "without-prompt": {"include_prompt": False},
    "weighted-without-prompt": {"pooling": "weightedmean", "include_prompt": False},
    "cls-without-prompt": {"pooling": "cls", "include_prompt": False},
    "llama": {"family": "Llama", "pooling": "lasttoken", "padding_side": "left"},
    "llama-without-prompt": {"family": "Llama", "include_prompt": False, "padding_side": "left"},
    "gemma": {"family": "Gemma2", "pooling": "mean"},
    "mpnet": {"family": "MPNet"},
    "roberta": {"family": "Roberta", "pooling": "cls"},
    "t5": {"family": "T5", "dense": 16},
    "modern": {"family": "ModernBert", "pooling": "cls"},
}


def last_plane(model: Any) -> tuple[str, int]:
    return ("final" if model.has_final_norm else "raw", model.info.blocks)


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("shape", SHAPES)
def test_last_layer_is_the_model(shape: str, padding: str, tmp_path: Path) -> None:
    folder = tiny.save_st(tmp_path / "model", **SHAPES[shape])
    model = tiny.open_model(folder, padding=padding)
    assert model.identity["adapter"] == "sentence-transformers"
    own = SentenceTransformer(str(folder))
    # decoders here have no token of their own, and sentence-transformers no word for an empty text
    texts = [t for t in TEXTS if t or SHAPES[shape].get("family") not in tiny.DECODERS]
    for prompts in (["", ""], ["query: ", "query: "], ["query: ", "a longer one: "]):
        asked = [Text(t, p) for p in prompts for t in texts]
        pooled = model.states(model.tokenize(asked))[last_plane(model)]
        expected = np.concatenate([own.encode(texts, prompt=p) for p in prompts])
        np.testing.assert_allclose(model.embed(pooled).numpy(), expected, atol=1e-5, rtol=1e-5)
    # what could not be seen if prompts changed nothing
    one = model.states(model.tokenize([Text(TEXTS[3], "query: "), Text(TEXTS[3])]))
    assert (one[last_plane(model)][0] - one[last_plane(model)][1]).abs().max() > 1e-3


def test_output_width(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """mteb opens some models with a shorter output, a length limit and the like."""
    import mteb

    folder = tiny.save_st(tmp_path / "model")
    given = {"embed_dim": 8, "max_seq_length": 20, "include_prompt": False}
    meta = mteb.get_model_meta("intfloat/multilingual-e5-large-instruct").model_copy(
        update={"loader_kwargs": given}
    )
    monkeypatch.setattr(mteb, "get_model_meta", lambda name: meta)
    model = tiny.open_model(folder)
    own: Any = meta.loader(str(folder), revision=None, **given)
    texts = [Text(t, "read: ") for t in TEXTS]
    pooled = model.states(model.tokenize(texts))["raw", 3]
    assert pooled.shape[1] == 32
    assert model.info.max_length == 20
    expected = own.model.encode(TEXTS, prompt="read: ")
    assert expected.shape == (5, 8)
    np.testing.assert_allclose(model.embed(pooled).numpy(), expected, atol=1e-5)


def test_bfloat16_as_sentence_transformers_has_it(tmp_path: Path) -> None:
    folder = tiny.save_st(tmp_path / "model", dense=16)
    model = tiny.open_model(folder, dtype="bfloat16")
    own = SentenceTransformer(str(folder), model_kwargs={"dtype": "bfloat16"})
    pooled = model.states(model.tokenize([Text(t) for t in TEXTS]))["raw", 3]
    expected = own.encode(TEXTS, convert_to_tensor=True).float()
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(model.embed(pooled), expected, atol=2e-2, rtol=0)


def test_a_chosen_pooling(tmp_path: Path) -> None:
    folder = tiny.save_st(tmp_path / "model", normalize=False)
    chosen = tiny.open_model(folder, pooling="cls")
    own = SentenceTransformer(str(tiny.save_st(tmp_path / "cls", pooling="cls", normalize=False)))
    pooled = chosen.states(chosen.tokenize([Text(t) for t in TEXTS]))["raw", 3]
    np.testing.assert_allclose(chosen.embed(pooled).numpy(), own.encode(TEXTS), atol=1e-5)
    assert chosen.info.pooling == "cls"
    for made in (folder, tiny.save("Bert", tmp_path / "plain")):
        with pytest.raises(UserError, match="unknown pooling 'first'"):
            tiny.open_model(made, pooling="first")


def test_plain_encoder_beside_sentence_transformers(tmp_path: Path) -> None:
    """One checkpoint, two adapters: the same states."""
    folder = tiny.save_st(tmp_path / "model")
    one = tiny.open_model(folder)
    two = tiny.open_model(folder, "encoder")
    asked = [Text(t, "query: ") for t in TEXTS]
    a, b = one.states(one.tokenize(asked)), two.states(two.tokenize(asked))
    assert a.keys() == b.keys()
    for plane in a:
        torch.testing.assert_close(a[plane], b[plane])
    assert one.identity != two.identity


TRUNCATED = ["Bert", "T5", "Llama", "GPT2", "Gemma2", "Qwen2", "OPT", "GPTNeoX", "Mamba"]


@pytest.mark.parametrize("family", TRUNCATED)
def test_final_plane_is_the_model_cut_there(family: str, tmp_path: Path) -> None:
    """Layer l, with the final norm, is what transformers gives for the first l blocks alone."""
    folder = tiny.save(family, tmp_path / "model")
    model = tiny.open_model(folder, pooling="mean")
    texts = [t for t in TEXTS if t]
    states = model.states(model.tokenize([Text(t) for t in texts]))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    features = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    mask = features["attention_mask"]
    for layer in range(4):
        cut: Any = transformers.AutoModel.from_pretrained(folder).eval()
        cut = cut.get_encoder() if family == "T5" else cut
        stack = getattr(cut, "encoder", cut) if family == "Bert" else getattr(cut, "decoder", cut)
        for name in ("layer", "layers", "h", "block"):
            if isinstance(getattr(stack, name, None), torch.nn.ModuleList):
                setattr(stack, name, getattr(stack, name)[:layer])
        cut.config.num_hidden_layers = layer
        with torch.inference_mode():
            given = {"input_ids": features["input_ids"], "attention_mask": mask}
            expected = named("mean")(cut(**given).last_hidden_state, mask)
        plane = ("final" if model.has_final_norm else "raw", layer)
        torch.testing.assert_close(states[plane], expected, atol=1e-5, rtol=1e-5)
        if layer:
            assert not torch.allclose(states[plane], states[plane[0], layer - 1], atol=1e-2)


def hole(folder: Path, part: str) -> None:
    """Take a tensor out of the weights."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    gone = next(name for name in tensors if part in name)
    save_file({k: v for k, v in tensors.items() if k != gone}, path, metadata={"format": "pt"})


@pytest.mark.parametrize("family", ["Bert", "Llama", "T5"])
@pytest.mark.parametrize("kind", ["plain", "sentence-transformers"])
def test_weights_with_holes(kind: str, family: str, tmp_path: Path) -> None:
    make = tiny.save if kind == "plain" else None
    folder = tmp_path / "model"
    make(family, folder) if make else tiny.save_st(folder, family=family)
    tiny.open_model(folder)
    hole(folder, "encoder.block.1" if family == "T5" else "1.")
    with pytest.raises(UserError, match=r"local/model: its weights lack 1 tensors, as "):
        tiny.open_model(folder)


def test_weights_of_another_shape(tmp_path: Path) -> None:
    folder = tiny.save("Bert", tmp_path / "model")
    path = folder / "model.safetensors"
    tensors = load_file(path)
    name = next(n for n in tensors if n.endswith("layer.1.output.dense.weight"))
    tensors[name] = tensors[name][:, :10].contiguous()
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(Exception, match=r"dense|mismatch"):
        tiny.open_model(folder)


def test_holes_where_nobody_looks(tmp_path: Path) -> None:
    """A pooler is not read, nor is the decoder of an encoder-decoder."""
    bert = tiny.save("Bert", tmp_path / "bert")
    hole(bert, "pooler")
    tiny.open_model(bert)
    t5 = tiny.save("T5", tmp_path / "t5")
    whole = tiny.open_model(t5)
    hole(t5, "decoder.block.1")
    part = tiny.open_model(t5)
    texts = [Text(t) for t in TEXTS]
    a, b = whole.states(whole.tokenize(texts)), part.states(part.tokenize(texts))
    assert all(torch.equal(a[plane], b[plane]) for plane in a)


def test_weights_in_a_subfolder(tmp_path: Path) -> None:
    """As sentence-transformers before version 3 saved them."""
    folder = tiny.save_st(tmp_path / "model")
    expected = SentenceTransformer(str(folder)).encode(TEXTS)
    inner = folder / "0_Transformer"
    inner.mkdir()
    for path in list(folder.iterdir()):
        if path.is_file() and path.name not in (
            "modules.json",
            "config_sentence_transformers.json",
        ):
            path.rename(inner / path.name)
    (folder / "config.json").write_text((inner / "config.json").read_text())
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(modules))
    model = tiny.open_model(folder)
    pooled = model.states(model.tokenize([Text(t) for t in TEXTS]))["raw", 3]
    np.testing.assert_allclose(model.embed(pooled).numpy(), expected, atol=1e-5)
    hole(inner, "layer.1.")
    with pytest.raises(UserError, match="lack 1 tensors"):
        tiny.open_model(folder)


def test_modules_that_hide_the_layers(tmp_path: Path) -> None:
    folder = tiny.save_st(tmp_path / "model", dense=16)
    path = folder / "modules.json"
    modules = json.loads(path.read_text())
    path.write_text(json.dumps([modules[0], *modules[2:]]))
    with pytest.raises(UserError, match=r"no pooling after the transformer \(Transformer, Dense"):
        tiny.open_model(folder)
    path.write_text(json.dumps(modules[1:]))
    with pytest.raises(UserError, match="first module is no transformer"):
        tiny.open_model(folder)


@pytest.mark.parametrize("where", ["config", "tokenizer", "modules"])
def test_code_that_comes_with_a_model_is_not_run(where: str, tmp_path: Path) -> None:
    """Not even asked about: nobody may be there to answer."""
    plain = tiny.save("Bert", tmp_path / "plain")
    packed = tiny.save_st(tmp_path / "packed")
    ran = tmp_path / "ran"
    code = f"open({str(ran)!r}, 'w')\nraise SystemExit('custom code ran')\n"
    for folder in (plain, packed):
        (folder / "custom.py").write_text(code)
        if where == "config":
            change(
                folder / "config.json",
                model_type="strange",
                auto_map={"AutoConfig": "custom.StrangeConfig", "AutoModel": "custom.StrangeModel"},
            )
        elif where == "tokenizer":
            change(
                folder / "tokenizer_config.json",
                tokenizer_class="StrangeTokenizer",
                auto_map={"AutoTokenizer": ["custom.StrangeTokenizer", None]},
            )
        elif folder is packed:
            modules = json.loads((folder / "modules.json").read_text())
            modules[1]["type"] = "custom.StrangePooling"
            (folder / "modules.json").write_text(json.dumps(modules))
        else:
            continue
        with pytest.raises(UserError, match="trust_remote_code"):
            tiny.open_model(folder)
        assert not ran.exists()


def change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("said", "pooling"),
    [
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        (None, "mean"),
    ],
)
def test_the_usual_pooling_of_a_plain_encoder(said: Any, pooling: str, tmp_path: Path) -> None:
    """A folder of sentence-transformers without its modules.json."""
    folder = tiny.save("Bert", tmp_path / "model")
    if said is not None:
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(said))
    assert tiny.open_model(folder, "encoder").info.pooling == pooling
    assert tiny.open_model(folder, "encoder", pooling="last").info.pooling == "last"
