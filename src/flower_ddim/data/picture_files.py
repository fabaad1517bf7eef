"""Opens files of pictures as what they are, whatever their names say."""

from PIL import Image, UnidentifiedImageError

from ..pipelines.image_processing import RASTER_FORMATS


def open_picture(file) -> Image.Image:
    """Opens a picture by its path, or as a file that is open, like `Image.open`: what follows the header is read when needed.

    Raises:
        UnidentifiedImageError: if it is of none of `RASTER_FORMATS`.
        OSError: if the file cannot be read.
    """
    Image.init()
    try:
        return Image.open(file, formats=[name for name in RASTER_FORMATS if name in Image.OPEN])
    except UnidentifiedImageError as error:
        raise UnidentifiedImageError("it is of no format that is read here") from error


def read_picture(path: str) -> Image.Image:
    """Opens a picture by its path and decodes it.

    Raises:
        ValueError: if it cannot be read, with its name.
    """
    try:
        with open_picture(path) as image:
            image.load()
            return image
    except Exception as error:  # Pillow's decoders raise whatever their format suggests
        raise ValueError(f"{path} cannot be read ({str(error).rstrip('.')}): save it as JPEG or PNG.") from error


def picture_suffixes() -> set[str]:
    """The endings of files that hold raster pictures, in lower case and with their dot, as far as this Pillow reads them."""
    Image.init()
    readable = {name for name in RASTER_FORMATS if name in Image.OPEN}
    if "JPEG" in readable:  # whose opener also reads MPO, for which none is registered
        readable |= {"MPO"} & set(RASTER_FORMATS)
    return {ending for ending, name in Image.EXTENSION.items() if name in readable}
