"""A text's states do not depend on its batch; limits, empty texts, precision."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import tiny
import torch
import transformers

from lrd_harness.contracts import Text
from lrd_harness.errors import UserError
from lrd_harness.models.readout import POOLINGS

FAMILIES = [*tiny.ENCODERS, *tiny.DECODERS, *tiny.WIDER]
TEXTS = [Text(t) for t in ("a", "", "  \n", "x y z", "the cat sat.", " ".join(tiny.WORDS))]
# what a family takes where it cannot take padding on the left, or none at all
LEFT = {"Bart": "right", "Rwkv": "right", "ConvBert": "none"}


@cache
def folder_of(family: str) -> Path:
    return tiny.save(family, Path(mkdtemp()) / family)


@cache
def model_of(family: str, pooling: str = "mean", padding: str = "right") -> Any:
    adapter = "decoder" if family in tiny.DECODERS else "encoder"
    return tiny.open_model(folder_of(family), adapter, pooling=pooling, padding=padding)


@cache
def alone(family: str, pooling: str, text: Text) -> Any:
    model = model_of(family, pooling)
    return model.states(model.tokenize([text]))


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("family", tiny.rest_slow(FAMILIES, "Bert", "Llama", "T5", "ConvBert"))
def test_alone_or_together_on_either_side(family: str, padding: str) -> None:
    model = model_of(family, "mean", padding)
    kinds = ("raw", "final") if model.has_final_norm else ("raw",)
    planes = {(kind, layer) for kind in kinds for layer in range(4)}
    side = LEFT.get(family, "left") if padding == "left" else "right"
    assert model.padding == ("none" if family == "ConvBert" else side)
    for pooling in POOLINGS:
        model = model_of(family, pooling, padding)
        together = model.states(model.tokenize(TEXTS))
        assert together.keys() == planes
        for plane, states in together.items():
            assert (states.dtype, states.shape) == (torch.float32, (len(TEXTS), model.info.width))
            expected = torch.cat([alone(family, pooling, text)[plane] for text in TEXTS])
            # raw states may be in the thousands, where float32 has no four decimals
            near = 1e-5 * expected.abs().amax(1, keepdim=True).clamp(min=10)
            assert ((states - expected).abs() <= near).all(), (pooling, plane)
    assert model.truncated(TEXTS[1:2], model.tokenize(TEXTS[1:2])) == [False]
    for layer in range(4):  # what could not be seen if all states were the same
        rows = [alone(family, "mean", text)["raw", layer] for text in TEXTS if text.text.strip()]
        assert torch.pdist(torch.cat(rows)).min() > 1e-2 * torch.cat(rows).abs().max()


@pytest.mark.parametrize("adapter", ["encoder", "sentence-transformers"])
def test_truncated_exactly_beyond_the_limit(adapter: str, tmp_path: Path) -> None:
    """A letter is a token, and [CLS] and [SEP] are two more."""
    if adapter == "encoder":
        model = tiny.open_model(folder_of("Bert"), adapter, max_length=10)
    else:
        model = tiny.open_model(tiny.save_st(tmp_path / "st", max_seq_length=10))
    assert model.info.max_length == 10
    letters = "abcdefghijklmnop"
    for prompt in ("", "ab ", "query "):
        texts = [Text(letters[:n], prompt) for n in range(13)]
        lengths = [n + len(prompt.strip()) + 2 for n in range(13)]
        encoded = model.tokenize(texts)
        assert [len(e["input_ids"]) for e in encoded] == [min(length, 10) for length in lengths]
        assert model.truncated(texts, encoded) == [length > 10 for length in lengths]
    assert model.tokenize([Text(letters)])[0]["input_ids"][-1] == 3  # [SEP] stays


@pytest.mark.parametrize("family", ["Bert", "Llama"])
def test_halves_of_surrogate_pairs(family: str) -> None:
    model = model_of(family)
    odd = [Text("a\ud800b"), Text("a\ud83d\ude00b", "\udfff")]
    plain = [Text("a\ufffdb"), Text("a\U0001f600b", "\ufffd")]
    assert model.tokenize(odd) == model.tokenize(plain)
    long = [Text("a \ud800 " * 100)]
    assert model.truncated(long, model.tokenize(long)) == [True]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("family", ["Bert", "Gemma2", "T5"])
def test_half_precision(family: str, dtype: str) -> None:
    """Pooled states are float32 and near those of the model in float32."""
    model = tiny.open_model(folder_of(family), dtype=dtype, pooling="mean")
    assert next(model.parts.module.parameters()).dtype == getattr(torch, dtype)
    assert model.padding == "right"
    states = model.states(model.tokenize(TEXTS))
    exact = model_of(family).states(model.tokenize(TEXTS))
    assert states.keys() == exact.keys()
    for plane, state in states.items():
        assert state.dtype == torch.float32
        assert (torch.cosine_similarity(state, exact[plane]) > 0.98).all(), plane
        if plane[0] == "raw":  # averaged in float32, so not rounded to half precision
            assert not torch.equal(state, state.to(getattr(torch, dtype)).float())
    assert model.embed(states["raw", 3]).dtype == torch.float32


def test_identity_holds_what_changes_a_state(tmp_path: Path) -> None:
    folder = folder_of("Llama")
    other = tiny.save("Llama", tmp_path / folder.name, seed=1)
    identities = [
        tiny.open_model(other).identity,
        tiny.open_model(folder).identity,
        tiny.open_model(folder, pooling="mean").identity,
        tiny.open_model(folder, max_length=17).identity,
        tiny.open_model(folder, dtype="bfloat16").identity,
        tiny.open_model(folder, attention="eager").identity,
    ]
    assert len({tuple(identity.items()) for identity in identities}) == len(identities)
    assert tiny.open_model(folder).identity == identities[1]


@pytest.mark.parametrize("most", [None, 2, 4])
@pytest.mark.parametrize("family", ["FNet", "Bart", "ConvBert"])
def test_a_small_limit_hides_no_fault_of_padding(
    family: str, most: int | None, tmp_path: Path
) -> None:
    """Whatever the probe is cut to, texts of unequal length are tried together."""
    changes = {"num_attention_heads": None} if family == "FNet" else {}
    folder = tiny.save(family, tmp_path / "m", **changes)
    model = tiny.open_model(folder, "encoder", max_length=most, padding="left")
    assert model.padding == LEFT.get(family, "none")
    texts = [Text("the cat sat on a mat"), Text("fox"), Text("")]
    together = model.states(model.tokenize(texts))
    for row, text in enumerate(texts):
        for plane, state in model.states(model.tokenize([text])).items():
            torch.testing.assert_close(together[plane][row], state[0])


def test_short_chunks_of_mamba_2(tmp_path: Path) -> None:
    """256 tokens of a chunk are filled up for each text: states are the same in chunks of 64."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": len(tiny.VOCAB)}
    heads = {"num_heads": 8, "head_dim": 8, "n_groups": 1, "state_size": 4}
    config = transformers.Mamba2Config(**sizes, **heads, pad_token_id=0)
    folder = tiny.save_config(config, tmp_path / "m", max_length=256)
    model = tiny.open_model(folder, pooling="last", max_length=256)
    assert {block.mixer.chunk_size for block in model.blocks} == {64}
    (encoded,) = model.tokenize([Text("ab " * 90)])
    ids = torch.tensor([encoded["input_ids"]])
    with torch.inference_mode():
        stock = transformers.AutoModel.from_pretrained(folder)(input_ids=ids).last_hidden_state
    assert ids.shape[1] == 180
    torch.testing.assert_close(model.states([encoded])["final", 2], stock[:, -1])


def retokenized(folder: Path, change: str, token: Any) -> None:
    """Let a model's tokenizer know a token more than its embedding has rows for."""
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
    getattr(tokenizer, change)(token)
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize("family", ["Llama", "GPT2", "OPT", "Bert"])
def test_a_padding_token_without_a_row(family: str, tmp_path: Path) -> None:
    """Padding is masked, so any token serves; the embedding was not made longer for it."""
    folder = tiny.save(family, tmp_path / "m")
    model = tiny.open_model(folder)
    expected = model.states(model.tokenize(TEXTS))
    retokenized(folder, "add_special_tokens", {"pad_token": "<pad-of-its-own>"})
    model = tiny.open_model(folder)
    assert model.tokenizer.pad_token_id >= len(tiny.VOCAB)
    torch.testing.assert_close(model.states(model.tokenize(TEXTS)), expected)


@pytest.mark.parametrize("family", ["Bert", "GPT2", "OPT"])
def test_a_token_without_a_row_is_named_with_its_text(family: str, tmp_path: Path) -> None:
    folder = tiny.save(family, tmp_path / "m")
    retokenized(folder, "add_tokens", ["unheard"])
    model = tiny.open_model(folder)
    model.tokenize([Text("a cat")])
    rows = len(tiny.VOCAB)
    for text in (Text("an unheard cat"), Text("cat", "unheard: ")):
        with pytest.raises(UserError, match=f"unheard.* token {rows}, .* has {rows} rows"):
            model.tokenize([Text("a"), text])
