"""`lrd-harness models MODEL`: what is told agrees with transformers and with the files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import coded
import pytest
import tiny
import torch
import transformers
from hub_server import Hub
from odd_checkpoints import change
from sentence_transformers import SentenceTransformer

from lrd_harness.cli import main
from lrd_harness.studies.description import ORDER

pytestmark = pytest.mark.usefixtures("own_cache")
Shown = pytest.CaptureFixture[str]


def described(capsys: Shown, *arguments: Any, code: int = 0) -> dict[str, Any]:
    """The report as JSON, and what was said on standard error as "said"."""
    assert main(["models", *map(str, arguments), "--quiet", "--format", "json"]) == code
    out, err = capsys.readouterr()
    report: dict[str, Any] = json.loads(out)
    return {**report, "said": err}


def one(capsys: Shown, *arguments: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """Of one model its facts for programs, and as people read them."""
    tables = described(capsys, *arguments)["tables"]
    (row,) = tables.pop("models")["rows"]
    (table,) = tables.values()
    return row, {fact["fact"]: fact["told"] for fact in table["rows"]}


def whole(folder: Path, kind: str) -> Any:
    return getattr(transformers, kind).from_pretrained(folder, dtype=torch.float32)


FAMILIES = (  # family, class that is saved, class that is read; adapter; final norm
    ("Bert", "BertForMaskedLM", "BertModel", "encoder", "none"),
    ("GPTNeoX", "GPTNeoXForCausalLM", "GPTNeoXModel", "decoder", "final_layer_norm (LayerNorm)"),
    ("GPT2", "GPT2LMHeadModel", "GPT2Model", "decoder", "ln_f (LayerNorm)"),
    ("T5", "T5ForConditionalGeneration", "T5EncoderModel", "encoder", "final_layer_norm"),
    ("Mamba", "MambaForCausalLM", "MambaModel", "decoder", "norm_f (MambaRMSNorm)"),
)


@pytest.mark.parametrize(("family", "kind", "read", "adapter", "norm"), FAMILIES)
def test_figures_are_those_of_transformers(
    family: str, kind: str, read: str, adapter: str, norm: str, tmp_path: Path, capsys: Shown
) -> None:
    torch.manual_seed(0)
    model = getattr(transformers, kind)(tiny.config(family))
    model.to(torch.float16).save_pretrained(tmp_path / "model")
    tiny.tokenizer(encoder=adapter == "encoder").save_pretrained(tmp_path / "model")
    row, told = one(capsys, tmp_path / "model")
    assert row["architecture"] == kind
    assert row["adapter"] == adapter
    assert (row["blocks"], row["width"]) == (3, 32)
    assert norm in row["final_norm"]
    assert row["stored_parameters"] == model.num_parameters()
    inner = whole(tmp_path / "model", read)
    poolers = sum(p.numel() for n, p in inner.named_parameters() if "pooler" in n)
    assert row["parameters"] == inner.num_parameters() - poolers  # which would be random
    assert row["dtype"] == "float16"
    assert told["dtype"] == "float16 in the files, read as float32"
    file = tmp_path / "model" / "model.safetensors"
    assert row["disk"] == file.stat().st_size
    held = whole(tmp_path / "model", kind if adapter == "decoder" else read)
    used = [*held.parameters(), *held.buffers()]
    assert row["memory"] == sum(weight.nbytes for weight in used) - 4 * poolers
    assert row["likelihoods"] is (adapter == "decoder")
    assert told["pruning"] == "blocks 1-3 can be taken out"
    assert ("mamba-ssm" in (row["speed"] or "")) is (family == "Mamba")


def test_a_sentence_transformer(tmp_path: Path, capsys: Shown) -> None:
    """Its pooling, prompts and length, each with the file that says it; modules behind count."""
    prompts = {"query": "find: ", "document": "text: "}
    folder = tiny.save_st(
        tmp_path / "model", pooling="cls", dense=7, prompts=prompts, max_seq_length=40
    )
    row, told = one(capsys, folder)
    assert row["adapter"] == "sentence-transformers"
    assert "encoder would, too (encoder:MODEL)" in told["adapter"]
    assert told["pooling"] == "cls, by 1_Pooling/config.json"
    assert told["width"] == "32; its output has 7"
    assert told["prompts"].startswith("its own: ")
    assert "SciFact query 'find: '" in told["prompts"]
    assert "SciFact document 'text: '" in told["prompts"]
    assert told["context limit"].startswith("40 tokens by ")
    assert "max_position_embeddings of config.json says 512" in told["context limit"]
    module = SentenceTransformer(str(folder), local_files_only=True)
    assert row["stored_parameters"] == sum(p.numel() for p in module.parameters())
    assert row["context_limit"] == 40


def test_what_is_chosen_is_called_so(tmp_path: Path, capsys: Shown) -> None:
    folder = tiny.save("Roberta", tmp_path / "model", max_position_embeddings=66)
    row, told = one(capsys, folder)
    assert row["context_limit"] == 65  # a row is the padding's
    assert "bear no more, though 66 by max_position_embeddings" in told["context limit"]
    assert told["pooling"] == "mean, usual for the adapter encoder"
    row, told = one(capsys, f"decoder:{folder}", "--pooling", "last", "--max-length", "9")
    assert told["adapter"].startswith("decoder, as named")
    assert told["pooling"] == "last, as chosen"
    assert told["context limit"].startswith("9 tokens as chosen")


def test_blocks_that_cannot_go(tmp_path: Path, capsys: Shown) -> None:
    row, told = one(capsys, tiny.save("Albert", tmp_path / "albert"))
    assert row["pruning"] is False
    assert "shares weights between its blocks" in told["pruning"]
    assert told["blocks"] == "3, by 1 with shared weights"
    jamba = {"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2}
    jamba |= {"mamba_d_state": 4, "num_key_value_heads": 2}
    row, told = one(capsys, tiny.save("Jamba", tmp_path / "jamba", causal=True, **jamba))
    assert row["pruning"] is True
    assert told["pruning"].startswith("blocks 3 can be taken out; not 1-2: JambaModel: the kinds")


def test_what_files_say_is_told_of_a_model_that_cannot_be_opened(
    tmp_path: Path, capsys: Shown
) -> None:
    """Alone: its table, and the reason as the command's own line."""
    folder = tiny.save("Llama", tmp_path / "model")
    settings = {"quant_method": "xyz", "bits": 4}
    change(folder / "config.json", quantization_config=settings)
    assert main(["models", str(folder), "--quiet"]) == 2
    out, err = capsys.readouterr()
    assert "xyz, 4 bits" in out
    assert "LlamaModel" in out
    assert "context limit" not in out
    assert len(err.splitlines()) == 1
    assert "cannot be read here" in err


@pytest.mark.parametrize(
    ("names", "code", "opened"),
    [(("good", "bad"), 1, 1), (("bad", "none"), 2, 0), (("good", "good"), 0, 1)],
)
def test_several(
    names: tuple[str, ...], code: int, opened: int, tmp_path: Path, capsys: Shown
) -> None:
    tiny.save("Bert", tmp_path / "good")
    tiny.save("Bert", tmp_path / "bad")
    (tmp_path / "bad" / "model.safetensors").write_bytes(b"no weights")
    report = described(capsys, *(tmp_path / name for name in names), code=code)
    assert len(report["answer"]) == opened or names == ("good", "good")
    assert (
        len(report["errors"])
        == len(report["said"].splitlines())
        == len(names) - sum(name == "good" for name in names)
    )
    rows = report["tables"]["models"]["rows"]
    assert {row["model"] for row in rows} == {str(tmp_path / name) for name in names}
    assert set(rows[0]) == {"model", *(name.replace(" ", "_") for name in ORDER)}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--format", "figures"), "--format figures writes a folder"),
        (("--format", "jsn"), "did you mean json"),
        (("--pooling", "men"), "did you mean mean"),
        (("--max-length", "0"), "max_length"),
    ],
)
def test_bad_input_is_refused_before_a_model_is_looked_for(
    more: tuple[str, ...], said: str, capsys: Shown
) -> None:
    assert main(["models", "nowhere/model", *more]) == 2
    err = capsys.readouterr().err
    assert said.lower() in err.lower()
    assert "nowhere" not in err


ODD = '''
from lrd_harness import Adapter, hookimpl
from lrd_harness.plugins.adapters.plain import open_encoder


class Odd:
    """A model of another make: it shows what every model shows, and its prompts fail."""

    def __init__(self, model):
        names = "info identity has_final_norm blocks final_norm embed similarity head headless "
        names += "tokenizer tokenize truncated states"
        vars(self).update({name: getattr(model, name) for name in names.split()})

    def prompt(self, task, prompt_type):
        raise RuntimeError("no prompts today")


@hookimpl
def lrd_adapters():
    opens = lambda checkpoint, options: Odd(open_encoder(checkpoint, options))
    return [Adapter("odd", lambda checkpoint: True, opens, priority=99, description="odd ones")]
'''


def test_an_adapter_of_ones_own(tmp_path: Path, capsys: Shown) -> None:
    """What it does not show is left out; what fails is told in the place of that fact alone."""
    (tmp_path / "odd.py").write_text(ODD)
    row, told = one(capsys, tiny.save("Bert", tmp_path / "model"), "--load", tmp_path / "odd.py")
    assert told["adapter"].startswith("odd, the first that claims it: odd ones; encoder would")
    assert (row["blocks"], row["context_limit"], row["prompts"]) == (3, 128, None)
    assert "no prompts today" in told["prompts"]
    assert told["context limit"] == "128 tokens by the adapter odd"
    assert not {"memory", "pruning", "stored parameters"} & set(told)


def test_code_runs_where_it_is_trusted_alone(tmp_path: Path, capsys: Shown) -> None:
    mark = tmp_path / "mark"
    folder = coded.save(tmp_path / "model", mark, causal=True)
    assert main(["models", str(folder), "--quiet"]) == 2
    assert not mark.exists()
    capsys.readouterr()
    row, told = one(capsys, folder, "--trust-remote-code", folder)
    assert mark.exists()
    assert "modeling_tiny.py (sha256 " in told["code of its own"]
    assert row["stored_parameters"] == row["parameters"] + 16 * len(tiny.VOCAB)
    assert row["likelihoods"] is True
    tiny.save("Bert", tmp_path / "bert")
    names = [str(tmp_path / "bert"), "--trust-remote-code", str(folder)]
    assert main(["models", *names, "--quiet"]) == 2
    assert "--trust-remote-code" in capsys.readouterr().err


def test_a_mask_is_told_as_it_was_tried(tmp_path: Path, capsys: Shown) -> None:
    folder = tiny.save("Llama", tmp_path / "model", causal=True)
    causal, _ = one(capsys, folder)
    assert (causal["attention_mask"], causal["likelihoods"]) == ("causal", True)
    both, told = one(capsys, folder, "--attention-mask", "bidirectional")
    assert (both["attention_mask"], both["likelihoods"]) == ("bidirectional", False)
    assert "bidirectional mask" in told["likelihoods"]


def test_defaults_of_llm2vec_are_not_said_to_be_of_a_file(tmp_path: Path, capsys: Shown) -> None:
    folder = tiny.save("Llama", tmp_path / "model")
    _, told = one(capsys, f"llm2vec:{folder}")
    assert told["pooling"] == "mean-no-instruction, by LLM2Vec's own default"
    assert told["context limit"].startswith("512 tokens by LLM2Vec's own default")
    assert told["prompts"].startswith("mteb's instructions: STSBenchmark 'Retrieve semantically")
    (folder / "llm2vec_config.json").write_text('{"max_length": 100}')
    _, told = one(capsys, folder)
    assert told["pooling"].endswith("by LLM2Vec's own default")
    assert told["context limit"].startswith("100 tokens by llm2vec_config.json")


def test_a_model_of_the_hub(hub: Hub, tmp_path: Path, capsys: Shown) -> None:
    """Its files are here once it is opened; other forms of its weights are not looked at."""
    folder = tiny.save("Bert", tmp_path / "model")
    commit = hub.repository("org/it").push(folder)
    row, _ = one(capsys, "org/it")
    local, _ = one(capsys, folder)
    assert row["revision"] == commit
    told = {name: value for name, value in row.items() if name not in ("model", "revision")}
    assert told == {name: local[name] for name in told}
    assert told["disk"] == (folder / "model.safetensors").stat().st_size


def test_an_adapter_of_weights_is_told_with_its_base(tmp_path: Path, capsys: Shown) -> None:
    peft = pytest.importorskip("peft")
    base = tiny.save("Llama", tmp_path / "base", causal=True)
    how = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    model = peft.get_peft_model(whole(base, "LlamaForCausalLM"), how)
    model.save_pretrained(tmp_path / "lora")
    row, told = one(capsys, tmp_path / "lora")
    assert told["adapters of weights"].startswith("local/lora (")
    assert ", on local/base (" in told["adapters of weights"]
    assert row["stored_parameters"] == whole(base, "LlamaForCausalLM").num_parameters()
    sizes = (tmp_path / "lora").rglob("*.safetensors"), base.rglob("*.safetensors")
    assert row["disk"] == sum(file.stat().st_size for files in sizes for file in files)
