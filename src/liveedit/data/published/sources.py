"""Sources of the published benchmarks: names and sizes of their files, and where to get them.

E-VQA and E-IC are MMEdit's (Cheng et al., EMNLP 2023), VLKEB is by Huang et al., NeurIPS 2024.
Their annotation files share one form (:mod:`liveedit.data.published.annotations`); all differences
between them are here. Each of the others has the form of its own module.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from liveedit.errors import UnknownName
from liveedit.registry import nearest, resolve

__all__ = ["SOURCES", "Role", "Source", "source"]

Role = str
"""Purpose of an annotation file, such as ``"train"`` or ``"test"``."""
VLKEB_FORM = "liveedit.data.published.annotations:parse"
"""The function that reads the files of E-VQA, E-IC and VLKEB."""
ANY = re.compile(r"(.+)")
"""The whole path of an image."""


@dataclass(frozen=True, slots=True)
class Source:
    """A published benchmark.

    Arguments:
        name: Name of the benchmark.
        files: Names of the annotation files by role, with as much of their folders as tells them
            apart.
        counts: Number of published records by role.
        shows: Pattern that finds the subject of an image in its path.
        repo: Data set on the Hugging Face Hub that can be downloaded; "" if there is none.
        where: Other ways to get the data, for messages.
        form: Function that reads a file, ``"module:function"``.
        optional: Roles of files that may be missing.
    """

    name: str
    files: Mapping[Role, str]
    counts: Mapping[Role, int]
    shows: re.Pattern[str]
    repo: str
    where: str
    form: str = VLKEB_FORM
    optional: tuple[Role, ...] = ()

    def parse(self, file: Path) -> tuple[list[Any], list[str]]:
        """Read the valid records of a file, and one line for each fault of the others.

        Raises :class:`BadInput` for a file that is missing, truncated or not a list of records.
        """
        found: tuple[list[Any], list[str]] = resolve("form", self.name, {self.name: self.form})(
            file
        )
        return found

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
    optional=("onehop", "multihop"),
)

MC_MKE_FILES = {
    "ie": "final_ie_edit_input.jsonl",
    "ie text": "final_ie_test_text_generality.jsonl",
    "ie image": "final_ie_test_image_generality.jsonl",
    "ie locality": "final_ie_locality_test.jsonl",
    "ie consistency": "final_ie_test_consistency.jsonl",
    "ie unchanged": "ie_consistenct_ignore_idx.json",  # as its authors spell it
    "iro": "final_iro_edits_inputs.cloze.alias.explore3.locality.jsonl",
    "iro text": "final_iro_text_generality.jsonl",
    "iro image": "final_iro_image_generality.jsonl",
    "iro locality": "final_iro_test_locality.jsonl",
    "iro consistency": "final_iro_consistency.jsonl",
    "sro": "final_new_sro_edits_input_cloze.alias.indexed.locality.explore3.upper_first"
    ".category_fix.locality.jsonl",
    "sro text": "final_sro_text_generality_test.jsonl",
    "sro locality": "final_sro_test_locality.jsonl",
    "sro consistency": "final_sro_consistency.jsonl",
}
"""By kind of edit, and test; the files of reliability are left out, since they repeat the edits."""
MC_MKE = Source(
    "mc-mke",
    MC_MKE_FILES,
    {role: 920 if role.startswith("ie") else 982 for role in MC_MKE_FILES} | {"ie unchanged": 392},
    ANY,
    repo="",
    where="MC-MKE's annotations are at github.com/reroze/MC-MKE (edit_inputs/), its images in "
    "the data set reroze/MC-MKE of the Hugging Face Hub: download both, then run "
    "`liveedit data add mc-mke --annotations DIR --images DIR`",
    form="liveedit.data.published.mcmke:parse",
)
MINED = Source(
    "mined",
    {
        "test": "Dimension1_time_agnostic.json",
        "timestamp": "Dimension1_timestamp.json",
        "interval": "Dimension1_temporal_interval.json",
    },
    {"test": 255, "timestamp": 237, "interval": 172},
    ENTITY,
    repo="",
    where="MINED's annotations are at github.com/MINED-LMM/MINED (mined_data/), its images in the "
    "data set kailinjiang/MINED of the Hugging Face Hub: download both, then run "
    "`liveedit data add mined --annotations DIR --images DIR`",
    form="liveedit.data.published.mined:parse",
    optional=("timestamp", "interval"),
)
CCKEB = Source(
    "cckeb",
    {"train": "CCKEB_train.json", "test": "CCKEB_eval.json"},
    {},
    ENTITY,
    repo="",
    where="CCKEB is the data set MemEIC/CCKEB of the Hugging Face Hub: download it, then run "
    "`liveedit data add cckeb --annotations DIR --images DIR`",
    form="liveedit.data.published.cckeb:parse",
)


COMPREHENDEDIT = Source(
    "comprehendedit",
    {"train": "ComprehendEdit_train.json", "test": "ComprehendEdit_test.json"},
    {"train": 13450, "test": 4482},
    ANY,
    repo="",
    where="ComprehendEdit is linked from the README of github.com/yaohui120/ComprehendEdit: "
    "download it, then run `liveedit data add comprehendedit --annotations DIR --images DIR`",
    form="liveedit.data.published.comprehendedit:parse",
)
FGVEDIT = Source(
    "fgvedit",
    {"train": "train_data.json", "test": "test_data.json"},
    {"train": 8334, "test": 2778},
    COCO,
    repo="",
    where="FGVEdit's annotations are the data set ZhenZeng/FGVEdit of the Hugging Face Hub, its "
    "images COCO's train2014/ and val2014/: download both, then run "
    "`liveedit data add fgvedit --annotations DIR --images DIR`",
    form="liveedit.data.published.fgvedit:parse",
)


def _livevqa(kind: str, count: int) -> Source:
    """The source of one kind of LiveVQA's pictures."""
    folder = kind.capitalize()
    images = "News_imgs" if kind == "news" else f"{folder}_images"
    return Source(
        f"livevqa-{kind}",
        {"test": f"{folder}/benchmark.json"},
        {"test": count},
        ANY,
        repo="",
        where="LiveVQA is in liveVQA_benchmarks/ of github.com/fumingyang2004/LIVEVQA: clone it, "
        f"then run `liveedit data add livevqa-{kind} --annotations liveVQA_benchmarks "
        f"--images liveVQA_benchmarks/{folder}/{images}`",
        form="liveedit.data.published.livevqa:parse",
    )


def _mmke(kind: str) -> Source:
    """The source of one kind of MMKE-Bench's knowledge.

    The README calls its files entity/train.json, the authors' program entity_train.json.
    """
    return Source(
        f"mmke-{kind}",
        {"train": "*train.json", "test": "*eval.json"},
        {},
        ANY,
        repo="",
        where="MMKE-Bench is the data set kailinjiang/MMKE-Bench-dataset of the Hugging Face Hub: "
        "download it, then run `liveedit data add "
        f"mmke-{kind} --annotations data_json/{kind} --images data_image/{kind}`",
        form=f"liveedit.data.published.mmke:parse_{kind}",
    )


SOURCES = {
    source.name: source
    for source in (E_VQA, E_IC, VLKEB, MC_MKE, MINED, CCKEB, COMPREHENDEDIT, FGVEDIT)
}
SOURCES |= {f"mmke-{kind}": _mmke(kind) for kind in ("entity", "visual", "user")}
LIVEVQA = (("news", 350), ("paper", 500), ("video", 342))
"""The kinds of LiveVQA's pictures, and how many there are."""
SOURCES |= {f"livevqa-{kind}": _livevqa(kind, count) for kind, count in LIVEVQA}
"""The published benchmarks by name."""


def source(name: str) -> Source:
    """The published benchmark of that name. Raises :class:`UnknownName` for any other name."""
    if name not in SOURCES:
        raise UnknownName(f"unknown published benchmark '{name}': {nearest(name, sorted(SOURCES))}")
    return SOURCES[name]
