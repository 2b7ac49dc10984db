"""Images as a person sees them; an image that cannot be shown so is refused in one line.

==============================  ==================================================================
given                           shown
==============================  ==================================================================
a file with an EXIF             upright; also a picture straight from ``PIL.Image.open``, while a
orientation                     picture made or changed in memory keeps its pixels
transparency of any kind        the picture on a white page
16-bit grey                     its whole range, from 0 (black) to 65,535 (white; in a TIFF the
                                largest number of its bits, or its tag of the largest value);
                                floating point from 0 to 1
palettes, CMYK, YCCK, LAB, HSV  their colours, without colour management
1 bit, L, RGB, any size         unchanged
MPO, PSD                        the one picture that viewers show
==============================  ==================================================================

These are refused: animations and files of several pages; floating point outside of 0 to 1; 32-bit
integers; FITS of more than 8 bits; colours of more than 8 bits that use only a small part of their
range; pictures without pixels or with more than Pillow opens; broken files, and anything that is
not a file.
"""

import os
import re
import stat
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image, ImageChops, ImageFile, ImageOps, UnidentifiedImageError

from liveedit.errors import BadInput
from liveedit.types import check_image

__all__ = [
    "check_readable",
    "faults",
    "image_key",
    "image_title",
    "images_hash",
    "open_image",
    "reason",
]

Given = TypeVar("Given")
Source = Image.Image | str | os.PathLike[str]
"""A picture, or the path to one."""

ADDRESS = re.compile(r"(?!file:)[a-z][a-z0-9+.-]+:/|data:", re.IGNORECASE)
ONE_SHOWN = {"MPO", "PSD"}
"""Formats whose further frames (gain maps, layers) are not an animation."""
ONE_IS_BLACK = {"PSD", "XBM"}
"""Formats of which Pillow opens pictures of 1 bit with black and white exchanged."""
DEEP = {"I;16", "I;16L", "I;16B", "I;16N", "I", "F"}
"""Pillow's modes with more than 8 bits."""
STEPS = {"1": 255, "L;2": 85, "L;4": 17}
"""Distance between the greys of a PNG with few bits, which names its transparent grey by number."""
BITS = 258
"""TIFF's tag of the bits per sample."""
PHOTOMETRIC = 262
"""TIFF's tag of the meaning of a sample."""
WHITE_IS_ZERO = 0
"""Value of that tag which means that 0 is white."""
MOST = 281
"""TIFF's tag of the largest value of a sample."""
ALPHA_BITS = 17
"""Byte in Targa's header with the number of alpha bits."""
ALPHA_MASK = 15
"""Bit mask of the number of alpha bits in that byte."""
LONGEST = 160
"""Largest number of characters of an image's name in a message."""


def open_image(image: Source) -> Image.Image:
    """Open a picture or the path to one: fully loaded, in RGB, as a person sees it.

    The path is kept as ``info["name"]``. Raises :class:`BadInput`, in one line that names the
    image, for anything that is no image, cannot be read, or cannot be shown faithfully.
    """
    check_image(image)
    with quiet():
        if isinstance(image, Image.Image):
            return shown(image, image_title(image))
        return read(image)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Pillow's warnings: faults that matter are refused here, the others are invisible."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield


def read(image: str | os.PathLike[str]) -> Image.Image:
    """Read the picture in a file. Raises :class:`BadInput` as :func:`open_image` does."""
    path = regular_file(image)
    title = image_title(image)
    try:
        with Image.open(path) as opened:
            picture = shown(opened, title)
    except BadInput:
        raise
    except UnidentifiedImageError:
        raise BadInput(
            f"{title} is not an image that can be read: save it as PNG or JPEG"
        ) from None
    except Image.DecompressionBombError:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise BadInput(f"{title} has more than {most:,} pixels: make it smaller") from None
    except OSError as error:
        raise BadInput(
            f"cannot read {title} ({error.strerror or reason(error)}): check the file"
        ) from error
    except Exception as error:  # a decoder may raise anything on broken bytes
        raise BadInput(
            f"{title} is broken ({reason(error)}): save it again as PNG or JPEG"
        ) from error
    picture.info["name"] = os.fspath(image)
    return picture


def regular_file(image: str | os.PathLike[str]) -> Path:
    """The path of a regular file with content. Raises :class:`BadInput` for anything else.

    Nothing is opened, as opening a pipe would block.
    """
    title = image_title(image)
    try:
        path = Path(image).expanduser()
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError, RuntimeError):
        # ValueError: a null character; RuntimeError: an unknown ~user
        raise BadInput(nowhere(title)) from None
    except OSError as error:
        raise BadInput(f"cannot read {title} ({error.strerror}): check the path") from None
    if stat.S_ISDIR(status.st_mode):
        raise BadInput(f"{title} is a folder: give the path of an image file")
    if not stat.S_ISREG(status.st_mode):
        raise BadInput(f"{title} is a pipe or a device, not a file: save the image as a file first")
    if not status.st_size:
        raise BadInput(f"{title} is empty: get the file again")
    return path


def nowhere(title: str) -> str:
    """The message for a path at which there is nothing."""
    path = title.removeprefix("the image ")
    if ADDRESS.match(path):
        return f"{title} is a URL, not a path: download it first, then give the file's path"
    if path.lower().startswith("file:"):
        return f"{title} is a URL, not a path: leave 'file://' out"
    return f"no image at {path}: check the path"


def shown(image: Image.Image, title: str) -> Image.Image:
    """``image`` in RGB, as a person sees it.

    Raises :class:`BadInput` if that is not possible or its data is broken.
    """
    try:
        check_single(image, title)
        tags = getattr(image, "tag_v2", {})
        check_white(image, tags, title)
        colour = transparent_colour(image)
        opaque = says_opaque(image)
        picture = upright(image)
        if colour is not None:
            picture.info["transparency"] = colour
        if picture.mode in DEEP:
            return in_eight_bits(picture, tags, title).convert("RGB")
        if picture.mode == "1" and image.format in ONE_IS_BLACK:
            picture = ImageChops.invert(picture)
        if picture.has_transparency_data and not opaque:
            return on_white(picture)
        return picture.convert("RGB")
    except BadInput:
        raise
    except Exception as error:  # a decoder may raise anything on broken bytes
        raise BadInput(
            f"{title} is broken ({reason(error)}): save it again as PNG or JPEG"
        ) from error


def check_single(image: Image.Image, title: str) -> None:
    """Raise :class:`BadInput` for a picture without pixels, an animation and several pages."""
    if not all(image.size):
        raise BadInput(f"{title} has no pixels: give one that shows something")
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format not in ONE_SHOWN:
        raise BadInput(f"{title} holds {frames} frames or pages: save the one that is meant as PNG")


def check_white(image: Image.Image, tags: Any, title: str) -> None:
    """Raise :class:`BadInput` if it is unknown which pixel value is white.

    ``tags`` are those of a TIFF. Numbers in FITS are signed and of any scale, and not every version
    of Pillow knows the order of their bytes. Of colours with more than 8 bits Pillow keeps the
    upper 8 bits; they hold little if the file declares a smaller number to be white.
    """
    if image.mode in DEEP and image.format == "FITS":
        raise BadInput(
            f"{title} holds more than 8 bits, of which none is known to be white in FITS: "
            "save it as PNG"
        )
    if image.mode == "I" and image.format != "PPM":  # Pillow reads PPM's 16 bits as 32
        raise BadInput(
            f"{title} holds 32-bit numbers, and none is known to be white: "
            "save it with 8 or 16 bits"
        )
    if image.mode in DEEP:
        return
    bits = max(tags.get(BITS, (1,)))
    if bits > 8 and most(tags) < 2**bits - 1:
        raise BadInput(
            f"{title} has {bits}-bit colours but uses only 0 to {most(tags)}: save it with 8 bits"
        )


def most(tags: Any) -> int:
    """The number that is white in a TIFF: its tag of the largest value, else that of its bits."""
    highest = 2 ** tags.get(BITS, (16,))[0] - 1
    tagged = tags.get(MOST, highest)
    if isinstance(tagged, tuple):
        tagged = max(tagged)
    return int(tagged) if isinstance(tagged, int) and 0 < tagged < highest else highest


def says_opaque(image: Image.Image) -> bool:
    """Whether the header of a Targa file says that no bits of its pixels are alpha."""
    if not isinstance(image, ImageFile.ImageFile) or image.format != "TGA":
        return False
    if image.fp is None:  # loaded already
        with suppress(OSError), Path(os.fsdecode(image.filename)).open("rb") as file:
            return not file.read(ALPHA_BITS + 1)[ALPHA_BITS] & ALPHA_MASK
        return False
    position = image.fp.tell()
    image.fp.seek(ALPHA_BITS)
    bits = image.fp.read(1)[0] & ALPHA_MASK
    image.fp.seek(position)
    return not bits


def upright(image: Image.Image) -> Image.Image:
    """A copy of the picture; straight from a file, it is turned as its EXIF orientation says."""
    image.load()  # so that only the orientation can be at fault below
    if not isinstance(image, ImageFile.ImageFile):
        return image.copy()
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # from damaged EXIF data, which viewers ignore
        return image.copy()


def transparent_colour(image: Image.Image) -> Any:
    """The transparent colour, in 8 bits, of a PNG that does not have 8 bits; else ``None``."""
    colour = image.info.get("transparency")
    tiles = getattr(image, "tile", ())
    form = str(tiles[0].args) if tiles else image.mode
    if isinstance(colour, int) and form in STEPS:
        return min(colour * STEPS[form], 255)
    if isinstance(colour, tuple) and form == "RGB;16B":
        return tuple(part >> 8 for part in colour)
    return None


def on_white(picture: Image.Image) -> Image.Image:
    """Paint a transparent picture on a white background."""
    layer = (picture.convert("LA") if picture.mode == "La" else picture).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def in_eight_bits(picture: Image.Image, tags: Any, title: str) -> Image.Image:
    """Convert a grey picture of more than 8 bits to 8 bits, keeping its whole range.

    ``tags`` are those of a TIFF file. Raises :class:`BadInput` for numbers beyond black and white.
    """
    values = np.asarray(picture)
    white = 1 if picture.mode == "F" else most(tags)
    low = values.min()
    high = values.max()
    if not (low >= 0 and high <= white):  # `not`, as every comparison with NaN is false
        raise BadInput(
            f"{title} holds numbers from {low:g} to {high:g}: "
            f"bring them to 0 (black) to {white} (white)"
        )
    grey = np.rint(values / white * 255).astype(np.uint8)
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        grey = 255 - grey
    grey[values == picture.info.get("transparency")] = 255
    return Image.fromarray(grey)


def image_title(image: Source) -> str:
    """Name of an image in messages: its path or name, else its size; one printable line."""
    if isinstance(image, Image.Image):
        name = image.info.get("name") or getattr(image, "filename", "")
        if not name:
            return f"the image of {image.width} × {image.height} pixels"
    else:
        name = image if isinstance(image, str) else os.fspath(image)
    text = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in str(name))
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]}…{text[-LONGEST // 2 :]}"
    return f"the image {text}"


def reason(error: Exception) -> str:
    """The first line of an error's message, or its type."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".:")


def faults(images: Iterable[Given], look: Callable[[Given], object]) -> Iterator[str]:
    """The message with which ``look`` refuses each image, in order; "" for a valid one.

    Several images are opened at the same time.
    """

    def fault(image: Given) -> str:
        try:
            look(image)
        except BadInput as error:
            return str(error)
        return ""

    with quiet(), ThreadPoolExecutor() as threads:
        yield from threads.map(fault, images)


def check_readable(images: Iterable[Source]) -> None:
    """Raise :class:`BadInput` for the first image that cannot be read; called before long work."""
    paths = list(dict.fromkeys(image for image in images if not isinstance(image, Image.Image)))
    found = [fault for fault in faults(paths, open_image) if fault]
    if len(found) == 1:
        raise BadInput(found[0])
    if found:
        raise BadInput(f"{found[0]} (the first of {len(found):,} images at fault)")


def image_key(image: Source) -> int | str:
    """Key of an image within one call: the same for the same object or path."""
    return id(image) if isinstance(image, Image.Image) else os.fspath(image)


def images_hash(images: Sequence[Source]) -> str:
    """Hash, of 16 digits, over sizes and pixels of images as they are shown; "" for none."""
    content = sha256()
    for picture in map(open_image, images):
        content.update(repr(picture.size).encode() + picture.tobytes())
    return content.hexdigest()[:16] if images else ""
