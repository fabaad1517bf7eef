"""Exports a model for runtimes without PyTorch: the network as ONNX, and all that a sampler needs besides as JSON.

The graph is `predict(sample, embedding[, class_labels])`: the embedding of the noise power is worked out outside, since sines in
float64 do not run everywhere. `docs/onnx.md` has a sampler in numpy.
"""

import io
import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn as nn

from ..extras import install_command
from ..models.unet_flower_ddim import MAX_FREQUENCY, MIN_FREQUENCY, FlowerUNet2DModel
from ..pipelines.loading import check_schedule, is_student
from ..pipelines.pipeline_flower_ddim import FlowerDDIMPipeline
from ..storage.files import write_bytes, write_json


OPSET = 18  # newer AveragePool and Conv do not run on onnxruntime's WebGPU
WEIGHTS = ("float32", "float16")
NETWORK_FILE, SAMPLER_FILE = "unet.onnx", "sampler.json"


class _Predictor(nn.Module):
    """The network without what surrounds it."""

    def __init__(self, unet: FlowerUNet2DModel):
        super().__init__()
        self.unet = unet

    def forward(self, sample, embedding, class_labels=None):
        return self.unet.predict(sample, embedding, class_labels)


def export_onnx(pipe: FlowerDDIMPipeline, out: str | Path, weights: str | None = None):
    """Writes `unet.onnx` and `sampler.json` into a folder.

    Args:
        out: folder, which may hold an earlier export.
        weights: dtype in which the kernels are stored. float16 halves the file; each is cast to float32 before it is used. Without
            it that is done where no kernel changes by it, as where the model was saved in float16.

    Raises:
        ModuleNotFoundError: without `onnx` and `onnxscript`, naming the extra.
        ValueError: for a network, a size or a folder that cannot be exported (into).
    """
    onnx = _onnx()
    if weights is None:
        kernels = (weight for weight in pipe.unet.parameters() if weight.ndim >= 2)
        loses_nothing = all(torch.equal(kernel, kernel.half().to(kernel.dtype)) for kernel in kernels)
        weights = "float16" if loses_nothing else "float32"
    if weights not in WEIGHTS:
        raise ValueError(f"`weights` is {weights!r}, but must be one of {', '.join(WEIGHTS)}.")
    _check_exportable(pipe)
    out = Path(out)
    check_folder(out, (NETWORK_FILE, SAMPLER_FILE))
    model = onnx.load_model_from_string(_export(pipe.unet))
    if weights == "float16":
        _store_kernels_as_float16(onnx, model)
    onnx.checker.check_model(model, full_check=True)
    out.mkdir(parents=True, exist_ok=True)
    write_bytes(out / NETWORK_FILE, model.SerializeToString())
    write_json(out / SAMPLER_FILE, sampler_settings(pipe))


def check_folder(folder: Path, names: tuple[str, ...]):
    """Raises a ValueError where something else than these names lies in a folder, or where there is a file in its place."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: name a folder.")
    inside = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    others = sorted(
        name for name in inside if name not in names and not name.startswith(".")
    )  # .git, say, may be there
    if others:
        raise ValueError(f"{folder} holds other files, such as {others[0]}: name a new folder, or an empty one.")


def sampler_settings(pipe: FlowerDDIMPipeline) -> dict:
    """What a sampler has to know besides the network, ready for JSON.

    - `name`, `channels`, `height`, `width`; `image_mean`, `image_std` of every channel: image = mean + std · latent
    - `angles`: α at even diffusion times u from 0 to 1, linear in between; the rates are cos α (signal) and sin α (noise).
      That is nearly right for the linear schedule: where the steps do not divide its timesteps, latents are off by some thousandths
    - `frequencies` f of the embedding [sin(2π f v), …, cos(2π f v), …] of the noise power v = sin² α
    - `prediction_type`, `clip_sample_range` (null for none), `num_inference_steps`, `is_student`
    - `class_names` (null without classes), `num_classes` (0 without), which is also the label of no class, and `guidance_scale`
    """
    config, scheduler = pipe.unet.config, pipe.scheduler
    channels, height, width = pipe.latent_shape
    # The angle is linear in u but for the linear schedule, which is linear in log ᾱ between as many points.
    points = config.num_train_timesteps if config.schedule == "linear" else 1
    times = torch.linspace(0, 1, points + 1, dtype=torch.float64)
    signal_rate, noise_rate = pipe.unet.schedule.rates(times)
    ends = math.log(MIN_FREQUENCY), math.log(MAX_FREQUENCY)
    log_frequencies = torch.linspace(*ends, config.noise_embedding_dim // 2, dtype=torch.float64)
    statistics = {}
    for name in ("image_mean", "image_std"):
        values = config[name] if isinstance(config[name], (list, tuple)) else [config[name]]
        statistics[name] = list(values) * (channels // len(values))  # one number is that of every channel
    names = config.class_names
    return {
        "name": Path(pipe.name_or_path or "model").resolve().name,
        "channels": channels,
        "height": height,
        "width": width,
        **statistics,
        "angles": torch.atan2(noise_rate, signal_rate).tolist(),
        "frequencies": torch.exp(log_frequencies).tolist(),
        "prediction_type": scheduler.config.prediction_type,
        "clip_sample_range": scheduler.config.clip_sample_range if scheduler.config.clip_sample else None,
        "num_inference_steps": pipe.default_num_inference_steps,
        "is_student": is_student(pipe.unet),
        "num_classes": config.num_class_embeds or 0,
        "class_names": None if names is None else list(names),
        "guidance_scale": config.default_guidance_scale,
    }


def _check_exportable(pipe: FlowerDDIMPipeline):
    if not isinstance(pipe.unet, FlowerUNet2DModel):
        raise ValueError(f"Only a FlowerUNet2DModel can be exported, and this is a {type(pipe.unet).__name__}.")
    if not hasattr(pipe.scheduler, "schedule"):
        raise ValueError(
            "The sampler is that of a FlowerDDIMScheduler: put one into the pipeline with its `from_config`."
        )
    check_schedule(pipe.unet, pipe.scheduler)
    shape = pipe.latent_shape
    if (values := math.prod(shape)) % 16:
        raise ValueError(
            f"The images have {' × '.join(map(str, shape))} = {values} values, but noise is drawn in blocks of 16: "
            "choose another size."
        )


def _onnx():
    try:
        import onnx
        import onnxscript  # noqa: F401  # what PyTorch's exporter needs
    except ModuleNotFoundError as error:
        hint = f"The export needs {error.name}: {install_command('onnx')}"
        raise ModuleNotFoundError(hint, name=error.name) from error
    return onnx


def _export(unet: FlowerUNet2DModel) -> bytes:
    """The graph of the network in float32, with any number of images in a batch."""
    config = unet.config
    network = FlowerUNet2DModel.from_config(config)
    network.load_state_dict(unet.state_dict())
    height, width = (config.sample_size,) * 2 if isinstance(config.sample_size, int) else config.sample_size
    # PyTorch takes a 1 in an example for a constant.
    inputs = {
        "sample": torch.zeros(2, config.in_channels, height, width),
        "embedding": torch.zeros(2, config.noise_embedding_dim),
    }
    if config.num_class_embeds is not None:
        inputs["class_labels"] = torch.zeros(2, dtype=torch.int64)
    with _quiet_exporter():
        program = torch.onnx.export(
            _Predictor(network).eval(),
            tuple(inputs.values()),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=["prediction"],
            dynamic_shapes=tuple({0: "batch"} for _ in inputs),
        )
    file = io.BytesIO()
    program.save(file, external_data=False)
    return file.getvalue()


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Spares users what PyTorch's exporter has to say about itself, and of packages that it does not need."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)


def _store_kernels_as_float16(onnx, model):
    """Halves the kernels of convolutions and linear layers; statistics, biases and all sums stay in float32."""
    graph, casts = model.graph, []
    for tensor in graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or len(tensor.dims) < 2:
            continue
        name, values = tensor.name, onnx.numpy_helper.to_array(tensor)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype("float16"), f"{name}_float16"))
        casts.append(onnx.helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    # The export has noted the dtypes of the kernels as values that it knows; they are computed now.
    model.graph.ClearField("value_info")
