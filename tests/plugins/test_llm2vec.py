"""LLM2Vec's models give what LLM2Vec makes of an instruction and a text, written out here."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import mteb
import pytest
import tiny
import torch
import transformers
from mteb.types import PromptType
from odd_checkpoints import change
from tokenizers import processors

from lrd_harness.cli import main
from lrd_harness.contracts import Text
from lrd_harness.errors import UserError
from lrd_harness.models.cut import remove
from lrd_harness.models.text_model import TextModel

FILE = "llm2vec_config.json"
LLAMA3 = "meta-llama/Meta-Llama-3-8B-Instruct"
LLAMA2 = "meta-llama/Llama-2-7b-chat-hf"
LONG = " ".join(tiny.WORDS[:12])
PAIRS = [
    ("", "a cat sat on a mat."),
    ("find what is like it:", " x y"),
    ("find what is like it:", LONG),
    ("say:", ""),
    ("", "the end  "),
]


def save(folder: Path, family: str = "Llama", base: str = "", **reading: Any) -> Path:
    """A model as LLM2Vec saves one that is merged, its tokenizer with a token before each text."""
    tiny.save(family, folder, uneven=True, causal=True)
    tokenizer = tiny.tokenizer(encoder=False, max_length=10**6)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 5)]
    )
    tokenizer.save_pretrained(folder)
    (folder / FILE).write_text(json.dumps(reading))
    if base:
        change(folder / "config.json", _name_or_path=base)
    return folder


def reference(model: Any, tokenizer: Any, pair: tuple[str, str], base: str, **how: Any) -> Any:
    """The last states of a text, pooled, (d,): a mask of nothing, and tokens counted from the end.

    how: pooling_mode, max_length, doc_max_length and skip_instruction of LLM2Vec.
    """
    instruction, text = pair
    most, alone = how.get("max_length", 512), {"add_special_tokens": False}
    of_text, mode = how.get("doc_max_length", 400), how.get("pooling_mode", "mean")
    while len(ids := tokenizer(text, **alone)["input_ids"][:most]) > of_text:
        words = text.split()
        text = " ".join(words[: int(len(words) * (of_text / len(ids)))])
    head, tail = (f"{instruction} " if instruction else ""), text
    if base == LLAMA3:
        head, tail = (
            f"<|start_header_id|>user<|end_header_id|>\n\n{head}",
            f"{tail.rstrip()}<|eot_id|>",
        )
    if base == LLAMA2:
        head, tail = f"[INST] {head}", f"{tail.rstrip()} [/INST]"
    if mode == "eos_token" and base != LLAMA3:
        tail = f"{tail.rstrip()} </s>" if model.config.model_type == "llama" else tail
    ids = torch.tensor([tokenizer(head + tail)["input_ids"][:most]])
    count = len(tokenizer(tail, **alone)["input_ids"][:most])
    if not how.get("skip_instruction", True) or count == 0:
        count = ids.shape[1]
    everything = torch.zeros(1, 1, ids.shape[1], ids.shape[1])
    with torch.inference_mode():
        state = model(input_ids=ids, attention_mask=everything).last_hidden_state[0]
    part = state[-count:]
    weights = torch.arange(1.0, len(part) + 1)[:, None]
    match mode:
        case "mean":
            return part.mean(0)
        case "weighted_mean":
            return (part * weights).sum(0) / weights.sum()
        case "bos_token":
            return state[0]
        case _:
            return state[-1]


@pytest.mark.parametrize(
    ("family", "base", "reading"),
    [
        ("Llama", "", {}),
        ("Llama", LLAMA3, {"max_length": 60}),
        ("Llama", LLAMA2, {"pooling_mode": "weighted_mean"}),
        ("Llama", "", {"skip_instruction": False, "max_length": 30, "doc_max_length": 10}),
        ("Llama", LLAMA3, {"pooling_mode": "eos_token"}),
        ("Llama", LLAMA2, {"pooling_mode": "eos_token"}),
        ("Qwen2", "", {"pooling_mode": "last_token", "doc_max_length": 12}),
        ("Mistral", "", {"pooling_mode": "bos_token"}),
        ("Mistral", "", {"skip_instruction": False, "pooling_mode": "weighted_mean"}),
    ],
)  # fmt: skip
def test_the_last_layer_is_the_model(
    family: str, base: str, reading: dict[str, Any], tmp_path: Path
) -> None:
    folder = save(tmp_path / "model", family, base, **reading)
    model = tiny.open_model(folder)
    assert model.identity["adapter"] == "llm2vec"
    assert all(model.look_ahead())
    whole = transformers.AutoModel.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    vectors = tiny.embeddings(model, [Text(text, prompt) for prompt, text in PAIRS])
    expected = [reference(whole, tokenizer, pair, base, **reading) for pair in PAIRS]
    torch.testing.assert_close(torch.tensor(vectors), torch.stack(expected), atol=1e-5, rtol=1e-5)


def test_words_that_are_left_out_count_as_cut(tmp_path: Path) -> None:
    model = tiny.open_model(save(tmp_path, doc_max_length=10))
    texts = [Text(text, prompt) for prompt, text in PAIRS]
    assert model.truncated(texts, model.tokenize(texts)) == [True, False, True, False, False]


def test_instructions_are_those_of_mtebs_wrapper(tmp_path: Path) -> None:
    from mteb.models.model_implementations.llm2vec_models import LLM2VecModel, llm2vec_instruction

    rules = object.__new__(LLM2VecModel)
    model = tiny.open_model(save(tmp_path))
    made: dict[tuple[str, str | None], str] = {}
    for name in ("STSBenchmark", "NFCorpus", "Banking77Classification", "SummEval"):
        metadata = mteb.get_task(name).metadata
        for kind in ("query", "document") if name == "NFCorpus" else (None,):
            with warnings.catch_warnings(action="ignore"):
                theirs = rules.get_instruction(metadata, PromptType(kind) if kind else None)
            made[name, kind] = model.prompt(metadata, kind)
            assert made[name, kind] == llm2vec_instruction(theirs)
    assert made["NFCorpus", "document"] == ""
    assert all(made[key].endswith(":") for key in made if key[1] != "document")
    chosen = tiny.open_model(tmp_path, prompts={"query": "ask: "})
    assert chosen.prompt(mteb.get_task("NFCorpus").metadata, "query") == "ask: "


@pytest.mark.parametrize(
    ("reading", "line"),
    [
        ({"pooling_mode": "latent_attention"}, "pools by latent_attention, which is not read"),
        ({"max_length": 0}, "has no sound max_length"),
        ({"skip_instruction": "no"}, "has no sound skip_instruction"),
    ],
)
def test_what_it_cannot_be_read_by(reading: dict[str, Any], line: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=line):
        tiny.open_model(save(tmp_path, **reading))


CLASSES = (
    "modeling_llama_encoder.LlamaEncoderModel",
    "a/b--modeling_qwen2_encoder.Qwen2EncoderModel",
)


@pytest.mark.parametrize("name", CLASSES)
def test_its_own_code_is_not_needed(name: str, tmp_path: Path) -> None:
    save(tmp_path)
    (tmp_path / FILE).unlink()
    change(tmp_path / "config.json", auto_map={"AutoModel": name})
    assert tiny.open_model(tmp_path).identity["adapter"] == "llm2vec"
    change(
        tmp_path / "config.json", auto_map={"AutoModel": "llama_bidirectional_model.LlamaBiModel"}
    )
    with pytest.raises(UserError, match="names code of its own"):
        tiny.open_model(tmp_path)
    change(tmp_path / "config.json", auto_map={})
    assert tiny.open_model(tmp_path).identity["adapter"] == "decoder"
    assert tiny.open_model(tmp_path, "llm2vec").info.pooling == "mean-no-instruction"


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"pooling": "mean"}])
def test_a_saved_model_is_read_as_it_was(options: dict[str, str], tmp_path: Path) -> None:
    folder = save(tmp_path / "model", base=LLAMA2, max_length=40)
    words = ["prune", str(folder), "--blocks", "2", "--save", str(tmp_path / "cut"), "--quiet"]
    assert main([*words, *(w for k, v in options.items() for w in (f"--{k}", v))]) == 0
    full = tiny.open_model(folder, **options)
    remove(full.backbone.module, full.blocks, (2,))
    texts = [Text(text, prompt) for prompt, text in PAIRS]
    expected = tiny.embeddings(TextModel(full.checkpoint, full.options, full.parts), texts)
    again = tiny.open_model(tmp_path / "cut")
    assert (again.identity["adapter"], again.info.max_length) == ("llm2vec", 40)
    torch.testing.assert_close(
        torch.tensor(tiny.embeddings(again, texts)), torch.tensor(expected), atol=1e-5, rtol=1e-5
    )


def adapter(onto: Any, folder: Path, seed: int, **noted: Any) -> Any:
    """Train nothing, save random LoRA weights as LLM2Vec does; the model with them merged."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    how = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    adapted = get_peft_model(onto, how)
    adapted.save_pretrained(folder)
    change(folder / "adapter_config.json", **noted)
    return adapted.merge_and_unload()


def test_adapters_of_weights(tmp_path: Path) -> None:
    """An adapter beside the config.json of its base, and one that goes onto it."""
    base, mntp, top = (tmp_path / name for name in ("base", "x-mntp", "x-mntp-supervised"))
    save(base)
    (base / FILE).unlink()
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    library = "llm2vec.models.bidirectional_llama"
    mapping = {"base_model_class": "LlamaBiModel", "parent_library": library}
    noted = {"base_model_name_or_path": str(base), "auto_mapping": mapping}
    merged = adapter(transformers.AutoModel.from_pretrained(base), mntp, 1, **noted)
    (mntp / "config.json").write_text((base / "config.json").read_text())
    change(mntp / "config.json", auto_map={"AutoModel": CLASSES[0]}, _name_or_path=LLAMA2)
    for name, whole in ((str(mntp), merged), (f"{mntp}+{top}", None)):
        whole = whole or adapter(merged, top, 2, **noted)
        model = tiny.open_model(name)
        assert model.identity["adapter"] == "llm2vec"
        vectors = tiny.embeddings(model, [Text(text, prompt) for prompt, text in PAIRS])
        expected = torch.stack([reference(whole, tokenizer, pair, LLAMA2) for pair in PAIRS])
        torch.testing.assert_close(torch.tensor(vectors), expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(UserError, match=r"goes onto .*x-mntp, .* give .*-mntp\+.*-supervised"):
        tiny.open_model(str(top))
