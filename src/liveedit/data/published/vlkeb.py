"""VLKEB: edits of what the photo of an entity shows, and what follows from them.

Huang et al., *VLKEB: A Large Vision-Language Model Knowledge Editing Benchmark*, NeurIPS 2024
Datasets and Benchmarks (arXiv 2403.07350). The photo of one entity is edited to show another one.
Cases are made as MMEdit's (:mod:`liveedit.data.published.mmedit`), with another real photo of the
entity for image generality, the photo of an entity that is never edited for image locality, and
besides

====================  ==========================
======================================================== benchmark             file of the test
what is edited and asked besides ====================  ==========================
======================================================== vlkeb                 eval.json
nothing vlkeb-multihop        eval_multihop.json          portability_1hop … portability_4hop are
asked vlkeb-onehop          eval_edit_onehop.json       portability_1hop is asked
vlkeb-onehop-edited   eval_edit_onehop.json       the one-hop fact is edited too, without an image,
and then
                                                  portability_1hop is asked
====================  ==========================
========================================================

The two one-hop benchmarks have the same cases and probes: their difference is what editing the fact
is worth (the paper's Table 3). Portability is asked about the edit's image. All four are trained on
``train.json``.
"""

from liveedit.data.published.annotations import Annotation
from liveedit.data.published.mmedit import CaseMaker, make_cases
from liveedit.types import Case

__all__ = ["multihop", "onehop", "onehop_edited", "vlkeb"]


def vlkeb(part: str, seed: int, split: str, prompts: str) -> list[Case]:
    """The benchmark "vlkeb"; see :func:`make_cases`."""
    return make_cases("vlkeb", part, seed, split, prompts)


def multihop(part: str, seed: int, split: str, prompts: str) -> list[Case]:
    """The benchmark "vlkeb-multihop": the records from which something follows; see
    :func:`make_cases`.
    """
    return make_cases("vlkeb", part, seed, split, prompts, role="multihop", finish=_if_ported)


def onehop(part: str, seed: int, split: str, prompts: str) -> list[Case]:
    """The benchmark "vlkeb-onehop"; see :func:`make_cases`."""
    return make_cases("vlkeb", part, seed, split, prompts, role="onehop")


def onehop_edited(part: str, seed: int, split: str, prompts: str) -> list[Case]:
    """The benchmark "vlkeb-onehop-edited": each case edits what the image shows, then the fact that
    follows.
    """
    return make_cases("vlkeb", part, seed, split, prompts, role="onehop", finish=_with_fact)


def _if_ported(maker: CaseMaker, row: Annotation) -> Case | None:
    return maker.case(row) if row.hops else None


def _with_fact(maker: CaseMaker, row: Annotation) -> Case | None:
    case = maker.case(row)
    if row.fact is None:
        return None
    return Case(case.id, (*case.edits, maker.query(maker.templates.edit, *row.fact)), case.probes)
