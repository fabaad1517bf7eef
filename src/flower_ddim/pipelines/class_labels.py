"""Class labels as people give them, turned into what a network takes, and the guidance that goes with them."""

import difflib
import math
import numbers
import re
from collections.abc import Callable

import torch
import torch.nn.functional as F


class ClassLabels:
    """The classes that a network can be told.

    Args:
        unet: a [`FlowerUNet2DModel`], whose class `num_class_embeds` is the null class, which says nothing; or a stock
            `UNet2DModel`, which has no such class.
    """

    def __init__(self, unet):
        config = unet.config
        self.count = config.get("num_class_embeds") or 0
        self.names = list(config.get("class_names") or ())
        self.has_null_class = bool(self.count) and "class_embedding_dim" in config
        self.default_guidance_scale = config.get("default_guidance_scale", 1.0)

    def index(self, label: str | int | None) -> int:
        """The index of a class; `None` is the null class. Case, spaces, hyphens and underscores in a name do not matter.

        Raises:
            ValueError: for a class that there is not, with names that are near.
        """
        self._check_any()
        if label is None:
            if not self.has_null_class:
                raise ValueError("`class_labels` has None in it, but this network has no null class: name a class.")
            return self.count
        if isinstance(label, str):
            return self._index_of_name(label)
        if not isinstance(label, numbers.Integral) or isinstance(label, bool) or not 0 <= label < self.count:
            raise ValueError(f"There is no class {label!r}: indices are whole numbers from 0 to {self.count - 1}.")
        return int(label)

    def _check_any(self):
        if not self.count:
            raise ValueError("`class_labels` must be left out: this model knows no classes.")

    def _index_of_name(self, label: str) -> int:
        if label in self.names:
            return self.names.index(label)
        plain = [_plain(name) for name in self.names]
        found = [i for i, name in enumerate(plain) if name == _plain(label)]
        if len(found) == 1:
            return found[0]
        near = [self.names[plain.index(name)] for name in difflib.get_close_matches(_plain(label), plain, n=3)]
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "`pipe.labels` lists them."
        if not self.names:
            hint = f"this model's classes have no names, only indices from 0 to {self.count - 1}."
        raise ValueError(f"There is {'more than one' if found else 'no'} class {label!r}: {hint}")

    def tensor(self, class_labels) -> torch.Tensor | None:
        """Labels as the network takes them, integers (N,) or weights (N, count + 1); `None` for none at all.

        Args:
            class_labels: name, index, list or tensor of those, or weights of all classes and the null class, (N, count + 1).

        Raises:
            ValueError: for labels that the network does not know.
        """
        if class_labels is None:
            if self.count and not self.has_null_class:
                raise ValueError("This network must be told classes: give `class_labels`, for it has no null class.")
            return None
        self._check_any()
        if isinstance(class_labels, torch.Tensor) and class_labels.is_floating_point():
            if not self.has_null_class:
                raise ValueError("This network takes no weights of classes: give `class_labels` as names or indices.")
            if class_labels.ndim != 2 or class_labels.shape[1] != self.count + 1:
                shape = tuple(class_labels.shape)
                raise ValueError(f"`class_labels` has the shape {shape}, but weights need (N, {self.count + 1}).")
            return class_labels
        if hasattr(class_labels, "tolist"):
            class_labels = class_labels.tolist()
        labels = class_labels if isinstance(class_labels, (list, tuple)) else [class_labels]
        if not labels:
            raise ValueError("`class_labels` is empty: give at least one class, or None.")
        return torch.tensor([self.index(label) for label in labels])

    def weights(self, labels: torch.Tensor) -> torch.Tensor:
        """Integer labels (N,) as weights of all classes and the null class, (N, count + 1)."""
        return labels if labels.is_floating_point() else F.one_hot(labels, self.count + 1).float()

    def guidance_scale(self, labels: torch.Tensor | None, guidance_scale: float | None) -> float:
        """The strength of guidance, that of the model's configuration where none is given; 1 is none.

        Raises:
            ValueError: if it is no number from 0, or there is nothing to guide to or from.
        """
        is_labelled = labels is not None and bool((self.weights(labels)[:, -1] != 1).any())
        if guidance_scale is None:
            return self.default_guidance_scale if is_labelled and self.has_null_class else 1.0
        if not isinstance(guidance_scale, numbers.Real) or not 0 <= guidance_scale < math.inf:
            raise ValueError(f"`guidance_scale` is {guidance_scale!r}, but must be a number from 0; 1 is no guidance.")
        if guidance_scale != 1 and not (is_labelled and self.has_null_class):
            no_null = "this network has no null class: leave it at 1"
            reason = no_null if is_labelled else "no image has a class: give `class_labels`"
            raise ValueError(f"`guidance_scale` is {guidance_scale}, but {reason}.")
        return guidance_scale


def guided(
    unet, device: torch.device, class_labels, guidance_scale: float | None, batch_size: int
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """The network as a function of latents and a timestep to predictions in their dtype, with classes and guidance built in.

    `class_labels` and `guidance_scale` are those of the call of the pipeline; a ValueError says which cannot be used.
    """
    classes = ClassLabels(unet)
    labels = classes.tensor(class_labels)
    scale = classes.guidance_scale(labels, guidance_scale)
    kwargs = {"return_dict": False}
    if labels is not None:
        if len(labels) not in (1, batch_size):
            raise ValueError(f"`class_labels` has {len(labels)} labels for {batch_size} images: give one for each.")
        labels = kwargs["class_labels"] = labels.expand(batch_size, *labels.shape[1:]).to(device)
    if scale != 1:  # both predictions in one batch
        null = torch.full((batch_size,), classes.count)
        null = (classes.weights(null) if labels.is_floating_point() else null).to(labels)
        kwargs["class_labels"] = torch.cat([labels, null])

    def predict(latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        sample = latents.to(unet.dtype)
        if scale == 1:
            return unet(sample, timestep, **kwargs)[0].to(latents.dtype)
        timestep = timestep.expand(batch_size).repeat(2)
        with_class, without = unet(torch.cat([sample, sample]), timestep, **kwargs)[0].to(latents.dtype).chunk(2)
        return without + scale * (with_class - without)

    return predict


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).casefold()
