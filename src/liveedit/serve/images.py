"""Pictures in requests: data URLs, and addresses on hosts that the server may fetch from."""

import base64
import binascii
import io
from collections.abc import Sequence
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from PIL import Image

from liveedit.data.images import open_image, quiet
from liveedit.errors import BadInput
from liveedit.serve.fetching import fetch

__all__ = ["Pictures"]

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""The formats that are read: none of them runs a program or reads another file."""
PREFIX = "data:"
NAME = 100
"""Characters of a name, at most."""


class Pictures:
    """Opens the pictures of requests.

    Arguments:
        pixels: The most pixels of one.
        most: The most bytes of one that is fetched.
        hosts: Hosts from which pictures are fetched.
    """

    def __init__(self, pixels: int, most: int, hosts: Sequence[str]) -> None:
        self.pixels = pixels
        self.most = most
        self.hosts = hosts
        Image.init()  # registers all formats, of which FORMATS are used

    def open(self, url: str) -> Image.Image:
        """The picture at a URL, in RGB, with a name. Raises :class:`BadInput` for any other."""
        if url[: len(PREFIX)].lower() == PREFIX:
            picture = self._decode(from_data(url))
        else:
            picture = self._decode(fetch(url, self.hosts, self.most))
        picture.info["name"] = name_of(url)
        return picture

    def _decode(self, content: bytes) -> Image.Image:
        try:
            with quiet(), Image.open(io.BytesIO(content), formats=FORMATS) as picture:
                self._check(picture.size)
                return open_image(picture)
        except Image.DecompressionBombError:
            raise self._too_large() from None
        except (OSError, ValueError, SyntaxError):
            raise BadInput(
                f"the image cannot be read: send one of {', '.join(FORMATS)}, whole"
            ) from None

    def _check(self, size: tuple[int, int]) -> None:
        if size[0] * size[1] > self.pixels:
            raise self._too_large()

    def _too_large(self) -> BadInput:
        return BadInput(f"an image has more than {self.pixels:,} pixels: make it smaller")


def name_of(url: str) -> str:
    """A name for the picture at a URL, which listings show."""
    inline = url[: len(PREFIX)].lower() == PREFIX
    name = "" if inline else PurePosixPath(urlsplit(url).path).name
    return name[:NAME] or "image"


def from_data(url: str) -> bytes:
    """The content of a data URL; white space and missing signs at its end do not matter.

    Raises :class:`BadInput` for a broken one.
    """
    head, comma, content = url.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise BadInput("an image's data URL is data:image/png;base64,… : encode it in base64")
    content = "".join(unquote(content).split()).rstrip("=")
    try:
        return base64.b64decode(content + "=" * (-len(content) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise BadInput("the base64 of an image is broken: encode it again") from None
