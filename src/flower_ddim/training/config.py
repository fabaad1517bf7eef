"""Every option of the training: its default, its help text, and all else that is to be known of it, once."""

from dataclasses import Field, dataclass, field, fields


def option(
    default,
    help: str,
    choices: list | None = None,
    at_least: float | None = None,
    above: float | None = None,
    below: float | None = None,
    fixed: bool = False,
    in_card: bool = True,
):
    """A dataclass field with what is known of an option, in its metadata.

    Args:
        choices, at_least, above, below: the values that it may have; `None` is always one where it is the default.
        fixed: whether a run resumes with the value that it began with: it decides what a checkpoint holds, or what its log means.
        in_card: whether the model card shows it; not what only says where the pictures lie, what is kept, and on which machine.
    """
    facts = {"at_least": at_least, "above": above, "below": below, "fixed": fixed, "in_card": in_card}
    return field(default=default, metadata={"help": help, "choices": choices} | facts)


OF_STUDENTS = ("teacher_steps", "student_steps", "teacher_guidance_scale")
# What a new network is built of.
OF_NETWORKS = ("block_out_channels", "layers_per_block", "norm_num_groups", "attention_head_dim", "patch_size")
LR_SCHEDULERS = ["constant", "constant_with_warmup", "linear", "cosine"]


@dataclass
class TrainingConfig:
    """Options of the training; the defaults are the recipe of the book (50 epochs of 5 passes, batches of 64)."""

    # Data
    dataset_name: str | None = option(None, "Data set on the Hub; this or train_data_dir.", in_card=False)
    dataset_config_name: str | None = option(
        None, "Configuration of the Hub data set, where it has several.", in_card=False
    )
    train_data_dir: str | None = option(
        None, "Folder of Parquet files or pictures; this or dataset_name.", in_card=False
    )
    class_conditional: bool = option(False, "Learn the classes of the pictures, to generate them by name.", fixed=True)
    label_column: str | None = option(
        None, "Column of the classes; by default the only ClassLabel, or the folders of the pictures.", in_card=False
    )
    class_dropout: float = option(
        0.1, "The part of the labels that are left out, so that guidance is possible.", at_least=0, below=1
    )
    cache_dir: str | None = option(
        None, "Where data sets are cached; the datasets library's own place by default.", in_card=False
    )
    resolution: int = option(64, "Side of the pictures in pixels.", at_least=1)
    center_crop: bool = option(True, "Cut pictures to their central square; otherwise they are squeezed.")
    random_flip: bool = option(False, "Mirror every picture left to right with probability one half.")
    dataloader_num_workers: int = option(
        0, "Processes that decode the pictures; 0 is the main one.", at_least=0, in_card=False
    )
    cache_images: str = option(
        "auto",
        "Keep decoded pictures in memory, or memory-mapped on disk; auto asks how much is free.",
        choices=["auto", "memory", "disk"],
        in_card=False,
    )
    streaming: bool = option(
        False, "Decode a data set larger than the disk on the fly; then resuming is not exact.", in_card=False
    )
    validation_split: str = option(
        "validation", "Split to validate on; if there is none, a part of train is set aside.", in_card=False
    )
    validation_fraction: float = option(
        0.1, "The part of train that is set aside where there is no such split.", above=0, below=1, in_card=False
    )
    validation_epochs: int = option(
        1, "Epochs between validations; 0 never validates and trains on all pictures.", at_least=0, in_card=False
    )
    eval_kid_epochs: int = option(
        0,
        "Epochs between measurements of KID; the model with the lowest is kept in output_dir/best; 0 measures none.",
        at_least=0,
        in_card=False,
    )
    eval_kid_images: int = option(500, "Images that are generated for a KID.", at_least=2, in_card=False)
    eval_kid_extractor: str = option(
        "efficientnet_lite0",
        "Network for KID's features: efficientnet_lite0, inception, or one of transformers.",
        in_card=False,
    )

    # Output
    output_dir: str = option(
        "flower-ddim-output", "Folder for the trained pipeline, checkpoints, samples and metrics.", in_card=False
    )
    overwrite_output_dir: bool = option(
        False,
        "Start anew where output_dir holds an earlier training, deleting its checkpoints and metrics.",
        in_card=False,
    )
    checkpointing_steps: int = option(500, "Optimizer steps between checkpoints.", at_least=1, in_card=False)
    checkpoints_total_limit: int = option(
        2, "Checkpoints kept, of which the oldest go first; 0 keeps all.", at_least=0, in_card=False
    )
    resume_from_checkpoint: str | None = option(
        None, "A checkpoint folder, or 'latest' for the newest, if there is one.", in_card=False
    )
    save_images_epochs: int = option(
        10, "Epochs between sample grids; 0 writes only the last one.", at_least=0, in_card=False
    )
    save_images_steps: int = option(
        0, "Optimizer steps between sample grids, where epochs are long; 0 writes none.", at_least=0, in_card=False
    )
    save_model_epochs: int = option(
        10,
        "Epochs between copies of the averaged pipeline in output_dir; 0 saves only the last one.",
        at_least=0,
        in_card=False,
    )
    num_sample_images: int = option(16, "Images in a sample grid.", at_least=1, in_card=False)
    eval_batch_size: int = option(
        16,
        "Pictures in a batch of the validation and of KID, which changes only their speed.",
        at_least=1,
        in_card=False,
    )
    logging_steps: int = option(50, "Optimizer steps between lines in metrics.jsonl.", at_least=1, in_card=False)
    logger: str | None = option(
        None, "A tracker beside metrics.jsonl.", choices=["tensorboard", "wandb", "trackio"], in_card=False
    )
    logging_dir: str = option("logs", "Folder for the tracker, inside output_dir.", in_card=False)
    dry_run: bool = option(False, "Print the resolved options and the size of the task, and stop.", in_card=False)

    # Model
    model_config_name_or_path: str | None = option(
        None, "Configuration of a U-Net, stock UNet2DModel or ours, by path or id.", in_card=False
    )
    init_from: str | None = option(
        None, "Saved pipeline to start from, weights and channel statistics.", in_card=False
    )
    block_out_channels: list[int] | None = option(None, "Widths of the U-Net from fine to coarse (32 64 96 128).")
    layers_per_block: int | None = option(None, "Residual blocks at each resolution (2).")
    norm_num_groups: int | None = option(None, "Groups of channels to normalise by, instead of by batch.", at_least=1)
    attention_head_dim: int | None = option(
        None, "Channels in a head of attention on the coarsest level; without it there is none.", at_least=1
    )
    patch_size: int | None = option(
        None, "Side of the patches of pixels that the network takes for one (1).", at_least=1
    )
    schedule: str | None = option(
        None, "Diffusion schedule (offset_cosine).", choices=["linear", "cosine", "offset_cosine"]
    )
    prediction_type: str | None = option(
        None,
        "What the network predicts: epsilon (the noise, if left out), sample (the picture) or v_prediction.",
        choices=["epsilon", "sample", "v_prediction"],
    )
    growth_steps: list[int] | None = option(
        None,
        "Optimizer steps in which the network grows: 3000 2000 trains 3000 steps without its two finest levels, on pictures of a "
        "quarter of the side, and 2000 without the finest, on half of it. These are quicker, but until they are over it "
        "generates noise. 0 is none.",
        fixed=True,
    )
    teacher: str | None = option(
        None, "Saved pipeline whose pictures a student learns to make in fewer steps.", in_card=False
    )
    teacher_steps: int = option(
        16, "Steps of the teacher, of which every step of the student replaces several.", at_least=2, fixed=True
    )
    student_steps: int = option(4, "Steps of the student.", at_least=1, fixed=True)
    teacher_guidance_scale: float | None = option(
        None,
        "Guidance of a teacher with classes, to build into the student; by default what the teacher recommends.",
        at_least=0,
        fixed=True,
    )
    sync_batchnorm: bool = option(False, "Share batch statistics between processes (GPUs only).")

    # Optimization
    train_batch_size: int = option(64, "Pictures per process and forward pass.", at_least=1)
    gradient_accumulation_steps: int = option(1, "Forward passes per optimizer step.", at_least=1)
    num_epochs: int = option(50, "Epochs, where max_train_steps does not decide.", at_least=1)
    dataset_repeats: int = option(5, "Passes over the data that make one epoch.", at_least=1)
    max_train_steps: int | None = option(None, "Number of optimizer steps, instead of num_epochs.", at_least=1)
    max_train_minutes: float | None = option(
        None,
        "Stop after this many minutes and save everything; the learning rate is still scheduled over all steps.",
        above=0,
        in_card=False,
    )
    loss: str = option("mae", "Mean absolute or mean squared error.", choices=["mae", "mse"], fixed=True)
    low_discrepancy_times: bool = option(
        False, "Spread the diffusion times of a batch evenly over [0, 1], instead of drawing each on its own."
    )
    optimizer: str = option(
        "adamw",
        "AdamW for all weights, or Muon for the kernels inside the network.",
        choices=["adamw", "muon"],
        fixed=True,
    )
    learning_rate: float = option(1e-3, "Learning rate.", at_least=0)
    lr_scheduler: str = option(
        "constant", "Course of the learning rate over the optimizer steps.", choices=LR_SCHEDULERS
    )
    lr_warmup_steps: int = option(0, "Optimizer steps in which the learning rate rises from 0.", at_least=0)
    adam_beta1: float = option(0.9, "AdamW's decay of the mean gradient.")
    adam_beta2: float = option(0.999, "AdamW's decay of the squared gradient.")
    adam_weight_decay: float = option(1e-4, "Weight decay of AdamW and Muon.", at_least=0)
    adam_epsilon: float = option(1e-8, "AdamW's epsilon.")
    max_grad_norm: float | None = option(None, "Clip the norm of the gradient to this.", above=0)
    use_ema: bool = option(
        True, "Save and sample from the moving average of the weights, not the last ones.", fixed=True
    )
    ema_max_decay: float = option(0.999, "Decay of the average, or what it rises to.")
    ema_power: float | None = option(
        None, "Power p of the average's warm-up, decay 1 - (1 + step/inv_gamma)^-p; without it there is no warm-up."
    )
    ema_inv_gamma: float = option(1.0, "Steps inv_gamma of that warm-up.")

    # Machine
    seed: int = option(
        0, "Seed of the initial weights, the order of the pictures, flips, noise and times.", at_least=0
    )
    mixed_precision: str | None = option(
        None, "Precision of the network; by default what accelerate was launched with.", choices=["no", "fp16", "bf16"]
    )
    compile: bool = option(
        False,
        "Compile the network: a minute's wait, then steps that are faster on many machines, not on all.",
        in_card=False,
    )
    channels_last: bool = option(
        True, "Memory layout of the weights; the faster one on CPUs and recent GPUs.", fixed=True, in_card=False
    )

    # Hub
    push_to_hub: bool = option(False, "Upload the trained pipeline to the Hub at the end.", in_card=False)
    hub_model_id: str | None = option(
        None, "Repository to upload to; by default the name of output_dir.", in_card=False
    )
    hub_token: str | None = option(
        None, "Token for the upload; by default the one that you are logged in with.", in_card=False
    )
    hub_private_repo: bool = option(False, "Make a new repository private.", in_card=False)
    license: str | None = option(
        None, "Licence of the weights, for the model card: an identifier such as cc-by-4.0.", in_card=False
    )

    def __post_init__(self):
        """Raises a ValueError that names the option, for values out of range and options that contradict each other."""
        if self.growth_steps == [0]:  # takes those of a recipe back
            self.growth_steps = None
        for spec in fields(self):
            if getattr(self, spec.name) is not None:
                _check_value(spec, getattr(self, spec.name))
        if self.growth_steps is not None and not all(steps >= 1 for steps in self.growth_steps or [0]):
            raise ValueError(
                f"`growth_steps` is {self.growth_steps}, but must be made of numbers of at least 1, or be 0 for none."
            )
        if self.label_column is not None and not self.class_conditional:
            raise ValueError("`label_column` names the classes of `class_conditional`: give that, too.")
        self._check_sources()
        self._check_teacher()
        self._check_course()
        self._check_streaming()

    def _check_sources(self):
        """What the pictures and the network come from."""
        if (self.dataset_name is None) == (self.train_data_dir is None):
            raise ValueError(
                "Give the pictures either as `dataset_name` (on the Hub) or as `train_data_dir` (a folder)."
            )
        for source, says in (
            ("init_from", ("model_config_name_or_path", *OF_NETWORKS)),
            ("model_config_name_or_path", OF_NETWORKS),
            ("teacher", ("init_from", "model_config_name_or_path", *OF_NETWORKS, "schedule", "prediction_type")),
        ):
            contradicting = [name for name in says if getattr(self, name) is not None]
            if getattr(self, source) is not None and contradicting:
                raise ValueError(
                    f"`{contradicting[0]}` contradicts `{source}`, which already says that. Leave one of them out."
                )
        if self.growth_steps and self.init_from:
            raise ValueError(
                "`growth_steps` begins a new network, but that of `init_from` is whole: `--growth_steps 0` takes a recipe's back."
            )

    def _check_teacher(self):
        """Options of a distillation."""
        if self.teacher is None:
            given = [name for name in OF_STUDENTS if getattr(self, name) != getattr(TrainingConfig, name)]
            if given:
                raise ValueError(f"`{given[0]}` is for students: name a `teacher`, too.")
            return
        if self.growth_steps is not None:
            raise ValueError("`growth_steps` is not for students: give `--growth_steps 0`.")
        if self.teacher_steps % self.student_steps or self.teacher_steps == self.student_steps:
            raise ValueError(
                f"`teacher_steps` is {self.teacher_steps}, but must be 2, 3, 4, … times `student_steps`, {self.student_steps}."
            )

    def _check_course(self):
        """Options that need or exclude one another."""
        if self.overwrite_output_dir and self.resume_from_checkpoint:
            raise ValueError("`overwrite_output_dir` starts anew and `resume_from_checkpoint` goes on: leave one out.")
        if self.lr_warmup_steps and self.lr_scheduler == "constant":
            raise ValueError(
                "`lr_scheduler` constant has no warm-up: choose constant_with_warmup, linear or cosine, or leave "
                "`lr_warmup_steps` out."
            )
        if self.ema_inv_gamma != 1.0 and self.ema_power is None:
            raise ValueError("`ema_inv_gamma` belongs to the warm-up of the average: give `ema_power` too.")
        if self.eval_kid_epochs and not self.validation_epochs:
            raise ValueError("`eval_kid_epochs` needs validation pictures: give `--validation_epochs 1` or more.")
        if not self.push_to_hub and (self.hub_model_id or self.hub_private_repo):
            raise ValueError("`hub_model_id` and `hub_private_repo` need `push_to_hub`: give it, or leave them out.")

    def _check_streaming(self):
        if self.streaming and self.validation_epochs:
            raise ValueError(
                "`streaming` reads the data once through and cannot set some aside: give `--validation_epochs 0`."
            )
        if self.streaming and self.max_train_steps is None:
            raise ValueError("`streaming` does not know how long the data is: give `max_train_steps`.")


def _check_value(spec: Field, value):
    """Raises a ValueError where the declaration of an option does not allow its value."""
    name, facts = spec.name, spec.metadata
    if facts["choices"] and value not in facts["choices"]:
        raise ValueError(f"`{name}` is {value!r}, but must be one of {', '.join(map(str, facts['choices']))}.")
    if facts["at_least"] is not None and value < facts["at_least"]:
        raise ValueError(f"`{name}` is {value}, but must be at least {facts['at_least']}.")
    if facts["above"] is not None and value <= facts["above"]:
        remedy = "; leave it out for no limit" if spec.default is None else ""
        raise ValueError(f"`{name}` is {value}, but must be greater than {facts['above']}{remedy}.")
    if facts["below"] is not None and value >= facts["below"]:
        raise ValueError(f"`{name}` is {value}, but must be less than {facts['below']}.")


def fixed_options() -> dict[str, object]:
    """Names and defaults of the options that a run resumes with as it began."""
    return {spec.name: spec.default for spec in fields(TrainingConfig) if spec.metadata["fixed"]}


def card_options() -> dict[str, object]:
    """Names and defaults of the options that a model card shows."""
    return {spec.name: spec.default for spec in fields(TrainingConfig) if spec.metadata["in_card"]}
