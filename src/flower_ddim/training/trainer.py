"""The training: the loop around the steps of what learns, and all that it writes."""

import math
import sys
from collections.abc import Collection
from pathlib import Path

import yaml
from accelerate.utils import set_seed
from tqdm.auto import tqdm

from ..storage.checksums import weights_checksum
from ..storage.files import write_json, write_text
from . import checkpoints, resuming
from .config import TrainingConfig, fixed_options
from .distillation import load_teacher
from .growth import finest_level_at
from .learner import Learner
from .log import (
    LogWindow,
    MetricsLog,
    dispensable,
    plot_loss,
    sample_grid,
    show_images,
    trackable,
)
from .loss import ZERO_NOISE_LOSS, warn_of_zero_noise
from .messages import main_process_logger
from .output import OutputFolder
from .pictures import load_pictures
from .publishing import prepare_repository, publish
from .setup import check_length, describe, make_accelerator
from .stopping import StopReason, StopWatch
from .validation import KidWatch, validation_losses


logger = main_process_logger(__name__)


class Trainer:
    """One training run: the constructor prepares and checks everything; nothing is written before [`train`]."""

    def __init__(self, config: TrainingConfig):
        teacher = None
        if config.teacher:
            teacher, config = load_teacher(config)
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
            classes = list(teacher.labels) if teacher else None
            self.pictures = load_pictures(config, self.global_batch, self.accelerator.process_index, world, classes)
        batches = self.pictures.batches
        self.steps_per_epoch = batches.batches_per_epoch if batches else None
        self.total_steps = config.max_train_steps or config.num_epochs * self.steps_per_epoch
        check_length(config, self.total_steps)

        sizes = self.total_steps, self.global_batch
        self.learner = Learner(config, self.accelerator, self.pictures, *sizes, teacher)
        unet = self.learner.raw_unet
        self.description = describe(config, unet, self.pictures, *sizes)
        # A dry run decodes no pictures for validation.
        watches_kid = config.eval_kid_epochs > 0 and self.pictures.validation is not None
        self.kid_watch = KidWatch(config, self.accelerator, self.pictures.validation) if watches_kid else None
        self.repo_id = None
        if config.push_to_hub and not config.dry_run and self.accelerator.is_main_process:
            self.repo_id = prepare_repository(config)
        self.was_complete = False  # whether the checkpoint that it resumes from has made all steps
        self.record = {"options": self.description["options"], "history": []}  # of the weights

    @property
    def step(self) -> int:
        """Optimizer steps made so far."""
        return self.learner.step

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
        if self.learner.is_growing:
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
            if self.config.teacher:
                remedy = "train a student of this one for fewer steps"
            else:
                remedy = "raise `--max_train_steps` or `--num_epochs`"
            logger.warning(
                f"Nothing is left to do: {self.checkpoint} has made all {self.total_steps:,} steps; to go on, {remedy}."
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
        if self.config.teacher:
            logger.info(
                f"The student learns to make in {self.config.student_steps} steps what its teacher makes in "
                f"{self.config.teacher_steps}."
            )
        else:
            logger.info(f"A network that predicts no noise at all has a mean absolute error of {ZERO_NOISE_LOSS:.3f}.")
        if self.config.logger:
            self.accelerator.init_trackers("flower-ddim", config=trackable(self.config))

    def _loop(self, watch: StopWatch):
        self.learner.train_mode()
        if self.checkpoint:  # the run that wrote it may have been killed before it evaluated
            self._evaluate(self._ended_epoch(), self.step == self.total_steps, self.metrics.names(self.step))
        quiet = not self.accelerator.is_main_process
        bar = tqdm(total=self.total_steps, initial=self.step, desc="training", unit="step", disable=quiet)
        window, reason = LogWindow(self.accelerator, self.step), StopReason.NONE
        while self.step < self.total_steps and not reason:
            window.add(*self.learner.training_step())
            bar.update()
            reason = watch.ask()
            epoch, ends = self._ended_epoch(), bool(reason) or self.step == self.total_steps
            checkpoint_is_due = self._checkpoint_is_due(epoch, ends)
            logs = checkpoint_is_due or epoch or self.step % self.config.logging_steps == 0
            if logs:
                # Closing the window finds a loss that is not finite, before a checkpoint could keep what caused it.
                metrics = window.close(self.global_batch)
                self.log(**metrics, lr=self.learner.learning_rate(self.step - 1))
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
        if not self.learner.is_growing:
            if not is_there:
                self.save_samples("samples.png")
            if self.repo_id:
                address = publish(self.learner.pipeline(), self.repo_id, self.config)
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
        if self.learner.is_growing:
            return
        validates = self.pictures.validation and (_is_due(epoch, config.validation_epochs) or last)
        if validates and "validation_loss" not in done:
            networks = {"validation_loss": self.learner.raw_unet, "validation_loss_ema": self.learner.ema.averaged}
            self.learner.raw_unet.eval()
            self.log(**validation_losses(networks, self.learner))
            self.learner.train_mode()
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
        measured = self.kid_watch(self.learner.pipeline())
        earlier = self.metrics.values("kid")
        if self.accelerator.is_main_process and measured["kid"] < min(earlier, default=math.inf):
            self.save_pipeline("best")
        self.log(**measured)

    def _check_learning(self, loss: float):
        predicts_noise = self.config.loss == "mae" and self.learner.scheduler.config.prediction_type == "epsilon"
        if predicts_noise and self.step >= min(500, self.total_steps):
            warn_of_zero_noise(loss, finest_level_at(self.step - 1, self.config.growth_steps))

    # ---- What it writes

    def save_pipeline(self, folder: str = ""):
        """Writes the pipeline into a folder of the output folder, or into that itself, in place of an earlier one."""
        unfinished = self.output_dir / ".pipeline"
        self._write_pipeline(unfinished)
        self.output.replace_files(unfinished, folder)

    def _write_pipeline(self, folder: Path):
        """Saves the pipeline, and beside it which step its weights are of, and with which options they were made."""
        pipeline = self.learner.pipeline()
        pipeline.save_pretrained(folder)
        weights = weights_checksum(pipeline.unet.state_dict())
        state = {"weights": weights, "step": self.step, "images_seen": self.learner.images_seen}
        write_json(folder / checkpoints.PIPELINE_STATE_FILE, state | self.record)

    def save_samples(self, name: str):
        """Writes a grid of images, generated from the same noise every time; its metadata says with which weights."""
        weights = "the moving average" if self.config.use_ema else "the last weights"
        comment = f"generated with {weights} of step {self.step}"
        with dispensable(name):
            images = sample_grid(
                self.learner.pipeline(), self.config.num_sample_images, self.output.claim(name), comment
            )
            show_images(self.accelerator.trackers, f"samples of {weights}", images, self.step)

    def log(self, **values: float):
        """Adds a line to `metrics.jsonl`, the step, the images seen so far and `values`, and tells the tracker."""
        if self.accelerator.is_main_process:
            self.metrics.append(step=self.step, images=self.learner.images_seen, **values)
        self.accelerator.log(values, step=self.step)

    def save_checkpoint(self):
        """Writes `checkpoint-N`: a loadable pipeline, and under `state` all that the run needs to resume."""
        state = {
            "ema_updates": self.learner.ema.num_updates,
            "images_seen": self.learner.images_seen,
        } | self._data_order()
        state |= {name: getattr(self.config, name) for name in fixed_options()}
        if self.config.teacher:
            state["teacher"] = self._teacher_checksum()
        # After the last step it is that of this one: a run that goes on further is to be compared with something.
        state |= self.record | {"next_learning_rate": self.learner.learning_rate(min(self.step, self.total_steps - 1))}
        limit = self.config.checkpoints_total_limit
        with checkpoints.writing_checkpoint(self.output_dir, self.step, state, limit, self.accelerator) as folder:
            self.learner.save(folder / "state")
            if self.accelerator.is_main_process:
                self._write_pipeline(folder)

    def _load_state(self, state: dict):
        """Takes over what `save_checkpoint` wrote."""
        components = {"unet": self.learner.raw_unet, "scheduler": self.learner.scheduler}
        differing = checkpoints.differences(self.checkpoint, components)
        if (there := state.get("teacher")) != (here := self._teacher_checksum()):
            differing.append(f"teacher {there} there, {here} here")
        pictures = self._data_order()["pictures"]
        resuming.check_resumable(state, self.checkpoint, self.total_steps, pictures, self.config, differing)
        changed = resuming.changed_options(state, self.config)
        self.was_complete = state["step"] == self.total_steps
        self.record = resuming.record_of(state, changed, self.config, self.total_steps)
        if not self.was_complete:
            resuming.warn_of_changes(state, changed, self.learner.learning_rate(state["step"]), self._data_order())
        self.learner.load(self.checkpoint, state)

    def _teacher_checksum(self) -> str | None:
        return self.learner.distillation.checksum if self.learner.distillation else None

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
