"""Identity of the cases of a run: one digest of them, and the names of their images."""

import json
import os
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from liveedit.types import Case, Query

__all__ = ["asked_image_name", "digest", "image_name"]


def asked_image_name(query: Query) -> str:
    """Name in records of the image that a query is about; "" without image.

    Where the query is about all of its images, this is the last one.
    """
    return image_name(query.asked[-1]) if query.asked else ""


def image_name(image: Any) -> str:
    """An image's path, or the ``name`` in a picture's ``info``."""
    return str(image.info.get("name", "") if hasattr(image, "info") else os.fspath(image))


def digest(cases: Sequence[Case]) -> str:
    """SHA-256 over ids, prompts, targets, aliases, metrics and image names; pixels do not count."""
    total = sha256()
    for case in cases:
        edits = [(query.prompt, query.target, _images(query)) for query in case.edits]
        probes = []
        for probe in case.probes:
            query = probe.query
            asked = (query.prompt, query.target, _images(query))
            probes.append((probe.metric, probe.wanted, *asked, *probe.aliases))
        total.update(json.dumps([case.id, edits, probes]).encode())
    return total.hexdigest()


def _images(query: Query) -> Any:
    """The name of a query's image; of several, all names and the index of the one asked about."""
    if len(query.images) < 2:
        return asked_image_name(query)
    return [[image_name(image) for image in query.images], query.about]
