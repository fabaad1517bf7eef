"""Who is compared, what they are asked to do, and the rule that all of them follow."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Job:
    """One contender's task, handed to its process as JSON."""

    contender: str
    task: str  # "train", "generate", "first_picture", "save" or "ceiling"
    batch_size: int = 64
    sample_size: int = 64
    block_out_channels: list[int] = field(default_factory=lambda: [32, 64, 96, 128])
    layers_per_block: int = 2
    num_inference_steps: int = 20
    folder: str = ""  # of a saved model


@dataclass(frozen=True)
class Contender:
    """A row of the tables: its label, and which class of which module does the work in which way."""

    label: str
    module: str
    cls: str
    dtype: str = "float32"
    compiled: bool = False
    #: Whether it can save a model that it loads in another process.
    loads: bool = True
    #: Sampler, and the share of the steps that it is given. One with a sampler of its own takes part in generation alone.
    solver: str = "ddim"
    step_share: float = 1.0


CONTENDERS = {
    "flower_ddim-float32": Contender("flower_ddim", "torch_contenders", "FlowerDDIM"),
    "flower_ddim-float32-compiled": Contender("flower_ddim", "torch_contenders", "FlowerDDIM", compiled=True),
    "flower_ddim-bfloat16": Contender("flower_ddim", "torch_contenders", "FlowerDDIM", "bfloat16"),
    "flower_ddim-bfloat16-compiled": Contender("flower_ddim", "torch_contenders", "FlowerDDIM", "bfloat16", True),
    "flower_ddim-unipc": Contender(
        "flower_ddim, UniPC in half of the steps",
        "torch_contenders",
        "FlowerDDIM",
        "bfloat16",
        compiled=True,
        solver="unipc",
        step_share=0.5,
    ),
    "keras": Contender("Keras 3 on TensorFlow, graph mode", "keras_contender", "KerasReference"),
    "diffusers-same": Contender("diffusers, the same U-Net", "torch_contenders", "Diffusers", loads=False),
    "diffusers-stock": Contender("diffusers, a stock U-Net", "torch_contenders", "DiffusersStock"),
    "ceiling-float32": Contender("matrix product", "torch_contenders", "MatrixProduct"),
    "ceiling-bfloat16": Contender("matrix product", "torch_contenders", "MatrixProduct", "bfloat16"),
}


class Implementation(Protocol):
    """What the class of a contender offers; it is made with its `Contender` and `Job`.

    `train` and `generate` get everything ready and return the function that does it once: a whole training step, or a
    batch of pictures. Both end with numbers that have arrived in Python, so that nothing is still being worked on.
    """

    def train(self) -> Callable[[], None]: ...

    def generate(self) -> Callable[[], None]: ...

    def save(self, folder: str):
        """Writes a model for `first_picture`."""

    def first_picture(self, folder: str):
        """Loads the model and writes one generated picture."""

    def facts(self) -> dict:
        """`parameters`, `gflop_per_image` of the convolutions of a forward pass, and `versions`."""
