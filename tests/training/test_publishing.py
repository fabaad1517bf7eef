"""A training that uploads to a repository whose card somebody has edited."""

import json

from hub_server import TOKEN, run_hub_script
from outside import run_python
from training_runs import SMALL, words


EDITED_WHILE_IT_TRAINS = """
import json, sys
from huggingface_hub import upload_file
from flower_ddim.training import TrainingConfig
from flower_ddim.training.trainer import Trainer

trainer = Trainer(TrainingConfig(**json.loads(sys.argv[1])))
upload_file(path_or_fileobj=b"# My flowers", path_in_repo="README.md", repo_id="me/flowers")
trainer.train()
"""


def test_an_edited_card_is_a_refusal_before_the_training_with_a_remedy_that_there_is(server, tmp_path):
    server.add("model", "me/flowers", {"README.md": b"# My flowers\n"})
    options = {"push_to_hub": True, "hub_model_id": "me/flowers"}
    completed = run_hub_script("train.py", *words(tmp_path / "run", **options), hub=server.url, home=tmp_path)
    assert completed.returncode == 1 and not (tmp_path / "run").exists()
    told = completed.stderr.splitlines()[-1]
    assert "The card of me/flowers was edited on the Hub" in told and "_card`" not in told
    assert f"train without `--push_to_hub`, and upload afterwards with `flower-ddim push {tmp_path}" in told
    assert "or name another `--hub_model_id`" in told


def test_a_card_that_is_edited_during_the_training_stays_and_so_does_the_model(server, tmp_path):
    options = {"output_dir": str(tmp_path / "run"), "push_to_hub": True, "hub_model_id": "me/flowers"}
    options |= SMALL | {"max_train_steps": 1}
    hub = {"home": tmp_path, "hub": server.url, "HF_TOKEN": TOKEN}
    completed = run_python(EDITED_WHILE_IT_TRAINS, json.dumps(options), **hub)
    told = completed.stderr.splitlines()[-1]
    assert completed.returncode == 1 and f"the pipeline is in {tmp_path / 'run'}; upload it with" in told
    assert (tmp_path / "run" / "model_index.json").is_file() and (tmp_path / "run" / "samples.png").is_file()
    assert server.model("me/flowers").files["README.md"] == b"# My flowers"
