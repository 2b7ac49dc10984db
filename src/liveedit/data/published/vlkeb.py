"""VLKEB: edits of the entity that a photo shows, and questions whose answers follow from them.

Huang et al., *VLKEB: A Large Vision-Language Model Knowledge Editing Benchmark*, NeurIPS 2024
Datasets and Benchmarks (arXiv 2403.07350). The photo of one entity is edited to show another one.
Cases are made like MMEdit's (:mod:`liveedit.data.published.mmedit`). Image generality uses another
real photo of the entity, image locality the photo of an entity that is never edited. In addition

===================  =====================  ====================================================
benchmark            file of the test       additional edits and probes
===================  =====================  ====================================================
vlkeb                eval.json              none
vlkeb-multihop       eval_multihop.json     probes portability_1hop … portability_4hop
vlkeb-onehop         eval_edit_onehop.json  probe portability_1hop
vlkeb-onehop-edited  eval_edit_onehop.json  an edit of the one-hop fact, without an image, and
                                            the probe portability_1hop
===================  =====================  ====================================================

The two one-hop benchmarks have the same cases and probes: they differ in whether the fact is edited
(the paper's Table 3). Portability is asked about the edit's image. All four train on
``train.json``.
"""

from liveedit.data.published.annotations import Annotation
from liveedit.data.published.mmedit import CaseMaker, make_cases
from liveedit.types import Case

__all__ = ["multihop", "onehop", "onehop_edited", "vlkeb"]


def vlkeb(part: str, seed: int, split: str, prompts: str) -> list[Case]:
    """The cases of the benchmark "vlkeb"; see :func:`make_cases`."""
    return make_cases("vlkeb", part, seed, split, prompts)


def multihop(part: str, seed: int, split: str, prompts: str) -> list[Case]:
    """The cases of the benchmark "vlkeb-multihop": the records with portability questions."""
    return make_cases("vlkeb", part, seed, split, prompts, role="multihop", finish=_if_ported)


def onehop(part: str, seed: int, split: str, prompts: str) -> list[Case]:
    """The cases of the benchmark "vlkeb-onehop"; see :func:`make_cases`."""
    return make_cases("vlkeb", part, seed, split, prompts, role="onehop")


def onehop_edited(part: str, seed: int, split: str, prompts: str) -> list[Case]:
    """The cases of "vlkeb-onehop-edited": each edits the image's subject, then the one-hop fact."""
    return make_cases("vlkeb", part, seed, split, prompts, role="onehop", finish=_with_fact)


def _if_ported(maker: CaseMaker, row: Annotation) -> Case | None:
    return maker.case(row) if row.hops else None


def _with_fact(maker: CaseMaker, row: Annotation) -> Case | None:
    if row.fact is None:
        return None
    case = maker.case(row)
    fact = maker.query(maker.templates.edit, *row.fact)
    return Case(case.id, (*case.edits, fact), case.probes)
