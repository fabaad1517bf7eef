"""Which of diffusers' schedulers make the default model's pictures in 20 steps, and what is said of the others."""

import logging
import re

import diffusers
import pytest
import torch
from conftest import ROOT
from diffusers import (
    DDIMScheduler,
    DEISMultistepScheduler,
    HeunDiscreteScheduler,
    KDPM2DiscreteScheduler,
    LCMScheduler,
    UniPCMultistepScheduler,
)

from flower_ddim import PRETRAINED, FlowerDDIMPipeline, FlowerDDIMScheduler
from flower_ddim.pipelines import loading
from flower_ddim.pipelines.loading import TESTED_SCHEDULERS
from flower_ddim.sampling.solvers import SOLVERS, with_solver


def documented(heading):
    """Rows of the table under a heading of `docs/solvers.md`: class, its settings, and what was measured."""
    section = (ROOT / "docs" / "solvers.md").read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section.splitlines()
        if line.startswith("| `")
    ]
    return [(row[0].strip("`"), dict(re.findall(r"`(\w+)=([^`]+)`", row[1])), row[2:]) for row in rows]


def scheduler_of(pipe, name, settings):
    settings = {key: {"True": True}.get(value, value.strip('"')) for key, value in settings.items()}
    own = {"FlowerDDIMScheduler": FlowerDDIMScheduler}
    return own.get(name, getattr(diffusers, name, None)).from_config(pipe.scheduler.config, **settings)


LATENTS = (2, 3, 64, 64)
RANDOM = ("DDPMScheduler", "EulerAncestralDiscreteScheduler")


@pytest.fixture(scope="module")
def shipped():
    pipe = FlowerDDIMPipeline.from_pretrained(PRETRAINED)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def many_steps(shipped):
    """Noise, and what 100 DDIM steps make of it."""
    latents = torch.randn(LATENTS, generator=torch.Generator().manual_seed(0))
    return latents, shipped(latents=latents, num_inference_steps=100, output_type="pt").images


@pytest.mark.slow
@pytest.mark.parametrize("name, settings, measured", documented("Solvers that do well"))
def test_documented_solvers_make_the_pictures_of_many_steps(shipped, many_steps, name, settings, measured):
    latents, expected = many_steps
    pipe = FlowerDDIMPipeline(shipped.unet, scheduler_of(shipped, name, settings))
    pipe.set_progress_bar_config(disable=True)
    images = pipe(latents=latents, output_type="pt", generator=torch.Generator().manual_seed(1)).images
    ends = ((images == 0) | (images == 1)).float().mean()
    distance = (images - expected).abs().mean()
    print(f"{name} {settings} {distance:.4f} {ends:.4f} {pipe.num_timesteps}")
    assert ends <= 0.03
    if name not in RANDOM and "algorithm_type" not in settings:
        assert distance <= 0.035


def test_what_is_documented_is_what_is_not_warned_of(shipped, caplog):
    rows = documented("Solvers that do well")
    assert {name for name, _, _ in rows} == set(TESTED_SCHEDULERS)
    for name, settings, _ in rows:
        scheduler = scheduler_of(shipped, name, settings)
        loading.warn_of_untested(scheduler)
        assert TESTED_SCHEDULERS[name].items() <= scheduler.config.items()
    assert not caplog.records


@pytest.mark.parametrize(
    "stock", [DEISMultistepScheduler, LCMScheduler, HeunDiscreteScheduler, KDPM2DiscreteScheduler]
)
def test_other_solvers_are_warned_of_once_with_a_remedy(pipe, stock, caplog, monkeypatch):
    monkeypatch.setattr(loading, "_warned_of", set())
    caplog.set_level(logging.WARNING, logger="flower_ddim")
    for _ in range(2):
        other = FlowerDDIMPipeline(pipe.unet, stock.from_config(pipe.scheduler.config))
        other(num_inference_steps=2)
    (record,) = (record for record in caplog.records if record.name.startswith("flower_ddim"))
    if stock.__name__ in TESTED_SCHEDULERS:
        remedy = f"`{stock.__name__}.from_config(pipe.scheduler.config, use_karras_sigmas=True)`"
        assert remedy in record.message
    else:
        assert (
            record.message.startswith(f"{stock.__name__} is not tested")
            and "UniPCMultistepScheduler" in record.message
        )


def test_a_scheduler_of_ones_own_counts_as_what_it_derives_from(pipe, caplog):
    class Mine(FlowerDDIMScheduler):
        pass

    pipe.scheduler = Mine.from_config(pipe.scheduler.config)
    pipe(num_inference_steps=1)
    assert not caplog.records


@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_has_its_own_settings_and_passes_none_on(pipe, name, caplog):
    solving = with_solver(pipe, name)
    needed = TESTED_SCHEDULERS[type(solving.scheduler).__name__]
    assert bool(solving.scheduler.config.get("use_karras_sigmas")) == bool(needed)
    assert len(solving(num_inference_steps=3).images) == 1
    back = FlowerDDIMScheduler.from_config(solving.scheduler.config)
    assert "use_karras_sigmas" not in back.config
    for other in ("ddim", "unipc", "heun"):
        scheduler = with_solver(solving, other).scheduler
        assert bool(scheduler.config.get("use_karras_sigmas")) == (other == "heun")
    assert not caplog.records


def test_the_names_stand_for_these_classes(pipe):
    assert type(with_solver(pipe, "ddim").scheduler) is FlowerDDIMScheduler
    assert type(with_solver(with_solver(pipe, "heun"), "ddim").scheduler) is DDIMScheduler
    assert type(with_solver(pipe, "unipc").scheduler) is UniPCMultistepScheduler
    with pytest.raises(ValueError, match="heun, kdpm2"):
        with_solver(pipe, "runge-kutta")
