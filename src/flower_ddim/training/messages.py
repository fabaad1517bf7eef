"""The messages of several processes, each said once."""

import logging

from accelerate import PartialState


def main_process_logger(name: str) -> logging.Logger:
    """A logger of which only the main process is heard."""
    found = logging.getLogger(name)
    found.addFilter(lambda _: not PartialState._shared_state or PartialState().is_main_process)
    return found
