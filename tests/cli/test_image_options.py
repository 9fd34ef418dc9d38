"""`--images` on the command line: what is refused before a model is opened; a plan's numbers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import running
import tiny
import tiny_images

from lrd_harness.cli import main
from lrd_harness.models.opened import OpenedModel
from lrd_harness.planning.settings import STUDY_TASKS

pytestmark = pytest.mark.usefixtures("own_cache")
RUN = "--plugins frenet --output out"
REFUSED = {
    "layer one --images photos --texts texts": "give either --texts or --images",
    "layer one --images photos --task LeeDocumentSTS": "give either --images or --task",
    "layer one --images photos --text-column x": "--text-column needs --texts",
    "states one --images broken --output s.npz": "broken/a.png: no image that can be read",
    "layer one --texts texts --save shorter": "and local/one reads images: give --images DIR",
    "layer bert --images photos": "images:photos has images, and local/bert reads texts",
    "states one --task LeeDocumentSTS --output s.npz": "has texts, and local/one reads images",
    "probe one --kind random": "local/one reads images, and a probe changes the tokens of texts",
    "prune one --blocks 5 --save new": "block 5 does not exist: the model has blocks 1 to 4",
    "select --models one bert": "local/one reads images, and local/bert reads texts",
    "select --models one two bert --images photos": "has images, and local/bert reads texts",
    "compare bert one": "local/bert reads texts, and local/one reads images",
    "layer one --by dime --images few": "has 5 distinct images; to choose a layer takes",
    "compare one two --images few": "a comparison needs at least 8 images, got 5",
    "select --models one two --images photos --max-texts 12": "at least 16 images, got 12",
    "prune one --rule gfmi --budget 0.3": "chooses on texts: give --texts FILE or --images DIR",
    f"run --models bert --images photos {RUN}": "images:photos is of images: none of the models",
    f"run --models one --texts texts {RUN}": "texts:texts is of texts: none of the models",
    f"run --models one bert --images photos {RUN}": "local/bert reads texts: none of the tasks",
    f"run --models one --tasks images:photos --images photos {RUN}": "is named twice",
    f"run --models one --tasks Winoground {RUN}": "Winoground is a task of mteb on text and image",
    f"run --models one --tasks images: {RUN}": "images: names no folder",
    f"plan --models one --images broken {RUN}": "broken/a.png: no image that can be read",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of images and one of texts, pictures, few of them, a broken one, and texts."""
    place = tmp_path_factory.mktemp("image-options")
    tiny_images.save("Dinov2Model", place / "one")
    tiny_images.save("Dinov2Model", place / "two", seed=1)
    tiny.save("Bert", place / "bert")
    pictures = tiny_images.pictures(40)
    tiny_images.write(place / "photos", pictures)
    tiny_images.write(place / "few", pictures[:5])
    (place / "broken").mkdir()
    (place / "broken" / "a.png").write_bytes((place / "few" / "000.png").read_bytes()[:200])
    (place / "texts").write_text("\n".join(tiny.sentences(20)))
    return place


@pytest.mark.parametrize("typed", REFUSED)
def test_bad_input_is_one_line_before_a_model_is_opened(
    typed: str, folder: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(OpenedModel, "__init__", None)
    assert main([*typed.split(), "--quiet"]) == 2
    assert REFUSED[typed] in running.one_line(capsys)
    shutil.rmtree(folder / "out", ignore_errors=True)


def test_help_names_the_digits(capsys: Any) -> None:
    for command in ("select", "compare", "layer", "prune", "states"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        told = " ".join(capsys.readouterr().out.split())
        assert "--images DIR" in told
        assert f"for models of images {STUDY_TASKS['image']}, 200 written digits" in told
    with pytest.raises(SystemExit):
        main(["probe", "--help"])
    assert "--images" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_plan_counts_what_the_run_then_does(
    folder: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images of all tasks and views are counted once; of models of both kinds, each its own."""
    monkeypatch.chdir(folder)
    more = ["--tasks", "DigitsImageClustering", "--images", "photos", "--texts", "texts"]
    metrics = ["--plugins", "dime,effective_rank", "--output", str(tmp_path / "out"), "--quiet"]
    typed = ["--models", "one", "bert", *more, *metrics]
    costs = []
    for _ in range(2):
        assert main(["plan", *typed, "--json", str(tmp_path / "plan.json")]) == 0
        plan = json.loads((tmp_path / "plan.json").read_text())
        costs.append({m["name"]: (m["texts"], m["passes"], m["tokens"]) for m in plan["models"]})
        if not (tmp_path / "out").exists():
            assert main(["run", *typed]) == 0
    counters = json.loads((tmp_path / "out" / "run.json").read_text())["counters"]["models"]
    first, after = costs
    for name, seen in counters.items():
        assert first[name] == (seen["texts"], seen["forwarded"], seen["tokens"])
    assert first["local/one"][2] == 17 * first["local/one"][1]  # 16 patches and CLS
    assert {passes for _, passes, _ in after.values()} == {0}
