"""The ways between noises and between classes that an interpolation goes."""

import math

import torch

from .class_labels import ClassLabels


def noise_path(anchors: torch.Tensor, num_images: int, closed: bool, rescale: bool) -> torch.Tensor:
    """The noises on the way through anchors (N, C, H, W), shape (number of images, C, H, W).

    The arguments are those of [`FlowerDDIMPipeline.interpolate`].
    """
    # Without its last point, a section does not repeat the first one of the next.
    weights = torch.linspace(0, 1, num_images, device=anchors.device)[:-1].reshape(-1, 1, 1, 1)
    cos, sin = torch.cos(weights * (math.pi / 2)), torch.sin(weights * (math.pi / 2))
    scales = anchors.std((1, 2, 3), keepdim=True) if rescale else torch.ones_like(anchors[:, :1, :1, :1])
    directions = anchors / scales
    following = directions.roll(-1, 0), scales.roll(-1, 0)  # the last section leads back to the first anchor
    sections = [
        # From a noise to itself there is no way to go.
        torch.where((a == b).all(), a, cos * a + sin * b) * scale_a ** (1 - weights) * scale_b**weights
        for a, scale_a, b, scale_b in zip(directions, scales, *following, strict=True)
    ]
    return torch.cat(sections if closed else [*sections[:-1], anchors[-1:]])


def label_path(
    classes: ClassLabels, class_labels, num_anchors: int, num_images: int, closed: bool
) -> torch.Tensor | None:
    """The labels on the way through `num_anchors` anchors as weights of the classes, or the one label of all.

    Raises:
        ValueError: for unknown classes, or if there is neither one for all nor one for each anchor.
    """
    labels = classes.tensor(class_labels)
    if labels is None or len(labels) == 1:
        return labels
    if len(labels) != num_anchors:
        raise ValueError(f"`class_labels` has {len(labels)} labels for {num_anchors} anchors: give one for each.")
    labels = classes.weights(labels)
    weights = torch.linspace(0, 1, num_images, device=labels.device)[:-1, None]
    sections = [torch.lerp(a, b, weights) for a, b in zip(labels, labels.roll(-1, 0), strict=True)]
    return torch.cat(sections if closed else [*sections[:-1], labels[-1:]])
