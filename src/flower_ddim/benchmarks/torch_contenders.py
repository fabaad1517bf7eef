"""The contenders in PyTorch: this package, diffusers, and large matrix products as the ceiling."""

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import diffusers
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDIMPipeline, DDIMScheduler, DDPMScheduler, UNet2DModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from .. import FlowerDDIMPipeline, FlowerDDIMScheduler, FlowerUNet2DModel
from ..memory import keep_freed_memory
from ..sampling.solvers import with_solver
from .contenders import Contender, Job


class TorchContender:
    """What contenders with a U-Net share. Derived classes make it, train it and put it into a pipeline."""

    def __init__(self, contender: Contender, job: Job):
        self.contender, self.job = contender, job
        self.compiled = contender.compiled
        self.dtype = getattr(torch, contender.dtype)
        torch.manual_seed(0)
        self.unet = self.make_unet()

    def make_unet(self) -> torch.nn.Module:
        job = self.job
        return FlowerUNet2DModel(job.sample_size, 3, 3, job.block_out_channels, job.layers_per_block)

    def facts(self) -> dict:
        job = self.job
        counted = self.make_unet().eval()  # a step of the training has the same convolutions
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            counted(torch.zeros(1, 3, job.sample_size, job.sample_size), 0)
        return {
            "parameters": sum(parameter.numel() for parameter in counted.parameters()),
            "gflop_per_image": counter.get_total_flops() / 1e9,
            "versions": {"torch": torch.__version__, "diffusers": diffusers.__version__},
        }

    def generate(self, device: str | torch.device = "cpu") -> Callable[[], None]:
        pipe = self.pipeline().to(device)
        pipe.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(0)
        steps = max(1, round(self.contender.step_share * self.job.num_inference_steps))
        options = {"batch_size": self.job.batch_size, "num_inference_steps": steps}
        return lambda: check_pictures(pipe(generator=generator, **options).images, self.job)


class FlowerDDIM(TorchContender):
    """This package as its commands run it: with the step of the trainer, the call of the pipeline, and freed memory kept."""

    def __init__(self, contender: Contender, job: Job):
        keep_freed_memory()
        super().__init__(contender, job)

    def train(self) -> Callable[[], None]:
        learner = self.learner()
        return lambda: check_loss(learner.training_step()[0])

    def learner(self):
        """The network of the trainer and all that improves it, in training mode."""
        from ..training.config import TrainingConfig
        from ..training.trainer import Trainer

        job = self.job
        with tempfile.TemporaryDirectory() as folder:
            write_pictures(Path(folder) / "pictures", job)
            config = TrainingConfig(
                train_data_dir=f"{folder}/pictures",
                cache_dir=f"{folder}/cache",
                cache_images="memory",
                output_dir=f"{folder}/output",
                resolution=job.sample_size,
                block_out_channels=job.block_out_channels,
                layers_per_block=job.layers_per_block,
                train_batch_size=job.batch_size,
                max_train_steps=1_000_000,
                validation_epochs=0,
                mixed_precision={torch.float32: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}[self.dtype],
                compile=self.compiled,
            )
            learner = Trainer(config).learner
        learner.train_mode()
        return learner

    def pipeline(self) -> FlowerDDIMPipeline:
        with tempfile.TemporaryDirectory() as folder:
            self.save(folder)
            pipe = FlowerDDIMPipeline.from_pretrained(folder, dtype=self.dtype)
        return with_solver(self._compile(pipe), self.contender.solver)

    def _compile(self, pipe: FlowerDDIMPipeline) -> FlowerDDIMPipeline:
        if self.compiled:
            from ..sampling.compilation import compile_unet

            compile_unet(pipe.unet)
        return pipe

    def save(self, folder: str):
        FlowerDDIMPipeline(self.unet, FlowerDDIMScheduler()).save_pretrained(folder)

    def first_picture(self, folder: str):
        pipe = FlowerDDIMPipeline.from_pretrained(folder, dtype=self.dtype)
        write_first(self._compile(pipe), self.job)


class Diffusers(TorchContender):
    """The loop of diffusers' `train_unconditional.py` in float32, without a compiler, and `DDIMPipeline`."""

    def train(self) -> Callable[[], None]:
        unet, job = self.unet.train(), self.job
        optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
        lr_scheduler = get_scheduler("cosine", optimizer, num_warmup_steps=500, num_training_steps=1_000_000)
        ema = EMAModel(unet.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=3 / 4)
        noise_scheduler = DDPMScheduler(num_train_timesteps=1000)
        images = torch.rand(job.batch_size, 3, job.sample_size, job.sample_size) * 2 - 1

        def step():
            noise = torch.randn(images.shape)
            timesteps = torch.randint(0, 1000, (len(images),))
            prediction = unet(noise_scheduler.add_noise(images, noise, timesteps), timesteps).sample
            loss = F.mse_loss(prediction.float(), noise.float())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
            optimizer.step()
            lr_scheduler.step()
            optimizer.zero_grad()
            ema.step(unet.parameters())
            check_loss(loss)

        return step

    def pipeline(self) -> DDIMPipeline:
        return DDIMPipeline(self.unet.eval(), DDIMScheduler.from_config(FlowerDDIMScheduler().config))


class DiffusersStock(Diffusers):
    """The same with a `UNet2DModel` of about as many parameters and operations."""

    def make_unet(self) -> UNet2DModel:
        *widths, bottleneck = self.job.block_out_channels
        blocks = len(self.job.block_out_channels)
        # Its residual blocks have more layers than ours: with three quarters of the width the sizes agree.
        widths = [widths[0], *(multiple_of_8(0.75 * width) for width in widths[1:]), multiple_of_8(0.6 * bottleneck)]
        return UNet2DModel(
            self.job.sample_size,
            block_out_channels=widths,
            layers_per_block=self.job.layers_per_block,
            down_block_types=["DownBlock2D"] * blocks,
            up_block_types=["UpBlock2D"] * blocks,
            norm_num_groups=8,
        )

    def pipeline(self) -> DDIMPipeline:
        return DDIMPipeline(self.unet.eval(), DDIMScheduler())

    def save(self, folder: str):
        self.pipeline().save_pretrained(folder)

    def first_picture(self, folder: str):
        write_first(DDIMPipeline.from_pretrained(folder), self.job)


class MatrixProduct:
    """Products of large square matrices. Nothing that computes in this dtype is faster on this machine.

    The operator for products and the convolution of 1×1 pixels come from two libraries, and the better one counts. (In float32 the
    first does not use all of an AMD processor.)
    """

    SECONDS = 0.5  # of every turn
    PATIENCE = 2.0  # seconds: a processor without instructions for this dtype would take minutes for a larger product

    def __init__(self, contender: Contender, job: Job):
        keep_freed_memory()
        self.dtype = getattr(torch, contender.dtype)

    def ceiling(self) -> Callable[[], dict]:
        rates = {}
        for way in (self._product, self._convolution):
            for side in (1024, 1536, 2048, 3072):
                product, start = way(side), time.perf_counter()
                product()
                rates[product] = product()
                if time.perf_counter() - start > self.PATIENCE:
                    break
        best = max(rates, key=rates.get)

        def turn() -> dict:
            start, rates = time.perf_counter(), []
            while not rates or time.perf_counter() - start < self.SECONDS:
                rates.append(best())
            return {"gflops": max(rates)}

        return turn

    def _product(self, side: int) -> Callable[[], float]:
        matrix = torch.randn(side, side).to(self.dtype)
        return lambda: self._gflops(side, torch.matmul, matrix, matrix)

    def _convolution(self, side: int) -> Callable[[], float]:
        pixels = torch.randn(1, 32, side // 32, side).to(self.dtype).permute(0, 3, 1, 2)  # as many pixels as channels
        kernel = torch.randn(side, side, 1, 1).to(self.dtype, memory_format=torch.channels_last)
        return lambda: self._gflops(side, F.conv2d, pixels, kernel)

    @staticmethod
    @torch.no_grad()
    def _gflops(side: int, function: Callable, *operands: torch.Tensor) -> float:
        start = time.perf_counter()
        function(*operands)
        return 2 * side**3 / 1e9 / (time.perf_counter() - start)

    def facts(self) -> dict:
        return {"versions": {"torch": torch.__version__}}


def multiple_of_8(number: float) -> int:
    return max(8, 8 * round(number / 8))


def write_pictures(folder: Path, job: Job):
    """Writes as many pictures to train on as a batch has."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for i in range(job.batch_size):
        small = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(small).resize((job.sample_size, job.sample_size)).save(folder / f"{i}.png")


def write_first(pipe, job: Job):
    pipe.set_progress_bar_config(disable=True)
    image = pipe(num_inference_steps=job.num_inference_steps).images[0]
    folder = tempfile.mkdtemp()
    image.save(Path(folder) / "first.png")
    shutil.rmtree(folder)


def check_loss(loss: torch.Tensor):
    """Waits for the loss, and raises a ValueError if it is not finite: then the time means nothing."""
    if not torch.isfinite(loss).item():
        raise ValueError(f"The loss has become {loss.item()}: what was measured is no training.")


def check_pictures(images: list, job: Job):
    expected = (job.sample_size, job.sample_size)
    if len(images) != job.batch_size or any(image.size != expected for image in images):
        raise ValueError(f"Instead of {job.batch_size} pictures of {expected} pixels there are {len(images)}.")
