"""Shared real, tiny components, and how scripts are run."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch


pytest_plugins = ["page"]

# No test may reach for the network, nor a process that one starts.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["KERAS_BACKEND"] = "torch"
# The models here are too small to share: threads would only wait for each other, above all beside other work.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

ROOT = Path(__file__).parent.parent
FLOWERS = ROOT / "tests" / "data" / "flowers"


def make_unet(**config):
    """A small U-Net with random weights and statistics, whose predictions are of the order of one."""
    from flower_ddim import FlowerUNet2DModel

    generator = torch.Generator().manual_seed(0)
    config = {"sample_size": 16, "block_out_channels": (8, 16, 24), "layers_per_block": 1} | config
    unet = FlowerUNet2DModel(**config)
    for name, tensor in unet.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif name.endswith(("running_mean", "bias")):
            tensor.normal_(0, 0.1, generator=generator)
        elif name.endswith("weight"):
            tensor.normal_(0, tensor[0].numel() ** -0.5, generator=generator)
    return unet.eval()


def make_labelled_unet(**config):
    """A small U-Net with three classes, each of which changes its predictions."""
    config = {"num_class_embeds": 3, "class_names": ["rose", "Rose hip", "sun-flower"]} | config
    return make_unet(**config)


def make_stock_unet():
    """A small U-Net of diffusers, for 16×16 pixels."""
    from diffusers import UNet2DModel

    return UNet2DModel(
        sample_size=16,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
    )


def load_pipeline(folder, **components):
    """Loads a pipeline that shows no progress bar."""
    from flower_ddim import FlowerDDIMPipeline

    pipe = FlowerDDIMPipeline.from_pretrained(folder, **components)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generate_two(pipe):
    """Two images of 16×16 pixels as a tensor, always from the same noise."""
    latents = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    return pipe(latents=latents, num_inference_steps=5, output_type="pt").images


def seeds(*values):
    return [torch.Generator().manual_seed(value) for value in values]


@pytest.fixture
def unet():
    return make_unet()


@pytest.fixture
def pipe(unet):
    from flower_ddim import FlowerDDIMPipeline, FlowerDDIMScheduler

    pipe = FlowerDDIMPipeline(unet, FlowerDDIMScheduler())
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """Folder of a saved pipeline with statistics of its own; no test changes it."""
    from flower_ddim import FlowerDDIMPipeline, FlowerDDIMScheduler

    folder = tmp_path_factory.mktemp("saved")
    unet = make_unet(image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.25, 0.3])
    FlowerDDIMPipeline(unet, FlowerDDIMScheduler()).save_pretrained(folder)
    return folder


# A page must load from its own server alone, so the browser is not let any further.
CHROMIUM_OPTIONS = ["--no-sandbox", "--disable-background-networking", "--disable-component-update"]
# WebGPU computed on the processor, by Chromium's own adapter.
SOFTWARE_GPU = [
    "--enable-unsafe-webgpu",
    "--use-webgpu-adapter=swiftshader",
    "--enable-features=Vulkan",
    "--ignore-gpu-blocklist",
]


@pytest.fixture(scope="session")
def chromium():
    """Debian's, as a function from further options to a browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield lambda *options: playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=[*CHROMIUM_OPTIONS, *options]
        )


@pytest.fixture(scope="session")
def browser(chromium):
    with chromium("--disable-gpu") as browser:
        yield browser


@pytest.fixture(scope="session")
def browser_with_gpu(chromium):
    with chromium(*SOFTWARE_GPU) as browser:
        yield browser


@pytest.fixture
def noise():
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def server():
    """An empty Hub on the loopback."""
    from hub_server import HubServer

    server = HubServer()
    yield server
    server.shutdown()


@pytest.fixture(scope="module")
def shared_server():
    from hub_server import HubServer

    server = HubServer()
    yield server
    server.shutdown()


@pytest.fixture(scope="session")
def run_script():
    """Runs `scripts/NAME` with arguments in a process of its own; returns it completed, its output as text."""

    def run(name, *arguments, expect_success=True):
        command = [sys.executable, ROOT / "scripts" / name, *map(str, arguments)]
        environment = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}  # a user has none
        completed = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=environment)
        if expect_success:
            assert completed.returncode == 0, completed.stderr
        return completed

    return run


def _two(command, use_cpu="true"):
    """The command line and environment of two processes that find each other over the loopback."""
    # `accelerate launch --cpu` starts several processes only through MPI; torchrun needs nothing but PyTorch.
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    return [*torchrun, *map(str, command)], os.environ | {"ACCELERATE_USE_CPU": use_cpu}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folder for the trainings of a file, which share a cache of decoded pictures in it."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def launch_two():
    """Runs a script in two processes; returns them completed, their output as text."""

    def launch(*command, use_cpu="true", expect_success=True):
        arguments, environment = _two(command, use_cpu)
        completed = subprocess.run(
            arguments, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=environment
        )
        assert (completed.returncode == 0) == expect_success, completed.stderr
        return completed

    return launch


@pytest.fixture
def start_two():
    """Starts a script in two processes, without waiting for them; nothing of them is left after the test."""
    started = []

    def start(*command):
        arguments, environment = _two(command)
        output = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "stdin": subprocess.DEVNULL}
        started.append(subprocess.Popen(arguments, env=environment, **output))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def tiny_extractor(tmp_path_factory):
    """Folder of a small vision transformer with random weights, a feature extractor of 16 features."""
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    folder = tmp_path_factory.mktemp("extractor")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    Dinov2Model(Dinov2Config(**sizes)).save_pretrained(folder)
    BitImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}).save_pretrained(folder)
    return str(folder)
