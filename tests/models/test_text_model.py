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


def check(family: str, pooling: str, padding: str, texts: list[Text]) -> None:
    model = model_of(family, pooling, padding)
    found = model.states(model.tokenize(texts))
    for row, text in enumerate(texts):
        expected = alone(family, pooling, text)
        assert found.keys() == expected.keys()
        for plane in found:
            assert found[plane].dtype == torch.float32
            assert found[plane].shape == (len(texts), model.info.width)
            error = (found[plane][row] - expected[plane][0]).abs().max()
            # raw states may be in the thousands, where float32 has no four decimals
            size = float(expected[plane].abs().max())
            assert error <= 1e-5 * max(10.0, size), (plane, text, error)


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("family", tiny.rest_slow(FAMILIES, "Bert", "Llama", "T5", "ConvBert"))
def test_alone_or_together_on_either_side(family: str, padding: str) -> None:
    model = model_of(family, "mean", padding)
    kinds = ("raw", "final") if model.has_final_norm else ("raw",)
    planes = {(kind, layer) for kind in kinds for layer in range(4)}
    assert set(alone(family, "mean", TEXTS[0])) == planes
    wanted = LEFT.get(family, "left") if padding == "left" else "right"
    assert model.padding == ("none" if family == "ConvBert" else wanted)
    for pooling in POOLINGS:
        check(family, pooling, padding, TEXTS)
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
        held = len(prompt.strip())
        texts = [Text(letters[:n], prompt) for n in range(13)]
        encoded = model.tokenize(texts)
        assert [len(e["input_ids"]) for e in encoded] == [min(n + held + 2, 10) for n in range(13)]
        assert model.truncated(texts, encoded) == [n + held + 2 > 10 for n in range(13)]
    check_end = model.tokenize([Text(letters)])[0]["input_ids"]
    assert check_end[-1] == 3  # [SEP] stays


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
        near = torch.cosine_similarity(state, exact[plane])
        assert (near > 0.98).all(), plane
        if plane[0] == "raw":  # averaged in float32, so not rounded to half precision
            assert not torch.equal(state, state.to(getattr(torch, dtype)).float())
    output = model.embed(states["raw", 3])
    assert output.dtype == torch.float32


def test_identity_holds_what_changes_a_state(tmp_path: Path) -> None:
    folder = folder_of("Llama")
    plain = tiny.open_model(folder).identity
    for changed in (
        {"pooling": "mean"},
        {"max_length": 17},
        {"dtype": "bfloat16"},
        {"attention": "eager"},
    ):
        assert tiny.open_model(folder, **changed).identity != plain, changed
    assert tiny.open_model(folder).identity == plain
    other = tiny.save("Llama", tmp_path / folder.name, seed=1)
    assert tiny.open_model(other).identity != plain


@pytest.mark.parametrize("most", [None, 2, 4])
@pytest.mark.parametrize("family", ["FNet", "Bart", "ConvBert"])
def test_a_small_limit_hides_no_fault_of_padding(
    family: str, most: int | None, tmp_path: Path
) -> None:
    """Whatever the probe is cut to, texts of unequal length are tried together."""
    changes = {"num_attention_heads": None} if family == "FNet" else {}
    folder = tiny.save(family, tmp_path / "m", **changes)
    model = tiny.open_model(folder, "encoder", max_length=most, padding="left")
    assert model.padding == {"FNet": "none", "Bart": "right", "ConvBert": "none"}[family]
    texts = [Text("the cat sat on a mat"), Text("fox"), Text("")]
    together = model.states(model.tokenize(texts))
    for row, text in enumerate(texts):
        for plane, state in model.states(model.tokenize([text])).items():
            torch.testing.assert_close(together[plane][row], state[0])


@pytest.mark.parametrize(
    ("family", "adapter"),
    [("Llama", "decoder"), ("GPT2", "decoder"), ("OPT", "decoder"), ("Bert", "encoder")],
)
def test_a_padding_token_without_a_row(family: str, adapter: str, tmp_path: Path) -> None:
    """Padding is masked, so any token serves; the embedding was not made longer for it."""
    folder = tiny.save(family, tmp_path / "m")
    expected = tiny.open_model(folder, adapter)
    expected = expected.states(expected.tokenize(TEXTS))
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "<pad-of-its-own>"})
    tokenizer.save_pretrained(folder)
    model = tiny.open_model(folder, adapter)
    assert model.tokenizer.pad_token_id >= len(tiny.VOCAB)
    found = model.states(model.tokenize(TEXTS))
    assert found.keys() == expected.keys()
    for plane, state in expected.items():
        torch.testing.assert_close(found[plane], state)


@pytest.mark.parametrize("family", ["Bert", "GPT2", "OPT"])
def test_a_token_without_a_row_is_named_with_its_text(family: str, tmp_path: Path) -> None:
    folder = tiny.save(family, tmp_path / "m")
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["unheard"])
    tokenizer.save_pretrained(folder)
    model = tiny.open_model(folder)
    model.tokenize([Text("a cat")])
    rows = len(tiny.VOCAB)
    for text in (Text("an unheard cat"), Text("cat", "unheard: ")):
        with pytest.raises(UserError, match=f"unheard.* token {rows}, .* has {rows} rows"):
            model.tokenize([Text("a"), text])
