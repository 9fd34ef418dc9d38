"""Keep a model, pruned or whole: an ordinary checkpoint, which transformers and its kin load.

What a saved folder says of how it is read, so that it is opened as it was when it was measured.

sentence-transformers reads files of its own (see modules). Beside them a plain checkpoint has FILE,
by which the harness opens it as before, with its head.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrd_harness.contracts import Checkpoint, ModelOptions
from lrd_harness.errors import UserError, named
from lrd_harness.store import files
from lrd_harness.store.files import usual_modes

if TYPE_CHECKING:
    from lrd_harness.models.sentence_modules import Measured


FILE = "lrd_harness.json"
# what FILE may say: instructions is the name under which mteb makes instructions for the model
KINDS: dict[str, type] = {
    "plain": bool,
    "instructions": str,
    "pooling": str,
    "max_length": int,
    "attention": str,
    "prompts": dict,
}


def saved(checkpoint: Checkpoint) -> dict[str, Any]:
    """What FILE says of how the checkpoint was read; {} without one.

    Raises UserError for a file that does not say it.
    """
    if FILE not in checkpoint.files:
        return {}
    from transformers.utils.hub import cached_file

    revision = checkpoint.revision if checkpoint.hub else None
    path = Path(str(cached_file(checkpoint.path, FILE, revision=revision)))
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        found = {key: said[key] for key in KINDS if said.get(key) is not None}
    except (OSError, ValueError, AttributeError, RecursionError):
        raise UserError(f"{checkpoint.name}: its {FILE} cannot be read") from None
    wrong = [key for key, value in found.items() if type(value) is not KINDS[key]]
    wrong += ["max_length"] * (not wrong and found.get("max_length", 1) < 1)
    prompts = found.get("prompts", {}) if not wrong else {}
    wrong += ["prompts"] * (not all(isinstance(prompt, str) for prompt in prompts.values()))
    if wrong:
        raise UserError(f"{checkpoint.name}: its {FILE} has no sound {wrong[0]}")
    return found


def of_modules(checkpoint: Checkpoint) -> bool:
    """Whether sentence-transformers' modules are to be read, and not the checkpoint below them."""
    return "modules.json" in checkpoint.files and not saved(checkpoint).get("plain", False)


def as_saved(checkpoint: Checkpoint, options: ModelOptions) -> ModelOptions:
    """The options of a plain checkpoint; those that are not chosen are as it was read before."""
    said = saved(checkpoint)
    return replace(
        options,
        pooling=options.pooling or said.get("pooling"),
        max_length=options.max_length or said.get("max_length"),
        attention=options.attention or said.get("attention"),
        prompts=said.get("prompts") if options.prompts is None else options.prompts,
    )


def known_as(checkpoint: Checkpoint) -> str:
    """The name by which mteb knows the model's prompts, if it knows them."""
    return str(saved(checkpoint).get("instructions", checkpoint.name))


_TEXT = "The quick brown fox jumps over the lazy dog."


@dataclass
class _Opened:
    """A checkpoint as its own library opens it.

    model: what is written, with its head or its sentence-transformers modules; reopen: the same
    from a folder; answer: its output for _TEXT.
    """

    model: Any
    tokenizer: Any
    root: Any  # the transformers model inside
    write: Callable[[Path], None]
    reopen: Callable[[Path], _Opened]
    answer: Callable[[], Any]


def save(
    checkpoint: Checkpoint,
    removed: Sequence[int],
    folder: Path,
    card: str,
    measured: Measured | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Write a checkpoint without these blocks (1..L) to a folder; returns the folder.

    Without any to remove the whole model is written.
    The original is opened anew, in the precision that it is kept in, with its head where it has
    one, and with its sentence-transformers modules. Of an encoder-decoder model the encoder is
    pruned, and the decoder is kept. card: the text of README.md.
    measured: how the model was read; the folder then says so, to sentence-transformers and to this
    harness. What a user has to know beyond that goes to `say`, a line each, and into README.md.

    Raises UserError for a folder that is not empty, for blocks that prune.remove refuses, and where
    what was written does not give the states of the pruned model. The folder appears whole or not
    at all.
    """
    folder = named(str(folder)).absolute()
    check_free(folder)
    try:
        with _quiet():
            opened = _pruned(checkpoint, removed, measured)
            lines = _write(opened, checkpoint, folder, card, measured, whole=not removed)
    except UserError:
        raise
    except Exception as error:  # whatever the libraries and the disk raise
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise UserError(f"{checkpoint.name} cannot be saved to {folder}: {reason[0]}") from error
    for line in lines:
        say(line)
    return folder


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' own bars and reports of weights; what is wrong is an error here."""
    import transformers

    logging: Any = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        with warnings.catch_warnings(action="ignore"):  # of a user who wants no bars from the hub
            if bars:
                logging.enable_progress_bar()


def check_free(folder: Path) -> None:
    """Raise UserError unless the folder is absent or empty.

    What processes that were killed while they saved have left beside it is removed.
    """
    files.sweep(folder.parent)
    if folder.is_dir():
        if any(folder.iterdir()):
            raise UserError(f"{folder} is not empty; a model is saved to a new folder")
    elif folder.exists() or folder.is_symlink():
        raise UserError(f"{folder} is a file, not a folder")


def _pruned(checkpoint: Checkpoint, removed: Sequence[int], measured: Measured | None) -> _Opened:
    """The checkpoint opened, without the blocks."""
    from lrd_harness.models.backbone import Backbone, body
    from lrd_harness.models.cut import remove

    opened = _open(checkpoint, measured)
    if not removed:
        return opened
    root = opened.root
    remove(root, Backbone(body(root), _probe(opened.tokenizer)).blocks, removed)
    return opened


def _write(
    opened: _Opened,
    checkpoint: Checkpoint,
    folder: Path,
    card: str,
    measured: Measured | None,
    whole: bool,
) -> list[str]:
    """Write to a sibling, compare what that gives, and give it its name.

    Returns what is to be known of how it is read.
    """
    from lrd_harness.models import sentence_modules as modules

    lines: list[str] = []
    made = [p for p in folder.parents if not p.exists()]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with files.folder(folder.parent) as work:
            part = work / folder.name  # with the permissions that a new folder has
            part.mkdir()
            opened.write(part)
            _generation(checkpoint, part)
            _compare(opened, part, checkpoint.name, whole)
            if measured is not None:
                lines = modules.add(part, measured, opened.tokenizer, opened.root)
                card += modules.section(measured, lines)
            (part / "README.md").write_text(card, encoding="utf-8")
            usual_modes(part)
            check_free(folder)
            part.rename(folder)
    except BaseException:
        for parent in made:  # from the inside out; what somebody else has used by now stays
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
        raise
    return lines


def _generation(checkpoint: Checkpoint, folder: Path) -> None:
    """The original's settings for generation; transformers itself would write valid ones only."""
    name = "generation_config.json"
    if name in checkpoint.files:
        from transformers.utils.hub import cached_file

        shutil.copyfile(
            str(cached_file(checkpoint.path, name, **_where(checkpoint))), folder / name
        )


def _compare(opened: _Opened, folder: Path, name: str, whole: bool) -> None:
    """Raise UserError if the folder gives other tokens or states than the model in memory.

    Some families build a block by its place (ModernBERT's first has no norm before its attention),
    so that there is no configuration for what is left.
    """
    import torch

    kind = type(opened.root).__name__
    misfit = UserError(
        f"{name} cannot be kept as a checkpoint: read again, a {kind} gives other states"
        if whole
        else f"{name} without these blocks cannot be kept as a checkpoint: "
        f"{kind} builds its blocks by their place"
    )
    try:
        again = opened.reopen(folder)
    except UserError:  # tensors of a block of another kind
        raise misfit from None
    if _tokens(again.tokenizer) != _tokens(opened.tokenizer):
        raise UserError(f"{name}: its tokenizer changes when it is saved")
    with torch.inference_mode():
        first, second = opened.answer(), again.answer()
    if not torch.allclose(first, second, rtol=1e-5, atol=1e-5, equal_nan=True):
        raise misfit


def _open(checkpoint: Checkpoint, measured: Measured | None) -> _Opened:
    from lrd_harness.models import sentence_modules as modules

    where = _where(checkpoint)
    if of_modules(checkpoint) if measured is None else not measured.plain:
        opened = _open_sentence_transformer(
            checkpoint.path, where, modules.tokenizing(measured) if measured else {}
        )
        if measured is not None:
            modules.fit(opened.model, measured)
        return opened
    kinds = _kinds(checkpoint)
    for kind in kinds[:-1]:
        try:
            return _open_plain(checkpoint.path, kind, where)
        except UserError:
            continue  # a head without weights of its own: what is below it is what there is
    return _open_plain(checkpoint.path, kinds[-1], where)


def _where(checkpoint: Checkpoint) -> dict[str, Any]:
    revision = checkpoint.revision if checkpoint.hub else None
    return {"revision": revision, "local_files_only": not checkpoint.hub}


def _kinds(checkpoint: Checkpoint) -> list[Any]:
    """The classes to open it with: the one that it says it was saved from, then AutoModel."""
    import transformers

    said = [
        getattr(transformers, name, None) for name in checkpoint.config.get("architectures") or ()
    ]
    own = [k for k in said if isinstance(k, type) and issubclass(k, transformers.PreTrainedModel)]
    return [*own[:1], transformers.AutoModel]


def _open_plain(path: str, kind: Any, where: Mapping[str, Any]) -> _Opened:
    """A model as transformers opens it. Raises UserError for weights that are not there."""
    from transformers import AutoTokenizer

    from lrd_harness.models.pooling import leave_out

    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False, **where)
    model, loading = kind.from_pretrained(
        path,
        dtype="auto",
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
        **where,
    )
    holes = sorted({*loading["missing_keys"], *(k for k, *_ in loading["mismatched_keys"])})
    leave_out(model, holes)
    holes = [key for key in holes if "pooler" not in key]
    if holes:
        raise UserError(f"{path}: its weights lack {len(holes)} tensors, as {holes[0]}")

    def write(folder: Path) -> None:
        if model.can_generate() and not _valid(model.generation_config):
            model.generation_config = type(
                model.generation_config
            )()  # the original's is copied, see above
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    def answer() -> Any:
        inner = model.get_encoder() if model.config.is_encoder_decoder else model
        return inner(**_probe(tokenizer))[0]

    def reopen(folder: Path) -> _Opened:
        return _open_plain(str(folder), type(model), {"local_files_only": True})

    return _Opened(model.eval(), tokenizer, model, write, reopen, answer)


def _valid(generation: Any) -> bool:
    try:
        generation.validate(strict=True)
    except ValueError:
        return False
    return True


def _open_sentence_transformer(
    path: str, where: Mapping[str, Any], tokenizing: Mapping[str, Any]
) -> _Opened:
    """A model as sentence-transformers opens it, on the CPU, its tokenizer so."""
    from sentence_transformers import SentenceTransformer

    model: Any = SentenceTransformer(
        path,
        device="cpu",
        trust_remote_code=False,
        processor_kwargs=dict(tokenizing),
        model_kwargs={"dtype": "auto", "use_safetensors": True},
        **where,
    )
    root = getattr(model[0], "auto_model", None)
    if root is None:
        raise UserError(f"{path}: its first module is no transformer")

    def write(folder: Path) -> None:
        model.save(str(folder), create_model_card=False)

    def answer() -> Any:
        return model.encode([_TEXT], convert_to_tensor=True, show_progress_bar=False)

    def reopen(folder: Path) -> _Opened:
        return _open_sentence_transformer(str(folder), {"local_files_only": True}, {})

    return _Opened(model.eval(), model.tokenizer, root, write, reopen, answer)


def _tokens(tokenizer: Any) -> list[int]:
    return [int(token) for token in tokenizer(_TEXT)["input_ids"]]


def _probe(tokenizer: Any) -> dict[str, Any]:
    """The text as a batch of one, (1, T)."""
    import torch

    ids = torch.tensor([_tokens(tokenizer)])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
