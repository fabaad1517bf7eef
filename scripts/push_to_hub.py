"""Uploads a model to the Hub: `python scripts/push_to_hub.py MODEL_DIR REPO_ID`."""

from flower_ddim.entrance import run


if __name__ == "__main__":
    run("flower_ddim.commands.push")
