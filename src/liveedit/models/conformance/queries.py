"""The queries on which the checks run."""

import numpy as np
from PIL import Image

from liveedit.models.batch import PaddingSide
from liveedit.types import Query

__all__ = ["QUERIES", "SEVERAL", "SIDES", "SQUARE", "TEXTS", "WIDE", "random_image"]


def random_image(seed: int, width: int, height: int) -> Image.Image:
    """An image of random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


WIDE = random_image(0, 60, 40)
SQUARE = random_image(1, 30, 30)

QUERIES = [
    Query("What is the country with this flag?", "Japan", WIDE),
    Query("who sang the song that was the title of the movie", "Elvis Presley"),
    Query("Which film is represented in this image?", "Casablanca", SQUARE),
    Query("What is the name of the film? ", " Gone with the Wind\n", WIDE),
]
"""Queries with and without an image."""

TEXTS = [Query("Who?"), Query("Which film is this?")]
"""Short texts of different lengths."""

SEVERAL = [
    Query("Which film is represented in the second image?", "Casablanca", [WIDE, SQUARE]),
    Query("What is the country with this flag?", "Japan", WIDE),
    Query("What is the name of the film?", "Gone with the Wind", [SQUARE, WIDE, SQUARE], about=0),
    Query("who sang the song that was the title of the movie", "Elvis Presley"),
    Query("Which film is this?", "Casablanca", [WIDE, WIDE], about=None),
]
"""Queries with several images of different sizes, with one, and with none."""

SIDES: tuple[PaddingSide, PaddingSide] = ("left", "right")
"""The sides on which rows are padded."""
