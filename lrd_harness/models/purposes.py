"""What a checkpoint was made for where that is not texts one by one: sound, images, pairs.

It is told by the type of the model, its head, its name and its card, before anything is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from contextlib import suppress

from lrd_harness.contracts import Checkpoint
from lrd_harness.errors import UserError
from lrd_harness.models.find import local_file
from lrd_harness.models.modality import reads_images, senses_of, two_towers

# models of sound by their types, and by the tasks that transformers lists them for
_SOUND = re.compile(
    r"audio|speech|voice|asr(_|$)|wav2?|hubert|music|clap|bark|codec|mimi|moshi|csm|^dia$|vits|"
    r"tts|transcribe|voxtral|clvp|parakeet|canary|conformer"
)
_SOUND_TASK = re.compile("MODEL_FOR_.*(AUDIO|SPEECH|CTC|RNNT|TDT|TO_WAVE|TO_SPECTRO).*_NAMES")
# what says of a model that it weighs words or scores pairs: its name, and the tags of its card
_SPARSE = re.compile(r"splade|sparse")
_PAIRS = re.compile(r"re-?rank|cross-?encoder|text-ranking|mono-?t5|rank-?t5")
_CARD = "README.md"


def refuse_senses(checkpoint: Checkpoint) -> None:
    """Raise UserError for a model of images or sound alone, and for two towers side by side."""
    from transformers.models.auto import modeling_auto as auto

    where, kind = checkpoint.name, str(checkpoint.config.get("model_type"))
    name, senses = senses_of(checkpoint.config)
    tasks = (task for names, task in vars(auto).items() if _SOUND_TASK.fullmatch(names))
    if _SOUND.search(kind) or any(kind in task for task in tasks):
        raise UserError(f"{where} hears or speaks ({name or kind}): models of sound are not read")
    seen = reads_images(checkpoint.config, checkpoint.files)
    onwards = " (image:NAME reads how it sees)" if seen else ", and is not read"
    if "text" not in senses:
        raise UserError(f"{where} reads no text: {name} takes {' and '.join(senses)}{onwards}")
    if two_towers(checkpoint.config):
        raise UserError(
            f"{where} compares images with texts ({name}), each in a tower of its own{onwards}"
        )


def refuse_scorers(checkpoint: Checkpoint, adapter: str) -> None:
    """Raise UserError for a model of a plain form that says that it scores pairs or weighs words.

    adapter: that which would open it, and does where the user names it. A head that gives one
    number, of words or of a language model is no fault in itself: only with such a name or card.
    """
    config = checkpoint.config
    heads = " ".join(checkpoint.architectures)
    labels = config.get("id2label") or config.get("num_labels")
    one = labels == 1 or (isinstance(labels, dict) and len(labels) == 1)
    by_head = [  # whose head, and what is looked for in its name and card
        ("ForSequenceClassification" in heads and one, _PAIRS, "CrossEncoder", "scores pairs of"),
        ("CausalLM" in heads or "ConditionalGen" in heads, _PAIRS, "reranker", "scores pairs of"),
        ("MaskedLM" in heads, _SPARSE, "SparseEncoder", "weighs the words of"),
    ]
    for head, said, kind, does in by_head:
        if head and (sign := next(filter(said.search, _labels(checkpoint)), None)):
            raise UserError(
                f"{checkpoint.name} says that it is a {kind} ({sign[:60]}): it {does} texts and "
                f"makes no embedding of one; {adapter}:NAME reads its layers all the same"
            )


def _labels(checkpoint: Checkpoint) -> Collection[str]:
    """The name of a model, in lower case, and the tags of its card."""
    from huggingface_hub.repocard import metadata_load

    words = [re.split(r"[/\\]", checkpoint.name)[-1].partition("@")[0]]
    if _CARD in checkpoint.files:
        with suppress(Exception):  # a card that cannot be read says nothing
            card = metadata_load(local_file(checkpoint, _CARD)) or {}
            tags = card.get("tags")
            words += [card.get("pipeline_tag"), *(tags if isinstance(tags, list) else ())]
    return [str(word).lower() for word in words if word]
