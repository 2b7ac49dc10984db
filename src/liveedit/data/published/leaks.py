"""Leaks of a published training split into its test split, and the split without them.

Measured on the published files, training contains every image-locality probe of the tests of E-VQA
and E-IC, and two in three of VLKEB's. Two in three of the images edited in E-VQA's test are also
edited in training. For every third edit of VLKEB's test, training edits another photo of the entity
to the same answer. So an editor trained on these is not comparable to one that was not.

Taking such cases out of the tests would leave none of E-VQA's and E-IC's and 769 of VLKEB's, too
few for 1,000 edits. So the test stays as published, and :func:`clean` removes from training:

- cases whose image or rephrased image shows a subject of any image of the test;
- locality probes about such a subject, or with a text of the test. Each is replaced by the next
  one in the file that has neither.

A subject is COCO's picture for E-VQA and E-IC, and the entity for VLKEB (:meth:`Source.subject`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, cycle

from liveedit.data.published.annotations import Annotation
from liveedit.data.published.sources import Source
from liveedit.errors import BadInput

__all__ = ["Leak", "clean", "edited_locality_images", "leaks"]


@dataclass(frozen=True, slots=True)
class Leak:
    """Number of test cases, out of ``of``, that share ``what`` with training."""

    what: str
    cases: int
    of: int


def clean(
    train: Sequence[Annotation], test: Sequence[Annotation], source: Source
) -> list[Annotation]:
    """``train`` without leaks into ``test``, in its order; the module's docstring says how.

    Raises :class:`BadInput` if no locality probe is left as a replacement.
    """
    shown = _subjects(test, source)
    asked = {row.loc for row in test}
    images = _around((row for row in train if source.subject(row.m_loc) not in shown), source)
    texts = _around((row for row in train if row.loc not in asked), source)
    kept: list[Annotation] = []
    for row in train:
        if {source.subject(row.image), source.subject(row.image_rephrase)} & shown:
            continue
        if source.subject(row.m_loc) in shown:
            image = next(images)
            row = replace(row, m_loc=image.m_loc, m_loc_q=image.m_loc_q, m_loc_a=image.m_loc_a)
        if row.loc in asked:
            text = next(texts)
            row = replace(row, loc=text.loc, loc_ans=text.loc_ans)
        kept.append(row)
    return kept


def _around(rows: Iterator[Annotation], source: Source) -> Iterator[Annotation]:
    """Cycle through rows. Raises :class:`BadInput` if there are none."""
    yield from cycle(rows)
    raise BadInput(
        f"every locality probe of {source.name}'s training returns in its test: use --split paper"
    )


def leaks(train: Sequence[Annotation], test: Sequence[Annotation], source: Source) -> list[Leak]:
    """Count what ``test`` shares with ``train``, by kind."""
    edited = {row.image for row in train}
    images = {*chain.from_iterable(row.images for row in train)}
    probes = {(row.m_loc, row.m_loc_q) for row in train}
    texts = {row.loc for row in train}
    answers = {(source.subject(row.image), row.alt) for row in train}
    shown = _subjects(train, source)
    shared = {
        "the edit's image is edited in training": [row.image in edited for row in test],
        "the rephrased image is in training": [row.image_rephrase in images for row in test],
        "the same subject got the same answer in training": [
            (source.subject(row.image), row.alt) in answers for row in test
        ],
        "the image-locality probe is in training": [
            (row.m_loc, row.m_loc_q) in probes for row in test
        ],
        "the text-locality question is in training": [row.loc in texts for row in test],
        "any image shows a subject that training shows": [
            any(source.subject(image) in shown for image in row.images) for row in test
        ],
    }
    return [Leak(what, sum(found), len(test)) for what, found in shared.items()]


def edited_locality_images(test: Sequence[Annotation]) -> int:
    """Number of images of the test's locality probes that the test also edits."""
    return len({row.m_loc for row in test} & {row.image for row in test})


def _subjects(rows: Sequence[Annotation], source: Source) -> set[str]:
    images = chain.from_iterable(row.images for row in rows)
    return {source.subject(image) for image in images}
