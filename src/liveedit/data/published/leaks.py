"""What a published training split gives away of its test split, and the split without it.

Measured on the published files, every image-locality probe of E-VQA's and E-IC's test stands in
their training, two in three of VLKEB's do, two in three of E-VQA's edited images are edited in
training too, and of every third edit of VLKEB another photo was edited to the same answer. An
editor that was trained on these is compared with one that was not.

Taking such cases out of the tests would leave none of E-VQA's and E-IC's and 769 of VLKEB's, too
few for 1,000 edits. So the test stays as published, and :func:`clean` takes out of training what
returns in the test:

- a case is left out if its image, or the rephrase of it, shows a subject that any image of the test shows;
- a locality probe that asks about such a subject, or whose text returns, is exchanged for the next one in the file that
  does not.

A subject is COCO's picture for E-VQA and E-IC, and the entity for VLKEB (:meth:`Source.subject`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle

from liveedit.data.published.annotations import Annotation
from liveedit.data.published.sources import Source
from liveedit.errors import BadInput

__all__ = ["Leak", "clean", "edited_locality_images", "leaks"]


@dataclass(frozen=True, slots=True)
class Leak:
    """How many of ``of`` test cases share something with training."""

    what: str
    cases: int
    of: int


def clean(
    train: Sequence[Annotation], test: Sequence[Annotation], source: Source
) -> list[Annotation]:
    """``train`` without what returns in ``test``, in its order; see the head of this file.

    Raises :class:`BadInput` if no locality probe is left to exchange one for.
    """
    shown = _subjects(test, source)
    asked = {row.loc for row in test}
    images = _around((row for row in train if source.subject(row.m_loc) not in shown), source)
    texts = _around((row for row in train if row.loc not in asked), source)
    kept: list[Annotation] = []
    for row in train:
        if {source.subject(row.image), source.subject(row.image_rephrase)} & shown:
            continue
        image = next(images) if source.subject(row.m_loc) in shown else row
        text = next(texts) if row.loc in asked else row
        kept.append(
            replace(
                row,
                m_loc=image.m_loc,
                m_loc_q=image.m_loc_q,
                m_loc_a=image.m_loc_a,
                loc=text.loc,
                loc_ans=text.loc_ans,
            )
        )
    return kept


def _around(rows: Iterator[Annotation], source: Source) -> Iterator[Annotation]:
    """The rows again and again."""
    yield from cycle(rows)
    raise BadInput(
        f"every locality probe of {source.name}'s training returns in its test: use --split paper"
    )


def leaks(train: Sequence[Annotation], test: Sequence[Annotation], source: Source) -> list[Leak]:
    """What ``test`` shares with ``train``, one line a kind."""
    edited = {row.image for row in train}
    images = {image for row in train for image in row.images}
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
    """How many images of locality probes are themselves edited in the test."""
    return len({row.m_loc for row in test} & {row.image for row in test})


def _subjects(rows: Sequence[Annotation], source: Source) -> set[str]:
    return {source.subject(image) for row in rows for image in row.images}
