"""Pickles, variants and shards, saved and uploaded."""

import pytest
import torch
from conftest import generate_two, load_pipeline, make_stock_unet, make_unet
from safetensors.torch import save_file

from flower_ddim import FlowerDDIMPipeline, FlowerDDIMScheduler
from flower_ddim.storage.checksums import network_weights, weights_checksum


def test_pickled_weights_are_refused_with_the_way_to_convert_them(saved, tmp_path):
    with pytest.raises(ValueError, match="pickle.*convert it with .*save_file"):
        FlowerDDIMPipeline.from_pretrained(saved, use_safetensors=False)
    for name, unet in (("ours", make_unet()), ("stock", make_stock_unet())):
        folder = tmp_path / name
        FlowerDDIMPipeline(unet, FlowerDDIMScheduler()).save_pretrained(folder, safe_serialization=False)
        with pytest.raises(OSError, match="pickle.*convert it with .*save_file"):
            FlowerDDIMPipeline.from_pretrained(folder)
        torch_file, safe = (folder / "unet" / f"diffusion_pytorch_model.{ending}" for ending in ("bin", "safetensors"))
        save_file(torch.load(torch_file, weights_only=True), safe)
        torch_file.unlink()
        assert generate_two(load_pipeline(folder)).isfinite().all()


@pytest.mark.parametrize("options", [{}, {"max_shard_size": "20KB"}])
def test_missing_weights_name_the_variants_that_there_are(saved, tmp_path, options):
    load_pipeline(saved).save_pretrained(tmp_path, variant="fp16", **options)
    with pytest.raises(OSError, match='asked for: pass `variant="fp16"`\\.$'):
        load_pipeline(tmp_path)
    assert torch.equal(generate_two(load_pipeline(tmp_path, variant="fp16")), generate_two(load_pipeline(saved)))
    with pytest.raises(OSError, match="asked for: leave `variant` out\\.$"):
        load_pipeline(saved, variant="bf16")


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_one_file_follows_several_and_the_other_way_round(saved, tmp_path, variant):
    pipe = load_pipeline(saved)
    for options in ({"max_shard_size": "20KB"}, {}, {"max_shard_size": "40KB"}, {}):
        pipe.save_pretrained(tmp_path, variant=variant, **options)
        assert bool(list((tmp_path / "unet").glob("*.index*.json"))) == bool(options)
        assert torch.equal(generate_two(load_pipeline(tmp_path, variant=variant)), generate_two(pipe))


def make_earlier_unet():
    """A network of the same form with other weights than those of `saved`."""
    unet = make_unet()
    for parameter in unet.parameters():
        parameter.data.mul_(2)
    return unet


def weights_in(folder):
    return {file.name for file in (folder / "unet").iterdir()} - {"config.json", "unet_flower_ddim.py"}


FORMS = [{}, {"max_shard_size": "20KB"}, {"max_shard_size": "40KB"}]
FORMS += [{"safe_serialization": False}, {"max_shard_size": "20KB", "safe_serialization": False}]


@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("later", FORMS)
def test_nothing_is_left_of_the_weights_that_were_there(saved, tmp_path, variant, later):
    pipe, before = load_pipeline(saved), FlowerDDIMPipeline(make_earlier_unet(), FlowerDDIMScheduler())
    pipe.save_pretrained(tmp_path / "alone", variant=variant, **later)
    for i, earlier in enumerate(FORMS):
        before.save_pretrained(tmp_path / f"{i}", variant=variant, **earlier)
        before.save_pretrained(tmp_path / f"{i}", variant="other")
        pipe.save_pretrained(tmp_path / f"{i}", variant=variant, **later)
        others = {"diffusion_pytorch_model.other.safetensors"}
        assert weights_in(tmp_path / f"{i}") == weights_in(tmp_path / "alone") | others
        if variant is None and later.get("safe_serialization", True):
            assert weights_checksum(network_weights(tmp_path / f"{i}")) == weights_checksum(pipe.unet.state_dict())


def test_the_weights_are_those_that_diffusers_would_load(saved, tmp_path):
    """As older versions left them: a single file of another network beside several, which have an index."""
    pipe = load_pipeline(saved)
    pipe.save_pretrained(tmp_path, max_shard_size="20KB")
    make_earlier_unet().save_pretrained(tmp_path / "earlier")
    (tmp_path / "earlier" / "diffusion_pytorch_model.safetensors").rename(
        tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    )
    assert weights_checksum(network_weights(tmp_path)) == weights_checksum(load_pipeline(tmp_path).unet.state_dict())


def push(pipe, repo_id, token=None, variant=None):
    """Stands in for the upload."""
    return repo_id, token, variant


def push_without_variant(pipe, repo_id, token=None):
    """Stands in for an upload that knows no variants."""


@pytest.mark.parametrize("way", ["push_to_hub", "save_pretrained"])
@pytest.mark.parametrize(
    "option, message",
    [
        ({"safe_serialization": False}, "would upload pickles"),
        ({"variant": "fp16"}, "does not take `variant`: leave that out, or upload a folder"),
    ],
)
def test_uploads_in_another_form_are_refused_before_anything_is_done(
    saved, tmp_path, monkeypatch, way, option, message
):
    monkeypatch.setattr("flower_ddim.hub.upload.push_pipeline", push_without_variant)
    arguments = {"push_to_hub": True} if way == "save_pretrained" else {}
    with pytest.raises(ValueError, match=message):
        getattr(load_pipeline(saved), way)(str(tmp_path / "new"), **arguments, **option)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", [{"safe_serialization": True}, {"variant": None}, {"variant": "fp16"}])
def test_uploads_take_what_they_can(saved, tmp_path, monkeypatch, option):
    monkeypatch.setattr("flower_ddim.hub.upload.push_pipeline", push)
    pipe = load_pipeline(saved)
    assert pipe.push_to_hub("me/flowers", token="t", **option) == ("me/flowers", "t", option.get("variant"))
    pushed = []
    monkeypatch.setattr(
        "flower_ddim.hub.upload.push_pipeline", lambda *args, variant=None: pushed.append((args, variant))
    )
    pipe.save_pretrained(tmp_path / "flowers", push_to_hub=True, **option)
    assert pushed == [((pipe, "flowers"), option.get("variant"))]
