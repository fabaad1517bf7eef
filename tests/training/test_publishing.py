"""A training that uploads to a repository whose card somebody has edited."""

from hub_server import run_hub_script
from training_runs import words


def test_an_edited_card_is_a_refusal_before_the_training_with_a_remedy_that_there_is(server, tmp_path):
    server.add("model", "me/flowers", {"README.md": b"# My flowers\n"})
    options = {"push_to_hub": True, "hub_model_id": "me/flowers"}
    completed = run_hub_script("train.py", *words(tmp_path / "run", **options), hub=server.url, home=tmp_path)
    assert completed.returncode == 1 and not (tmp_path / "run").exists()
    told = completed.stderr.splitlines()[-1]
    assert "The card of me/flowers was edited on the Hub" in told and "_card`" not in told
    assert (
        f"train without `--push_to_hub`, and upload afterwards with `python scripts/push_to_hub.py {tmp_path}" in told
    )
    assert "or name another `--hub_model_id`" in told
