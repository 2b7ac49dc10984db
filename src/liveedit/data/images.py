"""Reading images: a model is shown what a person sees, or the image is refused in one line that
names the fix.

================================
==================================================================================== what is given
what is shown ================================
==================================================================================== a file with an
EXIF orientation   upright; so is a picture straight from ``PIL.Image.open``, while one that was
made or
                                  changed in memory keeps its pixels
transparency of any kind          the picture on a white page 16-bit grey                       all
of its range, 0 black and 65,535 white (of a TIFF the most of its bits, or what it
                                  says is the most); floating point from 0 to 1
palettes, CMYK, YCCK, LAB, HSV    their colours, without colour management 1 bit, L, RGB, any size
as it is MPO, PSD                          the picture that viewers show, not the others beside it
================================
====================================================================================

Refused are animations and files of several pages, floating point beyond 0 to 1, whole numbers of 32
bits, FITS of more than 8, deep colours of which few are used, pictures without pixels or with more
than Pillow opens, broken files, and what is no file at all.
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

__all__ = ["check_readable", "faults", "image_key", "image_title", "open_image", "picture_hash"]

Given = TypeVar("Given")
Source = Image.Image | str | os.PathLike[str]
"""A picture, or the path to one."""

ADDRESS = re.compile(r"(?!file:)[a-z][a-z0-9+.-]+:/|data:", re.IGNORECASE)
ONE_SHOWN = {"MPO", "PSD"}
"""Formats whose further frames (gain maps, layers) no viewer shows one after the other."""
ONE_IS_BLACK = {"PSD", "XBM"}
"""Formats of whose pictures of 1 bit Pillow exchanges black and white."""
DEEP = {"I;16", "I;16L", "I;16B", "I;16N", "I", "F"}
"""Pillow's modes of more than 8 bits."""
STEPS = {"1": 255, "L;2": 85, "L;4": 17}
"""How far apart the greys of a picture of few bits are, of which a PNG names the transparent one by
its number.
"""
BITS, PHOTOMETRIC, MOST, WHITE_IS_ZERO = 258, 262, 281, 0
"""Of TIFF: the tags of the bits, the meaning and the most of a sample, and the value of the second
that inverts it.
"""
ALPHA_BITS, ALPHA_MASK = 17, 15
"""Of Targa: the byte of its header, and what in it is how many bits of a pixel are its alpha."""
LONGEST = 160
"""How many characters of an image's name a message gives."""


def open_image(image: Source) -> Image.Image:
    """The picture that a person sees, fully read, as RGB. ``image`` is a picture already or the
    path to one.

    Its ``info["name"]`` says where it came from. Raises :class:`BadInput`, in one line that names
    the image, for anything that is no image, cannot be read, or cannot be shown faithfully.
    """
    check_image(image)
    with quiet():
        return shown(image, image_title(image)) if isinstance(image, Image.Image) else read(image)


@contextmanager
def quiet() -> Iterator[None]:
    """Within it Pillow warns of nothing: whatever matters is refused here, the rest a person does
    not see either.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        yield


def read(image: str | os.PathLike[str]) -> Image.Image:
    """The picture in a file. Raises :class:`BadInput` as :func:`open_image`."""
    path, title = regular_file(image), image_title(image)
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
            f"{title} is broken ({reason(error)}): save it anew as PNG or JPEG"
        ) from error
    picture.info["name"] = os.fspath(image)
    return picture


def regular_file(image: str | os.PathLike[str]) -> Path:
    """The path of a file that is there and holds something; nothing is opened, so that a pipe does
    not hang.

    Raises :class:`BadInput` for anything else.
    """
    title = image_title(image)
    try:
        path = Path(image).expanduser()
        status = path.stat()
    except (
        FileNotFoundError,
        NotADirectoryError,
        ValueError,
        RuntimeError,
    ):  # a null byte, an unknown ~user
        raise BadInput(nowhere(title)) from None
    except OSError as error:
        raise BadInput(f"cannot read {title} ({error.strerror}): check the path") from None
    if stat.S_ISDIR(status.st_mode):
        raise BadInput(f"{title} is a folder: give the path of an image file")
    if not stat.S_ISREG(status.st_mode):
        raise BadInput(f"{title} is a pipe or a device, no file: save the image as a file first")
    if not status.st_size:
        raise BadInput(f"{title} is empty: get the file again")
    return path


def nowhere(title: str) -> str:
    """What is wrong with a path where nothing is."""
    path = title.removeprefix("the image ")
    if ADDRESS.match(path):
        return f"{title} is an address and no path: download it first, then give the file's path"
    if path.lower().startswith("file:"):
        return f"{title} is an address and no path: leave 'file://' out"
    return f"no image at {path}: check the path"


def shown(image: Image.Image, title: str) -> Image.Image:
    """``image`` as RGB, as a person sees it. Raises :class:`BadInput` where that cannot be, or its
    data is broken.
    """
    try:
        check_single(image, title)
        tags = getattr(image, "tag_v2", {})
        check_white(image, tags, title)
        colour, opaque = transparent_colour(image), says_opaque(image)
        picture = upright(image)
        if colour is not None:
            picture.info["transparency"] = colour
        if picture.mode in DEEP:
            return in_eight_bits(picture, tags, title).convert("RGB")
        if picture.mode == "1" and image.format in ONE_IS_BLACK:
            picture = ImageChops.invert(picture)
        return (
            on_white(picture)
            if picture.has_transparency_data and not opaque
            else picture.convert("RGB")
        )
    except BadInput:
        raise
    except Exception as error:  # a decoder may raise anything on broken bytes
        raise BadInput(
            f"{title} is broken ({reason(error)}): save it anew as PNG or JPEG"
        ) from error


def check_single(image: Image.Image, title: str) -> None:
    """Raise :class:`BadInput` for a picture without pixels, one that moves and one of several
    pages.
    """
    if not all(image.size):
        raise BadInput(f"{title} has no pixels: give one that shows something")
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format not in ONE_SHOWN:
        raise BadInput(f"{title} holds {frames} frames or pages: save the one that is meant as PNG")


def check_white(image: Image.Image, tags: Any, title: str) -> None:
    """Raise :class:`BadInput` for numbers of which it is not known which is white; ``tags`` are
    those of a TIFF.

    Those of FITS have a sign and any scale, and not every Pillow knows the order of their bytes. Of
    colours of more than 8 bits Pillow keeps the upper 8, of which little is left where a file says
    that less is white.
    """
    if image.mode in DEEP and image.format == "FITS":
        raise BadInput(
            f"{title} holds more than 8 bits, of which none is known to be white in FITS: save it as PNG"
        )
    if image.mode == "I" and image.format != "PPM":  # whose 16 bits Pillow reads as 32
        raise BadInput(
            f"{title} holds 32-bit numbers, and none is known to be white: save it with 8 or 16 bits"
        )
    if (
        image.mode not in DEEP
        and (bits := max(tags.get(BITS, (1,)))) > 8
        and most(tags) < 2**bits - 1
    ):
        raise BadInput(
            f"{title} holds colours of {bits} bits up to {most(tags)} alone: save it with 8 bits"
        )


def most(tags: Any) -> int:
    """The number that is white in a TIFF: the most that it says its samples have, else the most of
    their bits.
    """
    highest = 2 ** tags.get(BITS, (16,))[0] - 1
    said = tags.get(MOST, highest)
    said = max(said) if isinstance(said, tuple) else said
    return int(said) if isinstance(said, int) and 0 < said < highest else highest


def says_opaque(image: Image.Image) -> bool:
    """Whether the picture is from a Targa file that says that no bits are alpha, though it has room
    for them.
    """
    if not isinstance(image, ImageFile.ImageFile) or image.format != "TGA":
        return False
    if image.fp is None:  # loaded already
        with suppress(OSError), Path(os.fsdecode(image.filename)).open("rb") as file:
            return not file.read(ALPHA_BITS + 1)[ALPHA_BITS] & ALPHA_MASK
        return False
    place = image.fp.tell()
    image.fp.seek(ALPHA_BITS)
    bits = image.fp.read(1)[0] & ALPHA_MASK
    image.fp.seek(place)
    return not bits


def upright(image: Image.Image) -> Image.Image:
    """A copy of the picture, turned as its camera noted if it is straight from a file."""
    image.load()  # so that only the note can be at fault below
    if not isinstance(image, ImageFile.ImageFile):
        return image.copy()
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # from a damaged note, which viewers pass over
        return image.copy()


def transparent_colour(image: Image.Image) -> Any:
    """The transparent colour of a PNG of other than 8 bits a sample, in 8; ``None`` for any other
    picture.
    """
    colour, tiles = image.info.get("transparency"), getattr(image, "tile", ())
    form = str(tiles[0].args) if tiles else image.mode
    if isinstance(colour, int) and form in STEPS:
        return min(colour * STEPS[form], 255)
    return (
        tuple(part >> 8 for part in colour)
        if isinstance(colour, tuple) and form == "RGB;16B"
        else None
    )


def on_white(picture: Image.Image) -> Image.Image:
    """A transparent picture on a white page."""
    layer = (picture.convert("LA") if picture.mode == "La" else picture).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def in_eight_bits(picture: Image.Image, tags: Any, title: str) -> Image.Image:
    """A grey picture of more bits in 8, all of its range kept.

    ``tags`` are those of a TIFF file. Raises :class:`BadInput` for numbers beyond black and white.
    """
    values = np.asarray(picture)
    white = 1 if picture.mode == "F" else most(tags)
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= white):  # which no comparison with NaN is
        raise BadInput(
            f"{title} holds numbers from {low:g} to {high:g}: bring them to 0 (black) to {white} (white)"
        )
    grey = np.rint(values / white * 255).astype(np.uint8)
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        grey = 255 - grey
    grey[values == picture.info.get("transparency")] = 255
    return Image.fromarray(grey)


def image_title(image: Source) -> str:
    """What a message calls an image: its path or name, else its size; one printable line."""
    if isinstance(image, Image.Image):
        name = image.info.get("name") or getattr(image, "filename", "")
        if not name:
            return f"the image of {image.width} × {image.height} pixels"
    else:
        name = image if isinstance(image, str) else os.fspath(image)
    text = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in str(name))
    return "the image " + (
        text if len(text) <= LONGEST else f"{text[: LONGEST // 2]}…{text[-LONGEST // 2 :]}"
    )


def reason(error: Exception) -> str:
    """The first line of what an error says, or its kind."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".:")


def faults(images: Iterable[Given], look: Callable[[Given], object]) -> Iterator[str]:
    """Of each image in turn what ``look`` says against it, nothing if it is sound; several are
    looked at together.
    """

    def fault(image: Given) -> str:
        try:
            look(image)
        except BadInput as error:
            return str(error)
        return ""

    with quiet(), ThreadPoolExecutor() as pool:
        yield from pool.map(fault, images)


def check_readable(images: Iterable[Source]) -> None:
    """Raise :class:`BadInput` for the first of the images that cannot be read, before long work
    with them begins.
    """
    paths = list(dict.fromkeys(image for image in images if not isinstance(image, Image.Image)))
    if found := [fault for fault in faults(paths, open_image) if fault]:
        raise BadInput(
            found[0]
            if len(found) == 1
            else f"{found[0]} (the first of {len(found):,} images at fault)"
        )


def image_key(image: Source) -> int | str:
    """The same for two mentions of one image object or path, within one call."""
    return id(image) if isinstance(image, Image.Image) else os.fspath(image)


def picture_hash(images: Sequence[Source]) -> str:
    """A short hash over the sizes and pixels of images, as they are shown; empty for none."""
    content = sha256()
    for picture in map(open_image, images):
        content.update(repr(picture.size).encode() + picture.tobytes())
    return content.hexdigest()[:16] if images else ""
