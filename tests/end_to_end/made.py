"""Tiny models, texts and task data, the same to the byte on every machine.

Checkpoints are written by hand, file by file, and weights come from numpy's uniform numbers by
sorted name: neither transformers nor torch has a say in what a folder holds, so that its content
hash, which is a local model's revision, stays the same.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<s>", "</s>")
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,?!'"
VOCABULARY = (*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS))
WORDS = (
    "the cat sat on a mat and the dog ran to find some old red ball in our green park while rain "
    "fell on every quiet street of that small town near cold blue water under dark wide sky"
).split()
LENGTH = 256  # tokens that a model takes

Shapes = dict[str, tuple[int, ...]]


# ---------------------------------------------------------------- models


def bert(folder: Path, seed: int, blocks: int = 4, width: int = 32) -> Path:
    """An encoder."""
    config = {
        **_common("BertModel", "bert"),
        "hidden_size": width,
        "num_hidden_layers": blocks,
        "num_attention_heads": 4,
        "intermediate_size": 2 * width,
        "max_position_embeddings": LENGTH,
        "type_vocab_size": 2,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
    }
    shapes: Shapes = {
        "embeddings.word_embeddings.weight": (len(VOCABULARY), width),
        "embeddings.position_embeddings.weight": (LENGTH, width),
        "embeddings.token_type_embeddings.weight": (2, width),
        **_affine("embeddings.LayerNorm", width),
        **_linear("pooler.dense", width, width),
    }
    for block in range(blocks):
        at = f"encoder.layer.{block}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            shapes |= _linear(f"{at}.attention.{part}", width, width)
        shapes |= _affine(f"{at}.attention.output.LayerNorm", width)
        shapes |= _linear(f"{at}.intermediate.dense", width, 2 * width)
        shapes |= _linear(f"{at}.output.dense", 2 * width, width)
        shapes |= _affine(f"{at}.output.LayerNorm", width)
    return _save(folder, config, shapes, seed, encoder=True)


def gpt2(folder: Path, seed: int, blocks: int = 4, width: int = 32) -> Path:
    """A decoder with a language-model head."""
    config = {
        **_common("GPT2LMHeadModel", "gpt2"),
        "n_embd": width,
        "n_layer": blocks,
        "n_head": 4,
        "n_positions": LENGTH,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
    }
    shapes: Shapes = {
        "transformer.wte.weight": (len(VOCABULARY), width),
        "transformer.wpe.weight": (LENGTH, width),
        **_affine("transformer.ln_f", width),
    }
    for block in range(blocks):
        at = f"transformer.h.{block}"
        shapes |= _affine(f"{at}.ln_1", width) | _affine(f"{at}.ln_2", width)
        for part, (rows, columns) in {
            "attn.c_attn": (width, 3 * width),
            "attn.c_proj": (width, width),
            "mlp.c_fc": (width, 4 * width),
            "mlp.c_proj": (4 * width, width),
        }.items():  # as GPT-2 has them: inputs first
            shapes |= {f"{at}.{part}.weight": (rows, columns), f"{at}.{part}.bias": (columns,)}
    return _save(folder, config, shapes, seed, encoder=False)


def llama(folder: Path, seed: int, blocks: int = 4, width: int = 32) -> Path:
    """A decoder with a head of its own, and fewer heads of keys than of queries."""
    config = {
        **_common("LlamaForCausalLM", "llama"),
        "hidden_size": width,
        "num_hidden_layers": blocks,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 2 * width,
        "max_position_embeddings": LENGTH,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    }
    shapes: Shapes = {
        "model.embed_tokens.weight": (len(VOCABULARY), width),
        "model.norm.weight": (width,),
        "lm_head.weight": (len(VOCABULARY), width),
    }
    for block in range(blocks):
        at = f"model.layers.{block}"
        shapes |= {
            f"{at}.self_attn.q_proj.weight": (width, width),
            f"{at}.self_attn.k_proj.weight": (width // 2, width),
            f"{at}.self_attn.v_proj.weight": (width // 2, width),
            f"{at}.self_attn.o_proj.weight": (width, width),
            f"{at}.mlp.gate_proj.weight": (2 * width, width),
            f"{at}.mlp.up_proj.weight": (2 * width, width),
            f"{at}.mlp.down_proj.weight": (width, 2 * width),
            f"{at}.input_layernorm.weight": (width,),
            f"{at}.post_attention_layernorm.weight": (width,),
        }
    return _save(folder, config, shapes, seed, encoder=False)


def sentence_bert(folder: Path, seed: int, blocks: int = 4, width: int = 32) -> Path:
    """An encoder as sentence-transformers keeps it: pooled by [CLS], normalised."""
    bert(folder, seed, blocks, width)
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    pooling = {
        "word_embedding_dimension": width,
        "pooling_mode_cls_token": True,
        "pooling_mode_mean_tokens": False,
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
    }
    _json(folder / "modules.json", modules)
    _json(folder / "1_Pooling" / "config.json", pooling)
    _json(folder / "sentence_bert_config.json", {"max_seq_length": 48, "do_lower_case": False})
    return folder


def _common(kind: str, model_type: str) -> dict[str, Any]:
    tokens = {"pad_token_id": 0, "bos_token_id": 5, "eos_token_id": 6}
    size = {"vocab_size": len(VOCABULARY), "dtype": "float32", "torch_dtype": "float32"}
    return {"architectures": [kind], "model_type": model_type, **size, **tokens}


def _affine(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _linear(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _save(folder: Path, config: Any, shapes: Shapes, seed: int, encoder: bool) -> Path:
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    _json(folder / "config.json", config)
    _tokenizer(folder, encoder)
    save_file(_weights(shapes, seed), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _weights(shapes: Shapes, seed: int) -> dict[str, np.ndarray]:
    """Matrices larger than at a usual initialisation, so that layers differ visibly."""
    draw = np.random.default_rng(seed)
    made = {}
    for name, shape in sorted(shapes.items()):
        values = draw.random(shape) - 0.5
        if len(shape) > 1:
            values *= 0.5
        elif name.endswith("bias"):
            values *= 0.1
        else:  # of a norm
            values = 1 + 0.4 * values
        made[name] = values.astype(np.float32)
    return made


def _tokenizer(folder: Path, encoder: bool) -> None:
    """WordPiece over letters; encoders get [CLS] and [SEP], decoders nothing."""
    special = [
        {"id": i, "content": token, "special": True, "normalized": False}
        | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
        for i, token in enumerate(SPECIAL)
    ]
    model = {
        "type": "WordPiece",
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": {token: i for i, token in enumerate(VOCABULARY)},
    }
    whole = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": _around() if encoder else None,
        "decoder": None,
        "model": model,
    }
    names = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4, "bos": 5, "eos": 6}
    tokens = {f"{name}_token": SPECIAL[place] for name, place in names.items()}
    kind = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": LENGTH}
    _json(folder / "tokenizer.json", whole)
    _json(folder / "tokenizer_config.json", {**kind, **tokens})


def _around() -> dict[str, Any]:
    def special(token: str, kind: int = 0) -> dict[str, Any]:
        return {"SpecialToken": {"id": token, "type_id": kind}}

    def text(name: str, kind: int = 0) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": kind}}

    single = [special("[CLS]"), text("A"), special("[SEP]")]
    ids = {"[CLS]": 2, "[SEP]": 3}
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, text("B", 1), special("[SEP]", 1)],
        "special_tokens": {t: {"id": t, "ids": [i], "tokens": [t]} for t, i in ids.items()},
    }


def _json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


# ---------------------------------------------------------------- texts and tasks


def sentences(count: int, seed: int = 0, least: int = 2, most: int = 14) -> list[str]:
    """Distinct sentences of common words, of unequal length."""
    draw = random.Random(seed)
    made: dict[str, None] = {}
    while len(made) < count:
        made[" ".join(draw.choices(WORDS, k=draw.randint(least, most)))] = None
    return list(made)


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """A JSON lines file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_texts(path: Path, count: int, seed: int) -> Path:
    """Texts of one's own, as JSON lines."""
    return write_rows(path, ({"text": text} for text in sentences(count, seed)))


def task_data(folder: Path) -> Path:
    """Local data: STS, pairs, retrieval and reranking, in mteb's columns."""
    draw = random.Random(7)
    texts = sentences(90)
    length = {text: len(text.split()) for text in texts}
    pairs = [(draw.choice(texts), draw.choice(texts)) for _ in range(40)]
    columns = ("sentence1", "sentence2")
    both = [dict(zip(columns, pair, strict=True)) for pair in pairs]
    apart = [abs(length[a] - length[b]) for a, b in pairs]
    close = [5 - d / 3 + i / 1000 for i, d in enumerate(apart)]
    scored = [{**pair, "score": score} for pair, score in zip(both, close, strict=True)]
    labelled = [{**pair, "labels": int(d < 3)} for pair, d in zip(both, apart, strict=True)]
    write_rows(folder / "STSBenchmark" / "test.jsonl", scored)
    write_rows(folder / "SprintDuplicateQuestions" / "test.jsonl", labelled)
    _retrieval(folder / "SciFact", texts, draw)
    relevant = _retrieval(folder / "SciDocsRR", texts, draw)
    ranked = [
        {"query-id": query, "corpus-ids": sorted({*found, *_documents(draw, 12)})}
        for query, found in relevant.items()
    ]
    write_rows(folder / "SciDocsRR" / "top_ranked.jsonl", ranked)
    return folder


def _documents(draw: random.Random, count: int) -> list[str]:
    return [f"d{draw.randrange(60)}" for _ in range(count)]


def _retrieval(folder: Path, texts: Sequence[str], draw: random.Random) -> dict[str, list[str]]:
    corpus = [{"id": f"d{i}", "title": "", "text": text} for i, text in enumerate(texts[:60])]
    queries = [{"id": f"q{i}", "text": text} for i, text in enumerate(texts[60:75])]
    relevant = {str(query["id"]): list(dict.fromkeys(_documents(draw, 3))) for query in queries}
    judged = [
        {"query-id": query, "corpus-id": document, "score": 1}
        for query, documents in relevant.items()
        for document in documents
    ]
    write_rows(folder / "corpus.jsonl", corpus)
    write_rows(folder / "queries.jsonl", queries)
    write_rows(folder / "qrels.jsonl", judged)
    return relevant


def questions(folder: Path, count: int = 24) -> Path:
    """Local MMLU: test questions of two subjects and examples, in its columns."""
    draw = random.Random(3)
    asked = sentences(count, 5, least=3, most=8)
    choices = sentences(4 * count, 6, least=1, most=4)
    rows = [
        {
            "question": question,
            "choices": choices[4 * i : 4 * i + 4],
            "answer": draw.randint(0, 3),
            "subject": ("anatomy", "virology")[i % 2],
        }
        for i, question in enumerate(asked)
    ]
    write_rows(folder / "mmlu" / "test.jsonl", rows[6:])
    write_rows(folder / "mmlu" / "dev.jsonl", rows[:6])
    return folder


def small_data(folder: Path) -> Path:
    """Local data of a few rows: STS."""
    texts = sentences(16, 44)
    rows = [
        {"sentence1": a, "sentence2": b, "score": (7 * i % 10) / 2}
        for i, (a, b) in enumerate(zip(texts[:8], texts[8:], strict=True))
    ]
    write_rows(folder / "STSBenchmark" / "test.jsonl", rows)
    return folder


ENDINGS = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{validation: {file}}}}}
output_type: multiple_choice
validation_split: validation
doc_to_text: "{{{{query}}}}"
doc_to_target: "{{{{label}}}}"
doc_to_choice: "choices"
num_fewshot: 0
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
"""


def endings(folder: Path, name: str, rows: int, seed: int, data: str | None = None) -> Path:
    """A task of one's own in lm-eval's YAML: which of three endings a text has.

    data: what the task calls its file, the whole path where it is not given.
    """
    texts, ends = sentences(rows, seed, least=3), sentences(3 * rows, seed + 1, most=4)
    asked = [
        {"query": text, "choices": ends[3 * i : 3 * i + 3], "label": i % 3}
        for i, text in enumerate(texts)
    ]
    file = write_rows(folder / f"{name}.jsonl", asked)
    yaml = ENDINGS.format(name=name, file=json.dumps(data or str(file)))
    (folder / f"{name}.yaml").write_text(yaml, encoding="utf-8")
    return folder
