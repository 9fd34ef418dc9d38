"""Opens mixers of bytes: models without attention, of a type that transformers does not know."""

from pathlib import Path

from lrd_harness import Adapter, UserError, hookimpl

lrd_interface = 1


def claims(checkpoint):
    return checkpoint.config.get("model_type") == "lrd_mixer"


def check(checkpoint):
    """Raise UserError, before anything is loaded, for a checkpoint without its sizes."""
    for name in ("width", "blocks", "length"):
        if type(checkpoint.config.get(name)) is not int:
            raise UserError(f"{checkpoint.name}: its config.json has no {name}")


def encode(texts, max_length):
    return [{"input_ids": list((t.prompt + t.text).encode()[:max_length])} for t in texts]


def open_model(checkpoint, options):
    import torch
    from safetensors.torch import load_file

    from lrd_harness.models.text_model import Parts, TextModel
    from lrd_mixer.model import Mixer

    config = checkpoint.config
    module = Mixer(config["width"], config["blocks"])
    module.load_state_dict(load_file(Path(checkpoint.path) / "model.safetensors"))
    module.to(getattr(torch, options.dtype))
    parts = Parts(adapter="mixer", module=module, encode=encode, max_length=config["length"])
    return TextModel(checkpoint, options, parts)


@hookimpl
def lrd_adapters():
    return [Adapter("mixer", claims, open_model, description="mixers of bytes", check=check)]
