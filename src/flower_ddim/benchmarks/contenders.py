"""The contenders by name, and the jobs for them."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Job:
    """One contender's task. Its process gets it as JSON."""

    contender: str
    task: str  # "train", "generate", "first_picture", "save" or "ceiling"
    batch_size: int = 64
    sample_size: int = 64
    block_out_channels: list[int] = field(default_factory=lambda: [32, 64, 96, 128])
    layers_per_block: int = 2
    num_inference_steps: int = 20
    folder: str = ""  # of a saved model


def check_counts(settings, *names: str):
    """Raises a ValueError that names the attribute of `settings`, if one of these is less than 1."""
    for name in names:
        if getattr(settings, name) < 1:
            raise ValueError(f"`{name}` is {getattr(settings, name)}, but must be at least 1.")


@dataclass(frozen=True)
class Contender:
    """A row of the tables: its label, and the class that does the work.

    The class takes the `Contender` and the `Job`. Its `train` and `generate` get everything ready and return the function that does
    the task once: a whole training step, or a batch of pictures. That function ends with numbers in Python, so no work is pending.
    `save` writes a model into a folder, and `first_picture` loads it and writes a generated picture.
    """

    label: str
    module: str
    cls: str
    dtype: str = "float32"
    compiled: bool = False
    #: Whether it can save a model and load it in another process.
    loads: bool = True
    #: Sampler, and the share of the steps that it takes. Those that take fewer only generate.
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
    "flower_ddim-student-float32": Contender(
        "flower_ddim, a student in a fifth of the steps", "torch_contenders", "FlowerDDIM", step_share=0.2
    ),
    "flower_ddim-student": Contender(
        "flower_ddim, a student in a fifth of the steps",
        "torch_contenders",
        "FlowerDDIM",
        "bfloat16",
        compiled=True,
        step_share=0.2,
    ),
    "keras": Contender("Keras 3 on TensorFlow, graph mode", "keras_contender", "KerasReference"),
    "diffusers-same": Contender("diffusers, the same U-Net", "torch_contenders", "Diffusers", loads=False),
    "diffusers-stock": Contender("diffusers, a stock U-Net", "torch_contenders", "DiffusersStock"),
    "ceiling-float32": Contender("matrix product", "torch_contenders", "MatrixProduct"),
    "ceiling-bfloat16": Contender("matrix product", "torch_contenders", "MatrixProduct", "bfloat16"),
}
