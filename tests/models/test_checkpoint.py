"""A pruned model that was saved is the pruned model, in every library that loads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import transformers
from test_prune import BLOCKS, by_hand, changes, probe, within
from torch import Tensor

from lrd_harness.contracts import Checkpoint
from lrd_harness.errors import UserError
from lrd_harness.models.cut import kept_blocks, remove
from lrd_harness.models.find import find
from lrd_harness.models.save import save

CARD = "---\ntags:\n- pruned\n---\n\n# A card\n"
ENCODERS = ("Bert", "MPNet", "T5", "Bart")
DECODERS = ("Llama", "Gemma3Text", "GPT2", "GPTNeoX", "Qwen2", "Qwen3", "Mamba", "OPT", "GPTNeo")
REMOVED = [(1,), (3, 4), (2, 5)]


def original(family: str, folder: Path, causal: bool = False) -> Checkpoint:
    """A checkpoint of five blocks, found as a user names it."""
    tiny.save(family, folder, causal=causal, **changes(family))
    return find(str(folder))


def answer(model: Any) -> Tensor:
    """Logits of a model with a head, else its states."""
    inner = model.get_encoder() if model.config.is_encoder_decoder else model
    with torch.inference_mode():
        found: Tensor = inner.eval()(**probe())[0]
    return found


def in_memory(folder: Path, removed: tuple[int, ...], auto: Any) -> Any:
    from lrd_harness.models.backbone import Backbone

    model = auto.from_pretrained(folder)
    remove(model, Backbone(within(model), probe()).blocks, removed)
    return model


@pytest.mark.parametrize("family", [*ENCODERS, *DECODERS])
def test_the_saved_model_is_the_pruned_one(family: str, tmp_path: Path) -> None:
    causal = family in DECODERS
    auto: Any = transformers.AutoModelForCausalLM if causal else transformers.AutoModel
    checkpoint = original(family, tmp_path / "full", causal)
    before = sorted(p.name for p in tmp_path.iterdir())
    for removed in REMOVED:
        folder = tmp_path / f"pruned-{removed[0]}"
        assert save(checkpoint, removed, folder, CARD) == folder
        again, loading = auto.from_pretrained(folder, output_loading_info=True)
        assert not any(loading[kind] for kind in loading)
        pruned = in_memory(tmp_path / "full", removed, auto)
        torch.testing.assert_close(answer(again), answer(pruned), rtol=1e-5, atol=1e-5)
        assert sum(p.numel() for p in again.parameters()) == sum(
            p.numel() for p in pruned.parameters()
        )
        full = auto.from_pretrained(tmp_path / "full").eval()
        expected = by_hand(within(full), kept_blocks(removed, BLOCKS))
        base = transformers.AutoModel.from_pretrained(folder)
        torch.testing.assert_close(answer(base), expected, rtol=1e-5, atol=1e-5)
        assert not list(folder.glob("*.bin"))
        assert (folder / "README.md").read_text() == CARD
        tokens = [
            transformers.AutoTokenizer.from_pretrained(f)("a cat, 2 dogs")["input_ids"]
            for f in (folder, tmp_path / "full")
        ]
        assert tokens[0] == tokens[1]
        config = find(str(folder)).config  # what a run reads
        assert config["architectures"] == checkpoint.config["architectures"]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
        [*before, *(f"pruned-{removed[0]}" for removed in REMOVED)]
    )


@pytest.mark.parametrize("family", ["Bert", "T5", "Llama"])
def test_the_harness_reads_the_same_states(family: str, tmp_path: Path) -> None:
    from lrd_harness.contracts import Text

    checkpoint = original(family, tmp_path / "full", causal=family == "Llama")
    full = tiny.open_model(tmp_path / "full")
    save(checkpoint, (2, 3), tmp_path / "pruned", CARD)
    remove(full.backbone.module, full.blocks, (2, 3))
    from lrd_harness.models.text_model import TextModel

    expected = TextModel(checkpoint, full.options, full.parts)
    again = tiny.open_model(tmp_path / "pruned")
    batch = again.tokenize([Text("a quick brown fox"), Text("dogs")])
    states, wanted = again.states(batch), expected.states(batch)
    assert states.keys() == wanted.keys()
    for key, state in states.items():
        torch.testing.assert_close(state, wanted[key], rtol=1e-5, atol=1e-5)
    assert again.info.blocks == 3


@pytest.mark.parametrize("family", ["Bert", "T5", "GPT2", "ModernBert", "Albert"])
def test_without_blocks_to_remove_the_whole_model_is_kept(family: str, tmp_path: Path) -> None:
    """Also of kinds of which no block can go."""
    checkpoint = original(family, tmp_path / "full")
    save(checkpoint, (), tmp_path / "kept", CARD)
    assert (tmp_path / "kept" / "README.md").read_text() == CARD
    full, kept = (transformers.AutoModel.from_pretrained(tmp_path / f) for f in ("full", "kept"))
    held, own = kept.state_dict(), full.state_dict()
    assert held.keys() == own.keys()
    same = (torch.equal(held[name], own[name]) for name in own if "pooler" not in name)
    assert all(same)


def test_a_sentence_transformer_keeps_its_modules(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    for family, removed in (("Bert", (2,)), ("MPNet", (1,)), ("T5", (1,))):
        full = tiny.save_st(
            tmp_path / family,
            family=family,
            dense=16,
            pooling="cls",
            prompts={"query": "q: "},
            max_seq_length=20,
        )
        folder = save(find(str(full)), removed, tmp_path / f"{family}-pruned", CARD)
        again: Any = SentenceTransformer(str(folder), device="cpu")
        pruned: Any = SentenceTransformer(str(full), device="cpu")
        module = pruned[0].auto_model
        blocks = within(module)
        from lrd_harness.models.backbone import Backbone

        remove(pruned, Backbone(blocks, probe()).blocks, removed)
        texts = tiny.sentences(5, most=40)
        np.testing.assert_allclose(again.encode(texts), pruned.encode(texts), atol=1e-5)
        assert not np.allclose(
            again.encode(texts), SentenceTransformer(str(full)).encode(texts), atol=1e-2
        )
        assert [type(m).__name__ for m in again] == [type(m).__name__ for m in pruned]
        assert [type(m).__name__ for m in again][1:] == ["Pooling", "Dense", "Normalize"]
        assert (again.prompts["query"], again.max_seq_length) == ("q: ", 20)
        assert (folder / "README.md").read_text() == CARD
        model = tiny.open_model(folder)
        assert (model.info.blocks, model.info.pooling) == (2, "cls")
        assert not list(folder.rglob("*.bin"))


def test_lm_eval_loads_it(tmp_path: Path) -> None:
    from lm_eval.models.huggingface import HFLM

    folder = save(original("Llama", tmp_path / "full", causal=True), (2,), tmp_path / "p", CARD)
    lm = HFLM(pretrained=str(folder), device="cpu", dtype="float32")
    pruned = in_memory(tmp_path / "full", (2,), transformers.AutoModelForCausalLM)
    torch.testing.assert_close(answer(lm.model), answer(pruned), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_tied_weights_stay_tied(tied: bool, tmp_path: Path) -> None:
    from safetensors import safe_open

    tiny.save("Llama", tmp_path / "full", causal=True, tie_word_embeddings=tied)
    folder = save(find(str(tmp_path / "full")), (1,), tmp_path / "pruned", CARD)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    with safe_open(folder / "model.safetensors", "pt") as weights:
        assert ("lm_head.weight" in weights.keys()) != tied  # noqa: SIM118 - no mapping
    pruned = in_memory(tmp_path / "full", (1,), transformers.AutoModelForCausalLM)
    torch.testing.assert_close(answer(model), answer(pruned), rtol=1e-5, atol=1e-5)


def test_the_precision_and_other_heads_stay(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = transformers.BertForMaskedLM(tiny.config("Bert")).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "full")
    tiny.tokenizer().save_pretrained(tmp_path / "full")
    folder = save(find(str(tmp_path / "full")), (2,), tmp_path / "pruned", CARD)
    again = transformers.BertForMaskedLM.from_pretrained(folder, dtype="auto")
    assert again.dtype == torch.bfloat16
    for name, value in again.cls.state_dict().items():
        assert torch.equal(value, model.cls.state_dict()[name])


def test_a_pooler_without_weights_is_not_made_up(tmp_path: Path) -> None:
    model = transformers.BertModel(tiny.config("Bert"), add_pooling_layer=False)
    model.save_pretrained(tmp_path / "full")
    tiny.tokenizer().save_pretrained(tmp_path / "full")
    folder = save(find(str(tmp_path / "full")), (1,), tmp_path / "pruned", CARD)
    _, loading = transformers.AutoModel.from_pretrained(folder, output_loading_info=True)
    assert {key.split(".")[0] for key in loading["missing_keys"]} == {"pooler"}


def test_a_head_that_has_no_weights_is_left_out(tmp_path: Path) -> None:
    checkpoint = original("Bert", tmp_path / "full")
    config = json.loads((tmp_path / "full" / "config.json").read_text())
    for said in (["BertForMaskedLM"], ["NoSuchModel"], ["BertTokenizer"], None):
        config["architectures"] = said
        (tmp_path / "full" / "config.json").write_text(json.dumps(config))
        checkpoint = find(str(tmp_path / "full"))
        folder = save(checkpoint, (1,), tmp_path / str(said), CARD)
        assert find(str(folder)).config["architectures"] == ["BertModel"]


def test_settings_for_generation_are_kept(tmp_path: Path) -> None:
    tiny.save("Llama", tmp_path / "full", causal=True)
    # what transformers reads with a warning, and refuses to write
    said = {"do_sample": False, "temperature": 0.6, "max_new_tokens": 7, "eos_token_id": 6}
    (tmp_path / "full" / "generation_config.json").write_text(json.dumps(said))
    folder = save(find(str(tmp_path / "full")), (1,), tmp_path / "pruned", CARD)
    assert json.loads((folder / "generation_config.json").read_text()) == said


def test_blocks_that_are_built_by_their_place(tmp_path: Path) -> None:
    modern = original("ModernBert", tmp_path / "modern")
    with pytest.raises(UserError, match="ModernBertModel builds its blocks by their place"):
        save(modern, (1,), tmp_path / "pruned", CARD)  # the first has no norm of its own
    save(modern, (2, 3), tmp_path / "pruned", CARD)
    tiny.save("GPT2", tmp_path / "gpt", causal=True, scale_attn_by_inverse_layer_idx=True)
    with pytest.raises(UserError, match="builds its blocks by their place"):
        save(find(str(tmp_path / "gpt")), (1,), tmp_path / "other", CARD)
    save(find(str(tmp_path / "gpt")), (3,), tmp_path / "other", CARD)


def test_what_is_left_of_a_model_that_is_dense_at_first(tmp_path: Path) -> None:
    sizes = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4}
    experts = {"n_routed_experts": 4, "moe_intermediate_size": 16, "num_experts_per_tok": 2}
    groups = {"n_group": 1, "topk_group": 1, "first_k_dense_replace": 2, "num_hidden_layers": 4}
    changes = {**sizes, **experts, **groups, "v_head_dim": 8, "num_key_value_heads": 4}
    tiny.save("DeepseekV3", tmp_path / "full", causal=True, **changes)
    for removed, dense in (((1, 3), 1), ((4,), 2), ((1, 2), 0)):
        folder = save(find(str(tmp_path / "full")), removed, tmp_path / str(removed), CARD)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder)
        assert model.config.first_k_dense_replace == dense
        pruned = in_memory(tmp_path / "full", removed, transformers.AutoModelForCausalLM)
        torch.testing.assert_close(answer(model), answer(pruned), rtol=1e-5, atol=1e-5)


def test_it_is_quiet(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    checkpoint = original("Bert", tmp_path / "full")
    logging = transformers.utils.logging
    logging.enable_progress_bar()
    level = logging.get_verbosity()
    capfd.readouterr()
    save(checkpoint, (1,), tmp_path / "pruned", CARD)
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (level, True)


def test_models_that_cannot_be_pruned(tmp_path: Path) -> None:
    tiny.save("Albert", tmp_path / "albert")
    with pytest.raises(UserError, match="shares weights between its blocks"):
        save(find(str(tmp_path / "albert")), (1,), tmp_path / "pruned", CARD)
    checkpoint = original("Llama", tmp_path / "llama")
    config = json.loads((tmp_path / "llama" / "config.json").read_text())
    config["num_hidden_layers"] = BLOCKS + 1
    config.pop("layer_types", None)
    (tmp_path / "llama" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="its weights lack 9 tensors"):
        save(checkpoint, (1,), tmp_path / "pruned", CARD)
    assert not (tmp_path / "pruned").exists()
