"""Figures of data, schedules, training and generation."""

from .drawing import *  # noqa: F403
