"""Pictures as people have them, turned into what a model takes; for training and for `FlowerDDIMPipeline.preprocess`."""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps


def upright_rgb(image: Image.Image) -> Image.Image:
    """An 8-bit RGB picture of one of any mode: turned as its EXIF data says, 16 bits scaled down, transparency over white."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits, which Pillow's own conversion would cut off at 255
        values = np.asarray(image).astype(np.uint32)
        if image.mode != "I" or values.max() > 255:  # that one is also what 8 bits may be kept in
            values >>= 8
        image = Image.fromarray(values.clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def pixels(image) -> torch.Tensor:
    """A picture, or a batch of them in an array, as float32 tensor (N, C, H, W) in [0, 1]."""
    if isinstance(image, Image.Image):
        image = np.asarray(upright_rgb(image))
    if isinstance(image, np.ndarray):
        image = torch.from_numpy(np.array(image))
        image = image[..., None] if image.ndim == 2 else image
        image = image.movedim(-1, -3) if image.ndim in (3, 4) else image
    if not isinstance(image, torch.Tensor) or image.ndim not in (3, 4):
        what = getattr(image, "shape", None) or type(image).__name__
        raise ValueError(
            f"{what} is no picture: give PIL images, arrays (H, W, C) or tensors (C, H, W), or lists of them."
        )
    image = image[None] if image.ndim == 3 else image
    if image.dtype == torch.uint8:
        return image.float() / 255
    if not image.is_floating_point() or not ((image >= 0) & (image <= 1)).all():
        raise ValueError(
            f"`images` hold {image.dtype} numbers that are not all in [0, 1] or are not finite: give uint8, or divide "
            "by their range."
        )
    return image.float()


def fit_pixels(pictures: torch.Tensor, channels: int, height: int, width: int) -> torch.Tensor:
    """Cuts, resizes and colours pictures (N, C, H, W) to what the model takes."""
    if 0 in pictures.shape or pictures.shape[1] not in (1, 3, channels):
        raise ValueError(
            f"A picture has the shape {tuple(pictures.shape[1:])} of channels, height and width, but it needs 1, 3 or "
            f"{channels} channels and at least one pixel."
        )
    if channels == 1 and pictures.shape[1] == 3:
        luma = torch.tensor([0.299, 0.587, 0.114], device=pictures.device)  # ITU-R BT.601, as in Pillow
        pictures = torch.einsum("nchw,c->nhw", pictures, luma)[:, None]
    scale = min(pictures.shape[2] / height, pictures.shape[3] / width)
    crop_height, crop_width = max(1, round(scale * height)), max(1, round(scale * width))
    top, left = (pictures.shape[2] - crop_height) // 2, (pictures.shape[3] - crop_width) // 2
    pictures = pictures[:, :, top : top + crop_height, left : left + crop_width]
    if pictures.shape[2:] != (height, width):
        pictures = F.interpolate(pictures, (height, width), mode="bilinear", antialias=True)
    return pictures.cpu().expand(-1, channels, -1, -1)
