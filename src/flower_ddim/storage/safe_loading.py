"""Weights are read from safetensors only: a pickle can run any code."""

PICKLE_REMEDY = (
    "Loading a pickle can run any code, so only safetensors are read: if you trust the file, convert it with "
    '`safetensors.torch.save_file(torch.load("diffusion_pytorch_model.bin", weights_only=True), '
    '"diffusion_pytorch_model.safetensors")`.'
)


def ask_for_safetensors(kwargs: dict):
    """Sets `use_safetensors` among the arguments of a `from_pretrained`; raises a ValueError where that says no."""
    if kwargs.get("use_safetensors") is False:
        raise ValueError(f"`use_safetensors=False` would read pickled weights. {PICKLE_REMEDY}")
    kwargs["use_safetensors"] = True
