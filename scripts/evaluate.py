"""Measures a model: `python scripts/evaluate.py reference`, then `score`, `steps` and `overfitting`."""

from flower_ddim.entrance import run


if __name__ == "__main__":
    run("flower_ddim.commands.evaluate")
