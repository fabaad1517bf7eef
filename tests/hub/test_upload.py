"""Up to the Hub and down again through the real client, over HTTP, to a server on the loopback.

The Hub's other transfer protocol for large files, Xet, is not covered: the client is told not to use it.
"""

import json
import socket

import pytest
import torch
from conftest import FLOWERS
from hub_server import TOKEN, UPLOADED, run_hub_script
from huggingface_hub import RepoCard
from outside import run_python
from training_runs import words

from flower_ddim import FlowerDDIMPipeline


PUSH = """
import sys
from flower_ddim import FlowerDDIMPipeline

pipe = FlowerDDIMPipeline.from_pretrained(sys.argv[1])
for repo_id in sys.argv[2:]:
    try:
        print(pipe.push_to_hub(repo_id, private=True))
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
"""


@pytest.fixture(scope="module")
def pushed(shared_server, saved, tmp_path_factory):
    """A pipeline on the server, private, as `pipe.push_to_hub` puts it there."""
    home = tmp_path_factory.mktemp("pushing")
    completed = run_python(PUSH, saved, "flowers", home=home, hub=shared_server.url, HF_TOKEN=TOKEN)
    repository = shared_server.model("me/flowers")
    assert completed.stdout.strip() == f"{shared_server.url}/me/flowers/commit/{repository.head}", completed.stderr
    return repository


def test_saving_can_push_too(server, saved, tmp_path):
    code = """
import sys
from flower_ddim import FlowerDDIMPipeline

pipe = FlowerDDIMPipeline.from_pretrained(sys.argv[1])
pipe.save_pretrained(sys.argv[2], push_to_hub=True, private=True)
"""
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "optimizer.bin").write_bytes(b"not for others")
    completed = run_python(code, saved, tmp_path / "saved", home=tmp_path, hub=server.url, HF_TOKEN=TOKEN)
    assert completed.returncode == 0, completed.stderr
    assert server.model("me/saved").private and sorted(server.model("me/saved").files) == UPLOADED


def test_what_is_pushed_is_complete_private_and_has_a_card(pushed, saved):
    assert pushed.private
    assert sorted(pushed.files) == UPLOADED
    for path in saved.rglob("*"):
        if path.is_file():
            assert pushed.files[path.relative_to(saved).as_posix()] == path.read_bytes()
    card = pushed.files["README.md"].decode()
    assert "library_name: diffusers" in card and 'from_pretrained("me/flowers", trust_remote_code=True)' in card
    assert len(pushed.commits) == 2  # the empty one and ours


LOAD = """
import sys
import torch
from diffusers import DDIMScheduler
from {module} import {cls} as Pipeline

pipe = Pipeline.from_pretrained("me/flowers", {options})
scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
assert Pipeline.from_pretrained("me/flowers", scheduler=scheduler, {options}).scheduler is scheduler
latents = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
torch.save(pipe(latents=latents, num_inference_steps=3, output_type="pt").images, sys.argv[1])
print(type(pipe.unet).__module__)
"""
WITH = LOAD.format(module="flower_ddim", cls="FlowerDDIMPipeline", options="")
WITHOUT = LOAD.format(module="diffusers", cls="DiffusionPipeline", options="trust_remote_code=True")
CACHED = (
    "__import__('os').path.dirname(__import__('huggingface_hub').hf_hub_download('me/flowers', 'model_index.json'))"
)


@pytest.fixture
def expected(saved):
    pipe = FlowerDDIMPipeline.from_pretrained(saved)
    latents = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    return pipe(latents=latents, num_inference_steps=3, output_type="pt").images


@pytest.mark.parametrize(
    "code, installed, offline_code",
    [
        (WITH, True, WITH),
        # diffusers asks the Hub for the version of remote code, also where it is in the cache; a folder has none.
        (WITHOUT, False, WITHOUT.replace('"me/flowers"', CACHED)),
    ],
    ids=["with the package", "without it"],
)
def test_loads_by_id_in_a_fresh_process_and_then_offline(
    pushed, shared_server, expected, tmp_path, code, installed, offline_code
):
    file = tmp_path / "images.pt"
    hub = {"hub": shared_server.url, "HF_TOKEN": TOKEN}
    for code_, where in ((code, hub), (offline_code, {})):
        completed = run_python(code_, file, home=tmp_path, installed=installed, **where)
        assert completed.returncode == 0, completed.stderr
        assert completed.stdout.splitlines()[-1].startswith("flower_ddim." if installed else "diffusers_modules.")
        assert torch.equal(torch.load(file, weights_only=True), expected)
        file.unlink()


LOAD_AND_EXPLAIN = """
import sys
from flower_ddim import FlowerDDIMPipeline

for word in sys.argv[1:]:
    repo_id, _, token = word.partition(" ")
    options = {"local_files_only": True} if token == "offline" else {"token": token or None}
    try:
        FlowerDDIMPipeline.from_pretrained(repo_id, **options)
    except OSError as error:
        print(error)
"""


def dead_address():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_failing_downloads_end_in_one_sentence_each(server, tmp_path):
    cases = {
        "me/private hf_wrong": "(401): log in with `hf auth login`",
        "me/none": "(404): check the name",
        "me/forbidden": "(403): log in",
        "me/broken": "the Hub answered 500, so try again later",
        "me/private offline": "it is not in the cache, and the Hub was not reached",
    }
    server.add("model", "me/private", {"model_index.json": b"{}"}, private=True)
    server.faults = {f"me/{n}": {"info": s, "resolve": s} for n, s in (("forbidden", 403), ("broken", 500))}
    for hub, cases_there in ((server.url, cases), (dead_address(), {"me/dead": "the Hub cannot be reached"})):
        completed = run_python(LOAD_AND_EXPLAIN, *cases_there, home=tmp_path, hub=hub, HF_TOKEN=TOKEN)
        sentences = completed.stdout.splitlines()
        assert len(sentences) == len(cases_there), completed.stdout + completed.stderr
        for sentence, (word, message) in zip(sentences, cases_there.items(), strict=True):
            assert sentence.startswith(f"The pipeline {word.split()[0]} cannot be loaded from the Hub")
            assert message in sentence
        assert "hf_" not in completed.stdout + completed.stderr


@pytest.mark.slow
def test_broken_uploads_are_one_sentence_each_and_leave_the_newest_revision_as_it_was(server, saved, tmp_path):
    cases = {
        "me/commit-500": ({"commit": 500}, "the Hub answered 500, so try again later"),
        "me/commit-hangs-up": ({"commit": "hang up"}, "the Hub cannot be reached"),
        "me/commit-403": ({"commit": 403}, "(403): log in with `hf auth login`"),
        "me/upload-403": ({"upload": 403}, "(403): log in"),
        "me/preupload-404": ({"preupload": 404}, "(404): check the name"),
        "me/commit-400": ({"commit": 400}, "the Hub answered 400"),
        "me/create-401": ({"create": 401, "info": 401}, "(401): log in"),
        "me/create-500": ({"create": 500}, "the Hub answered 500"),
    }
    before = {"model_index.json": b"the revision before"}
    for name, (faults, _) in cases.items():
        server.add("model", name, before)
        server.faults[name] = faults
    completed = run_python(PUSH, saved, *cases, home=tmp_path, hub=server.url, HF_TOKEN=TOKEN)
    sentences = completed.stdout.splitlines()
    assert len(sentences) == len(cases), completed.stdout + completed.stderr
    for sentence, (name, (_, message)) in zip(sentences, cases.items(), strict=True):
        assert sentence.startswith("OSError: ") and name in sentence and message in sentence
        assert server.model(name).files == before
    assert TOKEN not in completed.stdout + completed.stderr

    server.faults = {}
    completed = run_python(PUSH, saved, "me/commit-500", "no name!", home=tmp_path, hub=server.url, HF_TOKEN=TOKEN)
    assert sorted(server.model("me/commit-500").files) == UPLOADED, completed.stdout + completed.stderr
    assert completed.stdout.splitlines()[-1].startswith("ValueError: The repository no name! cannot be used: ")


@pytest.mark.parametrize("installed", [True, False], ids=["with the package", "without it"])
def test_a_variant_is_verified_and_loaded_as_one(server, saved, tmp_path, installed):
    variant = tmp_path / "variant"
    FlowerDDIMPipeline.from_pretrained(saved, dtype=torch.float16).save_pretrained(variant, variant="fp16")
    completed = run_hub_script(
        "push_to_hub.py", variant, "me/flowers", "--variant", "fp16", hub=server.url, home=tmp_path
    )
    assert completed.returncode == 0, completed.stderr
    weights = "unet/diffusion_pytorch_model.fp16.safetensors"
    expected = [name for name in UPLOADED if not name.endswith(".safetensors")] + [weights]
    assert sorted(server.model("me/flowers").files) == sorted(expected)
    assert server.model("me/flowers").files[weights] == (variant / weights).read_bytes()
    card = server.model("me/flowers").files["README.md"].decode()
    code = card.split("```python\n")[1 if installed else 2].split("```")[0].replace("batch_size=16", "batch_size=1")
    assert 'variant="fp16"' in code
    completed = run_python(code, home=tmp_path, installed=installed, hub=server.url, HF_TOKEN=TOKEN)
    assert completed.returncode == 0, completed.stderr


def test_training_pushes_the_pipeline_and_nothing_else(server, tmp_path):
    options = {"push_to_hub": True, "hub_model_id": "flowers", "hub_token": TOKEN, "hub_private_repo": True}
    options["license"] = "cc-by-4.0"
    options |= {"max_train_steps": 2}
    completed = run_hub_script(
        "train.py", *words(tmp_path / "run", **options), hub=server.url, home=tmp_path, token="hf_wrong"
    )
    assert completed.returncode == 0, completed.stderr
    repository = server.model("me/flowers")
    assert repository.private
    assert sorted(repository.files) == UPLOADED
    for name in ("unet/diffusion_pytorch_model.safetensors", "model_index.json", "scheduler/scheduler_config.json"):
        assert repository.files[name] == (tmp_path / "run" / name).read_bytes()
    card = repository.files["README.md"].decode()
    assert RepoCard(card).data.license == "cc-by-4.0"
    assert "2 optimizer steps on 32 pictures" in card and "| learning_rate | 0.001 |" in card
    assert str(tmp_path) not in card and str(FLOWERS) not in card
    assert TOKEN not in completed.stdout + completed.stderr
    assert not any(TOKEN.encode() in path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file())
    assert not any(TOKEN.encode() in content for content in repository.files.values())


def test_refusals_come_before_the_training(server, tmp_path):
    options = {"push_to_hub": True, "hub_model_id": "me/flowers"}
    completed = run_hub_script(
        "train.py", *words(tmp_path / "run", **options), hub=server.url, home=tmp_path, token="hf_wrong"
    )
    assert completed.returncode == 1 and "me/flowers cannot be used (401): log in" in completed.stderr
    assert "Traceback" not in completed.stderr and "hf_wrong" not in completed.stderr
    assert not (tmp_path / "run").exists()


def test_training_reads_a_data_set_of_the_hub(server, tmp_path):
    from datasets import load_dataset

    few = load_dataset("parquet", data_files=str(FLOWERS / "flowers-128.parquet"), cache_dir=tmp_path)["train"]
    few.select(range(40)).to_parquet(tmp_path / "few.parquet")
    files = {"data/train-00000-of-00001.parquet": (tmp_path / "few.parquet").read_bytes()}
    server.add("dataset", "me/few-flowers", files, private=True)
    options = {"train_data_dir": None, "dataset_name": "me/few-flowers", "max_train_steps": 2, "cache_dir": None}
    completed = run_hub_script("train.py", *words(tmp_path / "run", **options), hub=server.url, home=tmp_path / "home")
    assert completed.returncode == 0, completed.stderr
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])["images"] == 32
    options = words(tmp_path / "refused", **options | {"dataset_name": "me/none"})
    completed = run_hub_script("train.py", *options, hub=server.url, home=tmp_path / "home")
    assert completed.returncode == 1 and "There is no data set 'me/none' on the Hub" in completed.stderr
