"""Turns weights of the Keras reference into a pipeline folder: `python scripts/convert_keras.py WEIGHTS OUT`."""

from flower_ddim.entrance import run


if __name__ == "__main__":
    run("flower_ddim.commands.convert")
