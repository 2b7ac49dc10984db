"""Variants of an edit: the same question in other words, and other views of its image."""

import random
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256

from PIL import Image

from liveedit.data.images import Source, open_image
from liveedit.data.variants import SEEN_FRAMES, view
from liveedit.types import Query

__all__ = ["seed_of", "variants"]


def seed_of(query: Query) -> int:
    """A seed that is the same whenever this question gets this target."""
    digest = sha256("\x1f".join((query.prompt, query.target)).encode()).digest()
    return int.from_bytes(digest[:4], "big")


def variants(query: Query, count: int) -> list[Query]:
    """``count`` variants: by turns the question in another frame, and another view of the image.

    An edit without image has other frames only.
    """
    chance = random.Random(seed_of(query))
    frames = chance.sample(SEEN_FRAMES, len(SEEN_FRAMES))
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
