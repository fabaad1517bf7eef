"""Figures of data, schedules, training and generation. Most functions return a matplotlib Figure.

They take any pipeline: images of any size, coloured or grey, and other networks. They do not use pyplot, so no window opens and no
backend is chosen.
"""

from .animation import check_animation, save_animation, trajectory_frames
from .generation import (
    class_interpolation,
    classes,
    every_class,
    generated,
    in_few_steps,
    interpolation,
    samples_by_epoch,
    steps,
    trajectory,
    trajectory_states,
)
from .grids import as_pixels, captioned_grid, cut_grid, dataset, image_grid
from .loss import loss_curve
from .real_pictures import inversion, inversion_table, invert_by_reversed_grid, real_interpolation, real_pixels
from .theory import corruption, embedding, schedules


__all__ = [
    "as_pixels",
    "captioned_grid",
    "check_animation",
    "class_interpolation",
    "classes",
    "corruption",
    "cut_grid",
    "dataset",
    "embedding",
    "every_class",
    "generated",
    "image_grid",
    "in_few_steps",
    "interpolation",
    "inversion",
    "inversion_table",
    "invert_by_reversed_grid",
    "loss_curve",
    "real_interpolation",
    "real_pixels",
    "samples_by_epoch",
    "save_animation",
    "schedules",
    "steps",
    "trajectory",
    "trajectory_frames",
    "trajectory_states",
]
