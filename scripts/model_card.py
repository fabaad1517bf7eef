"""Renders the card of a model folder: `python scripts/model_card.py MODEL_DIR --output model_card.md`."""

from flower_ddim.entrance import run


if __name__ == "__main__":
    run("flower_ddim.commands.card")
