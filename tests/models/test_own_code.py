"""Code that comes with a model runs where the user names that very model, and nowhere else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import coded
import pytest
import running
import tiny
import torch
import transformers
from hub_server import Hub
from odd_checkpoints import TEXTS, change
from sentence_transformers import SentenceTransformer
from transformers import dynamic_module_utils as dynamic
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from lrd_harness.cli import main
from lrd_harness.contracts import Checkpoint, Text
from lrd_harness.errors import UserError
from lrd_harness.models import own_code
from lrd_harness.models.find import find
from lrd_harness.models.recognition import Source
from lrd_harness.planning.models import PlannedModel

COMMIT, OTHER = "0123456789" * 4, "abcdef0123" * 4
CODE = ["blocks_tiny.py", "configuration_tiny.py", "modeling_tiny.py"]
KIND = "tiny_of_its_own"


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "ran"


@pytest.fixture
def folder(tmp_path: Path, mark: Path) -> Path:
    return coded.save(tmp_path / "model", mark)


@pytest.fixture(autouse=True)
def nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    own_code._fresh_folder()  # references, too, leave nothing elsewhere
    yield
    for table in own_code._tables():  # nor among transformers' classes
        own_code._taken(table)


def planned(name: Path | str, *trusted: Path | str, head: bool = False) -> PlannedModel:
    """The model as a run plans it, where these names are trusted."""
    model = tiny.planned(name, *trusted)
    return replace(model, options=replace(model.options, head=head))


def states(model: Any) -> list[torch.Tensor]:
    """The states 0..L of the texts, each alone, pooled."""
    tokens = [model.tokenize([Text(text)]) for text in TEXTS]
    planes = [model.states(encoded) for encoded in tokens]
    layers = range(model.info.blocks + 1)
    return [torch.cat([plane["raw", layer] for plane in planes]) for layer in layers]


def vectors(model: Any) -> Any:
    """What the model makes of the texts, read together."""
    return torch.tensor(tiny.embeddings(model, [Text(text) for text in TEXTS]))


def reference(folder: Path, kind: Any = transformers.AutoModel) -> list[torch.Tensor]:
    """The same as the model's own code gives it, loaded by transformers itself: means over tokens.

    The last is normed, as that code norms it.
    """
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    model = kind.from_pretrained(folder, trust_remote_code=True).eval()
    rows = []
    with torch.inference_mode():
        for text in TEXTS:
            ids = torch.tensor([tokenizer(text)["input_ids"]])
            hidden = model(ids, output_hidden_states=True).hidden_states
            rows.append([state.mean(1) for state in hidden])
    return [torch.cat(layer) for layer in zip(*rows, strict=True)]


@pytest.mark.parametrize("registers", [False, True])
def test_states_are_those_that_its_code_gives(registers: bool, tmp_path: Path, mark: Path) -> None:
    """Once it is trusted; its files are recorded, and nothing of it is left for other models."""
    folder = coded.save(tmp_path / "model", mark, registers=registers)
    model = planned(folder, folder)
    assert sorted(model.checkpoint.code) == CODE
    assert not mark.exists()
    opened = model.open()
    assert mark.exists()
    expected = reference(folder)
    for ours, theirs in zip(states(opened)[:-1], expected[:-1], strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)
    assert torch.allclose(vectors(opened), expected[-1], atol=1e-5)
    assert KIND not in CONFIG_MAPPING
    assert states(model.open())[1].equal(states(opened)[1])

    plain = coded.save(tmp_path / "plain", auto_map={})
    with pytest.raises(UserError, match=f"knows no model of type '{KIND}'"):
        planned(plain)


@pytest.mark.parametrize("command", [["run"], ["plan"], ["layer"], ["select"], ["models"]])
def test_never_runs_unless_it_is_named(
    command: list[str], folder: Path, mark: Path, tmp_path: Path, capsys: Any
) -> None:
    other = coded.save(tmp_path / "other")
    match command:
        case ["run" | "plan" as name]:
            typed = [name, "--models", str(folder), "--tasks", "LeeDocumentSTS"]
            typed += ["--output", str(tmp_path / "out")]
        case ["select"]:
            typed = ["select", "--models", str(folder), str(other)]
        case [name]:
            typed = [name, *([str(folder)] if name == "layer" else [])]
    for trusted in ([], ["--trust-remote-code", str(other)]) if command != ["models"] else ([],):
        code = main([*typed, *trusted])
        if command == ["models"]:
            assert code == 0
            continue
        assert code == 2
        line = running.one_line(capsys)
        assert f"{folder} names code of its own in the auto_map of config.json" in line
        assert line.endswith("unless you trust it (--trust-remote-code and this folder)")
        capsys.readouterr()
    assert not mark.exists()


def test_an_adapter_that_trusts_by_itself(folder: Path, mark: Path) -> None:
    """Whoever asks for it: code that was not found and recorded does not run."""
    copied = dynamic.get_cached_module_file
    for checkpoint in (find(str(folder), trusted=[str(folder)]), find(str(tiny_like(folder)))):
        stranger = replace(checkpoint, code={})
        with own_code.running(stranger), pytest.raises(UserError, match=r"\.py is not run"):
            transformers.AutoModel.from_pretrained(folder, trust_remote_code=True)
        with own_code.running(stranger), pytest.raises(ValueError, match="trust_remote_code"):
            transformers.AutoConfig.from_pretrained(folder)
    assert not mark.exists()
    assert dynamic.get_cached_module_file is copied


def test_kernels_of_anybody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of a model may ask transformers for one that is on the hub: it is code as well."""
    from transformers.integrations import hub_kernels

    allowed = []

    def get_kernel(name: str, trust_remote_code: bool, **_: Any) -> None:
        allowed.append((name, trust_remote_code))
        raise ValueError(f"{name} is not trusted")

    monkeypatch.setattr(hub_kernels, "is_kernels_available", lambda: True)
    monkeypatch.setattr(hub_kernels, "get_kernel_hub", get_kernel, raising=False)
    folder = tiny.save_st(tmp_path / "st")
    file = folder / "sentence_bert_config.json"
    named = {"attn_implementation": "somebody/kernel", "allow_all_kernels": True}
    file.write_text(json.dumps({"max_seq_length": 32, "model_args": named}))
    before = hub_kernels.get_kernel
    with pytest.raises(UserError, match="somebody/kernel is not trusted"):
        planned(folder).open()
    assert allowed == [("somebody/kernel", False)]
    assert hub_kernels.get_kernel is before


def tiny_like(folder: Path) -> Path:
    return tiny.save("Bert", folder.with_name("bert"))


@pytest.mark.parametrize("registers", [False, True])
def test_a_changed_file_is_another_model(registers: bool, tmp_path: Path, mark: Path) -> None:
    """An edit is seen in the same process, too; between search and opening it is refused."""
    folder = coded.save(tmp_path / "model", mark, registers=registers)
    before = planned(folder, folder)
    (folder / "blocks_tiny.py").write_text(coded.BLOCKS.replace("SCALE = 1.0", "SCALE = 2.0"))
    with pytest.raises(UserError, match=r"blocks_tiny.py is not what it was"):
        before.open()
    (folder / "blocks_tiny.py").write_text(coded.BLOCKS)
    first = before.open()
    (folder / "blocks_tiny.py").write_text(coded.BLOCKS.replace("SCALE = 1.0", "SCALE = 2.0"))
    after = planned(folder, folder).open()
    assert first.identity["code"] != after.identity["code"]
    assert first.identity["revision"] != after.identity["revision"]
    a, b = states(first), states(after)
    assert a[0].equal(b[0])
    assert not torch.allclose(a[1], b[1])
    # transformers by itself would not see the edit: the class of a folder of that name is known
    renamed = Path(shutil.copytree(folder, tmp_path / f"edited_{registers}"))
    assert torch.allclose(b[1], reference(renamed)[1], atol=1e-5)


def test_names_that_trust_a_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "linked").symlink_to(folder)
    for name in ("model", "./model/", str(folder), "encoder:model", "linked"):
        assert planned("model", name).checkpoint.code
    assert planned("linked", folder).checkpoint.code
    for names in (["modle"], [folder.name, tmp_path / "nowhere"], ["org/model"]):
        with pytest.raises(UserError, match=r"code of its own|none of the models"):
            planned("model", *names)
    plain = tiny.save("Bert", tmp_path / "bert")
    assert planned(plain, plain).checkpoint.code == {}


HUB = Checkpoint("org/m", "org/m", COMMIT, {}, frozenset(), hub=True)
CACHED = replace(HUB, path="/cache/snapshots/x", hub=False)
PACKAGE = Checkpoint("pypi:p", "/cache/p", "1.0", {}, frozenset())


@pytest.mark.parametrize("checkpoint", [HUB, CACHED, PACKAGE])
def test_names_that_trust_models_from_elsewhere(checkpoint: Checkpoint, folder: Path) -> None:
    """Of the hub at a commit alone, as what a branch holds may change."""
    where = checkpoint.name
    source = Source(
        where,
        frozenset(path.name for path in folder.iterdir()),
        lambda name: json.loads((folder / name).read_text()),
        folder.joinpath,
    )
    config = json.loads((folder / "config.json").read_text())
    found = replace(checkpoint, config=config)
    typed = "pypi:p==1.0" if checkpoint is PACKAGE else f"org/m@{COMMIT}"

    def code(*trusted: str) -> dict[str, str]:
        return own_code.code_of(found, source, "", typed, trusted)

    assert sorted(code(f"org/m@{OTHER}", typed)) == CODE
    for names in ([], ["x"], ["pypi:p"], ["pypi:p==1.1"], ["org/m2"], ["/cache/p"]):
        with pytest.raises(UserError, match=rf"{where} names .* \(--trust-remote-code {typed}"):
            code(*names)
    for name in ("org/m", "org/m@main", f"org/m@{OTHER}"):
        with pytest.raises(UserError, match=rf"commit alone.*{typed}|names code"):
            code(name)


@pytest.mark.parametrize(
    ("auto_map", "line"),
    [
        ({"AutoConfig": "nowhere.TinyConfig"}, "asks for nowhere.py, which it lacks"),
        ({"AutoConfig": "../model/configuration_tiny.TinyConfig"}, "names no class of a file"),
        ({"AutoConfig": "configuration_tiny"}, "names no class of a file"),
        ({"AutoConfig": "a.b.TinyConfig"}, "names no class of a file"),
        ({"AutoConfig": "org/code--x.TinyConfig"}, "takes its code from org/code, which is to be"),
    ],
)
def test_code_that_cannot_be_found(auto_map: Any, line: str, folder: Path, mark: Path) -> None:
    change(folder / "config.json", auto_map=auto_map)
    with pytest.raises(UserError, match=line) as error:
        planned(folder, folder, f"org/other@{COMMIT}", "org/code@main")
    assert "\n" not in str(error.value)
    assert not mark.exists()


def published(folder: Path, repository: str, commits: dict[str, str], cache: Path) -> None:
    """Put the folder's code into the hub's cache, as a repository at commits with other scales."""
    for commit, scale in commits.items():
        snapshot = cache / f"models--{repository.replace('/', '--')}" / "snapshots" / commit
        snapshot.mkdir(parents=True)
        for name in CODE:
            text = (folder / name).read_text()
            (snapshot / name).write_text(text.replace("SCALE = 1.0", f"SCALE = {scale}"))
    mapped = {auto: f"{repository}--{name}" for auto, name in coded.AUTO_MAP.items()}
    change(folder / "config.json", auto_map=mapped)
    for name in CODE:
        (folder / name).unlink()


@pytest.mark.slow
def test_code_of_another_repository(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """It is trusted at a commit as well, and which one it was belongs to the model."""
    expected = reference(folder)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    published(folder, "org/code", {COMMIT: "1.0", OTHER: "2.0"}, tmp_path / "hub")
    first, second = (planned(folder, folder, f"org/code@{c}") for c in (COMMIT, OTHER))
    assert sorted(first.checkpoint.code) == [f"org/code@{COMMIT}/{name}" for name in CODE]
    assert first.checkpoint.revision == second.checkpoint.revision
    a, b = first.open(), second.open()
    assert torch.allclose(states(a)[1], expected[1], atol=1e-5)
    assert not torch.allclose(states(b)[1], expected[1], atol=1e-2)
    assert a.identity["code"] != b.identity["code"]

    typed = ["run", "--models", str(folder), "--tasks", "LeeDocumentSTS", "--plugins", "frenet"]
    typed += ["--output", str(tmp_path / "out"), "--quiet", "--trust-remote-code", str(folder)]
    assert main([*typed, f"org/code@{COMMIT}"]) == 0
    (entry,) = json.loads((tmp_path / "out" / "run.json").read_text())["models"]
    assert entry["code"] == dict(first.checkpoint.code)
    capsys.readouterr()
    assert main([*typed, f"org/code@{OTHER}"]) == 2
    assert "holds results of local/model with other code of its own" in running.one_line(capsys)

    (folder / "more.txt").write_text("another revision, whose results stand beside the others")
    assert main([*typed, f"org/code@{COMMIT}"]) == 0
    (folder / "more.txt").unlink()
    capsys.readouterr()
    assert main([*typed, f"org/code@{OTHER}"]) == 2
    assert "holds results of local/model with other code of its own" in running.one_line(capsys)

    kept = tmp_path / "kept"
    prune = ["prune", str(folder), "--blocks", "2", "--save", str(kept), "--quiet"]
    assert main([*prune, "--trust-remote-code", str(folder), f"org/code@{COMMIT}"]) == 0
    assert json.loads((kept / "config.json").read_text())["auto_map"] == coded.AUTO_MAP
    assert planned(kept, kept).open().info.blocks == 2


@pytest.mark.slow
def test_a_run_goes_on_and_reads_changed_code_anew(
    folder: Path, tmp_path: Path, capsys: Any
) -> None:
    typed = ["run", "--models", str(folder), "--tasks", "LeeDocumentSTS", "--plugins", "frenet"]
    typed += ["--output", str(tmp_path / "out"), "--quiet", "--trust-remote-code", str(folder)]
    read = []
    for scale in ("1.0", "1.0", "2.0"):
        blocks = folder / "blocks_tiny.py"
        blocks.write_text(coded.BLOCKS.replace("SCALE = 1.0", f"SCALE = {scale}"))
        assert main(typed) == 0
        read.append(running.counters(tmp_path / "out")["forwarded"] > 0)
    assert read == [True, False, True]


@pytest.mark.parametrize("causal", [False, True])
def test_a_model_that_is_saved_keeps_its_code(causal: bool, tmp_path: Path, capsys: Any) -> None:
    folder = coded.save(tmp_path / "model", causal=causal)
    small = tmp_path / "small"
    typed = ["prune", str(folder), "--blocks", "2", "--save", str(small), "--quiet"]
    assert main([*typed, "--trust-remote-code", str(folder)]) == 0
    assert "its own code goes with it" in " ".join(capsys.readouterr().out.lower().split())
    assert "its own code goes with it" in (small / "README.md").read_text()
    for name in CODE:
        assert (small / name).read_text() == (folder / name).read_text()
    with pytest.raises(UserError, match="names code of its own"):
        planned(small)
    saved = planned(small, small, head=causal).open()
    assert saved.info.blocks == 2
    assert (saved.head is not None) == causal
    whole, cut = (states(planned(f, f).open()) for f in (folder, small))
    assert whole[1].equal(cut[1])
    kind = transformers.AutoModelForCausalLM if causal else transformers.AutoModel
    expected = reference(small, kind)
    if not causal:  # decoders are pooled by their last token
        assert torch.allclose(cut[1], expected[1], atol=1e-5)
        model = SentenceTransformer(str(small), device="cpu", trust_remote_code=True)
        ours = vectors(saved)
        assert torch.allclose(torch.tensor(model.encode(TEXTS)), ours, atol=1e-5)


def test_a_class_of_its_own_for_a_type_that_transformers_knows(tmp_path: Path) -> None:
    """transformers' class of that name, or with a head, is not taken in its place."""
    folder = tiny.save("Llama", tmp_path / "llama", causal=True)
    (folder / "own.py").write_text(
        "from transformers import LlamaModel\n\n\nclass LlamaForCausalLM(LlamaModel):\n"
        "    def forward(self, *args, **kwargs):\n"
        "        output = super().forward(*args, **kwargs)\n"
        "        return output\n"
    )
    change(folder / "config.json", auto_map={"AutoModel": "own.LlamaForCausalLM"})
    opened = planned(folder, folder, head=True).open()
    assert type(opened.parts.module).__module__.startswith("transformers_modules.")
    assert opened.head is None
    assert opened.headless


def with_modules(folder: Path, *own: str, code: str = coded.SENTENCE) -> Path:
    """A sentence-transformers model with modules of its own behind the pooling."""
    tiny.save_st(folder, normalize=False)
    listed = json.loads((folder / "modules.json").read_text())
    for name in own:
        number = len(listed)
        listed.append({"idx": number, "name": str(number), "path": "", "type": name})
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "modules_of_its_own.py").write_text(code)
    return folder


def with_transformer(folder: Path) -> Path:
    """A sentence-transformers model whose transformer is a module of its own."""
    coded.save(folder)
    (folder / "modules_of_its_own.py").write_text(coded.TRANSFORMER)
    pooling = {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    types = ["modules_of_its_own.Transformer", "sentence_transformers.models.Pooling"]
    modules = [
        {"idx": i, "name": str(i), "path": "1_Pooling" if i else "", "type": kind}
        for i, kind in enumerate(types)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Halved", "Transformer"])
def test_modules_of_its_own(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "st"
    if kind == "Transformer":
        with_transformer(folder)
    else:
        with_modules(folder, "modules_of_its_own.Halved")
    with pytest.raises(UserError, match="code of its own in "):
        planned(folder)
    model = planned(folder, folder)
    assert "modules_of_its_own.py" in model.checkpoint.code
    theirs: Any = SentenceTransformer(str(folder), device="cpu", trust_remote_code=True)
    ours = vectors(model.open())
    assert torch.allclose(ours, torch.tensor(theirs.encode(TEXTS)), atol=1e-5)
    small = tmp_path / "small"
    typed = ["prune", str(folder), "--blocks", "2", "--save", str(small), "--quiet"]
    assert main([*typed, "--trust-remote-code", str(folder)]) == 0
    again: Any = SentenceTransformer(str(small), device="cpu", trust_remote_code=True)
    ours = vectors(planned(small, small).open())
    assert torch.allclose(ours, torch.tensor(again.encode(TEXTS)), atol=1e-5)

    strange = with_modules(tmp_path / "strange", "sklearn.base.BaseEstimator")
    with pytest.raises(UserError, match="names no class of a file"):  # of a package: not recorded
        planned(strange, strange)


def test_modules_of_its_own_that_read_more_than_what_is_pooled(tmp_path: Path) -> None:
    """What encode() makes is compared with what the layers give."""
    counting = coded.SENTENCE.replace("/ 2}", "* features['token_embeddings'].mean()}")
    sly = coded.SENTENCE.replace("/ 2}", "* len(features)}")
    for name, code in (("counting", counting), ("sly", sly)):
        folder = with_modules(tmp_path / name, "modules_of_its_own.Halved", code=code)
        with pytest.raises(UserError, match=r"another vector|cannot be opened"):
            planned(folder, folder).open()


def test_code_that_makes_text_is_recorded(folder: Path, mark: Path) -> None:
    """It runs where a model is opened, though nothing names it."""
    generate = folder / own_code.GENERATE
    generate.parent.mkdir()
    generate.write_text("def generate(model, **more):\n    return None\n")
    model = planned(folder, folder)
    assert sorted(model.checkpoint.code) == sorted([*CODE, own_code.GENERATE])
    assert model.open().info.blocks == 3


@pytest.mark.slow
def test_on_the_side_of_lm_eval(tmp_path: Path, mark: Path) -> None:
    from lrd_harness.runner.layer_lm import LayerLM

    folder = coded.save(tmp_path / "model", mark, causal=True)
    with pytest.raises(UserError, match="names code of its own"):
        LayerLM(pretrained=str(folder), layer=2, device="cpu")
    assert not mark.exists()
    model = LayerLM(pretrained=str(folder), layer=2, device="cpu", trust_remote_code=True)
    assert len(model.model.model.layers) == 2
    whole = transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    ids = torch.tensor([[8, 9, 10]])
    state = whole(ids, output_hidden_states=True).hidden_states[2]
    expected = whole.lm_head(whole.model.last(state))
    assert torch.allclose(model.model(ids).logits, expected, atol=1e-4)


@pytest.mark.slow
def test_adapters_of_weights(tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """They go onto a base whose code is trusted; code that lies beside them never runs."""
    import peft

    from lrd_harness.runner.layer_lm import LayerLM

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    folder = coded.save(tmp_path / "model", causal=True)
    mapped = {auto: f"org/m--{name}" for auto, name in coded.AUTO_MAP.items()}
    change(folder / "config.json", auto_map=mapped)
    base = f"org/m@{hub.repository('org/m').push(folder)}"
    change(folder / "config.json", auto_map=coded.AUTO_MAP)
    lora, beside = tmp_path / "lora", tmp_path / "ran_beside"
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    config = peft.LoraConfig(r=2, target_modules=["linear"], init_lora_weights=False)
    peft.get_peft_model(model, config).save_pretrained(lora)
    for name in ("config.json", *CODE):  # as trainers copy them, and may change them
        shutil.copyfile(folder / name, lora / name)
    with (lora / "modeling_tiny.py").open("a") as file:
        file.write(f"\nPath({str(beside)!r}).touch()\n")

    both = f"{base}+{lora}"
    with pytest.raises(UserError, match="org/m names code of its own"):
        planned(both, lora)
    ours = states(planned(both, base).open())
    assert not torch.allclose(ours[1], states(planned(folder, folder).open())[1], atol=1e-3)
    whole = LayerLM(pretrained=both, device="cpu", trust_remote_code=True)
    assert len(whole.model.model.layers) == 3
    small = tmp_path / "small"
    typed = ["prune", both, "--blocks", "3", "--save", str(small), "--quiet"]
    assert main([*typed, "--trust-remote-code", base]) == 0
    assert states(planned(small, small).open())[1].equal(ours[1])
    found = find(both, trusted=[base])
    assert {name: own_code._sha256(small / name) for name in CODE} == dict(found.code)
    assert not beside.exists()

    shutil.copyfile(folder / "tokenizer.json", lora / "tokenizer.json")
    tokenizer = {"AutoTokenizer": ["modeling_tiny.T", None]}
    (lora / "tokenizer_config.json").write_text(json.dumps({"auto_map": tokenizer}))
    for trusted in ([base], [base, lora], [base, both]):
        with pytest.raises(
            UserError, match=r"is an adapter that names code .* \(modeling_tiny.T\)"
        ):
            planned(both, *trusted)
    assert not beside.exists()
