"""How good the model is while it is trained: its KID against the validation pictures."""

from accelerate import Accelerator

from .config import TrainingConfig
from .data import ImageArray
from .evaluation import KID_SUBSET_SIZE, check_possible, kernel_distance
from .features import load_extractor
from .pipeline_flower_ddim import FlowerDDIMPipeline
from .scoring import generate_with_features, real_features


class KidWatch:
    """Measures KID during a training, always of the same seeds, so that only the weights make a difference.

    Raises:
        ValueError: if the feature extractor cannot be had, or there are too few pictures, before any training.
    """

    def __init__(self, config: TrainingConfig, accelerator: Accelerator, validation: ImageArray):
        check_possible(config.eval_kid_images, len(validation), needed=2)
        self.config = config
        self.accelerator = accelerator
        self.extractor = load_extractor(config.eval_kid_extractor, accelerator.device)
        self.validation = validation
        self.real = None  # features, when they are first needed

    def __call__(self, pipeline: FlowerDDIMPipeline) -> dict[str, float]:
        """`kid` and its standard deviation `kid_std`, in 20 steps; every process must call this and learns the result."""
        if self.real is None:
            self.real = real_features(self.validation, self.extractor, self.config.eval_batch_size)
        pipeline.set_progress_bar_config(disable=True)
        with self.accelerator.autocast():
            _, features = generate_with_features(
                pipeline,
                self.extractor,
                self.config.eval_kid_images,
                self.accelerator,
                batch_size=self.config.eval_batch_size,
            )
        size = min(KID_SUBSET_SIZE, len(features), len(self.real))
        kid = kernel_distance(features, self.real, subset_size=size)
        return {"kid": kid["mean"], "kid_std": kid["std"]}
