"""Benchmarks: where the cases come from. Importing this package loads nothing heavy."""

from typing import TYPE_CHECKING, Literal

from liveedit.errors import BadInput
from liveedit.registry import resolve

if TYPE_CHECKING:
    from liveedit.types import Case

__all__ = ["BENCHMARKS", "PUBLISHED", "TITLES", "load_cases"]

BENCHMARKS: dict[str, str] = {
    "emblem": "liveedit.data.emblem.cases:counterfactuals",
    "emblem-corrections": "liveedit.data.emblem.cases:corrections",
    "e-vqa": "liveedit.data.published.mmedit:e_vqa",
    "e-ic": "liveedit.data.published.mmedit:e_ic",
    "vlkeb": "liveedit.data.published.vlkeb:vlkeb",
    "vlkeb-multihop": "liveedit.data.published.vlkeb:multihop",
    "vlkeb-onehop": "liveedit.data.published.vlkeb:onehop",
    "vlkeb-onehop-edited": "liveedit.data.published.vlkeb:onehop_edited",
}
"""Name to the function (part, seed) that makes the cases; (part, seed, split, prompts) for the
published ones.
"""

PUBLISHED: dict[str, str] = {
    "e-vqa": "e-vqa",
    "e-ic": "e-ic",
    "vlkeb": "vlkeb",
    "vlkeb-multihop": "vlkeb",
    "vlkeb-onehop": "vlkeb",
    "vlkeb-onehop-edited": "vlkeb",
}
"""Benchmarks that others published to the name that `liveedit data add` gives their files."""

TITLES: dict[str, str] = {
    "emblem": "flags and emoji drawn by several hands; edits make them answered as something else",
    "emblem-corrections": "the same drawings where the embedded model is wrong; edits give the true answer",
    "e-vqa": "MMEdit: questions about COCO photos that BLIP-2 answered wrongly",
    "e-ic": "MMEdit: captions of COCO photos that BLIP-2 got wrong",
    "vlkeb": "photos of entities; edits make them answered as another one",
    "vlkeb-multihop": "vlkeb, and what follows from the edit over 1 to 4 hops",
    "vlkeb-onehop": "vlkeb, and what follows over one hop",
    "vlkeb-onehop-edited": "vlkeb-onehop, the fact that leads there edited too",
}


def load_cases(
    name: str,
    part: Literal["train", "val", "test"],
    seed: int = 0,
    *,
    split: str = "clean",
    prompts: str = "plain",
) -> "list[Case]":
    """The cases of one part of a benchmark, in the order of ``seed``; 0 is the file's order for the
    published ones.

    For these, ``split`` is "clean" (training without what returns in the test, hard probes added)
    or "paper" (as published), and ``prompts`` "plain" (one template for all questions) or "paper"
    (the released templates). Raises :class:`UnknownName` for another benchmark, :class:`BadInput`
    for another split, form of prompts or seed.
    """
    from liveedit.settings import check_seed

    make = resolve("benchmark", name, BENCHMARKS)
    check_seed(seed)
    if part not in ("train", "val", "test"):
        raise BadInput(f"no benchmark has a part '{part}': choose train, val or test")
    for option, value, known in (
        ("split", split, ("clean", "paper")),
        ("prompts", prompts, ("plain", "paper")),
    ):
        if value not in known:
            raise BadInput(f"there is no --{option} '{value}': choose {' or '.join(known)}")
        if value == "paper" and name not in PUBLISHED:
            raise BadInput(f"{name} has one split and one form of prompts: leave --{option} out")
    cases: list[Case] = make(part, seed, split, prompts) if name in PUBLISHED else make(part, seed)
    return cases
