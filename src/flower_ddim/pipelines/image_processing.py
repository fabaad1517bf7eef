"""Turns pictures as people have them into what a model takes, in training and in `FlowerDDIMPipeline.preprocess`."""

import numpy as np
import torch
from PIL import Image, ImageOps


# What Pillow decodes by itself; for EPS it would start Ghostscript. TGA has no mark of its own, so it is tried last.
RASTER_FORMATS = ("AVIF", "BMP", "DDS", "DIB", "GIF", "HEIF", "ICNS", "ICO", "IM", "JPEG", "JPEG2000", "MPO", "PCX", "PNG", "PPM",
    "PSD", "QOI", "SGI", "SUN", "TIFF", "WEBP", "XBM", "XPM", "TGA")  # fmt: skip


def upright_rgb(image: Image.Image) -> Image.Image:
    """Converts a picture of any mode to 8-bit RGB: turns it as its EXIF data says, puts transparency on white.

    White is 1 in mode F, 65535 with 16 bits, 255 or 65535 in mode I. Numbers outside of [0, white] are a ValueError.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode[0] in "FI":  # which Pillow's own conversion would cut off at 255
        values = np.asarray(image, dtype=np.float64)
        white = 1 if image.mode == "F" else 255 if image.mode == "I" and values.max() <= 255 else 65535
        if not ((values >= 0) & (values <= white)).all():
            raise ValueError(f"Mode {image.mode} holds numbers outside of [0, {white}]: scale them to that.")
        image = Image.fromarray((values * (255 / white)).round().astype(np.uint8))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")


def pixels(image) -> torch.Tensor:
    """A picture, or a batch of them in an array, as float32 (N, C, H, W) in [0, 1]; ValueError but for uint8 or [0, 1]."""
    if isinstance(image, Image.Image) and image.format in (None, *RASTER_FORMATS):
        image = np.asarray(upright_rgb(image))
    if isinstance(image, np.ndarray):
        image = torch.from_numpy(np.array(image[..., None] if image.ndim == 2 else image))
        image = image.movedim(-1, -3) if image.ndim in (3, 4) else image
    if not isinstance(image, torch.Tensor) or image.ndim not in (3, 4):
        what = getattr(image, "shape", None) or type(image).__name__
        raise ValueError(f"{what} is no picture: give raster images, arrays (H, W, C), tensors (C, H, W), or lists.")
    image = image[None] if image.ndim == 3 else image
    image = image / 255 if image.dtype == torch.uint8 else image
    if not image.is_floating_point() or not ((image >= 0) & (image <= 1)).all():
        raise ValueError(f"`images` are {image.dtype}, not all finite in [0, 1]: give uint8 or fractions of 1.")
    return image.float()


def crop_and_resize(array: np.ndarray, height: int, width: int, center_crop: bool = True) -> np.ndarray:
    """Crops float32 pixels (H, W, C) to the proportions of `height` and `width`, or squeezes them, and resizes them.

    Pillow's bilinear filter widens with the reduction, so there is no aliasing. No torch here: it hangs in forked workers.
    """
    if center_crop:
        scale = min(array.shape[0] / height, array.shape[1] / width)
        crop_height, crop_width = max(1, round(scale * height)), max(1, round(scale * width))
        top, left = (array.shape[0] - crop_height) // 2, (array.shape[1] - crop_width) // 2
        array = array[top : top + crop_height, left : left + crop_width]
    if array.shape[:2] == (height, width):
        return array
    planes = (Image.fromarray(array[..., i]) for i in range(array.shape[-1]))  # of mode "F", which is not rounded
    return np.stack([plane.resize((width, height), Image.Resampling.BILINEAR) for plane in planes], axis=-1)


def fit_pixels(picture: torch.Tensor, channels: int, height: int, width: int) -> torch.Tensor:
    """Fits a float32 picture (C, H, W) in [0, 1] to the model; a ValueError for channels that are neither 1, 3 nor `channels`."""
    if 0 in picture.shape or picture.shape[0] not in (1, 3, channels):
        shape = tuple(picture.shape)
        raise ValueError(f"A picture is {shape}, but needs 1, 3 or {channels} channels and at least one pixel.")
    array = crop_and_resize(picture.detach().permute(1, 2, 0).cpu().numpy(), height, width)
    if channels == 1 and array.shape[-1] == 3:  # ITU-R BT.601, as in Pillow; grey stays exact in float64
        array = (array.astype(np.float64) @ (0.299, 0.587, 0.114)).astype(np.float32)[..., None]
    return torch.from_numpy(array).permute(2, 0, 1).expand(channels, -1, -1)
