"""What is read of a model folder: JSON objects and safetensors, and no pickles."""

import json
from pathlib import Path


PICKLE_REMEDY = (
    "Loading a pickle can run any code, so only safetensors are read: if you trust the file, convert it with "
    '`safetensors.torch.save_file(torch.load("diffusion_pytorch_model.bin", weights_only=True), '
    '"diffusion_pytorch_model.safetensors")`.'
)


def read_json_object(file) -> dict:
    """Reads a configuration file.

    diffusers takes other JSON for the name of a model, which it goes and asks the Hub for.

    Raises:
        ValueError: if the file holds anything but a JSON object; a `json.JSONDecodeError` if it is not JSON.
    """
    try:
        value = json.loads(Path(file).read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError(f"{file} is nested too deeply to be a configuration: download or save it again.") from error
    if not isinstance(value, dict):
        raise ValueError(
            f"{file} holds a {type(value).__name__}, but must hold a JSON object: download or save it again."
        )
    return value


def ask_for_safetensors(kwargs: dict):
    """Sets `use_safetensors` among the arguments of a `from_pretrained`; raises a ValueError where that says no."""
    if kwargs.get("use_safetensors") is False:
        raise ValueError(f"`use_safetensors=False` would read pickled weights. {PICKLE_REMEDY}")
    kwargs["use_safetensors"] = True


def pickle_hint(folder) -> str:
    """What to add to a message that there are no weights: the way to convert what lies in the folder or one below, if anything."""
    pickles = sorted(str(file) for pattern in ("*.bin", "*/*.bin") for file in Path(folder).glob(pattern))
    return f" There is {', '.join(pickles)}, though. {PICKLE_REMEDY}" if pickles else ""
