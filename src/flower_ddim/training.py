"""The training: the loss of a batch, and the loop around it."""

import json
import math
import os
import shutil
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers.utils import make_image_grid
from tqdm.auto import tqdm

from .config import TrainingConfig
from .data import BatchSampler, channel_statistics, decode_images, open_dataset, seeded_generator
from .ema import ExponentialMovingAverage
from .pipeline_flower_ddim import FlowerDDIMPipeline
from .scheduling_flower_ddim import FlowerDDIMScheduler
from .unet_flower_ddim import FlowerUNet2DModel


# Mean absolute error of predicting zero where a standard normal is asked for: E|ε| = √(2/π).
ZERO_NOISE_LOSS = math.sqrt(2 / math.pi)

CHECKPOINT_PREFIX = "checkpoint-"
TRAINER_STATE = "trainer_state.json"
_NOISE_PURPOSE = 1  # keeps the noise apart from other streams made of the same seed


def diffusion_loss(
    unet: torch.nn.Module,
    scheduler: FlowerDDIMScheduler,
    images: torch.Tensor,
    noise: torch.Tensor,
    diffusion_time: torch.Tensor,
) -> torch.Tensor:
    """Mean absolute error of the network's prediction for noisy images (Ho et al. 2020, equation 14, with |·| for (·)²).

    Args:
        unet: the network, called with noisy images and timesteps.
        scheduler: adds the noise and says what is predicted (`prediction_type`).
        images: standardised images x_0, shape (B, C, H, W).
        noise: standard normal ε in the shape of `images`.
        diffusion_time: u in [0, 1], shape (B,).

    Returns:
        The mean over batch and pixels, a float32 scalar.
    """
    timesteps = scheduler.schedule.timestep(diffusion_time)
    noisy_images = scheduler.add_noise(images, noise, timesteps)
    prediction = unet(noisy_images, timesteps, return_dict=False)[0]
    target = {
        "epsilon": lambda: noise,
        "sample": lambda: images,
        "v_prediction": lambda: scheduler.get_velocity(images, noise, timesteps),
    }[scheduler.config.prediction_type]()
    return torch.nn.functional.l1_loss(prediction.float(), target)


def draw_noise_and_times(shape: tuple[int, ...], seed: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise of the given shape (global batch first) and a diffusion time per image, as a function of (seed, step) alone."""
    generator = seeded_generator(seed, _NOISE_PURPOSE, step)
    return torch.randn(shape, generator=generator), torch.rand(shape[0], generator=generator)


def find_checkpoint(output_dir: Path, wanted: str | None) -> Path | None:
    """The checkpoint to resume from: `"latest"` is the newest in `output_dir`, if there is one; `None` is none."""
    if wanted is None:
        return None
    if wanted == "latest":
        checkpoints = list_checkpoints(output_dir)
        return checkpoints[-1] if checkpoints else None
    if not (Path(wanted) / TRAINER_STATE).is_file():
        raise FileNotFoundError(f"{wanted} is no checkpoint: name a folder {CHECKPOINT_PREFIX}N, or 'latest'.")
    return Path(wanted)


def list_checkpoints(output_dir: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    checkpoints = [path.parent for path in output_dir.glob(f"{CHECKPOINT_PREFIX}*/{TRAINER_STATE}")]
    checkpoints = [path for path in checkpoints if path.name.removeprefix(CHECKPOINT_PREFIX).isdigit()]
    return sorted(checkpoints, key=lambda path: int(path.name.removeprefix(CHECKPOINT_PREFIX)))


class Trainer:
    """One training run: set-up in the constructor, then [`train`]."""

    def __init__(self, config: TrainingConfig):
        self.config = config
        self.output_dir = Path(config.output_dir)
        self.checkpoint = find_checkpoint(self.output_dir, config.resume_from_checkpoint)
        self.accelerator = Accelerator(
            mixed_precision=config.mixed_precision, dynamo_backend="inductor" if config.compile else None
        )
        if config.train_batch_size % self.accelerator.num_processes:
            raise ValueError(
                f"`train_batch_size` is {config.train_batch_size}, which {self.accelerator.num_processes} processes cannot share "
                "evenly: choose a multiple."
            )
        set_seed(config.seed)

        dataset = open_dataset(config.dataset_name, config.train_data_dir, config.cache_dir)
        images = decode_images(dataset, config.resolution, config.center_crop)
        mean, std = channel_statistics(images)
        self.images = torch.from_numpy(images).to(self.accelerator.device)
        self.batches = BatchSampler(len(images), config.train_batch_size, config.seed)
        self.total_steps = config.max_train_steps or (
            config.num_epochs * config.dataset_repeats * self.batches.batches_per_pass
        )

        unet = FlowerUNet2DModel(sample_size=config.resolution, image_mean=mean, image_std=std)
        unet = unet.to(self.accelerator.device, memory_format=torch.channels_last)
        self.scheduler = FlowerDDIMScheduler(prediction_type=config.prediction_type)
        self.ema = ExponentialMovingAverage(unet, config.ema_max_decay, config.ema_warmup)
        optimizer = torch.optim.AdamW(
            unet.parameters(), lr=config.learning_rate, weight_decay=config.adam_weight_decay, fused=True
        )
        self.unet, self.optimizer = self.accelerator.prepare(unet, optimizer)
        self.step = 0
        self._mean = torch.tensor(mean, device=self.accelerator.device).reshape(1, 3, 1, 1)
        self._std = torch.tensor(std, device=self.accelerator.device).reshape(1, 3, 1, 1)

    def train(self) -> Path:
        """Trains to the last step and saves the averaged pipeline and a grid of its samples in `output_dir`."""
        self.output_dir.mkdir(parents=True, exist_ok=True)
        if self.checkpoint:
            self.load_checkpoint(self.checkpoint)
        self.unet.train()
        bar = tqdm(
            total=self.total_steps,
            initial=self.step,
            desc="training",
            unit="step",
            disable=not self.accelerator.is_main_process,
        )
        window_start, losses = time.perf_counter(), []
        while self.step < self.total_steps:
            losses.append(self.training_step())
            bar.update()
            if self.step % self.config.logging_steps == 0 or self.step == self.total_steps:
                loss = torch.stack(losses).mean().item()
                if not math.isfinite(loss):
                    raise FloatingPointError(
                        f"The loss is {loss} at step {self.step}: resume from the last checkpoint."
                    )
                seconds = time.perf_counter() - window_start
                speed = len(losses) * self.config.train_batch_size / seconds
                self.log(loss=loss, images_per_second=speed)
                bar.set_postfix(loss=f"{loss:.4f}", images=f"{speed:.1f}/s")
                window_start, losses = time.perf_counter(), []
            if self.step % self.config.checkpointing_steps == 0 or self.step == self.total_steps:
                self.save_checkpoint()
        bar.close()
        if self.accelerator.is_main_process:
            self.pipeline().save_pretrained(self.output_dir)
            self.save_samples(self.output_dir / "samples.png")
        self.accelerator.wait_for_everyone()
        return self.output_dir

    def training_step(self) -> torch.Tensor:
        """One optimizer step on the next batch; returns its loss, without waiting for the device."""
        size = self.config.train_batch_size // self.accelerator.num_processes
        share = slice(self.accelerator.process_index * size, (self.accelerator.process_index + 1) * size)
        indices = self.batches(self.step)
        shape = (len(indices), 3, self.config.resolution, self.config.resolution)
        noise, diffusion_time = draw_noise_and_times(shape, self.config.seed, self.step)

        device = self.accelerator.device
        pixels = self.images[indices[share].to(device)].permute(0, 3, 1, 2)
        images = (pixels / 255 - self._mean) / self._std
        noise = noise[share].to(device, memory_format=torch.channels_last)
        loss = diffusion_loss(self.unet, self.scheduler, images, noise, diffusion_time[share].to(device))
        self.accelerator.backward(loss)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.update(self.accelerator.unwrap_model(self.unet, keep_torch_compile=False))
        self.step += 1
        return loss.detach()

    def pipeline(self) -> FlowerDDIMPipeline:
        """The pipeline with the averaged weights: what is sampled from, saved and shipped."""
        return FlowerDDIMPipeline(self.ema.averaged, self.scheduler)

    def save_samples(self, path: Path, num_images: int = 16):
        """Writes a square grid of images, generated from the same noise every time."""
        pipeline = self.pipeline()
        pipeline.set_progress_bar_config(disable=True)
        generators = [torch.Generator().manual_seed(i) for i in range(num_images)]
        images = pipeline(batch_size=num_images, generator=generators).images
        side = math.isqrt(num_images)
        make_image_grid(images, rows=side, cols=side).save(path)

    def log(self, **values: float):
        """Appends a line to `metrics.jsonl`: the step, the images seen so far and `values`."""
        if self.accelerator.is_main_process:
            line = {"step": self.step, "images": self.step * self.config.train_batch_size, **values}
            with open(self.output_dir / "metrics.jsonl", "a") as file:
                file.write(json.dumps(line) + "\n")

    def save_checkpoint(self):
        """Writes `checkpoint-N`: a loadable pipeline of the averaged weights, and all that the run needs to go on.

        The folder gets its name when it is complete, so whoever finds one of that name can rely on it.
        """
        final = self.output_dir / f"{CHECKPOINT_PREFIX}{self.step}"
        unfinished = self.output_dir / f".{final.name}"
        if self.accelerator.is_main_process:
            shutil.rmtree(unfinished, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(unfinished / "state")
        if self.accelerator.is_main_process:
            self.pipeline().save_pretrained(unfinished)
            state = {"step": self.step, "ema_updates": self.ema.num_updates}
            (unfinished / TRAINER_STATE).write_text(json.dumps(state))
            if final.exists():
                shutil.rmtree(final)
            os.replace(unfinished, final)
            for old in list_checkpoints(self.output_dir)[:-2]:
                shutil.rmtree(old)
            self.save_samples(self.output_dir / "samples.png")
        self.accelerator.wait_for_everyone()

    def load_checkpoint(self, checkpoint: Path):
        """Goes on where `checkpoint` was written."""
        self.accelerator.load_state(checkpoint / "state")
        averaged = FlowerUNet2DModel.from_pretrained(checkpoint / "unet")
        self.ema.averaged.load_state_dict(averaged.state_dict())
        state = json.loads((checkpoint / TRAINER_STATE).read_text())
        self.step, self.ema.num_updates = state["step"], state["ema_updates"]


def train(config: TrainingConfig) -> Path:
    """Trains as `config` says; returns the folder with the pipeline."""
    return Trainer(config).train()
