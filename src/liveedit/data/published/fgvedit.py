"""FGVEdit: edits of one thing in a photo, and questions about this and about other things in it.

Zeng et al., *Visual-Oriented Fine-Grained Knowledge Editing for Multimodal Large Language Models*,
ICCV 2025 (arXiv 2411.12790). A record has VLKEB's fields for the edit, its rewording and the text
locality (:mod:`liveedit.data.published.annotations`), no second image, and two more questions about
the photo of the edit. Cases are made like MMEdit's (:mod:`liveedit.data.published.mmedit`), with

=========================  ==============================================  =========
metric                     question                                        wanted
=========================  ==============================================  =========
fine_generality            ``fg_gen_q``: more about what was edited        new
same_image_other_question  ``fg_loc_q``: another thing in the photo        as before
=========================  ==============================================  =========

and without ``image_generality`` and ``image_locality``, since there are no other images. The
paper's questions stand in a template; here they stand by themselves.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from liveedit.data.published.annotations import Annotation
from liveedit.data.published.mmedit import CaseMaker, make_cases
from liveedit.data.published.records import PublishedRecord, Question, Text, parse_into
from liveedit.types import Case, Probe

__all__ = ["Fine", "fgvedit", "parse"]


class Form(PublishedRecord):
    """The published form."""

    image: Text
    src: Text
    alt: Text
    rephrase: Text
    loc: Text
    loc_ans: Text
    fg_gen_q: Text
    fg_gen_a: Text
    fg_loc_q: Text
    fg_loc_a: Text


@dataclass(frozen=True, slots=True)
class Fine(Annotation):
    """A record in VLKEB's fields, whose images are all the same, and what follows from the edit."""

    fg_gen_q: str = ""
    fg_gen_a: str = ""

    @property
    def questions(self) -> Sequence[Question]:
        """All questions of the record, for the checks."""
        image = self.image, "image"
        return [
            Question("'src' and 'alt'", self.src, self.alt, *image),
            Question("'rephrase' and 'alt'", self.rephrase, self.alt, *image),
            Question("'loc' and 'loc_ans'", self.loc, self.loc_ans),
            Question("'fg_gen_q' and 'fg_gen_a'", self.fg_gen_q, self.fg_gen_a, *image),
            Question("'fg_loc_q' and 'fg_loc_a'", self.m_loc_q, self.m_loc_a, *image),
        ]


def parse(file: Path) -> tuple[list[Fine], list[str]]:
    """Read the valid records of a file, and one line for each fault of the others.

    Raises :class:`BadInput` for a file that is missing, truncated or not a list of records.
    """
    return parse_into(file, Form, _fine)


def _fine(row: Form) -> Fine:
    """A record in VLKEB's fields."""
    return Fine(
        id=row.place,
        src=row.src,
        rephrase=row.rephrase,
        pred="",
        alt=row.alt,
        image=row.image,
        image_rephrase=row.image,
        loc=row.loc,
        loc_ans=row.loc_ans,
        m_loc=row.image,
        m_loc_q=row.fg_loc_q,
        m_loc_a=row.fg_loc_a,
        fg_gen_q=row.fg_gen_q,
        fg_gen_a=row.fg_gen_a,
    )


def fgvedit(part: str, seed: int, split: str, prompts: str) -> list[Case]:
    """The cases of the benchmark "fgvedit"; training lacks the probe ``fine_generality``."""
    return make_cases("fgvedit", part, seed, split, prompts, finish=_with_fine)


def _with_fine(maker: CaseMaker, row: Annotation) -> Case | None:
    """A record of the test, and what follows from its edit."""
    if not isinstance(row, Fine):
        return None
    case = maker.case(row)
    fine = maker.visual(row.image, row.fg_gen_q, row.fg_gen_a)
    return replace(case, probes=(*case.probes, Probe("fine_generality", fine)))
