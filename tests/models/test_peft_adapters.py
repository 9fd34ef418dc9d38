"""Adapters of weights: states are those of the model that peft itself merges; what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import running
import tiny
import torch
import transformers
from fixtures_packages import MakeWheel
from hub_server import Hub
from odd_checkpoints import change
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer

from lrd_harness.contracts import Text
from lrd_harness.errors import UserError
from lrd_harness.models.find import find, name_of
from lrd_harness.models.save import save
from lrd_harness.results.journal import read_run
from lrd_harness.runner.layer_lm import LayerLM

TEXTS = ["a cat sat", "the dog ran to the park", "x y z"]
HEADS = {
    None: transformers.AutoModel,
    "CAUSAL_LM": transformers.AutoModelForCausalLM,
    "SEQ_CLS": transformers.AutoModelForSequenceClassification,
    "TOKEN_CLS": transformers.AutoModelForTokenClassification,
}
LINEAR = {"r": 2, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("peft") / "base"
    return tiny.save("Llama", folder, causal=True, uneven=True)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save("Bert", tmp_path_factory.mktemp("peft") / "bert", uneven=True)


def trained(model: Any, config: Any, folder: Path, rows: int | None = None) -> Any:
    """An adapter with weights of its own, saved; the model as peft has it, not merged."""
    if rows:
        model.resize_token_embeddings(rows, mean_resizing=False)
    adapted = peft.get_peft_model(model, config)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    adapted.save_pretrained(folder)
    return adapted.eval()


def adapter(base: Path, folder: Path, config: Any, **how: Any) -> Any:
    """The same on a base, with the head that the configuration is for."""
    return trained(HEADS[config.task_type].from_pretrained(base), config, folder, **how)


def expected(model: Any, base: Path) -> list[np.ndarray]:
    """transformers' own states of each text's last token, a text at a time: (L + 1, n, d)."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    states = []
    for text in TEXTS:
        with torch.inference_mode():
            output = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
        states.append([state[0, -1].numpy() for state in output.hidden_states])
    return [np.stack(layer) for layer in zip(*states, strict=True)]


def states(name: Path | str, adapter: str | None = None, **options: Any) -> list[np.ndarray]:
    """What the harness reads, the last layer after the final norm."""
    model = tiny.open_model(name, adapter, pooling="last", **options)
    read = model.states(model.tokenize([Text(text) for text in TEXTS]))
    last = model.info.blocks
    kinds = ["raw"] * last + ["final" if model.has_final_norm else "raw"]
    return [read[kind, layer].numpy() for layer, kind in enumerate(kinds)]


def same(a: Any, b: Any, most: float = 2e-5) -> bool:
    return all(np.allclose(x, y, atol=most, rtol=1e-5) for x, y in zip(a, b, strict=True))


def fault(name: object) -> str:
    """The line before or at opening."""
    with pytest.raises(UserError) as caught:
        tiny.open_model(str(name))
    assert "\n" not in str(caught.value)
    return str(caught.value)


KINDS: dict[str, Any] = {
    "lora": peft.LoraConfig(task_type="CAUSAL_LM", **LINEAR),
    "bare": peft.LoraConfig(**LINEAR),
    "classifier": peft.LoraConfig(task_type="SEQ_CLS", **LINEAR),
    "regex": peft.LoraConfig(
        task_type="CAUSAL_LM", **{**LINEAR, "target_modules": r"model\.layers\.[12]\..*\.q_proj"}
    ),
    "some layers": peft.LoraConfig(task_type="CAUSAL_LM", layers_to_transform=[1], **LINEAR),
    "dora": peft.LoraConfig(task_type="CAUSAL_LM", use_dora=True, **LINEAR),
    "embedding, head": peft.LoraConfig(
        task_type="CAUSAL_LM", modules_to_save=["embed_tokens", "lm_head", "norm"], **LINEAR
    ),
    "head": peft.LoraConfig(
        task_type="CAUSAL_LM", **{**LINEAR, "target_modules": ["lm_head", "q_proj", "embed_tokens"]}
    ),
    "tokens": peft.LoraConfig(task_type="CAUSAL_LM", trainable_token_indices=[8, 9], **LINEAR),
    "vera": peft.VeraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], r=4),
    "ia3": peft.IA3Config(
        task_type="CAUSAL_LM",
        target_modules=["k_proj", "down_proj"],
        feedforward_modules=["down_proj"],
    ),
    "loha": peft.LoHaConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], r=2),
}


@pytest.mark.parametrize("kind", tiny.rest_slow(KINDS, "lora", "bare", "embedding, head"))
def test_states_are_those_that_peft_gives(kind: str, llama: Path, tmp_path: Path) -> None:
    wanted = expected(adapter(llama, tmp_path / "a", KINDS[kind]), llama)
    read = states(tmp_path / "a", "decoder")
    assert same(read, wanted)
    assert not same(read, states(llama, "decoder"), most=1e-3)
    # with the head of a language model, too, and in either way of naming it
    assert same(states(f"{llama}+{tmp_path / 'a'}", "decoder", head=True), wanted)


def test_one_after_the_other(llama: Path, tmp_path: Path) -> None:
    """As LLM2Vec publishes them: an adapter beside a config.json, on a base; another on that."""
    first, second = tmp_path / "mntp", tmp_path / "simcse"
    base = transformers.AutoModel.from_pretrained(llama)
    merged = trained(base, KINDS["bare"], first).merge_and_unload()
    shutil.copy(llama / "config.json", first)
    change(first / "config.json", auto_map={"AutoModel": "own.Model"})  # not run
    wanted = expected(trained(merged, KINDS["bare"], second), llama)
    change(second / "adapter_config.json", base_model_name_or_path=str(first))
    names = [f"{llama}+{first}+{second}", f"{first}+{second}", str(second)]
    for name in names:
        assert same(states(name, "decoder"), wanted)
    found = [find(name) for name in names]
    assert [c.name for c in found] == [
        "local/base+local/mntp+local/simcse",
        "local/mntp+local/simcse",
        "local/simcse",
    ]
    assert {c.revision for c in found} == {
        "+".join(find(str(llama)).revision.split() + [a.revision for a in found[0].peft])
    }
    assert {name_of(c) for c in found} == {names[0]}
    identity = tiny.open_model(second, "decoder").identity
    parts = ("local/base", "local/mntp", "local/simcse")
    revisions = found[0].revision.split("+")
    assert identity["peft"] == " + ".join(f"{n}@{r}" for n, r in zip(parts, revisions, strict=True))


@pytest.mark.parametrize("inside", ["adapter", "base", "both"])
def test_modules(inside: str, tmp_path: Path) -> None:
    """sentence-transformers' own encode() is what the last layer gives."""
    base = tiny.save_st(tmp_path / "st", dense=8, prompts={"query": "q: "}, uneven=True)
    model = SentenceTransformer(str(base), device="cpu")
    plain = model.encode(TEXTS)
    config = peft.LoraConfig(r=2, target_modules=["query", "dense"], init_lora_weights=False)
    if inside == "base":
        trained(model[0].auto_model, config, tmp_path / "a")
    else:
        model.add_adapter(config)
        model.save(str(tmp_path / "a"))
        # where it was trained is not where its base is
        change(tmp_path / "a" / "adapter_config.json", base_model_name_or_path="/nowhere/st")
        if inside == "adapter":
            base = base.with_name("st-inner")
    wanted = model.encode(TEXTS)
    opened = tiny.open_model(f"{base}+{tmp_path / 'a'}")
    assert opened.parts.adapter == "sentence-transformers"
    got = tiny.embeddings(opened, [Text(text) for text in TEXTS])
    assert np.allclose(got, wanted, atol=1e-5)
    assert not np.allclose(got, plain, atol=1e-2)


def test_a_longer_vocabulary(llama: Path, tmp_path: Path) -> None:
    rows = len(tiny.VOCAB) + 2
    wanted = adapter(llama, tmp_path / "a", KINDS["embedding, head"], rows=rows)
    tokenizer = tiny.tokenizer(encoder=False)
    tokenizer.add_tokens(["<query>", "dog"])
    tokenizer.save_pretrained(tmp_path / "a")
    assert same(states(tmp_path / "a", "decoder", head=True), expected(wanted, tmp_path / "a"))


def bad(folder: Path, **changes: Any) -> None:
    change(folder / "adapter_config.json", **changes)


def pickle(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def without(folder: Path, part: str) -> None:
    file = folder / "adapter_model.safetensors"
    save_file({k: v for k, v in load_file(file).items() if part not in k}, file)


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "pickle": (pickle, "adapter_model.bin is a pickle, which can run code"),
    "prompts": (
        lambda f: bad(f, peft_type="PROMPT_TUNING"),
        "(PROMPT_TUNING) that cannot be merged",
    ),
    "unknown": (lambda f: bad(f, peft_type="NEWEST"), "(NEWEST), a kind that the installed peft"),
    "blocks": (lambda f: bad(f, layer_replication=[[0, 2]]), "(layer_replication): not read"),
    "tokens": (
        lambda f: bad(f, alora_invocation_tokens=[7]),
        "(alora_invocation_tokens): not read",
    ),
    "drawn": (lambda f: bad(f, init_lora_weights="pissa_niter_4"), "whenever it is read (pissa_ni"),
    "module of any name": (  # which older versions of peft import
        lambda f: bad(f, megatron_config={"a": 1}, megatron_core="antigravity"),
        "(megatron_config): not read",
    ),
    "no base": (lambda f: bad(f, base_model_name_or_path=None), "does not say what it goes onto"),
    "lost base": (
        lambda f: bad(f, base_model_name_or_path="/no/where"),
        "local/a is an adapter for /no/where: give BASE+ADAPTER (/no/where: no",
    ),
    "itself": (lambda f: bad(f, base_model_name_or_path=str(f)), "an adapter for itself"),
    "lacking": (
        lambda f: without(f, "layers.1.self_attn.v_proj.lora_B"),
        "it lacks weights (1, as ",
    ),
    "strange": (lambda f: bad(f, target_modules=["q_proj"]), "weights that match nothing (6, as "),
    "rank": (lambda f: bad(f, r=3), "does not fit local/base: size mismatch for "),
    "no modules": (
        lambda f: bad(f, target_modules=["query"]),
        "does not fit local/base: Target mod",
    ),
    "none": (lambda f: without(f, ""), "it is for modules as none"),
    "nan": (lambda f: spoilt(f), "does not fit local/base: NaNs detected"),
}


def spoilt(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    weights = load_file(file)
    next(iter(weights.values()))[0, 0] = float("nan")
    save_file(weights, file)


@pytest.mark.parametrize("what", BAD)
def test_what_is_not_read_is_one_line(what: str, llama: Path, tmp_path: Path) -> None:
    adapter(llama, tmp_path / "a", KINDS["lora"])
    spoil, line = BAD[what]
    spoil(tmp_path / "a")
    assert line in fault(tmp_path / "a")


def test_what_does_not_go_together(llama: Path, bert: Path, tmp_path: Path) -> None:
    adapter(llama, tmp_path / "a", KINDS["lora"])
    wider = tiny.save("Llama", tmp_path / "wider", hidden_size=64)
    deeper = tiny.save("Llama", tmp_path / "flat", num_hidden_layers=2)
    assert "does not fit local/bert: it is for modules as model.layers" in fault(
        f"{bert}+{tmp_path / 'a'}"
    )
    assert "does not fit local/wider: size mismatch" in fault(f"{wider}+{tmp_path / 'a'}")
    assert "weights that match nothing (4, as model.layers.2." in fault(
        f"{deeper}+{tmp_path / 'a'}"
    )
    assert f"{bert} is a whole model, and no adapter" in fault(f"{llama}+{bert}")
    assert "nothing before or after a +" in fault(f"{llama}+")
    change(wider / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    assert "would be rounded" in fault(f"{wider}+{tmp_path / 'a'}")


def test_a_name_that_is_there_is_not_taken_apart(llama: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(llama, tmp_path / "c++" / "a+b")
    assert find(str(folder)).name == "local/a+b"
    adapter(llama, tmp_path / "c++" / "a", KINDS["lora"])
    both = find(f"{folder}+{tmp_path / 'c++' / 'a'}")
    assert both.name == "local/a+b+local/a"
    assert name_of(both) == f"{folder}+{tmp_path / 'c++' / 'a'}"


def test_without_peft(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter(llama, tmp_path / "a", KINDS["lora"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'needs peft: pip install "lrd-harness\[peft\]"'):
        find(str(tmp_path / "a"))


FAMILIES: dict[str, tuple[str | None, list[str]]] = {
    "GPT2": ("CAUSAL_LM", ["c_attn", "c_proj"]),
    "GPTNeoX": ("CAUSAL_LM", ["query_key_value"]),
    "OPT": ("CAUSAL_LM", ["q_proj", "fc1"]),
    "Gemma3Text": ("CAUSAL_LM", ["q_proj", "down_proj"]),
    "Falcon": ("CAUSAL_LM", ["query_key_value"]),
    "Bert": ("SEQ_CLS", ["query", "dense"]),
    "Electra": ("TOKEN_CLS", ["query", "dense"]),
    "Roberta": ("TOKEN_CLS", ["query", "dense"]),  # without the pooler that is here
    "ModernBert": ("SEQ_CLS", ["Wqkv"]),
    "DistilBert": (None, ["q_lin"]),
}


@pytest.mark.parametrize("family", tiny.rest_slow(FAMILIES, "GPT2", "Bert", "Roberta"))
def test_families(family: str, tmp_path: Path) -> None:
    task, modules = FAMILIES[family]
    base = tiny.save(family, tmp_path / "base", causal=task == "CAUSAL_LM", uneven=True)
    config = peft.LoraConfig(
        task_type=task, target_modules=modules, r=2, bias="all", init_lora_weights=False
    )
    wanted = expected(adapter(base, tmp_path / "a", config), base)
    read = states(tmp_path / "a", "decoder" if task == "CAUSAL_LM" else "encoder")
    assert same(read, wanted)
    assert not same(read, states(base), most=1e-3)


@pytest.mark.parametrize("kind", ["lora", "embedding, head"])
def test_likelihoods_and_what_is_saved(kind: str, llama: Path, tmp_path: Path) -> None:
    model = adapter(llama, tmp_path / "a", KINDS[kind])
    checkpoint = find(str(tmp_path / "a"))
    opened = tiny.open_model(tmp_path / "a", "decoder", head=True)
    ids = torch.tensor([opened.tokenize([Text(TEXTS[1])])[0]["input_ids"]])
    with torch.inference_mode():
        wanted = model(ids).logits
        assert torch.allclose(opened.whole(ids).logits, wanted, atol=1e-4)
    save(checkpoint, [], tmp_path / "saved", "")
    whole = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    with torch.inference_mode():
        assert torch.allclose(whole(ids).logits, wanted, atol=1e-4)
    save(checkpoint, [2], tmp_path / "cut", "")
    merged = model.merge_and_unload()
    merged.model.layers = merged.model.layers[:1] + merged.model.layers[2:]
    merged.config.num_hidden_layers = 2
    for number, layer in enumerate(merged.model.layers):
        layer.self_attn.layer_idx = number
    merged.config.layer_types = None
    assert same(states(tmp_path / "cut", "decoder"), expected(merged, llama))


CHANGES: dict[str, dict[str, Any]] = {
    "embedding": {"target_modules": ["embed_tokens"]},
    "head": {"target_modules": ["lm_head", "q_proj"]},
    "both as one": {"target_modules": ["embed_tokens"], "ensure_weight_tying": True},
    "saved": {"modules_to_save": ["embed_tokens"]},
    "tokens": {"trainable_token_indices": [8, 9]},
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_head_that_shares_the_embedding(what: str, tmp_path: Path) -> None:
    """What is for one of them is not merged into the other, whether the head is read or not."""
    base = tiny.save("Llama", tmp_path / "base", causal=True, tie_word_embeddings=True)
    config = peft.LoraConfig(task_type="CAUSAL_LM", **{**LINEAR, **CHANGES[what]})
    model = adapter(base, tmp_path / "a", config)
    for head in (False, True):
        assert same(states(tmp_path / "a", "decoder", head=head), expected(model, base))
    save(find(str(tmp_path / "a")), [], tmp_path / "saved", "")
    whole = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    lm: Any = LayerLM(str(tmp_path / "a"), device="cpu")
    ids = torch.tensor([[7, 8, 9, 10]])
    with torch.inference_mode():
        wanted = model(ids).logits
        assert torch.allclose(whole(ids).logits, wanted, atol=1e-3)
        assert torch.allclose(lm.model(ids).logits, wanted, atol=1e-3)


@pytest.mark.parametrize("experts", [False, True])
def test_a_mixture_of_experts(experts: bool, tmp_path: Path) -> None:
    sizes = {**tiny.SMALL, "num_key_value_heads": 2, "num_local_experts": 4}
    made = transformers.MixtralConfig(**sizes, num_experts_per_tok=2)
    base = tiny.save_config(made, tmp_path / "base", auto=transformers.AutoModelForCausalLM)
    inner = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"] if experts else None
    config = peft.LoraConfig(task_type="CAUSAL_LM", target_parameters=inner, **LINEAR)
    model = adapter(base, tmp_path / "a", config)
    for head in (False, True):
        assert same(states(tmp_path / "a", "decoder", head=head), expected(model, base))


def test_a_layer_in_lm_eval(llama: Path, tmp_path: Path) -> None:
    model = adapter(llama, tmp_path / "a", KINDS["embedding, head"])
    ids = torch.tensor([[7, 8, 9, 10]])
    lm: Any = LayerLM(f"{llama}+{tmp_path / 'a'}", device="cpu")
    with torch.inference_mode():
        assert torch.allclose(lm.model(ids).logits, model(ids).logits, atol=1e-4)


@pytest.mark.slow
def test_what_a_run_records(llama: Path, tmp_path: Path) -> None:
    """Adapters of one name in two folders, and one that was trained further."""
    for seed, folder in enumerate(("x", "y")):
        (tmp_path / folder).mkdir()
        base: Any = transformers.AutoModel.from_pretrained(llama)
        config = peft.LoraConfig(**LINEAR, lora_alpha=2 + seed)
        trained(base, config, tmp_path / folder / "lora")
    (tmp_path / "t.txt").write_text("\n".join(tiny.sentences(12)))
    x, y = (str(tmp_path / folder / "lora") for folder in ("x", "y"))
    out, tasks = tmp_path / "out", [f"texts:{tmp_path / 't.txt'}"]

    def run(*names: Any) -> list[dict[str, Any]]:
        assert running.run(out, list(names), tmp_path, "--plugins", "frenet", tasks=tasks) == 0
        return running.records(out, "metric")

    first = run(x, y, f"{llama}+{x}", llama)
    called = ["local/x/lora", "local/y/lora", "local/base+local/lora", "local/base"]
    assert [r["model"] for r in first] == called
    values = [r["values"] for r in first]
    assert values[0] == values[2] not in (values[1], values[3])
    revision = find(str(llama)).revision
    entries = read_run(out)["models"]
    for name, entry in zip("xyx", entries, strict=False):
        found = find(str(tmp_path / name / "lora")).peft[0]
        assert entry["peft"] == [f"local/base@{revision}", f"local/lora@{found.revision}"]
        assert entry["revision"] == f"{revision}+{found.revision}"
    assert "peft" not in entries[3]
    spoilt = load_file(f"{x}/adapter_model.safetensors")
    save_file({name: 2 * w for name, w in spoilt.items()}, f"{x}/adapter_model.safetensors")
    again = run(x)[-1]
    assert again["values"] not in values
    assert again["revision"] not in {r["revision"] for r in first}


@pytest.mark.parametrize("modules", [False, True])
def test_from_the_hub(modules: bool, hub: Hub, llama: Path, tmp_path: Path) -> None:
    """The base, and an adapter that names it at a branch, which is not its newest."""
    base = llama
    if modules:
        base = tiny.save_st(tmp_path / "st", uneven=True)
        packed = SentenceTransformer(str(base), device="cpu")
        packed.add_adapter(peft.LoraConfig(r=2, target_modules=["query"], init_lora_weights=False))
        packed.save(str(tmp_path / "a"))
    else:
        adapter(base, tmp_path / "a", KINDS["lora"])
    first = hub.repository("org/base").push(base)
    hub.repository("org/base").push(tiny.save("Llama", tmp_path / "other", seed=1))
    bad(tmp_path / "a", base_model_name_or_path="org/base", revision=first)
    lora = hub.repository("org/lora").push(tmp_path / "a")
    planned = tiny.planned("org/lora")
    assert (planned.name, planned.checkpoint.revision) == ("org/lora", f"{first}+{lora}")
    assert name_of(planned.checkpoint) == f"org/base@{first}+org/lora@{lora}"
    wanted = tiny.planned(f"{base}+{tmp_path / 'a'}").open()
    for name in ("org/lora", f"org/base@{first}+org/lora", f"org/base@{first}+{tmp_path / 'a'}"):
        model = tiny.planned(name).open()
        assert model.parts.adapter == wanted.parts.adapter
        for text in TEXTS:
            one, other = (tiny.embeddings(m, [Text(text)]) for m in (model, wanted))
            assert np.array_equal(one, other)


def test_from_a_package(llama: Path, tmp_path: Path, make_wheel: MakeWheel) -> None:
    adapter(llama, tmp_path / "a", KINDS["lora"])
    files = {f"pkg/lora/{f.name}": f.read_bytes() for f in (tmp_path / "a").iterdir()}
    make_wheel(files, name="my_lora")
    found = find(f"{llama}+pypi:my-lora==1.0")
    assert found.name == "local/base+pypi:my-lora"
    assert found.content.endswith(f"+{found.peft[0].content}")
    assert found.peft[0].content
    assert same(states(name_of(found), "decoder"), states(tmp_path / "a", "decoder"))
    for name in (f"{llama}+pypi:my-lora==1.0", f"decoder:{llama}+pypi:my-lora==1.0"):
        assert tiny.planned(name).checkpoint == found
