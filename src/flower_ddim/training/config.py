"""Every option of the training, with its default and its help text, once."""

import importlib.util
from dataclasses import dataclass, field, fields


def option(default, help: str, choices: list | None = None):
    """A dataclass field with a help text, in the form that `transformers.HfArgumentParser` reads."""
    return field(default=default, metadata={"help": help} | ({"choices": choices} if choices else {}))


LR_SCHEDULERS = ["constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"]


@dataclass
class TrainingConfig:
    """Options of the training; the defaults are the recipe of the book (50 epochs of 5 passes, batches of 64)."""

    # Data
    dataset_name: str | None = option(None, "Data set on the Hub; this or train_data_dir.")
    dataset_config_name: str | None = option(None, "Configuration of the Hub data set, where it has several.")
    train_data_dir: str | None = option(None, "Folder of Parquet files or pictures; this or dataset_name.")
    cache_dir: str | None = option(None, "Where data sets are cached; the datasets library's own place by default.")
    resolution: int = option(64, "Side of the pictures in pixels.")
    center_crop: bool = option(True, "Cut pictures to their central square; otherwise they are squeezed.")
    random_flip: bool = option(False, "Mirror every picture left to right with probability one half.")
    dataloader_num_workers: int = option(0, "Processes that decode the pictures; 0 is the main one.")
    cache_images: str = option(
        "auto", "Keep decoded pictures in memory, or memory-mapped on disk; auto asks how much is free.",
        ["auto", "memory", "disk"],
    )  # fmt: skip
    streaming: bool = option(False, "Decode a data set larger than the disk on the fly; then resuming is not exact.")
    validation_split: str = option(
        "validation", "Split to validate on; if there is none, a part of train is set aside."
    )
    validation_fraction: float = option(0.1, "The part of train that is set aside where there is no such split.")
    validation_epochs: int = option(1, "Epochs between validations; 0 never validates and trains on all pictures.")
    eval_kid_epochs: int = option(
        0, "Epochs between measurements of KID, the best of which is kept in output_dir/best; 0 measures none."
    )
    eval_kid_images: int = option(500, "Images that are generated for a KID.")
    eval_kid_extractor: str = option(
        "efficientnet_lite0", "Network for KID's features: efficientnet_lite0, inception, or one of transformers."
    )

    # Output
    output_dir: str = option(
        "flower-ddim-output", "Folder for the trained pipeline, checkpoints, samples and metrics."
    )
    overwrite_output_dir: bool = option(
        False, "Start anew where output_dir holds an earlier training, deleting its checkpoints and metrics."
    )
    checkpointing_steps: int = option(500, "Optimizer steps between checkpoints.")
    checkpoints_total_limit: int = option(2, "Checkpoints kept, of which the oldest go first; 0 keeps all.")
    resume_from_checkpoint: str | None = option(
        None, "A checkpoint folder, or 'latest' for the newest, if there is one."
    )
    save_images_epochs: int = option(10, "Epochs between sample grids; 0 writes only the last one.")
    save_model_epochs: int = option(
        10, "Epochs between copies of the averaged pipeline in output_dir; 0 only the last."
    )
    eval_batch_size: int = option(16, "Images in a sample grid, and in a batch of the validation.")
    logging_steps: int = option(50, "Optimizer steps between lines in metrics.jsonl.")
    logger: str | None = option(None, "A tracker beside metrics.jsonl.", ["tensorboard", "wandb", "trackio"])
    logging_dir: str = option("logs", "Folder for the tracker, inside output_dir.")
    dry_run: bool = option(False, "Print the resolved options and the size of the task, and stop.")

    # Model
    model_config_name_or_path: str | None = option(
        None, "Configuration of a U-Net, stock UNet2DModel or ours, by path or id."
    )
    init_from: str | None = option(None, "Saved pipeline to start from, weights and channel statistics.")
    block_out_channels: list[int] | None = option(None, "Widths of the U-Net from fine to coarse (32 64 96 128).")
    layers_per_block: int | None = option(None, "Residual blocks at each resolution (2).")
    schedule: str | None = option(None, "Diffusion schedule (offset_cosine).", ["linear", "cosine", "offset_cosine"])
    prediction_type: str | None = option(
        None, "What the network learns (epsilon, the noise).", ["epsilon", "sample", "v_prediction"]
    )
    growth_steps: list[int] | None = option(
        None,
        "Optimizer steps in which the network grows: 3000 2000 trains 3000 steps without its two finest levels, on pictures of a "
        "quarter of the side, and 2000 without the finest, on half of it. These are quicker, but until they are over it "
        "generates noise. 0 is none.",
    )
    sync_batchnorm: bool = option(False, "Share batch statistics between processes (GPUs only).")

    # Optimization
    train_batch_size: int = option(64, "Pictures per process and forward pass.")
    gradient_accumulation_steps: int = option(1, "Forward passes per optimizer step.")
    num_epochs: int = option(50, "Number of epochs.")
    dataset_repeats: int = option(5, "Passes over the data that make one epoch.")
    max_train_steps: int | None = option(None, "Number of optimizer steps, instead of num_epochs.")
    max_train_minutes: float | None = option(
        None, "Stop after so many minutes, saving all; the course of the training stays that of all steps."
    )
    loss: str = option("mae", "Mean absolute or mean squared error.", ["mae", "mse"])
    low_discrepancy_times: bool = option(
        False, "Spread the diffusion times of a batch evenly over [0, 1], instead of drawing each on its own."
    )
    optimizer: str = option(
        "adamw", "AdamW for all weights, or Muon for the kernels inside the network.", ["adamw", "muon"]
    )
    learning_rate: float = option(1e-3, "Learning rate.")
    lr_scheduler: str = option("constant", "Course of the learning rate over the optimizer steps.", LR_SCHEDULERS)
    lr_warmup_steps: int = option(0, "Optimizer steps in which the learning rate rises from 0.")
    adam_beta1: float = option(0.9, "AdamW's decay of the mean gradient.")
    adam_beta2: float = option(0.999, "AdamW's decay of the squared gradient.")
    adam_weight_decay: float = option(1e-4, "Weight decay.")
    adam_epsilon: float = option(1e-8, "AdamW's epsilon.")
    max_grad_norm: float | None = option(None, "Clip the norm of the gradient to this.")
    use_ema: bool = option(True, "Save and sample from the moving average of the weights, not the last ones.")
    ema_max_decay: float = option(0.999, "Decay of the average.")
    ema_power: float | None = option(
        None, "Power p of the average's warm-up, decay 1 - (1 + step/inv_gamma)^-p; none without."
    )
    ema_inv_gamma: float = option(1.0, "Steps inv_gamma of that warm-up.")

    # Machine
    seed: int = option(0, "Seed of the initial weights, the order of the pictures, flips, noise and times.")
    mixed_precision: str | None = option(None, "By default what accelerate was launched with.", ["no", "fp16", "bf16"])
    compile: bool = option(
        False, "Compile the network: a minute's wait, then steps that are faster on many machines, not on all."
    )
    channels_last: bool = option(True, "Memory layout of the weights; the faster one on CPUs and recent GPUs.")

    # Hub
    push_to_hub: bool = option(False, "Upload the trained pipeline to the Hub at the end.")
    hub_model_id: str | None = option(None, "Repository to upload to; by default the name of output_dir.")
    hub_token: str | None = option(None, "Token for the upload; by default the one that you are logged in with.")
    hub_private_repo: bool = option(False, "Make a new repository private.")
    license: str | None = option(None, "Licence of the weights, for the model card: an identifier such as cc-by-4.0.")

    def __post_init__(self):
        """Raises a ValueError that names the option, for values out of range and options that contradict each other."""
        if (self.dataset_name is None) == (self.train_data_dir is None):
            raise ValueError(
                "Give the pictures either as `dataset_name` (on the Hub) or as `train_data_dir` (a folder)."
            )
        positive = (
            "resolution eval_batch_size logging_steps checkpointing_steps train_batch_size num_epochs dataset_repeats"
        )
        self._check_choices()
        self._check_at_least(2, "eval_kid_images")
        self._check_at_least(1, *positive.split(), "gradient_accumulation_steps", "max_train_steps")
        not_negative = (
            "validation_epochs eval_kid_epochs save_images_epochs save_model_epochs lr_warmup_steps "
            "dataloader_num_workers seed"
        )
        self._check_at_least(0, *not_negative.split(), "learning_rate", "adam_weight_decay", "checkpoints_total_limit")
        if self.growth_steps == [0]:  # what takes those of a recipe back
            self.growth_steps = None
        if self.growth_steps is not None and not all(steps >= 1 for steps in self.growth_steps or [0]):
            raise ValueError(
                f"`growth_steps` is {self.growth_steps}, but must be made of numbers of at least 1, or be 0 for none."
            )
        if self.growth_steps and self.init_from:
            raise ValueError(
                "`growth_steps` begins a new network, but that of `init_from` is whole: `--growth_steps 0` takes a recipe's back."
            )
        if self.max_train_minutes is not None and self.max_train_minutes <= 0:
            raise ValueError(f"`max_train_minutes` is {self.max_train_minutes}, but must be greater than 0.")
        if self.max_grad_norm is not None and self.max_grad_norm <= 0:
            raise ValueError(
                f"`max_grad_norm` is {self.max_grad_norm}, but must be greater than 0; leave it out for no limit."
            )
        if self.logger and importlib.util.find_spec(self.logger) is None:
            raise ValueError(f"`logger` {self.logger} is not installed: pip install {self.logger}.")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"`validation_fraction` is {self.validation_fraction}, but must lie between 0 and 1.")
        for source, says in (
            (
                "init_from",
                ("model_config_name_or_path", "block_out_channels", "layers_per_block"),
            ),
            ("model_config_name_or_path", ("block_out_channels", "layers_per_block")),
        ):
            contradicting = [name for name in says if getattr(self, name) is not None]
            if getattr(self, source) is not None and contradicting:
                raise ValueError(
                    f"`{contradicting[0]}` contradicts `{source}`, which already says that. Leave one of them out."
                )
        if self.overwrite_output_dir and self.resume_from_checkpoint:
            raise ValueError("`overwrite_output_dir` contradicts `resume_from_checkpoint`: go on, or start anew?")
        if self.lr_warmup_steps and self.lr_scheduler == "constant":
            raise ValueError(
                "`lr_scheduler` constant has no warm-up: choose constant_with_warmup for `lr_warmup_steps`."
            )
        if self.ema_inv_gamma != 1.0 and self.ema_power is None:
            raise ValueError("`ema_inv_gamma` belongs to the warm-up of the average: give `ema_power` too.")
        if self.eval_kid_epochs and not self.validation_epochs:
            raise ValueError("`eval_kid_epochs` needs validation pictures: give `--validation_epochs 1` or more.")
        if self.streaming and self.validation_epochs:
            raise ValueError(
                "`streaming` reads the data once through and cannot set some aside: give `--validation_epochs 0`."
            )
        if self.streaming and self.max_train_steps is None:
            raise ValueError("`streaming` does not know how long the data is: give `max_train_steps`.")
        if self.push_to_hub is False and (self.hub_model_id or self.hub_private_repo):
            raise ValueError("`hub_model_id` and `hub_private_repo` need `push_to_hub`.")

    def _check_choices(self):
        for spec in fields(self):
            value, choices = getattr(self, spec.name), spec.metadata.get("choices")
            if choices and value is not None and value not in choices:
                raise ValueError(f"`{spec.name}` is {value!r}, but must be one of {', '.join(map(str, choices))}.")

    def _check_at_least(self, least: int, *names: str):
        for name in names:
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"`{name}` is {value}, but must be at least {least}.")
