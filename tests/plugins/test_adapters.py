"""What adapters open equals what sentence-transformers and transformers themselves make of it.

Also of checkpoints that say less of themselves than others, and of models that send queries and
documents through modules of their own, behind the pooling.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import running
import test_against_mteb as stock
import tiny
import torch
import transformers
from odd_checkpoints import change
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Router, Transformer
from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling

from lrd_harness.contracts import Checkpoint, Text
from lrd_harness.errors import UserError
from lrd_harness.models.backbone import body
from lrd_harness.models.readout import named
from lrd_harness.models.text_model import NO_HEAD

TEXTS = ["a", "", "x y z", "the cat sat on a mat.", " ".join(tiny.WORDS)]
SHAPES: dict[str, dict[str, Any]] = {
    "mean": {},
    "cls": {"pooling": "cls", "normalize": False},
    "last": {"pooling": "lasttoken"},
    "weighted": {"pooling": "weightedmean"},
    "tuple-dense": {"pooling": ("cls", "max", "mean"), "dense": 16},
    "short": {"max_seq_length": 12},
    "without-prompt": {"include_prompt": False},
    "weighted-without-prompt": {"pooling": "weightedmean", "include_prompt": False},
    "llama": {"family": "Llama", "pooling": "lasttoken", "padding_side": "left"},
    "llama-without-prompt": {"family": "Llama", "include_prompt": False, "padding_side": "left"},
    "roberta": {"family": "Roberta", "pooling": "cls"},
    "t5": {"family": "T5", "dense": 16},
    "modern": {"family": "ModernBert", "pooling": "cls"},
}


def last_plane(model: Any) -> tuple[str, int]:
    return ("final" if model.has_final_norm else "raw", model.info.blocks)


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("shape", tiny.rest_slow(SHAPES, "tuple-dense", "llama-without-prompt"))
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
    pooled = model.states(model.tokenize([Text(t, "read: ") for t in TEXTS]))["raw", 3]
    expected = own.model.encode(TEXTS, prompt="read: ")
    assert (model.info.max_length, pooled.shape[1], expected.shape) == (20, 32, (5, 8))
    np.testing.assert_allclose(model.embed(pooled).numpy(), expected, atol=1e-5)


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


TRUNCATED = ["Bert", "T5", "Llama", "GPT2", "Gemma2", "OPT", "GPTNeoX", "Mamba"]


@pytest.mark.parametrize("family", tiny.rest_slow(TRUNCATED, "Bert", "Llama", "T5"))
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
    folder = tmp_path / "model"
    tiny.save(family, folder) if kind == "plain" else tiny.save_st(folder, family=family)
    tiny.open_model(folder)
    hole(folder, "encoder.block.1" if family == "T5" else "1.")
    with pytest.raises(UserError, match=r"local/model: its weights lack 1 tensors, as "):
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
    for path in [p for p in folder.iterdir() if p.is_file()]:
        if path.name not in ("modules.json", "config_sentence_transformers.json"):
            path.rename(inner / path.name)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(modules))
    model = tiny.open_model(folder)
    pooled = model.states(model.tokenize([Text(t) for t in TEXTS]))["raw", 3]
    np.testing.assert_allclose(model.embed(pooled).numpy(), expected, atol=1e-5)
    hole(inner, "layer.1.")
    with pytest.raises(UserError, match="lack 1 tensors"):
        tiny.open_model(folder)


AUTO = {"AutoConfig": "custom.StrangeConfig", "AutoModel": "custom.StrangeModel"}


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("config.json", {"model_type": "strange", "auto_map": AUTO}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["custom.Strange", None]}}),
        ("modules.json", None),
    ],
)
def test_code_that_comes_with_a_model_is_not_run(file: str, changes: Any, tmp_path: Path) -> None:
    """Not even asked about: nobody may be there to answer."""
    packed, ran = tiny.save_st(tmp_path / "packed"), tmp_path / "ran"
    code = f"open({str(ran)!r}, 'w')\nraise SystemExit('custom code ran')\n"
    for folder in [packed, *([tiny.save("Bert", tmp_path / "plain")] if changes else [])]:
        (folder / "custom.py").write_text(code)
        if changes:
            change(folder / file, **changes)
        else:
            modules = json.loads((folder / file).read_text())
            modules[1]["type"] = "custom.StrangePooling"
            (folder / file).write_text(json.dumps(modules))
        with pytest.raises(UserError, match="trust_remote_code"):
            tiny.open_model(folder)
        assert not ran.exists()


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


def described(*files: str, **config: Any) -> Checkpoint:
    return Checkpoint("m", "/nowhere", "0", config, frozenset(files))


@pytest.mark.parametrize(
    ("kind", "architectures", "adapter"),
    [
        ("bert", ["BertModel"], "encoder"),
        ("bert", ["BertLMHeadModel"], "encoder"),
        ("roberta", ["RobertaForMaskedLM"], "encoder"),
        ("xlm", ["XLMWithLMHeadModel"], "encoder"),
        ("modernbert", None, "encoder"),
        ("llama", ["LlamaForCausalLM"], "decoder"),
        ("qwen2", ["Qwen2Model"], "decoder"),
        ("mamba", None, "decoder"),
        ("brand_new", ["BrandNewForCausalLM"], "decoder"),
        # what no one should write there
        ("bert", [None, 5], "encoder"),
        ("bert", {"BertLMHeadModel": 1}, "encoder"),
        ("llama", 7, "decoder"),
        ("llama", "LlamaModel", "decoder"),
    ],
)
def test_which_adapter_opens_what(kind: str, architectures: Any, adapter: str) -> None:
    checkpoint = described(model_type=kind, architectures=architectures)
    assert tiny.adapter_of(checkpoint).name == adapter
    turned = described(model_type=kind, architectures=architectures, is_encoder_decoder=True)
    assert tiny.adapter_of(turned).name == "encoder"
    packed = described("modules.json", model_type=kind, architectures=architectures)
    assert tiny.adapter_of(packed).name == "sentence-transformers"


def test_which_adapter_opens_what_looks_to_the_left_alone_and_what_is_no_model() -> None:
    left = described(model_type="bert", architectures=["BertLMHeadModel"], is_decoder=True)
    assert tiny.adapter_of(left).name == "decoder"
    for kind in (None, 5, ["bert"], {"bert": 1}):
        for checkpoint in (described(), described(model_type=kind)):
            with pytest.raises(StopIteration):
                tiny.adapter_of(checkpoint)


def t5(kind: str) -> Any:
    sizes = {"d_model": 32, "num_layers": 3, "num_heads": 4, "d_ff": 64, "d_kv": 8}
    more = {"vocab_size": len(tiny.VOCAB), "decoder_start_token_id": 0}
    return getattr(transformers, f"{kind}Config")(**sizes, **more)


@pytest.mark.parametrize("kind", ["T5", "MT5", "LongT5"])
@pytest.mark.parametrize("whole", [False, True], ids=["encoder", "whole"])
def test_an_encoder_without_its_decoder(kind: str, whole: bool, tmp_path: Path) -> None:
    """T5EncoderModel says in config.json that it is no encoder-decoder."""
    torch.manual_seed(0)
    name = f"{kind}{'' if whole else 'Encoder'}Model"
    getattr(transformers, name)(t5(kind)).save_pretrained(tmp_path / "m")
    tiny.tokenizer().save_pretrained(tmp_path / "m")
    model = tiny.open_model(tmp_path / "m", "encoder")
    stock: Any = getattr(transformers, f"{kind}EncoderModel").from_pretrained(tmp_path / "m")
    for text in ALL[:2]:
        (encoded,) = model.tokenize([text])
        found = model.states([encoded])
        with torch.inference_mode():
            own = stock.eval()(
                input_ids=torch.tensor([encoded["input_ids"]]), output_hidden_states=True
            )
        for layer, state in enumerate(own.hidden_states[:-1]):
            torch.testing.assert_close(found["raw", layer][0], state[0].mean(0))
        torch.testing.assert_close(found["final", 3][0], own.last_hidden_state[0].mean(0))
    assert model.info.parameters == sum(p.numel() for p in stock.encoder.parameters())


def test_llama_4_is_its_own_base(tmp_path: Path) -> None:
    """`base_model` of its language model is that itself; logits are the model's own."""
    torch.manual_seed(0)
    sizes = tiny.SMALL | {"num_hidden_layers": 4, "num_key_value_heads": 2, "head_dim": 8}
    experts = {"num_local_experts": 2, "intermediate_size_mlp": 64, "attention_chunk_size": 8}
    made = transformers.Llama4TextConfig(**sizes, **experts)
    whole = transformers.AutoModelForCausalLM.from_config(made).eval()
    whole.save_pretrained(tmp_path / "m")
    tiny.tokenizer(encoder=False).save_pretrained(tmp_path / "m")
    assert body(whole) is whole.model
    assert tiny.open_model(tmp_path / "m").headless == NO_HEAD
    model = tiny.open_model(tmp_path / "m", head=True)
    assert model.info.blocks == 4
    ids = torch.tensor([model.tokenize(ALL[:1])[0]["input_ids"]])
    last = model.backbone.run({"input_ids": ids}, lambda layer, state: None)
    with torch.inference_mode():
        own = whole(input_ids=ids).logits[0]
    torch.testing.assert_close(model.head.logits(last[0]), own, rtol=1e-4, atol=1e-4)


FEW = ["a cat", "the dog ran to the park", "x y z"]
ALL = [Text(text) for text in FEW]


def with_modules(folder: Path, *after: Any, family: str = "Bert") -> Path:
    """A sentence-transformers model with these modules behind the pooling."""
    inner = tiny.save(family, folder.with_name(folder.name + "-inner"))
    pooling = Pooling(32, pooling_mode="mean")
    model = SentenceTransformer(modules=[Transformer(str(inner)), pooling, *after], device="cpu")
    model.save(str(folder))
    return folder


def dense(seed: int, width: int = 8) -> Dense:
    torch.manual_seed(seed)
    return Dense(32, width)


def legacy(folder: Path) -> Path:
    """The router as sentence-transformers before version 5 saved it, an Asym."""
    path = folder / "modules.json"
    modules = json.loads(path.read_text())
    modules[2]["type"] = "sentence_transformers.models.Asym"
    path.write_text(json.dumps(modules))
    own = folder / modules[2]["path"] / "router_config.json"
    said = json.loads(own.read_text())
    said["types"] = dict.fromkeys(said["types"], "sentence_transformers.models.Dense")
    said["parameters"] = {"allow_empty_key": True}
    (own.parent / "config.json").write_text(json.dumps(said))
    own.unlink()
    return folder


def routers() -> dict[str, list[Any]]:
    """What may stand behind the pooling; made anew, as modules belong to one model."""
    both = Router.for_query_document
    by_modality = {("query", "text"): "a", (None, "text"): "b"}
    return {
        "document": [both([dense(1)], [dense(2)])],
        "query": [both([dense(1)], [dense(2)], default_route="query"), Normalize()],
        "normalised": [both([dense(1)], [dense(2), Normalize()])],
        "nested": [both([both([dense(1)], [Normalize()])], [dense(2, 32)])],
        "modality": [Router({"a": [dense(1)], "b": [dense(2)]}, route_mappings=by_modality)],
        "asym": [Router({"query": [dense(1)], "document": [dense(2)]})],
        "none": [dense(1, 32), LayerNorm(32)],
    }


@pytest.mark.parametrize("shape", list(routers()))
def test_each_kind_of_text_takes_its_route(shape: str, tmp_path: Path) -> None:
    folder = with_modules(tmp_path / "model", *routers()[shape])
    folder = legacy(folder) if shape == "asym" else folder
    model, own = tiny.open_model(folder), SentenceTransformer(str(folder), device="cpu")
    pooled = model.states(model.tokenize(ALL))["raw", 3]
    query, document = own.encode_query(FEW), own.encode_document(FEW)
    for prompt_type, expected in (
        (None, own.encode(FEW)),
        ("query", query),
        ("document", document),
    ):
        found = model.embed(pooled, prompt_type).numpy()
        np.testing.assert_allclose(found, expected, atol=1e-6)
    alike = query.shape == document.shape and np.allclose(query, document)
    assert alike == (shape == "none")


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["query", "asym"])
def test_every_layer_scores_as_mteb_has_it(shape: str, tmp_path: Path, own_cache: Path) -> None:
    """Retrieval and reranking ask for queries and documents, STS for neither."""
    folder = with_modules(tmp_path / "model", *routers()[shape])
    folder = legacy(folder) if shape == "asym" else folder
    data, out = tiny.task_data(tmp_path / "data"), tmp_path / "out"
    tasks = ("SciFact", "SciDocsRR", "STSBenchmark", "SummEvalSummarization.v2")
    assert running.run(out, [folder], data, tasks=tasks) == 0
    found = stock.scores(out)
    model = SentenceTransformer(str(folder), device="cpu")
    for layer in range(4):
        cut = stock.truncated(model, layer)
        for name in tasks:
            expected = stock.by_mteb(cut, name, data)
            assert found[name, layer] == pytest.approx(expected, abs=1e-6), (name, layer)


@pytest.mark.parametrize("key", ["query_length", "document_length"])
def test_lengths_for_each_side_are_refused(key: str, tmp_path: Path) -> None:
    folder = with_modules(tmp_path / "model")
    change(folder / "sentence_bert_config.json", **{key: 8})
    with pytest.raises(UserError, match=f"queries and documents in different ways .{key} in"):
        tiny.open_model(folder)


def test_a_chat_template_that_asks_for_the_side_is_refused(tmp_path: Path) -> None:
    """One that does not is read as sentence-transformers reads it."""
    templates = {
        "plain": "{% for m in messages %}<s> {{ m['content'] }} </s>{% endfor %}",
        "sided": "{% for m in messages %}{{ task }} {{ m['content'] }}{% endfor %}",
    }
    for name, template in templates.items():
        inner = tiny.save("Llama", tmp_path / f"{name}-inner")
        change(inner / "tokenizer_config.json", chat_template=template)
        modules = [Transformer(str(inner)), Pooling(32, pooling_mode="lasttoken")]
        SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / name))
    model = tiny.open_model(tmp_path / "plain")
    own = SentenceTransformer(str(tmp_path / "plain"), device="cpu")
    pooled = model.states(model.tokenize(ALL))["final", 3]
    np.testing.assert_allclose(model.embed(pooled).numpy(), own.encode_query(FEW), atol=1e-5)
    with pytest.raises(UserError, match="chat template writes queries and documents"):
        tiny.open_model(tmp_path / "sided")
