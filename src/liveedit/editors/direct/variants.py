"""Variants of an edit: the same question in other words, and other views of its image."""

import random
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256

from PIL import Image, ImageEnhance

from liveedit.data.images import Source, open_image
from liveedit.types import Query

__all__ = ["seed_of", "variants"]

FRAMES = (
    "Please answer: {q}",
    "{q} Answer briefly.",
    "Look at the image. {q}",
    "I would like to know this. {q}",
    "Question: {q} Answer:",
    "Can you tell me? {q}",
)
"""Frames around a question that leave its meaning as it is."""
SMALLEST_CROP = 0.85
"""Smallest side of a view, as a share of the image's."""
STRONGEST = 0.3
"""Largest change of brightness, contrast and colour."""
ANGLE = 10.0
"""Largest rotation, in degrees."""


def seed_of(query: Query) -> int:
    """A seed that is the same whenever this question gets this target."""
    digest = sha256("\x1f".join((query.prompt, query.target)).encode()).digest()
    return int.from_bytes(digest[:4], "big")


def variants(query: Query, count: int) -> list[Query]:
    """``count`` variants: by turns the question in another frame, and another view of the image.

    An edit without image has other frames only.
    """
    chance = random.Random(seed_of(query))
    frames = chance.sample(FRAMES, len(FRAMES))
    made = []
    for number in range(count):
        frame = frames[number // 2 % len(frames)]
        if query.image is None or number % 2:
            made.append(replace(query, prompt=frame.format(q=query.prompt)))
        else:
            made.append(replace(query, image=_views(query.images, chance)))
    return made


def _views(images: Sequence[Source], chance: random.Random) -> list[Image.Image]:
    """Another view of each image."""
    return [view(open_image(image), chance) for image in images]


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
