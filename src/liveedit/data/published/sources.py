"""Sources of the published benchmarks: names and sizes of their files, and where to get them.

E-VQA and E-IC are MMEdit's (Cheng et al., EMNLP 2023), VLKEB is by Huang et al., NeurIPS 2024.
Their annotation files share one form (:mod:`liveedit.data.published.annotations`); all differences
between them are here.
"""

import re
from dataclasses import dataclass
from typing import Literal

from liveedit.errors import UnknownName
from liveedit.registry import nearest

__all__ = ["SOURCES", "Role", "Source", "source"]

Role = Literal["train", "test", "onehop", "multihop"]
"""Purpose of an annotation file."""


@dataclass(frozen=True, slots=True)
class Source:
    """A published benchmark.

    Arguments:
        name: Name of the benchmark.
        files: Names of the annotation files by role; train and test are required.
        counts: Number of published records by role.
        shows: Pattern that finds the subject of an image in its path.
        repo: Data set on the Hugging Face Hub; "" if there is none.
        where: Other ways to get the data, for messages.
    """

    name: str
    files: dict[Role, str]
    counts: dict[Role, int]
    shows: re.Pattern[str]
    repo: str
    where: str

    def subject(self, image: str) -> str:
        """The subject of an image path: images of one subject contain the same knowledge."""
        found = self.shows.search(image)
        return found[1] if found else image


COCO = re.compile(r"_(\d{12})\.\w+$")
"""COCO's number of a picture; MMEdit's generated rephrase has the number of its original."""
ENTITY = re.compile(r"^([^/]+)/")
"""The folder of an entity's images in VLKEB."""

MMEDIT = (
    "E-VQA and E-IC are not on the Hugging Face Hub: download annotations and images from the "
    "links under 'MMEdit' in the README of github.com/zjunlp/EasyEdit, then run "
    "`liveedit data add {} --annotations DIR --images DIR`"
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
    where="on Kaggle it is hymanh/vlkeb-data",
)

SOURCES = {source.name: source for source in (E_VQA, E_IC, VLKEB)}
"""The published benchmarks by name."""


def source(name: str) -> Source:
    """The published benchmark of that name. Raises :class:`UnknownName` for any other name."""
    if name not in SOURCES:
        raise UnknownName(f"unknown published benchmark '{name}': {nearest(name, sorted(SOURCES))}")
    return SOURCES[name]
