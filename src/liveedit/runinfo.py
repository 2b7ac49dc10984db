"""What a run is about, in a form that two runs can be compared by."""

import json
from collections.abc import Sequence
from hashlib import sha256

from liveedit.types import Case, Query

__all__ = ["digest", "image_name"]


def image_name(query: Query) -> str:
    """What records call a query's image: its path, or the ``name`` in a picture's ``info``; empty without image."""
    image = query.image
    if image is None:
        return ""
    return str(image.info.get("name", "") if hasattr(image, "info") else image)


def digest(cases: Sequence[Case]) -> str:
    """SHA-256 over all that the cases say, the pixels of their images excepted."""
    said = sha256()
    for case in cases:
        edits = [(query.prompt, query.target, image_name(query)) for query in case.edits]
        probes = [(p.metric, p.wanted, p.query.prompt, p.query.target, image_name(p.query)) for p in case.probes]
        said.update(json.dumps([case.id, edits, probes]).encode())
    return said.hexdigest()
