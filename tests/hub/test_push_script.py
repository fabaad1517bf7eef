import re
import shutil

import pytest
from hub_server import UPLOADED, run_hub_script
from huggingface_hub import RepoCard


@pytest.mark.slow
def test_the_script_shows_what_it_uploads_and_takes_nothing_else(server, saved, tmp_path):
    model = shutil.copytree(saved, tmp_path / "model")
    (model / "checkpoint-5" / "state").mkdir(parents=True)
    for name in ("checkpoint-5/state/optimizer.bin", "unet/secret.safetensors", "notes.txt", "data.parquet"):
        (model / name).write_bytes(b"not for others")
    completed = run_hub_script("push_to_hub.py", model, "me/mine", "--dry_run", hub=server.url, home=tmp_path)
    assert completed.returncode == 0, completed.stderr
    *lines, last = completed.stdout.splitlines()
    assert [line.split()[1] for line in lines] == UPLOADED and last == "Nothing was uploaded to the model me/mine."
    assert not server.repositories
    completed = run_hub_script("push_to_hub.py", model, "me/mine", "--private", hub=server.url, home=tmp_path)
    assert completed.returncode == 0, completed.stderr
    assert sorted(server.model("me/mine").files) == UPLOADED and server.model("me/mine").private


@pytest.mark.slow
def test_the_script_verifies_first(server, saved, tmp_path):
    model = shutil.copytree(saved, tmp_path / "model")
    weights = model / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    for arguments, message in (
        ((model, "me/mine"), "damaged"),
        ((tmp_path / "none", "me/mine"), "There is no folder"),
    ):
        completed = run_hub_script("push_to_hub.py", *arguments, hub=server.url, home=tmp_path)
        assert completed.returncode == 1 and message in completed.stderr and "Traceback" not in completed.stderr
    assert not server.repositories


def test_a_space_holds_the_page_the_model_and_its_requirements(server, saved, tmp_path):
    completed = run_hub_script("push_to_hub.py", saved, "me/play", "--space", "gradio", hub=server.url, home=tmp_path)
    assert completed.returncode == 0, completed.stderr
    assert "its owner needs a paid account; static ones are free" in completed.stdout
    space = server.repositories["space", "me/play"]
    assert space.details["sdk"] == "gradio"
    assert {"README.md", "app.py", "requirements.txt", "model/model_index.json"} < set(space.files)
    card = RepoCard(space.files["README.md"].decode())
    assert card.data.sdk == "gradio" and card.data.app_file == "app.py"
    requirements = space.files["requirements.txt"].decode().splitlines()
    names = {re.match(r"\w+", line)[0] for line in requirements}
    assert names == {"torch", "diffusers", "accelerate", "safetensors", "numpy", "Pillow", "gradio"}
    assert b"flower_ddim" not in space.files["app.py"]
    assert b"cuda.is_available()" in space.files["app.py"]


@pytest.mark.parametrize("words", [("me/play", "--space"), ("--space", "me/play")])
def test_a_static_space_holds_the_page_with_its_headers(words, server, saved, tmp_path):
    completed = run_hub_script("push_to_hub.py", saved, *words, hub=server.url, home=tmp_path)
    assert completed.returncode == 0, completed.stderr
    space = server.repositories["space", "me/play"]
    assert space.details["sdk"] == "static"
    assert {"README.md", "index.html", "runtime.json", "model/unet.onnx", "model/sampler.json"} < set(space.files)
    card = RepoCard(space.files["README.md"].decode()).data.to_dict()
    assert card["sdk"] == "static" and card["custom_headers"]["cross-origin-embedder-policy"] == "require-corp"
