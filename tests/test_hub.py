"""Uploads through the real client to a server on the loopback; the Hub's other transfer protocol, Xet, is not covered."""

import subprocess
import sys

import pytest
from conftest import ROOT, make_unet
from hub_server import TOKEN, HubServer
from training_runs import words

from flower_ddim import FlowerDDIMPipeline, FlowerDDIMScheduler


@pytest.fixture
def server():
    server = HubServer()
    yield server
    server.shutdown()


def run(server_url, *command):
    """Runs Python with the Hub at an address of ours: the client reads it when it is imported."""
    environment = {"HF_ENDPOINT": server_url, "HF_HUB_DISABLE_XET": "1", "PATH": "", "HF_TOKEN": "hf_wrong"}
    return subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, env=environment)


UPLOAD = """
import sys
from flower_ddim.hub import create_repository, upload_pipeline
for repo_id in sys.argv[2:]:
    try:
        print(upload_pipeline(sys.argv[1], create_repository(repo_id, "{token}", private=True), "{token}"))
    except OSError as error:
        print("refused:", error)
"""


def test_training_pushes_the_pipeline_and_nothing_else(server, tmp_path):
    options = {"push_to_hub": True, "hub_model_id": "flowers", "hub_token": TOKEN, "hub_private_repo": True}
    completed = run(server.url, ROOT / "scripts" / "train.py", *words(tmp_path / "run", max_train_steps=2, **options))
    assert completed.returncode == 0, completed.stderr
    repository = server.repositories["me/flowers"]
    assert repository["private"]
    names = ["model_index.json", "samples.png", "scheduler/scheduler_config.json", "unet/config.json"]
    assert sorted(repository["files"]) == [*names, "unet/diffusion_pytorch_model.safetensors"]
    for name, content in repository["files"].items():
        assert content == (tmp_path / "run" / name).read_bytes()
    assert TOKEN not in completed.stdout + completed.stderr
    assert not any(TOKEN.encode() in path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file())


def test_refusals_are_one_sentence_each_and_come_before_the_training(server, tmp_path):
    FlowerDDIMPipeline(make_unet(), FlowerDDIMScheduler()).save_pretrained(tmp_path / "pipeline")
    server.fail_commits_with = 500
    completed = run(
        server.url, "-c", UPLOAD.format(token=TOKEN), tmp_path / "pipeline", "others/flowers", "me/flowers"
    )
    refusals = completed.stdout.splitlines()
    assert len(refusals) == 2, completed.stdout + completed.stderr
    assert "others/flowers cannot be used (403): log in" in refusals[0]
    assert "could not be uploaded to me/flowers: the Hub answered 500" in refusals[1]
    assert server.repositories["me/flowers"]["files"] == {}

    options = {"push_to_hub": True, "hub_model_id": "me/flowers"}
    completed = run(server.url, ROOT / "scripts" / "train.py", *words(tmp_path / "run", **options))
    assert completed.returncode == 1 and "me/flowers cannot be used (401): log in" in completed.stderr
    assert "Traceback" not in completed.stderr and "hf_wrong" not in completed.stderr
    assert not (tmp_path / "run").exists()
