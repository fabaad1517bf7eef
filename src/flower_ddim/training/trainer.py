"""The training: the loss of a batch, and the loop around it."""

import math
import shutil
import signal
import sys
import time
from collections.abc import Collection
from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.logging import get_logger
from accelerate.utils import DistributedDataParallelKwargs, ProjectConfiguration, TorchDynamoPlugin, set_seed
from tqdm.auto import tqdm

from ..hub.upload import upload_pipeline
from ..pipelines.pipeline_flower_ddim import FlowerDDIMPipeline
from ..sampling.compilation import check_compiler
from ..storage.files import write_text
from ..storage.hub_client import create_repository
from . import checkpoints
from .batches import Batches
from .config import TrainingConfig
from .ema import ExponentialMovingAverage, share_statistics
from .log import MetricsLog, Window, plot_loss, sample_grid, show_images, trackable
from .loss import ZERO_NOISE_LOSS, diffusion_loss
from .optimizers import learning_rate_factor, make_optimizers
from .setup import build_model, check_length, check_threads, describe, load_pictures
from .validation import KidWatch, validation_losses


logger = get_logger(__name__)

# Options that a run goes on with as it began: they decide what is in a checkpoint, or what the numbers of its log mean.
FIXED_OPTIONS = ("use_ema", "growth_steps", "optimizer", "channels_last", "loss")

_TIME_IS_UP = 1000  # among the reasons to stop, beside the numbers of signals


class Trainer:
    """One training run: everything is prepared, and checked, by the constructor; nothing is written before [`train`]."""

    def __init__(self, config: TrainingConfig):
        self.config = config
        self.output_dir = Path(config.output_dir)
        self.checkpoint = checkpoints.find_checkpoint(self.output_dir, config.resume_from_checkpoint)
        self.metrics = MetricsLog(self.output_dir / "metrics.jsonl")
        self._check_output_dir()
        self.accelerator = Accelerator(
            mixed_precision=config.mixed_precision,
            # Every size of pictures is compiled on its own, which makes quicker code than one for all.
            dynamo_plugin=TorchDynamoPlugin(backend="inductor", dynamic=False) if config.compile else None,
            log_with=config.logger,
            project_config=ProjectConfiguration(logging_dir=str(self.output_dir / config.logging_dir)),
            # BatchNorm statistics are averaged over the processes after every step, see `share_statistics`.
            # Levels that a network has not grown yet have no gradients.
            kwargs_handlers=[
                DistributedDataParallelKwargs(
                    broadcast_buffers=False, find_unused_parameters=config.growth_steps is not None
                )
            ],
        )
        if config.compile and self.accelerator.device.type == "cpu":
            check_compiler()
        if config.optimizer == "muon" and self.accelerator.mixed_precision == "fp16":
            # The scale of the gradients is kept for one optimizer.
            raise ValueError("`optimizer` muon does not go with `mixed_precision` fp16: choose bf16.")
        set_seed(config.seed)
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        if self.accelerator.device.type == "cpu":
            check_threads(world)
        self.global_batch = config.train_batch_size * config.gradient_accumulation_steps * world

        with self.accelerator.local_main_process_first():  # the others find the decoded pictures in the cache
            self.pictures = load_pictures(config, self.global_batch, rank, world)
        batches = self.pictures.batches
        self.steps_per_epoch = batches.batches_per_epoch if batches else None
        self.total_steps = config.max_train_steps or config.num_epochs * self.steps_per_epoch
        check_length(config, self.total_steps)
        unet, self.scheduler = build_model(config, self.pictures.channels, self.pictures.mean, self.pictures.std)
        self.description = describe(config, unet, self.total_steps, self.global_batch)
        self._prepare(unet)
        watched = config.eval_kid_epochs > 0
        self.kid_watch = KidWatch(config, self.accelerator, self.pictures.validation) if watched else None
        self.repo_id = None
        if config.push_to_hub and not config.dry_run and self.accelerator.is_main_process:
            repo_id = config.hub_model_id or self.output_dir.name
            self.repo_id = create_repository(repo_id, config.hub_token, config.hub_private_repo or None)
        self.step = self.images_seen = self._stop_reason = 0

    def _prepare(self, unet: torch.nn.Module):
        """Puts the network, its average and its optimizers where and how they are needed."""
        config, device = self.config, self.accelerator.device
        unet = unet.to(device)
        if config.channels_last:
            unet = unet.to(memory_format=torch.channels_last)
        if config.sync_batchnorm:
            if device.type != "cuda":
                raise ValueError(f"`sync_batchnorm` needs GPUs, but this runs on {device.type}: leave it out.")
            unet = torch.nn.SyncBatchNorm.convert_sync_batchnorm(unet)
        self.ema = ExponentialMovingAverage(unet, config.ema_max_decay, config.ema_power, config.ema_inv_gamma)
        optimizers = make_optimizers(unet, config)
        self._lr_factor = learning_rate_factor(optimizers[0], config, self.total_steps)
        self.raw_unet = unet
        self.unet, *self.optimizers = self.accelerator.prepare(unet, *optimizers)
        statistics = (unet.config.get(name, 0.5) for name in ("image_mean", "image_std"))
        self.batches = Batches(config, self.accelerator, self.pictures, unet.config.in_channels, *statistics)

    def _check_output_dir(self):
        if self.config.overwrite_output_dir:
            return
        resumes = self.config.resume_from_checkpoint is not None
        last_logged = max(self.metrics.values("step"), default=0)
        checkpoints.check_output_dir(self.output_dir, resumes, self.checkpoint, last_logged)

    def train(self) -> Path:
        """Trains to the last step and saves the pipeline and a grid of its samples in `output_dir`.

        SIGTERM and SIGINT let the step finish, save a checkpoint and leave with the conventional exit code.
        """
        self._start = time.monotonic()
        self._prepare_output_dir()
        if self.checkpoint:
            checkpoints.read_checkpoint(self.checkpoint, self._load_state)
            logger.info(f"Going on from {self.checkpoint}.")
        if self.accelerator.is_main_process:
            if self.checkpoint and self.checkpoint.parent.resolve() == self.output_dir.resolve():
                checkpoints.set_later_checkpoints_aside(self.checkpoint)
            self.metrics.forget_after(self.step)
            write_text(self.output_dir / "training.yaml", self.description)
        logger.info(f"A network that predicts no noise at all has a mean absolute error of {ZERO_NOISE_LOSS:.3f}.")
        if self.config.logger:
            self.accelerator.init_trackers("flower-ddim", config=trackable(self.config))
        previous = {number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            self._loop()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            if self.accelerator.is_main_process and self.metrics.values("loss"):
                plot_loss(self.metrics.path, self.output_dir / "loss.png")
        # PyTorch hangs if a process group is torn down while its thread still lets go of the tensors of the last reduction.
        self.accelerator.wait_for_everyone()
        if self.step < self.total_steps:
            signalled = f"it was told to by signal {self._stop_reason}"
            reason = "its time is up" if self._stop_reason == _TIME_IS_UP else signalled
            logger.warning(f"The training stopped after step {self.step} since {reason}; resume with latest.")
            if self._stop_reason != _TIME_IS_UP:
                sys.exit(128 + self._stop_reason)
        if growing := self.batches.finest_level(self.step - 1) > 0:
            logger.warning(
                "The network is still growing, and what it generates is noise: go on to the end of `growth_steps`."
            )
        if self.accelerator.is_main_process:
            self.save_pipeline(self.output_dir)
            if not growing:
                self.save_samples(self.output_dir / "samples.png")
                if self.repo_id:
                    address = upload_pipeline(self.output_dir, self.repo_id, self.config.hub_token)
                    logger.warning(f"The pipeline was uploaded: {address}")
        return self.output_dir

    def _loop(self):
        self.unet.train()
        if self.checkpoint:  # the run that wrote it may have been killed before it came to this
            self._evaluate(self._ended_epoch(), self.step == self.total_steps, self.metrics.names(self.step))
        bar = tqdm(
            total=self.total_steps,
            initial=self.step,
            desc="training",
            unit="step",
            disable=not self.accelerator.is_main_process,
        )
        window = Window(self.accelerator, self.step)
        stopping = False
        while self.step < self.total_steps and not stopping:
            window.add(*self.training_step())
            bar.update()
            stopping = self._stopping()
            last = self.step == self.total_steps or stopping
            epoch = self._ended_epoch()
            # A folder that holds a model is gone on with from a checkpoint, or not at all.
            checkpoint_due = (
                last
                or self.step % self.config.checkpointing_steps == 0
                or _is_due(epoch, self.config.save_model_epochs)
            )
            report = checkpoint_due or epoch or self.step % self.config.logging_steps == 0
            if report:
                # Closing the window finds a loss that is not finite, before anything could keep what caused it.
                metrics = window.close(self.global_batch)
                self.log(**metrics, lr=self.learning_rate(self.step - 1))
                self._warn_of_zero_noise(metrics["loss"])
                bar.set_postfix(loss=f"{metrics['loss']:.4f}", images=f"{metrics['images_per_second']:.1f}/s")
            if checkpoint_due:
                self.save_checkpoint()
            # Only now: nothing that fails here costs what a checkpoint of this step has saved.
            self._evaluate(epoch, last=self.step == self.total_steps)
            if report:
                window = Window(self.accelerator, self.step)
        bar.close()

    def _ended_epoch(self) -> int:
        """Number of the epoch that this step has ended, counted from 1, or 0."""
        epoch, into_epoch = divmod(self.step, self.steps_per_epoch) if self.steps_per_epoch else (0, 0)
        return 0 if into_epoch else epoch

    def _evaluate(self, epoch: int, last: bool, done: Collection[str] = ()):
        """Validates, and writes samples and the pipeline, where an epoch has ended that asks for it; `done` is in the log."""
        if self.batches.finest_level(self.step - 1):
            return  # a network that is still growing leaves noise on its pictures

        validates = self.pictures.validation and (_is_due(epoch, self.config.validation_epochs) or last)
        if validates and "validation_loss" not in done:
            networks = {"validation_loss": self.raw_unet, "validation_loss_ema": self.ema.averaged}
            self.raw_unet.eval()
            self.log(**validation_losses(networks, self.scheduler, self.batches, self.accelerator, self.config))
            self.raw_unet.train()
        if self.kid_watch and (_is_due(epoch, self.config.eval_kid_epochs) or last) and "kid" not in done:
            self._measure_kid()
        if self.accelerator.is_main_process and _is_due(epoch, self.config.save_images_epochs):
            self.save_samples(self.output_dir / "samples" / f"epoch-{epoch:04}.png")
        if self.accelerator.is_main_process and _is_due(epoch, self.config.save_model_epochs):
            self.save_pipeline(self.output_dir)

    def _measure_kid(self):
        """Logs the KID; the pipeline of the lowest one is kept in `output_dir/best`."""
        measured = self.kid_watch(self.pipeline())
        if self.accelerator.is_main_process:
            is_best = measured["kid"] < min(self.metrics.values("kid"), default=math.inf)
            if is_best:
                self.save_pipeline(self.output_dir / "best")
        self.log(**measured)

    def training_step(self) -> tuple[torch.Tensor, torch.Tensor]:
        """One optimizer step; returns its loss and the norm of its gradient, without waiting for the device."""
        accumulation = self.config.gradient_accumulation_steps
        level = self.batches.finest_level(self.step)
        options = {"finest_level": level} if level else {}  # which stock networks do not know
        losses = []
        for part in range(accumulation):
            batch = self.batches.training(self.step, part)
            with nullcontext() if part == accumulation - 1 else self.accelerator.no_sync(self.unet):
                loss = diffusion_loss(self.unet, self.scheduler, *batch, self.config.loss, **options)
                self.accelerator.backward(loss / accumulation)
            losses.append(loss.detach())
        grad_norm = self.accelerator.clip_grad_norm_(self.unet.parameters(), self.config.max_grad_norm or math.inf)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate(self.step)
            optimizer.step()
            optimizer.zero_grad()
        share_statistics(self.raw_unet, self.accelerator)
        self.ema.update(self.raw_unet)
        self.step += 1
        self.images_seen += self.global_batch
        if self.batches.finest_level(self.step) != level:
            # It would hold the new levels back by what they were when they did nothing.
            self.ema.restart(self.raw_unet)
        return torch.stack(losses).mean(), grad_norm

    def learning_rate(self, step: int) -> float:
        """Learning rate of the optimizer step `step`, counted from 0."""
        return self.config.learning_rate * self._lr_factor(step)

    def pipeline(self) -> FlowerDDIMPipeline:
        """The pipeline that is sampled from, saved and shipped: of the averaged weights, unless `use_ema` is off."""
        return FlowerDDIMPipeline(self.ema.averaged if self.config.use_ema else self.raw_unet, self.scheduler)

    def save_pipeline(self, folder: Path):
        """Writes the pipeline into `folder`, in place of an earlier one."""
        unfinished = self.output_dir / ".pipeline"
        self.pipeline().save_pretrained(unfinished)
        checkpoints.replace_files(unfinished, folder)

    def save_samples(self, path: Path):
        """Writes a grid of images, generated from the same noise every time; its metadata says with which weights."""
        weights = "the moving average" if self.config.use_ema else "the last weights"
        images = sample_grid(
            self.pipeline(), self.config.eval_batch_size, path, f"generated with {weights} of step {self.step}"
        )
        show_images(self.accelerator.trackers, f"samples of {weights}", images, self.step)

    def log(self, **values: float):
        """Adds a line to `metrics.jsonl`, the step, the images seen so far and `values`, and tells the tracker."""
        if self.accelerator.is_main_process:
            self.metrics.append(step=self.step, images=self.images_seen, **values)
        self.accelerator.log(values, step=self.step)

    def save_checkpoint(self):
        """Writes `checkpoint-N`: a loadable pipeline, and under `state` all that the run needs to go on."""
        unfinished = checkpoints.unfinished_folder(self.output_dir, self.step)
        try:
            self.accelerator.save_state(unfinished / "state")
            self.accelerator.wait_for_everyone()  # every process has written its part
            if self.accelerator.is_main_process:
                self.pipeline().save_pretrained(unfinished)
                if not self.config.use_ema:  # then the pipeline does not hold the average
                    self.ema.averaged.save_pretrained(unfinished / "state" / "ema")
                state = {"ema_updates": self.ema.num_updates, "images_seen": self.images_seen}
                state |= self._data_order()
                state |= {name: getattr(self.config, name) for name in FIXED_OPTIONS}
                checkpoints.finish_checkpoint(self.output_dir, self.step, state)
                checkpoints.rotate_checkpoints(self.output_dir, self.config.checkpoints_total_limit)
        except Exception as error:  # a full disk is an OSError, a RuntimeError or a SafetensorError, whoever meets it
            if self.accelerator.is_main_process:
                checkpoints.discard_unfinished(self.output_dir)
            kept = checkpoints.list_checkpoints(self.output_dir)
            good = f"the last good one is {kept[-1]}" if kept else "there is none yet"
            raise OSError(f"The checkpoint of step {self.step} could not be written ({error}); {good}.") from error
        self.accelerator.wait_for_everyone()

    def _load_state(self, state: dict):
        """Takes over what `save_checkpoint` wrote."""
        differing = checkpoints.differences(self.checkpoint, {"unet": self.raw_unet, "scheduler": self.scheduler})
        for name in FIXED_OPTIONS:
            value = getattr(self.config, name)
            if state[name] != value:
                differing.append(f"{name} {state[name]} there, {value} here")
        if differing:
            raise ValueError(
                f"The checkpoint {self.checkpoint} is of another training ({'; '.join(differing)}): give the same options and "
                "pictures, or go on from its weights with `--init_from`."
            )
        for name, value in self._data_order().items():
            if state[name] != value:
                logger.warning(
                    f"The checkpoint was written with `{name}` {state[name]}, this run has {value}: data order changes."
                )
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

    def _prepare_output_dir(self):
        if self.accelerator.is_main_process:
            try:
                self.output_dir.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OSError(f"`output_dir` cannot be used ({error}): name one that you may write to.") from error
            checkpoints.discard_unfinished(self.output_dir)
            if self.config.overwrite_output_dir:
                for old in checkpoints.list_checkpoints(self.output_dir):
                    checkpoints.remove_checkpoint(old)
                self.metrics.path.unlink(missing_ok=True)
                shutil.rmtree(self.output_dir / "best", ignore_errors=True)
        self.accelerator.wait_for_everyone()

    def _on_signal(self, number, _):
        self._stop_reason = number

    def _stopping(self) -> bool:
        """Whether any process was told to stop, or its time is up: all must leave after the same step."""
        minutes = self.config.max_train_minutes
        if minutes and time.monotonic() - self._start > 60 * minutes:
            self._stop_reason = self._stop_reason or _TIME_IS_UP
        number = self._stop_reason
        if self.accelerator.num_processes > 1:
            own = torch.tensor([number], device=self.accelerator.device)
            number = int(self.accelerator.gather(own).max())
        # A signal that arrives while the others are asked must not be forgotten, nor make this process leave before them.
        self._stop_reason = self._stop_reason or number
        return number > 0

    def _warn_of_zero_noise(self, loss: float):
        is_baseline = self.config.loss == "mae" and self.scheduler.config.prediction_type == "epsilon"
        zero_noise = ZERO_NOISE_LOSS / 2 ** self.batches.finest_level(self.step - 1)  # pooled noise is weaker
        if is_baseline and self.step >= min(500, self.total_steps) and loss > 0.97 * zero_noise:
            logger.warning(f"The loss {loss:.3f} is still that of predicting no noise: is the learning rate sensible?")


def _is_due(epoch: int, every: int) -> bool:
    """Whether something is due after an epoch, counted from 1 (0 is none), that is asked for after `every` of them (0 is never)."""
    return every > 0 and epoch > 0 and epoch % every == 0


def train(config: TrainingConfig) -> Path | None:
    """Trains as `config` says and returns the folder with the pipeline; a dry run prints what it would do instead."""
    trainer = Trainer(config)
    if config.dry_run:
        if trainer.accelerator.is_main_process:
            print(trainer.description)
        return None
    try:
        return trainer.train()
    finally:
        trainer.accelerator.end_training()
