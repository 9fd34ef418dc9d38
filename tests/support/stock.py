"""Stock lm-eval beside the harness: small tasks for both, and a model truncated by hand."""

from __future__ import annotations

import copy
import functools
import importlib
import json
import random
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest
import tiny
import torch

ENDINGS, LAST_WORD, ANATOMY = "tiny_endings", "tiny_last_word", "mmlu_anatomy"
NORMS = ("norm", "ln_f", "final_layer_norm", "norm_f", "final_layernorm", "ln_out")
CHOICES = """
output_type: multiple_choice
validation_split: validation
training_split: train
fewshot_split: train
doc_to_text: "{{query}}"
doc_to_target: "{{label}}"
doc_to_choice: "choices"
"""
ACCURACIES = """
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
  - {metric: acc_mutual_info, aggregation: mean, higher_is_better: true}
"""
WORD = """
output_type: loglikelihood
test_split: validation
num_fewshot: 0
doc_to_text: "{{text.split(' ')[:-1]|join(' ')}}"
doc_to_target: "{{' '+text.split(' ')[-1]}}"
metric_list:
  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""


class Answer(NamedTuple):
    """One request and what a model said to it."""

    context: str
    continuation: str
    loglikelihood: float
    greedy: bool


def own_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tasks but those of an include path, or MMLU, whose indices are made at once."""
    from lm_eval.tasks import TaskManager

    loading: Any = importlib.import_module("lrd_harness.tasks.likelihood.loading")

    def index(include: Path | None) -> TaskManager:
        if include is None:
            return loading.mmlu_index()  # type: ignore[no-any-return]
        loading.files(include)
        return TaskManager(include_defaults=False, include_path=str(include))

    monkeypatch.setattr("lrd_harness.tasks.likelihood.lm_eval_tasks.index", index)


FAMILIES = "arc bbh/cot_fewshot crows_pairs gsm8k hellaswag mmlu/default piqa wikitext".split()


@functools.cache
def index(include: Path | None) -> Any:
    """lm-eval's index of a folder and some of its own families; of all, it takes many seconds."""
    import lm_eval.tasks

    folder = Path(lm_eval.tasks.__file__).parent
    places = [folder / name for name in FAMILIES] + ([include] if include else [])
    return lm_eval.tasks.TaskManager(include_defaults=False, include_path=[*map(str, places)])


def write_task(folder: Path, name: str, body: str, data: dict[str, list[dict[str, Any]]]) -> None:
    """A task of lm-eval in a folder, with its data beside it, split by split."""
    for split, rows in data.items():
        tiny.write_rows(folder / "data" / f"{name}-{split}.jsonl", rows)
    files = {split: str(folder / "data" / f"{name}-{split}.jsonl") for split in data}
    head = f"task: {name}\ndataset_path: json\ndataset_kwargs: {{data_files: {json.dumps(files)}}}"
    (folder / f"{name}.yaml").write_text(head + body)


def tasks(folder: Path) -> Path:
    """Endings of several tokens, and of no context, drawn examples; and the last word of a text."""
    draw = random.Random(3)
    texts = tiny.sentences(60, 5, least=3)
    ends = tiny.sentences(90, 6, least=1, most=4)
    rows = [
        {
            "query": text,
            "choices": draw.sample(ends, draw.randint(2, 4)),
            "label": draw.randint(0, 1),
        }
        for text in texts
    ]
    folder.mkdir(parents=True, exist_ok=True)
    split = {"validation": rows[:8], "train": rows[8:14]}
    write_task(folder, ENDINGS, CHOICES + ACCURACIES, split)
    write_task(folder, LAST_WORD, WORD, {"validation": [{"text": t} for t in texts[30:40]]})
    return folder


def other_tasks(folder: Path) -> None:
    """Tasks that are refused, or fail as they are loaded, and groups."""
    row = {"query": "the cat", "choices": ["sat", "ran"], "label": 0}
    for name, choice in (("no_ending", ""), ("blank_ending", " \n")):
        bad = {**row, "choices": ["sat", choice]}
        write_task(folder, name, CHOICES, {"validation": [row, bad], "train": [row]})
    words = [{"text": "the cat sat", "end": " on"}, {"text": "a dog", "end": ""}]
    last = "{{' '+text.split(' ')[-1]}}"
    write_task(folder, "no_word", WORD.replace(last, "{{end}}"), {"validation": words})
    split = {"validation": [row], "train": [row]}
    write_task(folder, "no_column", CHOICES.replace("{{query}}", "{{wrong.part}}"), split)
    write_task(folder, "no_file", CHOICES, split)
    (folder / "data" / "no_file-train.jsonl").unlink()
    speaks = WORD.replace("output_type: loglikelihood", "output_type: generate_until")
    write_task(folder, "speaks", speaks, {"validation": words})
    write_task(folder, "one_word", WORD, {"validation": words[:1]})
    groups = {"tiny_pair": "one_word", "tiny_talks": "speaks", "tiny_loose": LAST_WORD}
    for name, member in groups.items():
        mean = "aggregate_metric_list: [{metric: acc, weight_by_size: true}]\n"
        body = f"group: {name}\ntask: [{ENDINGS}, {member}]\n" + mean * (name != "tiny_loose")
        (folder / f"{name}.yaml").write_text(body)


def questions(count: int, seed: int, subject: str) -> list[dict[str, Any]]:
    """Rows in MMLU's columns."""
    draw = random.Random(f"{seed} {subject}")
    return [
        {
            "question": question,
            "choices": tiny.sentences(4, draw.randrange(10**6), least=1, most=3),
            "answer": draw.randint(0, 3),
            "subject": subject,
        }
        for question in tiny.sentences(count, draw.randrange(10**6), least=3)
    ]


def mmlu(folder: Path, *subjects: str, rows: int = 9) -> Path:
    """Local MMLU as the harness reads it: folder/mmlu/test.jsonl and dev.jsonl."""
    for split, count, seed in (("test", rows, 0), ("dev", 3, 1)):
        lines = [row for subject in subjects for row in questions(count, seed, subject)]
        tiny.write_rows(folder / "mmlu" / f"{split}.jsonl", lines)
    return folder


def mmlu_tasks(folder: Path, data: Path, *subjects: str) -> Path:
    """The same questions for lm-eval itself: its own template, with the data put into YAML."""
    for subject in subjects:
        split = {}
        for name in ("test", "dev"):
            rows = map(json.loads, (data / "mmlu" / f"{name}.jsonl").read_text().splitlines())
            split[name] = [row for row in rows if row["subject"] == subject]
        mmlu_task(folder, subject, split)
    return folder


def mmlu_task(folder: Path, subject: str, split: dict[str, list[dict[str, Any]]]) -> None:
    """One subject of MMLU for lm-eval itself."""
    import lm_eval.tasks

    template = Path(lm_eval.tasks.__file__).parent / "mmlu/default/_default_template_yaml"
    about = subject.replace("_", " ")
    description = f"The following are multiple choice questions (with answers) about {about}."
    body = f'\ninclude: {template}\ndescription: "{description}\\n\\n"\n'
    folder.mkdir(parents=True, exist_ok=True)
    write_task(folder, f"mmlu_{subject}", body, split)


@functools.cache
def place(base: Path) -> Path:
    """What tests share, made once a session, since lm-eval's index of a folder takes seconds.

    Tasks in own/; local data in data/, with MMLU's subject anatomy, and that for lm-eval itself in
    mmlu/; models gpt, llama, bert, and short, of 60 positions.
    """
    folder = base / "lm-eval"
    tiny.save("GPT2", folder / "gpt", causal=True)
    tiny.save("Llama", folder / "llama", causal=True)
    tiny.save("Llama", folder / "short", causal=True, max_position_embeddings=60)
    tiny.save("Bert", folder / "bert")
    other_tasks(tasks(folder / "own"))
    mmlu(tiny.task_data(folder / "data"), "anatomy")
    mmlu_tasks(folder / "mmlu", folder / "data", "anatomy")
    return folder


def evaluate(
    model: Any, folder: Path, names: list[str], include: list[Path], **options: Any
) -> dict[str, Any]:
    """lm-eval's own results for a model with the tokenizer that lies in a folder."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from transformers import AutoTokenizer

    known = {k: options.pop(k) for k in ("max_length", "batch_size") if k in options}
    tokenizer = AutoTokenizer.from_pretrained(folder)
    lm = HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", **{"batch_size": 3, **known})
    manager = TaskManager(include_defaults=False, include_path=list(map(str, include)))
    # what is left out only describes the machine, which takes half a second
    with patch("lm_eval.evaluator.add_env_info"):
        result = lm_eval.simple_evaluate(
            model=lm, tasks=list(names), task_manager=manager, bootstrap_iters=100, **options
        )
    assert result is not None
    return dict(result)


def answers(logged: list[dict[str, Any]]) -> list[Answer]:
    """The requests of a task in lm-eval's samples, of results or of a file, in order."""
    requests = []
    for sample in sorted(logged, key=lambda sample: sample["doc_id"]):
        pairs = sample["arguments"]
        if isinstance(pairs, dict):  # as written to a file
            pairs = [(pair["arg_0"], pair["arg_1"]) for pair in pairs.values()]
        responses = [response for (response,) in sample["resps"]]
        for (context, continuation), (value, greedy) in zip(pairs, responses, strict=True):
            requests.append(Answer(context, continuation, float(value), str(greedy) == "True"))
    return requests


def layer_files(out: Path, layer: int | str, model: str = "*") -> Path:
    """The folder of one layer's native result files; "model" for the model's own."""
    name = layer if isinstance(layer, str) else f"layer_{layer}"
    folders = (out / "lm_eval").glob(f"{model}/*/{name}*")
    (folder,) = (path for path in folders if path.name == name or path.name.startswith(f"{name}-"))
    return folder


def results(out: Path, layer: int | str, task: str) -> dict[str, Any]:
    """A layer's native results of a task."""
    files = layer_files(out, layer).glob("results_*.json")
    (result,) = (r for r in map(json.loads, map(Path.read_text, files)) if task in r["results"])
    return dict(result)


def samples(out: Path, layer: int | str, task: str) -> list[dict[str, Any]]:
    """What a run with --log-samples wrote of a task's documents at a layer."""
    (file,) = layer_files(out, layer).glob(f"samples_{task}_2*.jsonl")
    return list(map(json.loads, file.read_text().splitlines()))


def harness_answers(out: Path, layer: int | str, task: str) -> list[Answer]:
    """The same of the harness's run."""
    return answers(samples(out, layer, task))


def difference(mine: list[Answer], stock: list[Answer]) -> float:
    """max |Δ log-likelihood| of the same requests, which must agree in what is greedy."""
    assert [answer[:2] for answer in mine] == [answer[:2] for answer in stock]
    assert mine
    assert [answer.greedy for answer in mine] == [answer.greedy for answer in stock]
    return max(abs(a.loglikelihood - b.loglikelihood) for a, b in zip(mine, stock, strict=True))


def load(folder: Path) -> Any:
    """The model with its head, as stock lm-eval would load it."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()


def truncated(whole: Any, layer: int) -> Any:
    """A copy that has its first blocks only, with final norm and head; the cut is checked."""
    cut = copy.deepcopy(whole)
    depth = whole.config.num_hidden_layers
    for module in list(cut.modules()):
        for name, child in module.named_children():
            if isinstance(child, torch.nn.ModuleList) and len(child) == depth:
                setattr(module, name, child[:layer])
    cut.config.num_hidden_layers = layer
    if vars(cut.config).get("layer_types"):
        cut.config.layer_types = cut.config.layer_types[:layer]
    norms = [m for n, m in whole.base_model.named_modules() if n.split(".")[-1] in NORMS]
    (norm,) = [m for m in norms if not _in_blocks(whole, m)]
    written, last = _states(whole, depth), _states(cut, layer)
    for before, after in zip(written[:layer], last, strict=False):
        torch.testing.assert_close(before, after)
    with torch.inference_mode():
        torch.testing.assert_close(norm(written[layer - 1]), last[-1])
    return cut


def _states(whole: Any, depth: int) -> list[torch.Tensor]:
    """What each block writes, and the model's own last state."""
    states: list[torch.Tensor] = []
    lists = [m for m in whole.base_model.modules() if isinstance(m, torch.nn.ModuleList)]
    blocks = next(m for m in lists if len(m) == depth)

    def keep(_: Any, args: Any, out: Any) -> None:
        states.append(out if isinstance(out, torch.Tensor) else out[0])

    handles = [block.register_forward_hook(keep) for block in blocks]
    with torch.inference_mode():
        states.append(whole.base_model(torch.arange(7, 19).unsqueeze(0)).last_hidden_state)
    for handle in handles:
        handle.remove()
    return states


def _in_blocks(whole: Any, module: Any) -> bool:
    lists = [m for m in whole.modules() if isinstance(m, torch.nn.ModuleList)]
    return any(module is inner for blocks in lists for inner in blocks.modules())
