"""Benchmarks that others published: what their files are called, how many cases each holds, and
where to get them.

E-VQA and E-IC are MMEdit's (Cheng et al., EMNLP 2023), VLKEB is by Huang et al., NeurIPS 2024.
Their annotation files share one form (:mod:`liveedit.data.published.annotations`); what differs
besides is said here.
"""

import re
from dataclasses import dataclass
from typing import Literal

from liveedit.registry import resolve

__all__ = ["SOURCES", "Role", "Source", "source"]

Role = Literal["train", "test", "onehop", "multihop"]
"""What an annotation file is for."""


@dataclass(frozen=True, slots=True)
class Source:
    """A published benchmark.

    ``files`` are the annotation files by role, ``counts`` the records published in each; train and
    test are needed, the others are not. ``shows`` finds in an image's path what it is an image of.
    ``repo`` is the data set on the Hugging Face Hub, empty if there is none; ``where`` tells where
    else the data is.
    """

    name: str
    files: dict[Role, str]
    counts: dict[Role, int]
    shows: re.Pattern[str]
    repo: str
    where: str

    def subject(self, image: str) -> str:
        """What an image shows: two images of one subject give away the same knowledge."""
        found = self.shows.search(image)
        return found[1] if found else image


COCO = re.compile(r"_(\d{12})\.\w+$")
"""COCO's number of a picture; MMEdit's generated rephrase of a picture carries the number of the
original.
"""
ENTITY = re.compile(r"^([^/]+)/")
"""VLKEB keeps the images of an entity in one folder."""

MMEDIT = (
    "E-VQA and E-IC are not on the Hugging Face Hub: download annotations and images from the links under 'MMEdit' in "
    "the README of github.com/zjunlp/EasyEdit, then run `liveedit data add {} --annotations DIR --images DIR`"
)

E_VQA = Source(
    "e-vqa",
    {"train": "vqa_train.json", "test": "vqa_eval.json"},
    {"train": 6345, "test": 2093},
    COCO,
    repo="",
    where=MMEDIT.format("e-vqa"),
)
E_IC = Source(
    "e-ic",
    {"train": "caption_train_edit.json", "test": "caption_eval_edit.json"},
    {"train": 2849, "test": 1000},
    COCO,
    repo="",
    where=MMEDIT.format("e-ic"),
)
VLKEB = Source(
    "vlkeb",
    {
        "train": "train.json",
        "test": "eval.json",
        "onehop": "eval_edit_onehop.json",
        "multihop": "eval_multihop.json",
    },
    {"train": 5000, "test": 3174, "onehop": 1278},
    ENTITY,
    repo="HymanH/VLKEB-data",
    where="it is hymanh/vlkeb-data on Kaggle too",
)

SOURCES: dict[str, str] = {
    "e-vqa": "liveedit.data.published.sources:E_VQA",
    "e-ic": "liveedit.data.published.sources:E_IC",
    "vlkeb": "liveedit.data.published.sources:VLKEB",
}


def source(name: str) -> Source:
    """The published benchmark of that name. Raises :class:`UnknownName` for another."""
    found: Source = resolve("published benchmark", name, SOURCES)
    return found
