"""The same question in other words, and the same picture seen another way."""

import random

from PIL import Image, ImageEnhance

__all__ = ["SEEN_FRAMES", "UNSEEN_FRAMES", "view"]

SEEN_FRAMES = (
    "Please answer: {q}",
    "{q} Answer briefly.",
    "Look at the image. {q}",
    "I would like to know this. {q}",
    "Question: {q} Answer:",
    "Can you tell me? {q}",
)
"""Frames around a question ``{q}`` that leave its meaning as it is."""
UNSEEN_FRAMES = (
    "{q} Reply with the answer alone.",
    "Here is my question: {q}",
    "Please have a look and tell me: {q}",
    "{q} Thank you.",
)
"""Further frames, which no editor is trained on or fitted to."""
SMALLEST_CROP = 0.85
"""Smallest side of a view, as a share of the image's."""
STRONGEST = 0.3
"""Largest change of brightness, contrast and colour."""
ANGLE = 10.0
"""Largest rotation, in degrees."""


def view(image: Image.Image, chance: random.Random) -> Image.Image:
    """The image cropped, turned and recoloured a little; never mirrored, for text and flags."""
    width, height = image.size
    share = chance.uniform(SMALLEST_CROP, 1.0)
    left = chance.uniform(0, width * (1 - share))
    top = chance.uniform(0, height * (1 - share))
    turned = image.rotate(
        chance.uniform(-ANGLE, ANGLE), Image.Resampling.BILINEAR, fillcolor="white"
    )
    box = (left, top, left + width * share, top + height * share)
    changed = turned.resize(image.size, Image.Resampling.BILINEAR, box=box)
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        changed = enhance(changed).enhance(chance.uniform(1 - STRONGEST, 1 + STRONGEST))
    return changed
