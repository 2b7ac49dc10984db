"""The images of edits, kept for methods that take an edit back by making the others again."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from liveedit.artifacts import read_tensors, write_tensors
from liveedit.store.edit import Edit
from liveedit.types import Query

__all__ = ["load_queries", "save_queries"]

FILE = "pictures.safetensors"


def save_queries(
    folder: Path, edits: Sequence[Edit], queries: Mapping[str, Query], origin: Mapping[str, str]
) -> None:
    """Save the opened images of edits, whose ``queries`` are given by id."""
    tensors: dict[str, Tensor] = {}
    for edit in edits:
        if edit.id in queries:
            for number, image in enumerate(queries[edit.id].images):
                tensors[f"{edit.id}.{number}"] = torch.from_numpy(np.array(image))
    if tensors:
        write_tensors(folder / FILE, tensors, origin)


def load_queries(folder: Path, edits: Sequence[Edit]) -> dict[str, Query]:
    """The queries, by id, of the edits whose images are saved, and of those without images."""
    file = folder / FILE
    saved = read_tensors(file)[0] if file.is_file() else {}
    found: dict[str, Query] = {}
    for edit in edits:
        images = list(_images(saved, edit.id))
        if images or not edit.image:
            found[edit.id] = Query(edit.prompt, edit.target, images, about=edit.about)
    return found


def _images(saved: Mapping[str, Tensor], id: str) -> Iterator[Image.Image]:
    """The images of an edit, in their order."""
    for number in count():
        if f"{id}.{number}" not in saved:
            return
        yield Image.fromarray(saved[f"{id}.{number}"].numpy())
