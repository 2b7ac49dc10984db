"""Images, queries and cases."""

import torch
from PIL import Image, ImageDraw

from liveedit.types import Case, Probe, Query

QUESTION = "What is the country with this flag?"


def plain(colour):
    """An image of one colour."""
    return Image.new("RGB", (32, 32), colour)


def picture(colour):
    """A white disc on a coloured ground."""
    image = plain(colour)
    ImageDraw.Draw(image).ellipse((8, 8, 24, 24), fill="white")
    return image


def noise(seed):
    """An image of random pixels."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (24, 24, 3), dtype=torch.uint8, generator=generator)
    return Image.fromarray(pixels.numpy())


EDITS = [
    Query(QUESTION, "Japan", plain("red")),
    Query("Which film is this?", "Casablanca", plain("blue")),
    Query("who sang the song", "Elvis Presley"),
]
"""Two edits about an image and one without."""
TEXT_EDIT = EDITS[2]

RED = picture("red")
BLUE = picture("blue")
GREEN = picture("green")

ONE_QUESTION = [
    Query(QUESTION, "Japan", RED),
    Query(QUESTION, "Peru", BLUE),
    Query("Who sang the song?", "Nobody"),
]
"""Two edits of one question about different images, and one without an image."""

FACT_EDITS = [
    Query(QUESTION, "Japan", RED, "red"),
    Query("Which film is this?", "Rain", BLUE, "blue"),
    Query("who sang", "Elvis"),
]
"""Edits that name their facts."""
MIXED = [
    FACT_EDITS[0],
    Query("who sang the song of the film", "nobody"),
    FACT_EDITS[1],
    Query("Why?", "so", GREEN),
]
"""Two of these edits among queries that no edit is about."""


def fact_case(edit):
    """A case of one edit, of a rewording, and of a query about another image of the fact "red"."""
    reworded = Query(f"Tell me: {edit.prompt}", edit.target, edit.image, edit.fact)
    other = Query("Who is it?", "nobody", GREEN, "red")
    probes = (Probe("text_generality", reworded), Probe("image_locality", other, "before"))
    return Case(edit.prompt, (edit,), probes)


FACT_CASES = [fact_case(edit) for edit in FACT_EDITS[:2]]
