"""Small random models with real tokenizers, made on the fly."""

from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<s>", "</s>"]
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,?!'"
VOCAB = SPECIAL + list(LETTERS) + [f"##{c}" for c in LETTERS]
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": len(VOCAB),
    "pad_token_id": 0,
    "bos_token_id": 5,
    "eos_token_id": 6,
}
TOKENS = ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id")
GPT2 = {"n_embd": 32, "n_layer": 3, "n_head": 4, **{name: SMALL[name] for name in TOKENS}}


def tokenizer(encoder: bool = True, max_length: int = 128) -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer over letters; encoders get [CLS] and [SEP], decoders nothing."""
    inner = Tokenizer(models.WordPiece({t: i for i, t in enumerate(VOCAB)}, unk_token="[UNK]"))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    if encoder:
        inner.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
        )
    named = dict(zip(("pad", "unk", "cls", "sep", "mask", "bos", "eos"), SPECIAL, strict=True))
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        model_max_length=max_length,
        **{f"{name}_token": token for name, token in named.items()},
    )


def config(family: str, **changes: Any) -> Any:
    """A small configuration: config("Llama"), config("GPT2"), config("Bert") ..."""
    base = dict(GPT2 if family == "GPT2" else SMALL)
    if family in ("Llama", "Gemma2", "Gemma3Text", "Qwen2", "Qwen3", "Mistral", *SCALED):
        base["num_key_value_heads"] = 2
    if family in ("Gemma2", "Gemma3Text", "Qwen3"):
        base["head_dim"] = 8
    if family == "OPT":
        base |= {"ffn_dim": 64, "word_embed_proj_dim": 32}
    if family == "T5":
        base |= {"d_model": 32, "num_layers": 3, "num_heads": 4, "d_ff": 64, "d_kv": 8}
        base["decoder_start_token_id"] = 0
    if family == "ModernBert":
        base |= {"cls_token_id": 2, "sep_token_id": 3}
    if family == "Mamba":
        base = {k: base[k] for k in ("hidden_size", "num_hidden_layers", "vocab_size")}
        base |= {"state_size": 4, "pad_token_id": 0, "bos_token_id": 5, "eos_token_id": 6}
    return getattr(transformers, f"{family}Config")(**{**base, **changes})


DECODERS = ("Llama", "GPT2", "GPTNeoX", "OPT", "Gemma2", "Gemma3Text", "Qwen2", "Qwen3", "Mamba")
# further families, of which some know no padding on the left, or none at all
WIDER = ("Falcon", "Bloom", "Phi", "DistilBert", "XLMRoberta", "Mpt", "Bart", "Rwkv", "ConvBert")
SCALED = ("Cohere", "Granite")  # decoders that scale their logits
ENCODERS = ("Bert", "Roberta", "MPNet", "ModernBert", "Albert", "Electra", "T5")


def rest_slow(names: Iterable[str], *fast: str) -> list[Any]:
    """Values of a parameter, all but some of them marked as slow."""
    return [n if n in fast else pytest.param(n, marks=pytest.mark.slow) for n in names]


def save(
    family: str,
    folder: Path,
    *,
    seed: int = 0,
    causal: bool = False,
    uneven: bool = False,
    **changes: Any,
) -> Path:
    """A random model of a family with a tokenizer, as an ordinary checkpoint folder.

    Weights are larger than at a usual initialisation, so that layers differ visibly. uneven: norms
    have weights of their own, so that a state normed twice differs from one normed once.
    """
    torch.manual_seed(seed)
    made = config(family, **changes)
    auto = transformers.AutoModelForCausalLM if causal else transformers.AutoModel
    model = auto.from_config(made).eval()
    enlarge(model, family, uneven)
    model.save_pretrained(folder)
    decoder = family in (*DECODERS, *SCALED, "Falcon", "Bloom", "Phi", "Mpt", "Rwkv")
    tokenizer(encoder=not decoder).save_pretrained(folder)
    return folder


def enlarge(model: Any, family: str, uneven: bool = False) -> None:
    """Make the weights of a random model larger, and its norms uneven, in place."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and "norm" not in name.lower() and "A_log" not in name:
                parameter.mul_(2 if family == "Mamba" else 4)  # Mamba is ill-conditioned beyond
            elif uneven and ("norm" in name.lower() or "ln_" in name):
                parameter.add_(torch.rand_like(parameter))


def save_config(
    made: Any, folder: Path, *, encoder: bool = False, max_length: int = 512, auto: Any = None
) -> Path:
    """A random model of a configuration, of which a text may have max_length tokens."""
    torch.manual_seed(0)
    (auto or transformers.AutoModel).from_config(made).save_pretrained(folder)
    tokenizer(encoder=encoder, max_length=max_length).save_pretrained(folder)
    return folder


def open_model(folder: Path | str, adapter: str | None = None, **options: Any) -> Any:
    """The folder's model opened by the adapter that a run would choose, or by a named one."""
    from lrd_harness.contracts import ModelOptions
    from lrd_harness.models.find import find

    checkpoint = find(str(folder))
    found = adapter_of(checkpoint) if adapter is None else ADAPTERS[adapter]()
    return found.open(checkpoint, ModelOptions(**options))


def planned(name: Path | str, *trusted: Path | str, **settings: Any) -> Any:
    """The model of that name as a run plans it, where the code of these ones is trusted."""
    from lrd_harness import manager
    from lrd_harness.planning.models import check_trusted, resolve_model
    from lrd_harness.planning.settings import Settings
    from lrd_harness.planning.suite import ModelEntry
    from lrd_harness.progress import Display

    chosen = Settings(trust_remote_code=tuple(map(str, trusted)), **settings)
    plugins = manager.load()
    model = resolve_model(ModelEntry(str(name)), chosen, plugins, Display(quiet=True).stage)
    check_trusted([model], chosen, plugins)
    return model


def embeddings(model: Any, texts: Iterable[Any], prompt_type: str | None = None) -> Any:
    """What an opened model makes of texts read together: its last layer's output, (n, d)."""
    last = ("final" if model.has_final_norm else "raw", model.info.blocks)
    return model.embed(model.states(model.tokenize(list(texts)))[last], prompt_type).numpy()


def _adapter(module: str, number: int) -> Any:
    found = importlib.import_module(f"lrd_harness.plugins.adapters.{module}")
    return found.lrd_adapters()[number]


ADAPTERS = {
    "sentence-transformers": functools.partial(_adapter, "sentence_transformers", 0),
    "encoder": functools.partial(_adapter, "plain", 0),
    "decoder": functools.partial(_adapter, "plain", 1),
    "llm2vec": functools.partial(_adapter, "llm2vec", 0),
    "image": functools.partial(_adapter, "image", 0),
}


def adapter_of(checkpoint: Any) -> Any:
    """The first adapter that claims a checkpoint, as a run asks them. Raises UserError for none."""
    from lrd_harness.errors import UserError
    from lrd_harness.models.recognition import foreign

    for adapter in sorted((make() for make in ADAPTERS.values()), key=lambda a: -a.priority):
        if adapter.claims(checkpoint):
            return adapter
    raise UserError(foreign(checkpoint) or "no adapter claims it")


def save_st(
    folder: Path,
    *,
    pooling: str | tuple[str, ...] = "mean",
    dense: int | None = None,
    normalize: bool = True,
    include_prompt: bool = True,
    prompts: dict[str, str] | None = None,
    family: str = "Bert",
    max_seq_length: int | None = None,
    default_prompt: str | None = None,
    padding_side: str = "right",
    **changes: Any,
) -> Path:
    """A random sentence-transformers model: transformer, pooling, and what comes after."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    inner = folder.with_name(folder.name + "-inner")
    save(family, inner, **changes)
    first = Transformer(str(inner))
    first.tokenizer.padding_side = padding_side
    if max_seq_length:
        first.max_seq_length = max_seq_length
    pool = Pooling(32, pooling_mode=pooling, include_prompt=include_prompt)
    modules: list[Any] = [first, pool]
    if dense:
        torch.manual_seed(1)
        modules.append(Dense(pool.pooling_output_dimension, dense))
    if normalize:
        modules.append(Normalize())
    SentenceTransformer(modules=modules, prompts=prompts, default_prompt_name=default_prompt).save(
        str(folder)
    )
    return folder


def to_subfolder(folder: Path) -> Path:
    """Move a model of modules to where sentence-transformers before version 3 had it."""
    inner = folder / "0_Transformer"
    inner.mkdir()
    for path in [p for p in folder.iterdir() if p.is_file()]:
        if path.name not in ("modules.json", "config_sentence_transformers.json"):
            path.rename(inner / path.name)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = inner.name
    (folder / "modules.json").write_text(json.dumps(modules))
    return inner


WORDS = (
    "the cat sat on a mat and the dog ran to find some old red ball in our green park while rain "
    "fell on every quiet street of that small town near cold blue water under dark wide sky"
).split()


GROUPS = (["aaa", "aab", "baa"], ["zzx", "xzz", "zxz"], ["0101", "1100", "1010"])


def sentences(
    count: int, seed: int = 0, least: int = 2, most: int = 14, words: list[str] = WORDS
) -> list[str]:
    """Distinct sentences of common words, of unequal length."""
    import random

    draw = random.Random(seed)
    made: dict[str, None] = {}
    while len(made) < count:
        made[" ".join(draw.choices(words, k=draw.randint(least, most)))] = None
    return list(made)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """A JSON lines file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def task_data(folder: Path) -> Path:
    """Local data for one mteb task of every text type, in mteb's columns; small, with signal."""
    import random

    draw = random.Random(7)
    texts = sentences(160)
    length = {t: len(t.split()) for t in texts}
    pairs = [(draw.choice(texts), draw.choice(texts)) for _ in range(60)]
    apart = [(a, b, abs(length[a] - length[b])) for a, b in pairs]
    for name, key, said in (
        ("STSBenchmark", "score", lambda n: 5 - n / 3),
        ("SprintDuplicateQuestions", "labels", lambda n: int(n < 3)),
    ):
        rows = [{"sentence1": a, "sentence2": b, key: said(n)} for a, b, n in apart]
        write_rows(folder / name / "test.jsonl", rows)
    # groups far apart, so that rounding tips neither a classifier nor k-means; some labels are
    # wrong, so that no score is perfect
    grouped = [(t, i) for i, words in enumerate(GROUPS) for t in sentences(60, i, words=words)]
    draw.shuffle(grouped)
    labelled = [{"text": t, "label": i if draw.random() < 0.8 else (i + 1) % 3} for t, i in grouped]
    for name in ("Banking77Classification", "EmotionClassification"):
        write_rows(folder / name / "train.jsonl", labelled[:36])
        write_rows(folder / name / "test.jsonl", labelled[36:])
    write_rows(
        folder / "TwentyNewsgroupsClustering" / "test.jsonl",
        [{"sentences": [r["text"] for r in labelled], "labels": [r["label"] for r in labelled]}],
    )
    _retrieval(folder / "SciFact", texts, draw, ranked=False)
    _retrieval(folder / "SciDocsRR", texts, draw, ranked=True)
    write_rows(
        folder / "SummEvalSummarization.v2" / "test.jsonl",
        [
            {
                "text": texts[i],
                "human_summaries": texts[20 + i : 23 + i],
                "machine_summaries": texts[60 + 4 * i : 64 + 4 * i],
                "relevance": [draw.random() * 4 + 1 for _ in range(4)],
            }
            for i in range(8)
        ],
    )
    return folder


def _retrieval(folder: Path, texts: list[str], draw: Any, ranked: bool) -> None:
    corpus = [{"id": f"d{i}", "title": "", "text": t} for i, t in enumerate(texts[:100])]
    queries = [{"id": f"q{i}", "text": t} for i, t in enumerate(texts[100:120])]
    write_rows(folder / "corpus.jsonl", corpus)
    write_rows(folder / "queries.jsonl", queries)
    qrels = [
        {"query-id": q["id"], "corpus-id": f"d{draw.randrange(100)}", "score": 1}
        for q in queries
        for _ in range(3)
    ]
    write_rows(folder / "qrels.jsonl", qrels)
    if ranked:
        relevant: dict[str, list[str]] = {}
        for row in qrels:
            relevant.setdefault(row["query-id"], []).append(row["corpus-id"])
        offered = {
            query: sorted({*found, *(f"d{draw.randrange(100)}" for _ in range(15))})
            for query, found in relevant.items()
        }
        rows = [{"query-id": query, "corpus-ids": found} for query, found in offered.items()]
        write_rows(folder / "top_ranked.jsonl", rows)
