"""The sampler of the page beside PyTorch, in node and without a browser."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from conftest import load_pipeline, make_labelled_unet, make_unet, seeds
from web_server import needs_packages

from flower_ddim import FlowerDDIMPipeline, FlowerDDIMScheduler, pretrained
from flower_ddim.web.site import STATIC, write_site


pytestmark = [pytest.mark.browser, needs_packages]
SHIPPED = sorted(path.name for path in Path(pretrained("flower-ddim-64")).parent.iterdir())


def run_in_node(folder, **job):
    """Numbers from parity.mjs. Node takes a file for a module by its ending."""
    for name in ("sampler", "network"):
        shutil.copy(STATIC / f"{name}.js", folder / f"{name}.mjs")
    command = ["node", Path(__file__).parent / "parity.mjs", folder, json.dumps(job)]
    completed = subprocess.run(command, capture_output=True, text=True)
    assert completed.returncode == 0, completed.stderr
    return torch.tensor(json.loads(completed.stdout))


@pytest.mark.parametrize("seed", [0, 1, 7, 42, 1234, 99_999, 2**31, 2**32 - 1, 2**32 + 5, 2**53 + 11])
def test_a_seed_draws_the_numbers_of_pytorch(tmp_path, seed):
    """Also where the stream goes on, and its state is renewed in the middle."""
    counts = [768, 16, 640]
    drawn = run_in_node(tmp_path, seed=str(seed), draw=counts)
    generator = torch.Generator().manual_seed(seed)
    expected = torch.cat([torch.randn(count, generator=generator) for count in counts])
    torch.testing.assert_close(drawn, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_models_make_the_same_pictures_in_ten_steps(tmp_path, name):
    pipe = load_pipeline(pretrained(name))
    write_site(pipe, tmp_path)
    steps = pipe.default_num_inference_steps if pipe.unet.config.distilled_guidance_scale is not None else 10
    latents = run_in_node(tmp_path, seed="7", options={"steps": steps})
    expected = pipe(generator=seeds(7), num_inference_steps=steps, output_type="latent").images.flatten()
    torch.testing.assert_close(latents, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("clip_sample", [False, True])
def test_fresh_noise_goes_on_in_the_stream_of_the_seed(tmp_path, prediction_type, clip_sample):
    """Whatever the network predicts; epsilon is divided by a signal rate of 0.02 at first, which makes rounding visible."""
    pipe = FlowerDDIMPipeline(
        make_unet(), FlowerDDIMScheduler(prediction_type=prediction_type, clip_sample=clip_sample)
    )
    write_site(pipe, tmp_path)
    latents = run_in_node(tmp_path, seed="3", options={"steps": 4, "eta": 1})
    pipe.set_progress_bar_config(disable=True)
    expected = pipe(generator=seeds(3), num_inference_steps=4, eta=1.0, output_type="latent").images.flatten()
    torch.testing.assert_close(latents, expected, atol=2e-4, rtol=1e-3)


def test_names_and_guidance_are_those_of_the_pipeline(tmp_path):
    pipe = FlowerDDIMPipeline(make_labelled_unet(), FlowerDDIMScheduler(prediction_type="v_prediction"))
    pipe.set_progress_bar_config(disable=True)
    write_site(pipe, tmp_path)
    for label, scale in ((None, 1), (2, 1), (2, 2.5)):
        latents = run_in_node(tmp_path, seed="5", options={"steps": 3, "label": label, "guidanceScale": scale})
        options = {"class_labels": label, "guidance_scale": scale, "output_type": "latent"}
        expected = pipe(generator=seeds(5), num_inference_steps=3, **options).images.flatten()
        torch.testing.assert_close(latents, expected, atol=1e-4, rtol=1e-4)
