"""Serves a page to play with a model in the browser: `python scripts/app.py`, then open the address that it prints."""

from flower_ddim.entrance import run


if __name__ == "__main__":
    run("flower_ddim.commands.app")
