"""Renders the card of a model folder: `python scripts/model_card.py MODEL_DIR --output model_card.md`."""

from flower_ddim.commands.card import main
from flower_ddim.entrance import run


if __name__ == "__main__":
    run(main)
