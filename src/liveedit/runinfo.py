"""What a run is about, in a form that two runs can be compared by."""

import json
import os
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from liveedit.types import Case, Query

__all__ = ["digest", "image_name"]


def image_name(query: Query) -> str:
    """What records call the image that a query is about, the last where it is about all; empty
    without image.
    """
    return name(query.asked[-1]) if query.asked else ""


def name(image: Any) -> str:
    """An image's path, or the ``name`` in a picture's ``info``."""
    return str(image.info.get("name", "") if hasattr(image, "info") else os.fspath(image))


def seen(query: Query) -> Any:
    """The name of a query's image; of several all names, and which it is about."""
    return (
        image_name(query)
        if len(query.images) < 2
        else [[name(image) for image in query.images], query.about]
    )


def digest(cases: Sequence[Case]) -> str:
    """SHA-256 over all that the cases say, the pixels of their images excepted."""
    said = sha256()
    for case in cases:
        edits = [(query.prompt, query.target, seen(query)) for query in case.edits]
        probes = [
            (p.metric, p.wanted, p.query.prompt, p.query.target, seen(p.query)) for p in case.probes
        ]
        said.update(json.dumps([case.id, edits, probes]).encode())
    return said.hexdigest()
