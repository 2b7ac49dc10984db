"""Reading images, with errors that name the file."""

from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from liveedit.errors import BadInput

__all__ = ["image_key", "open_image"]


def open_image(image: Image.Image | str | Path) -> Image.Image:
    """The picture, fully read, as RGB. ``image`` is a picture already (its pixels are kept) or the path to one.

    A file is turned upright as its camera noted. Raises :class:`BadInput` for a path where there is no file, and for a
    file that is no image or a broken one.
    """
    if isinstance(image, Image.Image):
        return to_rgb(image, "the image")
    try:
        with Image.open(Path(image).expanduser()) as opened:
            return to_rgb(ImageOps.exif_transpose(opened), f"the image {image}")
    except FileNotFoundError:
        raise BadInput(f"no image at {image}: check the path") from None
    except IsADirectoryError:
        raise BadInput(f"{image} is a folder: give the path of an image file") from None
    except UnidentifiedImageError:
        raise BadInput(f"{image} is not an image that can be read: save it as PNG or JPEG") from None
    except BROKEN as error:
        raise BadInput(f"cannot read the image {image} ({error}): check the file") from None


def to_rgb(image: Image.Image, name: str) -> Image.Image:
    """``image`` as RGB. Raises :class:`BadInput` where its data is broken."""
    try:
        return image.convert("RGB")
    except BROKEN as error:
        raise BadInput(f"{name} is broken ({error}): save it anew as PNG or JPEG") from None


def image_key(image: Image.Image | str | Path) -> int | str:
    """The same for two mentions of one image object or path, within one call."""
    return id(image) if isinstance(image, Image.Image) else str(image)


BROKEN = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
"""What Pillow raises on data that is not what its header says."""
