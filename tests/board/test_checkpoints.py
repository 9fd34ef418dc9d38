"""Checkpoints of one training run: names with braces, and the families that names make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lrd_harness import cli
from lrd_harness.board.training import families
from lrd_harness.cli.arguments import suite_of
from lrd_harness.errors import UserError
from lrd_harness.models.find import expand
from lrd_harness.planning import suite
from lrd_harness.results.rows import ModelRow

PYTHIA = "EleutherAI/pythia-410m"
# ---------------------------------------------------------------- names with braces


def test_names_without_braces_and_folders_that_are_there_stay(tmp_path: Path) -> None:
    assert expand("org/name@main", "x") == ["org/name@main"]
    (tmp_path / "odd{a,b}").mkdir()
    assert expand(str(tmp_path / "odd{a,b}"), "x") == [str(tmp_path / "odd{a,b}")]
    assert expand("m@{ a , b}", "x") == ["m@a", "m@b"]


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("m@{a,b", "braces do not match; a name with blanks in the braces needs quotes"),
        ("m@a,b}", "braces do not match"),
        ("m@}a{", "braces do not match"),
        ("m@{a,,b}", "an item in the braces is empty"),
        ("m@{}", "an item in the braces is empty"),
        ("m@{a, }", "an item in the braces is empty"),
        ("m@{a,{b,c}}", "more than one group of braces"),
        ("{m,n}@{a,b}", "more than one group of braces"),
        ("m@{a,b}}", "more than one group of braces"),
    ],
)
def test_braces_that_are_wrong(name: str, what: str) -> None:
    with pytest.raises(UserError) as raised:
        expand(name, "command line")
    assert str(raised.value) == f"command line: model '{name}': {what}"


def test_suites_and_the_command_line_expand_braces() -> None:
    text = (
        "models:\n- org/m@{step1,step2}\n- 'org/n@{a, b}'\n- {model: 'o/p@{c,d}', pooling: mean}\n"
    )
    read = suite.parse_suite(text, "mine", "mine.yaml")
    names = ["org/m@step1", "org/m@step2", "org/n@a", "org/n@b", "o/p@c", "o/p@d"]
    assert [entry.model for entry in read.models] == names
    assert [entry.pooling for entry in read.models] == [None] * 4 + ["mean"] * 2
    with pytest.raises(UserError, match=r"^mine\.yaml: model 'm@\{a': braces do not match"):
        suite.parse_suite("models: ['m@{a']", "mine", "mine.yaml")
    typed = cli.parser().parse_args(["run", "--models", "m@{x,y}", "z", "--tasks", "T"])
    assert [entry.model for entry in suite_of(typed).models] == ["m@x", "m@y", "z"]


# ---------------------------------------------------------------- families


def found(*names: str, **fields: Any) -> list[tuple[str, str, list[tuple[int | None, str]]]]:
    """The families of models with these names: stem, unit, members' steps and labels."""
    held = families(tuple(ModelRow(model=name, **fields) for name in names))
    return [(f.stem, f.unit, [(m.step, m.label) for m in f.members]) for f in held]


def test_revisions_with_steps_are_sorted_and_the_plain_name_is_the_final_one() -> None:
    names = (PYTHIA, *(f"{PYTHIA}@step{n}" for n in (128000, 1000, 16000)), "other/model")
    assert found(*names) == [
        (
            PYTHIA,
            "step",
            [(1000, "step1000"), (16000, "step16000"), (128000, "step128000"), (None, "final")],
        )
    ]
    assert found(f"{PYTHIA}@step1", f"{PYTHIA}@main")[0][2] == [(1, "step1"), (None, "final")]


@pytest.mark.parametrize(
    ("revision", "step"),
    [
        ("step1000", 1000),
        ("step1000-tokens4B", 1000),
        ("checkpoint-500", 500),
        ("ckpt_500", 500),
        ("global_step10", 10),
        ("iter_0001000", 1000),
        ("epoch=2-step=70", 70),
        ("step_200k", 200_000),
        ("STEP-5", 5),
        ("2000", 2000),
    ],
)
def test_the_step_of_a_revision(revision: str, step: int) -> None:
    assert found("m@step1", f"m@{revision}") == [
        ("m", "step", sorted([(1, "step1"), (step, revision)]))
    ]


@pytest.mark.parametrize("revision", ["v2", "refs/pr/5", "seed3", "0a1b2c3", "step-3.5", "4step"])
def test_other_numbers_are_no_steps(revision: str) -> None:
    both = found(f"m@{revision}", "m@zz", "m")
    assert both == [("m", "", [(None, revision), (None, "zz"), (None, "final")])]


def test_units_and_stages_of_training_are_never_one_series() -> None:
    names = [f"m@{r}" for r in ("stage1-step10", "stage1-step20", "stage2-step5", "stage2-step7")]
    names += ["m@epoch1", "m@epoch2", "m@tokens4B", "m@tokens1B"]
    assert found(*names, "m") == [
        ("m@stage1", "step", [(10, "stage1-step10"), (20, "stage1-step20")]),
        ("m@stage2", "step", [(5, "stage2-step5"), (7, "stage2-step7")]),
        ("m", "epoch", [(1, "epoch1"), (2, "epoch2")]),
        ("m", "tokens", [(10**9, "tokens1B"), (4 * 10**9, "tokens4B")]),
    ]


def test_folders_that_end_in_a_step() -> None:
    assert found("local/checkpoint-100", "local/checkpoint-20", "local/bert") == [
        ("local/checkpoint", "step", [(20, "checkpoint-20"), (100, "checkpoint-100")])
    ]
    assert found("local/a/ckpt5", "local/b/ckpt5", "local/a/ckpt50") == [
        ("local/a", "step", [(5, "ckpt5"), (50, "ckpt50")])
    ]
    assert found("local/my-epoch_2", "local/my-epoch_1", "local/my")[0][:2] == ("local/my", "epoch")
    assert found("local/step1-tuned", "local/step2-tuned") == []
    assert found("stepfun/step2", "stepfun/step3") == []  # names of models of their own
    assert found("org/bert-step_20k", "org/bert-step_40k")[0][0] == "org/bert"


def test_readings_and_unlike_models_are_apart() -> None:
    names = ["m@step1", "m@step2", "m@step1 [cls]", "m@step2 [cls]", "m@step3 [mean]"]
    assert [stem for stem, _, _ in found(*names)] == ["m", "m [cls]"]
    shapes = [(2, 8), (2, 8), (4, 8), (2, 16)]
    models = tuple(
        ModelRow(model=f"local/step{i}", blocks=b, width=w) for i, (b, w) in enumerate(shapes)
    )
    (family,) = families(models)
    assert [member.step for member in family.members] == [0, 1]


def test_revisions_that_are_rows_of_one_name_are_a_family() -> None:
    models = tuple(ModelRow(model="m", revision=r * 40) for r in "ba")
    (family,) = families(models)
    assert [(m.step, m.label) for m in family.members] == [(None, "b" * 12), (None, "a" * 12)]
    assert [m.key.revision[0] for m in family.members] == ["b", "a"]
    pruned = ModelRow(model="m@step2", variant="pruned")
    assert families((ModelRow(model="m@step1"), pruned)) == ()
