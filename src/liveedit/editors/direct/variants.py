"""Variants of an edit: the same question in other words, and other views of its image."""

import random
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from itertools import cycle

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
    """``count`` variants: by turns the question in other words, and another view of the image.

    The words are those that the query knows, then frames around the question. An edit without image
    has other words only.
    """
    chance = random.Random(seed_of(query))
    frames = chance.sample(SEEN_FRAMES, len(SEEN_FRAMES))
    framed = (frame.format(q=query.prompt) for frame in frames)
    prompts = cycle((*query.wordings, *framed))
    made = []
    for number in range(count):
        if query.image is None or number % 2:
            made.append(replace(query, prompt=next(prompts)))
        else:
            made.append(replace(query, image=_views(query.images, chance)))
    return made


def _views(images: Sequence[Source], chance: random.Random) -> list[Image.Image]:
    """Another view of each image."""
    return [view(open_image(image), chance) for image in images]
