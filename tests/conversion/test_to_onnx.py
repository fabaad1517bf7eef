"""Exports, run by onnxruntime as a user would."""

import json
import math
import re

import numpy as np
import onnxruntime
import pytest
import torch
from conftest import ROOT, generate_two, make_labelled_unet, make_stock_unet, make_unet, seeds
from diffusers import DDIMScheduler

from flower_ddim import PRETRAINED, FlowerDDIMPipeline, FlowerDDIMScheduler
from flower_ddim.conversion.to_onnx import export_onnx
from flower_ddim.extras import install_command


def pipeline(unet, **scheduler):
    pipe = FlowerDDIMPipeline(unet, FlowerDDIMScheduler(**scheduler))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def predictions(folder, **inputs):
    session = onnxruntime.InferenceSession(folder / "unet.onnx")
    return session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})[0]


@pytest.fixture(scope="module")
def sampler_of_the_docs():
    """The class that docs/onnx.md shows, and what it shows beyond it."""
    code = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "onnx.md").read_text(), re.DOTALL)[1]
    definition, use = code.split("\n\n\nsampler = ")
    exec(definition, namespace := {})
    return namespace["Sampler"], f"{definition}\n\n\nsampler = {use}"


@pytest.mark.parametrize("options", [{}, {"patch_size": 2, "norm_num_groups": 4, "attention_head_dim": 4}])
@pytest.mark.parametrize("count", [1, 3])
def test_the_graph_predicts_what_the_network_does(tmp_path, count, options):
    pipe = pipeline(make_unet(**options))
    export_onnx(pipe, tmp_path)
    sample, embedding = torch.randn(count, 3, 16, 16), torch.rand(count, 32)
    expected = pipe.unet.predict(sample, embedding).detach().numpy()
    np.testing.assert_allclose(predictions(tmp_path, sample=sample, embedding=embedding), expected, atol=1e-5)


def test_labels_and_guidance_are_rows_of_a_batch(tmp_path, noise):
    pipe = pipeline(make_labelled_unet())
    export_onnx(pipe, tmp_path)
    settings = json.loads((tmp_path / "sampler.json").read_text())
    assert settings["class_names"] == ["rose", "Rose hip", "sun-flower"] and settings["num_classes"] == 3
    embedding, labels = torch.rand(2, 32), torch.tensor([1, 3])
    both = predictions(tmp_path, sample=noise, embedding=embedding, class_labels=labels)
    np.testing.assert_allclose(both, pipe.unet.predict(noise, embedding, labels).detach(), atol=1e-5)
    assert (
        abs(both - predictions(tmp_path, sample=noise, embedding=embedding, class_labels=labels.flip(0))).max() > 0.01
    )


@pytest.mark.parametrize(
    ("schedule", "options"),
    [
        ("offset_cosine", {"prediction_type": "epsilon"}),
        ("offset_cosine", {"prediction_type": "v_prediction"}),
        ("offset_cosine", {"prediction_type": "sample", "clip_sample": True}),
        ("linear", {"prediction_type": "epsilon"}),
        ("cosine", {"prediction_type": "v_prediction"}),
    ],
)
def test_the_sampler_of_the_docs_makes_the_pictures_of_the_pipeline(tmp_path, sampler_of_the_docs, schedule, options):
    """One number of the statistics stands for all channels."""
    unet = make_unet(schedule=schedule, image_mean=[0.4, 0.5, 0.6], image_std=[0.25])
    pipe = pipeline(unet, schedule=schedule, **options)
    export_onnx(pipe, tmp_path)
    noise = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    images = sampler_of_the_docs[0](tmp_path)(noise.numpy(), 5)
    np.testing.assert_allclose(images, generate_two(pipe).permute(0, 2, 3, 1), atol=1e-4)


def test_the_script_of_the_docs_draws_a_flower(tmp_path, sampler_of_the_docs, monkeypatch):
    export_onnx(FlowerDDIMPipeline.from_pretrained(PRETRAINED), tmp_path / "my-export")
    assert 7e6 < (tmp_path / "my-export" / "unet.onnx").stat().st_size < 9e6
    monkeypatch.chdir(tmp_path)
    exec(sampler_of_the_docs[1], {})
    assert (tmp_path / "flower.png").is_file()


def test_half_of_the_download_makes_nearly_the_same_pictures(tmp_path, sampler_of_the_docs):
    pipe = FlowerDDIMPipeline.from_pretrained(PRETRAINED)
    for weights in ("float32", "float16"):
        export_onnx(pipe, tmp_path / weights, weights)
    whole, half = (tmp_path / weights / "unet.onnx" for weights in ("float32", "float16"))
    assert half.stat().st_size < 0.53 * whole.stat().st_size
    latents = torch.stack([torch.randn(3, 64, 64, generator=generator) for generator in seeds(*range(8))]).numpy()
    images = [sampler_of_the_docs[0](file.parent)(latents, 5) for file in (whole, half)]
    assert 0 < np.abs(images[0] - images[1]).mean() < 0.5 / 255


def test_weights_that_float16_holds_are_stored_in_it_and_nothing_is_lost(tmp_path, noise):
    pipe = pipeline(make_unet())
    export_onnx(pipe, tmp_path / "float32")
    pipe.unet.half().float()
    export_onnx(pipe, tmp_path / "float16")
    sizes = [(tmp_path / name / "unet.onnx").stat().st_size for name in ("float16", "float32")]
    assert sizes[0] < 0.75 * sizes[1]  # the rest is the graph
    embedding = torch.rand(2, 32)
    expected = pipe.unet.predict(noise, embedding).detach().numpy()
    found = predictions(tmp_path / "float16", sample=noise, embedding=embedding)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_what_cannot_be_exported_is_refused_and_nothing_is_written(tmp_path):
    cases = [
        (pipeline(make_stock_unet()), "Only a FlowerUNet2DModel can be exported"),
        (pipeline(make_unet(in_channels=1, out_channels=1, sample_size=(4, 12), block_out_channels=(8, 8))), None),
        (
            pipeline(make_unet(in_channels=1, out_channels=1, sample_size=(2, 4), block_out_channels=(8, 8))),
            "in blocks of 16",
        ),
        (pipeline(make_unet(schedule="cosine"), schedule="cosine"), "leaves no signal at its last timestep"),
        (FlowerDDIMPipeline(make_unet(), DDIMScheduler.from_config(FlowerDDIMScheduler().config)), "from_config"),
    ]
    for i, (pipe, message) in enumerate(cases):
        if message is None:
            assert math.prod(pipe.latent_shape) % 16 == 0
            export_onnx(pipe, tmp_path / "small")
            continue
        with pytest.raises(ValueError, match=message):
            export_onnx(pipe, tmp_path / f"out-{i}")
        assert not (tmp_path / f"out-{i}").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match=r"holds other files, such as thesis.txt"):
        export_onnx(pipeline(make_unet()), tmp_path / "mine")
    with pytest.raises(ValueError, match="must be one of float32, float16"):
        export_onnx(pipeline(make_unet()), tmp_path / "small", "int8")
    with pytest.raises(ValueError, match="is a file"):
        export_onnx(pipeline(make_unet()), tmp_path / "mine" / "thesis.txt")


def test_a_missing_extra_is_named(run_script, tmp_path, saved):
    from outside import run_python

    code = "import sys; sys.modules['onnxscript'] = None\nfrom flower_ddim.commands.main import run_subcommand\n"
    code += "run_subcommand('export', sys.argv[1:], 'flower-ddim export')"
    completed = run_python(code, saved, tmp_path / "out", home=tmp_path)
    assert completed.returncode == 1 and not (tmp_path / "out").exists()
    assert completed.stderr.endswith(f"flower-ddim export: this needs onnxscript: {install_command('onnx')}\n")
    assert "Traceback" not in completed.stderr
