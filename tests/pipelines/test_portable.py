"""Saved folders load with the package and without it, and saying the same; nothing of them is run unasked."""

import ast
import gc
import json
import shutil
import sys

import pytest
import torch
from conftest import ROOT, generate_two, load_pipeline, make_stock_unet, make_unet
from diffusers import DDIMScheduler, DiffusionPipeline
from outside import run_python
from safetensors.torch import load_file

from flower_ddim import PRETRAINED, FlowerDDIMPipeline
from flower_ddim.conversion.to_diffusers import export_to_diffusers
from flower_ddim.models import unet_flower_ddim
from flower_ddim.pipelines.inlining import standalone_source


MODULES = ["pipeline_flower_ddim.py", "scheduler/scheduling_flower_ddim.py", "unet/unet_flower_ddim.py"]


def test_a_folder_holds_its_code_in_files_that_stand_alone(saved):
    assert sorted(path.relative_to(saved).as_posix() for path in saved.rglob("*.py")) == MODULES
    index = json.loads((saved / "model_index.json").read_text())
    assert index["_class_name"] == ["pipeline_flower_ddim", "FlowerDDIMPipeline"]
    assert index["unet"] == ["unet_flower_ddim", "FlowerUNet2DModel"]
    assert index["scheduler"] == ["scheduling_flower_ddim", "FlowerDDIMScheduler"]
    for module in MODULES:
        body = ast.parse((saved / module).read_text()).body
        assert not [node for node in ast.walk(ast.Module(body, [])) if isinstance(node, ast.ImportFrom) and node.level]
        definitions = [node.name for node in body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
        assert len(definitions) == len(set(definitions)) > 3


def test_standing_alone_is_standing_still(saved):
    """The sources in a folder are what `standalone_source` makes of ours, to which it has nothing to add."""
    written = saved / "unet" / "unet_flower_ddim.py"
    source = standalone_source(unet_flower_ddim.__file__)
    assert source == written.read_text() == standalone_source(written)
    assert "class DiffusionSchedule" in source and "noise_schedules import" not in source


def test_folders_say_nothing_of_where_they_come_from(saved, tmp_path):
    load_pipeline(saved).save_pretrained(tmp_path)
    files = sorted(path.relative_to(saved) for path in saved.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    for file in files:
        assert (saved / file).read_bytes() == (tmp_path / file).read_bytes(), file


BEFORE = ROOT / "tests" / "data" / "saved-before-the-rooms"


@pytest.mark.parametrize("installed", [True, False])
def test_a_folder_that_an_earlier_version_saved_generates_the_same_images(tmp_path, installed):
    """Saved when all modules lay in one folder; its own code runs where the package is missing."""
    code = """
import sys
import torch
from diffusers import DiffusionPipeline

latents = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
pipe = DiffusionPipeline.from_pretrained(sys.argv[1], trust_remote_code=True)
torch.save(pipe(latents=latents, num_inference_steps=5, output_type="pt").images, sys.argv[2])
"""
    expected = load_file(BEFORE / "expected.safetensors")["images"]
    completed = run_python(code, BEFORE, tmp_path / "images.pt", home=tmp_path, installed=installed)
    assert completed.returncode == 0, completed.stderr
    torch.testing.assert_close(torch.load(tmp_path / "images.pt"), expected, rtol=0, atol=1e-4)
    if installed:
        pipe = load_pipeline(BEFORE)
        torch.testing.assert_close(generate_two(pipe), expected, rtol=0, atol=1e-4)
        pipe.save_pretrained(tmp_path / "again")
        assert torch.equal(generate_two(load_pipeline(tmp_path / "again")), generate_two(pipe))


OUTSIDE = """
import sys
import torch
from diffusers import DDIMScheduler, DiffusionPipeline

saved, out = sys.argv[1:]
latents = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
images = {}

def load(folder, **components):
    pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True, **components)
    pipe.set_progress_bar_config(disable=True)
    images[folder.rpartition("/")[2]] = pipe(latents=latents, num_inference_steps=5, output_type="pt").images
    return pipe

try:
    DiffusionPipeline.from_pretrained(saved)
except ValueError as error:
    assert "trust_remote_code=True" in str(error), error
    print("not unasked")
pipe = load(saved)
pipe.save_pretrained(out + "/again")
stock = load(out + "/again", scheduler=DDIMScheduler.from_config(pipe.scheduler.config))
assert type(stock.scheduler) is DDIMScheduler
stock.save_pretrained(out + "/stock")
overridden = load(out + "/stock", unet=pipe.unet)
assert overridden.unet is pipe.unet
assert not {"unet_flower_ddim", "scheduling_flower_ddim"} & set(sys.modules)  # free for files of one's own
type(pipe)(pipe.unet, DDIMScheduler.from_config(pipe.scheduler.config)).save_pretrained(out + "/diffusers")
load(out + "/diffusers")
assert type(type(pipe).from_pretrained(out + "/again")) is type(pipe)  # the class is trusted already
torch.save(images, out + "/images.pt")
print("done")
"""


@pytest.fixture(scope="module")
def outside(saved, tmp_path_factory):
    """What a process without the package saved, and the images that it generated from each folder."""
    out = tmp_path_factory.mktemp("outside")
    completed = run_python(OUTSIDE, saved, out, home=tmp_path_factory.mktemp("home"), installed=False)
    assert completed.stdout.splitlines()[1:] == ["not unasked", "done"], completed.stderr
    return out, torch.load(out / "images.pt", weights_only=True)


def test_without_the_package_the_images_are_the_same(saved, outside):
    _, images = outside
    expected = generate_two(load_pipeline(saved))
    assert torch.equal(images[saved.name], expected)
    for again in ("again", "stock", "diffusers"):
        torch.testing.assert_close(images[again], expected, rtol=0, atol=1e-4)
    assert torch.equal(images["stock"], images["diffusers"])


def test_what_was_saved_again_without_the_package_is_the_same_and_loads_with_it(saved, outside, tmp_path):
    folder, images = outside
    for file in (path.relative_to(saved) for path in saved.rglob("*") if path.is_file()):
        assert (saved / file).read_bytes() == (folder / "again" / file).read_bytes(), file
    pipe = load_pipeline(folder / "again")
    assert type(pipe.unet).__module__ == "flower_ddim.models.unet_flower_ddim"
    assert torch.equal(generate_two(pipe), images[saved.name])
    pipe.save_pretrained(tmp_path)
    assert torch.equal(generate_two(load_pipeline(tmp_path)), images[saved.name])
    assert type(load_pipeline(folder / "stock").scheduler) is DDIMScheduler


def test_components_can_be_overridden(saved, tmp_path):
    scheduler = DDIMScheduler.from_config(load_pipeline(saved).scheduler.config)
    assert load_pipeline(saved, scheduler=scheduler).scheduler is scheduler
    unet = make_unet()
    pipe = load_pipeline(saved, unet=unet)
    assert pipe.unet is unet
    stock = load_pipeline(saved, unet=make_stock_unet())
    stock.save_pretrained(tmp_path)
    assert not (tmp_path / "unet" / "unet_flower_ddim.py").exists()
    assert torch.equal(generate_two(load_pipeline(tmp_path)), generate_two(stock))


def test_the_code_in_a_folder_is_not_run_by_the_package(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "model")
    for module in MODULES:
        (folder / module).write_text("raise SystemExit('code of the folder was run')")
    assert torch.equal(generate_two(load_pipeline(folder)), generate_two(load_pipeline(saved)))
    with pytest.raises(ValueError, match="trust_remote_code"):
        DiffusionPipeline.from_pretrained(folder)


def test_folders_in_the_plain_form_load_and_are_saved_in_the_new_one(saved, tmp_path):
    """As the first version wrote them, and as the shipped model is: modules of the package instead of files."""
    folder = shutil.copytree(saved, tmp_path / "plain", ignore=shutil.ignore_patterns("*.py"))
    index = json.loads((folder / "model_index.json").read_text())
    index["_class_name"] = "FlowerDDIMPipeline"
    index["unet"][0] = "flower_ddim.unet_flower_ddim"
    index["scheduler"][0] = "flower_ddim.scheduling_flower_ddim"
    (folder / "model_index.json").write_text(json.dumps(index))
    pipe = load_pipeline(folder)
    assert torch.equal(generate_two(pipe), generate_two(load_pipeline(saved)))
    pipe.save_pretrained(tmp_path / "new")
    assert sorted(path.name for path in (tmp_path / "new").rglob("*.py")) == [
        path.rpartition("/")[2] for path in MODULES
    ]
    assert load_pipeline(PRETRAINED).unet.config.sample_size == 64


def test_the_parts_of_a_stock_export_go_into_a_loop_of_ones_own(saved, tmp_path):
    pipe = load_pipeline(saved)
    export_to_diffusers(pipe, tmp_path / "export")
    assert json.loads((tmp_path / "export" / "model_index.json").read_text())["scheduler"] == [
        "diffusers",
        "DDIMScheduler",
    ]
    code = """
import sys
sys.path.insert(0, sys.argv[1] + "/unet")
import torch
from diffusers import DDIMScheduler
from unet_flower_ddim import FlowerUNet2DModel

unet = FlowerUNet2DModel.from_pretrained(sys.argv[1], subfolder="unet")
scheduler = DDIMScheduler.from_pretrained(sys.argv[1], subfolder="scheduler")
latents = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
scheduler.set_timesteps(5)
with torch.no_grad():
    for timestep in scheduler.timesteps:
        latents = scheduler.step(unet(latents, timestep).sample, timestep, latents).prev_sample
mean, std = (torch.tensor(unet.config[name]).reshape(1, -1, 1, 1) for name in ("image_mean", "image_std"))
torch.save((latents * std + mean).clamp(0, 1), sys.argv[2])
"""
    completed = run_python(code, tmp_path / "export", tmp_path / "images.pt", home=tmp_path, installed=False)
    assert completed.returncode == 0, completed.stderr
    images = torch.load(tmp_path / "images.pt", weights_only=True)
    torch.testing.assert_close(images, generate_two(pipe), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "entry",
    [
        ["os", "system"],
        ["subprocess", "Popen"],
        ["builtins", "eval"],
        ["torch.nn", "Linear"],
        ["diffusers", "DDIMScheduler"],
        ["flower_ddim.unet_flower_ddim", "ResidualBlock"],
        ["transformers", "AutoModel"],
        ["never_imported", "Model"],
        ["unet_flower_ddim", None],
        ["unet_flower_ddim"],
        [],
    ],
)
def test_only_models_are_loaded_as_models(saved, tmp_path, entry):
    folder = shutil.copytree(saved, tmp_path / "model")
    index = json.loads((folder / "model_index.json").read_text()) | {"unet": entry}
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="`unet` is .* must be \\[library, class\\] of a ModelMixin"):
        load_pipeline(folder)


AUTO_MODEL = """
import sys
import torch
from diffusers import AutoModel, UNet2DModel

folder, expected = sys.argv[1:]
sample, expected = torch.load(expected)
for path, options in ((folder, {"subfolder": "unet"}), (folder + "/unet", {})):
    unet = AutoModel.from_pretrained(path, trust_remote_code=True, **options)
    assert torch.equal(unet(sample, 7).sample, expected)
print("done")
"""


@pytest.mark.parametrize("installed", [True, False])
def test_auto_model_finds_the_network(saved, noise, tmp_path, installed):
    torch.save([noise, load_pipeline(saved).unet(noise, 7).sample.detach()], tmp_path / "expected.pt")
    completed = run_python(AUTO_MODEL, saved, tmp_path / "expected.pt", home=tmp_path, installed=installed)
    assert completed.stdout.splitlines()[-1:] == ["done"], completed.stderr
    assert "not expected" not in completed.stderr
    load_pipeline(saved, unet=make_stock_unet()).save_pretrained(tmp_path / "stock")
    assert "auto_map" not in (tmp_path / "stock" / "model_index.json").read_text()


def test_nothing_is_said_of_entries_for_others(saved, caplog):
    caplog.set_level("WARNING", logger="diffusers")
    load_pipeline(saved)
    DiffusionPipeline.from_pretrained(saved, trust_remote_code=True)
    assert "not expected" not in caplog.text


def test_a_failed_load_leaves_no_module_behind(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "model")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"broken")
    before = set(sys.modules)
    for load_it in (FlowerDDIMPipeline.from_pretrained, DiffusionPipeline.from_pretrained):
        with pytest.raises((OSError, ValueError)):
            load_it(folder, trust_remote_code=True)
    gc.collect()
    left = {name for name in set(sys.modules) - before if not name.startswith("diffusers_modules")}
    assert not [name for name in left if "flower" in name]
