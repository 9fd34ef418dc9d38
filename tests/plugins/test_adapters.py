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
from odd_checkpoints import change, packed
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Router
from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling
from test_backbone import check_as_stock

from lrd_harness.contracts import Checkpoint, Text
from lrd_harness.errors import UserError
from lrd_harness.models.backbone import body
from lrd_harness.models.readout import POOLINGS
from lrd_harness.models.text_model import NO_HEAD

WORDS = ["a cat", "", "x y z", "the cat sat on a mat.", " ".join(tiny.WORDS)]
TEXTS = [Text(text) for text in WORDS]
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


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("shape", tiny.rest_slow(SHAPES, "tuple-dense", "llama-without-prompt"))
def test_last_layer_is_the_model(shape: str, padding: str, tmp_path: Path) -> None:
    folder = tiny.save_st(tmp_path / "model", **SHAPES[shape])
    model = tiny.open_model(folder, padding=padding)
    assert model.identity["adapter"] == "sentence-transformers"
    whole = SentenceTransformer(str(folder))
    # decoders here have no token of their own, and sentence-transformers no word for an empty text
    words = [t for t in WORDS if t or SHAPES[shape].get("family") not in tiny.DECODERS]
    for prompts in ([""], ["query: "], ["query: ", "a longer one: "]):
        vectors = tiny.embeddings(model, [Text(t, p) for p in prompts for t in words])
        expected = np.concatenate([whole.encode(words, prompt=p) for p in prompts])
        np.testing.assert_allclose(vectors, expected, atol=1e-5, rtol=1e-5)
    # what could not be seen if prompts changed nothing
    with_prompt, without = tiny.embeddings(model, [Text(WORDS[3], "query: "), Text(WORDS[3])])
    assert abs(with_prompt - without).max() > 1e-3


def test_output_width(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """mteb opens some models with a shorter output, a length limit and the like."""
    import mteb

    folder = tiny.save_st(tmp_path / "model")
    arguments = {"embed_dim": 8, "max_seq_length": 20, "include_prompt": False}
    meta = mteb.get_model_meta("intfloat/multilingual-e5-large-instruct").model_copy(
        update={"loader_kwargs": arguments}
    )
    monkeypatch.setattr(mteb, "get_model_meta", lambda name, **_: meta)
    model = tiny.open_model(folder)
    by_mteb: Any = meta.loader(str(folder), revision=None, **arguments)
    vectors = tiny.embeddings(model, [Text(t, "read: ") for t in WORDS])
    expected = by_mteb.model.encode(WORDS, prompt="read: ")
    assert (model.info.max_length, model.info.width, expected.shape) == (20, 32, (5, 8))
    np.testing.assert_allclose(vectors, expected, atol=1e-5)


def test_a_chosen_pooling(tmp_path: Path) -> None:
    folder = tiny.save_st(tmp_path / "model", normalize=False)
    by_cls = SentenceTransformer(
        str(tiny.save_st(tmp_path / "cls", pooling="cls", normalize=False))
    )
    model = tiny.open_model(folder, pooling="cls")
    np.testing.assert_allclose(tiny.embeddings(model, TEXTS), by_cls.encode(WORDS), atol=1e-5)
    assert model.info.pooling == "cls"
    for saved in (folder, tiny.save("Bert", tmp_path / "plain")):
        with pytest.raises(UserError, match="unknown pooling 'first'"):
            tiny.open_model(saved, pooling="first")


TRUNCATED = ["Bert", "T5", "Llama", "GPT2", "Gemma2", "OPT", "GPTNeoX", "Mamba"]


@pytest.mark.parametrize("family", tiny.rest_slow(TRUNCATED, "Bert", "Llama", "T5"))
def test_final_plane_is_the_model_cut_there(family: str, tmp_path: Path) -> None:
    """Layer l, with the final norm, is what transformers gives for the first l blocks alone."""
    folder = tiny.save(family, tmp_path / "model")
    model = tiny.open_model(folder, pooling="mean")
    words = [t for t in WORDS if t]
    states = model.states(model.tokenize([Text(t) for t in words]))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    features = tokenizer(words, padding=True, truncation=True, return_tensors="pt")
    inputs = {name: features[name] for name in ("input_ids", "attention_mask")}
    for layer in range(4):
        cut: Any = transformers.AutoModel.from_pretrained(folder).eval()
        cut = cut.get_encoder() if family == "T5" else cut
        stack = getattr(cut, "encoder", cut) if family == "Bert" else getattr(cut, "decoder", cut)
        for name in ("layer", "layers", "h", "block"):
            if isinstance(getattr(stack, name, None), torch.nn.ModuleList):
                setattr(stack, name, getattr(stack, name)[:layer])
        cut.config.num_hidden_layers = layer
        with torch.inference_mode():
            last = cut(**inputs).last_hidden_state
        expected = POOLINGS["mean"](last, inputs["attention_mask"])
        plane = ("final" if model.has_final_norm else "raw", layer)
        torch.testing.assert_close(states[plane], expected, atol=1e-5, rtol=1e-5)
        if layer:
            assert not torch.allclose(states[plane], states[plane[0], layer - 1], atol=1e-2)


def hole(folder: Path, part: str) -> None:
    """Take a tensor out of the weights."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors[next(name for name in tensors if part in name)]
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize("family", ["Bert", "Llama", "T5"])
@pytest.mark.parametrize("kind", ["plain", "sentence-transformers"])
def test_weights_with_holes(kind: str, family: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    tiny.save(family, folder) if kind == "plain" else tiny.save_st(folder, family=family)
    hole(folder, "encoder.block.1" if family == "T5" else "1.")
    with pytest.raises(UserError, match=r"local/model: its weights lack 1 tensor, "):
        tiny.open_model(folder)


@pytest.mark.parametrize(("family", "part"), [("Bert", "pooler"), ("T5", "decoder.block.1")])
def test_holes_where_nobody_looks(family: str, part: str, tmp_path: Path) -> None:
    """A pooler is not read, nor is the decoder of an encoder-decoder."""
    folder = tiny.save(family, tmp_path / "model")
    whole = tiny.embeddings(tiny.open_model(folder), TEXTS)
    hole(folder, part)
    np.testing.assert_array_equal(tiny.embeddings(tiny.open_model(folder), TEXTS), whole)


def test_weights_in_a_subfolder(tmp_path: Path) -> None:
    """As sentence-transformers before version 3 saved them."""
    folder = tiny.save_st(tmp_path / "model")
    expected = SentenceTransformer(str(folder)).encode(WORDS)
    inner = tiny.to_subfolder(folder)
    vectors = tiny.embeddings(tiny.open_model(folder), TEXTS)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    hole(inner, "layer.1.")
    with pytest.raises(UserError, match="lack 1 tensor, "):
        tiny.open_model(folder)


@pytest.mark.parametrize(
    ("settings", "pooling"),
    [
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        (None, "mean"),
    ],
)
def test_the_usual_pooling_of_a_plain_encoder(settings: Any, pooling: str, tmp_path: Path) -> None:
    """A folder of sentence-transformers without its modules.json."""
    folder = tiny.save("Bert", tmp_path / "model")
    if settings is not None:
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(settings))
    assert tiny.open_model(folder, "encoder").info.pooling == pooling
    assert tiny.open_model(folder, "encoder", pooling="last").info.pooling == "last"


def described(*files: str, **config: Any) -> Checkpoint:
    return Checkpoint("m", "/nowhere", "0", config, frozenset(files) | {"tokenizer.json"})


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
        # what no one should write there
        ("bert", [None, 5], "encoder"),
        ("bert", {"BertLMHeadModel": 1}, "encoder"),
        ("llama", 7, "decoder"),
    ],
)
def test_which_adapter_opens_what(kind: str, architectures: Any, adapter: str) -> None:
    config = {"model_type": kind, "architectures": architectures}
    assert tiny.adapter_of(described(**config)).name == adapter
    assert tiny.adapter_of(described(**config, is_encoder_decoder=True)).name == "encoder"
    packed = described("modules.json", **config)
    assert tiny.adapter_of(packed).name == "sentence-transformers"


def test_which_adapter_opens_what_looks_to_the_left_alone_and_what_is_no_model() -> None:
    left = described(model_type="bert", architectures=["BertLMHeadModel"], is_decoder=True)
    assert tiny.adapter_of(left).name == "decoder"
    for checkpoint in (described(), *(described(model_type=kind) for kind in (None, 5, ["bert"]))):
        with pytest.raises(UserError, match="no adapter claims it"):
            tiny.adapter_of(checkpoint)
    new = described(model_type="brand_new", architectures=["BrandNewForCausalLM"])
    with pytest.raises(UserError, match="knows no model of type 'brand_new'"):  # left to others'
        tiny.adapter_of(new)


@pytest.mark.parametrize("kind", ["T5", "MT5", "LongT5"])
@pytest.mark.parametrize("part", ["Encoder", ""])
def test_an_encoder_without_its_decoder(kind: str, part: str, tmp_path: Path) -> None:
    """T5EncoderModel says in config.json that it is no encoder-decoder."""
    torch.manual_seed(0)
    sizes = {"d_model": 32, "num_layers": 3, "num_heads": 4, "d_ff": 64, "d_kv": 8}
    more = {"vocab_size": len(tiny.VOCAB), "decoder_start_token_id": 0}
    config = getattr(transformers, f"{kind}Config")(**sizes, **more)
    getattr(transformers, f"{kind}{part}Model")(config).save_pretrained(tmp_path / "m")
    tiny.tokenizer().save_pretrained(tmp_path / "m")
    model = tiny.open_model(tmp_path / "m", "encoder")
    encoder: Any = getattr(transformers, f"{kind}EncoderModel").from_pretrained(tmp_path / "m")
    check_as_stock(model, lambda: encoder, TEXTS[2:3])
    ids = torch.tensor([model.tokenize(TEXTS[2:3])[0]["input_ids"]])
    with torch.inference_mode():
        last = encoder(input_ids=ids).last_hidden_state[0].mean(0)
    np.testing.assert_allclose(tiny.embeddings(model, TEXTS[2:3])[0], last, rtol=1e-5, atol=1e-6)
    assert model.info.parameters == sum(p.numel() for p in encoder.encoder.parameters())


def test_llama_4_is_its_own_base(tmp_path: Path) -> None:
    """`base_model` of its language model is that itself; logits are the model's own."""
    torch.manual_seed(0)
    sizes = tiny.SMALL | {"num_hidden_layers": 4, "num_key_value_heads": 2, "head_dim": 8}
    experts = {"num_local_experts": 2, "intermediate_size_mlp": 64, "attention_chunk_size": 8}
    config = transformers.Llama4TextConfig(**sizes, **experts)
    whole = transformers.AutoModelForCausalLM.from_config(config).eval()
    whole.save_pretrained(tmp_path / "m")
    tiny.tokenizer(encoder=False).save_pretrained(tmp_path / "m")
    assert body(whole) is whole.model
    assert tiny.open_model(tmp_path / "m").headless == NO_HEAD
    model = tiny.open_model(tmp_path / "m", head=True)
    assert model.info.blocks == 4
    ids = torch.tensor([model.tokenize(TEXTS[:1])[0]["input_ids"]])
    last = model.backbone.run({"input_ids": ids}, lambda layer, state: None)
    with torch.inference_mode():
        logits = whole(input_ids=ids).logits[0]
    torch.testing.assert_close(model.head.logits(last[0]), logits, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save("Bert", tmp_path_factory.mktemp("adapters") / "bert")


def dense(seed: int, width: int = 8) -> Dense:
    torch.manual_seed(seed)
    return Dense(32, width)


def routed(shape: str, bert: Path, folder: Path) -> Path:
    """A sentence-transformers model with something behind its pooling."""
    both = Router.for_query_document
    by_modality = {("query", "text"): "a", (None, "text"): "b"}
    shapes: dict[str, list[Any]] = {
        "document": [both([dense(1)], [dense(2)])],
        "query": [both([dense(1)], [dense(2)], default_route="query"), Normalize()],
        "normalised": [both([dense(1)], [dense(2), Normalize()])],
        "nested": [both([both([dense(1)], [Normalize()])], [dense(2, 32)])],
        "modality": [Router({"a": [dense(1)], "b": [dense(2)]}, route_mappings=by_modality)],
        "asym": [Router({"query": [dense(1)], "document": [dense(2)]})],
        "none": [dense(1, 32), LayerNorm(32)],
    }
    packed(folder, Pooling(32, pooling_mode="mean"), *shapes[shape], plain=bert)
    if shape == "asym":  # as sentence-transformers before version 5 saved a router
        listed = json.loads((folder / "modules.json").read_text())
        listed[2]["type"] = "sentence_transformers.models.Asym"
        (folder / "modules.json").write_text(json.dumps(listed))
        file = folder / listed[2]["path"] / "router_config.json"
        settings = json.loads(file.read_text())
        settings["types"] = dict.fromkeys(settings["types"], "sentence_transformers.models.Dense")
        settings["parameters"] = {"allow_empty_key": True}
        file.rename(file.with_name("config.json")).write_text(json.dumps(settings))
    return folder


ROUTED = ["document", "query", "normalised", "nested", "modality", "asym", "none"]


@pytest.mark.parametrize("shape", ROUTED)
def test_each_kind_of_text_takes_its_route(shape: str, bert: Path, tmp_path: Path) -> None:
    folder = routed(shape, bert, tmp_path / "model")
    model, whole = tiny.open_model(folder), SentenceTransformer(str(folder), device="cpu")
    query, document = whole.encode_query(WORDS), whole.encode_document(WORDS)
    routes = {None: whole.encode(WORDS), "query": query, "document": document}
    for prompt_type, expected in routes.items():
        vectors = tiny.embeddings(model, TEXTS, prompt_type)
        np.testing.assert_allclose(vectors, expected, atol=1e-6)
    alike = query.shape == document.shape and np.allclose(query, document)
    assert alike == (shape == "none")


@pytest.mark.slow
def test_every_layer_scores_as_mteb_has_it(bert: Path, tmp_path: Path, own_cache: Path) -> None:
    """Retrieval and reranking ask for queries and documents, STS for neither."""
    folder = routed("query", bert, tmp_path / "model")
    data, out = tiny.task_data(tmp_path / "data"), tmp_path / "out"
    tasks = ("SciFact", "SciDocsRR", "STSBenchmark", "SummEvalSummarization.v2")
    assert running.run(out, [folder], data, "--layers", "1,3", tasks=tasks) == 0
    scores = stock.scores(out)
    model = SentenceTransformer(str(folder), device="cpu")
    for layer in (1, 3):
        cut = stock.truncated(model, layer)
        for name in tasks:
            expected = stock.by_mteb(cut, stock.local(name, data))
            assert scores[name, layer] == pytest.approx(expected, abs=1e-6), (name, layer)


@pytest.mark.parametrize("key", ["query_length", "document_length"])
def test_lengths_for_each_side_are_refused(key: str, bert: Path, tmp_path: Path) -> None:
    folder = packed(tmp_path / "model", Pooling(32), plain=bert)
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
        packed(tmp_path / name, Pooling(32, pooling_mode="lasttoken"), plain=inner)
    model = tiny.open_model(tmp_path / "plain")
    whole = SentenceTransformer(str(tmp_path / "plain"), device="cpu")
    vectors = tiny.embeddings(model, TEXTS[2:])
    np.testing.assert_allclose(vectors, whole.encode_query(WORDS[2:]), atol=1e-5)
    with pytest.raises(UserError, match="chat template writes queries and documents"):
        tiny.open_model(tmp_path / "sided")
