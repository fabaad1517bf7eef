"""Every option of the training, with its default and its help text, once."""

from dataclasses import dataclass, field


def option(default, help: str):
    """A dataclass field with a help text, in the form that `transformers.HfArgumentParser` reads."""
    return field(default=default, metadata={"help": help})


@dataclass
class TrainingConfig:
    """Options of the training; the defaults are the recipe of the book (50 epochs of 5 passes, batches of 64)."""

    dataset_name: str | None = option(None, "Data set on the Hub, or this or train_data_dir.")
    train_data_dir: str | None = option(None, "Folder of Parquet files or pictures.")
    cache_dir: str | None = option(None, "Where data sets are cached; the datasets library's own place by default.")
    output_dir: str = option(
        "flower-ddim-output", "Folder for the trained pipeline, checkpoints, samples and metrics."
    )
    resolution: int = option(64, "Side of the pictures in pixels.")
    center_crop: bool = option(True, "Cut pictures to their central square; otherwise they are squeezed.")

    train_batch_size: int = option(64, "Pictures per training step, over all processes.")
    num_epochs: int = option(50, "Number of epochs.")
    dataset_repeats: int = option(5, "Passes over the data that make one epoch.")
    max_train_steps: int | None = option(None, "Number of training steps, instead of num_epochs.")
    learning_rate: float = option(1e-3, "Learning rate of AdamW, constant.")
    adam_weight_decay: float = option(1e-4, "Weight decay of AdamW.")
    prediction_type: str = option("epsilon", "What the network learns: epsilon (noise), sample or v_prediction.")
    ema_max_decay: float = option(
        0.999, "Decay of the moving average of the weights, which is what is generated with."
    )
    ema_warmup: bool = option(False, "Start the average with smaller decays; for runs of a few thousand steps.")

    seed: int = option(0, "Seed of the initial weights, the order of the pictures, the noise and the times.")
    mixed_precision: str | None = option(None, "no, fp16 or bf16; by default what accelerate was launched with.")
    compile: bool = option(False, "Compile the network with torch.compile: a minute's wait, then faster steps.")

    logging_steps: int = option(50, "Steps between lines in metrics.jsonl.")
    checkpointing_steps: int = option(500, "Steps between checkpoints.")
    resume_from_checkpoint: str | None = option(None, "A checkpoint folder, or 'latest' for the newest in output_dir.")
