"""Up to the Hub and down again through the real client, over HTTP, to a server on the loopback.

The Hub's other transfer protocol for large files, Xet, is not covered: the client is told not to use it.
"""

import json
import re
import shutil
import socket
import subprocess
import sys

import pytest
import torch
from conftest import FLOWERS, ROOT, make_unet
from hub_server import TOKEN, HubServer
from huggingface_hub import RepoCard
from outside import run_python
from training_runs import words

from flower_ddim import FlowerDDIMPipeline, FlowerDDIMScheduler


UPLOADED = [
    "README.md",
    "interpolation.png",
    "model_index.json",
    "pipeline_flower_ddim.py",
    "samples.png",
    "scheduler/scheduler_config.json",
    "scheduler/scheduling_flower_ddim.py",
    "steps.png",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "unet/unet_flower_ddim.py",
]


@pytest.fixture
def server():
    server = HubServer()
    yield server
    server.shutdown()


@pytest.fixture(scope="module")
def shared_server():
    server = HubServer()
    yield server
    server.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    FlowerDDIMPipeline(make_unet(), FlowerDDIMScheduler()).save_pretrained(folder)
    return folder


def run_script(name, *arguments, hub, home, token=TOKEN):
    """Runs a script with the Hub at an address of ours: the client reads it when it is imported."""
    environment = {"HF_ENDPOINT": hub, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(home), "PATH": "", "HF_TOKEN": token}
    return subprocess.run(
        [sys.executable, *map(str, [ROOT / "scripts" / name, *arguments])],
        capture_output=True,
        text=True,
        env=environment | {"OMP_NUM_THREADS": "1"},
    )


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
def pushed(shared_server, folder, tmp_path_factory):
    """A pipeline on the server, private, as `pipe.push_to_hub` puts it there."""
    home = tmp_path_factory.mktemp("pushing")
    completed = run_python(PUSH, folder, "flowers", home=home, hub=shared_server.url, HF_TOKEN=TOKEN)
    repository = shared_server.model("me/flowers")
    assert completed.stdout.strip() == f"{shared_server.url}/me/flowers/commit/{repository.head}", completed.stderr
    return repository


def test_saving_can_push_too(server, folder, tmp_path):
    code = """
import sys
from flower_ddim import FlowerDDIMPipeline

pipe = FlowerDDIMPipeline.from_pretrained(sys.argv[1])
pipe.save_pretrained(sys.argv[2], push_to_hub=True, private=True)
"""
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "optimizer.bin").write_bytes(b"not for others")
    completed = run_python(code, folder, tmp_path / "saved", home=tmp_path, hub=server.url, HF_TOKEN=TOKEN)
    assert completed.returncode == 0, completed.stderr
    assert server.model("me/saved").private and sorted(server.model("me/saved").files) == UPLOADED


def test_what_is_pushed_is_complete_private_and_has_a_card(pushed, folder):
    assert pushed.private
    assert sorted(pushed.files) == UPLOADED
    for path in folder.rglob("*"):
        if path.is_file():
            assert pushed.files[path.relative_to(folder).as_posix()] == path.read_bytes()
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
def expected(folder):
    pipe = FlowerDDIMPipeline.from_pretrained(folder)
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
        "me/private offline": "it is not in the cache, and the Hub is not asked",
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
def test_broken_uploads_are_one_sentence_each_and_leave_the_newest_revision_as_it_was(server, folder, tmp_path):
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
    completed = run_python(PUSH, folder, *cases, home=tmp_path, hub=server.url, HF_TOKEN=TOKEN)
    sentences = completed.stdout.splitlines()
    assert len(sentences) == len(cases), completed.stdout + completed.stderr
    for sentence, (name, (_, message)) in zip(sentences, cases.items(), strict=True):
        assert sentence.startswith("OSError: ") and name in sentence and message in sentence
        assert server.model(name).files == before
    assert TOKEN not in completed.stdout + completed.stderr

    server.faults = {}
    completed = run_python(PUSH, folder, "me/commit-500", "no name!", home=tmp_path, hub=server.url, HF_TOKEN=TOKEN)
    assert sorted(server.model("me/commit-500").files) == UPLOADED, completed.stdout + completed.stderr
    assert completed.stdout.splitlines()[-1].startswith("ValueError: The repository no name! cannot be used: ")


PUSH_AGAIN = """
import json, sys
from flower_ddim import FlowerDDIMPipeline

pipe = FlowerDDIMPipeline.from_pretrained(sys.argv[1])
for word in sys.argv[2:]:  # a name, or options as JSON
    repo_id, options = ("me/flowers", json.loads(word)) if word.startswith("{") else (word, {})
    try:
        print(pipe.push_to_hub(repo_id, **options))
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
"""
LEFT_BLANK = {
    "me/only-a-licence": b"---\nlicense: mit\n---\n",
    "me/empty": b"",
    "me/without": None,
}


def test_a_card_that_was_edited_on_the_hub_is_not_overwritten(server, folder, tmp_path):
    for name, card in LEFT_BLANK.items():
        server.add("model", name, {} if card is None else {"README.md": card})
    server.add("model", "me/of-other-origin", {"README.md": b"# My flowers\n"})
    names = ["me/flowers", "me/flowers", *LEFT_BLANK, "me/of-other-origin"]
    hub = {"home": tmp_path, "hub": server.url, "HF_TOKEN": TOKEN}
    *pushed, refused = run_python(PUSH_AGAIN, folder, *names, **hub).stdout.splitlines()
    assert len(pushed) == 5 and all(line.startswith(server.url) for line in pushed), pushed
    assert all(sorted(server.model(name).files) == UPLOADED for name in names[:-1])
    assert refused.startswith(
        "ValueError: The card of me/of-other-origin was edited on the Hub, so nothing was uploaded"
    )
    assert "`--keep_card`" in refused and "`overwrite_card=True`" in refused
    assert server.model("me/of-other-origin").files == {"README.md": b"# My flowers\n"}

    flowers = server.model("me/flowers")
    edited = flowers.files | {"README.md": flowers.files["README.md"].replace(b"# flowers", b"# Our flowers")}
    flowers.commit(edited | {"samples.png": b"a better picture", "model_index.json": b"{}"})
    before = flowers.head
    both = json.dumps({"keep_card": True, "overwrite_card": True})
    pickled = json.dumps({"safe_serialization": False})
    lines = run_python(PUSH_AGAIN, folder, "me/flowers", both, pickled, json.dumps({"keep_card": True}), **hub)
    lines = lines.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["ValueError"] * 3 + ["http"]
    assert "choose one" in lines[1] and "pickles" in lines[2] and list(flowers.commits)[-2] == before
    assert flowers.files["README.md"] == edited["README.md"] and flowers.files["samples.png"] == b"a better picture"
    assert flowers.files["model_index.json"] == (folder / "model_index.json").read_bytes()

    completed = run_script("push_to_hub.py", folder, "me/flowers", hub=server.url, home=tmp_path)
    assert completed.returncode == 1 and "was edited on the Hub" in completed.stderr.splitlines()[-1]
    completed = run_script("push_to_hub.py", folder, "me/flowers", "--overwrite_card", hub=server.url, home=tmp_path)
    assert completed.returncode == 0, completed.stderr
    assert b"# flowers\n" in flowers.files["README.md"] and len(flowers.files["samples.png"]) > 1000


UPLOAD_LATE = """
import sys
from flower_ddim.hub.upload import upload_folder

print(upload_folder(sys.argv[1], "me/flowers", None, overwrite_card=True, parent_commit="0" * 40))
"""


def test_an_edit_between_check_and_upload_is_noticed(server, folder, tmp_path):
    server.add("model", "me/flowers", {"README.md": b"# My flowers\n"})
    completed = run_python(UPLOAD_LATE, folder, home=tmp_path, hub=server.url, HF_TOKEN=TOKEN)
    assert "(412): somebody has changed the repository meanwhile, so try again." in completed.stderr.splitlines()[-1]
    assert server.model("me/flowers").files == {"README.md": b"# My flowers\n"}


@pytest.mark.parametrize("installed", [True, False], ids=["with the package", "without it"])
def test_a_variant_is_verified_and_loaded_as_one(server, folder, tmp_path, installed):
    variant = tmp_path / "variant"
    FlowerDDIMPipeline.from_pretrained(folder, dtype=torch.float16).save_pretrained(variant, variant="fp16")
    completed = run_script("push_to_hub.py", variant, "me/flowers", "--variant", "fp16", hub=server.url, home=tmp_path)
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
    completed = run_script(
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
    completed = run_script(
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
    completed = run_script("train.py", *words(tmp_path / "run", **options), hub=server.url, home=tmp_path / "home")
    assert completed.returncode == 0, completed.stderr
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])["images"] == 32
    options = words(tmp_path / "refused", **options | {"dataset_name": "me/none"})
    completed = run_script("train.py", *options, hub=server.url, home=tmp_path / "home")
    assert completed.returncode == 1 and "There is no data set 'me/none' on the Hub" in completed.stderr


@pytest.mark.slow
def test_the_script_shows_what_it_uploads_and_takes_nothing_else(server, folder, tmp_path):
    model = shutil.copytree(folder, tmp_path / "model")
    (model / "checkpoint-5" / "state").mkdir(parents=True)
    for name in ("checkpoint-5/state/optimizer.bin", "unet/secret.safetensors", "notes.txt", "data.parquet"):
        (model / name).write_bytes(b"not for others")
    completed = run_script("push_to_hub.py", model, "me/mine", "--dry_run", hub=server.url, home=tmp_path)
    assert completed.returncode == 0, completed.stderr
    *lines, last = completed.stdout.splitlines()
    assert [line.split()[1] for line in lines] == UPLOADED and last == "Nothing was uploaded to the model me/mine."
    assert not server.repositories
    completed = run_script("push_to_hub.py", model, "me/mine", "--private", hub=server.url, home=tmp_path)
    assert completed.returncode == 0, completed.stderr
    assert sorted(server.model("me/mine").files) == UPLOADED and server.model("me/mine").private


@pytest.mark.slow
def test_the_script_verifies_first(server, folder, tmp_path):
    model = shutil.copytree(folder, tmp_path / "model")
    weights = model / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    for arguments, message in (
        ((model, "me/mine"), "damaged"),
        ((tmp_path / "none", "me/mine"), "There is no folder"),
    ):
        completed = run_script("push_to_hub.py", *arguments, hub=server.url, home=tmp_path)
        assert completed.returncode == 1 and message in completed.stderr and "Traceback" not in completed.stderr
    assert not server.repositories


def test_a_space_holds_the_page_the_model_and_its_requirements(server, folder, tmp_path):
    completed = run_script("push_to_hub.py", folder, "me/play", "--space", hub=server.url, home=tmp_path)
    assert completed.returncode == 0, completed.stderr
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


def test_the_card_of_a_space_is_not_overwritten_either(server, folder, tmp_path):
    server.add("space", "me/play", {"README.md": b"---\nsdk: gradio\n---\n# Come and play\n"})
    before = server.repositories["space", "me/play"].files
    push = ("push_to_hub.py", folder, "me/play", "--space")
    completed = run_script(*push, hub=server.url, home=tmp_path)
    assert completed.returncode == 1 and "The card of me/play was edited" in completed.stderr.splitlines()[-1]
    assert server.repositories["space", "me/play"].files == before
    completed = run_script(*push, "--keep_card", hub=server.url, home=tmp_path)
    assert completed.returncode == 0 and "README.md" not in completed.stdout, completed.stderr
    after = server.repositories["space", "me/play"].files
    assert after["README.md"] == before["README.md"] and "app.py" in after
