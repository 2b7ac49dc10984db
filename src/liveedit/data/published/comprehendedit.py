"""ComprehendEdit: edits of answers to eight kinds of questions, from counting to reading.

Ma et al., *ComprehendEdit: A Comprehensive Dataset and Evaluation Framework for Multimodal
Knowledge Editing*, 2024 (arXiv 2412.12821). The questions are from GQA, TallyQA, VSR, TextVQA and
MathVista. The fields are VLKEB's (:mod:`liveedit.data.published.annotations`) under other names,
but for the second image, which they lack. Cases are made like MMEdit's
(:mod:`liveedit.data.published.mmedit`), without the probe ``image_generality``.

The paper's indices KGI and KPI, the change of accuracy on the nearest and farthest records, are not
computed. Its questions stand in a template of their source; here they stand by themselves.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from liveedit.data.published.annotations import Annotation
from liveedit.data.published.mmedit import make_cases
from liveedit.data.published.records import PublishedRecord, Question, Text, parse_into
from liveedit.types import Case

__all__ = ["Sample", "comprehendedit", "parse"]


class Form(PublishedRecord):
    """The published form."""

    image: Text
    question: Text
    rephrase: Text
    answer: Text
    locality_prompt: Text
    locality_ground_truth: Text
    multimodal_locality_image: Text
    multimodal_locality_prompt: Text
    multimodal_locality_ground_truth: Text


@dataclass(frozen=True, slots=True)
class Sample(Annotation):
    """A record in VLKEB's fields; its second image is the first."""

    @property
    def questions(self) -> Sequence[Question]:
        """All questions of the record, for the checks."""
        image = self.image, "image"
        other = self.m_loc, "multimodal_locality_image"
        return [
            Question("'question' and 'answer'", self.src, self.alt, *image),
            Question("'rephrase' and 'answer'", self.rephrase, self.alt, *image),
            Question("'locality_prompt'", self.loc, self.loc_ans),
            Question("'multimodal_locality_prompt'", self.m_loc_q, self.m_loc_a, *other),
        ]


def parse(file: Path) -> tuple[list[Sample], list[str]]:
    """Read the valid records of a file, and one line for each fault of the others.

    Raises :class:`BadInput` for a file that is missing, truncated or not a list of records.
    """
    return parse_into(file, Form, _sample)


def _sample(row: Form) -> Sample:
    """A record in VLKEB's fields."""
    return Sample(
        id=row.place,
        src=row.question,
        rephrase=row.rephrase,
        pred="",
        alt=row.answer,
        image=row.image,
        image_rephrase=row.image,
        loc=row.locality_prompt,
        loc_ans=row.locality_ground_truth,
        m_loc=row.multimodal_locality_image,
        m_loc_q=row.multimodal_locality_prompt,
        m_loc_a=row.multimodal_locality_ground_truth,
    )


def comprehendedit(part: str, seed: int, split: str, prompts: str) -> list[Case]:
    """The cases of the benchmark "comprehendedit"; see :func:`make_cases`."""
    return make_cases("comprehendedit", part, seed, split, prompts)
