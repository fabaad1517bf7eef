"""The training: one step from pictures to the moving average, and the loop around it."""

import math
import sys
from collections.abc import Collection
from contextlib import nullcontext
from pathlib import Path

import torch
import yaml
from accelerate.utils import set_seed
from tqdm.auto import tqdm

from ..pipelines.pipeline_flower_ddim import FlowerDDIMPipeline
from ..storage.checksums import weights_checksum
from ..storage.files import write_json, write_text
from . import checkpoints, resuming
from .batches import Batches
from .config import TrainingConfig, fixed_options
from .ema import ExponentialMovingAverage, share_statistics
from .growth import GrowingUNet, finest_level_at
from .log import (
    LogWindow,
    MetricsLog,
    dispensable,
    main_process_logger,
    plot_loss,
    sample_grid,
    show_images,
    trackable,
)
from .loss import ZERO_NOISE_LOSS, diffusion_loss, warn_of_zero_noise
from .optimizers import learning_rate_factor, make_optimizers
from .output import OutputFolder
from .pictures import load_pictures
from .publishing import prepare_repository, publish
from .setup import build_model, check_length, describe, make_accelerator, place_network
from .stopping import StopReason, StopWatch
from .validation import KidWatch, validation_losses


logger = main_process_logger(__name__)


class Trainer:
    """One training run: the constructor prepares and checks everything; nothing is written before [`train`]."""

    def __init__(self, config: TrainingConfig):
        self.config = config
        self.output_dir = Path(config.output_dir)
        self.output = OutputFolder(self.output_dir)
        self.metrics = MetricsLog(self.output_dir / "metrics.jsonl")
        self.checkpoint = checkpoints.find_checkpoint(self.output_dir, config.resume_from_checkpoint)
        last_logged = max(self.metrics.values("step"), default=0)
        self.output.check(config, self.checkpoint, last_logged)
        self.accelerator = make_accelerator(config)
        set_seed(config.seed)
        world = self.accelerator.num_processes
        self.global_batch = config.train_batch_size * config.gradient_accumulation_steps * world

        with self.accelerator.local_main_process_first():  # the others find the decoded pictures in the cache
            self.pictures = load_pictures(config, self.global_batch, self.accelerator.process_index, world)
        batches = self.pictures.batches
        self.steps_per_epoch = batches.batches_per_epoch if batches else None
        self.total_steps = config.max_train_steps or config.num_epochs * self.steps_per_epoch
        check_length(config, self.total_steps)

        unet, self.scheduler = build_model(config, self.pictures)
        self.description = describe(config, unet, self.pictures, self.total_steps, self.global_batch)
        self.raw_unet = place_network(unet, config, self.accelerator)  # without what accelerate wraps around it
        self.growing = GrowingUNet(self.raw_unet, len(config.growth_steps)) if config.growth_steps else None
        self.ema = ExponentialMovingAverage(
            self.raw_unet, config.ema_max_decay, config.ema_power, config.ema_inv_gamma
        )
        optimizers = make_optimizers(self.raw_unet, config)
        self._lr_factor = learning_rate_factor(optimizers[0], config, self.total_steps)
        self.unet, *self.optimizers = self.accelerator.prepare(self.growing or self.raw_unet, *optimizers)
        statistics = (unet.config.get(name, 0.5) for name in ("image_mean", "image_std"))
        self.batches = Batches(config, self.accelerator, self.pictures, unet.config.in_channels, *statistics)
        watches_kid = config.eval_kid_epochs > 0
        self.kid_watch = KidWatch(config, self.accelerator, self.pictures.validation) if watches_kid else None
        self.repo_id = None
        if config.push_to_hub and not config.dry_run and self.accelerator.is_main_process:
            self.repo_id = prepare_repository(config)
        self.step = self.images_seen = 0
        self.was_complete = False  # whether the checkpoint that it resumes from has made all steps
        self.record = {"options": self.description["options"], "history": []}  # of the weights

    # ---- One step

    def training_step(self) -> tuple[torch.Tensor, torch.Tensor]:
        """One optimizer step; returns its loss and the norm of its gradient, without waiting for the device."""
        config, accelerator = self.config, self.accelerator
        level = finest_level_at(self.step, config.growth_steps)
        if self.growing:
            self.growing.finest_level = level
        losses = []
        for part in range(config.gradient_accumulation_steps):
            # Pictures, noise, diffusion times and classes, then noisy images, prediction and loss.
            batch = self.batches.training(self.step, part, reduction=2**level)
            is_last = part == config.gradient_accumulation_steps - 1
            with nullcontext() if is_last else accelerator.no_sync(self.unet):
                loss = diffusion_loss(self.unet, self.scheduler, *batch, config.loss)
                accelerator.backward(loss / config.gradient_accumulation_steps)
            losses.append(loss.detach())
        grad_norm = accelerator.clip_grad_norm_(self.unet.parameters(), config.max_grad_norm or math.inf)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate(self.step)
            optimizer.step()
            optimizer.zero_grad()
        share_statistics(self.raw_unet, accelerator)
        self.ema.update(self.raw_unet)
        self.step += 1
        self.images_seen += self.global_batch
        if finest_level_at(self.step, config.growth_steps) != level:
            # The average would hold the new level back by what it was when it did nothing.
            self.ema.restart(self.raw_unet)
        return torch.stack(losses).mean(), grad_norm

    def learning_rate(self, step: int) -> float:
        """Learning rate of the optimizer step `step`, counted from 0."""
        return self.config.learning_rate * self._lr_factor(step)

    @property
    def is_growing(self) -> bool:
        """Whether the last step left a part of the network out: what it generates is then noise."""
        return finest_level_at(self.step - 1, self.config.growth_steps) > 0

    # ---- The loop around it

    def train(self) -> Path:
        """Trains to the last step and saves the pipeline and a grid of its samples in `output_dir`.

        SIGTERM and SIGINT let the step finish, save a checkpoint and leave with the conventional exit code.
        """
        with StopWatch(self.accelerator, self.config.max_train_minutes) as watch:
            self._begin()
            try:
                self._loop(watch)
            finally:
                if self.accelerator.is_main_process:
                    with dispensable("The loss curve"):
                        if self.metrics.values("loss"):
                            plot_loss(self.metrics.path, self.output.claim("loss.png"))
        # PyTorch hangs if a process group is torn down while its thread still lets go of the tensors of the last reduction.
        self.accelerator.wait_for_everyone()
        if self.step < self.total_steps:
            logger.warning(
                f"The training stopped after step {self.step} because {watch.reason.words}; resume with "
                "`--resume_from_checkpoint latest`."
            )
            if watch.reason.exit_code:
                sys.exit(watch.reason.exit_code)
        if self.is_growing:
            logger.warning("The network is still growing and generates noise: resume to the end of `growth_steps`.")
        if self.accelerator.is_main_process:
            self._finish()
        return self.output_dir

    def _begin(self):
        """Prepares the output folder, and takes over the checkpoint that the run resumes from, if any."""
        if self.accelerator.is_main_process:
            self.output.prepare(self.config.overwrite_output_dir)
        self.accelerator.wait_for_everyone()
        if self.checkpoint:
            checkpoints.read_checkpoint(self.checkpoint, self._load_state)
            logger.info(f"Resuming from {self.checkpoint}.")
        if self.was_complete:
            logger.warning(
                f"Nothing is left to do: {self.checkpoint} has made all {self.total_steps:,} steps; more are made with a larger "
                "`--max_train_steps` or `--num_epochs`."
            )
        if self.accelerator.is_main_process:
            if self.checkpoint and self.checkpoint.parent.resolve() == self.output_dir.resolve():
                checkpoints.set_later_checkpoints_aside(self.checkpoint)
                self.output.set_pipelines_aside(self.step)
            self.output.claim("metrics.jsonl")
            self.metrics.forget_after(self.step)
            if not self.was_complete:
                record = self.description | ({"history": history} if (history := self.record["history"]) else {})
                write_text(self.output.claim("training.yaml"), yaml.safe_dump(record, sort_keys=False))
        logger.info(f"A network that predicts no noise at all has a mean absolute error of {ZERO_NOISE_LOSS:.3f}.")
        if self.config.logger:
            self.accelerator.init_trackers("flower-ddim", config=trackable(self.config))

    def _loop(self, watch: StopWatch):
        self.unet.train()
        if self.checkpoint:  # the run that wrote it may have been killed before it evaluated
            self._evaluate(self._ended_epoch(), self.step == self.total_steps, self.metrics.names(self.step))
        quiet = not self.accelerator.is_main_process
        bar = tqdm(total=self.total_steps, initial=self.step, desc="training", unit="step", disable=quiet)
        window, reason = LogWindow(self.accelerator, self.step), StopReason.NONE
        while self.step < self.total_steps and not reason:
            window.add(*self.training_step())
            bar.update()
            reason = watch.ask()
            epoch, ends = self._ended_epoch(), bool(reason) or self.step == self.total_steps
            checkpoint_is_due = self._checkpoint_is_due(epoch, ends)
            logs = checkpoint_is_due or epoch or self.step % self.config.logging_steps == 0
            if logs:
                # Closing the window finds a loss that is not finite, before a checkpoint could keep what caused it.
                metrics = window.close(self.global_batch)
                self.log(**metrics, lr=self.learning_rate(self.step - 1))
                self._check_learning(metrics["loss"])
                bar.set_postfix(loss=f"{metrics['loss']:.4f}", images=f"{metrics['images_per_second']:.1f}/s")
            if checkpoint_is_due:
                self.save_checkpoint()
            # After the checkpoint: whatever fails here loses no step.
            self._evaluate(epoch, last=self.step == self.total_steps)
            if logs:
                window = LogWindow(self.accelerator, self.step)
        bar.close()

    def _finish(self):
        """Saves, and uploads, the pipeline and its samples."""
        is_there = self.was_complete and self.output.step_of_pipeline() == self.step
        if not is_there:
            self.save_pipeline()
        if not self.is_growing:
            if not is_there:
                self.save_samples("samples.png")
            if self.repo_id:
                address = publish(self.pipeline(), self.repo_id, self.config)
                logger.warning(f"The pipeline was uploaded: {address}")

    def _ended_epoch(self) -> int:
        """Number of the epoch that this step has ended, counted from 1, or 0."""
        epoch, into_epoch = divmod(self.step, self.steps_per_epoch) if self.steps_per_epoch else (0, 0)
        return 0 if into_epoch else epoch

    def _checkpoint_is_due(self, epoch: int, ends: bool) -> bool:
        # A run resumes only from a checkpoint, so one is written whenever the pipeline is saved.
        saves_pipeline = _is_due(epoch, self.config.save_model_epochs)
        return ends or saves_pipeline or self.step % self.config.checkpointing_steps == 0

    def _evaluate(self, epoch: int, last: bool, done: Collection[str] = ()):
        """Validates, and writes samples and the pipeline, where they are due after this epoch; `done` is in the log."""
        config = self.config
        if self.is_growing:
            return
        validates = self.pictures.validation and (_is_due(epoch, config.validation_epochs) or last)
        if validates and "validation_loss" not in done:
            networks = {"validation_loss": self.raw_unet, "validation_loss_ema": self.ema.averaged}
            self.raw_unet.eval()
            self.log(**validation_losses(networks, self.scheduler, self.batches, self.accelerator, config))
            self.raw_unet.train()
        if self.kid_watch and (_is_due(epoch, config.eval_kid_epochs) or last) and "kid" not in done:
            self._measure_kid()
        if not self.accelerator.is_main_process:
            return
        if _is_due(epoch, config.save_model_epochs):
            self.save_pipeline()
        if _is_due(epoch, config.save_images_epochs):
            self.save_samples(f"samples/epoch-{epoch:04}.png")
        if _is_due(self.step, config.save_images_steps):
            self.save_samples(f"samples/step-{self.step:07}.png")

    def _measure_kid(self):
        """Logs the KID; the pipeline of the lowest one is kept in `output_dir/best`."""
        measured = self.kid_watch(self.pipeline())
        if self.accelerator.is_main_process and measured["kid"] < min(self.metrics.values("kid"), default=math.inf):
            self.save_pipeline("best")
        self.log(**measured)

    def _check_learning(self, loss: float):
        predicts_noise = self.config.loss == "mae" and self.scheduler.config.prediction_type == "epsilon"
        if predicts_noise and self.step >= min(500, self.total_steps):
            warn_of_zero_noise(loss, finest_level_at(self.step - 1, self.config.growth_steps))

    # ---- What it writes

    def pipeline(self) -> FlowerDDIMPipeline:
        """The pipeline that is sampled from, saved and shipped: of the averaged weights, unless `use_ema` is off."""
        return FlowerDDIMPipeline(self.ema.averaged if self.config.use_ema else self.raw_unet, self.scheduler)

    def save_pipeline(self, folder: str = ""):
        """Writes the pipeline into a folder of the output folder, or into that itself, in place of an earlier one."""
        unfinished = self.output_dir / ".pipeline"
        self._write_pipeline(unfinished)
        self.output.replace_files(unfinished, folder)

    def _write_pipeline(self, folder: Path):
        """Saves the pipeline, and beside it which step its weights are of, and with which options they were made."""
        pipeline = self.pipeline()
        pipeline.save_pretrained(folder)
        weights = weights_checksum(pipeline.unet.state_dict())
        state = {"weights": weights, "step": self.step, "images_seen": self.images_seen}
        write_json(folder / checkpoints.PIPELINE_STATE_FILE, state | self.record)

    def save_samples(self, name: str):
        """Writes a grid of images, generated from the same noise every time; its metadata says with which weights."""
        weights = "the moving average" if self.config.use_ema else "the last weights"
        comment = f"generated with {weights} of step {self.step}"
        with dispensable(name):
            images = sample_grid(self.pipeline(), self.config.num_sample_images, self.output.claim(name), comment)
            show_images(self.accelerator.trackers, f"samples of {weights}", images, self.step)

    def log(self, **values: float):
        """Adds a line to `metrics.jsonl`, the step, the images seen so far and `values`, and tells the tracker."""
        if self.accelerator.is_main_process:
            self.metrics.append(step=self.step, images=self.images_seen, **values)
        self.accelerator.log(values, step=self.step)

    def save_checkpoint(self):
        """Writes `checkpoint-N`: a loadable pipeline, and under `state` all that the run needs to resume."""
        state = {"ema_updates": self.ema.num_updates, "images_seen": self.images_seen} | self._data_order()
        state |= {name: getattr(self.config, name) for name in fixed_options()}
        # After the last step it is that of this one: a run that goes on further is to be compared with something.
        state |= self.record | {"next_learning_rate": self.learning_rate(min(self.step, self.total_steps - 1))}
        limit = self.config.checkpoints_total_limit
        with checkpoints.writing_checkpoint(self.output_dir, self.step, state, limit, self.accelerator) as folder:
            self.accelerator.save_state(folder / "state")
            if self.accelerator.is_main_process:
                self._write_pipeline(folder)
                if not self.config.use_ema:  # then the pipeline does not hold the average
                    self.ema.averaged.save_pretrained(folder / "state" / "ema")

    def _load_state(self, state: dict):
        """Takes over what `save_checkpoint` wrote."""
        components = {"unet": self.raw_unet, "scheduler": self.scheduler}
        differing = checkpoints.differences(self.checkpoint, components)
        pictures = self._data_order()["pictures"]
        resuming.check_resumable(state, self.checkpoint, self.total_steps, pictures, self.config, differing)
        changed = resuming.changed_options(state, self.config)
        self.was_complete = state["step"] == self.total_steps
        self.record = resuming.record_of(state, changed, self.config, self.total_steps)
        if not self.was_complete:
            resuming.warn_of_changes(state, changed, self.learning_rate(state["step"]), self._data_order())
        self.accelerator.load_state(self.checkpoint / "state")
        folder = self.checkpoint / ("unet" if self.config.use_ema else "state/ema")
        averaged = type(self.ema.averaged).from_pretrained(folder)
        self.ema.averaged.load_state_dict(averaged.state_dict())
        self.step, self.images_seen, self.ema.num_updates = state["step"], state["images_seen"], state["ema_updates"]

    def _data_order(self) -> dict[str, int | None]:
        """What decides which pictures a step is given."""
        return {
            "global_batch": self.global_batch,
            "seed": self.config.seed,
            "dataset_repeats": self.config.dataset_repeats,
            "pictures": len(self.pictures.train) if self.pictures.train else None,
        }


def _is_due(number: int, every: int) -> bool:
    """True after every `every`-th epoch or step; 0 means never."""
    return every > 0 and number > 0 and number % every == 0
