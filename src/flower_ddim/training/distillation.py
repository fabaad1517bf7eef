"""Distillation: a student learns to make in one step of the sampler what its teacher makes in several.

The target is that of Salimans & Ho 2022, but they halve the number of steps again and again, and here one step of the student
replaces all of the teacher's at once. Both take the deterministic steps of the sampler (DDIM, η = 0). The student is asked only for
the times at which it will sample, and about what its own step before has led to, so that it learns to correct its errors (as in the
backward distillation of Kohler et al. 2024, whose student makes all of its steps before).
"""

from dataclasses import replace

import torch
import torch.nn as nn
from accelerate import Accelerator

from ..models.unet_flower_ddim import FlowerUNet2DModel
from ..pipelines.class_labels import guided
from ..pipelines.loading import is_student
from ..pipelines.pipeline_flower_ddim import FlowerDDIMPipeline
from ..schedulers.scheduling_flower_ddim import FlowerDDIMScheduler
from ..storage.checksums import weights_checksum
from .config import TrainingConfig
from .loss import prediction_error


def load_teacher(config: TrainingConfig) -> tuple[FlowerDDIMPipeline, TrainingConfig]:
    """The pipeline that `config.teacher` names, and the options with what follows from it: size, classes, and guidance.

    Raises:
        ValueError: if it cannot be a teacher, or not for such options.
    """
    pipe = FlowerDDIMPipeline.from_pretrained(config.teacher)
    unet = pipe.unet
    if not isinstance(unet, FlowerUNet2DModel):
        raise ValueError(
            f"`teacher` {config.teacher} is a stock UNet2DModel, but a student must be a FlowerUNet2DModel: name another."
        )
    height, width = pipe.latent_shape[1:]
    if height != width:
        raise ValueError(
            f"`teacher` {config.teacher} makes pictures of {height}×{width} pixels, but students only make squares: name another."
        )
    guidance_scale = config.teacher_guidance_scale
    if is_student(unet):
        built_in = unet.config.distilled_guidance_scale
        if config.teacher_steps > pipe.default_num_inference_steps:
            raise ValueError(
                f"`teacher` {config.teacher} is a student itself, for {pipe.default_num_inference_steps} steps: give "
                f"`--teacher_steps {pipe.default_num_inference_steps}` or fewer, not {config.teacher_steps}."
            )
        if guidance_scale not in (None, built_in):
            raise ValueError(
                f"`teacher` {config.teacher} has guidance {built_in:g} built in: leave `teacher_guidance_scale` out."
            )
        guidance_scale = built_in
    elif guidance_scale is None:
        guidance_scale = unet.config.default_guidance_scale
    has_classes = unet.config.num_class_embeds is not None
    if guidance_scale != 1 and not has_classes:
        raise ValueError(
            f"`teacher_guidance_scale` is {guidance_scale:g}, but {config.teacher} knows no classes: leave it out."
        )
    if config.class_conditional and not has_classes:
        raise ValueError(
            f"`class_conditional` needs a `teacher` with classes, and {config.teacher} knows none: leave it out."
        )
    if has_classes and not pipe.labels:
        raise ValueError(
            f"The classes of `teacher` {config.teacher} have no names to match with those of the pictures: name another."
        )
    return pipe, replace(
        config, resolution=height, class_conditional=has_classes, teacher_guidance_scale=float(guidance_scale)
    )


def make_student(teacher: FlowerDDIMPipeline, config: TrainingConfig) -> tuple[FlowerUNet2DModel, FlowerDDIMScheduler]:
    """A copy of the teacher's network, and the scheduler by which it predicts the velocity, whatever its teacher predicts."""
    unet = FlowerUNet2DModel.from_config(
        teacher.unet.config,
        default_num_inference_steps=config.student_steps,
        default_guidance_scale=1.0,
        distilled_guidance_scale=config.teacher_guidance_scale,
    )
    unet.load_state_dict(teacher.unet.state_dict())
    return unet, FlowerDDIMScheduler.from_config(teacher.scheduler.config, prediction_type="v_prediction")


class Distillation:
    """The teacher of a distillation, and what it teaches.

    Args:
        teacher: its network lies where the student's does.
        scheduler: the student's.
        config: resolved by [`load_teacher`].
    """

    def __init__(
        self,
        teacher: FlowerDDIMPipeline,
        scheduler: FlowerDDIMScheduler,
        config: TrainingConfig,
        accelerator: Accelerator,
    ):
        self.checksum = weights_checksum(teacher.unet.state_dict())
        self.unet = teacher.unet.requires_grad_(False).eval()
        self._network = torch.compile(self.unet, dynamic=False) if config.compile else self.unet
        self.config, self.accelerator = config, accelerator
        self.scheduler, self._teacher_scheduler = scheduler, FlowerDDIMScheduler.from_config(teacher.scheduler.config)
        self._guidance_scale = 1.0 if is_student(self.unet) else config.teacher_guidance_scale

    def loss(
        self,
        student: nn.Module,
        images: torch.Tensor,
        noise: torch.Tensor,
        diffusion_time: torch.Tensor,
        class_labels: torch.Tensor | None = None,
        loss: str = "mse",
    ) -> torch.Tensor:
        """Error of the velocity that the student predicts, against that with which one step comes where the teacher's do.

        The squared error of the velocity weighs that of the image by SNR + 1 (Salimans & Ho, section 4): little noise counts, too.

        Args:
            student, images, noise, class_labels, loss: as for [`flower_ddim.training.loss.diffusion_loss`].
            diffusion_time: u in [0, 1], shape (B,); the student is asked at the next of its own times above, k/N.
        """
        steps = self.config.student_steps
        k = (diffusion_time * steps).floor().clamp(max=steps - 1)
        before, start, end = ((k + ahead).clamp(max=steps) / steps for ahead in (2, 1, 0))

        def predict(sample: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
            return student(sample, self._timestep(time), class_labels, return_dict=False)[0].float()

        signal_rate, noise_rate = self._rates(before)
        # The sampler begins with noise alone, though the schedule leaves a little signal at u = 1.
        is_noise = (before == 1).reshape(-1, 1, 1, 1)
        noisy = torch.where(is_noise, noise, signal_rate * images + noise_rate * noise)
        if steps > 1:  # a single step has none before it
            with torch.no_grad():
                noisy = self._step(self.scheduler, predict(noisy, before), noisy, before, start)
        target = self.target(noisy, start, end, class_labels, self.config.teacher_steps // steps)
        return prediction_error(predict(noisy, start), target, loss)

    @torch.no_grad()
    def target(
        self,
        noisy: torch.Tensor,
        start: torch.Tensor,
        end: torch.Tensor,
        class_labels: torch.Tensor | None,
        num_steps: int,
    ) -> torch.Tensor:
        """The velocity with which one step of the sampler comes where `num_steps` of the teacher do (Salimans & Ho, appendix G).

        Args:
            noisy: noisy images at the times `start`, shape (B, C, H, W).
            start, end: diffusion times, shape (B,), of which the ends may be 0.
        """
        reached = noisy
        for i in range(num_steps):
            times = (start + (end - start) * (i + done) / num_steps for done in (0, 1))
            reached = self._teacher_step(reached, *times, class_labels)
        signal_rate, noise_rate = self._rates(start)
        end_signal_rate, end_noise_rate = self._rates(end)
        ratio = end_noise_rate / noise_rate
        image = (reached - ratio * noisy) / (end_signal_rate - ratio * signal_rate)
        return (signal_rate * noisy - image) / noise_rate

    def _teacher_step(
        self, sample: torch.Tensor, start: torch.Tensor, end: torch.Tensor, class_labels: torch.Tensor | None
    ) -> torch.Tensor:
        """A step of the teacher for every image, with its guidance; shapes (B, C, H, W) and (B,)."""
        scale, labels = 1.0, None  # without a class there is nothing to guide to
        if class_labels is not None:
            null = self.unet.config.num_class_embeds
            labels = [None if label == null else label for label in class_labels.tolist()]
            if set(labels) != {None}:
                scale = self._guidance_scale
        predict = guided(self._network, sample.device, labels, scale, len(sample))
        with self.accelerator.autocast():
            prediction = predict(sample, self._timestep(start)).float()
        return self._step(self._teacher_scheduler, prediction, sample, start, end)

    def _step(
        self,
        scheduler: FlowerDDIMScheduler,
        prediction: torch.Tensor,
        sample: torch.Tensor,
        start: torch.Tensor,
        end: torch.Tensor,
    ) -> torch.Tensor:
        """A step of the sampler for every image, equation (12) of Song et al. 2020 with η = 0; shapes (B, C, H, W) and (B,)."""
        image, noise = scheduler.predictions(prediction, sample, *self._rates(start))
        signal_rate, noise_rate = self._rates(end)
        return signal_rate * image + noise_rate * noise

    def _timestep(self, diffusion_time: torch.Tensor) -> torch.Tensor:
        return self.scheduler.schedule.timestep(diffusion_time)

    def _rates(self, diffusion_time: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Signal and noise rate, (B, 1, 1, 1); those of u = 0 are 1 and 0, as the sampler ends with the predicted image itself."""
        shape, is_image = (-1, 1, 1, 1), diffusion_time == 0
        signal_rate, noise_rate = self.scheduler.schedule.rates(diffusion_time)
        return signal_rate.masked_fill(is_image, 1).reshape(shape), noise_rate.masked_fill(is_image, 0).reshape(shape)
